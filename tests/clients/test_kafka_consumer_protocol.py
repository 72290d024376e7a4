"""Groups whose assignments the broker makes (KIP-848), with stock clients: librdkafka and Java."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.broker import BrokerProcess, until
from tests.clients.kafka_programs import java
from tests.mqtt.wire import Wire

PARTITIONS = 6
NEW, CLASSIC = "group.protocol=consumer", "group.protocol=classic"
EAGER = "partition.assignment.strategy=org.apache.kafka.clients.consumer.RangeAssignor"
COOPERATIVE = (
    "partition.assignment.strategy=org.apache.kafka.clients.consumer.CooperativeStickyAssignor"
)


@pytest.fixture(scope="module", params=[1, 2], ids=["1worker", "2workers"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    with BrokerProcess(
        tmp_path_factory.mktemp("consumers"),
        request.param,
        KAFKA__GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS="200",
        KAFKA__GROUP_CONSUMER_SESSION_TIMEOUT_MS="6000",
        KAFKA__GROUP_CONSUMER_REGEX_REFRESH_INTERVAL_MS="1000",
    ) as running:
        yield running


def address(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.kafka}"


def new_topic(broker: BrokerProcess, partitions: int = PARTITIONS, prefix: str = "t") -> str:
    name = f"{prefix}-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": address(broker)})
    admin.create_topics([NewTopic(name, partitions)])[name].result(10)
    return name


def produce(broker: BrokerProcess, topic: str, first: int, last: int) -> None:
    producer = Producer({"bootstrap.servers": address(broker), "acks": "all"})
    for number in range(first, last):
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(20) == 0


class Member:
    """A consumer of librdkafka that is polled by a thread of its own."""

    def __init__(self, broker: BrokerProcess, topic: str, group: str, **settings: str) -> None:
        self.has: set[int] = set()
        self.values: list[int] = []
        self.consumer = Consumer(
            {
                "bootstrap.servers": address(broker),
                "group.id": group,
                "group.protocol": "consumer",
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 200,
                "topic.metadata.refresh.interval.ms": 1000,
                **{name.replace("_", "."): value for name, value in settings.items()},
            }
        )
        self.consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.has |= {place.partition for place in places}
        consumer.incremental_assign(places)

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.has -= {place.partition for place in places}
        consumer.incremental_unassign(places)

    def _run(self) -> None:
        while not self._end.is_set():
            message: Message | None = self.consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.values.append(int(message.value() or b""))

    def stop(self, leave: bool = True) -> None:
        self._end.set()
        self._thread.join(10)
        if leave:
            self.consumer.close()


def even(*members: Member) -> bool:
    """All partitions are given out, as many to each."""
    each = PARTITIONS // len(members)
    return set().union(*(member.has for member in members)) == set(range(PARTITIONS)) and all(
        len(member.has) == each for member in members
    )


def test_members_share_and_take_over_and_outlive_their_coordinator(broker: BrokerProcess) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    produce(broker, topic, 0, 60)
    first = Member(broker, topic, group)
    until(lambda: set(first.values) == set(range(60)), 30, "everything at the first member")
    second = Member(broker, topic, group)
    until(lambda: even(first, second), 30, "an even share")
    end = 60
    for worker in range(broker.workers):
        broker.kill_worker(worker)
        until(lambda: len(broker.worker_pids()) == broker.workers, what="all workers")
        produce(broker, topic, end, end + 60)
        end += 60
        until(
            lambda: set(first.values) | set(second.values) == set(range(end)),  # noqa: B023
            40,
            "what was produced after a death",
        )
        until(lambda: even(first, second), 30, "an even share after a death")
    admin = AdminClient({"bootstrap.servers": address(broker)})
    described = admin.describe_consumer_groups([group])[group].result(10)
    assert described.state.name == "STABLE"
    assert [len(member.assignment.topic_partitions) for member in described.members] == [3, 3]
    second.stop()
    until(lambda: even(first), 30, "what was left")
    first.stop()
    places = [TopicPartition(topic, index) for index in range(PARTITIONS)]
    assert committed(broker, group, places) == [end // PARTITIONS] * PARTITIONS


def committed(broker: BrokerProcess, group: str, places: list[TopicPartition]) -> list[int]:
    asker = Consumer({"bootstrap.servers": address(broker), "group.id": group})
    found = [place.offset for place in asker.committed(places, timeout=10)]
    asker.close()
    return found


@pytest.mark.parametrize("broker", [2], indirect=True, ids=["2workers"])
def test_a_member_that_vanishes_loses_its_partitions_after_its_session(
    broker: BrokerProcess,
) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    first, second = Member(broker, topic, group), Member(broker, topic, group)
    until(lambda: even(first, second), 30, "an even share")
    script = (
        "import sys, time, confluent_kafka as k\n"
        "c = k.Consumer({'bootstrap.servers': sys.argv[1], 'group.id': sys.argv[2],"
        " 'group.protocol': 'consumer'})\n"
        "c.subscribe([sys.argv[3]])\n"
        "while True:\n"
        "    c.poll(0.1)\n"
        "    print(len(c.assignment()), flush=True)\n"
    )
    gone = subprocess.Popen(
        [sys.executable, "-c", script, address(broker), group, topic],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert gone.stdout is not None
    for line in gone.stdout:
        if line == "2\n":
            break
    until(lambda: len(first.has) == len(second.has) == 2, 30, "three shares")
    gone.kill()
    gone.wait()
    until(lambda: even(first, second), 30, "the share of who vanished")
    first.stop()
    second.stop()


def test_topics_that_come_and_grow_are_given_out(broker: BrokerProcess) -> None:
    prefix, group = f"p{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    member = Member(broker, f"^{prefix}.*", group)
    topic = new_topic(broker, 2, prefix)
    until(lambda: member.has == {0, 1}, 30, "a topic that the expression matches")
    admin = AdminClient({"bootstrap.servers": address(broker)})
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result(10)
    until(lambda: member.has == {0, 1, 2, 3}, 30, "its new partitions")
    with Wire(broker.mqtt) as wire:
        wire.connect()
        wire.publish(f"{prefix}/light".encode(), b"7", qos=1)
    until(lambda: 7 in member.values, 30, "a topic of MQTT that the expression matches")
    member.stop()


class Members:
    """Java's consumers, in one virtual machine."""

    def __init__(self, broker: BrokerProcess, folder: Path) -> None:
        self.has: dict[str, set[str]] = {}
        self.values: dict[str, list[int]] = {}
        self.failed: list[str] = []
        self.closed: set[str] = set()
        with (folder / "members.log").open("w") as log:
            self._process = subprocess.Popen(
                [*java("Members"), address(broker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, what, *rest = line.rstrip("\n").split(" ", 2)
            if what == "has":
                self.has[name] = set(filter(None, rest[0].split(","))) if rest else set()
            elif what == "read":
                self.values.setdefault(name, []).append(int(rest[0]))
            elif what == "closed":
                self.closed.add(name)
                self.has[name] = set()
            else:
                self.failed.append(line)

    def say(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def even(self, *names: str) -> bool:
        held = [self.has.get(name, set()) for name in names]
        each = PARTITIONS // len(names)
        return [len(one) for one in held] == [each] * len(names) and (
            len(set().union(*held)) == PARTITIONS
        )

    def read(self) -> set[int]:
        return {value for values in [*self.values.values()] for value in [*values]}


def group_type(broker: BrokerProcess, group: str) -> str:
    admin = AdminClient({"bootstrap.servers": address(broker)})
    listed = admin.list_consumer_groups().result(10)
    return next(str(one.type.name) for one in listed.valid if one.group_id == group)


@pytest.mark.parametrize(
    ("broker", "strategy"),
    [(1, COOPERATIVE), (2, EAGER), (2, COOPERATIVE)],
    indirect=["broker"],
    ids=["1worker-cooperative", "2workers-eager", "2workers-cooperative"],
)
def test_a_group_goes_from_one_protocol_to_the_other_and_back_while_it_reads(
    broker: BrokerProcess, tmp_path: Path, strategy: str
) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    with Members(broker, tmp_path) as members:
        old = (CLASSIC, strategy, "heartbeat.interval.ms=200", "session.timeout.ms=6000")
        members.say("open", "a", group, topic, *old)
        members.say("open", "b", group, topic, *old)
        until(lambda: members.even("a", "b"), 40, "the classic group")
        produce(broker, topic, 0, 60)
        until(lambda: members.read() == set(range(60)), 30, "the first records")
        members.say("open", "c", group, topic, NEW)
        until(lambda: members.even("a", "b", "c"), 40, "a share for the first new member")
        assert group_type(broker, group) == "CONSUMER"
        broker.kill_worker(0)
        produce(broker, topic, 60, 120)
        until(lambda: members.read() == set(range(120)), 40, "records of a mixed group")
        for name in ("a", "b"):
            members.say("close", name)
            until(lambda: name in members.closed, 30, "a classic member's end")  # noqa: B023
            members.say("open", f"{name}2", group, f"~{topic[:20]}.*", NEW)
        until(lambda: members.even("a2", "b2", "c"), 40, "all new")
        produce(broker, topic, 120, 180)
        until(lambda: members.read() == set(range(180)), 30, "records of the new group")
        members.say("open", "d", group, topic, *old)
        until(lambda: len(members.has.get("d", ())) > 0, 40, "a share for a classic member")
        for name in ("a2", "b2", "c"):
            members.say("close", name)
        until(lambda: members.even("d"), 40, "the classic member has all")
        until(lambda: group_type(broker, group) == "CLASSIC", 10, "the classic group again")
        produce(broker, topic, 180, 240)
        until(lambda: members.read() == set(range(240)), 30, "records of the classic group")
        assert not members.failed
        # Nobody died while it held anything: only the death of a worker may have doubled some.
        total = [value for values in members.values.values() for value in values]
        assert len([value for value in total if value >= 120]) == 120
