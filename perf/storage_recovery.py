"""How long a broker takes to start on what a shard holds, and how fast recovery replays.

    python perf/storage_recovery.py --quick           1 GB of shard log, 100,000 topics
    python perf/storage_recovery.py --gigabytes 10 --topics 1000000

One shard's log is filled through the store itself with blocks of light topics (100 B records), with
a checkpoint before the last part. Then the real command is started on it, and on an empty data
directory: what is stored costs the difference. The limit beside the replay is a plain read of the
same files, with CRC-32C of every byte, in this process.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from crc32c import crc32c

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from robustmq.core import batches
from robustmq.core.hashing import set_topic_secret
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.storage.committer import InlineCommitter
from robustmq.storage.data_directory import open_data_directory, shard_directory
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.shard_store import NobodyListens, ShardStore, StoreSettings
from tests.broker import BrokerProcess

MIB = 1 << 20
TURN_ENTRIES = 500
NOW_MS = 1_700_000_000_000


def fill(data: Path, size: int, topics: int, tail: int) -> float:
    """Write a shard's log of so many bytes; the last `tail` of them behind the checkpoint. The
    longest that a checkpoint held its caller, in ms."""
    set_topic_secret(open_data_directory(data, 16).topic_secret)
    directory = shard_directory(data, 0)
    disk = RealDisk()
    disk.make_directory(directory)
    kv = open_key_value(directory, "", KeyValueSettings())
    committer = InlineCommitter()
    store = ShardStore(
        directory, StoreSettings(), disk, kv, committer, 1, NobodyListens(), lambda at, length: None
    )
    batch = bytes(batches.build([Record(None, b"x" * 100)], NOW_MS))
    entries = [
        bytes(build_entry(b"perf/%07d" % number, b"", 0, 0, 7, 0, batch))
        for number in range(topics)
    ]
    blocks = [
        b"".join(entries[first : first + TURN_ENTRIES])
        for first in range(0, len(entries), TURN_ENTRIES)
    ]
    number, held_ms, checkpointed = 0, 0.0, False
    while store.end_position < size:
        store.append_block(bytearray(blocks[number % len(blocks)]), 0, 0, NOW_MS)
        number += 1
        store.flush(False)
        committer.kick()
        if not checkpointed and store.end_position >= size - tail:
            begin = time.perf_counter()
            store.checkpoint([])
            held_ms = (time.perf_counter() - begin) * 1000
            committer.kick()
            checkpointed = True
    store.close()
    disk.close()
    return held_ms


def start_s(directory: Path, workers: int) -> float:
    """From the command to its word that it is ready."""
    broker = BrokerProcess(directory, workers)
    begin = time.perf_counter()
    with broker:
        return time.perf_counter() - begin


def read_rate(data: Path, size: int) -> float:
    """Bytes a second of a plain read with CRC of the last bytes of the log, which are warm."""
    begin, done = time.perf_counter(), 0
    for path in sorted(data.glob("0000/log/*.log"), reverse=True):
        content = path.read_bytes()
        crc32c(content)
        done += len(content)
        if done >= size:
            break
    return done / (time.perf_counter() - begin)


def main() -> None:
    """Print one row a case."""
    parser = argparse.ArgumentParser(description="Start of a broker on what is stored.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--topics", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    gigabytes = 1.0 if arguments.quick else arguments.gigabytes
    topics = 100_000 if arguments.quick else arguments.topics
    root = Path(tempfile.mkdtemp(prefix="recovery-"))
    try:
        (root / "empty").mkdir()
        start_s(root / "empty", arguments.workers)
        empty = start_s(root / "empty", arguments.workers)
        print(f"start on an empty data directory: {empty:.2f} s")
        for tail in (0, 60 * MIB):
            place = root / f"tail-{tail}"
            place.mkdir()
            size = int(gigabytes * 1e9)
            begin = time.perf_counter()
            held_ms = fill(place / "data", size, topics, tail)
            filled_s = time.perf_counter() - begin
            full = start_s(place, arguments.workers)
            print(
                f"{gigabytes:g} GB in one shard's log, {topics} topics, {tail // MIB} MiB behind"
                f" the checkpoint: start {full:.2f} s, {full - empty:.2f} s more;"
                f" the checkpoint held the loop for {held_ms:.1f} ms"
                f" (written with {size / filled_s / 1e6:.0f} MB/s)"
            )
            if tail:
                rate = read_rate(place / "data", tail) / 1e6
                print(
                    f"replay: {tail / max(full - empty, 1e-3) / 1e6:.0f} MB/s;"
                    f" a plain read with CRC: {rate:.0f} MB/s"
                )
            shutil.rmtree(place)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
