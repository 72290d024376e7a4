"""Cleaning a shard's log: how fast files are written anew, and how long the loop is held for it.

`python perf/log_cleaning.py [--megabytes N] [--quick]`. A shard on a real disk gets batches of
100 B records of many light topics, of which most are deleted; then its files are cleaned as a
worker does, the steps of the storage thread and those of the loop one after the other, without the
pauses between them. A slice of the loop is measured in processor time: what others take of the
machine is not its doing. The limit is a plain copy of the same files, in the same pieces, with
fdatasync.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from robustmq.core import batches
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.shard.file_cleaning import SYNC_BYTES, FileCleaning, Steps
from robustmq.shard.light_needs import Cleanable
from robustmq.storage.committer import InlineCommitter
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import MemoryKeyValue
from robustmq.storage.light_retention import LightRetention
from robustmq.storage.log_survey import READ_BYTES
from robustmq.storage.shard_store import NobodyListens, ShardStore, StoreSettings

TOPICS = 20_000
KEPT_EVERY = 5
A_BLOCK = 64
SEGMENT_BYTES = 16 * 1024 * 1024


def filled(directory: str, size: int) -> tuple[ShardStore, RealDisk]:
    """A shard with so many bytes of log, a fifth of whose topics are left."""
    disk, committer = RealDisk(), InlineCommitter()
    settings = StoreSettings(SEGMENT_BYTES, 1024, 1 << 40)
    store = ShardStore(
        directory,
        settings,
        disk,
        MemoryKeyValue(),
        committer,
        1,
        NobodyListens(),
        lambda position, length: None,
    )
    batch = batches.build([Record(None, bytes(100))], 1)
    entries = [build_entry(b"t/%d" % n, b"", 0, 1, 7, 0, batch) for n in range(TOPICS)]
    number = 0
    while store.end_position < size:
        block = bytearray()
        for _ in range(A_BLOCK):
            block += entries[number % TOPICS]
            number += 1
        store.append_block(block, 0, 0, 1)
        if number % (A_BLOCK * 64) == 0:
            store.flush(False)
            committer.kick()
    for topic in range(TOPICS):
        if topic % KEPT_EVERY:
            store.light.delete(b"t/%d" % topic)
    store.checkpoint([])
    committer.kick()
    return store, disk


class Timed:
    """Runs steps, and times those of the loop and those of the storage thread."""

    def __init__(self) -> None:
        self.loop_s: list[float] = []
        self.thread_s: list[float] = []

    def run(self, steps: Steps) -> None:
        """To their end."""
        result: Any = None
        while True:
            begun = time.thread_time()
            try:
                step = steps.send(result)
            except StopIteration:
                self.loop_s.append(time.thread_time() - begun)
                return
            self.loop_s.append(time.thread_time() - begun)
            begun = time.perf_counter()
            result = step.work() if step is not None else None
            self.thread_s.append(time.perf_counter() - begun)


def nothing() -> Steps:
    """Everything is committed."""
    yield from ()


def copied(directory: str, files: list[str]) -> float:
    """Seconds for a plain copy of files, in the pieces that a cleaning reads."""
    begun = time.perf_counter()
    for number, path in enumerate(files):
        to = os.open(f"{directory}/copy-{number}", os.O_WRONLY | os.O_CREAT, 0o600)
        unsynced = 0
        with open(path, "rb") as source:
            while data := source.read(READ_BYTES):
                os.write(to, data)
                unsynced += len(data)
                if unsynced >= SYNC_BYTES:
                    os.fdatasync(to)
                    unsynced = 0
        os.fdatasync(to)
        os.close(to)
    return time.perf_counter() - begun


def main() -> None:
    """Fill, copy, clean, and say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    size = (48 if options.quick else options.megabytes) * 1024 * 1024
    directory = tempfile.mkdtemp(prefix="log-cleaning-")
    try:
        store, disk = filled(f"{directory}/0000", size)
        closed = store.log.files.files[:-1]
        before = sum(file.size for file in closed)
        copy_s = copied(directory, [file.path for file in closed])
        counted: dict[str, int] = {}

        def count(name: str, amount: int) -> None:
            counted[name] = counted.get(name, 0) + amount

        cleaning = FileCleaning(lambda: time.monotonic_ns() // 1000, count, nothing)
        on = Cleanable(store, LightRetention(-1), 2, array("Q"), False)
        timed = Timed()
        begun = time.perf_counter()
        for file in closed:
            timed.run(cleaning.clean(on, file, False))
        took_s = time.perf_counter() - begun
        disk.close()
    finally:
        shutil.rmtree(directory)
    loop_ms = sorted(one * 1e3 for one in timed.loop_s)
    rare_ms = loop_ms[-1 - len(loop_ms) // 100]
    rewritten = counted.get("storage_log_bytes_rewritten", 0)
    print(f"log              {before / 1e6:8.1f} MB, of which {rewritten / 1e6:.1f} MB are left")
    print(f"cleaned          {before / 1e6 / took_s:8.1f} MB/s")
    print(f"plain copy       {before / 1e6 / copy_s:8.1f} MB/s")
    print(f"loop             {sum(loop_ms) / 1e3:8.2f} s in {len(loop_ms)} slices")
    print(f"longest slice    {loop_ms[-1]:8.2f} ms, 99% within {rare_ms:.2f} ms")
    print(f"storage thread   {sum(timed.thread_s):8.2f} s, longest job {max(timed.thread_s):.3f} s")


if __name__ == "__main__":
    main()
