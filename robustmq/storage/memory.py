"""The memory engine: batches in a ring bounded in bytes, for what may be lost on a restart.

The oldest batches make way for the newest. What is appended is visible at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.storage.disk import Disk
from robustmq.storage.engine import ENGINES, PartitionLog, PartitionSettings, ReadResult


class MemoryPartition:
    """A partition in memory."""

    def __init__(self, settings: PartitionSettings) -> None:
        self._settings = settings
        self._offsets: list[int] = []
        self._batches: list[bytes] = []
        self._first = 0
        self._size = 0
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
        self._offsets.append(base_offset)
        self._batches.append(bytes(batch))
        self.end_offset += info.last_offset_delta + 1
        self._size += len(batch)
        while self._size > self._settings.memory_bytes and self._first < len(self._offsets) - 1:
            self.drop_first()
        if self._first > 1024 and self._first * 2 > len(self._offsets):
            del self._offsets[: self._first], self._batches[: self._first]
            self._first = 0
        return base_offset

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

    def drop_first(self) -> int:
        """Let the oldest batch go; the bytes freed (0: nothing is left)."""
        if self._first >= len(self._offsets):
            return 0
        freed = len(self._batches[self._first])
        self._batches[self._first] = b""
        self._first += 1
        self._size -= freed
        held = self._first < len(self._offsets)
        self.start_offset = self._offsets[self._first] if held else self.end_offset
        return freed

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
        while self._first < len(self._offsets):
            if self._next_offset(self._first) > offset:
                break
            self.drop_first()
        self.start_offset = offset

    def retain(self, now_ms: int) -> int:
        """Let go of the oldest batches that the settings let go."""
        settings = self._settings
        freed = 0
        while settings.delete and self._first < len(self._offsets):
            batch = self._batches[self._first]
            age_ms = now_ms - batches.validate(batch, 0, len(batch), False).max_timestamp
            by_time = 0 <= settings.retention_ms < age_ms
            by_size = 0 <= settings.retention_bytes <= self._size - len(batch)
            if not (by_time or by_size):
                break
            freed += self.drop_first()
        return freed

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole batches from an offset on."""
        if not self.start_offset <= offset <= self.end_offset:
            return ReadResult(self.end_offset, self.start_offset, [], True)
        found: list[bytes | memoryview] = []
        size = 0
        at = max(self._first, bisect_right(self._offsets, offset) - 1)
        if at < len(self._offsets) and self._next_offset(at) <= offset:
            # Offsets are missing behind it.
            at += 1
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

    def _next_offset(self, at: int) -> int:
        return self._offsets[at] + int.from_bytes(self._batches[at][23:27], "big") + 1

    def _infos(self) -> Iterator[BatchInfo]:
        for batch in self._batches[self._first :]:
            yield batches.validate(batch, 0, len(batch), False)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """The first batch at or after a time."""
        return find_time(self._infos(), timestamp_ms)

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the last batches."""
        return list(self._infos())[-max(1, max_bytes // 64) :]

    def write(self) -> Callable[[bool], None] | None:
        """Nothing is written."""
        return None

    def committed(self) -> None:
        """Everything is visible already."""

    def resume_at(self, end_offset: int) -> None:
        """The records are gone, their offsets are not used again."""
        if end_offset > self.end_offset:
            self._offsets.clear()
            self._batches.clear()
            self._first = self._size = 0
            self.start_offset = self.end_offset = end_offset

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
        self._offsets.clear()
        self._batches.clear()
        self._first = self._size = 0
        self.start_offset = self.end_offset
        return lambda: None

    def close(self) -> None:
        """Nothing is open."""


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


def _open(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    return MemoryPartition(settings)


ENGINES["memory"] = _open
