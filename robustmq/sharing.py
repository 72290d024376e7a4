"""How share groups spread their messages: the settings of `$share/{group}/{filter}`.

`[mqtt]` says what all groups do; a `[[shared_subscription]]` table says it for one group, or for
one of its filters; the table that names both, or else the one of the group alone, counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Strategy = Literal[
    "round_robin",
    "random",
    "sticky",
    "hash_topic",
    "hash_client",
    "least_inflight",
    "local_first",
]
WhenAway = Literal["pass_on", "keep"]


class SharedSubscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one group spreads its messages. `filter` empty: all filters of the group. `when_away`:
    what was not sent to a member that has gone goes to others, or waits for it."""

    group: str
    filter: str = ""
    strategy: Strategy = "round_robin"
    when_away: WhenAway = "pass_on"


class Sharing:
    """The settings of all groups, by (group, filter)."""

    def __init__(
        self, strategy: Strategy, when_away: WhenAway, tables: Sequence[SharedSubscription]
    ) -> None:
        self._default = SharedSubscription("", "", strategy, when_away)
        self._tables: dict[tuple[bytes, bytes], SharedSubscription] = {}
        for table in tables:
            key = (table.group.encode(), table.filter.encode())
            self._tables.setdefault(key, table)

    def of(self, group: bytes, filter_: bytes) -> SharedSubscription:
        """What holds for a group's filter."""
        tables = self._tables
        return tables.get((group, filter_)) or tables.get((group, b"")) or self._default

    def strategy(self, group: bytes, filter_: bytes) -> Strategy:
        """How its messages are spread."""
        return self.of(group, filter_).strategy


def problem_of_tables(tables: Sequence[SharedSubscription]) -> str | None:
    """What is wrong with the tables; None when nothing is."""
    seen: set[tuple[str, str]] = set()
    for table in tables:
        if not table.group or set(table.group) & set("/+#"):
            return (
                f"[[shared_subscription]] group = {table.group!r} is no name of a share group:"
                " one or more characters, none of them /, + or #"
            )
        if (table.group, table.filter) in seen:
            return f"two [[shared_subscription]] tables are of group {table.group!r}; keep one"
        seen.add((table.group, table.filter))
    return None
