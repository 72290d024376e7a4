"""Readers that wait for an append: Kafka fetches at the end of a log.

A waiting reader is one row here, woken by the commit of a shard that moves a high watermark (or,
for readers of committed transactions, a last stable offset) it waits for, or by the time wheel.
Nothing else waits: no task, no timer of its own, no connection's loop.

A commit looks at what it has touched alone, where many wait (`Commits.appended` gathers that), and
at a few others in turn, so that whoever was not told of is found all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from robustmq.groups.timers import TimeWheel
from robustmq.promises import Promise
from robustmq.shard.commits import LogKey

Row = tuple[bytes, int, int, int]
"""(topic, partition, the end that was seen, isolation)"""
VisibleEnd = Callable[[bytes, int, int], "int | None"]
FEW = 32
"""Partitions waited for of a shard: up to so many are all looked at with each commit."""
IN_TURN = 16
_Rows = dict[int, list[tuple[int, int]]]
"""By waiter: the ends that were seen, with their isolations."""


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
        self._by_shard: dict[int, OrderedDict[LogKey, _Rows]] = {}
        self._next = 1
        self.began: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._waiters)

    def awaited(self, shard: int) -> bool:
        """Does a reader wait for a partition of this shard?"""
        return bool(self._by_shard.get(shard))

    def many(self, shard: int) -> bool:
        """Is it worth knowing what a commit has touched?"""
        waiting = self._by_shard.get(shard)
        return waiting is not None and len(waiting) > FEW

    def wait(self, partitions: Iterable[Row], timeout_ms: int) -> Promise[None]:
        """Settles when one has an end beyond the one that was seen, or after the time; whoever
        settles it before ends the wait."""
        by_shard: dict[int, list[Row]] = {}
        for row in partitions:
            by_shard.setdefault(self._shard_of(row[0], row[1]), []).append(row)
        waiter = _Waiter(by_shard)
        if timeout_ms <= 0 or any(self._ready(row) for rows in by_shard.values() for row in rows):
            waiter.promise.resolve(None)
            return waiter.promise
        number = self._next
        self._next += 1
        self._waiters[number] = waiter
        for shard, rows in by_shard.items():
            waiting = self._by_shard.setdefault(shard, OrderedDict())
            for topic, partition, seen, isolation in rows:
                of_log = waiting.setdefault((topic, partition), {})
                of_log.setdefault(number, []).append((seen, isolation))
        self._wheel.set(("wait", str(number)), self._monotonic_ms() + timeout_ms)
        waiter.promise.when_settled(lambda: self._over(number))
        self.began()
        return waiter.promise

    def committed(self, shard: int, touched: set[LogKey] | None = None) -> None:
        """A shard's commit may have moved high watermarks: those of what it touched; None: of
        anything."""
        waiting = self._by_shard.get(shard)
        if not waiting:
            return
        if touched is None or len(waiting) <= FEW:
            touched = None
            keys = list(waiting)
        elif len(touched) < len(waiting):
            keys = [key for key in touched if key in waiting]
        else:
            keys = [key for key in waiting if key in touched]
        for key in keys:
            self._look(waiting, key)
        if touched is not None:
            for _ in range(min(IN_TURN, len(waiting))):
                key = next(iter(waiting))
                waiting.move_to_end(key)
                self._look(waiting, key)

    def _look(self, waiting: OrderedDict[LogKey, _Rows], key: LogKey) -> None:
        """Wake whoever waits for a partition that has more than was seen."""
        for number, rows in list(waiting.get(key, {}).items()):
            waiter = self._waiters.get(number)
            if waiter is not None and any(self._ready((*key, *row)) for row in rows):
                waiter.promise.resolve(None)

    def fire(self, number: int) -> None:
        """Wake one reader."""
        waiter = self._waiters.get(number)
        if waiter is not None:
            waiter.promise.resolve(None)

    def _over(self, number: int) -> None:
        waiter = self._waiters.pop(number)
        self._wheel.set(("wait", str(number)), None)
        for shard, rows in waiter.rows.items():
            waiting = self._by_shard[shard]
            for topic, partition, _, _ in rows:
                of_log = waiting.get((topic, partition))
                if of_log is not None:
                    of_log.pop(number, None)
                    if not of_log:
                        del waiting[topic, partition]

    def _ready(self, row: Row) -> bool:
        topic, partition, seen, isolation = row
        end = self._visible_end(topic, partition, isolation)
        return end is None or end > seen
