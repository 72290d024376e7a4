"""A member of a share group as raw requests, for tests against real brokers."""

from __future__ import annotations

import time
import uuid
from typing import Any

from robustmq.core import batches
from robustmq.records import Record
from tests.kafka.wire import SocketClient, new_topic

PRODUCE, METADATA, CREATE, DELETE_TOPICS, DELETE_GROUPS, ALTER_CONFIGS = 0, 3, 19, 20, 42, 44
BEAT, DESCRIBE, SHARE_FETCH, SHARE_ACK = 76, 77, 78, 79
DESCRIBE_OFFSETS, ALTER_OFFSETS, DELETE_OFFSETS = 90, 91, 92
GAP, ACCEPT, RELEASE, REJECT, RENEW = range(5)
TOPIC_RESOURCE, GROUP_RESOURCE = 2, 32


def make_topic(client: SocketClient, partitions: int = 1, **configs: str) -> tuple[str, uuid.UUID]:
    """A new topic: its name and id."""
    name = uuid.uuid4().hex
    pairs = [{"name": key.replace("_", "."), "value": value} for key, value in configs.items()]
    wanted = new_topic(name, partitions, configs=pairs)
    made = client.ask(CREATE, 7, topics=[wanted], timeout_ms=5000, validate_only=False)
    assert made.topics[0].error_code == 0, made.topics[0].error_message
    return name, made.topics[0].topic_id


def configure(client: SocketClient, kind: int, name: str, **settings: str) -> int:
    """Set settings; the error code. `_` stands for `.` in names."""
    configs = [
        {"name": key.replace("_", "."), "config_operation": 0, "value": value}
        for key, value in settings.items()
    ]
    resource = {"resource_type": kind, "resource_name": name, "configs": configs}
    answer = client.ask(ALTER_CONFIGS, 1, resources=[resource], validate_only=False)
    return int(answer.responses[0].error_code)


def produce(client: SocketClient, topic: str, *values: bytes, partition: int = 0) -> int:
    """Append one batch; its first offset."""
    now_ms = int(time.time() * 1000)
    records = batches.build([Record(None, value) for value in values], now_ms)
    data = [{"index": partition, "records": records}]
    answer = client.ask(
        PRODUCE,
        9,
        acks=-1,
        timeout_ms=5000,
        topic_data=[{"name": topic, "partition_data": data}],
    )
    part = answer.responses[0].partition_responses[0]
    assert part.error_code == 0
    return int(part.base_offset)


class Member:
    """A share session of one member on one connection, of one topic."""

    def __init__(
        self, client: SocketClient, group: str, topic_id: uuid.UUID, name: str = ""
    ) -> None:
        self.client = client
        self.group = group
        self.topic_id = topic_id
        self.name = name or uuid.uuid4().hex
        self.epoch = 0

    def _batches(self, acknowledge: list[tuple[int, int, list[int]]]) -> list[dict[str, Any]]:
        return [
            {"first_offset": first, "last_offset": last, "acknowledge_types": types}
            for first, last, types in acknowledge
        ]

    def fetch(
        self,
        acknowledge: list[tuple[int, int, list[int]]] | None = None,
        *,
        partition: int = 0,
        wait_ms: int = 0,
        most: int = 100,
        epoch: int | None = None,
        version: int = 2,
        **changes: Any,
    ) -> Any:
        """The answer of one ShareFetch."""
        self.send_fetch(acknowledge, partition, wait_ms, most, epoch, version, **changes)
        return self.client.read(SHARE_FETCH, version)

    def send_fetch(
        self,
        acknowledge: list[tuple[int, int, list[int]]] | None = None,
        partition: int = 0,
        wait_ms: int = 0,
        most: int = 100,
        epoch: int | None = None,
        version: int = 2,
        **changes: Any,
    ) -> None:
        """Send one ShareFetch; the epoch counts on."""
        sent = self.epoch if epoch is None else epoch
        part = {
            "partition_index": partition,
            "acknowledgement_batches": self._batches(acknowledge or []),
        }
        values = {
            "group_id": self.group,
            "member_id": self.name,
            "share_session_epoch": sent,
            "max_wait_ms": wait_ms,
            "min_bytes": 1,
            "max_bytes": 1 << 20,
            "max_records": most,
            "batch_size": most,
            "share_acquire_mode": 1,
            "topics": [{"topic_id": self.topic_id, "partitions": [part]}],
            "forgotten_topics_data": [],
            **changes,
        }
        self.client.send(SHARE_FETCH, version, **values)
        if epoch is None:
            self.epoch += 1

    def take(self, **changes: Any) -> list[tuple[int, int, int]]:
        """(first, last, delivery count) of what one fetch gives."""
        answer = self.fetch(**changes)
        assert answer.error_code == 0, answer.error_code
        return [
            (run.first_offset, run.last_offset, run.delivery_count)
            for topic in answer.responses
            for part in topic.partitions
            for run in part.acquired_records
        ]

    def acknowledge(
        self, first: int, last: int, *types: int, epoch: int | None = None, **changes: Any
    ) -> int:
        """The error code of a partition in one ShareAcknowledge, or that of all of it."""
        part = {
            "partition_index": 0,
            "acknowledgement_batches": self._batches([(first, last, list(types))]),
        }
        values = {
            "group_id": self.group,
            "member_id": self.name,
            "share_session_epoch": self.epoch if epoch is None else epoch,
            "is_renew_ack": RENEW in types,
            "topics": [{"topic_id": self.topic_id, "partitions": [part]}],
            **changes,
        }
        answer = self.client.ask(SHARE_ACK, 2, **values)
        if epoch is None:
            self.epoch += 1
        return int(answer.error_code or answer.responses[0].partitions[0].error_code)


def offsets_of(client: SocketClient, group: str, topic: str) -> tuple[int, int]:
    """Start offset and lag of a group on partition 0."""
    wanted = [{"topic_name": topic, "partitions": [0]}]
    answer = client.ask(DESCRIBE_OFFSETS, 1, groups=[{"group_id": group, "topics": wanted}])
    assert answer.groups[0].error_code == 0
    part = answer.groups[0].topics[0].partitions[0]
    assert part.error_code == 0
    return int(part.start_offset), int(part.lag)


def join(client: SocketClient, group: str, topic: str, member: str = "m", **changes: Any) -> Any:
    """The answer to one ShareGroupHeartbeat."""
    values = {
        "group_id": group,
        "member_id": member,
        "member_epoch": 0,
        "rack_id": None,
        "subscribed_topic_names": [topic],
        **changes,
    }
    return client.ask(BEAT, 1, **values)
