"""Appends on the shared engine: 100 B records over a million light topics, one worker's shards.

`python perf/storage_shared.py [--topics N] [--rounds M] [--quick]`. Real files, real LevelDB, the
real storage thread; no sockets and no protocol. Blocks of a turn's size are made beforehand, so
the time is that of the storage alone: offsets and chains by the index, the log, the commit, names
of new topics in LevelDB. The peer is LevelDB itself with topic and offset as its key and the record
as its value; the limit is a plain file that the same bytes are written to.
"""

from __future__ import annotations

import argparse
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import plyvel
from topics_plan import payload_of, topic_of

from robustmq.core import batches, hashing
from robustmq.core.blocks import build_entry
from robustmq.records import Record
from robustmq.storage.committer import ThreadCommitter
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.shard_store import NobodyListens, ShardStore, StoreSettings

SIZE = 100
A_BLOCK = 64
"""Records of one shard in one turn."""
TURN_BLOCKS = 8
SHARDS = 8
AHEAD_BYTES = 16 * 1024 * 1024
"""So much waits for its commit at most, as clients wait for acknowledgements."""
TARGET = 200_000


class Shards:
    """What a worker has of storage: its shards, and one storage thread for all of them."""

    def __init__(self, directory: Path) -> None:
        self.settled: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.committer = ThreadCommitter(self.settled.put, _fatal, lambda size: True, print)
        disk = RealDisk()
        settings = StoreSettings(hot_bytes=4 * 1024 * 1024)
        self.stores = []
        for shard in range(SHARDS):
            place = f"{directory}/{shard:04d}"
            disk.make_directory(place)
            kv = open_key_value(place, "", KeyValueSettings())
            self.stores.append(
                ShardStore(place, settings, disk, kv, self.committer, 1, NobodyListens(), _damaged)
            )

    def turn_end(self, shard_list: list[int]) -> None:
        """Commit what the turn has appended, and hear of what is committed."""
        for shard in shard_list:
            self.stores[shard].flush(False)
        self.committer.kick()
        while not self.settled.empty():
            self.settled.get()()
        while sum(store.uncommitted_bytes for store in self.stores) > AHEAD_BYTES:
            self.settled.get()()

    def checkpoint(self) -> None:
        """As the broker's second does: one shard at a time."""
        for store in self.stores:
            if store.needs_checkpoint:
                store.checkpoint([])
                self.committer.kick()
                return

    def close(self) -> None:
        """All is committed afterwards."""
        self.committer.close()
        while not self.settled.empty():
            self.settled.get()()
        for store in self.stores:
            store.close()


def _fatal(error: BaseException) -> None:
    raise error


def _damaged(position: int, length: int) -> None:
    raise AssertionError(f"{length} bytes at {position} do not read back")


def blocks_of(topics: int, round_: int) -> Iterator[tuple[int, bytearray]]:
    """(shard, block) of one round: each topic once, parted by shard as the router does."""
    gathered = [bytearray() for _ in range(SHARDS)]
    counts = [0] * SHARDS
    for number in range(topics):
        topic = topic_of(number)
        shard = hashing.mix(topic, 0) % SHARDS
        batch = batches.build([Record(value=payload_of(number, round_, SIZE, 0))], 1)
        gathered[shard] += build_entry(topic, b"", 0, 0, 1, 0, batch)
        counts[shard] += 1
        if counts[shard] == A_BLOCK:
            yield shard, gathered[shard]
            gathered[shard] = bytearray()
            counts[shard] = 0
    for shard, block in enumerate(gathered):
        if block:
            yield shard, block


def append(shards: Shards, blocks: list[tuple[int, bytearray]]) -> float:
    """Append and commit everything; the seconds until the last commit."""
    begin = time.perf_counter()
    for first in range(0, len(blocks), TURN_BLOCKS):
        turn = blocks[first : first + TURN_BLOCKS]
        for shard, block in turn:
            shards.stores[shard].append_block(block, 0, 0, 1)
        shards.turn_end([shard for shard, _ in turn])
        if first % (TURN_BLOCKS * 64) == 0:
            shards.checkpoint()
    while any(store.uncommitted_bytes for store in shards.stores):
        shards.settled.get()()
    return time.perf_counter() - begin


def peer(directory: Path, topics: int) -> float:
    """LevelDB alone: the records in write batches of the same size; seconds for one round."""
    db = plyvel.DB(
        str(directory / "peer"), create_if_missing=True, write_buffer_size=16 * 1024 * 1024
    )
    rows = [
        (topic_of(number) + bytes(8), payload_of(number, 0, SIZE, 0)) for number in range(topics)
    ]
    begin = time.perf_counter()
    for first in range(0, topics, A_BLOCK):
        with db.write_batch() as batch:
            for key, value in rows[first : first + A_BLOCK]:
                batch.put(key, value)
    seconds = time.perf_counter() - begin
    db.close()
    return seconds


def limit(directory: Path, total: int) -> float:
    """A plain file: seconds to write so many bytes, a turn at a time."""
    data = bytes(A_BLOCK * TURN_BLOCKS * 270)
    begin = time.perf_counter()
    with (directory / "plain").open("wb", buffering=0) as file:
        for _ in range(max(1, total // len(data))):
            file.write(data)
    return time.perf_counter() - begin


def main() -> int:
    """Measure; exit code 1 when topics that are known get less than the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="the first makes the topics")
    parser.add_argument("--quick", action="store_true", help="a tenth of the topics")
    parser.add_argument("--directory", default=None, help="where to write (default: temporary)")
    options = parser.parse_args()
    topics = options.topics // (10 if options.quick else 1)
    directory = Path(tempfile.mkdtemp(prefix="storage-shared-", dir=options.directory))
    slowest = 0.0
    try:
        shards = Shards(directory)
        for round_ in range(options.rounds):
            blocks = list(blocks_of(topics, round_))
            size = sum(len(block) for _, block in blocks)
            seconds = append(shards, blocks)
            name = "new topics" if round_ == 0 else "known topics"
            print(
                f"{name:<13} {topics / seconds:>12,.0f} records/s  {size / seconds / 1e6:,.0f} MB/s"
            )
            if round_:
                slowest = max(slowest, seconds)
        shards.close()
        seconds = peer(directory, topics)
        print(f"{'LevelDB':<13} {topics / seconds:>12,.0f} records/s, the records as its values")
        seconds = limit(directory, size)
        print(
            f"{'plain file':<13} {topics / seconds:>12,.0f} records/s, the same bytes and no more"
        )
    finally:
        shutil.rmtree(directory)
    reached = bool(slowest) and topics / slowest >= TARGET
    print(f"target: {TARGET:,} records/s a worker: {'reached' if reached else 'MISSED'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
