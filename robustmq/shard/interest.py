"""Who wants a topic.

Two tables. `LocalInterest` counts, on a subscriber's worker, how many of its clients want a filter,
and says when the first comes or the last goes: only that is told to owners. `OwnerInterest` holds,
on every worker, which **workers** want a filter (never which sessions), as bits of one integer: bit
2w for worker w, bit 2w+1 when one of its sessions is persistent, so that the owner must wait for
it. Share groups are kept beside, with their members per worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from robustmq.core.filters import FilterTrie
from robustmq.core.hash_table import HashTable
from robustmq.core.hashing import topic_key

WANTED = 1
PERSISTENT = 2

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


class ShareMembers:
    """The members of one share group by worker; picks workers in turn, in proportion to their
    connected members, and while there are none to their persistent ones."""

    __slots__ = ("_turn", "_wheel", "filter", "group", "members", "persistent")

    def __init__(self, group: bytes, filter_: bytes) -> None:
        self.group = group
        self.filter = filter_
        self.members: dict[int, int] = {}
        self.persistent: dict[int, int] = {}
        self._wheel: list[int] = []
        self._turn = 0

    def set(self, worker: int, members: int, persistent: int) -> None:
        """Worker `worker` has so many members now."""
        for table, count in ((self.members, members), (self.persistent, persistent)):
            if count:
                table[worker] = count
            else:
                table.pop(worker, None)
        self._wheel = []

    def pick(self) -> int | None:
        """The worker of the next record; None when nobody is there."""
        if not self._wheel:
            self._wheel = _interleave(self.members or self.persistent)
            self._turn = 0
        if not self._wheel:
            return None
        self._turn = (self._turn + 1) % len(self._wheel)
        return self._wheel[self._turn]


def _interleave(members: dict[int, int]) -> list[int]:
    """Each worker as often as it has members (at most 1024 in all), spread evenly."""
    total = sum(members.values())
    if not total:
        return []
    scale = min(1.0, 1024 / total)
    slots: list[tuple[float, int]] = []
    for worker in sorted(members):
        count = max(1, int(members[worker] * scale))
        slots.extend(((index + 0.5) / count, worker) for index in range(count))
    return [worker for _, worker in sorted(slots)]


class OwnerInterest:
    """Which workers want a topic of ours; answers are kept per topic until the interest changes."""

    def __init__(self) -> None:
        self._trie = FilterTrie()
        self._wanted: dict[bytes, int] = {}
        self._shares: dict[tuple[bytes, bytes], ShareMembers] = {}
        self._share_trie = FilterTrie()
        self.masks = HashTable(MAX_CACHED_TOPICS)
        self._share_cache: dict[bytes, list[ShareMembers]] = {}

    def set(self, worker: int, filter_: bytes, flags: int) -> None:
        """Worker `worker` wants `filter_` with `flags` (0: no more)."""
        before = self._wanted.get(filter_, 0)
        after = before & ~(3 << (2 * worker)) | flags << (2 * worker)
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

    def set_share(
        self, worker: int, group: bytes, filter_: bytes, members: int, persistent: int
    ) -> None:
        """Worker `worker` has so many members of `$share/group/filter`."""
        key = (group, filter_)
        share = self._shares.get(key)
        if share is None:
            if not members and not persistent:
                return
            share = self._shares[key] = ShareMembers(group, filter_)
            self._share_trie.insert(filter_, share)
        share.set(worker, members, persistent)
        if not share.members and not share.persistent:
            del self._shares[key]
            self._share_trie.remove(filter_, share)
        self._share_cache.clear()

    def reset(
        self,
        worker: int,
        filters: Iterable[tuple[bytes, int]],
        shares: Iterable[tuple[bytes, bytes, int, int]],
    ) -> None:
        """All that `worker` wants, replacing what it wanted before."""
        wanted = dict(filters)
        for filter_, _ in self._wanted_by(worker):
            if filter_ not in wanted:
                self.set(worker, filter_, 0)
        for filter_, flags in wanted.items():
            self.set(worker, filter_, flags)
        groups = {
            (group, filter_): (members, persistent)
            for group, filter_, members, persistent in shares
        }
        for key in list(self._shares):
            if key not in groups:
                self.set_share(worker, *key, 0, 0)
        for (group, filter_), (members, persistent) in groups.items():
            self.set_share(worker, group, filter_, members, persistent)

    def only_persistent(self, worker: int) -> None:
        """A worker went away: keep what its persistent sessions want, forget the rest."""
        for filter_, flags in self._wanted_by(worker):
            if flags != WANTED | PERSISTENT:
                self.set(worker, filter_, 0)
        for share in list(self._shares.values()):
            # Members that are persistent stay; while others are connected those take over.
            count = share.persistent.get(worker, 0)
            self.set_share(worker, share.group, share.filter, 0, count)

    def _wanted_by(self, worker: int) -> list[tuple[bytes, int]]:
        """The filters of a worker, with their flags."""
        shift = 2 * worker
        return [
            (filter_, mask >> shift & 3)
            for filter_, mask in self._wanted.items()
            if mask >> shift & 3
        ]

    def mask(self, topic: bytes) -> int:
        """The bits of the workers that want a topic."""
        mask = 0
        # A name that only Kafka can have (names.from_kafka) is no MQTT topic: not even `#` matches
        # it.
        if topic[:1] != b"\0":
            for bits in self._trie.match(topic):
                mask |= bits  # type: ignore[operator]
        self.masks.put(topic_key(topic), mask)
        return mask

    @property
    def has_shares(self) -> bool:
        """True when any share group has members."""
        return bool(self._shares)

    def share(self, group: bytes, filter_: bytes) -> ShareMembers | None:
        """The members of one group; None when it has none."""
        return self._shares.get((group, filter_))

    def shares(self, topic: bytes) -> list[ShareMembers]:
        """The share groups that want a topic."""
        found = self._share_cache.get(topic)
        if found is None:
            matched = self._share_trie.match(topic) if topic[:1] != b"\0" else []
            found = [share for share in matched if isinstance(share, ShareMembers)]
            if len(self._share_cache) >= MAX_CACHED_TOPICS:
                self._share_cache.clear()
            self._share_cache[topic] = found
        return found

    def _forget_answers(self, filter_: bytes) -> None:
        if is_wildcard(filter_):
            self.masks.clear()
        elif self.masks.find(topic_key(filter_)) is not None:
            self.mask(filter_)
