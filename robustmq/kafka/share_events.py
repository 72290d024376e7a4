"""What is said to share groups and share-partitions, and what they answer (KIP-932).

As in robustmq.kafka.group_events these are tagged structs that cross the bus as they are. The
machines that take them are robustmq.groups.share_group and robustmq.groups.share_partition. Topics
are canonical keys (bytes); offsets of ranges are inclusive at both ends, as in the protocol.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

import msgspec

GAP, ACCEPT, RELEASE, REJECT, RENEW = range(5)
"""Acknowledge types (ShareAcknowledge; KIP-1222 for RENEW)."""
BATCH_OPTIMIZED, RECORD_LIMIT = range(2)
"""Acquire modes (ShareFetch version 2, KIP-1206)."""


class ShareKey(NamedTuple):
    """Which share-partition: the key of its machine."""

    group_id: str
    topic: bytes
    topic_id: UUID
    partition: int

    def text(self) -> str:
        """As one string."""
        topic = self.topic.decode("latin-1")
        head = f"{self.partition}/{self.topic_id.hex}/{len(topic)}/"
        return head + topic + self.group_id


def share_key(text: str) -> ShareKey:
    """The key in its string."""
    partition, topic_id, length, names = text.split("/", 3)
    size = int(length)
    return ShareKey(names[size:], names[:size].encode("latin-1"), UUID(topic_id), int(partition))


# -- share-partitions ------------------------------------------------------------------------------


class StartAt(msgspec.Struct, frozen=True, tag="share-start-at", array_like=True):
    """The offset of the group's share.auto.offset.reset; taken once, by a share-partition that has
    no start yet.
    """

    offset: int


class FetchedBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One batch that was read from the log; `usable` False for what no consumer is given: control
    batches and, with read_committed, aborted ones.
    """

    first: int
    last: int
    usable: bool = True


class Acquire(msgspec.Struct, frozen=True, tag="share-acquire", array_like=True):
    """A member wants records of what was read of the log from offset `first` on, in order."""

    member_id: str
    first: int
    batches: list[FetchedBatch]
    max_records: int
    mode: int = BATCH_OPTIMIZED


class AcknowledgementBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Acknowledge types of a range: one for all of it, or one for each offset."""

    first: int
    last: int
    types: bytes


class Acknowledge(msgspec.Struct, frozen=True, tag="share-acknowledge", array_like=True):
    """A member says what became of records that it holds; all of it is done, or nothing."""

    member_id: str
    batches: list[AcknowledgementBatch]


class ReleaseMember(msgspec.Struct, frozen=True, tag="share-release-member", array_like=True):
    """A member's share session is over: what it holds is for others."""

    member_id: str


class MoveStart(msgspec.Struct, frozen=True, tag="share-move-start", array_like=True):
    """The log begins here now: what was before is gone."""

    log_start_offset: int


class InitializeState(msgspec.Struct, frozen=True, tag="share-initialize", array_like=True):
    """The group's coordinator sets the start offset (-1: to be found by the reset strategy); all
    state of an older epoch is gone.
    """

    state_epoch: int
    start_offset: int


class DescribeState(msgspec.Struct, frozen=True, tag="share-state", array_like=True):
    """Ask how far the group has come."""


class DeleteState(msgspec.Struct, frozen=True, tag="share-delete-state", array_like=True):
    """The group is done with the partition, or the topic is gone."""


class Buried(msgspec.Struct, frozen=True, tag="share-buried", array_like=True):
    """These records stand in the dead letter topic, or there is none for them any more."""

    first: int
    last: int


class BuryFailed(msgspec.Struct, frozen=True, tag="share-bury-failed", array_like=True):
    """Dead letters could not be appended: it is to be tried again later. Has no reply."""


class LockTimer(msgspec.Struct, frozen=True, tag="share-timer", array_like=True):
    """The deadline of an acquisition lock has come."""

    key: str


class ShareResumed(msgspec.Struct, frozen=True, tag="share-resumed", array_like=True):
    """The machine was recovered on this owner."""


SharePartitionEvent = (
    StartAt
    | Acquire
    | Acknowledge
    | ReleaseMember
    | MoveStart
    | InitializeState
    | DescribeState
    | DeleteState
    | Buried
    | BuryFailed
    | LockTimer
    | ShareResumed
)


class AcquiredRange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Records that a member holds now, and how often they were delivered, this time included."""

    first: int
    last: int
    delivery_count: int


class AcquireReply(msgspec.Struct, frozen=True, tag="share-acquired", array_like=True):
    """What the member was given, by rising offset."""

    acquired: list[AcquiredRange]


class ShareErrorReply(msgspec.Struct, frozen=True, tag="share-error", array_like=True):
    """The answer to what has no other: a Kafka error code."""

    error: int = 0


class StateReply(msgspec.Struct, frozen=True, tag="share-state", array_like=True):
    """How far a group has come. start_offset -1: nothing was fetched yet. `delivery_complete`: how
    many offsets from the start on are done with, out of order.
    """

    state_epoch: int = 0
    start_offset: int = -1
    delivery_complete: int = 0


SharePartitionReply = AcquireReply | ShareErrorReply | StateReply

# -- share groups ----------------------------------------------------------------------------------


class TopicShape(msgspec.Struct, frozen=True, array_like=True):
    """A topic as the assignor needs it."""

    name: bytes
    topic_id: bytes
    partitions: int


class ShareHeartbeat(msgspec.Struct, frozen=True, tag="share-heartbeat", array_like=True):
    """A member lives: epoch 0 joins, -1 leaves. `topics` None: its subscription is as it was."""

    member_id: str
    member_epoch: int
    client_id: str
    client_host: str
    rack_id: str | None = None
    topics: list[bytes] | None = None


class TopicsSeen(msgspec.Struct, frozen=True, tag="share-topics", array_like=True):
    """The topics that the group asked about, as they are; those that are not there are left out.
    `member_id` is whom the reply is about.
    """

    member_id: str
    asked: list[bytes]
    topics: list[TopicShape]


class DescribeShareGroup(msgspec.Struct, frozen=True, tag="share-describe", array_like=True):
    """Ask for members and assignments."""


class DeleteShareGroup(msgspec.Struct, frozen=True, tag="share-delete", array_like=True):
    """Remove the group; only an empty one goes. Its share-partitions were deleted before."""


class DropShareTopic(msgspec.Struct, frozen=True, tag="share-drop", array_like=True):
    """A topic was deleted. Has no reply."""

    topic: bytes


class ForgetShareTopics(msgspec.Struct, frozen=True, tag="share-forget", array_like=True):
    """The group's state of these topics is deleted; only of an empty group."""

    topics: list[bytes]


class TouchShareTopics(msgspec.Struct, frozen=True, tag="share-touch", array_like=True):
    """Offsets of these topics are about to be set; only of an empty group, which is made where it
    is not there. The reply's epoch fences every older state.
    """

    topics: list[TopicShape]


class ShareTimer(msgspec.Struct, frozen=True, tag="share-group-timer", array_like=True):
    """A deadline of the group has come."""

    key: str


class ShareGroupResumed(msgspec.Struct, frozen=True, tag="share-group-resumed", array_like=True):
    """The machine was recovered on this owner."""


ShareGroupEvent = (
    ShareHeartbeat
    | TopicsSeen
    | DescribeShareGroup
    | DeleteShareGroup
    | DropShareTopic
    | ForgetShareTopics
    | TouchShareTopics
    | ShareTimer
    | ShareGroupResumed
)


class HeartbeatReply(msgspec.Struct, frozen=True, tag="share-heartbeat", array_like=True):
    """`assignment` None: as the member knows it. `look_up` not empty: tell the group of these
    topics with TopicsSeen, whose reply counts.
    """

    error: int = 0
    message: str = ""
    member_id: str = ""
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: list[tuple[bytes, list[int]]] | None = None
    """(topic id, partitions)"""
    look_up: list[bytes] = []


class ShareMemberDescription(msgspec.Struct, frozen=True, array_like=True):
    """One member as ShareGroupDescribe shows it."""

    member_id: str
    rack_id: str | None
    member_epoch: int
    client_id: str
    client_host: str
    topics: list[bytes]
    assignment: list[tuple[bytes, bytes, list[int]]]
    """(topic id, topic, partitions)"""


class ShareDescription(msgspec.Struct, frozen=True, tag="share-description", array_like=True):
    """A share group; state Empty, Stable or Dead (unknown)."""

    state: str = "Dead"
    group_epoch: int = 0
    assignment_epoch: int = 0
    members: list[ShareMemberDescription] = []
    topics: list[TopicShape] = []
    """Every topic that a member was ever given, with the partitions it had then."""


class ShareGroupResult(msgspec.Struct, frozen=True, tag="share-result", array_like=True):
    """The outcome of a change: a Kafka error code, and the group's epoch."""

    error: int = 0
    group_epoch: int = 0


ShareGroupReply = HeartbeatReply | ShareDescription | ShareGroupResult

_encoder = msgspec.msgpack.Encoder()
_partition_event = msgspec.msgpack.Decoder(SharePartitionEvent)
_partition_reply = msgspec.msgpack.Decoder(SharePartitionReply)
_group_event = msgspec.msgpack.Decoder(ShareGroupEvent)
_group_reply = msgspec.msgpack.Decoder(ShareGroupReply)


def encode(
    said: SharePartitionEvent | SharePartitionReply | ShareGroupEvent | ShareGroupReply,
) -> bytes:
    """An event or a reply as bytes for the bus."""
    return _encoder.encode(said)


def decode_partition_event(data: bytes | memoryview) -> SharePartitionEvent:
    """An event for a share-partition."""
    event: SharePartitionEvent = _partition_event.decode(data)
    return event


def decode_partition_reply(data: bytes | memoryview) -> SharePartitionReply:
    """The reply of a share-partition."""
    reply: SharePartitionReply = _partition_reply.decode(data)
    return reply


def decode_group_event(data: bytes | memoryview) -> ShareGroupEvent:
    """An event for a share group."""
    event: ShareGroupEvent = _group_event.decode(data)
    return event


def decode_group_reply(data: bytes | memoryview) -> ShareGroupReply:
    """The reply of a share group."""
    reply: ShareGroupReply = _group_reply.decode(data)
    return reply
