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
from itertools import count, permutations, product
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.core import batches
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.cli.test_storage import rows
from tests.clients.test_kafka_transactions import consumer, producer
from tests.faults.load import ENGINE, MODE, alter_topic
from tests.kafka.test_broker_partition_transactions import (
    COORDINATOR,
    INIT,
    LIST_OFFSETS,
    METADATA,
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
        return {MODE: "memory"}
    return {MODE: "hybrid", ENGINE: place}


def robustmq(broker: BrokerProcess, *words: str) -> list[dict[str, Any]]:
    """The rows that a command prints."""
    command = [sys.executable, "-m", "robustmq.cli.main", *words, "--json"]
    command += ["--data-dir", str(broker.data)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return [json.loads(line) for line in made.stdout.splitlines()]


def moving(broker: BrokerProcess) -> int:
    """Partitions on their way."""
    return sum(row["moving"] for row in robustmq(broker, "topics", "list"))


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
            alter_topic(admin, topic.topic, settings(new))
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
        if not (before or behind == "kill"):
            # Within seconds; what is stopped before that loses what is in memory alone.
            until(lambda: not any(one["memory_bytes"] for one in rows(broker.data, "list")))
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


def topic_of_worker_1(client: SocketClient, admin: AdminClient, kept: str) -> str:
    """A new topic whose one partition worker 1 has."""
    for number in count():
        name = f"{kept}-{number}"
        made = admin.create_topics([NewTopic(name, 1, config=settings(kept))])[name]
        made.result(20)
        (topic,) = client.ask(METADATA, 8, topics=[{"name": name}]).topics
        if topic.partitions[0].leader_id == 1:
            return name
    raise AssertionError("there are names enough")


def source_of_worker_0(client: SocketClient, topic: str) -> Source:
    """A transactional id that worker 0 coordinates."""
    while True:
        source = Source(client, topic)
        answer = client.ask(COORDINATOR, 4, key_type=1, coordinator_keys=[source.name])
        if answer.coordinators[0].node_id == 0:
            return source


@pytest.mark.timeout(120)
def test_what_is_decided_when_all_die_is_told_to_the_partition_in_its_new_engine(
    tmp_path: Path,
) -> None:
    places = (SEGMENT, SHARED, ROCKSDB)
    with BrokerProcess(tmp_path, 2) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        with SocketClient(broker.worker_ports[0]) as client:
            topics = [topic_of_worker_1(client, admin, place) for place in places]
            gone = [source_of_worker_0(client, topic) for topic in topics]
            done = [source_of_worker_0(client, topic) for topic in topics]
            begins = [source.write() for source in gone]
            for source in done:
                source.write()
            os.kill(broker.worker_pids()[1], signal.SIGSTOP)
            # Answered when it is decided; the partitions cannot hear of it.
            for source in (*gone, *done):
                source.decide(source in done)
        for number, topic in enumerate(topics):
            alter_topic(admin, topic, settings(places[number - 1]))
        broker.kill()
        broker.start()
        for number, topic in enumerate(topics):
            alter_topic(admin, topic, settings(places[number - 2]))
        with SocketClient(broker.worker_ports[0]) as client:
            for topic, source, begin in zip(topics, gone, begins, strict=True):
                until(lambda topic=topic: not opened(client, topic), 20, "the markers")  # type: ignore[misc]
                part = fetch(client, topic, 0, 1)
                assert part.high_watermark == 4
                listed = [(one.producer_id, one.first_offset) for one in part.aborted_transactions]
                assert listed == [(source.id, begin)]
                until(lambda topic=topic: fetch(client, topic, 0, 1).last_stable_offset == 4)  # type: ignore[misc]


@pytest.mark.timeout(120)
def test_a_compaction_in_another_engine_knows_what_was_aborted(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 1) as broker:
        servers = f"127.0.0.1:{broker.kafka}"
        admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
        admin.create_topics([NewTopic("table", 1, config=settings(SHARED))])["table"].result(20)
        writer = producer(servers, "table")
        for value, commit in ((b"old", True), (b"kept", True), (b"aborted", False)):
            writer.begin_transaction()
            for key in range(20):
                writer.produce("table", value * 50, b"%d" % key)
            writer.flush(20)
            (writer.commit_transaction if commit else writer.abort_transaction)(20)
        broker.restart()
        alter_topic(admin, "table", {**settings(SEGMENT), "cleanup.policy": "compact"})
        until(lambda: not moving(broker), 30, "the end of the move")
        [done] = robustmq(broker, "storage", "compact", "table")
        assert done["bytes_after"] < done["bytes_before"] / 2
        reader = consumer(servers, "table")
        reader.assign([TopicPartition("table", 0, 0)])
        values: list[bytes] = []
        until(lambda: _ended(reader, values), 20, "the end of the log")
        reader.close()
        assert values == [b"kept" * 50] * 20


def _ended(reader: Consumer, values: list[bytes]) -> bool:
    """Read on; is the partition's end reached?"""
    found = reader.consume(100, 0.2)
    values += [message.value() or b"" for message in found if message.error() is None]
    return any(message.error() is not None for message in found)
