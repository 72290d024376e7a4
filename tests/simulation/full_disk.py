"""A node whose disk gets full at one of its writes, and has room again later.

Whoever writes waits inside the write, with a part of its bytes on the disk, as the storage thread
does: a batch of jobs runs on a thread that takes turns with the scheduler, so that one seed is
still one history.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from robustmq.config import Settings
from robustmq.shard.surroundings import TierAround
from robustmq.storage.disk import Buffer, Crash, MemoryDisk
from tests.simulation.world import World


class Step:
    """A batch of jobs on a thread of its own, which stands still while it waits."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.waits = False
        self._run = run
        self._dies = False
        self._error: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._body, daemon=True)
        self._begun = False

    def go(self) -> None:
        """Run until it waits, or to its end."""
        if not self._begun:
            self._begun = True
            self._thread.start()
        else:
            self._turn.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """In the batch: until it is told to go on."""
        self.waits = True
        self._back.release()
        self._turn.acquire()
        self.waits = False
        if self._dies:
            raise Crash

    def die(self) -> None:
        """The process is killed while it waits."""
        self._dies = True
        self._turn.release()
        self._back.acquire()

    def _body(self) -> None:
        try:
            self._run()
        except Crash:
            self.waits = False
        except BaseException as error:  # noqa: BLE001
            self._error = error
        self._back.release()


class NarrowDisk(MemoryDisk):
    """A worker's part of the disk."""

    def __init__(self, world: FullWorld) -> None:
        super().__init__()
        self._world = world
        self.step: Step | None = None
        """The batch of jobs that writes."""
        self.dies = False
        """What writes now is torn by a kill: where it would wait, it ends."""

    def append(self, path: str, buffers: Sequence[Buffer]) -> None:
        """Write as much as there is room for, then wait."""
        data = b"".join(buffers)
        fits = self._world.fits(len(data), self)
        super().append(path, [data[:fits]])
        if fits < len(data) or self._world.is_full:
            self._wait()
            super().append(path, [data[fits:]])

    def replace(self, path: str, data: Buffer) -> None:
        """All of it, when there is room."""
        self._wait()
        super().replace(path, data)

    def put(self, path: str, data: Buffer) -> None:
        """Nothing stays where there is no room."""
        if self._world.is_full:
            self.remove(path)
        else:
            super().put(path, data)

    def _wait(self) -> None:
        while self._world.is_full:
            if self.dies:
                raise Crash
            assert self.step is not None, "only the storage thread writes"
            self.step.wait()


class StorageThread:
    """Runs the batches of one life of a worker, one behind the other, each after some time."""

    def __init__(self, world: FullWorld, number: int, life: int) -> None:
        disk = world.disks[number]
        assert isinstance(disk, NarrowDisk), "the disks of this world are"
        self._world = world
        self._disk = disk
        self._number, self._life = number, life
        self._busy = False
        self.batches: deque[Callable[[], None]] = deque()

    def schedule(self, run: Callable[[], None]) -> None:
        """Run a batch behind those before."""
        self.batches.append(run)
        self._next()

    def _next(self) -> None:
        if self.batches and not self._busy:
            self._busy = True
            scheduler = self._world.scheduler
            begin = self._world.alive(self._number, self._life, self._begin)
            scheduler.at(scheduler.random.random() * 4, begin)

    def _begin(self) -> None:
        self._disk.step = Step(self.batches[0])
        self._go(self._disk.step)

    def _go(self, step: Step) -> None:
        step.go()
        if step.waits:
            self._world.say_full(self._number, self._life, True)
            return
        self._disk.step = None
        self._world.say_full(self._number, self._life, False)
        self.batches.popleft()
        self._busy = False
        self._next()

    def go_on(self) -> None:
        """There is room."""
        step = self._disk.step
        if self._busy and step is not None and step.waits:
            self._go(step)

    def die(self) -> bool:
        """The worker is killed: was it in the middle of a write?"""
        step, self._disk.step = self._disk.step, None
        if step is None:
            return False
        assert step.waits, "the scheduler has its turn back"
        step.die()
        return True


class FullWorld(World):
    """A node under simulation, and the room on its disk."""

    def __init__(
        self,
        seed: int,
        workers: int = 2,
        settings: Settings | None = None,
        cleaned: bool = False,
        tier: Callable[[World, int, int], TierAround] | None = None,
    ) -> None:
        self.writes = 0
        self.full_at = -1
        """The number of the write that finds no room for all of its bytes; `part` of them fit."""
        self.part = 0.0
        self.is_full = False
        self.got_full: Callable[[int], None] = lambda number: None
        """Hears whose write it was."""
        self.killed: Callable[[int], None] = lambda number: None
        self._threads: dict[int, StorageThread] = {}
        self._said: set[tuple[int, int]] = set()
        super().__init__(seed, workers, settings, cleaned, tier, lambda: NarrowDisk(self))

    def fits(self, size: int, disk: NarrowDisk) -> int:
        """How many of so many bytes can be written now."""
        if self.is_full:
            return 0
        self.writes += size > 0
        if self.writes != self.full_at or not size:
            return size
        self.is_full = True
        self.got_full(self.disks.index(disk))
        return int(size * self.part)

    def give_room(self) -> None:
        """There is room again, from now on."""
        self.is_full = False
        for number, broker in enumerate(self.brokers):
            if broker is not None:
                self._threads[number].go_on()

    def say_full(self, number: int, life: int, is_full: bool) -> None:
        """As the storage thread tells the loop, when it has not."""
        if is_full == ((number, life) in self._said):
            return
        (self._said.add if is_full else self._said.discard)((number, life))

        def told() -> None:
            broker = self.brokers[number]
            assert broker is not None, "it lives"
            broker.owner.room.disk_full(broker.stores if is_full else ())

        self.scheduler.soon(self.alive(number, life, told))

    def _storage_thread(self, number: int, life: int) -> Callable[[Callable[[], None]], None]:
        thread = self._threads[number] = StorageThread(self, number, life)
        self._unwritten[number] = thread.batches
        return thread.schedule

    def kill(self, number: int) -> None:
        """kill -9."""
        super().kill(number)
        self.killed(number)

    def _tear(self, number: int) -> None:
        if self._threads[number].die():
            return
        disk = self.disks[number]
        assert isinstance(disk, NarrowDisk), "the disks of this world are"
        disk.dies = True
        super()._tear(number)
        disk.dies = False
