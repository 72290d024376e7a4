"""The simple share assignor (KIP-932, "SimpleShareAssignor"): which members get which partitions.

A partition may belong to any number of members. Every member gets at least one partition of its
topics, every subscribed partition at least one member, and members are spread evenly over
partitions: with more members than partitions each has one, else each partition has one. What a
member has it keeps as long as that is even.
"""

from __future__ import annotations

from collections.abc import Mapping

Partition = tuple[bytes, int]
Subscriptions = Mapping[str, frozenset[bytes]]
"""Member id to topics."""


def assign(
    subscriptions: Subscriptions,
    partitions: Mapping[bytes, int],
    current: Mapping[str, set[Partition]],
) -> dict[str, set[Partition]]:
    """Partitions by member. `partitions`: how many each topic has; `current`: what members have."""
    topics = {topic for wanted in subscriptions.values() for topic in wanted}
    targets = [
        (topic, number) for topic in sorted(topics) for number in range(partitions.get(topic, 0))
    ]
    assigned: dict[str, set[Partition]] = {member: set() for member in sorted(subscriptions)}
    if not targets or not assigned:
        return assigned
    users: dict[Partition, int] = dict.fromkeys(targets, 0)
    _keep(subscriptions, current, assigned, users)
    for member in sorted(assigned, key=lambda one: (len(subscriptions[one]), one)):
        if not assigned[member]:
            mine = [one for one in targets if one[0] in subscriptions[member]]
            if mine:
                _give(member, min(mine, key=lambda one: (users[one], one)), assigned, users)
    for target in targets:
        if not users[target]:
            able = [member for member in assigned if target[0] in subscriptions[member]]
            _give(min(able, key=lambda one: (len(assigned[one]), one)), target, assigned, users)
    return assigned


def _keep(
    subscriptions: Subscriptions,
    current: Mapping[str, set[Partition]],
    assigned: dict[str, set[Partition]],
    users: dict[Partition, int],
) -> None:
    """What members may keep: no partition has more members, and no member more partitions, than its
    even part.
    """
    most_users = -(-len(assigned) // len(users))
    most_partitions = -(-len(users) // len(assigned))
    crowded = len(assigned) % len(users) or len(users)
    heavy = len(users) % len(assigned) or len(assigned)
    """How many may have the rounded up number: more would leave another with too little."""
    for member in assigned:
        for target in sorted(current.get(member, ())):
            if target[0] not in subscriptions[member] or target not in users:
                continue
            used, has = users[target] + 1, len(assigned[member]) + 1
            if used > most_users or has > most_partitions:
                continue
            if used == most_users > 1 and not crowded:
                continue
            if has == most_partitions > 1 and not heavy:
                continue
            crowded -= used == most_users > 1
            heavy -= has == most_partitions > 1
            _give(member, target, assigned, users)


def _give(
    member: str,
    target: Partition,
    assigned: dict[str, set[Partition]],
    users: dict[Partition, int],
) -> None:
    assigned[member].add(target)
    users[target] += 1
