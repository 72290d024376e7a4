"""The cluster's state as a worker's shards need it.

The view is given from outside: over the meta process in a node, in memory in the simulation.
Reading answers from the last state that is known; `propose_*` settles when the change is durable
and this worker's view has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from robustmq.bans import Ban, BanTable
from robustmq.kafka.gateway import Broker
from robustmq.promises import Promise


class Declared(msgspec.Struct, frozen=True):
    """A declared topic."""

    name: bytes
    topic_id: UUID
    partitions: int
    configs: dict[str, str] = {}


class Outcome(msgspec.Struct, frozen=True):
    """The answer to a proposal: a Kafka error code (0: done), a message for people, a value."""

    error: int = 0
    message: str | None = None
    value: int = 0


class ClusterView(Protocol):
    """What a worker reads of the cluster's state, and how it asks for changes."""

    cluster_id: str
    shard_count: int
    worker_count: int
    on_change: Callable[[set[bytes]], None]
    """Called with the names of declared topics that came, went or changed."""

    on_resource: Callable[[int, str], None]
    """Called with the type and name of what is no topic and whose settings changed."""
    bans: BanTable
    """The bans of the cluster, as this worker knows them; read only."""
    on_ban: Callable[[Ban], None]
    """Called with a ban that came while the worker runs; it is in `bans` already."""

    @property
    def version(self) -> int:
        """How many changes the cluster's state has seen."""
        ...

    def shard_owner(self, shard: int) -> int:
        """The worker that holds a shard."""
        ...

    def shard_epoch(self, shard: int) -> int:
        """The epoch of that ownership: Kafka's leader epoch."""
        ...

    def incarnation(self, worker: int) -> int:
        """The number of the life that a worker is in."""
        ...

    def worker_up(self, worker: int, incarnation: int) -> None:
        """A link to a worker came up."""
        ...

    def brokers(self, listener: str = "") -> Sequence[Broker]:
        """The workers that Kafka clients may connect to, by rising id, at the addresses that belong
        to a listener (empty: the first one)."""
        ...

    def declared(self, name: bytes) -> Declared | None:
        """A declared topic by name."""
        ...

    def declared_by_id(self, topic_id: UUID) -> bytes | None:
        """The name of a declared topic by id."""
        ...

    def declared_names(self) -> Iterable[bytes]:
        """All declared topics."""
        ...

    def create_topic(
        self, name: bytes, partitions: int, configs: dict[str, str], topic_id: UUID
    ) -> Promise[Outcome]:
        """Declare a topic."""
        ...

    def delete_topic(self, name: bytes) -> Promise[Outcome]:
        """Drop a declared topic."""
        ...

    def create_partitions(self, name: bytes, count: int) -> Promise[Outcome]:
        """Raise the number of partitions."""
        ...

    def alter_topic(self, name: bytes, changes: dict[str, str | None]) -> Promise[Outcome]:
        """Set or reset settings of a topic."""
        ...

    def resource(self, resource_type: int, name: str) -> dict[str, str]:
        """Settings that were set for what is no topic (Kafka's resource types)."""
        ...

    def resource_names(self, resource_type: int) -> list[str]:
        """The resources of a type that have settings."""
        ...

    def alter_resource(
        self, resource_type: int, name: str, changes: dict[str, str | None]
    ) -> Promise[Outcome]:
        """Set or reset settings of what is no topic."""
        ...

    def allocate_producer_ids(self, count: int) -> Promise[Outcome]:
        """A block of producer ids; `value` is the first."""
        ...

    def add_ban(self, ban: Ban) -> Promise[Outcome]:
        """Keep somebody out, on every worker."""
        ...

    def remove_ban(self, kind: str, value: str) -> Promise[Outcome]:
        """Let somebody in again; `value` is 1 when there was such a ban."""
        ...

    def expire_bans(self) -> Promise[Outcome]:
        """Remove the bans that are over."""
        ...
