"""One client id on its home worker: its session, its bytes on the way out, and who writes them.

The `Sink` lives as long as the subscriber, not as its connection: routes keep pointing at it while
the client is away, with a limit of 0 that drops what only a connected client would get.
"""

from __future__ import annotations

from typing import Protocol

from robustmq.core.fanout import Sink
from robustmq.errors import Fault
from robustmq.mqtt.packets import Packet
from robustmq.mqtt.session import Session


class Peer(Protocol):
    """The connection of a subscriber, as the shard room sees it."""

    def end(self, fault: Fault) -> None:
        """End the connection with the protocol's own word for it (taken over, shutting
        down, ...)."""
        ...

    def send(self, packet: Packet) -> None:
        """Send one packet, in order with what is in the sink."""
        ...

    def sink_ready(self) -> None:
        """There are bytes in the sink: write them at the end of the turn."""
        ...


class Subscriber:
    """A session with what the worker keeps beside it."""

    __slots__ = (
        "client_id",
        "limit",
        "max_packet_size",
        "origin",
        "peer",
        "pumping",
        "session",
        "shard",
        "sink",
    )

    def __init__(
        self, client_id: bytes, origin: int, shard: int, session: Session, limit: int
    ) -> None:
        """`limit` bounds the bytes that wait in the sink of a connected client."""
        self.client_id = client_id
        self.origin = origin
        self.shard = shard
        self.session = session
        self.limit = limit
        self.peer: Peer | None = None
        self.sink = Sink(session.version, 0)
        self.sink.owner = self
        self.max_packet_size = 0
        self.pumping = False

    def connect(self, peer: Peer, max_packet_size: int) -> None:
        """A connection serves this client now."""
        self.peer = peer
        self.max_packet_size = max_packet_size
        self.sink.take()
        self.sink.version = self.session.version
        self.sink.limit = self.limit

    def disconnect(self) -> None:
        """No connection serves this client."""
        self.peer = None
        self.sink.limit = 0
        self.sink.take()

    @property
    def persistent(self) -> bool:
        """Does the session outlive its connection?"""
        return self.session.session_expiry_interval > 0
