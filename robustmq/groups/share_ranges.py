"""The in-flight records of a share-partition: ranges of offsets with a state (KIP-932, "In-flight
records").

The window [start, end) is covered without a hole by ranges that do not overlap; neighbours that are
alike are one range. So memory is bounded by the records that are not done with, however many
offsets there are between them. Offsets are inclusive at both ends of a range.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter

import msgspec


class DeliveryState(enum.IntEnum):
    """States of a record, with the numbers of KIP-932."""

    AVAILABLE = 0
    ACQUIRED = 1
    ACKNOWLEDGED = 2
    ARCHIVING = 3
    """On its way to the dead letter topic (KIP-1191)."""
    ARCHIVED = 4


TERMINAL = (DeliveryState.ACKNOWLEDGED, DeliveryState.ARCHIVED)


class Range(msgspec.Struct, gc=False):
    """A run of records with one state. `member_id` and `deadline_ms` belong to ACQUIRED, `reason`
    to ARCHIVING.
    """

    first: int
    last: int
    state: int
    delivery_count: int = 0
    member_id: str = ""
    deadline_ms: int = 0
    reason: int = 0

    def like(self, other: Range) -> bool:
        """Could the two be one range?"""
        return (
            self.state == other.state
            and self.delivery_count == other.delivery_count
            and self.member_id == other.member_id
            and self.deadline_ms == other.deadline_ms
            and self.reason == other.reason
        )


_first = attrgetter("first")


class Ranges:
    """The window of a share-partition."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._ranges: list[Range] = []
        self._available_from = start
        self.open_records = 0
        """How many are not done with: available, acquired or archiving."""

    @property
    def end(self) -> int:
        """The first offset behind the window (KIP-932's SPEO + 1)."""
        return self._ranges[-1].last + 1 if self._ranges else self.start

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def within(self, first: int, last: int) -> list[Range]:
        """The parts of the window in [first, last], cut to it; copies, to be looked at."""
        ranges = self._ranges
        at = bisect_left(ranges, first, key=_first)
        if at and ranges[at - 1].last >= first:
            at -= 1
        found = []
        while at < len(ranges) and ranges[at].first <= last:
            one = ranges[at]
            begin, stop = max(one.first, first), min(one.last, last)
            found.append(msgspec.structs.replace(one, first=begin, last=stop))
            at += 1
        return found

    def put(self, made: Range) -> None:
        """An area has another state; it begins in the window or right behind it."""
        assert self.start <= made.first <= self.end, "the window has no holes"
        begin, stop = self._cut(made.first), self._cut(made.last + 1)
        for old in self._ranges[begin:stop]:
            self.open_records -= _open(old)
        self.open_records += _open(made)
        if made.state == DeliveryState.AVAILABLE:
            self._available_from = min(self._available_from, made.first)
        self._ranges[begin:stop] = [made]
        self._join(begin + 1)
        self._join(begin)

    def available(self) -> Iterator[Range]:
        """The available runs, by rising offset; not to be changed meanwhile."""
        ranges = self._ranges
        at = bisect_left(ranges, self._available_from, key=_first)
        self._available_from = self.end
        found = False
        while at < len(ranges):
            one = ranges[at]
            at += 1
            if one.state == DeliveryState.AVAILABLE:
                if not found:
                    found = True
                    self._available_from = one.first
                yield one

    def trim(self) -> None:
        """What is done with at the front leaves the window."""
        done = 0
        for one in self._ranges:
            if one.state not in TERMINAL:
                break
            done += 1
            self.start = one.last + 1
        if done:
            del self._ranges[:done]
            self._available_from = max(self._available_from, self.start)

    def move_start(self, offset: int) -> None:
        """What is before an offset leaves the window, whatever its state."""
        at = self._cut(offset)
        for old in self._ranges[:at]:
            self.open_records -= _open(old)
        del self._ranges[:at]
        self.start = offset
        self._available_from = max(self._available_from, offset)

    def done_records(self) -> int:
        """Offsets of the window that are done with."""
        return self.end - self.start - self.open_records

    def _cut(self, offset: int) -> int:
        """The index of the range that begins at an offset, or behind it; one that holds it becomes
        two.
        """
        ranges = self._ranges
        at = bisect_left(ranges, offset, key=_first)
        if at and ranges[at - 1].last >= offset:
            left = ranges[at - 1]
            right = msgspec.structs.replace(left, first=offset)
            left.last = offset - 1
            ranges.insert(at, right)
        return at

    def _join(self, at: int) -> None:
        """Make one of a range and the one before it if they are alike."""
        ranges = self._ranges
        if 0 < at < len(ranges) and ranges[at - 1].like(ranges[at]):
            ranges[at - 1].last = ranges[at].last
            del ranges[at]


def _open(one: Range) -> int:
    return 0 if one.state in TERMINAL else one.last - one.first + 1
