"""Loads, stores and copies on raw buffers: the interpreted form.

The compiled modules never call this one: `memory.pxd` holds the same names as inline C, so that one
source text (`memory.put32(target, at, value)`) is a store of four bytes when compiled and a slice
assignment when not. A buffer is `bytes` or `bytearray`. Names ending in `be` are big-endian and
signed, as Kafka has its integers; the others are little-endian and unsigned, as our own layouts
are. Nothing here checks bounds: the callers do.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

import crc32c

Buffer = bytes | bytearray


def ints(table: array[int]) -> array[int]:
    """The int32 rows of a table."""
    return table


def shorts(table: array[int]) -> array[int]:
    """The uint16 items of an array('H')."""
    return table


def resize(data: bytearray, size: int) -> None:
    """Set the length; what is new has no defined content."""
    have = len(data)
    if size < have:
        del data[size:]
    else:
        data.extend(bytes(size - have))


def copy(target: bytearray, at: int, source: Buffer, begin: int, count: int) -> None:
    """Copy `count` bytes; the areas do not overlap."""
    target[at : at + count] = source[begin : begin + count]


def unmask(
    target: bytearray, at: int, source: bytearray, begin: int, count: int, mask: int
) -> None:
    """Copy `count` bytes combined with the four of a mask, over and over. In one buffer the areas
    may overlap when the target comes first."""
    rounds = count // 4 + 1
    stream = mask.to_bytes(4, "little") * rounds
    plain = int.from_bytes(source[begin : begin + count], "little")
    mixed = plain ^ int.from_bytes(stream[:count], "little")
    target[at : at + count] = mixed.to_bytes(count, "little")


def same(left: Buffer, left_begin: int, right: Buffer, right_begin: int, count: int) -> bool:
    """True when two areas hold the same bytes."""
    return left[left_begin : left_begin + count] == right[right_begin : right_begin + count]


def cut(data: Buffer, begin: int, end: int) -> bytes:
    """One slice as an object of its own."""
    return bytes(data[begin:end])


def get16(data: Buffer, at: int) -> int:
    """Little-endian, unsigned."""
    return data[at] | data[at + 1] << 8


def get32(data: Buffer, at: int) -> int:
    """Little-endian, unsigned."""
    return int.from_bytes(data[at : at + 4], "little")


def get64(data: Buffer, at: int) -> int:
    """Little-endian, unsigned."""
    return int.from_bytes(data[at : at + 8], "little")


def get16be(data: Buffer, at: int) -> int:
    """Big-endian, signed."""
    return int.from_bytes(data[at : at + 2], "big", signed=True)


def get32be(data: Buffer, at: int) -> int:
    """Big-endian, signed."""
    return int.from_bytes(data[at : at + 4], "big", signed=True)


def get64be(data: Buffer, at: int) -> int:
    """Big-endian, signed."""
    return int.from_bytes(data[at : at + 8], "big", signed=True)


def put16(target: bytearray, at: int, value: int) -> None:
    """Little-endian; what does not fit wraps."""
    target[at : at + 2] = (value & 0xFFFF).to_bytes(2, "little")


def put32(target: bytearray, at: int, value: int) -> None:
    """Little-endian; what does not fit wraps."""
    target[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")


def put64(target: bytearray, at: int, value: int) -> None:
    """Little-endian; what does not fit wraps."""
    target[at : at + 8] = (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")


def put16be(target: bytearray, at: int, value: int) -> None:
    """Big-endian, signed or unsigned."""
    target[at : at + 2] = (value & 0xFFFF).to_bytes(2, "big")


def put32be(target: bytearray, at: int, value: int) -> None:
    """Big-endian, signed or unsigned."""
    target[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")


def put64be(target: bytearray, at: int, value: int) -> None:
    """Big-endian, signed or unsigned."""
    target[at : at + 8] = (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")


def checksum(data: Buffer, begin: int, end: int) -> int:
    """CRC-32C (Castagnoli) of an area."""
    return crc32c.crc32c(memoryview(data)[begin:end])


def checksum_more(crc: int, data: Buffer, begin: int, end: int) -> int:
    """The checksum of what `crc` is that of, followed by an area."""
    return crc32c.crc32c(memoryview(data)[begin:end], crc)


def keyed(key: bytes) -> blake2b:
    """What `keyed_hash` goes on from: BLAKE2b that has taken in a key of 1 to 64 bytes. A copy of
    it is a third quicker than to begin with the key."""
    return blake2b(digest_size=8, key=key)


def keyed_hash(state: blake2b, data: bytes) -> int:
    """The digest of data that is not empty under a key."""
    hashed = state.copy()
    hashed.update(data)
    return int.from_bytes(hashed.digest(), "little")


def flat(buffer: Buffer | memoryview) -> Buffer:
    """The buffer itself, or a copy of what is neither `bytes` nor `bytearray`."""
    return buffer if isinstance(buffer, (bytes, bytearray)) else bytes(buffer)


def longs(table: array[int]) -> array[int]:
    """The int64 items of an array('q')."""
    return table


def unsigned_longs(table: array[int]) -> array[int]:
    """The uint64 items of an array('Q')."""
    return table


def push(items: array[int], value: int) -> None:
    """Append to an array('H')."""
    items.append(value)
