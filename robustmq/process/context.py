"""What a worker is given by the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robustmq.config import Settings
from robustmq.net.ways_in import Prepared
from robustmq.observability.counters import Counters, Row

UNREADABLE = 78
"""The exit code (EX_CONFIG) of a worker whose data this version cannot read: no restart helps."""


@dataclass(frozen=True)
class WorkerContext:
    """One life of one worker."""

    worker_id: int
    worker_count: int
    settings: Settings
    reload: Callable[[], Settings | None]
    """Read the settings again: what is in force now; None when nothing changes."""
    counters: Counters
    row: Row
    run_directory: Path
    cluster_id: str
    incarnation: int
    """Grows with each life of this worker, over restarts of the node too."""
    ready: Callable[[list[str]], None]
    """To be called once, with what the worker listens on: `mqtt 127.0.0.1:1883`."""
    prepared: Prepared
    """Certificates and UNIX sockets, made before the fork."""
    embedded: bool = False
    """The edge profile: no other processes; meta and the metrics endpoint are in this one."""
