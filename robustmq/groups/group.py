"""A consumer group: its offsets, and its members by one of two protocols.

There is one machine for each group id (robustmq.groups.contract). It holds what both protocols have
alike (committed offsets, their retention, administration) and one membership: classic
(robustmq.groups.classic), consumer (robustmq.groups.consumer), or none, when somebody merely
commits offsets. The protocol of a group can change: an empty group takes that of whoever joins, a
live one is converted when its members allow it (robustmq.groups.consumer_classic).

Invariant: a commit and the membership it is checked against are decided in one place and one order,
so an offset of somebody who is no member any more is never stored.
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq.errors import KafkaCode
from robustmq.groups import consumer_classic
from robustmq.groups.classic import DEFAULT_SETTINGS, ClassicGroup, GroupSettings
from robustmq.groups.consumer import (
    ConsumerGroup,
    ConsumerSettings,
    GroupEffects,
    GroupView,
    Refused,
)
from robustmq.groups.contract import Effects
from robustmq.groups.offsets import OffsetTable
from robustmq.groups.records import (
    EmptySinceRecord,
    GenerationRecord,
    GroupDeletedRecord,
    GroupRecord,
    OffsetDeletedRecord,
    OffsetRecord,
    OffsetsEndedRecord,
    PendingOffsetRecord,
)
from robustmq.kafka import group_events as events
from robustmq.kafka.consumer_events import (
    JOIN_EPOCH,
    ConsumerDescribeReply,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    DescribeConsumerGroup,
    ExpireOffsets,
    TopicsChanged,
    TopicsFound,
)
from robustmq.kafka.group_events import (
    CommitReply,
    DeleteOffsetsReply,
    DescribeReply,
    ErrorReply,
    GroupEvent,
    GroupListing,
    GroupReply,
    JoinReply,
    LeaveReply,
    OffsetsReply,
    SyncReply,
)

DEFAULT_CONSUMER_SETTINGS = ConsumerSettings()
MEMBERSHIP_EVENTS = (events.JoinGroup, events.SyncGroup, events.Heartbeat, events.LeaveGroup)


class Group:
    """One group. `handle` decides, `replay` and `snapshot` rebuild."""

    def __init__(
        self,
        group_id: str,
        view: GroupView,
        settings: GroupSettings = DEFAULT_SETTINGS,
        consumer_settings: ConsumerSettings = DEFAULT_CONSUMER_SETTINGS,
    ) -> None:
        self.group_id = group_id
        self.settings = settings
        self.consumer_settings = consumer_settings
        self.offsets = OffsetTable(settings.offset_metadata_max_bytes)
        self.membership: ClassicGroup | ConsumerGroup | None = None
        self._view = view
        self._pending: set[str] = set()
        """Ids given to classic members that have yet to join a consumer group with them."""
        self._empty_since_ms: int | None = None

    # The contract

    @property
    def disposable(self) -> bool:
        """True when there is nothing to remember: nobody is a member, nothing was committed."""
        return self.membership is None and not self._has_offsets

    @property
    def _has_offsets(self) -> bool:
        return len(self.offsets) > 0 or self.offsets.has_pending

    def handle(self, event: GroupEvent, now_ms: int, token: int = 0) -> GroupEffects:
        """Take an event: what to store, whom to answer, which timers to set."""
        effects: GroupEffects = Effects()
        try:
            _HANDLERS[type(event)](self, event, now_ms, token, effects)
        except Refused as refused:
            effects.replies.append((token, _refusal(event, refused)))
        if isinstance(self.membership, ClassicGroup) and self.membership.disposable:
            self.membership = None
        return effects

    def replay(self, record: GroupRecord) -> None:
        """Apply a record in recovery; timers and waiting callers come with `Resumed` and with the
        clients.
        """
        if isinstance(
            record, OffsetRecord | PendingOffsetRecord | OffsetsEndedRecord | OffsetDeletedRecord
        ):
            self.offsets.replay(record)
        elif isinstance(record, GroupDeletedRecord):
            self._forget()
        elif isinstance(record, EmptySinceRecord):
            self._empty_since_ms = record.timestamp_ms
        elif isinstance(record, GenerationRecord):
            if not isinstance(self.membership, ClassicGroup):
                self.membership = ClassicGroup(self.group_id, self.settings)
            self.membership.replay(record)
            self._empty_since_ms = None
        else:
            if not isinstance(self.membership, ConsumerGroup):
                self.membership = self._new_consumer_group()
            self.membership.replay(record)
            self._empty_since_ms = None

    def snapshot(self) -> list[GroupRecord]:
        """The membership and all offsets."""
        records = [] if self.membership is None else self.membership.snapshot()
        if self._empty_since_ms is not None:
            records.append(EmptySinceRecord(self._empty_since_ms))
        return [*records, *self.offsets.snapshot()]

    @property
    def state(self) -> str:
        """As ListGroups shows it; Dead: there is no such group."""
        if self.membership is not None:
            return str(self.membership.state)
        return "Empty" if self._has_offsets else "Dead"

    @property
    def group_type(self) -> str:
        """As ListGroups shows it."""
        return "consumer" if isinstance(self.membership, ConsumerGroup) else "classic"

    def listing(self) -> GroupListing:
        """The group as ListGroups shows it."""
        return GroupListing(self.group_id, self._protocol_type, self.state, self.group_type)

    @property
    def _protocol_type(self) -> str:
        if isinstance(self.membership, ClassicGroup):
            return self.membership.protocol_type
        return "" if self.membership is None else "consumer"

    @property
    def _has_members(self) -> bool:
        return self.membership is not None and len(self.membership.members) > 0

    @property
    def _is_share_group(self) -> bool:
        return self.disposable and self._view.is_share_group(self.group_id)

    def _new_consumer_group(self) -> ConsumerGroup:
        return ConsumerGroup(self.group_id, self.consumer_settings, self._view)

    # Members

    def _on_membership(
        self, event: GroupEvent, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        """An event of the classic protocol."""
        group = self.membership
        joins = isinstance(event, events.JoinGroup)
        if isinstance(group, ConsumerGroup) and (group.members or not joins):
            self._serve_classic(group, event, now_ms, token, effects)
            return
        if joins and self._is_share_group:
            raise Refused(KafkaCode.INCONSISTENT_GROUP_PROTOCOL, "a share group has this id")
        if not isinstance(group, ClassicGroup):
            group = ClassicGroup(self.group_id, self.settings)
        answer = group.handle(event, now_ms, token)
        if not group.disposable:
            self.membership = group
        _extend(effects, answer)
        self._seen()

    def _serve_classic(
        self,
        group: ConsumerGroup,
        event: GroupEvent,
        now_ms: int,
        token: int,
        effects: GroupEffects,
    ) -> None:
        if isinstance(event, events.JoinGroup):
            consumer_classic.join(
                group, event, self.settings, self._pending, now_ms, token, effects
            )
        elif isinstance(event, events.SyncGroup):
            consumer_classic.sync(group, event, now_ms, token, effects)
        elif isinstance(event, events.Heartbeat):
            consumer_classic.heartbeat(group, event, now_ms, token, effects)
        elif isinstance(event, events.LeaveGroup):
            consumer_classic.leave(group, event, token, effects)
        self._seen()
        if isinstance(event, events.JoinGroup | events.LeaveGroup):
            self._maybe_downgrade(now_ms, effects)

    def _on_consumer_heartbeat(
        self, event: ConsumerHeartbeat, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        group = self.membership
        if isinstance(group, ConsumerGroup):
            group.heartbeat(event, now_ms, token, effects)
        elif event.epoch != JOIN_EPOCH:
            found = "no" if group is None else "a classic"
            raise Refused(
                KafkaCode.GROUP_ID_NOT_FOUND,
                f"{self.group_id} is {found} group, not a consumer one",
            )
        elif self._is_share_group:
            raise Refused(
                KafkaCode.GROUP_ID_NOT_FOUND,
                f"{self.group_id} is a share group, not a consumer one",
            )
        else:
            self._become_consumer_group(group, event, now_ms, token, effects)
        self._seen()
        if event.epoch < JOIN_EPOCH:
            self._maybe_downgrade(now_ms, effects)

    def _become_consumer_group(
        self,
        classic: ClassicGroup | None,
        event: ConsumerHeartbeat,
        now_ms: int,
        token: int,
        effects: GroupEffects,
    ) -> None:
        """A member of the new protocol joins a group that is not of it."""
        group = self._new_consumer_group()
        live = classic is not None and len(classic.members) > 0
        if classic is not None and live:
            if not self.consumer_settings.upgrade:
                raise Refused(
                    KafkaCode.GROUP_ID_NOT_FOUND,
                    f"{self.group_id} is a classic group, and groups are not upgraded here",
                )
            consumer_classic.upgrade(classic, group, event.light)
        started: GroupEffects = Effects(records=group.snapshot())
        group.heartbeat(event, now_ms, token, started)
        if classic is not None:
            classic.release_all(effects)
        for member in group.members.values():
            if member.classic is not None:
                group.arm(member, now_ms, effects)
        self.membership = group
        _extend(effects, started)

    def _maybe_downgrade(self, now_ms: int, effects: GroupEffects) -> None:
        group = self.membership
        if not isinstance(group, ConsumerGroup):
            return
        if not consumer_classic.may_downgrade(group, self.settings):
            return
        classic = ClassicGroup(self.group_id, self.settings)
        consumer_classic.downgrade(group, classic)
        for member_id in group.members:
            group.forget_timers(member_id, effects)
        self.membership = classic
        classic.take_over(now_ms, effects)

    def _on_timer(
        self, event: events.TimerFired, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if isinstance(self.membership, ClassicGroup):
            _extend(effects, self.membership.handle(event, now_ms))
        elif self.membership is not None:
            kind, _, member_id = event.key.partition(":")
            if kind == "pending":
                self._pending.discard(member_id)
            else:
                self.membership.timer(event.key, now_ms, effects)
                self._maybe_downgrade(now_ms, effects)

    def _on_resumed(
        self, event: events.Resumed, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if isinstance(self.membership, ClassicGroup):
            _extend(effects, self.membership.handle(event, now_ms))
        elif self.membership is not None:
            self.membership.resume(now_ms, effects)

    def _seen(self) -> None:
        """The group has members again."""
        if self._empty_since_ms is not None and self._has_members:
            self._empty_since_ms = None

    # Topics

    def _on_topics_found(
        self, event: TopicsFound, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if isinstance(self.membership, ConsumerGroup):
            self.membership.topics_found(event, effects)
        effects.replies.append((token, ErrorReply()))

    def _on_topics_changed(
        self, event: TopicsChanged, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if isinstance(self.membership, ConsumerGroup):
            self.membership.topics_changed(effects)

    def _on_forget_topic(
        self, event: events.ForgetTopic, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        effects.records.extend(self.offsets.forget_topic(event.topic))
        if isinstance(self.membership, ConsumerGroup):
            self.membership.forget_topic(event.topic, effects)

    # Offsets

    def _on_commit(
        self, event: events.CommitOffsets, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        error = self.refuse_commit(event, now_ms)
        if error:
            effects.replies.append((token, CommitReply([error] * len(event.offsets))))
            return
        records, errors = self.offsets.commit(event)
        effects.records.extend(records)
        effects.replies.append((token, CommitReply(errors)))

    def refuse_commit(self, event: events.CommitOffsets, now_ms: int) -> int:
        """Why offsets may not be committed by this member; 0: they may. Who says nothing of the
        membership may in a transaction: older clients cannot (KIP-447)."""
        silent = not event.member_id and event.group_instance_id is None
        if event.producer_id >= 0 and event.generation_id < 0 and silent:
            return KafkaCode.NONE
        if isinstance(self.membership, ConsumerGroup):
            return self.membership.refuse_commit(event)
        if self.membership is not None:
            return self.membership.refuse_commit(event, now_ms)
        if event.generation_id < 0:
            return KafkaCode.NONE
        if self._has_offsets:
            return KafkaCode.UNKNOWN_MEMBER_ID
        if event.by_generation or event.producer_id >= 0:
            return KafkaCode.ILLEGAL_GENERATION
        return KafkaCode.GROUP_ID_NOT_FOUND

    def _on_end_offsets(
        self, event: events.EndOffsets, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        effects.records.extend(self.offsets.end(event))
        effects.replies.append((token, ErrorReply()))

    def _on_fetch_offsets(
        self, event: events.FetchOffsets, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        error = 0
        if isinstance(self.membership, ConsumerGroup):
            error = self.membership.refuse_fetch(event.member_id, event.member_epoch)
        found = [] if error else self.offsets.fetch(event.partitions, event.require_stable)
        effects.replies.append((token, OffsetsReply(error, found)))

    def _on_delete_offsets(
        self, event: events.DeleteOffsets, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if self.disposable:
            reply = DeleteOffsetsReply(error=KafkaCode.GROUP_ID_NOT_FOUND)
        elif self._has_members and self._protocol_type != "consumer":
            reply = DeleteOffsetsReply(error=KafkaCode.NON_EMPTY_GROUP)
        else:
            used = set() if self.membership is None else self.membership.subscribed()
            errors = []
            for topic, partition in event.partitions:
                if topic in used:
                    errors.append(int(KafkaCode.GROUP_SUBSCRIBED_TO_TOPIC))
                else:
                    effects.records.extend(self.offsets.delete(topic, partition))
                    errors.append(int(KafkaCode.NONE))
            reply = DeleteOffsetsReply(errors=errors)
        effects.replies.append((token, reply))

    def _on_expire(
        self, event: ExpireOffsets, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        """KIP-211: of an empty group all offsets go in time, of a live one those that nobody
        reads; a group without members and offsets goes too."""
        if self.disposable:
            return
        before_ms = event.timestamp_ms - self.settings.offsets_retention_ms
        if self._has_members:
            assert self.membership is not None, "it has members"
            if self._protocol_type == "consumer":
                used = self.membership.subscribed()
                effects.records.extend(self.offsets.expire(before_ms, used, None))
            return
        if self._empty_since_ms is None and self.membership is not None:
            self._empty_since_ms = event.timestamp_ms
            effects.records.append(EmptySinceRecord(event.timestamp_ms))
        empty_since_ms = self._empty_since_ms
        effects.records.extend(self.offsets.expire(before_ms, set(), empty_since_ms))
        old_ms = event.timestamp_ms - self.settings.empty_retention_ms
        if not self._has_offsets and (empty_since_ms is None or empty_since_ms <= old_ms):
            self._forget()
            effects.records.append(GroupDeletedRecord())

    # Administration

    def _on_describe(
        self, event: events.DescribeGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if isinstance(self.membership, ConsumerGroup):
            reply = DescribeReply(other_type="consumer")
        elif self.membership is None:
            reply = DescribeReply(state=self.state)
        else:
            reply = self.membership.describe()
        effects.replies.append((token, reply))

    def _on_describe_consumer(
        self, event: DescribeConsumerGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if isinstance(self.membership, ConsumerGroup):
            effects.replies.append((token, self.membership.describe()))
            return
        what = "no group" if self.disposable else "a classic group, not a consumer group"
        raise Refused(KafkaCode.GROUP_ID_NOT_FOUND, f"{self.group_id} is {what}")

    def _on_delete(
        self, event: events.DeleteGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        if self.disposable:
            error = KafkaCode.GROUP_ID_NOT_FOUND
        elif self._has_members:
            error = KafkaCode.NON_EMPTY_GROUP
        else:
            error = KafkaCode.NONE
            self._forget()
            effects.records.append(GroupDeletedRecord())
        effects.replies.append((token, ErrorReply(error)))

    def _forget(self) -> None:
        self.offsets.clear()
        self.membership = None
        self._empty_since_ms = None


def _extend(effects: GroupEffects, more: GroupEffects) -> None:
    effects.records.extend(more.records)
    effects.replies.extend(more.replies)
    effects.timers.extend(more.timers)


def _refusal(event: GroupEvent, refused: Refused) -> GroupReply:
    """The reply of the event's own kind."""
    code, message = int(refused.code), refused.message
    if isinstance(event, ConsumerHeartbeat):
        return ConsumerHeartbeatReply(code, message)
    if isinstance(event, DescribeConsumerGroup):
        return ConsumerDescribeReply(code, message)
    if isinstance(event, events.JoinGroup):
        return JoinReply(error=code, member_id=event.member_id)
    if isinstance(event, events.SyncGroup):
        return SyncReply(error=code)
    if isinstance(event, events.LeaveGroup):
        return LeaveReply(error=code)
    return ErrorReply(code)


_HANDLERS: dict[type, Callable[..., None]] = {
    **dict.fromkeys(MEMBERSHIP_EVENTS, Group._on_membership),
    ConsumerHeartbeat: Group._on_consumer_heartbeat,
    events.CommitOffsets: Group._on_commit,
    events.EndOffsets: Group._on_end_offsets,
    events.FetchOffsets: Group._on_fetch_offsets,
    events.DeleteOffsets: Group._on_delete_offsets,
    ExpireOffsets: Group._on_expire,
    TopicsFound: Group._on_topics_found,
    TopicsChanged: Group._on_topics_changed,
    events.ForgetTopic: Group._on_forget_topic,
    events.DescribeGroup: Group._on_describe,
    DescribeConsumerGroup: Group._on_describe_consumer,
    events.DeleteGroup: Group._on_delete,
    events.TimerFired: Group._on_timer,
    events.Resumed: Group._on_resumed,
}
