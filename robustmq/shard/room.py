"""Where nothing can be appended for want of room: a disk that is full, a shard that is at its cap.

Invariant: a publisher of MQTT 3.1.1, which has no word for a refusal but the end of its connection,
never has a message taken that it sent behind one that was refused: sent again, the refused one
would stand behind it. So every worker is told of the shards that are closed, and refuses itself,
whereupon such a connection ends at once; what it had sent before it knew is refused here until it
has answered, also when there is room again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise

DISK_RESERVE_BYTES = 32 * 1024 * 1024
"""A disk with less than this free is full: LevelDB can go on where it cannot wait."""
CAP_RESUMES = 0.95
"""A shard that was at its cap takes records again when it is below this part of it."""


class Room:
    """The shards held here that are closed, and who knows."""

    def __init__(
        self,
        workers: Callable[[], Iterable[int]],
        source_of: Callable[[int], int],
        tell: Callable[[int, list[int]], Promise[object]],
    ) -> None:
        """`workers` are those that can be told; `source_of` is the name of a worker's frames;
        `tell(worker, shards)` says which are closed, and is settled when the worker knows."""
        self._workers = workers
        self._source_of = source_of
        self._tell = tell
        self._full: frozenset[int] = frozenset()
        self._capped: frozenset[int] = frozenset()
        self._unanswered: Counter[int] = Counter()

    @property
    def closed(self) -> frozenset[int]:
        """The shards that take nothing."""
        return self._full | self._capped

    @property
    def open(self) -> bool:
        """Is all of what comes taken?"""
        return not (self._full or self._capped or self._unanswered)

    @property
    def is_full(self) -> bool:
        """Has the disk no room?"""
        return bool(self._full)

    def disk_full(self, shards: Iterable[int]) -> None:
        """These have no room on the disk: all that are held here, or none."""
        before, self._full = self.closed, frozenset(shards)
        self._changed(before)

    def measure(self, sizes: dict[int, int], cap: int) -> tuple[set[int], set[int]]:
        """The bytes that each shard has on the disk, and how many it may have, 0: no bound; the
        shards that are at their cap from now on, and those that are no longer."""
        before, capped = self.closed, self._capped
        self._capped = frozenset(
            shard
            for shard, size in sizes.items()
            if cap and size >= (cap * CAP_RESUMES if shard in capped else cap)
        )
        self._changed(before)
        return set(self._capped - capped), set(capped - self._capped)

    def _changed(self, before: frozenset[int]) -> None:
        if self.closed != before:
            for worker in self._workers():
                self.worker_up(worker)

    def worker_up(self, worker: int) -> None:
        """Tell a worker how things stand."""
        source = self._source_of(worker)
        self._unanswered[source] += 1

        def answered() -> None:
            self._unanswered[source] -= 1
            if not self._unanswered[source]:
                del self._unanswered[source]

        self._tell(worker, sorted(self.closed)).when_settled(answered)

    def check(self, shard: int, source: int) -> None:
        """May a frame of this source be appended to a shard? Raises STORAGE_FULL."""
        if shard in self._full:
            raise BrokerError(Fault.STORAGE_FULL, "the disk is full")
        if shard in self._capped:
            raise BrokerError(Fault.STORAGE_FULL, "the shard is at storage.shard_max_bytes")
        if source in self._unanswered:
            raise BrokerError(Fault.STORAGE_FULL, "there was no room")
