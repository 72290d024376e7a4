"""A worker's view of the cluster's state, over the meta process (or meta in the same process)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from robustmq.bans import Ban, BanTable
from robustmq.cluster.commands import (
    AddBan,
    AllocateProducerIds,
    AlterResource,
    AlterTopicConfig,
    BanRemoved,
    BanSet,
    Command,
    CreatePartitions,
    CreateTopic,
    DeleteTopic,
    Delta,
    ExpireBans,
    RemoveBan,
    ResourceSet,
    Result,
    TopicRemoved,
    TopicSet,
)
from robustmq.kafka.gateway import Broker
from robustmq.process.meta_client import MetaPort
from robustmq.promises import Promise, start
from robustmq.shard.cluster_view import Declared, Outcome


class MetaView:
    """Implements `shard.cluster_view.ClusterView`."""

    def __init__(self, meta: MetaPort, shard_count: int, worker_count: int) -> None:
        """`meta` has its first state."""
        self.cluster_id = meta.state.cluster_id
        self.shard_count = shard_count
        self.worker_count = worker_count
        self.on_change: Callable[[set[bytes]], None] = lambda names: None
        self.on_resource: Callable[[int, str], None] = lambda resource_type, name: None
        self.bans = BanTable()
        self.on_ban: Callable[[Ban], None] = lambda ban: None
        self.single_brokers: dict[str, Broker] = {}
        """Where `kafka.single_port` says so: the one address by the name of a listener."""
        self._meta = meta
        self._incarnations: dict[int, int] = {}
        for ban in meta.state.bans.values():
            self.bans.set(ban)
        meta.on_delta(self._on_delta)

    def _on_delta(self, delta: Delta) -> None:
        if isinstance(delta, TopicSet):
            self.on_change({delta.topic.name})
        elif isinstance(delta, TopicRemoved):
            self.on_change({delta.name})
        elif isinstance(delta, ResourceSet):
            self.on_resource(delta.resource_type, delta.name)
        elif isinstance(delta, BanSet):
            self.bans.set(delta.ban)
            self.on_ban(delta.ban)
        elif isinstance(delta, BanRemoved):
            self.bans.remove(delta.kind, delta.value)

    @property
    def version(self) -> int:
        """The version of meta's state, as this worker knows it."""
        return self._meta.state.version

    def shard_owner(self, shard: int) -> int:
        """Shards are dealt out to the workers of a node in turn."""
        return shard % self.worker_count

    def shard_epoch(self, shard: int) -> int:
        """The epoch of the ownership of a shard."""
        owner = self._meta.state.owner(shard)
        return owner.epoch if owner is not None else 0

    def incarnation(self, worker: int) -> int:
        """The life that a worker is in, as its link said."""
        return self._incarnations.get(worker, 0)

    def worker_up(self, worker: int, incarnation: int) -> None:
        """A link to a worker came up."""
        self._incarnations[worker] = incarnation

    def brokers(self, listener: str = "") -> Sequence[Broker]:
        """Workers as Kafka brokers, as who came by a listener reaches them; one address where
        `kafka.single_port` says so."""
        if self.single_brokers:
            first = next(iter(self.single_brokers.values()))
            return [self.single_brokers.get(listener, first)]
        return [
            Broker(
                worker.worker_id,
                *worker.endpoints.get(listener, (worker.host, worker.port)),
            )
            for worker in self._meta.state.brokers()
            if worker.worker_id < self.worker_count
        ]

    def declared(self, name: bytes) -> Declared | None:
        """A declared topic by name."""
        topic = self._meta.state.topic(name)
        if topic is None:
            return None
        return Declared(topic.name, topic.topic_id, topic.partitions, topic.configs)

    def declared_by_id(self, topic_id: UUID) -> bytes | None:
        """The name of a declared topic by id."""
        topic = self._meta.state.topic_by_id(topic_id)
        return None if topic is None else topic.name

    def declared_names(self) -> Iterable[bytes]:
        """All declared topics."""
        return list(self._meta.state.topics)

    def create_topic(
        self, name: bytes, partitions: int, configs: dict[str, str], topic_id: UUID
    ) -> Promise[Outcome]:
        """Declare a topic."""
        return self._propose(CreateTopic(name, partitions, configs, topic_id))

    def delete_topic(self, name: bytes) -> Promise[Outcome]:
        """Drop a declared topic."""
        return self._propose(DeleteTopic(name))

    def create_partitions(self, name: bytes, count: int) -> Promise[Outcome]:
        """Raise the number of partitions."""
        return self._propose(CreatePartitions(name, count))

    def alter_topic(self, name: bytes, changes: dict[str, str | None]) -> Promise[Outcome]:
        """Set or reset settings of a topic."""
        return self._propose(AlterTopicConfig(name, changes))

    def resource(self, resource_type: int, name: str) -> dict[str, str]:
        """Settings of what is no topic."""
        return self._meta.state.resource(resource_type, name)

    def resource_names(self, resource_type: int) -> list[str]:
        """The resources of a type that have settings."""
        return self._meta.state.resource_names(resource_type)

    def alter_resource(
        self, resource_type: int, name: str, changes: dict[str, str | None]
    ) -> Promise[Outcome]:
        """Set or reset settings of what is no topic."""
        return self._propose(AlterResource(resource_type, name, changes))

    def allocate_producer_ids(self, count: int) -> Promise[Outcome]:
        """A block of producer ids."""
        return self._propose(AllocateProducerIds(count))

    def add_ban(self, ban: Ban) -> Promise[Outcome]:
        """Keep somebody out."""
        return self._propose(AddBan(ban))

    def remove_ban(self, kind: str, value: str) -> Promise[Outcome]:
        """Let somebody in again."""
        return self._propose(RemoveBan(kind, value))

    def expire_bans(self) -> Promise[Outcome]:
        """Remove the bans that are over."""
        return self._propose(ExpireBans())

    def _propose(self, command: Command) -> Promise[Outcome]:
        return start(self._outcome(self._meta.propose(command)))

    async def _outcome(self, promise: Promise[Result]) -> Outcome:
        result = await promise
        return Outcome(result.error, result.message, result.value)
