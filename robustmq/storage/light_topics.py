"""The light topics of one shard: what there is of each, and reads of it (design, section 6).

A light topic is made by its first publish. What is known of it in memory is a slot of the topic
index (next offset, position of its last batch); its batches lie scattered in the shard's log
(`light.LightReader`). A topic of mode memory has a ring instead (`memory`). LevelDB has the names,
and where a topic begins that does not begin at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from robustmq.core import blocks
from robustmq.core.batches import BatchInfo
from robustmq.core.blocks import UNKNOWN
from robustmq.core.topic_index import NO_POSITION, TopicIndex
from robustmq.errors import BrokerError
from robustmq.promises import Promise
from robustmq.storage import shard_log
from robustmq.storage.engine import PartitionSettings, ReadResult
from robustmq.storage.light import OTHER_PREFIX, LightReader
from robustmq.storage.light_mending import Search
from robustmq.storage.light_salvage import follows, is_block, salvaged
from robustmq.storage.lookups import Lookups, after
from robustmq.storage.memory import MemoryPartition, RingMemory
from robustmq.storage.shard_log import (
    BLOCK,
    NO_MARKER,
    SHARED_BLOCK,
    TOPIC_CREATED,
    TOPIC_DELETED,
    TOPIC_PLACED,
    TOPIC_TRIMMED,
    ShardLog,
    block_begin,
)
from robustmq.storage.tiered import EARLIEST_LOCAL, EARLIEST_PENDING_UPLOAD

_TOPIC, _START, _GRAVE, SHARED_KEY, _BRIDGE, _GAP = b"t", b"b", b"g", b"P", b"h", b"l"
PREVIOUS_AT = 24
_PRODUCER_ID_AT = 43
RESERVED_OFFSETS = 4096
"""So many offsets of a topic in memory that the log knows are spoken for in one go."""
LEAVING_BYTES = 256 * 1024
GRAVES_SLICE = 500
"""So many are looked at in one go."""
MAX_BRIDGES = 65_536
_RING = PartitionSettings()
"""Rings of light topics have no settings."""


class LightTopics:
    """The light topics of one shard."""

    def __init__(self, log: ShardLog, lookups: Lookups, memory: RingMemory) -> None:
        """`memory`: what topics of mode memory share with all others of the worker."""
        self._log = log
        self._lookups = lookups
        self._ring_memory = memory
        self._index = TopicIndex()
        self._reader = LightReader(log, self._index)
        self._reader.gap = self._gap
        self._new_topics: list[bytes] = []
        self._rings: dict[bytes, MemoryPartition] = {}
        self._bases: dict[bytes, int] = {}
        """Topics with a ring that have records in the log too: up to here (`_base`)."""
        self._reserved: dict[bytes, int] = {}
        """Topics with a ring that the log knows: after a restart they go on behind this offset."""
        self.left_memory: Callable[[bytes], None] = lambda topic: None
        """Hears of a topic whose ring goes into the log."""
        self._starts: dict[bytes, int] = {}
        """Where light topics begin that do not begin at 0."""
        self._damaged: list[tuple[int, int]] = []
        self._salvaged: set[int] = set()
        """Where entries stand in what is damaged that are known all the same."""
        self.others = 0
        """What the index has that is no light topic: shared partitions (`shared`)."""
        self._graves = next(lookups.range(_GRAVE, after(_GRAVE)), None) is not None
        """Topics were deleted whose batches the log may still have: a topic of the same name has
        none of those that stand before its grave."""
        self.graves_left = 0
        """How many the last sweep has left."""
        self.deletions = 0
        """How often a topic was deleted, or had records deleted."""

    # -- recovery ----------------------------------------------------------------------------------

    def load(self, dump: bytes) -> None:
        """Take over the index of a checkpoint."""
        self._index.load(dump)

    def damaged(self, begin: int, end: int) -> None:
        """Recovery has set this part of the log aside: what of it is known by itself is read where
        it stands, and what else points into it is led over it."""
        self._damaged.append((begin, end))
        try:
            data = bytes(self._log.files.read(begin, end - begin))
        except BrokerError:
            # It is not here, or cannot be read.
            return
        block = is_block(data)
        for found in salvaged(data, begin):
            known = self._index.lookup(found.topic)
            if not follows(found, known, begin, block):
                continue
            if known is None:
                if found.topic.startswith(OTHER_PREFIX):
                    continue
                self._new_topics.append(found.topic)
            way = known or (0, NO_POSITION)
            if found.previous not in (way[1], NO_POSITION):
                # It is unknown where it leads to, or that is lost here.
                self._lead_over(found.previous, way)
            self._index.set(found.topic, found.end_offset, found.position)
            self._salvaged.add(found.position)

    def _lead_over(self, position: int, way: tuple[int, int]) -> None:
        self._reader.bridges[position] = way
        self._keep_way(_BRIDGE, position, way)

    def _bridge(self, block: bytes) -> None:
        for entry in blocks.entries(block):
            at = entry.begin + PREVIOUS_AT
            previous = int.from_bytes(block[at : at + 8], "little")
            if previous in self._salvaged:
                continue
            if any(begin <= previous < end for begin, end in self._damaged):
                self._lead_over(previous, self._index.lookup(entry.topic) or (0, NO_POSITION))

    def _keep_way(self, prefix: bytes, over: int, way: tuple[int, int]) -> None:
        value = b"".join(number.to_bytes(8, "little") for number in way)
        self._lookups.put(prefix + over.to_bytes(8, "big"), value)

    def _gap(self, position: int) -> tuple[int, int] | None:
        value = self._lookups.get(_GAP + position.to_bytes(8, "big"))
        return _way(value) if value is not None else None

    def lead_over_gaps(self, at: int, block: bytes) -> None:
        """A block is about to be replayed of a log of which the object store has a part alone: what
        its batches lead to may be missing, and then leads to what the store has before it."""
        last: dict[bytes, tuple[int, int]] = {}
        for entry in blocks.entries(block):
            found = last.get(entry.topic) or self._index.lookup(entry.topic)
            begin = entry.begin + PREVIOUS_AT
            previous = int.from_bytes(block[begin : begin + 8], "little")
            if found is not None and NO_POSITION not in found and found[1] < previous < at:
                self._keep_way(_GAP, previous, found)
            last[entry.topic] = 0, at + shard_log.HEAD.size + entry.begin

    def load_starts(self) -> None:
        """Learn from LevelDB where topics begin, and what leads over damage."""
        for key, value in self._lookups.range(_BRIDGE, after(_BRIDGE)):
            position = int.from_bytes(key[1:], "big")
            self._reader.bridges[position] = _way(value)
        for key, value in self._lookups.range(_START, after(_START)):
            self._starts[key[1:]] = int.from_bytes(value, "little")

    def keep_ahead_of_starts(self) -> None:
        """A loss of power may have left where a topic begins, and taken its records: no record that
        comes now gets an offset that counts as deleted."""
        for topic, start in list(self._starts.items()):
            self.skip_to(topic, start)

    def skip_to(self, topic: bytes, offset: int) -> None:
        """The next record of a topic gets this offset, or a later one."""
        if self.next_offset(topic) < offset:
            self.place(topic, offset)

    def begin_dump(self) -> bytes:
        """A checkpoint begins: what stands before the parts of the index in it."""
        return self._index.begin_dump()

    def dump_part(self, part: int) -> bytes:
        """A part of the index as it was when the checkpoint began."""
        return self._index.dump_part(part)

    def end_dump(self) -> None:
        """The checkpoint has all parts, or is given up."""
        self._index.end_dump()

    @property
    def kept_slots(self) -> int:
        """How many slots are kept for the checkpoint that is written: they have changed since."""
        return self._index.kept_slots()

    def replay(self, at: int, kind: int, data: bytes) -> bool:
        """Learn from a log entry what light topics there are; False when it tells of none. Their
        names are kept with `keep_names`."""
        if self._damaged and kind in (BLOCK, SHARED_BLOCK):
            self._bridge(data[block_begin(data) if kind == SHARED_BLOCK else 0 :])
        if kind == BLOCK:
            self._index.replay(data, 0, len(data), at + shard_log.HEAD.size, self._new_topics)
        elif kind == SHARED_BLOCK:
            begin, new = block_begin(data), list[bytes]()
            self._index.replay(data, begin, len(data), at + shard_log.HEAD.size + begin, new)
            self._new_topics += [name for name in new if not name.startswith(OTHER_PREFIX)]
        elif kind == TOPIC_PLACED:
            self._place(data[8:], int.from_bytes(data[:8], "little"))
        elif kind == TOPIC_DELETED:
            self._index.remove(data)
            self._lookups.put(_TOPIC + data, None)
            self._set_start(data, 0)
            self._bury(data, at)
        elif kind == TOPIC_CREATED:
            self._index.set(data, 0)
            self._new_topics.append(data)
        elif kind == TOPIC_TRIMMED:
            self._set_start(data[8:], int.from_bytes(data[:8], "little"))
        else:
            return False
        return True

    def rebuild(self, at: int, kind: int, data: bytes) -> None:
        """The index of the checkpoint is lost: learn from an entry before it. LevelDB knows which
        topics there are, and which of their batches are of an older topic of the same name."""
        if kind == TOPIC_PLACED:
            if self._is_known(data[8:]) and not self._is_buried(data[8:], at):
                known = self._index.lookup(data[8:])
                offset = int.from_bytes(data[:8], "little")
                self._index.set(data[8:], offset, NO_POSITION if known is None else known[1])
        if kind not in (BLOCK, SHARED_BLOCK):
            return
        begin = block_begin(data) if kind == SHARED_BLOCK else 0
        first = at + shard_log.HEAD.size + begin
        block = data[begin:]
        for entry in blocks.entries(block):
            if self._is_known(entry.topic) and not self._is_buried(
                entry.topic, first + entry.begin
            ):
                self._index.replay(block, entry.begin, entry.end, first + entry.begin)

    def _is_known(self, topic: bytes) -> bool:
        """Does LevelDB know that there is such a topic, or partition?"""
        key = SHARED_KEY + topic[2:] if topic.startswith(OTHER_PREFIX) else _TOPIC + topic
        return self._lookups.get(key) is not None

    def rebuilt(self) -> None:
        """That was all: topics of which the log has nothing begin anew."""
        for prefix, named in ((_TOPIC, b""), (SHARED_KEY, OTHER_PREFIX)):
            for key, _ in self._lookups.range(prefix, after(prefix)):
                topic = named + key[1:]
                if self._index.lookup(topic) is None:
                    self._index.set(topic, self._starts.get(topic, 0))

    def keep_names(self) -> None:
        """Have the names of new topics written."""
        for topic in self._new_topics:
            if self._index.lookup(topic) is not None:
                self._lookups.put(_TOPIC + topic, b"")
        self._new_topics.clear()

    # -- topics ------------------------------------------------------------------------------------

    def assign(self, block: bytearray, leader_epoch: int) -> None:
        """Give the entries of a block that is appended next their offsets, in place."""
        if self._rings:
            for entry in blocks.entries(block):
                if entry.topic in self._rings:
                    self.leave_memory(entry.topic, leader_epoch)
        self._index.assign(block, self._log.next_payload, leader_epoch, self._new_topics)

    def assign_at(self, block: bytearray, at: int, leader_epoch: int, new: list[bytes]) -> None:
        """The same for a block that will stand at a position of the log, and whose names are not
        kept here: those that were not known are added to `new`."""
        self._index.assign(block, at, leader_epoch, new)

    def place(self, topic: bytes, offset: int, timestamp_ms: int = 0) -> None:
        """The next record of a topic gets this offset, which is not below its end."""
        self._place(topic, offset)
        payload = offset.to_bytes(8, "little") + topic
        self._log.append(TOPIC_PLACED, payload, 0, 0, timestamp_ms)

    def _place(self, topic: bytes, offset: int) -> None:
        known = self._index.lookup(topic)
        if known is None and not topic.startswith(OTHER_PREFIX):
            self._new_topics.append(topic)
        self._index.set(topic, offset, NO_POSITION if known is None else known[1])

    def exists(self, topic: bytes) -> bool:
        """Is there such a light topic?"""
        return topic in self._rings or self._index.lookup(topic) is not None

    def create(self, topic: bytes, timestamp_ms: int = 0) -> None:
        """Make an empty light topic."""
        if not self.exists(topic):
            self._index.set(topic, 0)
            self._new_topics.append(topic)
            self._log.append(TOPIC_CREATED, topic, 0, 0, timestamp_ms)

    def delete(self, topic: bytes, timestamp_ms: int = 0) -> None:
        """Delete a light topic."""
        ring = self._rings.pop(topic, None)
        if ring is not None:
            ring.close()
        self._bases.pop(topic, None)
        self._reserved.pop(topic, None)
        if self._index.remove(topic):
            self._reader.forget(topic)
            if topic in self._new_topics:
                self._new_topics.remove(topic)
            self._lookups.put(_TOPIC + topic, None)
            self._set_start(topic, 0)
            self._bury(topic, self._log.append(TOPIC_DELETED, topic, 0, 0, timestamp_ms))

    def read(self, topic: bytes, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole (committed) batches of a light topic from an offset on."""
        ring = self._rings.get(topic)
        if ring is not None:
            return self._read_ring(topic, ring, offset, max_bytes)
        return self._reader.read(topic, offset, max_bytes, self._starts.get(topic, 0), committed)

    def _read_ring(
        self, topic: bytes, ring: MemoryPartition, offset: int, max_bytes: int
    ) -> ReadResult:
        """From the log what a topic has there from before it was kept in memory."""
        if offset >= self._base(topic, ring):
            return ring.read(offset, max_bytes)
        found = self._reader.read(topic, offset, max_bytes, self._starts.get(topic, 0))
        if not (found.buffers or found.out_of_range or found.error or found.pending):
            # Nothing is left in the log behind it.
            found = ring.read(ring.start_offset, max_bytes)
        return msgspec.structs.replace(
            found, high_watermark=ring.end_offset, start_offset=self.known_start(topic)
        )

    def held(self, topic: bytes, max_batches: int, max_bytes: int) -> tuple[int, int]:
        """(bytes, first offset) of the newest batches in the log, so many at most."""
        return self._reader.held(topic, self._starts.get(topic, 0), max_batches, max_bytes)

    def high_watermark(self, topic: bytes) -> int:
        """The end of what is committed of a light topic."""
        ring = self._rings.get(topic)
        return ring.end_offset if ring is not None else self._reader.high_watermark(topic)

    def end_offset(self, topic: bytes) -> int:
        """The offset that the next record of a light topic gets."""
        ring = self._rings.get(topic)
        if ring is not None:
            return ring.end_offset
        known = self._index.lookup(topic)
        return known[0] if known is not None else 0

    def start_offset(self, topic: bytes) -> int:
        """The first offset that is kept of a light topic."""
        ring = self._rings.get(topic)
        if ring is not None and not self._base(topic, ring):
            return ring.start_offset
        return self._reader.start(topic, self._starts.get(topic, 0))

    def known_start(self, topic: bytes) -> int:
        """The same as far as it is known without looking: not behind it."""
        ring = self._rings.get(topic)
        if ring is not None and not self._base(topic, ring):
            return ring.start_offset
        return self._reader.known_start(topic, self._starts.get(topic, 0))

    def trim(self, topic: bytes, offset: int, timestamp_ms: int) -> int:
        """Have a light topic begin at an offset, not beyond its end; where it begins now. Its
        batches stay in the shard's log until that is cleaned."""
        ring = self._rings.get(topic)
        if ring is not None:
            if offset > ring.start_offset:
                ring.trim(offset)
            if topic not in self._bases:
                return ring.start_offset
            if self._outgrown(topic, ring):
                return ring.start_offset
        return self._trim_log(topic, offset, timestamp_ms)

    def _trim_log(self, topic: bytes, offset: int, timestamp_ms: int) -> int:
        if offset > self._reader.known_start(topic, self._starts.get(topic, 0)):
            self._set_start(topic, offset)
            payload = offset.to_bytes(8, "little") + topic
            self._log.append(TOPIC_TRIMMED, payload, 0, 0, timestamp_ms)
            self.deletions += 1
        return self._reader.known_start(topic, self._starts.get(topic, 0))

    def _set_start(self, topic: bytes, offset: int) -> None:
        if offset:
            self._starts[topic] = offset
            self._lookups.put(_START + topic, offset.to_bytes(8, "little"))
        elif self._starts.pop(topic, None) is not None:
            self._lookups.put(_START + topic, None)

    def offset_for_time(self, topic: bytes, timestamp_ms: int) -> tuple[int, int] | None:
        """The first batch at or after a time; -3: the greatest time stamp."""
        ring = self._rings.get(topic)
        if ring is not None:
            if self._base(topic, ring) and timestamp_ms >= 0:
                start = self._starts.get(topic, 0)
                found = self._reader.offset_for_time(topic, timestamp_ms, start)
                if found is not None:
                    return found
            return ring.offset_for_time(timestamp_ms)
        return self._reader.offset_for_time(topic, timestamp_ms, self._starts.get(topic, 0))

    def tier_offset(self, topic: bytes, which: int, is_tiered: bool) -> int:
        """The offset that one of `storage.tiered.TIERED` names of a topic, which is of mode tiered
        now or is not; -1: there is none. Raises Away, CORRUPT_RECORD, STORAGE_FAILED."""
        cold, newest_from = self._log.cold, self._reader.newest_from
        if topic in self._rings or cold is None:
            return self.start_offset(topic) if which == EARLIEST_LOCAL else -1
        if which == EARLIEST_LOCAL:
            return max(newest_from(topic, lambda position: True), self.known_start(topic))
        if which == EARLIEST_PENDING_UPLOAD:
            if not is_tiered or cold.runs is None:
                return -1
            looked_to = cold.state.looked_to
            first = newest_from(topic, lambda position: position >= looked_to)
            return max(first, self.known_start(topic))
        if not cold.may_have(topic):
            return -1
        behind = newest_from(topic, lambda position: not cold.stored(topic, position))
        return behind - 1 if behind > self.start_offset(topic) else -1

    def names(self, after_name: bytes, limit: int) -> list[bytes]:
        """Names of topics that are kept in the log, in order, those behind a name."""
        rows = self._lookups.range(_TOPIC + after_name + b"\0", after(_TOPIC))
        return [key[1:] for key, _ in islice(rows, limit)]

    def written_before(self, topic: bytes) -> int:
        """The last record of a topic that is kept in the log is not younger than this (wall clock
        ms); 0: nobody knows."""
        known = self._index.lookup(topic)
        if known is None or known[1] == NO_POSITION or topic in self._rings:
            return 0
        return self._log.files.written_before(known[1])

    # -- what of the log is needed -----------------------------------------------------------------

    def lives(self, topic: bytes, position: int, end_offset: int) -> bool:
        """Is a batch in the log part of a topic that is there, and not deleted? `position` is that
        of its block entry, `end_offset` lies behind its last record."""
        known = self._index.lookup(topic)
        if known is None or known[1] < position or known[1] == NO_POSITION:
            return False
        if end_offset <= self._starts.get(topic, 0):
            return False
        return not self._is_buried(topic, position)

    def next_offset(self, topic: bytes) -> int:
        """The end of a topic that is kept in the log."""
        known = self._index.lookup(topic)
        return known[0] if known is not None else 0

    def newer_bytes(
        self, topic: bytes, enough: int, away: bool = False
    ) -> Iterator[tuple[int, int] | Promise[None]]:
        """See `LightReader.newer_bytes`."""
        return self._reader.newer_bytes(topic, enough, away)

    def lead_over(self, position: int, end_offset: int, previous: int) -> bool:
        """Of a batch that is lost there readers go on with the one before it, which ends at
        `end_offset`, until the next start. False: so many are lost that this is given up."""
        room = len(self._reader.bridges) < MAX_BRIDGES
        if room:
            self._reader.bridges[position] = end_offset, previous
        return room

    def let_go(self) -> None:
        """Something of the log is gone: before what is left of it, here and in the object store,
        neither damage nor a gap has to be led over."""
        cold = self._log.cold
        away = cold.forgettable_to() if cold is not None else NO_POSITION
        begin = min(self._log.start_position, away)
        bridges = self._reader.bridges
        for position in [one for one in bridges if one & ~UNKNOWN < begin]:
            del bridges[position]
            self._lookups.put(_BRIDGE + position.to_bytes(8, "big"), None)
        gaps = self._lookups.range(_GAP, _GAP + begin.to_bytes(8, "big"))
        for key, _ in list(islice(gaps, GRAVES_SLICE)):
            self._lookups.put(key, None)
        self._reader.let_go()

    def _bury(self, topic: bytes, position: int) -> None:
        self.deletions += 1
        self._graves = True
        self._lookups.put(_GRAVE + topic, position.to_bytes(8, "little"))

    def _is_buried(self, topic: bytes, position: int) -> bool:
        """Does what stands there belong to an older topic of this name?"""
        if not self._graves:
            return False
        grave = self._lookups.get(_GRAVE + topic)
        return grave is not None and position < int.from_bytes(grave, "little")

    def next_search(self) -> Search | None:
        """What a reader has met that is to be looked for: `mended` takes it when it is over."""
        tears = self._reader.tears
        if not tears:
            return None
        topic, tear = tears.popitem(last=False)
        grave = self._lookups.get(_GRAVE + topic) or b""
        return Search(self._log.files, tear, int.from_bytes(grave, "little"))

    def mended(self, search: Search) -> None:
        """A search is over."""
        if search.found is not None or search.in_vain:
            self._reader.mended(search.tear, search.found)

    def sweep_graves(self, position: int) -> Iterator[None]:
        """Forget the graves of topics of which the log has nothing before this position; yields
        after each slice."""
        key, left = _GRAVE, 0
        while True:
            rows = list(islice(self._lookups.range(key, after(_GRAVE)), GRAVES_SLICE))
            for name, value in rows:
                if int.from_bytes(value, "little") <= position:
                    self._lookups.put(name, None)
                else:
                    left += 1
            if len(rows) < GRAVES_SLICE:
                break
            key = rows[-1][0] + b"\0"
            yield
        self.graves_left = left
        if not left:
            first = next(self._lookups.range(_GRAVE, after(_GRAVE)), None)
            self._graves = first is not None

    def last_batches(self, topic: bytes, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the last batches of a light topic, oldest first."""
        ring = self._rings.get(topic)
        if ring is not None:
            return ring.last_batches(max_bytes)
        return self._reader.last_batches(topic, max_bytes)

    def rings(self) -> list[tuple[bytes, MemoryPartition]]:
        """The topics of mode memory, with what they hold."""
        return list(self._rings.items())

    def topics(self, limit: int) -> list[bytes]:
        """Names of light topics, so many at most."""
        found = [*self._rings, *self._new_topics][:limit]
        names = set(found)
        for key, _ in self._lookups.range(_TOPIC, after(_TOPIC)):
            if len(found) >= limit:
                break
            topic = key[1:]
            if topic not in names and self._index.lookup(topic) is not None:
                found.append(topic)
        return found

    def __len__(self) -> int:
        return len(self._index) + len(self._rings) - self.others

    def append_memory(self, block: bytearray, leader_epoch: int) -> None:
        """Append a block of topics in memory mode, giving offsets in place; the oldest make
        way."""
        for entry in blocks.entries(block):
            topic = entry.topic
            ring = self._rings.get(topic) or self._begin_ring(topic)
            batch = block[entry.batch_begin : entry.end]
            base_offset = ring.append(batch, leader_epoch)
            blocks.set_base_offset(block, entry.begin, base_offset)
            if topic in self._reserved:
                self._outgrown(topic, ring)
                if ring.end_offset + RESERVED_OFFSETS // 2 > self._reserved[topic]:
                    self._reserved[topic] = ring.end_offset + RESERVED_OFFSETS
                    self.place(topic, self._reserved[topic])

    def _begin_ring(self, topic: bytes) -> MemoryPartition:
        ring = MemoryPartition(_RING, self._ring_memory)
        known = self._index.lookup(topic)
        if known is not None:
            ring.start_offset = ring.end_offset = self._reserved[topic] = known[0]
            if known[1] != NO_POSITION:
                self._bases[topic] = known[0]
        self._rings[topic] = ring
        return ring

    def _base(self, topic: bytes, ring: MemoryPartition) -> int:
        """What of a topic with a ring stands in the log ends here; 0: there is nothing, or the ring
        has let its oldest go, and with it goes what the log has before them."""
        base = self._bases.get(topic, 0)
        return base if ring.start_offset <= base else 0

    def _outgrown(self, topic: bytes, ring: MemoryPartition) -> bool:
        """Has the ring let its oldest go? Then the log says that those before them went, too."""
        if topic not in self._bases or self._base(topic, ring):
            return False
        self._trim_log(topic, self._bases.pop(topic), 0)
        return True

    def in_memory(self, topic: bytes) -> bool:
        """Has the topic a ring?"""
        return topic in self._rings

    def leave_memory(self, topic: bytes, leader_epoch: int) -> int:
        """A topic has another mode than memory now: what its ring holds goes into the log, at its
        offsets; the bytes. Subscribers were told of it already, so the entries are such that tell
        nothing."""
        ring = self._rings.pop(topic)
        size = ring.size
        self._outgrown(topic, ring)
        self._reserved.pop(topic, None)
        whole = self._bases.pop(topic, None) is not None
        known = self._index.lookup(topic)
        if known is None:
            self._new_topics.append(topic)
        first = start_offset = ring.start_offset
        end_offset, batches = ring.end_offset, ring.batches()
        ring.close()
        if batches:
            first = int.from_bytes(batches[0][:8], "big")
        self._index.set(topic, first, NO_POSITION if known is None else known[1])
        block = bytearray()
        for batch in batches:
            flags = 0 if batch[_PRODUCER_ID_AT] & 0x80 else blocks.KAFKA
            block += blocks.build_entry(topic, b"", 0, flags, 0, 0, batch)
            if len(block) > LEAVING_BYTES:
                self._append_left(block, leader_epoch)
                block = bytearray()
        if block:
            self._append_left(block, leader_epoch)
        else:
            self.place(topic, end_offset)
        self.left_memory(topic)
        if start_offset > first or (start_offset and not whole):
            self._trim_log(topic, start_offset, 0)
        return size

    def _append_left(self, block: bytearray, leader_epoch: int) -> None:
        self._index.assign(
            block, self._log.next_payload + len(NO_MARKER), leader_epoch, self._new_topics
        )
        self._log.append(SHARED_BLOCK, NO_MARKER + block, 0, 0, 0)


def _way(value: bytes) -> tuple[int, int]:
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")
