"""The logs of shards are cleaned all the time while workers are killed under load: sessions that
are away, share groups, delayed messages and Kafka readers get all that was acknowledged, and the
disk is given back."""

from __future__ import annotations

import itertools
import random
import threading
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.broker import BrokerProcess, until
from tests.faults.load import MqttPublisher, MqttSubscriber, in_order, read_log
from tests.faults.test_kill import check_group, kafka_name, seed, strike

CONFIG = """
[node]
shards = 4
[storage]
segment_bytes = 1048576
checkpoint_bytes = 1048576
retention_check_s = 1
light_retention_ms = -1
[[storage.rules]]
filter = "bulk/+"
retention_ms = 1500
"""
ROUNDS = 4
BULK = [f"bulk/{n}" for n in range(4)]
Q1, Q2 = ["f/q1/0", "f/q1/1"], ["f/q2/0", "f/q2/1"]
SIZE = 16 * 1024


class Bulk(MqttSubscriber):
    """Publishes much that is soon over."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._stopped = threading.Event()
        super().__init__(broker, "bulk", {}, 5)
        self._thread = threading.Thread(target=self._run, name="bulk")
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stopped.wait(0.003):
                return
            if self.client.is_connected():
                self.client.publish(BULK[number % len(BULK)], bytes(SIZE), 0)

    def finish(self) -> None:
        """Stop."""
        self._stopped.set()
        self._thread.join()
        self.close()


def log_bytes(broker: BrokerProcess) -> int:
    """What the shards' logs take on the disk."""
    return sum(file.stat().st_size for file in broker.data.glob("*/log/*"))


def earliest(broker: BrokerProcess, topic: str) -> tuple[int, int]:
    """Where a topic begins and ends."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "group.id": "looks"})
    found = consumer.get_watermark_offsets(TopicPartition(kafka_name(topic), 0), 10.0, cached=False)
    consumer.close()
    assert found is not None
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_acknowledged_survives_kills_while_the_logs_are_cleaned(
    tmp_path: Path, workers: int
) -> None:
    chosen = seed()
    print(f"replay with ROBUSTMQ_FAULTS_SEED={chosen}")
    choose = random.Random(chosen)
    with BrokerProcess(tmp_path, workers, CONFIG) as broker:
        wide = MqttSubscriber(broker, "wide", {"f/#": 2}, 5)
        away = MqttSubscriber(broker, "away", {"f/#": 2, "late/#": 1}, 5)
        away.close()
        group = [MqttSubscriber(broker, f"steady-{n}", {"$share/g/f/#": 2}, 5) for n in range(2)]
        publishers = [
            MqttPublisher(broker, "once", Q2, 2, 5),
            MqttPublisher(broker, "least", Q1, 1, 4),
            MqttPublisher(broker, "delayed", ["$delayed/8/late/x"], 1, 5),
        ]
        bulk = Bulk(broker)
        for _ in range(ROUNDS):
            strike(broker, choose)
        until(
            lambda: broker.metric("robustmq_storage_log_files_cleaned_total") > 0, 30, "a cleaning"
        )
        strike(broker, choose)
        for publisher in publishers:
            publisher.finish()
        bulk.finish()
        until(lambda: log_bytes(broker) < 24 * 1024 * 1024, 40, "a log that is small")
        broker.restart()
        again = MqttSubscriber(broker, "away", {}, 5)
        once, least, delayed = publishers
        for publisher in (once, least):
            for subscriber in (wide, again):
                subscriber.wait_for(publisher.acked)
            for topic in publisher.topics:
                sent = [payload for t, payload in publisher.sent if t == topic]
                (values,) = read_log(broker, kafka_name(topic))
                assert {payload for t, payload in publisher.acked if t == topic} <= set(values)
                assert in_order(values, sent)
        again.wait_for([("late/x", payload) for _, payload in delayed.acked])
        check_group([once, least], group, True)
        for topic in BULK:
            start, end = earliest(broker, topic)
            assert 0 < start <= end, "old records are gone"
        for subscriber in (wide, again, *group):
            subscriber.close()
