"""Compaction of a partition in segments: of each key the newest record stays (Kafka's
cleanup.policy=compact; KIP-58, KIP-354, KIP-534, KIP-98 for transactions).

`Compaction` is one run over one partition, cut into steps for the storage thread; `steps` is a
generator that reads and writes files and nothing else. The loop takes part where the table of files
changes (`Swap`). What is compacted are closed, committed segments below the last stable offset and
older than min.compaction.lag.ms.

1. The part that no run has seen is read, and the newest offset of each of its keys noted in a map
   of bounded size. When the map is full the run ends there, and the next one begins there.
2. Segments from the log's begin to there are written anew, several small ones into one: without
   records that have a newer one of their key, without those of aborted transactions, and without
   tombstones whose time is over. What stays keeps its offset, its batch keeps base offset and last
   offset. The last batch of a producer stays, empty if need be, so that its sequence is known.
3. A tombstone gets its time when a run meets it first: the batch's base timestamp becomes the
   delete horizon, now + delete.retention.ms (attribute bit 6). So does the marker of a transaction
   that has no records left.

Crash: a new file is `.cleaned` until it is whole and synced; then the partition's state names it
and what it replaces, then it is renamed. Recovery finishes or drops it (`SegmentPartition`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import msgspec

from robustmq.core import batches
from robustmq.core.batches import CONTROL, TRANSACTIONAL, BatchInfo
from robustmq.core.offset_map import SLOT_BYTES, OffsetMap
from robustmq.errors import BrokerError
from robustmq.storage.cleaned_batch import SLICE_ROWS, Cleaner, Keep, key_digest, opened
from robustmq.storage.disk import Disk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.segment_file import CLEANED, LOG, SegmentFile, file_name
from robustmq.storage.segment_index import snapshot
from robustmq.storage.segment_reading import chunks
from robustmq.storage.stored_producers import Aborted

READ_BYTES = 64 * 1024
"""A step reads this much, or a part of a batch that has many records: one or two milliseconds of
work."""


class Task(msgspec.Struct, frozen=True):
    """What one run works on, as the loop saw it when it began."""

    directory: str
    settings: PartitionSettings
    files: tuple[SegmentFile, ...]
    """All that may be written anew, from the log's first file on; each ends where the next begins,
    the last at `end_offset`."""
    start_offset: int
    dirty_offset: int
    end_offset: int
    generation: int
    now_ms: int
    memory_bytes: int
    aborted: tuple[Aborted, ...] = ()
    producer_expiration_ms: int = 86_400_000
    """A producer whose last batch is older than this is not known any more."""


class Swap(msgspec.Struct, frozen=True):
    """A file is written and synced as `.cleaned`: keep the new state, rename it, put `made` in
    the place of `replaced`, and remove those; then go on."""

    made: SegmentFile
    replaced: tuple[SegmentFile, ...]
    generation: int


class Finished(msgspec.Struct, frozen=True):
    """The run is over: below `clean_offset` every key was seen."""

    clean_offset: int
    bytes_read: int
    bytes_written: int


Step = Swap | Finished | None


class Candidate(msgspec.Struct, frozen=True):
    """What could be compacted of a partition, and how much it wants it."""

    files: tuple[SegmentFile, ...]
    dirty_offset: int
    end_offset: int
    ratio: float
    must: bool
    """A record is older than max.compaction.lag.ms."""


def candidate(
    files: Sequence[SegmentFile],
    settings: PartitionSettings,
    start_offset: int,
    clean_offset: int,
    stable_offset: int,
    now_ms: int,
) -> Candidate | None:
    """What a run could take of a partition's files, the last of which is open; None: nothing, or
    not enough yet. `stable_offset`: the last stable offset, or the high watermark."""
    chosen: list[SegmentFile] = []
    end_offset = start_offset
    dirty = total = 0
    must = False
    for number, file in enumerate(files[:-1]):
        following = files[number + 1].base_offset
        if following > stable_offset:
            break
        is_dirty = following > clean_offset
        if is_dirty and settings.min_compaction_lag_ms:
            youngest = max(file.max_time, 0)
            if now_ms - youngest < settings.min_compaction_lag_ms:
                break
        if is_dirty:
            dirty += file.size
            lag_ms = settings.max_compaction_lag_ms
            must = must or 0 <= file.first_time < now_ms - lag_ms
        total += file.size
        chosen.append(file)
        end_offset = following
    if not dirty or not total:
        return None
    ratio = dirty / total
    if ratio < settings.min_cleanable_dirty_ratio and not must:
        return None
    return Candidate(tuple(chosen), max(clean_offset, start_offset), end_offset, ratio, must)


class Compaction:
    """One run over one partition."""

    def __init__(self, task: Task, disk: Disk) -> None:
        self._task = task
        self._disk = disk
        # Made by the first step, on the storage thread: it is large.
        self._map = OffsetMap(0)
        self._mapped_to = task.dirty_offset
        self._last_batches: dict[int, int] = {}
        self._read = self._written = 0

    def steps(self) -> Iterator[Step]:
        """Run on the storage thread, a bounded piece of work a step."""
        self._map = OffsetMap(self._task.memory_bytes)
        yield from self._note_keys()
        if self._mapped_to == self._task.dirty_offset:
            yield Finished(self._task.dirty_offset, self._read, 0)
            return
        cleaner = Cleaner(
            self._map,
            self._mapped_to,
            self._task.now_ms,
            self._task.settings.delete_retention_ms,
            [(one.producer_id, one.first_offset, one.last_offset) for one in self._task.aborted],
            self._last_batches,
        )
        generation = self._task.generation
        for group in self._groups():
            generation += 1
            made: SegmentFile | None = None
            for step in self._write_group(group, generation, cleaner):
                made = step
                if step is None:
                    yield None
            assert made is not None, "a group ends with its file"
            yield Swap(made, tuple(group), generation)
        yield Finished(self._mapped_to, self._read, self._written)

    # -- noting keys -------------------------------------------------------------------------------

    def _note_keys(self) -> Iterator[None]:
        task = self._task
        aborted = _AbortedRanges(task.aborted)
        for number, file in enumerate(task.files):
            for _, data in chunks(self._disk.read_apart, file, 0, READ_BYTES):
                for begin, info in batches.headers(data, 0, len(data), True):
                    following = info.base_offset + info.last_offset_delta + 1
                    self._note_producer(info)
                    if following <= task.dirty_offset:
                        continue
                    if not (yield from self._note_batch(data, begin, info, aborted)):
                        return
                    self._mapped_to = following
                yield None
            self._mapped_to = max(self._mapped_to, self._end_of(number))

    def _note_producer(self, info: BatchInfo) -> None:
        task = self._task
        if info.producer_id < 0 or info.attributes & CONTROL:
            return
        if info.max_timestamp >= task.now_ms - task.producer_expiration_ms:
            self._last_batches[info.producer_id] = info.base_offset + info.last_offset_delta

    def _end_of(self, number: int) -> int:
        files = self._task.files
        return files[number + 1].base_offset if number + 1 < len(files) else self._task.end_offset

    def _note_batch(
        self, data: bytes, begin: int, info: BatchInfo, aborted: _AbortedRanges
    ) -> Generator[None, None, bool]:
        """False when there is no room for all keys of the batch."""
        if info.attributes & CONTROL or not info.count or not info.crc_ok:
            return True
        if info.attributes & TRANSACTIONAL and aborted.holds(info):
            return True
        try:
            body, rows = opened(data, begin, info)
        except BrokerError:
            return True
        if self._mapped_to == self._task.dirty_offset and info.count > self._map.capacity:
            # A run gets somewhere with any memory: the first batch always fits.
            self._map = OffsetMap(2 * SLOT_BYTES * info.count)
        for number in range(info.count):
            at = number * batches.RECORD_ROW
            if number % SLICE_ROWS == SLICE_ROWS - 1:
                yield None
            if rows[at] < 0:
                continue
            digest = key_digest(body[rows[at] : rows[at + 1]])
            if not self._map.put(digest, info.base_offset + rows[at + 7]):
                # What is noted of this batch is right; its records count as newer than the map.
                return False
        return True

    # -- writing -----------------------------------------------------------------------------------

    def _groups(self) -> Iterator[list[SegmentFile]]:
        """Neighbours that fit into one file."""
        group: list[SegmentFile] = []
        size = 0
        for file in self._task.files:
            if file.base_offset >= self._mapped_to:
                break
            if group and size + file.size > self._task.settings.segment_bytes:
                yield group
                group, size = [], 0
            group.append(file)
            size += file.size
        if group:
            yield group

    def _write_group(
        self, group: list[SegmentFile], generation: int, cleaner: Cleaner
    ) -> Iterator[SegmentFile | None]:
        task = self._task
        name = file_name(group[0].base_offset, generation)
        path = f"{task.directory}/{name}{CLEANED}"
        made = SegmentFile(group[0].base_offset, f"{task.directory}/{name}{LOG}")
        self._disk.remove(path)
        self._disk.append(path, [])
        for file in group:
            self._read += file.size
            for _, data in chunks(self._disk.read_apart, file, 0, READ_BYTES):
                out: list[bytes | memoryview] = []
                for begin, info in batches.headers(data, 0, len(data), True):
                    kept = yield from cleaner.clean(data, begin, info)
                    if kept is Keep.NOTHING:
                        continue
                    batch = memoryview(data)[begin : begin + info.length]
                    if not isinstance(kept, Keep):
                        batch = memoryview(kept.data)
                        info = kept.info
                    made.note(info, made.size, task.settings.index_interval_bytes)
                    made.size += len(batch)
                    out.append(batch)
                if out:
                    self._disk.append(path, out)
                yield None
        self._disk.sync(path)
        if made.size:
            snapshot(made).write(self._disk, path)
        self._written += made.size
        yield made


class _AbortedRanges:
    """Is a batch one of an aborted transaction?"""

    def __init__(self, aborted: Sequence[Aborted]) -> None:
        self._by_producer: dict[int, list[Aborted]] = {}
        for one in aborted:
            self._by_producer.setdefault(one.producer_id, []).append(one)

    def holds(self, info: BatchInfo) -> bool:
        return any(
            one.first_offset <= info.base_offset <= one.last_offset
            for one in self._by_producer.get(info.producer_id, ())
        )
