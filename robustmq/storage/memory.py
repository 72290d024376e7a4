"""The memory engine: batches in rings, for what may be lost on a restart.

All rings of a worker, those of light topics and those of declared partitions, share one bound in
bytes (`RingMemory`): where a new batch has no room, the oldest make way of the rings that hold
most. So a flood takes no room from topics that hold less than half as much as the largest one. What
is appended is visible at once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.storage.engine import PartitionSettings, ReadResult

BATCH_OVERHEAD = 64
"""What keeping a batch takes beside its bytes: the object they are in, and its place in a ring."""
_SWEPT = 1024
"""So many places of batches that have gone stay in a ring, or as many as are in use."""


class RingMemory:
    """The memory that the rings of a worker share."""

    def __init__(self, max_bytes: int = 8 * 1024 * 1024) -> None:
        """More is held only while one batch alone is larger, or a ring `keeps_all`."""
        self.max_bytes = max_bytes
        self.held_bytes = 0
        """What all rings take, with what keeping it takes."""
        self.dropped_bytes = 0
        """What has made way since the start."""
        # Rings by the bits that their size has, so that the largest, but for a factor of two, are
        # found at once. Within a class the one that has made way last is the last one.
        self._classes: list[dict[MemoryPartition, None]] = [{} for _ in range(64)]
        self._top = 0

    def weigh(self, ring: MemoryPartition, before: int, now: int) -> None:
        """A ring takes so many bytes now."""
        self.held_bytes += now - before
        old, new = before.bit_length(), now.bit_length()
        if old != new:
            self._classes[old].pop(ring, None)
            self._file(ring, new)

    def _file(self, ring: MemoryPartition, number: int) -> None:
        if number and not ring.keeps_all:
            self._classes[number][ring] = None
            self._top = max(self._top, number)

    def keep_all(self, ring: MemoryPartition, keeps_all: bool) -> None:
        """From now on a ring makes no way, or does again."""
        ring.keeps_all = keeps_all
        number = ring.weight.bit_length()
        self._classes[number].pop(ring, None)
        self._file(ring, number)

    def make_room(self, size: int) -> None:
        """A batch of so many bytes is about to be appended."""
        while (excess := self.held_bytes + size + BATCH_OVERHEAD - self.max_bytes) > 0:
            while self._top and not self._classes[self._top]:
                self._top -= 1
            if not self._top:
                return
            largest = self._classes[self._top]
            ring = next(iter(largest))
            self.dropped_bytes += ring.make_way(excess)
            if ring in largest:
                del largest[ring]
                largest[ring] = None


class MemoryPartition:
    """A partition in memory."""

    __slots__ = (
        "_batches",
        "_first",
        "_memory",
        "_offsets",
        "_settings",
        "_size",
        "_times",
        "end_offset",
        "keeps_all",
        "start_offset",
        "weight",
    )

    def __init__(self, settings: PartitionSettings, memory: RingMemory) -> None:
        """`memory` is what it shares with others."""
        self._settings = settings
        self._memory = memory
        self._offsets = array("q")
        self._times = array("q")
        # Of each batch the greatest time stamp up to it, those included that have gone.
        self._batches: list[bytes] = []
        self._first = 0
        self._size = 0
        self.weight = 0
        """Bytes held, with what keeping them takes."""
        self.keeps_all = False
        """Nothing makes way for other rings (`RingMemory.keep_all`)."""
        self.start_offset = 0
        self.end_offset = 0

    @property
    def high_watermark(self) -> int:
        """All that is appended is visible."""
        return self.end_offset

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch; the oldest make way."""
        base_offset = self.end_offset
        batches.set_base(batch, 0, base_offset, leader_epoch)
        info = batches.validate(batch, 0, len(batch), False)
        self._memory.make_room(len(batch))
        self._offsets.append(base_offset)
        latest = self._times[-1] if self._times else info.max_timestamp
        self._times.append(max(latest, info.max_timestamp))
        self._batches.append(bytes(batch))
        self.end_offset += info.last_offset_delta + 1
        self._grow(len(batch), BATCH_OVERHEAD)
        return base_offset

    def _grow(self, size: int, overhead: int) -> None:
        before = self.weight
        self._size += size
        self.weight += size + overhead
        self._memory.weigh(self, before, self.weight)

    @property
    def settings(self) -> PartitionSettings:
        """Those in force."""
        return self._settings

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def batches(self) -> list[bytes]:
        """All that is held, oldest first."""
        return self._batches[self._first :]

    def make_way(self, wanted: int) -> int:
        """Let the oldest batches go until so many bytes are free, or the half of what there was;
        those that are."""
        least = max(self.weight // 2, self.weight - wanted)
        left, at = self.weight, self._first
        while left > least:
            left -= len(self._batches[at]) + BATCH_OVERHEAD
            at += 1
        return self._drop_to(at)

    def _drop_to(self, at: int) -> int:
        """Let all batches before a place go; what they took."""
        count, before = at - self._first, self.weight
        if not count:
            return 0
        size = sum(map(len, self._batches[self._first : at]))
        self._batches[self._first : at] = [b""] * count
        self._first = at
        self._grow(-size, -count * BATCH_OVERHEAD)
        held = at < len(self._offsets)
        self.start_offset = self._offsets[at] if held else self.end_offset
        if not held or at > max(_SWEPT, len(self._offsets) // 2):
            del self._offsets[:at], self._times[:at], self._batches[:at]
            self._first = 0
        return before - self.weight

    def _clear(self) -> None:
        self._grow(-self._size, self._size - self.weight)
        del self._offsets[:], self._times[:], self._batches[:]
        self._first = 0
        self.start_offset = self.end_offset

    def restore(self, batch: bytearray) -> None:
        """Add a batch at the offset that it has."""
        self.skip_to(int.from_bytes(batch[:8], "big"))
        self.append(batch, int.from_bytes(batch[12:16], "big", signed=True))

    def skip_to(self, offset: int) -> None:
        """The next record gets this offset."""
        assert offset >= self.end_offset, "offsets rise"
        if self.start_offset == self.end_offset:
            self.start_offset = offset
        self.end_offset = offset

    def offset_of_tail(self, max_bytes: int) -> int:
        """All that is held is in memory."""
        return self.start_offset

    def trim(self, offset: int) -> None:
        """The log begins at `offset` now."""
        offset = max(self.start_offset, offset)
        self._drop_to(self._place_of(offset))
        self.start_offset = offset

    def retain(self, now_ms: int) -> int:
        """Let go of the oldest batches that the settings let go."""
        settings, before = self._settings, self._size
        left, at = before, self._first
        while settings.delete and at < len(self._offsets):
            batch = self._batches[at]
            age_ms = now_ms - batches.validate(batch, 0, len(batch), False).max_timestamp
            by_time = 0 <= settings.retention_ms < age_ms
            by_size = 0 <= settings.retention_bytes <= left - len(batch)
            if not (by_time or by_size):
                break
            left -= len(batch)
            at += 1
        self._drop_to(at)
        return before - left

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole batches from an offset on."""
        if not self.start_offset <= offset <= self.end_offset:
            return ReadResult(self.end_offset, self.start_offset, [], True)
        found: list[bytes | memoryview] = []
        size = 0
        at = self._place_of(offset)
        while at < len(self._offsets) and offset < self.end_offset:
            batch = self._batches[at]
            if found and size + len(batch) > max_bytes:
                break
            if max_bytes <= 0:
                break
            found.append(batch)
            size += len(batch)
            at += 1
        return ReadResult(self.end_offset, self.start_offset, found)

    def _place_of(self, offset: int) -> int:
        """Where the batch is that holds an offset, or the next one where it is missing."""
        at = max(self._first, bisect_right(self._offsets, offset) - 1)
        if at < len(self._offsets):
            next_offset = self._offsets[at] + int.from_bytes(self._batches[at][23:27], "big") + 1
            at += next_offset <= offset
        return at

    def _infos(self, at: int) -> Iterator[BatchInfo]:
        for batch in self._batches[max(self._first, at) :]:
            yield batches.validate(batch, 0, len(batch), False)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """The first batch at or after a time."""
        wanted = self._times[-1] if timestamp_ms == -3 and self._times else timestamp_ms
        return find_time(self._infos(bisect_left(self._times, wanted)), timestamp_ms)

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the last batches."""
        return list(self._infos(len(self._batches) - max(1, max_bytes // 64)))

    def write(self) -> Callable[[bool], None] | None:
        """Nothing is written."""
        return None

    def committed(self) -> None:
        """Everything is visible already."""

    def resume_at(self, end_offset: int) -> None:
        """The records are gone, their offsets are not used again."""
        if end_offset > self.end_offset:
            self.end_offset = end_offset
            self._clear()

    @property
    def quarantined(self) -> list[tuple[int, int]]:
        """Nothing is read from a disk."""
        return []

    def configure(self, settings: PartitionSettings) -> None:
        """Take over new settings."""
        self._settings = settings

    def free(self) -> Callable[[], None] | None:
        """Nothing is on a disk."""
        return None

    def delete(self) -> Callable[[], None]:
        """Forget everything."""
        self._clear()
        return lambda: None

    def close(self) -> None:
        """Others have its memory now."""
        self._clear()


def find_time(infos: Iterable[BatchInfo], timestamp_ms: int) -> tuple[int, int] | None:
    """(offset, time stamp) as `PartitionLog.offset_for_time` wants it, by looking at headers."""
    best: tuple[int, int] | None = None
    for info in infos:
        if timestamp_ms == -3:
            if best is None or info.max_timestamp > best[1]:
                best = (info.base_offset + info.last_offset_delta, info.max_timestamp)
        elif info.max_timestamp >= timestamp_ms:
            return info.base_offset, max(info.first_timestamp, timestamp_ms)
    return best
