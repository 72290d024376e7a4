"""The last record of a light topic, read at random by name, beside RocksDB on the same data.

`python perf/storage_random_read.py [--topics N] [--reads N] [--quick]`. A light topic is read as a
Fetch or an MQTT replay reads it: from its name by the compiled index to its place in the shard's
log, checked, and given out as a record batch. The peer has topic and batch as key and value of
rocksdict, compacted, with a bloom filter and a block cache of 8 MiB. What would make one of them
read less than the other is taken away:

- The payloads are random bytes of a fixed seed, and the peer does not compress: the broker stores
  batches as they came, so both have as many bytes on the disk, and the peer has none to unpack.
- The shard keeps none of its log in memory once it is written (`hot_bytes`), only its index; of
  the peer's files the indexes and filters are in memory, as it has them when it is open.
- Both get the same names in the same order, in rounds in which they take turns to be first.

  warm    all files were read into the page cache; the peer keeps its block cache from round to
          round
  cold    before its reads each one's page cache is dropped (posix_fadvise), the peer's database is
          opened anew before, so that its block cache is empty; reads as few as leave most cold

The limit is pread of as many bytes at random places of the shard's log. A row is the median of all
reads of all rounds; the target is 1x rocksdict, of the medians.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch
from topics_plan import topic_of

from robustmq.core import batches
from robustmq.core.blocks import build_entry
from robustmq.records import Record
from robustmq.storage.committer import InlineCommitter
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.shard_store import NobodyListens, ShardStore, StoreSettings

SIZE = 100
A_BLOCK = 256
ROUNDS = 6
CACHE_BYTES = 8 * 1024 * 1024

Read = Callable[[bytes], Any]


def _damaged(position: int, length: int) -> None:
    raise AssertionError(f"{length} bytes at {position} do not read back")


def filled_shard(directory: Path, topics: int) -> ShardStore:
    """A shard in which every topic has one record."""
    place = f"{directory}/0000"
    disk = RealDisk()
    disk.make_directory(place)
    committer = InlineCommitter()
    kv = open_key_value(place, "", KeyValueSettings())
    settings = StoreSettings(hot_bytes=1)
    store = ShardStore(place, settings, disk, kv, committer, 1, NobodyListens(), _damaged)
    for first in range(0, topics, A_BLOCK):
        block = bytearray()
        for number in range(first, min(first + A_BLOCK, topics)):
            block += build_entry(topic_of(number), b"", 0, 0, 1, 0, batch_of(number))
        store.append_block(block, 0, 0, 1)
        store.flush(False)
        committer.kick()
    return store


def batch_of(number: int) -> bytes:
    """The one batch of a topic: nobody can make it smaller."""
    return batches.build([Record(value=random.Random(number).randbytes(SIZE))], 1)


def opened_peer(directory: Path) -> Any:
    """RocksDB, with an empty block cache."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    options.set_block_based_table_factory(table)
    return Rdict(str(directory / "peer"), options)


def fill_peer(directory: Path, topics: int) -> None:
    """The same in RocksDB."""
    peer = opened_peer(directory)
    for first in range(0, topics, A_BLOCK):
        changes = WriteBatch(raw_mode=True)
        for number in range(first, min(first + A_BLOCK, topics)):
            changes.put(topic_of(number), batch_of(number))
        peer.write(changes)
    peer.flush()
    peer.compact_range(None, None)
    peer.close()


def files_below(directory: Path) -> list[Path]:
    """All of them."""
    return [path for path in directory.rglob("*") if path.is_file()]


def fill_cache(directory: Path) -> None:
    """Have the kernel hold all files below."""
    for path in files_below(directory):
        with path.open("rb") as file:
            while file.read(1 << 20):
                continue


def drop_cache(directory: Path) -> None:
    """Have the kernel forget what it holds of all files below."""
    os.sync()
    for path in files_below(directory):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def timed(read: Read, names: list[bytes]) -> list[float]:
    """Seconds of each read, sorted."""
    now = time.perf_counter
    found = []
    for name in names:
        begin = now()
        value = read(name)
        found.append(now() - begin)
        assert value, "every topic has a record"
    return sorted(found)


class Peer:
    """The peer's open database."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._database = opened_peer(directory)

    def open_again(self) -> None:
        """Begin with an empty block cache."""
        self._database.close()
        self._database = opened_peer(self._directory)

    def read(self, name: bytes) -> Any:
        """A topic's batch."""
        return self._database.get(name)


def shard_reader(store: ShardStore) -> Read:
    """Reads a light topic's batch."""
    light = store.light
    return lambda name: light.read(name, light.end_offset(name) - 1, 4096).buffers


def plain_reader(directory: Path, seed: int) -> Read:
    """pread of a random place of the shard's first log file, as long as a record is."""
    path = min((directory / "0000" / "log").iterdir())
    file, size = os.open(path, os.O_RDONLY), path.stat().st_size
    length = len(batch_of(0))
    chance = random.Random(seed)
    return lambda name: os.pread(file, length, chance.randrange(size - length))


def main() -> int:
    """Measure; exit code 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=1_000_000)
    parser.add_argument("--reads", type=int, default=20_000, help="of each, in each round")
    parser.add_argument("--quick", action="store_true", help="a tenth of both")
    parser.add_argument("--directory", default=None, help="where to write (default: temporary)")
    options = parser.parse_args()
    part = 10 if options.quick else 1
    topics, reads = options.topics // part, options.reads // part
    directory = Path(tempfile.mkdtemp(prefix="storage-random-", dir=options.directory))
    try:
        return measure(directory, topics, reads)
    finally:
        shutil.rmtree(directory)


def measure(directory: Path, topics: int, reads: int) -> int:
    """All rows; 1 when the target is missed."""
    store = filled_shard(directory, topics)
    fill_peer(directory, topics)
    peer = Peer(directory)
    readers: dict[str, Read] = {
        "light topic": shard_reader(store),
        "rocksdict": peer.read,
        "pread": plain_reader(directory, 1),
    }
    for number in range(0, topics, max(1, topics // 1_000)):
        topic = topic_of(number)
        (batch,) = readers["light topic"](topic)
        # Before it stand the offset and the leader epoch that the shard gave.
        assert batch[16:] == peer.read(topic)[16:], "both have the same"
    chance = random.Random(7)
    missed = False
    for state in ("warm", "cold"):
        times: dict[str, list[float]] = {name: [] for name in readers}
        count = reads if state == "warm" else max(100, reads // 20)
        fill_cache(directory)
        for turn in range(ROUNDS):
            names = [topic_of(chance.randrange(topics)) for _ in range(count)]
            for name in sorted(readers, reverse=bool(turn & 1)):
                if state == "cold":
                    peer.open_again()
                    drop_cache(directory)
                times[name] += timed(readers[name], names)
        medians = {name: statistics.median(found) for name, found in times.items()}
        for name, found in times.items():
            found.sort()
            p99 = found[len(found) * 99 // 100]
            print(
                f"{state}  {name:<12} {len(found) / sum(found):>9,.0f} reads/s  p50 "
                f"{medians[name] * 1e6:>7.1f} us  p99 {p99 * 1e6:>8.1f} us"
            )
        ratio = medians["rocksdict"] / medians["light topic"]
        missed = missed or ratio < 1.0
        print(f"{state}  {ratio:.2f}x rocksdict")
    print(f"target: 1x rocksdict: {'missed' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
