"""What of a closed file of a shard's log is still needed: read in pieces, judged entry by entry.

The storage thread reads (`Pieces.read`), the loop judges (`judged`), as what is needed is known
there: behind all floors (`shard.position_floors`) only blocks of light topics and of partitions in
the log are ever needed, what waits for sessions, and what says that something before it is deleted.
Of a block single topics' entries may be left; each run of them becomes a log entry of its own, at
the place where they always stood: its head lies over the last bytes of what is gone before them, of
which every entry has more. Pure but for reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from robustmq.core import blocks, log_entry
from robustmq.core.blocks import EntryView
from robustmq.errors import BrokerError
from robustmq.storage import cleaned_log
from robustmq.storage.disk import Disk
from robustmq.storage.log_files import LogFile
from robustmq.storage.shard_log import (
    BLOCK,
    HEAD,
    INBOX,
    NO_MARKER,
    SHARED_BLOCK,
    TOPIC_DELETED,
    TOPIC_PLACED,
    TOPIC_TRIMMED,
    block_begin,
    parsed,
)

READ_BYTES = 256 * 1024
ENTRIES_A_LOOK = 64

Piece = tuple[int, memoryview]
LightLives = Callable[[EntryView, int, int, int], bool]
"""Is a block entry needed? (the entry, its position, the offset behind its last record, when it was
written)"""


class Judge(NamedTuple):
    """Who knows what is needed."""

    block: LightLives
    """Of light topics, and of partitions in the shard's log."""
    inbox: Callable[[int], bool]
    """Does any session refer to the inbox entry at a position?"""
    forgotten_to: int = 0
    """Of what was deleted before this position the log has nothing any more."""


class Pieces:
    """Reads one file, some whole entries at a time."""

    def __init__(self, disk: Disk, file: LogFile) -> None:
        """The slots of a cleaned file are known (`LogFiles.slots`)."""
        self._disk = disk
        self._file = file
        self._at = 0
        self.sound = True
        """No bad bytes were met."""

    def read(self) -> list[Piece]:
        """Some of what is left; none at the end. On the storage thread."""
        try:
            return self._read_cleaned() if self._file.cleaned else self._read_segment()
        except BrokerError:
            # The disk cannot read it.
            self.sound = False
            return []

    def _read_cleaned(self) -> list[Piece]:
        file = self._file
        assert file.slots is not None, "the table has read them"
        found, self._at, sound = cleaned_log.pieces(self._disk, file.path, file.slots, self._at)
        self.sound = self.sound and sound
        return found

    def _read_segment(self) -> list[Piece]:
        file = self._file
        if self._at >= file.size:
            return []
        data = self._disk.read_apart(file.path, self._at, READ_BYTES)
        length = int.from_bytes(data[:4], "little")
        if len(data) < length <= file.size - self._at:
            data = self._disk.read_apart(file.path, self._at, length)
        used = _whole_entries(data)
        if not used:
            # Bad bytes: all behind them is kept as it is, as nobody knows what it was.
            self.sound = False
            return []
        position = file.start + self._at
        self._at += used
        return [(position, memoryview(data)[:used])]


def _whole_entries(data: bytes) -> int:
    at = 0
    while at + HEAD.size <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if length < HEAD.size or at + length > len(data):
            break
        at += length
    return at


class Entry(NamedTuple):
    """A sound entry that is looked at: its kind, position, and all of its bytes."""

    kind: int
    position: int
    data: memoryview


def entries(piece: Piece) -> Iterator[Entry | None]:
    """The entries of a piece; None, and no more, at one that does not check."""
    position, data = piece
    at = 0
    while at < len(data):
        found = parsed(data, at)
        if found is None:
            yield None
            return
        yield Entry(found[1], position + at, data[at : at + found[0]])
        at += found[0]


def named(entry: Entry) -> bytes:
    """The topic of an entry that says something of one; empty: it does not."""
    if entry.kind == TOPIC_DELETED:
        return bytes(entry.data[HEAD.size :])
    if entry.kind in (TOPIC_TRIMMED, TOPIC_PLACED):
        return bytes(entry.data[HEAD.size + 8 :])
    return b""


def judged(entry: Entry, judge: Judge) -> Iterator[Piece | None]:
    """What of an entry is needed, as log entries with their positions; None now and then, when a
    look at the clock is due."""
    if entry.kind == INBOX:
        if judge.inbox(entry.position):
            yield entry.position, entry.data
    elif entry.kind in (TOPIC_DELETED, TOPIC_TRIMMED):
        # Whoever reads the log alone must not take what lies before it for living.
        if entry.position >= judge.forgotten_to:
            yield entry.position, entry.data
    elif entry.kind == BLOCK:
        yield from _of_block(entry, judge.block, b"")
    elif entry.kind == SHARED_BLOCK:
        yield from _of_block(entry, judge.block, NO_MARKER)


def _of_block(entry: Entry, lives: LightLives, before: bytes) -> Iterator[Piece | None]:
    """`before` is what stands before the first block entry in an entry that is made."""
    _, _, _, _, _, source, sequence, written_ms = HEAD.unpack_from(entry.data)
    data = bytes(entry.data[HEAD.size :])
    first = block_begin(data) if before else 0
    block = data[first:]
    kept: list[tuple[int, int]] = []
    for begin, part in _parts(block):
        for one in blocks.entries(part):
            end_offset = one.base_offset + offsets_taken(part, one.batch_begin)
            where = begin + one.begin
            if not lives(one, entry.position + HEAD.size + first + where, end_offset, written_ms):
                continue
            if kept and kept[-1][1] == where:
                kept[-1] = (kept[-1][0], begin + one.end)
            else:
                kept.append((where, begin + one.end))
        yield None
    if kept == [(0, len(block))]:
        yield entry.position, entry.data
        return
    for begin, end in kept:
        payload = before + block[begin:end]
        head = log_entry.head(entry.kind, payload, source, sequence, written_ms)
        position = entry.position + first + begin - len(before)
        yield position, memoryview(bytes(head) + payload)


def block_entries(entry: Entry) -> Iterator[tuple[EntryView, int, int]]:
    """The block entries in a log entry, each with its position and the offset behind it."""
    if entry.kind not in (BLOCK, SHARED_BLOCK):
        return
    data = bytes(entry.data[HEAD.size :])
    first = block_begin(data) if entry.kind == SHARED_BLOCK else 0
    block = data[first:]
    for one in blocks.entries(block):
        end_offset = one.base_offset + offsets_taken(block, one.batch_begin)
        yield one, entry.position + HEAD.size + first + one.begin, end_offset


def _parts(block: bytes) -> Iterator[tuple[int, bytes]]:
    """A block in parts of ENTRIES_A_LOOK entries, each with where it begins."""
    begin = at = count = 0
    while at < len(block):
        at += int.from_bytes(block[at : at + 4], "little")
        count += 1
        if count % ENTRIES_A_LOOK == 0:
            yield begin, block[begin:at]
            begin = at
    if begin < len(block):
        yield begin, block[begin:]


def offsets_taken(block: bytes, batch_begin: int) -> int:
    """How many offsets a batch takes: its last offset delta and one."""
    return int.from_bytes(block[batch_begin + 23 : batch_begin + 27], "big") + 1
