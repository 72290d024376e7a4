"""The append-only log of one shard (design section 6; docs/formats.md, "Shard log").

Segments of a fixed size hold entries one behind the other; a position is the byte an entry begins
at, counted over all segments. Entry, little-endian: u32 length of all, u32 CRC-32C of what follows,
u8 kind, u8 version, u16 mark, u64 source, u64 sequence, u64 time stamp in ms, payload. An entry is
never split over segments.

The loop appends to memory; `take_pending` hands what is new to the storage thread; recent bytes
stay in memory for readers. What nobody needs any more is let go file by file, and positions never
change (`log_files`): what is gone reads as `Gone`, which is not the same as damaged. Recovery reads
the files from a position on. A bad entry with no valid one behind it is a torn tail and is cut;
with valid ones behind it, it is corruption: it is kept aside, reported, and skipped.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from crc32c import crc32c

from robustmq.core import log_entry
from robustmq.core.log_entry import MARK, VERSION
from robustmq.errors import BrokerError, Fault
from robustmq.storage.cold_log import ColdLog
from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.disk import Buffer, Disk
from robustmq.storage.log_files import Away, Gone, LogFile, LogFiles

HEAD = struct.Struct("<IIBBHQQQ")
NEEDLE = bytes([VERSION]) + MARK.to_bytes(2, "little")
NEEDLE_AT = 9
MAX_ENTRY_BYTES = 512 * 1024 * 1024
FORGET_AT = 256
"""So many places of what memory has let go are taken out of its tables at once, or more."""

BLOCK, MACHINE, INBOX, DECLARED_MARKER, CURSOR, TOPIC_DELETED, TOPIC_CREATED = range(1, 8)
DELAYED_BLOCK, DELAYED_OVER, DEALT, RETAINED_BLOCK, TOPIC_TRIMMED, RELEASE = range(8, 14)
SHARED_BLOCK, TOPIC_PLACED, PARTITION_ENDS = range(14, 17)

NO_MARKER = bytes(4)
"""What a SHARED_BLOCK begins with that says nothing of other engines."""


def block_begin(payload: bytes | bytearray | memoryview) -> int:
    """Where the block of a SHARED_BLOCK begins, behind the marker."""
    return 4 + int.from_bytes(payload[:4], "little")


Pending = list[tuple[str, list[Buffer]]]
Corruption = Callable[[int, int], None]


class ShardLog:
    """One shard's log: appends in memory, reads from memory or disk."""

    def __init__(
        self,
        directory: str,
        disk: Disk,
        segment_bytes: int,
        hot_bytes: int,
        corruption: Corruption,
    ) -> None:
        """`corruption(position, length)` hears of quarantined bytes."""
        self._directory = directory
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._hot_bytes = hot_bytes
        self._corruption = corruption
        self.files = LogFiles(directory, disk)
        self.cold: ColdLog | None = None
        """What is in the object store, for `read_light`."""
        # Heads and payloads, and their positions. What is let go is taken out of the front of both
        # by and by: to find a place in a long deque takes as long as to walk through half of it.
        self._hot_starts: array[int] = array("Q")
        self._hot: list[bytes | bytearray] = []
        self._hot_first = 0
        self._hot_size = 0
        self._pending: list[tuple[int, list[Buffer]]] = []
        # The last of these, and where its file is full; None when the next entry begins one.
        self._buffers: list[Buffer] | None = None
        self._file_end = 0
        self._rolled = False
        self._behind_gap = False
        self._other_bytes = 0
        self.end_position = 0
        self._opened_at = 0
        self.hot_bytes_read = 0
        """Bytes that were read from memory, and those from the disk."""
        self.cold_bytes_read = 0
        self.committed_position = 0

    # -- appending ---------------------------------------------------------------------------------

    @property
    def next_payload(self) -> int:
        """The position at which the payload of the next entry will stand."""
        return self.end_position + HEAD.size

    def append(
        self, kind: int, payload: bytes | bytearray, source: int, sequence: int, timestamp_ms: int
    ) -> int:
        """Add an entry in memory; its position."""
        length = HEAD.size + len(payload)
        head = log_entry.head(kind, payload, source, sequence, timestamp_ms)
        position = self.end_position
        buffers = self._buffers
        if buffers is None or position + length > self._file_end:
            buffers = self._begin(position, length, timestamp_ms)
        buffers += (head, payload)
        self._hot_starts.append(position)
        self._hot_starts.append(position + HEAD.size)
        self._hot += (head, payload)
        self._hot_size += length
        if kind not in (BLOCK, SHARED_BLOCK):
            self._other_bytes += length
        if self._hot_size > self._hot_bytes:
            self._cool()
        self.end_position = position + length
        return position

    def _begin(self, position: int, length: int, now_ms: int) -> list[Buffer]:
        """Where the next entry is gathered: in a new file when this one is full."""
        start = self.files.files[-1].start if self.files.files else -1
        full = position - start + length > self._segment_bytes and position > start
        if start < 0 or full or self._rolled:
            self.files.begin(position, now_ms, not self._behind_gap, self._other_bytes)
            self._other_bytes = 0
            start = position
            self._rolled = self._behind_gap = False
        if not self._pending or self._pending[-1][0] != start:
            self._pending.append((start, []))
        self._file_end = start + self._segment_bytes
        self._buffers = self._pending[-1][1]
        return self._buffers

    def roll(self) -> None:
        """The next entry begins a new file."""
        if self.files.files and self.end_position > self.files.files[-1].start:
            self._rolled = True
            self._buffers = None

    @property
    def disk_bytes(self) -> int:
        """What the files take, with what is still to be written."""
        return self.bytes_from(0)

    @property
    def appended_bytes(self) -> int:
        """What was appended since it was opened."""
        return self.end_position - self._opened_at

    def bytes_from(self, position: int) -> int:
        """What it has from a position on, with what is still to be written."""
        found = 0
        files = self.files.files
        for file in reversed(files):
            grows = file is files[-1] and not (file.cleaned or self._behind_gap)
            end = self.end_position if grows else file.end
            if end <= position:
                break
            found += min(end - position, end - file.start if grows else file.size)
        return found

    @property
    def open_blocks(self) -> int:
        """Bytes of blocks in the last file, or what may be some."""
        files = self.files.files
        return self.end_position - files[-1].start - self._other_bytes if files else 0

    def _cool(self) -> None:
        """Forget what is committed beyond the bytes that stay in memory."""
        first, committed = self._hot_first, self.committed_position
        while self._hot_size > self._hot_bytes and self._hot_starts[first] < committed:
            self._hot_size -= len(self._hot[first])
            self._hot[first] = b""
            first += 1
        self._hot_first = first
        if first >= FORGET_AT:
            self._forget()

    def _forget(self) -> None:
        """Take out of the tables what is let go, when that is half of them."""
        first = self._hot_first
        if first * 2 >= len(self._hot):
            del self._hot[:first], self._hot_starts[:first]
            self._hot_first = 0

    def take_pending(self) -> Pending:
        """What the storage thread must write now, by file."""
        pending, self._pending = self._pending, []
        self._buffers = None
        return [(self.files.path(start), buffers) for start, buffers in pending]

    # -- reading -----------------------------------------------------------------------------------

    def read(self, position: int, length: int) -> bytes | memoryview:
        """Bytes at a position, from memory or disk; fewer where the file ends. Raises Gone."""
        at = bisect_right(self._hot_starts, position, self._hot_first) - 1
        if at >= self._hot_first:
            begin = position - self._hot_starts[at]
            data = self._hot[at]
            if begin + length <= len(data):
                self.hot_bytes_read += length
                return memoryview(data)[begin : begin + length]
            if position >= self.committed_position or begin < len(data):
                return self._read_over(at, begin, length)
        self.cold_bytes_read += length
        return self.files.read(position, length)

    def piece(self, position: int) -> tuple[bytes | bytearray, int] | None:
        """A head or payload that memory has of a log entry, and where in it a position lies; None:
        it is read from the disk."""
        at = bisect_right(self._hot_starts, position, self._hot_first) - 1
        if at < self._hot_first:
            return None
        data, begin = self._hot[at], position - self._hot_starts[at]
        return (data, begin) if begin < len(data) else None

    def read_light(self, position: int, length: int) -> bytes | memoryview:
        """The same of an entry of a light topic, which may be in the object store alone. Raises
        Gone or Away."""
        try:
            return self.read(position, length)
        except Gone:
            if self.cold is None:
                raise
            return self.cold.read(position, length)

    def damaged_light(self, position: int, reason: str) -> BrokerError:
        """What `read_light` gave is no entry: what to raise. What came from the object store is
        fetched again first."""
        if self.cold is not None and self.cold.has(position) and not self._is_here(position):
            coming = self.cold.anew(position)
            if coming is not None:
                return Away(coming)
        return BrokerError(Fault.CORRUPT_RECORD, reason)

    def lost_light(self, topic: bytes, position: int, error: BrokerError) -> BrokerError:
        """What to raise when a topic that may be in the object store has no head of a batch at a
        position: the one before it is looked for first."""
        coming = self.cold.way_round(topic, position) if self.cold is not None else None
        return error if coming is None else Away(coming)

    def _is_here(self, position: int) -> bool:
        try:
            self.read(position, 1)
        except Gone:
            return False
        return True

    def let_go(self, replaced: list[LogFile], made: LogFile | None) -> None:
        """`made`, or nothing, stands for the positions of these neighbours from now on; the storage
        thread removes their files after this."""
        self.files.exchange(replaced, made)
        first = self._hot_first
        while first < len(self._hot) and self._hot_starts[first] < replaced[-1].end:
            self._hot_size -= len(self._hot[first])
            self._hot[first] = b""
            first += 1
        self._hot_first = first
        if first >= FORGET_AT:
            self._forget()

    def _read_over(self, at: int, begin: int, length: int) -> bytes:
        out = bytearray()
        while at < len(self._hot) and len(out) < length:
            out += memoryview(self._hot[at])[begin : begin + length - len(out)]
            begin = 0
            at += 1
        return bytes(out)

    def entry(self, position: int) -> tuple[int, bytes | memoryview]:
        """(kind, payload) of the entry at a position; raises CORRUPT_RECORD, STORAGE_FAILED or
        Gone."""
        head = self.read(position, HEAD.size)
        if len(head) == HEAD.size:
            length, crc, kind, version, mark, *_ = HEAD.unpack(head)
            if version == VERSION and mark == MARK and HEAD.size <= length <= MAX_ENTRY_BYTES:
                payload = self.read(position + HEAD.size, length - HEAD.size)
                if len(payload) == length - HEAD.size and crc32c(payload, crc32c(head[8:])) == crc:
                    return kind, payload
        raise BrokerError(Fault.CORRUPT_RECORD, f"no log entry at {position}")

    def scan(
        self, position: int, end: int | None = None
    ) -> Iterator[tuple[int, int, bytes | memoryview]]:
        """(position, kind, payload) of every sound entry from `position` to `end` (today's end).
        Raises STORAGE_FAILED where the disk cannot read.

        `position` is where an entry begins, or the byte before one.
        """
        end = self.end_position if end is None else end
        position = max(position, self.start_position)
        while position < end:
            try:
                kind, payload = self.entry(position)
            except BrokerError as error:
                if error.fault is Fault.STORAGE_FAILED:
                    raise
                found = self._next_entry(position, end)
                if found is None:
                    return
                position = found
                continue
            yield position, kind, payload
            position += HEAD.size + len(payload)

    def _next_entry(self, position: int, end: int) -> int | None:
        """The first sound entry behind a position that is none, below `end`."""
        while position < end:
            at = self.files.find(position)
            found = self._next_in(self.files.files[at], position) if at >= 0 else None
            if found is not None:
                return found
            following = self.files.following(position)
            if following is None or self._is_sound(following):
                return following
            position = following
        return None

    def _next_in(self, file: LogFile, position: int) -> int | None:
        """The first sound entry of a file behind a position."""
        if file.cleaned:
            found = (where for where, _, _ in _entries(self.files.runs(file, position)))
            return next((where for where in found if where > position), None)
        if self._is_sound(position + 1):
            return position + 1
        data = memoryview(self._disk.read(file.path, 0, self._segment_bytes * 2))
        at = _next_valid_in(data, max(0, position + 1 - file.start))
        return None if at is None else file.start + at

    def _is_sound(self, position: int) -> bool:
        """Does an entry begin there, as far as the disk can read?"""
        try:
            self.entry(position)
        except BrokerError as error:
            if error.fault is Fault.STORAGE_FAILED:
                raise
            return False
        return True

    @property
    def start_position(self) -> int:
        """The first position that is kept."""
        return self.files.files[0].start if self.files.files else self.end_position

    @property
    def is_whole(self) -> bool:
        """Has nothing of the log ever been let go?"""
        files = self.files.files
        return not files or (
            files[0].start == 0
            and not any(file.cleaned for file in files)
            and all(one.end >= other.start for one, other in pairwise(files))
        )

    # -- recovery ----------------------------------------------------------------------------------

    def begin_at(self, position: int) -> None:
        """A log that has nothing begins at a position: what lies before it is in the object store
        alone."""
        assert not self.files.files and not self.end_position, "it has nothing"
        self.end_position = self.committed_position = position

    def peek(self, end: int) -> Iterator[tuple[int, int, memoryview]]:
        """Before `recover`: (position, kind, payload) of the sound entries below `end`."""
        self.files.open()
        for file in self.files.files:
            if file.start >= end:
                return
            if file.cleaned:
                runs = self.files.runs(file, 0)
            else:
                data = memoryview(self._disk.read(file.path, 0, file.size))
                runs = iter([(file.start, data)])
            for at, found, entry in _entries(runs):
                if at >= end:
                    break
                yield at, found[1], entry[HEAD.size :]

    def recover(
        self,
        position: int,
        on_entry: Callable[[int, int, int, int, int, memoryview], None],
        lost_power: bool = True,
    ) -> None:
        """Open the files and replay from `position`: (position, kind, source, sequence, time,
        payload). Unless it may have `lost_power`, what a process wrote is there as it wrote it, up
        to where it was killed: a bad entry at the end is a torn one only if the file ends in it."""
        self.files.open()
        for index, file in enumerate(self.files.files):
            self.end_position = file.end
            if file.end <= position:
                continue
            if file.cleaned:
                for at, found, data in _entries(self.files.runs(file, position)):
                    if at >= position:
                        on_entry(at, *found[1:], data[HEAD.size :])
                continue
            last = index == len(self.files.files) - 1
            self._disk.mark_unsynced(file.path)
            at = max(0, position - file.start)
            self._recover_segment(file, at, last, lost_power, on_entry)
        if self.end_position < position:
            # A checkpoint stands on a log that is synced: somebody has taken something away.
            self._corruption(self.end_position, position - self.end_position)
        self.skip_to(max(self.end_position, position))
        if self.files.files:
            # Nobody has counted what the last file had before.
            self._other_bytes = -(1 << 62)

    def skip_to(self, position: int) -> None:
        """Recovery: what is appended next stands there. If that is not right behind the last file
        it begins one."""
        self.end_position = self.committed_position = self._opened_at = position
        files = self.files.files
        self._behind_gap = bool(files) and (files[-1].cleaned or position > files[-1].end)
        self._rolled = self._behind_gap

    def _recover_segment(
        self,
        file: LogFile,
        at: int,
        last: bool,
        lost_power: bool,
        on_entry: Callable[[int, int, int, int, int, memoryview], None],
    ) -> None:
        start, size = file.start, file.size
        data = memoryview(self._disk.read(file.path, 0, size))
        while at < size:
            found = parsed(data, at)
            if found is not None:
                length, kind, source, sequence, timestamp = found
                payload = data[at + HEAD.size : at + length]
                on_entry(start + at, kind, source, sequence, timestamp, payload)
                at += length
                continue
            if _is_of_another_version(data, at):
                raise DataDirectoryError(
                    f"{file.path} was written by another version of RobustMQ:"
                    " run that version, or choose another node.data_dir"
                )
            behind = _next_valid_in(data, at + 1)
            if behind is None and last and (lost_power or _is_cut_short(data, at)):
                self._disk.truncate(file.path, at)
                file.size = at
                self.end_position = file.end = start + at
                return
            stop = size if behind is None else behind
            file.damaged = True
            self._quarantine(start + at, data[at:stop])
            at = stop

    def _quarantine(self, position: int, data: memoryview) -> None:
        directory = self._directory.rsplit("/", 1)[0] + "/quarantine"
        self._disk.make_directory(directory)
        self._disk.replace(f"{directory}/{position:016x}.bad", bytes(data))
        self._corruption(position, len(data))


def _entries(
    runs: Iterable[tuple[int, memoryview]],
) -> Iterator[tuple[int, tuple[int, int, int, int, int], memoryview]]:
    """(position, what `parsed` says, bytes) of the sound entries of runs."""
    for position, data in runs:
        at = 0
        while at < len(data):
            found = parsed(data, at)
            if found is None:
                following = _next_valid_in(data, at + 1)
                if following is None:
                    break
                at = following
                continue
            yield position + at, found, data[at : at + found[0]]
            at += found[0]


def parsed(data: memoryview, at: int) -> tuple[int, int, int, int, int] | None:
    """(length, kind, source, sequence, time stamp) of a sound entry at `at`, or None."""
    if at + HEAD.size > len(data):
        return None
    length, crc, kind, version, mark, source, sequence, timestamp = HEAD.unpack_from(data, at)
    if version != VERSION or mark != MARK or not HEAD.size <= length <= len(data) - at:
        return None
    if crc32c(data[at + 8 : at + length]) != crc:
        return None
    return length, kind, source, sequence, timestamp


def _is_of_another_version(data: memoryview, at: int) -> bool:
    """Is the entry at `at` sound but for its version? It is not ours to cut or to set aside."""
    if at + HEAD.size > len(data):
        return False
    length, crc, _, version, mark, *_ = HEAD.unpack_from(data, at)
    if version == VERSION or mark != MARK or not HEAD.size <= length <= len(data) - at:
        return False
    return bool(crc32c(data[at + 8 : at + length]) == crc)


def _is_cut_short(data: memoryview, at: int) -> bool:
    """Do the data end before the entry at `at` does, as far as that can be known?"""
    if at + HEAD.size > len(data):
        return True
    length, _, _, version, mark, *_ = HEAD.unpack_from(data, at)
    return bool(version == VERSION and mark == MARK and length > len(data) - at)


def _next_valid_in(data: memoryview, at: int) -> int | None:
    """The first sound entry at or behind `at`: found by its mark, proven by its checksum."""
    whole = bytes(data)
    while True:
        found = whole.find(NEEDLE, at + NEEDLE_AT)
        if found < 0:
            return None
        at = found - NEEDLE_AT
        if at >= 0 and parsed(data, at) is not None:
            return at
        at += 1
