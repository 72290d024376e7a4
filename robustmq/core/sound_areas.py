"""Whether an area holds sound batches: the interpreted form.

The compiled modules never call this one: `sound_areas.pxd` holds the same name as inline C, which
lets go of the interpreter where the area is large.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

_HEAD = struct.Struct(">qi4xbIhi")
"""Base offset, length of what follows, leader epoch, magic, CRC, attributes, last offset delta."""
_HEADER_BYTES = 61


def sound_until(
    data: bytes | memoryview, expected: int, next_offset: int, most: int
) -> tuple[int, int]:
    """As `sound.sound_until`."""
    at, size = 0, len(data)
    for left in range(most, 0, -1):
        if size - at < _HEADER_BYTES:
            return at, left
        base, length, magic, crc, _, delta = _HEAD.unpack_from(data, at)
        end = at + 12 + length
        if magic != 2 or length < _HEADER_BYTES - 12 or end > size or delta < 0:
            return at, left
        if base < expected or base + delta >= next_offset or crc32c(data[at + 21 : end]) != crc:
            return at, left
        expected = base + delta + 1
        at = end
    return at, 0
