"""What is asked of a produced batch before anything of it is written (protocol guide, Produce;
KIP-32, KIP-467), and what its topic makes of it.

| records | code |
|---|---|
| null, empty, two batches, magic below 2, a control batch, a broken structure | 87 |
| CRC does not match | 2 |
| unknown compression | -1 |
| a producer id without a sequence, a transactional batch without a producer id | 87 |
| a record without a key for a compacted topic | 87, the records named |
| CreateTime, and a timestamp out of the topic's bounds | 32, the records named |

Compressed records are opened to be looked at, as Apache Kafka does, and thrown away: the batch is
stored as it was sent, unless the topic wants another compression. What may take long (much to open,
anything to compress) is told by `NotHere`, and is done off the event loop.
"""

from __future__ import annotations

import struct
from array import array

import msgspec

from robustmq.core import batches, recoding
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.kafka.gateway import ProduceResult, ProduceRules

HEADER = batches.HEADER_SIZE
_MAGIC = 16
_LZ4, _ZSTD = 3, 4
_LZ4_FLAGS, _LZ4_INDEPENDENT = 4, 0x20
"""Where an LZ4 frame says whether its blocks stand alone; Java's client reads no others."""
_SLICE = 4_096
"""Records that are looked at in one call, between which another thread may run."""
HERE_BYTES = 1024 * 1024
"""Plain records of this size are looked at on the event loop; that takes a millisecond or two."""
ANEW_BYTES = 16 * 1024
"""A batch that is no larger is compressed anew there, too."""
_MAX_NAMED = 1_000
"""Records that an answer names."""
_NO_TIME = 1 << 62


class NotHere(Exception):
    """The look takes long: do it again off the event loop."""


class Checked(msgspec.Struct, frozen=True, gc=False):
    """A batch that may be written: its own buffer, and what was read of it."""

    batch: bytearray
    info: BatchInfo


def check(
    records: bytes | bytearray | memoryview | None,
    rules: ProduceRules,
    max_decompressed: int,
    now_ms: int,
    here: bool = False,
) -> ProduceResult | Checked:
    """The one batch of a partition as it will be stored, or why its records are refused.

    `now_ms` is the wall time. `here`: on the event loop, raises NotHere for what takes long.
    """
    if records is None or len(records) < HEADER:
        return _refused(KafkaCode.INVALID_RECORD, "no record batch")
    (length,) = struct.unpack_from(">i", records, 8)
    if records[_MAGIC] != 2:
        return _refused(KafkaCode.INVALID_RECORD, "magic is not 2")
    if length + 12 != len(records):
        return _refused(KafkaCode.INVALID_RECORD, "not exactly one record batch")
    batch = bytearray(records)
    try:
        info = batches.validate(batch, 0, len(batch))
        refused = _check_header(info)
        if refused is not None:
            return refused
        codec = info.attributes & batches.COMPRESSION_MASK
        anew = rules.compression not in (-1, codec)
        if here and len(batch) > (ANEW_BYTES if anew else HERE_BYTES):
            raise NotHere
        bound = min(HERE_BYTES, max_decompressed) if here else max_decompressed
        facts, body = _look(batch, info, bound)
        refused = _check_rules(info, body, facts, rules, now_ms)
        if refused is not None:
            return refused
        if anew:
            batch = recoding.recompress(batch, rules.compression, max_decompressed)
            info = batches.validate(batch, 0, len(batch), False)
        return Checked(batch, info._replace(headers=facts[1] > 0))
    except batches.TooLarge as error:
        if here:
            raise NotHere from None
        return _refused(KafkaCode.INVALID_RECORD, error.detail)
    except BrokerError as error:
        return _refused(KafkaCode.INVALID_RECORD, error.detail)


def _check_header(info: BatchInfo) -> ProduceResult | None:
    if not info.crc_ok:
        return _refused(KafkaCode.CORRUPT_MESSAGE, "the checksum is wrong")
    if info.attributes & batches.COMPRESSION_MASK > _ZSTD:
        return _refused(KafkaCode.UNKNOWN_SERVER_ERROR, "unknown compression")
    if info.attributes & batches.CONTROL:
        return _refused(KafkaCode.INVALID_RECORD, "clients may not write control batches")
    if info.producer_id >= 0 and info.base_sequence < 0:
        return _refused(KafkaCode.INVALID_RECORD, "a producer id without a sequence")
    if info.producer_id < 0 and info.attributes & batches.TRANSACTIONAL:
        return _refused(KafkaCode.INVALID_RECORD, "a transactional batch without a producer")
    if info.count <= 0 or info.last_offset_delta != info.count - 1:
        raise BrokerError(Fault.CORRUPT_RECORD, "the header's counts do not match")
    return None


def _stands_alone(frame: bytes) -> bool:
    return len(frame) > _LZ4_FLAGS and bool(frame[_LZ4_FLAGS] & _LZ4_INDEPENDENT)


def _look(
    batch: bytearray, info: BatchInfo, max_decompressed: int
) -> tuple[array[int], bytes | bytearray]:
    """Every record is whole, numbered 0, 1, 2, ... and there are as many as the header says; the
    facts of `batches.inspect_records`, and the buffer in which the plain records end."""
    body: bytes | bytearray = batch
    at = HEADER
    compression = info.attributes & batches.COMPRESSION_MASK
    if compression:
        packed = bytes(memoryview(batch)[HEADER:])
        if compression == _LZ4 and not _stands_alone(packed):
            raise BrokerError(Fault.CORRUPT_RECORD, "LZ4 blocks that depend on each other")
        body = batches.decompress(packed, compression, max_decompressed)
        at = 0
    facts = array("q", (0, 0, 0, -1, _NO_TIME, -_NO_TIME))
    end = len(body)
    while at < end:
        at = batches.inspect_records(body, at, end, _SLICE, facts)
    if facts[0] != info.count:
        raise BrokerError(Fault.CORRUPT_RECORD, "the header's count is wrong")
    return facts, body


def _check_rules(
    info: BatchInfo,
    body: bytes | bytearray,
    facts: array[int],
    rules: ProduceRules,
    now_ms: int,
) -> ProduceResult | None:
    """What the topic asks of each record."""
    begin = 0 if info.attributes & batches.COMPRESSION_MASK else HEADER
    if rules.compacted and facts[2]:
        rows = [index for index, key, _ in _records(body, begin, info) if not key]
        message = "Compacted topic cannot accept message without key"
        return _named(KafkaCode.INVALID_RECORD, rows, message)
    if rules.log_append_time:
        return None
    low, high = now_ms - rules.before_max_ms, now_ms + rules.after_max_ms
    first = info.first_timestamp
    if first + facts[4] >= low and first + facts[5] <= high:
        return None
    rows = [
        index
        for index, _, stamp in _records(body, begin, info)
        if stamp != -1 and not low <= stamp <= high
    ]
    if not rows:
        return None
    message = f"the timestamp is not within {low} and {high}"
    return _named(KafkaCode.INVALID_TIMESTAMP, rows, message)


def _records(body: bytes | bytearray, at: int, info: BatchInfo) -> list[tuple[int, bool, int]]:
    """(number, whether it has a key, timestamp) of each record: only where one is refused."""
    table = array("i", bytes(4 * batches.RECORD_ROW * min(info.count, _SLICE)))
    place = array("i", [0])
    found: list[tuple[int, bool, int]] = []
    while at < len(body):
        rows = batches.scan_records(body, at, len(body), table)
        for row in range(0, rows * batches.RECORD_ROW, batches.RECORD_ROW):
            batches.signed_varint(body, at, len(body), place)
            delta = batches.signed_varint(body, place[0] + 1, len(body), place)
            found.append((table[row + 7], table[row] >= 0, info.first_timestamp + delta))
            at = table[row + 6]
    return found


def _refused(code: KafkaCode, message: str) -> ProduceResult:
    return ProduceResult(error=code, message=message)


def _named(code: KafkaCode, rows: list[int], each: str) -> ProduceResult:
    named = tuple((row, each) for row in rows[:_MAX_NAMED])
    message = f"{len(rows)} records were refused: {each}"
    return ProduceResult(error=code, message=message, record_errors=named)
