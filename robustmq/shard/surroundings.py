"""What a worker's broker is given: the bus, clocks, random names, the loop; the simulation gives it
others.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from robustmq.kafka.access import Access, Unguarded
from robustmq.promises import Promise, resolved
from robustmq.shard.metering import Meters, NoMeters
from robustmq.shard.rpc import Bus
from robustmq.shard.sessions import Authenticator
from robustmq.storage.cold_log import ColdRuns
from robustmq.storage.cold_segments import ColdSegments
from robustmq.storage.memory import RingMemory
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.tiered import ColdReads

T = TypeVar("T")


class TierAround(NamedTuple):
    """The object store, and what goes with it."""

    store: ObjectStore
    submit: Callable[[Callable[[], Any], Callable[[Any], None]], None]
    """Runs a job on a thread; then, on the loop, the function with its result or its exception."""
    reader: Callable[[str, ColdSegments], ColdReads]
    """Reads the cold segments of a partition whose objects are below a prefix."""
    runs: Callable[[str], ColdRuns]
    """Reads the objects of a shard's log that are below a prefix."""


class OffLoop(Protocol):
    """Runs what takes long off the event loop."""

    def __call__(self, work: Callable[[], T]) -> Promise[T]:
        """The promise of what `work` returns; fails with what it raises."""


def at_once(work: Callable[[], T]) -> Promise[T]:
    """Where there is no other thread."""
    return resolved(work())


class Surroundings:
    """What a worker is given: everything that is not a decision of its own."""

    def __init__(
        self,
        bus: Bus,
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        call_soon: Callable[[Callable[[], None]], object],
        unique: Callable[[], uuid.UUID],
        count: Callable[[str, int], None],
        log: Callable[..., None],
        authenticator: Authenticator,
        kick: Callable[[], None],
        monotonic_us: Callable[[], int],
        call_later: Callable[[int, Callable[[], None]], object],
        meters: Meters | None = None,
        access: Access | None = None,
        space: Callable[[], tuple[str, int, int]] = lambda: ("", -1, -1),
        off_loop: OffLoop = at_once,
        tier: TierAround | None = None,
        rings: RingMemory | None = None,
    ) -> None:
        """`unique` gives random UUIDs; `count(name, amount)` adds to a counter; `log(level, text,
        **fields)`; `kick` runs what was submitted to the storage thread; `call_later(delay_us,
        run)` is the loop's; `space` tells the data directory, the bytes of its file system, and
        those that are free; `off_loop` runs what takes long on another thread;
        `tier` is the object store of tiered partitions, if there is one; `rings` is the memory
        that topics of mode memory share, which the shards are opened with."""
        self.bus = bus
        self.monotonic_ms = monotonic_ms
        self.wall_ms = wall_ms
        self.call_soon = call_soon
        self.unique = unique
        self.count = count
        self.log = log
        self.authenticator = authenticator
        self.kick = kick
        self.monotonic_us = monotonic_us
        self.call_later = call_later
        self.meters: Meters = NoMeters() if meters is None else meters
        self.off_loop = off_loop
        self.access: Access = Unguarded() if access is None else access
        self.space = space
        self.tier = tier
        self.rings = RingMemory() if rings is None else rings
