"""How long a broker takes to be ready with many gigabytes in one shard.

`python perf/storage_start.py [--gigabytes N] [--partitions N] [--quick]`. A real broker with one
worker gets so much by Kafka, in one partition of large batches, and is stopped; then it is started
again and again. "Storage alone" is all shards opened in this process; what a start takes beside
that is the processes themselves, as the first row says:

  empty            a broker that has nothing
  clean stop       indexes are whole
  kill -9          the last file has an index that tells of most of it
  without indexes  all of them removed: every byte is scanned, as if nothing was known
  reading          all segment files read once by read(2): what a scan costs at least

and then with many partitions of a few records each, stopped and killed. The target is 2 s for the
storage, after a clean stop and after a kill, with 10 GB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.storage.committer import InlineCommitter
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.shard_store import NobodyListens, ShardStore, StoreSettings
from tests.broker import BrokerProcess

TARGET_S = 2.0
VALUE_BYTES = 64 * 1024
MEGABYTE = 1_000_000


def producer_of(broker: BrokerProcess) -> Producer:
    """A producer of batches of a megabyte."""
    return Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "acks": 1,
            "linger.ms": 20,
            "batch.size": 900_000,
            "queue.buffering.max.kbytes": 64 * 1024,
        }
    )


def fill(broker: BrokerProcess, total: int) -> int:
    """Produce so many bytes to one partition; how many records."""
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
    (made,) = client.create_topics([NewTopic("large", 1)]).values()
    made.result(30)
    producer = producer_of(broker)
    value = os.urandom(VALUE_BYTES)
    count = total // VALUE_BYTES
    for _ in range(count):
        while True:
            try:
                producer.produce("large", value, partition=0)
                break
            except BufferError:
                producer.poll(0.05)
    assert not producer.flush(120), "all is acknowledged"
    return count


def fill_many(broker: BrokerProcess, partitions: int) -> None:
    """A few records in each of many partitions."""
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
    (made,) = client.create_topics([NewTopic("many", partitions)]).values()
    made.result(60)
    producer = producer_of(broker)
    for number in range(partitions * 3):
        producer.produce("many", b"x" * 200, partition=number % partitions)
        if not number % 1000:
            producer.poll(0)
    assert not producer.flush(120), "all is acknowledged"


def first_read(broker: BrokerProcess, offset: int) -> float:
    """Seconds until a consumer has a record from the middle."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "group.id": "start"})
    begin = time.perf_counter()
    consumer.assign([TopicPartition("large", 0, offset)])
    message = None
    while message is None and time.perf_counter() - begin < 30:
        message = consumer.poll(0.1)
    assert message is not None and message.offset() == offset, "the record that was asked for"
    seconds = time.perf_counter() - begin
    consumer.close()
    return seconds


def started(broker: BrokerProcess) -> float:
    """Seconds from the start to ready."""
    begin = time.perf_counter()
    broker.start()
    return time.perf_counter() - begin


def read_all(data: Path) -> float:
    """Seconds to read every segment file once."""
    begin = time.perf_counter()
    for path in data.glob("????/segments/*/*.log"):
        with path.open("rb", buffering=0) as file:
            while file.read(4 << 20):
                pass
    return time.perf_counter() - begin


def storage_alone(data: Path) -> float:
    """Seconds to open all shards and the large partition in this process, as the worker does."""
    begin = time.perf_counter()
    disk = RealDisk()
    stores = []
    for place in sorted(data.glob("[0-9]" * 4)):
        kv = open_key_value(str(place), "", KeyValueSettings())
        store = ShardStore(
            str(place), StoreSettings(), disk, kv, InlineCommitter(), 1, NobodyListens(), _damaged
        )
        stores.append(store)
        for engine_name, name in store.stored_partitions():
            if not store.is_small(name):
                log = store.open_beside(name, engine_name, PartitionSettings())
                assert log.end_offset, "the records are there"
    seconds = time.perf_counter() - begin
    for store in stores:
        store.close()
    disk.close()
    return seconds


def _damaged(position: int, length: int) -> None:
    raise AssertionError(f"{length} bytes at {position} do not read back")


def show(name: str, seconds: float, more: str = "") -> float:
    """One row."""
    print(f"{name:<28} {seconds:>7.2f} s  {more}", flush=True)
    return seconds


def measure(directory: Path, total: int, partitions: int) -> float:
    """All rows; the longest that has a target."""
    broker = BrokerProcess(directory, 1, LIMITS__MAX_PARTITIONS=str(partitions))
    show("empty", started(broker))
    begin = time.perf_counter()
    count = fill(broker, total)
    rate = total / (time.perf_counter() - begin) / MEGABYTE
    print(f"{'':28} filled with {total / 1e9:.1f} GB at {rate:,.0f} MB/s", flush=True)
    broker.stop()
    slowest = show("clean stop, storage alone", storage_alone(broker.data))
    show("clean stop", started(broker))
    show("first read from the middle", first_read(broker, count // 2))
    broker.kill()
    slowest = max(slowest, show("kill -9, storage alone", storage_alone(broker.data)))
    show("kill -9", started(broker))
    broker.stop()
    for path in broker.data.glob("????/segments/*/*.index"):
        path.unlink()
    show("without indexes", started(broker))
    fill_many(broker, partitions)
    broker.stop()
    show("reading", read_all(broker.data))
    more = f"and {partitions} partitions more"
    show("clean stop", started(broker), more)
    broker.kill()
    show("kill -9", started(broker), more)
    broker.stop()
    return slowest


def main() -> int:
    """Measure; exit code 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--partitions", type=int, default=5_000)
    parser.add_argument("--quick", action="store_true", help="1 GB and 500 partitions")
    parser.add_argument("--directory", default=None, help="where to write (default: temporary)")
    options = parser.parse_args()
    gigabytes = 1.0 if options.quick else options.gigabytes
    partitions = 500 if options.quick else options.partitions
    directory = Path(tempfile.mkdtemp(prefix="storage-start-", dir=options.directory))
    try:
        slowest = measure(directory, int(gigabytes * 1e9), partitions)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"target: ready in {TARGET_S} s: {'met' if slowest <= TARGET_S else 'missed'}")
    return 0 if slowest <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
