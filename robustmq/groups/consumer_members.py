"""A member of a group of the consumer protocol, and how it comes to its target (KIP-848,
"Reconciliation").

    Stable -> UnrevokedPartitions -> UnreleasedPartitions -> Stable
              must give up some      waits for what others have

A member first gives up what is no longer meant for it, and stays at its epoch until it has said
that it did. Only then it goes to the epoch of the target, and gets what is free; what others still
hold it gets when they have given it up. So no two members hold one partition, by what they have
acknowledged.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from uuid import UUID

import msgspec

from robustmq.groups.consumer_records import (
    ClassicPart,
    ConsumerCurrentRecord,
    ConsumerMemberRecord,
)

Holdings = dict[UUID, dict[int, int]]
"""Partitions by topic, each with the epoch at which it was assigned."""
Places = dict[UUID, set[int]]


class MemberState(enum.IntEnum):
    """How far a member has come."""

    STABLE = 0
    UNREVOKED = 1
    UNRELEASED = 2


class ConsumerMember(msgspec.Struct):
    """One member. `classic` is None unless it speaks the classic protocol."""

    member_id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    topics: frozenset[bytes] = frozenset()
    pattern: str | None = None
    server_assignor: str | None = None
    classic: ClassicPart | None = None
    state: MemberState = MemberState.STABLE
    epoch: int = 0
    previous_epoch: int = 0
    assigned: Holdings = {}
    revoking: Places = {}
    session_deadline_ms: int = 0
    pending_join: bool = False
    """A classic member was told to join again and has not."""
    pending_sync: bool = False

    def record(self) -> ConsumerMemberRecord:
        """Who it is."""
        return ConsumerMemberRecord(
            self.member_id,
            self.instance_id,
            self.rack_id,
            self.client_id,
            self.client_host,
            self.rebalance_timeout_ms,
            sorted(self.topics),
            self.pattern,
            self.server_assignor,
            self.classic,
        )

    def current_record(self) -> ConsumerCurrentRecord:
        """What it holds."""
        return ConsumerCurrentRecord(
            self.member_id,
            int(self.state),
            self.epoch,
            self.previous_epoch,
            [
                (topic.bytes, sorted(self.assigned[topic].items()))
                for topic in sorted(self.assigned)
            ],
            listed(self.revoking),
        )

    def describes_itself(self, record: ConsumerMemberRecord) -> None:
        """Take over what a record says of it."""
        self.instance_id = record.instance_id
        self.rack_id = record.rack_id
        self.client_id = record.client_id
        self.client_host = record.client_host
        self.rebalance_timeout_ms = record.rebalance_timeout_ms
        self.topics = frozenset(record.topics)
        self.pattern = record.pattern
        self.server_assignor = record.server_assignor
        self.classic = record.classic

    def holds(self, record: ConsumerCurrentRecord) -> None:
        """Take over what a record says it holds."""
        self.state = MemberState(record.state)
        self.epoch = record.epoch
        self.previous_epoch = record.previous_epoch
        self.assigned = {UUID(bytes=topic): dict(parts) for topic, parts in record.assigned}
        self.revoking = placed(record.revoking)


def placed(partitions: Iterable[tuple[bytes, list[int]]]) -> Places:
    """Partitions by topic, from what a request or record says."""
    places: Places = {}
    for topic, numbers in partitions:
        places.setdefault(UUID(bytes=topic), set()).update(numbers)
    return places


def listed(places: Mapping[UUID, Iterable[int]]) -> list[tuple[bytes, list[int]]]:
    """The same as records and replies have it, sorted."""
    return [(topic.bytes, sorted(places[topic])) for topic in sorted(places) if places[topic]]


def overlap(some: Mapping[UUID, Iterable[int]], other: Mapping[UUID, Iterable[int]]) -> bool:
    """Whether a partition is in both."""
    return any(
        not set(numbers).isdisjoint(other[topic])
        for topic, numbers in some.items()
        if topic in other
    )


def within(some: Mapping[UUID, Iterable[int]], other: Mapping[UUID, Iterable[int]]) -> bool:
    """Whether all partitions of the first are in the second."""
    return all(set(numbers) <= set(other.get(topic, ())) for topic, numbers in some.items())


class Holders:
    """Who holds each partition, assigned or being given up."""

    def __init__(self) -> None:
        self._holders: dict[UUID, dict[int, str]] = {}

    def holder(self, topic: UUID, partition: int) -> str | None:
        """The member that holds it."""
        return self._holders.get(topic, {}).get(partition)

    def take(self, member: ConsumerMember) -> None:
        """What the member holds is its own."""
        for places in (member.assigned, member.revoking):
            for topic, numbers in places.items():
                held = self._holders.setdefault(topic, {})
                for number in numbers:
                    holder = held.setdefault(number, member.member_id)
                    assert holder == member.member_id, "a partition has one holder"

    def release(self, member: ConsumerMember) -> None:
        """What the member holds is free."""
        for places in (member.assigned, member.revoking):
            for topic, numbers in places.items():
                held = self._holders.get(topic, {})
                for number in numbers:
                    held.pop(number, None)
                if not held:
                    self._holders.pop(topic, None)


def reconcile(
    member: ConsumerMember,
    target: Mapping[UUID, set[int]],
    target_epoch: int,
    subscribed: set[UUID],
    owned: Places | None,
    holders: Holders,
) -> bool:
    """Move a member towards its target as far as it goes now; True when something has changed.

    `owned` is what the member says it has, None: it said nothing. `subscribed`: the topics it may
    read; what is not among them is taken away at once.
    """
    before = (member.state, member.epoch, member.assigned, member.revoking)
    if member.state is MemberState.STABLE and member.epoch == target_epoch:
        wanted: Mapping[UUID, set[int]] = {
            topic: set(numbers) for topic, numbers in member.assigned.items() if topic in subscribed
        }
        if len(wanted) == len(member.assigned):
            return False
        _approach(member, wanted, member.epoch, owned, holders)
    elif member.state is MemberState.UNREVOKED and (
        owned is None or overlap(member.revoking, owned)
    ):
        # What it does not read any more it loses too, and has yet to say so.
        for topic in [topic for topic in member.assigned if topic not in subscribed]:
            member.assigned = {**member.assigned}
            lost = set(member.assigned.pop(topic))
            member.revoking = {**member.revoking, topic: lost | member.revoking.get(topic, set())}
    else:
        holders.release(member)
        member.revoking = {}
        holders.take(member)
        _approach(member, target, target_epoch, owned, holders)
    return before != (member.state, member.epoch, member.assigned, member.revoking)


def _approach(
    member: ConsumerMember,
    target: Mapping[UUID, set[int]],
    target_epoch: int,
    owned: Places | None,
    holders: Holders,
) -> None:
    kept: Holdings = {}
    leaving: Places = {}
    for topic, epochs in member.assigned.items():
        wanted = target.get(topic, set())
        keep = {number: epoch for number, epoch in epochs.items() if number in wanted}
        if keep:
            kept[topic] = keep
        if len(keep) < len(epochs):
            leaving[topic] = set(epochs) - set(keep)
    if leaving and (owned is None or overlap(leaving, owned)):
        # Its epoch stays until it has said that it gave these up.
        member.assigned, member.revoking, member.state = kept, leaving, MemberState.UNREVOKED
        return
    holders.release(member)
    missing = False
    for topic, numbers in target.items():
        have = kept.get(topic, {})
        for number in sorted(numbers.difference(have)):
            if holders.holder(topic, number) is None:
                have = kept.setdefault(topic, have)
                have[number] = target_epoch
            else:
                missing = True
    member.assigned, member.revoking = kept, {}
    member.state = MemberState.UNRELEASED if missing else MemberState.STABLE
    if member.epoch != target_epoch:
        member.previous_epoch, member.epoch = member.epoch, target_epoch
    holders.take(member)
