"""The members and generations of a classic group (Kafka protocol guide, JoinGroup to LeaveGroup;
KIP-62 rebalance time-out, KIP-345 static members, KIP-394 member id
required, KIP-814 skip assignment).

    Empty -> PreparingRebalance -> CompletingRebalance -> Stable
    ^ last member gone   ^ a member comes, goes or changes   (Dead: never used, not stored)

PreparingRebalance parks joins until all members have joined again or the rebalance time-out has
come; then a new generation begins and CompletingRebalance parks syncs until its leader brings the
assignments.

Invariants: a parked token is answered exactly once; every member has a session timer; assignments
belong to one generation and go only to members that name it; a generation is in the log before
anybody hears of it, so that no owner gives the same number to two memberships.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from robustmq.errors import KafkaCode
from robustmq.groups.contract import Effects
from robustmq.groups.members import Member, Roster, from_record
from robustmq.groups.records import GenerationRecord, GroupRecord
from robustmq.groups.subscriptions import subscribed_topics
from robustmq.kafka import group_events as events
from robustmq.kafka.group_events import (
    DescribeReply,
    ErrorReply,
    GroupEvent,
    GroupReply,
    JoinReply,
    LeaveReply,
    LeftMember,
    SyncReply,
)

GroupEffects = Effects[GroupRecord, GroupReply]


class State(enum.StrEnum):
    """States of a group, named as DescribeGroups names them."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class GroupSettings(msgspec.Struct, frozen=True):
    """Bounds of a group; the names are those of Kafka's broker settings."""

    min_session_timeout_ms: int = 6_000
    max_session_timeout_ms: int = 1_800_000
    max_size: int = 10_000
    initial_rebalance_delay_ms: int = 100
    offset_metadata_max_bytes: int = 4_096
    offsets_retention_ms: int = 7 * 24 * 3_600_000
    empty_retention_ms: int = 600_000


DEFAULT_SETTINGS = GroupSettings()


class ClassicGroup:
    """The membership of one group, run by robustmq.groups.group, which holds the offsets."""

    def __init__(self, group_id: str, settings: GroupSettings = DEFAULT_SETTINGS) -> None:
        self.group_id = group_id
        self.settings = settings
        self.state = State.DEAD
        self.generation_id = 0
        self.protocol_type = ""
        self.protocol_name: str | None = None
        self.leader: str | None = None
        self.members = Roster()
        self._pending: set[str] = set()
        self._unsynced: set[str] = set()
        self._gathering = False
        self._rebalance_deadline_ms = 0

    @property
    def disposable(self) -> bool:
        """True when there is nothing to remember: there never was a member."""
        return self.state is State.DEAD and not self._pending

    def handle(self, event: GroupEvent, now_ms: int, token: int = 0) -> GroupEffects:
        """Take an event: what to store, whom to answer, which timers to set."""
        effects: GroupEffects = Effects()
        _HANDLERS[type(event)](self, event, now_ms, token, effects)
        return effects

    def replay(self, record: GenerationRecord) -> None:
        """Apply a record in recovery; timers and waiting callers come with `Resumed` and with the
        clients.
        """
        self.members.clear()
        for member in record.members:
            self.members.add(from_record(member))
        self.generation_id = record.generation_id
        self.protocol_type = record.protocol_type
        self.protocol_name = record.protocol_name
        self.leader = record.leader
        if not record.members:
            self.state = State.EMPTY
        else:
            self.state = State.STABLE if record.settled else State.PREPARING

    def snapshot(self) -> list[GroupRecord]:
        """The generation."""
        return [] if self.state is State.DEAD else [self._generation_record()]

    # Joining

    def _on_join(
        self, event: events.JoinGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        error = self._refuse_join(event)
        if error:
            effects.replies.append((token, JoinReply(error=error, member_id=event.member_id)))
        elif not event.member_id:
            self._join_new(event, now_ms, token, effects)
        elif event.member_id in self._pending:
            self._drop_pending(event.member_id, effects)
            self._add_member(event, event.member_id, now_ms, token, effects)
        else:
            self._join_again(event, now_ms, token, effects)

    def _refuse_join(self, event: events.JoinGroup) -> int:
        """The error code that refuses a join before it changes anything, or 0."""
        settings = self.settings
        shortest, longest = settings.min_session_timeout_ms, settings.max_session_timeout_ms
        if not shortest <= event.session_timeout_ms <= longest:
            return KafkaCode.INVALID_SESSION_TIMEOUT
        if not event.protocol_type or not event.protocols:
            return KafkaCode.INCONSISTENT_GROUP_PROTOCOL
        static = self.members.static(event.group_instance_id)
        if event.member_id:
            if event.group_instance_id is not None and event.member_id not in self._pending:
                error = self._check_member(event.member_id, event.group_instance_id)
                if error:
                    return error
            elif event.member_id not in self.members and event.member_id not in self._pending:
                return KafkaCode.UNKNOWN_MEMBER_ID
        known = self.members.get(event.member_id) or static
        if known is None and len(self.members) >= settings.max_size:
            return KafkaCode.GROUP_MAX_SIZE_REACHED
        return self._check_protocols(event, known)

    def _check_protocols(self, event: events.JoinGroup, known: Member | None) -> int:
        if len(self.members) - (known is not None) == 0:
            return KafkaCode.NONE
        common = set(self.members.candidates(leave_out=known))
        if event.protocol_type != self.protocol_type:
            return KafkaCode.INCONSISTENT_GROUP_PROTOCOL
        if not any(name in common for name, _ in event.protocols):
            return KafkaCode.INCONSISTENT_GROUP_PROTOCOL
        return KafkaCode.NONE

    def _join_new(
        self, event: events.JoinGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        static = self.members.static(event.group_instance_id)
        if static is not None:
            self._replace_static(event, static, now_ms, token, effects)
        elif event.member_id_required and event.group_instance_id is None:
            if len(self._pending) + len(self.members) >= self.settings.max_size:
                full = JoinReply(error=KafkaCode.GROUP_MAX_SIZE_REACHED)
                effects.replies.append((token, full))
                return
            self._pending.add(event.new_member_id)
            deadline = now_ms + event.session_timeout_ms
            effects.timers.append((deadline, f"pending:{event.new_member_id}"))
            reply = JoinReply(error=KafkaCode.MEMBER_ID_REQUIRED, member_id=event.new_member_id)
            effects.replies.append((token, reply))
        else:
            self._add_member(event, event.new_member_id, now_ms, token, effects)

    def _join_again(
        self, event: events.JoinGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        member = self.members.get(event.member_id)
        assert member is not None, "a join of an unknown member was refused before"
        changed = member.protocols != event.protocols
        again = changed or (member.member_id == self.leader and self.state is State.STABLE)
        if self.state is State.PREPARING or again:
            _update(member, event)
            self._park_join(member, now_ms, token, effects)
            self._prepare_rebalance(now_ms, effects)
        else:
            # The answer was lost on its way: the generation has not changed, say it again.
            self._touch(member, now_ms)
            effects.replies.append((token, self._join_reply(member)))

    def _add_member(
        self,
        event: events.JoinGroup,
        member_id: str,
        now_ms: int,
        token: int,
        effects: GroupEffects,
    ) -> None:
        member = Member(
            member_id,
            event.group_instance_id,
            event.client_id,
            event.client_host,
            event.session_timeout_ms,
            event.rebalance_timeout_ms,
            event.protocols,
        )
        if not self.members:
            self.protocol_type = event.protocol_type
            self.leader = None
        self.members.add(member)
        self._touch(member, now_ms)
        effects.timers.append((member.session_deadline_ms, f"session:{member_id}"))
        self._park_join(member, now_ms, token, effects)
        self._prepare_rebalance(now_ms, effects)

    def _replace_static(
        self,
        event: events.JoinGroup,
        member: Member,
        now_ms: int,
        token: int,
        effects: GroupEffects,
    ) -> None:
        """A static member came back: its old incarnation is fenced; a stable group goes on as it is
        (KIP-345).
        """
        old_id, old_leader = member.member_id, self.leader
        _release(member, KafkaCode.FENCED_INSTANCE_ID, effects)
        effects.timers.append((None, f"session:{old_id}"))
        self.members.rename(member, event.new_member_id)
        if old_id in self._unsynced:
            self._unsynced.discard(old_id)
            self._unsynced.add(member.member_id)
        if self.leader == old_id:
            self.leader = member.member_id
        _update(member, event)
        self._touch(member, now_ms)
        effects.timers.append((member.session_deadline_ms, f"session:{member.member_id}"))
        if self.state is not State.STABLE or self.members.vote() != self.protocol_name:
            self._park_join(member, now_ms, token, effects)
            self._prepare_rebalance(now_ms, effects)
            return
        effects.records.append(self._generation_record())
        reply = self._join_reply(member)
        if event.skip_assignment_supported:
            reply = msgspec.structs.replace(reply, skip_assignment=self.leader == member.member_id)
        else:
            # Told of the old id, a client that cannot skip the assignment makes none.
            reply = msgspec.structs.replace(reply, leader=old_leader or "", members=[])
        effects.replies.append((token, reply))

    def _park_join(self, member: Member, now_ms: int, token: int, effects: GroupEffects) -> None:
        if member.join_token is not None:
            again = JoinReply(error=KafkaCode.REBALANCE_IN_PROGRESS, member_id=member.member_id)
            effects.replies.append((member.join_token, again))
        member.join_token = token
        self._touch(member, now_ms)

    # The rebalance

    def _prepare_rebalance(self, now_ms: int, effects: GroupEffects) -> None:
        """Gather members, or go on with it; the new generation begins when all are there."""
        if self.state is State.COMPLETING:
            for member in self.members:
                if member.sync_token is not None:
                    reply = SyncReply(error=KafkaCode.REBALANCE_IN_PROGRESS)
                    effects.replies.append((member.sync_token, reply))
                    member.sync_token = None
        delay = self.settings.initial_rebalance_delay_ms
        if self.state in (State.EMPTY, State.DEAD):
            self._gathering = delay > 0
            self._rebalance_deadline_ms = now_ms + self.members.rebalance_timeout_ms()
        elif self.state is not State.PREPARING:
            self._gathering = False
            self._rebalance_deadline_ms = now_ms + self.members.rebalance_timeout_ms()
        if self.state is not State.PREPARING or self._gathering:
            if self._unsynced:
                self._unsynced.clear()
                effects.timers.append((None, "sync"))
            deadline = self._rebalance_deadline_ms
            if self._gathering:
                deadline = min(deadline, now_ms + delay)
            effects.timers.append((deadline, "rebalance"))
        self.state = State.PREPARING
        self._complete_when_all_joined(now_ms, effects)

    def _complete_when_all_joined(self, now_ms: int, effects: GroupEffects) -> None:
        waiting = any(member.join_token is None for member in self.members)
        if not self.members or not (waiting or self._pending or self._gathering):
            self._complete_join(now_ms, effects)

    def _complete_join(self, now_ms: int, effects: GroupEffects) -> None:
        """The next generation begins: those who joined, and the static members (KIP-345)."""
        self._gathering = False
        for member in self.members:
            if member.join_token is None and member.group_instance_id is None:
                self._remove(member, effects)
        joined = [member for member in self.members if member.join_token is not None]
        if self.members and not joined:
            # Only static members that are away: they have until their sessions end.
            self._rebalance_deadline_ms = now_ms + max(1, self.members.rebalance_timeout_ms())
            effects.timers.append((self._rebalance_deadline_ms, "rebalance"))
            return
        effects.timers.append((None, "rebalance"))
        self.generation_id += 1
        if not joined:
            self._become_empty(effects)
            return
        if all(member.member_id != self.leader for member in joined):
            self.leader = joined[0].member_id
        self.protocol_name = self.members.vote()
        self.state = State.COMPLETING
        effects.records.append(self._generation_record())
        self._unsynced = {member.member_id for member in joined}
        effects.timers.append((now_ms + self.members.rebalance_timeout_ms(), "sync"))
        for member in joined:
            assert member.join_token is not None, "joined members wait"
            effects.replies.append((member.join_token, self._join_reply(member)))
            member.join_token = None
            self._touch(member, now_ms)

    def _become_empty(self, effects: GroupEffects) -> None:
        self.state = State.EMPTY
        self.protocol_name = None
        self.leader = None
        effects.records.append(self._generation_record())

    def _join_reply(self, member: Member) -> JoinReply:
        assert self.protocol_name is not None, "a generation has a protocol"
        leads = member.member_id == self.leader
        return JoinReply(
            generation_id=self.generation_id,
            protocol_type=self.protocol_type,
            protocol_name=self.protocol_name,
            leader=self.leader or "",
            member_id=member.member_id,
            members=self.members.joined(self.protocol_name) if leads else [],
        )

    def _on_sync(
        self, event: events.SyncGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        error = self._check_generation(
            event.member_id, event.group_instance_id, event.generation_id
        )
        if not error and (
            event.protocol_type not in (None, self.protocol_type)
            or event.protocol_name not in (None, self.protocol_name)
        ):
            error = KafkaCode.INCONSISTENT_GROUP_PROTOCOL
        if not error and self.state is State.PREPARING:
            error = KafkaCode.REBALANCE_IN_PROGRESS
        member = self.members.get(event.member_id)
        if error or member is None:
            effects.replies.append((token, SyncReply(error=error)))
            return
        self._touch(member, now_ms)
        self._synced(member, effects)
        if self.state is State.STABLE:
            effects.replies.append((token, self._sync_reply(member)))
            return
        if member.sync_token is not None:
            again = SyncReply(error=KafkaCode.REBALANCE_IN_PROGRESS)
            effects.replies.append((member.sync_token, again))
        member.sync_token = token
        if member.member_id == self.leader:
            self._assign(event.assignments, now_ms, effects)

    def _assign(
        self, assignments: list[tuple[str, bytes]], now_ms: int, effects: GroupEffects
    ) -> None:
        given = dict(assignments)
        self.state = State.STABLE
        for member in self.members:
            member.assignment = given.get(member.member_id, b"")
        effects.records.append(self._generation_record())
        for member in self.members:
            if member.sync_token is not None:
                effects.replies.append((member.sync_token, self._sync_reply(member)))
                member.sync_token = None
                self._touch(member, now_ms)

    def _sync_reply(self, member: Member) -> SyncReply:
        return SyncReply(
            protocol_type=self.protocol_type,
            protocol_name=self.protocol_name,
            assignment=member.assignment,
        )

    def _synced(self, member: Member, effects: GroupEffects) -> None:
        if member.member_id in self._unsynced:
            self._unsynced.discard(member.member_id)
            if not self._unsynced:
                effects.timers.append((None, "sync"))

    # Living and leaving

    def _on_heartbeat(
        self, event: events.Heartbeat, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        error = self._check_generation(
            event.member_id, event.group_instance_id, event.generation_id
        )
        if not error:
            member = self.members.get(event.member_id)
            assert member is not None, "checked before"
            self._touch(member, now_ms)
            if self.state is State.PREPARING:
                error = KafkaCode.REBALANCE_IN_PROGRESS
        effects.replies.append((token, ErrorReply(error)))

    def _on_leave(
        self, event: events.LeaveGroup, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        left = []
        gone = False
        for leaving in event.members:
            member = self.members.get(leaving.member_id)
            if not leaving.member_id:
                member = self.members.static(leaving.group_instance_id)
            error = KafkaCode.NONE if member else KafkaCode.UNKNOWN_MEMBER_ID
            if leaving.member_id in self._pending:
                self._drop_pending(leaving.member_id, effects)
                error, gone = KafkaCode.NONE, True
            elif leaving.member_id and leaving.group_instance_id is not None:
                error = self._check_member(leaving.member_id, leaving.group_instance_id)
            if not error and member is not None:
                self._remove(member, effects)
                gone = True
            left.append(LeftMember(leaving.member_id, leaving.group_instance_id, error))
        if gone:
            self._after_removal(now_ms, effects)
        effects.replies.append((token, LeaveReply(members=left)))

    def _remove(self, member: Member, effects: GroupEffects) -> None:
        _release(member, KafkaCode.UNKNOWN_MEMBER_ID, effects)
        self.members.remove(member.member_id)
        effects.timers.append((None, f"session:{member.member_id}"))
        self._synced(member, effects)
        if self.leader == member.member_id:
            self.leader = None

    def _after_removal(self, now_ms: int, effects: GroupEffects) -> None:
        if self.state in (State.STABLE, State.COMPLETING):
            self._prepare_rebalance(now_ms, effects)
        elif self.state is State.PREPARING:
            self._complete_when_all_joined(now_ms, effects)

    def _drop_pending(self, member_id: str, effects: GroupEffects) -> None:
        self._pending.discard(member_id)
        effects.timers.append((None, f"pending:{member_id}"))

    def _touch(self, member: Member, now_ms: int) -> None:
        """A sign of life. The session timer is not moved: it looks at this when it fires."""
        member.session_deadline_ms = now_ms + member.session_timeout_ms

    def _check_member(self, member_id: str, group_instance_id: str | None) -> KafkaCode:
        static = self.members.static(group_instance_id)
        if group_instance_id is not None and static is None:
            return KafkaCode.UNKNOWN_MEMBER_ID
        if static is not None and static.member_id != member_id:
            return KafkaCode.FENCED_INSTANCE_ID
        return KafkaCode.NONE if member_id in self.members else KafkaCode.UNKNOWN_MEMBER_ID

    def _check_generation(
        self, member_id: str, group_instance_id: str | None, generation_id: int
    ) -> KafkaCode:
        error = self._check_member(member_id, group_instance_id)
        if not error and generation_id != self.generation_id:
            return KafkaCode.ILLEGAL_GENERATION
        return error

    # Timers and recovery

    def _on_timer(
        self, event: events.TimerFired, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        kind, _, member_id = event.key.partition(":")
        if kind == "session":
            self._on_session_timer(member_id, now_ms, effects)
        elif kind == "pending" and member_id in self._pending:
            self._pending.discard(member_id)
            self._after_removal(now_ms, effects)
        elif kind == "rebalance" and self.state is State.PREPARING:
            self._complete_join(now_ms, effects)
        elif kind == "sync" and self._unsynced:
            for member in self.members:
                if member.member_id in self._unsynced:
                    self._remove(member, effects)
            self._after_removal(now_ms, effects)

    def _on_session_timer(self, member_id: str, now_ms: int, effects: GroupEffects) -> None:
        member = self.members.get(member_id)
        if member is None:
            return
        if member.join_token is not None or member.sync_token is not None:
            self._touch(member, now_ms)
        if now_ms < member.session_deadline_ms:
            effects.timers.append((member.session_deadline_ms, f"session:{member_id}"))
        else:
            self._remove(member, effects)
            self._after_removal(now_ms, effects)

    def _on_resumed(
        self, event: events.Resumed, now_ms: int, token: int, effects: GroupEffects
    ) -> None:
        for member in self.members:
            self._touch(member, now_ms)
            effects.timers.append((member.session_deadline_ms, f"session:{member.member_id}"))
        if self.state is State.PREPARING:
            self._rebalance_deadline_ms = now_ms + self.members.rebalance_timeout_ms()
            effects.timers.append((self._rebalance_deadline_ms, "rebalance"))

    # What the group asks it

    def refuse_commit(self, event: events.CommitOffsets, now_ms: int) -> int:
        """Why offsets may not be committed; 0: they may. A commit is a sign of life."""
        outside = event.generation_id < 0 and not event.member_id
        if outside and event.group_instance_id is None:
            return KafkaCode.UNKNOWN_MEMBER_ID if self.members else KafkaCode.NONE
        if event.generation_id < 0 and not self.members:
            return KafkaCode.NONE
        error = self._check_generation(
            event.member_id, event.group_instance_id, event.generation_id
        )
        if error:
            return error
        member = self.members.get(event.member_id)
        assert member is not None, "checked before"
        self._touch(member, now_ms)
        if self.state is State.COMPLETING and event.producer_id < 0:
            return KafkaCode.REBALANCE_IN_PROGRESS
        return KafkaCode.NONE

    def subscribed(self) -> set[bytes]:
        """All topics that members want, as far as they say it in the embedded protocol."""
        topics: set[bytes] = set()
        for member in self.members:
            for _, metadata in member.protocols:
                topics |= subscribed_topics(metadata)
        return topics

    def describe(self) -> DescribeReply:
        """The answer to DescribeGroups."""
        protocol = self.protocol_name if self.state is State.STABLE else None
        return DescribeReply(
            state=self.state.value,
            protocol_type=self.protocol_type,
            protocol=protocol or "",
            members=[member.describe(protocol) for member in self.members],
        )

    def release_all(self, effects: GroupEffects) -> None:
        """The group becomes one of the other protocol: who waits must ask again."""
        for member in self.members:
            _release(member, KafkaCode.REBALANCE_IN_PROGRESS, effects)
            effects.timers.append((None, f"session:{member.member_id}"))
        for member_id in self._pending:
            effects.timers.append((None, f"pending:{member_id}"))
        effects.timers += [(None, "rebalance"), (None, "sync")]

    def take_over(self, now_ms: int, effects: GroupEffects) -> None:
        """The members come from the other protocol: they have their sessions, and join again."""
        effects.records.append(self._generation_record())
        for member in self.members:
            self._touch(member, now_ms)
            effects.timers.append((member.session_deadline_ms, f"session:{member.member_id}"))
        self.state = State.STABLE
        self._prepare_rebalance(now_ms, effects)

    def _generation_record(self) -> GenerationRecord:
        return GenerationRecord(
            self.generation_id,
            self.protocol_type,
            self.protocol_name,
            self.leader,
            [member.record() for member in self.members],
            self.state is State.STABLE or not self.members,
        )


def _update(member: Member, event: events.JoinGroup) -> None:
    member.client_id = event.client_id
    member.client_host = event.client_host
    member.session_timeout_ms = event.session_timeout_ms
    member.rebalance_timeout_ms = event.rebalance_timeout_ms
    member.protocols = event.protocols


def _release(member: Member, error: KafkaCode, effects: GroupEffects) -> None:
    """Answer whatever waits for this member with an error."""
    if member.join_token is not None:
        reply = JoinReply(error=error, member_id=member.member_id)
        effects.replies.append((member.join_token, reply))
        member.join_token = None
    if member.sync_token is not None:
        effects.replies.append((member.sync_token, SyncReply(error=error)))
        member.sync_token = None


_HANDLERS: dict[type, Callable[..., None]] = {
    events.JoinGroup: ClassicGroup._on_join,
    events.SyncGroup: ClassicGroup._on_sync,
    events.Heartbeat: ClassicGroup._on_heartbeat,
    events.LeaveGroup: ClassicGroup._on_leave,
    events.TimerFired: ClassicGroup._on_timer,
    events.Resumed: ClassicGroup._on_resumed,
}
