"""What a group writes to the log: the records from which robustmq.groups.group rebuilds itself.

A record is a tagged msgspec array, so fields may be added at the end and old logs stay readable
(docs/formats.md).
"""

from __future__ import annotations

import msgspec

from robustmq.groups.consumer_records import ConsumerRecord


class MemberRecord(msgspec.Struct, frozen=True, array_like=True):
    """A member of a generation, as far as it outlives the owner."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: list[tuple[str, bytes]]
    assignment: bytes


class GenerationRecord(msgspec.Struct, frozen=True, tag="generation", array_like=True):
    """The membership of a group from now on. No members: the group is empty.

    `settled` False: the generation began, and its leader has not yet given the assignments.
    """

    generation_id: int
    protocol_type: str
    protocol_name: str | None
    leader: str | None
    members: list[MemberRecord]
    settled: bool = True


class OffsetRecord(msgspec.Struct, frozen=True, tag="offset", array_like=True):
    """A committed offset of one partition."""

    topic: bytes
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    timestamp_ms: int


class PendingOffsetRecord(msgspec.Struct, frozen=True, tag="pending-offset", array_like=True):
    """An offset of one partition that counts when the transaction of its producer is committed.

    `overtaken`: a later one has been committed since, so it will not count (in snapshots).
    """

    producer_id: int
    producer_epoch: int
    topic: bytes
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    timestamp_ms: int
    overtaken: bool = False


class OffsetsEndedRecord(msgspec.Struct, frozen=True, tag="offsets-ended", array_like=True):
    """The transaction of a producer has ended: its pending offsets count now, or are gone."""

    producer_id: int
    producer_epoch: int
    commit: bool


class OffsetDeletedRecord(msgspec.Struct, frozen=True, tag="offset-deleted", array_like=True):
    """The offset of one partition is gone; `pending`: those of open transactions, too."""

    topic: bytes
    partition: int
    pending: bool = False


class GroupDeletedRecord(msgspec.Struct, frozen=True, tag="group-deleted", array_like=True):
    """The group and all its offsets are gone."""


class EmptySinceRecord(msgspec.Struct, frozen=True, tag="empty-since", array_like=True):
    """Wall clock time from which on the group was seen without members."""

    timestamp_ms: int


GroupRecord = (
    GenerationRecord
    | OffsetRecord
    | PendingOffsetRecord
    | OffsetsEndedRecord
    | OffsetDeletedRecord
    | GroupDeletedRecord
    | EmptySinceRecord
    | ConsumerRecord
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[GroupRecord] = msgspec.msgpack.Decoder(GroupRecord)


def encode_record(record: GroupRecord) -> bytes:
    """A record as bytes for the log."""
    return _encoder.encode(record)


def decode_record(data: bytes | memoryview) -> GroupRecord:
    """The record in bytes from the log."""
    return _decoder.decode(data)
