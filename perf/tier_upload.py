"""Uploads of closed segments to an S3 server on this machine, beside obstore alone.

`python perf/tier_upload.py [--segments N] [--rounds M] [--quick]`. Segments of 64 MiB, as the
segment engine writes them, with their indexes. Rows, each measured in every round, in turns:

  obstore           obstore.put of the same files, in parts of the same size, as many at a time
  uploads           the segments, their indexes and the manifest, on as many threads
  ..., 1 MiB        both of segments of 1 MiB: what the index and the manifest cost beside them

Reads come from the page cache, and the server writes to the same disk: what is compared is what is
done beside the bytes. The target is 80% of obstore. The median of the rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import obstore
from obstore.store import S3Store

from robustmq.core import batches
from robustmq.records import Record
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.manifest import Head, Manifest, TopicInfo, prefix_of
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.remote_store import PART_BYTES, PARTS_AT_ONCE, open_object_store
from robustmq.storage.segment import ClosedFile, SegmentPartition
from robustmq.storage.uploads import Upload, upload
from robustmq.tiering_settings import TieringSettings
from tests.object_stores import S3Server

MEGABYTE = 1_000_000
T = TypeVar("T")
AT_ONCE = 2
"""As `storage.tiering.uploads`."""
WANTED = 0.8


def segments(directory: Path, count: int, size: int) -> list[ClosedFile]:
    """Closed files of a partition, and their indexes."""
    log = SegmentPartition(str(directory), RealDisk(), PartitionSettings(segment_bytes=size))
    batch = batches.build([Record(value=bytes(1012)) for _ in range(60)], 1)
    while len(log.files) <= count:
        for _ in range(256):
            log.append(bytearray(batch), 1)
        write = log.write()
        assert write is not None, "there is something to write"
        write(False)
        log.committed()
    write = log.write()
    if write is not None:
        write(False)
        log.committed()
    return log.closed_files()[:count]


def obstore_alone(server: S3Server, url: str, files: list[ClosedFile]) -> float:
    """The same files by obstore."""
    store = S3Store.from_url(
        url,
        config={**server.options, "checksum_algorithm": "SHA256"},  # type: ignore[arg-type]
        client_options={"allow_http": True},
    )

    def put(file: ClosedFile) -> None:
        obstore.put(
            store,
            Path(file.path).name,
            Path(file.path),
            chunk_size=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
        )

    return timed(put, files)


def uploads(store: ObjectStore, files: list[ClosedFile]) -> float:
    """Segments, indexes and a manifest for each thread's part of them."""
    disk = RealDisk()
    owners = {}
    for number in range(AT_ONCE):
        topic = TopicInfo(b"t", bytes(16), 1)
        prefix = prefix_of("cluster", bytes(16), number)
        owner = Manifest(store, prefix, Head("cluster", topic, number, 1))
        owner.load()
        owners[number] = (prefix, owner)

    def put(some: tuple[int, list[ClosedFile]]) -> None:
        prefix, owner = owners[some[0]]
        for file in some[1]:
            one = Upload(
                file.path, file.index_path, file.base_offset, file.next_offset, file.size, 1
            )
            upload(store, disk, prefix, owner, one, 1)

    parts = [(number, files[number::AT_ONCE]) for number in range(AT_ONCE)]
    return timed(put, parts)


def timed(work: Callable[[T], None], parts: list[T]) -> float:
    """Seconds for all parts, AT_ONCE at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begin = time.perf_counter()
        list(pool.map(work, parts))
        return time.perf_counter() - begin


def main() -> int:
    """Measure and print; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    count, rounds = (4, 3) if options.quick else (options.segments, options.rounds)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "s3").mkdir()
        large = segments(Path(place) / "large", count, 64 << 20)
        small = segments(Path(place) / "small", 4 * count, 1 << 20)
        with S3Server(Path(place) / "s3") as server:
            for _ in range(rounds):
                url = server.fresh_url()
                store = open_object_store(TieringSettings(url, server.options))
                seconds = {
                    "obstore": obstore_alone(server, server.fresh_url(), large),
                    "uploads": uploads(store, large),
                }
                for name, took in seconds.items():
                    rate = sum(file.size for file in large) / took / MEGABYTE
                    rates.setdefault(name, []).append(rate)
                fresh = open_object_store(TieringSettings(server.fresh_url(), server.options))
                took = obstore_alone(server, server.fresh_url(), small)
                size = sum(file.size for file in small) / MEGABYTE
                rates.setdefault("obstore, 1 MiB", []).append(size / took)
                rates.setdefault("uploads, 1 MiB", []).append(size / uploads(fresh, small))
    for name, found in rates.items():
        print(
            f"{name:<16} {statistics.median(found):8.0f} MB/s  {min(found):.0f}..{max(found):.0f}"
        )
    share = statistics.median(rates["uploads"]) / statistics.median(rates["obstore"])
    print(f"uploads reach {share:.0%} of obstore alone (wanted {WANTED:.0%})")
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
