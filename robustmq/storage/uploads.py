"""One upload: a closed segment file, its index and its aborted transactions become objects, and the
manifest tells of them. All of it blocks; it runs on a thread of the tier.

The index is the file that lies beside the segment, byte for byte. The aborted transactions are
those whose markers lie in the segment: a worker has them in its look-ups, so this object is for
recovery alone, and is not there when there are none.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence

import msgspec
from crc32c import crc32c

from robustmq.core import batches
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.disk import Disk
from robustmq.storage.manifest import (
    ABORTED,
    INDEX,
    LOG,
    Manifest,
    decode,
    encode,
    object_name,
)
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.stored_producers import Aborted

ABORTED_MAGIC = b"RMQTABT1"
_ROW = struct.Struct("<qqqq")


class Upload(msgspec.Struct, frozen=True):
    """A segment to upload."""

    path: str
    base_offset: int
    next_offset: int
    size: int
    max_time: int
    aborted: tuple[Aborted, ...] = ()
    """By rising offset of their markers."""


class NotReady(Exception):
    """The index of the file is not on the disk yet."""


def upload(
    store: ObjectStore, disk: Disk, prefix: str, manifest: Manifest, one: Upload, epoch: int
) -> ColdSegment:
    """Put the objects, then tell of them; the row of the segment."""
    index_path = one.path.removesuffix(LOG) + INDEX
    index = disk.read_apart(index_path, 0, disk.size(index_path)) or _index_of(disk, one)
    name = prefix + object_name(one.base_offset, epoch)
    store.put_file(name + LOG, one.path, one.size)
    store.put(name + INDEX, [index])
    if one.aborted:
        rows = b"".join(_ROW.pack(*row) for row in one.aborted)
        store.put(name + ABORTED, [encode(ABORTED_MAGIC, rows)])
    row = ColdSegment(one.base_offset, one.next_offset, one.size, one.max_time, epoch)
    manifest.add(row)
    return row


def read_aborted(store: ObjectStore, path: str) -> Iterator[Aborted]:
    """The aborted transactions of an object. Raises ObjectMissingError, DamagedError."""
    data, _ = store.get(path)
    return map(Aborted._make, _ROW.iter_unpack(decode(ABORTED_MAGIC, data, path)))


def aborted_in(rows: Sequence[Aborted], base_offset: int, next_offset: int) -> tuple[Aborted, ...]:
    """Those whose markers lie in a range."""
    return tuple(row for row in rows if base_offset <= row.last_offset < next_offset)


_INDEX_HEAD = struct.Struct("<8sIIQQQqqQIIII16s")
_ROW_EVERY_BYTES = 4096


def _index_of(disk: Disk, one: Upload) -> bytes:
    """The index of a file that has none beside it."""
    data = disk.read_apart(one.path, 0, one.size)
    columns = array("q"), array("q"), array("q")
    max_time = first_time = -1
    last = (0, 0)
    for begin, info in batches.headers(data, 0, len(data), False):
        max_time = max(max_time, info.max_timestamp)
        first_time = info.max_timestamp if not begin else first_time
        if not columns[0] or begin - columns[1][-1] >= _ROW_EVERY_BYTES:
            for column, value in zip(columns, (info.base_offset, begin, max_time), strict=True):
                column.append(value)
        columns[2][-1] = max_time
        last = begin, int.from_bytes(data[begin + 17 : begin + 21], "big")
    if not columns[0]:
        raise NotReady(one.path)
    rows = b"".join(column.tobytes() for column in columns)
    rest = _INDEX_HEAD.pack(
        b"RMQSIDX1", 0, crc32c(rows), one.size, one.base_offset, one.next_offset, first_time,
        max_time, *last, 0, len(columns[0]), 0, bytes(16),
    )[12:]  # fmt: skip
    return b"RMQSIDX1" + crc32c(rest).to_bytes(4, "little") + rest + rows
