"""The index of a segment file on disk (docs/formats.md, "Index of a segment file"), and the bounded
cache of those that are in memory.

An index is a shortcut and never the truth: it is believed only when every byte of it checks, its
version is this one, the file is at least as long as it says, the last batch that it tells of stands
where it says, and nothing can have undone what it saw: the bytes were synced, or this machine has
not started again since. Whatever else lies there counts as missing: the file is scanned, and its
index written anew. So it is written without being synced.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import OrderedDict

import msgspec
from crc32c import crc32c

from robustmq.errors import BrokerError
from robustmq.storage.disk import Disk
from robustmq.storage.segment_file import HEADER_BYTES, Area, SegmentFile, SparseIndex

MAGIC = b"RMQSIDX1"
SYNCED = 1
HEAD = struct.Struct("<8sIIQQQqqQIIII16s")
"""Areas and rows are counted in fields 10 and 11."""
AREA = struct.Struct("<QQQQ")
_CRC_AT, HEAD_CRC_FROM, _FLAGS_AT = 8, 12, 76
ROW_BYTES = 24
MAX_AREAS = 1024
"""Of a file with more it is not known where it is sound: it is scanned each time."""
CACHE_BYTES = 16 * 1024 * 1024


class Head(msgspec.Struct, frozen=True):
    """What an index says beside its rows."""

    covered: int
    """Bytes of the file that it tells of."""
    base_offset: int
    next_offset: int
    """The offset behind the last record of these bytes."""
    first_time: int
    max_time: int
    last_position: int
    last_crc: int
    rows: int
    rows_crc: int
    synced: bool
    areas: tuple[Area, ...]


class Snapshot(msgspec.Struct, frozen=True):
    """An index as it is now, for the storage thread to write when the bytes that it tells of are
    on the disk."""

    file: SegmentFile
    covered: int
    next_offset: int
    first_time: int
    max_time: int
    last_position: int
    areas: tuple[Area, ...]
    offsets: bytes
    positions: bytes
    max_times: bytes

    def write(self, disk: Disk, path: str = "") -> None:
        """Write it beside its file, which is at `path` as yet."""
        file = self.file
        if file.gone:
            return
        path = path or file.path
        synced = not disk.is_unsynced(path)
        crc = disk.read_apart(path, self.last_position + 17, 4)
        rows = self.offsets + self.positions + self.max_times
        count = len(self.offsets) // 8
        rest = HEAD.pack(
            MAGIC,
            0,
            crc32c(rows),
            self.covered,
            file.base_offset,
            self.next_offset,
            self.first_time,
            self.max_time,
            self.last_position,
            int.from_bytes(crc, "big"),
            len(self.areas),
            count,
            SYNCED if synced else 0,
            disk.boot_id,
        )[HEAD_CRC_FROM:] + b"".join(AREA.pack(*area) for area in self.areas)
        head = MAGIC + crc32c(rest).to_bytes(4, "little") + rest
        disk.put(file.index_path, head + rows)
        file.synced = synced
        file.indexed = True


def snapshot(file: SegmentFile) -> Snapshot:
    """The index of a file as it is now."""
    index = file.index
    assert index is not None, "what is written is in memory"
    file.covered = file.size
    return Snapshot(
        file,
        file.size,
        file.next_offset,
        file.first_time,
        file.max_time,
        file.last_position,
        file.areas,
        _little(index.offsets),
        _little(index.positions),
        _little(index.max_times),
    )


def read_head(disk: Disk, file: SegmentFile, size: int) -> Head | None:
    """What the index of a file of this size says, when it can be read and believed."""
    try:
        return _read_head(disk, file, size)
    except BrokerError:
        return None


def _read_head(disk: Disk, file: SegmentFile, size: int) -> Head | None:
    data = disk.read_apart(file.index_path, 0, HEAD.size)
    if len(data) < HEAD.size or data[: len(MAGIC)] != MAGIC:
        return None
    fields = HEAD.unpack(data)
    areas = fields[10]
    if areas > MAX_AREAS:
        return None
    tail = disk.read_apart(file.index_path, HEAD.size, areas * AREA.size) if areas else b""
    if len(tail) < areas * AREA.size or crc32c(data[HEAD_CRC_FROM:] + tail) != fields[1]:
        return None
    synced = bool(fields[12] & SYNCED)
    head = Head(
        covered=fields[3],
        base_offset=fields[4],
        next_offset=fields[5],
        first_time=fields[6],
        max_time=fields[7],
        last_position=fields[8],
        last_crc=fields[9],
        rows=fields[11],
        rows_crc=fields[2],
        synced=synced,
        areas=tuple(map(Area._make, AREA.iter_unpack(tail))),
    )
    if head.base_offset != file.base_offset or head.covered > size or not head.covered:
        return None
    if not synced and fields[13] != disk.boot_id:
        return None
    return head if _is_of(disk, file, head) else None


def _is_of(disk: Disk, file: SegmentFile, head: Head) -> bool:
    """Is the last batch where the index says?"""
    batch = disk.read_apart(file.path, head.last_position, HEADER_BYTES)
    if len(batch) < HEADER_BYTES or int.from_bytes(batch[17:21], "big") != head.last_crc:
        return False
    end = int.from_bytes(batch[:8], "big") + int.from_bytes(batch[23:27], "big") + 1
    lost = head.areas[-1].next_offset if head.areas else 0
    return max(end, lost) == head.next_offset


def read_rows(disk: Disk, file: SegmentFile, head: Head) -> SparseIndex | None:
    """The rows of an index; None when they do not check."""
    begin = HEAD.size + len(head.areas) * AREA.size
    data = disk.read_apart(file.index_path, begin, head.rows * ROW_BYTES)
    if len(data) < head.rows * ROW_BYTES or crc32c(data) != head.rows_crc or not head.rows:
        return None
    index = SparseIndex()
    column = head.rows * 8
    for number, values in enumerate((index.offsets, index.positions, index.max_times)):
        values.frombytes(data[number * column : (number + 1) * column])
        if sys.byteorder == "big":
            values.byteswap()
    return index


def sync(disk: Disk, file: SegmentFile) -> None:
    """Sync a closed file, and have its index say so."""
    if not file.gone:
        disk.sync(file.path)
        note_synced(disk, file)


def note_synced(disk: Disk, file: SegmentFile) -> None:
    """Have the index of a closed file say that it is synced, if it is."""
    head = None if disk.is_unsynced(file.path) else read_head(disk, file, file.size)
    if head is None:
        return
    size = HEAD.size + AREA.size * len(head.areas)
    data = bytearray(disk.read_apart(file.index_path, 0, size))
    data[_FLAGS_AT] |= SYNCED
    data[_CRC_AT:HEAD_CRC_FROM] = crc32c(data[HEAD_CRC_FROM:]).to_bytes(4, "little")
    # One sector, of which a crash leaves the old bytes or the new ones, or else it does not check.
    file.synced = disk.overwrite(file.index_path, _CRC_AT, data[_CRC_AT : _FLAGS_AT + 1])


def _little(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


class IndexCache:
    """The indexes of closed files that are in memory: so many bytes at most, the last used stay."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._files: OrderedDict[SegmentFile, int] = OrderedDict()

    def used(self, file: SegmentFile) -> None:
        """The index of a file is in memory, and on disk: it may go when others are wanted."""
        assert file.index is not None, "it is in memory"
        self.forget(file)
        self._files[file] = file.index.size
        self._size += file.index.size
        while self._size > self._max_bytes and len(self._files) > 1:
            other, size = self._files.popitem(last=False)
            self._size -= size
            other.index = None

    def touch(self, file: SegmentFile) -> None:
        """The index of a file is looked at."""
        if file in self._files:
            self._files.move_to_end(file)

    def forget(self, file: SegmentFile) -> None:
        """A file is gone, or grows again: its index is not the cache's any more."""
        self._size -= self._files.pop(file, 0)

    def __len__(self) -> int:
        return len(self._files)


CACHE = IndexCache()
"""That of this process."""
