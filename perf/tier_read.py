"""Reads of cold records: the first time from an object store, then from the disk and from memory.

`python perf/tier_read.py [--megabytes N] [--batch BYTES] [--rounds N] [--broker] [--light]
[--quick]`. The store
is versitygw on loopback, as the tests build it, in a temporary folder. The rows, and what stands
beside them; memory that was freed is used again as in a worker (`process/freed_memory.py`):

- first: one `ColdReader` over all segments, nothing cached, with and without a cache folder. Beside
  it obstore alone, which reads the same objects whole with as many threads and as much at once
  (4 and 8 MiB; the cache has a thread more, for what somebody waits for), in the same round. And
  what no reader can do without: obstore and a CRC-32C of every byte, and that with the last 128 MiB
  kept, as the cache does (memory and what is fetched ahead) while obstore alone writes over a
  little memory again and again, which stays in the processor's cache.
- disk: the same again with a memory that holds an eighth, so that the blocks come from the folder,
  past the page cache. Beside it pread of the same blocks past the page cache, with as many threads.
- memory: again, all in memory. Beside it a copy of as many bytes, which is what no read can beat
  that gives copies.
- `--broker`: one Kafka consumer (librdkafka) over a tiered topic of a broker with one worker, the
  first and the second time; beside it the same consumer over a topic that is on the local disk.
- `--light`, alone: a light topic of mode tiered, in the log of one shard. How fast the log is
  uploaded when the store, which was silent meanwhile, answers again; then as with `--broker`,
  beside a light topic of which nothing is tiered.
"""

from __future__ import annotations

import argparse
import mmap
import os
import queue
import random
import statistics
import sys
import tempfile
import time
from array import array
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from crc32c import crc32c
from paho.mqtt import publish

from robustmq.core import batches
from robustmq.process.freed_memory import reuse_freed_memory
from robustmq.records import Record
from robustmq.storage import segment_index
from robustmq.storage.block_cache import BlockCache, CacheSettings
from robustmq.storage.cold_reader import ColdReader
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.committer import SWITCH_INTERVAL_S
from robustmq.storage.manifest import INDEX, LOG, object_name
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings
from tests.broker import BrokerProcess
from tests.object_stores import S3Server

MIB = 1024 * 1024
SEGMENT = 64 * MIB
PREFIX = "perf/topic-0/"
THREADS = 4
GET = 8 * MIB
KEPT = 128 * MIB
"""What a cache of the first row holds: memory, and what is fetched ahead."""
FETCH = 1 * MIB
"""What a Kafka consumer asks of a partition unless it is told otherwise."""
TARGETS = {"first": 0.8, "disk": 1_000.0, "memory": 3_000.0}


class Cold:
    """Segments in a store."""

    def __init__(self, store: ObjectStore, size: int, batch_bytes: int) -> None:
        self.store = store
        self.table = ColdSegments()
        self.batch = 0
        offset = 0
        for _ in range(max(size // SEGMENT, 1)):
            offset = self._add(offset, min(size, SEGMENT), batch_bytes)
        self.end = offset
        self.size = self.table.size

    def _add(self, base: int, size: int, batch_bytes: int) -> int:
        value = random.Random(base).randbytes(batch_bytes - 80)
        batch = bytearray(batches.build([Record(None, value)], 1_000))
        self.batch = len(batch)
        log, rows, offset = bytearray(), (array("q"), array("q"), array("q")), base
        while len(log) + len(batch) <= size:
            batches.set_base(batch, 0, offset, 1)
            if not rows[1] or len(log) - rows[1][-1] >= 4096:
                for column, number in zip(rows, (offset, len(log), 1_000), strict=True):
                    column.append(number)
            log += batch
            offset += 1
        columns = b"".join(column.tobytes() for column in rows)
        head = segment_index.HEAD.pack(
            segment_index.MAGIC, 0, crc32c(columns), len(log), base, offset, 1_000, 1_000, 0, 0, 0,
            len(rows[0]), 0, bytes(16),
        )  # fmt: skip
        index = head[:8] + crc32c(head[12:]).to_bytes(4, "little") + head[12:] + columns
        name = PREFIX + object_name(base, 1)
        self.store.put(name + LOG, [log])
        self.store.put(name + INDEX, [index])
        self.table.add(ColdSegment(base, offset, len(log), 1_000, 1))
        return offset


class Worker:
    """What a worker has: a loop and a cache. Reads all of a partition as one consumer does."""

    def __init__(self, cold: Cold, memory: int, disk: int, directory: Path) -> None:
        self._ready: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.counted: defaultdict[str, int] = defaultdict(int)
        self._cold = cold
        self.cache = BlockCache(
            cold.store,
            CacheSettings(
                memory, 64 * MIB, MIB, disk, str(directory) if disk else "", GET, THREADS + 1
            ),
            self._ready.put,
            lambda delay_ms, run: self._ready.put(run),
            lambda: time.monotonic_ns() // 1_000_000,
            lambda: time.monotonic_ns() // 1_000,
            self._count,
            lambda level, text, **fields: print(f"  {text} {fields}"),
        )
        self.cache.start()
        self.turn(0.2)

    def _count(self, name: str, amount: int) -> None:
        self.counted[name] += amount

    def turn(self, for_s: float = 0.0) -> None:
        """Run what is ready; for some time."""
        end = time.monotonic() + for_s
        while True:
            try:
                self._ready.get(timeout=max(end - time.monotonic(), 0) or 1e-6)()
            except queue.Empty:
                if time.monotonic() >= end:
                    return

    def read_all(self) -> float:
        """MB/s."""
        cold = self._cold
        reader = ColdReader(self.cache, PREFIX, cold.table)
        offset = read = 0
        begun = time.perf_counter()
        while offset < cold.end:
            result = reader.read(offset, FETCH, cold.end)
            if result.pending is not None:
                while not result.pending.settled:
                    self._ready.get(timeout=60)()
                continue
            assert not result.error, f"error {result.error} at {offset}"
            size = sum(map(len, result.buffers))
            read += size
            offset += size // cold.batch
            while not self._ready.empty():
                self._ready.get()()
        assert read == cold.size, "every byte once"
        return read / (time.perf_counter() - begun) / 1e6

    def written(self) -> None:
        """All that is to be in the folder is there."""
        while self.cache._writing:
            self.turn(0.05)
        self.turn(0.5)


def by_obstore(cold: Cold, look: Callable[[memoryview], object] = len) -> float:
    """MB/s of obstore alone, and of what is done with each answer."""
    jobs = [
        (PREFIX + object_name(one.base_offset, 1) + LOG, begin)
        for one in cold.table
        for begin in range(0, one.size, GET)
    ]

    def read_one(job: tuple[str, int]) -> int:
        data = cold.store.get_range(job[0], job[1], GET)
        look(data)
        return len(data)

    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        read = sum(threads.map(read_one, jobs))
    assert read == cold.size, "every byte once"
    return read / (time.perf_counter() - begun) / 1e6


class Kept:
    """The last answers of a store, of each of which a checksum was made."""

    def __init__(self) -> None:
        self._answers: deque[memoryview] = deque(maxlen=KEPT // GET)

    def add(self, data: memoryview) -> None:
        """Keep one, and let go of the oldest."""
        crc32c(data)
        self._answers.append(data)


def by_pread(directory: Path) -> float:
    """MB/s of the cache folder's files, past the page cache."""
    files = list(directory.iterdir())
    buffers = [mmap.mmap(-1, 2 * MIB) for _ in range(THREADS)]

    def read(number: int) -> int:
        size = 0
        for path in files[number::THREADS]:
            file = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
            size += os.preadv(file, [buffers[number]], 0)
            os.close(file)
        return size

    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        read_bytes = sum(threads.map(read, range(THREADS)))
    return read_bytes / (time.perf_counter() - begun) / 1e6


def by_copy(size: int) -> float:
    """MB/s of copying so many bytes, 1 MiB at a time."""
    source = memoryview(bytes(64 * MIB))
    begun = time.perf_counter()
    for begin in range(0, size, MIB):
        bytes(source[begin % (64 * MIB) :][:MIB])
    return size / (time.perf_counter() - begun) / 1e6


def rounds(cold: Cold, place: Path, count: int) -> dict[str, list[float]]:
    """The figures of all rounds, by row."""
    found: dict[str, list[float]] = {}

    def note(row: str, figure: float) -> None:
        found.setdefault(row, []).append(figure)
        print(f"  {row}: {figure:.0f} MB/s", flush=True)

    for number in range(count):
        print(f"round {number + 1}")
        note("obstore alone", by_obstore(cold))
        note("obstore + crc32c", by_obstore(cold, crc32c))
        note("obstore + crc32c, kept", by_obstore(cold, Kept().add))
        worker = Worker(cold, 64 * MIB, 0, place)
        note("first, no folder", worker.read_all())
        worker.cache.close()
        directory = place / f"cache-{number}"
        worker = Worker(cold, max(cold.size // 8, 8 * MIB), 2 * cold.size, directory)
        note("first, folder written", worker.read_all())
        worker.written()
        note("obstore alone", by_obstore(cold))
        # What the disk did not keep up with comes to the folder now.
        while worker.counted["storage_tier_disk_writes_skipped"]:
            worker.counted.clear()
            worker.read_all()
            worker.written()
        worker.counted.clear()
        note("disk", worker.read_all())
        assert not worker.counted["storage_tier_gets"], "all of it came from the folder"
        worker.cache.close()
        note("pread alone", by_pread(directory))
        worker = Worker(cold, 2 * cold.size, 2 * cold.size, directory)
        worker.read_all()
        note("memory", worker.read_all())
        worker.cache.close()
        note("copy alone", by_copy(cold.size))
    return found


def by_consumer(broker: BrokerProcess, topic: str, count: int) -> float:
    """MB/s of one consumer that reads all of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "group.id": "perf",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 500,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    seen = size = 0
    begun = time.perf_counter()
    while seen < count:
        for message in consumer.consume(10_000, 1.0):
            assert message.error() is None, message.error()
            seen += 1
            size += len(message.value() or b"")
    took_s = time.perf_counter() - begun
    consumer.close()
    return size / took_s / 1e6


def fill(broker: BrokerProcess, topic: str, value: bytes, count: int) -> None:
    """So many records."""
    producer = Producer(
        {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "linger.ms": 20, "batch.size": MIB}
    )
    for number in range(count):
        producer.produce(topic, value)
        if number % 100 == 0:
            producer.flush()
    producer.flush()


def with_broker(place: Path, server: S3Server, megabytes: int) -> None:
    """The rows of a real broker."""
    settings = {**server.settings(server.fresh_url()), "STORAGE__TIERING__TIMEOUT_MS": "30000"}
    count = megabytes * MIB // 10_000
    with BrokerProcess(place, 1, **settings) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        tiered = {"remote.storage.enable": "true", "local.retention.bytes": "1"}
        topics = [
            NewTopic("local", 1, config={"segment.bytes": str(16 * MIB)}),
            NewTopic("cold", 1, config={"segment.bytes": str(16 * MIB), **tiered}),
        ]
        for made in admin.create_topics(topics).values():
            made.result(30)
        value = random.Random(2).randbytes(10_000)
        for topic in ("local", "cold"):
            fill(broker, topic, value, count)
        wanted = max(megabytes // 17, 1)
        lag = "robustmq_storage_tier_lag_segments"
        while broker.metric("robustmq_storage_tier_segments") < wanted or broker.metric(lag):
            time.sleep(0.2)
        # And their local files go with the next look at retention.
        time.sleep(3)
        for row, topic in (("local", "local"), ("cold, first", "cold"), ("cold, second", "cold")):
            print(f"consumer, {row}: {by_consumer(broker, topic, count):.0f} MB/s", flush=True)
        served = broker.metric("robustmq_storage_tier_read_bytes_total")
        assert served > megabytes * MIB, "it was read from the object store"


LIGHT = f"""
[node]
shards = 1
[storage]
segment_bytes = {16 * MIB}
checkpoint_bytes = {16 * MIB}
light_retention_ms = -1
[[storage.rules]]
filter = "light/#"
mode = "tiered"
local_retention_ms = 0
"""


def with_light(place: Path, server: S3Server, megabytes: int) -> None:
    """The rows of a light topic."""
    settings = {**server.settings(server.fresh_url()), "STORAGE__TIERING__TIMEOUT_MS": "30000"}
    value = random.Random(2).randbytes(10_000)
    count = megabytes * MIB // len(value)
    with BrokerProcess(place, 1, LIGHT, **settings) as broker:
        for topic in ("light/cold", "local/one"):
            # A publish makes it.
            publish.single(topic, value, 1, port=broker.mqtt)
        server.hold()
        fill(broker, "light.cold", value, count - 1)
        # What is uploaded, without the file that is open and the one before, which may be waited
        # for until the next checkpoint.
        wanted = (megabytes - 32) * MIB
        begun = time.perf_counter()
        server.go_on()
        sent = "robustmq_storage_tier_bytes_uploaded_total"
        while (uploaded := broker.metric(sent)) < wanted:
            time.sleep(0.02)
        took_s = time.perf_counter() - begun
        print(f"uploads of a shard's log: {uploaded / took_s / 1e6:.0f} MB/s", flush=True)
        while sum(file.stat().st_size for file in broker.data.glob("*/log/*")) > 48 * MIB:
            time.sleep(0.2)
        fill(broker, "local.one", value, count - 1)
        for row in ("local", "cold, first", "cold, second"):
            topic = "local.one" if row == "local" else "light.cold"
            found = by_consumer(broker, topic, count)
            print(f"consumer of a light topic, {row}: {found:.0f} MB/s", flush=True)
        served = broker.metric("robustmq_storage_tier_read_bytes_total")
        assert served > (megabytes - 48) * MIB, "it was read from the object store"


def report(found: dict[str, list[float]]) -> None:
    """Medians, and what they were to reach."""
    middle = {row: statistics.median(figures) for row, figures in found.items()}
    print()
    for row, figure in middle.items():
        print(f"{row:24} {figure:8.0f} MB/s")
    peer = middle["obstore alone"]
    for row in ("first, no folder", "first, folder written"):
        part = middle[row] / peer
        print(f"{row}: {part:.0%} of obstore alone (target {TARGETS['first']:.0%})")
        for other in ("obstore + crc32c", "obstore + crc32c, kept"):
            print(f"{row}: {middle[row] / middle[other]:.0%} of {other}")
    for row in ("disk", "memory"):
        print(f"{row}: {middle[row]:.0f} MB/s (target {TARGETS[row]:.0f})")


def main() -> None:
    """Measure, and say what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=65_536, help="bytes of a record batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", action="store_true")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.rounds = 256, 1
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    reuse_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "s3").mkdir()
        with S3Server(place / "s3") as server:
            if options.light:
                (place / "broker").mkdir()
                with_light(place / "broker", server, options.megabytes)
                return
            store = open_object_store(TieringSettings(server.fresh_url(), server.options))
            cold = Cold(store, options.megabytes * MIB, options.batch)
            report(rounds(cold, place, options.rounds))
            if options.broker:
                (place / "broker").mkdir()
                with_broker(place / "broker", server, options.megabytes // 4)


if __name__ == "__main__":
    main()
