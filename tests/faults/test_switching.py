"""Another storage mode or engine while a topic is written and read, and kill -9 on the way: every
record keeps its offset, none is missing that was acknowledged, none is there twice.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.shard.moving import SLICE_BATCHES
from tests.broker import BrokerProcess, until
from tests.faults.files import WRITE, FaultyFiles
from tests.faults.load import (
    ENGINE,
    MODE,
    KafkaProducer,
    MqttPublisher,
    MqttSubscriber,
    alter_topic,
    doubled,
    in_order,
    read_log,
)

PARTITIONS = 2
PREFILLED = 4_000


class Switched:
    """A topic of a broker whose settings change."""

    def __init__(self, broker: BrokerProcess, topic: str) -> None:
        self.broker = broker
        self.topic = topic
        self.admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        made = self.admin.create_topics([NewTopic(topic, PARTITIONS)])[topic]
        made.result(20)

    def prefill(self, in_a_batch: int = 20) -> list[str]:
        """Enough in partition 0 that it cannot be copied in one turn."""
        producer = Producer(
            {
                "bootstrap.servers": f"127.0.0.1:{self.broker.kafka}",
                "batch.num.messages": in_a_batch,
            }
        )
        values = [f"old {number}" for number in range(PREFILLED)]
        for value in values:
            producer.produce(self.topic, value, partition=0)
            producer.poll(0)
        assert not producer.flush(30)
        return values

    def set(self, **settings: str) -> None:
        """Another mode or engine."""
        changes = {{"mode": MODE, "engine": ENGINE}[name]: one for name, one in settings.items()}
        alter_topic(self.admin, self.topic, changes)


def go_on(producer: KafkaProducer, publisher: MqttPublisher) -> None:
    """Wait until more was acknowledged to both."""
    kafka, mqtt = len(producer.acked[0]) + 20, len(publisher.acked) + 20
    until(lambda: len(producer.acked[0]) > kafka and len(publisher.acked) > mqtt, 30, "acks")


def check(
    broker: BrokerProcess,
    topic: str,
    producer: KafkaProducer,
    publisher: MqttPublisher,
    old: list[str],
) -> None:
    logs = read_log(broker, topic, PARTITIONS)
    for partition, values in enumerate(logs):
        lost = set(producer.acked[partition]) - set(values)
        assert not lost, f"acknowledged and not there: {sorted(lost)[:5]}"
        assert not doubled(values), f"twice: {doubled(values)[:5]}"
        assert in_order(values, producer.sent[partition])
    assert logs[0][: len(old)] == old, "the oldest kept their offsets"
    published = [payload for _, payload in publisher.sent]
    found = [value for values in logs for value in values if value.startswith(publisher.name)]
    assert not {payload for _, payload in publisher.acked} - set(found)
    assert in_order(found, published)


STEPS: tuple[dict[str, str], ...] = (
    {"mode": "persistent"},
    {"engine": "shared"},
    {"mode": "memory"},
    {"mode": "hybrid"},
    {"mode": "memory"},
    {"engine": "segment", "mode": "persistent"},
    {"mode": "hybrid"},
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [2])
def test_modes_and_engines_change_while_all_goes_on(tmp_path: Path, workers: int) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        switched = Switched(broker, "modes")
        old = switched.prefill()
        subscriber = MqttSubscriber(broker, "sees-all", {"modes": 2}, 5)
        producer = KafkaProducer(broker, "k", "modes", PARTITIONS, idempotent=True)
        publisher = MqttPublisher(broker, "m", ["modes"], 2, 5)
        for step in STEPS:
            switched.set(**step)
            go_on(producer, publisher)
        broker.kill()
        broker.start()
        producer.finish()
        publisher.finish()
        check(broker, "modes", producer, publisher, old)
        subscriber.wait_for(publisher.acked)
        got = [payload for _, payload in subscriber.received]
        assert not doubled([payload for payload in got if payload.startswith("m ")])
        assert "error" not in broker.log.replace("a process died", "")


@pytest.mark.timeout(120)
def test_kill_9_in_the_middle_of_a_move_loses_nothing(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        switched = Switched(broker, "moved")
        old = switched.prefill()
        producer = KafkaProducer(broker, "k", "moved", PARTITIONS, idempotent=True)
        publisher = MqttPublisher(broker, "m", ["moved"], 2, 5)
        for engine in ("shared", "segment", "shared", "segment", "shared"):
            switched.set(engine=engine)
            broker.kill()
            broker.start()
            go_on(producer, publisher)
        producer.finish()
        publisher.finish()
        until(lambda: not list(broker.data.glob("*/segments/*/*.log")), what="the end of the move")
        check(broker, "moved", producer, publisher, old)
        broker.restart()
        check(broker, "moved", producer, publisher, old)


def set_mode(broker: BrokerProcess, filter_: str, mode: str) -> None:
    """Another storage rule, taken over by SIGHUP."""
    broker.config.write_text(f'[[storage.rules]]\nfilter = "{filter_}"\nmode = "{mode}"\n')
    taken = broker.log.count("settings reloaded")
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: broker.log.count("settings reloaded") == taken + broker.workers)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1])
def test_light_topics_change_their_mode_while_all_goes_on(tmp_path: Path, workers: int) -> None:
    topics = ["light/a", "light/b", "light/k"]
    with BrokerProcess(tmp_path, workers) as broker:
        subscriber = MqttSubscriber(broker, "sees-all", {"light/#": 2}, 5)
        publisher = MqttPublisher(broker, "m", topics[:2], 2, 5)
        producer = KafkaProducer(broker, "k", "light.k", 1, idempotent=True)
        for mode in ("memory", "persistent", "memory", "hybrid"):
            go_on(producer, publisher)
            set_mode(broker, "light/#", mode)
        go_on(producer, publisher)
        broker.kill()
        broker.start()
        producer.finish()
        publisher.finish()
        (values,) = read_log(broker, "light.k")
        assert not set(producer.acked[0]) - set(values)
        assert not doubled(values) and in_order(values, producer.sent[0])
        for topic in topics[:2]:
            (values,) = read_log(broker, topic.replace("/", "."))
            sent = [payload for name, payload in publisher.sent if name == topic]
            lost = {payload for name, payload in publisher.acked if name == topic} - set(values)
            assert not lost, sorted(lost)[:5]
            assert not doubled(values) and in_order(values, sent)
        subscriber.wait_for(publisher.acked)
        assert not doubled([payload for name, payload in subscriber.received if name != topics[2]])


@pytest.mark.timeout(120)
def test_yet_another_engine_while_a_partition_moves_and_kill_9_then_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FaultyFiles(tmp_path)
    files.preload(monkeypatch)
    with BrokerProcess(tmp_path, 1) as broker:
        switched = Switched(broker, "chosen")
        switched.set(engine="rocksdb")
        old = switched.prefill(2)
        files.set(WRITE, "/segments/", wait_s=0.3)
        switched.set(engine="segment")
        until(lambda: files.hits() > 1, what="the begin of the copy")
        switched.set(engine="shared")
        broker.kill()
        assert files.hits() < PREFILLED // 2 // SLICE_BATCHES, "the copy was under way"
        files.clear()
        left = next(broker.data.glob("*/engines/rocksdb/*"))
        left = left.with_name(left.name[:-1] + "9.gone")
        left.mkdir()
        (left / "CURRENT").write_text("MANIFEST-000001\n")
        broker.start()
        assert read_log(broker, "chosen", PARTITIONS)[0] == old
        until(lambda: not left.exists(), what="the removal of what a crash has left")
