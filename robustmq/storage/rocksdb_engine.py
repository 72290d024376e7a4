"""The RocksDB engine: a partition in a RocksDB of its own, by rocksdict (an optional package).

An engine like any that a package brings: this file and an entry point (`robustmq.engines`) are all
of it. It gets a directory, which is the partition's and goes with it, so each partition has its own
database; that costs some megabytes of memory and a dozen files, and is meant for few partitions.

Keys: `b` and the base offset, u64 big-endian: u64 little-endian position (bytes of all batches ever
written before it) and the batch. `t`, a time stamp and an offset, u64 big-endian each: no value;
the batch that begins there has a greater time stamp than any before it. `m`: msgpack `[version 1,
start offset, end offset, end position]`. A commit is one write batch, so a crash leaves all of it
or nothing; the write-ahead log is synced where the commit is.

Written by the storage thread alone, read by the loop. RocksDB checks what it reads: a damaged block
is answered with STORAGE_FAILED, and told by no offsets but to operators (`rocksdb_stored`). A
damaged record of its write-ahead log costs what shares a block of 32 KiB with it, and no more: what
is missing shows where a batch does not lie at the position where the one before it ends, and a
read of it is answered with CORRUPT_MESSAGE. Where the end is lost the positions go on behind it by
HOLE_BYTES.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from rocksdict import DBRecoveryMode, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import Fault, KafkaCode
from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.disk import Disk
from robustmq.storage.engine import PartitionLog, PartitionSettings, ReadResult
from robustmq.storage.memory import find_time

VERSION = 1
WRITE_BUFFER_BYTES = 8 * 1024 * 1024
OPEN_FILES = 64
RETAIN_LOOKS = 256
"""Batches that one call of `retain` looks at."""
_BATCH, _TIME, _META = b"b", b"t", b"m"
POSITION_BYTES = 8
HOLE_BYTES = 61
"""The least that lies where nobody knows how much did: a batch without records."""

Row = tuple[int, bytearray, int]
"""Base offset, batch, position."""


class RocksDbPartition:
    """A partition in a RocksDB."""

    def __init__(
        self, directory: str, disk: Disk, settings: PartitionSettings, opened: Any = None
    ) -> None:
        """`opened`: its database, which is opened elsewhere."""
        self._directory = directory
        self._disk = disk
        self._settings = settings
        # Any: with raw_mode keys and values are bytes, which the types of the package cannot say.
        self._db: Any = opened
        self._new: deque[Row] = deque()
        self._unwritten = 0
        self._writing_to: deque[int] = deque()
        self._changed = False
        self._deleted = False
        self._max_time = -1
        self._removed_to = -1
        """Below this offset nothing is left; of what was there before nobody knows."""
        self.quarantined: list[tuple[int, int]] = []
        """What was found missing at the end; of all else RocksDB says when it is read."""
        self.start_offset = 0
        self.end_offset = 0
        self._is_new = True
        """Nothing was found in it."""
        self._first_position = self._end_position = 0
        if disk.list(directory):
            self._recover()
        self.high_watermark = self.end_offset

    # -- opening -----------------------------------------------------------------------------------

    def _open(self) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_open_files(OPEN_FILES)
        options.set_keep_log_file_num(1)
        # The default stops at the first damaged record: all behind it would be gone.
        options.set_wal_recovery_mode(DBRecoveryMode.skip_any_corrupted_record())
        self._db = Rdict(self._directory, options)

    def _recover(self) -> None:
        if self._db is None:
            self._open()
        raw = self._db.get(_META)
        if raw is None:
            return
        version, self.start_offset, self.end_offset, self._end_position = msgspec.msgpack.decode(
            raw, type=tuple[int, int, int, int]
        )
        if version != VERSION:
            raise DataDirectoryError(f"{self._directory} has version {version}, not {VERSION}")
        self._is_new = False
        self._first_position = self._position_of(self.start_offset)
        last = self._last_time()
        self._max_time = last[0] if last is not None else -1

    def _last_time(self) -> tuple[int, int] | None:
        """The row of the greatest time stamp, and its offset."""
        found = self._db.iter(ReadOptions())
        found.seek_for_prev(_TIME + b"\xff" * 16)
        if not found.valid() or found.key()[:1] != _TIME:
            return None
        return _time_row(found.key())

    def _position_of(self, offset: int) -> int:
        """The position of the batch that holds an offset, or of the next one."""
        for _, value in self._rows(offset):
            return int.from_bytes(value[:POSITION_BYTES], "little")
        return self._new[0][2] if self._new else self._end_position

    def resume_at(self, end_offset: int) -> None:
        """Cut what lies behind the last committed record; where that is lost, its offsets are."""
        if end_offset > self.end_offset:
            if self._is_new:
                # What stood here was kept in memory, or nothing of it can be read.
                self.start_offset = end_offset
            else:
                self._end_position += HOLE_BYTES
            if self._db is not None:
                self.quarantined.append((self.end_offset, 0))
            self.end_offset = self.high_watermark = end_offset
            self._changed = True
        if end_offset >= self.end_offset:
            return
        end_offset = max(end_offset, self.start_offset)
        stop = self.end_offset
        for base_offset, value in self._rows(end_offset):
            info = _info(value)
            if base_offset + info.last_offset_delta >= end_offset:
                stop = base_offset
                self._end_position = int.from_bytes(value[:POSITION_BYTES], "little")
                break
        self.end_offset = self.high_watermark = max(min(stop, end_offset), self.start_offset)
        gone = WriteBatch(raw_mode=True)
        gone.delete_range(_key(stop), _BATCH + b"\xff" * 9)
        gone.put(_META, self._meta())
        last = self._last_time()
        while last is not None and last[1] >= stop:
            self._db.delete(_TIME + _u64(last[0]) + _u64(last[1]))
            last = self._last_time()
        self._max_time = last[0] if last is not None else -1
        self._db.write(gone)

    # -- appending ---------------------------------------------------------------------------------

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch in memory."""
        base_offset = self.end_offset
        batches.set_base(batch, 0, base_offset, leader_epoch)
        info = batches.validate(batch, 0, len(batch), False)
        self._new.append((base_offset, batch, self._end_position))
        self.end_offset = base_offset + info.last_offset_delta + 1
        self._end_position += len(batch)
        return base_offset

    def write(self) -> Callable[[bool], None] | None:
        """A job that writes what is new as one batch of RocksDB."""
        if self._unwritten == len(self._new) and not self._changed:
            return None
        rows = list(self._new)[self._unwritten :]
        self._unwritten = len(self._new)
        self._writing_to.append(self.end_offset)
        self._changed = False
        meta, start_offset = self._meta(), self.start_offset

        def job(sync: bool) -> None:
            if self._deleted:
                return
            if self._db is None:
                self._disk.make_directory(self._directory)
                self._open()
            changes = WriteBatch(raw_mode=True)
            for base_offset, batch, position in rows:
                changes.put(_key(base_offset), position.to_bytes(8, "little") + batch)
                time = batches.validate(batch, 0, len(batch), False).max_timestamp
                if time > self._max_time:
                    self._max_time = time
                    changes.put(_TIME + _u64(time) + _u64(base_offset), b"")
            changes.put(_META, meta)
            options = WriteOptions()
            options.sync = sync
            self._db.write(changes, options)
            if start_offset > self._removed_to:
                self._remove_below(start_offset)
                self._removed_to = start_offset

        return job

    def _meta(self) -> bytes:
        row = (VERSION, self.start_offset, self.end_offset, self._end_position)
        return msgspec.msgpack.encode(row)

    def _remove_below(self, start_offset: int) -> None:
        """Remove the batches wholly below an offset, if there are any."""
        first = next(self._rows(0), None)
        kept = next(self._rows(start_offset), None)
        stop = kept[0] if kept is not None else start_offset
        if first is None or first[0] >= stop:
            return
        self._db.delete_range(_key(0), _key(stop))
        found = self._db.iter(ReadOptions())
        found.seek(_TIME)
        while found.valid() and found.key()[:1] == _TIME and _time_row(found.key())[1] < stop:
            self._db.delete(found.key())
            found.next()

    def committed(self) -> None:
        """What the oldest job has written is visible."""
        self.high_watermark = self._writing_to.popleft()
        while self._new and self._new[0][0] < self.high_watermark:
            self._new.popleft()
            self._unwritten -= 1

    # -- reading -----------------------------------------------------------------------------------

    def _rows(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """What is written, as `rows` says, up to the first that cannot be read."""
        return rows(self._db, offset, False) if self._db is not None else iter(())

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole batches from an offset on."""
        end = self.high_watermark if committed else self.end_offset
        if not self.start_offset <= offset <= self.end_offset:
            return ReadResult(self.high_watermark, self.start_offset, [], True)
        found: list[bytes | memoryview] = []
        size = 0
        if offset >= end or max_bytes <= 0:
            return ReadResult(self.high_watermark, self.start_offset)
        following = -1
        try:
            for base_offset, batch, position in self._kept(offset, True):
                if following < 0 and base_offset > offset:
                    following = self._end_before(offset)
                if 0 <= following != position:
                    return self._missing(found, base_offset)
                if base_offset >= end or (found and size + len(batch) > max_bytes):
                    return ReadResult(self.high_watermark, self.start_offset, found)
                found.append(batch)
                size += len(batch)
                following = position + len(batch)
            if following < 0:
                following = self._end_before(offset)
            if 0 <= following != self._end_position:
                return self._missing(found, self.end_offset)
        except Exception:  # noqa: BLE001 (rocksdict knows no other)
            if not found:
                fault = Fault.STORAGE_FAILED
                return ReadResult(self.high_watermark, self.start_offset, error=fault.kafka)
        return ReadResult(self.high_watermark, self.start_offset, found)

    def _missing(self, found: list[bytes | memoryview], until: int) -> ReadResult:
        """What a reader gets who comes to batches that are lost, up to an offset."""
        if found:
            return ReadResult(self.high_watermark, self.start_offset, found)
        error = KafkaCode.CORRUPT_MESSAGE
        return ReadResult(self.high_watermark, self.start_offset, error=error, next_offset=until)

    def _end_before(self, offset: int) -> int:
        """The position where the last batch ends that lies before an offset that no batch has; -1:
        there is none."""
        for base_offset, batch, position in reversed(self._new):
            if base_offset < offset:
                return position + len(batch)
        if self._db is not None:
            before = self._db.iter(ReadOptions())
            before.seek_for_prev(_key(offset))
            if before.valid() and before.key()[:1] == _BATCH:
                value = before.value()
                return int.from_bytes(value[:POSITION_BYTES], "little") + _info(value).length
        return 0 if self.start_offset == 0 else -1

    def _kept(self, offset: int, strict: bool = False) -> Iterator[tuple[int, memoryview, int]]:
        """Base offsets, batches and positions from an offset on, written or not."""
        first_new = self._new[0][0] if self._new else self.end_offset
        if offset < first_new and self._db is not None:
            for base_offset, value in rows(self._db, offset, strict):
                if base_offset >= first_new:
                    break
                position = int.from_bytes(value[:POSITION_BYTES], "little")
                yield base_offset, memoryview(value)[POSITION_BYTES:], position
        for number, (base_offset, batch, position) in enumerate(self._new):
            last = number + 1 == len(self._new)
            following = self.end_offset if last else self._new[number + 1][0]
            if following > offset:
                yield base_offset, memoryview(batch), position

    def _infos(self, offset: int, stop: int) -> Iterator[BatchInfo]:
        for base_offset, batch, _ in self._kept(offset):
            if base_offset >= stop:
                return
            yield batches.validate(bytes(batch), 0, len(batch), False)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        """The first batch at or after a time; -3: the greatest time stamp."""
        if timestamp_ms == -3:
            best = find_time(self._infos(self.start_offset, self.end_offset), -3)
            if best is None:
                return None
            timestamp_ms = best[1]
        row = self._time_at(timestamp_ms)
        # Greater time stamps before the log's start may hide some that are left.
        first = self._time_at(0)
        hidden = find_time(
            self._infos(self.start_offset, first[1] if first else self.end_offset), timestamp_ms
        )
        if hidden is not None:
            return hidden
        return find_time(self._infos(row[1], self.end_offset), timestamp_ms) if row else None

    def _time_at(self, timestamp_ms: int) -> tuple[int, int] | None:
        """The first row of a time stamp or a later one; what is not written yet has none."""
        if self._db is not None:
            found = self._db.iter(ReadOptions())
            found.seek(_TIME + _u64(max(timestamp_ms, 0)))
            while found.valid() and found.key()[:1] == _TIME:
                row = _time_row(found.key())
                if row[1] >= self.start_offset:
                    return row
                found.next()
        return (timestamp_ms, self._new[0][0]) if self._new else None

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the last batches."""
        return list(self._infos(self.offset_of_tail(max_bytes), self.end_offset))

    def offset_of_tail(self, max_bytes: int) -> int:
        """Where the newest batches of about so many bytes begin: looked for backwards."""
        offset = self.end_offset
        size = 0
        for base_offset, batch, _ in reversed(self._new):
            if size >= max_bytes:
                return offset
            offset, size = base_offset, size + len(batch)
        if self._db is not None:
            found = self._db.iter(ReadOptions())
            found.seek_for_prev(_key(offset - 1))
            while size < max_bytes and found.valid() and found.key()[:1] == _BATCH:
                offset = int.from_bytes(found.key()[1:], "big")
                size += len(found.value()) - POSITION_BYTES
                found.prev()
        return max(offset, self.start_offset)

    @property
    def size(self) -> int:
        """Bytes of the batches."""
        return self._end_position - self._first_position

    @property
    def end_position(self) -> int:
        """Bytes of all batches ever written."""
        return self._end_position

    # -- what goes, and what comes from elsewhere --------------------------------------------------

    def restore(self, batch: bytearray) -> None:
        """Add a batch at the offset that it has."""
        self.skip_to(int.from_bytes(batch[:8], "big"))
        self.append(batch, int.from_bytes(batch[12:16], "big", signed=True))

    def skip_to(self, offset: int) -> None:
        """The next record gets this offset."""
        assert offset >= self.end_offset, "offsets rise"
        if offset == self.end_offset:
            return
        if self.start_offset == self.end_offset:
            self.start_offset = offset
        if not self._new and not self._writing_to:
            self.high_watermark = offset
        self.end_offset = offset
        self._changed = True

    def trim(self, offset: int) -> None:
        """The log begins at `offset` now."""
        assert offset <= self.end_offset, "a log begins before it ends"
        if offset > self.start_offset:
            self.start_offset = offset
            self._first_position = self._position_at(offset)
            self._changed = True

    def _position_at(self, offset: int) -> int:
        for base_offset, batch, position in self._new:
            info = batches.validate(batch, 0, len(batch), False)
            if base_offset <= offset <= base_offset + info.last_offset_delta:
                return position
        return self._position_of(offset) if offset < self.end_offset else self._end_position

    def retain(self, now_ms: int) -> int:
        """Let go of the oldest batches that the settings let go."""
        settings = self._settings
        if not settings.delete:
            return 0
        before = self.size
        start_offset, left = self.start_offset, before
        for looked, (_, value) in enumerate(self._rows(self.start_offset)):
            info = _info(value)
            by_time = 0 <= settings.retention_ms < now_ms - info.max_timestamp
            by_size = 0 <= settings.retention_bytes <= left - info.length
            following = info.base_offset + info.last_offset_delta + 1
            done = not (by_time or by_size) or following > self.high_watermark
            if done or looked >= RETAIN_LOOKS:
                break
            start_offset, left = following, left - info.length
        self.trim(start_offset)
        return before - self.size

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def settings(self) -> PartitionSettings:
        """Those in force."""
        return self._settings

    def configure(self, settings: PartitionSettings) -> None:
        """Take over new settings."""
        self._settings = settings

    def free(self) -> Callable[[], None] | None:
        """What has gone is removed by the next commit."""
        return None

    def delete(self) -> Callable[[], None]:
        """Nothing is written any more; a job that removes the database."""
        self._deleted = True

        def job() -> None:
            self.close()
            self._disk.remove_directory(self._directory)

        return job

    def close(self) -> None:
        """Close the database."""
        if self._db is not None:
            self._db.close()
            self._db = None


def rows(db: Any, offset: int, strict: bool) -> Iterator[tuple[int, bytes]]:
    """(base offset, position and batch) of a database, from the batch on that holds an offset, or
    the next one. Where a block is damaged RocksDB's iterators end as they do at the end: `strict`
    raises then what rocksdict raises."""
    found = db.iter(ReadOptions())
    found.seek_for_prev(_key(offset))
    if not found.valid() or found.key()[:1] != _BATCH:
        if strict:
            found.status()
        found.seek(_key(offset))
    while found.valid() and found.key()[:1] == _BATCH:
        base_offset = int.from_bytes(found.key()[1:], "big")
        value: bytes = found.value()
        if base_offset + _info(value).last_offset_delta >= offset:
            yield base_offset, value
        found.next()
    if strict:
        found.status()


def times(db: Any) -> Iterator[tuple[int, int]]:
    """(time stamp, offset) of the rows of times, both rising."""
    found = db.iter(ReadOptions())
    found.seek(_TIME)
    while found.valid() and found.key()[:1] == _TIME:
        yield _time_row(found.key())
        found.next()
    found.status()


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _key(offset: int) -> bytes:
    return _BATCH + _u64(max(offset, 0))


def _time_row(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big")


def _info(value: bytes) -> BatchInfo:
    return batches.validate(value, POSITION_BYTES, len(value), False)


def open_partition(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    """What the entry point names."""
    return RocksDbPartition(directory, disk, settings)
