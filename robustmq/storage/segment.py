"""The segment engine: a partition in files of its own, for high-throughput logs (docs/formats.md,
"Segments").

A file holds record batches v2 one behind the other, exactly as Kafka clients get them, and is named
by its base offset. Beside it in memory stands a sparse index of (offset, position, greatest time
stamp so far), rebuilt from the batch headers when the partition is opened. Appends gather in memory
until the storage thread writes them; readers of committed data never see them before. A torn batch
at the end of the last file is cut; a bad one elsewhere answers its readers with CORRUPT_MESSAGE.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError
from robustmq.storage.disk import Buffer, Disk
from robustmq.storage.engine import ENGINES, PartitionLog, PartitionSettings, ReadResult
from robustmq.storage.memory import find_time

HEADER_BYTES = 61
MAGIC_AT = 16
SCAN_BYTES = 4 * 1024 * 1024


class _File:
    """One segment file with its sparse index."""

    __slots__ = ("bad", "base_offset", "max_times", "offsets", "path", "positions", "size")

    def __init__(self, base_offset: int, path: str) -> None:
        self.base_offset = base_offset
        self.path = path
        self.size = 0
        self.offsets: list[int] = []
        self.positions: list[int] = []
        self.max_times: list[int] = []
        self.bad: list[tuple[int, int]] = []
        """Areas that are set aside, as (begin, end)."""

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        self.size = size
        keep = bisect_left(self.positions, size)
        del self.offsets[keep:], self.positions[keep:], self.max_times[keep:]
        self.bad = [area for area in self.bad if area[1] <= size]

    def sound_from(self, position: int) -> int:
        """The first position at or behind this one that is not set aside."""
        for begin, end in self.bad:
            if begin <= position < end:
                return end
        return position

    def sound_until(self, position: int) -> int:
        """Where the next area begins that is set aside, or the file ends."""
        return min((begin for begin, _ in self.bad if begin >= position), default=self.size)

    def note(self, base_offset: int, position: int, max_timestamp: int, interval: int) -> None:
        """Index a batch if the last indexed one is far enough away."""
        if not self.offsets or position - self.positions[-1] >= interval:
            before = self.max_times[-1] if self.max_times else -1
            self.offsets.append(base_offset)
            self.positions.append(position)
            self.max_times.append(max(before, max_timestamp))
        elif max_timestamp > self.max_times[-1]:
            self.max_times[-1] = max_timestamp


class SegmentPartition:
    """A partition in segment files."""

    def __init__(self, directory: str, disk: Disk, settings: PartitionSettings) -> None:
        self._directory = directory
        self._disk = disk
        self._settings = settings
        self._files: list[_File] = []
        self._new: list[tuple[_File, bytes, int]] = []
        self._writing_to: deque[int] = deque()
        self._unwritten = 0
        self._made = False
        self.quarantined: list[tuple[int, int]] = []
        self.start_offset = 0
        self.end_offset = 0
        self.high_watermark = 0
        self._recover()

    # -- opening -----------------------------------------------------------------------------------

    def _recover(self) -> None:
        names = [name for name in self._disk.list(self._directory) if name.endswith(".log")]
        for index, name in enumerate(names):
            file = _File(int(name[:-4]), f"{self._directory}/{name}")
            self._files.append(file)
            self._scan_file(file, index == len(names) - 1)
        if self._files:
            self.start_offset = self._files[0].base_offset
        self.high_watermark = self.end_offset

    def _scan_file(self, file: _File, last: bool) -> None:
        """Read the headers of a file. Bad bytes with a sound batch behind them are set aside and
        stepped over; at the end of the last file they are a torn batch, and are cut."""
        size = self._disk.size(file.path)
        self.end_offset = max(self.end_offset, file.base_offset)
        position = 0
        while position < size:
            data = self._disk.read(file.path, position, min(SCAN_BYTES, size - position))
            used, sound = self._scan_chunk(file, position, data, last)
            if not used:
                length = _claimed_length(data)
                if sound and HEADER_BYTES <= length <= size - position and length > len(data):
                    data = self._disk.read(file.path, position, length)
                    used, sound = self._scan_chunk(file, position, data, last)
            position += used
            if sound and used:
                continue
            bad = self._disk.read(file.path, position, size - position)
            behind = _next_sound(bad, self.end_offset)
            if behind is None and last:
                self._disk.truncate(file.path, position)
                size = position
            else:
                stop = len(bad) if behind is None else behind
                self._set_aside(file, position, bad[:stop])
                position += stop
        file.size = size

    def _set_aside(self, file: _File, position: int, data: bytes) -> None:
        directory = f"{self._directory}/quarantine"
        self._disk.make_directory(directory)
        self._disk.replace(f"{directory}/{self.end_offset:020d}.bad", data)
        self.quarantined.append((self.end_offset, len(data)))
        file.bad.append((position, position + len(data)))

    def _scan_chunk(self, file: _File, position: int, data: bytes, check: bool) -> tuple[int, bool]:
        used = 0
        stepped_over = bool(file.bad) and file.bad[-1][1] == position
        try:
            for begin, info in batches.headers(data, 0, len(data), check):
                gap = info.base_offset - self.end_offset
                if not info.crc_ok or gap < 0 or (gap and not (stepped_over and not used)):
                    return used, False
                interval = 0 if stepped_over and not used else self._settings.index_interval_bytes
                file.note(info.base_offset, position + begin, info.max_timestamp, interval)
                self.end_offset = info.base_offset + info.last_offset_delta + 1
                used = begin + info.length
        except BrokerError:
            return used, False
        return used, True

    def resume_at(self, end_offset: int) -> None:
        """Cut what lies behind the last committed record."""
        if end_offset >= self.end_offset:
            return
        while self._files and self._files[-1].base_offset >= end_offset:
            self._disk.remove(self._files.pop().path)
        self.end_offset = self.start_offset
        if self._files:
            file = self._files[-1]
            position, self.end_offset = self._place_of(file, end_offset)
            self._disk.truncate(file.path, position)
            file.cut(position)
        self.high_watermark = self.end_offset

    def _place_of(self, file: _File, offset: int) -> tuple[int, int]:
        """Where the first batch at or behind an offset begins, and the offset behind the last one
        before it."""
        at = max(0, bisect_right(file.offsets, offset) - 1)
        position = file.positions[at] if file.positions else 0
        end_offset = file.offsets[at] if file.offsets else file.base_offset
        data = self._disk.read(file.path, position, file.size - position)
        stop = 0
        for begin, info in batches.headers(data, 0, len(data), False):
            following = info.base_offset + info.last_offset_delta + 1
            if following > offset:
                break
            stop, end_offset = begin + info.length, following
        return position + stop, end_offset

    # -- appending ---------------------------------------------------------------------------------

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch in memory."""
        base_offset = self.end_offset
        batches.set_base(batch, 0, base_offset, leader_epoch)
        info = batches.validate(batch, 0, len(batch), False)
        file = self._files[-1] if self._files else None
        if file is None or (file.size and file.size + len(batch) > self._settings.segment_bytes):
            file = _File(base_offset, f"{self._directory}/{base_offset:020d}.log")
            self._files.append(file)
        file.note(base_offset, file.size, info.max_timestamp, self._settings.index_interval_bytes)
        file.size += len(batch)
        self.end_offset = base_offset + info.last_offset_delta + 1
        self._new.append((file, bytes(batch), base_offset))
        return base_offset

    def write(self) -> Callable[[bool], None] | None:
        """A job that writes what is new."""
        if self._unwritten == len(self._new):
            return None
        rows = self._new[self._unwritten :]
        self._unwritten = len(self._new)
        self._writing_to.append(self.end_offset)
        by_file: dict[str, list[Buffer]] = {}
        for file, batch, _ in rows:
            by_file.setdefault(file.path, []).append(batch)
        disk = self._disk
        made = self._made
        self._made = True

        def job(sync: bool) -> None:
            if not made:
                disk.make_directory(self._directory)
            for path, buffers in by_file.items():
                disk.append(path, buffers)
                if sync:
                    disk.sync(path)

        return job

    def committed(self) -> None:
        """What the oldest job has written is visible; later ones may still run."""
        self.high_watermark = self._writing_to.popleft()
        done = bisect_left([row[2] for row in self._new], self.high_watermark)
        del self._new[:done]
        self._unwritten -= done

    # -- reading -----------------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole batches from an offset on, read where they lie."""
        end = self.high_watermark if committed else self.end_offset
        if not self.start_offset <= offset <= self.end_offset:
            return ReadResult(self.high_watermark, self.start_offset, [], True)
        if offset >= end or max_bytes <= 0:
            return ReadResult(self.high_watermark, self.start_offset)
        if self._new and offset >= self._new[0][2]:
            return ReadResult(
                self.high_watermark, self.start_offset, self._from_memory(offset, max_bytes, end)
            )
        at = bisect_right(self._files, offset, key=lambda file: file.base_offset) - 1
        try:
            found = self._from_file(self._files[at], offset, max_bytes, end)
        except BrokerError as error:
            return ReadResult(self.high_watermark, self.start_offset, [], False, error.fault.kafka)
        return ReadResult(self.high_watermark, self.start_offset, found)

    def _from_memory(self, offset: int, max_bytes: int, end: int) -> list[bytes | memoryview]:
        found: list[bytes | memoryview] = []
        size = 0
        for number, (_, batch, base_offset) in enumerate(self._new):
            following = self._new[number + 1][2] if number + 1 < len(self._new) else self.end_offset
            if following <= offset or base_offset >= end:
                continue
            if found and size + len(batch) > max_bytes:
                break
            found.append(batch)
            size += len(batch)
        return found

    def _from_file(
        self, file: _File, offset: int, max_bytes: int, end: int
    ) -> list[bytes | memoryview]:
        """Whole batches from the one that holds `offset`, or the next one if that is lost."""
        entry = bisect_right(file.offsets, offset) - 1
        position = file.sound_from(file.positions[max(entry, 0)] if file.positions else 0)
        while position < file.size:
            stop = file.sound_until(position)
            found = self._from_area(file, position, stop, offset, max_bytes, end)
            if found is None or found:
                return found or []
            position = file.sound_from(stop)
        return []

    def _from_area(
        self, file: _File, position: int, until: int, offset: int, max_bytes: int, end: int
    ) -> list[bytes | memoryview] | None:
        """Batches of an area without gaps; none when it ends before `offset`, None at `end`."""
        wanted = max_bytes + self._settings.index_interval_bytes
        data = self._disk.read(file.path, position, min(wanted, until - position))
        begin = stop = -1
        at = 0
        while True:
            length = batches.batch_size(data, at, len(data))
            if not length:
                if stop >= 0 or position + at >= until:
                    break
                # The batch that holds the offset is larger than what was read, or lies behind it.
                claimed = _claimed_length(self._disk.read(file.path, position + at, 12))
                size = max(claimed, min(wanted, until - position - at))
                data = self._disk.read(file.path, position + at, size)
                position, at = position + at, 0
                if len(data) < claimed or not claimed:
                    break
                continue
            base = int.from_bytes(data[at : at + 8], "big")
            if base >= end:
                return None if begin < 0 else [memoryview(data)[begin:stop]]
            last = base + int.from_bytes(data[at + 23 : at + 27], "big")
            if last >= offset:
                if begin >= 0 and at + length - begin > max_bytes:
                    break
                if begin < 0:
                    begin = at
                stop = at + length
            at += length
        return [memoryview(data)[begin:stop]] if begin >= 0 else []

    def _infos(self, files: Iterable[_File], position: int = 0) -> Iterator[BatchInfo]:
        """The headers of the batches of files, in order; of the first one from a position on."""
        for file in files:
            new = [row for row in self._new if row[0] is file]
            for info in self._stored(file, file.sound_from(position)):
                if new and info.base_offset >= new[0][2]:
                    break
                yield info
            for _, batch, _ in new:
                yield batches.validate(batch, 0, len(batch), False)
            position = 0

    def _stored(self, file: _File, position: int) -> Iterator[BatchInfo]:
        while position < file.size:
            until = file.sound_until(position)
            data = self._disk.read(file.path, position, min(SCAN_BYTES, until - position))
            length = _claimed_length(data)
            if len(data) < length <= until - position:
                data = self._disk.read(file.path, position, length)
            used = 0
            for begin, info in batches.headers(data, 0, len(data), False):
                yield info
                used = begin + info.length
            position = position + used if used else until
            if position >= until:
                position = file.sound_from(until)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """The first batch at or after a time; -3: the greatest time stamp."""
        files = [file for file in self._files if file.max_times]
        if timestamp_ms == -3 and files:
            timestamp_ms = max(file.max_times[-1] for file in files)
        for file in files:
            if file.max_times[-1] >= timestamp_ms:
                # The greatest time so far is known for each indexed batch: begin there.
                row = bisect_left(file.max_times, timestamp_ms)
                found = find_time(self._infos([file], file.positions[row]), timestamp_ms)
                if found is not None:
                    return found
        return None

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the batches in the last bytes, from an indexed one on."""
        if not self._files:
            return []
        file = self._files[-1]
        at = max(0, bisect_left(file.positions, file.size - max_bytes) - 1)
        return list(self._infos([file], file.positions[at] if file.positions else 0))

    # -- the rest ----------------------------------------------------------------------------------

    def configure(self, settings: PartitionSettings) -> None:
        """Take over new settings."""
        self._settings = settings

    def delete(self) -> None:
        """Remove the files."""
        for file in self._files:
            self._disk.remove(file.path)
        self._files.clear()
        self._new.clear()
        self._unwritten = 0

    def close(self) -> None:
        """The disk closes its files."""


def _next_sound(data: bytes, end_offset: int) -> int | None:
    """The first sound batch behind the bad one that `data` begins with: proven by its checksum, and
    an offset that can follow."""
    at = data.find(b"\2", MAGIC_AT + 1)
    while at >= 0:
        begin = at - MAGIC_AT
        length = _claimed_length(data[begin : begin + 12])
        base_offset = int.from_bytes(data[begin : begin + 8], "big")
        near = end_offset <= base_offset < end_offset + 2**31
        if near and HEADER_BYTES <= length <= len(data) - begin:
            try:
                info = batches.validate(data, begin, begin + length)
            except BrokerError:
                info = None
            if info is not None and info.crc_ok:
                return begin
        at = data.find(b"\2", at + 1)
    return None


def _claimed_length(data: bytes | memoryview) -> int:
    return int.from_bytes(data[8:12], "big") + 12 if len(data) >= 12 else 0


def _open(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    return SegmentPartition(directory, disk, settings)


ENGINES["segment"] = _open
