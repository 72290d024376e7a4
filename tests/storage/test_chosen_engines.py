"""Engines that a topic chooses by name, in a broker that runs: RocksDB, and one that a package
brings which was installed as a user installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

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


def storage(broker: BrokerProcess, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """`robustmq storage`, in a process that finds the package, too: exit code, rows, and the rest
    that it said."""
    command = [sys.executable, "-m", "robustmq.cli.main", "storage", *arguments, "--json"]
    done = subprocess.run(
        [*command, "--data-dir", str(broker.data)], capture_output=True, text=True, check=False
    )
    return done.returncode, [json.loads(row) for row in done.stdout.splitlines()], done.stderr


def test_operators_look_into_engines_as_they_do_into_files(tmp_path: Path, site: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        client = admin(broker)
        for name in ENGINES:
            settings = {"robustmq.storage.engine": name}
            (made,) = client.create_topics([NewTopic(name, 1, config=settings)]).values()
            made.result(30)
            producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "acks": "all"})
            for number in range(100):
                producer.produce(name, Random(number).randbytes(400))
                producer.flush(30)
        assert sum(row["engine_bytes"] for row in storage(broker, "list")[1]) > 80_000
        sizes = {row["topic"]: row for row in storage(broker, "topics")[1]}
        assert [(sizes[name]["engine"], sizes[name]["records"]) for name in ENGINES] == [
            ("plain", 100),
            ("rocksdb", 100),
        ]
        code, _, said = storage(broker, "verify")
        assert code == 0 and "nothing is damaged" in said
        # Those of $SYS are there, too, when the broker has run for long enough.
        assert int(said.partition(" batches")[0].rpartition(" ")[2].replace(",", "")) >= 200
        assert broker.stop() == 0
    sizes = {row["engine"]: row for row in storage(broker, "topics", "--offline")[1]}
    assert {(name, sizes[name]["next_offset"]) for name in ENGINES} == {
        ("plain", 100),
        ("rocksdb", 100),
    }
    assert all(sizes[name]["bytes"] > 40_000 < sizes[name]["last_ms"] for name in ENGINES)
    [plain] = broker.data.glob("*/engines/plain/*/batches")
    [table] = broker.data.glob("*/engines/rocksdb/*/*.sst")
    for path in (plain, table):
        data = bytearray(path.read_bytes())
        data[data.index(Random(50).randbytes(400))] ^= 1
        path.write_bytes(data)
    code, faults, said = storage(broker, "verify", "--offline")
    assert code == 1 and "2 DAMAGED" in said
    lost = {row["where"].partition("/")[0]: row["offset"] for row in faults}
    assert lost["plain"] == 50
    assert 40 < lost["rocksdb"] <= 50, "the block of the table that holds it"
    # Whoever has not the package is told that this was not read, and it is no damage.
    os.environ["PYTHONPATH"], kept = "", os.environ["PYTHONPATH"]
    code, faults, said = storage(broker, "verify", "--offline")
    os.environ["PYTHONPATH"] = kept
    assert code == 1 and "1 DAMAGED" in said
    assert [row["what"].partition(":")[0] for row in faults if not row["serious"]] == [
        "nobody here can read what the engine has stored"
    ]


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
