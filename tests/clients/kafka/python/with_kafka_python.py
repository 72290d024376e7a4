"""kafka-python."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import kafka
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic

from tests.clients.kafka.python.job import ALL_CODECS, WAIT_S, Row


def row_of(record: Any) -> Row:
    return Row(record.key, record.value, record.headers)


class Member:
    """A consumer that a thread of its own polls."""

    def __init__(self, address: str, group: str, topic: str) -> None:
        self.assigned: set[int] = set()
        self.rows: list[Row] = []
        self._consumer = kafka.KafkaConsumer(
            topic,
            bootstrap_servers=address,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=300,
        )
        self._wanted: threading.Event | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._poll()
            self.assigned = {place.partition for place in self._consumer.assignment()}
            if self._wanted is not None:
                self._consumer.commit()
                self._wanted.set()
                self._wanted = None

    def _poll(self) -> None:
        try:
            found = self._consumer.poll(50)
        except kafka.errors.KafkaError as error:
            # The broker is away: the next poll tries again.
            assert error.retriable, error
            time.sleep(0.05)
            return
        for records in found.values():
            self.rows += map(row_of, records)

    def commit(self) -> None:
        done = self._wanted = threading.Event()
        assert done.wait(WAIT_S), "the commit did not come"

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(WAIT_S)
        self._consumer.close()


class KafkaPython:
    """The adapter."""

    codecs = ALL_CODECS

    def __init__(self, address: str) -> None:
        self._address = address
        self._admin = kafka.KafkaAdminClient(bootstrap_servers=address)
        self._producers: dict[str, Any] = {}

    def create_topic(self, topic: str, partitions: int, settings: dict[str, str]) -> None:
        self._admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=settings)])

    def send(self, topic: str, rows: Sequence[Row], codec: str) -> None:
        if codec not in self._producers:
            self._producers[codec] = kafka.KafkaProducer(
                bootstrap_servers=self._address,
                acks="all",
                enable_idempotence=True,
                compression_type=None if codec == "none" else codec,
                linger_ms=20,
            )
        producer = self._producers[codec]
        sent = [producer.send(topic, row.value, row.key, list(row.headers)) for row in rows]
        producer.flush(WAIT_S)
        for future in sent:
            future.get(WAIT_S)

    def member(self, group: str, topic: str) -> Member:
        return Member(self._address, group, topic)

    def read_all(self, topic: str, count: int) -> list[Row]:
        consumer = kafka.KafkaConsumer(
            topic,
            bootstrap_servers=self._address,
            auto_offset_reset="earliest",
            consumer_timeout_ms=int(WAIT_S * 1000),
        )
        rows: list[Row] = []
        for record in consumer:
            rows.append(row_of(record))
            if len(rows) == count:
                break
        consumer.close()
        return rows

    def _group_offsets(self, group: str) -> Any:
        """Its administration does not connect again by itself, as its consumers do."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                return self._admin.list_group_offsets([group])[group]
            except kafka.errors.KafkaError as error:
                assert error.retriable and time.monotonic() < deadline, error
                time.sleep(0.1)

    def committed(self, group: str, topic: str, partitions: int) -> list[int]:
        found = self._group_offsets(group)
        return [found[kafka.TopicPartition(topic, index)].offset for index in range(partitions)]

    def offsets_at(self, topic: str, partitions: int, timestamp_ms: int) -> list[int | None]:
        consumer = kafka.KafkaConsumer(bootstrap_servers=self._address)
        places = [kafka.TopicPartition(topic, index) for index in range(partitions)]
        found = consumer.offsets_for_times(dict.fromkeys(places, timestamp_ms))
        consumer.close()
        return [found[place].offset if found[place] else None for place in places]

    def partitions_of(self, topic: str) -> int:
        found = {row["name"]: row for row in self._admin.describe_topics()}
        return len(found[topic]["partitions"]) if topic in found else 0

    def setting(self, topic: str, name: str) -> str:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = self._admin.describe_configs([resource], config_filter="all")
        return str(found["topic"][topic][name]["value"])

    def change_setting(self, topic: str, name: str, value: str) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})
        self._admin.alter_configs([resource])

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions({topic: NewPartitions(partitions)})

    def members_of(self, group: str) -> int:
        return len(self._admin.describe_groups([group])[group]["members"])

    def delete_group(self, group: str) -> None:
        self._admin.delete_groups([group])

    def delete_topic(self, topic: str) -> None:
        self._admin.delete_topics([topic])
