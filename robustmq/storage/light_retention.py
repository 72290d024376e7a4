"""How long light topics keep their records: what `[[storage.rules]]` says, else the default.

Of several rules that match a topic the first one that says something about a limit holds for that
limit. Time counts from a record's arrival at this broker, by its clock: what a producer says cannot
make records stay or go. -1: no limit. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from robustmq.core.filters import FilterTrie

NO_LIMIT = -1
MAX_KNOWN = 65_536
"""Topics whose limits are remembered."""


class LightLimits(msgspec.Struct, frozen=True):
    """What one topic keeps; -1: for ever."""

    retention_ms: int = NO_LIMIT
    retention_bytes: int = NO_LIMIT
    retention_records: int = NO_LIMIT
    local_retention_ms: int = NO_LIMIT
    """What is in the object store stays here, too, for so long; and so many bytes of it."""
    local_retention_bytes: int = NO_LIMIT


class LightRule(msgspec.Struct, frozen=True):
    """What the topics of a filter keep; None: said elsewhere."""

    filter: str
    retention_ms: int | None = None
    retention_bytes: int | None = None
    retention_records: int | None = None
    local_retention_ms: int | None = None
    local_retention_bytes: int | None = None


class LightRetention:
    """The limits of every light topic."""

    def __init__(self, default_ms: int, rules: Sequence[LightRule] = ()) -> None:
        self._default = LightLimits(default_ms)
        self._rules = [rule for rule in rules if _says_something(rule)]
        self._trie = FilterTrie()
        for number, rule in enumerate(self._rules):
            self._trie.insert(rule.filter.encode(), number)
        self._known: dict[bytes, LightLimits] = {}
        times = [default_ms, *(r.retention_ms for r in self._rules if r.retention_ms is not None)]
        self.longest_ms = NO_LIMIT if NO_LIMIT in times else max(times)
        """Nothing is kept for longer than this; -1: something may be kept for ever."""
        finite = [one for one in times if one >= 0]
        self.shortest_ms = min(finite) if finite else NO_LIMIT
        """Something may be over after this; -1: nothing, by time."""
        local = [r.local_retention_ms for r in self._rules if r.local_retention_ms is not None]
        self.longest_local_ms = NO_LIMIT if NO_LIMIT in local else max(local, default=NO_LIMIT)
        """What is in the object store need not be here for longer than this, by any rule that says
        something about it; -1: it may be."""
        self.is_plain = not self._rules
        """All topics keep their records for the same time, and nothing else bounds them."""

    def of(self, topic: bytes) -> LightLimits:
        """The limits of a topic."""
        if self.is_plain:
            return self._default
        known = self._known.get(topic)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[topic] = self._found(topic)
        return known

    def _found(self, topic: bytes) -> LightLimits:
        matched = [self._rules[number] for number in _in_order(self._trie.match(topic))]
        limits: dict[str, int] = {}
        for name in LightLimits.__struct_fields__:
            said = next((v for v in (getattr(r, name) for r in matched) if v is not None), None)
            limits[name] = getattr(self._default, name) if said is None else said
        return LightLimits(**limits)


def _says_something(rule: LightRule) -> bool:
    return any(getattr(rule, name) is not None for name in LightLimits.__struct_fields__)


def _in_order(numbers: list[object]) -> list[int]:
    return sorted(number for number in numbers if isinstance(number, int))
