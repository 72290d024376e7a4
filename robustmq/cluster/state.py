"""The cluster state and the one function that decides on commands.

`apply` looks at a state and a command and says what becomes of it; it changes nothing. `advance`
takes a `Change` over. So a leader decides once, and every follower, restart and retry only replays
what was decided. Versions are dense: a change that is not the next one is a bug (older ones are
ignored, which makes replay idempotent). Errors are results with a Kafka code, never exceptions.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from robustmq.acls import AclBinding
from robustmq.bans import MAX_PATTERNS, Ban, key
from robustmq.cluster import access
from robustmq.cluster.commands import (
    AclsChanged,
    AddBan,
    AllocateProducerIds,
    AlterResource,
    AlterTopicConfig,
    BanRemoved,
    BanSet,
    Change,
    ChangeAcls,
    ChangeQuotas,
    ChangeScram,
    Command,
    CreatePartitions,
    CreateTopic,
    DeclaredTopic,
    DeleteTopic,
    Delta,
    ExpireBans,
    OwnShards,
    ProducerIdsSet,
    QuotaChanged,
    RegisterWorker,
    RemoveBan,
    ResourceSet,
    Result,
    ScramChanged,
    SetShardMap,
    ShardOwner,
    ShardsSet,
    TopicRemoved,
    TopicSet,
    UnregisterWorker,
    Worker,
    WorkerRemoved,
    WorkerSet,
)
from robustmq.credentials import ScramCredential
from robustmq.errors import KafkaCode
from robustmq.quotas import QuotaSetting

REMEMBERED_RESULTS = 1024
MAX_PRODUCER_ID = 2**63 - 1
Decision = tuple[Result, tuple[Delta, ...]]


class ClusterState(msgspec.Struct):
    """What the cluster knows. Read it as you like; only `advance` changes it."""

    cluster_id: str = ""
    version: int = 0
    topics: dict[bytes, DeclaredTopic] = {}
    workers: dict[int, Worker] = {}
    shards: dict[int, ShardOwner] = {}
    next_producer_id: int = 0
    last_epoch: int = 0
    results: dict[bytes, Result] = {}
    """Answers to the last REMEMBERED_RESULTS commands by id, so that a retry is answered and not
    applied again."""
    topic_names: dict[UUID, bytes] = {}
    bans: dict[str, Ban] = {}
    """By `bans.key`."""
    resources: dict[str, dict[str, str]] = {}
    """Settings of what is no topic, by `resource_key`."""
    acls: dict[AclBinding, None] = {}
    scram: dict[str, ScramCredential] = {}
    """By `credentials.credential_key`."""
    quotas: dict[str, QuotaSetting] = {}
    """By `quotas.entity_key`."""

    def topic(self, name: bytes) -> DeclaredTopic | None:
        """A declared topic by name."""
        return self.topics.get(name)

    def topic_by_id(self, topic_id: UUID) -> DeclaredTopic | None:
        """A declared topic by id."""
        name = self.topic_names.get(topic_id)
        return None if name is None else self.topics.get(name)

    def resource(self, resource_type: int, name: str) -> dict[str, str]:
        """The settings of a resource that is no topic."""
        return self.resources.get(resource_key(resource_type, name), {})

    def resource_names(self, resource_type: int) -> list[str]:
        """The resources of a type that have settings."""
        prefix = resource_key(resource_type, "")
        return sorted(one[len(prefix) :] for one in self.resources if one.startswith(prefix))

    def owner(self, shard: int) -> ShardOwner | None:
        """Who holds a shard."""
        return self.shards.get(shard)

    def brokers(self) -> list[Worker]:
        """Workers that are up, by rising id."""
        return [self.workers[worker_id] for worker_id in sorted(self.workers)]


def resource_key(resource_type: int, name: str) -> str:
    """Names a resource among those of all types."""
    return f"{resource_type}/{name}"


def apply(state: ClusterState, command: Command, now_ms: int) -> Decision:
    """Decide on a command; `now_ms` is wall time. The state stays as it is."""
    match command:
        case CreateTopic():
            return _create_topic(state, command, now_ms)
        case DeleteTopic() | CreatePartitions() | AlterTopicConfig():
            return _change_topic(state, command)
        case AlterResource():
            return _alter_resource(state, command)
        case AllocateProducerIds():
            return _allocate_producer_ids(state, command)
        case RegisterWorker():
            worker = Worker(
                command.worker_id,
                command.host,
                command.port,
                command.incarnation,
                command.endpoints,
            )
            return Result(), (WorkerSet(worker),)
        case UnregisterWorker():
            known = state.workers.get(command.worker_id)
            if known is None or known.incarnation != command.incarnation:
                return Result(), ()
            return Result(), (WorkerRemoved(command.worker_id),)
        case OwnShards():
            epoch = state.last_epoch + 1
            owners = {shard: ShardOwner(command.worker_id, epoch) for shard in command.shards}
            return Result(value=epoch), (ShardsSet(owners, epoch),)
        case SetShardMap():
            return _set_shard_map(state, command)
        case AddBan() | RemoveBan() | ExpireBans():
            return _change_bans(state, command, now_ms)
        case ChangeAcls() | ChangeScram() | ChangeQuotas():
            return access.decide(state, command)


def advance(state: ClusterState, change: Change) -> bool:
    """Take a change over; False if it is older than the state (it is known already)."""
    if change.version <= state.version:
        return False
    assert change.version == state.version + 1, "changes come in order, without gaps"
    state.version = change.version
    for delta in change.deltas:
        _take(state, delta)
    if change.command_id:
        state.results[change.command_id] = change.result
        if len(state.results) > REMEMBERED_RESULTS:
            del state.results[next(iter(state.results))]
    return True


def difference(old: ClusterState, new: ClusterState) -> list[Delta]:
    """Deltas that lead from one state to another, for who missed the changes between them."""
    deltas: list[Delta] = []
    for name, topic in old.topics.items():
        successor = new.topics.get(name)
        if successor is None or successor.topic_id != topic.topic_id:
            deltas.append(TopicRemoved(name, topic.topic_id))
    for name, topic in new.topics.items():
        if old.topics.get(name) != topic:
            deltas.append(TopicSet(topic))
    for one in sorted({*old.resources, *new.resources}):
        configs = new.resources.get(one, {})
        if old.resources.get(one, {}) != configs:
            resource_type, _, name_ = one.partition("/")
            deltas.append(ResourceSet(int(resource_type), name_, configs))
    for worker_id, worker in new.workers.items():
        if old.workers.get(worker_id) != worker:
            deltas.append(WorkerSet(worker))
    deltas += [WorkerRemoved(gone) for gone in sorted(set(old.workers) - set(new.workers))]
    moved = {shard: owner for shard, owner in new.shards.items() if old.shards.get(shard) != owner}
    if moved:
        deltas.append(ShardsSet(moved, new.last_epoch))
    gone = (old.bans[name] for name in old.bans if name not in new.bans)
    deltas += [BanRemoved(ban.kind, ban.value) for ban in gone]
    deltas += [BanSet(ban) for name, ban in new.bans.items() if old.bans.get(name) != ban]
    deltas += access.difference(old, new)
    if old.next_producer_id != new.next_producer_id:
        deltas.append(ProducerIdsSet(new.next_producer_id))
    return deltas


def _take(state: ClusterState, delta: Delta) -> None:
    match delta:
        case TopicSet():
            state.topics[delta.topic.name] = delta.topic
            state.topic_names[delta.topic.topic_id] = delta.topic.name
        case TopicRemoved():
            state.topics.pop(delta.name, None)
            state.topic_names.pop(delta.topic_id, None)
        case ResourceSet():
            one = resource_key(delta.resource_type, delta.name)
            if delta.configs:
                state.resources[one] = delta.configs
            else:
                state.resources.pop(one, None)
        case ProducerIdsSet():
            state.next_producer_id = delta.next_id
        case WorkerSet():
            state.workers[delta.worker.worker_id] = delta.worker
        case WorkerRemoved():
            state.workers.pop(delta.worker_id, None)
        case ShardsSet():
            state.shards.update(delta.owners)
            state.last_epoch = delta.last_epoch
        case BanSet():
            state.bans[key(delta.ban.kind, delta.ban.value)] = delta.ban
        case BanRemoved():
            state.bans.pop(key(delta.kind, delta.value), None)
        case AclsChanged() | ScramChanged() | QuotaChanged():
            access.take(state, delta)


def _refused(code: KafkaCode, message: str) -> Decision:
    return Result(int(code), message), ()


def _create_topic(state: ClusterState, command: CreateTopic, now_ms: int) -> Decision:
    if not command.name:
        return _refused(KafkaCode.INVALID_TOPIC_EXCEPTION, "the name is empty")
    if command.name in state.topics:
        return _refused(KafkaCode.TOPIC_ALREADY_EXISTS, "the topic already exists")
    if command.partitions < 1:
        return _refused(KafkaCode.INVALID_PARTITIONS, "a topic has at least one partition")
    if command.topic_id in state.topic_names:
        return _refused(KafkaCode.INVALID_REQUEST, "the topic id is taken")
    topic = DeclaredTopic(
        command.name, command.topic_id, command.partitions, dict(command.configs), now_ms
    )
    return Result(), (TopicSet(topic),)


def _change_topic(
    state: ClusterState, command: DeleteTopic | CreatePartitions | AlterTopicConfig
) -> Decision:
    match command:
        case DeleteTopic():
            return _delete_topic(state, command)
        case CreatePartitions():
            return _create_partitions(state, command)
        case AlterTopicConfig():
            return _alter_config(state, command)


def _delete_topic(state: ClusterState, command: DeleteTopic) -> Decision:
    topic = state.topics.get(command.name)
    if topic is None:
        return _refused(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "there is no such topic")
    return Result(), (TopicRemoved(topic.name, topic.topic_id),)


def _create_partitions(state: ClusterState, command: CreatePartitions) -> Decision:
    topic = state.topics.get(command.name)
    if topic is None:
        return _refused(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "there is no such topic")
    if command.count <= topic.partitions:
        return _refused(
            KafkaCode.INVALID_PARTITIONS, f"the topic has {topic.partitions} partitions"
        )
    return Result(), (TopicSet(msgspec.structs.replace(topic, partitions=command.count)),)


def _alter_config(state: ClusterState, command: AlterTopicConfig) -> Decision:
    topic = state.topics.get(command.name)
    if topic is None:
        return _refused(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "there is no such topic")
    changed = {**topic.configs, **command.changes}
    configs = {name: value for name, value in changed.items() if value is not None}
    return Result(), (TopicSet(msgspec.structs.replace(topic, configs=configs)),)


def _alter_resource(state: ClusterState, command: AlterResource) -> Decision:
    changed = {**state.resource(command.resource_type, command.name), **command.changes}
    configs = {name: value for name, value in changed.items() if value is not None}
    return Result(), (ResourceSet(command.resource_type, command.name, configs),)


def _allocate_producer_ids(state: ClusterState, command: AllocateProducerIds) -> Decision:
    if not 0 < command.count <= MAX_PRODUCER_ID - state.next_producer_id:
        return _refused(KafkaCode.INVALID_REQUEST, "no such number of producer ids")
    first = state.next_producer_id
    return Result(value=first), (ProducerIdsSet(first + command.count),)


def _set_shard_map(state: ClusterState, command: SetShardMap) -> Decision:
    epoch = state.last_epoch + 1
    moved = {}
    for shard, worker_id in command.owners.items():
        known = state.shards.get(shard)
        if known is None or known.worker_id != worker_id:
            moved[shard] = ShardOwner(worker_id, epoch)
    if not moved:
        return Result(value=state.last_epoch), ()
    return Result(value=epoch), (ShardsSet(moved, epoch),)


def _change_bans(
    state: ClusterState, command: AddBan | RemoveBan | ExpireBans, now_ms: int
) -> Decision:
    match command:
        case AddBan():
            return _add_ban(state, command.ban)
        case RemoveBan():
            there = key(command.kind, command.value) in state.bans
            return Result(value=int(there)), (BanRemoved(command.kind, command.value),) * there
        case ExpireBans():
            over = [ban for ban in state.bans.values() if not ban.holds(now_ms)]
            return Result(value=len(over)), tuple(BanRemoved(one.kind, one.value) for one in over)


def _add_ban(state: ClusterState, ban: Ban) -> Decision:
    """Patterns are tried one by one at each CONNECT, so they are few."""
    if ban.kind.endswith("_pattern") and key(ban.kind, ban.value) not in state.bans:
        patterns = sum(one.kind.endswith("_pattern") for one in state.bans.values())
        if patterns >= MAX_PATTERNS:
            return _refused(KafkaCode.POLICY_VIOLATION, f"there are {patterns} patterns already")
    return Result(), (BanSet(ban),)
