"""The manifest of a partition in the object store: what of it is there (docs/formats.md, "Object
storage").

A small head, which alone is rewritten, and sealed parts of PART_ROWS segments each, which are
objects of their own and never change: so an upload costs one write of some kilobytes however many
segments there are. The head says all that recovery needs: topic, settings, number of partitions.

Who may write: the head is put on condition that it is the one that was read, and tells the leader
epoch of its writer. Whoever finds a later epoch there than its own has lost the partition
(FencedError). A put whose answer was lost is recognised by its bytes.

What is not in the head is not there. An object is put before the head tells of it, under a name
that the same owner would give it again, and goes after the head has let go of it: the head holds
the names of what is going (`doomed`) until that is done. So a crash between any two calls leaves
nothing that is referred to and missing, and nothing that is never found again: what was uploaded
and not told of lies behind the head's last offset, where whoever reads the head looks (`sweep`).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence

import msgspec
from crc32c import crc32c

from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.object_store import (
    ObjectConflictError,
    ObjectMissingError,
    ObjectStore,
    ObjectStoreError,
)

HEAD_MAGIC, PART_MAGIC = b"RMQTIER1", b"RMQTPRT1"
NAME = "manifest"
PART_ROWS = 1000
MAX_DOOMED = 1000
"""Segments that one step lets go."""
COLUMNS = 5
LOG, INDEX, ABORTED = ".log", ".index", ".aborted"


class FencedError(ObjectStoreError):
    """Another owner, of a later epoch, writes this partition's manifest."""


class DamagedError(ObjectStoreError):
    """A manifest, or a part of one, cannot be read."""


class TopicInfo(msgspec.Struct, frozen=True, array_like=True):
    """What recovery must know of a topic."""

    name: bytes
    topic_id: bytes
    partitions: int
    configs: dict[str, str] = {}
    created_ms: int = 0


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A sealed part: rows of the segments from `base_offset` up to `next_offset`."""

    base_offset: int
    next_offset: int
    leader_epoch: int
    rows: int


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The head; the fields stand on disk in this order."""

    cluster_id: str
    topic: TopicInfo
    partition: int
    leader_epoch: int
    start_offset: int = 0
    """The log's first offset that is not deleted."""
    end_offset: int = 0
    """The offset behind the last uploaded segment."""
    deleted: bool = False
    """The topic is over: everything here is going."""
    parts: tuple[Part, ...] = ()
    rows: bytes = b""
    doomed: bytes = b""
    doomed_parts: tuple[Part, ...] = ()
    gaps: bytes = b""
    """Base offsets of segments that are gone, whose rows stand in sealed parts."""


SECRET = "topic_secret"
"""The setting in the head of a shard's log that has the secret of topics' keys in it, in hex."""


def prefix_of(cluster_id: str, topic_id: bytes, partition: int) -> str:
    """Where a partition's objects are."""
    return f"{cluster_id}/{topic_id.hex()}-{partition}/"


def log_prefix_of(cluster_id: str, shard: int) -> str:
    """Where the objects of a shard's log are."""
    return f"{cluster_id}/light-{shard}/"


def object_name(base_offset: int, leader_epoch: int) -> str:
    """The name of a segment's objects, without their endings."""
    return f"{base_offset:020d}-{leader_epoch:08x}"


def part_name(part: Part) -> str:
    """The name of a sealed part's object."""
    return f"{NAME}-{object_name(part.base_offset, part.leader_epoch)}"


def _numbers(data: bytes) -> array[int]:
    values = array("q", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def pack(rows: Iterable[ColdSegment]) -> bytes:
    """Rows as they stand on disk: five little-endian integers of 8 bytes each."""
    return _packed([value for row in rows for value in row])


def _packed(numbers: Sequence[int]) -> bytes:
    values = array("q", numbers)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def unpack(data: bytes) -> list[ColdSegment]:
    """The rows that `pack` wrote."""
    columns = iter(_numbers(data))
    return [ColdSegment(*row) for row in zip(*[columns] * COLUMNS, strict=True)]


def encode(magic: bytes, payload: bytes) -> bytes:
    """An object of this module."""
    return magic + crc32c(payload).to_bytes(4, "little") + payload


def decode(magic: bytes, data: bytes, path: str) -> bytes:
    """The payload of an object; raises DamagedError."""
    begin = len(magic) + 4
    payload = data[begin:]
    if data[: len(magic)] != magic or crc32c(payload) != int.from_bytes(
        data[len(magic) : begin], "little"
    ):
        raise DamagedError(f"{path} is damaged, or of another version")
    return payload


def read_head(store: ObjectStore, prefix: str) -> tuple[Head, str]:
    """The head and its version. Raises ObjectMissingError, DamagedError."""
    path = prefix + NAME
    data, version = store.get(path)
    payload = decode(HEAD_MAGIC, data, path)
    try:
        return msgspec.msgpack.decode(payload, type=Head), version
    except msgspec.MsgspecError as error:
        raise DamagedError(f"{path}: {error}") from None


def read_part(store: ObjectStore, prefix: str, part: Part) -> list[ColdSegment]:
    """The rows of a sealed part."""
    path = prefix + part_name(part)
    data, _ = store.get(path)
    rows = unpack(decode(PART_MAGIC, data, path))
    if len(rows) != part.rows:
        raise DamagedError(f"{path} has {len(rows)} rows, not {part.rows}")
    return rows


def read_rows(store: ObjectStore, prefix: str, head: Head) -> list[ColdSegment]:
    """All segments that a head tells of, oldest first."""
    rows = [row for part in head.parts for row in read_part(store, prefix, part)]
    rows += unpack(head.rows)
    gaps = set(_numbers(head.gaps))
    return [
        row for row in rows if row.next_offset > head.start_offset and row.base_offset not in gaps
    ]


class Manifest:
    """The manifest of one partition as its owner holds it. All calls block, and are made one at a
    time. After an error it is read anew."""

    def __init__(self, store: ObjectStore, prefix: str, fresh: Head) -> None:
        """`fresh` is the head of a partition of which nothing is in the store yet."""
        self._store = store
        self._prefix = prefix
        self._epoch = fresh.leader_epoch
        self.head = fresh
        self._version = ""
        self._going: list[str] = []

    def load(self) -> list[ColdSegment]:
        """Read it; the segments that it tells of. Raises FencedError."""
        try:
            head, self._version = read_head(self._store, self._prefix)
        except ObjectMissingError:
            self._version = ""
            return []
        self._check_epoch(head)
        self.head = head
        self._going = _doomed_paths(self._prefix, head)
        return read_rows(self._store, self._prefix, head)

    @property
    def there(self) -> bool:
        """Is it in the store?"""
        return bool(self._version)

    def _check_epoch(self, head: Head) -> None:
        if head.leader_epoch > self._epoch:
            raise FencedError(
                f"{self._prefix} is written by an owner of epoch {head.leader_epoch},"
                f" this one's is {self._epoch}"
            )

    def _put(self, head: Head) -> None:
        """Put the next head; what was doomed by the one before and is gone by now is left out."""
        head = msgspec.structs.replace(head, leader_epoch=self._epoch)
        data = encode(HEAD_MAGIC, msgspec.msgpack.encode(head))
        path = self._prefix + NAME
        try:
            self._version = self._store.put(path, [data], if_version=self._version)
        except ObjectConflictError:
            found, version = self._store.get(path)
            if found != data:
                theirs, _ = read_head(self._store, self._prefix)
                self._check_epoch(theirs)
                raise
            # Our own, whose answer was lost.
            self._version = version
        self.head = head

    def sweep(self) -> int:
        """Remove what was uploaded and never told of; how many objects. Nothing may be on its way
        there meanwhile."""
        head, prefix = self.head, self._prefix
        found = self._store.list(prefix, prefix + object_name(head.end_offset, 0))
        known = {prefix + part_name(part) for part in (*head.parts, *head.doomed_parts)}
        known |= {prefix + NAME, *self._going}
        lost = [path for path, _ in found if path not in known]
        if lost:
            self._store.delete(lost)
        return len(lost)

    def describe(self, topic: TopicInfo) -> None:
        """The topic's settings are others now, or the partition is new."""
        self._put(msgspec.structs.replace(self.head, topic=topic))

    def add(self, row: ColdSegment) -> None:
        """A segment's objects are there: tell of it."""
        head = self.head
        rows = unpack(head.rows)
        assert row.base_offset >= head.end_offset, "segments follow one another"
        parts = head.parts
        if len(rows) >= PART_ROWS:
            part = Part(rows[0].base_offset, rows[-1].next_offset, self._epoch, len(rows))
            path = self._prefix + part_name(part)
            self._store.put(path, [encode(PART_MAGIC, pack(rows))])
            parts, rows = (*parts, part), []
        rows.append(row)
        self._put(
            msgspec.structs.replace(
                head, parts=parts, rows=pack(rows), end_offset=row.next_offset, **self._cleared()
            )
        )

    def trim(self, start_offset: int, gone: Sequence[ColdSegment]) -> None:
        """The log begins at `start_offset`; `gone` are segments wholly below it, the oldest ones,
        MAX_DOOMED at most. Their objects are removed by `remove`."""
        assert len(gone) <= MAX_DOOMED, "in slices"
        self.remove()
        head = self.head
        start_offset = max(start_offset, head.start_offset)
        kept = [row for row in unpack(head.rows) if row.next_offset > start_offset]
        over = tuple(part for part in head.parts if part.next_offset <= start_offset)
        self._put(
            msgspec.structs.replace(
                head,
                start_offset=start_offset,
                parts=tuple(part for part in head.parts if part.next_offset > start_offset),
                rows=pack(kept),
                doomed=pack(gone),
                doomed_parts=over,
            )
        )
        self._going = _doomed_paths(self._prefix, self.head)

    def drop(self, gone: Sequence[ColdSegment]) -> None:
        """These segments are over, wherever they stand; MAX_DOOMED at most. Their objects are
        removed by `remove`."""
        assert len(gone) <= MAX_DOOMED, "in slices"
        self.remove()
        head = self.head
        bases = {row.base_offset for row in gone}
        kept = [row for row in unpack(head.rows) if row.base_offset not in bases]
        gaps = bases.difference(row.base_offset for row in unpack(head.rows))
        gaps.update(_numbers(head.gaps))
        parts, over = [], []
        for part in head.parts:
            inside = {one for one in gaps if part.base_offset <= one < part.next_offset}
            if len(inside) == part.rows:
                over.append(part)
                gaps -= inside
            else:
                parts.append(part)
        self._put(
            msgspec.structs.replace(
                head,
                parts=tuple(parts),
                rows=pack(kept),
                gaps=_packed(sorted(gaps)),
                doomed=pack(gone),
                doomed_parts=tuple(over),
            )
        )
        self._going = _doomed_paths(self._prefix, self.head)

    def cut(self, end_offset: int, rows: Sequence[ColdSegment]) -> list[ColdSegment]:
        """The log ends at `end_offset`, as a loss of power took what nobody had asked to be synced:
        its offsets are given anew. The segments that are left of `rows`."""
        head = self.head
        kept = [row for row in unpack(head.rows) if row.next_offset <= end_offset]
        if head.parts and head.parts[-1].next_offset > end_offset:
            raise DamagedError(f"{self._prefix} tells of records behind the log's end")
        before = head.parts[-1].next_offset if head.parts else 0
        last = kept[-1].next_offset if kept else before
        self._put(msgspec.structs.replace(head, rows=pack(kept), end_offset=last))
        return [row for row in rows if row.next_offset <= end_offset]

    def remove(self) -> None:
        """Remove the objects that the head has let go of."""
        if self._going:
            self._store.delete(self._going)
            self._going = []

    @property
    def is_going(self) -> bool:
        """Are there objects that `remove` would remove?"""
        return bool(self._going)

    def _cleared(self) -> dict[str, object]:
        return {} if self._going else {"doomed": b"", "doomed_parts": ()}

    def bury(self) -> bool:
        """The partition is over: a slice of its objects goes, the manifest last; True when nothing
        is left."""
        if not self.there:
            self._store.delete([path for path, _ in self._store.list(self._prefix)][:MAX_DOOMED])
            return not self._store.list(self._prefix)
        if not self.head.deleted:
            self._put(msgspec.structs.replace(self.head, deleted=True))
        path = self._prefix + NAME
        rest = [one for one, _ in self._store.list(self._prefix) if one != path]
        self._store.delete(rest[: 3 * MAX_DOOMED])
        if len(rest) > 3 * MAX_DOOMED:
            return False
        self._store.delete([path])
        return True


def _doomed_paths(prefix: str, head: Head) -> list[str]:
    rows = unpack(head.doomed)
    names = [object_name(row.base_offset, row.leader_epoch) for row in rows]
    paths = [f"{prefix}{name}{ending}" for name in names for ending in (LOG, INDEX, ABORTED)]
    return paths + [prefix + part_name(part) for part in head.doomed_parts]
