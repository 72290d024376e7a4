"""The committed offsets of one group: part of the group's machine, so that a commit and the
generation it is checked against are decided in one place and one order (OffsetCommit, OffsetFetch,
OffsetDelete).
"""

from __future__ import annotations

from robustmq.errors import KafkaCode
from robustmq.groups.records import GroupRecord, OffsetDeletedRecord, OffsetRecord
from robustmq.kafka.group_events import CommitOffsets, CommittedOffset


class OffsetTable:
    """Offsets by topic and partition, each as the record that stored it."""

    def __init__(self, metadata_limit: int) -> None:
        self._metadata_limit = metadata_limit
        self._offsets: dict[tuple[bytes, int], OffsetRecord] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def commit(self, event: CommitOffsets) -> tuple[list[GroupRecord], list[int]]:
        """Store what may be stored; the records, and an error code for each offset asked."""
        records: list[GroupRecord] = []
        errors: list[int] = []
        for wanted in event.offsets:
            if len(wanted.metadata.encode()) > self._metadata_limit:
                errors.append(KafkaCode.OFFSET_METADATA_TOO_LARGE)
                continue
            record = OffsetRecord(
                wanted.topic,
                wanted.partition,
                wanted.offset,
                wanted.leader_epoch,
                wanted.metadata,
                event.timestamp_ms,
            )
            self.replay(record)
            records.append(record)
            errors.append(KafkaCode.NONE)
        return records, errors

    def replay(self, record: OffsetRecord | OffsetDeletedRecord) -> None:
        """Apply a record."""
        key = (record.topic, record.partition)
        if isinstance(record, OffsetRecord):
            self._offsets[key] = record
        else:
            self._offsets.pop(key, None)

    def fetch(self, partitions: list[tuple[bytes, int]] | None) -> list[CommittedOffset]:
        """The stored offsets in the order asked for, or all sorted; -1 where there is none."""
        keys = sorted(self._offsets) if partitions is None else partitions
        found = []
        for topic, partition in keys:
            record = self._offsets.get((topic, partition))
            if record is None:
                found.append(CommittedOffset(topic, partition))
            else:
                found.append(
                    CommittedOffset(
                        topic, partition, record.offset, record.leader_epoch, record.metadata
                    )
                )
        return found

    def delete(self, topic: bytes, partition: int) -> list[GroupRecord]:
        """Forget one offset; no record when there was none."""
        if (topic, partition) not in self._offsets:
            return []
        record = OffsetDeletedRecord(topic, partition)
        self.replay(record)
        return [record]

    def forget_topic(self, topic: bytes) -> list[GroupRecord]:
        """Forget the offsets of a topic that was deleted."""
        keys = sorted(key for key in self._offsets if key[0] == topic)
        return [record for key in keys for record in self.delete(*key)]

    def clear(self) -> None:
        """Forget everything."""
        self._offsets.clear()

    def snapshot(self) -> list[GroupRecord]:
        """Records of all offsets, sorted."""
        return [self._offsets[key] for key in sorted(self._offsets)]
