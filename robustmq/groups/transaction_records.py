"""What the coordinator of a transactional id writes to the log: the records from which
robustmq.groups.transactions rebuilds itself (docs/formats.md)."""

from __future__ import annotations

import msgspec


class TransactionRecord(msgspec.Struct, frozen=True, tag="transaction", array_like=True):
    """All that is known of a transactional id from now on.

    `previous_producer_id` is the one before an epoch overflow, `next_producer_id` the one that
    follows when the transaction is complete; -1 where there is none. `transaction_version` 2: the
    epoch was raised when the transaction was prepared (KIP-890).
    """

    state: str
    producer_id: int
    producer_epoch: int
    last_producer_epoch: int
    previous_producer_id: int
    next_producer_id: int
    timeout_ms: int
    start_timestamp_ms: int
    update_timestamp_ms: int
    transaction_version: int
    partitions: list[tuple[bytes, int]] = []
    groups: list[str] = []


class PartitionsAddedRecord(msgspec.Struct, frozen=True, tag="added", array_like=True):
    """Partitions and groups that became part of the transaction; the first begin it."""

    timestamp_ms: int
    partitions: list[tuple[bytes, int]]
    groups: list[str]


class TransactionExpiredRecord(msgspec.Struct, frozen=True, tag="expired", array_like=True):
    """The transactional id is forgotten."""


CoordinatorRecord = TransactionRecord | PartitionsAddedRecord | TransactionExpiredRecord

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[CoordinatorRecord] = msgspec.msgpack.Decoder(CoordinatorRecord)


def encode_record(record: CoordinatorRecord) -> bytes:
    """A record as bytes for the log."""
    return _encoder.encode(record)


def decode_record(data: bytes | memoryview) -> CoordinatorRecord:
    """The record in bytes from the log."""
    return _decoder.decode(data)
