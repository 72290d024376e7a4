"""Listening sockets, and how many connections are let in.

Every worker binds the public ports with SO_REUSEPORT; the kernel spreads the connections. A
connection is accepted while the bounds of `limits` hold: those of a second leave it in the backlog
(all addresses together) or close it (one address), those of open connections close it. A closed one
is counted in `connections_refused`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from robustmq import clock
from robustmq.bans import BanTable
from robustmq.limits import Limits
from robustmq.listener import Listener
from robustmq.net.proxy_protocol import shown
from robustmq.observability import logs

BATCH = 128
KEEP_ALIVE_IDLE_S = 60
KEEP_ALIVE_INTERVAL_S = 15
KEEP_ALIVE_PROBES = 4
EXHAUSTED_PAUSE_S = 0.1
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
UNIX = "unix"
CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a UNIX socket's peer."""
log = logs.get_logger("listeners")


def open_listener(host: str, port: int, backlog: int, reuse_port: bool = True) -> socket.socket:
    """A listening socket on an IPv4 or IPv6 address; raises OSError."""
    name = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ipaddress.ip_address(name).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # So that :: and 0.0.0.0 can be bound beside each other.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((name, port))
        sock.setblocking(False)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def open_own_listener(host: str, port: int, backlog: int, remembered: Path) -> socket.socket:
    """A socket of this process alone. Port 0 means the one it had before, if that is free.

    Clients keep the address of a worker for long, librdkafka that of a group's coordinator until
    it answers again; so a worker that is started anew is found where it was.
    """
    if not port and remembered.exists():
        try:
            return open_listener(host, int(remembered.read_text()), backlog, reuse_port=False)
        except (OSError, ValueError, OverflowError) as error:
            log.info("the port of before is not free", reason=str(error))
    sock = open_listener(host, port, backlog, reuse_port=False)
    if not port:
        # A full disk does not keep a worker from starting; it is found at another port then.
        with contextlib.suppress(OSError):
            remembered.write_text(str(sock.getsockname()[1]))
    return sock


def shown_address(sock: socket.socket) -> str:
    """Where a socket listens: an address and its port, or a path."""
    if sock.family == socket.AF_UNIX:
        return str(sock.getsockname())
    host, port = sock.getsockname()[:2]
    return shown(host, port)


def tune(sock: socket.socket) -> None:
    """No delay, and keep-alive for peers that vanish; a socket that is gone already stays as it
    is."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
    except OSError as error:
        log.debug("a socket cannot be tuned", reason=str(error))


class TokenBucket:
    """So many a second, and as many at once; 0 is without bound."""

    __slots__ = ("_filled_s", "_rate", "_tokens")

    def __init__(self, rate: int, now_s: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._filled_s = now_s

    def take(self, now_s: float) -> bool:
        """One more now?"""
        rate = self._rate
        if not rate:
            return True
        self._tokens = min(rate, self._tokens + (now_s - self._filled_s) * rate)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def put_back(self) -> None:
        """What was taken was not used."""
        self._tokens += 1

    def full(self, now_s: float) -> bool:
        """True when nothing was taken for a second."""
        return now_s - self._filled_s >= 1


class Gate(Protocol):
    """How many come in."""

    @property
    def accepts_per_second(self) -> int:
        """0 is without bound."""
        ...

    def ready(self, now_s: float) -> bool:
        """May one more be accepted in this second?"""
        ...

    def unused(self) -> None:
        """There was none to accept after all."""
        ...

    def pace(self, address: str, now_s: float) -> bool:
        """May this address open one more in this second?"""
        ...

    def hold(self, sock: socket.socket, address: str) -> bool:
        """Count a connection; False when a bound of open connections is reached."""
        ...


class ConnectionGate:
    """The open connections of one worker, all and by address. A connection counts as long as its
    socket object lives, so nobody has to say that it is closed."""

    def __init__(self, limits: Limits, bans: BanTable) -> None:
        self.limits = limits
        self._bans = bans
        self._sockets: dict[weakref.ref[socket.socket], str] = {}
        self._by_address: dict[str, int] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._all: TokenBucket | None = None

    def reload(self, limits: Limits) -> None:
        """Other bounds from now on; what is open stays open."""
        self.limits = limits
        self._all = None
        self._buckets.clear()

    def ready(self, now_s: float) -> bool:
        """May one more be accepted in this second?"""
        if self._all is None:
            self._all = TokenBucket(self.limits.max_accepts_per_second, now_s)
        return self._all.take(now_s)

    def unused(self) -> None:
        """There was none to accept after all."""
        if self._all is not None:
            self._all.put_back()

    def hold(self, sock: socket.socket, address: str) -> bool:
        """Count a connection; False when a bound of open connections is reached, or its address
        is banned."""
        host = _host(address)
        if self._bans.any_address and self._bans.address(address, clock.wall_ms()):
            return False
        bound = 0 if _is_near(host) else self.limits.max_connections_per_address
        if len(self._sockets) >= self.limits.max_connections:
            return False
        if bound and self._by_address.get(host, 0) >= bound:
            return False
        self._sockets[weakref.ref(sock, self._gone)] = host
        self._by_address[host] = self._by_address.get(host, 0) + 1
        return True

    def rename(self, sock: socket.socket, address: str) -> bool:
        """A proxy has said whose connection it is; False when a bound of that is reached, or its
        address is banned."""
        host = _host(address)
        if self._bans.any_address and self._bans.address(address, clock.wall_ms()):
            return False
        bound = 0 if _is_near(host) else self.limits.max_connections_per_address
        if bound and self._by_address.get(host, 0) >= bound:
            return False
        reference = weakref.ref(sock)
        self._leave(self._sockets[reference])
        self._sockets[reference] = host
        self._by_address[host] = self._by_address.get(host, 0) + 1
        return True

    def pace(self, address: str, now_s: float) -> bool:
        """May this address open one more in this second?"""
        host = _host(address)
        rate = self.limits.max_accepts_per_address_per_second
        if not rate or _is_near(host):
            return True
        bucket = self._buckets.get(host)
        if bucket is None:
            if len(self._buckets) >= self.limits.max_connections:
                self._buckets = {h: b for h, b in self._buckets.items() if not b.full(now_s)}
            bucket = self._buckets[host] = TokenBucket(rate, now_s)
        return bucket.take(now_s)

    @property
    def accepts_per_second(self) -> int:
        """0 is without bound."""
        return self.limits.max_accepts_per_second

    @property
    def open(self) -> int:
        """Open connections."""
        return len(self._sockets)

    def _gone(self, reference: weakref.ref[socket.socket]) -> None:
        self._leave(self._sockets.pop(reference))

    def _leave(self, host: str) -> None:
        left = self._by_address[host] - 1
        if left:
            self._by_address[host] = left
        else:
            del self._by_address[host]


class ListenerGate:
    """The connections of one listener: its own bounds, and those of the worker behind them."""

    def __init__(self, listener: Listener, worker: ConnectionGate) -> None:
        self._listener = listener
        self._worker = worker
        self._sockets: set[weakref.ref[socket.socket]] = set()
        self._pace: TokenBucket | None = None

    def reload(self, listener: Listener) -> None:
        """Other bounds from now on."""
        self._listener = listener
        self._pace = None

    @property
    def accepts_per_second(self) -> int:
        """The lower of the two rates; 0 is without bound."""
        rates = (self._listener.max_accepts_per_second, self._worker.limits.max_accepts_per_second)
        return min((rate for rate in rates if rate), default=0)

    def ready(self, now_s: float) -> bool:
        """May one more be accepted in this second?"""
        if self._pace is None:
            self._pace = TokenBucket(self._listener.max_accepts_per_second, now_s)
        if not self._pace.take(now_s):
            return False
        if self._worker.ready(now_s):
            return True
        self._pace.put_back()
        return False

    def unused(self) -> None:
        """There was none to accept after all."""
        if self._pace is not None:
            self._pace.put_back()
        self._worker.unused()

    def pace(self, address: str, now_s: float) -> bool:
        """May this address open one more in this second?"""
        return self._worker.pace(address, now_s)

    def hold(self, sock: socket.socket, address: str) -> bool:
        """Count a connection; False when a bound of open connections is reached."""
        bound = self._listener.max_connections
        if bound and len(self._sockets) >= bound:
            return False
        if not self._worker.hold(sock, address):
            return False
        self._sockets.add(weakref.ref(sock, self._sockets.discard))
        return True

    def rename(self, sock: socket.socket, address: str) -> bool:
        """A proxy has said whose connection it is; False when a bound of that is reached."""
        return self._worker.rename(sock, address)


class Acceptor:
    """Accepts from one listening socket, in batches."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_accept: Callable[[socket.socket, str], None],
        count: Callable[[str], None],
        gate: Gate,
        told_later: bool = False,
    ) -> None:
        """Begins at once. `on_accept(sock, "host:port")`; acceptors that share a gate share its
        bounds. `told_later`: the socket's address is a proxy's, which bounds are not for."""
        self.sock = sock
        self._loop = loop
        self._on_accept = on_accept
        self._count = count
        self._gate = gate
        self._told_later = told_later
        self._pause: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Stop; the socket is closed."""
        if self._pause is not None:
            self._pause.cancel()
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock.fileno())
            self.sock.close()

    def _accept(self) -> None:
        now_s = self._loop.time()
        for _ in range(BATCH):
            if not self._gate.ready(now_s):
                self._rest(1 / max(1, self._gate.accepts_per_second) + 0.001)
                return
            try:
                sock, peer = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                self._gate.unused()
                return
            except OSError as error:
                self._gate.unused()
                if error.errno in EXHAUSTED:
                    log.error("cannot accept", reason=error.strerror or str(error))
                    self._rest(EXHAUSTED_PAUSE_S)
                    return
                continue
            sock.setblocking(False)
            address = peer_address(sock, peer)
            counted = "" if self._told_later else address
            if self._gate.pace(counted, now_s) and self._gate.hold(sock, counted):
                self._on_accept(sock, address)
            else:
                self._count("connections_refused")
                sock.close()

    def _rest(self, delay_s: float) -> None:
        self._loop.remove_reader(self.sock.fileno())
        self._pause = self._loop.call_later(delay_s, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self.sock.fileno(), self._accept)


def peer_address(sock: socket.socket, peer: Any) -> str:
    """Who connects: "host:port", or for a UNIX socket "unix:" and the peer's process id."""
    if sock.family == socket.AF_UNIX:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        return f"{UNIX}:{CREDENTIALS.unpack(found)[0]}"
    return shown(*peer[:2])


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _is_near(host: str) -> bool:
    """True for addresses that bounds of an address are not for: this machine's own, and a proxy's
    before it has said whom it brings."""
    return host.startswith("127.") or host in ("[::1]", UNIX, "")
