"""Mode memory on a real broker: many topics together hold no more than `storage.memory_bytes`, and
every client sees where each of them begins."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess, until
from tests.cli.test_clients import robustmq
from tests.cli.test_storage import rows
from tests.faults.files import WRITE, FaultyFiles
from tests.mqtt.wire import Wire

BOUND = 1024 * 1024
CONFIG = f"""
[storage]
memory_bytes = {BOUND}
[[storage.rules]]
filter = "fleeting/#"
mode = "memory"
"""
SIZE = 10_000
ROUNDS = 40
DECLARED = [f"declared-{number}" for number in range(6)]
LIGHT = [f"fleeting.{number}" for number in range(6)]
QUIET = "fleeting.quiet"


class Client:
    """What a user of Kafka does with the broker."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.config: dict[str, Any] = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}"}
        self.producer = confluent_kafka.Producer({**self.config, "acks": "all", "linger.ms": 0})
        self.consumer = confluent_kafka.Consumer(
            {
                **self.config,
                "group.id": "g",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 5,
                "topic.metadata.refresh.interval.ms": -1,
            }
        )

    def create(self) -> None:
        config = {"robustmq.storage.mode": "memory"}
        admin = AdminClient(self.config)
        made = admin.create_topics([NewTopic(topic, 1, 1, config=config) for topic in DECLARED])
        for future in made.values():
            future.result(30)

    def produce(self, topics: list[str], value: bytes) -> None:
        for topic in topics:
            self.producer.produce(topic, value, partition=0)
        assert self.producer.flush(30) == 0

    def bounds(self, topic: str) -> tuple[int, int]:
        found = self.consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=15)
        assert found is not None
        return found

    def read(self, topic: str, offset: int, count: int) -> list[tuple[int, bytes]]:
        self.consumer.assign([TopicPartition(topic, 0, offset)])
        found: list[tuple[int, bytes]] = []
        while len(found) < count:
            message = self.consumer.poll(15)
            assert message is not None and message.error() is None
            found.append((message.offset() or 0, message.value() or b""))
        return found

    def out_of_range(self, topic: str) -> bool:
        """Does a reader at offset 0 hear that it is out of range?"""
        self.consumer.assign([TopicPartition(topic, 0, 0)])
        message = self.consumer.poll(15)
        assert message is not None
        error = message.error()
        # The client tells what the broker has said as the reason of its own error.
        return error is not None and "out of range" in str(error).lower()


def held(broker: BrokerProcess) -> list[int]:
    """Bytes in mode memory, by worker."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics").read().decode()
    found = re.findall(r'robustmq_storage_held_bytes{engine="memory",worker="\d"} (\S+)', text)
    return [round(float(value)) for value in found]


def publish(wire: Wire, topics: list[str], value: bytes) -> None:
    """Over MQTT, by the topics' Kafka names."""
    for topic in topics:
        assert wire.publish(topic.replace(".", "/").encode(), value, 1) < 0x80


def content(topic: str, number: int) -> bytes:
    return f"{topic} {number} ".encode().ljust(SIZE, b"x")


@pytest.mark.parametrize("workers", [1, 2])
def test_many_topics_in_memory_hold_no_more_than_one_bound(tmp_path: Path, workers: int) -> None:
    with BrokerProcess(tmp_path, workers, CONFIG) as broker, Wire(broker.mqtt) as wire:
        assert wire.connect(b"publisher").reason_code == 0
        client = Client(broker)
        client.create()
        publish(wire, [QUIET], b"the last word")
        for number in range(ROUNDS):
            client.produce(DECLARED, content("declared", number))
            publish(wire, LIGHT, content("light", number))
            assert max(held(broker)) <= BOUND
        left = 0
        for topic in (*DECLARED, *LIGHT):
            start, end = client.bounds(topic)
            assert end == ROUNDS and 0 < start < end, topic
            assert client.out_of_range(topic)
            kind = "declared" if topic in DECLARED else "light"
            expected = [(number, content(kind, number)) for number in range(start, end)]
            assert client.read(topic, start, end - start) == expected
            left += (end - start) * SIZE
        assert workers * BOUND * 0.9 < left < workers * BOUND
        # It holds next to nothing, so it has not lost that.
        assert client.bounds(QUIET) == (0, 1)
        until(lambda: min(held(broker)) > BOUND * 0.9, what="the gauge")
        assert broker.metric("robustmq_storage_memory_bound_bytes") == workers * BOUND
        dropped = broker.metric("robustmq_storage_memory_bytes_dropped_total")
        assert dropped > 2 * ROUNDS * len(DECLARED) * SIZE - workers * BOUND
        shown = sum(row["memory_bytes"] for row in rows(broker.data, "list"))
        assert shown == pytest.approx(sum(held(broker)), rel=1e-3)
        for worker in range(workers):
            broker.kill_worker(worker)
        client.produce(DECLARED, b"behind a crash")
        for topic in DECLARED:
            start, end = client.bounds(topic)
            assert end > ROUNDS, "no offset is given twice"
            assert client.read(topic, end - 1, 1) == [(end - 1, b"behind a crash")]
            assert client.out_of_range(topic)
        client.consumer.close()
        assert "Traceback" not in broker.log


def test_a_topic_that_leaves_the_memory_loses_nothing_to_others_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FaultyFiles(tmp_path)
    files.preload(monkeypatch)
    with BrokerProcess(tmp_path, 1, CONFIG) as broker, Wire(broker.mqtt) as wire:
        assert wire.connect(b"publisher").reason_code == 0
        client = Client(broker)
        client.create()
        topic = DECLARED[0]
        for number in range(70):
            client.produce([topic], content("declared", number))
        files.set(WRITE, "/segments/", wait_s=0.3)
        node = ("--data-dir", str(broker.data))
        assert robustmq("topics", "set", topic, "--mode", "hybrid", *node)[0] == 0
        until(lambda: files.hits() > 0, what="the begin of the copy")
        # It is the largest by far: its records would be the first to go.
        for number in range(9):
            publish(wire, LIGHT, content("light", number))
        files.clear()
        expected = [(number, content("declared", number)) for number in range(70)]
        assert client.read(topic, 0, 70) == expected
        dropped = "robustmq_storage_memory_bytes_dropped_total"
        until(lambda: broker.metric(dropped) > 0, what="others, who make way")
        until(lambda: sum(held(broker)) < BOUND * 0.6, what="the end of the move")
        assert client.read(topic, 0, 70) == expected
        client.consumer.close()
