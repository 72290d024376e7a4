"""Who wants a topic.

Two tables. `LocalInterest` counts, on a subscriber's worker, how many of its clients want a filter,
and says when the first comes or the last goes: only that is told to owners. `OwnerInterest` holds,
on every worker, which **workers** want a filter (never which sessions), as bits of one integer: bit
2w+2 for worker w, bit 2w+3 when one of its sessions is persistent, so that the owner must wait for
it. Bits 0 and 1 say the same of share groups, which are kept beside (`share_homes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from robustmq.core.filters import FilterTrie
from robustmq.core.hash_table import HashTable
from robustmq.core.hashing import topic_key
from robustmq.shard.share_homes import NEVER, WAITING, Home, ShareHomes
from robustmq.shard.strategies import Dice
from robustmq.shard.wire import ShareChange, ShareLoads

WANTED = 1
PERSISTENT = 2
SHARED = 1
"""In a mask: a share group wants it."""
KEPT = 2
"""In a mask: one with a persistent member, which what is acknowledged must reach."""

MAX_CACHED_TOPICS = 65536


def is_wildcard(filter_: bytes) -> bool:
    """A filter that any owner may have topics for."""
    return b"+" in filter_ or b"#" in filter_


class LocalInterest:
    """How many local subscriptions want each filter; tells what changed for others.

    Both counts of a filter are one number, persistent ones above 32 bits: a million filters are a
    million numbers, not lists.
    """

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def add(self, filter_: bytes, persistent: bool) -> int | None:
        """Count one more; the new flags when they changed, else None."""
        return self._change(filter_, 1 << 32 if persistent else 1)

    def remove(self, filter_: bytes, persistent: bool) -> int | None:
        """Count one less; the new flags (0: nobody) when they changed, else None."""
        return self._change(filter_, -1 << 32 if persistent else -1)

    def _change(self, filter_: bytes, step: int) -> int | None:
        before = self._counts.get(filter_, 0)
        after = before + step
        assert after >= 0, "a subscription is removed once"
        if after:
            self._counts[filter_] = after
        else:
            del self._counts[filter_]
        flags = _flags(after)
        return flags if flags != _flags(before) else None

    def items(self) -> Iterator[tuple[bytes, int]]:
        """All filters with their flags."""
        return ((filter_, _flags(counts)) for filter_, counts in self._counts.items())


def _flags(counts: int) -> int:
    if counts >> 32:
        return WANTED | PERSISTENT
    return WANTED if counts else 0


def bits_of(worker: int, flags: int) -> int:
    """The bits of a mask that say this of a worker."""
    return flags << (2 * worker + 2)


class OwnerInterest:
    """Which workers want a topic of ours; answers are kept per topic until the interest changes."""

    def __init__(self, worker_id: int, dice: Dice, strategy: Callable[[bytes, bytes], str]) -> None:
        """`strategy` of (group, filter), by the settings."""
        self._worker_id = worker_id
        self._dice = dice
        self.strategy = strategy
        self._trie = FilterTrie()
        self._wanted: dict[bytes, int] = {}
        self._shares: dict[tuple[bytes, bytes], ShareHomes] = {}
        self._share_trie = FilterTrie()
        self.masks = HashTable(MAX_CACHED_TOPICS)
        self._share_cache: dict[bytes, list[ShareHomes]] = {}

    def set(self, worker: int, filter_: bytes, flags: int) -> None:
        """Worker `worker` wants `filter_` with `flags` (0: no more)."""
        before = self._wanted.get(filter_, 0)
        after = before & ~bits_of(worker, 3) | bits_of(worker, flags)
        if before == after:
            return
        if before:
            self._trie.remove(filter_, before)
        if after:
            self._trie.insert(filter_, after)
            self._wanted[filter_] = after
        else:
            del self._wanted[filter_]
        self._forget_answers(filter_)

    def set_share(self, worker: int, change: ShareChange) -> None:
        """Worker `worker` has these members of `$share/group/filter` at one of its homes."""
        key = (change.group, change.filter)
        share = self._shares.get(key)
        before = share is not None and share.kept
        if share is None:
            if not change.connected and not change.persistent:
                return
            strategy = self.strategy(*key)
            share = ShareHomes(*key, strategy, self._worker_id, self._dice)
            self._shares[key] = share
            self._share_trie.insert(change.filter, share)
            self._forget_shares(change.filter)
        share.set(
            Home(
                change.home,
                worker,
                change.connected,
                change.persistent,
                change.oldest,
                change.state,
            )
        )
        if not share.homes:
            del self._shares[key]
            self._share_trie.remove(change.filter, share)
            self._forget_shares(change.filter)
        elif share.kept != before:
            self._forget_answers(change.filter)

    def set_loads(self, message: ShareLoads) -> None:
        """What members of share groups have not acknowledged, and whether they have room."""
        for group, filter_, home, state, load in message.rows:
            share = self._shares.get((group, filter_))
            if share is not None:
                share.load(home, state, load)

    def _forget_shares(self, filter_: bytes) -> None:
        self._share_cache.clear()
        self._forget_answers(filter_)

    def reload(self) -> None:
        """The settings may give groups other strategies."""
        for (group, filter_), share in self._shares.items():
            share.strategy = self.strategy(group, filter_)
            share.changed()

    def reset(
        self,
        worker: int,
        filters: Iterable[tuple[bytes, int]],
        shares: list[ShareChange],
    ) -> None:
        """All that `worker` wants, replacing what it wanted before."""
        wanted = dict(filters)
        for filter_, _ in self._wanted_by(worker):
            if filter_ not in wanted:
                self.set(worker, filter_, 0)
        for filter_, flags in wanted.items():
            self.set(worker, filter_, flags)
        told = {(change.group, change.filter, change.home) for change in shares}
        for share in list(self._shares.values()):
            for home in list(share.homes.values()):
                if home.worker == worker and (share.group, share.filter, home.shard) not in told:
                    self._clear(share, home, 0)
        for change in shares:
            self.set_share(worker, change)

    def _clear(self, share: ShareHomes, home: Home, persistent: int) -> None:
        """Nobody is connected at a home."""
        change = ShareChange(share.group, share.filter, home.shard, 0, persistent, NEVER, WAITING)
        self.set_share(home.worker, change)

    def only_persistent(self, worker: int) -> None:
        """A worker went away: keep what its persistent sessions want, forget the rest."""
        for filter_, flags in self._wanted_by(worker):
            if flags != WANTED | PERSISTENT:
                self.set(worker, filter_, 0)
        for share in list(self._shares.values()):
            # Members that are persistent stay; while others are connected those take over.
            for home in list(share.homes.values()):
                if home.worker == worker:
                    self._clear(share, home, home.persistent)

    def _wanted_by(self, worker: int) -> list[tuple[bytes, int]]:
        """The filters of a worker, with their flags."""
        shift = 2 * worker + 2
        return [
            (filter_, mask >> shift & 3)
            for filter_, mask in self._wanted.items()
            if mask >> shift & 3
        ]

    def mask(self, topic: bytes) -> int:
        """The bits of the workers that want a topic."""
        if not self._wanted and not self._shares:
            # Not kept either: with a million topics to publish to, that costs more than to ask.
            return 0
        mask = 0
        # A name that only Kafka can have (names.from_kafka) is no MQTT topic: not even `#` matches
        # it.
        if topic[:1] != b"\0":
            for bits in self._trie.match(topic):
                mask |= bits  # type: ignore[operator]
            if self._shares:
                for share in self.shares(topic):
                    mask |= SHARED | KEPT if share.kept else SHARED
        self.masks.put(topic_key(topic), mask)
        return mask

    def share(self, group: bytes, filter_: bytes) -> ShareHomes | None:
        """The homes of one group; None when it has none."""
        return self._shares.get((group, filter_))

    def shares(self, topic: bytes) -> list[ShareHomes]:
        """The share groups that want a topic."""
        found = self._share_cache.get(topic)
        if found is None:
            matched = self._share_trie.match(topic) if topic[:1] != b"\0" else []
            found = [share for share in matched if isinstance(share, ShareHomes)]
            if len(self._share_cache) >= MAX_CACHED_TOPICS:
                self._share_cache.clear()
            self._share_cache[topic] = found
        return found

    def _forget_answers(self, filter_: bytes) -> None:
        if is_wildcard(filter_):
            self.masks.clear()
        elif self.masks.find(topic_key(filter_)) is not None:
            self.mask(filter_)
