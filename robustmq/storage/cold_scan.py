"""An object of a shard's log (`cleaned_log`), read from the object store entry by entry, with every
checksum tested: by who makes a lost disk again, and by who looks what of it is still needed. All
calls block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from robustmq.storage.cleaned_log import FOOTER, MAGIC, Slots, index_of, runs, slot_area
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.log_survey import Entry, entries
from robustmq.storage.object_store import ObjectStore

AREA_BYTES = 4 * 1024 * 1024


class Lost(NamedTuple):
    """Nothing can be said of what stood at these positions."""

    begin: int
    end: int


def read_index(objects: ObjectStore, path: str, size: int) -> Slots | None:
    """The index of an object; None when it does not check."""
    footer = bytes(objects.get_range(path, size - FOOTER.size, FOOTER.size))
    if len(footer) < FOOTER.size:
        return None
    begin = FOOTER.unpack(footer)[-1]
    if not len(MAGIC) <= begin < size:
        return None
    return index_of(bytes(objects.get_range(path, begin, size - begin)), begin)


def scan(objects: ObjectStore, path: str, size: int, row: ColdSegment) -> Iterator[Entry | Lost]:
    """All sound entries of an object that has `size` bytes in the store, and what lies between them
    where it is damaged, in the order of their positions."""
    slots = read_index(objects, path, size) if size == row.size else None
    if slots is None:
        # Nobody could find anything in it.
        yield Lost(row.base_offset, row.next_offset)
        return
    first = 0
    while first < len(slots.offsets):
        last = first
        begin, end = slot_area(slots, first)
        while last + 1 < len(slots.offsets) and slot_area(slots, last + 1)[1] - begin <= AREA_BYTES:
            last += 1
            end = slot_area(slots, last)[1]
        data = memoryview(bytes(objects.get_range(path, begin, end - begin)))
        for number in range(first, last + 1):
            low, high = slot_area(slots, number)
            following = number + 1
            stop = row.next_offset
            if following < len(slots.positions):
                stop = slots.positions[following]
            yield from _of_area(data[low - begin : high - begin], slots.positions[number], stop)
        first = last + 1


def _of_area(area: memoryview, start: int, stop: int) -> Iterator[Entry | Lost]:
    found, whole = runs(area)
    behind = start
    for run in found:
        piece = run.position, area[run.begin : run.begin + run.length]
        for entry in entries(piece):
            if entry is None:
                yield Lost(behind, run.position + run.length)
                break
            yield entry
            behind = entry.position + len(entry.data)
        behind = run.position + run.length
    if (not whole or not found) and behind < stop:
        yield Lost(behind, stop)
