"""Producers and consumers that run on while the broker restarts or dies: no loss, no double."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess, until

PARTITIONS = 4


class Producing:
    """An idempotent producer that goes on until it is told to stop."""

    def __init__(self, broker: BrokerProcess, topic: str) -> None:
        self.acked: list[int] = []
        self.failed: list[object] = []
        self.sent = 0
        self._topic = topic
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
                "enable.idempotence": True,
                "linger.ms": 2,
                "batch.size": 4000,
                "reconnect.backoff.max.ms": 200,
                "retry.backoff.max.ms": 200,
                "topic.metadata.refresh.interval.ms": 1000,
            }
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.sent - len(self.acked) < 2000:
                self._producer.produce(
                    self._topic,
                    b"%d" % self.sent,
                    partition=self.sent % PARTITIONS,
                    on_delivery=self._delivered,
                )
                self.sent += 1
                self._producer.poll(0)
            else:
                self._producer.poll(0.01)

    def _delivered(self, error: object, message: confluent_kafka.Message) -> None:
        if error is None:
            self.acked.append(int(message.value() or b""))
        else:
            self.failed.append(error)

    def finish(self) -> None:
        """Stop, and wait for every acknowledgement."""
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(40) == 0, "records are not acknowledged"
        assert not self.failed


def read_all(broker: BrokerProcess, topic: str) -> dict[int, list[int]]:
    """Everything in the topic, by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "group.id": uuid.uuid4().hex,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, index, 0) for index in range(PARTITIONS)])
    found: dict[int, list[int]] = {index: [] for index in range(PARTITIONS)}
    ended: set[int] = set()
    while len(ended) < PARTITIONS:
        message = consumer.poll(20)
        assert message is not None, "the end of a partition does not come"
        if message.error() is not None:
            ended.add(message.partition() or 0)
        else:
            found[message.partition() or 0].append(int(message.value() or b""))
    consumer.close()
    return found


def restart(broker: BrokerProcess) -> None:
    broker.restart()


def kill_tree(broker: BrokerProcess) -> None:
    broker.kill()
    broker.start()


def kill_workers(broker: BrokerProcess) -> None:
    for worker in range(broker.workers):
        until(lambda: len(broker.worker_pids()) == broker.workers, what="all workers")
        victim = broker.worker_pids()[worker]
        broker.kill_worker(worker)
        until(lambda: victim not in broker.worker_pids(), what="its death")  # noqa: B023


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("disturb", [restart, kill_tree, kill_workers])
def test_an_idempotent_producer_and_a_consumer_live_through_it(
    tmp_path: Path, workers: int, disturb: Callable[[BrokerProcess], None]
) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        address = f"127.0.0.1:{broker.kafka}"
        topic = "numbers"
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic(topic, PARTITIONS)])[topic].result(10)
        consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "g",
                "auto.offset.reset": "earliest",
                "reconnect.backoff.max.ms": 200,
            }
        )
        consumer.subscribe([topic])
        seen: list[int] = []

        def consume(count: int) -> bool:
            for message in consumer.consume(10_000, 0.2):
                if message.error() is None:
                    seen.append(int(message.value() or b""))
            return len(set(seen)) >= count

        producing = Producing(broker, topic)
        until(lambda: consume(3000), 30, "the first records")
        for _ in range(2):
            acked = len(producing.acked)
            disturb(broker)
            until(lambda: len(producing.acked) > acked + 3000, 30, "acknowledgements go on")  # noqa: B023
        producing.finish()
        stored = read_all(broker, topic)
        for partition, numbers in stored.items():
            assert numbers == list(range(partition, producing.sent, PARTITIONS)), partition
        until(lambda: consume(producing.sent), 30, "everything at the consumer")
        assert set(seen) == set(range(producing.sent))
        consumer.close()
