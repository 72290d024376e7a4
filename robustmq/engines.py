"""The names of the storage engines that a partition of a declared topic may have, and which of them
can be used here.

`segment` and `shared` are part of the broker; others come from packages that register under the
entry point group `robustmq.engines`. `memory` is no engine to choose: it is a mode. One that is
registered and cannot be loaded (its package is not there) is refused when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "robustmq.engines"
STORED_GROUP = "robustmq.stored_partitions"
"""How operators' commands look into what is stored (`storage.engine.StoredPartition`)."""
SEGMENT, SHARED, MEMORY = "segment", "shared", "memory"
BUILT_IN = (SEGMENT, SHARED)
NO_TIER = "mode tiered needs an object store: set url in [storage.tiering]"


def points(group: str = ENTRY_POINT_GROUP) -> Iterable[EntryPoint]:
    """What packages bring for engines of theirs."""
    # It takes a fifth of the start of every command, and few need it.
    from importlib.metadata import entry_points

    return entry_points(group=group)


def point(name: str, group: str = ENTRY_POINT_GROUP) -> EntryPoint | None:
    """The one of a name."""
    return next((found for found in points(group) if found.name == name), None)


def registered() -> list[str]:
    """All names that are known here, whether what they need is there or not."""
    others = {found.name for found in points()}
    return [*BUILT_IN, *sorted(others - {*BUILT_IN, MEMORY})]


def problem_of(name: str) -> str | None:
    """Why an engine cannot be used, in words for who asks for it; None: it can."""
    if name in BUILT_IN:
        return None
    if name == MEMORY:
        return "memory is no engine but a mode: set robustmq.storage.mode = memory"
    found = point(name)
    if found is None:
        return f"there is no engine {name!r}; there are {', '.join(registered())}"
    try:
        found.load()
    except ImportError as error:
        return f"the engine {name!r} cannot be loaded here: {error}"
    return None
