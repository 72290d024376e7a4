"""How long offsets are kept (KIP-211)."""

from __future__ import annotations

from robustmq.groups.classic import GroupSettings
from robustmq.groups.group import Group
from robustmq.groups.records import decode_record, encode_record
from robustmq.kafka import group_events as events
from robustmq.kafka.consumer_events import ConsumerHeartbeat, ExpireOffsets
from tests.groups.topics import Topics

KEPT_MS = 1_000
SETTINGS = GroupSettings(offsets_retention_ms=KEPT_MS, empty_retention_ms=500)


def new_group() -> Group:
    topics = Topics()
    topics.make(b"read", 1)
    topics.make(b"left", 1)
    return Group("g", topics, SETTINGS)


def commit(group: Group, topic: bytes, at_ms: int, member_id: str = "", epoch: int = -1) -> None:
    offset = events.OffsetToCommit(topic, 0, 5)
    event = events.CommitOffsets(member_id, None, epoch, [offset], at_ms)
    ((_, reply),) = group.handle(event, 0, 1).replies
    assert isinstance(reply, events.CommitReply)
    assert reply.errors == [0]


def kept(group: Group) -> list[bytes]:
    ((_, reply),) = group.handle(events.FetchOffsets(None), 0, 1).replies
    assert isinstance(reply, events.OffsetsReply)
    return [offset.topic for offset in reply.offsets]


def beat(group: Group, epoch: int, topics: list[bytes] | None = None) -> int:
    event = ConsumerHeartbeat("m", epoch, None, None, 1_000, topics, owned=[])
    return int(getattr(group.handle(event, 0, 1).replies[0][1], "epoch"))  # noqa: B009


def rebuilt(group: Group) -> Group:
    """The same group at its next owner."""
    topics = Topics()
    topics.make(b"read", 1)
    other = Group("g", topics, SETTINGS)
    for record in group.snapshot():
        other.replay(decode_record(encode_record(record)))
    return other


def test_offsets_of_no_members_go_with_their_age() -> None:
    group = new_group()
    commit(group, b"read", 100)
    commit(group, b"left", 200)
    group.handle(ExpireOffsets(100 + KEPT_MS - 1), 0)
    assert kept(group) == [b"left", b"read"]
    group.handle(ExpireOffsets(100 + KEPT_MS), 0)
    assert kept(group) == [b"left"]
    group.handle(ExpireOffsets(200 + KEPT_MS), 0)
    assert group.disposable


def test_offsets_of_a_group_that_was_left_are_kept_from_then_on_also_over_a_restart() -> None:
    group = new_group()
    epoch = beat(group, 0, [b"read"])
    commit(group, b"read", 100, "m", epoch)
    group.handle(ExpireOffsets(10_000), 0)
    assert kept(group) == [b"read"]
    beat(group, -1)
    group.handle(ExpireOffsets(20_000), 0)
    group = rebuilt(group)
    group.handle(ExpireOffsets(20_000 + KEPT_MS - 1), 0)
    assert kept(group) == [b"read"]
    group.handle(ExpireOffsets(20_000 + KEPT_MS), 0)
    assert group.disposable


def test_a_live_group_forgets_what_it_does_not_read_any_more() -> None:
    group = new_group()
    epoch = beat(group, 0, [b"left", b"read"])
    commit(group, b"read", 100, "m", epoch)
    commit(group, b"left", 100, "m", epoch)
    group.handle(ExpireOffsets(100 + KEPT_MS), 0)
    assert kept(group) == [b"left", b"read"]
    beat(group, epoch, [b"read"])
    group.handle(ExpireOffsets(100 + KEPT_MS), 0)
    assert kept(group) == [b"read"]


def test_a_group_that_has_members_again_begins_anew() -> None:
    group = new_group()
    epoch = beat(group, 0, [b"read"])
    commit(group, b"read", 100, "m", epoch)
    beat(group, -1)
    group.handle(ExpireOffsets(20_000), 0)
    beat(group, 0, [b"read"])
    beat(group, -1)
    group.handle(ExpireOffsets(20_000 + KEPT_MS), 0)
    assert kept(group) == [b"read"]
