"""One compaction at a time on a worker: the steps of `storage.compaction` on the storage thread,
and what the loop does between them.

A step runs for STEP_US, then the thread is free for commits for as long as the step took. Where a
file is ready the loop makes the partition's state, has it kept and the file renamed, puts the file
into the table, and has the old ones removed: a reader sees the old files or the new one. A topic
that is deleted or moved to another engine meanwhile ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from robustmq.promises import Promise
from robustmq.shard.partitions import HeldLog, Partitions
from robustmq.storage import partition_state
from robustmq.storage.compaction import Candidate, Compaction, Finished, Step, Swap, Task
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.segment_file import CLEANED, LOG
from robustmq.storage.shard_store import ShardStore
from robustmq.storage.stored_producers import Aborted

STEP_US = 4000
MIN_PAUSE_US = 500


class _Run(msgspec.Struct):
    """The compaction that runs."""

    held: HeldLog
    log: SegmentPartition
    store: ShardStore
    steps: Iterator[Step]


class Compactor:
    """Runs compactions, one after the other."""

    def __init__(
        self,
        partitions: Partitions,
        stores: dict[int, ShardStore],
        kick: Callable[[], None],
        wall_ms: Callable[[], int],
        monotonic_us: Callable[[], int],
        call_later: Callable[[int, Callable[[], None]], object],
        count: Callable[[str, int], None],
    ) -> None:
        self.memory_bytes = 0
        """Of the map of keys; set before the first run."""
        self.producer_expiration_ms = 86_400_000
        """The last batch of a producer that was heard of since is kept, for its sequence."""
        self._partitions = partitions
        self._stores = stores
        self._kick = kick
        self._wall_ms = wall_ms
        self._monotonic_us = monotonic_us
        self._call_later = call_later
        self._count = count
        self._run: _Run | None = None
        self.aborted: Callable[[bytes, int, int, int], list[Aborted]] = lambda *of: []
        """The aborted transactions of a partition that end at or behind an offset and begin before
        another."""

    @property
    def idle(self) -> bool:
        """True when nothing is being compacted."""
        return self._run is None

    def begin(self, held: HeldLog, log: SegmentPartition, found: Candidate) -> None:
        """Compact what was found of a partition."""
        assert self._run is None, "one compaction at a time"
        store = self._stores[held.shard]
        task = Task(
            log.directory,
            log.settings,
            found.files,
            log.start_offset,
            found.dirty_offset,
            found.end_offset,
            log.state.generation,
            self._wall_ms(),
            self.memory_bytes,
            tuple(self.aborted(held.topic, held.partition, found.dirty_offset, found.end_offset)),
            self.producer_expiration_ms,
        )
        log.compacting = True
        self._run = _Run(held, log, store, Compaction(task, store.disk).steps())
        self._step()

    def _there(self) -> bool:
        run = self._run
        return run is not None and (
            self._partitions.held(run.held.topic, run.held.partition) is run.log
        )

    def _step(self) -> None:
        run = self._run
        assert run is not None, "a step is one of a run"
        if not self._there():
            self._run = None
            return
        found: list[Step] = [None]
        began = self._monotonic_us()
        steps, now = run.steps, self._monotonic_us

        def work() -> None:
            until = now() + STEP_US
            while found[0] is None and now() < until:
                found[0] = next(steps)

        def done() -> None:
            pause = max(MIN_PAUSE_US, self._monotonic_us() - began)
            self._call_later(pause, lambda: self._go_on(run, found[0]))

        self._submit(run.store, work).when_settled(done)

    def _submit(self, store: ShardStore, work: Callable[[], None]) -> Promise[None]:
        promise = store.run(work)
        self._kick()
        return promise

    def _go_on(self, run: _Run, step: Step) -> None:
        if not self._there():
            self._run = None
        elif isinstance(step, Swap):
            self._swap(run, step)
        elif isinstance(step, Finished):
            self._finish(run, step)
        else:
            self._step()

    def _swap(self, run: _Run, swap: Swap) -> None:
        """The file that is ready takes the place of those it was made of."""
        log, disk = run.log, run.store.disk
        made = swap.made
        log.change(
            generation=swap.generation,
            made=made.path.rpartition("/")[2],
            replaced=tuple(file.path.rpartition("/")[2] for file in swap.replaced),
            gaps_until=max(log.state.gaps_until, log.high_watermark),
        )
        state, directory = log.state, log.directory
        cleaned = made.path.removesuffix(LOG) + CLEANED

        def rename() -> None:
            partition_state.save(directory, disk, state)
            disk.rename(cleaned, made.path)

        def remove() -> None:
            for file in swap.replaced:
                disk.remove(file.path)
                disk.remove(file.index_path)

        def exchanged() -> None:
            if not self._there():
                self._run = None
                return
            log.exchange(made, list(swap.replaced))
            self._submit(run.store, remove).when_settled(self._step)

        self._submit(run.store, rename).when_settled(exchanged)

    def _finish(self, run: _Run, end: Finished) -> None:
        log = run.log
        self._run = None
        log.compacting = False
        log.change(clean_offset=end.clean_offset)
        run.store.changed(log)
        self._count("storage_compactions", 1)
        self._count("storage_bytes_compacted", end.bytes_read)
        self._count("storage_bytes_freed_by_compaction", max(0, end.bytes_read - end.bytes_written))
