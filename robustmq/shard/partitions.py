"""The partitions of declared topics that this worker holds.

Opened when the cluster state says that a topic exists, dropped when it says that it does not. Their
records live in an engine of their own (segment files or memory); what came over MQTT or from
another worker also leaves a marker in the shard log, small and in the log's order, so that repeated
frames are recognised and deliveries can be repeated.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from robustmq.config import StorageSettings
from robustmq.core import blocks
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.shard.cluster_view import Declared
from robustmq.shard.placement import ENTRY_DECLARED, Placement
from robustmq.shard.received import GENERATION_AT
from robustmq.storage.engine import PartitionLog, PartitionSettings
from robustmq.storage.shard_store import ShardStore


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


_marker_encoder = msgspec.msgpack.Encoder()
_marker_decoder = msgspec.msgpack.Decoder(list[MarkedAppend])


class Partitions:
    """The open partition logs by (topic, partition)."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        defaults: StorageSettings,
    ) -> None:
        self._placement = placement
        self._stores = stores
        self._defaults = defaults
        self._open: dict[tuple[bytes, int], PartitionLog] = {}
        self._ids: dict[bytes, UUID] = {}
        self._marked: dict[str, int] = {}

    def open(self, topic: Declared, partition: int, mode: str) -> None:
        """Open a partition if its shard is held here; apply the topic's settings if it is open
        already."""
        if self._ids.get(topic.name, topic.topic_id) != topic.topic_id:
            self.drop(topic.name)
        store = self._stores.get(self._placement.shard(topic.name, partition))
        if store is None:
            return
        self._ids[topic.name] = topic.topic_id
        settings = self._settings(topic, mode)
        log = self._open.get((topic.name, partition))
        if log is None:
            engine = "memory" if mode == "memory" else "segment"
            name = partition_name(topic.topic_id.bytes, partition)
            log = store.open_partition(name, engine, settings, self._marked.pop(name, None))
            self._open[topic.name, partition] = log
        else:
            log.configure(settings)

    def __len__(self) -> int:
        return len(self._open)

    def _settings(self, topic: Declared, mode: str) -> PartitionSettings:
        segment_bytes = int(topic.configs.get("segment.bytes", self._defaults.segment_bytes))
        return PartitionSettings(
            segment_bytes,
            self._defaults.index_interval_bytes,
            self._defaults.memory_bytes,
            mode == "persistent",
        )

    def drop(self, topic: bytes) -> None:
        """Free all partitions of a deleted topic."""
        self._ids.pop(topic, None)
        for key in [key for key in self._open if key[0] == topic]:
            log = self._open.pop(key)
            self._stores[self._placement.shard(*key)].drop_partition(log)

    def get(self, topic: bytes, partition: int) -> PartitionLog | None:
        """The log of a partition held here."""
        return self._open.get((topic, partition))

    def append_entries(self, block: bytearray) -> bytes:
        """Append every entry of a block of declared topics, in place; the marker for the shard log.
        All of them, or none."""
        entries = blocks.entries(block)
        logs: list[PartitionLog] = []
        for entry in entries:
            log_topic = entry.log_name or entry.topic
            log = self._open.get((log_topic, entry.partition))
            if log is None:
                raise BrokerError(Fault.OWNER_UNAVAILABLE, f"{log_topic!r} is not here")
            logs.append(log)
        marked: list[MarkedAppend] = []
        for entry, log in zip(entries, logs, strict=True):
            log_topic = entry.log_name or entry.topic
            batch = block[entry.batch_begin : entry.end]
            store = self._stores[self._placement.shard(log_topic, entry.partition)]
            base_offset = log.append(batch, store.leader_epoch)
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
                    self._ids[log_topic].bytes,
                    log.end_offset,
                )
            )
        return _marker_encoder.encode(marked)

    def replay_marker(self, payload: bytes | memoryview) -> list[MarkedAppend]:
        """Recovery: a partition holds what a marker says; what lies behind the last marker was
        written by a turn whose commit the crash cut off, and is cut when the partition is opened.
        """
        marks: list[MarkedAppend] = _marker_decoder.decode(payload)
        for mark in marks:
            if mark.topic_id:
                self._marked[partition_name(mark.topic_id, mark.partition)] = mark.end_offset
        return marks

    def read_marker(self, payload: bytes | memoryview) -> bytearray:
        """The block that a marker stands for, read back from the partitions; what is gone is left
        out."""
        block = bytearray()
        for mark in _marker_decoder.decode(payload):
            log = self._open.get((mark.log_topic, mark.partition))
            if log is None:
                continue
            result = log.read(mark.base_offset, 1, committed=False)
            batch = b"".join(bytes(part) for part in result.buffers)
            if not batch:
                continue
            name = mark.log_topic if mark.log_topic != mark.topic else b""
            flags = mark.flags | ENTRY_DECLARED
            entry = bytearray(
                build_entry(mark.topic, name, mark.partition, flags, mark.origin, 0, batch)
            )
            blocks.set_base_offset(entry, 0, mark.base_offset)
            block += entry
        return block


def partition_name(topic_id: bytes, partition: int) -> str:
    """The name of a partition's directory."""
    return f"{topic_id.hex()}-{partition}"
