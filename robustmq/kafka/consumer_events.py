"""What is said to a group of the consumer protocol (KIP-848) and what it answers.

They are part of robustmq.kafka.group_events, whose other events these groups take as well. Topics
are canonical keys (bytes); in assignments they are ids, 16 bytes, so that a topic that was deleted
and made again is another one. What only the whole broker knows is looked up by the handler and
brought along: light topics, and the topics that a regular expression matches.
"""

from __future__ import annotations

import msgspec

TopicPartitions = list[tuple[bytes, list[int]]]
"""(topic id, partitions)"""

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
LEAVE_STATIC_EPOCH = -2


class ConsumerHeartbeat(msgspec.Struct, frozen=True, tag="consumer-heartbeat", array_like=True):
    """ConsumerGroupHeartbeat: join (epoch 0), live, leave (-1), leave for a while (-2).

    None and a `rebalance_timeout_ms` of -1 mean: as before. `member_id` is never empty.
    """

    member_id: str
    epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    topics: list[bytes] | None = None
    pattern: str | None = None
    """An empty one takes an earlier one back."""
    server_assignor: str | None = None
    owned: TopicPartitions | None = None
    client_id: str = ""
    client_host: str = ""
    light: list[tuple[bytes, bytes]] = []
    """Light topics that were found: name and id."""
    matched: list[bytes] | None = None
    """The topics that `pattern` matches."""


class TopicsFound(msgspec.Struct, frozen=True, tag="topics-found", array_like=True):
    """What was looked up, as `ConsumerHeartbeatReply` asked for. The reply is ErrorReply."""

    light: list[tuple[bytes, bytes]] = []
    matched: list[tuple[str, list[bytes]]] = []


class TopicsChanged(msgspec.Struct, frozen=True, tag="topics-changed", array_like=True):
    """The declared topics have changed. Has no reply."""


class ExpireOffsets(msgspec.Struct, frozen=True, tag="expire-offsets", array_like=True):
    """Wall clock time: offsets and groups that nobody needs go (KIP-211). Has no reply."""

    timestamp_ms: int


class DescribeConsumerGroup(msgspec.Struct, frozen=True, tag="consumer-describe", array_like=True):
    """Ask for epochs, members and assignments."""


class ConsumerHeartbeatReply(
    msgspec.Struct, frozen=True, tag="consumer-heartbeat", array_like=True
):
    """`assignment` None: as before. The last two ask for what the group cannot know: which of
    these topics are there, what these patterns match."""

    error: int = 0
    message: str | None = None
    member_id: str | None = None
    epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: TopicPartitions | None = None
    unknown_topics: list[bytes] = []
    stale_patterns: list[str] = []


class ConsumerDescription(msgspec.Struct, frozen=True, array_like=True):
    """One member as ConsumerGroupDescribe shows it; assignments by (id, name, partitions)."""

    member_id: str
    instance_id: str | None
    rack_id: str | None
    epoch: int
    client_id: str
    client_host: str
    topics: list[bytes]
    pattern: str | None
    assigned: list[tuple[bytes, bytes, list[int]]]
    target: list[tuple[bytes, bytes, list[int]]]
    classic: bool


class ConsumerDescribeReply(msgspec.Struct, frozen=True, tag="consumer-describe", array_like=True):
    """State is Empty, Assigning, Reconciling or Stable."""

    error: int = 0
    message: str | None = None
    state: str = ""
    epoch: int = 0
    assignment_epoch: int = 0
    assignor: str = ""
    members: list[ConsumerDescription] = []
