"""Engines that a topic chooses by name, in a broker that runs: RocksDB, and one that a package
brings which was installed as a user installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from tests.broker import BrokerProcess, until

pytestmark = pytest.mark.system

PACKAGE = Path(__file__).parent.parent / "third_party_engine"
ENGINES = ["plain", "rocksdb"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where pip has installed the example package."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--target"]
    subprocess.run([*command, str(place), str(PACKAGE)], check=True)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{place}{os.pathsep}{before or ''}".rstrip(os.pathsep)
    yield place
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def admin(broker: BrokerProcess) -> AdminClient:
    return AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})


def produce(broker: BrokerProcess, topic: str, values: range) -> None:
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "acks": "all"})
    for value in values:
        producer.produce(topic, str(value).encode(), partition=value % 2)
    assert producer.flush(30) == 0


def consume(broker: BrokerProcess, topic: str, count: int) -> list[int]:
    consumer = Consumer(
        {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "group.id": "g", "check.crcs": True}
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(2)])
    found: list[int] = []

    def more() -> bool:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            found.append(int(message.value() or b"-1"))
        return len(found) >= count

    until(more, 30, f"{count} records of {topic}")
    consumer.close()
    return sorted(found)


@pytest.mark.parametrize("workers", [1, 2] if os.environ.get("ROBUSTMQ_TEST_ALL") else [2])
def test_engines_that_are_chosen_keep_records_through_kills_and_moves(
    tmp_path: Path, site: Path, workers: int
) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        client = admin(broker)
        for name in ENGINES:
            settings = {"robustmq.storage.engine": name}
            (made,) = client.create_topics([NewTopic(name, 2, config=settings)]).values()
            made.result(30)
            produce(broker, name, range(100))
            assert consume(broker, name, 100) == list(range(100))
        directories = {path.parent.name for path in broker.data.glob("????/engines/*/*")}
        assert directories == set(ENGINES)
        assert not list(broker.data.glob("????/segments/*"))
        broker.kill()
        broker.start()
        for name in ENGINES:
            assert consume(broker, name, 100) == list(range(100))
            produce(broker, name, range(100, 150))
        broker.restart()
        for name in ENGINES:
            assert consume(broker, name, 150) == list(range(150))
            entry = ConfigEntry(
                "robustmq.storage.engine",
                "segment",
                incremental_operation=AlterConfigOpType.SET,
            )
            change = ConfigResource("topic", name, incremental_configs=[entry])
            (done,) = client.incremental_alter_configs([change]).values()
            done.result(30)
        until(lambda: not list(broker.data.glob("????/engines/*/*")), 30, "the moves")
        for name in ENGINES:
            assert consume(broker, name, 150) == list(range(150))
            (gone,) = client.delete_topics([name]).values()
            gone.result(30)
        until(lambda: not list(broker.data.glob("????/segments/*/*")), 30, "the files are gone")


def test_an_engine_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 1) as broker:
        settings = {"robustmq.storage.engine": "nobody-brings-this"}
        client = admin(broker)
        (made,) = client.create_topics([NewTopic("t", 1, config=settings)]).values()
        with pytest.raises(Exception, match="nobody-brings-this"):
            made.result(30)
