"""What a worker does for its tiered partitions: a cursor on each, that follows the log and copies
closed segments to the object store (design, section 1).

Where a cursor stands is written in the partition's manifest alone, so it goes on there after a
restart. Of one partition one thing happens at a time, each a job on a thread of the tier: read the
manifest, tell of the topic, let objects go below the log's start, upload the next segment that is
closed, committed and below the last stable offset. Partitions take turns; so many jobs run at once
as the settings say, and no faster than they say.

While the store does not answer, nothing is lost but time: appends go on, local files stay, one
cursor asks again after a pause that grows. What is said of it is one line when it stops answering
and one when it answers again. A cursor whose partition has another owner, or whose manifest lacks
what was let go here, stops, and says why.

A deleted topic's partition, or one that is not to be tiered any more, is buried: its manifest says
so first, then its objects go in slices, the manifest last. The partition's local directory stays,
empty but for its state, until that is done, so it goes on after a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from robustmq import engines
from robustmq.shard.producer_states import ProducerStates
from robustmq.shard.surroundings import TierAround
from robustmq.storage.cluster_mark import MARK_MS, Mark, write_mark
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.manifest import (
    MAX_DOOMED,
    DamagedError,
    FencedError,
    Head,
    Manifest,
    TopicInfo,
    prefix_of,
)
from robustmq.storage.markers import partition_name
from robustmq.storage.object_store import ObjectRefusedError, ObjectStore, ObjectStoreError
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.stored_producers import Aborted
from robustmq.storage.tiered import PartitionTier
from robustmq.storage.uploads import NotReady, Upload, aborted_in, upload

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

SLICE = 200
"""Partitions that are looked at in a tick."""
FIRST_PAUSE_MS = 200
ROLLED_AFTER_MS = 60_000
"""A file is not closed for its age before it was seen for so long, or for segment.ms."""

Job = Callable[[], Any]


class Lag(NamedTuple):
    """What is closed and not uploaded."""

    segments: int = 0
    bytes: int = 0


class Cursor:
    """One partition's way to the store."""

    def __init__(
        self, topic: bytes, topic_id: bytes, partition: int, shard: int, prefix: str
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.shard = shard
        self.prefix = prefix
        self.log: SegmentPartition | None = None
        self.tier: PartitionTier | None = None
        self.manifest: Manifest | None = None
        self.epoch = 0
        self.busy = False
        self.queued = False
        self.stopped = ""
        """Why nothing is uploaded any more."""
        self.buried: Callable[[], None] | None = None
        """The partition is over: what to do when its objects are gone."""
        self.lag = Lag()
        self.behind_since_ms = -1
        self.open_since: tuple[int, int] = (-1, 0)
        """Base offset of the last file, and when it was first seen with records."""

    @property
    def name(self) -> str:
        """That of the partition's directory."""
        return partition_name(self.topic_id, self.partition)


class Uploader:
    """The cursors of one worker."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its partitions, stores and commits."""
        self._broker = broker
        self._around = around = broker.around
        self._tier = around.tier
        self._now_ms = around.monotonic_ms
        self._count = around.count
        self._cursors: dict[tuple[bytes, int], Cursor] = {}
        self._ready: deque[Cursor] = deque()
        self._round: Iterator[Cursor] | None = None
        self._due_ms = 0
        self._running = 0
        self._paused_until_ms = 0
        self._pause_ms = 0
        self._free_at_ms = 0
        self.last_error = ""
        self._stable: Callable[[bytes, int, int], int] = lambda topic, partition, end: end
        self._aborted: Callable[[bytes, int, int, int], list[Aborted]] = lambda *of: []
        self.draining = False
        self.fenced = False
        """Another cluster has been recovered from what this one has uploaded."""
        self._mark_due_ms = 0
        self._mark_version = ""

    def knows(self, producers: ProducerStates) -> None:
        """Who can say what is stable, and what was aborted."""
        self._stable = producers.last_stable_offset
        self._aborted = producers.aborted_until

    # -- partitions come and go --------------------------------------------------------------------

    def opened(
        self, topic: bytes, topic_id: bytes, partition: int, shard: int, log: SegmentPartition
    ) -> None:
        """A partition was opened, or its settings have changed."""
        key = (topic_id, partition)
        cursor = self._cursors.get(key)
        if cursor is not None and cursor.buried is not None:
            # It was moved, or not to be tiered, a moment ago: what it had goes first.
            cursor.buried = lambda: self._again(cursor, log)
            return
        if not log.settings.tiered:
            if log.tier is None and not log.state.tiered_until:
                return
            if log.settings.tier_delete:
                self._untier(key, cursor, topic, shard, log)
                return
        if cursor is None:
            cursor = self._cursor(topic, topic_id, partition, shard)
        if cursor.log is not log:
            self._attach(cursor, log)

    def _cursor(self, topic: bytes, topic_id: bytes, partition: int, shard: int) -> Cursor:
        prefix = prefix_of(self._broker.cluster.cluster_id, topic_id, partition)
        cursor = self._cursors[topic_id, partition] = Cursor(
            topic, topic_id, partition, shard, prefix
        )
        return cursor

    def _attach(self, cursor: Cursor, log: SegmentPartition) -> None:
        tier = self._tier
        reader = None
        if tier is not None:
            make, prefix = tier.reader, cursor.prefix
            reader = lambda cold: make(prefix, cold)  # noqa: E731
        cursor.log, cursor.manifest = log, None
        cursor.tier = log.tier = PartitionTier(log, reader, lambda: self._wanted(cursor))

    def _again(self, cursor: Cursor, log: SegmentPartition) -> None:
        del self._cursors[cursor.topic_id, cursor.partition]
        self.opened(cursor.topic, cursor.topic_id, cursor.partition, cursor.shard, log)

    def _untier(
        self,
        key: tuple[bytes, int],
        cursor: Cursor | None,
        topic: bytes,
        shard: int,
        log: SegmentPartition,
    ) -> None:
        """A partition is to be here alone: what is in the store alone is let go."""
        log.tier = None
        log.trim(log.local_start_offset)
        self._changed(shard, log)
        if self._tier is None:
            return
        cursor = cursor or self._cursor(topic, *key, shard)

        def buried() -> None:
            log.untiered()
            self._changed(shard, log)
            del self._cursors[key]

        self._bury(cursor, buried)

    def dropped(self, topic: bytes, topic_id: bytes, partition: int, shard: int) -> None:
        """A topic is deleted; `log.delete` has left the partition's state."""
        if self._tier is None:
            self._broker.stores[shard].remove_stored(
                partition_name(topic_id, partition), engines.SEGMENT
            )
            return
        cursor = self._cursors.get((topic_id, partition))
        if cursor is None:
            cursor = self._cursor(topic, topic_id, partition, shard)
        store, name = self._broker.stores[shard], cursor.name

        def buried() -> None:
            store.remove_stored(name, engines.SEGMENT)
            del self._cursors[topic_id, partition]

        self._bury(cursor, buried)

    def left_over(self, shard: int, name: str) -> bool:
        """Recovery: a partition's directory is there, and its topic is not. True: it is seen to."""
        if self._tier is None:
            return False
        topic_id, _, partition = name.partition("-")
        self.dropped(b"", bytes.fromhex(topic_id), int(partition), shard)
        return True

    def _bury(self, cursor: Cursor, buried: Callable[[], None]) -> None:
        cursor.buried = buried
        cursor.log = cursor.tier = None
        cursor.lag, cursor.stopped = Lag(), ""
        self._queue(cursor)

    # -- rounds ------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Twenty times a second: a slice of the round that runs, or the begin of the next."""
        if self._tier is None:
            return
        self._mark_alive(self._tier)
        settings = self._broker.settings.storage.tiering
        now = self._now_ms()
        if self._round is None and now >= self._due_ms:
            self._due_ms = now + settings.check_ms
            self._round = iter(list(self._cursors.values()))
        if self._round is not None:
            for _ in range(SLICE):
                cursor = next(self._round, None)
                if cursor is None:
                    self._round = None
                    break
                if self._cursors.get((cursor.topic_id, cursor.partition)) is cursor:
                    self._look(cursor, now)
        self._start()

    def _mark_alive(self, tier: TierAround, stopped: bool = False) -> None:
        """The owner of shard 0 says that the cluster lives."""
        now = self._now_ms()
        waits = now < self._mark_due_ms and not stopped
        if waits or 0 not in self._broker.stores or self.fenced:
            return
        self._mark_due_ms = now + MARK_MS
        cluster = self._broker.cluster
        epoch, wall_ms = cluster.shard_epoch(0), self._around.wall_ms()
        mark = Mark(cluster.cluster_id, cluster.shard_count, epoch, wall_ms, stopped)
        version = self._mark_version

        def over(result: Any) -> None:
            self._running -= 1
            if isinstance(result, FencedError):
                self.fenced = True
                self._around.log("error", "nothing is uploaded any more", reason=str(result))
            elif isinstance(result, Exception):
                self._mark_version = ""
            else:
                self._mark_version = result

        self._running += 1
        tier.submit(lambda: write_mark(tier.store, mark, version), over)

    def drain(self) -> None:
        """Nothing more is begun; the cluster's mark says that it has stopped."""
        self.draining = True
        if self._tier is not None:
            self._mark_alive(self._tier, True)

    def _look(self, cursor: Cursor, now: int) -> None:
        log = cursor.log
        if log is not None:
            self._roll(cursor, log, now)
            files = list(self._waiting(cursor, log))
            cursor.lag = Lag(len(files), sum(one.size for one in files))
            if not files:
                cursor.behind_since_ms = -1
            elif cursor.behind_since_ms < 0:
                cursor.behind_since_ms = now
        if not (cursor.busy or cursor.queued) and self._next(cursor) is not None:
            self._queue(cursor)

    def _wanted(self, cursor: Cursor) -> None:
        """A reader waits for the manifest: it is read next."""
        if cursor.queued:
            self._ready.remove(cursor)
            cursor.queued = False
        if not cursor.busy and not cursor.stopped and self._tier is not None:
            cursor.queued = True
            self._ready.appendleft(cursor)
            self._start()

    def _queue(self, cursor: Cursor) -> None:
        if not cursor.queued and not cursor.busy and self._tier is not None:
            cursor.queued = True
            self._ready.append(cursor)

    def _roll(self, cursor: Cursor, log: SegmentPartition, now: int) -> None:
        """Close the last file of a partition that nobody writes to, by segment.ms."""
        last = log.files[-1] if log.files else None
        if last is None or not last.size or cursor.tier is None or not cursor.tier.copies:
            return
        if cursor.open_since[0] != last.base_offset:
            cursor.open_since = (last.base_offset, now)
        roll_ms = log.settings.roll_ms
        seen_ms = now - cursor.open_since[1]
        if seen_ms < min(roll_ms, ROLLED_AFTER_MS) or last.first_time < 0:
            return
        if last.first_time < self._around.wall_ms() - roll_ms:
            log.roll()
            self._changed(cursor.shard, log)

    def _waiting(self, cursor: Cursor, log: SegmentPartition) -> Iterator[Upload]:
        """What is closed, committed and stable, and not in the store, oldest first."""
        tier = cursor.tier
        if tier is None or not tier.copies:
            return
        end_offset = tier.cold.end_offset if tier.loaded else log.state.tiered_until
        number = len(log.files)
        while number > 1 and log.files[number - 2].base_offset >= end_offset:
            number -= 1
        stable = -1
        for file, following in pairwise(log.files[number - 1 :]):
            if following.base_offset > log.high_watermark:
                return
            if stable < 0:
                stable = self._stable(cursor.topic, cursor.partition, log.high_watermark)
            if following.base_offset > stable:
                return
            if file.size and file.base_offset >= end_offset:
                time = file.max_time if file.max_time >= 0 else self._around.wall_ms()
                yield Upload(
                    file.path,
                    file.index_path if file.indexed else "",
                    file.base_offset,
                    following.base_offset,
                    file.size,
                    time,
                )

    def _start(self) -> None:
        """Run what is ready, as much at a time as may be."""
        tiering = self._broker.settings.storage.tiering
        while self._ready and not self.draining and not self.fenced:
            now = self._now_ms()
            waits = now < self._paused_until_ms or now < self._free_at_ms
            # One more thread than uploads: manifests are read while segments are on their way.
            most = tiering.uploads + (self._ready[0].manifest is None)
            if waits or self._running >= (1 if self._pause_ms else most):
                return
            cursor = self._ready.popleft()
            cursor.queued = False
            step = self._next(cursor)
            if step is not None and not cursor.busy:
                self._run(cursor, *step)

    def _run(self, cursor: Cursor, job: Job, done: Callable[[Any], None]) -> None:
        assert self._tier is not None, "there is a store"
        cursor.busy = True
        self._running += 1

        def over(result: Any) -> None:
            self._running -= 1
            cursor.busy = False
            if isinstance(result, Exception):
                self._failed(cursor, result)
            else:
                self._answered()
                done(result)
                # Whether there is more is seen when its turn comes.
                self._queue(cursor)
            self._start()

        self._tier.submit(job, over)

    # -- steps -------------------------------------------------------------------------------------

    def _next(self, cursor: Cursor) -> tuple[Job, Callable[[Any], None]] | None:
        """What is to be done for a partition now, and with what comes of it; None: nothing."""
        if cursor.stopped or self._tier is None:
            return None
        if cursor.buried is not None:
            return self._burial(cursor, self._tier.store)
        log, tier = cursor.log, cursor.tier
        if log is None or tier is None:
            return None
        manifest = cursor.manifest
        if manifest is None:
            return self._loading(cursor, log, tier)
        if manifest.head.start_offset < log.start_offset and manifest.there:
            return self._trimming(manifest, log, tier)
        if manifest.is_going:
            return manifest.remove, lambda result: None
        info = self._info(cursor)
        if info is not None and log.end_offset and manifest.head.topic != info:
            return (lambda: manifest.describe(info)), lambda result: None
        if manifest.there:
            for one in self._waiting(cursor, log):
                if one.index_path:
                    return self._uploading(cursor, manifest, log, tier, one)
                # The next commit writes it.
                self._changed(cursor.shard, log)
                return None
        return None

    def _info(self, cursor: Cursor) -> TopicInfo | None:
        topic = self._broker.cluster.declared(cursor.topic)
        if topic is None or topic.topic_id.bytes != cursor.topic_id:
            return None
        return TopicInfo(cursor.topic, cursor.topic_id, topic.partitions, dict(topic.configs))

    def _fresh(self, cursor: Cursor) -> Manifest:
        """The manifest of a partition before it is read."""
        assert self._tier is not None, "there is a store"
        cluster = self._broker.cluster
        cursor.epoch = cluster.shard_epoch(cursor.shard)
        none = TopicInfo(b"", cursor.topic_id, 0)
        head = Head(cluster.cluster_id, none, cursor.partition, cursor.epoch)
        return Manifest(self._tier.store, cursor.prefix, head)

    def _loading(
        self, cursor: Cursor, log: SegmentPartition, tier: PartitionTier
    ) -> tuple[Job, Callable[[Any], None]]:
        manifest = self._fresh(cursor)
        end_offset = log.high_watermark

        def load() -> ColdSegments:
            rows = manifest.load()
            if manifest.head.end_offset > end_offset:
                rows = manifest.cut(end_offset, rows)
            manifest.sweep()
            # Filled here: there may be tens of thousands.
            table = ColdSegments()
            for row in rows:
                table.add(row)
            return table

        def loaded(table: ColdSegments) -> None:
            if cursor.tier is tier:
                self._loaded(cursor, manifest, log, tier, table)

        return load, loaded

    def _loaded(
        self,
        cursor: Cursor,
        manifest: Manifest,
        log: SegmentPartition,
        tier: PartitionTier,
        table: ColdSegments,
    ) -> None:
        head = manifest.head
        if head.deleted:
            # Nobody but us may have begun to bury it, and then it was to be tiered again.
            self._stop(cursor, "its objects are being removed")
            tier.settle(False)
            return
        if log.local_start_offset > max(head.end_offset, log.start_offset):
            self._stop(
                cursor,
                f"the store ends at offset {head.end_offset}, and the local files begin at"
                f" {log.local_start_offset}: is storage.tiering.url what it was?",
            )
            tier.settle(False)
            return
        tier.cold.exchange(table)
        cursor.manifest = manifest
        if log.start_offset < head.start_offset <= log.end_offset:
            log.trim(head.start_offset)
        log.tiered(head.end_offset)
        self._changed(cursor.shard, log)
        tier.settle(True)

    def _trimming(
        self, manifest: Manifest, log: SegmentPartition, tier: PartitionTier
    ) -> tuple[Job, Callable[[Any], None]]:
        start_offset = log.start_offset
        gone: list[ColdSegment] = []
        for row in tier.cold:
            if row.next_offset > start_offset or len(gone) == MAX_DOOMED:
                break
            gone.append(row)
        if len(gone) == MAX_DOOMED:
            start_offset = min(start_offset, gone[-1].next_offset)

        def trim() -> None:
            manifest.trim(start_offset, gone)
            manifest.remove()

        def trimmed(result: None) -> None:
            tier.cold.drop(len(gone))
            self._count("storage_tier_segments_removed", len(gone))

        return trim, trimmed

    def _uploading(
        self,
        cursor: Cursor,
        manifest: Manifest,
        log: SegmentPartition,
        tier: PartitionTier,
        one: Upload,
    ) -> tuple[Job, Callable[[Any], None]]:
        assert self._tier is not None, "there is a store"
        store, prefix, epoch = self._tier.store, cursor.prefix, cursor.epoch
        disk = self._broker.stores[cursor.shard].disk
        rows = self._aborted(cursor.topic, cursor.partition, one.base_offset, one.next_offset)
        one = Upload(
            one.path,
            one.index_path,
            one.base_offset,
            one.next_offset,
            one.size,
            one.max_time,
            aborted_in(rows, one.base_offset, one.next_offset),
        )

        def uploaded(row: ColdSegment) -> None:
            self._count("storage_tier_segments_uploaded", 1)
            self._count("storage_tier_bytes_uploaded", row.size)
            rate = self._broker.settings.storage.tiering.upload_bytes_per_second
            if rate:
                self._free_at_ms = max(self._now_ms(), self._free_at_ms) + row.size * 1000 // rate
            if cursor.tier is tier:
                tier.cold.add(row)
                log.tiered(row.next_offset)
                self._changed(cursor.shard, log)

        return (lambda: upload(store, disk, prefix, manifest, one, epoch)), uploaded

    def _burial(self, cursor: Cursor, store: ObjectStore) -> tuple[Job, Callable[[Any], None]]:
        manifest = cursor.manifest = cursor.manifest or self._fresh(cursor)

        def bury() -> bool:
            if not manifest.there:
                manifest.load()
            return manifest.bury()

        def slice_done(over: bool) -> None:
            buried = cursor.buried
            if over and buried is not None:
                cursor.buried = None
                buried()

        return bury, slice_done

    def _changed(self, shard: int, log: SegmentPartition) -> None:
        """The state of a partition is another: the next commit keeps it."""
        self._broker.stores[shard].changed(log)
        self._broker.commits.mark(shard)

    # -- what goes wrong ---------------------------------------------------------------------------

    def _answered(self) -> None:
        if self._pause_ms:
            self._pause_ms = self._paused_until_ms = 0
            self._around.log("info", "the object store answers again")

    def _failed(self, cursor: Cursor, error: Exception) -> None:
        if isinstance(error, NotReady):
            # The index of the file is still to be written.
            return
        cursor.manifest = None
        if isinstance(error, FencedError | DamagedError):
            self._stop(cursor, str(error))
        elif isinstance(error, ObjectStoreError):
            self._pause(cursor, error)
        elif not isinstance(error, FileNotFoundError):
            self._stop(cursor, repr(error))
        # Else the file has just gone. Readers who wait come back at once: they find the pause.
        if cursor.tier is not None and not cursor.tier.loaded:
            cursor.tier.settle(False)

    def _pause(self, cursor: Cursor, error: ObjectStoreError) -> None:
        """The store is left alone for a while, and then asked by one cursor alone."""
        self._count("storage_tier_errors", 1)
        self.last_error = str(error)
        longest = self._broker.settings.storage.tiering.retry_max_ms
        if not self._pause_ms:
            refused = isinstance(error, ObjectRefusedError)
            text = "the object store refuses" if refused else "the object store does not answer"
            self._around.log("error", f"{text}: uploads wait, local copies stay", reason=str(error))
        self._pause_ms = min(max(FIRST_PAUSE_MS, 2 * self._pause_ms), longest)
        self._paused_until_ms = self._now_ms() + self._pause_ms
        self._queue(cursor)

    def _stop(self, cursor: Cursor, reason: str) -> None:
        cursor.stopped = self.last_error = reason
        self._around.log(
            "error",
            "a partition is not tiered any more until the worker starts again",
            topic=cursor.topic.decode("utf-8", "replace"),
            partition=cursor.partition,
            reason=reason,
        )

    # -- what is seen of it ------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when no job runs (a drain waits for it)."""
        return not self._running

    def gauges(self) -> dict[str, int]:
        """For the metrics."""
        now = self._now_ms()
        cursors = self._cursors.values()
        since = [one.behind_since_ms for one in cursors if one.behind_since_ms >= 0]
        tiers = [one.tier for one in cursors if one.tier is not None]
        return {
            "storage_tier_partitions": len(tiers),
            "storage_tier_segments": sum(len(tier.cold) for tier in tiers),
            "storage_tier_bytes": sum(tier.cold.size for tier in tiers),
            "storage_tier_lag_segments": sum(one.lag.segments for one in cursors),
            "storage_tier_lag_bytes": sum(one.lag.bytes for one in cursors),
            "storage_tier_lag_ms": now - min(since) if since else 0,
            "storage_tier_stopped": sum(bool(one.stopped) for one in cursors),
            "storage_tier_unavailable": int(bool(self._pause_ms)),
        }
