"""The committed offsets of one group: part of the group's machine, so that a commit and the
generation it is checked against are decided in one place and one order (OffsetCommit, OffsetFetch,
OffsetDelete, TxnOffsetCommit).

Offsets of a transaction are pending until it ends (KIP-98, KIP-447): they are told to nobody, and
who asks for stable offsets hears UNSTABLE_OFFSET_COMMIT meanwhile. What was committed for a
partition behind a pending offset stays when that one's transaction is committed.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from robustmq.errors import KafkaCode
from robustmq.groups.records import (
    GroupRecord,
    OffsetDeletedRecord,
    OffsetRecord,
    OffsetsEndedRecord,
    PendingOffsetRecord,
)
from robustmq.kafka.group_events import (
    CommitOffsets,
    CommittedOffset,
    EndOffsets,
    OffsetToCommit,
)

Key = tuple[bytes, int]
TableRecord = OffsetRecord | PendingOffsetRecord | OffsetsEndedRecord | OffsetDeletedRecord

REMEMBERED_ENDS = 1_000
"""Producers of whom the table knows which epoch has ended."""


class OffsetTable:
    """Offsets by topic and partition, each as the record that stored it."""

    def __init__(self, metadata_limit: int) -> None:
        self._metadata_limit = metadata_limit
        self._offsets: dict[Key, OffsetRecord] = {}
        self._pending: dict[Key, dict[int, PendingOffsetRecord]] = {}
        """By producer, in the order in which they came."""
        self._by_producer: dict[int, dict[Key, None]] = {}
        self._ended: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def has_pending(self) -> bool:
        """Is a transaction open that has offsets here?"""
        return bool(self._pending)

    def commit(self, event: CommitOffsets) -> tuple[list[GroupRecord], list[int]]:
        """Store what may be stored; the records, and an error code for each offset asked."""
        if event.producer_epoch < self._ended.get(event.producer_id, -1):
            # It was still on its way when its transaction was ended by the coordinator.
            return [], [int(KafkaCode.INVALID_PRODUCER_EPOCH)] * len(event.offsets)
        records: list[GroupRecord] = []
        errors: list[int] = []
        for wanted in event.offsets:
            if len(wanted.metadata.encode()) > self._metadata_limit:
                errors.append(KafkaCode.OFFSET_METADATA_TOO_LARGE)
                continue
            record = _record_of(event, wanted)
            self.replay(record)
            records.append(record)
            errors.append(KafkaCode.NONE)
        return records, errors

    def end(self, event: EndOffsets) -> list[GroupRecord]:
        """The transaction of a producer has ended; no record when it has nothing here."""
        record = OffsetsEndedRecord(event.producer_id, event.producer_epoch, event.commit)
        known = event.producer_id in self._by_producer
        self.replay(record)
        return [record] if known else []

    def replay(self, record: TableRecord) -> None:
        """Apply a record."""
        if isinstance(record, OffsetRecord):
            key = (record.topic, record.partition)
            self._offsets[key] = record
            for producer_id in self._pending.get(key, {}):
                self._overtake(key, producer_id)
        elif isinstance(record, PendingOffsetRecord):
            key = (record.topic, record.partition)
            waiting = self._pending.setdefault(key, {})
            waiting.pop(record.producer_id, None)
            waiting[record.producer_id] = record
            self._by_producer.setdefault(record.producer_id, {})[key] = None
        elif isinstance(record, OffsetsEndedRecord):
            self._end(record)
        else:
            key = (record.topic, record.partition)
            self._offsets.pop(key, None)
            if record.pending:
                for producer_id in list(self._pending.get(key, {})):
                    self._take(key, producer_id)

    def _end(self, record: OffsetsEndedRecord) -> None:
        for key in list(self._by_producer.get(record.producer_id, {})):
            pending = self._pending[key][record.producer_id]
            if pending.producer_epoch > record.producer_epoch:
                continue
            if record.commit and not pending.overtaken:
                self._offsets[key] = OffsetRecord(
                    pending.topic,
                    pending.partition,
                    pending.offset,
                    pending.leader_epoch,
                    pending.metadata,
                    pending.timestamp_ms,
                )
                for producer_id in self._pending[key]:
                    if producer_id == record.producer_id:
                        break
                    self._overtake(key, producer_id)
            self._take(key, record.producer_id)
        self._ended[record.producer_id] = record.producer_epoch
        self._ended.move_to_end(record.producer_id)
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def _overtake(self, key: Key, producer_id: int) -> None:
        waiting = self._pending[key]
        waiting[producer_id] = msgspec.structs.replace(waiting[producer_id], overtaken=True)

    def _take(self, key: Key, producer_id: int) -> None:
        del self._pending[key][producer_id]
        if not self._pending[key]:
            del self._pending[key]
        del self._by_producer[producer_id][key]
        if not self._by_producer[producer_id]:
            del self._by_producer[producer_id]

    def fetch(
        self, partitions: list[Key] | None, require_stable: bool = False
    ) -> list[CommittedOffset]:
        """The stored offsets in the order asked for, or all sorted; -1 where there is none."""
        keys = sorted(self._offsets) if partitions is None else partitions
        found = []
        for key in keys:
            record = self._offsets.get(key)
            if require_stable and key in self._pending:
                unstable = int(KafkaCode.UNSTABLE_OFFSET_COMMIT)
                found.append(CommittedOffset(*key, error=unstable))
            elif record is None:
                found.append(CommittedOffset(*key))
            else:
                found.append(
                    CommittedOffset(*key, record.offset, record.leader_epoch, record.metadata)
                )
        return found

    def delete(self, topic: bytes, partition: int) -> list[GroupRecord]:
        """Forget one offset; no record when there was none."""
        if (topic, partition) not in self._offsets:
            return []
        record = OffsetDeletedRecord(topic, partition)
        self.replay(record)
        return [record]

    def expire(
        self, before_ms: int, kept: set[bytes], empty_since_ms: int | None
    ) -> list[GroupRecord]:
        """Forget what was committed before a time, unless its topic is among the `kept`; of a
        group that is empty, what was committed since then counts as committed then (KIP-211)."""
        gone = [
            key
            for key, record in self._offsets.items()
            if key not in self._pending
            and key[0] not in kept
            and max(record.timestamp_ms, empty_since_ms or 0) <= before_ms
        ]
        return [record for key in sorted(gone) for record in self.delete(*key)]

    def topics(self) -> set[bytes]:
        """The topics of which something was committed, also within a transaction."""
        return {key[0] for key in (*self._offsets, *self._pending)}

    def forget_topic(self, topic: bytes) -> list[GroupRecord]:
        """Forget the offsets of a topic that was deleted."""
        keys = sorted(key for key in {**self._offsets, **self._pending} if key[0] == topic)
        records: list[GroupRecord] = []
        for key in keys:
            record = OffsetDeletedRecord(*key, pending=True)
            self.replay(record)
            records.append(record)
        return records

    def clear(self) -> None:
        """Forget everything."""
        self._offsets.clear()
        self._pending.clear()
        self._by_producer.clear()

    def snapshot(self) -> list[GroupRecord]:
        """Records of all offsets; the pending ones of a partition in their order. Not sorted: that
        would take a hundred thousand of them 15 ms."""
        records: list[GroupRecord] = list(self._offsets.values())
        for waiting in self._pending.values():
            records.extend(waiting.values())
        return records


def _record_of(event: CommitOffsets, wanted: OffsetToCommit) -> OffsetRecord | PendingOffsetRecord:
    rest = (
        wanted.topic,
        wanted.partition,
        wanted.offset,
        wanted.leader_epoch,
        wanted.metadata,
        event.timestamp_ms,
    )
    if event.producer_id < 0:
        return OffsetRecord(*rest)
    return PendingOffsetRecord(event.producer_id, event.producer_epoch, *rest)
