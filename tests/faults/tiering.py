"""Tiered topics of a real broker: made, filled, read, and looked at in the object store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from robustmq.storage.manifest import LOG, Head, object_name, read_head, read_rows
from robustmq.storage.object_store import ObjectMissingError, ObjectStore
from tests.broker import BrokerProcess, until

SEGMENT_BYTES = 1 << 20
VALUE_BYTES = 20_000
"""So that fifty records fill a segment."""
LOCAL_FEW = {
    "remote.storage.enable": "true",
    "segment.bytes": str(SEGMENT_BYTES),
    "local.retention.bytes": "1",
}
PATIENCE_S = 60.0


def value(number: int) -> bytes:
    """A record that fills a fiftieth of a segment."""
    return b"%d " % number + b"x" * VALUE_BYTES


def number_of(data: bytes | None) -> int:
    return int((data or b"-1").partition(b" ")[0])


def admin(broker: BrokerProcess) -> AdminClient:
    return AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})


def make_topic(broker: BrokerProcess, name: str, partitions: int = 1, **configs: str) -> None:
    """A tiered topic that keeps little on the local disk; settings have _ in the place of dots."""
    told = {key.replace("_", "."): one for key, one in configs.items()}
    new = NewTopic(name, partitions, config={**LOCAL_FEW, **told})
    client = admin(broker)
    client.create_topics([new])[name].result(PATIENCE_S)


def produce(
    broker: BrokerProcess, topic: str, numbers: Iterable[int], partition: int = 0
) -> list[int]:
    """Records one by one; their offsets."""
    offsets: list[int] = []

    def delivered(error: KafkaError | None, message: confluent_kafka.Message) -> None:
        assert error is None, error
        offsets.append(message.offset() or 0)

    settings = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "linger.ms": 5}
    producer = Producer({**settings, "enable.idempotence": True})
    for number in numbers:
        producer.produce(topic, value(number), partition=partition, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0
    return offsets


def consume(
    broker: BrokerProcess, topic: str, partition: int = 0, isolation: str = "read_uncommitted"
) -> list[tuple[int, int]]:
    """(offset, number) of all records that there are."""
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "group.id": "looks",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": isolation,
        }
    )
    try:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), PATIENCE_S)
        consumer.assign([TopicPartition(topic, partition, low)])
        found: list[tuple[int, int]] = []
        ended = False

        def read() -> bool:
            nonlocal ended
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is None:
                    found.append((message.offset() or 0, number_of(message.value())))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended = True
                else:
                    assert error.retriable() or error.code() == 56, error
            return ended

        until(read, PATIENCE_S, "the end of the partition")
        return found
    finally:
        consumer.close()


def watermarks(broker: BrokerProcess, topic: str, partition: int = 0) -> tuple[int, int]:
    """Where a partition begins and ends."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "group.id": "looks"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), PATIENCE_S)
        return low, high
    finally:
        consumer.close()


def lag(broker: BrokerProcess) -> int:
    """Closed segments that are not uploaded."""
    return broker.metric("robustmq_storage_tier_lag_segments")


def uploaded(broker: BrokerProcess) -> int:
    """Segments that are in the store."""
    return broker.metric("robustmq_storage_tier_segments")


def wait_uploaded(broker: BrokerProcess, segments: int = 1) -> None:
    """Until all that is closed is in the store, so many segments at least."""
    until(lambda: uploaded(broker) >= segments and not lag(broker), PATIENCE_S, "the last upload")


def partitions_in(store: ObjectStore) -> dict[str, Head]:
    """The heads of all partitions' manifests, by their prefix."""
    found = {}
    for cluster in store.folders():
        for name in store.folders(f"{cluster}/"):
            prefix = f"{cluster}/{name}/"
            try:
                found[prefix] = read_head(store, prefix)[0]
            except ObjectMissingError:
                continue
    return found


def check_store(store: ObjectStore) -> int:
    """All that manifests tell of is there, dense and whole; how many segments."""
    count = 0
    for prefix, head in partitions_in(store).items():
        sizes = dict(store.list(prefix))
        rows = read_rows(store, prefix, head)
        for before, row in pairwise(rows):
            assert before.next_offset == row.base_offset, "segments are dense"
        for row in rows:
            name = prefix + object_name(row.base_offset, row.leader_epoch)
            assert sizes[name + LOG] == row.size
        count += len(rows)
    return count


def local_segments(broker: BrokerProcess) -> list[Path]:
    """Segment files on the local disk."""
    return sorted(broker.data.glob("*/segments/*/*.log"))


def run_recover(
    broker: BrokerProcess, url: str, options: dict[str, str], *more: str
) -> subprocess.CompletedProcess[str]:
    """`robustmq recover` into the data directory of a broker."""
    given: Sequence[str] = [f"--option={name}={one}" for name, one in options.items()]
    command = [sys.executable, "-m", "robustmq.cli.main", "recover", "--url", url, *given]
    command += ["--data-dir", str(broker.data), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def said(broker: BrokerProcess, event: str) -> int:
    """Lines of the log with this event."""
    lines = [line for line in broker.log.splitlines() if line.startswith("{")]
    return sum(event in json.loads(line)["event"] for line in lines)
