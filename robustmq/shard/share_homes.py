"""A share group as the owner of a topic sees it: which homes have members, and whose turn it is.

A home is the shard of some members' sessions; its worker tells every owner how many members there
are connected, how many wait in persistent sessions, whether one of them has room, and how much they
have not acknowledged. The first is told when it changes; room and load at once when room ends and
else with the worker's tick (20 times a second at most), so they may be that stale; the owner adds
what it has given out itself since.

Invariants: only a home without any connected member is passed over for one that has some; a home
without room for one that has some, so that no message waits for a client while another could take
it. A home beyond its bound loses what it gets, so it is passed over by every strategy.
"""

from __future__ import annotations

from robustmq.core.hashing import mix
from robustmq.shard.strategies import KEEPS_KEYS, Dice, deal, key_of, rendezvous, wheel

MAX_KEPT_KEYS = 65_536
NEVER = 1 << 62

READY, WAITING, FULL = range(3)
"""A home has a connected member that can take a message now; only such that queue it; none that
can even queue it."""

Hands = list[tuple[int, list[int] | None]]
"""(home, records; None: all)."""


class Home:
    """What is known of the members of one home."""

    __slots__ = ("connected", "load", "oldest", "persistent", "shard", "state", "worker")

    def __init__(
        self, shard: int, worker: int, connected: int, persistent: int, oldest: int, state: int
    ) -> None:
        """`oldest` is since when its first connected member is there."""
        self.shard = shard
        self.worker = worker
        self.connected = connected
        self.persistent = persistent
        self.oldest = oldest
        self.state = state
        self.load = 0


class ShareHomes:
    """The homes of one share group."""

    __slots__ = (
        "_dice",
        "_here",
        "_kept",
        "_seed",
        "_turn",
        "_two",
        "_wheel",
        "empty",
        "filter",
        "group",
        "homes",
        "kept",
        "strategy",
        "sure",
    )

    def __init__(self, group: bytes, filter_: bytes, strategy: str, here: int, dice: Dice) -> None:
        """`here` is the worker of this owner."""
        self.group = group
        self.filter = filter_
        self.strategy = strategy
        self.homes: dict[int, Home] = {}
        self.kept = False
        """Has it a persistent member, so that what is acknowledged must reach it?"""
        self.empty = True
        """Is none of its members connected?"""
        self.sure = False
        """Of what was given out last: it is known that no member is connected, or has room."""
        self._here = here
        self._dice = dice
        self._seed = mix(filter_, mix(group, 1))
        self._wheel: list[int] = []
        self._two: tuple[int, int] | None = None
        # Groups and owners do not all begin with the same home.
        self._turn = dice.below(1 << 20)
        self._kept: dict[bytes, int] = {}

    def set(self, home: Home) -> None:
        """A home is so now."""
        before = self.homes.pop(home.shard, None)
        if home.connected or home.persistent:
            home.load = before.load if before is not None else 0
            self.homes[home.shard] = home
        self.kept = any(one.persistent for one in self.homes.values())
        self.empty = not any(one.connected for one in self.homes.values())
        self.changed()

    def load(self, shard: int, state: int, load: int) -> None:
        """What the members of a home have not acknowledged, and whether they have room."""
        home = self.homes.get(shard)
        if home is not None:
            home.load = load
            if home.state != state or state != READY:
                home.state = state
                self.changed()

    def changed(self) -> None:
        """The wheel and the winners of keys are to be found anew."""
        self._wheel = []
        self._kept.clear()

    def deal(self, count: int, topic: bytes, origin: int) -> Hands:
        """Give out the records of one entry; no hands when nobody is there."""
        if self.strategy in KEEPS_KEYS:
            shard = self._keeper(key_of(self.strategy, topic, origin))
            return [] if shard is None else [(shard, None)]
        slots = self._wheel
        if not slots:
            slots = self._wheel = self._slots()
            if not slots:
                return []
            different = sorted(set(slots))
            self._two = (different[0], different[1]) if len(different) == 2 else None
        if count == 1 or len(slots) == 1:
            shard = slots[0] if len(slots) == 1 else self._one(slots)
            self._turn += count
            self.homes[shard].load += count
            return [(shard, None)]
        if self.strategy in ("random", "least_inflight"):
            hands: dict[int, list[int]] = {}
            for index in range(count):
                shard = self._one(slots)
                self.homes[shard].load += 1
                hands.setdefault(shard, []).append(index)
        else:
            hands = deal(slots, self._turn, count)
            self._turn += count
            for shard, hand in hands.items():
                self.homes[shard].load += len(hand)
        if len(hands) == 1:
            return [(shard, None) for shard in hands]
        return list(hands.items())

    def _one(self, slots: list[int]) -> int:
        """The home of one record."""
        if self.strategy == "random":
            return slots[self._dice.below(len(slots))]
        if self.strategy != "least_inflight":
            return slots[self._turn % len(slots)]
        # The better of two taken at random: close to the best of all at any number of homes.
        one, two = self._two or (
            slots[self._dice.below(len(slots))],
            slots[self._dice.below(len(slots))],
        )
        first, second = self.homes[one], self.homes[two]
        return one if self._burden(first) < self._burden(second) else two

    @staticmethod
    def _burden(home: Home) -> float:
        return home.load / max(1, home.connected or home.persistent)

    def _slots(self) -> list[int]:
        """The wheel: of the homes with room; of those with the least load when none has room; of
        the persistent members when nobody is connected."""
        homes = [home for home in self.homes.values() if home.connected]
        if not homes:
            self.sure = True
            return wheel({home.shard: home.persistent for home in self.homes.values()})
        ready = [home for home in homes if home.state == READY]
        self.sure = not ready
        if self.strategy == "local_first":
            ready = [home for home in ready if home.worker == self._here] or ready
        if not ready:
            open_ = [home for home in homes if home.state == WAITING] or homes
            middle = sum(map(self._burden, open_)) / len(open_)
            ready = [home for home in open_ if self._burden(home) <= middle] or open_
        return wheel({home.shard: home.connected for home in ready})

    def _keeper(self, key: bytes) -> int | None:
        """The home that has the key (sticky: the group)."""
        if self.strategy == "sticky":
            key = b""
        shard = self._kept.get(key)
        if shard is None:
            shard = self._find_keeper(key)
            if shard is not None:
                if len(self._kept) >= MAX_KEPT_KEYS:
                    self._kept.clear()
                self._kept[key] = shard
        if shard is not None:
            self.homes[shard].load += 1
        return shard

    def _find_keeper(self, key: bytes) -> int | None:
        homes = list(self.homes.values())
        connected = [home for home in homes if home.connected]
        homes = [home for home in connected if home.state != FULL] or connected or homes
        if not homes:
            return None
        self.sure = not connected or all(home.state == FULL for home in connected)
        if self.strategy == "sticky":
            return min(homes, key=lambda home: (home.oldest, home.shard)).shard
        weights = {self._seed ^ home.shard: home for home in homes}
        winner = rendezvous(
            key, ((seed, home.connected or home.persistent) for seed, home in weights.items())
        )
        return None if winner is None else weights[winner].shard
