# cython: annotation_typing=False, cdivision=True

"""The block: one layout from the socket over the bus to the disk (docs/formats.md, "Blocks").

A block is a sequence of entries; an entry holds what one publisher sent to one topic in one turn,
as one Kafka record batch. Little-endian, but for the batch:

    0 entry_length u32   4 flags u8   5 generation u8 6 topic_length u16   8 partition or seal u32
    12 packet_id u16     14 log_name_length u16       16 origin u64        24 previous position u64
    32 base_offset u64   40 topic key u64    48 topic, log name, record batch v2

The log has an entry of a chain sealed: in the place of the partition, which it has not or names
otherwise, it has the CRC-32C of all else before its names. So where it leads to is known to be what
was written.

Blocks are made by this process or come from one of ours over the bus or the disk, whose checksums
are tested there: a bad length here is CORRUPT_RECORD, never a read past the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import robustmq.core.batches as batches
import robustmq.core.hashing as hashing
import robustmq.core.memory as memory
from robustmq.core.hash_table import HashTable
from robustmq.errors import BrokerError, Fault

ENTRY_HEADER = 48
NO_POSITION = 0xFFFFFFFFFFFFFFFF
_NONE = NO_POSITION

ACK = 1
RETAIN = 2
DECLARED = 4
QOS2 = 8
KAFKA = 16
MEMORY_MODE = 32
PERSISTENT = 64
DUP = 128

UNKNOWN = 1 << 63
"""Where an entry leads to whose seal is broken: this and its own position, which is below it."""
_UNKNOWN = UNKNOWN

_OPENED_KEPT = 8 * 1024 * 1024


class EntryView(NamedTuple):
    """One entry of a block; `begin`, `batch_begin` and `end` are offsets in the block. The
    `partition` is 0 in an entry that has its place in a chain, or will get one."""

    begin: int
    end: int
    flags: int
    topic: bytes
    log_name: bytes
    partition: int
    packet_id: int
    origin: int
    base_offset: int
    previous: int
    batch_begin: int


class BlockBuilder:
    """A block that grows: the entries of one turn for one shard and class."""

    def __init__(self, shard: int, memory: bool) -> None:
        """`memory`: its entries are of topics in memory mode."""
        self.shard = shard
        self.memory = memory
        self.data = bytearray()

    @property
    def size(self) -> int:
        """Bytes gathered."""
        return len(self.data)

    def append_entry(self, entry: bytes | bytearray) -> None:
        """Add one whole entry (or a whole block)."""
        self.data += entry

    def take(self) -> bytearray | None:
        """Hand over the block and begin a new one; None when it is empty."""
        if not self.data:
            return None
        data = self.data
        self.data = bytearray()
        return data


def filled(builders: list[BlockBuilder]) -> list[int]:
    """Which builders hold something."""
    found: list[int] = []
    for index in range(len(builders)):
        builder = builders[index]
        if builder.data:
            found.append(index)
    return found


class Opened:
    """The compressed entry opened last: its records are asked for one by one."""

    def __init__(self) -> None:
        self.data: object = None
        self.begin = 0
        self.entry = b""


_opened = Opened()


def check_entry(source: bytes | bytearray, begin: int, end: int) -> int:
    """The end of the entry that begins there; CORRUPT_RECORD when it does not fit or holds no
    batch."""
    # 48 is ENTRY_HEADER, 61 batches.HEADER_SIZE: names of the module are Python objects, and these
    # lines run several times a message.
    if end - begin >= 109:
        length = memory.get32(source, begin)
        batch = 48 + memory.get16(source, begin + 6) + memory.get16(source, begin + 14)
        if batch + 61 <= length <= end - begin:
            return begin + length
    raise BrokerError(Fault.CORRUPT_RECORD, "an entry of a block is cut short")


def batch_begin(source: bytes | bytearray, begin: int) -> int:
    """Where the batch of an entry begins."""
    return begin + 48 + memory.get16(source, begin + 6) + memory.get16(source, begin + 14)


def seal_of(source: bytes | bytearray, begin: int) -> int:
    """What the head of an entry is sealed with, from all of it but the seal."""
    front = memory.checksum(source, begin, begin + 8)
    return memory.checksum_more(front, source, begin + 12, begin + 48)


def put_seal(block: bytearray, begin: int) -> None:
    """Seal the head of an entry that has its place in a chain."""
    target = block
    memory.put32(target, begin + 8, seal_of(target, begin))


def stored_head(data: bytes | bytearray | memoryview, key: int) -> tuple[int, int, int, int] | None:
    """What the log has at a position, read in full or cut short, as the entry of a topic: (length,
    previous position, base offset, size of the batch). None: no head of an entry of this topic is
    there as it was written."""
    held = memory.flat(data)
    source = held
    if len(held) < 48 or memory.get64(source, 40) != key:
        return None
    if memory.get32(source, 8) != seal_of(source, 0):
        return None
    previous = memory.get64(source, 24)
    length = memory.get32(source, 0)
    size = length - 48 - memory.get16(source, 6) - memory.get16(source, 14)
    if size < 0:
        size = 0
    return length, previous, memory.get64(source, 32), size


def stored_batch(
    data: bytes | bytearray | memoryview,
    begin: int,
    key: int,
    topic: bytes,
    position: int,
    check: bool,
) -> tuple[int, int, int, int, bytes | None] | None:
    """The same with the batch, of data in which the entry begins at `begin`: (length, previous
    position, base offset, last offset, batch). With a `topic` its name is compared, not its key
    only. The seal may be broken: then it is UNKNOWN where the entry leads to.

    The batch is None when it is not there in full, or is not what was written: with `check` its
    checksum and its offset are tested, without it (what never left the memory) only its place.
    """
    held = memory.flat(data)
    source = held
    have = len(held) - begin
    if have < 48 or memory.get64(source, begin + 40) != key:
        return None
    previous = memory.get64(source, begin + 24)
    if memory.get32(source, begin + 8) != seal_of(source, begin):
        previous = _UNKNOWN | position
    length = memory.get32(source, begin)
    offset = memory.get64(source, begin + 32)
    at = begin + 48 + memory.get16(source, begin + 6) + memory.get16(source, begin + 14)
    end = begin + length
    if length > have or end - at < 61:
        return length, previous, offset, offset, None
    # From here on all that the entry says of itself lies inside the data.
    if len(topic) and (
        memory.get16(source, begin + 6) != len(topic)
        or not memory.same(source, begin + 48, topic, 0, len(topic))
    ):
        return None
    last_offset_delta = memory.get32be(source, at + 23)
    if check:
        stored = memory.get32be(source, at + 17) & 0xFFFFFFFF
        if (
            memory.get32be(source, at + 8) != end - at - 12
            or source[at + 16] != 2
            or last_offset_delta < 0
            or memory.get32be(source, at + 57) < 0
            or memory.get64be(source, at) & _NONE != offset
            or stored != memory.checksum(source, at + 21, end)
        ):
            return length, previous, offset, offset, None
    last_offset = (offset + last_offset_delta) & _NONE
    return length, previous, offset, last_offset, memory.cut(source, at, end)


def entries(block: bytes | bytearray | memoryview) -> list[EntryView]:
    """All entries of a block."""
    data = memory.flat(block)
    source = data
    views: list[EntryView] = []
    begin = 0
    size = len(data)
    while begin < size:
        end = check_entry(source, begin, size)
        name = begin + ENTRY_HEADER + memory.get16(source, begin + 6)
        batch = batch_begin(source, begin)
        views.append(
            EntryView(
                begin,
                end,
                source[begin + 4],
                memory.cut(source, begin + ENTRY_HEADER, name),
                memory.cut(source, name, batch),
                memory.get32(source, begin + 8) if source[begin + 4] & 36 else 0,
                memory.get16(source, begin + 12),
                memory.get64(source, begin + 16),
                memory.get64(source, begin + 32),
                memory.get64(source, begin + 24),
                batch,
            )
        )
        begin = end
    return views


def base_offset(block: bytes | bytearray, begin: int) -> int:
    """The base offset of the entry that begins there."""
    return memory.get64(memory.flat(block), begin + 32)


def set_base_offset(block: bytearray, begin: int, base_offset: int) -> None:
    """Patch the base offset of an entry, in its head and in its batch."""
    target = block
    memory.put64(target, begin + 32, base_offset)
    memory.put64be(target, batch_begin(target, begin), base_offset)


def set_due(block: bytearray, begin: int, due_ms: int) -> None:
    """When an entry that is delayed is to be published, in the place of its base offset."""
    target = block
    memory.put64(target, begin + 32, due_ms)


def all_flags(block: bytes | bytearray | memoryview) -> int:
    """The union of the entries' flags."""
    data = memory.flat(block)
    source = data
    flags = 0
    begin = 0
    size = len(data)
    while begin < size:
        end = check_entry(source, begin, size)
        flags |= source[begin + 4]
        begin = end
    return flags


def split(
    block: bytes | bytearray | memoryview,
    masks: HashTable,
    resolve: Callable[[bytes], int],
) -> tuple[int, bool, int]:
    """Who wants a block: the union of the entries' masks, whether all are the same, the union of
    their flags.

    `masks` has them by topic key; `resolve` gives the mask of a topic that is not there (and may
    put it there).
    """
    data = memory.flat(block)
    source = data
    union = 0
    first = -1
    same = True
    flags = 0
    begin = 0
    size = len(data)
    while begin < size:
        end = check_entry(source, begin, size)
        mask = masks.find(memory.get64(source, begin + 40))
        if mask is None:
            name = begin + 48
            mask = resolve(memory.cut(source, name, name + memory.get16(source, begin + 6)))
        if begin == 0:
            first = mask
            union = mask
        elif mask is not first and mask != first:
            same = False
            union = union | mask
        flags |= source[begin + 4]
        begin = end
    return union, same, flags


def select(block: bytes | bytearray | memoryview, masks: HashTable, bit: int) -> bytearray:
    """The entries whose mask has any of `bit`. A topic that the table has dropped meanwhile is
    kept: who is not interested finds no subscriber for it.
    """
    data = memory.flat(block)
    source = data
    chosen = bytearray()
    begin = 0
    size = len(data)
    while begin < size:
        end = check_entry(source, begin, size)
        mask = masks.find(memory.get64(source, begin + 40))
        if mask is None or mask & bit:
            at = len(chosen)
            memory.resize(chosen, at + end - begin)
            memory.copy(chosen, at, source, begin, end - begin)
        begin = end
    return chosen


def write_head(
    target: bytearray,
    begin: int,
    end: int,
    flags: int,
    topic: bytes,
    key: int,
    log_name: bytes,
    partition: int,
    packet_id: int,
    origin: int,
) -> int:
    """Write the head and the names of an entry; where its batch begins."""
    memory.put32(target, begin, end - begin)
    target[begin + 4] = flags
    target[begin + 5] = 0
    memory.put16(target, begin + 6, len(topic))
    memory.put32(target, begin + 8, partition)
    memory.put16(target, begin + 12, packet_id)
    memory.put16(target, begin + 14, len(log_name))
    memory.put64(target, begin + 16, origin)
    memory.put64(target, begin + 24, _NONE)
    memory.put64(target, begin + 32, 0)
    memory.put64(target, begin + 40, key)
    at = begin + 48
    memory.copy(target, at, topic, 0, len(topic))
    at += len(topic)
    memory.copy(target, at, log_name, 0, len(log_name))
    return at + len(log_name)


def build_entry(
    topic: bytes,
    log_name: bytes,
    partition: int,
    flags: int,
    origin: int,
    packet_id: int,
    batch: bytes | bytearray,
) -> bytes:
    """One entry around a batch that exists: Kafka's produce, wills, delayed messages."""
    assert len(topic) <= 0xFFFF and len(log_name) <= 0xFFFF, "a name fits its length field"
    size = ENTRY_HEADER + len(topic) + len(log_name) + len(batch)
    entry = bytearray(size)
    at = write_head(
        entry,
        0,
        size,
        flags,
        topic,
        hashing.topic_key(topic),
        log_name,
        partition,
        packet_id,
        origin,
    )
    memory.copy(entry, at, batch, 0, len(batch))
    memory.put64(entry, 32, memory.get64be(entry, at))
    return bytes(entry)


def origin(block: bytes | bytearray | memoryview, begin: int) -> int:
    """Who published the entry that begins there."""
    return int.from_bytes(block[begin + 16 : begin + 24], "little")


def entry_bytes(block: bytes | bytearray | memoryview, begin: int) -> bytes:
    """The entry that begins there, as a block of its own."""
    length = int.from_bytes(block[begin : begin + 4], "little")
    return bytes(block[begin : begin + length])


def plain_entry(data: bytes | bytearray, begin: int) -> bytes:
    """An entry with its compressed batch opened."""
    if _opened.data is data and _opened.begin == begin:
        return _opened.entry
    end = check_entry(data, begin, len(data))
    batch = batch_begin(data, begin)
    info = batches.validate(data, batch, end)
    if not info.crc_ok:
        raise BrokerError(Fault.CORRUPT_RECORD, "the checksum of a batch is wrong")
    records = bytes(data[batch + batches.HEADER_SIZE : batch + info.length])
    compression = info.attributes & batches.COMPRESSION_MASK
    plain = batches.decompress(records, compression, batches.DECOMPRESSED_MAX)
    out = bytearray(data[begin : batch + batches.HEADER_SIZE])
    out += plain
    place = batch - begin
    memory.put32(out, 0, len(out))
    memory.put32be(out, place + 8, len(out) - place - 12)
    memory.put16be(out, place + 21, info.attributes & ~batches.COMPRESSION_MASK)
    memory.put32be(out, place + 17, memory.checksum(out, place + 21, len(out)))
    opened = bytes(out)
    if isinstance(data, bytes) and len(opened) <= _OPENED_KEPT:
        _opened.data = data
        _opened.begin = begin
        _opened.entry = opened
    return opened
