"""Where the chain of a light topic is torn, what lies before the tear is looked for in the log.

A batch says where the topic's batch before it stands (`light`). Damage to that, or to the batch it
leads to, hides all that is older, though it is there. Recovery leads over what it has set aside;
but it does not look at what lies before the last checkpoint, nor does a disk only fail while nobody
reads. So a reader that meets a tear has the log searched backwards from there, on the storage
thread and in pieces, for the newest sound batch of the topic. What is found is remembered in memory
alone: after a restart the next reader has it looked for again.

A batch is found by its topic's secret key and proven by its checksum. Entries of the log around it
need not be sound.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from robustmq.core import blocks
from robustmq.core.blocks import ENTRY_HEADER
from robustmq.core.hashing import topic_key
from robustmq.errors import BrokerError
from robustmq.storage.cleaned_log import READ_BYTES, slot_area
from robustmq.storage.log_files import LogFile, LogFiles
from robustmq.storage.shard_log import MAX_ENTRY_BYTES

Piece = tuple[int, memoryview]
KEY_AT = 40


class Tear(NamedTuple):
    """Where a chain ends too early."""

    topic: bytes
    position: int
    """The batch that is looked for stands before this."""
    offset: int
    """The first that is known behind it: all of its offsets are lower."""
    leads_to: int
    """The position at which there should have been one, or what stands for one
    (`blocks.UNKNOWN`)."""


class Found(NamedTuple):
    """The newest batch before a tear."""

    position: int
    end_offset: int


class Search:
    """The search for what lies before one tear: `step` until `over`."""

    def __init__(self, files: LogFiles, tear: Tear, after: int) -> None:
        """What stands before `after` belongs to a deleted topic of the same name."""
        self.tear = tear
        self.found: Found | None = None
        self.over = False
        self._table = files
        self._key = topic_key(tear.topic)
        self._needle = self._key.to_bytes(8, "little")
        self._after = after
        self._files = [file for file in files.files if file.start < tear.position]
        self._growing = files.files[-1] if files.files else None
        # The index of a cleaned file is the loop's to read.
        self._slots = {file.path: files.slots(file) for file in self._files if file.cleaned}
        self._areas = self._backwards()

    @property
    def in_vain(self) -> bool:
        """Is it over, and nothing is there? It says nothing when files became others meanwhile."""
        there = self._table.files
        return self.over and self.found is None and all(one in there for one in self._files)

    def step(self) -> None:
        """Look at READ_BYTES more, or at one large entry. On the storage thread."""
        try:
            pieces = next(self._areas, None)
            if pieces is None:
                self.over = True
                return
            for position, data in reversed(pieces):
                self.found = self._newest(position, data)
                if self.found is not None:
                    self.over = True
                    return
        except BrokerError:
            # The disk cannot read it now.
            self._files = []
            self.over = True
            raise

    def _backwards(self) -> Iterator[list[Piece]]:
        for file in reversed(self._files):
            if file.cleaned:
                yield from self._of_cleaned(file)
            else:
                yield from self._of_segment(file)

    def _of_segment(self, file: LogFile) -> Iterator[list[Piece]]:
        stop = self.tear.position - file.start
        if file is not self._growing:
            stop = min(stop, file.size)
        while stop > 0 and file.start + stop > self._after:
            begin = max(0, stop - READ_BYTES)
            data = self._table.read_apart(file, begin, stop - begin + ENTRY_HEADER)
            yield [(file.start + begin, memoryview(data))]
            stop = begin

    def _of_cleaned(self, file: LogFile) -> Iterator[list[Piece]]:
        slots = self._slots[file.path]
        stop = len(slots.offsets)
        while stop > 0:
            first = stop - 1
            end = slot_area(slots, first)[1]
            while first > 0 and end - slots.offsets[first - 1] <= READ_BYTES:
                first -= 1
            found, last, _ = self._table.pieces(file, slots, first)
            yield found
            assert last >= stop, "no more was asked for than is read at once"
            stop = first

    def _newest(self, start: int, data: memoryview) -> Found | None:
        """The newest batch of the topic in some bytes of the log, before the tear."""
        held, needle = bytes(data), self._needle
        at = held.rfind(needle)
        while at >= 0:
            begin = at - KEY_AT
            position = start + begin
            if begin >= 0 and self._after <= position < self.tear.position:
                found = self._sound(position, held, begin)
                if found is not None:
                    return found
            at = held.rfind(needle, 0, at + len(needle) - 1)
        return None

    def _sound(self, position: int, data: bytes, begin: int) -> Found | None:
        length = int.from_bytes(data[begin : begin + 4], "little")
        if begin + length > len(data):
            data, begin = self._whole(position, length), 0
        entry = blocks.stored_batch(data, begin, self._key, b"", position, True)
        if entry is None or entry[4] is None or entry[3] >= self.tear.offset:
            return None
        return Found(position, entry[3] + 1)

    def _whole(self, position: int, length: int) -> bytes:
        """An entry that goes on behind what was read: only in files as they were written."""
        file = self._files[bisect_right(self._files, position, key=lambda one: one.start) - 1]
        if file.cleaned or length > MAX_ENTRY_BYTES:
            return b""
        return self._table.read_apart(file, position - file.start, length)
