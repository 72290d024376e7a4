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
    """A reader: what it waits for, by shard."""

    __slots__ = ("promise", "rows")

    def __init__(self, rows: dict[int, list[Row]]) -> None:
        self.rows = rows
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
        """Settles when one has an end beyond the one that was seen, or after the time; whoever
        settles it before ends the wait."""
        by_shard: dict[int, list[Row]] = {}
        for row in partitions:
            by_shard.setdefault(self._shard_of(row[0], row[1]), []).append(row)
        waiter = _Waiter(by_shard)
        if timeout_ms <= 0 or any(self._ready(rows) for rows in by_shard.values()):
            waiter.promise.resolve(None)
            return waiter.promise
        number = self._next
        self._next += 1
        self._waiters[number] = waiter
        for shard in by_shard:
            self._by_shard.setdefault(shard, {})[number] = None
        self._wheel.set(("wait", str(number)), self._monotonic_ms() + timeout_ms)
        waiter.promise.when_settled(lambda: self._over(number))
        self.began()
        return waiter.promise

    def committed(self, shard: int) -> None:
        """A shard's commit may have moved high watermarks."""
        waiting = self._by_shard.get(shard)
        if waiting:
            for number in list(waiting):
                waiter = self._waiters.get(number)
                if waiter is not None and self._ready(waiter.rows[shard]):
                    waiter.promise.resolve(None)

    def fire(self, number: int) -> None:
        """Wake one reader."""
        waiter = self._waiters.get(number)
        if waiter is not None:
            waiter.promise.resolve(None)

    def _over(self, number: int) -> None:
        waiter = self._waiters.pop(number)
        self._wheel.set(("wait", str(number)), None)
        for shard in waiter.rows:
            self._by_shard[shard].pop(number, None)

    def _ready(self, rows: list[Row]) -> bool:
        for topic, partition, seen, isolation in rows:
            end = self._visible_end(topic, partition, isolation)
            if end is None or end > seen:
                return True
        return False
