"""What stock Kafka clients write, they read: whole, in order, from where they ask."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import aiokafka
import confluent_kafka
import kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
COUNT = 300
Read = tuple[bytes | None, bytes | None, int, list[tuple[str, bytes | None]]]


@pytest.fixture(scope="module", params=[1, 2], ids=["1worker", "2workers"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("records"), request.param) as running:
        yield running


def address(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.kafka}"


def new_topic(broker: BrokerProcess, partitions: int = 3) -> str:
    name = f"t-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": address(broker)})
    # The records have times of their own, which are older than a topic keeps by default.
    kept = NewTopic(name, partitions, config={"retention.ms": "-1"})
    admin.create_topics([kept])[name].result(10)
    return name


def record(number: int) -> Read:
    """A key, a value (every seventh is a tombstone), a time and headers."""
    value = None if number % 7 == 0 else b"value %d " % number + b"x" * (number % 50)
    key = None if value and number % 5 == 4 else b"key %d" % (number % 10)
    headers: list[tuple[str, bytes | None]] = [("number", b"%d" % number), ("empty", b"")]
    return key, value, 1_700_000_000_000 + number, headers


def number_of(read: Read) -> int:
    found = read[3][0][1]
    assert found is not None
    return int(found)


def consume(broker: BrokerProcess, topic: str, partitions: int, count: int) -> list[Read]:
    """The records of a topic from its beginning to its end, once `count` are there: what acks=0 and
    acks=1 have sent is shown to readers a moment later, when it is committed."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": address(broker),
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    places = [confluent_kafka.TopicPartition(topic, index, 0) for index in range(partitions)]
    consumer.assign(places)
    found: list[Read] = []
    ended: set[int] = set()
    while len(ended) < partitions or len(found) < count:
        message = consumer.poll(10)
        assert message is not None, "the end of a partition does not come"
        error = message.error()
        if error is not None:
            assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error
            ended.add(message.partition() or 0)
            continue
        ended.discard(message.partition() or 0)
        headers: list[tuple[str, bytes | None]] = [*(message.headers() or [])]
        found.append((message.key(), message.value(), message.timestamp()[1], headers))
    consumer.close()
    assert len(found) == count
    return found


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_librdkafka_reads_back_what_it_wrote(
    broker: BrokerProcess, compression: str, acks: str
) -> None:
    topic = new_topic(broker)
    failed: list[Any] = []
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": address(broker),
            "compression.type": compression,
            "acks": acks,
            "enable.idempotence": acks == "all",
            "linger.ms": 5,
        }
    )
    for number in range(COUNT):
        key, value, timestamp, headers = record(number)
        producer.produce(
            topic,
            value,
            key,
            number % 3,
            timestamp=timestamp,
            headers=[*headers],
            on_delivery=lambda error, message: failed.append(error) if error else None,
        )
    assert producer.flush(20) == 0
    assert not failed
    found = consume(broker, topic, 3, COUNT)
    assert sorted(found, key=number_of) == [record(number) for number in range(COUNT)]
    for partition in range(3):
        numbers = [number_of(read) for read in found if number_of(read) % 3 == partition]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_aiokafka_reads_back_what_it_wrote(broker: BrokerProcess, compression: str | None) -> None:
    topic = new_topic(broker)

    async def run() -> list[Read]:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=address(broker), compression_type=compression, enable_idempotence=True
        )
        await producer.start()
        waiting = []
        for number in range(COUNT):
            key, value, timestamp, headers = record(number)
            waiting.append(
                await producer.send(
                    topic, value, key, number % 3, timestamp_ms=timestamp, headers=headers
                )
            )
        await asyncio.gather(*waiting)
        await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=address(broker), auto_offset_reset="earliest"
        )
        await consumer.start()
        found: list[Read] = []
        while len(found) < COUNT:
            batches = await asyncio.wait_for(consumer.getmany(timeout_ms=1000), 10)
            for messages in batches.values():
                found.extend((m.key, m.value, m.timestamp, list(m.headers)) for m in messages)
        await consumer.stop()
        return found

    found = asyncio.run(run())
    assert sorted(found, key=number_of) == [record(number) for number in range(COUNT)]
    assert sorted(consume(broker, topic, 3, COUNT), key=number_of) == sorted(found, key=number_of)


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_kafka_python_reads_back_what_it_wrote(
    broker: BrokerProcess, compression: str | None
) -> None:
    if compression == "snappy" and not kafka.codec.has_snappy():
        pytest.skip("kafka-python needs python-snappy for it")
    topic = new_topic(broker)
    producer = kafka.KafkaProducer(
        bootstrap_servers=address(broker), compression_type=compression, linger_ms=5
    )
    for number in range(COUNT):
        key, value, timestamp, headers = record(number)
        producer.send(topic, value, key, headers, number % 3, timestamp)
    producer.flush(20)
    producer.close()
    consumer = kafka.KafkaConsumer(
        topic,
        bootstrap_servers=address(broker),
        auto_offset_reset="earliest",
        consumer_timeout_ms=10_000,
    )
    found: list[Read] = []
    for m in consumer:
        found.append((m.key, m.value, m.timestamp, list(m.headers)))
        if len(found) == COUNT:
            break
    consumer.close()
    assert sorted(found, key=number_of) == [record(number) for number in range(COUNT)]
    assert sorted(consume(broker, topic, 3, COUNT), key=number_of) == sorted(found, key=number_of)


def test_a_consumer_begins_at_an_offset_or_a_time(broker: BrokerProcess) -> None:
    topic = new_topic(broker, 1)
    producer = confluent_kafka.Producer({"bootstrap.servers": address(broker), "linger.ms": 50})
    for number in range(100):
        producer.produce(topic, b"%d" % number, timestamp=1_700_000_000_000 + number * 1000)
    assert producer.flush(20) == 0
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": address(broker), "group.id": "by time"}
    )

    def first_from(offset: int) -> bytes | None:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, offset)])
        message = consumer.poll(10)
        assert message is not None and message.error() is None
        return message.value()

    assert first_from(42) == b"42"
    for wanted, offset in ((1_700_000_057_000, 57), (1_700_000_056_001, 57), (0, 0)):
        (found,) = consumer.offsets_for_times(
            [confluent_kafka.TopicPartition(topic, 0, wanted)], timeout=10
        )
        assert found.offset == offset, wanted
    (found,) = consumer.offsets_for_times(
        [confluent_kafka.TopicPartition(topic, 0, 1_800_000_000_000)], timeout=10
    )
    assert found.offset == confluent_kafka.OFFSET_END
    assert consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, 0)) == (0, 100)
    consumer.close()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_time_in_the_middle_of_a_compressed_batch_is_found(
    broker: BrokerProcess, compression: str
) -> None:
    topic = new_topic(broker, 1)
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": address(broker),
            "linger.ms": 200,
            "compression.type": compression,
        }
    )
    for number in range(50):
        producer.produce(topic, b"%d" % number * 20, timestamp=1_700_000_000_000 + number)
    assert producer.flush(20) == 0
    consumer = kafka.KafkaConsumer(bootstrap_servers=address(broker))
    place = kafka.TopicPartition(topic, 0)
    found = consumer.offsets_for_times({place: 1_700_000_000_031})[place]
    assert (found.offset, found.timestamp) == (31, 1_700_000_000_031)
    consumer.close()


@pytest.mark.parametrize("size", [1, 5_000, 900_000])
def test_a_record_larger_than_the_consumers_bounds_comes_all_the_same(
    broker: BrokerProcess, size: int
) -> None:
    topic = new_topic(broker, 1)
    producer = kafka.KafkaProducer(bootstrap_servers=address(broker), max_request_size=2_000_000)
    for number in range(3):
        producer.send(topic, b"%d" % number * size).get(20)
    producer.close()
    consumer = kafka.KafkaConsumer(
        topic,
        bootstrap_servers=address(broker),
        auto_offset_reset="earliest",
        fetch_max_bytes=1000,
        max_partition_fetch_bytes=1000,
        consumer_timeout_ms=10_000,
    )
    found = [next(consumer).value for _ in range(3)]
    consumer.close()
    assert found == [b"%d" % number * size for number in range(3)]


def test_a_record_above_the_limit_is_refused_and_the_next_one_is_taken(
    broker: BrokerProcess,
) -> None:
    topic = new_topic(broker, 1)
    producer = kafka.KafkaProducer(
        bootstrap_servers=address(broker), max_request_size=40_000_000, enable_idempotence=False
    )
    with pytest.raises(kafka.errors.MessageSizeTooLargeError):
        producer.send(topic, b"x" * 17_000_000).get(20)
    assert producer.send(topic, b"small").get(20).offset == 0
    admin = AdminClient({"bootstrap.servers": address(broker)})
    limited = NewTopic(f"{topic}-limited", 1, config={"max.message.bytes": "1000"})
    admin.create_topics([limited])[limited.topic].result(10)
    assert producer.send(limited.topic, b"x" * 900).get(20).offset == 0
    with pytest.raises(kafka.errors.MessageSizeTooLargeError):
        producer.send(limited.topic, b"x" * 1000).get(20)
    producer.close()


@pytest.mark.skipif(shutil.which("kcat") is None, reason="needs kcat")
def test_kcat_reads_and_writes_keys_headers_and_a_light_topic(broker: BrokerProcess) -> None:
    topic = f"light.{uuid.uuid4().hex}"

    def kcat(*arguments: str, given: str = "") -> str:
        command = ["kcat", "-b", address(broker), "-q", *arguments]
        done = subprocess.run(
            command, check=True, input=given, capture_output=True, text=True, timeout=30
        )
        return done.stdout

    kcat("-P", "-t", topic, "-K", ":", "-H", "a=1", "-z", "lz4", given="k1:v1\nk2:v2\n")
    assert kcat("-C", "-t", topic, "-e", "-f", "%p %o %k %s %h\n") == (
        "0 0 k1 v1 a=1\n0 1 k2 v2 a=1\n"
    )
    assert kcat("-C", "-t", topic, "-e", "-o", "-1", "-f", "%s\n") == "v2\n"
    assert f'topic "{topic}" with 1 partitions' in kcat("-L", "-t", topic)
    assert kcat("-Q", "-t", f"{topic}:0:-1") == f"{topic} [0] offset 2\n"
