"""One upload: a closed segment file, its index and its aborted transactions become objects, and the
manifest tells of them. All of it blocks; it runs on a thread of the tier.

The index is the file that lies beside the segment, byte for byte. The aborted transactions are
those whose markers lie in the segment: a worker has them in its look-ups, so this object is for
recovery alone, and is not there when there are none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

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
    index_path: str
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
    index = disk.read_apart(one.index_path, 0, disk.size(one.index_path))
    if not index:
        raise NotReady(one.index_path)
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
