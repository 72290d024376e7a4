"""One shard on disk: its log, the index of its light topics, LevelDB, declared topics' partitions.

All calls on the loop are memory only, but for reads of what is no longer in memory. `flush` gives
the storage thread one job: partitions first, then the log, then LevelDB, so that any prefix of the
writes recovers: what a partition has and the log does not name is cut, and LevelDB never knows what
the log does not. A checkpoint (`checkpoints`) lets recovery begin there instead of at the log's
beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import msgspec
from crc32c import crc32c

from robustmq import engines
from robustmq.core import blocks
from robustmq.promises import Promise
from robustmq.storage import checkpoints, shard_log
from robustmq.storage.checkpoints import COPY, INDEX, Checkpoint, CheckpointWriter
from robustmq.storage.cold_log import ColdLog
from robustmq.storage.committer import Committer, GroupedJob, Job, Stage
from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.delayed import PUBLISHED_DELAYED, DelayedMessages
from robustmq.storage.disk import GONE, Buffer, Disk, Rows
from robustmq.storage.engine import PartitionLog, PartitionSettings, engine
from robustmq.storage.kv import KeyValue
from robustmq.storage.light_topics import LightTopics
from robustmq.storage.log_files import LogFile
from robustmq.storage.lookups import Lookups, after
from robustmq.storage.markers import Copied, split_name
from robustmq.storage.memory import MemoryPartition, RingMemory
from robustmq.storage.retained_values import RetainedValues
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.segment_opening import is_small
from robustmq.storage.segment_redo import SegmentRedo
from robustmq.storage.shard_log import ShardLog
from robustmq.storage.shared import SharedPartition, SharedPartitions, stored_name
from robustmq.storage.stored_producers import StoredProducers, light_key

BLOCK = shard_log.BLOCK
MACHINE = shard_log.MACHINE
INBOX = shard_log.INBOX
DECLARED_MARKER = shard_log.DECLARED_MARKER
CURSOR = shard_log.CURSOR
TOPIC_DELETED = shard_log.TOPIC_DELETED
TOPIC_CREATED = shard_log.TOPIC_CREATED
DELAYED_BLOCK = shard_log.DELAYED_BLOCK
TOPIC_TRIMMED = shard_log.TOPIC_TRIMMED
TOPIC_PLACED = shard_log.TOPIC_PLACED
DELAYED_OVER = shard_log.DELAYED_OVER
DEALT = shard_log.DEALT
RETAINED_BLOCK = shard_log.RETAINED_BLOCK
RELEASE = shard_log.RELEASE
SHARED_BLOCK = shard_log.SHARED_BLOCK
PARTITION_ENDS = shard_log.PARTITION_ENDS
TOLD = frozenset((BLOCK, DECLARED_MARKER, RELEASE, SHARED_BLOCK))
"""Entries that subscribers are told of."""

NOTHING = Stage((), ())
_APPLIED, _BOOT = b"p", b"B"
LOST_AT_MOST = 1 << 40
"""Bytes of a log that a loss of power takes are fewer."""
_MAX_SOURCES = 256
_HEARD_OF = blocks.QOS2 | blocks.RETAIN | blocks.KAFKA
LASTING_SOURCE = 1 << 62
"""Sources from here on are no workers, whose lives end, but shards: each is remembered."""


class StoreSettings(msgspec.Struct, frozen=True):
    """Settings of one shard's storage."""

    segment_bytes: int = 64 * 1024 * 1024
    hot_bytes: int = 4 * 1024 * 1024
    checkpoint_bytes: int = 64 * 1024 * 1024
    sync: bool = False


class RecoveryListener(Protocol):
    """Who hears of what recovery finds that is not the storage's own."""

    def on_open(self, producers: StoredProducers) -> None:
        """The shard is about to be recovered; what it has of producers can be asked for."""
        ...

    def on_snapshot(self, kind: bytes, key: bytes, value: bytes) -> None:
        """A machine's snapshot of the last checkpoint."""
        ...

    def on_entry(self, kind: int, position: int, payload: bytes, fresh: bool) -> None:
        """A log entry behind the checkpoint: no block, or one with QoS 2, retained or Kafka's
        messages. `fresh`: LevelDB may not know it yet."""
        ...


class NobodyListens:
    """For who opens a shard for what is stored alone."""

    def on_open(self, producers: StoredProducers) -> None:
        """It is not told."""

    def on_snapshot(self, kind: bytes, key: bytes, value: bytes) -> None:
        """It is not told."""

    def on_entry(self, kind: int, position: int, payload: bytes, fresh: bool) -> None:
        """It is not told."""


class ShardStore:
    """One shard's storage."""

    def __init__(
        self,
        directory: str,
        settings: StoreSettings,
        disk: Disk,
        kv: KeyValue,
        committer: Committer,
        leader_epoch: int,
        listener: RecoveryListener,
        corruption: Callable[[int, int], None],
        rings: RingMemory | None = None,
    ) -> None:
        """Opens and recovers the shard; `corruption(position, length)` hears of quarantined bytes;
        `rings` is what mode memory has to share with other shards: some of its own unless given."""
        self._directory = directory
        self._settings = settings
        self._disk = disk
        self._kv = kv
        self._committer = committer
        self.leader_epoch = leader_epoch
        segment_bytes, hot_bytes = settings.segment_bytes, settings.hot_bytes
        self.log = ShardLog(f"{directory}/log", disk, segment_bytes, hot_bytes, self._corruption)
        self._sources: dict[int, int] = {}
        self._lookups = Lookups(kv)
        self.cold = self.log.cold = ColdLog(self._lookups)
        """What of the log is in the object store."""
        self.copy_path = f"{directory}/upload"
        """Where what is about to be uploaded is written."""
        self.rings = rings or RingMemory()
        """The memory of its topics of mode memory, light and declared."""
        self.light = LightTopics(self.log, self._lookups, self.rings)
        self.shared = SharedPartitions(self.log, self.light, self._lookups, self.append)
        self.retained = RetainedValues(self._lookups)
        self.delayed = DelayedMessages(self._lookups)
        self.producers = StoredProducers(self._lookups)
        self._partitions: dict[int, PartitionLog] = {}
        self._unwritten: dict[int, PartitionLog] = {}
        self._checkpointed_at = 0
        self._writer: CheckpointWriter | None = None
        self._partition_bytes = 0
        self.durable_checkpoint = 0
        """Recovery begins here, or behind it."""
        self.checkpoint_wanted = False
        """A checkpoint is due, however little was written: the log cannot be cleaned before."""
        self._partition_ends: dict[str, int] = {}
        self._partition_names: dict[int, str] = {}
        self._damaged = False
        self._lost_power = False
        """Since the last process had the shard the machine may have started again."""
        self._log_path = ""
        """The file of the log that was appended to last; empty: that is not known."""
        self._inherited = True
        """Until the first sync: what another process has written may not be synced."""
        self._report = corruption
        self.last_block: int | None = None
        """Where the log ends with a block, as it did when the last process died: its position."""
        self._recover(listener)
        self._flushed_to = self.log.end_position

    # -- recovery ----------------------------------------------------------------------------------

    def _corruption(self, position: int, length: int) -> None:
        self._damaged = True
        self.light.damaged(position, position + length)
        self._report(position, length)

    def _recover(self, listener: RecoveryListener) -> None:
        self._disk.make_directory(self._directory)
        listener.on_open(self.producers)
        self._look_at_boot()
        raw = self._kv.get(checkpoints.CHECKPOINT)
        position = 0
        if raw is not None:
            point = msgspec.msgpack.decode(raw, type=Checkpoint)
            self._load_index(point)
            self._sources = dict(point.sources)
            self._partition_ends = dict(point.partitions)
            position = point.position
            for key, value in self._kv.range(checkpoints.MACHINE, after(checkpoints.MACHINE)):
                kind, _, name = key[1:].partition(b"\0")
                listener.on_snapshot(kind, name, value)
        self.light.load_starts()
        applied = int.from_bytes(self._kv.get(_APPLIED) or b"", "little")

        def on_entry(
            at: int, kind: int, source: int, sequence: int, timestamp: int, payload: memoryview
        ) -> None:
            self.last_block = at if kind in TOLD else None
            data = bytes(payload)
            if source & PUBLISHED_DELAYED:
                if at >= applied:
                    self.delayed.remove(source ^ PUBLISHED_DELAYED, sequence)
            elif source and sequence > self._sources.get(source, 0):
                self._sources[source] = sequence
            if kind == DELAYED_BLOCK and at >= applied:
                self.delayed.add(at, data)
            if at >= applied:
                self.shared.replay(kind, data)
            if self.light.replay(at, kind, data):
                if kind in (TOPIC_CREATED, TOPIC_PLACED):
                    return
                if kind == BLOCK and not blocks.all_flags(data) & _HEARD_OF:
                    return
            listener.on_entry(kind, at, data, at >= applied)

        self.log.recover(position, on_entry, self._lost_power)
        self._checkpointed_at = self.durable_checkpoint = position
        self._go_behind(applied)
        self.light.keep_names()
        self.light.let_go()
        self._says_all(applied)

    def _look_at_boot(self) -> None:
        now = self._disk.boot_id
        if self._kv.get(_BOOT) != now:
            self._lost_power = True
            # With the first commit, which keeps what that means for partitions.
            self._lookups.put(_BOOT, now)

    def _says_all(self, applied: int) -> None:
        """Without its key-value store a shard is its log, if that has its beginning still."""
        is_gone = self._kv.get(checkpoints.CHECKPOINT) is None and not applied
        if self.log.start_position and is_gone:
            raise DataDirectoryError(
                f"{self._directory}: the key-value store is gone, and the log alone does not say"
                " all: restore the shard from a backup"
            )

    def _go_behind(self, applied: int) -> None:
        """Of a loss of power others may have kept more than the log: the key-value store, and the
        logs of other shards, which say how far they have heard of this one. What is known of
        positions and offsets that are lost must not hold for what comes next, as that a topic is
        deleted up to there, or that a session has it: that gets later ones."""
        end_position = self.log.end_position
        behind = max(applied, end_position)
        if behind and self._lost_power and not self._settings.sync:
            behind = (behind // LOST_AT_MOST + 2) * LOST_AT_MOST
        if behind > end_position:
            self.log.skip_to(behind)
        if applied <= end_position:
            return
        self.light.keep_ahead_of_starts()
        for topic in self.producers.light_topics():
            self.light.skip_to(topic, self.producers.end_offset(light_key(topic)))

    def _load_index(self, point: Checkpoint) -> None:
        """The index of a checkpoint; when both of its files are gone or damaged, it is made again
        from the log, as far as that has not been let go."""
        for name in (point.index_file, point.index_file + COPY):
            path = f"{self._directory}/{name}"
            data = self._disk.read(path, 0, self._disk.size(path))
            dump, crc = data[:-4], data[-4:]
            if len(data) > 4 and crc32c(dump) == int.from_bytes(crc, "little"):
                self.light.load(dump)
                return
            # Nothing of the log is damaged there.
            self._damaged = True
            self._report(point.position, len(data))
        if self.cold.state.uploaded_to:
            raise DataDirectoryError(
                f"{self._directory}: both copies of the topic index are lost, and the log alone"
                " does not say what is in the object store: see `robustmq recover`"
            )
        for at, kind, payload in self.log.peek(point.position):
            self.light.rebuild(at, kind, bytes(payload))
        self.light.rebuilt()

    # -- appending ---------------------------------------------------------------------------------

    def seen(self, source: int, sequence: int) -> bool:
        """Was this frame of another worker appended before?"""
        if not source or source & PUBLISHED_DELAYED:
            return False
        return sequence <= self._sources.get(source, 0)

    def append_block(self, block: bytearray, source: int, sequence: int, timestamp_ms: int) -> int:
        """Append a block of light topics, giving offsets in place; its log position, -1 if it was
        seen."""
        if source and self.seen(source, sequence):
            return -1
        self.light.assign(block, self.leader_epoch)
        if source:
            return self.append(BLOCK, block, source, sequence, timestamp_ms)
        return self.log.append(BLOCK, block, 0, 0, timestamp_ms)

    def append(
        self,
        kind: int,
        payload: bytes | bytearray,
        source: int,
        sequence: int,
        timestamp_ms: int,
    ) -> int:
        """Append an entry; its log position, -1 if the frame was seen before. One that publishes a
        delayed message (`delayed.published_as`) removes it."""
        if source & PUBLISHED_DELAYED:
            self.delayed.remove(source ^ PUBLISHED_DELAYED, sequence)
        elif source:
            if self.seen(source, sequence):
                return -1
            self._sources[source] = sequence
        position = self.log.append(kind, payload, source, sequence, timestamp_ms)
        if kind == DELAYED_BLOCK:
            self.delayed.add(position, payload)
        return position

    @property
    def end_position(self) -> int:
        """The position behind the last entry."""
        return self.log.end_position

    @property
    def disk_bytes(self) -> int:
        """Bytes of the log, and of the files of the partitions that have some."""
        return self.log.disk_bytes + sum(
            one.size for one in self._partitions.values() if isinstance(one, SegmentPartition)
        )

    @property
    def appended_bytes(self) -> int:
        """What was appended since it was opened, to the log and to partitions."""
        return self.log.appended_bytes + self._partition_bytes

    @property
    def start_position(self) -> int:
        """The first position of the log that is kept."""
        return self.log.start_position

    @property
    def checkpoint_position(self) -> int:
        """Where recovery would begin."""
        return self.durable_checkpoint

    def lookups(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys of the look-ups with their values, in order."""
        return self._lookups.range(start, stop)

    @property
    def owes_partitions(self) -> bool:
        """Has a partition something that the next commit writes, whether or not the log has?"""
        return bool(self._unwritten)

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of the log that wait for their commit."""
        return self.log.end_position - self.log.committed_position

    def flush(self, sync: bool, whole: bool = False) -> Promise[None]:
        """Commit everything appended so far; the promise settles when it is (`kick` the
        committer). With `sync` the log survives power loss, and the partitions that were appended
        to; with `whole` all partitions."""
        pending = self.log.take_pending()
        end = self.log.end_position
        sync = sync or self._settings.sync
        first, partitions = self._write_partitions(sync)
        self.light.keep_names()
        changes = self._lookups.take()
        if changes:
            changes[_APPLIED] = end.to_bytes(8, "little")
        kv = self._kv

        def rest() -> None:
            if changes:
                kv.write(list(changes.items()))

        stages = (first, *self._log_stages(pending, sync, whole, rest))
        size = end - self._flushed_to
        self._flushed_to = end
        done = self._committer.submit(GroupedJob(self._disk, stages), size)
        done.when_settled(lambda: self._flushed(end, partitions, changes))
        return done

    def _write_partitions(self, sync: bool) -> tuple[Stage, list[PartitionLog]]:
        """The first stage of a commit: what partitions have to write, before the log names it; and
        which have. Files of segment partitions are written and synced with all others; another
        engine does it itself."""
        logs = self._unwritten.values()
        segments = [
            (log, job)
            for log in logs
            if isinstance(log, SegmentPartition) and (job := log.write_job()) is not None
        ]
        others = [
            (log, write)
            for log in logs
            if not isinstance(log, SegmentPartition) and (write := log.write()) is not None
        ]
        self._unwritten = {}
        if not (segments or others):
            return NOTHING, []
        disk = self._disk
        more = [(log, job) for log, job in segments if not job.only_appends]

        def before() -> None:
            for _, write in others:
                write(sync)
            for log, job in more:
                if not log.deleted:
                    job.begin(log.directory, disk)

        def behind() -> None:
            for log, job in more:
                if not log.deleted:
                    job.end(log.directory, disk)

        synced = []
        if sync:
            for log, _ in segments:
                if log.needs_sync:
                    log.needs_sync = False
                    synced.append(log.directory)
        rows = [row for _, job in segments for row in job.rows]
        partitions = [log for log, _ in (*segments, *others)]
        is_more = bool(others or more)
        stage = Stage(rows, synced, before if is_more else None, behind if more else None)
        return stage, partitions

    def _log_stages(self, pending: Rows, sync: bool, whole: bool, rest: Job) -> list[Stage]:
        """What follows it: the log, and then what is looked up. One stage, but where a file of a
        log that is synced is full: it is whole before the next one is there, so that a log has no
        holes."""
        log_directory = [f"{self._directory}/log"]
        stages: list[Stage] = []
        rows: list[tuple[str, Sequence[Buffer]]] = []
        for path, buffers in pending:
            if path != self._log_path and sync:
                stages.append(Stage(rows, log_directory))
                rows = []
            self._log_path = path
            rows.append((path, buffers))
        # Of the log not only what this turn has written: what came before it, too.
        everything = whole or self._inherited
        synced = ([self._directory] if everything else log_directory) if sync else []
        if sync:
            self._inherited = False
        return [*stages, Stage(rows, synced, None, rest)]

    def _flushed(
        self,
        end: int,
        partitions: list[PartitionLog],
        changes: dict[bytes, bytes | None],
    ) -> None:
        self.log.committed_position = max(self.log.committed_position, end)
        for log in partitions:
            log.committed()
        self._lookups.written(changes)

    # -- reading the log ---------------------------------------------------------------------------

    def read_entry(self, position: int) -> tuple[int, bytes | memoryview]:
        """(kind, payload) of the entry at a position; raises CORRUPT_RECORD."""
        return self.log.entry(position)

    @staticmethod
    def entry_bytes(payload: bytes | memoryview) -> int:
        """How long an entry of the log is, so that the next one begins behind it."""
        return shard_log.HEAD.size + len(payload)

    def scan(
        self, position: int, end: int | None = None
    ) -> Iterator[tuple[int, int, bytes | memoryview]]:
        """(position, kind, payload) of the entries from a position (where one begins, or the byte
        before) on."""
        return self.log.scan(position, end)

    @property
    def committed_position(self) -> int:
        """The position behind the last entry that is committed."""
        return self.log.committed_position

    # -- light topics ------------------------------------------------------------------------------

    def memory_append(self, block: bytearray, source: int = 0, sequence: int = 0) -> bool:
        """Append a block of topics in memory mode, giving offsets in place; the oldest make way.
        False if the frame was seen before."""
        if self.seen(source, sequence):
            return False
        if source:
            self._sources[source] = sequence
        self.light.append_memory(block, self.leader_epoch)
        return True

    # -- declared topics ---------------------------------------------------------------------------

    def stored_partitions(self) -> list[tuple[str, str]]:
        """(engine, name) of the partitions that have a directory; what a crash has left of others
        is removed."""
        disk, directory = self._disk, self._directory
        listed = [(engines.SEGMENT, name) for name in disk.list(f"{directory}/segments")]
        for engine_name in disk.list(f"{directory}/engines"):
            names = disk.list(f"{directory}/engines/{engine_name}")
            listed += [(engine_name, name) for name in names]
        found = []
        for engine_name, name in listed:
            if name.endswith(GONE):
                self.remove_stored(name, engine_name)
            else:
                found.append((engine_name, name))
        return found

    def note_end(self, name: str, end_offset: int) -> None:
        """Recovery: the log behind the checkpoint says where a partition ends."""
        self._partition_ends[name] = end_offset

    def noted_end(self, name: str) -> int:
        """Recovery: where a partition ends."""
        return self._partition_ends.get(name, 0)

    def keep_ends(self, living: Callable[[str], bool]) -> None:
        """Recovery: forget where partitions end whose topics are gone."""
        self._partition_ends = {
            name: end for name, end in self._partition_ends.items() if living(name)
        }

    def is_small(self, name: str) -> bool:
        """Does it take but a moment to open a stored partition?"""
        return is_small(f"{self._directory}/segments/{name}", self._disk)

    def open_partition(
        self, name: str, engine_name: str, settings: PartitionSettings
    ) -> PartitionLog:
        """Open the log of a partition of a declared topic."""
        log = self.open_beside(name, engine_name, settings)
        self.take(log, name)
        return log

    def open_beside(self, name: str, engine_name: str, settings: PartitionSettings) -> PartitionLog:
        """Open what an engine has of a partition: another one may be in force."""
        if engine_name == engines.SHARED:
            return self.shared.open(*split_name(name), settings)
        if engine_name == engines.MEMORY:
            return MemoryPartition(settings, self.rings)
        return engine(engine_name)(self._path_of(name, engine_name), self._disk, settings)

    def _path_of(self, name: str, engine_name: str) -> str:
        if engine_name == engines.SEGMENT:
            return f"{self._directory}/segments/{name}"
        return f"{self._directory}/engines/{engine_name}/{name}"

    def resume(self, log: PartitionLog, name: str) -> None:
        """Cut what was promised to nobody, and go on behind what was. In a damaged log a marker may
        be missing: then nothing is cut, and what its other markers promised still was."""
        end_offset = self._partition_ends.get(name, 0)
        synced = self._settings.sync or log.settings.sync
        has_some = log.files if isinstance(log, SegmentPartition) else log.end_offset
        if self._lost_power and not synced and has_some and end_offset > log.end_offset:
            # It was not promised to survive that: readers go on behind it, and operators are told.
            self._report(log.end_offset, 0)
            log.skip_to(end_offset)
            self._unwritten[id(log)] = log
        if not self._damaged:
            log.resume_at(end_offset)
        elif not isinstance(log, SharedPartition):
            # What of a shared one is damaged the log itself has told.
            log.resume_at(max(end_offset, log.end_offset))

    def resume_old(self, log: PartitionLog, name: str) -> None:
        """The same of what an engine has that may not be the partition's any more: what was
        promised behind it another one may have."""
        if not self._damaged:
            log.resume_at(min(log.end_offset, self._partition_ends.get(name, 0)))

    def take(self, log: PartitionLog, name: str) -> None:
        """This is the log of a partition, just opened."""
        end_offset = self._partition_ends.get(name, 0)
        self.resume(log, name)
        if isinstance(log, SegmentPartition):
            log.damaged = partial(self._met_damage, log)
            if log.indexes_due:
                self._unwritten[id(log)] = log
        for offset, length in log.quarantined:
            # What a crash has left behind the last marker was promised to nobody.
            if self._damaged or offset < end_offset:
                self._report(offset, length)
        self._partitions[id(log)] = log
        self._partition_names[id(log)] = name

    def _met_damage(self, log: PartitionLog, offset: int, length: int) -> None:
        """A reader of a partition has: the next commit puts it aside."""
        self._unwritten[id(log)] = log
        self._report(offset, length)

    def exchange(self, old: PartitionLog, fresh: PartitionLog) -> None:
        """Another engine has all of a partition now: it is its log."""
        name = self._partition_names.pop(id(old))
        del self._partitions[id(old)]
        # What the old one was still to write the other one has, and writes with the same commit.
        self._unwritten.pop(id(old), None)
        self._partitions[id(fresh)] = fresh
        self._partition_names[id(fresh)] = name
        self._unwritten[id(fresh)] = fresh
        # The last marker may be older than the old engine's last record: not every engine has any.
        self.taken_over(name, fresh.end_offset)

    def taken_over(self, name: str, end_offset: int) -> None:
        """Another engine has a partition, which ended there."""
        payload = end_offset.to_bytes(8, "little") + name.encode()
        self.log.append(PARTITION_ENDS, payload, 0, 0, 0)

    def discard(self, log: PartitionLog) -> Promise[None]:
        """Remove what an engine had of a partition that another one has (`kick` the
        committer)."""
        self._unwritten.pop(id(log), None)
        return self._committer.submit(log.delete())

    def append_declared(
        self, marker: bytes, shared: bytearray, source: int, sequence: int, timestamp_ms: int
    ) -> int:
        """Append what a frame brought for declared topics: the marker of what their engines have,
        and the entries of shared partitions (`shared.build_stored`), which get their offsets in
        place; the log position, -1 if the frame was seen before."""
        if not shared:
            return self.append(DECLARED_MARKER, marker, source, sequence, timestamp_ms)
        if self.seen(source, sequence):
            return -1
        return self.shared.append(shared, marker, self.leader_epoch, source, sequence, timestamp_ms)

    def append_partition(self, log: PartitionLog, batch: bytearray) -> tuple[int, Copied | None]:
        """Append a batch to an open partition, patched in place; its base offset, and what the
        marker must have of it."""
        self._unwritten[id(log)] = log
        self._partition_bytes += len(batch)
        if isinstance(log, SegmentPartition) and (self._settings.sync or log.settings.sync):
            return log.append_copied(batch, self.leader_epoch)
        return log.append(batch, self.leader_epoch), None

    def redo(self, redo: SegmentRedo) -> None:
        """Recovery: before a partition is opened, write into its files what the log has of them,
        which was not synced there."""
        redo.run(f"{self._directory}/segments", self._disk, self.log.read)

    @property
    def disk(self) -> Disk:
        """Where the shard's files are; writing belongs to the storage thread (`run`)."""
        return self._disk

    def run(self, job: Callable[[], None], size: int = 0) -> Promise[None]:
        """Work on the storage thread that writes `size` bytes, behind all that was submitted before
        (`kick` the committer)."""
        return self._committer.submit(job, size)

    def let_go(self, replaced: list[LogFile], made: LogFile | None) -> None:
        """`made`, or nothing, stands for these neighbouring files of the log from now on; they are
        removed."""
        self.log.let_go(replaced, made)
        self.light.let_go()
        disk, paths = self._disk, [file.path for file in replaced]

        def remove() -> None:
            # The oldest first: what a crash leaves is what lies behind.
            for path in paths:
                disk.remove(path)

        self._committer.free(remove)

    def drop_copy(self) -> None:
        """What is, or was, made for an upload is not needed; also where it is being written, and
        where all writes wait for room."""
        disk, path = self._disk, self.copy_path

        def remove() -> None:
            if disk.size(path):
                # Who writes to it has it open, and with that its bytes.
                disk.truncate(path, 0)
            disk.remove(path)

        self._committer.free(remove)

    def changed(self, log: PartitionLog) -> None:
        """Something of an open partition is to be written beside records; what it has let go is
        removed."""
        self._unwritten[id(log)] = log
        freed = log.free()
        if freed is not None:
            self._committer.free(freed)

    def drop_partition(self, log: PartitionLog) -> None:
        """The partition is deleted: its files go on the storage thread, and what is still to be
        written of it is not."""
        del self._partitions[id(log)]
        self._unwritten.pop(id(log), None)
        self._partition_ends.pop(self._partition_names.pop(id(log)), None)
        self._committer.free(log.delete())

    def forget_partition(self, name: str) -> None:
        """A partition is deleted that was not opened."""
        self._partition_ends.pop(name, None)
        self.shared.drop(stored_name(*split_name(name)))

    def remove_stored(self, name: str, engine_name: str) -> None:
        """Recovery: a partition has a directory, and its topic is gone or another engine has it."""
        disk, path = self._disk, self._path_of(name, engine_name)
        self._committer.free(lambda: disk.remove_directory(path))

    # -- checkpoints -------------------------------------------------------------------------------

    @property
    def needs_checkpoint(self) -> bool:
        """Has enough been written since the last checkpoint?"""
        written = self.log.end_position - self._checkpointed_at
        return written > self._settings.checkpoint_bytes or (self.checkpoint_wanted and written > 0)

    def begin_checkpoint(self, machines: Iterable[tuple[bytes, bytes, bytes]]) -> CheckpointWriter:
        """Begin a checkpoint of this moment, with (kind, key, snapshot) of machines. One that was
        begun before is given up."""
        if self._writer is not None:
            self._writer.abandon()
        position = self._checkpointed_at = self.log.end_position
        self.checkpoint_wanted = False
        ends = self._partition_ends
        for number, log in self._partitions.items():
            if isinstance(log, SharedPartition):
                # The index says it.
                ends.pop(self._partition_names[number], None)
            else:
                ends[self._partition_names[number]] = log.end_offset
        point = Checkpoint(
            position,
            f"{INDEX}{position:016x}",
            self._lasting_sources(),
            self.leader_epoch,
            dict(ends),
        )
        self._writer = CheckpointWriter(
            self._directory, self._disk, self._kv, self.run, self.light, point
        )
        self._writer.add(machines)
        return self._writer

    def checkpoint(self, machines: Iterable[tuple[bytes, bytes, bytes]]) -> Promise[None]:
        """A whole checkpoint in one go (`kick` the committer)."""
        return self.finish_checkpoint(self.begin_checkpoint(machines))

    def finish_checkpoint(self, writer: CheckpointWriter) -> Promise[None]:
        """Write what is left of the index, and end a checkpoint that has all its machines; recovery
        begins there when this settles (`kick` the committer)."""
        assert writer is self._writer, "it was not given up"
        self._writer = None
        writer.write_parts()
        # Partitions, look-ups and the log have all that the checkpoint rests on, and it comes last.
        looked_to = self.cold.state.looked_to
        self.flush(True, True)
        done = writer.finish()
        done.when_settled(lambda: self._checkpointed(writer.position, looked_to))
        return done

    def _checkpointed(self, position: int, looked_to: int) -> None:
        self.cold.durable_to = looked_to
        self.durable_checkpoint = max(self.durable_checkpoint, position)

    def _lasting_sources(self) -> dict[int, int]:
        """The sources that may still send something again: all shards, and the latest workers."""
        workers = sorted(source for source in self._sources if source < LASTING_SOURCE)
        forgotten = set(workers[:-_MAX_SOURCES])
        return {one: last for one, last in self._sources.items() if one not in forgotten}

    def close(self) -> None:
        """Close LevelDB; what was not flushed is lost."""
        for log in self._partitions.values():
            log.close()
        self._kv.close()
