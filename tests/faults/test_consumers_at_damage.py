"""What stock consumers do at a batch that a disk has damaged (docs/how-to/disk-faults.md says it to
their users): everything before it is read, they hear of it or stand there, and all that lies behind
it can be read."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import aiokafka
import kafka
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from kafka.errors import CorruptRecordError

from tests.broker import BrokerProcess, until
from tests.clients.building import needs
from tests.clients.kafka_programs import java
from tests.clients.test_kafka_tools import TOOLS
from tests.faults.damage import flip
from tests.faults.test_bit_flips import CORRUPT_MESSAGE, COUNT, read_over, write
from tests.kafka.wire import SocketClient

TOPIC = "damaged"
HOLE = [50, 51]
BEFORE = [f"{TOPIC} {number}" for number in range(HOLE[0])]
BEHIND = [f"{TOPIC} {number}" for number in range(HOLE[-1] + 1, COUNT)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """With a topic of which two batches are damaged."""
    with BrokerProcess(tmp_path_factory.mktemp("damage"), 1) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic(TOPIC, 1)])[TOPIC].result(30)
        write(broker, TOPIC)
        broker.kill()
        [path] = broker.data.glob("*/segments/*/*.log")
        data = path.read_bytes()
        for value in HOLE:
            flip(path, data.index(f"{TOPIC} {value}".encode()), random.Random(1))
        broker.start()
        assert read_over(broker, TOPIC) == (BEFORE + BEHIND, HOLE)
        yield broker


@pytest.fixture
def servers(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.kafka}"


def test_confluent_is_told_where_it_is_and_goes_on_where_it_is_sent(servers: str) -> None:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "confluent"})
    reader.assign([TopicPartition(TOPIC, 0, 0)])
    values: list[str] = []
    told: list[tuple[int | None, int | None]] = []

    def more() -> bool:
        for message in reader.consume(COUNT, 0.2):
            error = message.error()
            if error is None:
                values.append((message.value() or b"").decode())
                continue
            told.append((error.code(), message.offset()))
            if told[-1:] == told[-2:-1]:
                # It comes again and again, until the consumer is sent on.
                reader.seek(TopicPartition(TOPIC, 0, (message.offset() or 0) + 1))
        return len(values) == len(BEFORE + BEHIND)

    until(more, 30, "all that is there")
    reader.close()
    assert values == BEFORE + BEHIND
    assert set(told) == {(KafkaError.INVALID_MSG, offset) for offset in HOLE}
    assert KafkaError.INVALID_MSG == CORRUPT_MESSAGE


def test_kcat_ends_there_and_reads_what_lies_behind(servers: str) -> None:
    needs("kcat")

    def run(offset: str) -> tuple[int, list[str], str]:
        command = ["kcat", "-b", servers, "-C", "-t", TOPIC, "-o", offset, "-e"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout.splitlines(), done.stderr

    code, lines, said = run("beginning")
    assert (code, lines) == (1, BEFORE)
    assert "Broker: Invalid message" in said
    assert run(str(HOLE[-1] + 1))[:2] == (0, BEHIND)


def test_kafka_python_raises_there(servers: str) -> None:
    place = kafka.TopicPartition(TOPIC, 0)
    reader = kafka.KafkaConsumer(bootstrap_servers=servers, group_id=None)
    reader.assign([place])
    reader.seek(place, 0)
    values: list[str] = []
    while len(values) < len(BEFORE + BEHIND):
        try:
            values.append(next(reader).value.decode())
        except CorruptRecordError:
            reader.seek(place, reader.position(place) + 1)
    reader.close()
    assert values == BEFORE + BEHIND


def test_aiokafka_stands_there_without_a_word_and_without_a_flood_of_requests(
    broker: BrokerProcess, servers: str
) -> None:
    place = aiokafka.TopicPartition(TOPIC, 0)

    async def read() -> list[str]:
        reader = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, group_id=None)
        await reader.start()
        reader.assign([place])
        values: list[str] = []

        async def some(wait_ms: int) -> bool:
            found = await reader.getmany(place, timeout_ms=wait_ms)
            values.extend(record.value.decode() for record in found.get(place, ()))
            return bool(found)

        reader.seek(place, 0)
        while len(values) < len(BEFORE):
            await some(1000)
        requests = broker.metric("robustmq_kafka_requests_total")
        assert not await some(2000)
        assert await reader.position(place) == HOLE[0]
        # It asks again at once, 2,500 times a second where it is answered at once.
        assert broker.metric("robustmq_kafka_requests_total") - requests < 30
        reader.seek(place, HOLE[-1] + 1)
        while len(values) < len(BEFORE + BEHIND):
            await some(1000)
        await reader.stop()
        return values

    assert asyncio.run(asyncio.wait_for(read(), 60)) == BEFORE + BEHIND


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_java_throws_there_and_goes_on_where_it_is_sent(servers: str, protocol: str) -> None:
    command = [*java("Damage"), servers, TOPIC, f"java {protocol}", protocol]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[-1:] == ["ok"], done.stdout + done.stderr
    told = [line for line in lines if line.startswith("error")]
    assert [line for line in lines[:-1] if line not in told] == BEFORE + BEHIND
    message = (
        "error at {0}: Encountered corrupt message when fetching offset {0} for topic-partition"
    )
    assert [line.rpartition(" ")[0] for line in told] == [
        message.format(offset) for offset in HOLE for _ in range(2)
    ]


def test_a_stopped_group_is_sent_on_with_kafkas_own_tool(servers: str) -> None:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "stopped"})
    place = TopicPartition(TOPIC, 0, HOLE[0])
    reader.commit(offsets=[place], asynchronous=False)
    command = [*java(TOOLS["kafka-consumer-groups"]), "--bootstrap-server", servers]
    command += ["--group", "stopped", "--topic", f"{TOPIC}:0"]
    command += ["--reset-offsets", "--shift-by", "1", "--execute"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert reader.committed([place], 10)[0].offset == HOLE[0] + 1
    reader.close()


def test_who_asks_again_for_what_is_lost_is_answered_after_the_wait(broker: BrokerProcess) -> None:
    def ask(client: SocketClient, offset: int, wait_ms: int) -> tuple[Any, float]:
        part = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}
        begin = time.monotonic()
        answer = client.ask(
            1,
            11,
            max_wait_ms=wait_ms,
            min_bytes=1,
            max_bytes=1 << 20,
            session_epoch=-1,
            topics=[{"topic": TOPIC, "partitions": [part]}],
        )
        return answer.responses[0].partitions[0].error_code, time.monotonic() - begin

    with SocketClient(broker.worker_ports[0]) as client:
        for offset in HOLE:
            code, took_s = ask(client, offset, 8000)
            assert code == CORRUPT_MESSAGE
            assert took_s < 8, "who goes on offset by offset waits for none"
        code, took_s = ask(client, HOLE[-1], 700)
        assert code == CORRUPT_MESSAGE
        assert took_s >= 0.7
        assert ask(client, HOLE[-1] + 1, 700)[0] == 0
