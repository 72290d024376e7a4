"""One file of a partition: its sparse index, and the areas of it that are set aside.

Files are named by their base offset (`00000000000000000042.log`), or, where a compaction has
written one anew, by base offset and the number of that compaction
(`00000000000000000042-0000000a.log`).
"""

from __future__ import annotations

from bisect import bisect_left

from robustmq.core import batches
from robustmq.errors import BrokerError

HEADER_BYTES = 61
MAGIC_AT = 16
LOG, CLEANED = ".log", ".cleaned"
_OFFSET_DIGITS = 20


class SegmentFile:
    """One segment file with its sparse index of (offset, position, greatest time stamp so far)."""

    __slots__ = (
        "bad",
        "base_offset",
        "first_time",
        "max_times",
        "offsets",
        "path",
        "positions",
        "size",
        "written_ms",
    )

    def __init__(self, base_offset: int, path: str) -> None:
        self.base_offset = base_offset
        self.path = path
        self.size = 0
        self.offsets: list[int] = []
        self.positions: list[int] = []
        self.max_times: list[int] = []
        self.bad: list[tuple[int, int]] = []
        """Areas that are set aside, as (begin, end)."""
        self.first_time = -1
        """The greatest time stamp of the first batch; -1: it has none, or there is no batch."""
        self.written_ms = -1
        """Wall time at which a file whose records have no time stamps was first looked at."""

    @property
    def max_time(self) -> int:
        """The greatest time stamp in the file; -1: there is none."""
        return self.max_times[-1] if self.max_times else -1

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        self.size = size
        keep = bisect_left(self.positions, size)
        del self.offsets[keep:], self.positions[keep:], self.max_times[keep:]
        self.bad = [area for area in self.bad if area[1] <= size]

    def sound_from(self, position: int) -> int:
        """The first position at or behind this one that is not set aside."""
        for begin, end in self.bad:
            if begin <= position < end:
                return end
        return position

    def sound_until(self, position: int) -> int:
        """Where the next area begins that is set aside, or the file ends."""
        return min((begin for begin, _ in self.bad if begin >= position), default=self.size)

    def note(self, base_offset: int, position: int, max_timestamp: int, interval: int) -> None:
        """Index a batch if the last indexed one is far enough away."""
        if not position:
            self.first_time = max_timestamp
        if not self.offsets or position - self.positions[-1] >= interval:
            before = self.max_times[-1] if self.max_times else -1
            self.offsets.append(base_offset)
            self.positions.append(position)
            self.max_times.append(max(before, max_timestamp))
        elif max_timestamp > self.max_times[-1]:
            self.max_times[-1] = max_timestamp


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
