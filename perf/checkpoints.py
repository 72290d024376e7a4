"""How long a checkpoint of a million light topics holds the loop.

`python perf/checkpoints.py [--topics N] [--quick]`. One shard on a real disk, a storage thread, and
a loop that appends a block of 64 topics and commits it in each turn. A checkpoint is made in one
go, as at the end of a worker, and then in slices, as a worker does while it serves clients, in
turns: the peer of the slices is the same checkpoint. What is told of each is the longest call of
the loop for it, in wall time and in processor time, how long it took as a whole, and the longest
turn of the loop's own work meanwhile.
"""

from __future__ import annotations

import argparse
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from robustmq.core import batches
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.shard.checkpoints import KEPT_SLOTS, SLICE_BYTES, WAITING_BYTES
from robustmq.storage.committer import ThreadCommitter
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import MemoryKeyValue
from robustmq.storage.shard_store import NobodyListens, ShardStore, StoreSettings

A_BLOCK = 64
PAUSE_S = 0.002
LIMIT_MS = 5


class Loop:
    """One shard, and a loop that has nothing else to do."""

    def __init__(self, directory: str) -> None:
        self.settled: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.committer = ThreadCommitter(self.settled.put, _fatal)
        settings = StoreSettings(64 << 20, 1 << 20, 1 << 40)
        self.store = ShardStore(
            directory,
            settings,
            RealDisk(),
            MemoryKeyValue(),
            self.committer,
            1,
            NobodyListens(),
            _damaged,
        )
        self.batch = batches.build([Record(None, bytes(100))], 1)
        self.number = 0

    def turn(self, topics: int) -> float:
        """Append a block, commit it, hear of what is done; the seconds it took."""
        block = bytearray()
        for _ in range(A_BLOCK):
            block += build_entry(b"t/%d" % (self.number % topics), b"", 0, 0, 1, 0, self.batch)
            self.number += 7
        begin = time.perf_counter()
        self.store.append_block(block, 0, 0, 1)
        self.store.flush(False)
        self.committer.kick()
        while not self.settled.empty():
            self.settled.get()()
        return time.perf_counter() - begin

    def rest(self) -> None:
        """Until all is written."""
        done = self.store.run(lambda: None)
        self.committer.kick()
        while not done.settled:
            self.settled.get()()


def _fatal(error: BaseException) -> None:
    raise error


def _damaged(position: int, length: int) -> None:
    raise AssertionError(f"{length} bytes at {position} do not read back")


class Holds:
    """The longest of some calls."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def call(self, work: Callable[[], object]) -> None:
        """Time one."""
        wall, cpu = time.perf_counter(), time.thread_time()
        work()
        self.wall_s = max(self.wall_s, time.perf_counter() - wall)
        self.cpu_s = max(self.cpu_s, time.thread_time() - cpu)


def measure(loop: Loop, topics: int, sliced: bool) -> tuple[float, float, float, float]:
    """One checkpoint; milliseconds: longest call in wall time, in CPU time, all of it, and the
    longest turn beside it."""
    store, holds, turns = loop.store, Holds(), [0.0]
    begin = time.perf_counter()
    position = store.end_position
    if sliced:
        writers = []
        holds.call(lambda: writers.append(store.begin_checkpoint([])))
        (writer,) = writers
        while not writer.whole:
            loop.committer.kick()
            turns.append(loop.turn(topics))
            time.sleep(PAUSE_S)
            if writer.waiting_bytes <= WAITING_BYTES or store.light.kept_slots > KEPT_SLOTS:
                holds.call(lambda: writer.write_parts(SLICE_BYTES))
        holds.call(lambda: store.finish_checkpoint(writer))
    else:
        holds.call(lambda: store.checkpoint([]))
    loop.committer.kick()
    while store.durable_checkpoint < position:
        turns.append(loop.turn(topics))
        time.sleep(PAUSE_S)
    seconds = (holds.wall_s, holds.cpu_s, time.perf_counter() - begin, max(turns))
    one, two, three, four = (second * 1000 for second in seconds)
    return one, two, three, four


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--topics", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    told = parser.parse_args()
    topics, rounds = (100_000, 2) if told.quick else (told.topics, told.rounds)
    folder = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=Path.cwd()))
    try:
        loop = Loop(str(folder))
        for number in range(topics):
            loop.store.light.create(b"t/%d" % number)
            if number % 4096 == 0:
                loop.turn(topics)
        loop.rest()
        print(f"{topics} topics in one shard; longest call of the loop, whole checkpoint, longest")
        print("turn beside it, ms (processor time of that call in brackets)")
        for _ in range(rounds):
            for sliced in (False, True):
                wall, cpu, whole, turn = measure(loop, topics, sliced)
                name = "in slices" if sliced else "in one go"
                kept = f"  {'kept' if cpu <= LIMIT_MS else 'MISSED'}: {LIMIT_MS}" if sliced else ""
                print(f"{name}: {wall:7.1f} ({cpu:6.1f}) {whole:8.0f} {turn:6.1f}{kept}")
        loop.committer.close()
        loop.store.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
