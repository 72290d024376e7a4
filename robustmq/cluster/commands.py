"""What can be asked of the cluster state, what is answered, and what then changes.

A `Command` asks; `robustmq.cluster.state.apply` decides and answers with a `Result` and with
`Delta`s. Deltas say the new value, not the step, so that replay is idempotent; they are what the
meta log holds and what workers are told. Everything here crosses a socket or stands on disk:
fields may be added with a default, never removed or reordered.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from robustmq.acls import AclBinding
from robustmq.bans import Ban
from robustmq.credentials import ScramCredential
from robustmq.quotas import QuotaEntity, QuotaSetting


class CreateTopic(msgspec.Struct, frozen=True, tag="create_topic", array_like=True):
    """Declare a topic; `name` is canonical (the MQTT name in UTF-8)."""

    name: bytes
    partitions: int
    configs: dict[str, str]
    topic_id: UUID


class DeleteTopic(msgspec.Struct, frozen=True, tag="delete_topic", array_like=True):
    """Drop a declared topic."""

    name: bytes


class CreatePartitions(msgspec.Struct, frozen=True, tag="create_partitions", array_like=True):
    """Raise the number of partitions to `count`."""

    name: bytes
    count: int


class AlterTopicConfig(msgspec.Struct, frozen=True, tag="alter_topic_config", array_like=True):
    """Set settings of a topic; None removes one."""

    name: bytes
    changes: dict[str, str | None]


class AlterResource(msgspec.Struct, frozen=True, tag="alter_resource", array_like=True):
    """Set settings of what is no topic (Kafka's resource types: a broker, a group, ...); None
    removes one."""

    resource_type: int
    name: str
    changes: dict[str, str | None]


class AllocateProducerIds(msgspec.Struct, frozen=True, tag="producer_ids", array_like=True):
    """A block of `count` producer ids that were never given out; Result.value is the first."""

    count: int


class RegisterWorker(msgspec.Struct, frozen=True, tag="register_worker", array_like=True):
    """A worker is up: its broker id is its worker id. A later registration takes the place of an
    earlier."""

    worker_id: int
    host: str
    port: int
    incarnation: int
    endpoints: dict[str, tuple[str, int]] = {}
    """Host and port by the name of a listener; `host` and `port` are those of the first."""


class UnregisterWorker(msgspec.Struct, frozen=True, tag="unregister_worker", array_like=True):
    """That incarnation of a worker is gone; ignored when a newer one has registered."""

    worker_id: int
    incarnation: int


class OwnShards(msgspec.Struct, frozen=True, tag="own_shards", array_like=True):
    """A worker takes these shards; Result.value is the new epoch, above every earlier one."""

    worker_id: int
    shards: tuple[int, ...]


class SetShardMap(msgspec.Struct, frozen=True, tag="set_shard_map", array_like=True):
    """Assign shards to workers; a shard that changes hands gets a new epoch."""

    owners: dict[int, int]


class AddBan(msgspec.Struct, frozen=True, tag="add_ban", array_like=True):
    """Keep somebody out; a ban of the same kind and value makes way."""

    ban: Ban


class RemoveBan(msgspec.Struct, frozen=True, tag="remove_ban", array_like=True):
    """Let somebody in again; Result.value is 1 when there was such a ban."""

    kind: str
    value: str


class ExpireBans(msgspec.Struct, frozen=True, tag="expire_bans", array_like=True):
    """Remove the bans that are over; Result.value says how many there were."""


class ChangeAcls(msgspec.Struct, frozen=True, tag="change_acls", array_like=True):
    """Make access rules and remove others; what is there, or is not, already stays so."""

    added: tuple[AclBinding, ...] = ()
    removed: tuple[AclBinding, ...] = ()


class ChangeScram(msgspec.Struct, frozen=True, tag="change_scram", array_like=True):
    """Set credentials of users, and remove others, named as credentials.credential_key does.
    RESOURCE_NOT_FOUND when one that is to be removed is not there; then nothing changes."""

    credentials: tuple[ScramCredential, ...] = ()
    removed: tuple[str, ...] = ()


class ChangeQuotas(msgspec.Struct, frozen=True, tag="change_quotas", array_like=True):
    """Set bounds of one entity; None takes one away."""

    entity: QuotaEntity
    changes: dict[str, float | None]


Command = (
    CreateTopic
    | DeleteTopic
    | CreatePartitions
    | AlterTopicConfig
    | AlterResource
    | AllocateProducerIds
    | RegisterWorker
    | UnregisterWorker
    | OwnShards
    | SetShardMap
    | AddBan
    | RemoveBan
    | ExpireBans
    | ChangeAcls
    | ChangeScram
    | ChangeQuotas
)


class Result(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a command: a Kafka error code (0: done), a message for people, a value."""

    error: int = 0
    message: str | None = None
    value: int = 0


class DeclaredTopic(msgspec.Struct, frozen=True, array_like=True):
    """A topic of the cluster metadata."""

    name: bytes
    topic_id: UUID
    partitions: int
    configs: dict[str, str] = {}
    created_ms: int = 0


class Worker(msgspec.Struct, frozen=True, array_like=True):
    """A worker as Kafka clients see it: a broker with an address."""

    worker_id: int
    host: str
    port: int
    incarnation: int
    endpoints: dict[str, tuple[str, int]] = {}


class ShardOwner(msgspec.Struct, frozen=True, array_like=True):
    """Who holds a shard, and since which epoch."""

    worker_id: int
    epoch: int


class TopicSet(msgspec.Struct, frozen=True, tag="topic_set", array_like=True):
    """A declared topic is as told now."""

    topic: DeclaredTopic


class TopicRemoved(msgspec.Struct, frozen=True, tag="topic_removed", array_like=True):
    """A declared topic is gone."""

    name: bytes
    topic_id: UUID


class ResourceSet(msgspec.Struct, frozen=True, tag="resource_set", array_like=True):
    """What is no topic has these settings now; without any it is gone."""

    resource_type: int
    name: str
    configs: dict[str, str]


class ProducerIdsSet(msgspec.Struct, frozen=True, tag="producer_ids_set", array_like=True):
    """The first producer id that is free."""

    next_id: int


class WorkerSet(msgspec.Struct, frozen=True, tag="worker_set", array_like=True):
    """A worker is up at this address."""

    worker: Worker


class WorkerRemoved(msgspec.Struct, frozen=True, tag="worker_removed", array_like=True):
    """A worker is gone."""

    worker_id: int


class ShardsSet(msgspec.Struct, frozen=True, tag="shards_set", array_like=True):
    """Shards have these owners."""

    owners: dict[int, ShardOwner]
    last_epoch: int


class BanSet(msgspec.Struct, frozen=True, tag="ban_set", array_like=True):
    """A ban is in force, as told."""

    ban: Ban


class BanRemoved(msgspec.Struct, frozen=True, tag="ban_removed", array_like=True):
    """A ban is gone."""

    kind: str
    value: str


class AclsChanged(msgspec.Struct, frozen=True, tag="acls_changed", array_like=True):
    """Access rules that are in force now, and some that are no more."""

    added: tuple[AclBinding, ...]
    removed: tuple[AclBinding, ...]


class ScramChanged(msgspec.Struct, frozen=True, tag="scram_changed", array_like=True):
    """Credentials that count now, and the keys of some that are gone."""

    credentials: tuple[ScramCredential, ...]
    removed: tuple[str, ...]


class QuotaChanged(msgspec.Struct, frozen=True, tag="quota_changed", array_like=True):
    """The bounds of an entity are as told; none at all: it has no quota."""

    setting: QuotaSetting


Delta = (
    TopicSet
    | TopicRemoved
    | ResourceSet
    | ProducerIdsSet
    | WorkerSet
    | WorkerRemoved
    | ShardsSet
    | BanSet
    | BanRemoved
    | AclsChanged
    | ScramChanged
    | QuotaChanged
)


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One applied command: the version it made, what changed, and the answer for its sender's
    retry."""

    version: int
    command_id: bytes
    result: Result
    deltas: tuple[Delta, ...]
