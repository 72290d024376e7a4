"""Transactions of stock clients: what is committed is read once, what is aborted never, a producer
that was replaced is fenced, a copy from topic to topic is exactly once."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import aiokafka
import confluent_kafka
import kafka
import kafka.structs
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess, until
from tests.clients.kafka_programs import java

PARTITIONS = 4
COUNT = 40


@pytest.fixture(scope="module", params=[1, 2], ids=["1-worker", "2-workers"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("transactions")
    with BrokerProcess(
        directory, request.param, KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="0"
    ) as running:
        yield running


@pytest.fixture
def servers(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.kafka}"


@pytest.fixture
def topic(servers: str) -> str:
    return make_topic(servers)


def make_topic(servers: str) -> str:
    name = uuid.uuid4().hex
    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics([NewTopic(name, PARTITIONS)]).values():
        made.result(10)
    return name


def producer(servers: str, name: str, **settings: Any) -> Producer:
    made = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": name,
            "retry.backoff.max.ms": 100,
            "reconnect.backoff.max.ms": 200,
            **settings,
        }
    )
    made.init_transactions(20)
    return made


def consumer(servers: str, group: str, level: str = "read_committed", **settings: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": level,
            "enable.partition.eof": True,
            **settings,
        }
    )


def read(servers: str, topic: str, level: str = "read_committed") -> list[bytes]:
    """All values up to the ends of all partitions, sorted."""
    reader = consumer(servers, uuid.uuid4().hex, level)
    reader.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    values: list[bytes] = []
    ended: set[int] = set()

    def more() -> bool:
        for message in reader.consume(100, 0.2):
            error = message.error()
            if error is None:
                values.append(message.value() or b"")
            else:
                assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF
                ended.add(message.partition() or 0)
        return len(ended) == PARTITIONS

    until(more, 20, "the ends of the partitions")
    reader.close()
    return sorted(values)


def some(name: str, count: int = COUNT) -> list[bytes]:
    return sorted(f"{name} {number}".encode() for number in range(count))


def test_confluent_commits_and_aborts(servers: str, topic: str) -> None:
    one = producer(servers, topic)
    for name in ("first", "gone", "last"):
        one.begin_transaction()
        for number, value in enumerate(some(name)):
            one.produce(topic, value, partition=number % PARTITIONS)
        if name == "gone":
            one.flush()
            one.abort_transaction(20)
        else:
            one.commit_transaction(20)
    assert read(servers, topic) == sorted(some("first") + some("last"))
    everything = sorted(some("first") + some("last") + some("gone"))
    assert read(servers, topic, "read_uncommitted") == everything


def test_confluent_is_fenced_by_one_of_the_same_id(servers: str, topic: str) -> None:
    first = producer(servers, topic)
    first.begin_transaction()
    first.produce(topic, b"of the first", partition=0)
    assert first.flush(20) == 0
    second = producer(servers, topic)
    second.begin_transaction()
    second.produce(topic, b"of the second", partition=0)
    first.produce(topic, b"too late", partition=1)
    with pytest.raises(KafkaException) as refused:
        first.commit_transaction(20)
    assert refused.value.args[0].fatal()
    second.commit_transaction(20)
    assert read(servers, topic) == [b"of the second"]


def copy(servers: str, source: str, target: str, group: str) -> int:
    """Consume, produce, and commit offsets in transactions; each second one is aborted and done
    again. The number of transactions."""
    writer = producer(servers, group)
    reader = consumer(servers, group)
    reader.subscribe([source])
    copied = turns = 0
    while copied < COUNT:
        batch = [one for one in reader.consume(10, 1.0) if one.error() is None]
        if not batch:
            continue
        turns += 1
        writer.begin_transaction()
        for message in batch:
            writer.produce(target, message.value(), partition=message.partition() or 0)
        offsets = reader.position(reader.assignment())
        writer.send_offsets_to_transaction(offsets, reader.consumer_group_metadata(), 20)
        if turns % 2:
            writer.abort_transaction(20)
            for partition in reader.assignment():
                found = reader.committed([partition], 10)[0]
                reader.seek(TopicPartition(source, partition.partition, max(found.offset, 0)))
        else:
            writer.commit_transaction(20)
            copied += len(batch)
    reader.close()
    return turns


def test_confluent_copies_exactly_once(servers: str, topic: str) -> None:
    one = producer(servers, topic)
    one.begin_transaction()
    for number, value in enumerate(some("v")):
        one.produce(topic, value, partition=number % PARTITIONS)
    one.commit_transaction(20)
    target = make_topic(servers)
    assert copy(servers, topic, target, f"copy {topic}") >= 2
    assert read(servers, target) == some("v")


def test_aiokafka_commits_aborts_and_sends_offsets(servers: str, topic: str) -> None:
    async def run() -> None:
        one = aiokafka.AIOKafkaProducer(bootstrap_servers=servers, transactional_id=topic)
        await one.start()
        try:
            async with one.transaction():
                for number, value in enumerate(some("a")):
                    await one.send(topic, value, partition=number % PARTITIONS)
            await one.begin_transaction()
            await one.send_and_wait(topic, b"gone", partition=0)
            await one.abort_transaction()
            offsets = {aiokafka.TopicPartition(topic, 0): 3}
            async with one.transaction():
                await one.send(topic, b"with offsets", partition=1)
                await one.send_offsets_to_transaction(offsets, topic)
        finally:
            await one.stop()
        reader = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=servers, group_id=topic, enable_auto_commit=False
        )
        await reader.start()
        try:
            assert await reader.committed(aiokafka.TopicPartition(topic, 0)) == 3
        finally:
            await reader.stop()

    asyncio.run(run())
    assert read(servers, topic) == sorted([*some("a"), b"with offsets"])


def test_kafka_python_commits_aborts_and_sends_offsets(servers: str, topic: str) -> None:
    one = kafka.KafkaProducer(bootstrap_servers=servers, transactional_id=topic)
    try:
        one.init_transactions()
        for name in ("a", "gone", "b"):
            one.begin_transaction()
            for number, value in enumerate(some(name)):
                one.send(topic, value, partition=number % PARTITIONS)
            if name == "gone":
                one.flush()
                one.abort_transaction()
                continue
            place = kafka.TopicPartition(topic, 0)
            offsets = {place: kafka.structs.OffsetAndMetadata(len(name), "", -1)}
            one.send_offsets_to_transaction(offsets, topic)
            one.commit_transaction()
    finally:
        one.close()
    assert read(servers, topic) == sorted(some("a") + some("b"))
    reader = consumer(servers, topic)
    (found,) = reader.committed([TopicPartition(topic, 0)], 10)
    assert found.offset == 1
    reader.close()


@pytest.mark.parametrize("broker", [2], indirect=True, ids=["2-workers"])
def test_java_commits_aborts_fences_times_out_and_copies(
    broker: BrokerProcess, servers: str
) -> None:
    done = subprocess.run(
        [*java("Transactions"), servers],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
