"""What a worker lets go of, and makes smaller, as time passes: retention and compaction.

Rounds over all open partitions, in slices of SLICE a tick, so that the loop is never held. A round
begins every `storage.retention_check_s`. What retention lets go is gone for readers at once; its
files follow on the storage thread, with the next commit of their shard. Of the logs that a round
finds worth compacting, the one that wants it most is compacted when the round is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from robustmq.config import StorageSettings
from robustmq.shard.compactor import Compactor
from robustmq.shard.partitions import HeldLog
from robustmq.shard.producer_states import ProducerStates
from robustmq.storage.compaction import Candidate, candidate
from robustmq.storage.segment import SegmentPartition

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

SLICE = 200
OPENING_US = 2000
"""So much of a tick goes to partitions that are on disk and were not used since the start."""


class Cleaning:
    """The rounds of one worker."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its partitions, stores and commits."""
        around = broker.around
        self._partitions = broker.partitions
        self._stores = broker.stores
        self._commits = broker.commits
        self._wall_ms = around.wall_ms
        self._monotonic_ms = around.monotonic_ms
        self._monotonic_us = around.monotonic_us
        self._count = around.count
        self._compactor = Compactor(
            broker.partitions,
            broker.stores,
            around.kick,
            around.wall_ms,
            around.monotonic_us,
            around.call_later,
            around.count,
        )
        expiration_s = broker.settings.kafka.producer_id_expiration_s
        self._compactor.producer_expiration_ms = expiration_s * 1000
        self._stable_offset: Callable[[bytes, int, int], int] = lambda topic, partition, end: end
        self._round: Iterator[HeldLog] | None = None
        self._best: tuple[HeldLog, SegmentPartition, Candidate] | None = None
        self.reload(broker.settings.storage)
        self._due_ms = around.monotonic_ms() + self._interval_ms

    def knows(self, producers: ProducerStates) -> None:
        """Who can say what is stable, and what was aborted."""
        self._stable_offset = producers.last_stable_offset
        self._compactor.aborted = producers.aborted_until

    def reload(self, settings: StorageSettings) -> None:
        """Take over new settings."""
        self._interval_ms = settings.retention_check_s * 1000
        self._compactor.memory_bytes = settings.compaction_memory_bytes

    def tick(self) -> None:
        """Twenty times a second: a slice of the round that runs, or the begin of the next."""
        until_us = self._monotonic_us() + OPENING_US
        while self._partitions.open_waiting() and self._monotonic_us() < until_us:
            pass
        if self._round is None:
            now = self._monotonic_ms()
            if now < self._due_ms:
                return
            self._due_ms = now + self._interval_ms
            self._round = self._partitions.walk()
            self._best = None
            self._write_owed()
        now_ms = self._wall_ms()
        for _ in range(SLICE):
            held = next(self._round, None)
            if held is None:
                self._round = None
                self._compact()
                return
            self._retain(held, now_ms)
            if held.log.settings.compact and self._compactor.idle:
                self._consider(held, now_ms)

    def _write_owed(self) -> None:
        """Indexes that were not there when their files were opened: who is not appended to has
        them now too, and need not be read whole at every start."""
        for shard, store in self._stores.items():
            if store.owes_partitions:
                self._commits.mark_lazy(shard, 0)

    def _retain(self, held: HeldLog, now_ms: int) -> None:
        freed = held.log.retain(now_ms)
        if freed:
            self._count("storage_bytes_expired", freed)
            self._changed(held)

    def _changed(self, held: HeldLog) -> None:
        self._stores[held.shard].changed(held.log)
        self._commits.mark(held.shard)

    def _consider(self, held: HeldLog, now_ms: int) -> None:
        log = held.log
        if not isinstance(log, SegmentPartition) or not log.files:
            return
        last = log.files[-1]
        if 0 <= last.first_time < now_ms - log.settings.max_compaction_lag_ms:
            log.roll()
            self._changed(held)
        found = self._candidate(log, log.high_watermark, now_ms)
        if found is None:
            return
        # What is stable is asked for those alone that are worth it.
        stable = self._stable_offset(held.topic, held.partition, log.high_watermark)
        if stable < found.end_offset:
            found = self._candidate(log, stable, now_ms)
            if found is None:
                return
        best = self._best
        if best is None or (found.must, found.ratio) > (best[2].must, best[2].ratio):
            self._best = held, log, found

    def _candidate(
        self, log: SegmentPartition, stable_offset: int, now_ms: int
    ) -> Candidate | None:
        start, clean = log.start_offset, log.state.clean_offset
        return candidate(log.files, log.settings, start, clean, stable_offset, now_ms)

    def is_idle(self) -> bool:
        """Is nothing being compacted?"""
        return self._compactor.idle

    def compact_now(self, held: HeldLog) -> str:
        """An operator wants a partition compacted, whatever its dirty ratio; why it cannot be, or
        nothing when it has begun. One is compacted at a time (`is_idle`)."""
        log = held.log
        if not log.settings.compact:
            return "its cleanup.policy is not compact"
        if not isinstance(log, SegmentPartition) or not log.files:
            return "it has no files"
        log.roll()
        self._changed(held)
        settings = msgspec.structs.replace(log.settings, min_cleanable_dirty_ratio=0.0)
        stable = self._stable_offset(held.topic, held.partition, log.high_watermark)
        start, clean = log.start_offset, log.state.clean_offset
        found = candidate(log.files, settings, start, clean, stable, self._wall_ms())
        if found is None:
            return "there is nothing new to compact"
        self._compactor.begin(held, log, found)
        return ""

    def _compact(self) -> None:
        """Begin with the log that wants it most, if it is still what it was."""
        if self._best is None or not self._compactor.idle:
            return
        held, log, found = self._best
        self._best = None
        if self._partitions.held(held.topic, held.partition) is not log:
            return
        if tuple(log.files[: len(found.files)]) == found.files:
            self._compactor.begin(held, log, found)
