"""Kafka consumers over a whole log, most of which is in an object store: while the producer goes
on, over restarts, and with a store that is down or does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient, new_topic
from tests.object_stores import S3Server

RECORDS = 6_000
VALUE = b"x" * 1_000
"""Of each of two partitions 3 MB, in segments of 1 MiB."""
FETCH, LIST_OFFSETS = 1, 2
STORAGE_ERROR = 56
COLD = "robustmq_storage_tier_read_bytes_total"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server that the test may end."""
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        yield server


def settings(server: S3Server, url: str) -> dict[str, str]:
    return {**server.settings(url), "STORAGE__TIERING__PREFETCH_BYTES": "4194304"}


def make(broker: BrokerProcess, topic: str, **configs: str) -> None:
    wanted = {
        "remote.storage.enable": "true",
        "segment.bytes": "1048576",
        "local.retention.bytes": "1",
        "retention.ms": "-1",
        **{name.replace("_", "."): value for name, value in configs.items()},
    }
    rows = [{"name": name, "value": value} for name, value in wanted.items()]
    with SocketClient(broker.worker_ports[0]) as client:
        asked = new_topic(topic, configs=rows, num_partitions=2)
        made = client.ask(19, 7, topics=[asked], timeout_ms=5000, validate_only=False)
        assert made.topics[0].error_code == 0, made.topics[0].error_message


@asynccontextmanager
async def producing(broker: BrokerProcess) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{broker.kafka}", linger_ms=2)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def produce(broker: BrokerProcess, topic: str, first: int, count: int) -> None:
    async with producing(broker) as producer:
        sent = [
            await producer.send(topic, b"%d " % number + VALUE, partition=number % 2)
            for number in range(first, first + count)
        ]
        await asyncio.gather(*sent)


def fill(broker: BrokerProcess, topic: str) -> None:
    """Produce, and wait until nearly all is in the store and gone from the disk."""
    make(broker, topic)
    asyncio.run(produce(broker, topic, 0, RECORDS))
    cooled(broker, 4)


def cooled(broker: BrokerProcess, segments: int) -> None:
    def local() -> int:
        return len(list(broker.data.glob("*/segments/*/*.log"))) + len(
            list(broker.data.glob("shards/*/segments/*/*.log"))
        )

    until(
        lambda: broker.metric("robustmq_storage_tier_segments") >= segments and local() <= 2,
        30.0,
        "cold segments",
    )


async def read_all(broker: BrokerProcess, topic: str, count: int, **options: Any) -> list[int]:
    """The numbers of all records, in the order of each partition; ends when `count` came."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{broker.kafka}", auto_offset_reset="earliest", **options
    )
    await consumer.start()
    places = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    consumer.assign(places)
    await consumer.seek_to_beginning()
    found: list[int] = []
    following = dict.fromkeys(places, 0)
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        for place, messages in (await consumer.getmany(timeout_ms=500)).items():
            for message in messages:
                assert message.offset == following[place], "in order, without a gap"
                following[place] += 1
                found.append(int(message.value.partition(b" ")[0]))
    await consumer.stop()
    return found


def whole(found: list[int], count: int) -> bool:
    return sorted(found) == list(range(count))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_consumer_reads_cold_local_and_new_records_while_the_producer_goes_on(
    tmp_path: Path, s3_server: S3Server, workers: int
) -> None:
    url = s3_server.fresh_url()
    with BrokerProcess(tmp_path, workers, **settings(s3_server, url)) as broker:
        fill(broker, "t")

        async def both() -> list[int]:
            more = asyncio.create_task(produce(broker, "t", RECORDS, 2_000))
            found = await read_all(broker, "t", RECORDS + 2_000)
            await more
            return found

        assert whole(asyncio.run(both()), RECORDS + 2_000)
        assert broker.metric(COLD) > 0
        served = broker.metric("robustmq_storage_tier_gets_total")
        # Of the second time nothing is asked of the store but what was new.
        assert whole(asyncio.run(read_all(broker, "t", RECORDS + 2_000)), RECORDS + 2_000)
        assert broker.metric("robustmq_storage_tier_gets_total") - served <= 12
        assert whole(_by_librdkafka(broker, RECORDS + 2_000), RECORDS + 2_000)
        _times_are_found(broker)


def _by_librdkafka(broker: BrokerProcess, count: int) -> list[int]:
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "group.id": "g",
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([Place("t", 0, 0), Place("t", 1, 0)])
    found: list[int] = []
    following = [0, 0]
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        for message in consumer.consume(1000, 0.5):
            assert message.error() is None, message.error()
            partition = message.partition() or 0
            assert message.offset() == following[partition]
            following[partition] += 1
            found.append(int((message.value() or b"").partition(b" ")[0]))
    consumer.close()
    return found


def _times_are_found(broker: BrokerProcess) -> None:
    """Of a time in the cold part, asked of each worker."""
    for port in broker.worker_ports:
        with SocketClient(port) as client:
            for timestamp_ms, expected in ((1, 0), (-2, 0), (-1, 4_000)):
                rows = [
                    {"partition_index": 0, "current_leader_epoch": -1, "timestamp": timestamp_ms}
                ]
                answer = client.ask(
                    LIST_OFFSETS, 7, replica_id=-1, isolation_level=0,
                    topics=[{"name": "t", "partitions": rows}],
                )  # fmt: skip
                (part,) = answer.topics[0].partitions
                assert (part.error_code, part.offset) == (0, expected)


def test_restarts_and_kills_read_what_the_cache_folder_has_without_the_store(
    tmp_path: Path, s3_server: S3Server
) -> None:
    url = s3_server.fresh_url()
    with BrokerProcess(tmp_path, 1, **settings(s3_server, url)) as broker:
        fill(broker, "t")
        assert whole(asyncio.run(read_all(broker, "t", RECORDS)), RECORDS)
        until(lambda: _held(broker) > 4_000_000, 10.0, "blocks in the folder")
        for end in (broker.kill, broker.stop):
            end()
            broker.start()
            assert whole(asyncio.run(read_all(broker, "t", RECORDS)), RECORDS)
            assert broker.metric("robustmq_storage_tier_gets_total") <= 2


def _held(broker: BrokerProcess) -> int:
    return sum(one.stat().st_size for one in (broker.data / "tier-cache").glob("*/*"))


def fetch(client: SocketClient, topic: str, partition: int, offset: int) -> Any:
    rows = [
        {
            "partition": partition,
            "fetch_offset": offset,
            "partition_max_bytes": 1 << 20,
            "current_leader_epoch": -1,
        }
    ]
    answer = client.ask(
        FETCH, 11, max_wait_ms=200, min_bytes=1, max_bytes=1 << 22, session_epoch=-1,
        topics=[{"topic": topic, "partitions": rows}],
    )  # fmt: skip
    return answer.responses[0].partitions[0]


@pytest.mark.parametrize("how", ["killed", "held"])
def test_a_store_that_is_down_is_an_error_in_time_and_new_records_flow(
    tmp_path: Path, own_server: S3Server, how: str
) -> None:
    url = own_server.fresh_url()
    with BrokerProcess(tmp_path, 2, **settings(own_server, url)) as broker:
        fill(broker, "t")
        if how == "killed":
            own_server.kill()
        else:
            own_server.hold()
        errors = set()
        longest_s = 0.0
        deadline = time.monotonic() + 25
        with SocketClient(broker.worker_ports[0]) as client:
            while STORAGE_ERROR not in errors and time.monotonic() < deadline:
                begun = time.monotonic()
                part = fetch(client, "t", 0, 0)
                longest_s = max(longest_s, time.monotonic() - begun)
                assert not sum(map(len, part.records or []))
                errors.add(part.error_code)
            assert STORAGE_ERROR in errors
            assert longest_s < 5
            begun = time.monotonic()
            last = fetch(client, "t", 0, RECORDS // 2 - 1)
            assert sum(map(len, last.records or []))
            assert time.monotonic() - begun < 2
        asyncio.run(produce(broker, "t", RECORDS, 100))
        if how == "killed":
            own_server.start()
        else:
            own_server.go_on()
        assert whole(asyncio.run(read_all(broker, "t", RECORDS + 100)), RECORDS + 100)
        assert broker.log.count("the object store is down") <= 6
