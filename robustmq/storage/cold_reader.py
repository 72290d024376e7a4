"""Reading a partition's cold segments out of the block cache.

A read gives what is at hand, at once, as views of cached blocks: a batch is copied only where it
crosses from one block into the next. When not even its first batch is at hand the result is
`pending`: the blocks are on their way, and the reader asks again when that settles. A reader that
goes on where it stopped has the next blocks fetched ahead, in a window that grows.

Every batch that is given was checked once since its bytes came from the store or the folder: its
CRC, and that the offsets go up and stay within the segment. Most are by the thread that fetches
them, while they are in the processor's cache and off the loop; the loop checks what is left, which
is what crosses from one fetch into the next, and what is fetched before its index. What is wrong is
fetched anew once; if it is wrong again its offsets are answered with CORRUPT_MESSAGE, and what is
behind is served. An error of the store is KAFKA_STORAGE_ERROR, which clients try again.

The index of a segment (offset, position, greatest time so far) is an object of its own, read
through the same cache; it says where to begin, and where batches meet block boundaries, so a read
looks at few headers however much it gives.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from robustmq.core.sound import sound_until
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.promises import Promise
from robustmq.storage.block_cache import BlockCache
from robustmq.storage.block_fetcher import CachedObject, Check
from robustmq.storage.block_memory import Block
from robustmq.storage.cold_index import ColdIndex, index_size, parse
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.engine import ReadResult
from robustmq.storage.manifest import INDEX, LOG, object_name
from robustmq.storage.segment_file import HEADER_BYTES

MAX_STREAMS = 32
"""Readers of one partition whose places are remembered."""
MAX_DAMAGED = 256
CHECKED_AT_ONCE = 2_000
"""Batches whose checksums one read makes: a millisecond and a half."""
MAX_OBJECTS = 64
WINDOW_BYTES = 48 * 1024 * 1024
"""So far ahead of a reader is fetched, when it has read as much in order."""
_HEAD = struct.Struct(">qi4xb6xi")
"""Base offset, length of what follows, magic, last offset delta."""
_TIMES = struct.Struct(">qq")

Buffers = list[bytes | memoryview]


class _NotHere(Exception):
    """Blocks of an object are not in memory."""

    def __init__(
        self, source: CachedObject, first: int, last: int, check: Check | None = None
    ) -> None:
        self.source = source
        self.first = first
        self.last = last
        self.check = check


class _Damaged(Exception):
    """No sound batch begins there."""

    def __init__(self, position: int, end: int) -> None:
        self.position = position
        self.end = end


class _Batch(msgspec.Struct, frozen=True, gc=False):
    """Where a batch lies in its segment, and its offsets."""

    begin: int
    end: int
    base_offset: int
    last_offset: int


class _Stream(msgspec.Struct):
    """A reader that goes on: how far ahead of it is fetched, in blocks, up to which block (not
    included) that was done, and at which position it stopped."""

    window: int = 0
    fetched: int = 0
    stopped: int = -1


class _Objects(NamedTuple):
    """Those of a segment."""

    log: CachedObject
    rows: CachedObject
    """Its index."""


class _Segment:
    """One read's view of a segment: its blocks, and its index."""

    def __init__(
        self, cache: BlockCache, source: CachedObject, segment: ColdSegment, rows: ColdIndex
    ) -> None:
        self.segment = segment
        self.source = source
        self.rows = rows
        self.check = _check_of(segment, rows)
        self._cache = cache
        self._size = cache.settings.block_bytes
        self._blocks: dict[int, Block] = {}
        self.stopped = -1
        """Where somebody stopped that may be this reader, who has looked at that block then."""
        self._checks_left = CHECKED_AT_ONCE

    def block(self, number: int) -> Block:
        """A block, which is in memory."""
        block = self._blocks.get(number)
        if block is None:
            goes_on = number * self._size <= self.stopped
            block = self._cache.block(self.source, number, goes_on)
            if block is None:
                raise _NotHere(self.source, number, number, self.check)
            self._blocks[number] = block
        return block

    def begins_at(self, position: int) -> None:
        """It is known where the reader begins: before the other stopped, so it is another."""
        if position < self.stopped:
            for number in self._blocks:
                self._cache.asked_again(self.source, number)
            self.stopped = -1

    def area(self, begin: int, end: int) -> bytes | memoryview:
        """Bytes of the segment; joined where they cross from one block into the next."""
        size = self._size
        first, last = begin // size, (end - 1) // size
        missing = [
            number
            for number in range(first, last + 1)
            if number not in self._blocks and not self._cache.has(self.source, number)
        ]
        if missing:
            raise _NotHere(self.source, missing[0], missing[-1], self.check)
        if first == last:
            data = self.block(first).data
            found: bytes | memoryview = data[begin - first * size : end - first * size]
        else:
            parts = [self.block(number).data for number in range(first, last + 1)]
            parts[0] = parts[0][begin - first * size :]
            parts[-1] = parts[-1][: end - last * size]
            found = b"".join(parts)
        if len(found) < end - begin:
            raise _Damaged(begin, end)
        return found

    def at_hand(self, position: int, limit: int) -> int:
        """Up to where blocks are in memory without a gap, from the one of a position on."""
        number = position // self._size
        while (number + 1) * self._size < limit and self._cache.has(self.source, number + 1):
            number += 1
        return min((number + 1) * self._size, limit)

    def batch(self, position: int) -> _Batch:
        """The batch that begins there, by its header alone."""
        segment = self.segment
        end = position + HEADER_BYTES
        if end > segment.size:
            raise _Damaged(position, segment.size)
        number, at = divmod(position, self._size)
        if at + HEADER_BYTES <= self._size:
            data: bytes | memoryview = self.block(number).data
        else:
            data, at = self.area(position, end), 0
        if at + HEADER_BYTES > len(data):
            raise _Damaged(position, end)
        base, length, magic, delta = _HEAD.unpack_from(data, at)
        end = position + 12 + length
        last = base + delta
        if (
            magic != 2
            or length < HEADER_BYTES - 12
            or end > segment.size
            or delta < 0
            or not segment.base_offset <= base <= last < segment.next_offset
        ):
            raise _Damaged(position, position + HEADER_BYTES)
        return _Batch(position, end, base, last)

    def following(self, position: int) -> int:
        """The offset behind those that are lost with the batch that begins there: behind it where
        its header can be believed, else up to where the index knows of one again."""
        at = bisect_right(self.rows.positions, position)
        known = self.rows.offsets[at] if at < len(self.rows.offsets) else self.segment.next_offset
        try:
            batch = self.batch(position)
        except (_Damaged, _NotHere):
            return known
        row = self.rows.offsets[at - 1] if at else self.segment.base_offset
        return batch.last_offset + 1 if row <= batch.base_offset < known else known

    def times(self, batch: _Batch) -> tuple[int, int]:
        """The first and the greatest time stamp of a batch."""
        return _TIMES.unpack_from(self.area(batch.begin, batch.begin + HEADER_BYTES), 27)

    def row_at(self, position: int) -> int:
        """The last indexed position that is not behind this one."""
        at = bisect_right(self.rows.positions, position) - 1
        return self.rows.positions[at] if at >= 0 else 0

    def crossing(self, boundary: int, begin: int) -> _Batch:
        """The batch that ends behind a position, and begins at or before it; a batch begins at
        `begin`."""
        batch = self.batch(max(self.row_at(boundary), begin))
        while batch.end <= boundary:
            batch = self.batch(batch.end)
        return batch

    def pieces(self, begin: int, end: int) -> Buffers:
        """All of an area of whole batches, checked; up to the first that is damaged."""
        found: Buffers = []
        size = self._size
        try:
            while begin < end:
                boundary = (begin // size + 1) * size
                stop = end
                if end > boundary:
                    crossing = self.crossing(boundary, begin)
                    stop = crossing.begin
                    if stop == begin:
                        stop = crossing.end
                        found.append(self._joined(crossing))
                        begin = stop
                        continue
                if not self._within(begin, stop, found):
                    break
                begin = stop
        except _Damaged:
            if not found:
                raise
        return found

    def _joined(self, batch: _Batch) -> bytes | memoryview:
        data = self.area(batch.begin, batch.end)
        if self._is_checked(batch):
            return data
        if sound_until(data, batch.base_offset, self.segment.next_offset, 1)[0] < len(data):
            raise _Damaged(batch.begin, batch.end)
        return data

    def _is_checked(self, batch: _Batch) -> bool:
        """Was all of a batch that crosses from one block into the next found sound?"""
        size = self._size
        for number in range(batch.begin // size, (batch.end - 1) // size + 1):
            low, high = self.block(number).checked
            begin = number * size
            if max(batch.begin - begin, 0) < low or high < min(batch.end - begin, size):
                return False
        return True

    def _within(self, begin: int, end: int, found: Buffers) -> bool:
        """An area in one block; False: enough was looked at, and no read holds up the loop."""
        number = begin // self._size
        block, segment = self.block(number), self.segment
        low, high = begin - number * self._size, end - number * self._size
        at = low
        while at < high:
            checked = block.checked
            if checked[0] <= at < checked[1]:
                at = min(checked[1], high)
                continue
            stop = checked[0] if at < checked[0] < high else high
            sound, self._checks_left = sound_until(
                block.data[at:stop], segment.base_offset, segment.next_offset, self._checks_left
            )
            if sound:
                block.checked = _joined_areas(checked, (at, at + sound))
            at += sound
            if at < stop:
                if at > low:
                    found.append(block.data[low:at])
                if not self._checks_left:
                    return False
                position = begin + at - low
                raise _Damaged(position, position + HEADER_BYTES)
        found.append(block.data[low:high])
        return True


def _joined_areas(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Both, or the longer one where there is something between them."""
    if one[1] < other[0] or other[1] < one[0]:
        return max(one, other, key=lambda area: area[1] - area[0])
    return min(one[0], other[0]), max(one[1], other[1])


def _check_of(segment: ColdSegment, rows: ColdIndex) -> Check:
    """Finds the sound batches among bytes of a segment: from the first that the index knows on."""

    def check(data: memoryview, begin: int) -> tuple[int, int]:
        row = bisect_left(rows.positions, begin)
        if row == len(rows.positions) or rows.positions[row] >= begin + len(data):
            return 0, 0
        first = rows.positions[row]
        area = data[first - begin :]
        sound, _ = sound_until(area, segment.base_offset, segment.next_offset, len(area))
        return first, first + sound

    return check


class ColdReader:
    """The cold segments of one partition, for readers."""

    def __init__(self, cache: BlockCache, prefix: str, cold: ColdSegments) -> None:
        """`prefix` is that of the partition's objects, with its /."""
        self._cache = cache
        self._block_bytes = cache.settings.block_bytes
        self._prefix = prefix
        self._cold = cold
        self._reader = hash(prefix)
        self._objects: OrderedDict[ColdSegment, _Objects] = OrderedDict()
        # By segment and block in which a reader goes on.
        self._streams: OrderedDict[tuple[int, int], _Stream] = OrderedDict()
        # What was fetched anew as it was damaged, by (base offset of the segment, position).
        self._again: OrderedDict[tuple[int, int], None] = OrderedDict()

    # -- what readers ask --------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        """Whole batches from the one that holds `offset` on: at most `max_bytes`, but the first
        always; none that begins at `end` or behind it."""
        cold = self._cold
        start = cold.start_offset
        row = cold.find(offset)
        while row < len(cold) and cold[row].base_offset < end and max_bytes > 0:
            try:
                found = self._from_segment(row, offset, max_bytes, end)
            except _NotHere as missing:
                wanted = self._wanted(missing)
                if isinstance(wanted, int):
                    return ReadResult(end, start, [], False, wanted)
                return ReadResult(end, start, pending=wanted)
            if isinstance(found, ReadResult):
                return found
            if found:
                self._cache.served(sum(map(len, found)))
                return ReadResult(end, start, found)
            row += 1
        return ReadResult(end, start)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """(offset, time stamp) of the first batch at or after a time; a promise: ask again when it
        settles. Raises BrokerError when the store cannot say."""
        cold = self._cold
        row = cold.find_time(timestamp_ms)
        while row < len(cold):
            try:
                found = self._time_in(row, timestamp_ms)
            except _NotHere as missing:
                wanted = self._wanted(missing)
                if isinstance(wanted, int):
                    raise BrokerError(Fault.STORAGE_FAILED, "the object store fails") from missing
                return wanted
            if found is not None:
                return found
            row += 1
        return None

    def _wanted(self, missing: _NotHere) -> Promise[None] | int:
        """Blocks that are not at hand: a promise of them, or the error of those that cannot be
        had."""
        for number in range(missing.first, missing.last + 1):
            if self._cache.failure(missing.source, number) is not None:
                return int(KafkaCode.KAFKA_STORAGE_ERROR)
        return self._cache.want(
            missing.source, missing.first, missing.last, self._reader, missing.check
        )

    # -- one segment -------------------------------------------------------------------------------

    def _from_segment(
        self, row: int, offset: int, max_bytes: int, end: int
    ) -> Buffers | ReadResult:
        """From the batch that holds an offset, or the next one; none when the segment ends before,
        an error when that batch is damaged."""
        view = self._open(row)
        base_offset = view.segment.base_offset
        at = bisect_right(view.rows.offsets, offset) - 1
        position = view.rows.positions[max(at, 0)]
        stream = self._stream(base_offset, position)
        view.stopped = stream.stopped
        try:
            first = self._first(view, position, offset)
            if first is None or first.base_offset >= end:
                return []
            position = first.begin
            view.begins_at(position)
            view.area(first.begin, first.end)
            stop = self._stop(view, first, max_bytes, end)
            found = view.pieces(first.begin, stop)
        except _Damaged as damaged:
            self._anew(view, damaged)
            corrupt = int(KafkaCode.CORRUPT_MESSAGE)
            following = view.following(damaged.position)
            start = self._cold.start_offset
            return ReadResult(end, start, [], False, corrupt, next_offset=following)
        except _NotHere:
            # Its reader comes back for it, and goes on from there.
            self._keep_stream(base_offset, position, stream)
            raise
        self._go_on(row, view, position, position + sum(map(len, found)), stream)
        return found

    def _open(self, row: int) -> _Segment:
        """A segment with its index."""
        segment = self._cold[row]
        objects = self._objects_of(segment)
        rows = self._index(segment, objects.rows)
        return _Segment(self._cache, objects.log, segment, rows)

    def _index(self, segment: ColdSegment, source: CachedObject) -> ColdIndex:
        first = self._cache.block(source, 0)
        if first is None:
            raise _NotHere(source, 0, 0)
        if isinstance(first.parsed, ColdIndex):
            return first.parsed
        last = max(index_size(first.data) - 1, 0) // self._block_bytes
        parts = [first.data]
        for number in range(1, last + 1):
            block = self._cache.block(source, number)
            if block is None:
                raise _NotHere(source, 1, last)
            parts.append(block.data)
        index = parse(parts[0] if len(parts) == 1 else b"".join(parts), segment.base_offset)
        if index is None:
            key = (segment.base_offset, -1)
            if key not in self._again:
                self._note_again(key)
                for number in range(last + 1):
                    self._cache.damaged(source, number)
                raise _NotHere(source, 0, last)
            # Without an index everything is found from the start of the segment on.
            index = ColdIndex([segment.base_offset], [0], [segment.max_time])
        first.parsed = index
        return index

    def _objects_of(self, segment: ColdSegment) -> _Objects:
        found = self._objects.get(segment)
        if found is None:
            name = self._prefix + object_name(segment.base_offset, segment.leader_epoch)
            found = _Objects(CachedObject(name + LOG, segment.size), CachedObject(name + INDEX, 0))
            self._objects[segment] = found
            if len(self._objects) > MAX_OBJECTS:
                self._objects.popitem(last=False)
        return found

    def _first(self, view: _Segment, position: int, offset: int) -> _Batch | None:
        """The batch that holds an offset, or the next one, from the indexed position before it."""
        while True:
            position = view.rows.sound_from(position)
            if position >= view.segment.size:
                return None
            batch = view.batch(position)
            if batch.last_offset >= offset:
                return batch
            position = batch.end

    def _stop(self, view: _Segment, first: _Batch, max_bytes: int, end: int) -> int:
        """Up to where whole batches are given that are at hand: of so many bytes, before `end`."""
        rows = view.rows
        limit = view.at_hand(first.end - 1, min(first.begin + max_bytes, view.segment.size))
        for begin, _ in rows.areas:
            if begin >= first.end:
                limit = min(limit, begin)
        stop = first.end
        # As far as the index tells, and from there by headers.
        at = bisect_right(rows.positions, limit) - 1
        at = min(at, bisect_right(rows.offsets, end) - 1)
        if at >= 0 and rows.positions[at] > stop:
            stop = rows.positions[at]
        try:
            while stop + HEADER_BYTES <= limit:
                batch = view.batch(stop)
                if batch.end > limit or batch.base_offset >= end:
                    break
                stop = batch.end
        except _Damaged:
            # Whoever reads on from there hears of it.
            return stop
        return stop

    def _time_in(self, row: int, timestamp_ms: int) -> tuple[int, int] | None:
        view = self._open(row)
        times = view.rows.times
        at = bisect_left(times, timestamp_ms)
        if at == len(times):
            return None
        position = view.rows.positions[at]
        try:
            while position < view.segment.size:
                position = view.rows.sound_from(position)
                batch = view.batch(position)
                first_time, max_time = view.times(batch)
                if max_time >= timestamp_ms:
                    return batch.base_offset, max(first_time, timestamp_ms)
                position = batch.end
        except _Damaged as damaged:
            self._anew(view, damaged)
            raise BrokerError(Fault.CORRUPT_RECORD, "a cold segment is damaged") from damaged
        return None

    def _anew(self, view: _Segment, damaged: _Damaged) -> None:
        """What is damaged is fetched anew once: the copy of it here may be at fault."""
        key = (view.segment.base_offset, damaged.position)
        if key in self._again:
            return
        self._note_again(key)
        size = self._block_bytes
        first, last = damaged.position // size, (damaged.end - 1) // size
        for number in range(first, last + 1):
            self._cache.damaged(view.source, number)
        raise _NotHere(view.source, first, last)

    def _note_again(self, key: tuple[int, int]) -> None:
        self._again[key] = None
        if len(self._again) > MAX_DAMAGED:
            self._again.popitem(last=False)

    # -- fetching ahead ----------------------------------------------------------------------------

    def _stream(self, base_offset: int, position: int) -> _Stream:
        """That of the reader who was to go on here, or a little behind: an indexed position may lie
        in the block before."""
        block = position // self._block_bytes
        found = self._streams.pop((base_offset, block), None)
        if found is None:
            found = self._streams.pop((base_offset, block + 1), None)
        return _Stream() if found is None else found

    def _keep_stream(self, base_offset: int, position: int, stream: _Stream) -> None:
        stream.stopped = position
        self._streams[base_offset, position // self._block_bytes] = stream
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)

    def _go_on(self, row: int, view: _Segment, begin: int, stop: int, stream: _Stream) -> None:
        """A reader got the bytes from `begin` to `stop`, and goes on there: fetch the next
        blocks, more of them the longer it does."""
        segment, size = view.segment, self._block_bytes
        self._keep_stream(segment.base_offset, stop, stream)
        here, last = stop // size, (segment.size - 1) // size
        if not stream.window:
            stream.window = 1
        elif here > begin // size:
            stream.window = min(4 * stream.window, max(WINDOW_BYTES // size, 1))
        first, until = max(stream.fetched, here + 1), here + 1 + stream.window
        if first <= last:
            stream.fetched = self._ahead(
                view.source, first, min(until, last + 1), stream, view.check
            )
        if until > last + 1 and row + 1 < len(self._cold):
            self._into_next(row + 1, until - 1 - last, stream)

    def _into_next(self, row: int, blocks: int, stream: _Stream) -> None:
        """The reader comes to the end of a segment: the index and the first blocks of the next."""
        segment = self._cold[row]
        objects = self._objects_of(segment)
        known = self._streams.get((segment.base_offset, 0))
        if known is None:
            known = _Stream(stream.window)
            self._keep_stream(segment.base_offset, 0, known)
            self._cache.ahead(objects.rows, 0, 0, self._reader)
        known.window = stream.window
        until = min(blocks, (segment.size - 1) // self._block_bytes + 1)
        check = None
        if self._cache.has(objects.rows, 0):
            try:
                check = _check_of(segment, self._index(segment, objects.rows))
            except _NotHere:
                # Its reader hears of it; what is fetched now is checked when it is read.
                check = None
        known.fetched = self._ahead(objects.log, known.fetched, until, known, check)

    def _ahead(
        self,
        source: CachedObject,
        first: int,
        until: int,
        stream: _Stream,
        check: Check | None,
    ) -> int:
        """Fetch blocks ahead, in steps of what is asked of the store at once; the first that was
        not."""
        size = self._block_bytes
        step = max(min(stream.window // 2, self._cache.settings.get_bytes // size), 1)
        last = (source.size - 1) // size
        if until - first < min(step, last + 1 - first):
            return first
        return self._cache.ahead(source, first, until - 1, self._reader, check)
