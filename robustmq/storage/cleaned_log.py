"""A cleaned file of a shard's log: what is left of one or several of its segments, at the positions
it always had (docs/formats.md, "Cleaned files").

Positions never change: chains of light batches, references of sessions and cursors name them. So a
cleaned file is a sequence of *runs*, each the position at which it stood and sound log entries one
behind the other. A sparse index behind them names a run for every SLOT_BYTES of the file; it costs
a thousandth of the file in memory while it is used. Whatever no run covers is gone.

The index and the footer are at the end, so that a file is written in one pass, in slices; when they
do not check they are made again from the runs, whose heads carry checksums of their own.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from robustmq.storage.disk import Buffer, Disk

MAGIC = b"RMQKEPT1"
RUN = struct.Struct("<IIQ")
FOOTER = struct.Struct("<IIQQQQQQ")
SLOT_BYTES = 16 * 1024
READ_BYTES = 256 * 1024


class Span(NamedTuple):
    """What a cleaned file says of itself: the positions it stands for, when the first and the last
    of them were written (wall clock, ms), and where the log ended when it was judged what is
    needed."""

    start: int
    end: int
    first_ms: int
    last_ms: int
    judged_at: int


class Slots(NamedTuple):
    """The sparse index: the first run of each slot by position, where it lies in the file, and
    where the last slot ends."""

    positions: array[int]
    offsets: array[int]
    end: int


class Run(NamedTuple):
    """Entries one behind the other: their position, and where they lie in what was read."""

    position: int
    begin: int
    length: int


class CleanedWriter:
    """Makes a cleaned file: `add` entries in the order of their positions, write what `take` gives,
    and at last what `finish` gives."""

    def __init__(self) -> None:
        self._out: list[Buffer] = [MAGIC]
        self._size = len(MAGIC)
        self._run: list[Buffer] = []
        self._run_position = 0
        self._run_length = 0
        self._positions: array[int] = array("Q")
        self._offsets: array[int] = array("Q")
        self.kept_bytes = 0
        """Of entries, without what holds them together."""

    def add(self, position: int, entry: Buffer) -> None:
        """One whole log entry."""
        assert position >= self._run_position + self._run_length, "entries come in order"
        follows = position == self._run_position + self._run_length
        if self._run and not (follows and self._run_length < SLOT_BYTES):
            self._close_run()
        if not self._run:
            self._run_position = position
        self._run.append(entry)
        self._run_length += len(entry)
        self.kept_bytes += len(entry)

    def _close_run(self) -> None:
        if not self._offsets or self._size - self._offsets[-1] >= SLOT_BYTES:
            self._positions.append(self._run_position)
            self._offsets.append(self._size)
        tail = self._run_length.to_bytes(4, "little") + self._run_position.to_bytes(8, "little")
        self._out.append(crc32c(tail).to_bytes(4, "little") + tail)
        self._out += self._run
        self._size += RUN.size + self._run_length
        self._run_position += self._run_length
        self._run, self._run_length = [], 0

    def take(self) -> list[Buffer]:
        """What is ready to be written."""
        out, self._out = self._out, []
        return out

    def finish(self, span: Span) -> tuple[list[Buffer], int]:
        """The rest of the file, and its size."""
        if self._run:
            self._close_run()
        index = self._positions.tobytes() + self._offsets.tobytes()
        tail = FOOTER.pack(0, len(self._offsets), *span, self._size)[4:]
        crc = crc32c(tail, crc32c(index))
        self._out += [index, crc.to_bytes(4, "little"), tail]
        return self.take(), self._size + len(index) + FOOTER.size


def read_span(disk: Disk, path: str, size: int) -> tuple[Span, int, int] | None:
    """What the footer says: the span, how many slots there are, and where the index begins; None
    when it cannot be right. Its checksum is tested with the index (`read_slots`)."""
    data = disk.read(path, max(0, size - FOOTER.size), FOOTER.size)
    if len(data) < FOOTER.size:
        return None
    _, count, *span, index_at = FOOTER.unpack(data)
    if index_at + 16 * count + FOOTER.size != size:
        return None
    return Span(*span), count, index_at


def read_slots(disk: Disk, path: str, size: int) -> Slots:
    """The index of a file, made again from its runs when it does not check."""
    found = read_span(disk, path, size)
    if found is not None:
        _, _, index_at = found
        slots = index_of(disk.read(path, index_at, size - index_at), index_at)
        if slots is not None:
            return slots
    return _slots_again(disk, path, size)


def index_of(data: bytes, begin: int) -> Slots | None:
    """The index that is the end of a file, from `begin` on; None when it does not check."""
    count = (len(data) - FOOTER.size) // 16
    index, footer = data[: 16 * count], data[16 * count :]
    if count < 0 or len(footer) != FOOTER.size:
        return None
    if crc32c(footer[4:], crc32c(index)) != int.from_bytes(footer[:4], "little"):
        return None
    positions: array[int] = array("Q", index[: 8 * count])
    return Slots(positions, array("Q", index[8 * count :]), begin)


def _slots_again(disk: Disk, path: str, size: int) -> Slots:
    positions: array[int] = array("Q")
    offsets: array[int] = array("Q")
    at = len(MAGIC)
    while at < size:
        head = _run_head(disk.read(path, at, RUN.size))
        if head is None or at + RUN.size + head[1] > size:
            break
        if not offsets or at - offsets[-1] >= SLOT_BYTES:
            positions.append(head[0])
            offsets.append(at)
        at += RUN.size + head[1]
    return Slots(positions, offsets, at)


def _run_head(data: Buffer) -> tuple[int, int] | None:
    """(position, length) of a run, if its head checks."""
    if len(data) < RUN.size:
        return None
    crc, length, position = RUN.unpack_from(data)
    return (position, length) if crc32c(bytes(data[4 : RUN.size])) == crc else None


def slot_of(slots: Slots, position: int) -> int:
    """The slot whose runs may hold a position; -1 when it lies before all of them."""
    return bisect_right(slots.positions, position) - 1


def slot_area(slots: Slots, number: int) -> tuple[int, int]:
    """Where a slot begins and ends in the file."""
    following = number + 1
    end = slots.offsets[following] if following < len(slots.offsets) else slots.end
    return slots.offsets[number], end


def runs(data: Buffer) -> tuple[list[Run], bool]:
    """The runs of a slot that was read, and whether they are all of it: behind a head that does not
    check nothing can be found."""
    found: list[Run] = []
    at = 0
    view = memoryview(data)
    while at < len(data):
        head = _run_head(view[at : at + RUN.size])
        if head is None or at + RUN.size + head[1] > len(data):
            return found, False
        found.append(Run(head[0], at + RUN.size, head[1]))
        at += RUN.size + head[1]
    return found, True


def pieces(
    disk: Disk, path: str, slots: Slots, first: int
) -> tuple[list[tuple[int, memoryview]], int, bool]:
    """Some of a file from a slot on: (position, bytes) of its runs, the slot to go on with (how
    many there are: that was all), and whether all of it could be read. From any thread."""
    count = len(slots.offsets)
    if first >= count:
        return [], count, True
    last = first
    begin, end = slot_area(slots, first)
    while last + 1 < count and slot_area(slots, last + 1)[1] - begin <= READ_BYTES:
        last += 1
        end = slot_area(slots, last)[1]
    data = memoryview(disk.read_apart(path, begin, end - begin))
    found: list[tuple[int, memoryview]] = []
    sound = True
    for number in range(first, last + 1):
        slot_begin, slot_end = slot_area(slots, number)
        area = data[slot_begin - begin : slot_end - begin]
        rows, whole = runs(area)
        sound = sound and whole
        found += [(run.position, area[run.begin : run.begin + run.length]) for run in rows]
    return found, last + 1, sound


def walk(
    disk: Disk, path: str, slots: Slots, position: int = 0
) -> Iterator[tuple[int, memoryview]]:
    """(position, bytes) of the runs from the slot of a position on."""
    number = max(0, slot_of(slots, position))
    while number < len(slots.offsets):
        found, number, _ = pieces(disk, path, slots, number)
        yield from found
