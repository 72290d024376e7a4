# cython: annotation_typing=False, cdivision=True

"""Kafka record batches v2: check, patch, build and read (KIP-98; the protocol guide's "Record
Batch").

    0 base_offset i64     8 batch_length i32 (of what follows)   12 leader_epoch i32    16 magic i8
    (2) 17 crc u32 (CRC-32C of 21 to the end)                        21 attributes i16      23
    last_offset_delta i32 27 first_timestamp i64   35 max_timestamp i64   43 producer_id i64   51
    producer_epoch i16   53 base_sequence i32 57 count i32             61 records

Base offset and leader epoch lie outside the CRC, so an owner patches them in place. A record:
varint length, attributes, varint timestamp delta, varint offset delta, key, value, headers.
Compressed batches stay as they came; only a reader that needs records opens them, bounded by what
it is willing to hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import robustmq.core.memory as memory
from robustmq.errors import BrokerError, Fault
from robustmq.records import Record

HEADER_SIZE = 61
COMPRESSION_MASK = 7
TRANSACTIONAL = 16
CONTROL = 32
LOG_APPEND_TIME = 8
# What is read here was held against limits.max_decompressed_bytes when it was taken in; this is the
# greatest value of that setting.
DECOMPRESSED_MAX = 1024 * 1024 * 1024
RECORD_ROW = 9
_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_XERIAL = b"\x82SNAPPY\0"
_MASK = 0xFFFFFFFFFFFFFFFF
_place = array("i", [0])

STAMP_MAX = 1 << 48
"""Milliseconds; a producer's timestamp outside 0 to this is none: such a message does not age."""


class TooLarge(BrokerError):
    """Compressed records are larger than the bound."""

    def __init__(self) -> None:
        super().__init__(Fault.CORRUPT_RECORD, "compressed records are larger than the bound")


class BatchInfo(NamedTuple):
    """The header of a batch; `length` is its whole size in bytes. `headers`: its records may have
    headers."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc_ok: bool
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]
    headers: bool = True


def batch_size(buffer: bytes | bytearray, begin: int, end: int) -> int:
    """The whole size of the batch that begins there; 0 when it is cut short, CORRUPT_RECORD when it
    cannot be one."""
    if end - begin < HEADER_SIZE:
        return 0
    source = buffer
    size = memory.get32be(source, begin + 8) + 12
    if size < HEADER_SIZE:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch is shorter than its header")
    return size if begin + size <= end else 0


def validate(buffer: bytes | bytearray, begin: int, end: int, check_crc: bool = True) -> BatchInfo:
    """The header of the first batch in the area; raises CORRUPT_RECORD when it is not a whole batch
    v2.

    A wrong CRC is told by `crc_ok`, so that the caller can say which error its protocol wants.
    """
    assert 0 <= begin <= end <= len(buffer), "a batch is looked for inside its buffer"
    size = batch_size(buffer, begin, end)
    if size == 0:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch is cut short")
    source = buffer
    if source[begin + 16] != 2:
        raise BrokerError(Fault.CORRUPT_RECORD, "only record batches of magic 2 are known")
    count = memory.get32be(source, begin + 57)
    last_offset_delta = memory.get32be(source, begin + 23)
    if count < 0 or last_offset_delta < 0:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch with a negative count")
    crc_ok = True
    if check_crc:
        stored = memory.get32be(source, begin + 17) & 0xFFFFFFFF
        crc_ok = stored == memory.checksum(source, begin + 21, begin + size)
    return BatchInfo(
        memory.get64be(source, begin),
        size,
        memory.get32be(source, begin + 12),
        2,
        crc_ok,
        memory.get16be(source, begin + 21),
        last_offset_delta,
        memory.get64be(source, begin + 27),
        memory.get64be(source, begin + 35),
        memory.get64be(source, begin + 43),
        memory.get16be(source, begin + 51),
        memory.get32be(source, begin + 53),
        count,
    )


def headers(
    buffer: bytes | bytearray, begin: int, end: int, check_crc: bool = False
) -> Iterator[tuple[int, BatchInfo]]:
    """(begin, header) of each whole batch in the area; stops at one that is cut short."""
    while batch_size(buffer, begin, end):
        info = validate(buffer, begin, end, check_crc)
        yield begin, info
        begin += info.length


def set_base(buffer: bytearray, begin: int, base_offset: int, leader_epoch: int) -> None:
    """Patch base offset and leader epoch in place; the CRC does not cover them."""
    target = buffer
    memory.put64be(target, begin, base_offset)
    memory.put32be(target, begin + 12, leader_epoch)


def write_header(
    target: bytearray,
    begin: int,
    end: int,
    attributes: int,
    count: int,
    first_timestamp: int,
    max_timestamp: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
) -> None:
    """Write the header of a batch whose records stand from begin + 61 to end, with its CRC."""
    memory.put64be(target, begin, 0)
    memory.put32be(target, begin + 8, end - begin - 12)
    memory.put32be(target, begin + 12, 0)
    target[begin + 16] = 2
    memory.put16be(target, begin + 21, attributes)
    memory.put32be(target, begin + 23, count - 1)
    memory.put64be(target, begin + 27, first_timestamp)
    memory.put64be(target, begin + 35, max_timestamp)
    memory.put64be(target, begin + 43, producer_id)
    memory.put16be(target, begin + 51, producer_epoch)
    memory.put32be(target, begin + 53, base_sequence)
    memory.put32be(target, begin + 57, count)
    memory.put32be(target, begin + 17, memory.checksum(target, begin + 21, end))


def varint_size(value: int) -> int:
    """Bytes that a non-negative number takes as a zigzag varint."""
    return (
        1
        if value < 64
        else 2
        if value < 8192
        else 3
        if value < 1_048_576
        else 4
        if value < 134_217_728
        else 5
    )


def put_varint(target: bytearray, at: int, value: int) -> int:
    """Write a non-negative number as a zigzag varint; the place after it."""
    rest = value * 2
    while rest >= 128:
        target[at] = (rest & 127) | 128
        rest >>= 7
        at += 1
    target[at] = rest
    return at + 1


def varint(value: int) -> bytes:
    """A number of any sign as a zigzag varint."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest >= 128:
        out.append((rest & 127) | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _field(value: bytes | None) -> bytes:
    return b"\x01" if value is None else varint(len(value)) + value


def build(
    records: list[Record],
    timestamp_ms: int,
    base_offset: int = 0,
    attributes: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """One batch of records, not compressed; a record without a timestamp takes `timestamp_ms`."""
    assert records, "a batch holds at least one record"
    assert not attributes & COMPRESSION_MASK, "build writes no compressed batch"
    stamps = [timestamp_ms if r.timestamp_ms < 0 else r.timestamp_ms for r in records]
    out = bytearray(HEADER_SIZE)
    for index, record in enumerate(records):
        body = bytearray(b"\0")
        body += varint(stamps[index] - stamps[0])
        body += varint(index)
        body += _field(record.key)
        body += _field(record.value)
        body += varint(len(record.headers))
        for name, value in record.headers:
            body += _field(name.encode("utf-8", "surrogateescape"))
            body += _field(value)
        out += varint(len(body)) + body
    write_header(
        out, 0, len(out), attributes, len(records), stamps[0], max(stamps),
        producer_id, producer_epoch, base_sequence,
    )  # fmt: skip
    set_base(out, 0, base_offset, 0)
    return bytes(out)


def signed_varint(source: bytes | bytearray, at: int, end: int, place: array[int]) -> int:
    """Read a zigzag varint; place[0] becomes the place after it, -1 when it is cut short or too
    long."""
    position = memory.ints(place)
    value = 0
    shift = 0
    while at < end and shift < 64:
        byte = source[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            position[0] = at
            value &= _MASK  # no more when compiled: bits above 64 are lost there
            return (value >> 1) ^ -(value & 1)
        shift += 7
    position[0] = -1
    return 0


def headers_end(source: bytes | bytearray, at: int, end: int, number: int) -> int:
    """The place behind so many headers of a record; -1 when they are not sound."""
    position = memory.ints(_place)
    # Names, which are never null, and values, whose length is negative when they are.
    for part in range(2 * number):
        length = signed_varint(source, at, end, _place)
        at = position[0]
        if at < 0 or length > end - at or (length < 0 and part & 1 == 0):
            return -1
        if length > 0:
            at += length
    return at


def scan_records(buffer: bytes | bytearray, begin: int, end: int, table: array[int]) -> int:
    """A row of 9 int32 for each record of an area of plain records; the number of rows.

    Row: key begin (-1 null), key end, value begin (-1 null), value end, headers begin, number of
    headers, record end, offset delta, timestamp delta (clipped). Stops when the table is full;
    CORRUPT_RECORD when a record is not sound.
    """
    source = buffer
    rows = memory.ints(table)
    capacity = len(table) // 9
    position = memory.ints(_place)
    count = 0
    at = begin
    while at < end and count < capacity:
        row = count * 9
        length = signed_varint(source, at, end, _place)
        at = position[0]
        if at < 0 or length < 6 or length > end - at:
            raise BrokerError(Fault.CORRUPT_RECORD, "a record is cut short")
        stop = at + length
        delta = signed_varint(source, at + 1, stop, _place)
        rows[row + 8] = 2147483647 if delta > 2147483647 else max(delta, -2147483648)
        if position[0] >= 0:
            rows[row + 7] = signed_varint(source, position[0], stop, _place) & 0x7FFFFFFF
        for part in range(2):
            if position[0] < 0:
                break
            length = signed_varint(source, position[0], stop, _place)
            if length > stop - position[0]:
                position[0] = -1
            if length < 0 or position[0] < 0:
                rows[row + part * 2] = -1
                rows[row + part * 2 + 1] = -1
            else:
                rows[row + part * 2] = position[0]
                rows[row + part * 2 + 1] = position[0] + length
                position[0] = position[0] + length
        number = 0
        if position[0] >= 0:
            number = signed_varint(source, position[0], stop, _place)
        if position[0] < 0 or number < 0 or number > stop - position[0]:
            raise BrokerError(Fault.CORRUPT_RECORD, "a record is not sound")
        rows[row + 4] = position[0]
        rows[row + 5] = number
        rows[row + 6] = stop
        if headers_end(source, position[0], stop, number) != stop:
            raise BrokerError(Fault.CORRUPT_RECORD, "the headers of a record are not sound")
        at = stop
        count += 1
    return count


def inspect_fields(source: bytes | bytearray, at: int, end: int, facts: array[int]) -> bool:
    """Look at the key, value and headers of a record; False when they do not end where it does."""
    fact = memory.longs(facts)
    position = memory.ints(_place)
    position[0] = at
    for part in range(2):
        if position[0] < 0:
            return False
        length = signed_varint(source, position[0], end, _place)
        if position[0] < 0 or length > end - position[0]:
            return False
        if length > 0:
            position[0] = position[0] + length
        elif length < 0 and part == 0:
            if fact[2] == 0:
                fact[3] = fact[0]
            fact[2] = fact[2] + 1
    number = signed_varint(source, position[0], end, _place)
    if position[0] < 0 or number < 0 or number > end - position[0]:
        return False
    if number > 0:
        fact[1] = fact[1] + 1
    return headers_end(source, position[0], end, number) == end


def inspect_records(
    buffer: bytes | bytearray, begin: int, end: int, limit: int, facts: array[int]
) -> int:
    """Walk at most `limit` plain records of an area; where the next one begins. They are numbered
    in order from facts[0] on, else, or when one is not sound, CORRUPT_RECORD.

    facts, an array("q") of 6: the next offset delta, records with headers, records without a key,
    the first of these, the least and the greatest timestamp delta. All but the fourth (-1) begin
    at 0.
    """
    source = buffer
    fact = memory.longs(facts)
    position = memory.ints(_place)
    at = begin
    walked = 0
    while at < end and walked < limit:
        length = signed_varint(source, at, end, _place)
        at = position[0]
        if at < 0 or length < 6 or length > end - at:
            raise BrokerError(Fault.CORRUPT_RECORD, "a record is cut short")
        stop = at + length
        stamp = signed_varint(source, at + 1, stop, _place)
        number = -1
        if position[0] >= 0:
            number = signed_varint(source, position[0], stop, _place)
        if position[0] >= 0 and number != fact[0]:
            raise BrokerError(Fault.CORRUPT_RECORD, "records are not numbered in order")
        if not inspect_fields(source, position[0], stop, facts):
            raise BrokerError(Fault.CORRUPT_RECORD, "a record is not sound")
        fact[4] = min(fact[4], stamp)
        fact[5] = max(fact[5], stamp)
        fact[0] = fact[0] + 1
        at = stop
        walked += 1
    return at


def stamp(batch: bytearray, timestamp_ms: int) -> None:
    """Make the time of the append that of all records of a batch (message.timestamp.type =
    LogAppendTime): its greatest timestamp and an attribute say so, and the checksum follows."""
    memory.put16be(batch, 21, memory.get16be(batch, 21) | LOG_APPEND_TIME)
    memory.put64be(batch, 35, timestamp_ms)
    memory.put32be(batch, 17, memory.checksum(batch, 21, len(batch)))


def parse(
    buffer: bytes | bytearray,
    begin: int = 0,
    end: int = -1,
    max_decompressed: int = DECOMPRESSED_MAX,
) -> list[Record]:
    """The records of the first batch in the area, of every compression type, with offsets and
    timestamps."""
    end = len(buffer) if end < 0 else end
    info = validate(buffer, begin, end)
    if not info.crc_ok:
        raise BrokerError(Fault.CORRUPT_RECORD, "the checksum of a batch is wrong")
    packed = bytes(buffer[begin + HEADER_SIZE : begin + info.length])
    body = decompress(packed, info.attributes & COMPRESSION_MASK, max_decompressed)
    if info.count > len(body) // 7 + 1:
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch counts more records than it can hold")
    place = array("i", [0])
    records: list[Record] = []
    at = 0
    for _ in range(info.count):
        length = signed_varint(body, at, len(body), place)
        at = place[0]
        if at < 0 or length < 6 or at + length > len(body):
            raise BrokerError(Fault.CORRUPT_RECORD, "a record is cut short")
        records.append(_record(body, at + 1, at + length, info, place))
        at += length
    if at != len(body):
        raise BrokerError(Fault.CORRUPT_RECORD, "a batch has bytes behind its records")
    return records


def _record(body: bytes, at: int, end: int, info: BatchInfo, place: array[int]) -> Record:
    def number() -> int:
        nonlocal at
        value = signed_varint(body, at, end, place)
        at = place[0]
        if at < 0:
            raise BrokerError(Fault.CORRUPT_RECORD, "a record is not sound")
        return value

    def field() -> bytes | None:
        nonlocal at
        length = number()
        if length < 0:
            return None
        if length > end - at:
            raise BrokerError(Fault.CORRUPT_RECORD, "a field is longer than its record")
        at += length
        return body[at - length : at]

    timestamp = info.first_timestamp + number()
    if info.attributes & LOG_APPEND_TIME:
        timestamp = info.max_timestamp
    if timestamp < 0 or timestamp > STAMP_MAX:
        timestamp = -1
    offset = info.base_offset + number()
    key = field()
    value = field()
    pairs: list[tuple[str, bytes | None]] = []
    count = number()
    if not 0 <= count <= end - at:
        raise BrokerError(Fault.CORRUPT_RECORD, "a record has more headers than bytes")
    for _ in range(count):
        name = field()
        if name is None:
            raise BrokerError(Fault.CORRUPT_RECORD, "a header has no name")
        pairs.append((name.decode("utf-8", "surrogateescape"), field()))
    if at != end:
        raise BrokerError(Fault.CORRUPT_RECORD, "a record has bytes behind its headers")
    return Record(key, value, pairs, timestamp, offset)


def decompress(packed: bytes, compression: int, max_decompressed: int) -> bytes:
    """The plain bytes of a batch's records; CORRUPT_RECORD when they are not sound or more than the
    bound."""
    if compression == _NONE:
        return packed
    try:
        plain = _decompress(packed, compression, max_decompressed)
    except BrokerError:
        raise
    except Exception as error:  # each library has errors of its own, and all of them mean this
        raise BrokerError(Fault.CORRUPT_RECORD, f"compressed records: {error}") from error
    if len(plain) > max_decompressed:
        raise TooLarge
    return plain


def _decompress(packed: bytes, compression: int, bound: int) -> bytes:
    if compression == _GZIP:
        import zlib

        return zlib.decompressobj(31).decompress(packed, bound + 1)
    if compression == _LZ4:
        import lz4.frame

        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=bound + 1))
    if compression == _ZSTD:
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            return reader.read(bound + 1)
    if compression == _SNAPPY:
        return _snappy(packed, bound)
    raise BrokerError(Fault.CORRUPT_RECORD, f"compression type {compression} is not known")


def _snappy(packed: bytes, bound: int) -> bytes:
    """Raw snappy, or the framing of xerial that the Java client writes: header of 16 bytes, then
    sized blocks."""
    import cramjam

    if not packed.startswith(_XERIAL):
        _check_snappy(packed, bound)
        return bytes(cramjam.snappy.decompress_raw(packed))
    out = bytearray()
    at = 16
    while at + 4 <= len(packed):
        size = int.from_bytes(packed[at : at + 4], "big")
        block = packed[at + 4 : at + 4 + size]
        _check_snappy(block, bound - len(out))
        out += bytes(cramjam.snappy.decompress_raw(block))
        at += 4 + size
    return bytes(out)


def _check_snappy(block: bytes, bound: int) -> None:
    """A raw block begins with the length it will have: refuse before anything is allocated."""
    size = 0
    for index, byte in enumerate(block[:5]):
        size |= (byte & 127) << 7 * index
        if byte < 128:
            break
    if size > bound:
        raise TooLarge


def record_count(buffer: bytes | bytearray, begin: int) -> int:
    """How many records the batch that begins there says it has."""
    return memory.get32be(buffer, begin + 57)


def count_records(source: bytes | bytearray | memoryview) -> int:
    """How many records whole batches, one behind the other, say that they have; markers of
    transactions are none."""
    at = 0
    end = len(source)
    total = 0
    while end - at >= 61:
        size = 0
        count = 0
        for index in range(4):
            size = size << 8 | source[at + 8 + index]
            count = count << 8 | source[at + 57 + index]
        if size < 49 or size > end - at - 12:
            break
        # A control batch holds no records of anybody.
        if not source[at + 22] & 32:
            total += count
        at += size + 12
    return total
