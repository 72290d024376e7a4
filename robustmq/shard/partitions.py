"""The partitions of declared topics that this worker holds.

There when the cluster state says that a topic exists, dropped when it says that it does not. One
that has records on disk is opened at the start, any other with its first use: what was never
written or read costs nothing, neither a file nor memory. Their records live in an engine of their
own (segment files or memory); what came over MQTT or from another worker also leaves a marker in
the shard log, small and in the log's order, so that repeated frames are recognised and deliveries
can be repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple
from uuid import UUID

import msgspec

from robustmq.config import StorageSettings
from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.kafka.topic_configs import effective
from robustmq.shard.cluster_view import Declared
from robustmq.shard.placement import ENTRY_DECLARED, ENTRY_KAFKA, Placement
from robustmq.shard.received import GENERATION_AT
from robustmq.storage.engine import PartitionLog, PartitionSettings
from robustmq.storage.shard_store import ShardStore
from robustmq.storage.stored_producers import declared_key

MAX_SETTINGS = 1024
"""Topics that are set alike share their settings; so many kinds are remembered."""


class MarkedAppend(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a marker in the shard log says of one entry: where its batch lies and what the batch
    does not say."""

    log_topic: bytes
    partition: int
    base_offset: int
    topic: bytes
    flags: int
    origin: int
    packet_id: int = 0
    generation: int = 0
    topic_id: bytes = b""
    end_offset: int = 0
    header: bytes = b""
    """Of a producer with an id: the header of the batch; of a control batch all of it."""


class HeldLog(NamedTuple):
    """An open log, and where it belongs."""

    topic: bytes
    partition: int
    shard: int
    log: PartitionLog


class _Topic(msgspec.Struct):
    """A declared topic, and its logs that are open, by partition."""

    topic_id: UUID
    partitions: int
    engine: str
    settings: PartitionSettings
    logs: dict[int, PartitionLog]


_ATTRIBUTES_AT = 22
_PRODUCER_ID_AT = 43

_marker_encoder = msgspec.msgpack.Encoder()
_marker_decoder = msgspec.msgpack.Decoder(list[MarkedAppend])


class Partitions:
    """The partition logs by topic and partition."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        defaults: StorageSettings,
    ) -> None:
        self._placement = placement
        self._stores = stores
        self._defaults = defaults
        self._topics: dict[bytes, _Topic] = {}
        self._opened = 0
        self.read_release: Callable[[bytes | memoryview], bytearray] = lambda payload: bytearray()
        """The block that an entry of a committed transaction stands for (`releases`)."""
        self._marked: dict[str, tuple[bytes, int, int]] = {}
        # What is on disk from before the start, by topic id: (shard, partition).
        self._stored: dict[bytes, list[tuple[int, int]]] = {}
        self._made: dict[tuple[str, ...], PartitionSettings] = {}

    def recovered(self) -> None:
        """All shards are open, and no partition yet."""
        for name, (topic, partition, end_offset) in self._marked.items():
            self._stores[self._placement.shard(topic, partition)].note_end(name, end_offset)
        self._marked.clear()
        stored = defaultdict(list)
        for shard, store in self._stores.items():
            for name in store.stored_partitions():
                topic_id, _, number = name.partition("-")
                stored[bytes.fromhex(topic_id)].append((shard, int(number)))
        self._stored = dict(stored)

    def declared(self) -> None:
        """All topics that were there at the start are open."""
        for topic_id, rows in self._stored.items():
            for shard, partition in rows:
                self._stores[shard].remove_stored(partition_name(topic_id, partition))
        self._stored.clear()
        ids = {topic.topic_id.hex for topic in self._topics.values()}
        for store in self._stores.values():
            store.keep_ends(lambda name: name.partition("-")[0] in ids)

    def open(self, topic: Declared, mode: str) -> None:
        """A topic is there; apply its settings if it is known already."""
        known = self._topics.get(topic.name)
        if known is not None and known.topic_id != topic.topic_id:
            self.drop(topic.name)
            known = None
        settings = self._settings(topic, mode)
        engine = "memory" if mode == "memory" else "segment"
        if known is None:
            known = _Topic(topic.topic_id, topic.partitions, engine, settings, {})
            self._topics[topic.name] = known
            for shard, partition in self._stored.pop(topic.topic_id.bytes, ()):
                if engine == "memory":
                    name = partition_name(topic.topic_id.bytes, partition)
                    self._stores[shard].remove_stored(name)
                else:
                    self.get(topic.name, partition)
            return
        known.partitions, known.settings = topic.partitions, settings
        if known.engine != engine:
            known.engine = engine
            self._move(topic.name, known)
        for log in known.logs.values():
            log.configure(settings)

    def _move(self, topic: bytes, known: _Topic) -> None:
        """The open partitions go over to another engine."""
        for partition, log in known.logs.items():
            store = self._stores[self._placement.shard(topic, partition)]
            known.logs[partition] = store.move_partition(log, known.engine, known.settings)

    def __len__(self) -> int:
        return self._opened

    def held(self, topic: bytes, partition: int) -> PartitionLog | None:
        """The log of a partition if it is open."""
        known = self._topics.get(topic)
        return known.logs.get(partition) if known is not None else None

    def walk(self) -> Iterator[HeldLog]:
        """The open logs, one by one; topics may come and go meanwhile."""
        for topic in list(self._topics):
            known = self._topics.get(topic)
            for partition, log in list(known.logs.items()) if known is not None else ():
                yield HeldLog(topic, partition, self._placement.shard(topic, partition), log)

    def _settings(self, topic: Declared, mode: str) -> PartitionSettings:
        """Topics that are set alike share one object."""
        alike = (mode, *(f"{name}={value}" for name, value in sorted(topic.configs.items())))
        made = self._made.get(alike)
        if made is None:
            if len(self._made) >= MAX_SETTINGS:
                self._made.clear()
            made = self._made[alike] = self._made_settings(topic, mode)
        return made

    def _made_settings(self, topic: Declared, mode: str) -> PartitionSettings:
        broker = {
            "segment.bytes": str(self._defaults.segment_bytes),
            "index.interval.bytes": str(self._defaults.index_interval_bytes),
        }

        def text(name: str) -> str:
            return effective(topic.configs, broker, name)

        def number(name: str) -> int:
            return int(text(name))

        return PartitionSettings(
            segment_bytes=number("segment.bytes"),
            index_interval_bytes=number("index.interval.bytes"),
            memory_bytes=self._defaults.memory_bytes,
            sync=mode == "persistent",
            segment_ms=number("segment.ms"),
            segment_index_bytes=number("segment.index.bytes"),
            delete="delete" in text("cleanup.policy"),
            retention_ms=number("retention.ms"),
            retention_bytes=number("retention.bytes"),
            compact="compact" in text("cleanup.policy"),
            delete_retention_ms=number("delete.retention.ms"),
            min_compaction_lag_ms=number("min.compaction.lag.ms"),
            max_compaction_lag_ms=number("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio=float(text("min.cleanable.dirty.ratio")),
        )

    def drop(self, topic: bytes) -> None:
        """Free all partitions of a deleted topic."""
        known = self._topics.pop(topic, None)
        if known is None:
            return
        for partition in range(known.partitions):
            store = self._stores.get(self._placement.shard(topic, partition))
            log = known.logs.get(partition)
            if store is None:
                continue
            store.producers.drop(declared_key(known.topic_id.bytes, partition))
            if log is not None:
                self._opened -= 1
                store.drop_partition(log)
            else:
                store.forget_partition(partition_name(known.topic_id.bytes, partition))

    def topic_id(self, topic: bytes) -> bytes | None:
        """The id of a declared topic."""
        known = self._topics.get(topic)
        return None if known is None else known.topic_id.bytes

    def get(self, topic: bytes, partition: int) -> PartitionLog | None:
        """The log of a partition held here."""
        known = self._topics.get(topic)
        if known is None:
            return None
        log = known.logs.get(partition)
        if log is None and 0 <= partition < known.partitions:
            log = self._open_first(topic, partition, known)
        return log

    def _open_first(self, topic: bytes, partition: int, known: _Topic) -> PartitionLog | None:
        store = self._stores.get(self._placement.shard(topic, partition))
        if store is None:
            return None
        name = partition_name(known.topic_id.bytes, partition)
        log = store.open_partition(name, known.engine, known.settings)
        known.logs[partition] = log
        self._opened += 1
        return log

    def append_entries(self, block: bytearray) -> bytes:
        """Append every entry of a block of declared topics, in place; the marker for the shard log.
        All of them, or none."""
        entries = blocks.entries(block)
        logs: list[PartitionLog] = []
        for entry in entries:
            log_topic = entry.log_name or entry.topic
            log = self.get(log_topic, entry.partition)
            if log is None:
                raise BrokerError(Fault.OWNER_UNAVAILABLE, f"{log_topic!r} is not here")
            logs.append(log)
        marked: list[MarkedAppend] = []
        for entry, log in zip(entries, logs, strict=True):
            log_topic = entry.log_name or entry.topic
            batch = block[entry.batch_begin : entry.end]
            store = self._stores[self._placement.shard(log_topic, entry.partition)]
            base_offset = store.append_partition(log, batch)
            blocks.set_base_offset(block, entry.begin, base_offset)
            marked.append(
                MarkedAppend(
                    log_topic,
                    entry.partition,
                    base_offset,
                    entry.topic,
                    entry.flags,
                    entry.origin,
                    entry.packet_id,
                    block[entry.begin + GENERATION_AT],
                    self._topics[log_topic].topic_id.bytes,
                    log.end_offset,
                    producer_part(block, entry.batch_begin, entry.end, entry.flags),
                )
            )
        return _marker_encoder.encode(marked)

    def append_batch(
        self, topic: bytes, partition: int, flags: int, batch: bytearray
    ) -> tuple[int, bytes]:
        """Append a batch that Kafka produced; its base offset, and the marker."""
        log = self.get(topic, partition)
        if log is None:
            raise BrokerError(Fault.OWNER_UNAVAILABLE, f"{topic!r} is not here")
        store = self._stores[self._placement.shard(topic, partition)]
        base_offset = store.append_partition(log, batch)
        mark = MarkedAppend(
            topic,
            partition,
            base_offset,
            topic,
            flags,
            0,
            0,
            0,
            self._topics[topic].topic_id.bytes,
            log.end_offset,
            producer_part(batch, 0, len(batch), flags),
        )
        return base_offset, _marker_encoder.encode([mark])

    def replay_marker(self, payload: bytes | memoryview) -> list[MarkedAppend]:
        """Recovery: a partition holds what a marker says; what lies behind the last marker was
        written by a turn whose commit the crash cut off, and is cut when the partition is opened.
        """
        marks: list[MarkedAppend] = _marker_decoder.decode(payload)
        for mark in marks:
            if mark.topic_id:
                name = partition_name(mark.topic_id, mark.partition)
                self._marked[name] = (mark.log_topic, mark.partition, mark.end_offset)
        return marks

    def read_marker(self, payload: bytes | memoryview) -> bytearray:
        """The block that a marker stands for, read back from the partitions; what is gone is left
        out. Raises STORAGE_FAILED where the disk cannot read it now."""
        block = bytearray()
        for mark in _marker_decoder.decode(payload):
            if mark.header and is_transactional(mark.header):
                # Told when its transaction is committed, if it is (`releases`).
                continue
            log = self.get(mark.log_topic, mark.partition)
            if log is None:
                continue
            result = log.read(mark.base_offset, 1, committed=False)
            if result.error == Fault.STORAGE_FAILED.kafka:
                raise BrokerError(Fault.STORAGE_FAILED, "a partition cannot be read")
            batch = b"".join(bytes(part) for part in result.buffers)
            # Retention or a compaction may have let it go: then the next one that is left is read.
            if int.from_bytes(batch[:8], "big") != mark.base_offset or not batch:
                continue
            name = mark.log_topic if mark.log_topic != mark.topic else b""
            flags = mark.flags | ENTRY_DECLARED
            entry = bytearray(
                build_entry(mark.topic, name, mark.partition, flags, mark.origin, 0, batch)
            )
            blocks.set_base_offset(entry, 0, mark.base_offset)
            block += entry
        return block


def producer_part(buffer: bytes | bytearray, begin: int, end: int, flags: int) -> bytes:
    """What recovery must know of a batch that a producer with an id wrote: its header, and all of a
    control batch. Empty for every other."""
    if not flags & ENTRY_KAFKA or buffer[begin + _PRODUCER_ID_AT] & 0x80:
        return b""
    control = buffer[begin + _ATTRIBUTES_AT] & batches.CONTROL
    return bytes(buffer[begin : end if control else begin + batches.HEADER_SIZE])


def is_transactional(header: bytes | bytearray | memoryview, begin: int = 0) -> bool:
    """Is a batch part of a transaction, or the end of one?"""
    return bool(header[begin + _ATTRIBUTES_AT] & (batches.TRANSACTIONAL | batches.CONTROL))


def partition_name(topic_id: bytes, partition: int) -> str:
    """The name of a partition's directory."""
    return f"{topic_id.hex()}-{partition}"
