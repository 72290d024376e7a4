"""Produce and consume by one Kafka client (librdkafka), the same for every broker.

A cell is a size of records, a number of partitions, acks and a compression. Records are produced
for a while; then the same records are read from the beginning. The rates count from the first to
the last delivery report, and from the first to the last record. The latency is from the call that
produces a record to the call that returns it, by one process at a steady rate.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from robustmq.bench import result

TOPIC = "compare"
POOL = 997
SIZE, PARTITIONS, ACKS, COMPRESSION = 1_024, 6, "all", "none"


def create(port: int, partitions: int = PARTITIONS) -> None:
    """Make the topic, and wait until it is there."""
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
    made = admin.create_topics([NewTopic(TOPIC, partitions, 1)])
    made[TOPIC].result(30)


def payloads(size: int) -> list[bytes]:
    """Different records of a size, like the JSON that devices send: they compress to a third."""
    chance = random.Random(size)
    made = []
    for number in range(POOL):
        text = ""
        while len(text) < size:
            text += (
                f'{{"device":"sensor-{chance.randrange(10_000)}","sequence":{number},'
                f'"temperature":{chance.uniform(-20, 40):.3f},"humidity":{chance.random():.4f}}}'
            )
        made.append(text[:size].encode())
    return made


def produce(
    port: int,
    process: int,
    seconds: float,
    size: int = SIZE,
    partitions: int = PARTITIONS,
    acks: str = ACKS,
    compression: str = COMPRESSION,
) -> dict[str, float]:
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
        "acks": acks,
        "compression.type": compression,
        "linger.ms": 5,
        "batch.size": 262_144,
        "queue.buffering.max.messages": 100_000,
    }
    producer = Producer(settings)
    records = payloads(size)
    before = result.tree_use(process)
    begin = time.monotonic()
    number = 0
    while time.monotonic() - begin < seconds:
        for _ in range(500):
            try:
                producer.produce(
                    TOPIC,
                    records[number % POOL],
                    partition=number % partitions,
                    on_delivery=delivered,
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


def consume(
    port: int, process: int, records: int, partitions: int = PARTITIONS
) -> dict[str, float]:
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
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(partitions)])
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


def latency(port: int, process: int, seconds: float, rate: float = 1_000.0) -> dict[str, float]:
    """Milliseconds from producing to consuming, acks=all, linger 0; the first second is warm-up."""
    address = {"bootstrap.servers": f"127.0.0.1:{port}"}
    consumer = Consumer({**address, "group.id": "latency", "fetch.wait.max.ms": 500})
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
    producer = Producer({**address, "acks": "all", "linger.ms": 0})
    record = payloads(100)[0]
    before = result.tree_use(process)
    begin = time.monotonic()
    sent = seen = 0
    taken: list[float] = []
    total = int(rate * seconds)
    while seen < total and time.monotonic() - begin < seconds + 20:
        due = min(int((time.monotonic() - begin) * rate), total)
        for number in range(sent, due):
            now = time.monotonic()
            producer.produce(TOPIC, record, repr(now).encode(), partition=number % PARTITIONS)
        sent = max(sent, due)
        producer.poll(0)
        for message in consumer.consume(1_000, 0.001):
            if message.error() is not None:
                raise KafkaException(message.error())
            stamp = float(message.key() or 0)
            seen += 1
            if stamp - begin > 1:
                taken.append((time.monotonic() - stamp) * 1_000)
    producer.flush(10)
    consumer.close()
    after = result.tree_use(process)
    if seen != total:
        raise RuntimeError(f"{seen} of {total} records came back")
    cuts = statistics.quantiles(taken, n=100)
    return {
        "p50": cuts[49],
        "p99": cuts[98],
        "latency_cpu_us": (after.cpu_seconds - before.cpu_seconds) * 1e6 / total,
    }
