"""Server-side assignors: which member shall read which partition (KIP-848, "uniform" and "range").

Both are functions of what members subscribe to and of the target they had, without a clock and
without luck: the same input gives the same output, so every owner decides alike. Racks are not
looked at.

- `uniform`: loads differ by one at most where all members read the same topics, and no single move
  would even them out further where they do not; a partition stays where it was as long as that
  holds.
- `range`: each topic is cut into consecutive ranges for its members in the order of their names, so
  that topics with the same members and as many partitions are cut alike (co-partitioning).

Every partition of a topic that somebody reads goes to exactly one of its readers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec

Partition = tuple[UUID, int]
Assignment = dict[UUID, set[int]]
Targets = dict[str, Assignment]


class Subscription(msgspec.Struct, frozen=True):
    """What a member wants, and what it was last meant to have."""

    topics: frozenset[UUID]
    current: Mapping[UUID, set[int]] = {}
    instance_id: str | None = None


def assign_uniform(members: Mapping[str, Subscription], topics: Mapping[UUID, int]) -> Targets:
    """Even loads, few moves; `topics` gives the number of partitions."""
    if not members:
        return {}
    readers = _readers(members, topics)
    alike = len({subscription.topics for subscription in members.values()}) == 1
    owner = _kept(members, topics)
    if alike:
        _level_alike(sorted(members), readers, topics, owner)
    else:
        _level(members, readers, topics, owner)
    targets: Targets = {member: {} for member in members}
    for (topic, partition), member in owner.items():
        targets[member].setdefault(topic, set()).add(partition)
    return targets


def assign_range(members: Mapping[str, Subscription], topics: Mapping[UUID, int]) -> Targets:
    """Consecutive ranges of each topic."""
    targets: Targets = {member: {} for member in members}
    for topic, names in _readers(members, topics).items():
        ordered = sorted(names, key=lambda name: _range_order(name, members[name]))
        each, more = divmod(topics[topic], len(ordered))
        first = 0
        for place, name in enumerate(ordered):
            count = each + (place < more)
            if count:
                targets[name][topic] = set(range(first, first + count))
            first += count
    return targets


ASSIGNORS: dict[str, Callable[[Mapping[str, Subscription], Mapping[UUID, int]], Targets]] = {
    "uniform": assign_uniform,
    "range": assign_range,
}
"""By the names clients ask for; the first is the default of Kafka's group.consumer.assignors."""


def _range_order(name: str, subscription: Subscription) -> tuple[bool, str]:
    """Static members first, by their instance id, so that one that comes back has its range."""
    instance_id = subscription.instance_id
    return instance_id is None, name if instance_id is None else instance_id


def _readers(
    members: Mapping[str, Subscription], topics: Mapping[UUID, int]
) -> dict[UUID, list[str]]:
    """Who reads each topic that exists, in the order of names."""
    readers: dict[UUID, list[str]] = {}
    for name in sorted(members):
        for topic in members[name].topics:
            if topics.get(topic):
                readers.setdefault(topic, []).append(name)
    return {topic: readers[topic] for topic in sorted(readers, key=_topic_order)}


def _topic_order(topic: UUID) -> int:
    return topic.int


def _kept(members: Mapping[str, Subscription], topics: Mapping[UUID, int]) -> dict[Partition, str]:
    """The owner of what may stay where it is."""
    owner: dict[Partition, str] = {}
    for name in sorted(members):
        wanted = members[name].topics
        for topic, partitions in members[name].current.items():
            if topic not in wanted:
                continue
            count = topics.get(topic, 0)
            for partition in partitions:
                if partition < count:
                    owner.setdefault((topic, partition), name)
    return owner


def _level_alike(
    names: list[str],
    readers: dict[UUID, list[str]],
    topics: Mapping[UUID, int],
    owner: dict[Partition, str],
) -> None:
    """All members read the same: each gets a quota, those that have most the larger ones."""
    everything = [(topic, number) for topic in readers for number in range(topics[topic])]
    each, more = divmod(len(everything), len(names))
    held: dict[str, list[Partition]] = {name: [] for name in names}
    for place in everything:
        holder = owner.get(place)
        if holder is not None:
            held[holder].append(place)
    by_load = sorted(names, key=lambda name: (-len(held[name]), name))
    quota = {name: each + (place < more) for place, name in enumerate(by_load)}
    for name in names:
        for place in held[name][quota[name] :]:
            del owner[place]
    room = {name: quota[name] - min(quota[name], len(held[name])) for name in names}
    takers = [name for name in names if room[name]]
    turn = 0
    for place in everything:
        if place in owner:
            continue
        turn %= len(takers)
        name = takers[turn]
        owner[place] = name
        room[name] -= 1
        if room[name]:
            turn += 1
        else:
            del takers[turn]


def _level(
    members: Mapping[str, Subscription],
    readers: dict[UUID, list[str]],
    topics: Mapping[UUID, int],
    owner: dict[Partition, str],
) -> None:
    """Members read different topics: what nobody has goes to the least loaded reader, topics with
    few readers first; then partitions move from the more to the less loaded until none should."""
    load = dict.fromkeys(members, 0)
    for name in owner.values():
        load[name] += 1
    ordered = sorted(readers, key=lambda topic: (len(readers[topic]), topic.int))
    for topic in ordered:
        free = [number for number in range(topics[topic]) if (topic, number) not in owner]
        if not free:
            continue
        heap = [(load[name], name) for name in readers[topic]]
        heapq.heapify(heap)
        for number in free:
            count, name = heap[0]
            owner[topic, number] = name
            load[name] = count + 1
            heapq.heapreplace(heap, (count + 1, name))
    # Each move makes the sum of the squared loads smaller, so this ends.
    while sum(_even_out(topic, readers[topic], topics[topic], owner, load) for topic in ordered):
        continue


def _even_out(
    topic: UUID, names: list[str], count: int, owner: dict[Partition, str], load: dict[str, int]
) -> int:
    """Move partitions of one topic from its most to its least loaded readers; how many moved."""
    held: dict[str, list[int]] = {name: [] for name in names}
    for number in range(count - 1, -1, -1):
        held[owner[topic, number]].append(number)
    least = [(load[name], name) for name in names]
    heapq.heapify(least)
    most = [(-load[name], name) for name in names if held[name]]
    heapq.heapify(most)
    moved = 0
    while most:
        giver = most[0][1]
        if -most[0][0] != load[giver]:
            heapq.heapreplace(most, (-load[giver], giver))
            continue
        while least[0][0] != load[least[0][1]]:
            heapq.heapreplace(least, (load[least[0][1]], least[0][1]))
        taker = least[0][1]
        if load[giver] - load[taker] < 2:
            break
        number = held[giver].pop(0)
        owner[topic, number] = taker
        held[taker].append(number)
        if len(held[taker]) == 1:
            heapq.heappush(most, (-load[taker] - 1, taker))
        load[giver] -= 1
        load[taker] += 1
        moved += 1
        if not held[giver]:
            heapq.heappop(most)
    return moved
