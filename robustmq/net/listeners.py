"""Listening sockets.

Every worker binds the public ports with SO_REUSEPORT; the kernel spreads the connections. A
connection is accepted while its gate (`net.gates`) lets it in; one that is closed instead is
counted in `connections_refused`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

from robustmq.net.addresses import peer_address
from robustmq.net.gates import Gate
from robustmq.observability import logs

BATCH = 128
KEEP_ALIVE_IDLE_S = 60
KEEP_ALIVE_INTERVAL_S = 15
KEEP_ALIVE_PROBES = 4
EXHAUSTED_PAUSE_S = 0.1
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
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
        # What it accepts has the same: no system call a connection for that.
        tune(sock)
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
