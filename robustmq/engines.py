"""The names of the storage engines that a partition of a declared topic may have, and which of them
can be used here.

`segment` and `shared` are part of the broker; others come from packages that register under the
entry point group `robustmq.engines`. `memory` is no engine to choose: it is a mode. One that is
registered and cannot be loaded (its package is not there) is refused when it is asked for.
"""

from __future__ import annotations

from importlib.metadata import entry_points

ENTRY_POINT_GROUP = "robustmq.engines"
SEGMENT, SHARED, MEMORY = "segment", "shared", "memory"
BUILT_IN = (SEGMENT, SHARED)
NO_TIER = "mode tiered needs an object store: set url in [storage.tiering]"


def registered() -> list[str]:
    """All names that are known here, whether what they need is there or not."""
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return [*BUILT_IN, *sorted(others - {*BUILT_IN, MEMORY})]


def problem_of(name: str) -> str | None:
    """Why an engine cannot be used, in words for who asks for it; None: it can."""
    if name in BUILT_IN:
        return None
    if name == MEMORY:
        return "memory is no engine but a mode: set robustmq.storage.mode = memory"
    points = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name]
    if not points:
        return f"there is no engine {name!r}; there are {', '.join(registered())}"
    try:
        points[0].load()
    except ImportError as error:
        return f"the engine {name!r} cannot be loaded here: {error}"
    return None
