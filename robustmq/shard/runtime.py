"""Runs the durable machines: append the records, commit, then release the replies (design, section
10).

A machine's records go to the log of its shard as one entry (kind, key, records). A reply leaves
only when everything its machine has appended before is committed, so nobody ever hears of what a
crash could undo. Recovery feeds the snapshot and then the log's entries back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from robustmq.config import Settings
from robustmq.errors import BrokerError, Fault
from robustmq.groups.classic import ClassicGroup, GroupSettings
from robustmq.groups.records import decode_record, encode_record
from robustmq.groups.timers import TimeWheel
from robustmq.kafka.group_events import (
    GroupEvent,
    GroupListing,
    GroupReply,
    Resumed,
    TimerFired,
)
from robustmq.promises import Promise
from robustmq.shard.commits import Commits
from robustmq.shard.placement import GROUP_KIND, Placement
from robustmq.storage.shard_store import MACHINE, ShardStore


class MachineEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one machine wrote in one step: the payload of a log entry of kind 2."""

    kind: bytes
    key: bytes
    records: list[bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(MachineEntry)


def encode_machine_entry(kind: bytes, key: bytes, records: list[bytes]) -> bytes:
    """A log entry's payload."""
    return _encoder.encode(MachineEntry(kind, key, records))


def decode_machine_entry(payload: bytes | memoryview) -> MachineEntry:
    """The entry in a payload."""
    return _decoder.decode(payload)


class GroupRuntime:
    """The group machines of the shards that this worker holds."""

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        wheel: TimeWheel[tuple[str, ...]],
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
    ) -> None:
        kafka = settings.kafka
        self._settings = GroupSettings(
            kafka.group_min_session_timeout_ms,
            kafka.group_max_session_timeout_ms,
            kafka.group_max_size,
            kafka.group_initial_rebalance_delay_ms,
            offsets_retention_ms=kafka.offsets_retention_s * 1000,
        )
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._wheel = wheel
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms
        self._groups: dict[str, ClassicGroup] = {}
        self._next_token = 1
        self._parked: dict[int, Promise[GroupReply]] = {}
        self._uncommitted: dict[str, int] = {}

    def replay(self, key: bytes, records: Iterable[bytes]) -> None:
        """Records of a snapshot or of the log."""
        group = self._group(key.decode())
        for record in records:
            group.replay(decode_record(record))

    def resume(self) -> None:
        """Recovery is over: arm the timers."""
        for group_id in list(self._groups):
            self._step(group_id, Resumed(), 0)

    def snapshot(self, shard: int) -> Iterable[tuple[bytes, list[bytes]]]:
        """(key, records) of the machines of a shard."""
        for group_id, group in self._groups.items():
            if self._placement.group_shard(group_id) == shard:
                yield group_id.encode(), [encode_record(record) for record in group.snapshot()]

    def handle(self, group_id: str, event: GroupEvent) -> Promise[GroupReply]:
        """Run an event of a group held here."""
        promise: Promise[GroupReply] = Promise()
        if self._placement.group_shard(group_id) not in self._stores:
            promise.fail(BrokerError(Fault.OWNER_UNAVAILABLE, "coordinated elsewhere"))
            return promise
        token = self._next_token
        self._next_token += 1
        self._parked[token] = promise
        self._step(group_id, event, token)
        return promise

    def forget_topic(self, event: GroupEvent) -> None:
        """A topic was deleted: every group hears of it."""
        for group_id in list(self._groups):
            self._step(group_id, event, 0)

    def fire(self, group_id: str, timer: str) -> None:
        """A timer of a group has come."""
        if group_id in self._groups:
            self._step(group_id, TimerFired(timer), 0)

    def listings(self) -> list[GroupListing]:
        """All groups held here."""
        return [group.listing() for group in self._groups.values() if not group.disposable]

    def _group(self, group_id: str) -> ClassicGroup:
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = ClassicGroup(group_id, self._settings)
        return group

    def _step(self, group_id: str, event: GroupEvent, token: int) -> None:
        group = self._group(group_id)
        effects = group.handle(event, self._monotonic_ms(), token)
        for deadline_ms, key in effects.timers:
            self._wheel.set(("group", group_id, key), deadline_ms)
        replies = effects.replies
        shard = self._placement.group_shard(group_id)
        if effects.records:
            records = [encode_record(record) for record in effects.records]
            payload = encode_machine_entry(GROUP_KIND, group_id.encode(), records)
            self._stores[shard].append(MACHINE, payload, 0, 0, self._wall_ms())
        if effects.records or (replies and self._uncommitted.get(group_id)):
            self._uncommitted[group_id] = self._uncommitted.get(group_id, 0) + 1
            self._commits.mark(shard, False, lambda: self._committed(group_id, replies))
        elif replies:
            self._release(replies)
        if group.disposable and self._groups.get(group_id) is group:
            del self._groups[group_id]

    def _committed(self, group_id: str, replies: list[tuple[int, GroupReply]]) -> None:
        left = self._uncommitted[group_id] - 1
        if left:
            self._uncommitted[group_id] = left
        else:
            del self._uncommitted[group_id]
        self._release(replies)

    def _release(self, replies: list[tuple[int, GroupReply]]) -> None:
        for token, reply in replies:
            promise = self._parked.pop(token, None)
            if promise is not None:
                promise.resolve(reply)
