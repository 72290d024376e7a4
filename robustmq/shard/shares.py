"""The members of share groups on their own worker (MQTT 5.0 section 4.8.2): whose turn it is.

The owner of a topic picks a home (the shard of some members' sessions, see `share_homes`); here the
member is picked among those of that home. A message goes to a connected member that has room: in
its window for QoS 1 and 2, in its outbound buffer for QoS 0. When none has, it goes to the one with
the least to do, and when none is connected, to one whose session persists. Strategies that keep
keys together pass a member over only when its queue is full. A delivery knows its group by a mark
in its flags, the checksum of the filter, so that a recovered session knows it too.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence

from robustmq.core.audience import Variant
from robustmq.core.fanout import identifiers_property
from robustmq.mqtt.subscriptions import Subscription
from robustmq.shard.share_homes import FULL, NEVER, READY, WAITING
from robustmq.shard.strategies import KEEPS_KEYS, Dice, key_of, rendezvous
from robustmq.shard.subscriber import Subscriber

RETAIN_FLAG = 1
_MARK_SHIFT = 1
MAX_KEPT_KEYS = 65_536
_TRIES = 16


class LocalSubscription:
    """A subscription of a local client: what the trie holds."""

    __slots__ = ("filter", "persistent", "subscriber", "subscription")

    def __init__(
        self,
        filter_: bytes,
        subscriber: Subscriber,
        subscription: Subscription,
        persistent: bool,
    ) -> None:
        self.filter = filter_
        self.persistent = persistent
        self.subscriber = subscriber
        self.subscription = subscription

    def sees(self, topic: bytes) -> bool:
        """Is a topic that the filter matches one that the client can see? Its mount point's own
        name is not (`#` matches its parent too), nor are names that begin with `$` in it for a
        wildcard [MQTT-4.7.2-1]."""
        mount = self.subscriber.session.mount
        if not mount:
            return True
        if not topic.startswith(mount):
            return False
        first = self.filter[len(mount) : len(mount) + 1]
        return first not in (b"+", b"#") or topic[len(mount) : len(mount) + 1] != b"$"


class Member(LocalSubscription):
    """The subscription of a member of a share group."""

    __slots__ = ("joined", "variant")

    def __init__(
        self,
        filter_: bytes,
        subscriber: Subscriber,
        subscription: Subscription,
        persistent: bool,
        joined: int,
    ) -> None:
        """`joined`: since when its client is there, in ms."""
        super().__init__(filter_, subscriber, subscription, persistent)
        self.joined = joined
        identifier = subscription.subscription_identifier
        self.variant = Variant(
            subscriber.session.version,
            0,
            subscription.retain_as_published,
            identifiers_property((identifier,) if identifier else ()),
            [subscriber.sink],
            subscriber.strip,
        )
        """How it gets messages of QoS 0."""

    @property
    def waits(self) -> bool:
        """Does it take messages while its client is away?"""
        return self.persistent and (self.subscription.qos > 0 or self.subscriber.keeps_qos0)

    def load(self) -> int:
        """Messages that it has not acknowledged."""
        subscriber = self.subscriber
        window = subscriber.session.window
        waiting = window.in_flight + window.queued + subscriber.unqueued
        return waiting + (len(subscriber.sink.data) >> 12)

    def room(self, wanted: int, counts: bool) -> int:
        """How many of these messages it can send at once; `counts`: they take places in windows."""
        subscriber = self.subscriber
        sink = subscriber.sink
        if not subscriber.serving or (sink.limit and len(sink.data) > sink.limit):
            return 0
        if not self.subscription.qos:
            return wanted
        window = subscriber.session.window
        busy = window.in_flight + window.queued + subscriber.unqueued
        free = window.receive_maximum - busy
        return max(0, min(wanted, free) if counts or free <= 0 else wanted)

    def has_room(self, given: int = 0) -> bool:
        """Can it send `given` messages and one more at once?"""
        return self.room(given + 1, True) > given

    def places(self, wanted: int) -> int:
        """How many of these messages it can take, to be sent later."""
        subscriber = self.subscriber
        window = subscriber.session.window
        if not self.subscription.qos:
            return self.room(wanted, False)
        if window.queued_bytes >= window.maximum_queued_bytes:
            return 0
        free = window.maximum_queued - window.queued - subscriber.unqueued
        return max(0, min(wanted, free))

    def has_place(self, given: int = 0) -> bool:
        """Can it take `given` messages and one more, to be sent later?"""
        return self.places(given + 1) > given


Hand = tuple[Member, Sequence[int]]


class HomeGroup:
    """The members of a share group whose sessions live in one shard."""

    __slots__ = (
        "_dice",
        "_kept",
        "_turn",
        "filter",
        "group",
        "home",
        "members",
        "strategy",
        "told",
    )

    def __init__(self, group: bytes, filter_: bytes, home: int, strategy: str, dice: Dice) -> None:
        self.group = group
        self.filter = filter_
        self.home = home
        self.strategy = strategy
        self.members: list[Member] = []
        self.told = READY
        """The state that owners know."""
        self._turn = dice.below(1 << 20)
        self._dice = dice
        self._kept: dict[bytes, Member] = {}

    def changed(self) -> None:
        """Members came, went, connected or disconnected."""
        self._kept.clear()

    def counts(self) -> tuple[int, int, int]:
        """How many members are connected, how many wait while they are away, and since when the
        first connected one is there."""
        connected = [local.joined for local in self.members if local.subscriber.serving]
        waiting = sum(local.waits for local in self.members)
        return len(connected), waiting, min(connected, default=NEVER)

    def state(self) -> int:
        """Has a connected member room for a message, or place in its queue?"""
        connected = [local for local in self.members if local.subscriber.serving]
        if not connected or any(local.has_room() for local in connected):
            return READY
        return WAITING if any(local.has_place() for local in connected) else FULL

    def load(self) -> int:
        """What the connected members have not acknowledged."""
        return sum(local.load() for local in self.members if local.subscriber.serving)

    def fitting(self, wanted: int, counts: bool) -> int:
        """How many of these messages connected members have room for: now, or if keys stay
        together in their queues."""
        there = [local for local in self.members if local.subscriber.serving]
        if self.strategy in KEEPS_KEYS:
            return max((local.places(wanted) for local in there), default=0)
        room = 0
        for local in there:
            room += local.room(wanted, counts)
            if room >= wanted:
                return wanted
        return room

    def deal(self, indexes: Sequence[int], counts: bool, topic: bytes, origin: int) -> list[Hand]:
        """Who gets which of these records of an entry; nothing when nobody can. `counts`: they
        take places in windows."""
        if self.strategy in KEEPS_KEYS:
            return self._keep_together(indexes, key_of(self.strategy, topic, origin))
        members = self.members
        if len(members) == 1:
            return [(members[0], indexes)] if self._takes(members[0]) else []
        if not counts and len(indexes) >= len(members) and self.strategy != "random":
            return self._all_round(indexes)
        hands: dict[int, tuple[Member, list[int]]] = {}
        given: dict[int, int] = {}
        heap: list[tuple[int, int]] | None = None
        if self.strategy == "least_inflight":
            heap = self._heap()
        for index in indexes:
            place = self._next(given) if heap is None else None
            if place is None:
                heap = self._heap() if heap is None else heap
                if not heap:
                    return []
                load, place = heapq.heappop(heap)
                heapq.heappush(heap, (load + 1, place))
            if counts:
                given[place] = given.get(place, 0) + 1
            row = hands.get(place)
            if row is None:
                hands[place] = (members[place], [index])
            else:
                row[1].append(index)
        return list(hands.values())

    @staticmethod
    def _takes(local: Member) -> bool:
        return local.subscriber.serving or local.waits

    def _all_round(self, indexes: Sequence[int]) -> list[Hand]:
        """Many messages of QoS 0, to each member with room in turn."""
        ready = [local for local in self.members if local.has_room()]
        if not ready:
            ready = [local for local in self.members if local.subscriber.serving]
        size = len(ready)
        hands: list[Hand] = []
        for place, local in enumerate(ready):
            first = (place - self._turn) % size
            hands.append((local, indexes[first::size]))
        self._turn += len(indexes)
        return [hand for hand in hands if hand[1]]

    def _next(self, given: dict[int, int]) -> int | None:
        """The place of the next member with room; None when none has."""
        members = self.members
        size = len(members)
        if self.strategy == "random":
            for _ in range(_TRIES):
                place = self._dice.below(size)
                if members[place].has_room(given.get(place, 0)):
                    return place
        for _ in range(size):
            place = self._turn % size
            self._turn = place + 1
            if members[place].has_room(given.get(place, 0)):
                return place
        return None

    def _heap(self) -> list[tuple[int, int]]:
        """(what it has to do, place) of the members that can take a message, the least first. Equal
        ones take turns."""
        members = self.members
        size = len(members)
        self._turn += 1
        order = [(self._turn + step) % size for step in range(size)]
        there = [place for place in order if members[place].subscriber.serving]
        there = [place for place in there if members[place].has_place()] or there
        if not there:
            there = [place for place in order if members[place].waits]
            there = [place for place in there if members[place].has_place()] or there
        least = sorted(there, key=lambda place: members[place].load())
        return [(members[place].load(), place) for place in least]

    def _keep_together(self, indexes: Sequence[int], key: bytes) -> list[Hand]:
        """All to the member that has the key; what its queue cannot hold, to the one with the least
        to do."""
        keeper = self._keeper(key)
        if keeper is None:
            return []
        fits = keeper.places(len(indexes))
        if fits in (0, len(indexes)):
            return [(keeper, indexes)]
        _, place = self._heap()[0]
        return [(keeper, indexes[:fits]), (self.members[place], indexes[fits:])]

    def _keeper(self, key: bytes) -> Member | None:
        """The member that has a key (sticky: the group)."""
        if self.strategy == "sticky":
            key = b""
        keeper = self._kept.get(key)
        if keeper is not None and keeper.has_place():
            return keeper
        there = [local for local in self.members if local.subscriber.serving]
        there = there or [local for local in self.members if local.waits]
        there = [local for local in there if local.has_place()] or there
        if not there:
            return None
        if self.strategy == "sticky":
            keeper = min(there, key=lambda local: (local.joined, local.subscriber.origin))
        else:
            by_origin = {local.subscriber.origin: local for local in there}
            winner = rendezvous(key, ((origin, 1) for origin in by_origin))
            assert winner is not None, "one of several wins"
            keeper = by_origin[winner]
        if len(self._kept) >= MAX_KEPT_KEYS:
            self._kept.clear()
        self._kept[key] = keeper
        return keeper


def share_mark(filter_: bytes) -> int:
    """The bits of a delivery's flags that name the share group of a whole filter."""
    return (zlib.crc32(filter_) | 1) << _MARK_SHIFT


def share_flags(subscription: Subscription) -> int:
    """The same of a subscription; 0 for a plain one."""
    return 0 if subscription.share_group is None else share_mark(subscription.filter)
