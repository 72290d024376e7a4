"""The durable form of a session: one small record a change, kept only while the session may outlive
a connection.

Records are tagged structs in msgpack; the tag and the field order are a format on disk. `Queued`
stands only in snapshots: a message that is offered while the broker runs is durable in the inbox
log, and is offered again from there at recovery.
"""

from __future__ import annotations

from typing import Final

import msgspec

from robustmq.mqtt.packets import Will
from robustmq.mqtt.subscriptions import Subscription


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What all records are: arrays that begin with their tag."""


class Opened(_Record, frozen=True, array_like=True, gc=False, tag=1):
    """A connection began; the session starts or goes on with these values."""

    version: int
    session_expiry_interval: int
    receive_maximum: int
    will: Will | None
    mount: bytes = b""
    """Stands before all names that the client uses."""


class Closed(_Record, frozen=True, array_like=True, gc=False, tag=2):
    """The connection ended."""

    at_ms: int
    session_expiry_interval: int
    will_dropped: bool


class WillSent(_Record, frozen=True, array_like=True, gc=False, tag=3):
    """The will was published."""


class Subscribed(_Record, frozen=True, array_like=True, gc=False, tag=4):
    """A subscription was made or replaced."""

    subscription: Subscription


class Unsubscribed(_Record, frozen=True, array_like=True, gc=False, tag=5):
    """A subscription was removed."""

    filter: bytes


class Finished(_Record, frozen=True, array_like=True, gc=False, tag=6):
    """Messages whose content is no longer needed, one copy each."""

    references: tuple[int, ...]


class Assigned(_Record, frozen=True, array_like=True, gc=False, tag=7):
    """A QoS 2 message got its packet identifier; durable before it is sent."""

    packet_id: int
    reference: int


class Released(_Record, frozen=True, array_like=True, gc=False, tag=8):
    """PUBREC came: the messages are the client's, PUBREL may be sent."""

    packet_ids: tuple[int, ...]


class Completed(_Record, frozen=True, array_like=True, gc=False, tag=9):
    """PUBCOMP came: the identifiers are free."""

    packet_ids: tuple[int, ...]


class InboundReceived(_Record, frozen=True, array_like=True, gc=False, tag=10):
    """A QoS 2 PUBLISH of the client was taken."""

    packet_ids: tuple[int, ...]


class InboundReleased(_Record, frozen=True, array_like=True, gc=False, tag=11):
    """PUBREL came: the client's identifiers are free."""

    packet_ids: tuple[int, ...]


class Queued(_Record, frozen=True, array_like=True, gc=False, tag=12):
    """A message that waits, in a snapshot."""

    reference: int
    qos: int
    flags: int
    subscription_ids: tuple[int, ...]
    size: int = 0
    expires_at_ms: int = 0


class Generations(_Record, frozen=True, array_like=True, gc=False, tag=13):
    """Which use of its packet identifiers the client is at: the first one, and how often each
    identifier has been released since (a byte each, by identifier)."""

    first: int
    releases: bytes


Record = (
    Opened
    | Closed
    | WillSent
    | Subscribed
    | Unsubscribed
    | Finished
    | Assigned
    | Released
    | Completed
    | InboundReceived
    | InboundReleased
    | Queued
    | Generations
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    """A record as it stands in the log."""
    return _encoder.encode(record)


def decode_record(payload: bytes | memoryview) -> Record:
    """The record in a payload of the log."""
    record: Record = _decoder.decode(payload)
    return record
