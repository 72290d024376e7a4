"""The consumer group whose assignments the coordinator makes (KIP-848, ConsumerGroupHeartbeat).

    Empty -> Assigning -> Reconciling -> Stable
             a member or topic comes,    all members are at the epoch of the target
             goes or changes

Three things are kept apart: the group's epoch (rises with every change of members, subscriptions
or topics), the target (who shall have what, made for an epoch by robustmq.groups.assignors), and
what each member has (robustmq.groups.consumer_members). There is no barrier: each member comes to
its target with its own heartbeats. Members that speak the classic protocol are served by
robustmq.groups.consumer_classic from the same state.

Invariants: a partition has one holder; a member's epoch is in the log before the member hears of
it; a heartbeat that changes nothing writes nothing. What the group cannot know it asks for in its
reply: light topics (their owners alone know them) and what a regular expression matches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

import msgspec

from robustmq.errors import KafkaCode
from robustmq.groups.assignors import ASSIGNORS, Assignment, Subscription
from robustmq.groups.consumer_members import (
    ConsumerMember,
    Holders,
    MemberState,
    Places,
    listed,
    placed,
    reconcile,
    within,
)
from robustmq.groups.consumer_records import (
    ConsumerCurrentRecord,
    ConsumerEpochRecord,
    ConsumerMemberGoneRecord,
    ConsumerMemberRecord,
    ConsumerPatternRecord,
    ConsumerRecord,
    ConsumerTargetRecord,
    ConsumerTopicsRecord,
    KnownTopic,
)
from robustmq.groups.contract import Effects
from robustmq.groups.records import GroupRecord
from robustmq.kafka import consumer_events as events
from robustmq.kafka.consumer_events import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    ConsumerDescribeReply,
    ConsumerDescription,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
)
from robustmq.kafka.group_events import CommitOffsets, GroupReply

GroupEffects = Effects[GroupRecord, GroupReply]

FIRST_EPOCH = 1
REGEX_MIN_MS = 1_000
"""How often what a regular expression matches is asked for at most, however topics change."""
LARGE = 1_000
"""Members and partitions of a group that is large: its targets are not made at every change."""


class ConsumerSettings(msgspec.Struct, frozen=True):
    """The names are those of Kafka's `group.consumer.*` settings."""

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    max_size: int = (1 << 31) - 1
    assignors: tuple[str, ...] = ("uniform", "range")
    migration_policy: str = "bidirectional"
    assignment_interval_ms: int = 1_000
    """How long a large group gathers changes before it makes the next target."""
    regex_refresh_interval_ms: int = 60_000
    """How long what a regular expression matches is good, if no declared topic changes."""

    @property
    def upgrade(self) -> bool:
        """Whether a classic group becomes one of this protocol while it has members."""
        return self.migration_policy in ("bidirectional", "upgrade")

    @property
    def downgrade(self) -> bool:
        """Whether a group becomes a classic one when only classic members are left."""
        return self.migration_policy in ("bidirectional", "downgrade")


class DeclaredTopic(Protocol):
    """A topic of the cluster's state."""

    @property
    def topic_id(self) -> UUID:
        """Its id."""

    @property
    def partitions(self) -> int:
        """How many it has."""


class TopicsView(Protocol):
    """The declared topics, as this worker knows them now."""

    def declared(self, name: bytes) -> DeclaredTopic | None:
        """A declared topic by name."""


class GroupView(TopicsView, Protocol):
    """What a group sees of the broker around it."""

    def group_times_ms(self, group_id: str) -> tuple[int, int] | None:
        """Session time-out and heartbeat interval that were set for this group; None: none
        were."""

    def is_share_group(self, group_id: str) -> bool:
        """Whether a share group has this id."""


class Refused(Exception):
    """An event that changes nothing; what its sender is told."""

    def __init__(self, code: KafkaCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ConsumerGroup:
    """Members, target and epochs of one group; robustmq.groups.group holds its offsets."""

    def __init__(self, group_id: str, settings: ConsumerSettings, view: GroupView) -> None:
        self.group_id = group_id
        self.settings = settings
        self.view = view
        self.epoch = FIRST_EPOCH
        self.target_epoch = FIRST_EPOCH
        self.assignor = settings.assignors[0]
        self.members: dict[str, ConsumerMember] = {}
        self.targets: dict[str, Assignment] = {}
        self.topics: dict[bytes, KnownTopic] = {}
        self.patterns: dict[str, list[bytes]] = {}
        self._static: dict[str, str] = {}
        self._holders = Holders()
        self._light: dict[bytes, bytes] = {}
        self._asked_ms: dict[str, int] = {}
        self._doubtful: set[str] = set()
        self._targeted_ms: int | None = None

    # Records

    def replay(self, record: ConsumerRecord) -> None:
        """Apply a record in recovery."""
        if isinstance(record, ConsumerEpochRecord):
            self.epoch = record.epoch
        elif isinstance(record, ConsumerTopicsRecord):
            self.topics = {topic.name: topic for topic in record.topics}
            self._light = {topic.name: topic.topic_id for topic in record.topics if topic.light}
        elif isinstance(record, ConsumerPatternRecord):
            if record.topics is None:
                self.patterns.pop(record.pattern, None)
            else:
                self.patterns[record.pattern] = record.topics
        elif isinstance(record, ConsumerTargetRecord):
            self.target_epoch = record.epoch
            for member_id, target in record.targets:
                self.targets[member_id] = placed(target)
        else:
            self._replay_member(record)

    def _replay_member(
        self, record: ConsumerMemberRecord | ConsumerMemberGoneRecord | ConsumerCurrentRecord
    ) -> None:
        if isinstance(record, ConsumerMemberGoneRecord):
            member = self.members.get(record.member_id)
            if member is not None:
                self._drop(member)
            return
        member = self.members.get(record.member_id)
        if member is None:
            member = self.members[record.member_id] = ConsumerMember(record.member_id)
        if isinstance(record, ConsumerMemberRecord):
            member.describes_itself(record)
            if member.instance_id is not None:
                self._static[member.instance_id] = member.member_id
        else:
            member.holds(record)

    def snapshot(self) -> list[GroupRecord]:
        """Records that rebuild the group."""
        records: list[GroupRecord] = [ConsumerEpochRecord(self.epoch), self._topics_record()]
        records += [
            ConsumerPatternRecord(pattern, topics) for pattern, topics in self.patterns.items()
        ]
        for member in self.members.values():
            records += [member.record(), member.current_record()]
        targets = [(name, listed(self.targets.get(name, {}))) for name in self.members]
        records.append(ConsumerTargetRecord(self.target_epoch, targets))
        return records

    def _topics_record(self) -> ConsumerTopicsRecord:
        return ConsumerTopicsRecord([self.topics[name] for name in sorted(self.topics)])

    # What others ask

    @property
    def generation_id(self) -> int:
        """The group's epoch, as a classic group would call it."""
        return self.epoch

    @property
    def state(self) -> str:
        """As ConsumerGroupDescribe and ListGroups name it."""
        if not self.members:
            return "Empty"
        if self.epoch > self.target_epoch:
            return "Assigning"
        for member in self.members.values():
            if member.state is not MemberState.STABLE or member.epoch != self.target_epoch:
                return "Reconciling"
        return "Stable"

    def static(self, instance_id: str | None) -> ConsumerMember | None:
        """The static member of that instance id."""
        member_id = None if instance_id is None else self._static.get(instance_id)
        return None if member_id is None else self.members[member_id]

    def subscribed(self) -> set[bytes]:
        """All topics that members want, whether they are there or not."""
        wanted: set[bytes] = set()
        for member in self.members.values():
            wanted |= member.topics
            if member.pattern is not None:
                wanted.update(self.patterns.get(member.pattern, ()))
        return wanted

    def refuse_commit(self, event: CommitOffsets) -> int:
        """Why offsets may not be committed; 0: they may.

        A commit with an earlier epoch is taken when the member has had each of the partitions
        since then (KIP-1251): its answer with the newer epoch was on the way.
        """
        if event.generation_id < 0 and not self.members:
            return KafkaCode.NONE
        member = self.members.get(event.member_id)
        if member is None:
            return KafkaCode.UNKNOWN_MEMBER_ID
        if member.classic is not None:
            same = event.generation_id == member.epoch
            return KafkaCode.NONE if same else KafkaCode.ILLEGAL_GENERATION
        if event.by_generation:
            return KafkaCode.UNSUPPORTED_VERSION
        if event.generation_id == member.epoch:
            return KafkaCode.NONE
        if not 0 <= event.generation_id < member.epoch:
            return KafkaCode.STALE_MEMBER_EPOCH
        for wanted in event.offsets:
            known = self.topics.get(wanted.topic)
            held = {} if known is None else member.assigned.get(UUID(bytes=known.topic_id), {})
            since = held.get(wanted.partition)
            if since is None or since > event.generation_id:
                return KafkaCode.STALE_MEMBER_EPOCH
        return KafkaCode.NONE

    def refuse_fetch(self, member_id: str | None, epoch: int) -> int:
        """Why offsets may not be read by a member; 0: they may."""
        if member_id is None and epoch < 0:
            return KafkaCode.NONE
        member = self.members.get(member_id or "")
        if member is None:
            return KafkaCode.UNKNOWN_MEMBER_ID
        return KafkaCode.NONE if epoch == member.epoch else KafkaCode.STALE_MEMBER_EPOCH

    def describe(self) -> ConsumerDescribeReply:
        """The answer to ConsumerGroupDescribe."""
        names = {topic.topic_id: topic.name for topic in self.topics.values()}

        def shown(places: Places) -> list[tuple[bytes, bytes, list[int]]]:
            return [
                (topic, names[topic], numbers)
                for topic, numbers in listed(places)
                if topic in names
            ]

        return ConsumerDescribeReply(
            0,
            None,
            self.state,
            self.epoch,
            self.target_epoch,
            self.assignor,
            [
                ConsumerDescription(
                    member.member_id,
                    member.instance_id,
                    member.rack_id,
                    member.epoch,
                    member.client_id,
                    member.client_host,
                    sorted(member.topics),
                    member.pattern,
                    shown({topic: set(held) for topic, held in _held(member).items()}),
                    shown(self.targets.get(member.member_id, {})),
                    member.classic is not None,
                )
                for member in self.members.values()
            ],
        )

    # Heartbeats

    def heartbeat(
        self, event: ConsumerHeartbeat, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        """Join, live or leave; raises Refused when nothing is done."""
        assignor = event.server_assignor
        if assignor is not None and assignor not in self.settings.assignors:
            offered = ", ".join(self.settings.assignors)
            raise Refused(
                KafkaCode.UNSUPPORTED_ASSIGNOR, f"no assignor {assignor}; there are: {offered}"
            )
        if event.epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH):
            self._leave(event, effects)
            effects.replies.append((token, _left(event)))
            return
        owned = None if event.owned is None else placed(event.owned)
        member = self._member_of(event, owned, effects)
        changed = self._describe(member, event, now_ms, effects)
        before = member.assigned
        if member.session_deadline_ms:
            self.touch(member, now_ms)
        else:
            self.arm(member, now_ms, effects)
        self.settle(member, changed, owned, now_ms, effects)
        full = event.epoch == JOIN_EPOCH or (
            event.rebalance_timeout_ms >= 0
            and (event.topics is not None or event.pattern is not None)
            and owned is not None
        )
        reply = ConsumerHeartbeatReply(
            0,
            None,
            member.member_id,
            member.epoch,
            self._times_ms()[1],
            listed(member.assigned) if full or member.assigned != before else None,
            [name for name in member.topics if name not in self.topics],
            self._stale(member, now_ms),
        )
        effects.replies.append((token, reply))

    def _member_of(
        self, event: ConsumerHeartbeat, owned: Places | None, effects: GroupEffects
    ) -> ConsumerMember:
        """The member that speaks, made when it joins."""
        joins = event.epoch == JOIN_EPOCH
        member = self.members.get(event.member_id)
        if event.instance_id is not None:
            member = self._static_member(event, joins, effects)
        if member is None and not joins:
            raise Refused(KafkaCode.UNKNOWN_MEMBER_ID, f"no member {event.member_id} here")
        if member is None:
            self.refuse_when_full()
            return self.add(event.member_id)
        if not joins:
            _check_epoch(member, event.epoch, owned)
        if member.classic is not None:
            # It speaks the new protocol from now on.
            for kind in ("join", "sync"):
                effects.timers.append((None, f"{kind}:{member.member_id}"))
            member.classic, member.pending_join, member.pending_sync = None, False, False
        return member

    def _static_member(
        self, event: ConsumerHeartbeat, joins: bool, effects: GroupEffects
    ) -> ConsumerMember | None:
        instance_id = event.instance_id
        static = self.static(instance_id)
        if static is None:
            if not joins:
                raise Refused(KafkaCode.UNKNOWN_MEMBER_ID, f"no instance {instance_id} here")
            return self.members.get(event.member_id)
        if static.member_id == event.member_id:
            return static
        if not joins:
            raise Refused(
                KafkaCode.FENCED_INSTANCE_ID,
                f"instance {instance_id} is member {static.member_id} now",
            )
        if static.epoch != LEAVE_STATIC_EPOCH:
            raise Refused(
                KafkaCode.UNRELEASED_INSTANCE_ID,
                f"instance {instance_id} is in use by member {static.member_id}",
            )
        return self.replace(static, event.member_id, effects)

    def refuse_when_full(self) -> None:
        """One more member is too many."""
        if len(self.members) >= self.settings.max_size:
            raise Refused(
                KafkaCode.GROUP_MAX_SIZE_REACHED, f"{self.settings.max_size} members are all it has"
            )

    def add(self, member_id: str) -> ConsumerMember:
        """A new member that wants nothing yet; the caller writes who it is."""
        member = self.members[member_id] = ConsumerMember(member_id)
        return member

    def name_static(self, member: ConsumerMember, instance_id: str) -> None:
        """A member is static from now on."""
        member.instance_id = instance_id
        self._static[instance_id] = member.member_id

    def know(self, names: Iterable[bytes], light: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Look topics up, before there are members that want them."""
        self._light.update(light)
        self.topics = self._found(names)

    def give(self, member: ConsumerMember, held: Places, epoch: int) -> None:
        """What a member of a classic group holds; of what two hold, the first has it."""
        free = {
            topic: {number for number in numbers if self._holders.holder(topic, number) is None}
            for topic, numbers in held.items()
        }
        member.epoch, member.state = epoch, MemberState.STABLE
        member.assigned = {
            topic: dict.fromkeys(sorted(numbers), epoch)
            for topic, numbers in free.items()
            if numbers
        }
        self._holders.take(member)
        self.targets[member.member_id] = {
            topic: set(held) for topic, held in member.assigned.items()
        }

    def replace(self, old: ConsumerMember, member_id: str, effects: GroupEffects) -> ConsumerMember:
        """A static member came back: it has what it had, its target included."""
        member = msgspec.structs.replace(
            old,
            member_id=member_id,
            epoch=JOIN_EPOCH,
            previous_epoch=JOIN_EPOCH,
            session_deadline_ms=0,
            pending_join=False,
            pending_sync=False,
        )
        target = self.targets.get(old.member_id, {})
        self._drop(old)
        self.forget_timers(old.member_id, effects)
        self.members[member_id] = member
        assert member.instance_id is not None, "static members have an instance id"
        self._static[member.instance_id] = member_id
        self._holders.take(member)
        self.targets[member_id] = target
        effects.records += [
            ConsumerMemberGoneRecord(old.member_id),
            member.record(),
            ConsumerTargetRecord(self.target_epoch, [(member_id, listed(target))]),
            member.current_record(),
        ]
        return member

    def _describe(
        self, member: ConsumerMember, event: ConsumerHeartbeat, now_ms: int, effects: GroupEffects
    ) -> bool:
        """Take over what a member says of itself; True when it wants other topics than before."""
        before = member.record()
        if event.instance_id is not None and member.instance_id is None:
            self.name_static(member, event.instance_id)
        member.client_id, member.client_host = event.client_id, event.client_host
        if event.rack_id is not None:
            member.rack_id = event.rack_id
        if event.rebalance_timeout_ms >= 0:
            member.rebalance_timeout_ms = event.rebalance_timeout_ms
        if event.server_assignor is not None:
            member.server_assignor = event.server_assignor
        wanted = member.topics, member.pattern
        if event.topics is not None:
            member.topics = frozenset(event.topics)
        if event.pattern is not None:
            member.pattern = event.pattern or None
        self._light.update(event.light)
        matched = False
        if event.pattern and event.matched is not None:
            matched = self._match(event.pattern, event.matched, effects)
            self._asked_ms[event.pattern] = now_ms
        if member.record() != before or event.epoch == JOIN_EPOCH:
            effects.records.append(member.record())
        return matched or bool(event.light) or wanted != (member.topics, member.pattern)

    # Towards the target

    def settle(
        self,
        member: ConsumerMember,
        changed: bool,
        owned: Places | None,
        now_ms: int,
        effects: GroupEffects,
    ) -> None:
        """Bump the epoch if `changed`, make the target if there is a newer epoch, and bring the
        member as near to it as it goes."""
        if changed:
            self._refresh_topics(effects)
            self._bump(effects)
        if self.epoch > self.target_epoch and self._may_target(now_ms):
            self._make_target(now_ms, effects)
        if (
            member.state is MemberState.STABLE
            and member.epoch == self.target_epoch == self.epoch
            and not changed
        ):
            return
        was = member.state
        moved = reconcile(
            member,
            self.targets.get(member.member_id, {}),
            self.target_epoch,
            self._topic_ids(member),
            owned,
            self._holders,
        )
        if not moved:
            return
        effects.records.append(member.current_record())
        if member.state is MemberState.UNREVOKED:
            deadline = now_ms + max(0, member.rebalance_timeout_ms)
            effects.timers.append((deadline, f"revoke:{member.member_id}"))
        elif was is MemberState.UNREVOKED:
            effects.timers.append((None, f"revoke:{member.member_id}"))

    def _may_target(self, now_ms: int) -> bool:
        if self._targeted_ms is None:
            return True
        size = len(self.members) + sum(topic.partitions for topic in self.topics.values())
        waited = now_ms - self._targeted_ms
        return size < LARGE or waited >= self.settings.assignment_interval_ms

    def _make_target(self, now_ms: int, effects: GroupEffects) -> None:
        self._targeted_ms = now_ms
        votes = dict.fromkeys(self.settings.assignors, 0)
        for member in self.members.values():
            if member.server_assignor in votes:
                votes[member.server_assignor] += 1
        self.assignor = max(self.settings.assignors, key=lambda name: votes[name])
        subscriptions = {
            member.member_id: Subscription(
                frozenset(self._topic_ids(member)),
                self.targets.get(member.member_id, {}),
                member.instance_id,
            )
            for member in self.members.values()
        }
        counts = {UUID(bytes=topic.topic_id): topic.partitions for topic in self.topics.values()}
        targets = ASSIGNORS[self.assignor](subscriptions, counts)
        changed = [
            (name, listed(target))
            for name, target in targets.items()
            if target != self.targets.get(name, {})
        ]
        self.targets = targets
        self.target_epoch = self.epoch
        effects.records.append(ConsumerTargetRecord(self.target_epoch, changed))

    def _bump(self, effects: GroupEffects) -> None:
        self.epoch += 1
        effects.records.append(ConsumerEpochRecord(self.epoch))

    # Topics

    def _topic_ids(self, member: ConsumerMember) -> set[UUID]:
        names = set(member.topics)
        if member.pattern is not None:
            names.update(self.patterns.get(member.pattern, ()))
        return {UUID(bytes=self.topics[name].topic_id) for name in names if name in self.topics}

    def _refresh_topics(self, effects: GroupEffects) -> bool:
        """Look again at which of the wanted topics are there; True when that has changed."""
        for pattern in [*self.patterns]:
            if all(member.pattern != pattern for member in self.members.values()):
                del self.patterns[pattern]
                self._asked_ms.pop(pattern, None)
                self._doubtful.discard(pattern)
                effects.records.append(ConsumerPatternRecord(pattern, None))
        found = self._found(self.subscribed())
        self._light = {topic.name: topic.topic_id for topic in found.values() if topic.light}
        if found == self.topics:
            return False
        self.topics = found
        effects.records.append(self._topics_record())
        return True

    def _found(self, names: Iterable[bytes]) -> dict[bytes, KnownTopic]:
        found: dict[bytes, KnownTopic] = {}
        for name in names:
            declared = self.view.declared(name)
            if declared is not None:
                found[name] = KnownTopic(name, declared.topic_id.bytes, declared.partitions)
            elif name in self._light:
                found[name] = KnownTopic(name, self._light[name], 1, True)
        return found

    def _match(self, pattern: str, topics: list[bytes], effects: GroupEffects) -> bool:
        topics = sorted(topics)
        if self.patterns.get(pattern) == topics:
            return False
        self.patterns[pattern] = topics
        effects.records.append(ConsumerPatternRecord(pattern, topics))
        return True

    def _stale(self, member: ConsumerMember, now_ms: int) -> list[str]:
        """The member's pattern, if it is time to ask again what it matches."""
        pattern = member.pattern
        if pattern is None:
            return []
        asked_ms = self._asked_ms.get(pattern)
        good_ms = REGEX_MIN_MS if pattern in self._doubtful else self._regex_ms
        if asked_ms is not None and now_ms - asked_ms < good_ms:
            return []
        self._asked_ms[pattern] = now_ms
        self._doubtful.discard(pattern)
        return [pattern]

    @property
    def _regex_ms(self) -> int:
        return self.settings.regex_refresh_interval_ms

    def has_free(self, member: ConsumerMember) -> bool:
        """Whether something that the member waits for is free by now."""
        for topic, numbers in self.targets.get(member.member_id, {}).items():
            for number in numbers.difference(member.assigned.get(topic, ())):
                if self._holders.holder(topic, number) is None:
                    return True
        return False

    def topics_found(self, event: events.TopicsFound, effects: GroupEffects) -> None:
        """What a reply asked for has been looked up."""
        self._light.update(event.light)
        changed = [
            self._match(pattern, topics, effects)
            for pattern, topics in event.matched
            if any(member.pattern == pattern for member in self.members.values())
        ]
        if self._refresh_topics(effects) or any(changed):
            self._bump(effects)

    def topics_changed(self, effects: GroupEffects) -> None:
        """The declared topics have changed: those that are read here may have."""
        if not self.members:
            return
        self._doubtful.update(self.patterns)
        if self._refresh_topics(effects):
            self._bump(effects)

    def forget_topic(self, topic: bytes, effects: GroupEffects) -> None:
        """A topic was deleted."""
        self._light.pop(topic, None)
        self.topics_changed(effects)

    # Living and leaving

    def touch(self, member: ConsumerMember, now_ms: int) -> None:
        """A sign of life; the timer looks at it when it fires."""
        member.session_deadline_ms = now_ms + self.session_timeout_ms(member)

    def session_timeout_ms(self, member: ConsumerMember) -> int:
        """Classic members bring their own."""
        if member.classic is not None:
            return member.classic.session_timeout_ms
        return self._times_ms()[0]

    def _times_ms(self) -> tuple[int, int]:
        """Session time-out and heartbeat interval."""
        settings = self.settings
        own = self.view.group_times_ms(self.group_id)
        return own or (settings.session_timeout_ms, settings.heartbeat_interval_ms)

    def _leave(self, event: ConsumerHeartbeat, effects: GroupEffects) -> None:
        member = self.members.get(event.member_id)
        if event.instance_id is not None:
            member = self.static(event.instance_id)
            if member is not None and member.member_id != event.member_id:
                raise Refused(
                    KafkaCode.FENCED_INSTANCE_ID,
                    f"instance {event.instance_id} is member {member.member_id} now",
                )
        if member is None:
            raise Refused(KafkaCode.UNKNOWN_MEMBER_ID, f"no member {event.member_id} here")
        if event.epoch == LEAVE_STATIC_EPOCH:
            # Its partitions stay its own until it comes back or its session ends.
            member.epoch = LEAVE_STATIC_EPOCH
            effects.records.append(member.current_record())
        else:
            self.remove(member, effects)

    def remove(self, member: ConsumerMember, effects: GroupEffects) -> None:
        """A member goes, and with it its hold on partitions."""
        self._drop(member)
        self.forget_timers(member.member_id, effects)
        effects.records.append(ConsumerMemberGoneRecord(member.member_id))
        self._refresh_topics(effects)
        self._bump(effects)

    def _drop(self, member: ConsumerMember) -> None:
        del self.members[member.member_id]
        self.targets.pop(member.member_id, None)
        self._holders.release(member)
        if member.instance_id is not None and (
            self._static.get(member.instance_id) == member.member_id
        ):
            del self._static[member.instance_id]

    def forget_timers(self, member_id: str, effects: GroupEffects) -> None:
        """A member id is gone."""
        for kind in ("session", "revoke", "join", "sync"):
            effects.timers.append((None, f"{kind}:{member_id}"))

    def timer(self, key: str, now_ms: int, effects: GroupEffects) -> None:
        """A member's deadline has come."""
        kind, _, member_id = key.partition(":")
        member = self.members.get(member_id)
        if member is None:
            return
        if kind == "session" and now_ms < member.session_deadline_ms:
            effects.timers.append((member.session_deadline_ms, key))
        elif (
            kind == "session"
            or (kind == "revoke" and member.state is MemberState.UNREVOKED)
            or (kind == "join" and member.pending_join)
            or (kind == "sync" and member.pending_sync)
        ):
            self.remove(member, effects)

    def resume(self, now_ms: int, effects: GroupEffects) -> None:
        """Recovered: members have their time anew, topics may have changed meanwhile."""
        self._holders = Holders()
        for member in self.members.values():
            self._holders.take(member)
            self.arm(member, now_ms, effects)
            if member.state is MemberState.UNREVOKED:
                deadline = now_ms + max(0, member.rebalance_timeout_ms)
                effects.timers.append((deadline, f"revoke:{member.member_id}"))
        self.topics_changed(effects)

    def arm(self, member: ConsumerMember, now_ms: int, effects: GroupEffects) -> None:
        """Begin a member's session."""
        self.touch(member, now_ms)
        effects.timers.append((member.session_deadline_ms, f"session:{member.member_id}"))


def _held(member: ConsumerMember) -> dict[UUID, set[int]]:
    """What a member has or is giving up."""
    held = {topic: set(numbers) for topic, numbers in member.assigned.items()}
    for topic, numbers in member.revoking.items():
        held.setdefault(topic, set()).update(numbers)
    return held


def _check_epoch(member: ConsumerMember, epoch: int, owned: Places | None) -> None:
    """A member may come with its previous epoch when the answer with the newer one was lost: then
    it has nothing that it was not given."""
    if epoch == member.epoch:
        return
    if (
        0 < epoch < member.epoch
        and epoch == member.previous_epoch
        and owned is not None
        and within(owned, member.assigned)
    ):
        return
    raise Refused(
        KafkaCode.FENCED_MEMBER_EPOCH,
        f"member {member.member_id} is at epoch {member.epoch}, not {epoch}: it must join again",
    )


def _left(event: ConsumerHeartbeat) -> ConsumerHeartbeatReply:
    return ConsumerHeartbeatReply(0, None, event.member_id, event.epoch)
