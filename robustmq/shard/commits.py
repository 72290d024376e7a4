"""One commit a shard and turn, whoever asked for it.

Everything that a turn appends to a shard's log, blocks, inbox entries and records of machines, is
committed together: one write and, where a persistent topic asks for it, one fdatasync. Whoever
waits is called back in the order of asking.

What nobody waits for (QoS 0 in mode hybrid) is committed behind: with the next commit that somebody
waits for, when LAZY_BYTES have gathered, or by `hurry`, which the broker's tick calls. Waking the
storage thread costs as much as delivering ten messages, so a turn that need not does not.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from robustmq.limits import COMMIT_BOUNDS_US
from robustmq.storage.shard_store import ShardStore

Callback = Callable[[], None]
LogKey = tuple[bytes, int]
"""A partition's log: topic and partition."""

LAZY_BYTES = 256 * 1024


class Latencies:
    """How long commits of a kind took: how many within each bound in microseconds, all, and the sum
    of their microseconds. One step a commit, however many messages it has."""

    def __init__(self, bounds_us: Sequence[int]) -> None:
        self._bounds_us = bounds_us
        self._counts = array("q", bytes(8 * (len(bounds_us) + 1)))
        self._sum_us = 0

    def add(self, taken_us: int) -> None:
        """One commit is done."""
        self._counts[bisect_left(self._bounds_us, taken_us)] += 1
        self._sum_us += taken_us

    def cells(self) -> list[int]:
        """Within each bound, all below it included; all; microseconds."""
        found: list[int] = []
        total = 0
        for count in self._counts:
            total += count
            found.append(total)
        return [*found, self._sum_us]


class Commits:
    """The shards that this turn has appended to, and who waits for their commit."""

    def __init__(
        self,
        stores: dict[int, ShardStore],
        kick: Callable[[], None],
        now_us: Callable[[], int] = lambda: 0,
        always_sync: bool = False,
    ) -> None:
        """`kick` runs what the stores have submitted to the storage thread; `always_sync`: they
        sync with every commit."""
        self._now_us = now_us
        self._always_sync = always_sync
        self.latencies = {kind: Latencies(COMMIT_BOUNDS_US) for kind in ("os", "disk")}
        self._kick = kick
        self._stores = stores
        self._dirty: dict[int, list[Callback]] = {}
        self._sync: set[int] = set()
        self._running = 0
        self._urgent = False
        self._accepted: list[Callback] = []
        self._lazy_bytes = 0
        self.count = 0
        self.syncs = 0
        self.committed: Callable[[int, set[LogKey] | None], None] = lambda shard, touched: None
        """Hears which logs a commit has touched; None: that is not known."""
        self.noted: Callable[[int], bool] = lambda shard: False
        """Is it worth knowing what a shard's commit touches?"""
        self._touched: dict[int, set[LogKey] | None] = {}
        self.wake: Callable[[], None] = lambda: None
        """Called when somebody waits for a flush: the turn's end must come, whoever appended."""
        self.awaited: Callable[[int], bool] = lambda shard: False

    def mark_lazy(self, shard: int, size: int) -> None:
        """The shard has `size` bytes to commit that nobody waits for, unless a reader does."""
        self._lazy_bytes += size
        if shard not in self._dirty:
            self._dirty[shard] = []
        if self._lazy_bytes > LAZY_BYTES or self.awaited(shard):
            self._urgent = True

    def mark(self, shard: int, sync: bool = False, callback: Callback | None = None) -> None:
        """The shard has something to commit; `sync` asks for fdatasync; `callback` runs when it is
        done."""
        if not self._urgent:
            self._urgent = True
            self.wake()
        waiting = self._dirty.get(shard)
        if waiting is None:
            waiting = self._dirty[shard] = []
        if sync:
            self._sync.add(shard)
        if callback is not None:
            waiting.append(callback)

    def appended(self, shard: int, logs: Callable[[], Iterable[LogKey]]) -> None:
        """Logs of a shard that the next commit makes longer."""
        if not self.noted(shard):
            self._touched[shard] = None
            return
        touched = self._touched.setdefault(shard, set())
        if touched is not None:
            touched.update(logs())

    def accept(self, callback: Callback) -> None:
        """What the callback waits for is in memory, and no more is asked for: it runs at the turn's
        end, whatever the disk does."""
        self._accepted.append(callback)
        self.wake()

    def hurry(self) -> None:
        """Commit what nobody waits for, too."""
        if self._dirty:
            self._urgent = True
            self.flush()

    def flush(self) -> None:
        """Hand what was appended to the storage thread, when somebody waits for it or much has
        gathered."""
        while self._accepted:
            accepted, self._accepted = self._accepted, []
            for callback in accepted:
                callback()
        if not self._urgent:
            return
        self._urgent = False
        self._lazy_bytes = 0
        dirty, self._dirty = self._dirty, {}
        sync, self._sync = self._sync, set()
        begin_us = self._now_us()
        touched = {shard: self._touched.pop(shard, set()) for shard in dirty}
        last = len(dirty) - 1
        for number, (shard, waiting) in enumerate(dirty.items()):
            self._running += 1
            self.count += 1
            self.syncs += shard in sync or self._always_sync
            promise = self._stores[shard].flush(shard in sync)
            if number == last:
                # They are written together: the last one is when all of them are there.
                kind = "disk" if sync or self._always_sync else "os"
                promise.when_settled(partial(self._took, kind, begin_us))
            promise.when_settled(
                lambda shard=shard, waiting=waiting, logs=touched[shard]: (  # type: ignore[misc]
                    self._done(shard, waiting, logs)
                )
            )
        self._kick()

    def _took(self, kind: str, begin_us: int) -> None:
        self.latencies[kind].add(self._now_us() - begin_us)

    def _done(self, shard: int, waiting: list[Callback], touched: set[LogKey] | None) -> None:
        self._running -= 1
        for callback in waiting:
            callback()
        self.committed(shard, touched)

    @property
    def idle(self) -> bool:
        """True when nothing is being committed or waits to be (a drain waits for it)."""
        return not (self._dirty or self._running or self._accepted)
