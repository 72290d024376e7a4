"""Reading the batches of one segment file: those that a Fetch gets, and all of them one by one.

What a Fetch gets is found by the index and by the headers from there on. Each header is held
against what must stand there, and each batch against its checksum, as the disk may have rotted
since it was scanned: what is not right is damage that nobody has seen yet (`Damaged`), and nothing
of it is served. (The checksum costs 2.5 us of CPU time for 64 KiB.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.core.sound import sound_until
from robustmq.errors import BrokerError
from robustmq.storage.segment_file import HEADER_BYTES, SegmentFile, SparseIndex, claimed_length

Read = Callable[[str, int, int], bytes | memoryview]

_HEADER = struct.Struct(">qiibIhi")
_MAGIC = 2
_NO_OFFSET = (1 << 63) - 1
"""Above all."""


class Damaged(Exception):
    """A file does not hold what its index says."""


def chunks(
    read: Callable[[str, int, int], bytes], file: SegmentFile, position: int, size: int
) -> Iterator[tuple[int, bytes]]:
    """(position, whole batches) from a position on, about so many bytes at a time; what is set
    aside is left out."""
    position = file.sound_from(position)
    while position < file.size:
        until = file.sound_until(position)
        data = read(file.path, position, min(size, until - position))
        length = claimed_length(data)
        if len(data) < length <= until - position:
            data = read(file.path, position, length)
        used = whole(data)
        if used:
            yield position, (data if used == len(data) else data[:used])
        position = position + used if used else until
        if position >= until:
            position = file.sound_from(until)


def stored(
    read: Callable[[str, int, int], bytes], file: SegmentFile, position: int, size: int
) -> Iterator[BatchInfo]:
    """The headers of the batches from a position on."""
    for _, data in chunks(read, file, position, size):
        for _, info in batches.headers(data, 0, len(data), False):
            yield info


def whole(data: bytes) -> int:
    """Bytes of the whole batches that `data` begins with."""
    used = 0
    try:
        for begin, info in batches.headers(data, 0, len(data), False):
            used = begin + info.length
    except BrokerError:
        return used
    return used


def _sound(data: memoryview, begin: int, stop: int) -> list[bytes | memoryview]:
    """The batches from `begin` to `stop` (-1: none), up to the first whose checksum is wrong."""
    if stop < 0:
        return []
    size, _ = sound_until(data[begin:stop], 0, _NO_OFFSET, stop)
    if not size:
        raise Damaged
    return [data[begin : begin + size]]


class Search:
    """One read of a partition: whole batches from the one that holds `offset`, or the next one
    where it is gone; at most `max_bytes`, but the first always; none at or behind `end`."""

    def __init__(
        self,
        read: Read,
        offset: int,
        max_bytes: int,
        end: int,
        gaps_until: int,
        interval: int,
    ) -> None:
        """`read` is of the file that is looked into; below `gaps_until` offsets may be missing;
        batches are indexed every `interval` bytes."""
        self._read = read
        self._offset = offset
        self._max_bytes = max_bytes
        self._end = end
        self._gaps_until = gaps_until
        self._wanted = max_bytes + interval

    def in_file(self, file: SegmentFile, index: SparseIndex) -> list[bytes | memoryview]:
        """Those of one file; none when all of it lies before the offset."""
        indexed, expected = index.place_of(self._offset)
        position = file.sound_from(indexed)
        if position != indexed:
            expected = -1
        while position < file.size:
            stop = file.sound_until(position)
            found, over = self._in_area(file, position, stop, expected)
            if found or over:
                return found
            position, expected = file.sound_from(stop), -1
        return []

    def _in_area(
        self, file: SegmentFile, position: int, until: int, following: int
    ) -> tuple[list[bytes | memoryview], bool]:
        """Batches of an area without holes that begins with offset `following` (-1: with any); and
        if there can be none behind it."""
        data = memoryview(self._read(file.path, position, min(self._wanted, until - position)))
        begin = stop = -1
        at = 0
        while position + at < until:
            length = self._whole(data, at)
            if not length:
                if stop >= 0:
                    break
                # The batch that holds the offset is larger than what was read, or lies behind it.
                position += at
                data, at = self._more(file, position, until), 0
                length = self._whole(data, at)
                if not length:
                    raise Damaged
            base, following = self._checked(data, at, following)
            if base >= self._end:
                return _sound(data, begin, stop), True
            if following > self._offset:
                if begin >= 0 and at + length - begin > self._max_bytes:
                    break
                if begin < 0:
                    begin = at
                stop = at + length
            at += length
        return _sound(data, begin, stop), False

    def _more(self, file: SegmentFile, position: int, until: int) -> memoryview:
        claimed = claimed_length(bytes(self._read(file.path, position, 12)))
        if not HEADER_BYTES <= claimed <= until - position:
            raise Damaged
        size = max(claimed, min(self._wanted, until - position))
        return memoryview(self._read(file.path, position, size))

    def _whole(self, data: memoryview, at: int) -> int:
        """The size of the batch that begins there; 0 when it is cut short."""
        if len(data) - at < HEADER_BYTES:
            return 0
        size: int = _HEADER.unpack_from(data, at)[1] + 12
        if size < HEADER_BYTES:
            raise Damaged
        return size if at + size <= len(data) else 0

    def _checked(self, data: memoryview, at: int, expected: int) -> tuple[int, int]:
        """(base offset, offset behind it) of a batch that must begin at `expected` (-1: anywhere),
        or behind it where offsets may be missing."""
        base, _, _, magic, _, _, last_delta = _HEADER.unpack_from(data, at)
        gap = 0 if expected < 0 else base - expected
        if magic != _MAGIC or last_delta < 0 or gap < 0 or (gap and expected >= self._gaps_until):
            raise Damaged
        return base, base + last_delta + 1
