"""One client id on its home worker: its session, its bytes on the way out, and who writes them.

The `Sink` lives as long as the subscriber, not as its connection: routes keep pointing at it while
the client is away, with a limit of 0 that drops what only a connected client would get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from robustmq.core.audience import Sink
from robustmq.errors import Fault
from robustmq.listener import Listener
from robustmq.mqtt.packets import Packet
from robustmq.mqtt.session import Session
from robustmq.promises import Promise

if TYPE_CHECKING:
    from robustmq.shard.shares import LocalSubscription

REPLAY_AHEAD = 1000
"""Retained messages that may wait for a client, at most, when a replay goes on."""


class Peer(Protocol):
    """The connection of a subscriber, as the shard room sees it; `writing` when its sink is to be
    written at the end of this turn."""

    writing: bool
    address: str
    listener: Listener
    connected_at_ms: int
    keep_alive_ms: int

    @property
    def user_name(self) -> str | None:
        """Who the client says it is."""
        ...

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


NO_GROUPS: Mapping[int, tuple[bytes, bytes]] = {}


class Subscriber:
    """A session with what the worker keeps beside it."""

    __slots__ = (
        "_room",
        "aliases",
        "claiming",
        "client_id",
        "groups",
        "keeps_qos0",
        "limit",
        "origin",
        "peer",
        "place",
        "retained_for",
        "served",
        "session",
        "shard",
        "sink",
        "timing",
        "topic_alias_maximum",
        "unqueued",
        "unsent",
        "waiting",
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
        self.served = False
        self.keeps_qos0 = False
        """Is QoS 0 queued while the client is away?"""
        self.claiming: Promise[None] | None = None
        """While a SUBSCRIBE asks for exclusive subscriptions; the next packet waits for it."""
        self.unqueued = 0
        """Deliveries that stand in the inbox log and wait for their commit to be queued."""
        self.peer: Peer | None = None
        self.place = 0
        # By packet identifier: since when a delivery is measured, and its topic (shard/slow.py).
        self.timing: dict[int, tuple[int, bytes]] | None = None
        self.sink = Sink(session.version, 0)
        self.sink.owner = self
        self.topic_alias_maximum = 0
        self.aliases: dict[bytes, int] = {}
        self.unsent = 0
        # Subscriptions that wait for their retained values, by filter; the first one gets them now.
        self.retained_for: dict[bytes, LocalSubscription] = {}
        # What is done when records of this session are committed: so many wait for that.
        self.waiting = 0
        self._room: list[Promise[None]] = []
        self.groups: Mapping[int, tuple[bytes, bytes]] = NO_GROUPS
        """The share groups that it is or was a member of, by the mark in a delivery's flags."""

    def connect(self, peer: Peer, max_packet_size: int, topic_alias_maximum: int) -> None:
        """A connection serves this client now; nothing goes out before CONNACK: see `serve`."""
        self.peer = peer
        self.sink.take()
        self.sink.version = self.session.version
        self.sink.max_packet_size = max_packet_size
        # A mapping of aliases dies with its connection [MQTT-3.3.2-7].
        self.aliases = {}
        self.topic_alias_maximum = topic_alias_maximum

    def serve(self) -> None:
        """CONNACK has been sent: messages may follow [MQTT-3.2.0-1]."""
        self.served = True
        self.caught_up()

    def disconnect(self) -> None:
        """No connection serves this client."""
        self.peer = None
        self.timing = None
        self.served = False
        self.sink.limit = 0
        self.sink.kept = self.keeps_qos0 and self.persistent
        self.sink.take()
        self.has_room()

    @property
    def serving(self) -> bool:
        """May messages be sent now?"""
        return self.peer is not None and self.served

    def caught_up(self) -> None:
        """Send QoS 0 at once, unless older messages of QoS 0 wait in the queue: order is kept."""
        waits = self.unqueued or self.session.window.queued_qos0
        if not self.sink.kept or not waits:
            self.sink.kept = False
            self.sink.limit = self.limit

    @property
    def crowded(self) -> bool:
        """Does so much wait for a connected client that a replay of retained messages pauses?"""
        if not self.serving:
            return False
        window = self.session.window
        return (
            len(self.sink.data) > self.limit // 2
            or window.queued > min(REPLAY_AHEAD, window.maximum_queued // 2)
            or window.queued_bytes > window.maximum_queued_bytes // 2
        )

    def room(self) -> Promise[None]:
        """Settles when some of what waits has gone."""
        promise: Promise[None] = Promise()
        self._room.append(promise)
        return promise

    def has_room(self) -> None:
        """Something has gone: who waits for room looks again."""
        if self._room:
            waiting, self._room = self._room, []
            for promise in waiting:
                promise.resolve(None)

    def take_dropped(self) -> int:
        """Messages of QoS 0 that were dropped for this client since the last call."""
        dropped, self.sink.dropped = self.sink.dropped, 0
        return dropped

    @property
    def strip(self) -> int:
        """How much of a topic's name its client does not see: its mount point."""
        return len(self.session.mount)

    @property
    def persistent(self) -> bool:
        """Does the session outlive its connection?"""
        return self.session.session_expiry_interval > 0
