"""The segment engine: a partition in files of its own, for high-throughput logs (docs/formats.md,
"Segments").

A file holds record batches v2 one behind the other, exactly as Kafka clients get them, and is named
by its base offset. Beside it in memory stands a sparse index of (offset, position, greatest time
stamp so far), rebuilt from the batch headers when the partition is opened. Appends gather in memory
until the storage thread writes them; readers of committed data never see them before. A torn batch
at the end of the last file is cut; a bad one elsewhere answers its readers with CORRUPT_MESSAGE.

There is always a last file, so that its name says where the log ends when all else has gone. What
retention lets go leaves the table of files at once, and the disk as soon as may be (`free`). Where
a compaction took records out, offsets are missing: `PartitionState.gaps_until` says up to where.

Under a cold tier the log may begin below its first file. `closed_files` names what can be copied
there, `tiered` says up to where that is done (the next commit keeps it), `drop_local` lets such
files go; `start_offset` stays. Reads below `local_start_offset` are the cold tier's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import msgspec

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, KafkaCode
from robustmq.promises import Promise
from robustmq.storage import partition_state
from robustmq.storage.disk import Buffer, Disk
from robustmq.storage.engine import ENGINES, PartitionLog, PartitionSettings, ReadResult
from robustmq.storage.memory import find_time
from robustmq.storage.partition_state import PartitionState
from robustmq.storage.retention import SegmentRow, below, expired
from robustmq.storage.segment_file import (
    CLEANED,
    HEADER_BYTES,
    LOG,
    SegmentFile,
    base_of,
    claimed_length,
    file_name,
    generation_of,
    next_sound,
)
from robustmq.storage.tiered import PartitionTier

SCAN_BYTES = 4 * 1024 * 1024


class ClosedFile(msgspec.Struct, frozen=True, gc=False):
    """A file that changes no more, all of it committed."""

    path: str
    base_offset: int
    next_offset: int
    """The offset behind its last record: where the next file begins."""
    size: int
    first_time_ms: int
    """The greatest time stamp of its first batch; -1: it has none."""
    max_time_ms: int
    """The greatest time stamp in it; -1: there is none."""


class SegmentPartition:
    """A partition in segment files."""

    def __init__(self, directory: str, disk: Disk, settings: PartitionSettings) -> None:
        self._directory = directory
        self._disk = disk
        self._settings = settings
        self.files: list[SegmentFile] = []
        self.state = PartitionState()
        self.compacting = False
        """While it is, no file goes: a compaction reads them."""
        self.deleted = False
        self.tier: PartitionTier | None = None
        """What answers for the records that are in the object store, and says what may go."""
        self._state_changed = False
        self._kept_tiered_until = 0
        self._to_make: list[str] = []
        self._to_remove: list[str] = []
        self._new: list[tuple[SegmentFile, bytearray, int]] = []
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
        found = self._disk.list(self._directory)
        if partition_state.NAME in found:
            state = partition_state.load(self._directory, self._disk)
            if state is None:
                self.quarantined.append((0, 0))
                state = PartitionState(gaps_until=1 << 62)
            self.state = state
            self._kept_tiered_until = state.tiered_until
        names = self._names(found)
        for index, name in enumerate(names):
            file = SegmentFile(base_of(name), f"{self._directory}/{name}")
            if self.files and file.base_offset < self.end_offset:
                # A compaction has written its records into the file before.
                self._disk.remove(file.path)
                continue
            self.files.append(file)
            self._scan_file(file, index == len(names) - 1)
        for file in self.files:
            self._disk.mark_unsynced(file.path)
        self._begin_at_start()
        self.high_watermark = self.end_offset

    def _names(self, found: list[str]) -> list[str]:
        """The files that count, in order; what a compaction left is finished or dropped."""
        done = self.state.replaced if self.state.made in found else ()
        for name in found:
            if name.endswith(CLEANED) or name in done:
                self._disk.remove(f"{self._directory}/{name}")
        names = [name for name in found if name.endswith(LOG) and name not in done]
        # Of two with one base offset the later compaction's stands first.
        return sorted(names, key=lambda name: (base_of(name), -generation_of(name)))

    def _begin_at_start(self) -> None:
        """Files wholly below the log's start go; the last one stays, or is made."""
        start_offset = self.state.start_offset
        tiered_until = self.state.tiered_until
        while self.files and (
            self.end_offset < start_offset
            if len(self.files) == 1
            else self.files[1].base_offset <= start_offset
        ):
            self._disk.remove(self.files.pop(0).path)
        if self.end_offset < tiered_until:
            # A loss of power took what the cold tier has.
            while self.files:
                self._disk.remove(self.files.pop().path)
        if not self.files:
            self.end_offset = max(self.end_offset, start_offset, tiered_until)
        first = self.files[0].base_offset if self.files else tiered_until
        self.start_offset = start_offset if first <= tiered_until else max(start_offset, first)

    def _scan_file(self, file: SegmentFile, last: bool) -> None:
        """Read the headers of a file. Bad bytes with a sound batch behind them are set aside and
        stepped over; at the end of the last file they are a torn batch, and are cut."""
        size = self._disk.size(file.path)
        self.end_offset = max(self.end_offset, file.base_offset)
        position = 0
        while position < size:
            data = self._disk.read(file.path, position, min(SCAN_BYTES, size - position))
            used, sound = self._scan_chunk(file, position, data, last)
            if not used:
                length = claimed_length(data)
                if sound and HEADER_BYTES <= length <= size - position and length > len(data):
                    data = self._disk.read(file.path, position, length)
                    used, sound = self._scan_chunk(file, position, data, last)
            position += used
            if sound and used:
                continue
            bad = self._disk.read(file.path, position, size - position)
            behind = next_sound(bad, self.end_offset)
            if behind is None and last:
                self._disk.truncate(file.path, position)
                size = position
            else:
                stop = len(bad) if behind is None else behind
                self._set_aside(file, position, bad[:stop])
                position += stop
        file.size = size

    def _set_aside(self, file: SegmentFile, position: int, data: bytes) -> None:
        directory = f"{self._directory}/quarantine"
        self._disk.make_directory(directory)
        self._disk.replace(f"{directory}/{self.end_offset:020d}.bad", data)
        self.quarantined.append((self.end_offset, len(data)))
        file.bad.append((position, position + len(data)))

    def _scan_chunk(
        self, file: SegmentFile, position: int, data: bytes, check: bool
    ) -> tuple[int, bool]:
        used = 0
        stepped_over = bool(file.bad) and file.bad[-1][1] == position
        try:
            for begin, info in batches.headers(data, 0, len(data), check):
                gap = info.base_offset - self.end_offset
                known = gap and self.end_offset < self.state.gaps_until
                if (
                    not info.crc_ok
                    or gap < 0
                    or not (not gap or known or (stepped_over and not used))
                ):
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
        if end_offset > self.end_offset and not self.files:
            # What stood here was kept in memory: its offsets are not used again.
            self.start_offset = self.end_offset = self.high_watermark = end_offset
            self.change(start_offset=end_offset)
        if end_offset >= self.end_offset:
            return
        tiered_until = self.state.tiered_until
        end_offset = max(end_offset, self.start_offset, tiered_until)
        if end_offset >= self.end_offset:
            return
        while self.files and self.files[-1].base_offset >= end_offset:
            self._disk.remove(self.files.pop().path)
        self.end_offset = max(self.start_offset, tiered_until)
        if self.files:
            file = self.files[-1]
            position, self.end_offset = self._place_of(file, end_offset)
            self._disk.truncate(file.path, position)
            file.cut(position)
        self.high_watermark = self.end_offset

    def _place_of(self, file: SegmentFile, offset: int) -> tuple[int, int]:
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
        """Add one batch in memory, as it is: the caller lets go of it."""
        base_offset = self.end_offset
        batches.set_base(batch, 0, base_offset, leader_epoch)
        info = batches.validate(batch, 0, len(batch), False)
        file = self.files[-1] if self.files else self._begin_file()
        if file.size and self._is_full(file, len(batch), info):
            file = self._begin_file()
        file.note(base_offset, file.size, info.max_timestamp, self._settings.index_interval_bytes)
        file.size += len(batch)
        self.end_offset = base_offset + info.last_offset_delta + 1
        self._new.append((file, batch, base_offset))
        return base_offset

    def _is_full(self, file: SegmentFile, size: int, info: BatchInfo) -> bool:
        """Must a batch go into a new file, by size, index or time?"""
        settings = self._settings
        if file.size + size > settings.segment_bytes:
            return True
        if 8 * len(file.offsets) >= settings.segment_index_bytes:
            return True
        return 0 <= file.first_time < info.max_timestamp - settings.roll_ms

    def _begin_file(self) -> SegmentFile:
        file = SegmentFile(self.end_offset, self._path(file_name(self.end_offset) + LOG))
        self.files.append(file)
        return file

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def write(self) -> Callable[[bool], None] | None:
        """A job that writes what is new, and then what is known beside it."""
        changed = self._state_changed or bool(self._to_make)
        if self._unwritten == len(self._new) and not changed:
            return None
        after = self._changes() if changed else None
        rows = self._new[self._unwritten :]
        self._unwritten = len(self._new)
        self._writing_to.append(self.end_offset)
        by_file: dict[str, list[Buffer]] = {}
        for file, batch, _ in rows:
            by_file.setdefault(file.path, []).append(batch)
        disk, directory = self._disk, self._directory
        made = self._made
        self._made = True

        def job(sync: bool) -> None:
            if self.deleted:
                return
            if not made:
                disk.make_directory(directory)
            for path, buffers in by_file.items():
                disk.append(path, buffers)
            if sync:
                disk.sync_below(directory)
            if after is not None:
                after()

        return job

    def _changes(self) -> Callable[[], None]:
        """What becomes of the directory, behind what is written."""
        made, self._to_make = self._to_make, []
        state = self.state if self._state_changed else None
        self._state_changed = False
        disk, directory = self._disk, self._directory

        def change() -> None:
            for path in made:
                disk.append(path, [])
                disk.sync(path)
            if state is not None:
                partition_state.save(directory, disk, state)
                self._kept_tiered_until = state.tiered_until

        return change

    def free(self) -> Callable[[], None] | None:
        """A job that removes the files that have gone. All of them is committed, so it may run
        before what is still to be written."""
        if not self._to_remove:
            return None
        removed, self._to_remove = self._to_remove, []
        disk = self._disk

        def job() -> None:
            for path in removed:
                disk.remove(path)

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
        if offset < self.local_start_offset:
            if self.tier is not None:
                return self.tier.read(offset, max_bytes, min(end, self.local_start_offset))
            moved = KafkaCode.OFFSET_MOVED_TO_TIERED_STORAGE
            return ReadResult(self.high_watermark, self.start_offset, [], False, moved)
        if offset >= end or max_bytes <= 0:
            return ReadResult(self.high_watermark, self.start_offset)
        if self._new and offset >= self._new[0][2]:
            return ReadResult(
                self.high_watermark, self.start_offset, self._from_memory(offset, max_bytes, end)
            )
        try:
            found = self._from_files(offset, max_bytes, end)
        except BrokerError as error:
            return ReadResult(self.high_watermark, self.start_offset, [], False, error.fault.kafka)
        return ReadResult(self.high_watermark, self.start_offset, found)

    def _from_files(self, offset: int, max_bytes: int, end: int) -> list[bytes | memoryview]:
        """From the file that holds `offset`; from the next ones where a compaction took out all
        that lay behind it."""
        at = bisect_right(self.files, offset, key=lambda file: file.base_offset) - 1
        while at < len(self.files) and self.files[at].base_offset < end:
            found = self._from_file(self.files[at], offset, max_bytes, end)
            if found:
                return found
            at += 1
        return self._from_memory(offset, max_bytes, end) if self._new else []

    def _from_memory(self, offset: int, max_bytes: int, end: int) -> list[bytes | memoryview]:
        found: list[bytes | memoryview] = []
        size = 0
        for number, (_, batch, base_offset) in enumerate(self._new):
            following = self._new[number + 1][2] if number + 1 < len(self._new) else self.end_offset
            if following <= offset or base_offset >= end:
                continue
            if found and size + len(batch) > max_bytes:
                break
            found.append(memoryview(batch))
            size += len(batch)
        return found

    def _from_file(
        self, file: SegmentFile, offset: int, max_bytes: int, end: int
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
        self, file: SegmentFile, position: int, until: int, offset: int, max_bytes: int, end: int
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
                claimed = claimed_length(self._disk.read(file.path, position + at, 12))
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

    def _infos(self, files: Iterable[SegmentFile], position: int = 0) -> Iterator[BatchInfo]:
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

    def _stored(self, file: SegmentFile, position: int) -> Iterator[BatchInfo]:
        while position < file.size:
            until = file.sound_until(position)
            data = self._disk.read(file.path, position, min(SCAN_BYTES, until - position))
            length = claimed_length(data)
            if len(data) < length <= until - position:
                data = self._disk.read(file.path, position, length)
            used = 0
            for begin, info in batches.headers(data, 0, len(data), False):
                yield info
                used = begin + info.length
            position = position + used if used else until
            if position >= until:
                position = file.sound_from(until)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """The first batch at or after a time; -3: the greatest time stamp."""
        cold = self.tier.offset_for_time(timestamp_ms) if self.tier is not None else None
        if cold is not None:
            return cold
        files = [file for file in self.files if file.max_times]
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
        if not self.files:
            return []
        file = self.files[-1]
        at = max(0, bisect_left(file.positions, file.size - max_bytes) - 1)
        return list(self._infos([file], file.positions[at] if file.positions else 0))

    # -- retention ---------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of all files, what is not written yet included."""
        return sum(file.size for file in self.files)

    def restore(self, batch: bytearray) -> None:
        """Add a batch at the offset that it has."""
        base_offset = int.from_bytes(batch[:8], "big")
        if base_offset > self.end_offset and self.files:
            self.end_offset = base_offset
            self.change(gaps_until=base_offset)
        elif base_offset > self.end_offset:
            self.skip_to(base_offset)
        self.append(batch, int.from_bytes(batch[12:16], "big", signed=True))

    def skip_to(self, offset: int) -> None:
        """The next record gets this offset; the name of an empty file keeps that."""
        assert offset >= self.end_offset, "offsets rise"
        if offset == self.end_offset:
            return
        if self.start_offset == self.end_offset:
            self.start_offset = offset
            self.change(start_offset=offset)
        if not self.files:
            self.high_watermark = offset
        self.end_offset = offset
        self.change(gaps_until=max(self.state.gaps_until, offset))
        if self.files:
            self._to_make.append(self._begin_file().path)

    def offset_of_tail(self, max_bytes: int) -> int:
        """The file from whose begin on there are so many bytes."""
        at = len(self.files)
        size = 0
        while at > 0 and size < max_bytes:
            at -= 1
            size += self.files[at].size
        return max(self.start_offset, self.files[at].base_offset) if self.files else 0

    # -- under a cold tier -------------------------------------------------------------------------

    @property
    def local_start_offset(self) -> int:
        """The first offset that is read here; those before it, from `start_offset` on, are in the
        cold tier."""
        first = self.files[0].base_offset if self.files else self.end_offset
        return max(self.start_offset, first)

    def closed_files(self) -> list[ClosedFile]:
        """The files that are full and committed, oldest first; a compaction may put others in their
        place, with the same records or fewer."""
        found = []
        for file, following in pairwise(self.files):
            if following.base_offset > self.high_watermark:
                break
            found.append(
                ClosedFile(
                    file.path,
                    file.base_offset,
                    following.base_offset,
                    file.size,
                    file.first_time,
                    file.max_time,
                )
            )
        return found

    def tiered(self, until_offset: int) -> None:
        """All committed records below an offset are in the cold tier. The next commit keeps it, and
        from then on `drop_local` may go so far."""
        if until_offset > self.state.tiered_until:
            self.change(tiered_until=until_offset)

    def untiered(self) -> None:
        """Nothing is in the cold tier any more, nor of this log."""
        self._kept_tiered_until = 0
        self.change(tiered_until=0)

    def drop_local(self, until_offset: int) -> int:
        """Let go of the files wholly below an offset whose records the cold tier has for certain;
        the bytes that they have. They are removed by `free`."""
        if self.compacting:
            return 0
        until_offset = min(until_offset, self._kept_tiered_until)
        count = below(self._rows(0), until_offset)
        gone = self.files[:count]
        del self.files[:count]
        self._to_remove += [file.path for file in gone]
        return sum(file.size for file in gone)

    def trim(self, offset: int) -> None:
        """The log begins at `offset` now, as far as the next job makes it last."""
        assert offset <= self.end_offset, "a log begins before it ends"
        if offset <= self.start_offset:
            return
        self.start_offset = offset
        self.change(start_offset=offset)
        if not self.compacting:
            self._drop(below(self._rows(0), offset))

    def change(self, **changes: int | str | tuple[str, ...]) -> None:
        """Another state, which the next job keeps."""
        self.state = msgspec.structs.replace(self.state, **changes)
        self._state_changed = True

    def retain(self, now_ms: int) -> int:
        """Let go of the files that the settings let go; the bytes that they have."""
        settings = self._settings
        if self.tier is not None:
            return self.tier.retain(now_ms)
        if self.compacting or not self.files:
            return 0
        delete = settings.delete and not settings.tiered
        oldest = now_ms - self.files[0].max_time
        if len(self.files) == 1 and not (delete and 0 <= settings.retention_ms < oldest):
            # The one file of most partitions goes by time alone.
            return 0
        rows = self._rows(now_ms)
        count = below(rows, self.start_offset)
        if delete:
            count = max(
                count,
                expired(
                    rows,
                    now_ms,
                    settings.retention_ms,
                    settings.retention_bytes,
                    self.high_watermark,
                ),
            )
        return self._drop(count)

    def _rows(self, now_ms: int) -> list[SegmentRow]:
        rows = []
        for number, file in enumerate(self.files):
            last = number == len(self.files) - 1
            end = self.end_offset if last else self.files[number + 1].base_offset
            time_ms = file.max_time
            if time_ms < 0:
                if file.written_ms < 0:
                    file.written_ms = now_ms
                time_ms = file.written_ms
            rows.append(SegmentRow(file.size, end, time_ms))
        return rows

    def _drop(self, count: int) -> int:
        if not count:
            return 0
        if count == len(self.files):
            self.roll()
        gone = self.files[:count]
        del self.files[:count]
        self._to_remove += [file.path for file in gone]
        self.start_offset = max(self.start_offset, self.files[0].base_offset)
        return sum(file.size for file in gone)

    def roll(self) -> None:
        """Begin a new file, which the next job makes."""
        if self.files and self.files[-1].size:
            self._to_make.append(self._begin_file().path)

    def exchange(self, made: SegmentFile, replaced: list[SegmentFile]) -> None:
        """A compaction's file takes the place of those that it was made of."""
        at = self.files.index(replaced[0])
        assert self.files[at : at + len(replaced)] == replaced, "they lie side by side"
        self.files[at : at + len(replaced)] = [made]

    # -- the rest ----------------------------------------------------------------------------------

    def configure(self, settings: PartitionSettings) -> None:
        """Take over new settings."""
        self._settings = settings

    @property
    def settings(self) -> PartitionSettings:
        """Those in force."""
        return self._settings

    @property
    def directory(self) -> str:
        """Where the files are."""
        return self._directory

    def delete(self) -> Callable[[], None]:
        """Nothing is written any more; a job that removes the directory with all that is in it."""
        self.deleted = True
        disk, directory, state = self._disk, self._directory, self.state
        if self.tier is not None or state.tiered_until:
            # What says that there is something in the object store stays until that is gone.
            return lambda: partition_state.keep_alone(directory, disk, state)
        return lambda: disk.remove_directory(directory)

    def close(self) -> None:
        """The disk closes its files."""


def _open(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    return SegmentPartition(directory, disk, settings)


ENGINES["segment"] = _open
