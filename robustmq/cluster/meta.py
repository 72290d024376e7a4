"""Meta: the one member that decides on commands, and tells what changed.

`propose` takes a batch of commands, decides on each by `state.apply`, makes all changes durable
with one fsync, and only then advances the state, tells subscribers and answers. A command whose id
was answered before gets the same answer again and changes nothing. Subscribers get every change in
order; who comes later starts from the whole state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from robustmq.bans import key
from robustmq.cluster.commands import (
    AddBan,
    Change,
    ChangeAcls,
    ChangeQuotas,
    ChangeScram,
    Command,
    CreatePartitions,
    CreateTopic,
    Delta,
    Result,
)
from robustmq.cluster.meta_log import MetaLog
from robustmq.cluster.state import ClusterState, advance, apply
from robustmq.errors import KafkaCode
from robustmq.limits import Limits

Proposal = tuple[bytes, Command]
OnChanges = Callable[[list[Change]], None]


class Meta:
    """The state machine with its log; the same in the meta process and in the edge profile."""

    def __init__(self, directory: Path, new_cluster_id: str, limits: Limits | None = None) -> None:
        """`new_cluster_id` is taken when the directory holds no state yet."""
        self._log = MetaLog(directory)
        self._limits = limits or Limits()
        self._subscribers: list[OnChanges] = []
        self.state = self._log.open()
        if not self.state.cluster_id:
            self.state.cluster_id = new_cluster_id
            self._log.checkpoint(self.state, force=True)

    def propose(self, proposals: list[Proposal], timestamp_ms: int) -> list[Result]:
        """Decide on commands (id, command) in order; what is answered is on disk."""
        draft = self._draft()
        changes: list[Change] = []
        results: list[Result] = []
        for command_id, command in proposals:
            known = draft.results.get(command_id)
            if known is not None:
                results.append(known)
                continue
            result, deltas = self._decide(draft, command, timestamp_ms)
            results.append(result)
            if deltas:
                change = Change(draft.version + 1, command_id, result, deltas)
                advance(draft, change)
                changes.append(change)
        if changes:
            self._log.append(changes)
            for change in changes:
                advance(self.state, change)
            for tell in list(self._subscribers):
                tell(changes)
            self._log.checkpoint(self.state)
        return results

    def subscribe(self, on_changes: OnChanges) -> Callable[[], None]:
        """Be told of every change from now on; returns what ends it."""
        self._subscribers.append(on_changes)
        return lambda: self._subscribers.remove(on_changes)

    def snapshot(self) -> bytes:
        """The whole state, for a new subscriber."""
        return msgspec.msgpack.encode(self.state)

    def close(self) -> None:
        """Close the files."""
        self._log.close()

    def _decide(
        self, draft: ClusterState, command: Command, timestamp_ms: int
    ) -> tuple[Result, tuple[Delta, ...]]:
        """The bounds of this node first, then the state's own rules."""
        limits = self._limits
        partitions = 0
        if isinstance(command, CreateTopic):
            partitions = command.partitions
            if len(draft.topics) >= limits.max_declared_topics:
                return Result(int(KafkaCode.POLICY_VIOLATION), "limits.max_declared_topics"), ()
        elif isinstance(command, CreatePartitions):
            partitions = command.count
        elif isinstance(command, AddBan):
            new = key(command.ban.kind, command.ban.value) not in draft.bans
            if new and len(draft.bans) >= limits.max_bans:
                return Result(int(KafkaCode.POLICY_VIOLATION), "limits.max_bans is reached"), ()
        elif isinstance(command, ChangeAcls | ChangeScram | ChangeQuotas):
            reached = self._full(draft, command)
            if reached:
                return Result(int(KafkaCode.POLICY_VIOLATION), f"limits.{reached} is reached"), ()
        if partitions > limits.max_partitions:
            return Result(int(KafkaCode.INVALID_PARTITIONS), "above limits.max_partitions"), ()
        return apply(draft, command, timestamp_ms)

    def _full(self, draft: ClusterState, command: ChangeAcls | ChangeScram | ChangeQuotas) -> str:
        """The bound that a change would go beyond; empty when there is none. What takes things away
        never does."""
        limits = self._limits
        match command:
            case ChangeAcls():
                there, new, most = len(draft.acls), len(command.added), limits.max_acls
                name = "max_acls"
            case ChangeScram():
                there, new = len(draft.scram), len(command.credentials)
                most, name = limits.max_scram_credentials, "max_scram_credentials"
            case ChangeQuotas():
                adds = any(value is not None for value in command.changes.values())
                new = int(adds and command.entity.key not in draft.quotas)
                there, most, name = len(draft.quotas), limits.max_client_quotas, "max_client_quotas"
        return name if new and there + new > most else ""

    def _draft(self) -> ClusterState:
        """A state to decide on, so that nothing is visible before it is durable."""
        state = self.state
        return msgspec.structs.replace(
            state,
            topics=dict(state.topics),
            workers=dict(state.workers),
            shards=dict(state.shards),
            results=dict(state.results),
            topic_names=dict(state.topic_names),
            bans=dict(state.bans),
            resources=dict(state.resources),
            acls=dict(state.acls),
            scram=dict(state.scram),
            quotas=dict(state.quotas),
        )
