"""The partitions of declared topics that this worker holds.

There when the cluster state says that a topic exists, dropped when it says that it does not. One
is opened with its first use: what was never written or read costs nothing, neither a file nor
memory. Of those that have files the large ones are opened at the start, the small ones, which may
be thousands, when they are used or by and by (`open_waiting`). Their records live in an engine of
their own (segment files, memory, or one that a package brings); what was appended also leaves a
marker in the shard log, small and in the log's order, so that repeated frames are recognised and
deliveries can be repeated. The records of shared partitions are entries of that log, which say all
that markers do.

A topic's mode and engine may change at any time: then its partitions move (`moving`), one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec

from robustmq import engines
from robustmq.config import StorageSettings
from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.kafka.topic_configs import effective, is_tiered, local_retention
from robustmq.promises import Promise
from robustmq.shard.cluster_view import Declared
from robustmq.shard.moving import Move, Moves
from robustmq.shard.placement import ENTRY_DECLARED, ENTRY_KAFKA, Kept, Placement
from robustmq.shard.received import GENERATION_AT
from robustmq.storage.engine import PartitionLog, PartitionSettings, is_away
from robustmq.storage.markers import (
    MarkedAppend,
    decode_marker,
    encode_marker,
    partition_name,
    split_name,
)
from robustmq.storage.memory import MemoryPartition
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.segment_redo import SegmentRedo
from robustmq.storage.shard_log import block_begin
from robustmq.storage.shard_store import DECLARED_MARKER, ShardStore
from robustmq.storage.shared import (
    SharedPartition,
    StoredEntry,
    build_stored,
    parts,
    stored_entries,
)
from robustmq.storage.stored_producers import declared_key

if TYPE_CHECKING:
    from robustmq.shard.uploader import Uploader

RESERVED_OFFSETS = 4096
MAX_SETTINGS = 1024
"""Topics that are set alike share their settings; so many kinds are remembered."""


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
    placed: dict[int, str]
    """The engine of each open log, where it is not the topic's (yet)."""
    moves: dict[int, Move]


_ATTRIBUTES_AT = 22
_PRODUCER_ID_AT = 43


class Partitions:
    """The partition logs by topic and partition."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        defaults: StorageSettings,
        moves: Moves,
        report: Callable[[str, bytes, int, str], None] = lambda what, topic, partition, why: None,
    ) -> None:
        """`report(what, topic, partition, why)` hears of a move that cannot be made."""
        self._moves = moves
        self._report = report
        self.settling = 0
        """Partitions that are still in memory and will not be."""
        self._placement = placement
        self._stores = stores
        self._defaults = defaults
        self._topics: dict[bytes, _Topic] = {}
        self._opened = 0
        self.uploader: Uploader | None = None
        """What copies closed segments of tiered partitions; set before anything is opened."""
        self.read_release: Callable[[bytes | memoryview], bytearray] = lambda payload: bytearray()
        """The block that an entry of a committed transaction stands for (`releases`)."""
        self._marked: dict[str, tuple[bytes, int, int]] = {}
        # Of each partition what the log says last: topic, partition, end; without a topic the shard
        # stands in the place of the partition.
        self._redo: dict[int, SegmentRedo] = defaultdict(SegmentRedo)
        # What is on disk from before the start, by topic id: (shard, partition, engine).
        self._stored: dict[bytes, list[tuple[int, int, str]]] = {}
        self._made: dict[tuple[str, ...], PartitionSettings] = {}
        # Small ones that are on disk and not open yet.
        self._waiting: dict[tuple[bytes, int], None] = {}

    def recovered(self) -> None:
        """All shards are open, and no partition yet."""
        for name, (topic, partition, end_offset) in self._marked.items():
            shard = self._placement.shard(topic, partition) if topic else partition
            self._stores[shard].note_end(name, end_offset)
        self._marked.clear()
        for shard, redo in self._redo.items():
            self._stores[shard].redo(redo)
        self._redo.clear()
        stored = defaultdict(list)
        for shard, store in self._stores.items():
            for engine, name in store.stored_partitions():
                topic_id, partition = split_name(name)
                stored[topic_id].append((shard, partition, engine))
        self._stored = dict(stored)

    def declared(self) -> None:
        """All topics that were there at the start are open."""
        for topic_id, rows in self._stored.items():
            for shard, partition, engine in rows:
                name = partition_name(topic_id, partition)
                if engine != engines.SEGMENT or not self._buried(shard, name):
                    self._stores[shard].remove_stored(name, engine)
        self._stored.clear()
        ids = {topic.topic_id.bytes for topic in self._topics.values()}
        for store in self._stores.values():
            store.keep_ends(lambda name: split_name(name)[0] in ids)
            for topic_id in store.shared.topic_ids():
                if topic_id not in ids:
                    for partition in list(store.shared.of_topic(topic_id)):
                        store.forget_partition(partition_name(topic_id, partition))

    def open(self, topic: Declared, kept: Kept) -> None:
        """A topic is there; apply its settings if it is known already."""
        known = self._topics.get(topic.name)
        if known is not None and known.topic_id != topic.topic_id:
            self.drop(topic.name)
            known = None
        settings = self._settings(topic, kept.mode)
        engine = engines.MEMORY if kept.mode == "memory" else kept.engine
        if known is None:
            known = _Topic(topic.topic_id, topic.partitions, engine, settings, {}, {}, {})
            self._topics[topic.name] = known
            self._open_stored(topic.name, known)
            return
        known.partitions, known.settings = topic.partitions, settings
        for partition, log in known.logs.items():
            log.configure(settings)
            # What leaves the tier does so before it moves.
            self._tier(topic.name, partition, known, log)
        if known.engine != engine:
            self._open_all(topic.name, known)
            for partition in known.logs:
                known.placed.setdefault(partition, known.engine)
            known.engine = engine
            for partition in list(known.logs):
                self._move(topic.name, known, partition)

    def _open_all(self, topic: bytes, known: _Topic) -> None:
        """All partitions that have something are about to move: those that are not open, too."""
        for partition in range(known.partitions):
            if (topic, partition) in self._waiting:
                self.get(topic, partition)
        if known.engine == engines.SHARED:
            for store in self._stores.values():
                for partition in list(store.shared.of_topic(known.topic_id.bytes)):
                    self.get(topic, partition)

    def _open_stored(self, topic: bytes, known: _Topic) -> None:
        """Open what is on disk from before the start; what another engine has than the one that
        was chosen moves."""
        topic_id = known.topic_id.bytes
        found: dict[int, list[str]] = defaultdict(list)
        for _, partition, engine in self._stored.pop(topic_id, ()):
            found[partition].append(engine)
        if known.engine != engines.SHARED:
            for store in self._stores.values():
                for partition in store.shared.of_topic(topic_id):
                    found[partition].append(engines.SHARED)
        for partition, names in found.items():
            others = [engine for engine in names if engine != known.engine]
            if others:
                self._open_others(topic, partition, known, others)
            if names == [engines.SEGMENT] == [known.engine] and self._may_wait(
                topic, partition, known
            ):
                self._waiting[topic, partition] = None
            else:
                self.get(topic, partition)

    def _may_wait(self, topic: bytes, partition: int, known: _Topic) -> bool:
        """May a partition in segments be opened later? Not where the object store may have more."""
        store = self._stores[self._placement.shard(topic, partition)]
        name = partition_name(known.topic_id.bytes, partition)
        return not known.settings.tiered and store.is_small(name)

    def open_waiting(self) -> bool:
        """Open the next one that is on disk and not open yet; False when there is none."""
        place = next(iter(self._waiting), None)
        if place is None:
            return False
        self.get(*place)
        self._waiting.pop(place, None)
        return True

    def _open_others(self, topic: bytes, partition: int, known: _Topic, names: list[str]) -> None:
        """Engines have something of a partition that another one was chosen for: the one that ends
        last has all of it, what others have is the begin of a copy, or was to be removed."""
        store = self._stores[self._placement.shard(topic, partition)]
        name = partition_name(known.topic_id.bytes, partition)
        opened: list[tuple[PartitionLog, str]] = []
        for engine in names:
            log = store.open_beside(name, engine, known.settings)
            store.resume_old(log, name)
            opened.append((log, engine))
        old, source = max(opened, key=lambda one: one[0].end_offset)
        end_offset = max(old.end_offset, store.noted_end(name))

        def discard(log: PartitionLog) -> None:
            if isinstance(log, SegmentPartition):
                store.taken_over(name, end_offset)
            store.discard(log)

        for log, _ in opened:
            if log is not old:
                discard(log)
        if known.engine == engines.MEMORY:
            # Lost on restart, and said so.
            discard(old)
            return
        fresh = store.open_beside(name, known.engine, known.settings)
        moved = fresh.end_offset >= old.end_offset
        fresh.close()
        if moved:
            # But for the removal.
            store.note_end(name, end_offset)
            discard(old)
            return
        store.take(old, name)
        self._hold(topic, partition, known, old)
        known.placed[partition] = source
        self._move(topic, known, partition)

    def _move(self, topic: bytes, known: _Topic, partition: int) -> None:
        """An open partition goes over to the engine of its topic, if it is not there."""
        source = known.placed.get(partition, known.engine)
        if partition in known.moves or source == known.engine:
            return
        shard = self._placement.shard(topic, partition)
        store, engine = self._stores[shard], known.engine
        name = partition_name(known.topic_id.bytes, partition)
        old = known.logs[partition]
        from_memory = source == engines.MEMORY
        self.settling += from_memory
        if isinstance(old, MemoryPartition):
            store.rings.keep_all(old, True)

        def open_fresh() -> PartitionLog:
            fresh = store.open_beside(name, engine, known.settings)
            self._name_topic(topic, fresh)
            if from_memory and isinstance(fresh, SegmentPartition):
                fresh.copy_of_memory()
            return fresh

        def flip(fresh: PartitionLog) -> None:
            if from_memory and isinstance(fresh, SegmentPartition):
                fresh.copied()
            known.logs[partition] = fresh
            known.placed[partition] = engine
            fresh.configure(known.settings)
            self._tier(topic, partition, known, fresh)

        def over(why: str) -> None:
            del known.moves[partition]
            self.settling -= from_memory
            if why:
                if isinstance(old, MemoryPartition):
                    store.rings.keep_all(old, False)
                self._report("a partition stays in its engine", topic, partition, why)
            elif not move.ended:
                # The topic may have got yet another engine.
                self._move(topic, known, partition)

        bounded = store.rings.max_bytes if engine == engines.MEMORY else 0
        move = Move(store, shard, old, open_fresh, flip, over, bounded)
        known.moves[partition] = move
        self._moves.begin(move)

    def settled(self, topic: bytes, partition: int) -> Promise[None] | None:
        """What is appended to a partition that has still to leave the memory is safe when this
        settles."""
        known = self._topics.get(topic)
        if known is None or known.placed.get(partition, known.engine) != engines.MEMORY:
            return None
        move = known.moves.get(partition)
        return move.settled if move is not None else None

    def moving_of(self, topic: bytes) -> int:
        """Partitions of a topic that are on their way to another engine, or wait for it."""
        known = self._topics.get(topic)
        return len(known.moves) if known is not None else 0

    def __len__(self) -> int:
        return self._opened

    def held(self, topic: bytes, partition: int) -> PartitionLog | None:
        """The log of a partition if it is open."""
        known = self._topics.get(topic)
        return known.logs.get(partition) if known is not None else None

    def walk(self) -> Iterator[HeldLog]:
        """The open logs, and all shared ones, one by one; topics may come and go meanwhile."""
        for topic in list(self._topics):
            known = self._topics.get(topic)
            for partition, log in list(known.logs.items()) if known is not None else ():
                yield HeldLog(topic, partition, self._placement.shard(topic, partition), log)
            if known is not None and known.engine == engines.SHARED:
                yield from self._walk_shared(topic, known)

    def _walk_shared(self, topic: bytes, known: _Topic) -> Iterator[HeldLog]:
        """Those that have records and are not open: they are opened."""
        for shard, store in list(self._stores.items()):
            for partition in store.shared.of_topic(known.topic_id.bytes):
                if self._topics.get(topic) is not known:
                    return
                if partition in known.logs or partition >= known.partitions:
                    continue
                log = self.get(topic, partition)
                if log is not None:
                    yield HeldLog(topic, partition, shard, log)

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
            sync=mode in ("persistent", "tiered"),
            segment_ms=number("segment.ms"),
            segment_index_bytes=number("segment.index.bytes"),
            preallocate=text("preallocate") == "true",
            tiered=is_tiered(topic.configs, broker, mode),
            tier_delete=text("remote.log.delete.on.disable") == "true",
            tier_copy_disabled=text("remote.log.copy.disable") == "true",
            local_ms=local_retention(topic.configs, broker, "ms"),
            local_bytes=local_retention(topic.configs, broker, "bytes"),
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
        for partition, move in known.moves.items():
            move.ended = True
            # One that has flipped is the partition's log, which is dropped below.
            if move.fresh is not None and move.fresh is not known.logs[partition]:
                move.store.discard(move.fresh)
        for partition in range(known.partitions):
            store = self._stores.get(self._placement.shard(topic, partition))
            log = known.logs.get(partition)
            if store is None:
                continue
            store.producers.drop(declared_key(known.topic_id.bytes, partition))
            if log is not None:
                self._opened -= 1
                store.drop_partition(log)
                self._untier(topic, partition, known, log)
            else:
                name = partition_name(known.topic_id.bytes, partition)
                store.forget_partition(name)
                if (topic, partition) in self._waiting:
                    del self._waiting[topic, partition]
                    store.remove_stored(name, engines.SEGMENT)

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
        # A loss of power may have left what was known of its producers, and taken their records.
        known_end = store.producers.end_offset(declared_key(known.topic_id.bytes, partition))
        store.note_end(name, max(known_end, store.noted_end(name)))
        log = store.open_partition(name, known.engine, known.settings)
        self._hold(topic, partition, known, log)
        return log

    def _hold(self, topic: bytes, partition: int, known: _Topic, log: PartitionLog) -> None:
        known.logs[partition] = log
        self._waiting.pop((topic, partition), None)
        self._opened += 1
        self._name_topic(topic, log)
        self._tier(topic, partition, known, log)

    def _tier(self, topic: bytes, partition: int, known: _Topic, log: PartitionLog) -> None:
        """A partition is open, or set otherwise: it is tiered, or it is not."""
        if self.uploader is not None and isinstance(log, SegmentPartition):
            shard = self._placement.shard(topic, partition)
            self.uploader.opened(topic, known.topic_id.bytes, partition, shard, log)

    def _untier(self, topic: bytes, partition: int, known: _Topic, log: PartitionLog) -> None:
        """A partition is over."""
        if self.uploader is None or not isinstance(log, SegmentPartition):
            return
        if log.tier is not None or log.state.tiered_until:
            shard = self._placement.shard(topic, partition)
            self.uploader.dropped(topic, known.topic_id.bytes, partition, shard)

    def _buried(self, shard: int, name: str) -> bool:
        """Recovery: what a deleted topic may have in the object store is seen to."""
        return self.uploader is not None and self.uploader.left_over(shard, name)

    @staticmethod
    def _name_topic(topic: bytes, log: PartitionLog) -> None:
        if isinstance(log, SharedPartition):
            log.log_topic = topic

    def append_entries(
        self, store: ShardStore, block: bytearray, source: int, sequence: int, timestamp_ms: int
    ) -> int:
        """Append every entry of a block of declared topics of one shard, in place; the position of
        the log's entry that tells of it, -1 if the frame was seen before. All of them, or none."""
        entries = blocks.entries(block)
        logs: list[PartitionLog] = []
        for entry in entries:
            log_topic = entry.log_name or entry.topic
            log = self.get(log_topic, entry.partition)
            if log is None:
                raise BrokerError(Fault.OWNER_UNAVAILABLE, f"{log_topic!r} is not here")
            logs.append(log)
        marked: list[MarkedAppend] = []
        shared = bytearray()
        placed: list[tuple[int, int]] = []
        for entry, log in zip(entries, logs, strict=True):
            if isinstance(log, SharedPartition):
                log.prepare()
                placed.append((entry.begin, len(shared)))
                shared += self._stored_entry(block, entry)
                log.grown(entry.end - entry.batch_begin)
            else:
                marked.append(self._append_marked(store, block, entry, log))
        marker = encode_marker(marked) if marked else b""
        position = store.append_declared(marker, shared, source, sequence, timestamp_ms)
        for begin, at in placed:
            blocks.set_base_offset(block, begin, blocks.base_offset(shared, at))
        return position

    def _stored_entry(self, block: bytearray, entry: blocks.EntryView) -> bytearray:
        log_topic = entry.log_name or entry.topic
        return build_stored(
            self._topics[log_topic].topic_id.bytes,
            entry.partition,
            log_topic,
            entry.topic,
            entry.flags,
            block[entry.batch_begin : entry.end],
            entry.origin,
            entry.packet_id,
            block[entry.begin + GENERATION_AT],
        )

    def _append_marked(
        self, store: ShardStore, block: bytearray, entry: blocks.EntryView, log: PartitionLog
    ) -> MarkedAppend:
        log_topic = entry.log_name or entry.topic
        batch = block[entry.batch_begin : entry.end]
        base_offset, copied = store.append_partition(log, batch)
        blocks.set_base_offset(block, entry.begin, base_offset)
        return MarkedAppend(
            log_topic,
            entry.partition,
            base_offset,
            entry.topic,
            entry.flags,
            entry.origin,
            entry.packet_id,
            block[entry.begin + GENERATION_AT],
            self._topics[log_topic].topic_id.bytes,
            end_of(log),
            producer_part(block, entry.batch_begin, entry.end, entry.flags),
            copied,
        )

    def append_batch(
        self,
        store: ShardStore,
        topic: bytes,
        partition: int,
        flags: int,
        batch: bytearray,
        timestamp_ms: int,
    ) -> int:
        """Append a batch that Kafka produced, and what the shard's log says of it; its base
        offset."""
        log = self.get(topic, partition)
        if log is None:
            raise BrokerError(Fault.OWNER_UNAVAILABLE, f"{topic!r} is not here")
        if isinstance(log, SharedPartition):
            return log.append_kafka(flags, batch, store.leader_epoch)
        base_offset, copied = store.append_partition(log, batch)
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
            end_of(log),
            producer_part(batch, 0, len(batch), flags),
            copied,
        )
        store.append(DECLARED_MARKER, encode_marker([mark]), 0, 0, timestamp_ms)
        return base_offset

    def replay_marker(self, shard: int, position: int, payload: bytes) -> list[MarkedAppend]:
        """Recovery: a partition holds what a marker at a position of a shard's log says; what lies
        behind the last marker was written by a turn whose commit the crash cut off, and is cut when
        the partition is opened."""
        marks = decode_marker(payload)
        for mark in marks:
            if mark.topic_id:
                name = partition_name(mark.topic_id, mark.partition)
                self._marked[name] = (mark.log_topic, mark.partition, mark.end_offset)
                if mark.copied is not None:
                    self._redo[shard].note(mark, position, payload)
        return marks

    def replay_end(self, shard: int, payload: bytes) -> None:
        """Recovery: another engine took a partition over that ended so."""
        name = payload[8:].decode()
        self._marked[name] = b"", shard, int.from_bytes(payload[:8], "little")
        self._redo[shard].forget(name)

    def replay_shared(
        self, shard: int, position: int, payload: bytes
    ) -> tuple[list[MarkedAppend], list[StoredEntry], bytes]:
        """Recovery: what the marker in an entry of shared partitions says, and what those are."""
        marker, block = parts(payload)
        at = position + block_begin(payload) - len(marker)
        marks = self.replay_marker(shard, at, marker) if marker else []
        return marks, list(stored_entries(block)), block

    def read_shared(self, payload: bytes | memoryview) -> bytearray:
        """The block that an entry of shared partitions stands for, as publishers sent it."""
        marker, block = parts(payload)
        told = self.read_marker(marker) if marker else bytearray()
        for stored in stored_entries(block):
            entry = stored.entry
            batch = block[entry.batch_begin : entry.end]
            if producer_part(block, entry.batch_begin, entry.end, entry.flags) and (
                is_transactional(batch)
            ):
                continue
            known = self._topics.get(stored.log_topic)
            if known is None or known.topic_id.bytes != stored.topic_id:
                continue
            told += _told(stored, entry.flags, entry.origin, entry.base_offset, batch)
        return told

    def read_marker(self, payload: bytes | memoryview) -> bytearray:
        """The block that a marker stands for, read back from the partitions; what is gone is left
        out. Raises STORAGE_FAILED where the disk cannot read it now, or the object store has not
        given it yet."""
        block = bytearray()
        for mark in decode_marker(payload):
            if mark.header and is_transactional(mark.header):
                # Told when its transaction is committed, if it is (`releases`).
                continue
            log = self.get(mark.log_topic, mark.partition)
            if log is None:
                continue
            result = log.read(mark.base_offset, 1, committed=False)
            if is_away(result):
                raise BrokerError(Fault.STORAGE_FAILED, "a partition cannot be read")
            batch = b"".join(bytes(part) for part in result.buffers)
            # Retention or a compaction may have let it go: then the next one that is left is read.
            if int.from_bytes(batch[:8], "big") != mark.base_offset or not batch:
                continue
            block += _told(mark, mark.flags, mark.origin, mark.base_offset, batch)
        return block


def _told(
    of: MarkedAppend | StoredEntry, flags: int, origin: int, base_offset: int, batch: bytes
) -> bytearray:
    """The entry of a block that a batch of a partition stands for."""
    name = of.log_topic if of.log_topic != of.topic else b""
    flags |= ENTRY_DECLARED
    entry = bytearray(build_entry(of.topic, name, of.partition, flags, origin, 0, batch))
    blocks.set_base_offset(entry, 0, base_offset)
    return entry


def end_of(log: PartitionLog) -> int:
    """Where a partition ends, for its marker. In memory records are acknowledged before their
    marker is committed: that speaks for offsets which may have been given by then."""
    return log.end_offset + (RESERVED_OFFSETS if isinstance(log, MemoryPartition) else 0)


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
