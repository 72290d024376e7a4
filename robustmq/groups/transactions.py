"""The coordinator of one transactional id (KIP-98; KIP-360 recovery of producers, KIP-664 what
operators see, KIP-890 part 2 an epoch for each transaction).

    Empty -> Ongoing -> PrepareCommit -> CompleteCommit -> Ongoing ...
                     -> PrepareAbort  -> CompleteAbort  -> Ongoing ...
    (Dead: not known, or expired; not stored)

What was decided stands in the log as PrepareCommit or PrepareAbort before anybody hears of it; then
markers go to every partition and group (the command `WriteMarkers`), and the transaction is
complete when all of them are committed there. A coordinator that is recovered in between sends them
all again.

Invariants: a transaction that is prepared is completed the same way, whatever comes; who is fenced
(another InitProducerId, the time-out) has an older epoch than the markers that end its transaction,
so nothing of it can follow them; an epoch is given to one producer only. Only what is committed
is answered or sent (robustmq.groups.contract).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from robustmq.errors import KafkaCode
from robustmq.groups.contract import Effects
from robustmq.groups.transaction_records import (
    CoordinatorRecord,
    PartitionsAddedRecord,
    TransactionExpiredRecord,
    TransactionRecord,
)
from robustmq.kafka import transaction_events as events
from robustmq.kafka.transaction_events import (
    NO_EPOCH,
    NO_PRODUCER_ID,
    TRANSACTION_V1,
    TRANSACTION_V2,
    NeedsProducerId,
    PartitionsReply,
    ProducerReply,
    State,
    TransactionDescription,
    TransactionEvent,
    TransactionListing,
    TransactionReply,
)

TransactionEffects = Effects[CoordinatorRecord, TransactionReply]

LAST_EPOCH = 32_767
LAST_GIVEN_EPOCH = LAST_EPOCH - 1
"""The last one is for the marker of a producer that is fenced."""


_PREPARED = (State.PREPARE_COMMIT, State.PREPARE_ABORT)
_COMPLETED = {
    State.PREPARE_COMMIT: State.COMPLETE_COMMIT,
    State.PREPARE_ABORT: State.COMPLETE_ABORT,
}


class TransactionSettings(msgspec.Struct, frozen=True):
    """Bounds of a transaction: transaction.max.timeout.ms, transactional.id.expiration.ms, and how
    many requests may wait for a transaction to be completed."""

    max_timeout_ms: int = 900_000
    expiration_ms: int = 7 * 24 * 3_600_000
    max_waiting: int = 1_000


DEFAULT_SETTINGS = TransactionSettings()


class WriteMarkers(msgspec.Struct, frozen=True):
    """The command to end a transaction everywhere; `MarkersWritten` with this producer is the
    answer. It may come again for what was written already."""

    producer_id: int
    producer_epoch: int
    commit: bool
    transaction_version: int
    partitions: tuple[tuple[bytes, int], ...]
    groups: tuple[str, ...]


_UNKNOWN = TransactionRecord(
    State.DEAD, NO_PRODUCER_ID, NO_EPOCH, NO_EPOCH, NO_PRODUCER_ID, NO_PRODUCER_ID, 0, -1, 0, 0
)


class TransactionCoordinator:
    """One transactional id. `handle` decides, `replay` and `snapshot` rebuild."""

    def __init__(
        self, transactional_id: str, settings: TransactionSettings = DEFAULT_SETTINGS
    ) -> None:
        self.transactional_id = transactional_id
        self.settings = settings
        self.current = _UNKNOWN
        """Without its partitions and groups: they change more often."""
        self.partitions: dict[tuple[bytes, int], None] = {}
        self.groups: dict[str, None] = {}
        self._waiting: list[tuple[int, events.AddPartitions]] = []
        self._expires = False

    # The contract

    @property
    def state(self) -> State:
        """Where the transaction is."""
        return State(self.current.state)

    @property
    def disposable(self) -> bool:
        """True when the transactional id is not known."""
        return self.current is _UNKNOWN

    def handle(self, event: TransactionEvent, now_ms: int, token: int = 0) -> TransactionEffects:
        """Take an event: what to store, whom to answer, which timers to set, what to send."""
        effects: TransactionEffects = Effects()
        _HANDLERS[type(event)](self, event, now_ms, token, effects)
        return effects

    def replay(self, record: CoordinatorRecord) -> None:
        """Apply a record."""
        if isinstance(record, TransactionRecord):
            self.partitions = dict.fromkeys(record.partitions)
            self.groups = dict.fromkeys(record.groups)
            self.current = msgspec.structs.replace(record, partitions=[], groups=[])
        elif isinstance(record, PartitionsAddedRecord):
            began = self.state is not State.ONGOING
            self.current = msgspec.structs.replace(
                self.current,
                state=State.ONGOING,
                start_timestamp_ms=(
                    record.timestamp_ms if began else self.current.start_timestamp_ms
                ),
                update_timestamp_ms=record.timestamp_ms,
            )
            self.partitions.update(dict.fromkeys(record.partitions))
            self.groups.update(dict.fromkeys(record.groups))
        else:
            self.current = _UNKNOWN
            self.partitions, self.groups = {}, {}

    def snapshot(self) -> list[CoordinatorRecord]:
        """All as one record."""
        if self.disposable:
            return []
        return [
            msgspec.structs.replace(
                self.current, partitions=list(self.partitions), groups=list(self.groups)
            )
        ]

    def listing(self) -> TransactionListing:
        """As ListTransactions shows it."""
        return TransactionListing(
            self.transactional_id,
            self.current.producer_id,
            self.current.state,
            self.current.start_timestamp_ms,
        )

    # InitProducerId

    def _on_init(
        self, event: events.InitProducerId, now_ms: int, token: int, effects: TransactionEffects
    ) -> None:
        if not 0 < event.timeout_ms <= self.settings.max_timeout_ms:
            reply: TransactionReply = ProducerReply(KafkaCode.INVALID_TRANSACTION_TIMEOUT)
        elif self.state in _PREPARED:
            reply = ProducerReply(KafkaCode.CONCURRENT_TRANSACTIONS)
        elif self._is_stranger(event):
            reply = ProducerReply(KafkaCode.PRODUCER_FENCED)
        elif self.state is State.ONGOING:
            # Its epoch goes to nobody; who asks comes again, and gets the one behind it.
            self._fence(event.timestamp_ms, now_ms, effects)
            reply = ProducerReply(KafkaCode.CONCURRENT_TRANSACTIONS)
        else:
            reply = self._next_producer(event, now_ms, effects)
        effects.replies.append((token, reply))

    def _is_stranger(self, event: events.InitProducerId) -> bool:
        """Does the producer name an id that is not of this transactional id? One that ran out of
        epochs may not have heard of the id that followed."""
        current = self.current
        if event.producer_id == NO_PRODUCER_ID or current.producer_epoch == NO_EPOCH:
            return False
        overflowed = (
            event.producer_id == current.previous_producer_id
            and event.producer_epoch >= LAST_GIVEN_EPOCH
        )
        return event.producer_id != current.producer_id and not overflowed

    def _next_producer(
        self, event: events.InitProducerId, now_ms: int, effects: TransactionEffects
    ) -> TransactionReply:
        """The epoch, or the producer id, that follows; or again what an answer that was lost said
        (KIP-360)."""
        current = self.current
        expected = None if event.producer_id == NO_PRODUCER_ID else event.producer_epoch
        epoch = current.producer_epoch
        if epoch != NO_EPOCH and expected is not None and expected != epoch:
            if expected != current.last_producer_epoch:
                return ProducerReply(KafkaCode.PRODUCER_FENCED)
            return ProducerReply(0, current.producer_id, epoch)
        exhausted = epoch >= LAST_GIVEN_EPOCH
        if epoch == NO_EPOCH or exhausted:
            if event.new_producer_id == NO_PRODUCER_ID:
                return NeedsProducerId()
            producer_id, following = event.new_producer_id, 0
        else:
            producer_id, following = current.producer_id, epoch + 1
        self._become(
            effects,
            State.EMPTY,
            event.timestamp_ms,
            producer_id=producer_id,
            producer_epoch=following,
            last_producer_epoch=NO_EPOCH if expected is None else epoch,
            previous_producer_id=(
                current.producer_id if exhausted else current.previous_producer_id
            ),
            timeout_ms=event.timeout_ms,
        )
        self._expire_later(now_ms, effects)
        return ProducerReply(0, producer_id, following)

    # AddPartitionsToTxn, AddOffsetsToTxn, and the first batch of a partition

    def _on_add(
        self, event: events.AddPartitions, now_ms: int, token: int, effects: TransactionEffects
    ) -> None:
        if event.verify_only:
            effects.replies.append((token, self._verified(event)))
        elif self.state in _PREPARED:
            if event.wait_ms <= 0 or len(self._waiting) >= self.settings.max_waiting:
                busy = PartitionsReply(KafkaCode.CONCURRENT_TRANSACTIONS)
                effects.replies.append((token, busy))
                return
            if not self._waiting:
                effects.timers.append((now_ms + event.wait_ms, "wait"))
            self._waiting.append((token, event))
        else:
            effects.replies.append((token, self._added(event, now_ms, effects)))

    def _producer_error(self, producer_id: int, producer_epoch: int) -> int:
        if self.disposable or self.current.producer_id != producer_id:
            return KafkaCode.INVALID_PRODUCER_ID_MAPPING
        if self.current.producer_epoch != producer_epoch:
            return KafkaCode.PRODUCER_FENCED
        return KafkaCode.NONE

    def _verified(self, event: events.AddPartitions) -> PartitionsReply:
        error = self._producer_error(event.producer_id, event.producer_epoch)
        if not error and self.state in _PREPARED:
            error = KafkaCode.CONCURRENT_TRANSACTIONS
        if error:
            return PartitionsReply(error)
        inside = [partition in self.partitions for partition in event.partitions]
        inside += [group in self.groups for group in event.groups]
        return PartitionsReply(
            0, [0 if one else int(KafkaCode.TRANSACTION_ABORTABLE) for one in inside]
        )

    def _added(
        self, event: events.AddPartitions, now_ms: int, effects: TransactionEffects
    ) -> PartitionsReply:
        error = self._producer_error(event.producer_id, event.producer_epoch)
        if error:
            return PartitionsReply(error)
        began = self.state is not State.ONGOING
        partitions = [one for one in dict.fromkeys(event.partitions) if one not in self.partitions]
        groups = [one for one in dict.fromkeys(event.groups) if one not in self.groups]
        if partitions or groups:
            record = PartitionsAddedRecord(event.timestamp_ms, partitions, groups)
            self.replay(record)
            effects.records.append(record)
            if began:
                effects.timers.append((now_ms + self.current.timeout_ms, "timeout"))
        return PartitionsReply(0, [0] * (len(event.partitions) + len(event.groups)))

    # EndTxn

    def _on_end(
        self, event: events.EndTransaction, now_ms: int, token: int, effects: TransactionEffects
    ) -> None:
        if event.version >= TRANSACTION_V2:
            reply = self._end_v2(event, now_ms, effects)
        else:
            reply = self._end_v1(event, now_ms, effects)
        effects.replies.append((token, reply))

    def _end_v1(
        self, event: events.EndTransaction, now_ms: int, effects: TransactionEffects
    ) -> TransactionReply:
        error = self._producer_error(event.producer_id, event.producer_epoch)
        if error:
            return ProducerReply(error)
        if self.state in _PREPARED:
            return ProducerReply(KafkaCode.CONCURRENT_TRANSACTIONS)
        if self.state is State.ONGOING:
            self._prepare(
                event.commit,
                event.timestamp_ms,
                now_ms,
                effects,
                transaction_version=TRANSACTION_V1,
            )
        elif self.state is not (State.COMPLETE_COMMIT if event.commit else State.COMPLETE_ABORT):
            return ProducerReply(KafkaCode.INVALID_TXN_STATE)
        return ProducerReply(0, self.current.producer_id, self.current.producer_epoch)

    def _end_v2(
        self, event: events.EndTransaction, now_ms: int, effects: TransactionEffects
    ) -> TransactionReply:
        current = self.current
        if self.disposable:
            return ProducerReply(KafkaCode.INVALID_PRODUCER_ID_MAPPING)
        if self.state in _PREPARED:
            return ProducerReply(KafkaCode.CONCURRENT_TRANSACTIONS)
        overflowed = (
            event.producer_id == current.previous_producer_id
            and event.producer_epoch == LAST_GIVEN_EPOCH
            and current.producer_epoch == 0
        )
        if event.producer_id != current.producer_id and not overflowed:
            return ProducerReply(KafkaCode.INVALID_PRODUCER_ID_MAPPING)
        again = overflowed or current.producer_epoch == event.producer_epoch + 1
        ended = self.state in (State.COMPLETE_COMMIT, State.COMPLETE_ABORT)
        if event.producer_epoch != current.producer_epoch and not (again and ended):
            return ProducerReply(KafkaCode.PRODUCER_FENCED)
        if ended and again:
            if self.state is not (State.COMPLETE_COMMIT if event.commit else State.COMPLETE_ABORT):
                return ProducerReply(KafkaCode.INVALID_TXN_STATE)
            return ProducerReply(0, current.producer_id, current.producer_epoch)
        if self.state is not State.ONGOING and event.commit:
            return ProducerReply(KafkaCode.INVALID_TXN_STATE)
        # An abort of a transaction without partitions is one all the same: its epoch is over.
        following = NO_PRODUCER_ID
        if current.producer_epoch >= LAST_GIVEN_EPOCH:
            following = event.new_producer_id
            if following == NO_PRODUCER_ID:
                return NeedsProducerId()
        self._prepare(
            event.commit,
            event.timestamp_ms,
            now_ms,
            effects,
            producer_epoch=current.producer_epoch + 1,
            last_producer_epoch=current.producer_epoch,
            next_producer_id=following,
            transaction_version=TRANSACTION_V2,
        )
        if following != NO_PRODUCER_ID:
            return ProducerReply(0, following, 0)
        return ProducerReply(0, self.current.producer_id, self.current.producer_epoch)

    def _fence(self, timestamp_ms: int, now_ms: int, effects: TransactionEffects) -> None:
        """Abort for a producer that has no say in it: its epoch is over. One that is alone and only
        was late may go on with the epoch that follows."""
        self._prepare(
            False,
            timestamp_ms,
            now_ms,
            effects,
            producer_epoch=min(self.current.producer_epoch + 1, LAST_EPOCH),
            last_producer_epoch=self.current.producer_epoch,
            transaction_version=TRANSACTION_V2,
        )

    def _prepare(
        self,
        commit: bool,
        timestamp_ms: int,
        now_ms: int,
        effects: TransactionEffects,
        **changes: int,
    ) -> None:
        state = State.PREPARE_COMMIT if commit else State.PREPARE_ABORT
        self._become(
            effects,
            state,
            timestamp_ms,
            start_timestamp_ms=(
                self.current.start_timestamp_ms if self.partitions or self.groups else timestamp_ms
            ),
            partitions=list(self.partitions),
            groups=list(self.groups),
            **changes,
        )
        effects.timers.append((None, "timeout"))
        if self.partitions or self.groups:
            effects.commands.append(self._markers())
        else:
            self._complete(timestamp_ms, now_ms, effects)

    def _markers(self) -> WriteMarkers:
        return WriteMarkers(
            self.current.producer_id,
            self.current.producer_epoch,
            self.state is State.PREPARE_COMMIT,
            self.current.transaction_version,
            tuple(self.partitions),
            tuple(self.groups),
        )

    def _on_written(
        self, event: events.MarkersWritten, now_ms: int, token: int, effects: TransactionEffects
    ) -> None:
        current = self.current
        same = (event.producer_id, event.producer_epoch) == (
            current.producer_id,
            current.producer_epoch,
        )
        if self.state in _PREPARED and same:
            self._complete(event.timestamp_ms, now_ms, effects)
            self._go_on(now_ms, effects)

    def _complete(self, timestamp_ms: int, now_ms: int, effects: TransactionEffects) -> None:
        """The end; behind an overflow the next producer id takes over."""
        current = self.current
        changes: dict[str, int] = {}
        if current.next_producer_id != NO_PRODUCER_ID:
            changes = {
                "producer_id": current.next_producer_id,
                "producer_epoch": 0,
                "previous_producer_id": current.producer_id,
                "next_producer_id": NO_PRODUCER_ID,
            }
        self._become(effects, _COMPLETED[self.state], timestamp_ms, **changes)
        self._expire_later(now_ms, effects)

    def _go_on(self, now_ms: int, effects: TransactionEffects) -> None:
        """Answer those who waited for the end of the transaction."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        effects.timers.append((None, "wait"))
        for token, event in waiting:
            effects.replies.append((token, self._added(event, now_ms, effects)))

    # What operators see

    def _on_describe(
        self,
        event: events.DescribeTransaction,
        now_ms: int,
        token: int,
        effects: TransactionEffects,
    ) -> None:
        current = self.current
        reply = TransactionDescription(KafkaCode.TRANSACTIONAL_ID_NOT_FOUND)
        if not self.disposable:
            reply = TransactionDescription(
                0,
                current.state,
                current.producer_id,
                current.producer_epoch,
                current.timeout_ms,
                current.start_timestamp_ms,
                sorted(self.partitions),
                sorted(self.groups),
            )
        effects.replies.append((token, reply))

    # Timers and recovery

    def _on_timer(
        self, event: events.TimerFired, now_ms: int, token: int, effects: TransactionEffects
    ) -> None:
        if event.key == "timeout" and self.state is State.ONGOING:
            self._fence(event.timestamp_ms, now_ms, effects)
        elif event.key == "wait":
            waiting, self._waiting = self._waiting, []
            busy = PartitionsReply(KafkaCode.CONCURRENT_TRANSACTIONS)
            effects.replies.extend((token, busy) for token, _ in waiting)
        elif event.key == "expire":
            self._on_expire(event.timestamp_ms, now_ms, effects)

    def _on_expire(self, timestamp_ms: int, now_ms: int, effects: TransactionEffects) -> None:
        """The timer is not moved by each transaction: it looks at the last one when it fires."""
        self._expires = False
        left_ms = self.current.update_timestamp_ms + self.settings.expiration_ms - timestamp_ms
        if self.disposable:
            return
        if self.state is State.ONGOING or self.state in _PREPARED or left_ms > 0:
            self._expire_later(now_ms, effects, max(left_ms, self.settings.expiration_ms // 10))
            return
        record = TransactionExpiredRecord()
        self.replay(record)
        effects.records.append(record)

    def _expire_later(
        self, now_ms: int, effects: TransactionEffects, after_ms: int | None = None
    ) -> None:
        if not self._expires:
            self._expires = True
            after_ms = self.settings.expiration_ms if after_ms is None else after_ms
            effects.timers.append((now_ms + after_ms, "expire"))

    def _on_resumed(
        self, event: events.Resumed, now_ms: int, token: int, effects: TransactionEffects
    ) -> None:
        """Go on where the log ends: send the markers again, wait for the time-out."""
        current = self.current
        if self.state in _PREPARED:
            effects.commands.append(self._markers())
        elif self.state is State.ONGOING:
            left_ms = current.start_timestamp_ms + current.timeout_ms - event.timestamp_ms
            effects.timers.append((now_ms + min(max(left_ms, 0), current.timeout_ms), "timeout"))
        if not self.disposable:
            left_ms = current.update_timestamp_ms + self.settings.expiration_ms - event.timestamp_ms
            self._expire_later(now_ms, effects, max(left_ms, 0))

    def _become(
        self,
        effects: TransactionEffects,
        state: State,
        timestamp_ms: int,
        **changes: int | list[tuple[bytes, int]] | list[str],
    ) -> None:
        record = msgspec.structs.replace(
            self.current, state=state.value, update_timestamp_ms=timestamp_ms, **changes
        )
        self.replay(record)
        effects.records.append(record)


_HANDLERS: dict[type, Callable[..., None]] = {
    events.InitProducerId: TransactionCoordinator._on_init,
    events.AddPartitions: TransactionCoordinator._on_add,
    events.EndTransaction: TransactionCoordinator._on_end,
    events.MarkersWritten: TransactionCoordinator._on_written,
    events.DescribeTransaction: TransactionCoordinator._on_describe,
    events.TimerFired: TransactionCoordinator._on_timer,
    events.Resumed: TransactionCoordinator._on_resumed,
}
