"""What a worker lets go of, and makes smaller, as time passes: retention and compaction.

Rounds over all open partitions, in slices of SLICE a tick, so that the loop is never held. A round
begins every `storage.retention_check_s`. What retention lets go is gone for readers at once; its
files follow on the storage thread, with the next commit of their shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from robustmq.shard.commits import Commits
from robustmq.shard.partitions import HeldLog, Partitions
from robustmq.storage.shard_store import ShardStore

SLICE = 200


class Cleaning:
    """The rounds of one worker."""

    def __init__(
        self,
        partitions: Partitions,
        stores: dict[int, ShardStore],
        commits: Commits,
        wall_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
        count: Callable[[str, int], None],
        interval_ms: int,
    ) -> None:
        """A round begins every `interval_ms`."""
        self.interval_ms = interval_ms
        self._partitions = partitions
        self._stores = stores
        self._commits = commits
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._count = count
        self._round: Iterator[HeldLog] | None = None
        self._due_ms = monotonic_ms() + interval_ms

    def tick(self) -> None:
        """Twenty times a second: a slice of the round that runs, or the begin of the next."""
        if self._round is None:
            now = self._monotonic_ms()
            if now < self._due_ms:
                return
            self._due_ms = now + self.interval_ms
            self._round = self._partitions.walk()
        now_ms = self._wall_ms()
        for _ in range(SLICE):
            held = next(self._round, None)
            if held is None:
                self._round = None
                return
            self._retain(held, now_ms)

    def _retain(self, held: HeldLog, now_ms: int) -> None:
        freed = held.log.retain(now_ms)
        if freed:
            self._count("storage_bytes_expired", freed)
            self._stores[held.shard].changed(held.log)
            self._commits.mark(held.shard)
