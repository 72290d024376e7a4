"""How much memory there is: the machine's, or what the control groups of this process leave of it
(a container's limit, MemoryMax of a systemd unit)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

RINGS_PART = 16
"""One part of so many is for what is in mode memory, unless the settings say how much."""
LEAST_RINGS = 8 * 1024 * 1024
_GROUPS = Path("/sys/fs/cgroup")


def ring_bytes(workers: int) -> int:
    """What the topics of mode memory of one of so many workers may take."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        own = Path("/proc/self/cgroup").read_text()
    except OSError:
        own = ""
    return max(LEAST_RINGS, min((machine, *limits(own, _GROUPS))) // RINGS_PART // workers)


def limits(own: str, groups: Path) -> Iterator[int]:
    """The limits of a process's control groups, by its /proc/self/cgroup: its own and those of all
    that it is in, as far as they can be seen here."""
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for place in (group, *group.parents):
            try:
                told = (place / name).read_text().strip()
            except OSError:
                told = ""
            if told.isdecimal():
                yield int(told)
            if place == top:
                break
