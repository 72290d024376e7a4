"""What a compaction leaves of a batch (see `storage.compaction`).

`Cleaner` sees the batches of a log in order, so that it knows of each transaction whether any of
its records was left when its marker comes. A batch that keeps all records stays byte for byte; one
that loses some is written anew, compressed as it was, with its offsets, producer and timestamps.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Generator, Mapping, Sequence
from hashlib import blake2b

import msgspec

from robustmq.core import batches, memory
from robustmq.core.batches import CONTROL, HEADER_SIZE, TRANSACTIONAL, BatchInfo
from robustmq.core.offset_map import OffsetMap
from robustmq.core.recoding import compress
from robustmq.errors import BrokerError, Fault

DELETE_HORIZON = 0x40
_ABORT = 0
SLICE_ROWS = 1000
"""Records that are looked at in one go, a millisecond or two: a batch may have a million."""


class Keep(enum.Enum):
    """What needs no bytes of its own."""

    ALL = 1
    NOTHING = 2


class Rewritten(msgspec.Struct, frozen=True):
    """A batch that was written anew."""

    data: bytes
    info: BatchInfo


class Cleaner:
    """The decisions of one run."""

    def __init__(
        self,
        newest: OffsetMap,
        mapped_to: int,
        now_ms: int,
        delete_retention_ms: int,
        aborted: Sequence[tuple[int, int, int]],
        last_of_producers: Mapping[int, int],
    ) -> None:
        """`newest` knows the keys of the records below `mapped_to`; `aborted` are (producer id,
        first offset, last offset) of transactions."""
        self._newest = newest
        self._mapped_to = mapped_to
        self._now_ms = now_ms
        self._horizon_ms = now_ms + delete_retention_ms
        self._waiting = sorted(aborted, key=lambda one: one[1], reverse=True)
        self._last_of_producers = last_of_producers
        # Producers whose transaction is open here: aborted ones with whether a batch was seen.
        self._aborted: dict[int, bool] = {}
        self._committed: set[int] = set()

    def clean(
        self, data: bytes, begin: int, info: BatchInfo
    ) -> Generator[None, None, Keep | Rewritten]:
        """What is left of the next batch of the log; every SLICE_ROWS records the thread may do
        something else."""
        end_offset = info.base_offset + info.last_offset_delta
        if not info.crc_ok:
            # Damaged: its readers are told so, it is not made to look sound.
            return Keep.ALL
        drop = self._saw(data, begin, info)
        if info.attributes & CONTROL:
            return (yield from self._marker(data, begin, info, drop))
        last = end_offset == self._mapped_to - 1 or (
            info.producer_id >= 0 and self._last_of_producers.get(info.producer_id) == end_offset
        )
        if not info.count:
            return Keep.ALL if last else Keep.NOTHING
        if drop:
            return _empty(data, begin, info) if last else Keep.NOTHING
        try:
            return (yield from self._data(data, begin, info, last))
        except BrokerError:
            return Keep.ALL

    def _saw(self, data: bytes, begin: int, info: BatchInfo) -> bool:
        """Follow transactions; True when all records of the batch may go: those of an aborted one,
        or the marker of one that has no records left."""
        while self._waiting and self._waiting[-1][1] <= info.base_offset + info.last_offset_delta:
            producer_id, _, last_offset = self._waiting.pop()
            if last_offset >= info.base_offset:
                self._aborted.setdefault(producer_id, False)
        if not info.attributes & TRANSACTIONAL:
            return False
        if info.attributes & CONTROL:
            if _marker_type(data, begin, info) == _ABORT:
                return not self._aborted.pop(info.producer_id, False)
            had = info.producer_id in self._committed
            self._committed.discard(info.producer_id)
            return not had
        if info.producer_id in self._aborted:
            self._aborted[info.producer_id] = True
            return True
        self._committed.add(info.producer_id)
        return False

    def _marker(
        self, data: bytes, begin: int, info: BatchInfo, drop: bool
    ) -> Generator[None, None, Keep | Rewritten]:
        if not drop or not info.count:
            return Keep.ALL
        if not info.attributes & DELETE_HORIZON:
            body, rows = opened(data, begin, info)
            return (
                yield from _rewritten(
                    data, begin, info, body, rows, list(range(info.count)), self._horizon_ms
                )
            )
        return Keep.NOTHING if info.first_timestamp <= self._now_ms else Keep.ALL

    def _data(
        self, data: bytes, begin: int, info: BatchInfo, last: bool
    ) -> Generator[None, None, Keep | Rewritten]:
        body, rows = opened(data, begin, info)
        over = info.attributes & DELETE_HORIZON and info.first_timestamp <= self._now_ms
        kept: list[int] = []
        tombstones = False
        for number in range(info.count):
            at = number * batches.RECORD_ROW
            if number % SLICE_ROWS == SLICE_ROWS - 1:
                yield None
            offset = info.base_offset + rows[at + 7]
            tombstone = rows[at + 2] < 0
            if offset < self._mapped_to:
                if rows[at] < 0:
                    continue
                key = body[rows[at] : rows[at + 1]]
                if offset < self._newest.get(key_digest(key)):
                    continue
                if tombstone and over:
                    continue
            kept.append(number)
            tombstones = tombstones or tombstone
        horizon_ms = -1
        if tombstones and not info.attributes & DELETE_HORIZON:
            horizon_ms = self._horizon_ms
        if len(kept) == info.count and horizon_ms < 0:
            return Keep.ALL
        if not kept:
            return _empty(data, begin, info) if last else Keep.NOTHING
        return (yield from _rewritten(data, begin, info, body, rows, kept, horizon_ms))


def key_digest(key: bytes) -> bytes:
    """What stands for a key in the map: 128 bits, so that no two keys of a log ever have one."""
    return blake2b(key, digest_size=16).digest()


def opened(data: bytes, begin: int, info: BatchInfo) -> tuple[bytes, array[int]]:
    """The plain records of a batch, and a row of `batches.scan_records` for each; CORRUPT_RECORD
    when they are not sound."""
    packed = data[begin + HEADER_SIZE : begin + info.length]
    body = batches.decompress(
        packed, info.attributes & batches.COMPRESSION_MASK, batches.DECOMPRESSED_MAX
    )
    if info.count > len(body) // 7 + 1:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch counts more records than it can hold")
    rows = array("i", bytes(4 * batches.RECORD_ROW * info.count))
    if batches.scan_records(body, 0, len(body), rows) != info.count:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch counts more records than it has")
    return body, rows


def _marker_type(data: bytes, begin: int, info: BatchInfo) -> int:
    """0: abort, 1: commit; -1: an empty batch."""
    if not info.count:
        return -1
    rows = array("i", bytes(4 * batches.RECORD_ROW))
    end = begin + info.length
    batches.scan_records(data, begin + HEADER_SIZE, end, rows)
    return int.from_bytes(data[rows[0] + 2 : rows[0] + 4], "big")


def _empty(data: bytes, begin: int, info: BatchInfo) -> Rewritten:
    """The header alone: offsets, producer and sequence are known from it. Nothing is compressed in
    it: librdkafka fails on a batch without bytes that says it is."""
    info = info._replace(attributes=info.attributes & ~batches.COMPRESSION_MASK)
    return _written(data, begin, info, b"", 0, info.first_timestamp, info.max_timestamp, 0)


def _rewritten(
    data: bytes,
    begin: int,
    info: BatchInfo,
    body: bytes,
    rows: array[int],
    kept: list[int],
    horizon_ms: int,
) -> Generator[None, None, Rewritten]:
    """A batch of some of its records; with a delete horizon they count their time from it."""
    out: list[bytes] = []
    first = info.first_timestamp
    greatest = -1
    for count, number in enumerate(kept):
        if count % SLICE_ROWS == SLICE_ROWS - 1:
            yield None
        at = number * batches.RECORD_ROW
        start = rows[at - batches.RECORD_ROW + 6] if number else 0
        record = body[start : rows[at + 6]]
        delta, attributes_at, rest_at = _times(record)
        greatest = max(greatest, first + delta)
        if horizon_ms >= 0:
            inner = (
                record[attributes_at : attributes_at + 1]
                + batches.varint(first + delta - horizon_ms)
                + record[rest_at:]
            )
            record = batches.varint(len(inner)) + inner
        out.append(record)
    max_timestamp = info.max_timestamp
    if not info.attributes & batches.LOG_APPEND_TIME:
        max_timestamp = greatest
    plain = b"".join(out)
    compression = info.attributes & batches.COMPRESSION_MASK
    packed = compress(plain, compression) if compression else plain
    flag = 0
    if horizon_ms >= 0:
        first, flag = horizon_ms, DELETE_HORIZON
    return _written(data, begin, info, packed, len(kept), first, max_timestamp, flag)


def _times(record: bytes) -> tuple[int, int, int]:
    """(timestamp delta, where the attributes are, where what follows the delta begins)."""
    place = array("i", [0])
    batches.signed_varint(record, 0, len(record), place)
    attributes_at = place[0]
    delta = batches.signed_varint(record, attributes_at + 1, len(record), place)
    return delta, attributes_at, place[0]


def _written(
    data: bytes,
    begin: int,
    info: BatchInfo,
    packed: bytes,
    count: int,
    first_timestamp: int,
    max_timestamp: int,
    flag: int,
) -> Rewritten:
    out = bytearray(data[begin : begin + HEADER_SIZE]) + packed
    memory.put32be(out, 8, len(out) - 12)
    memory.put16be(out, 21, info.attributes | flag)
    memory.put64be(out, 27, first_timestamp)
    memory.put64be(out, 35, max_timestamp)
    memory.put32be(out, 57, count)
    memory.put32be(out, 17, memory.checksum(out, 21, len(out)))
    made = bytes(out)
    return Rewritten(made, batches.validate(made, 0, len(made), False))
