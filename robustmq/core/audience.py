# cython: annotation_typing=False

"""Who gets the messages of a topic on this worker, as the fan-out walks over them: sinks, gathered
in variants that get the same bytes, gathered in the route of a topic."""

from __future__ import annotations

from typing import Any


class Sink:
    """The bytes of one connection. Above `limit` (0: not connected) QoS 0 copies are dropped."""

    def __init__(self, version: int, limit: int) -> None:
        """`max_packet_size` is the client's Maximum Packet Size, 0 without one [MQTT-3.1.2-24]."""
        self.version = version
        self.limit = limit
        self.max_packet_size = 0
        self.kept = False
        """With a limit of 0: are copies of QoS 0 reported, to be kept for its client?"""
        self.data = bytearray()
        self.dirty = False
        self.dropped = 0
        self.messages = 0
        self.owner: Any = None

    def append(self, data: bytes | bytearray) -> None:
        """Add encoded packets, whatever the limit."""
        self.data += data

    def take(self) -> bytearray:
        """Hand over the buffer and begin a new one."""
        data = self.data
        self.data = bytearray()
        self.dirty = False
        return data


class Variant:
    """Subscribers of a topic who get the same bytes."""

    def __init__(
        self,
        version: int,
        no_local_origin: int,
        retain_as_published: bool,
        subscription_ids: bytes,
        sinks: list[Sink] | None = None,
        strip: int = 0,
    ) -> None:
        """`no_local_origin` is who does not get its own messages back, 0 when there is no such
        client; `strip` is how much of a topic's name is not shown (a mount point)."""
        self.strip = strip
        self.version = version
        self.no_local_origin = no_local_origin
        self.retain_as_published = retain_as_published
        self.subscription_ids = subscription_ids
        self.sinks: list[Sink] = [] if sinks is None else sinks


class DeliveryRoute:
    """Who gets a topic's messages on this worker.

    `always`: subscribers of QoS 0. `when_qos0`: those of QoS 1 and 2, used for entries that hold
    QoS 0 only.
    `above_qos0`: entries with a record above QoS 0 must be handed to Python, for the latter.
    """

    def __init__(
        self, topic: bytes, always: list[Variant], when_qos0: list[Variant], above_qos0: bool
    ) -> None:
        """`wanted` is the caller's own: what it needs for those above QoS 0. `meter` counts what is
        sent, if somebody wants to know."""
        self.topic = topic
        self.wanted: object = None
        self.meter: Any = None
        self.always = always
        self.when_qos0 = when_qos0
        self.above_qos0 = above_qos0
