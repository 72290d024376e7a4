"""Another storage mode or engine under topics that transactions and numbered producers have written
to, with and without a restart before and behind it: what was aborted stays unseen, what is open
holds its readers back and can be ended, what comes again is recognised.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from robustmq.core import batches
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.kafka.test_broker_partition_transactions import (
    INIT,
    LIST_OFFSETS,
    Source,
    data,
    fetch,
    opened,
)
from tests.kafka.wire import SocketClient

SEGMENT, SHARED, ROCKSDB, MEMORY = "segment", "shared", "rocksdb", "memory"
PLACES = (SEGMENT, SHARED, ROCKSDB, MEMORY)


def settings(place: str) -> dict[str, str]:
    if place == MEMORY:
        return {"robustmq.storage.mode": "memory"}
    return {"robustmq.storage.mode": "hybrid", "robustmq.storage.engine": place}


def alter(admin: AdminClient, topic: str, changes: dict[str, str]) -> None:
    """As kafka-configs --alter does."""
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in changes.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result(20)


def moving(broker: BrokerProcess) -> int:
    """Partitions on their way."""
    command = [sys.executable, "-m", "robustmq.cli.main", "topics", "list", "--json"]
    command += ["--data-dir", str(broker.data)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return sum(row["moving"] for row in map(json.loads, made.stdout.splitlines()))


class Written:
    """A topic with two committed records, two aborted ones, two of a producer that only numbers
    them, and one of a transaction that is open."""

    def __init__(self, client: SocketClient, topic: str) -> None:
        self.topic = topic
        self.client = client
        self.done = Source(client, topic)
        self.done.write()
        self.done.write(1)
        self.done.end(True)
        self.gone = Source(client, topic)
        self.aborted_at = self.gone.write()
        self.gone.write(1)
        self.gone.end(False)
        answer = client.ask(
            INIT,
            5,
            transactional_id=None,
            transaction_timeout_ms=60_000,
            producer_id=-1,
            producer_epoch=-1,
        )
        self.number = answer.producer_id
        self.numbered_at = [self.numbered(client, at).base_offset for at in (0, 1)]
        self.open = Source(client, topic)
        self.open_at = self.open.write()
        self.end = self.open_at + 1

    def numbered(self, client: SocketClient, sequence: int) -> Any:
        """What the producer that numbers its records is told about one."""
        records = batches.build([Record(None, b"v")], 1, 0, 0, self.number, 0, sequence)
        self.done.client = client
        return self.done.produce(records, transactional_id=None)

    def latest(self, client: SocketClient, isolation: int) -> int:
        answer = client.ask(
            LIST_OFFSETS,
            5,
            replica_id=-1,
            isolation_level=isolation,
            topics=[{"name": self.topic, "partitions": [{"partition_index": 0, "timestamp": -1}]}],
        )
        offset: int = answer.topics[0].partitions[0].offset
        return offset

    def aborted(self, client: SocketClient, end: int) -> set[tuple[int, int]]:
        """What a reader of all up to an offset is told of aborted transactions."""
        found: set[tuple[int, int]] = set()
        offset = 0
        while offset < end:
            part = fetch(client, self.topic, offset, 1)
            found |= {(one.producer_id, one.first_offset) for one in part.aborted_transactions}
            batch = data(part)
            assert batch, f"nothing at {offset} of {end}"
            while batch:
                info = batches.validate(batch, 0, len(batch), True)
                assert info.base_offset == offset, "offsets are dense"
                offset += info.last_offset_delta + 1
                batch = batch[info.length :]
        return found

    def check(self, client: SocketClient) -> None:
        """All is as it was written."""
        assert opened(client, self.topic) == {self.open.id: self.open_at}
        assert self.latest(client, 0) == self.end
        assert self.latest(client, 1) == self.open_at
        assert self.aborted(client, self.open_at) == {(self.gone.id, self.aborted_at)}
        again = self.numbered(client, 1)
        assert (again.error_code, again.base_offset) == (0, self.numbered_at[1])
        assert self.latest(client, 0) == self.end, "what came again was recognised"
        assert self.numbered(client, 7).error_code == 45

    def go_on(self, client: SocketClient) -> None:
        """What is open goes on, and can be ended."""
        assert self.numbered(client, 2).error_code == 0
        self.open.client = client
        assert self.open.write(1) == self.end + 1
        assert self.latest(client, 1) == self.open_at
        self.open.end(False)
        end = self.end + 3
        until(lambda: self.latest(client, 1) == end, 10, f"the end of {self.topic}")
        both = {(self.gone.id, self.aborted_at), (self.open.id, self.open_at)}
        assert self.aborted(client, end) == both


def restart(broker: BrokerProcess, how: str) -> None:
    if how == "stop":
        broker.restart()
    elif how == "kill":
        broker.kill()
        broker.start()


RESTARTS = ("", "stop", "kill")
WHEN = (
    list(product(RESTARTS, RESTARTS))
    if os.environ.get("ROBUSTMQ_TEST_ALL")
    else [("", ""), ("stop", ""), ("", "stop"), ("kill", "kill")]
)
when = pytest.mark.parametrize(("before", "behind"), WHEN)


@pytest.mark.timeout(120)
@when
def test_transactions_go_on_in_another_engine(tmp_path: Path, before: str, behind: str) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        pairs = [
            (old, new)
            for old, new in permutations(PLACES, 2)
            if not (before and old == MEMORY) and not (behind and new == MEMORY)
        ]
        made = [
            NewTopic(f"{old}-{new}", 1, config={"retention.ms": "-1", **settings(old)})
            for old, new in pairs
        ]
        for future in admin.create_topics(made).values():
            future.result(20)
        with SocketClient(broker.worker_ports[0]) as client:
            topics = [Written(client, topic.topic) for topic in made]
        restart(broker, before)
        for topic, (_, new) in zip(topics, pairs, strict=True):
            alter(admin, topic.topic, settings(new))
        until(lambda: not moving(broker), 30, "the end of the moves")
        restart(broker, behind)
        check(broker, topics)


RULE = '[[storage.rules]]\nfilter = "{}/#"\nmode = "memory"\n'


@pytest.mark.timeout(120)
@when
def test_transactions_go_on_in_another_mode_of_light_topics(
    tmp_path: Path, before: str, behind: str
) -> None:
    with BrokerProcess(tmp_path, 2, RULE.format("ring")) as broker:
        # What is in memory is lost with a restart, and stays so for seconds in another mode.
        names = ["log.a"] if before or behind == "kill" else ["log.a", "ring.a"]
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        for name in names:
            producer.produce(name, b"makes the topic")
        assert not producer.flush(20)
        with SocketClient(broker.worker_ports[0]) as client:
            topics = [Written(client, name) for name in names]
        restart(broker, before)
        broker.config.write_text(RULE.format("log"))
        taken = broker.log.count("settings reloaded")
        os.kill(broker.pid, signal.SIGHUP)
        until(lambda: broker.log.count("settings reloaded") == taken + broker.workers)
        restart(broker, behind)
        check(broker, topics)


def check(broker: BrokerProcess, topics: list[Written]) -> None:
    """All topics, and which of them fail."""
    failed = []
    with SocketClient(broker.worker_ports[0]) as client:
        for topic in topics:
            try:
                topic.check(client)
                topic.go_on(client)
            except AssertionError as error:
                failed.append(f"{topic.topic}: {error}")
    assert not failed, "\n".join(failed)
