"""A broker in memory behind the Kafka handlers: one node, everything answered at once but the
waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from robustmq import names
from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.groups.classic import GroupSettings
from robustmq.groups.group import Group
from robustmq.groups.producers import ProducerTable
from robustmq.groups.share_group import ShareGroup
from robustmq.groups.transactions import TransactionCoordinator
from robustmq.kafka import group_events as events
from robustmq.kafka.access import Access, Operation, Resource, Unguarded
from robustmq.kafka.context import RequestContext
from robustmq.kafka.fetch_sessions import FetchSessions
from robustmq.kafka.gateway import (
    DEFAULT_RULES,
    GROUP,
    SHARE_GROUP,
    TRANSACTION,
    AdminResult,
    AppendWait,
    Broker,
    DeletedRecords,
    EpochEnd,
    ListedOffset,
    LogSize,
    NewTopic,
    PartitionInfo,
    PartitionRead,
    ProduceResult,
    ProducerState,
    ProduceRules,
    ReadResult,
    TopicInfo,
)
from robustmq.kafka.markers import Marker, end_marker
from robustmq.kafka.share_gateway import ShareGateway
from robustmq.kafka.telemetry import Instances
from robustmq.kafka.transaction_events import (
    MarkersWritten,
    TransactionEvent,
    TransactionListing,
)
from robustmq.promises import Promise, resolved
from robustmq.shard.cluster_view import Declared

T = TypeVar("T")


class Log:
    """One partition: batches, and the producers of them."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, BatchInfo, bytes]] = []
        self.end = 0
        self.producers = ProducerTable()

    def append(self, batch: bytes, info: BatchInfo) -> ProduceResult:
        verdict = self.producers.check(info)
        if verdict.error:
            return ProduceResult(error=verdict.error)
        if verdict.repeated is not None:
            seen = verdict.repeated
            return ProduceResult(0, seen.base_offset, seen.timestamp_ms, 0)
        stored = bytearray(batch)
        batches.set_base(stored, 0, self.end, 0)
        self.producers.record(info, self.end, 1000)
        self.batches.append((self.end, info, bytes(stored)))
        base, self.end = self.end, self.end + info.count
        return ProduceResult(0, base, -1, 0)

    def read(self, offset: int, max_bytes: int) -> ReadResult:
        if not 0 <= offset <= self.end:
            return ReadResult(error=1)
        found: list[bytes | memoryview] = []
        size = 0
        for base, info, batch in self.batches:
            if base + info.count > offset and max_bytes > 0:
                if found and size + len(batch) > max_bytes:
                    break
                found.append(batch)
                size += len(batch)
        return ReadResult(0, self.end, self.end, 0, found)


class FakeGateway:
    """See robustmq.kafka.gateway.Gateway."""

    share: ShareGateway

    def __init__(self) -> None:
        self.share_groups: dict[str, ShareGroup] = {}
        self.cluster_id = "fake-cluster-id-000000"
        self.node_id = 0
        self.auto_create = True
        self.topic_defaults: dict[str, str] = {}
        self.default_partitions = 3
        self.listed_light_topics = 10
        self.access: Access = Unguarded()
        self.telemetry = Instances()
        self.fetch_sessions = FetchSessions(capacity=4, first_id=100)
        self.time_ms = 0
        self.counters: dict[str, int] = {}
        self.topics: dict[bytes, TopicInfo] = {}
        self.logs: dict[tuple[bytes, int], Log] = {}
        self.groups: dict[str, Group] = {}
        self.transactions: dict[str, TransactionCoordinator] = {}
        self.parked: dict[int, Promise[events.GroupReply]] = {}
        self.waits: list[tuple[int, Sequence[AppendWait], Promise[None]]] = []
        self.resources: dict[tuple[int, str], dict[str, str]] = {}
        self.ids = 0
        self.rules: dict[bytes, ProduceRules] = {}
        self.away: set[tuple[bytes, int]] = set()
        """Partitions whose records are in an object store, and not at hand."""
        self.denied: set[tuple[int, int, str]] = set()

    def defaults_of(self, topic: bytes) -> dict[str, str]:
        return self.topic_defaults

    def now_ms(self) -> int:
        return self.time_ms

    def timestamp_ms(self) -> int:
        return 1_000_000 + self.time_ms

    def unique_id(self) -> str:
        self.ids += 1
        return f"id{self.ids}"

    def count(self, counter: str, amount: int = 1) -> None:
        self.counters[counter] = self.counters.get(counter, 0) + amount

    def authorized(
        self, context: RequestContext, operation: Operation, resource: Resource, name: str
    ) -> bool:
        return (operation, resource, name) not in self.denied

    def nodes(self, listener: str = "") -> Sequence[Broker]:
        return [Broker(0, "127.0.0.1", 9092), Broker(1, "127.0.0.1", 9093)]

    def controller_id(self) -> int:
        return 0

    def coordinator(self, kind: str, key: str, listener: str = "") -> Broker | None:
        return None if key == "nobody" else self.nodes()[len(key) % 2]

    def add(
        self, name: bytes, partitions: int, declared: bool, configs: dict[str, str]
    ) -> TopicInfo:
        self.ids += 1
        leaders = tuple(PartitionInfo(0, 0) for _ in range(partitions))
        info = TopicInfo(name, UUID(int=self.ids), leaders, False, declared, configs)
        self.topics[name] = info
        for partition in range(partitions):
            self.logs.setdefault((name, partition), Log())
        return info

    def topic(self, name: bytes, create: bool) -> Promise[TopicInfo | None]:
        if name not in self.topics and create:
            self.add(name, 1, False, {})
        return resolved(self.topics.get(name))

    def topic_by_id(self, topic_id: UUID) -> Promise[TopicInfo | None]:
        for info in self.topics.values():
            if info.topic_id == topic_id:
                return resolved(info)
        return resolved(None)

    def key_of_id(self, topic_id: UUID) -> Promise[bytes | None]:
        info = self.topic_by_id(topic_id).result()
        return resolved(None if info is None else info.name)

    def list_topics(self, light_limit: int) -> Promise[list[TopicInfo]]:
        declared = [info for info in self.topics.values() if info.declared]
        light = [info for info in self.topics.values() if not info.declared]
        return resolved(declared + light[:light_limit])

    def alike(self, name: str) -> str | None:
        shown = [names.to_kafka(info.name) or "" for info in self.topics.values() if info.declared]
        folded = name.replace(".", "_")
        return next((o for o in shown if o != name and o.replace(".", "_") == folded), None)

    def produce_rules(self, topic: bytes) -> ProduceRules:
        return self.rules.get(topic, DEFAULT_RULES)

    def off_loop(self, work: Callable[[], T]) -> Promise[T]:
        return resolved(work())

    def breathe(self) -> Promise[None]:
        return resolved(None)

    def produce(
        self,
        topic: bytes,
        partition: int,
        batch: bytearray,
        acks: int,
        timeout_ms: int,
        info: BatchInfo,
        transactional_id: str | None = None,
        transactions: int = 0,
    ) -> Promise[ProduceResult]:
        log = self.logs.get((topic, partition))
        if log is None:
            return resolved(ProduceResult(error=3))
        result = log.append(bytes(batch), info)
        self.wake()
        return resolved(result)

    def read(
        self,
        topic: bytes,
        partition: int,
        offset: int,
        max_bytes: int,
        isolation: int,
        leader_epoch: int,
    ) -> ReadResult:
        log = self.logs.get((topic, partition))
        if log is None:
            return ReadResult(error=3)
        if leader_epoch > 0:
            return ReadResult(error=75)
        return log.read(offset, max_bytes)

    def read_all(
        self, reads: Sequence[PartitionRead], max_bytes: int, isolation: int
    ) -> Promise[list[ReadResult]]:
        found: list[ReadResult] = []
        for row in reads:
            room = max(min(row.max_bytes, max_bytes), 0)
            result = self.read(
                row.topic, row.partition, row.offset, room, isolation, row.leader_epoch
            )
            if (row.topic, row.partition) in self.away:
                result = msgspec.structs.replace(result, buffers=[], pending=True)
            size = sum(map(len, result.buffers))
            if any(one.buffers for one in found) and size > max_bytes:
                result = msgspec.structs.replace(result, buffers=[])
            found.append(result)
            max_bytes -= sum(map(len, result.buffers))
        return resolved(found)

    def wait_for_append(self, waits: Sequence[AppendWait], timeout_ms: int) -> Promise[None]:
        promise: Promise[None] = Promise()
        self.waits.append((self.time_ms + timeout_ms, waits, promise))
        self.wake()
        return promise

    def wake(self) -> None:
        """Settle the waits whose time or records have come."""
        left = []
        for deadline, waits, promise in self.waits:
            grown = any(
                (wait.topic, wait.partition) not in self.away
                if wait.offset >= 0
                else self.logs[(wait.topic, wait.partition)].end > wait.high_watermark
                for wait in waits
            )
            if grown or deadline <= self.time_ms:
                promise.resolve(None)
            else:
                left.append((deadline, waits, promise))
        self.waits = left

    def bring(self, topic: bytes, partition: int) -> None:
        """The records of a partition are at hand."""
        self.away.discard((topic, partition))
        self.wake()

    def pass_time(self, milliseconds: int) -> None:
        self.time_ms += milliseconds
        self.wake()

    def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, isolation: int, leader_epoch: int
    ) -> Promise[ListedOffset]:
        log = self.logs.get((topic, partition))
        if log is None:
            return resolved(ListedOffset(error=3))
        offset = {-1: log.end, -2: 0, -4: 0}.get(timestamp_ms, -1)
        return resolved(ListedOffset(0, offset, -1, 0))

    def producers(self, topic: bytes, partition: int) -> Promise[tuple[int, list[ProducerState]]]:
        log = self.logs.get((topic, partition))
        if log is None:
            return resolved((3, []))
        rows = [
            ProducerState(number, one.epoch, -1, one.seen_ms, one.coordinator_epoch, -1)
            for number, one in log.producers.producers(1000)
        ]
        return resolved((0, rows))

    def write_marker(
        self,
        topic: bytes,
        partition: int,
        producer_id: int,
        producer_epoch: int,
        coordinator_epoch: int,
        commit: bool,
        transaction_version: int = 0,
    ) -> Promise[int]:
        log = self.logs.get((topic, partition))
        if log is None:
            return resolved(3)
        marker = Marker(producer_id, producer_epoch, coordinator_epoch, commit)
        batch = end_marker(marker, 1000)
        log.append(batch, batches.validate(batch, 0, len(batch)))
        return resolved(0)

    def transaction_partition(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        topic: bytes,
        partition: int,
        add: bool,
    ) -> Promise[int]:
        return resolved(15)

    def epoch_end(
        self, topic: bytes, partition: int, leader_epoch: int, current_leader_epoch: int
    ) -> Promise[EpochEnd]:
        log = self.logs.get((topic, partition))
        if log is None:
            return resolved(EpochEnd(error=3))
        return resolved(EpochEnd(0, 0, log.end))

    def declared(self, name: bytes) -> Declared | None:
        info = self.topics.get(name)
        if info is None or not info.declared:
            return None
        return Declared(name, info.topic_id, len(info.partitions))

    def group_times_ms(self, group_id: str) -> tuple[int, int] | None:
        own = self.resources.get((32, group_id))
        return None if own is None else (45_000, int(own["consumer.heartbeat.interval.ms"]))

    def is_share_group(self, group_id: str) -> bool:
        found = self.share_groups.get(group_id)
        return found is not None and not found.disposable

    def group(self, group_id: str, event: events.GroupEvent) -> Promise[events.GroupReply]:
        settings = GroupSettings(initial_rebalance_delay_ms=0)
        group = self.groups.setdefault(group_id, Group(group_id, self, settings))
        self.ids += 1
        token = self.ids
        promise: Promise[events.GroupReply] = Promise()
        self.parked[token] = promise
        for answered, reply in group.handle(event, self.time_ms, token).replies:
            self.parked.pop(answered).resolve(reply)
        return promise

    def machine(self, kind: bytes, key: str, event: Any) -> Promise[Any]:
        if kind == TRANSACTION:
            return self.transaction(key, event)
        if kind == SHARE_GROUP:
            group = self.share_groups.setdefault(key, ShareGroup(key))
            return resolved(group.handle(event, self.time_ms, 1).replies[0][1])
        assert kind == GROUP, "there are groups of both kinds and transactions alone"
        return self.group(key, event)

    def transaction(self, key: str, event: TransactionEvent) -> Promise[Any]:
        """Markers are written at once."""
        coordinator = self.transactions.setdefault(key, TransactionCoordinator(key))
        effects = coordinator.handle(event, self.time_ms, 1)
        for command in effects.commands:
            ended = MarkersWritten(command.producer_id, command.producer_epoch, 0)
            coordinator.handle(ended, self.time_ms)
            for group_id in command.groups:
                self.group(
                    group_id,
                    events.EndOffsets(command.producer_id, command.producer_epoch, command.commit),
                )
        return resolved(effects.replies[0][1])

    def list_transactions(self) -> Promise[list[TransactionListing]]:
        return resolved([one.listing() for one in self.transactions.values() if not one.disposable])

    def offsets_partition(self, group_id: str) -> int:
        return 7

    def list_groups(self) -> Promise[list[events.GroupListing]]:
        return resolved([group.listing() for group in self.groups.values() if not group.disposable])

    def create_topic(
        self, topic: NewTopic, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        if topic.name in self.topics:
            return resolved(AdminResult(error=36))
        info = self.add(topic.name, topic.partitions, True, topic.configs)
        if validate_only:
            del self.topics[topic.name]
        return resolved(AdminResult(topic=info))

    def delete_topic(self, name: bytes, timeout_ms: int) -> Promise[AdminResult]:
        return resolved(AdminResult(topic=self.topics.pop(name)))

    def create_partitions(
        self, name: bytes, count: int, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        info = self.topics[name]
        if not validate_only:
            self.topics[name] = msgspec.structs.replace(
                info, partitions=tuple(PartitionInfo(0, 0) for _ in range(count))
            )
        return resolved(AdminResult(topic=self.topics[name]))

    def alter_topic_configs(
        self, name: bytes, changes: dict[str, str | None], validate_only: bool
    ) -> Promise[AdminResult]:
        configs = {**self.topics[name].configs, **changes}
        kept = {key: value for key, value in configs.items() if value is not None}
        if not validate_only:
            self.topics[name] = msgspec.structs.replace(self.topics[name], configs=kept)
        return resolved(AdminResult(topic=self.topics[name]))

    def delete_records(self, topic: bytes, partition: int, offset: int) -> Promise[DeletedRecords]:
        log = self.logs.get((topic, partition))
        if log is None:
            return resolved(DeletedRecords(3))
        offset = log.end if offset == -1 else offset
        return resolved(DeletedRecords(0, offset) if 0 <= offset <= log.end else DeletedRecords(1))

    def log_sizes(self) -> Promise[list[LogSize]]:
        declared = [name for name, info in self.topics.items() if info.declared]
        return resolved([LogSize(name, 0, 100) for name in declared])

    def metadata_version(self) -> int:
        return 7

    def disk_space(self) -> tuple[str, int, int]:
        return "/data", 1000, 400

    def resource_configs(self, resource_type: int, name: str) -> dict[str, str]:
        return self.resources.get((resource_type, name), {})

    def resource_names(self, resource_type: int) -> list[str]:
        return sorted(name for kind, name in self.resources if kind == resource_type)

    def alter_resource_configs(
        self, resource_type: int, name: str, changes: dict[str, str | None], validate_only: bool
    ) -> Promise[AdminResult]:
        configs = {**self.resource_configs(resource_type, name), **changes}
        if not validate_only:
            self.resources[resource_type, name] = {
                key: value for key, value in configs.items() if value is not None
            }
        return resolved(AdminResult())

    def broker_configs(self) -> dict[str, str]:
        return {"auto.create.topics.enable": "true"}

    def allocate_producer_id(self) -> Promise[tuple[int, int]]:
        self.ids += 1
        return resolved((self.ids, 0))
