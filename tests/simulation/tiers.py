"""An object store of a simulated node, and the threads that call it: calls fail before they are
done or behind it, the process may end in the middle of one, and what a dead worker had begun may
reach the store later."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from robustmq.promises import Promise
from robustmq.shard.surroundings import TierAround
from robustmq.storage import cleaned_log
from robustmq.storage.cleaned_log import FOOTER
from robustmq.storage.cold_log import ColdRuns
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.log_files import Away, Gone
from robustmq.storage.manifest import LOG, object_name
from robustmq.storage.object_store import ObjectStoreError
from robustmq.storage.tiered import ColdReads
from tests.simulation.world import World
from tests.storage.memory_objects import MemoryObjects


class Died(BaseException):
    """The process ends in the middle of a call."""


class Runs:
    """Reads the objects of a shard's log: a slot is away first, and at hand when it has come."""

    def __init__(self, store: MemoryObjects, prefix: str, world: World) -> None:
        self._store = store
        self._prefix = prefix
        self._world = world
        self._here: set[tuple[str, int]] = set()
        self.reads = 0

    def read(self, row: ColdSegment, position: int, length: int) -> bytes | memoryview:
        path = self._prefix + object_name(row.base_offset, row.leader_epoch) + LOG
        data = self._store.objects[path][0]
        begin = FOOTER.unpack(data[-FOOTER.size :])[-1]
        slots = cleaned_log.index_of(data[begin:], begin)
        assert slots is not None, "objects are whole"
        number = cleaned_log.slot_of(slots, position)
        if number < 0:
            raise Gone(position)
        if (path, number) not in self._here:
            raise Away(self._fetch(path, number))
        self.reads += 1
        low, high = cleaned_log.slot_area(slots, number)
        for run in cleaned_log.runs(data[low:high])[0]:
            if run.position <= position < run.position + run.length:
                first = low + run.begin + position - run.position
                return data[first : min(first + length, low + run.begin + run.length)]
        raise Gone(position)

    def _fetch(self, path: str, number: int) -> Promise[None]:
        coming: Promise[None] = Promise()

        def come() -> None:
            self._here.add((path, number))
            coming.resolve(None)

        self._world.scheduler.at(1 + self._world.scheduler.random.random() * 20, come)
        return coming

    def anew(self, row: ColdSegment, position: int) -> Promise[None] | None:
        """Nothing is damaged here."""
        return None


class Tier:
    """The object store of a world, and the threads that call it."""

    def __init__(self, reader: Callable[[MemoryObjects, str, ColdSegments], ColdReads]) -> None:
        self.store = MemoryObjects(MemoryDisk())
        self.troubled = False
        self.died = 0
        self.failed = 0
        self.runs: list[Runs] = []
        self._reader = reader

    def of_worker(self, world: World, number: int, life: int) -> TierAround:
        store = self.store.seen_from(world.disks[number])
        dice = world.scheduler.random

        def verdict() -> str:
            draw = dice.random() if self.troubled else 1.0
            if draw > 0.06:
                return ""
            self.failed += 1
            store.error = Died if draw < 0.015 else (lambda: ObjectStoreError("on demand"))
            return "before" if dice.random() < 0.5 else "behind"

        store.plan = verdict

        def submit(job: Callable[[], Any], done: Callable[[Any], None]) -> None:
            def run() -> None:
                lives = world.brokers[number] is not None and world.incarnations[number] == life
                if not lives and dice.random() < 0.5:
                    return
                try:
                    result = job()
                except Died:
                    self.died += 1
                    if lives:
                        world.kill(number)
                        world.scheduler.at(20 + dice.random() * 100, partial(world.start, number))
                    return
                except Exception as error:  # noqa: BLE001
                    result = error
                world.alive(number, life, partial(done, result))()

            world.scheduler.at(1 + dice.random() * 60, run)

        def runs(prefix: str) -> ColdRuns:
            self.runs.append(Runs(self.store, prefix, world))
            return self.runs[-1]

        return TierAround(
            store, submit, lambda prefix, cold: self._reader(self.store, prefix, cold), runs
        )


def no_partitions(store: MemoryObjects, prefix: str, cold: ColdSegments) -> ColdReads:
    """For worlds without tiered partitions."""
    raise NotImplementedError
