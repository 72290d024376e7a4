"""Appends on the segment engine: 1 KiB records in 64 KiB batches, one partition.

`python perf/storage_append.py [--bytes N] [--rounds M] [--quick]`. Real files and the real storage
thread; no sockets and no protocol. Rows, each measured in every round, in turns:

  plain file       write(2) of 1 MiB at a time: what the page cache takes; the limit
  plain, on disk   the same with one fdatasync at the end: what the disk takes
  engine           append, write, committed on one thread, a commit a turn
  storage thread   the same through ThreadCommitter, the next turn gathered meanwhile
  thread, on disk  the same with one fdatasync at the end
  thread, synced   the same with an fdatasync a commit, as mode persistent asks

The target is 60% of the disk's rate (the rows on disk against each other), or 500 MB/s where the
page cache is the limit. The median of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from robustmq.core import batches
from robustmq.records import Record
from robustmq.storage.committer import ThreadCommitter
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.segment import SegmentPartition

RECORD_BYTES = 1024
BATCH_BYTES = 64 * 1024
TURN_BATCHES = 16
AHEAD_TURNS = 4
"""So much waits for its commit at most, as producers wait for their acknowledgements."""
MEGABYTE = 1_000_000
LEAST = 500.0


def batch_of(seed: int) -> bytes:
    """One batch of 64 KiB."""
    count = BATCH_BYTES // RECORD_BYTES
    values = [bytes([(seed + n) % 256]) * (RECORD_BYTES - 12) for n in range(count)]
    return batches.build([Record(value=value) for value in values], 1)


class Partition:
    """A partition on a real disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "partition"
        self.disk = RealDisk()
        self.log = SegmentPartition(str(self.directory), self.disk, PartitionSettings())

    def sync(self) -> None:
        """All of it to the disk."""
        self.disk.sync_below(str(self.directory))

    def close(self) -> None:
        """Remove it."""
        self.disk.close()
        shutil.rmtree(self.directory)


def plain(directory: Path, total: int, on_disk: bool) -> float:
    """A plain file."""
    data = os.urandom(1 << 20)
    path = directory / "plain"
    begin = time.perf_counter()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(total // len(data)):
        os.write(file, data)
    if on_disk:
        os.fdatasync(file)
    seconds = time.perf_counter() - begin
    os.close(file)
    path.unlink()
    return seconds


def engine(directory: Path, total: int) -> float:
    """The engine on one thread."""
    partition = Partition(directory)
    log = partition.log
    data = batch_of(1)
    begin = time.perf_counter()
    for _ in range(total // (TURN_BATCHES * len(data))):
        for _ in range(TURN_BATCHES):
            log.append(bytearray(data), 1)
        write = log.write()
        assert write is not None, "there is something to write"
        write(False)
        log.committed()
    seconds = time.perf_counter() - begin
    partition.close()
    return seconds


def threaded(directory: Path, total: int, on_disk: bool, synced: bool = False) -> float:
    """The engine and the storage thread."""
    partition = Partition(directory)
    log = partition.log
    data = batch_of(1)
    settled: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    committer = ThreadCommitter(settled.put, _fatal)
    running: deque[None] = deque()
    """One for each turn that is not settled: the thread may settle several at once."""
    begin = time.perf_counter()
    for _ in range(total // (TURN_BATCHES * len(data))):
        for _ in range(TURN_BATCHES):
            log.append(bytearray(data), 1)
        write = log.write()
        assert write is not None, "there is something to write"
        done = committer.submit(lambda write=write: write(synced))  # type: ignore[misc]
        running.append(None)
        done.when_settled(log.committed)
        done.when_settled(running.popleft)
        committer.kick()
        while len(running) >= AHEAD_TURNS or not settled.empty():
            settled.get()()
    while running:
        settled.get()()
    if on_disk:
        partition.sync()
    seconds = time.perf_counter() - begin
    assert log.high_watermark == log.end_offset, "all is committed"
    committer.close()
    partition.close()
    return seconds


def _fatal(error: BaseException) -> None:
    raise error


ROWS: dict[str, Callable[[Path, int], float]] = {
    "plain file": lambda directory, total: plain(directory, total, False),
    "engine": engine,
    "storage thread": lambda directory, total: threaded(directory, total, False),
    "plain, on disk": lambda directory, total: plain(directory, total, True),
    "thread, on disk": lambda directory, total: threaded(directory, total, True),
    "thread, synced": lambda directory, total: threaded(directory, total // 4, True, True) * 4,
}


def main() -> int:
    """Measure; exit code 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes, three rounds")
    parser.add_argument("--directory", default=None, help="where to write (default: temporary)")
    options = parser.parse_args()
    total = options.bytes // (4 if options.quick else 1)
    rounds = 3 if options.quick else options.rounds
    directory = Path(tempfile.mkdtemp(prefix="storage-append-", dir=options.directory))
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    try:
        for _ in range(rounds):
            for name, measure in ROWS.items():
                seconds[name].append(measure(directory, total))
                os.sync()
    finally:
        shutil.rmtree(directory)
    rates = {name: total / statistics.median(row) / MEGABYTE for name, row in seconds.items()}
    for name, rate in rates.items():
        peer = rates["plain, on disk" if "disk" in name or "sync" in name else "plain file"]
        print(f"{name:<16} {rate:>7,.0f} MB/s  {rate / peer:>5.0%} of the plain file")
    share = rates["thread, on disk"] / rates["plain, on disk"]
    met = share >= 0.6 or rates["storage thread"] >= LEAST
    print(f"target: 60% of the disk or 500 MB/s: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
