"""Produce and consume by one Kafka client (librdkafka), the same for every broker.

1 KiB records to 6 partitions with acks=all; then the same records are read from the beginning,
several times over if there is time. The rates count from the first to the last delivery report, and
from the first to the last record.
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from robustmq.bench import result

PARTITIONS = 6
RECORD = bytes(33 + place % 90 for place in range(1_024))
TOPIC = "compare"


def create(port: int) -> None:
    """Make the topic, and wait until it is there."""
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
    made = admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    made[TOPIC].result(30)


def produce(port: int, process: int, seconds: float) -> dict[str, float]:
    """Records a second that were acknowledged."""
    failed: list[str] = []
    done = [0, 0.0]

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(str(error))
        done[0] += 1
        done[1] = time.monotonic()

    settings = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "acks": "all",
        "linger.ms": 5,
        "batch.size": 262_144,
        "queue.buffering.max.messages": 100_000,
    }
    producer = Producer(settings)
    before = result.tree_use(process)
    begin = time.monotonic()
    number = 0
    while time.monotonic() - begin < seconds:
        for _ in range(500):
            try:
                producer.produce(
                    TOPIC, RECORD, partition=number % PARTITIONS, on_delivery=delivered
                )
            except BufferError:
                producer.poll(0.01)
                continue
            number += 1
        producer.poll(0)
    producer.flush(30)
    if failed or done[0] != number:
        raise RuntimeError(f"{number - done[0]} records without a report, failed: {failed[:3]}")
    after = result.tree_use(process)
    return {
        "produce_rate": number / (done[1] - begin),
        "produce_cpu_us": (after.cpu_seconds - before.cpu_seconds) * 1e6 / number,
        "records": float(number),
    }


def consume(port: int, process: int, records: int) -> dict[str, float]:
    """Records a second, read from the beginning."""
    settings = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "group.id": "compare",
        "enable.auto.commit": False,
        "fetch.message.max.bytes": 1_048_576,
        "queued.max.messages.kbytes": 65_536,
        # Else a client whose queue is full rests for a second, and that is what is measured.
        "fetch.queue.backoff.ms": 1,
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
    before = result.tree_use(process)
    seen = 0
    begin = last = 0.0
    deadline = time.monotonic() + 60
    while seen < records and time.monotonic() < deadline:
        messages = consumer.consume(10_000, 0.2)
        if messages and not begin:
            begin = time.monotonic()
            first = len(messages)
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
        seen += len(messages)
        last = time.monotonic() if messages else last
    consumer.close()
    if seen != records:
        raise RuntimeError(f"{seen} of {records} records came back")
    after = result.tree_use(process)
    return {
        "consume_rate": (seen - first) / max(last - begin, 1e-9),
        "consume_cpu_us": (after.cpu_seconds - before.cpu_seconds) * 1e6 / seen,
    }
