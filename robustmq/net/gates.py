"""How many connections are let in: all of a worker, those of an address, those of a listener.

The bounds of a second leave a connection in the backlog (all addresses together) or close it (one
address); those of open connections, and bans, close it. A connection counts as long as its socket
object lives, so nobody has to say that it is closed.
"""

from __future__ import annotations

import socket
import weakref
from typing import Protocol

from robustmq import clock
from robustmq.bans import BanTable
from robustmq.limits import Limits
from robustmq.listener import Listener
from robustmq.net.addresses import host_of, is_near


class TokenBucket:
    """So many a second, and as many at once; 0 is without bound. It refuses what is too much, where
    `shard.rates.Bucket` lends: what a client has sent is there."""

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
        host = host_of(address)
        if self._bans.any_address and self._bans.address(address, clock.wall_ms()):
            return False
        bound = 0 if is_near(host) else self.limits.max_connections_per_address
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
        host = host_of(address)
        if self._bans.any_address and self._bans.address(address, clock.wall_ms()):
            return False
        bound = 0 if is_near(host) else self.limits.max_connections_per_address
        if bound and self._by_address.get(host, 0) >= bound:
            return False
        reference = weakref.ref(sock)
        self._leave(self._sockets[reference])
        self._sockets[reference] = host
        self._by_address[host] = self._by_address.get(host, 0) + 1
        return True

    def pace(self, address: str, now_s: float) -> bool:
        """May this address open one more in this second?"""
        host = host_of(address)
        rate = self.limits.max_accepts_per_address_per_second
        if not rate or is_near(host):
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
