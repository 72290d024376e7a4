"""The plainest storage engine that keeps RobustMQ's contract: one file of batches a partition, and
a table of them in memory.

`robustmq.storage.engine.PartitionLog` says what each method promises. What is trimmed stays in the
file until the partition is deleted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, KafkaCode
from robustmq.storage.disk import Disk
from robustmq.storage.engine import (
    PartitionLog,
    PartitionSettings,
    ReadResult,
    StoredPartition,
    Unsound,
)


class Row(NamedTuple):
    """One batch: its header, where it lies, and itself until it is committed."""

    info: BatchInfo
    position: int
    batch: bytearray | None

    @property
    def next_offset(self) -> int:
        """The offset behind it."""
        return self.info.base_offset + self.info.last_offset_delta + 1


class PlainPartition:
    """A partition in one file. `start` beside it holds numbers of 8 bytes: the log's start and end,
    and from where to where offsets are lost, of each hole."""

    def __init__(self, directory: str, disk: Disk, settings: PartitionSettings) -> None:
        self._directory = directory
        self._disk = disk
        self.settings = settings
        self._file, self._bounds = f"{directory}/batches", f"{directory}/start"
        self._rows: list[Row] = []
        self._unwritten: list[bytearray] = []
        self._writing_to: list[int] = []
        self._changed = self._deleted = False
        self.start_offset = self.end_offset = self._size = 0
        self.quarantined: list[tuple[int, int]] = []
        self._holes: list[tuple[int, int]] = []
        self._recover()
        self.high_watermark = self.end_offset

    def _recover(self) -> None:
        bounds = self._disk.read_apart(self._bounds, 0, self._disk.size(self._bounds))
        numbers = [int.from_bytes(bounds[at : at + 8], "big") for at in range(0, len(bounds), 8)]
        if numbers:
            self.start_offset, self.end_offset = numbers[:2]
        self._holes = list(zip(numbers[2::2], numbers[3::2], strict=True))
        data = self._disk.read_apart(self._file, 0, self._disk.size(self._file))
        position = 0
        try:
            for begin, info in batches.headers(data, 0, len(data), True):
                if not info.crc_ok:
                    break
                self._rows.append(Row(info, begin, None))
                position = begin + info.length
                self.end_offset = max(self.end_offset, self._rows[-1].next_offset)
        except BrokerError:
            pass
        if position < len(data):
            self._disk.truncate(self._file, position)
        self._size = position
        self._drop_below()

    def _drop_below(self) -> None:
        self._rows = [row for row in self._rows if row.next_offset > self.start_offset]

    def resume_at(self, end_offset: int) -> None:
        """What lies behind is cut; what was kept nowhere is skipped, and what is lost is a hole."""
        if end_offset > self.end_offset:
            if self._rows:
                self._holes.append((self.end_offset, end_offset))
                self.quarantined.append((self.end_offset, 0))
            else:
                self.start_offset = end_offset
            self.end_offset = self.high_watermark = end_offset
            self._changed = True
        end_offset = max(end_offset, self.start_offset)
        if end_offset >= self.end_offset:
            return
        while self._rows and self._rows[-1].next_offset > end_offset:
            gone = self._rows.pop()
            self._size, end_offset = gone.position, min(end_offset, gone.info.base_offset)
            self._disk.truncate(self._file, self._size)
        self.end_offset = self.high_watermark = end_offset
        self._keep_bounds()

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """In memory."""
        batches.set_base(batch, 0, self.end_offset, leader_epoch)
        info = batches.validate(batch, 0, len(batch), False)
        self._rows.append(Row(info, self._size, batch))
        self._unwritten.append(batch)
        self._size += len(batch)
        self.end_offset = self._rows[-1].next_offset
        return info.base_offset

    def write(self) -> Callable[[bool], None] | None:
        """A job that appends to the file."""
        if not self._unwritten and not self._changed:
            return None
        rows, self._unwritten = self._unwritten, []
        changed, self._changed = self._changed, False
        self._writing_to.append(self.end_offset)

        def job(sync: bool) -> None:
            if self._deleted:
                return
            self._disk.make_directory(self._directory)
            if changed:
                # First: what lies behind a hole is not there before the hole is known.
                self._keep_bounds()
            self._disk.append(self._file, rows)
            if sync:
                self._disk.sync_below(self._directory)

        return job

    def _keep_bounds(self) -> None:
        numbers = [self.start_offset, self.end_offset, *itertools.chain(*self._holes)]
        self._disk.replace(self._bounds, b"".join(number.to_bytes(8, "big") for number in numbers))

    def committed(self) -> None:
        """What the oldest job wrote is in the file, and need not be in memory."""
        self.high_watermark = self._writing_to.pop(0)
        for number, row in enumerate(self._rows):
            if row.batch is not None and row.next_offset <= self.high_watermark:
                self._rows[number] = row._replace(batch=None)

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Batch by batch."""
        if not self.start_offset <= offset <= self.end_offset:
            return ReadResult(self.high_watermark, self.start_offset, [], True)
        for first, behind in self._holes:
            if first <= offset < behind:
                error = KafkaCode.CORRUPT_MESSAGE
                start = self.start_offset
                return ReadResult(self.high_watermark, start, error=error, next_offset=behind)
        end = self.high_watermark if committed else self.end_offset
        end = min([end, *(first for first, _ in self._holes if first > offset)])
        found: list[bytes | memoryview] = []
        size = 0
        for row in self._rows:
            info = row.info
            over = bool(found) and size + info.length > max_bytes
            if info.base_offset >= end or offset >= end or over or max_bytes <= 0:
                break
            if row.next_offset > offset:
                found.append(self._batch(row))
                size += info.length
        return ReadResult(self.high_watermark, self.start_offset, found)

    def _batch(self, row: Row) -> bytes:
        if row.batch is not None:
            return bytes(row.batch)
        return self._disk.read(self._file, row.position, row.info.length)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """By the headers."""
        if timestamp_ms == -3:
            timestamp_ms = max((row.info.max_timestamp for row in self._rows), default=-1)
        for row in self._rows:
            if row.info.max_timestamp >= timestamp_ms >= 0:
                return row.info.base_offset, max(row.info.first_timestamp, timestamp_ms)
        return None

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """The headers from where so many bytes begin."""
        offset = self.offset_of_tail(max_bytes)
        return [row.info for row in self._rows if row.next_offset > offset]

    def offset_of_tail(self, max_bytes: int) -> int:
        """Counted from the end."""
        offset, size = self.end_offset, 0
        for row in reversed(self._rows):
            if size >= max_bytes:
                break
            offset, size = row.info.base_offset, size + row.info.length
        return max(offset, self.start_offset)

    @property
    def size(self) -> int:
        """Of the batches that are kept."""
        return sum(row.info.length for row in self._rows)

    def restore(self, batch: bytearray) -> None:
        """At the offset that it has."""
        self.skip_to(int.from_bytes(batch[:8], "big"))
        self.append(batch, int.from_bytes(batch[12:16], "big", signed=True))

    def skip_to(self, offset: int) -> None:
        """The next record gets this offset."""
        if offset > self.end_offset:
            if self.start_offset == self.end_offset:
                self.start_offset = offset
            if not self._rows:
                self.high_watermark = offset
            self.end_offset = offset
            self._changed = True

    def trim(self, offset: int) -> None:
        """The log begins there."""
        if offset > self.start_offset:
            self.start_offset = offset
            self._changed = True
            self._drop_below()

    def retain(self, now_ms: int) -> int:
        """The oldest batches, as long as they are too old or too many."""
        before = left = self.size
        start_offset = self.start_offset
        for row in self._rows:
            old = 0 <= self.settings.retention_ms < now_ms - row.info.max_timestamp
            many = 0 <= self.settings.retention_bytes <= left - row.info.length
            goes = self.settings.delete and (old or many)
            if not goes or row.next_offset > self.high_watermark:
                break
            start_offset, left = row.next_offset, left - row.info.length
        self.trim(start_offset)
        return before - left

    def configure(self, settings: PartitionSettings) -> None:
        """They are in force from now on."""
        self.settings = settings

    def free(self) -> Callable[[], None] | None:
        """Nothing is removed but with the partition."""
        return None

    def delete(self) -> Callable[[], None]:
        """The directory goes."""
        self._deleted = True
        return lambda: self._disk.remove_directory(self._directory)

    def close(self) -> None:
        """The disk closes its files."""


def open_partition(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    """What the entry point names."""
    return PlainPartition(directory, disk, settings)


class StoredPlain:
    """What operators' commands see of a partition: its file as it is now."""

    def __init__(self, directory: str) -> None:
        path = Path(directory)
        if not path.is_dir():
            raise FileNotFoundError(directory)
        bounds = _content(path / "start")
        self.start_offset = int.from_bytes(bounds[:8], "big")
        self.end_offset = int.from_bytes(bounds[8:16], "big")
        self._data = _content(path / "batches")
        self._infos: list[tuple[int, BatchInfo]] = []
        self._behind = 0
        try:
            for begin, info in batches.headers(self._data, 0, len(self._data), False):
                self._behind = begin + info.length
                following = info.base_offset + info.last_offset_delta + 1
                self.end_offset = max(self.end_offset, following)
                if following > self.start_offset:
                    self._infos.append((begin, info))
        except BrokerError:
            pass
        self.size = sum(info.length for _, info in self._infos)

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """The last one."""
        return [info for _, info in self._infos[-1:]]

    def batches(self) -> Iterator[bytes | Unsound]:
        """One after the other."""
        for begin, info in self._infos:
            yield self._data[begin : begin + info.length]
        if self._behind < len(self._data):
            yield Unsound("no batch follows", self.end_offset)

    def close(self) -> None:
        """Nothing is open."""


def _content(path: Path) -> bytes:
    return path.read_bytes() if os.path.exists(path) else b""


def open_stored(directory: str) -> StoredPartition:
    """What the entry point of the second group names."""
    return StoredPlain(directory)
