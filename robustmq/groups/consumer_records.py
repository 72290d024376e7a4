"""What a group of the consumer protocol writes to the log (docs/formats.md).

A record is a tagged msgspec array, as those of robustmq.groups.records are. Each says one thing
that changed, so that a heartbeat that changes nothing writes nothing, and one that moves a member
writes that member alone.
"""

from __future__ import annotations

import msgspec

AssignedPartitions = list[tuple[bytes, list[tuple[int, int]]]]
"""(topic id, (partition, epoch at which it was assigned))"""
TopicPartitions = list[tuple[bytes, list[int]]]


class KnownTopic(msgspec.Struct, frozen=True, array_like=True):
    """A topic that somebody subscribes to and that is there."""

    name: bytes
    topic_id: bytes
    partitions: int
    light: bool = False


class ConsumerEpochRecord(msgspec.Struct, frozen=True, tag="consumer-epoch", array_like=True):
    """The group's epoch. The first record of a group of this protocol."""

    epoch: int


class ConsumerTopicsRecord(msgspec.Struct, frozen=True, tag="consumer-topics", array_like=True):
    """The topics that the group's epoch was made for."""

    topics: list[KnownTopic]


class ConsumerPatternRecord(msgspec.Struct, frozen=True, tag="consumer-pattern", array_like=True):
    """What a regular expression matches; None: nobody uses it any more."""

    pattern: str
    topics: list[bytes] | None


class ClassicPart(msgspec.Struct, frozen=True, array_like=True):
    """What a member has that speaks the classic protocol."""

    session_timeout_ms: int
    protocols: list[tuple[str, bytes]]


class ConsumerMemberRecord(msgspec.Struct, frozen=True, tag="consumer-member", array_like=True):
    """Who a member is and what it subscribes to."""

    member_id: str
    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    topics: list[bytes]
    pattern: str | None
    server_assignor: str | None
    classic: ClassicPart | None = None


class ConsumerMemberGoneRecord(
    msgspec.Struct, frozen=True, tag="consumer-member-gone", array_like=True
):
    """A member is gone, with its target and what it held."""

    member_id: str


class ConsumerTargetRecord(msgspec.Struct, frozen=True, tag="consumer-target", array_like=True):
    """The target of an epoch: of the members whose target has changed."""

    epoch: int
    targets: list[tuple[str, TopicPartitions]]


class ConsumerCurrentRecord(msgspec.Struct, frozen=True, tag="consumer-current", array_like=True):
    """What a member holds, and what it was asked to give up."""

    member_id: str
    state: int
    epoch: int
    previous_epoch: int
    assigned: AssignedPartitions
    revoking: TopicPartitions


ConsumerRecord = (
    ConsumerEpochRecord
    | ConsumerTopicsRecord
    | ConsumerPatternRecord
    | ConsumerMemberRecord
    | ConsumerMemberGoneRecord
    | ConsumerTargetRecord
    | ConsumerCurrentRecord
)
