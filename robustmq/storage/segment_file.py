"""One file of a partition: what is known of it, and its sparse index.

Files are named by their base offset (`00000000000000000042.log`), or, where a compaction has
written one anew, by base offset and the number of that compaction
(`00000000000000000042-0000000a.log`). Beside a file lies its index under the same name with
`.index` (`segment_index`). Of a closed file no more than a few numbers are held in memory: its
index is read when it is needed, and kept by a bounded cache (`segment_index.IndexCache`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError

HEADER_BYTES = 61
MAGIC_AT = 16
LOG, CLEANED, INDEX = ".log", ".cleaned", ".index"
_OFFSET_DIGITS = 20


class Area(NamedTuple):
    """Bytes of a file that are set aside, and the offsets that are lost with them."""

    begin: int
    end: int
    first_offset: int
    next_offset: int
    """The offset behind the last lost one."""


class SparseIndex:
    """Of some batches of a file: offset, position, and the greatest time stamp of all from there to
    the next one, or before."""

    __slots__ = ("max_times", "offsets", "positions")

    def __init__(self) -> None:
        self.offsets = array("q")
        self.positions = array("q")
        self.max_times = array("q")

    def place_of(self, offset: int) -> tuple[int, int]:
        """(position, offset) of the last indexed batch that begins at an offset or before it; of
        the first one when none does; (0, -1) when there is none."""
        if not self.offsets:
            return 0, -1
        at = max(0, bisect_right(self.offsets, offset) - 1)
        return self.positions[at], self.offsets[at]

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        keep = bisect_left(self.positions, size)
        del self.offsets[keep:], self.positions[keep:], self.max_times[keep:]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return 24 * len(self.offsets)


class SegmentFile:
    """One segment file. `index` is None while the index is on the disk alone."""

    __slots__ = (
        "areas",
        "base_offset",
        "covered",
        "first_time",
        "gone",
        "index",
        "indexed",
        "last_position",
        "max_time",
        "next_offset",
        "path",
        "size",
        "synced",
        "written_ms",
    )

    def __init__(self, base_offset: int, path: str) -> None:
        self.base_offset = base_offset
        self.next_offset = base_offset
        """The offset behind the last record, or behind what was lost at the end."""
        self.path = path
        self.size = 0
        self.index: SparseIndex | None = SparseIndex()
        self.areas: tuple[Area, ...] = ()
        """What is set aside, in order."""
        self.first_time = -1
        """The greatest time stamp of the first batch; -1: it has none, or there is no batch."""
        self.max_time = -1
        """The greatest time stamp in the file; -1: there is none."""
        self.last_position = 0
        """Where the last batch begins."""
        self.covered = 0
        """Bytes that the index on the disk tells of, or the one that is being written."""
        self.indexed = False
        """The index on the disk is that of the whole file."""
        self.synced = False
        """Everything in it is known to have been synced, and its index says so."""
        self.gone = False
        """It has left the table: nothing is written beside it any more."""
        self.written_ms = -1
        """Wall time at which a file whose records have no time stamps was first looked at."""

    @property
    def index_path(self) -> str:
        """Where its index is."""
        return self.path.removesuffix(LOG) + INDEX

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        assert self.index is not None, "only what is indexed in memory is cut"
        self.size = size
        self.covered = 0
        self.indexed = self.synced = False
        self.index.cut(size)
        self.areas = tuple(area for area in self.areas if area.end <= size)
        times = self.index.max_times
        self.max_time = times[-1] if times else -1
        self.last_position = self.index.positions[-1] if times else 0

    def sound_from(self, position: int) -> int:
        """The first position at or behind this one that is not set aside."""
        for area in self.areas:
            if area.begin <= position < area.end:
                return area.end
        return position

    def sound_until(self, position: int) -> int:
        """Where the next area begins that is set aside, or the file ends."""
        return min((area.begin for area in self.areas if area.begin >= position), default=self.size)

    def lost(self, offset: int) -> Area | None:
        """The area that an offset was lost with."""
        for area in self.areas:
            if area.first_offset <= offset < area.next_offset:
                return area
        return None

    def note(self, info: BatchInfo, position: int, interval: int) -> None:
        """Learn of a batch; it is indexed if the last indexed one is far enough away."""
        base_offset, max_timestamp = info.base_offset, info.max_timestamp
        self.next_offset = base_offset + info.last_offset_delta + 1
        index = self.index
        assert index is not None, "only the index in memory grows"
        if not position:
            self.first_time = max_timestamp
        self.last_position = position
        self.max_time = max(self.max_time, max_timestamp)
        if not index.offsets or position - index.positions[-1] >= interval:
            index.offsets.append(base_offset)
            index.positions.append(position)
            index.max_times.append(self.max_time)
        elif max_timestamp > index.max_times[-1]:
            index.max_times[-1] = max_timestamp


def file_name(base_offset: int, generation: int = 0) -> str:
    """The name of a file, without its ending."""
    name = f"{base_offset:0{_OFFSET_DIGITS}d}"
    return f"{name}-{generation:08x}" if generation else name


def base_of(name: str) -> int:
    """The base offset that a file's name says."""
    return int(name[:_OFFSET_DIGITS])


def generation_of(name: str) -> int:
    """The number of the compaction that wrote a file; 0: none."""
    return (
        int(name[_OFFSET_DIGITS + 1 :].partition(".")[0], 16) if name[_OFFSET_DIGITS] == "-" else 0
    )


def next_sound(data: bytes, end_offset: int) -> int | None:
    """The first sound batch behind the bad one that `data` begins with: proven by its checksum, and
    an offset that can follow."""
    at = data.find(b"\2", MAGIC_AT + 1)
    while at >= 0:
        begin = at - MAGIC_AT
        length = claimed_length(data[begin : begin + 12])
        base_offset = int.from_bytes(data[begin : begin + 8], "big")
        near = end_offset <= base_offset < end_offset + 2**31
        if near and HEADER_BYTES <= length <= len(data) - begin:
            try:
                info = batches.validate(data, begin, begin + length)
            except BrokerError:
                info = None
            if info is not None and info.crc_ok:
                return begin
        at = data.find(b"\2", at + 1)
    return None


def claimed_length(data: bytes | memoryview) -> int:
    """The size that the batch that begins there says it has; 0 when that cannot be read."""
    return int.from_bytes(data[8:12], "big") + 12 if len(data) >= 12 else 0
