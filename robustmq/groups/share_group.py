"""A share group: members, their subscriptions and what each is assigned (KIP-932, "Share groups").

    Dead --first member--> Stable <--> Empty (the last member left); Empty --DeleteGroups--> Dead

A change of members, subscriptions or topics makes a new group epoch and a new target assignment.
Nothing has to be taken away before it is given, so a member is at the newest epoch with its next
heartbeat, whatever the others do.

Invariants: member epochs rise and never pass the group's; a member that says another epoch than
its last two is fenced; every member has a session timer. Topics are looked up by the handlers: the
group says in a reply when it wants to be told (`look_up`), at most every `assignment_interval_ms`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from robustmq.errors import KafkaCode
from robustmq.groups.contract import Effects
from robustmq.groups.share_assignor import Partition, assign
from robustmq.groups.share_records import (
    ShareEpochRecord,
    ShareGroupDeletedRecord,
    ShareGroupRecord,
    ShareMemberRecord,
    ShareMemberRemovedRecord,
    ShareTopicRecord,
)
from robustmq.kafka import share_events as events
from robustmq.kafka.group_events import GroupListing
from robustmq.kafka.share_events import (
    HeartbeatReply,
    ShareDescription,
    ShareGroupEvent,
    ShareGroupReply,
    ShareGroupResult,
    ShareMemberDescription,
    TopicShape,
)

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
GroupEffects = Effects[ShareGroupRecord, ShareGroupReply]


class ShareGroupSettings(msgspec.Struct, frozen=True):
    """The group's settings of robustmq.kafka.group_configs, and group.share.max.size."""

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    assignment_interval_ms: int = 1_000
    max_size: int = 200


DEFAULT_SETTINGS = ShareGroupSettings()


class _Member(msgspec.Struct):
    """A member; `assignment` is what it was told at `member_epoch`."""

    member_id: str
    rack_id: str | None
    client_id: str
    client_host: str
    topics: frozenset[bytes]
    member_epoch: int = 0
    previous_epoch: int = 0
    assignment: set[Partition] = msgspec.field(default_factory=set)
    session_deadline_ms: int = 0


class ShareGroup:
    """One share group. `handle` decides, `replay` and `snapshot` rebuild
    (robustmq.groups.contract).
    """

    def __init__(
        self, group_id: str, settings: Callable[[], ShareGroupSettings] = lambda: DEFAULT_SETTINGS
    ) -> None:
        """`settings` are those in force now."""
        self.group_id = group_id
        self._settings = settings
        self.exists = False
        self.group_epoch = 0
        self._members: dict[str, _Member] = {}
        self._known: dict[bytes, ShareTopicRecord] = {}
        """Topics that the group has state of."""
        self._shapes: dict[bytes, TopicShape] = {}
        """Topics as they were when last looked up."""
        self._target: dict[str, set[Partition]] = {}
        self._look_up_ms: int | None = None

    # The contract

    @property
    def disposable(self) -> bool:
        """True when there is nothing to remember."""
        return not self.exists

    @property
    def state(self) -> str:
        """As ShareGroupDescribe names it."""
        if not self.exists:
            return "Dead"
        return "Stable" if self._members else "Empty"

    def handle(self, event: ShareGroupEvent, now_ms: int, token: int = 0) -> GroupEffects:
        """Take an event: what to store, whom to answer, which timers to set."""
        effects: GroupEffects = Effects()
        reply = _HANDLERS[type(event)](self, event, now_ms, effects)
        if reply is not None:
            effects.replies.append((token, reply))
        return effects

    def replay(self, record: ShareGroupRecord) -> None:
        """Apply a record in recovery."""
        match record:
            case ShareMemberRecord():
                self.exists = True
                self._members[record.member_id] = _Member(
                    record.member_id,
                    record.rack_id,
                    record.client_id,
                    record.client_host,
                    frozenset(record.topics),
                    record.member_epoch,
                    record.previous_epoch,
                    {(topic, one) for topic, many in record.assignment.items() for one in many},
                )
            case ShareMemberRemovedRecord():
                self._members.pop(record.member_id, None)
            case ShareEpochRecord():
                self.exists = True
                self.group_epoch = record.group_epoch
                self._known = {topic.name: topic for topic in record.topics}
            case ShareGroupDeletedRecord():
                self._forget()

    def snapshot(self) -> list[ShareGroupRecord]:
        """The epoch with the topics, and all members."""
        if not self.exists:
            return []
        return [self._epoch_record(), *map(_member_record, self._members.values())]

    def listing(self) -> GroupListing:
        """The group as ListGroups shows it."""
        return GroupListing(self.group_id, "share", self.state, "share")

    # Heartbeats

    def _on_heartbeat(
        self, event: events.ShareHeartbeat, now_ms: int, effects: GroupEffects
    ) -> HeartbeatReply:
        member = self._members.get(event.member_id)
        if event.member_epoch == LEAVE_EPOCH:
            return self._leave(event.member_id, effects)
        if event.member_epoch != JOIN_EPOCH:
            refused = self._refuse(event, member)
            if refused is not None:
                return refused
        elif member is None and len(self._members) >= self._settings().max_size:
            full = f"The share group has reached its maximum capacity of {len(self._members)}."
            return HeartbeatReply(KafkaCode.GROUP_MAX_SIZE_REACHED, full)
        member = self._take_in(event, member, effects)
        self._touch(member, now_ms, effects)
        told = member.member_epoch if event.member_epoch != JOIN_EPOCH else -1
        self._advance(member, effects)
        asked = self._to_look_up(now_ms)
        whole = event.topics is not None or told != member.member_epoch
        return self._reply(member, whole, asked)

    def _refuse(
        self, event: events.ShareHeartbeat, member: _Member | None
    ) -> HeartbeatReply | None:
        if not self.exists:
            return HeartbeatReply(
                KafkaCode.GROUP_ID_NOT_FOUND, f"Share group {self.group_id} not found."
            )
        if member is None:
            return HeartbeatReply(
                KafkaCode.UNKNOWN_MEMBER_ID,
                f"Member {event.member_id} is not a member of group {self.group_id}.",
            )
        if event.member_epoch not in (member.member_epoch, member.previous_epoch):
            return HeartbeatReply(
                KafkaCode.FENCED_MEMBER_EPOCH,
                f"The share group member has another epoch ({member.member_epoch}); "
                "it must join again.",
            )
        return None

    def _take_in(
        self, event: events.ShareHeartbeat, member: _Member | None, effects: GroupEffects
    ) -> _Member:
        """The member as it says that it is; what changes makes a new epoch."""
        topics = frozenset(event.topics or ())
        if member is None:
            member = self._members[event.member_id] = _Member(
                event.member_id, event.rack_id, event.client_id, event.client_host, topics
            )
            self.exists = True
        elif event.topics is None or topics == member.topics:
            return member
        member.topics = topics
        self._look_up_ms = None
        self._next_epoch(effects)
        return member

    def _leave(self, member_id: str, effects: GroupEffects) -> HeartbeatReply:
        if not self.exists:
            return HeartbeatReply(KafkaCode.GROUP_ID_NOT_FOUND, f"Group {self.group_id} not found.")
        if member_id not in self._members:
            return HeartbeatReply(
                KafkaCode.UNKNOWN_MEMBER_ID,
                f"Member {member_id} is not a member of group {self.group_id}.",
            )
        self._remove(member_id, effects)
        return HeartbeatReply(member_id=member_id, member_epoch=LEAVE_EPOCH)

    def _remove(self, member_id: str, effects: GroupEffects) -> None:
        del self._members[member_id]
        effects.timers.append((None, f"session:{member_id}"))
        effects.records.append(ShareMemberRemovedRecord(member_id))
        self._next_epoch(effects)

    def _to_look_up(self, now_ms: int) -> list[bytes]:
        if self._look_up_ms is not None and now_ms < self._look_up_ms:
            return []
        self._look_up_ms = now_ms + max(self._settings().assignment_interval_ms, 1)
        return sorted({topic for member in self._members.values() for topic in member.topics})

    def _on_topics(
        self, event: events.TopicsSeen, now_ms: int, effects: GroupEffects
    ) -> HeartbeatReply:
        member = self._members.get(event.member_id)
        if member is None:
            return HeartbeatReply(KafkaCode.UNKNOWN_MEMBER_ID)
        shapes = {topic.name: topic for topic in event.topics}
        wanted = {topic for one in self._members.values() for topic in one.topics}
        missing = wanted.difference(event.asked)
        # Of those that were subscribed meanwhile, nothing was said.
        shapes |= {topic: self._shapes[topic] for topic in missing if topic in self._shapes}
        if shapes != self._shapes:
            self._shapes = shapes
            self._know(shapes.values())
            self._next_epoch(effects)
        epoch = member.member_epoch
        self._advance(member, effects)
        return self._reply(member, True if epoch != member.member_epoch else None, [])

    def _know(self, topics: object) -> None:
        for topic in topics:  # type: ignore[attr-defined]
            known = self._known.get(topic.name)
            partitions = topic.partitions
            if known is not None and known.topic_id == topic.topic_id:
                partitions = max(partitions, known.partitions)
            self._known[topic.name] = ShareTopicRecord(topic.name, topic.topic_id, partitions)

    def _reply(self, member: _Member, whole: bool | None, asked: list[bytes]) -> HeartbeatReply:
        assignment = None
        if whole:
            assignment = self._told(member)
        return HeartbeatReply(
            member_id=member.member_id,
            member_epoch=member.member_epoch,
            heartbeat_interval_ms=self._settings().heartbeat_interval_ms,
            assignment=assignment,
            look_up=asked,
        )

    def _told(self, member: _Member) -> list[tuple[bytes, list[int]]]:
        return [
            (self._known[topic].topic_id, numbers)
            for topic, numbers in sorted(_by_topic(member.assignment).items())
        ]

    # Epochs and assignments

    def _next_epoch(self, effects: GroupEffects) -> None:
        self.group_epoch += 1
        self._assign()
        effects.records.append(self._epoch_record())

    def _assign(self) -> None:
        self._target = assign(
            {member_id: member.topics for member_id, member in self._members.items()},
            {topic.name: topic.partitions for topic in self._shapes.values()},
            {member_id: member.assignment for member_id, member in self._members.items()},
        )

    def _advance(self, member: _Member, effects: GroupEffects) -> None:
        """A member is at the group's epoch from now on."""
        if member.member_epoch == self.group_epoch:
            return
        member.previous_epoch = member.member_epoch
        member.member_epoch = self.group_epoch
        if self._shapes or not member.assignment:
            member.assignment = self._target.get(member.member_id, set())
        effects.records.append(_member_record(member))

    def _epoch_record(self) -> ShareEpochRecord:
        return ShareEpochRecord(
            self.group_epoch, [self._known[name] for name in sorted(self._known)]
        )

    # Administration

    def _on_describe(
        self, event: events.DescribeShareGroup, now_ms: int, effects: GroupEffects
    ) -> ShareDescription:
        members = [
            ShareMemberDescription(
                member.member_id,
                member.rack_id,
                member.member_epoch,
                member.client_id,
                member.client_host,
                sorted(member.topics),
                [
                    (self._known[topic].topic_id, topic, numbers)
                    for topic, numbers in sorted(_by_topic(member.assignment).items())
                ],
            )
            for member in self._members.values()
        ]
        topics = [
            TopicShape(topic.name, topic.topic_id, topic.partitions)
            for topic in self._known.values()
        ]
        return ShareDescription(self.state, self.group_epoch, self.group_epoch, members, topics)

    def _on_delete(
        self, event: events.DeleteShareGroup, now_ms: int, effects: GroupEffects
    ) -> ShareGroupResult:
        error = self._refuse_change()
        if not error:
            self._forget()
            effects.records.append(ShareGroupDeletedRecord())
        return ShareGroupResult(error)

    def _on_drop(self, event: events.DropShareTopic, now_ms: int, effects: GroupEffects) -> None:
        if event.topic in self._known:
            self._shapes.pop(event.topic, None)
            del self._known[event.topic]
            for member in self._members.values():
                member.assignment = {one for one in member.assignment if one[0] != event.topic}
            self._next_epoch(effects)

    def _on_forget(
        self, event: events.ForgetShareTopics, now_ms: int, effects: GroupEffects
    ) -> ShareGroupResult:
        error = self._refuse_change()
        if not error:
            for topic in event.topics:
                self._known.pop(topic, None)
                self._shapes.pop(topic, None)
            self._next_epoch(effects)
        return ShareGroupResult(error, self.group_epoch)

    def _on_touch(
        self, event: events.TouchShareTopics, now_ms: int, effects: GroupEffects
    ) -> ShareGroupResult:
        error = KafkaCode.NON_EMPTY_GROUP if self._members else KafkaCode.NONE
        if not error:
            self.exists = True
            self._know(event.topics)
            self._next_epoch(effects)
        return ShareGroupResult(error, self.group_epoch)

    def _refuse_change(self) -> int:
        if not self.exists:
            return KafkaCode.GROUP_ID_NOT_FOUND
        return KafkaCode.NON_EMPTY_GROUP if self._members else KafkaCode.NONE

    # Timers and recovery

    def _touch(self, member: _Member, now_ms: int, effects: GroupEffects) -> None:
        """A sign of life. The session timer is set once: it looks at the deadline when it fires."""
        armed = member.session_deadline_ms
        member.session_deadline_ms = now_ms + self._settings().session_timeout_ms
        if not armed:
            key = f"session:{member.member_id}"
            effects.timers.append((member.session_deadline_ms, key))

    def _on_timer(self, event: events.ShareTimer, now_ms: int, effects: GroupEffects) -> None:
        member = self._members.get(event.key.partition(":")[2])
        if member is None:
            return
        if now_ms < member.session_deadline_ms:
            effects.timers.append((member.session_deadline_ms, event.key))
        else:
            self._remove(member.member_id, effects)

    def _on_resumed(
        self, event: events.ShareGroupResumed, now_ms: int, effects: GroupEffects
    ) -> None:
        for member in self._members.values():
            self._touch(member, now_ms, effects)
        self._shapes = {
            name: TopicShape(name, topic.topic_id, topic.partitions)
            for name, topic in self._known.items()
        }
        self._assign()

    def _forget(self) -> None:
        self.exists = False
        self.group_epoch = 0
        self._members.clear()
        self._known.clear()
        self._shapes.clear()
        self._target.clear()
        self._look_up_ms = None


def _by_topic(assignment: set[Partition]) -> dict[bytes, list[int]]:
    topics: dict[bytes, list[int]] = {}
    for topic, number in sorted(assignment):
        topics.setdefault(topic, []).append(number)
    return topics


def _member_record(member: _Member) -> ShareMemberRecord:
    return ShareMemberRecord(
        member.member_id,
        member.rack_id,
        member.client_id,
        member.client_host,
        sorted(member.topics),
        member.member_epoch,
        member.previous_epoch,
        _by_topic(member.assignment),
    )


_HANDLERS: dict[type, Callable[..., ShareGroupReply | None]] = {
    events.ShareHeartbeat: ShareGroup._on_heartbeat,
    events.TopicsSeen: ShareGroup._on_topics,
    events.DescribeShareGroup: ShareGroup._on_describe,
    events.DeleteShareGroup: ShareGroup._on_delete,
    events.DropShareTopic: ShareGroup._on_drop,
    events.ForgetShareTopics: ShareGroup._on_forget,
    events.TouchShareTopics: ShareGroup._on_touch,
    events.ShareTimer: ShareGroup._on_timer,
    events.ShareGroupResumed: ShareGroup._on_resumed,
}
