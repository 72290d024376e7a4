"""The settings of topics carried out, as users of stock clients see it: retention, compaction,
deleted records, storage modes and filters that change, and what a deleted topic leaves."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic
from paho.mqtt import publish as paho_publish

from tests.broker import BrokerProcess, until

DAY_MS = 86_400_000
Record = tuple[bytes | None, bytes | None]


class Client:
    """A broker with an administrator, a producer and readers."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.expected: dict[str, tuple[tuple[int, int], dict[int, Record]]] = {}
        self.connect()

    def connect(self) -> None:
        self.config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": f"127.0.0.1:{self.broker.kafka}"
        }
        self.admin = AdminClient(self.config)
        self.producer = confluent_kafka.Producer({**self.config, "linger.ms": 0})
        self.consumer = confluent_kafka.Consumer(
            {
                **self.config,
                "group.id": "g",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            }
        )

    def restart(self) -> None:
        """Kill -9, and start again."""
        self.consumer.close()
        self.broker.kill()
        self.broker.start()
        self.connect()

    def remember(self, topic: str) -> None:
        """What is there now is to be there after a crash (the last test)."""
        self.expected[topic] = self.bounds(topic), self.read(topic)

    def create(self, partitions: int = 1, **configs: str) -> str:
        name = uuid.uuid4().hex
        config = {key.replace("_", "."): value for key, value in configs.items()}
        self.admin.create_topics([NewTopic(name, partitions, config=config)])[name].result(10)
        return name

    def alter(self, topic: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result(10)

    def produce(self, topic: str, *records: Record, at_ms: int | None = None) -> None:
        """One batch a call; the time of the first record, the others follow."""
        at_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
        for number, (key, value) in enumerate(records):
            self.producer.produce(topic, value, key, partition=0, timestamp=at_ms + number)
            assert self.producer.flush(20) == 0

    def bounds(self, topic: str) -> tuple[int, int]:
        """Where a partition begins and ends."""
        at = TopicPartition(topic, 0)
        found: tuple[int, int] = self.consumer.get_watermark_offsets(at, 10)
        return found

    def read(self, topic: str, begin: int | None = None) -> dict[int, Record]:
        """All records by offset."""
        offset = confluent_kafka.OFFSET_BEGINNING if begin is None else begin
        self.consumer.assign([TopicPartition(topic, 0, offset)])
        found: dict[int, Record] = {}
        while True:
            message = self.consumer.poll(15)
            assert message is not None, "nothing came"
            error = message.error()
            if error is not None:
                assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error
                break
            found[message.offset() or 0] = (message.key(), message.value())
        self.consumer.unassign()
        return found

    def files(self, pattern: str = "*.log") -> list[Path]:
        """Segment files of all partitions."""
        return sorted(self.broker.data.glob(f"**/segments/*/{pattern}"))


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    directory = tmp_path_factory.mktemp("settings")
    with BrokerProcess(directory, request.param, STORAGE__RETENTION_CHECK_S="1") as running:
        yield Client(running)


def comes(what: Callable[[], object], said: str) -> None:
    until(what, 20, said)


def test_retention_by_time_moves_the_log_start_for_good(client: Client) -> None:
    topic = client.create(segment_ms="1000", retention_ms=str(DAY_MS))
    now = time.time_ns() // 1_000_000
    for days in (5, 4, 3):
        client.produce(topic, (None, b"old"), at_ms=now - days * DAY_MS)
    client.produce(topic, (None, b"new"))
    comes(lambda: client.bounds(topic) == (3, 4), "the end of the old records")
    assert client.read(topic) == {3: (None, b"new")}
    client.remember(topic)
    assert client.broker.metric("robustmq_storage_bytes_expired_total") > 0


def test_the_last_segment_goes_by_time_too_and_offsets_go_on(client: Client) -> None:
    topic = client.create(retention_ms="1")
    client.produce(topic, (None, b"0"), (None, b"1"))
    comes(lambda: client.bounds(topic) == (2, 2), "the end of all records")
    client.remember(topic)


def test_retention_by_bytes_keeps_the_newest(client: Client) -> None:
    topic = client.create(
        segment_bytes=str(1 << 20), retention_bytes=str(2 << 20), max_message_bytes="900000"
    )
    for number in range(8):
        client.produce(topic, (None, b"%d" % number * 700_000))
    comes(lambda: client.bounds(topic)[0] >= 4, "segments beyond the bound to go")
    start, end = client.bounds(topic)
    assert end == 8 and start <= 6
    assert [value[:1] for _, value in client.read(topic).values() if value] == [
        b"%d" % number for number in range(start, 8)
    ]


@pytest.mark.parametrize("kind", ["declared", "light"])
def test_deleted_records_stay_deleted(client: Client, kind: str) -> None:
    topic = client.create() if kind == "declared" else uuid.uuid4().hex
    client.produce(topic, *[(None, b"%d" % number) for number in range(6)])
    at = TopicPartition(topic, 0, 4)
    assert client.admin.delete_records([at])[at].result(10).low_watermark == 4
    assert client.bounds(topic) == (4, 6)
    assert client.read(topic) == {4: (None, b"4"), 5: (None, b"5")}
    assert client.read(topic, 1) == client.read(topic)
    client.remember(topic)
    beyond = TopicPartition(topic, 0, 7)
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        client.admin.delete_records([beyond])[beyond].result(10)
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize("kind", ["declared", "light"])
def test_all_records_are_deleted_up_to_the_end(client: Client, kind: str) -> None:
    topic = client.create() if kind == "declared" else uuid.uuid4().hex
    client.produce(topic, (None, b"0"), (None, b"1"))
    end = TopicPartition(topic, 0, confluent_kafka.OFFSET_END)
    assert client.admin.delete_records([end])[end].result(10).low_watermark == 2
    client.produce(topic, (None, b"new"))
    assert client.read(topic) == {2: (None, b"new")}
    client.remember(topic)


def test_a_compacted_topic_keeps_the_newest_of_each_key(client: Client) -> None:
    topic = client.create(
        cleanup_policy="compact", segment_ms="1000", min_cleanable_dirty_ratio="0.01"
    )
    now = time.time_ns() // 1_000_000 - 3_000_000
    model: dict[bytes, bytes | None] = {}
    for number in range(30):
        key, value = b"%d" % (number % 4), b"%d" % number
        model[key] = value
        client.produce(topic, (key, value), at_ms=now + number * 2000)
    newest = {key: (key, value) for key, value in model.items()}

    def compacted() -> bool:
        found = client.read(topic)
        latest = {row[0]: row for _, row in sorted(found.items())}
        assert latest == newest, "the table is the same at any moment"
        return len(found) <= 5

    comes(compacted, "the compaction")
    assert client.read(topic)[29] == (b"1", b"29")
    assert client.bounds(topic) == (0, 30)
    comes(lambda: client.broker.metric("robustmq_storage_compactions_total"), "its end")
    client.alter(topic, "min.cleanable.dirty.ratio", "1")
    client.remember(topic)


def test_a_deleted_topic_leaves_nothing_and_its_name_begins_anew(client: Client) -> None:
    topic = client.create()
    client.produce(topic, (None, b"a"), (None, b"b"))
    first = client.admin.list_topics(topic, timeout=10)
    assert topic in first.topics
    before = set(client.files())
    client.admin.delete_topics([topic])[topic].result(10)
    client.admin.create_topics([NewTopic(topic, 1)])[topic].result(10)
    assert client.bounds(topic) == (0, 0)
    client.produce(topic, (None, b"new"))
    assert client.read(topic) == {0: (None, b"new")}
    comes(lambda: len(before - set(client.files())) == 1, "the old file to go")
    assert not [
        path for path in client.broker.data.glob("**/segments/*") if not any(path.iterdir())
    ]


def test_the_storage_mode_of_a_topic_changes_while_it_is_used(client: Client) -> None:
    topic = client.create()
    client.produce(topic, (None, b"0"), (None, b"1"))
    client.alter(topic, "robustmq.storage.mode", "memory")
    client.produce(topic, (None, b"2"))
    assert [value for _, value in client.read(topic).values()] == [b"0", b"1", b"2"]
    client.alter(topic, "robustmq.storage.mode", "persistent")
    client.produce(topic, (None, b"3"))
    found = client.read(topic)
    assert [(offset, value) for offset, (_, value) in found.items()] == [
        (number, b"%d" % number) for number in range(4)
    ]
    client.remember(topic)
    memory = client.create()
    client.produce(memory, (None, b"0"))
    client.alter(memory, "robustmq.storage.mode", "memory")
    client.produce(memory, (None, b"1"))
    # No offset is used twice, though what was in memory is lost.
    client.expected[memory] = (2, 2), {}


def test_a_topic_becomes_a_stream_by_its_setting(client: Client) -> None:
    topic = client.create()
    level = uuid.uuid4().hex
    client.alter(topic, "robustmq.mqtt.filter", f"{level}/+/temp")

    def publish(name: str, payload: str) -> None:
        paho_publish.single(f"{level}/{name}", payload, 1, port=client.broker.mqtt)

    publish("1/temp", "20")
    publish("1/hum", "50")
    assert client.read(topic) == {0: (f"{level}/1/temp".encode(), b"20")}
    client.alter(topic, "robustmq.mqtt.filter", "")
    publish("1/temp", "21")
    assert len(client.read(topic)) == 1
    assert client.read(f"{level}.1.temp") == {0: (None, b"21")}


def test_settings_that_are_not_done_are_refused(client: Client) -> None:
    for name, value in (("min.insync.replicas", "2"), ("flush.ms", "5"), ("nothing", "1")):
        topic = NewTopic(uuid.uuid4().hex, 1, config={name: value})
        with pytest.raises(confluent_kafka.KafkaException) as refused:
            client.admin.create_topics([topic])[topic.topic].result(10)
        assert refused.value.args[0].code() == confluent_kafka.KafkaError.INVALID_CONFIG


def test_after_kill_9_all_of_it_is_as_it_was(client: Client) -> None:
    client.restart()
    assert client.expected, "the tests before this one have left their topics"
    for topic, (bounds, records) in client.expected.items():
        if records or client.bounds(topic) == bounds:
            assert client.bounds(topic) == bounds
        else:
            # Of a topic in memory some offsets behind its end may have been given, unknown to all.
            before, bounds = bounds, client.bounds(topic)
            assert bounds[0] == bounds[1] > before[1]
        assert client.read(topic) == records
        client.produce(topic, (b"k", b"next"))
        assert client.read(topic, bounds[1]) == {bounds[1]: (b"k", b"next")}
