"""A share-partition: what the members of one share group hold of one partition, and what they are
done with (KIP-932; KIP-1206 acquire modes, KIP-1222 renewal, KIP-1191 dead letters).

    Available --acquire--> Acquired --accept--> Acknowledged
        ^                     |-----reject, gap-----> Archived (by way of Archiving to dead letters)
        |--release, lock time-out, session over--| or Archived after the last delivery

It lives in the shard of its partition's log, so reading, acquiring and acknowledging are decided in
one place and order. `handle` is given what was read; it never reads.

Invariants: an offset is held by one member at most; what is acknowledged or archived is never
acquired again; nothing leaves the window unless it is one of both, or gone from the log; no record
is delivered more often than the limit. Delivery counts are in the log before a member is answered,
so all of this holds over crashes too, but for one thing: who held what is forgotten, and what was
held is available again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from robustmq.errors import KafkaCode
from robustmq.groups.contract import Effects
from robustmq.groups.share_ranges import TERMINAL, DeliveryState, Range, Ranges
from robustmq.groups.share_records import (
    RangeRecord,
    SharePartitionRecord,
    ShareStateDeletedRecord,
    ShareStateRecord,
    ShareUpdateRecord,
)
from robustmq.kafka import share_events as events
from robustmq.kafka.share_events import (
    ACCEPT,
    GAP,
    RECORD_LIMIT,
    REJECT,
    RELEASE,
    RENEW,
    AcquiredRange,
    AcquireReply,
    FetchedBatch,
    ShareErrorReply,
    SharePartitionEvent,
    SharePartitionReply,
    StateReply,
)

ShareEffects = Effects[SharePartitionRecord, SharePartitionReply]

UNKNOWN_START = -1
REJECTED, DELIVERY_LIMIT = 1, 2
"""Why a record goes to the dead letter topic."""

READ_THROUGH = 500
"""Available records that lie no farther apart are read, and acquired, together."""
BURY_AGAIN_MS = 3_000
"""Dead letters that could not be appended are tried again after this."""
ALIGNMENT = 2
"""A batch that would give a member more than this times what it asked for is divided, also where it
asks for whole batches."""


class ShareSettings(msgspec.Struct, frozen=True):
    """The group's settings, as robustmq.kafka.group_configs names them."""

    record_lock_duration_ms: int = 30_000
    delivery_count_limit: int = 5
    partition_max_record_locks: int = 2_000
    renew_acknowledge_enable: bool = True
    dead_letters: bool = False


DEFAULT_SHARE_SETTINGS = ShareSettings()


class Bury(msgspec.Struct, frozen=True):
    """A command: append these records to the dead letter topic, then tell `Buried`."""

    first: int
    last: int
    delivery_count: int
    reason: int


class SharePartition:
    """One share-partition. `handle` decides, `replay` and `snapshot` rebuild
    (robustmq.groups.contract).
    """

    def __init__(
        self, settings: Callable[[], ShareSettings] = lambda: DEFAULT_SHARE_SETTINGS
    ) -> None:
        """`settings` are those in force now: they change while members hold records."""
        self._settings = settings
        self.state_epoch = 0
        self.exists = False
        self.started = False
        self.ranges = Ranges(0)
        self.given: list[AcquiredRange] = []
        """What the last `Acquire` gave: its owner reads it before the reply may leave."""
        self._changed: list[RangeRecord] = []
        self._armed_ms: int | None = None

    # The contract

    @property
    def disposable(self) -> bool:
        """True when there is nothing to remember."""
        return not self.exists

    def handle(self, event: SharePartitionEvent, now_ms: int, token: int = 0) -> ShareEffects:
        """Take an event: what to store, whom to answer, which timer to set."""
        effects: ShareEffects = Effects()
        reply = _HANDLERS[type(event)](self, event, now_ms, effects)
        if self._changed:
            self.ranges.trim()
            kept = [one for one in self._changed if one.last >= self.ranges.start]
            effects.records.append(ShareUpdateRecord(self.ranges.start, kept))
            self._changed = []
        if reply is not None:
            effects.replies.append((token, reply))
        return effects

    def replay(self, record: SharePartitionRecord) -> None:
        """Apply a record in recovery. An update that is played again, after later ones, does no
        harm: those follow it.
        """
        if isinstance(record, ShareStateDeletedRecord):
            self._forget()
            return
        self.exists = True
        if isinstance(record, ShareStateRecord):
            self.state_epoch = record.state_epoch
            self._begin(record.start_offset)
        elif not self.started or record.start_offset > self.ranges.end:
            self._begin(record.start_offset)
        for one in record.ranges:
            first = max(one.first, self.ranges.start)
            if first <= one.last:
                self.ranges.put(
                    Range(first, one.last, one.state, one.delivery_count, reason=one.reason)
                )
        if record.start_offset > self.ranges.start:
            self.ranges.move_start(record.start_offset)
        self.ranges.trim()

    def snapshot(self) -> list[SharePartitionRecord]:
        """The whole state."""
        if not self.exists:
            return []
        ranges = [_record(one) for one in self.ranges]
        return [ShareStateRecord(self.state_epoch, self._start_offset(), ranges)]

    # What its owner looks at before it reads the log

    def wanted(self, most: int) -> tuple[int, int | None] | None:
        """Where the next records to be acquired are, `most` of them: (first offset, last offset),
        the last None when all that comes from there on is new. None: there is nothing to acquire
        until something is acknowledged.
        """
        assert self.started, "a share-partition has a start before it is read for"
        room = self.ranges.open_records < self._settings().partition_max_record_locks
        first = last = -1
        for run in self.ranges.available():
            if first < 0:
                first = run.first
            elif run.first - last > READ_THROUGH or most <= 0:
                return first, last
            last = run.last
            most -= run.last - run.first + 1
        if first < 0:
            return (self.ranges.end, None) if room else None
        near = self.ranges.end - last <= READ_THROUGH
        return first, None if near and room and most > 0 else last

    def burying(self) -> list[Range]:
        """What is on its way to the dead letter topic."""
        return [one for one in self.ranges if one.state == DeliveryState.ARCHIVING]

    # Events

    def _on_start_at(
        self, event: events.StartAt, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        if not self.started:
            self.exists = True
            self._begin(event.offset)
            effects.records.append(ShareStateRecord(self.state_epoch, event.offset))
        return ShareErrorReply()

    def _on_acquire(
        self, event: events.Acquire, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        taker = _Taker(event, now_ms + self._settings().record_lock_duration_ms)
        at = event.first
        for batch in event.batches:
            if batch.last < at:
                continue
            first = max(batch.first, at)
            self._archive_missing(at, first - 1)
            if not batch.usable:
                self._archive_missing(first, batch.last)
            elif not self._take(FetchedBatch(first, batch.last), taker):
                break
            at = batch.last + 1
        self.given = taker.acquired
        if taker.acquired:
            self._arm(taker.deadline_ms, effects)
        return AcquireReply(taker.acquired)

    def _take(self, batch: FetchedBatch, taker: _Taker) -> bool:
        """Acquire what is free of a batch; False when the member has enough."""
        free = list(self._free(batch.first, batch.last))
        number = sum(one.last - one.first + 1 for one in free)
        room = taker.room(number)
        for one in free:
            if room <= 0:
                return False
            last = min(one.last, one.first + room - 1)
            room -= last - one.first + 1
            self._set(
                Range(
                    one.first,
                    last,
                    DeliveryState.ACQUIRED,
                    one.delivery_count + 1,
                    taker.member_id,
                    taker.deadline_ms,
                )
            )
            taker.took(one.first, last, one.delivery_count + 1)
        return taker.wants_more and self._is_covered(batch.last)

    def _is_covered(self, last: int) -> bool:
        return last < self.ranges.end

    def _free(self, first: int, last: int) -> Iterator[Range]:
        """What may be acquired in an area: available, or new and within the bound of locks."""
        for one in self.ranges.within(first, last):
            if one.state == DeliveryState.AVAILABLE:
                yield one
        room = self._settings().partition_max_record_locks - self.ranges.open_records
        fresh = max(first, self.ranges.end)
        if fresh <= last and room > 0 and fresh == self.ranges.end:
            yield Range(fresh, min(last, fresh + room - 1), DeliveryState.AVAILABLE)

    def _archive_missing(self, first: int, last: int) -> None:
        """Offsets that hold nothing for consumers: compacted, aborted, control records."""
        if first > last:
            return
        for one in self.ranges.within(first, last):
            if one.state == DeliveryState.AVAILABLE:
                self._set(Range(one.first, one.last, DeliveryState.ARCHIVED))
        fresh = max(first, self.ranges.end)
        if fresh <= last:
            self._set(Range(self.ranges.end, last, DeliveryState.ARCHIVED))

    def _on_acknowledge(
        self, event: events.Acknowledge, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        parts = [part for batch in event.batches for part in _parts(batch)]
        for first, last, kind in parts:
            if last >= self.ranges.end:
                return ShareErrorReply(KafkaCode.INVALID_REQUEST)
            if not self._holds(event.member_id, max(first, self.ranges.start), last):
                return ShareErrorReply(KafkaCode.INVALID_RECORD_STATE)
            if kind == RENEW and not self._settings().renew_acknowledge_enable:
                return ShareErrorReply(KafkaCode.INVALID_RECORD_STATE)
        deadline_ms = now_ms + self._settings().record_lock_duration_ms
        for first, last, kind in parts:
            for one in self.ranges.within(first, last):
                self._acknowledge(one, kind, deadline_ms, effects)
            if kind == RENEW:
                self._arm(deadline_ms, effects)
        return ShareErrorReply()

    def _holds(self, member_id: str, first: int, last: int) -> bool:
        """Does a member hold all of an area? What is before the start is nobody's concern."""
        at = first
        for one in self.ranges.within(first, last):
            if one.state != DeliveryState.ACQUIRED or one.member_id != member_id:
                return False
            at = one.last + 1
        return at > last

    def _acknowledge(self, one: Range, kind: int, deadline_ms: int, effects: ShareEffects) -> None:
        if kind == ACCEPT:
            self._set(Range(one.first, one.last, DeliveryState.ACKNOWLEDGED))
        elif kind == RELEASE:
            self._release(one, effects)
        elif kind == REJECT:
            self._archive(one, REJECTED, effects)
        elif kind == GAP:
            self._set(Range(one.first, one.last, DeliveryState.ARCHIVED))
        else:
            self.ranges.put(msgspec.structs.replace(one, deadline_ms=deadline_ms))

    def _release(self, one: Range, effects: ShareEffects) -> None:
        """A delivery attempt is over without success."""
        if one.delivery_count >= self._settings().delivery_count_limit:
            self._archive(one, DELIVERY_LIMIT, effects)
        else:
            self._set(Range(one.first, one.last, DeliveryState.AVAILABLE, one.delivery_count))

    def _archive(self, one: Range, reason: int, effects: ShareEffects) -> None:
        if self._settings().dead_letters:
            self._set(
                Range(
                    one.first, one.last, DeliveryState.ARCHIVING, one.delivery_count, reason=reason
                )
            )
            effects.commands.append(Bury(one.first, one.last, one.delivery_count, reason))
        else:
            self._set(Range(one.first, one.last, DeliveryState.ARCHIVED))

    def _on_release_member(
        self, event: events.ReleaseMember, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        for one in self._acquired():
            if one.member_id == event.member_id:
                self._release(one, effects)
        return ShareErrorReply()

    def _on_buried(
        self, event: events.Buried, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        for one in self.ranges.within(event.first, event.last):
            if one.state == DeliveryState.ARCHIVING:
                self._set(Range(one.first, one.last, DeliveryState.ARCHIVED))
        return ShareErrorReply()

    def _on_move_start(
        self, event: events.MoveStart, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        if self.started and event.log_start_offset > self.ranges.start:
            self.ranges.move_start(event.log_start_offset)
            self.ranges.trim()
            effects.records.append(ShareUpdateRecord(self.ranges.start))
        return ShareErrorReply()

    def _on_initialize(
        self, event: events.InitializeState, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        if event.state_epoch < self.state_epoch:
            return ShareErrorReply(KafkaCode.FENCED_STATE_EPOCH)
        self._forget()
        self.exists = True
        self.state_epoch = event.state_epoch
        self._begin(event.start_offset)
        effects.records.append(ShareStateRecord(event.state_epoch, event.start_offset))
        return ShareErrorReply()

    def _on_describe(
        self, event: events.DescribeState, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        return StateReply(self.state_epoch, self._start_offset(), self.ranges.done_records())

    def _on_delete(
        self, event: events.DeleteState, now_ms: int, effects: ShareEffects
    ) -> SharePartitionReply:
        if self.exists:
            self._forget()
            effects.records.append(ShareStateDeletedRecord())
        return ShareErrorReply()

    def _on_bury_failed(self, event: events.BuryFailed, now_ms: int, effects: ShareEffects) -> None:
        effects.timers.append((now_ms + BURY_AGAIN_MS, "bury"))

    def _bury(self, effects: ShareEffects) -> None:
        for one in self.burying():
            effects.commands.append(Bury(one.first, one.last, one.delivery_count, one.reason))

    def _on_timer(self, event: events.LockTimer, now_ms: int, effects: ShareEffects) -> None:
        if event.key == "bury":
            self._bury(effects)
            return
        self._armed_ms = None
        left: int | None = None
        for one in self._acquired():
            if one.deadline_ms <= now_ms:
                self._release(one, effects)
            elif left is None or one.deadline_ms < left:
                left = one.deadline_ms
        if left is not None:
            self._arm(left, effects)

    def _on_resumed(self, event: events.ShareResumed, now_ms: int, effects: ShareEffects) -> None:
        """Nobody holds anything after recovery; what has used up its deliveries is over now."""
        self._bury(effects)
        limit = self._settings().delivery_count_limit
        for one in list(self.ranges):
            if one.state == DeliveryState.AVAILABLE and one.delivery_count >= limit:
                self._archive(one, DELIVERY_LIMIT, effects)

    # State

    def _acquired(self) -> list[Range]:
        return [
            msgspec.structs.replace(one)
            for one in self.ranges
            if one.state == DeliveryState.ACQUIRED
        ]

    def _start_offset(self) -> int:
        return self.ranges.start if self.started else UNKNOWN_START

    def _begin(self, start_offset: int) -> None:
        self.started = start_offset >= 0
        self.ranges = Ranges(max(start_offset, 0))

    def _forget(self) -> None:
        self.exists = self.started = False
        self.state_epoch = 0
        self.ranges = Ranges(0)
        self._armed_ms = None

    def _set(self, made: Range) -> None:
        """A range has a state that is to be remembered."""
        assert made.state in TERMINAL or made.delivery_count >= 0, "deliveries are counted"
        self.ranges.put(made)
        self._changed.append(_record(made))

    def _arm(self, deadline_ms: int, effects: ShareEffects) -> None:
        """See that the timer fires by then; it looks at the deadlines itself."""
        if self._armed_ms is None or deadline_ms < self._armed_ms:
            self._armed_ms = deadline_ms
            effects.timers.append((deadline_ms, "lock"))


class _Taker:
    """A member that is being given records."""

    def __init__(self, event: events.Acquire, deadline_ms: int) -> None:
        self.member_id = event.member_id
        self.deadline_ms = deadline_ms
        self.acquired: list[AcquiredRange] = []
        self._left = max(event.max_records, 0)
        self._wanted = self._left
        self._strict = event.mode == RECORD_LIMIT

    @property
    def wants_more(self) -> bool:
        return self._left > 0

    def room(self, free: int) -> int:
        """How many of the free records of a batch to take: all of it, even if that is some more
        than asked for, unless the member insists.
        """
        given = self._wanted - self._left
        if self._left > 0 and not self._strict and given + free <= ALIGNMENT * self._wanted:
            return free
        return self._left

    def took(self, first: int, last: int, delivery_count: int) -> None:
        self._left -= last - first + 1
        if self.acquired:
            before = self.acquired[-1]
            if before.last + 1 == first and before.delivery_count == delivery_count:
                self.acquired[-1] = AcquiredRange(before.first, last, delivery_count)
                return
        self.acquired.append(AcquiredRange(first, last, delivery_count))


def _record(one: Range) -> RangeRecord:
    state = one.state
    if state == DeliveryState.ACQUIRED:
        state = DeliveryState.AVAILABLE
    return RangeRecord(one.first, one.last, int(state), one.delivery_count, one.reason)


def _parts(batch: events.AcknowledgementBatch) -> Iterator[tuple[int, int, int]]:
    """(first, last, type) of the runs of one type in a batch."""
    types = batch.types
    if len(types) == 1:
        yield batch.first, batch.last, types[0]
        return
    begin = 0
    for at in range(1, len(types) + 1):
        if at == len(types) or types[at] != types[begin]:
            yield batch.first + begin, batch.first + at - 1, types[begin]
            begin = at


_HANDLERS: dict[type, Callable[..., SharePartitionReply | None]] = {
    events.StartAt: SharePartition._on_start_at,
    events.Acquire: SharePartition._on_acquire,
    events.Acknowledge: SharePartition._on_acknowledge,
    events.ReleaseMember: SharePartition._on_release_member,
    events.MoveStart: SharePartition._on_move_start,
    events.InitializeState: SharePartition._on_initialize,
    events.DescribeState: SharePartition._on_describe,
    events.DeleteState: SharePartition._on_delete,
    events.Buried: SharePartition._on_buried,
    events.BuryFailed: SharePartition._on_bury_failed,
    events.LockTimer: SharePartition._on_timer,
    events.ShareResumed: SharePartition._on_resumed,
}
