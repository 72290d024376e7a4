"""Members of share groups that wait for records: ShareFetch's long poll.

A waiting member is one row, as in robustmq.shard.waits, but what it waits for can be had once: a
record that comes, a lock that is released. So a commit wakes one member for each share-partition
that has something, the one that has waited longest; what it takes is a commit too, and wakes the
next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robustmq.groups.timers import TimeWheel
from robustmq.kafka.share_events import ShareKey
from robustmq.promises import Promise


class ShareWaits:
    """The members that wait for share-partitions held on this worker."""

    def __init__(
        self,
        wheel: TimeWheel[tuple[str, ...]],
        monotonic_ms: Callable[[], int],
        shard_of: Callable[[bytes, int], int],
        ready: Callable[[ShareKey], bool],
    ) -> None:
        self._wheel = wheel
        self._monotonic_ms = monotonic_ms
        self._shard_of = shard_of
        self._ready = ready
        self._waiters: dict[int, tuple[Sequence[ShareKey], Promise[None]]] = {}
        self._by_shard: dict[int, dict[ShareKey, dict[int, None]]] = {}
        self._next = 1
        self.commits = 0
        """How many commits there were: who has looked before the last one looks again."""
        self.began: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._waiters)

    def awaited(self, shard: int) -> bool:
        """Does a member wait for a partition of this shard?"""
        return shard in self._by_shard

    def wait(self, keys: Sequence[ShareKey], seen: int, timeout_ms: int) -> Promise[None]:
        """Settles when one of them may have something, or after the time; `seen` is `commits` as it
        was when there was nothing.
        """
        promise: Promise[None] = Promise()
        if timeout_ms <= 0 or (seen != self.commits and any(map(self._ready, keys))):
            promise.resolve(None)
            return promise
        number = self._next
        self._next += 1
        self._waiters[number] = keys, promise
        promise.when_settled(lambda: self.fire(number))
        for key in keys:
            shard = self._shard_of(key.topic, key.partition)
            self._by_shard.setdefault(shard, {}).setdefault(key, {})[number] = None
        self._wheel.set(("share-wait", str(number)), self._monotonic_ms() + timeout_ms)
        self.began()
        return promise

    def committed(self, shard: int) -> None:
        """A shard's commit may have brought records, or changed what members hold."""
        self.commits += 1
        waiting = self._by_shard.get(shard)
        if waiting:
            for key in list(waiting):
                numbers = waiting.get(key)
                if numbers and self._ready(key):
                    self.fire(next(iter(numbers)))

    def at_hand(self, key: ShareKey) -> None:
        """Records of a share-partition that were not at hand are, or cannot be had: whoever has
        looked before looks again, and who waits is woken."""
        self.commits += 1
        for number in list(
            self._by_shard.get(self._shard_of(key.topic, key.partition), {}).get(key, ())
        ):
            self.fire(number)

    def fire(self, number: int) -> None:
        """Wake one member."""
        found = self._waiters.pop(number, None)
        if found is None:
            return
        keys, promise = found
        self._wheel.set(("share-wait", str(number)), None)
        for key in keys:
            shard = self._shard_of(key.topic, key.partition)
            waiting = self._by_shard[shard]
            waiting[key].pop(number, None)
            if not waiting[key]:
                del waiting[key]
            if not waiting:
                del self._by_shard[shard]
        promise.resolve(None)
