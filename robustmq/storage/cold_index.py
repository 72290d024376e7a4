"""The index of a cold segment, as it lies in the object store: the bytes of the index of a segment
file (docs/formats.md, "Index of a segment file"), whose columns are looked at where they lie.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

import msgspec
from crc32c import crc32c

from robustmq.storage.segment_index import AREA, HEAD, HEAD_CRC_FROM, MAGIC, ROW_BYTES


class ColdIndex(msgspec.Struct, frozen=True):
    """Of some batches of a segment: offset, position, and the greatest time of all up to the next
    of them. `areas` are set aside: (begin, end) in the segment."""

    offsets: Sequence[int]
    positions: Sequence[int]
    times: Sequence[int]
    areas: tuple[tuple[int, int], ...] = ()

    def sound_from(self, position: int) -> int:
        """The first position at or behind this one that is not set aside."""
        for begin, end in self.areas:
            if begin <= position < end:
                position = end
        return position


def index_size(head: bytes | memoryview) -> int:
    """Bytes of the index that begins so; 0 when it is none."""
    if len(head) < HEAD.size or head[: len(MAGIC)] != MAGIC:
        return 0
    fields = HEAD.unpack_from(head)
    return int(HEAD.size + fields[10] * AREA.size + fields[11] * ROW_BYTES)


def parse(data: bytes | memoryview, base_offset: int) -> ColdIndex | None:
    """The index of the segment of this base offset; None when it does not check."""
    size = index_size(data)
    if not size or len(data) < size:
        return None
    fields = HEAD.unpack_from(data)
    areas, rows = fields[10], fields[11]
    begin = HEAD.size + areas * AREA.size
    if crc32c(data[HEAD_CRC_FROM:begin]) != fields[1] or fields[4] != base_offset:
        return None
    if not rows or crc32c(data[begin:size]) != fields[2]:
        return None
    columns = [_column(data, begin + number * rows * 8, rows) for number in range(3)]
    kept = tuple(row[:2] for row in AREA.iter_unpack(data[HEAD.size : begin]))
    return ColdIndex(columns[0], columns[1], columns[2], kept)


def _column(data: bytes | memoryview, begin: int, rows: int) -> Sequence[int]:
    part = memoryview(data)[begin : begin + 8 * rows]
    if sys.byteorder == "little":
        return part.cast("q")
    values = array("q", bytes(part))
    values.byteswap()
    return values
