"""Readers that wait for an append: Kafka fetches at the end of a log.

A waiting reader is one row here, woken by the commit of a shard that moves a high watermark (or,
for readers of committed transactions, a last stable offset) it waits for, or by the time wheel.
Nothing else waits: no task, no timer of its own, no connection's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from robustmq.groups.timers import TimeWheel
from robustmq.promises import Promise

Row = tuple[bytes, int, int, int]
"""(topic, partition, the end that was seen, isolation)"""
VisibleEnd = Callable[[bytes, int, int], "int | None"]


class _Waiter:
    __slots__ = ("partitions", "promise", "shards")

    def __init__(self, partitions: list[Row], shards: set[int]) -> None:
        self.partitions = partitions
        self.shards = shards
        self.promise: Promise[None] = Promise()


class AppendWaits:
    """The readers that wait for partitions held on this worker."""

    def __init__(
        self,
        wheel: TimeWheel[tuple[str, ...]],
        monotonic_ms: Callable[[], int],
        shard_of: Callable[[bytes, int], int],
        visible_end: VisibleEnd,
    ) -> None:
        """`visible_end(topic, partition, isolation)` is the high watermark, or with isolation 1 the
        last stable offset; None for a partition that is not held here."""
        self._wheel = wheel
        self._monotonic_ms = monotonic_ms
        self._shard_of = shard_of
        self._visible_end = visible_end
        self._waiters: dict[int, _Waiter] = {}
        self._by_shard: dict[int, dict[int, None]] = {}
        self._next = 1
        self.began: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._waiters)

    def awaited(self, shard: int) -> bool:
        """Does a reader wait for a partition of this shard?"""
        return bool(self._by_shard.get(shard))

    def wait(self, partitions: Iterable[Row], timeout_ms: int) -> Promise[None]:
        """Settles when one has an end beyond the one that was seen, or after the time."""
        rows = list(partitions)
        waiter = _Waiter(rows, {self._shard_of(topic, number) for topic, number, _, _ in rows})
        if timeout_ms <= 0 or self._ready(waiter):
            waiter.promise.resolve(None)
            return waiter.promise
        number = self._next
        self._next += 1
        self._waiters[number] = waiter
        for shard in waiter.shards:
            self._by_shard.setdefault(shard, {})[number] = None
        self._wheel.set(("wait", str(number)), self._monotonic_ms() + timeout_ms)
        self.began()
        return waiter.promise

    def committed(self, shard: int) -> None:
        """A shard's commit may have moved high watermarks."""
        waiting = self._by_shard.get(shard)
        if waiting:
            for number in list(waiting):
                if self._ready(self._waiters[number]):
                    self._wheel.set(("wait", str(number)), None)
                    self.fire(number)

    def fire(self, number: int) -> None:
        """Wake one reader."""
        waiter = self._waiters.pop(number, None)
        if waiter is None:
            return
        for shard in waiter.shards:
            self._by_shard[shard].pop(number, None)
        waiter.promise.resolve(None)

    def _ready(self, waiter: _Waiter) -> bool:
        for topic, partition, seen, isolation in waiter.partitions:
            end = self._visible_end(topic, partition, isolation)
            if end is None or end > seen:
                return True
        return False
