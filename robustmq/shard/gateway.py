"""The logs as Kafka sees them: the one implementation of `kafka.gateway.Gateway`.

What is held here is answered at once; what another worker holds is asked of it over the bus, by the
same methods at its end (`serve`). A light topic is one partition in its shard's log; a declared
topic has partitions of its own. Kafka readers see what is committed, in whole stored batches.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from robustmq import names
from robustmq.config import Settings
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import RequestContext
from robustmq.kafka.fetch_sessions import FetchSessions
from robustmq.kafka.gateway import (
    GROUP,
    AdminResult,
    AppendWait,
    Broker,
    EpochEnd,
    ListedOffset,
    NewTopic,
    PartitionInfo,
    ProduceResult,
    ReadResult,
    TopicInfo,
)
from robustmq.kafka.group_events import (
    GroupEvent,
    GroupListing,
    GroupReply,
    decode_listings,
    encode_listings,
)
from robustmq.promises import Promise, resolved, start
from robustmq.shard import wire
from robustmq.shard.cluster_view import ClusterView, Outcome
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.placement import Placement
from robustmq.shard.rpc import Rpc
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.waits import AppendWaits

PRODUCER_ID_BLOCK = 1000
MAX_LIGHT_IDS = 65536


class KafkaGateway:
    """What the Kafka handlers of one worker ask."""

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        cluster: ClusterView,
        logs: LocalLogs,
        machines: MachineRuntime,
        waits: AppendWaits,
        rpc: Rpc,
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        unique: Callable[[], uuid.UUID],
        count: Callable[[str, int], None],
        first_session_id: int,
        turn: Callable[[], None],
    ) -> None:
        """`unique` gives random UUIDs: randomness is passed in, so that the simulation repeats."""
        self.cluster_id = cluster.cluster_id
        self.node_id = placement.worker_id
        self.auto_create = settings.kafka.auto_create
        self.default_partitions = settings.kafka.default_partitions
        self.listed_light_topics = settings.kafka.listed_light_topics
        self.topic_defaults = {
            "max.message.bytes": str(settings.limits.max_message_bytes),
            "segment.bytes": str(settings.storage.segment_bytes),
            "robustmq.storage.mode": settings.storage.default_mode,
        }
        self.fetch_sessions = FetchSessions(settings.limits.max_fetch_sessions, first_session_id)
        self._settings = settings
        self._placement = placement
        self._cluster = cluster
        self._logs = logs
        self._machines = machines
        self._waits = waits
        self._rpc = rpc
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms
        self._unique = unique
        self._count = count
        self._turn = turn
        self._producer_ids: list[int] = []
        self._light_ids: OrderedDict[uuid.UUID, bytes] = OrderedDict()

    def now_ms(self) -> int:
        """Monotonic milliseconds."""
        return self._monotonic_ms()

    def timestamp_ms(self) -> int:
        """Wall clock milliseconds."""
        return self._wall_ms()

    def unique_id(self) -> str:
        """An unguessable id in UUID form."""
        return str(self._unique())

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a counter of this worker."""
        self._count(counter, amount)

    def authorized(
        self, context: RequestContext, operation: Operation, resource: Resource, name: str
    ) -> bool:
        """There are no access rules yet: whoever is let in may do everything."""
        return True

    # -- who is there ------------------------------------------------------------------------------

    def nodes(self) -> Sequence[Broker]:
        """The workers that clients may connect to."""
        return self._cluster.brokers()

    def controller_id(self) -> int:
        """The first broker that is up."""
        brokers = self._cluster.brokers()
        return brokers[0].node_id if brokers else self.node_id

    def coordinator(self, kind: str, key: str) -> Broker | None:
        """Who coordinates a group."""
        if kind != "group":
            return None
        return self._broker_of(self._machine_owner(GROUP, key))

    def _broker_of(self, worker: int) -> Broker | None:
        brokers = self._cluster.brokers()
        if len(brokers) == 1 and self._settings.kafka.single_port:
            return brokers[0]
        return next((broker for broker in brokers if broker.node_id == worker), None)

    def _leader(self, topic: bytes, partition: int) -> PartitionInfo:
        shard = self._placement.shard(topic, partition)
        broker = self._broker_of(self._placement.shard_owner(shard))
        if broker is None:
            return PartitionInfo(-1, -1)
        return PartitionInfo(broker.node_id, self._cluster.shard_epoch(shard))

    # -- topics ------------------------------------------------------------------------------------

    def topic(self, name: bytes, create: bool) -> Promise[TopicInfo | None]:
        """A declared topic at once; a light one from its owner."""
        declared = self._cluster.declared(name)
        if declared is not None:
            return resolved(self._declared_info(name))
        return start(self._light_topic(name, create))

    async def _light_topic(self, name: bytes, create: bool) -> TopicInfo | None:
        action = "create" if create else "look"
        worker = self._placement.worker(name, 0)
        if not await self._rpc.call(worker, wire.LightTopicCall(name, action)):
            return None
        return self._light_info(name)

    def _light_info(self, name: bytes) -> TopicInfo:
        return TopicInfo(name, names.topic_id(name, 0), (self._leader(name, 0),))

    def _declared_info(self, name: bytes) -> TopicInfo:
        topic = self._cluster.declared(name)
        assert topic is not None, "the caller has seen it"
        leaders = tuple(self._leader(name, number) for number in range(topic.partitions))
        return TopicInfo(name, topic.topic_id, leaders, False, True, dict(topic.configs))

    def topic_by_id(self, topic_id: uuid.UUID) -> Promise[TopicInfo | None]:
        """A topic by the id that Metadata gave out."""
        name = self._cluster.declared_by_id(topic_id)
        if name is not None:
            return resolved(self._declared_info(name))
        return start(self._light_by_id(topic_id))

    def key_of_id(self, topic_id: uuid.UUID) -> Promise[bytes | None]:
        """The key of a topic; what was found once is not asked for again."""
        name = self._cluster.declared_by_id(topic_id) or self._light_ids.get(topic_id)
        if name is not None:
            return resolved(name)
        return start(self._key_by_id(topic_id))

    async def _key_by_id(self, topic_id: uuid.UUID) -> bytes | None:
        info = await self._light_by_id(topic_id)
        if info is None:
            return None
        self._light_ids[topic_id] = info.name
        if len(self._light_ids) > MAX_LIGHT_IDS:
            self._light_ids.popitem(last=False)
        return info.name

    async def _light_by_id(self, topic_id: uuid.UUID) -> TopicInfo | None:
        for worker in range(self._cluster.worker_count):
            name = await self._rpc.call(worker, wire.LightTopicById(topic_id.bytes))
            if name is not None:
                return self._light_info(name)
        return None

    def list_topics(self, light_limit: int) -> Promise[list[TopicInfo]]:
        """All declared topics and some light ones."""
        return start(self._list_topics(light_limit))

    async def _list_topics(self, light_limit: int) -> list[TopicInfo]:
        found = [self._declared_info(name) for name in self._cluster.declared_names()]
        left = light_limit
        for worker in range(self._cluster.worker_count):
            if left <= 0:
                break
            try:
                listed = await self._rpc.call(worker, wire.LightTopicsList(left))
            except BrokerError:
                continue
            found.extend(self._light_info(name) for name in listed)
            left -= len(listed)
        return found

    # -- records -----------------------------------------------------------------------------------

    def produce(
        self,
        topic: bytes,
        partition: int,
        batch: bytes | memoryview,
        acks: int,
        timeout_ms: int,
        info: BatchInfo,
    ) -> Promise[ProduceResult]:
        """Append a validated batch at its owner."""
        worker = self._placement.worker(topic, partition)
        self._turn()
        if worker == self.node_id:
            return self._logs.produce(topic, partition, batch, acks, info)
        call = wire.ProduceCall(topic, partition, bytes(batch), acks)
        return start(self._converted(self._rpc.call(worker, call), ProduceResult))

    def read(
        self,
        topic: bytes,
        partition: int,
        offset: int,
        max_bytes: int,
        isolation: int,
        leader_epoch: int,
    ) -> ReadResult | Promise[ReadResult]:
        """Whole stored batches from an offset on."""
        worker = self._placement.worker(topic, partition)
        if worker == self.node_id:
            return self._logs.read(topic, partition, offset, max_bytes, leader_epoch)
        call = wire.ReadCall(topic, partition, offset, max_bytes, isolation, leader_epoch)
        return start(self._remote_read(self._rpc.call(worker, call)))

    async def _remote_read(self, promise: Promise[Any]) -> ReadResult:
        error, high_watermark, start_offset, buffers = await promise
        if error:
            return ReadResult(error)
        return ReadResult(0, high_watermark, high_watermark, start_offset, buffers)

    async def _converted(self, promise: Promise[Any], kind: type[Any]) -> Any:
        return msgspec.convert(await promise, kind)

    def wait_for_append(self, waits: Sequence[AppendWait], timeout_ms: int) -> Promise[None]:
        """Wake when a partition has grown beyond what the reader saw, or after the time."""
        by_worker: dict[int, list[tuple[bytes, int, int]]] = {}
        for wait in waits:
            worker = self._placement.worker(wait.topic, wait.partition)
            row = (wait.topic, wait.partition, wait.high_watermark)
            by_worker.setdefault(worker, []).append(row)
        local = by_worker.pop(self.node_id, [])
        if not by_worker:
            return self._waits.wait(local, timeout_ms)
        woken: Promise[None] = Promise()
        if local:
            own = self._waits.wait(local, timeout_ms)
            own.when_settled(lambda: woken.resolve(None))
        for worker, rows in by_worker.items():
            answer = self._rpc.call(worker, wire.AppendWait(rows, timeout_ms))
            answer.when_settled(lambda: woken.resolve(None))
        return woken

    def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, isolation: int, leader_epoch: int
    ) -> Promise[ListedOffset]:
        """ListOffsets for one partition, at its owner."""
        worker = self._placement.worker(topic, partition)
        if worker == self.node_id:
            return resolved(self._logs.list_offset(topic, partition, timestamp_ms, leader_epoch))
        call = wire.OffsetCall(topic, partition, timestamp_ms, leader_epoch)
        return start(self._converted(self._rpc.call(worker, call), ListedOffset))

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
        """End a producer's transaction on one partition, at its owner."""
        call = wire.MarkerCall(
            topic,
            partition,
            producer_id,
            producer_epoch,
            coordinator_epoch,
            commit,
            transaction_version,
        )
        self._turn()
        return self._rpc.call(self._placement.worker(topic, partition), call)

    def transaction_partition(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        topic: bytes,
        partition: int,
        add: bool,
    ) -> Promise[int]:
        """Ask the coordinator of a transactional id about a partition: there is none yet."""
        return resolved(KafkaCode.COORDINATOR_NOT_AVAILABLE)

    def epoch_end(
        self, topic: bytes, partition: int, leader_epoch: int, current_leader_epoch: int
    ) -> Promise[EpochEnd]:
        """The end of an epoch: with one member the log never diverges, so it is the end of
        the log."""
        return start(self._epoch_end(topic, partition, leader_epoch, current_leader_epoch))

    async def _epoch_end(
        self, topic: bytes, partition: int, leader_epoch: int, current: int
    ) -> EpochEnd:
        listed = await self.list_offset(topic, partition, -1, 0, current)
        if listed.error:
            return EpochEnd(listed.error)
        return EpochEnd(0, min(leader_epoch, listed.leader_epoch), listed.offset)

    # -- groups ------------------------------------------------------------------------------------

    def group(self, group_id: str, event: GroupEvent) -> Promise[GroupReply]:
        """Run an event on the group's machine at its owner."""
        return self.machine(GROUP, group_id, event)

    def machine(self, kind: bytes, key: str, event: Any) -> Promise[Any]:
        """Run an event on a machine at its owner."""
        worker = self._machine_owner(kind, key)
        self._turn()
        if worker == self.node_id:
            return self._machines.handle(kind, key, event)
        return start(self._remote_machine(worker, kind, key, event))

    async def _remote_machine(self, worker: int, kind: bytes, key: str, event: Any) -> Any:
        call = wire.MachineCall(kind, key, self._machines.encode_event(kind, event))
        return self._machines.decode_reply(kind, await self._rpc.call(worker, call))

    def _machine_owner(self, kind: bytes, key: str) -> int:
        return self._placement.shard_owner(self._placement.machine_shard(kind, key))

    def list_groups(self) -> Promise[list[GroupListing]]:
        """The groups coordinated here: clients ask every broker. Where one address is all that
        they know, those of every worker."""
        if self._settings.kafka.single_port:
            return start(self._list_groups())
        return resolved(self._listings())

    def _listings(self) -> list[GroupListing]:
        groups = self._machines.machines(GROUP).values()
        return [group.listing() for group in groups if not group.disposable]  # type: ignore[attr-defined]

    async def _list_groups(self) -> list[GroupListing]:
        found: list[GroupListing] = []
        for worker in range(self._cluster.worker_count):
            if worker == self.node_id:
                found.extend(self._listings())
            else:
                found.extend(decode_listings(await self._rpc.call(worker, wire.GroupsListCall())))
        return found

    # -- the cluster's state -----------------------------------------------------------------------

    def create_topic(
        self, topic: NewTopic, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        """Make a declared topic."""
        return start(self._create_topic(topic, validate_only))

    async def _create_topic(self, topic: NewTopic, validate_only: bool) -> AdminResult:
        if await self.topic(topic.name, False) is not None:
            return AdminResult(KafkaCode.TOPIC_ALREADY_EXISTS, "the topic exists already")
        topic_id = self._unique()
        if validate_only:
            leaders = (PartitionInfo(self.node_id, 0),) * topic.partitions
            shown = TopicInfo(topic.name, topic_id, leaders, False, True, topic.configs)
            return AdminResult(0, None, shown)
        made = self._cluster.create_topic(topic.name, topic.partitions, topic.configs, topic_id)
        return await self._outcome(made, topic.name)

    async def _outcome(self, promise: Promise[Outcome], name: bytes) -> AdminResult:
        result = await promise
        if result.error:
            return AdminResult(result.error, result.message)
        shown = self._declared_info(name) if self._cluster.declared(name) is not None else None
        return AdminResult(0, None, shown)

    def delete_topic(self, name: bytes, timeout_ms: int) -> Promise[AdminResult]:
        """Delete a topic with its records."""
        return start(self._delete_topic(name))

    async def _delete_topic(self, name: bytes) -> AdminResult:
        if self._cluster.declared(name) is not None:
            return await self._outcome(self._cluster.delete_topic(name), name)
        worker = self._placement.worker(name, 0)
        if await self._rpc.call(worker, wire.LightTopicCall(name, "delete")):
            for other in range(self._cluster.worker_count):
                self._rpc.notify(other, wire.TopicDropped(name))
            return AdminResult()
        return AdminResult(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)

    def create_partitions(
        self, name: bytes, count: int, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        """Raise the number of partitions of a declared topic."""
        return start(self._create_partitions(name, count, validate_only))

    async def _create_partitions(self, name: bytes, count: int, validate_only: bool) -> AdminResult:
        topic = self._cluster.declared(name)
        if topic is None:
            if await self.topic(name, False) is None:
                return AdminResult(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
            return AdminResult(
                KafkaCode.INVALID_PARTITIONS, "a light topic has one partition; declare it"
            )
        if count <= topic.partitions:
            return AdminResult(
                KafkaCode.INVALID_PARTITIONS, f"the topic has {topic.partitions} partitions"
            )
        if validate_only:
            return AdminResult(0, None, self._declared_info(name))
        return await self._outcome(self._cluster.create_partitions(name, count), name)

    def alter_topic_configs(
        self, name: bytes, changes: dict[str, str | None], validate_only: bool
    ) -> Promise[AdminResult]:
        """Change settings of a declared topic."""
        return start(self._alter(name, changes, validate_only))

    async def _alter(
        self, name: bytes, changes: dict[str, str | None], validate_only: bool
    ) -> AdminResult:
        if self._cluster.declared(name) is None:
            return AdminResult(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
        if validate_only:
            return AdminResult(0, None, self._declared_info(name))
        return await self._outcome(self._cluster.alter_topic(name, changes), name)

    def resource_configs(self, resource_type: int, name: str) -> dict[str, str]:
        """Settings of what is no topic."""
        return self._cluster.resource(resource_type, name)

    def resource_names(self, resource_type: int) -> list[str]:
        """The resources of a type that have settings."""
        return self._cluster.resource_names(resource_type)

    def alter_resource_configs(
        self, resource_type: int, name: str, changes: dict[str, str | None], validate_only: bool
    ) -> Promise[AdminResult]:
        """Change settings of what is no topic."""
        if validate_only or not changes:
            return resolved(AdminResult())
        return start(self._alter_resource(resource_type, name, changes))

    async def _alter_resource(
        self, resource_type: int, name: str, changes: dict[str, str | None]
    ) -> AdminResult:
        result = await self._cluster.alter_resource(resource_type, name, changes)
        return AdminResult(result.error, result.message)

    def broker_configs(self) -> dict[str, str]:
        """Effective settings under Kafka's names."""
        limits, kafka = self._settings.limits, self._settings.kafka
        return {
            "broker.id": str(self.node_id),
            "num.partitions": str(kafka.default_partitions),
            "auto.create.topics.enable": "true" if kafka.auto_create else "false",
            "message.max.bytes": str(limits.max_message_bytes),
            "socket.request.max.bytes": str(limits.max_request_bytes),
            "log.segment.bytes": str(self._settings.storage.segment_bytes),
        }

    def allocate_producer_id(self) -> Promise[tuple[int, int]]:
        """From this worker's block; a new block comes from the cluster's state."""
        return start(self._allocate())

    async def _allocate(self) -> tuple[int, int]:
        if not self._producer_ids:
            result = await self._cluster.allocate_producer_ids(PRODUCER_ID_BLOCK)
            if result.error:
                raise BrokerError(Fault.SERVER_UNAVAILABLE, result.message or "no producer ids")
            first = result.value
            self._producer_ids = list(range(first + PRODUCER_ID_BLOCK - 1, first - 1, -1))
        return self._producer_ids.pop(), 0

    # -- the other end of what is asked over the bus -----------------------------------------------

    def serve(self, message: wire.Message) -> Promise[Any]:
        """Answer another worker about what is held here."""
        match message:
            case wire.ProduceCall():
                return self._logs.produce_remote(message)
            case wire.ReadCall():
                result = self._logs.read(
                    message.topic,
                    message.partition,
                    message.offset,
                    message.max_bytes,
                    message.leader_epoch,
                )
                buffers = [bytes(buffer) for buffer in result.buffers]
                return resolved(
                    (result.error, result.high_watermark, result.log_start_offset, buffers)
                )
            case wire.AppendWait():
                return self._waits.wait(message.partitions, message.timeout_ms)
            case wire.OffsetCall():
                listed = self._logs.list_offset(
                    message.topic, message.partition, message.timestamp_ms, message.leader_epoch
                )
                return resolved(msgspec.to_builtins(listed))
            case wire.MarkerCall():
                return self._logs.write_marker(message)
            case wire.MachineCall():
                return self._machines.serve(message.kind, message.key, message.event)
            case wire.GroupsListCall():
                return resolved(encode_listings(self._listings()))
            case wire.LightTopicCall():
                return self._logs.light_topic(message.topic, message.action)
            case wire.LightTopicById():
                return resolved(self._logs.light_by_id(uuid.UUID(bytes=message.topic_id)))
            case wire.LightTopicsList():
                return resolved(self._logs.list_light(message.limit))
        raise BrokerError(Fault.IMPLEMENTATION_SPECIFIC, f"no answer to {type(message).__name__}")
