"""docs/operations.md, "Back up and restore": what may be copied when, done as the page says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from paho.mqtt import publish as paho_publish

from tests.broker import BrokerProcess
from tests.cli.test_storage import storage


def write(broker: BrokerProcess, begin: int, end: int) -> None:
    """Messages to light topics and a declared one, all acknowledged."""
    messages: list[Any] = [
        {"topic": f"light/{number}", "payload": b"light %d" % number, "qos": 1, "retain": True}
        for number in range(begin, end)
    ]
    paho_publish.multiple(messages, port=broker.mqtt)
    producer = confluent_kafka.Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
    for number in range(begin, end):
        producer.produce("declared", b"declared %d" % number, partition=number % 2)
    assert producer.flush(30) == 0


def held(broker: BrokerProcess, topics: dict[str, int]) -> dict[str, list[bytes]]:
    """The records of topics; by each name how many are waited for."""
    found: dict[str, list[bytes]] = {name: [] for name in topics}
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "group.id": "restored"}
    )
    consumer.assign(
        [
            TopicPartition(name, partition, 0)
            for name in topics
            for partition in range(2 if name == "declared" else 1)
        ]
    )
    for _ in range(300):
        if all(len(found[name]) >= number for name, number in topics.items()):
            break
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found[str(message.topic())].append(bytes(message.value() or b""))
    consumer.close()
    return found


def check(broker: BrokerProcess, number: int) -> None:
    """Everything that was acknowledged up to a number is there."""
    wanted = {"declared": number, **{f"light.{one}": 1 for one in range(0, number, 7)}}
    found = held(broker, wanted)
    assert sorted(found["declared"]) == sorted(b"declared %d" % one for one in range(number))
    for one in range(0, number, 7):
        assert found[f"light.{one}"] == [b"light %d" % one]


def test_a_copy_of_a_stopped_broker_and_a_snapshot_of_one_that_runs_hold_everything(
    tmp_path: Path,
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    snapshot, stopped, moved = (tmp_path / name for name in ("snapshot", "stopped", "moved"))
    for directory in (snapshot, stopped, moved):
        directory.mkdir()
    with BrokerProcess(first) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        admin.create_topics([NewTopic("declared", 2, 1)])["declared"].result(30)
        write(broker, 0, 40)
        # What a snapshot of the file system sees is what is there while nobody writes.
        pids = [broker.pid, *broker.processes().values()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        shutil.copytree(
            broker.data, snapshot / "data", ignore=shutil.ignore_patterns("run", "lock")
        )
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        write(broker, 40, 60)
        assert broker.stop() == 0
    subprocess.run(
        ["cp", "-a", "--reflink=auto", str(first / "data"), str(stopped / "data")], check=True
    )
    code, told, _ = storage(stopped / "data", "verify", "--offline")
    assert code == 0 and told.rstrip().endswith("nothing is damaged")
    with BrokerProcess(snapshot, workers=1) as restored:
        check(restored, 40)
        assert restored.stop() == 0
    shutil.move(stopped / "data", moved / "data")
    with BrokerProcess(moved) as restored:
        check(restored, 60)
        write(restored, 60, 65)
        assert restored.stop() == 0
