# cython: annotation_typing=False, cdivision=True

"""The index of light topics: where the last batch of a topic lies, and its next offset, in 24 bytes
a slot.

Open addressing with linear probing over 64 parts, so that growth moves a 64th of the topics at a
time. A slot is three little-endian u64: the topic's key (0: empty), the next offset, and the
position of the last entry. Names are not kept: two names with one key would be one topic, which 64
keyed bits make less likely than a broken disk. Offsets of a topic are dense: each entry takes as
many as its batch has.

A checkpoint is written part by part, and says what was known when it began (`begin_dump`): of a
part that is not written yet, a slot is kept aside before its first change.
"""

from __future__ import annotations

import robustmq.core.blocks as blocks
import robustmq.core.hashing as hashing
import robustmq.core.memory as memory
from robustmq.errors import BrokerError, Fault

NO_POSITION = 0xFFFFFFFFFFFFFFFF
_NONE = NO_POSITION
PARTS = 64
SLOT = 24
FIRST_CAPACITY = 8
_FORMAT = 1


class TopicIndex:
    """Topic -> (next offset, position of the last entry)."""

    def __init__(self) -> None:
        self.size = 0
        self.keeping = False
        self.kept: list[dict[int, bytes] | None] = []
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        self.parts = [bytearray(FIRST_CAPACITY * SLOT) for _ in range(PARTS)]
        self.used = [0] * PARTS

    def __len__(self) -> int:
        return self.size

    def assign(
        self, block: bytearray, position: int, leader_epoch: int, new_topics: list[bytes]
    ) -> None:
        """Give every light entry its offsets and its place in the chain of its topic.

        Patches previous position, base offset (in both places) and leader epoch, and seals the
        head. `position` is where the first byte of the block will stand in the log. Names of topics
        that were not known are added to `new_topics`.
        """
        source = block
        begin = 0
        size = len(block)
        while begin < size:
            end = blocks.check_entry(source, begin, size)
            if not source[begin + 4] & 36:
                batch = blocks.batch_begin(source, begin)
                count = taken(source, batch)
                key = key_of(source, begin)
                number = key & 63
                part = self.parts[number]
                slots = part
                at = find(slots, len(part), key)
                if at < 0:
                    at = self._add(key)
                    part = self.parts[number]
                    slots = part
                    name = begin + 48
                    new_topics.append(
                        memory.cut(source, name, name + memory.get16(source, begin + 6))
                    )
                offset = memory.get64(slots, at + 8)
                if self.keeping:
                    self._keep(number, key, at)
                memory.put64(source, begin + 24, memory.get64(slots, at + 16))
                memory.put64(source, begin + 32, offset)
                memory.put64be(source, batch, offset)
                memory.put32be(source, batch + 12, leader_epoch)
                blocks.put_seal(block, begin)
                memory.put64(slots, at + 8, offset + count)
                memory.put64(slots, at + 16, position + begin)
            begin = end

    def replay(
        self,
        block: bytes | bytearray,
        begin: int,
        end: int,
        position: int,
        new_topics: list[bytes] | None = None,
    ) -> None:
        """Learn from a block of the log that lies in an area; `position` is that of the area's
        first byte."""
        source = block
        first = begin
        while begin < end:
            stop = blocks.check_entry(source, begin, end)
            if not source[begin + 4] & 36:
                key = key_of(source, begin)
                count = taken(source, blocks.batch_begin(source, begin))
                known = self._put(
                    key,
                    (memory.get64(source, begin + 32) + count) & hashing.MASK,
                    position + begin - first,
                )
                if not known and new_topics is not None:
                    name = begin + 48
                    new_topics.append(
                        memory.cut(source, name, name + memory.get16(source, begin + 6))
                    )
            begin = stop

    def lookup(self, topic: bytes) -> tuple[int, int] | None:
        """(next offset, position of the last entry or NO_POSITION); None for a topic that is not
        known."""
        key = hashing.topic_key(topic)
        part = self.parts[key & 63]
        slots = part
        at = find(slots, len(part), key)
        if at < 0:
            return None
        return memory.get64(slots, at + 8), memory.get64(slots, at + 16)

    def set(self, topic: bytes, next_offset: int, last_position: int = NO_POSITION) -> None:
        """Add a topic, or overwrite what is known of it."""
        self._put(hashing.topic_key(topic), next_offset, last_position)

    def remove(self, topic: bytes) -> bool:
        """Forget a topic; False when it was not known."""
        key = hashing.topic_key(topic)
        part = self.parts[key & 63]
        slots = part
        size = len(part)
        hole = find(slots, size, key)
        if hole < 0:
            return False
        if self.keeping:
            self._keep(key & 63, key, hole)
        at = hole
        while True:
            at = at + SLOT if at + SLOT < size else 0
            other = memory.get64(slots, at)
            if other == 0:
                break
            home = home_of(other, size)
            if (hole < at and (home <= hole or home > at)) or (
                hole > at and home <= hole and home > at
            ):
                memory.put64(slots, hole, other)
                memory.put64(slots, hole + 8, memory.get64(slots, at + 8))
                memory.put64(slots, hole + 16, memory.get64(slots, at + 16))
                hole = at
        memory.put64(slots, hole, 0)
        self.used[key & 63] -= 1
        self.size -= 1
        return True

    def dump(self) -> bytes:
        """Everything, for a checkpoint."""
        return self.head() + b"".join(self.dump_part(part) for part in range(PARTS))

    def head(self) -> bytes:
        """What stands before the parts in a checkpoint."""
        head = bytearray(16)
        memory.put64(head, 0, _FORMAT)
        memory.put64(head, 8, self.size)
        return bytes(head)

    def begin_dump(self) -> bytes:
        """What stands before the parts; from now on `dump_part` gives what a part is now, once for
        each, whatever changes."""
        self.kept = [{} for _ in range(PARTS)]
        self.keeping = True
        return self.head()

    def end_dump(self) -> None:
        """Nothing is kept aside any more."""
        self.keeping = False
        self.kept = []

    def kept_slots(self) -> int:
        """How many slots are kept aside."""
        return sum(len(kept) for kept in self.kept if kept is not None)

    def _keep(self, number: int, key: int, at: int) -> None:
        """Keep the slot of a key aside before it changes; -1: it has none."""
        kept = self.kept[number]
        if kept is not None and key not in kept:
            slots = self.parts[number]
            kept[key] = memory.cut(slots, at, at + SLOT) if at >= 0 else b""

    def dump_part(self, part: int) -> bytes:
        """The slots in use of one of the 64 parts, for a checkpoint in slices."""
        data = self.parts[part]
        out = bytearray(self.used[part] * SLOT)
        kept: dict[int, bytes] = {}
        if self.keeping:
            kept = self.kept[part] or kept
            self.kept[part] = None
        changed = len(kept) > 0
        source = data
        target = out
        to = 0
        at = 0
        size = len(data)
        while at < size:
            key = memory.get64(source, at)
            if key and not (changed and key in kept):
                memory.copy(target, to, source, at, 24)
                to += 24
            at += 24
        return bytes(out[:to]) + b"".join(kept.values()) if changed else bytes(out)

    def load_part(self, data: bytes) -> None:
        """Take in what `dump_part` gave."""
        if len(data) % SLOT:
            raise BrokerError(Fault.CORRUPT_RECORD, "a checkpoint of the topic index is cut short")
        source = data
        for at in range(0, len(data), 24):
            if memory.get64(source, at) == 0:
                raise BrokerError(Fault.CORRUPT_RECORD, "an empty slot in a topic index checkpoint")
            self._put(
                memory.get64(source, at),
                memory.get64(source, at + 8),
                memory.get64(source, at + 16),
            )

    def load(self, data: bytes) -> None:
        """Become what was dumped."""
        if len(data) < 16 or memory.get64(data, 0) != _FORMAT:
            raise BrokerError(
                Fault.CORRUPT_RECORD, "a checkpoint of the topic index has another format"
            )
        if memory.get64(data, 8) * SLOT != len(data) - 16:
            raise BrokerError(Fault.CORRUPT_RECORD, "a checkpoint of the topic index is cut short")
        self._clear()
        self.load_part(data[16:])

    def _put(self, key: int, next_offset: int, last_position: int) -> bool:
        """Set what is known of a key; False when nothing was."""
        part = self.parts[key & 63]
        slots = part
        at = find(slots, len(part), key)
        known = at >= 0
        if not known:
            at = self._add(key)
            part = self.parts[key & 63]
            slots = part
        elif self.keeping:
            self._keep(key & 63, key, at)
        memory.put64(slots, at + 8, next_offset)
        memory.put64(slots, at + 16, last_position)
        return known

    def _add(self, key: int) -> int:
        """A slot for a new key; the part doubles when three quarters of it are used."""
        number = key & 63
        if self.keeping:
            self._keep(number, key, -1)
        used = self.used[number] + 1
        part = self.parts[number]
        if used * 4 * SLOT > len(part) * 3:
            grown = bytearray(len(part) * 2)
            move(part, len(part), grown, len(grown))
            part = self.parts[number] = grown
        self.used[number] = used
        self.size += 1
        slots = part
        at = free_slot(slots, len(part), key)
        memory.put64(slots, at, key)
        memory.put64(slots, at + 8, 0)
        memory.put64(slots, at + 16, _NONE)
        return at


def key_of(source: bytes | bytearray, begin: int) -> int:
    """The topic's key in an entry."""
    key = memory.get64(source, begin + 40)
    if key == 0:
        raise BrokerError(Fault.CORRUPT_RECORD, "an entry without its topic's key")
    return key


def taken(source: bytes | bytearray, batch: int) -> int:
    """How many offsets a batch takes."""
    last_offset_delta = memory.get32be(source, batch + 23)
    if last_offset_delta < 0:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch with a negative count")
    return last_offset_delta + 1


def home_of(key: int, size: int) -> int:
    """Where probing for a key begins: the high bits choose the slot, as the low ones choose the
    part."""
    return ((key >> 8) % (size // 24)) * 24


def find(slots: bytearray, size: int, key: int) -> int:
    """The slot of a key, -1 when it is not there."""
    at = home_of(key, size)
    while True:
        found = memory.get64(slots, at)
        if found == key:
            return at
        if found == 0:
            return -1
        at += 24
        if at >= size:
            at = 0


def free_slot(slots: bytearray, size: int, key: int) -> int:
    """The first empty slot for a key that is not there."""
    at = home_of(key, size)
    while memory.get64(slots, at):
        at += 24
        if at >= size:
            at = 0
    return at


def move(slots: bytearray, size: int, grown: bytearray, grown_size: int) -> None:
    """Copy every slot in use into a larger part."""
    at = 0
    while at < size:
        key = memory.get64(slots, at)
        if key:
            to = free_slot(grown, grown_size, key)
            memory.copy(grown, to, slots, at, 24)
        at += 24
