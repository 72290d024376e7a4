"""Classic members in a group of the consumer protocol, and how a group changes its protocol while
it has members (KIP-848, "Upgrade and downgrade").

A classic member joins, syncs and sends heartbeats as always; no answer waits for others. Its
generation is its member epoch, its assignment comes from the server-side target. A heartbeat says
27 REBALANCE_IN_PROGRESS when joining again would bring it nearer to the target; what it says it
owns when it joins is how it acknowledges a revocation.

- A classic group whose members use the consumer embedded protocol becomes a consumer group when a
  member of the new protocol joins: generation and assignments become epoch and what members hold.
- When the last member of the new protocol has gone, a group with classic members only becomes a
  classic group again, and those members rebalance.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from robustmq.errors import KafkaCode
from robustmq.groups.classic import ClassicGroup, GroupSettings
from robustmq.groups.consumer import ConsumerGroup, GroupEffects, Refused
from robustmq.groups.consumer_members import ConsumerMember, MemberState, Places, placed
from robustmq.groups.consumer_records import ClassicPart, ConsumerMemberRecord
from robustmq.groups.members import Member
from robustmq.groups.records import GenerationRecord
from robustmq.groups.subscriptions import (
    CONSUMER,
    EmbeddedSubscription,
    Malformed,
    encode_assignment,
    parse_assignment,
    parse_subscription,
)
from robustmq.kafka import group_events as events
from robustmq.kafka.group_events import ErrorReply, JoinReply, LeaveReply, LeftMember, SyncReply


def join(
    group: ConsumerGroup,
    event: events.JoinGroup,
    settings: GroupSettings,
    pending: set[str],
    now_ms: int,
    token: int,
    effects: GroupEffects,
) -> None:
    """JoinGroup: the answer comes at once."""
    subscription = _acceptable(group, event, settings)
    static = group.static(event.group_instance_id)
    member = group.members.get(event.member_id)
    if event.member_id and event.group_instance_id is not None:
        if static is None and member is None and event.member_id not in pending:
            raise Refused(KafkaCode.UNKNOWN_MEMBER_ID, "no such instance here")
        if static is not None and static.member_id != event.member_id:
            raise Refused(KafkaCode.FENCED_INSTANCE_ID, "the instance has another member id")
    if member is None:
        if static is None:
            group.refuse_when_full()
        if not event.member_id and event.member_id_required and event.group_instance_id is None:
            pending.add(event.new_member_id)
            deadline = now_ms + event.session_timeout_ms
            effects.timers.append((deadline, f"pending:{event.new_member_id}"))
            reply = JoinReply(error=KafkaCode.MEMBER_ID_REQUIRED, member_id=event.new_member_id)
            effects.replies.append((token, reply))
            return
        member_id = event.member_id or event.new_member_id
        if static is not None:
            member = group.replace(static, member_id, effects)
        else:
            member = group.add(member_id)
        if member_id in pending:
            pending.discard(member_id)
            effects.timers.append((None, f"pending:{member_id}"))
    changed = _describe(group, member, event, subscription, effects)
    owned = _by_id(group, subscription.owned)
    group.arm(member, now_ms, effects)
    group.settle(member, changed, owned, now_ms, effects)
    _expect(member, "join", None, effects)
    _expect(member, "sync", now_ms + member.rebalance_timeout_ms, effects)
    reply = JoinReply(
        generation_id=member.epoch,
        protocol_type=CONSUMER,
        protocol_name=event.protocols[0][0],
        member_id=member.member_id,
    )
    effects.replies.append((token, reply))


def _acceptable(
    group: ConsumerGroup, event: events.JoinGroup, settings: GroupSettings
) -> EmbeddedSubscription:
    shortest, longest = settings.min_session_timeout_ms, settings.max_session_timeout_ms
    if not shortest <= event.session_timeout_ms <= longest:
        raise Refused(KafkaCode.INVALID_SESSION_TIMEOUT, "the session time-out is out of bounds")
    names = {name for name, _ in event.protocols}
    for other in group.members.values():
        if other.classic is not None and other.member_id != event.member_id:
            names &= {name for name, _ in other.classic.protocols}
    if event.protocol_type != CONSUMER or not names:
        raise Refused(KafkaCode.INCONSISTENT_GROUP_PROTOCOL, "no protocol in common")
    try:
        return parse_subscription(event.protocols[0][1])
    except Malformed as error:
        raise Refused(KafkaCode.INCONSISTENT_GROUP_PROTOCOL, str(error)) from error


def _describe(
    group: ConsumerGroup,
    member: ConsumerMember,
    event: events.JoinGroup,
    subscription: EmbeddedSubscription,
    effects: GroupEffects,
) -> bool:
    before = member.record()
    topics = member.topics
    if event.group_instance_id is not None:
        group.name_static(member, event.group_instance_id)
    member.client_id, member.client_host = event.client_id, event.client_host
    member.rack_id = subscription.rack_id
    member.rebalance_timeout_ms = event.rebalance_timeout_ms
    member.topics = frozenset(subscription.topics)
    member.pattern = None
    member.classic = ClassicPart(event.session_timeout_ms, event.protocols)
    if member.record() != before:
        effects.records.append(member.record())
    return topics != member.topics


def _by_id(group: ConsumerGroup, places: Iterable[tuple[bytes, list[int]]]) -> Places:
    """Partitions by topic id, of the topics that are known."""
    return placed(
        (group.topics[name].topic_id, numbers) for name, numbers in places if name in group.topics
    )


def _expect(
    member: ConsumerMember, what: str, deadline_ms: int | None, effects: GroupEffects
) -> None:
    """A classic member must join or sync until then; None: it has."""
    pending = deadline_ms is not None
    if what == "join":
        already, member.pending_join = member.pending_join, pending
    else:
        already, member.pending_sync = member.pending_sync, pending
    if pending != already:
        effects.timers.append((deadline_ms, f"{what}:{member.member_id}"))


def _classic_member(
    group: ConsumerGroup, member_id: str, instance_id: str | None
) -> ConsumerMember:
    static = group.static(instance_id)
    if static is not None and static.member_id != member_id:
        raise Refused(KafkaCode.FENCED_INSTANCE_ID, "the instance has another member id")
    member = group.members.get(member_id)
    if member is None or member.classic is None or (instance_id is not None and static is None):
        raise Refused(KafkaCode.UNKNOWN_MEMBER_ID, "no such classic member here")
    return member


def sync(
    group: ConsumerGroup,
    event: events.SyncGroup,
    now_ms: int,
    token: int,
    effects: GroupEffects,
) -> None:
    """SyncGroup: what the member holds, as its own assignor would have said it."""
    member = _classic_member(group, event.member_id, event.group_instance_id)
    assert member.classic is not None, "checked before"
    name, metadata = member.classic.protocols[0]
    if event.protocol_type not in (None, CONSUMER) or event.protocol_name not in (None, name):
        raise Refused(KafkaCode.INCONSISTENT_GROUP_PROTOCOL, "another protocol was chosen")
    if event.generation_id != member.epoch:
        raise Refused(KafkaCode.ILLEGAL_GENERATION, "not the member's epoch")
    group.touch(member, now_ms)
    if group.epoch > member.epoch and member.state is not MemberState.UNREVOKED:
        _expect(member, "join", now_ms + member.rebalance_timeout_ms, effects)
        _expect(member, "sync", None, effects)
        effects.replies.append((token, SyncReply(error=KafkaCode.REBALANCE_IN_PROGRESS)))
        return
    _expect(member, "sync", None, effects)
    names = {UUID(bytes=topic.topic_id): topic.name for topic in group.topics.values()}
    places = [
        (names[topic], sorted(numbers))
        for topic, numbers in sorted(member.assigned.items())
        if topic in names
    ]
    reply = SyncReply(
        protocol_type=CONSUMER,
        protocol_name=name,
        assignment=encode_assignment(parse_subscription(metadata).version, places),
    )
    effects.replies.append((token, reply))


def heartbeat(
    group: ConsumerGroup,
    event: events.Heartbeat,
    now_ms: int,
    token: int,
    effects: GroupEffects,
) -> None:
    """Heartbeat: 27 when the member should join again."""
    member = _classic_member(group, event.member_id, event.group_instance_id)
    if event.generation_id != member.epoch:
        raise Refused(KafkaCode.ILLEGAL_GENERATION, "not the member's epoch")
    group.touch(member, now_ms)
    again = (
        member.epoch < group.epoch
        or member.state is MemberState.UNREVOKED
        or (member.state is MemberState.UNRELEASED and group.has_free(member))
    )
    if again:
        _expect(member, "join", now_ms + member.rebalance_timeout_ms, effects)
    error = KafkaCode.REBALANCE_IN_PROGRESS if again else KafkaCode.NONE
    effects.replies.append((token, ErrorReply(error)))


def leave(
    group: ConsumerGroup, event: events.LeaveGroup, token: int, effects: GroupEffects
) -> None:
    """LeaveGroup, of one or many; static members by their instance id alone, too."""
    left = []
    for leaving in event.members:
        static = group.static(leaving.group_instance_id)
        member = group.members.get(leaving.member_id) if leaving.member_id else static
        error = KafkaCode.NONE
        if leaving.member_id and static is not None and static is not member:
            error = KafkaCode.FENCED_INSTANCE_ID
        elif member is None or (leaving.group_instance_id is not None and static is None):
            error = KafkaCode.UNKNOWN_MEMBER_ID
        else:
            group.remove(member, effects)
        left.append(LeftMember(leaving.member_id, leaving.group_instance_id, error))
    effects.replies.append((token, LeaveReply(members=left)))


# From one protocol to the other


def upgrade(
    classic: ClassicGroup, group: ConsumerGroup, light: Iterable[tuple[bytes, bytes]]
) -> None:
    """Fill a new consumer group from a classic group; raises Refused when its members do not speak
    the embedded protocol. `light`: light topics that were found."""
    try:
        parsed = [
            (
                member,
                parse_subscription(
                    member.metadata(classic.protocol_name) or member.protocols[0][1]
                ),
                parse_assignment(member.assignment),
            )
            for member in classic.members
        ]
    except Malformed as error:
        raise _not_embedded(classic) from error
    if classic.protocol_type != CONSUMER:
        raise _not_embedded(classic)
    group.epoch = group.target_epoch = classic.generation_id
    wanted = {topic for _, subscription, _ in parsed for topic in subscription.topics}
    group.know(wanted, light)
    for member, subscription, assignment in parsed:
        made = group.add(member.member_id)
        made.describes_itself(_as_record(member, subscription))
        if made.instance_id is not None:
            group.name_static(made, made.instance_id)
        held = _by_id(group, assignment)
        group.give(made, held, classic.generation_id)


def _not_embedded(classic: ClassicGroup) -> Refused:
    return Refused(
        KafkaCode.GROUP_ID_NOT_FOUND,
        f"{classic.group_id} is a classic group whose members do not use the consumer protocol",
    )


def _as_record(member: Member, subscription: EmbeddedSubscription) -> ConsumerMemberRecord:
    return ConsumerMemberRecord(
        member.member_id,
        member.group_instance_id,
        subscription.rack_id,
        member.client_id,
        member.client_host,
        member.rebalance_timeout_ms,
        subscription.topics,
        None,
        None,
        ClassicPart(member.session_timeout_ms, member.protocols),
    )


def may_downgrade(group: ConsumerGroup, settings: GroupSettings) -> bool:
    """Only classic members are left, and a classic group may be this large."""
    return (
        group.settings.downgrade
        and 0 < len(group.members) <= settings.max_size
        and all(member.classic is not None for member in group.members.values())
    )


def downgrade(group: ConsumerGroup, classic: ClassicGroup) -> None:
    """Fill a new classic group from a consumer group; its members are yet to rebalance."""
    names = {UUID(bytes=topic.topic_id): topic.name for topic in group.topics.values()}
    members = []
    for member in group.members.values():
        assert member.classic is not None, "only classic members are left"
        held = [
            (names[topic], sorted(numbers))
            for topic, numbers in sorted(member.assigned.items())
            if topic in names
        ]
        version = parse_subscription(member.classic.protocols[0][1]).version
        members.append(
            Member(
                member.member_id,
                member.instance_id,
                member.client_id,
                member.client_host,
                member.classic.session_timeout_ms,
                member.rebalance_timeout_ms,
                member.classic.protocols,
                encode_assignment(version, held),
            ).record()
        )
    classic.replay(
        GenerationRecord(group.epoch, CONSUMER, None, members[0].member_id, members, False)
    )
    classic.protocol_name = classic.members.vote()
