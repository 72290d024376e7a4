"""The closed segments of one partition that are in the object store, as a table in memory.

Forty bytes a segment and no object for each, so that a terabyte of cold segments (16,000 of them)
costs 640 KB. Rows are in the order of their offsets, side by side: the manifest is what lasts
(docs/formats.md, "Object storage"), this is what was read from it. What lies inside a segment is
known by its index, an object of its own, which is read with the first record that is wanted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class ColdSegment(NamedTuple):
    """One segment in the object store."""

    base_offset: int
    next_offset: int
    """The offset behind its last record."""
    size: int
    """Bytes of record batches, which begin at byte 0 of the object."""
    max_time: int
    """The greatest time stamp of its records; -1: they have none."""
    leader_epoch: int
    """Of whoever uploaded it; part of the object's name."""


class ColdSegments:
    """A partition's cold segments, oldest first."""

    __slots__ = ("_bases", "_epochs", "_nexts", "_sizes", "_times")

    def __init__(self) -> None:
        self._bases: array[int] = array("q")
        self._nexts: array[int] = array("q")
        self._sizes: array[int] = array("q")
        self._times: array[int] = array("q")
        self._epochs: array[int] = array("q")

    def __len__(self) -> int:
        return len(self._bases)

    def __getitem__(self, row: int) -> ColdSegment:
        return ColdSegment(
            self._bases[row],
            self._nexts[row],
            self._sizes[row],
            self._times[row],
            self._epochs[row],
        )

    def __iter__(self) -> Iterator[ColdSegment]:
        return (self[row] for row in range(len(self)))

    @property
    def start_offset(self) -> int:
        """The first offset that is cold; the same as the end when nothing is."""
        return self._bases[0] if self._bases else 0

    @property
    def end_offset(self) -> int:
        """The offset behind the last that is cold."""
        return self._nexts[-1] if self._nexts else 0

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(self._sizes)

    def add(self, segment: ColdSegment) -> None:
        """The next one was uploaded."""
        assert not self or segment.base_offset >= self.end_offset, "segments follow one another"
        self._bases.append(segment.base_offset)
        self._nexts.append(segment.next_offset)
        self._sizes.append(segment.size)
        self._times.append(segment.max_time)
        self._epochs.append(segment.leader_epoch)

    @property
    def max_time(self) -> int:
        """The greatest time stamp in all of them; -1: there is none."""
        return max(self._times, default=-1)

    def exchange(self, other: ColdSegments) -> None:
        """Hold what another table holds, which was filled elsewhere; at once, however large."""
        for column in self.__slots__:
            setattr(self, column, getattr(other, column))

    def drop(self, count: int) -> list[ColdSegment]:
        """The oldest ones go; what they were."""
        gone = [self[row] for row in range(count)]
        for column in (self._bases, self._nexts, self._sizes, self._times, self._epochs):
            del column[:count]
        return gone

    def find(self, offset: int) -> int:
        """The row of the segment that holds an offset, or else of the next one; their number when
        none does."""
        row = max(0, bisect_right(self._bases, offset) - 1)
        if row < len(self) and self._nexts[row] <= offset:
            row += 1
        return row

    def find_time(self, timestamp_ms: int) -> int:
        """The row of the first segment with a record at or after a time; their number when none
        has."""
        return next(
            (row for row, time in enumerate(self._times) if time >= timestamp_ms), len(self)
        )
