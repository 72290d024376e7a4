"""The control batch that ends a producer's transaction on a partition (KIP-98, "Control Messages").

One record: its key is (version i16 = 0, type i16: 0 ABORT, 1 COMMIT), its value (version i16 = 0,
coordinator epoch i32), both big-endian. The batch is transactional and control, has the producer's
id and epoch and no sequence. It takes an offset as records do; readers leave it out.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault
from robustmq.records import Record

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""The header of a record batch v2 (robustmq.core.batches)."""

_KEY = struct.Struct(">hh")
_VALUE = struct.Struct(">hi")
_ABORT, _COMMIT = 0, 1


class Marker(NamedTuple):
    """What a control batch says that ends a transaction."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commit: bool


def end_marker(marker: Marker, timestamp_ms: int) -> bytes:
    """The batch of one marker."""
    kind = _COMMIT if marker.commit else _ABORT
    record = Record(_KEY.pack(0, kind), _VALUE.pack(0, marker.coordinator_epoch), [])
    attributes = batches.TRANSACTIONAL | batches.CONTROL
    return batches.build(
        [record], timestamp_ms, 0, attributes, marker.producer_id, marker.producer_epoch, -1
    )


def read_marker(batch: bytes | bytearray | memoryview) -> Marker:
    """What a control batch says; raises CORRUPT_RECORD when it is none that ends a transaction."""
    records = batches.parse(bytes(batch))
    record = records[0] if records else Record()
    if len(record.key or b"") != _KEY.size or len(record.value or b"") < _VALUE.size:
        raise BrokerError(Fault.CORRUPT_RECORD, "a control batch that ends no transaction")
    info = read_header(batch)
    _, kind = _KEY.unpack(record.key or b"")
    _, coordinator_epoch = _VALUE.unpack_from(record.value or b"")
    return Marker(info.producer_id, info.producer_epoch, coordinator_epoch, kind == _COMMIT)


def read_header(batch: bytes | bytearray | memoryview) -> BatchInfo:
    """The header of a batch of which perhaps only the header is there; its checksum was tested
    before."""
    (
        base_offset,
        length,
        leader_epoch,
        magic,
        _,
        attributes,
        last_offset_delta,
        first_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        count,
    ) = _HEADER.unpack_from(batch)
    return BatchInfo(
        base_offset,
        length + 12,
        leader_epoch,
        magic,
        True,
        attributes,
        last_offset_delta,
        first_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        count,
    )
