"""The files of a data directory as an operator's command reads them: of a broker that runs or not.

Nothing here writes, and nothing needs the broker: the log and the segment files only grow, so what
is there can be read beside it. Files are read in chunks of CHUNK_BYTES, whatever their size. What
does not read back is told as `Damage` and stepped over, as recovery does (`shard_log`). Behind the
last sound entry of the last file there may be one that is just being written: `Tail`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError
from robustmq.storage import cleaned_log
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import StoredPartition, stored_opener
from robustmq.storage.log_files import log_name
from robustmq.storage.segment_file import HEADER_BYTES, claimed_length, next_sound
from robustmq.storage.shard_log import HEAD, MAX_ENTRY_BYTES, NEEDLE, NEEDLE_AT, parsed

CHUNK_BYTES = 8 * 1024 * 1024
PARTITIONS = "*-*[0-9]"
"""The directories of partitions, without what a removal that was cut off has left."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A sound entry of a shard's log."""

    position: int
    kind: int
    source: int
    sequence: int
    timestamp_ms: int
    payload: bytes

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.position + HEAD.size + len(self.payload)


class Batch(msgspec.Struct, frozen=True, gc=False):
    """A sound batch of a segment file."""

    position: int
    info: BatchInfo
    data: bytes


class Damage(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a file that are not what they should be. `position` is the byte in the file, of a
    shard's log the position in the log."""

    file: str
    position: int
    length: int
    what: str


class Tail(msgspec.Struct, frozen=True, gc=False):
    """The file ends in the middle of something: it is just written, or a write was cut off."""

    file: str
    position: int
    length: int


class Source:
    """A file that is read in chunks, from anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size
        self._begin = 0
        self._data = b""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def at(self, position: int, length: int) -> bytes:
        """Bytes at a position; fewer at the end of the file."""
        begin = position - self._begin
        if begin < 0 or begin + length > len(self._data):
            self._begin = position
            self._data = os.pread(self._file, max(length, CHUNK_BYTES), position)
            begin = 0
        return self._data[begin : begin + length]


# -- the log of a shard ----------------------------------------------------------------------------


class LogPiece(msgspec.Struct, frozen=True, gc=False):
    """A file of a shard's log: the positions that it stands for. `kept`: what a cleaning has left
    (`cleaned_log`), so that positions may be missing."""

    start: int
    end: int
    size: int
    path: Path
    kept: bool = False


def log_files(shard: Path) -> list[LogPiece]:
    """The files of a shard's log that count, in order: a cleaned one stands for what it was made
    of, though that may still be there."""
    named = [
        (said, path)
        for path in (shard / "log").glob("*")
        if (said := log_name(path.name)) is not None
    ]
    found: list[LogPiece] = []
    # Later cleanings first: their files stand for those of earlier ones.
    for said, path in sorted(named, key=lambda one: -one[0].number):
        size = _size(path)
        end = said.end if said.number else said.start + size
        if not any(other.kept and other.start <= said.start < other.end for other in found):
            found.append(LogPiece(said.start, end, size, path, said.number > 0))
    return sorted(found, key=lambda piece: piece.start)


def _is_hex(name: str) -> bool:
    return len(name) == 16 and all(digit in "0123456789abcdef" for digit in name)


def log_entries(
    shard: Path, begin: int = 0, end: int | None = None
) -> Iterator[Entry | Damage | Tail]:
    """What the log holds from a position (where an entry begins, or before the first) to another.
    A file that goes meanwhile was let go of by the broker."""
    files = log_files(shard)
    for number, piece in enumerate(files):
        last = number == len(files) - 1
        if not last and piece.end <= begin:
            continue
        if end is not None and piece.start >= end:
            return
        try:
            if piece.kept:
                yield from _kept_entries(piece, begin)
                continue
            with Source(piece.path) as source:
                at = max(0, begin - piece.start)
                yield from _entries_of(source, piece.start, at, end, last)
        except FileNotFoundError:
            continue


def _kept_entries(piece: LogPiece, begin: int) -> Iterator[Entry | Damage]:
    """The entries of a cleaned file."""
    disk, path = RealDisk(), str(piece.path)
    slots = cleaned_log.read_slots(disk, path, piece.size)
    disk.close()
    number = max(0, cleaned_log.slot_of(slots, begin))
    while number < len(slots.offsets):
        found, following, sound = cleaned_log.pieces(disk, path, slots, number)
        if not found and not piece.path.exists():
            return
        for position, data in found:
            for entry in _entries_in(position, bytes(data), path):
                if entry.position >= begin:
                    yield entry
        if not sound:
            first = slots.positions[number]
            yield Damage(path, first, 0, "runs of a cleaned file cannot be read behind there")
        number = following


def _entries_in(position: int, data: bytes, path: str) -> Iterator[Entry | Damage]:
    at = 0
    while at < len(data):
        entry = _parsed(data, at, position + at)
        if entry is None:
            yield Damage(path, position + at, len(data) - at, "no sound entry of the log")
            return
        yield entry
        at = entry.end - position


def _entries_of(
    source: Source, start: int, at: int, end: int | None, last: bool
) -> Iterator[Entry | Damage | Tail]:
    name = str(source.path)
    size = source.size if end is None else min(source.size, end - start)
    while at < size:
        entry = _entry(source, start, at)
        if entry is not None:
            yield entry
            at += HEAD.size + len(entry.payload)
            continue
        behind = _next_entry(source, at + 1)
        if behind is None and last:
            yield Tail(name, start + at, size - at)
            return
        stop = size if behind is None else behind
        yield Damage(name, start + at, stop - at, "no sound entry of the log")
        at = stop


def _entry(source: Source, start: int, at: int) -> Entry | None:
    head = source.at(at, HEAD.size)
    if len(head) < HEAD.size:
        return None
    length = int.from_bytes(head[:4], "little")
    if not HEAD.size <= length <= min(MAX_ENTRY_BYTES, source.size - at):
        return None
    return _parsed(source.at(at, length), 0, start + at)


def _parsed(data: bytes, at: int, position: int) -> Entry | None:
    """The entry that begins there, if it is sound."""
    found = parsed(memoryview(data), at)
    if found is None:
        return None
    length, kind, source, sequence, timestamp_ms = found
    payload = data[at + HEAD.size : at + length]
    return Entry(position, kind, source, sequence, timestamp_ms, payload)


def _next_entry(source: Source, at: int) -> int | None:
    """The next sound entry: found by its mark, proven by its checksum."""
    while at < source.size:
        data = source.at(at, CHUNK_BYTES)
        found = data.find(NEEDLE)
        while found >= 0:
            begin = at + found - NEEDLE_AT
            if begin >= at and _entry(source, 0, begin) is not None:
                return begin
            found = data.find(NEEDLE, found + 1)
        if len(data) <= HEAD.size:
            return None
        at += len(data) - HEAD.size
    return None


# -- files of partitions ---------------------------------------------------------------------------


def segment_files(shard: Path) -> list[Path]:
    """The files of all partitions of a shard that have files of their own."""
    return sorted((shard / "segments").glob(f"{PARTITIONS}/*.log"))


def segment_batches(path: Path) -> Iterator[Batch | Damage | Tail]:
    """The batches of a segment file, each with its checksum proven. Zeros at the end are room that
    was reserved."""
    name = str(path)
    with Source(path) as source:
        at = 0
        end_offset = int(path.name[:20])
        while at < source.size:
            found = _batch(source, at)
            if found is not None:
                yield found
                at += found.info.length
                end_offset = found.info.base_offset + found.info.last_offset_delta + 1
                continue
            rest = source.size - at
            if _only_zeros(source, at):
                return
            behind = next_sound(source.at(at, min(rest, CHUNK_BYTES)), end_offset)
            if behind is None and rest <= CHUNK_BYTES:
                yield Tail(name, at, rest)
                return
            length = behind if behind is not None else CHUNK_BYTES - HEADER_BYTES
            yield Damage(name, at, length, f"no sound batch at offset {end_offset}")
            at += length


def _batch(source: Source, at: int) -> Batch | None:
    length = claimed_length(source.at(at, 12))
    if not HEADER_BYTES <= length <= source.size - at:
        return None
    data = source.at(at, length)
    try:
        info = batches.validate(data, 0, len(data))
    except BrokerError:
        return None
    return Batch(at, info, data) if info.crc_ok and info.length == length else None


def _only_zeros(source: Source, at: int) -> bool:
    while at < source.size:
        data = source.at(at, CHUNK_BYTES)
        if data.count(0) != len(data):
            return False
        at += len(data)
    return True


# -- partitions of other engines -------------------------------------------------------------------


class EnginePartition(msgspec.Struct, frozen=True, gc=False):
    """The directory of a partition in an engine that a package brings."""

    engine: str
    path: Path

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(_size(path) for path in self.path.rglob("*") if path.is_file())


def engine_partitions(shard: Path) -> list[EnginePartition]:
    """All that a shard has of those."""
    found = sorted(path for path in (shard / "engines").glob(f"*/{PARTITIONS}") if path.is_dir())
    return [EnginePartition(path.parent.name, path) for path in found]


@contextlib.contextmanager
def opened(partition: EnginePartition) -> Iterator[StoredPartition | None]:
    """What is stored there; None where the engine does not say how it is read, or is not installed
    here. Raises FileNotFoundError where the partition has gone, BrokerError where it cannot be
    read."""
    opener = stored_opener(partition.engine)
    if opener is None:
        yield None
        return
    stored = opener(str(partition.path))
    try:
        yield stored
    finally:
        stored.close()


# -- sizes -----------------------------------------------------------------------------------------


def shard_directories(data_dir: str) -> dict[int, Path]:
    """The folders of the shards, by number."""
    return {
        int(path.name): path
        for path in sorted(Path(data_dir).iterdir())
        if path.is_dir() and len(path.name) == 4 and path.name.isdigit()
    }


class DiskUse(msgspec.Struct, frozen=True, gc=False):
    """What a shard has on disk, in bytes, and where its last checkpoint stands."""

    log: int
    log_start: int
    log_end: int
    key_value: int
    segments: int
    engines: int
    """Of partitions in engines that packages bring."""
    quarantine: int
    checkpoint: int


def disk_use(shard: Path) -> DiskUse:
    """Look at the files of a shard."""
    files = log_files(shard)
    points = [
        int(name, 16)
        for name in (path.name[6:].removesuffix(".copy") for path in shard.glob("index-*"))
        if _is_hex(name)
    ]
    bad = sum(_size(path) for path in shard.rglob("quarantine/*"))
    return DiskUse(
        sum(piece.size for piece in files),
        files[0].start if files else 0,
        files[-1].end if files else 0,
        sum(_size(path) for kind in ("leveldb", "rocksdb") for path in shard.glob(f"{kind}/*")),
        sum(_size(path) for path in shard.glob("segments/*/*") if path.is_file()),
        sum(partition.size for partition in engine_partitions(shard)),
        bad,
        max(points, default=0),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
