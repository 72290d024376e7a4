"""Consumer groups of stock clients: members come and go, and find what was committed."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import confluent_kafka
import kafka
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess, until

PARTITIONS = 6


@pytest.fixture(scope="module", params=[1, 2], ids=["1worker", "2workers"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("groups"), request.param) as running:
        yield running


def address(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.kafka}"


def new_topic(broker: BrokerProcess) -> str:
    name = f"t-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": address(broker)})
    admin.create_topics([NewTopic(name, PARTITIONS)])[name].result(10)
    return name


def produce(broker: BrokerProcess, topic: str, first: int, last: int) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": address(broker)})
    for number in range(first, last):
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(20) == 0


class Member:
    """A consumer of a group that is polled by a thread of its own."""

    def __init__(self, broker: BrokerProcess, topic: str, group: str, **settings: str) -> None:
        self.assigned: set[int] = set()
        self.rebalances = 0
        self.values: list[int] = []
        self.consumer = Consumer(
            {
                "bootstrap.servers": address(broker),
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 300,
                **{name.replace("_", "."): value for name, value in settings.items()},
            }
        )
        self.cooperative = settings.get("partition_assignment_strategy") == "cooperative-sticky"
        self.consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        self._stop = threading.Event()
        self._commit = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.rebalances += 1
        given = {place.partition for place in places}
        self.assigned = self.assigned | given if self.cooperative else given

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.assigned -= {place.partition for place in places}

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._commit.is_set():
                try:
                    self.consumer.commit(asynchronous=False)
                except confluent_kafka.KafkaException as error:
                    # The coordinator is being looked for: again, until the deadline of commit().
                    assert error.args[0].code() == confluent_kafka.KafkaError._WAIT_COORD
                else:
                    self._commit.clear()
            message = self.consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.values.append(int(message.value() or b""))

    def commit(self) -> None:
        """By the thread that polls: a consumer of this client is for one thread at a time."""
        self._commit.set()
        until(lambda: not self._commit.is_set(), what="the commit")

    def stop(self, leave: bool = True) -> None:
        self._stop.set()
        self._thread.join(10)
        if leave:
            self.consumer.close()


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_two_members_share_the_partitions_and_one_takes_over_what_the_other_leaves(
    broker: BrokerProcess, strategy: str
) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    produce(broker, topic, 0, 60)
    everything = set(range(PARTITIONS))
    first = Member(broker, topic, group, partition_assignment_strategy=strategy)
    until(lambda: first.assigned == everything, what="the first member's assignment")
    until(lambda: sorted(first.values) == list(range(60)), what="everything at the first member")
    first.commit()
    second = Member(broker, topic, group, partition_assignment_strategy=strategy)
    until(
        lambda: len(second.assigned) == 3 and first.assigned | second.assigned == everything,
        30,
        "an even share",
    )
    assert not first.assigned & second.assigned
    produce(broker, topic, 60, 120)
    until(lambda: sorted(first.values + second.values) == list(range(120)), what="the second half")
    assert second.values
    second.commit()
    first.commit()
    second.stop()
    until(lambda: first.assigned == everything, 30, "the left partitions")
    produce(broker, topic, 120, 126)
    until(lambda: len(first.values) + len(second.values) == 126, what="the rest")
    assert sorted(first.values + second.values) == list(range(126))
    first.stop()


def test_a_member_that_vanishes_is_given_up_after_its_session(broker: BrokerProcess) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    members = [
        kafka.KafkaConsumer(
            topic,
            bootstrap_servers=address(broker),
            group_id=group,
            session_timeout_ms=6000,
            heartbeat_interval_ms=300,
        )
        for _ in range(2)
    ]
    done = threading.Event()

    def poll(member: Any, until_done: threading.Event) -> None:
        while not until_done.is_set():
            member.poll(100)

    gone = threading.Event()
    threads = [
        threading.Thread(target=poll, args=(members[0], done), daemon=True),
        threading.Thread(target=poll, args=(members[1], gone), daemon=True),
    ]
    for thread in threads:
        thread.start()
    until(lambda: [len(member.assignment()) for member in members] == [3, 3], 30, "even shares")
    gone.set()
    threads[1].join()
    members[1]._client.close()
    members[1]._coordinator._client.close()
    until(lambda: len(members[0].assignment()) == 6, 30, "the partitions of the vanished one")
    done.set()
    threads[0].join()
    members[0].close()


def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance(
    broker: BrokerProcess,
) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    first = Member(broker, topic, group, group_instance_id="one")
    second = Member(broker, topic, group, group_instance_id="two")
    until(lambda: len(first.assigned) == len(second.assigned) == 3, 30, "even shares")
    held, rebalances = set(second.assigned), first.rebalances
    second.stop()
    again = Member(broker, topic, group, group_instance_id="two")
    until(lambda: again.assigned == held, 30, "the old partitions")
    assert first.rebalances == rebalances
    first.stop()
    again.stop()


@pytest.mark.parametrize("victim", ["tree", "worker"])
def test_what_a_group_committed_is_there_after_a_kill(broker: BrokerProcess, victim: str) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    produce(broker, topic, 0, 60)
    member = Member(broker, topic, group)
    until(lambda: len(member.values) == 60, what="everything")
    member.commit()
    member.stop()
    if victim == "tree":
        broker.kill()
        broker.start()
    else:
        before = broker.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(before) & set(broker.worker_pids()), what="their death")
        until(lambda: len(broker.worker_pids()) == broker.workers, what="new workers")
    produce(broker, topic, 60, 66)
    after = Member(broker, topic, group)
    until(lambda: len(after.values) >= 6, 30, "what came later")
    time.sleep(0.5)
    assert sorted(after.values) == list(range(60, 66))
    after.stop()


def test_a_running_member_lives_through_the_death_of_its_coordinator(
    broker: BrokerProcess,
) -> None:
    topic, group = new_topic(broker), uuid.uuid4().hex
    member = Member(broker, topic, group, session_timeout_ms="10000")
    produce(broker, topic, 0, 6)
    until(lambda: len(member.values) == 6, what="the first six")
    for worker in range(broker.workers):
        until(lambda: len(broker.worker_pids()) == broker.workers, what="all workers")
        broker.kill_worker(worker)
        first = 6 + 6 * worker
        produce(broker, topic, first, first + 6)
        until(lambda: set(member.values) >= set(range(first + 6)), 30, "the records")  # noqa: B023
        member.commit()
    assert sorted(set(member.values)) == list(range(6 + 6 * broker.workers))
    member.stop(leave=False)
    places = [TopicPartition(topic, index) for index in range(PARTITIONS)]
    committed = member.consumer.committed(places, timeout=10)
    assert [place.offset for place in committed] == [1 + broker.workers] * PARTITIONS
    member.consumer.close()
