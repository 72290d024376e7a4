"""The shared engine: partitions of declared topics whose batches lie in the shard's log.

A partition costs what a light topic costs: a slot of 24 bytes in the topic index, under a name that
no topic can have, and its batches are chained backwards through the log (`light.LightReader`). No
file, no write and no fdatasync of its own: what a turn appends to however many partitions is one
write of the log. Everything but the batches is an entry of the log too: where the partition begins
(TOPIC_TRIMMED), that it is over (TOPIC_DELETED). So nothing is cut or resumed after a crash: what
the log has is there.

An entry of the log of kind SHARED_BLOCK is a block whose entries say in their log name which topics
they are of (docs/formats.md, "Partitions in the shard log"). LevelDB has the partitions that ever
had a record, so that those of topics that were deleted meanwhile are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from robustmq.core import batches, blocks
from robustmq.core.batches import BatchInfo
from robustmq.storage.engine import PartitionSettings, ReadResult
from robustmq.storage.light import OTHER_PREFIX
from robustmq.storage.light_topics import SHARED_KEY, LightTopics
from robustmq.storage.lookups import Lookups, after
from robustmq.storage.shard_log import (
    SHARED_BLOCK,
    TOPIC_DELETED,
    TOPIC_PLACED,
    ShardLog,
    block_begin,
)

NAME_PREFIX = OTHER_PREFIX
"""No topic begins so: MQTT names have no NUL, and Kafka's have one at most, their first byte."""
_NAME_BYTES = len(NAME_PREFIX) + 16 + 4
_GENERATION_AT = 5
RETAIN_LOOKS = 256
"""Batches that one call of `retain` looks at."""
COUNTED_BATCHES = 2048
"""Batches whose sizes are looked up; of more the rest is taken to be like them."""
_NOT_STORED = blocks.DECLARED | blocks.MEMORY_MODE


class StoredEntry(NamedTuple):
    """An entry of a SHARED_BLOCK, and what it is of."""

    entry: blocks.EntryView
    topic_id: bytes
    partition: int
    log_topic: bytes
    topic: bytes
    """The MQTT topic."""


def stored_name(topic_id: bytes, partition: int) -> bytes:
    """What a partition is called in the topic index."""
    return NAME_PREFIX + topic_id + partition.to_bytes(4, "big")


def named(name: bytes) -> tuple[bytes, int] | None:
    """(topic id, partition) of such a name; None: it is a light topic's."""
    if len(name) != _NAME_BYTES or not name.startswith(NAME_PREFIX):
        return None
    return name[2:18], int.from_bytes(name[18:], "big")


def build_stored(
    topic_id: bytes,
    partition: int,
    log_topic: bytes,
    topic: bytes,
    flags: int,
    batch: bytes | bytearray,
    origin: int = 0,
    packet_id: int = 0,
    generation: int = 0,
) -> bytearray:
    """An entry of a SHARED_BLOCK."""
    names = len(log_topic).to_bytes(2, "little") + log_topic
    if topic != log_topic:
        names += topic
    name = stored_name(topic_id, partition)
    entry = bytearray(
        blocks.build_entry(name, names, 0, flags & ~_NOT_STORED, origin, packet_id, batch)
    )
    entry[_GENERATION_AT] = generation
    return entry


def parts(payload: bytes | memoryview) -> tuple[bytes, bytes]:
    """(marker of what other engines have of the same frame, block) of a SHARED_BLOCK."""
    data = bytes(payload)
    begin = block_begin(data)
    return data[4:begin], data[begin:]


def stored_entries(block: bytes) -> Iterator[StoredEntry]:
    """The entries of shared partitions in the block of a SHARED_BLOCK; others are of light topics
    that have left mode memory."""
    for entry in blocks.entries(block):
        found = named(entry.topic)
        if found is None:
            continue
        size = 2 + int.from_bytes(entry.log_name[:2], "little")
        log_topic = entry.log_name[2:size]
        yield StoredEntry(entry, *found, log_topic, entry.log_name[size:] or log_topic)


class SharedPartitions:
    """The shared partitions of one shard."""

    def __init__(
        self,
        log: ShardLog,
        light: LightTopics,
        lookups: Lookups,
        append: Callable[[int, bytes | bytearray, int, int, int], int],
    ) -> None:
        """`append` is `ShardStore.append`."""
        self._log = log
        self.light = light
        self._lookups = lookups
        self._append = append
        light.others = lookups.counter(SHARED_KEY) or 0

    def replay(self, kind: int, data: bytes) -> None:
        """Recovery: an entry of the log that LevelDB may not know yet."""
        if kind == SHARED_BLOCK:
            names = (entry.topic for entry in blocks.entries(parts(data)[1]))
            self._note(name for name in names if named(name) is not None)
        elif kind == TOPIC_PLACED and named(data[8:]) is not None:
            self._note([data[8:]])
        elif kind == TOPIC_DELETED and named(data) is not None:
            self._forget(data)

    def _note(self, names: Iterable[bytes]) -> None:
        """These are known from now on."""
        for name in names:
            if self._lookups.get(SHARED_KEY + name[2:]) is None:
                self._lookups.put(SHARED_KEY + name[2:], b"")
                self._count(1)

    def _forget(self, name: bytes) -> None:
        if self._lookups.get(SHARED_KEY + name[2:]) is not None:
            self._lookups.put(SHARED_KEY + name[2:], None)
            self._count(-1)

    def _count(self, change: int) -> None:
        self.light.others += change
        self._lookups.set_counter(SHARED_KEY, self.light.others)

    def topic_ids(self) -> list[bytes]:
        """The topics that have shared partitions here."""
        found: list[bytes] = []
        start = SHARED_KEY
        while True:
            pair = next(self._lookups.range(start, after(SHARED_KEY)), None)
            if pair is None:
                return found
            found.append(pair[0][1:17])
            start = after(pair[0][:17])

    def of_topic(self, topic_id: bytes) -> Iterator[int]:
        """The partitions of a topic that are known here, found as they are asked for."""
        prefix = SHARED_KEY + topic_id
        for key, _ in self._lookups.range(prefix, after(prefix)):
            yield int.from_bytes(key[17:], "big")

    def open(self, topic_id: bytes, partition: int, settings: PartitionSettings) -> SharedPartition:
        """The log of a partition; it costs nothing before its first record."""
        return SharedPartition(self, stored_name(topic_id, partition), settings)

    # -- appending ---------------------------------------------------------------------------------

    def append(
        self,
        block: bytearray,
        marker: bytes,
        leader_epoch: int,
        source: int,
        sequence: int,
        timestamp_ms: int,
    ) -> int:
        """Append entries (`build_stored`), giving offsets in place, and the marker of what other
        engines have of the same frame; the log position, -1 if the frame was seen before."""
        head = len(marker).to_bytes(4, "little") + marker
        new: list[bytes] = []
        self.light.assign_at(block, self._log.next_payload + len(head), leader_epoch, new)
        self._note(new)
        return self._append(SHARED_BLOCK, head + block, source, sequence, timestamp_ms)

    def place(self, name: bytes, offset: int) -> None:
        """The next record of a partition gets this offset."""
        if not self.light.exists(name):
            self._note([name])
        self.light.place(name, offset)

    def drop(self, name: bytes) -> None:
        """A partition is over."""
        if self.light.exists(name):
            self.light.delete(name)
            self._forget(name)


class SharedPartition:
    """One partition in the shard's log."""

    __slots__ = ("_name", "_settings", "_shard", "_size", "_young_until_ms", "deleted", "log_topic")

    def __init__(self, shard: SharedPartitions, name: bytes, settings: PartitionSettings) -> None:
        self._shard = shard
        self._name = name
        self._settings = settings
        self._young_until_ms = -1
        """No record is too old before."""
        self._size = -1
        """Bytes held, once that was asked for."""
        self.log_topic = b""
        """The topic as the entries of the log name it; its owner says it."""
        self.deleted = False

    @property
    def start_offset(self) -> int:
        """The first offset that is kept."""
        return self._shard.light.start_offset(self._name)

    @property
    def end_offset(self) -> int:
        """The offset that the next record gets."""
        return max(self._shard.light.end_offset(self._name), self.start_offset)

    @property
    def high_watermark(self) -> int:
        """The end of what is committed with the log."""
        return max(self._shard.light.high_watermark(self._name), self.start_offset)

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch, with an entry of its own."""
        return self.append_kafka(0, batch, leader_epoch)

    def append_kafka(self, flags: int, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch that Kafka produced; its base offset."""
        topic_id, partition = self._name[2:18], int.from_bytes(self._name[18:], "big")
        topic = self.log_topic
        self.prepare()
        block = build_stored(topic_id, partition, topic, topic, flags, batch)
        time_ms = max(0, int.from_bytes(batch[35:43], "big", signed=True))
        self._shard.append(block, b"", leader_epoch, 0, 0, time_ms)
        self.grown(len(batch))
        base_offset = blocks.base_offset(block, 0)
        batches.set_base(batch, 0, base_offset, leader_epoch)
        return base_offset

    def prepare(self) -> None:
        """Something is about to be appended: the index knows where."""
        start_offset = self.start_offset
        if start_offset > self._shard.light.end_offset(self._name):
            self._shard.place(self._name, start_offset)

    def grown(self, size: int) -> None:
        """So many bytes were appended."""
        if self._size >= 0:
            self._size += size

    def restore(self, batch: bytearray) -> None:
        """Add a batch at the offset that it has."""
        base_offset = int.from_bytes(batch[:8], "big")
        assert base_offset >= self.end_offset, "offsets rise"
        if base_offset > self._shard.light.end_offset(self._name):
            self.skip_to(base_offset)
        self.append(batch, int.from_bytes(batch[12:16], "big", signed=True))

    def skip_to(self, offset: int) -> None:
        """The next record gets this offset."""
        empty = self.start_offset == self.end_offset
        self._shard.place(self._name, offset)
        if empty:
            self.trim(offset)

    def offset_of_tail(self, max_bytes: int) -> int:
        """Where the newest batches of so many bytes begin."""
        _, offset = self._shard.light.held(self._name, COUNTED_BATCHES, max_bytes)
        return max(self.start_offset, offset)

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole batches from `offset` on."""
        if offset == self.end_offset:
            # It may lie behind the last batch of the chain, where the newest were let go.
            return ReadResult(self.high_watermark, self.start_offset)
        return self._shard.light.read(self._name, offset, max_bytes, committed)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """(offset, time stamp) of the first batch at or after a time; -3: of the greatest."""
        return self._shard.light.offset_for_time(self._name, timestamp_ms)

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """The headers of the last batches."""
        return self._shard.light.last_batches(self._name, max_bytes)

    def write(self) -> Callable[[bool], None] | None:
        """The shard's log is written anyway."""
        return None

    def committed(self) -> None:
        """The log knows what is."""

    def resume_at(self, end_offset: int) -> None:
        """Nothing is cut: an entry of the log is whole, with what it says. Offsets that another
        engine gave are not used again."""
        if end_offset > self.end_offset:
            self._shard.place(self._name, end_offset)
            self.trim(end_offset)

    @property
    def quarantined(self) -> list[tuple[int, int]]:
        """The log reports what is corrupt in it."""
        return []

    @property
    def settings(self) -> PartitionSettings:
        """Those in force."""
        return self._settings

    @property
    def size(self) -> int:
        """Bytes held; of a long log the beginning is taken to be like its end."""
        if self._size < 0:
            held, offset = self._shard.light.held(self._name, COUNTED_BATCHES, 1 << 62)
            counted, begin = self.end_offset - offset, self.start_offset
            before = max(0, offset - begin)
            self._size = held + (held * before // counted if counted > 0 else 0)
        return self._size

    def trim(self, offset: int) -> None:
        """The log begins at `offset`."""
        assert offset <= self.end_offset, "a log begins before it ends"
        if offset > self.start_offset:
            self._size = -1
            self._shard.light.trim(self._name, offset, 0)

    def retain(self, now_ms: int) -> int:
        """Let go of the oldest batches that the settings let go."""
        settings = self._settings
        by_time = settings.retention_ms >= 0 and now_ms > self._young_until_ms
        if not settings.delete or not (by_time or settings.retention_bytes >= 0):
            return 0
        offset, end, freed = self.start_offset, self.high_watermark, 0
        over = self.size - settings.retention_bytes if settings.retention_bytes >= 0 else 0
        for _ in range(RETAIN_LOOKS):
            if offset >= end:
                break
            found = self.read(offset, 1).buffers
            if not found:
                break
            info = batches.validate(bytes(found[0]), 0, len(found[0]), False)
            due_ms = info.max_timestamp + settings.retention_ms
            old = info.max_timestamp >= 0 and settings.retention_ms >= 0 and due_ms < now_ms
            if not old and over - freed < info.length:
                if info.max_timestamp >= 0 and settings.retention_ms >= 0:
                    self._young_until_ms = due_ms
                break
            freed += info.length
            offset = info.base_offset + info.last_offset_delta + 1
        size = self._size
        self.trim(offset)
        if size >= 0:
            self._size = max(0, size - freed)
        return freed

    def configure(self, settings: PartitionSettings) -> None:
        """Settings have changed."""
        self._settings = settings
        self._young_until_ms = -1

    def free(self) -> Callable[[], None] | None:
        """The log lets go of its files itself."""
        return None

    def delete(self) -> Callable[[], None]:
        """The partition is over; its batches are dead where they lie."""
        if not self.deleted:
            self.deleted = True
            self._shard.drop(self._name)
        return _nothing

    def close(self) -> None:
        """There is no file."""


def _nothing() -> None:
    """All is done."""
