"""Exactly-once copy by one Kafka client (librdkafka), the same for every broker: consume from one
topic, produce to another and commit the offsets, in transactions of a fixed number of records.

The rate counts records that were committed, behind a few transactions to warm up. A transaction
is one after the other, so what its steps take (the first batch of each partition, the offsets, the
end, and the wait of the next one for the markers) is in the rate.
"""

from __future__ import annotations

import statistics
import time

import kafka_load
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from robustmq.bench import result

TARGET = "copied"
GROUP = "copier"
RECORDS = 500
SIZE = 1_024
WARM_UP = 20


def prepare(port: int, process: int, seconds: float) -> int:
    """Fill the source and make the target; the number of records."""
    kafka_load.create(port)
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
    made = admin.create_topics([NewTopic(TARGET, kafka_load.PARTITIONS, 1)])
    made[TARGET].result(30)
    return int(kafka_load.produce(port, process, seconds, SIZE)["records"])


class Copier:
    """A consumer and a transactional producer."""

    def __init__(self, port: int) -> None:
        address = {"bootstrap.servers": f"127.0.0.1:{port}"}
        self.producer = Producer({**address, "transactional.id": GROUP, "linger.ms": 5})
        self.producer.init_transactions(30)
        self.consumer = Consumer(
            {
                **address,
                "group.id": GROUP,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": 1,
            }
        )
        self.consumer.assign(
            [TopicPartition(kafka_load.TOPIC, number, 0) for number in range(kafka_load.PARTITIONS)]
        )

    def turn(self) -> tuple[int, float]:
        """One transaction: its records and its milliseconds."""
        batch = self.consumer.consume(RECORDS, 1.0)
        begin = time.monotonic()
        self.producer.begin_transaction()
        for message in batch:
            if message.error() is not None:
                raise KafkaException(message.error())
            self.producer.produce(TARGET, message.value(), partition=message.partition() or 0)
        offsets = self.consumer.position(self.consumer.assignment())
        group = self.consumer.consumer_group_metadata()
        self.producer.send_offsets_to_transaction(offsets, group, 30)
        self.producer.commit_transaction(30)
        return len(batch), (time.monotonic() - begin) * 1_000


def copy(port: int, process: int, records: int, seconds: float) -> dict[str, float]:
    """Records a second, transactions a second, and the milliseconds of a transaction."""
    copier = Copier(port)
    # The first ones make topics of the broker's own, and compile it.
    left = records - sum(copier.turn()[0] for _ in range(WARM_UP))
    before, begin = result.tree_use(process), time.monotonic()
    taken: list[float] = []
    copied = 0
    while time.monotonic() - begin < seconds and copied < left:
        count, spent_ms = copier.turn()
        copied += count
        taken.append(spent_ms)
    spent = time.monotonic() - begin
    after = result.tree_use(process)
    copier.consumer.close()
    return {
        "copy_rate": copied / spent,
        "transaction_rate": len(taken) / spent,
        "p50": statistics.median(taken),
        "copy_cpu_us": (after.cpu_seconds - before.cpu_seconds) * 1e6 / max(copied, 1),
    }
