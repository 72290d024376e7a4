"""confluent-kafka, the Python face of librdkafka."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.clients.kafka.python.job import ALL_CODECS, WAIT_S, Row


def row_of(message: Any) -> Row:
    return Row(message.key(), message.value(), message.headers() or [])


class Member:
    """A consumer that a thread of its own polls."""

    def __init__(self, settings: dict[str, Any], group: str, topic: str) -> None:
        self.assigned: set[int] = set()
        self.rows: list[Row] = []
        self._consumer = Consumer(
            {
                **settings,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "heartbeat.interval.ms": 300,
            }
        )
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        self._wanted: threading.Event | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.assigned = {place.partition for place in places}

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.assigned = set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._wanted is not None:
                self._consumer.commit(asynchronous=False)
                self._wanted.set()
                self._wanted = None
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.rows.append(row_of(message))

    def commit(self) -> None:
        done = self._wanted = threading.Event()
        assert done.wait(WAIT_S), "the commit did not come"

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(WAIT_S)
        self._consumer.close()


class Confluent:
    """The adapter."""

    codecs = ALL_CODECS

    def __init__(self, address: str) -> None:
        self._settings: dict[str, str | int | float | bool] = {"bootstrap.servers": address}
        self._admin = AdminClient(self._settings)
        self._producers: dict[str, Producer] = {}

    def create_topic(self, topic: str, partitions: int, settings: dict[str, str]) -> None:
        made = self._admin.create_topics([NewTopic(topic, partitions, config=settings)])
        made[topic].result(WAIT_S)

    def send(self, topic: str, rows: Sequence[Row], codec: str) -> None:
        if codec not in self._producers:
            settings = {"compression.type": codec, "enable.idempotence": True, "acks": "all"}
            self._producers[codec] = Producer({**self._settings, **settings, "linger.ms": 20})
        producer = self._producers[codec]
        failed: list[Any] = []

        def done(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)

        for row in rows:
            headers: list[tuple[str, str | bytes | None]] = [*row.headers]
            producer.produce(topic, row.value, row.key, headers=headers, on_delivery=done)
        assert producer.flush(WAIT_S) == 0 and not failed, failed

    def member(self, group: str, topic: str) -> Member:
        return Member(self._settings, group, topic)

    def _reader(self, group: str) -> Consumer:
        return Consumer({**self._settings, "group.id": group, "enable.auto.commit": False})

    def read_all(self, topic: str, count: int) -> list[Row]:
        consumer = self._reader(uuid.uuid4().hex)
        places = [TopicPartition(topic, index, 0) for index in range(self.partitions_of(topic))]
        consumer.assign(places)
        rows: list[Row] = []
        while len(rows) < count:
            message = consumer.poll(WAIT_S)
            assert message is not None and message.error() is None, message
            rows.append(row_of(message))
        consumer.close()
        return rows

    def committed(self, group: str, topic: str, partitions: int) -> list[int]:
        consumer = self._reader(group)
        wanted = [TopicPartition(topic, index) for index in range(partitions)]
        found = [place.offset for place in consumer.committed(wanted, WAIT_S)]
        consumer.close()
        return found

    def offsets_at(self, topic: str, partitions: int, timestamp_ms: int) -> list[int | None]:
        consumer = self._reader("none")
        wanted = [TopicPartition(topic, index, timestamp_ms) for index in range(partitions)]
        found = consumer.offsets_for_times(wanted, WAIT_S)
        consumer.close()
        return [place.offset if place.offset >= 0 else None for place in found]

    def partitions_of(self, topic: str) -> int:
        found = self._admin.list_topics(timeout=WAIT_S).topics.get(topic)
        return len(found.partitions) if found else 0

    def setting(self, topic: str, name: str) -> str:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        entries = self._admin.describe_configs([resource])[resource].result(WAIT_S)
        value: str = entries[name].value
        return value

    def change_setting(self, topic: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        self._admin.incremental_alter_configs([resource])[resource].result(WAIT_S)

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(WAIT_S)

    def members_of(self, group: str) -> int:
        listed = self._admin.list_consumer_groups().result(WAIT_S)
        assert group in {found.group_id for found in listed.valid}
        described = self._admin.describe_consumer_groups([group])[group].result(WAIT_S)
        return len(described.members)

    def delete_group(self, group: str) -> None:
        self._admin.delete_consumer_groups([group])[group].result(WAIT_S)

    def delete_topic(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result(WAIT_S)
