"""Who is there and which topics there are, as Kafka's clients see it: one part of the gateway.

Declared topics are in the cluster state that every worker holds; light ones are asked for at the
worker that owns their name. Changes go to the cluster's state and settle when all workers know
them.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence

from robustmq import names
from robustmq.config import Settings
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka.gateway import AdminResult, Broker, NewTopic, PartitionInfo, TopicInfo
from robustmq.promises import Promise, resolved, start
from robustmq.shard import wire
from robustmq.shard.cluster_view import ClusterView, Outcome
from robustmq.shard.placement import Placement
from robustmq.shard.rpc import Rpc

SLICE = 2_000
"""Partitions that are told of between two breaths of the event loop."""
MAX_LIGHT_IDS = 65536
MAX_SEEN = 10_000
"""Light topics of which it is remembered that they are there, for when their owner is away."""


class Directory:
    """The brokers and the topics of the cluster."""

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        cluster: ClusterView,
        rpc: Rpc,
        unique: Callable[[], uuid.UUID],
        breathe: Callable[[], Promise[None]],
    ) -> None:
        """`unique` gives random UUIDs: randomness is passed in, so that the simulation repeats."""
        self.node_id = placement.worker_id
        self._settings = settings
        self._placement = placement
        self._cluster = cluster
        self._rpc = rpc
        self._unique = unique
        self.breathe = breathe
        """Settles in another turn of the event loop."""
        self._light_ids: OrderedDict[uuid.UUID, bytes] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    # -- who is there ------------------------------------------------------------------------------

    def nodes(self, listener: str = "") -> Sequence[Broker]:
        """The workers that clients of a listener may connect to."""
        return self._cluster.brokers(listener)

    def controller_id(self) -> int:
        """The first broker that is up."""
        brokers = self._cluster.brokers()
        return brokers[0].node_id if brokers else self.node_id

    def _broker_of(self, worker: int, listener: str = "") -> Broker | None:
        brokers = self._cluster.brokers(listener)
        if len(brokers) == 1 and self._settings.kafka.single_port:
            return brokers[0]
        return next((broker for broker in brokers if broker.node_id == worker), None)

    def _leader_of(self, shard: int) -> PartitionInfo:
        return self._led(shard, self._broker_of(self._placement.shard_owner(shard)))

    def _led(self, shard: int, broker: Broker | None) -> PartitionInfo:
        if broker is None:
            return PartitionInfo(-1, -1)
        return PartitionInfo(broker.node_id, self._cluster.shard_epoch(shard))

    def _leaders(self) -> list[PartitionInfo]:
        """Who leads what lives in each shard; asked once for all partitions of a question."""
        workers = self._cluster.worker_count
        brokers = [self._broker_of(worker) for worker in range(workers)]
        owner = self._placement.shard_owner
        return [
            self._led(shard, brokers[owner(shard)]) for shard in range(self._placement.shard_count)
        ]

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
        try:
            found = await self._rpc.call(worker, wire.LightTopicCall(name, action))
        except BrokerError:
            if name not in self._seen:
                raise
            # Its owner is being restarted. A consumer that leads its group would assign nothing
            # of a topic that has an error, and not notice when it is there again.
            return self._light_info(name)
        if not found:
            self._seen.pop(name, None)
            return None
        self._saw(name)
        return self._light_info(name)

    def _saw(self, name: bytes) -> None:
        self._seen[name] = None
        self._seen.move_to_end(name)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def _light_info(self, name: bytes) -> TopicInfo:
        leader = self._leader_of(self._placement.shard(name, 0))
        return TopicInfo(name, names.topic_id(name, 0), (leader,), name.startswith(b"$"))

    def _declared_info(self, name: bytes, known: list[PartitionInfo] | None = None) -> TopicInfo:
        """`known`: the leader of each shard, where many topics are asked for."""
        topic = self._cluster.declared(name)
        assert topic is not None, "the caller has seen it"
        leader = known or self._leaders()
        shard = self._placement.shard
        leaders = tuple([leader[shard(name, number)] for number in range(topic.partitions)])
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

    def alike(self, name: str) -> str | None:
        """A declared topic whose name differs from this one in `.` and `_` alone."""
        return self._placement.alike(name)

    async def _list_topics(self, light_limit: int) -> list[TopicInfo]:
        leaders = self._leaders()
        found: list[TopicInfo] = []
        passed = 0
        for name in self._cluster.declared_names():
            if self._cluster.declared(name) is None:
                # Deleted meanwhile.
                continue
            found.append(self._declared_info(name, leaders))
            passed += len(found[-1].partitions) + 10
            if passed > SLICE:
                passed = 0
                await self.breathe()
        left = light_limit
        for worker in range(self._cluster.worker_count):
            if left <= 0:
                break
            try:
                listed = await self._rpc.call(worker, wire.LightTopicsList(left))
            except BrokerError:
                listed = self._seen_of(worker)[:left]
            else:
                for name in listed[:MAX_SEEN]:
                    self._saw(name)
            found.extend(self._light_info(name) for name in listed)
            left -= len(listed)
        return found

    def _seen_of(self, worker: int) -> list[bytes]:
        """What was seen of a worker that is away."""
        return [name for name in self._seen if self._placement.worker(name, 0) == worker]

    # -- the cluster's state -----------------------------------------------------------------------

    def create_topic(
        self, topic: NewTopic, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        """Make a declared topic."""
        return start(self._create_topic(topic, validate_only))

    async def _create_topic(self, topic: NewTopic, validate_only: bool) -> AdminResult:
        if await self.topic(topic.name, False) is not None:
            return AdminResult(
                KafkaCode.TOPIC_ALREADY_EXISTS, "a topic of this name already exists"
            )
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
            "node.id": str(self.node_id),
            "socket.request.max.bytes": str(limits.max_request_bytes),
            "log.dirs": self._settings.node.data_dir,
            "log.retention.check.interval.ms": str(self._settings.storage.retention_check_s * 1000),
            "log.cleaner.dedupe.buffer.size": str(self._settings.storage.compaction_memory_bytes),
            "default.replication.factor": "1",
            "delete.topic.enable": "true",
            "auto.leader.rebalance.enable": "false",
        }
