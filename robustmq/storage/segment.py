"""The segment engine: a partition in files of its own, for high-throughput logs (docs/formats.md,
"Segments").

A file holds record batches v2 one behind the other, exactly as Kafka clients get them, and is named
by its base offset; its sparse index stands beside it (`segment_index`), and in memory while the
file grows. Appends gather in memory until the storage thread writes them; readers of committed data
never see them before. The last file is read by pread; the others, which change no more, through
`Disk.view`. What is damaged is stepped over: a read of an offset that is lost is answered with
CORRUPT_MESSAGE, and says where the log goes on.

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
from robustmq.storage import partition_state, segment_index
from robustmq.storage.disk import Buffer, Disk
from robustmq.storage.engine import ENGINES, PartitionLog, PartitionSettings, ReadResult
from robustmq.storage.markers import Copied
from robustmq.storage.memory import find_time
from robustmq.storage.retention import SegmentRow, expired
from robustmq.storage.segment_file import LOG, Area, SegmentFile, SparseIndex, file_name
from robustmq.storage.segment_index import CACHE, Snapshot, snapshot
from robustmq.storage.segment_opening import SCAN_BYTES, Opening, Scan, quarantine
from robustmq.storage.segment_reading import Damaged, Search, chunks, stored
from robustmq.storage.segment_writing import WriteJob
from robustmq.storage.tiered import PartitionTier

INDEX_EVERY_BYTES = 1024 * 1024
"""The index of the file that grows is written after so much more, or an eighth of the file: so much
is scanned when a process was killed."""
INDEX_AT_CLOSE_BYTES = 64 * 1024
UNSYNCED_FILES = 32
"""With more closed files that no sync has covered, or when retention has seen them twice, the
oldest are synced: after a loss of power those are scanned whose index does not say that they
were."""
SYNCS_A_JOB = 2
COPIED_BYTES = 16 * 1024
"""Of a turn as much goes into the shard's log as well: it is less work than one more fdatasync."""
_LEAVING = 1 << 61
"""Offsets may be missing to the end, wherever that is."""


class ClosedFile(msgspec.Struct, frozen=True, gc=False):
    """A file that changes no more, all of it committed."""

    path: str
    base_offset: int
    next_offset: int
    """The offset behind its last record: where the next file begins."""
    size: int
    index_path: str
    """Its index (docs/formats.md); empty while that is not written yet."""


class SegmentPartition:
    """A partition in segment files."""

    def __init__(self, directory: str, disk: Disk, settings: PartitionSettings) -> None:
        self._directory = directory
        self._disk = disk
        self._settings = settings
        self.compacting = False
        """While it is, no file goes: a compaction reads them."""
        self.deleted = False
        self.tier: PartitionTier | None = None
        """What answers for the records that are in the object store, and says what may go."""
        self._state_changed = False
        self._to_make: list[str] = []
        self._to_remove: list[str] = []
        self._to_reserve: list[str] = []
        self._new: list[tuple[SegmentFile, bytearray, int]] = []
        self._writing_to: deque[tuple[int, WriteJob]] = deque()
        self._unwritten = 0
        self._copied_bytes = 0
        self.needs_sync = True
        """Something stands in no other log: a commit with fdatasync syncs it and sets this back."""
        self._made = False
        opened = Opening(directory, disk, settings).run()
        self.files = opened.files
        self.state = opened.state
        self.quarantined = opened.quarantined
        self.start_offset = opened.start_offset
        self.end_offset = self.high_watermark = opened.end_offset
        self._kept_tiered_until = self.state.tiered_until
        self._unindexed = opened.unindexed
        self._unsynced = [file for file in self.files[:-1] if not file.synced]
        self._seen_unsynced: set[SegmentFile] = set()
        self._bad: list[tuple[int, bytes]] = []
        self._torn = opened.torn
        """Cut off when it was opened; until it is known whether that was committed."""
        self.damaged: Callable[[int, int], None] = lambda offset, length: None
        """Hears of (first offset that is lost, bytes) what a reader has found corrupt."""

    # -- opening -----------------------------------------------------------------------------------

    def resume_at(self, end_offset: int) -> None:
        """Cut what lies behind the last committed record; where that is lost, its offsets are."""
        torn, self._torn = self._torn, b""
        if self.state.gaps_until == _LEAVING:
            # The copy was not whole when the memory went.
            if end_offset > self.end_offset:
                self.skip_to(end_offset)
                self.high_watermark = end_offset
            self.copied()
        if end_offset > self.end_offset and not (self.files or self.state.tiered_until):
            # What stood here was kept in memory: its offsets are not used again.
            self.start_offset = self.end_offset = self.high_watermark = end_offset
            self.change(start_offset=end_offset)
        elif end_offset > self.end_offset:
            self._lose_until(end_offset, torn)
        if end_offset >= self.end_offset:
            return
        tiered_until = self.state.tiered_until
        end_offset = max(end_offset, self.start_offset, tiered_until)
        if end_offset >= self.end_offset:
            return
        # One that begins there stays, empty: offsets may be missing before it.
        while self.files and self.files[-1].base_offset > end_offset:
            self._forget([self.files.pop()])
        self._remove()
        self.end_offset = max(self.start_offset, tiered_until)
        if self.files:
            file = self.files[-1]
            index = self._index(file)
            CACHE.forget(file)
            position, self.end_offset = self._place_of(file, index, end_offset)
            self._disk.remove(file.index_path)
            self._disk.truncate(file.path, position)
            file.cut(position)
            file.next_offset = self.end_offset
            for rows in (self._unindexed, self._unsynced):
                if file in rows:
                    rows.remove(file)
        self.high_watermark = self.end_offset

    def _lose_until(self, end_offset: int, torn: bytes) -> None:
        """A disk has lost the end of what was committed, and these bytes may be of it: a file
        begins behind it at once, whose name keeps that and tells the next opening of the hole."""
        first = self.end_offset
        if torn:
            quarantine(self._directory, self._disk, first, torn)
        self.quarantined.append((first, len(torn)))
        self._disk.make_directory(self._directory)
        if not self.files:
            self._make_file()
        file = self.files[-1]
        file.areas = (*file.areas, Area(file.size, file.size, first, end_offset))
        self.end_offset = self.high_watermark = file.next_offset = end_offset
        self._make_file()

    def _make_file(self) -> None:
        self._disk.replace(self._begin_file().path, b"")

    def _remove(self) -> None:
        removed = self.free()
        if removed is not None:
            removed()

    def _place_of(self, file: SegmentFile, index: SparseIndex, offset: int) -> tuple[int, int]:
        """Where the first batch at or behind an offset begins, and the offset behind the last one
        before it."""
        position, end_offset = index.place_of(offset)
        end_offset = max(end_offset, file.base_offset)
        for at, data in chunks(self._disk.read, file, position, SCAN_BYTES):
            for begin, info in batches.headers(data, 0, len(data), False):
                following = info.base_offset + info.last_offset_delta + 1
                if following > offset:
                    return position, end_offset
                position, end_offset = at + begin + info.length, following
        return position, end_offset

    # -- appending ---------------------------------------------------------------------------------

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch in memory, as it is: the caller lets go of it."""
        self.needs_sync = True
        return self._append(batch, leader_epoch)

    def append_copied(self, batch: bytearray, leader_epoch: int) -> tuple[int, Copied | None]:
        """The same of one that must survive a loss of power: what is returned, if anything, must be
        in the shard's log, whose fdatasync is enough then. Only of a small batch, in a file whose
        name lasts, behind what is synced or stands there."""
        self._copied_bytes += len(batch)
        if self._copied_bytes > COPIED_BYTES:
            self.needs_sync = True
        base_offset = self._append(batch, leader_epoch)
        if self.needs_sync:
            return base_offset, None
        file = self.files[-1]
        name = file.path[len(self._directory) + 1 :]
        return base_offset, Copied(name, file.size - len(batch), bytes(batch))

    def _append(self, batch: bytearray, leader_epoch: int) -> int:
        base_offset = self.end_offset
        batches.set_base(batch, 0, base_offset, leader_epoch)
        info = batches.validate(batch, 0, len(batch), False)
        file = self.files[-1] if self.files else self._begin_file()
        if file.size and self._is_full(file, len(batch), info):
            file = self._begin_file()
        file.note(info, file.size, self._settings.index_interval_bytes)
        file.size += len(batch)
        self.end_offset = file.next_offset
        self._new.append((file, batch, base_offset))
        return base_offset

    def _is_full(self, file: SegmentFile, size: int, info: BatchInfo) -> bool:
        """Must a batch go into a new file, by size, index or time?"""
        settings = self._settings
        if file.size + size > settings.segment_bytes:
            return True
        assert file.index is not None, "the last file is indexed in memory"
        if 8 * len(file.index.offsets) >= settings.segment_index_bytes:
            return True
        return 0 <= file.first_time < info.max_timestamp - settings.roll_ms

    def _begin_file(self) -> SegmentFile:
        file = SegmentFile(self.end_offset, self._path(file_name(self.end_offset) + LOG))
        self.needs_sync = True
        if self.files:
            self._unindexed.append(self.files[-1])
            self._unsynced.append(self.files[-1])
        if self._settings.preallocate:
            self._to_reserve.append(file.path)
        self.files.append(file)
        return file

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def write(self) -> Callable[[bool], None] | None:
        """A job that writes what is new, and then what is known beside it."""
        written = self.write_job()
        if written is None:
            return None
        disk, directory = self._disk, self._directory

        def job(sync: bool) -> None:
            if not self.deleted:
                written.run(directory, disk, sync)

        return job

    def write_job(self) -> WriteJob | None:
        """The same in parts, for the commit of a shard to write together with others."""
        changed = self._state_changed or bool(self._to_make)
        if self._unwritten == len(self._new) and not (changed or self.indexes_due or self._bad):
            return None
        rows = self._new[self._unwritten :]
        self._unwritten = len(self._new)
        self._copied_bytes = 0
        by_file: dict[str, list[Buffer]] = {}
        for file, batch, _ in rows:
            by_file.setdefault(file.path, []).append(batch)
        only_grows = self._only_grows(changed)
        written = WriteJob(by_file) if only_grows else self._whole_job(by_file, changed)
        self._writing_to.append((self.end_offset, written))
        return written

    def _only_grows(self, changed: bool) -> bool:
        """Has the last file more batches, and is there nothing else to do? So it is nearly
        always."""
        beside = changed or self._unindexed or self._unsynced or self._to_reserve or self._bad
        return self._made and not beside and not self._is_index_due()

    @property
    def indexes_due(self) -> bool:
        """Is there an index to be written, so that the next opening need not read what this one
        had to?"""
        return bool(self._unindexed) or self._is_index_due()

    def _is_index_due(self) -> bool:
        if not self.files:
            return False
        file = self.files[-1]
        return file.size - file.covered >= max(INDEX_EVERY_BYTES, file.size // 8)

    def _whole_job(self, by_file: dict[str, list[Buffer]], changed: bool) -> WriteJob:
        settings = self._settings
        full = [file.path for file in self._unindexed] if settings.preallocate else []
        written = WriteJob(
            append=by_file,
            make_directory=not self._made,
            reserve=self._to_reserve,
            reserve_bytes=settings.segment_bytes,
            settle=full,
            snapshots=self._snapshots(),
            sync=self._to_sync(),
            bad=self._bad,
            after=self._changes() if changed else None,
        )
        self._to_reserve, self._bad, self._made = [], [], True
        return written

    def _snapshots(self) -> list[Snapshot]:
        """The indexes to be written behind what is new: those of closed files, and that of the last
        one when it has grown by enough."""
        closed, self._unindexed = self._unindexed, []
        wanted = [file for file in closed if not file.gone]
        if self._is_index_due():
            wanted.append(self.files[-1])
        return [snapshot(file) for file in wanted]

    def _to_sync(self) -> list[SegmentFile]:
        """Closed files to be synced now."""
        rows = [file for file in self._unsynced if not (file.gone or file.synced)]
        old = [file for file in rows if file in self._seen_unsynced] or rows[:-UNSYNCED_FILES]
        self._unsynced = rows
        return [file for file in old if file.indexed][:SYNCS_A_JOB]

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
        self.high_watermark, written = self._writing_to.popleft()
        for one in written.snapshots:
            if one.file is not self.files[-1] and not one.file.gone:
                CACHE.used(one.file)
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
            return self._from_files(offset, max_bytes, end)
        except Damaged:
            error = int(KafkaCode.CORRUPT_MESSAGE)
        except BrokerError as failed:
            error = failed.fault.kafka
        return ReadResult(self.high_watermark, self.start_offset, error=error)

    def _from_files(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        """From the file that holds `offset`; from the next ones where a compaction took out all
        that lay behind it."""
        at = bisect_right(self.files, offset, key=lambda file: file.base_offset) - 1
        while at < len(self.files) and self.files[at].base_offset < end:
            file = self.files[at]
            search = self._search(file, offset, max_bytes, end)
            area = file.lost(offset) if file.areas else None
            if area is None:
                try:
                    found = search.in_file(file, self._index(file))
                except Damaged:
                    self._rescan(file)
                    area = file.lost(offset)
                    found = [] if area else search.in_file(file, self._index(file))
            if area is not None:
                return self._lost(area)
            if found:
                return ReadResult(self.high_watermark, self.start_offset, found)
            at += 1
        found = self._from_memory(offset, max_bytes, end) if self._new else []
        return ReadResult(self.high_watermark, self.start_offset, found)

    def _search(self, file: SegmentFile, offset: int, max_bytes: int, end: int) -> Search:
        read = self._disk.read if file is self.files[-1] else self._disk.view
        interval = self._settings.index_interval_bytes
        return Search(read, offset, max_bytes, end, self.state.gaps_until, interval)

    def _lost(self, area: Area) -> ReadResult:
        return ReadResult(
            self.high_watermark,
            self.start_offset,
            error=KafkaCode.CORRUPT_MESSAGE,
            next_offset=area.next_offset,
        )

    def _index(self, file: SegmentFile) -> SparseIndex:
        """The index of a file, from disk if need be."""
        if file.index is None:
            head = segment_index.read_head(self._disk, file, file.size)
            if head is not None and head.covered == file.size:
                file.index = segment_index.read_rows(self._disk, file, head)
            if file.index is None:
                self._rescan(file)
            else:
                CACHE.used(file)
        else:
            CACHE.touch(file)
        assert file.index is not None, "it was read, or made anew"
        return file.index

    def _rescan(self, file: SegmentFile) -> None:
        """A reader has found what cannot be: look what of a file is sound, and make its index anew.
        This takes the loop as long as reading the file does; it is for disks that have gone bad."""
        CACHE.forget(file)
        known = {area.first_offset for area in file.areas}
        fresh = SegmentFile(file.base_offset, file.path)

        def set_aside(offset: int, data: bytes) -> None:
            if offset not in known:
                self._bad.append((offset, data))
                self.quarantined.append((offset, len(data)))
                self.damaged(offset, len(data))

        behind_it = self.files[self.files.index(file) + 1 :]
        following = behind_it[0].base_offset if behind_it else file.next_offset
        # What is not committed may not be on the disk yet.
        new = [batch for one, batch, _ in self._new if one is file]
        written = file.size - sum(map(len, new))
        if new:
            following = int.from_bytes(new[0][:8], "big")
        interval = self._settings.index_interval_bytes
        scan = Scan(self._disk, fresh, interval, self.state.gaps_until, set_aside)
        scan.run(0, written, following)
        for batch in new:
            fresh.note(batches.validate(batch, 0, len(batch), False), written, interval)
            written += len(batch)
        behind = [area for area in file.areas if area.begin == area.end]
        file.index, file.areas = fresh.index, (*fresh.areas, *behind)
        file.indexed = False
        if file not in self._unindexed:
            self._unindexed.append(file)

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

    def _infos(self, files: Iterable[SegmentFile], position: int = 0) -> Iterator[BatchInfo]:
        """The headers of the batches of files, in order; of the first one from a position on."""
        for file in files:
            new = [row for row in self._new if row[0] is file]
            for info in stored(self._disk.read, file, position, SCAN_BYTES):
                if new and info.base_offset >= new[0][2]:
                    break
                yield info
            for _, batch, _ in new:
                yield batches.validate(batch, 0, len(batch), False)
            position = 0

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """The first batch at or after a time; -3: the greatest time stamp."""
        cold = self.tier.offset_for_time(timestamp_ms) if self.tier is not None else None
        if cold is not None:
            return cold
        files = [file for file in self.files if file.max_time >= 0]
        if timestamp_ms == -3:
            timestamp_ms = max(map(self._greatest_time, files), default=-1)
        for file in files:
            if file.max_time >= timestamp_ms >= 0:
                # The greatest time so far is known for each indexed batch: begin there.
                index = self._index(file)
                row = bisect_left(index.max_times, timestamp_ms)
                position = index.positions[row] if row < len(index.positions) else 0
                if file.base_offset < self.start_offset:
                    # What lies before the log's start may have the greatest.
                    position = index.place_of(self.start_offset)[0]
                infos = filter(self._is_kept, self._infos([file], position))
                found = find_time(infos, timestamp_ms)
                if found is not None:
                    return found
        return None

    def _greatest_time(self, file: SegmentFile) -> int:
        """Of the records of a file that the log still has."""
        if file.base_offset >= self.start_offset:
            return file.max_time
        position = self._index(file).place_of(self.start_offset)[0]
        infos = filter(self._is_kept, self._infos([file], position))
        return max((info.max_timestamp for info in infos), default=-1)

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the batches in the last bytes, from an indexed one on."""
        at = len(self.files)
        size = 0
        while at > 0 and size < max_bytes:
            at -= 1
            size += self.files[at].size
        if not self.files:
            return []
        positions = self._index(self.files[at]).positions
        row = max(0, bisect_left(positions, size - max_bytes) - 1)
        infos = self._infos(self.files[at:], positions[row] if positions else 0)
        return [info for info in infos if self._is_kept(info)]

    def _is_kept(self, info: BatchInfo) -> bool:
        return info.base_offset + info.last_offset_delta >= self.start_offset

    # -- retention ---------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of all files, what is not written yet included."""
        return sum(file.size for file in self.files)

    def restore(self, batch: bytearray) -> None:
        """Add a batch at the offset that it has."""
        base_offset = int.from_bytes(batch[:8], "big")
        if base_offset > self.end_offset > self.start_offset:
            self.end_offset = base_offset
            self.change(gaps_until=max(self.state.gaps_until, base_offset))
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

    def copy_of_memory(self) -> None:
        """What comes now is a copy of records that are in memory alone: if that goes first, those
        which are not here were never on a disk, and no reader is told of a damage."""
        self.change(gaps_until=_LEAVING)

    def copied(self) -> None:
        """The copy is whole."""
        self.change(gaps_until=self.end_offset)

    def offset_of_tail(self, max_bytes: int) -> int:
        """The file from whose begin on there are so many bytes."""
        at = len(self.files)
        size = 0
        while at > 0 and size < max_bytes:
            at -= 1
            size += self.files[at].size
        return max(self.start_offset, self.files[at].base_offset if self.files else 0)

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
                    file.index_path if file.indexed else "",
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
        count = self._below(until_offset)
        gone = self.files[:count]
        del self.files[:count]
        self._forget(gone)
        return sum(file.size for file in gone)

    def trim(self, offset: int) -> None:
        """The log begins at `offset` now, as far as the next job makes it last."""
        assert offset <= self.end_offset, "a log begins before it ends"
        if offset <= self.start_offset:
            return
        self.start_offset = offset
        self.change(start_offset=offset)
        if not self.compacting:
            self._drop(self._below(offset))

    def change(self, **changes: int | str | tuple[str, ...]) -> None:
        """Another state, which the next job keeps."""
        self.state = msgspec.structs.replace(self.state, **changes)
        self._state_changed = True

    def retain(self, now_ms: int) -> int:
        """Let go of the files that the settings let go; the bytes that they have."""
        settings = self._settings
        self._seen_unsynced = {*self._unsynced}
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
        count = self._below(self.start_offset)
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

    def _below(self, offset: int) -> int:
        """How many files lie wholly below an offset; never the last."""
        at = bisect_right(self.files, offset, key=lambda file: file.base_offset)
        return max(0, at - 1)

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
        self._forget(gone)
        self.start_offset = max(self.start_offset, self.files[0].base_offset)
        return sum(file.size for file in gone)

    def _forget(self, gone: list[SegmentFile]) -> None:
        """Files have left the table: they are removed by `free`."""
        for file in gone:
            file.gone = True
            CACHE.forget(file)
            self._to_remove += [file.path, file.index_path]

    def roll(self) -> None:
        """Begin a new file, which the next job makes."""
        if self.files and self.files[-1].size:
            self._to_make.append(self._begin_file().path)

    def exchange(self, made: SegmentFile, replaced: list[SegmentFile]) -> None:
        """A compaction's file takes the place of those that it was made of."""
        at = self.files.index(replaced[0])
        assert self.files[at : at + len(replaced)] == replaced, "they lie side by side"
        self.files[at : at + len(replaced)] = [made]
        for file in replaced:
            file.gone = True
            CACHE.forget(file)
        CACHE.used(made)

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
        for _, written in self._writing_to:
            written.forget()
        for file in self.files:
            file.gone = True
            CACHE.forget(file)
        disk, directory, state = self._disk, self._directory, self.state
        if self.tier is not None or state.tiered_until:
            # What says that there is something in the object store stays until that is gone.
            return lambda: partition_state.keep_alone(directory, disk, state)
        return lambda: disk.remove_directory(directory)

    def close(self) -> None:
        """Nothing is written any more. What the next opening need not read again is noted: how far
        the last file is indexed, and which files were synced."""
        if self.deleted or self._new or self._writing_to:
            return
        for file in self.files:
            CACHE.forget(file)
        if self.files and self.files[-1].size - self.files[-1].covered >= INDEX_AT_CLOSE_BYTES:
            snapshot(self.files[-1]).write(self._disk)
        for file in self._unsynced:
            if file.indexed and not (file.gone or file.synced):
                segment_index.note_synced(self._disk, file)


def _open(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    return SegmentPartition(directory, disk, settings)


ENGINES["segment"] = _open
