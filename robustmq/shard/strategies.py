"""How a share group spreads messages: the pure part of each strategy.

A message is given out twice: the owner of its topic picks a home (the shard of some members'
sessions), and the worker of that home picks one of the members there. Both picks of a strategy that
keeps keys together are rendezvous hashes, so that every owner comes to the same member, and few
keys move when a member comes or goes. `Dice` is the random source: seeded from outside (design,
invariant 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from robustmq.core.hashing import mix

KEEPS_KEYS = frozenset({"sticky", "hash_topic", "hash_client"})
"""Strategies that give all messages of a key, or of the group, to one member. They pass a member
over only when it would lose the message."""

WHEEL_SLOTS = 1024
_MASK = 0xFFFFFFFFFFFFFFFF
_STEP = 0x9E3779B97F4A7C15


class Dice:
    """Random numbers of a seed (splitmix64)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, bound: int) -> int:
        """A number from 0 on below `bound`."""
        self._state = (self._state + _STEP) & _MASK
        word = self._state
        word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _MASK
        return ((word ^ word >> 31) * bound) >> 64


def key_of(strategy: str, topic: bytes, origin: int) -> bytes:
    """What must stay together. A message without a publisher of ours (Kafka's) goes by its
    topic."""
    if strategy == "hash_client" and origin:
        return origin.to_bytes(8, "little")
    return topic


def rendezvous(key: bytes, weights: Iterable[tuple[int, int]]) -> int | None:
    """The winner of a key among (candidate, weight): each wins in proportion to its weight, and
    only the keys of a candidate that changes change hands."""
    best, winner = -1.0, None
    for candidate, weight in weights:
        draw = (mix(key, candidate) + 0.5) / 2.0**64
        score = weight / -math.log(draw) if draw < 1.0 else math.inf
        if score > best:
            best, winner = score, candidate
    return winner


def wheel(weights: Mapping[int, int]) -> list[int]:
    """Each candidate as often as it weighs (WHEEL_SLOTS in all at most), spread evenly."""
    total = sum(weights.values())
    scale = min(1.0, WHEEL_SLOTS / total) if total else 1.0
    slots: list[tuple[float, int]] = []
    for candidate in sorted(weights):
        count = max(1, round(weights[candidate] * scale))
        slots.extend(((index + 0.5) / count, candidate) for index in range(count))
    return [candidate for _, candidate in sorted(slots)]


def deal(slots: list[int], turn: int, count: int) -> dict[int, list[int]]:
    """Which of the records 0 to `count` each candidate gets when they go round the wheel."""
    hands: dict[int, list[int]] = {candidate: [] for candidate in slots}
    size = len(slots)
    if len(hands) == 1:
        hands[slots[0]] = list(range(count))
    elif count * 4 < size:
        for index in range(count):
            hands[slots[(turn + index) % size]].append(index)
    else:
        begin = turn % size
        laps = slots[begin:] + slots * (count // size + 1)
        for index, candidate in zip(range(count), laps, strict=False):
            hands[candidate].append(index)
    return {candidate: hand for candidate, hand in hands.items() if hand}
