"""What is said to a group and what it answers: the messages between the Kafka handlers and a
group's owner.

They are tagged structs, so that they cross the bus as they are (`encode_event`, `decode_event`,
`encode_reply`, `decode_reply`). The machine that takes them is robustmq.groups.group. Topics are
canonical keys (bytes). Words are those of the Kafka protocol guide (JoinGroup, SyncGroup,
Heartbeat, LeaveGroup, OffsetCommit, OffsetFetch).
"""

from __future__ import annotations

import msgspec

from robustmq.kafka.consumer_events import (
    ConsumerDescribeReply,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    DescribeConsumerGroup,
    ExpireOffsets,
    TopicsChanged,
    TopicsFound,
)


class JoinGroup(msgspec.Struct, frozen=True, tag="join", array_like=True):
    """A member asks to be in the next generation. Its reply comes when the rebalance is over, so it
    parks.

    `new_member_id` is used when the member has none yet; `member_id_required` (version 4 and later)
    makes a dynamic member without an id come again with it (error 79).
    """

    member_id: str
    group_instance_id: str | None
    new_member_id: str
    member_id_required: bool
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: list[tuple[str, bytes]]
    skip_assignment_supported: bool = False


class SyncGroup(msgspec.Struct, frozen=True, tag="sync", array_like=True):
    """A member asks for its assignment; the leader brings everybody's. Parks until the leader has
    come.
    """

    member_id: str
    group_instance_id: str | None
    generation_id: int
    protocol_type: str | None
    protocol_name: str | None
    assignments: list[tuple[str, bytes]]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat", array_like=True):
    """A member says that it lives."""

    member_id: str
    group_instance_id: str | None
    generation_id: int


class LeavingMember(msgspec.Struct, frozen=True, array_like=True):
    """One member to be removed: by its id, or a static one by its instance id (member_id may then
    be empty).
    """

    member_id: str
    group_instance_id: str | None = None


class LeaveGroup(msgspec.Struct, frozen=True, tag="leave", array_like=True):
    """Members leave."""

    members: list[LeavingMember]


class OffsetToCommit(msgspec.Struct, frozen=True, array_like=True):
    """The next offset a group will read of one partition."""

    topic: bytes
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class CommitOffsets(msgspec.Struct, frozen=True, tag="commit", array_like=True):
    """Store offsets. generation_id -1 with an empty member id: from outside of the group's
    membership. With a producer id they are part of its transaction, and count when that is
    committed (TxnOffsetCommit, KIP-447).
    """

    member_id: str
    group_instance_id: str | None
    generation_id: int
    offsets: list[OffsetToCommit]
    timestamp_ms: int
    producer_id: int = -1
    producer_epoch: int = -1
    by_generation: bool = False
    """By a version of the request that knows no member epochs (before 9)."""


class EndOffsets(msgspec.Struct, frozen=True, tag="end-offsets", array_like=True):
    """The transaction of a producer has ended: its offsets count from now on, or never. The epoch
    is that of the marker.
    """

    producer_id: int
    producer_epoch: int
    commit: bool


class FetchOffsets(msgspec.Struct, frozen=True, tag="fetch-offsets", array_like=True):
    """Ask for stored offsets; `partitions` None: all there are. `require_stable`: where a
    transaction is open that may change one, error 88 stands for it (KIP-447). A member of the
    consumer protocol says who it is.
    """

    partitions: list[tuple[bytes, int]] | None
    require_stable: bool = False
    member_id: str | None = None
    member_epoch: int = -1


class DescribeGroup(msgspec.Struct, frozen=True, tag="describe", array_like=True):
    """Ask for state and members."""


class DeleteGroup(msgspec.Struct, frozen=True, tag="delete", array_like=True):
    """Remove the group with its offsets; only an empty one goes."""


class DeleteOffsets(msgspec.Struct, frozen=True, tag="delete-offsets", array_like=True):
    """Remove offsets of partitions that no member is subscribed to."""

    partitions: list[tuple[bytes, int]]


class ForgetTopic(msgspec.Struct, frozen=True, tag="forget-topic", array_like=True):
    """A topic was deleted: its offsets go. Has no reply."""

    topic: bytes


class TimerFired(msgspec.Struct, frozen=True, tag="timer", array_like=True):
    """A deadline from `Effects.timers` has come. Has no reply; it may release replies of others."""

    key: str


class Resumed(msgspec.Struct, frozen=True, tag="resumed", array_like=True):
    """The machine was recovered on this owner: its effects arm the timers anew. Has no reply."""


GroupEvent = (
    JoinGroup
    | SyncGroup
    | Heartbeat
    | LeaveGroup
    | CommitOffsets
    | EndOffsets
    | FetchOffsets
    | DescribeGroup
    | DeleteGroup
    | DeleteOffsets
    | ForgetTopic
    | TimerFired
    | Resumed
    | ConsumerHeartbeat
    | DescribeConsumerGroup
    | TopicsFound
    | TopicsChanged
    | ExpireOffsets
)


class JoinedMember(msgspec.Struct, frozen=True, array_like=True):
    """What the leader is told of one member: its metadata for the protocol that was chosen."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


class JoinReply(msgspec.Struct, frozen=True, tag="join", array_like=True):
    """The generation a member is in; `members` is empty for all but the leader."""

    error: int = 0
    generation_id: int = -1
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    member_id: str = ""
    members: list[JoinedMember] = []
    skip_assignment: bool = False


class SyncReply(msgspec.Struct, frozen=True, tag="sync", array_like=True):
    """A member's assignment, as the leader wrote it."""

    error: int = 0
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


class ErrorReply(msgspec.Struct, frozen=True, tag="error", array_like=True):
    """The answer to Heartbeat, DeleteGroup and EndOffsets; also to any event whose owner could not
    take it.
    """

    error: int = 0


class LeftMember(msgspec.Struct, frozen=True, array_like=True):
    """What became of one leaving member."""

    member_id: str
    group_instance_id: str | None
    error: int


class LeaveReply(msgspec.Struct, frozen=True, tag="leave", array_like=True):
    """In the order of the request."""

    error: int = 0
    members: list[LeftMember] = []


class CommitReply(msgspec.Struct, frozen=True, tag="commit", array_like=True):
    """One error code for each offset, in the order of the request."""

    errors: list[int]


class CommittedOffset(msgspec.Struct, frozen=True, array_like=True):
    """A stored offset; offset -1 where there is none."""

    topic: bytes
    partition: int
    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error: int = 0


class OffsetsReply(msgspec.Struct, frozen=True, tag="offsets", array_like=True):
    """In the order of the request, or all sorted by topic and partition."""

    error: int = 0
    offsets: list[CommittedOffset] = []


class MemberDescription(msgspec.Struct, frozen=True, array_like=True):
    """One member as DescribeGroups shows it."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class DescribeReply(msgspec.Struct, frozen=True, tag="describe", array_like=True):
    """State is PreparingRebalance, CompletingRebalance, Stable, Empty or Dead (unknown)."""

    error: int = 0
    state: str = "Dead"
    protocol_type: str = ""
    protocol: str = ""
    members: list[MemberDescription] = []
    other_type: str = ""
    """The type of a group that is not a classic one."""


class DeleteOffsetsReply(msgspec.Struct, frozen=True, tag="delete-offsets", array_like=True):
    """One error code for each partition, in request order, unless `error` says it all."""

    error: int = 0
    errors: list[int] = []


class GroupListing(msgspec.Struct, frozen=True, tag="listing", array_like=True):
    """One group as ListGroups shows it (`Group.listing()`)."""

    group_id: str
    protocol_type: str
    state: str
    group_type: str = "classic"


GroupReply = (
    JoinReply
    | SyncReply
    | ErrorReply
    | LeaveReply
    | CommitReply
    | OffsetsReply
    | DescribeReply
    | DeleteOffsetsReply
    | ConsumerHeartbeatReply
    | ConsumerDescribeReply
)

_encoder = msgspec.msgpack.Encoder()
_event_decoder: msgspec.msgpack.Decoder[GroupEvent] = msgspec.msgpack.Decoder(GroupEvent)
_reply_decoder: msgspec.msgpack.Decoder[GroupReply] = msgspec.msgpack.Decoder(GroupReply)
_listings_decoder = msgspec.msgpack.Decoder(list[GroupListing])


def encode_event(event: GroupEvent) -> bytes:
    """An event as bytes for the bus."""
    return _encoder.encode(event)


def decode_event(data: bytes | memoryview) -> GroupEvent:
    """The event in bytes from the bus."""
    return _event_decoder.decode(data)


def encode_reply(reply: GroupReply) -> bytes:
    """A reply as bytes for the bus."""
    return _encoder.encode(reply)


def decode_reply(data: bytes | memoryview) -> GroupReply:
    """The reply in bytes from the bus."""
    return _reply_decoder.decode(data)


def encode_listings(listings: list[GroupListing]) -> bytes:
    """A shard's groups as bytes for the bus."""
    return _encoder.encode(listings)


def decode_listings(data: bytes | memoryview) -> list[GroupListing]:
    """A shard's groups from the bus."""
    return _listings_decoder.decode(data)
