"""aiokafka, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.clients.kafka.python.job import ALL_CODECS, WAIT_S, Row

Result = TypeVar("Result")


def row_of(record: Any) -> Row:
    return Row(record.key, record.value, record.headers)


class Loop:
    """Runs coroutines for threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)


class Member:
    """A consumer with a task that reads."""

    def __init__(self, loop: Loop, address: str, group: str, topic: str) -> None:
        self.rows: list[Row] = []
        self._loop = loop
        self._group = group
        self._topic = topic
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None
        loop.call(self._start(address))

    async def _start(self, address: str) -> None:
        self._consumer = aiokafka.AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=address,
            group_id=self._group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=300,
        )
        await self._consumer.start()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async for record in self._consumer:
            self.rows.append(row_of(record))

    @property
    def assigned(self) -> set[int]:
        return {place.partition for place in self._consumer.assignment()}

    def commit(self) -> None:
        self._loop.call(self._consumer.commit())

    def close(self) -> None:
        self._loop.call(self._stop())

    async def _stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await self._consumer.stop()


class Aiokafka:
    """The adapter."""

    codecs = ALL_CODECS

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = Loop()
        self._admin: Any = None
        self._producers: dict[str, Any] = {}
        self._loop.call(self._start())

    async def _start(self) -> None:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=self._address)
        await self._admin.start()

    def create_topic(self, topic: str, partitions: int, settings: dict[str, str]) -> None:
        made = NewTopic(topic, partitions, 1, topic_configs=settings)
        self._loop.call(self._admin.create_topics([made]))

    def send(self, topic: str, rows: Sequence[Row], codec: str) -> None:
        self._loop.call(self._send(topic, rows, codec))

    async def _send(self, topic: str, rows: Sequence[Row], codec: str) -> None:
        if codec not in self._producers:
            self._producers[codec] = aiokafka.AIOKafkaProducer(
                bootstrap_servers=self._address,
                enable_idempotence=True,
                compression_type=None if codec == "none" else codec,
                linger_ms=20,
            )
            await self._producers[codec].start()
        producer = self._producers[codec]
        sent = [
            await producer.send(topic, row.value, row.key, headers=list(row.headers))
            for row in rows
        ]
        await asyncio.gather(*sent)

    def member(self, group: str, topic: str) -> Member:
        return Member(self._loop, self._address, group, topic)

    def read_all(self, topic: str, count: int) -> list[Row]:
        return self._loop.call(self._read_all(topic, count))

    async def _read_all(self, topic: str, count: int) -> list[Row]:
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=self._address, auto_offset_reset="earliest"
        )
        await consumer.start()
        rows = [row_of(await consumer.getone()) for _ in range(count)]
        await consumer.stop()
        return rows

    def committed(self, group: str, topic: str, partitions: int) -> list[int]:
        found = self._loop.call(self._admin.list_consumer_group_offsets(group))
        places = [aiokafka.TopicPartition(topic, index) for index in range(partitions)]
        return [found[place].offset for place in places]

    def offsets_at(self, topic: str, partitions: int, timestamp_ms: int) -> list[int | None]:
        return self._loop.call(self._offsets_at(topic, partitions, timestamp_ms))

    async def _offsets_at(self, topic: str, partitions: int, timestamp_ms: int) -> list[int | None]:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=self._address)
        await consumer.start()
        places = [aiokafka.TopicPartition(topic, index) for index in range(partitions)]
        found = await consumer.offsets_for_times(dict.fromkeys(places, timestamp_ms))
        await consumer.stop()
        return [found[place].offset if found[place] else None for place in places]

    def partitions_of(self, topic: str) -> int:
        # To ask for a topic by its name would make it again.
        if topic not in self._loop.call(self._admin.list_topics()):
            return 0
        (found,) = self._loop.call(self._admin.describe_topics([topic]))
        return len(found["partitions"])

    def setting(self, topic: str, name: str) -> str:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        (answer,) = self._loop.call(self._admin.describe_configs([resource]))
        ((*_, entries),) = answer.resources
        values = {entry[0]: entry[1] for entry in entries}
        return str(values[name])

    def change_setting(self, topic: str, name: str, value: str) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})
        self._loop.call(self._admin.alter_configs([resource]))

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._loop.call(self._admin.create_partitions({topic: NewPartitions(partitions)}))

    def members_of(self, group: str) -> int:
        (answer,) = self._loop.call(self._admin.describe_consumer_groups([group]))
        (found,) = answer.groups
        return len(found[-1]) if isinstance(found[-1], list) else len(found[5])

    def delete_group(self, group: str) -> None:
        """aiokafka cannot."""

    def delete_topic(self, topic: str) -> None:
        self._loop.call(self._admin.delete_topics([topic]))
