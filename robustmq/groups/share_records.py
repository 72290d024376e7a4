"""What share groups and share-partitions write to the log (KIP-932, docs/formats.md).

Records are tagged msgspec arrays, so fields may be added at the end. A share-partition's record
says the state that ranges of offsets have from now on, as KIP-932's ShareUpdate does; its snapshot
is one record of the same form, and so is what a group's coordinator sets.
"""

from __future__ import annotations

import msgspec


class RangeRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A range of offsets, both ends included. What is acquired is written as available with its
    delivery count: that is what it is when its owner is gone.
    """

    first: int
    last: int
    state: int
    delivery_count: int = 0
    reason: int = 0


class ShareUpdateRecord(msgspec.Struct, frozen=True, tag="share-update", array_like=True):
    """Ranges that changed, and the start offset after it."""

    start_offset: int
    ranges: list[RangeRecord] = []


class ShareStateRecord(msgspec.Struct, frozen=True, tag="share-state", array_like=True):
    """The whole state from now on. start_offset -1: to be found when first fetched."""

    state_epoch: int
    start_offset: int
    ranges: list[RangeRecord] = []


class ShareStateDeletedRecord(msgspec.Struct, frozen=True, tag="share-deleted", array_like=True):
    """The share-partition is gone."""


SharePartitionRecord = ShareUpdateRecord | ShareStateRecord | ShareStateDeletedRecord


class ShareMemberRecord(msgspec.Struct, frozen=True, tag="share-member", array_like=True):
    """A member of a share group as it is now."""

    member_id: str
    rack_id: str | None
    client_id: str
    client_host: str
    topics: list[bytes]
    member_epoch: int
    previous_epoch: int
    assignment: dict[bytes, list[int]]
    """Partitions by topic."""


class ShareMemberRemovedRecord(
    msgspec.Struct, frozen=True, tag="share-member-removed", array_like=True
):
    """A member left, or was silent too long."""

    member_id: str


class ShareTopicRecord(msgspec.Struct, frozen=True, array_like=True):
    """A topic that members were given."""

    name: bytes
    topic_id: bytes
    partitions: int


class ShareEpochRecord(msgspec.Struct, frozen=True, tag="share-epoch", array_like=True):
    """The group's epoch, and every topic that it has state of."""

    group_epoch: int
    topics: list[ShareTopicRecord]


class ShareGroupDeletedRecord(
    msgspec.Struct, frozen=True, tag="share-group-deleted", array_like=True
):
    """The group is gone."""


ShareGroupRecord = (
    ShareMemberRecord | ShareMemberRemovedRecord | ShareEpochRecord | ShareGroupDeletedRecord
)

_encoder = msgspec.msgpack.Encoder()
_partition_decoder: msgspec.msgpack.Decoder[SharePartitionRecord] = msgspec.msgpack.Decoder(
    SharePartitionRecord
)
_group_decoder: msgspec.msgpack.Decoder[ShareGroupRecord] = msgspec.msgpack.Decoder(
    ShareGroupRecord
)


def encode_record(record: SharePartitionRecord | ShareGroupRecord) -> bytes:
    """A record as bytes for the log."""
    return _encoder.encode(record)


def decode_partition_record(data: bytes | memoryview) -> SharePartitionRecord:
    """A share-partition's record in bytes from the log."""
    return _partition_decoder.decode(data)


def decode_group_record(data: bytes | memoryview) -> ShareGroupRecord:
    """A share group's record in bytes from the log."""
    return _group_decoder.decode(data)
