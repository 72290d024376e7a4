"""TLS connections whose home is another worker: this one decrypts and encrypts, and carries the
bytes between the client and a socket whose other end the home has.

A connection with TLS cannot be handed over, its keys are in this process. The relay knows nothing
of MQTT: a read on one side is a write on the other. What the other side does not take is held, one
read at most each way, and until it has gone the side it came from is not read: so a slow client
slows its home, and a flood is slowed by TCP, as without a relay. An end is carried over behind what
came before it. When the home has ended, the client's socket is closed when the client closes too,
or after LINGER_S, whatever it has still to take.
"""

from __future__ import annotations

import asyncio
import select
import socket

from robustmq.net.socket_io import AGAIN, GONE, receive, transmit
from robustmq.net.tls import TlsCarrier

MAX_EVENTS = 256
BUFFER_BYTES = 256 * 1024
LINGER_S = 2.0


class Relays:
    """The connections that one worker carries to others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.epoll = select.epoll()
        self.buffer = bytearray(BUFFER_BYTES)
        self._sides: dict[int, _Relay] = {}
        self._again: dict[_Relay, None] = {}
        self._open: set[_Relay] = set()
        loop.add_reader(self.epoll.fileno(), self._ready)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> bool:
        """True when every home's last word has gone to its client."""
        return all(relay.said for relay in self._open)

    def add(self, carrier: TlsCarrier, near: socket.socket) -> None:
        """Carry bytes between a client and this end of a pair."""
        relay = _Relay(self, carrier, near)
        self._open.add(relay)
        for file in (carrier.file, near.fileno()):
            self._sides[file] = relay
            self.epoll.register(file, select.EPOLLIN)
        self.read_again(relay)

    def close(self) -> None:
        """Close all, without a word: the end of the process."""
        self._loop.remove_reader(self.epoll.fileno())
        for relay in list(self._open):
            relay.close()
        self.epoll.close()

    def read_again(self, relay: _Relay) -> None:
        """Its client has sent what epoll does not see."""
        if not self._again:
            self._loop.call_soon(self._ready)
        self._again[relay] = None

    def linger(self, relay: _Relay) -> None:
        """Close it when its client does, or after a time."""
        self._loop.call_later(LINGER_S, relay.close)

    def discard(self, relay: _Relay) -> None:
        """Both its sides are closed."""
        self._open.discard(relay)

    def forget(self, file: int) -> None:
        """A side is closed."""
        if self._sides.pop(file, None) is not None:
            self.epoll.unregister(file)

    def _ready(self) -> None:
        for file, event in self.epoll.poll(0, MAX_EVENTS):
            relay = self._sides.get(file)
            if relay is None:
                continue
            if file == relay.client:
                relay.client_ready(event)
            else:
                relay.home_ready(event)
        again, self._again = self._again, {}
        for relay in again:
            relay.read_on()


class _Relay:
    """One connection. A side that has ended is -1."""

    __slots__ = (
        "_carrier",
        "_hung",
        "_near",
        "_relays",
        "_to_client",
        "_to_home",
        "client",
        "home",
        "said",
    )

    def __init__(self, relays: Relays, carrier: TlsCarrier, near: socket.socket) -> None:
        self._relays = relays
        self._carrier = carrier
        self._near = near
        self._to_client = b""
        self._to_home = b""
        self._hung = False
        self.client = carrier.file
        self.home = near.fileno()
        self.said = False
        """True when nothing more comes from the home, and all that came has been sent."""

    def client_ready(self, event: int) -> None:
        """The client has sent something, takes bytes again, or is gone."""
        if self.client < 0:
            return
        if event & select.EPOLLOUT and self._to_client:
            self._send_client(self._to_client)
        if self.client < 0 or not event & ~select.EPOLLOUT:
            return
        if self.home < 0:
            if receive(self.client, self._relays.buffer, 0) in (0, GONE):
                self.close()
        elif self._to_home:
            # Not read now, so this is its end, which waits for what is held.
            self._end_client()
        else:
            self._read_client()

    def read_on(self) -> None:
        """Read of the client what epoll does not see; where something is held for the home, what
        lies behind it has its turn when that has gone (`_send_home`)."""
        if self.client >= 0 and self.home >= 0 and not self._to_home:
            self._read_client()

    def home_ready(self, event: int) -> None:
        """The home has sent something, takes bytes again, or has ended."""
        if self.home < 0:
            return
        if event & select.EPOLLOUT and self._to_home:
            self._send_home(self._to_home, len(self._to_home))
        if self.home < 0 or not event & ~select.EPOLLOUT:
            return
        if not self._to_client:
            self._read_home()
        elif event & select.EPOLLHUP:
            # Epoll would say so again and again until the client has taken what is held, for
            # which it has as long as behind the last word.
            self._hung = True
            self._relays.forget(self.home)
            self._relays.linger(self)

    def _read_client(self) -> None:
        buffer = self._relays.buffer
        size = self._carrier.receive(buffer, 0)
        if size > 0:
            self._send_home(buffer, size)
        elif size != AGAIN:
            self._end_client()

    def _read_home(self) -> None:
        buffer = self._relays.buffer
        size = receive(self.home, buffer, 0)
        if size > 0:
            self._send_client(memoryview(buffer)[:size])
        elif size != AGAIN:
            self._end_home()

    def _send_home(self, data: bytes | bytearray, size: int) -> None:
        sent = transmit(self.home, data, size)
        if sent == GONE:
            # Its last word may still be there to be read.
            self._to_home = b""
            self._watch()
            return
        self._to_home = bytes(memoryview(data)[max(sent, 0) : size])
        if not self._to_home:
            if self.client < 0:
                self.close()
                return
            if self._carrier.waiting:
                self._relays.read_again(self)
        self._watch()

    def _send_client(self, data: bytes | memoryview) -> None:
        if self.client < 0:
            self._to_client = b""
            return
        sent = self._carrier.transmit(data)
        if sent == GONE:
            self.close()
            return
        self._to_client = bytes(data[max(sent, 0) :])
        if self._to_client:
            self._watch()
        elif self.home < 0:
            self._shut_client()
        elif self._hung:
            self._read_home()
        else:
            self._watch()

    def _end_client(self) -> None:
        """The client has ended: the home reads what came before, and then the end."""
        self._relays.forget(self.client)
        self.client = -1
        self._to_client = b""
        if not self._to_home:
            self.close()

    def _end_home(self) -> None:
        """The home has said its last word."""
        self._relays.forget(self.home)
        self.home = -1
        self._near.close()
        self._to_home = b""
        if self.client < 0:
            self.close()
        elif not self._to_client:
            self._shut_client()

    def _shut_client(self) -> None:
        self.said = True
        try:
            self._carrier.shut()
        except OSError:
            self.close()
            return
        self._relays.linger(self)
        self._relays.epoll.modify(self.client, select.EPOLLIN)

    def _watch(self) -> None:
        epoll = self._relays.epoll
        if self.client >= 0:
            reading = 0 if self._to_home else select.EPOLLIN
            epoll.modify(self.client, reading | (select.EPOLLOUT if self._to_client else 0))
        if self.home >= 0 and not self._hung:
            reading = 0 if self._to_client else select.EPOLLIN
            epoll.modify(self.home, reading | (select.EPOLLOUT if self._to_home else 0))

    def close(self) -> None:
        """Both sides; the home reads an end."""
        self.said = True
        for file in (self.client, self.home):
            if file >= 0:
                self._relays.forget(file)
        self.client = self.home = -1
        self._relays.discard(self)
        self._carrier.close()
        self._near.close()
