"""The files of a shard's log: which there are, what positions each stands for, and what is read of
them.

A file is a segment as it was written (`<start>.log`), or what is left of one or several
(`<start>-<end>-<number>.kept`, see `cleaned_log`), or nothing is left and it is gone: then its
positions are in no file. The table is the loop's; the storage thread makes, renames and removes
files. A cleaned file counts from the moment it has its own name, which it gets when it is whole and
synced; what it replaces is removed after that, and by the next start when a crash came in between.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise
from robustmq.storage import cleaned_log
from robustmq.storage.cleaned_log import Run, Slots
from robustmq.storage.disk import Disk

LOG, KEPT, NEW = ".log", ".kept", ".new"
MAX_SLOTS_READ = 16
_NAME = re.compile(r"([0-9a-f]{16})(?:\.log|-([0-9a-f]{16})-([0-9a-f]{8,})\.kept)")


class LogName(NamedTuple):
    """What the name of a file says."""

    start: int
    end: int
    """Of a cleaned file; -1: as its size says."""
    number: int
    """As `LogFile.number`."""


def log_name(name: str) -> LogName | None:
    """What the name of a file of a log says; None: it is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    start, end, number = found.groups()
    return LogName(int(start, 16), int(end, 16) if end else -1, int(number, 16) if number else 0)


class Gone(BrokerError):
    """No file stands for a position any more: what stood there was let go, nothing is damaged."""

    def __init__(self, position: int) -> None:
        super().__init__(Fault.RECORD_GONE, f"position {position} is gone")


class Away(BrokerError):
    """What stands at a position is in the object store, and not at hand."""

    def __init__(self, coming: Promise[None]) -> None:
        """`coming`: ask again when it settles."""
        super().__init__(Fault.STORAGE_FAILED, "the records are in the object store")
        self.coming = coming


class LogFile(msgspec.Struct, eq=False):
    """One file; the last of a log grows, and its `end` and `size` are told when it is full."""

    path: str
    start: int
    end: int
    size: int
    first_ms: int
    last_ms: int
    """Wall clock of the first and (about) the last entry."""
    number: int = 0
    """0: as it was written; else that of the cleaning which made it."""
    judged_at: int = 0
    """It has nothing that nobody needed when the log ended here."""
    other_bytes: int = -1
    """Entries of other kinds than blocks of light topics; -1: nobody has counted."""
    damaged: bool = False
    """A cleaning has met bad bytes in it."""
    slots: Slots | None = None

    @property
    def cleaned(self) -> bool:
        """Is it what a cleaning has left?"""
        return self.number > 0


class LogFiles:
    """The files of one log."""

    def __init__(self, directory: str, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk
        self.files: list[LogFile] = []
        """By position."""
        self._starts: list[int] = []
        self._read: OrderedDict[tuple[str, int], tuple[memoryview, list[Run], bool]] = OrderedDict()

    # -- opening -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Look what is there; finish what a crash has cut off."""
        self._disk.make_directory(self._directory)
        raw: list[LogFile] = []
        cleaned: list[LogFile] = []
        for name in self._disk.list(self._directory):
            path, said = f"{self._directory}/{name}", log_name(name)
            if name.endswith(NEW):
                self._disk.remove(path)
            if said is None:
                continue
            size = self._disk.size(path)
            if said.number:
                cleaned.append(LogFile(path, said.start, said.end, size, 0, 0, said.number))
            else:
                raw.append(LogFile(path, said.start, said.start + size, size, 0, 0))
        chosen: list[LogFile] = []
        for file in sorted(cleaned, key=lambda one: -one.number):
            self._choose(file, chosen)
        for file in raw:
            self._choose(file, chosen)
        self.files = sorted(chosen, key=lambda one: one.start)
        self._starts = [file.start for file in self.files]
        self._note_times()

    def _choose(self, file: LogFile, chosen: list[LogFile]) -> None:
        """Take a file into the table, unless a later cleaning has put another in its place."""
        if any(other.cleaned and other.start <= file.start < other.end for other in chosen):
            self._disk.remove(file.path)
        else:
            chosen.append(file)

    def _note_times(self) -> None:
        following_ms = 0
        for file in reversed(self.files):
            if file.cleaned:
                found = cleaned_log.read_span(self._disk, file.path, file.size)
                if found is not None:
                    file.first_ms, file.last_ms = found[0].first_ms, found[0].last_ms
                    file.judged_at = found[0].judged_at
            else:
                head = self._disk.read(file.path, 28, 8)
                file.first_ms = int.from_bytes(head, "little")
                file.last_ms = max(file.first_ms, following_ms)
            following_ms = file.first_ms

    # -- the table ---------------------------------------------------------------------------------

    def begin(self, start: int, now_ms: int, follows: bool, other_bytes: int) -> None:
        """The log goes on in a new file; `follows`: the last one ends where it begins, with so many
        bytes of other kinds than blocks."""
        if follows and self.files:
            last = self.files[-1]
            last.other_bytes = max(-1, other_bytes)
            last.end, last.size = start, start - last.start
            last.last_ms = max(now_ms, last.first_ms)
        path = self.path(start)
        self.files.append(LogFile(path, start, start, 0, now_ms, now_ms))
        self._starts.append(start)

    def path(self, start: int) -> str:
        """The path of a file as it is written."""
        return f"{self._directory}/{start:016x}{LOG}"

    def cleaned_path(self, start: int, end: int, number: int) -> str:
        """The path of a cleaned file."""
        return f"{self._directory}/{start:016x}-{end:016x}-{number:08x}{KEPT}"

    def exchange(self, replaced: list[LogFile], made: LogFile | None) -> None:
        """`made`, or nothing, stands where these neighbours stood."""
        at = self.files.index(replaced[0])
        assert self.files[at : at + len(replaced)] == replaced, "neighbours"
        self.files[at : at + len(replaced)] = [made] if made is not None else []
        self._starts = [file.start for file in self.files]
        self._read.clear()

    def find(self, position: int) -> int:
        """The number of the file that may hold a position; -1: it lies before all."""
        return bisect_right(self._starts, position) - 1

    def following(self, position: int) -> int | None:
        """Where the first file behind a position begins."""
        at = bisect_left(self._starts, position + 1)
        return self._starts[at] if at < len(self._starts) else None

    # -- reading -----------------------------------------------------------------------------------

    def read(self, position: int, length: int) -> bytes | memoryview:
        """Bytes at a position: fewer where the file, or what is left there, ends. Raises Gone."""
        at = bisect_right(self._starts, position) - 1
        if at < 0:
            raise Gone(position)
        file = self.files[at]
        if not file.number:
            if position >= file.end and at < len(self.files) - 1:
                raise Gone(position)
            return self._disk.read(file.path, position - file.start, length)
        if position >= file.end:
            raise Gone(position)
        return self._read_cleaned(file, position, length)

    def _read_cleaned(self, file: LogFile, position: int, length: int) -> memoryview:
        slots = self.slots(file)
        number = cleaned_log.slot_of(slots, position)
        if number < 0:
            raise Gone(position)
        data, rows, whole = self._slot(file, slots, number)
        at = bisect_right(rows, position, key=lambda run: run.position) - 1
        if at >= 0:
            run = rows[at]
            begin = position - run.position
            if begin < run.length:
                return data[run.begin + begin : run.begin + min(begin + length, run.length)]
        if not whole and at == len(rows) - 1:
            raise BrokerError(Fault.CORRUPT_RECORD, f"a run at {position} is damaged")
        raise Gone(position)

    def slots(self, file: LogFile) -> Slots:
        """The index of a cleaned file."""
        if file.slots is None:
            file.slots = cleaned_log.read_slots(self._disk, file.path, file.size)
        return file.slots

    def _slot(self, file: LogFile, slots: Slots, number: int) -> tuple[memoryview, list[Run], bool]:
        key = (file.path, number)
        found = self._read.get(key)
        if found is None:
            begin, end = cleaned_log.slot_area(slots, number)
            data = memoryview(self._disk.read(file.path, begin, end - begin))
            found = self._read[key] = data, *cleaned_log.runs(data)
            if len(self._read) > MAX_SLOTS_READ:
                self._read.popitem(last=False)
        return found

    def runs(self, file: LogFile, position: int) -> Iterator[tuple[int, memoryview]]:
        """(position, bytes) of the runs of a cleaned file, from the one near a position on."""
        return cleaned_log.walk(self._disk, file.path, self.slots(file), position)

    def read_apart(self, file: LogFile, offset: int, length: int) -> bytes:
        """Bytes of a file, fewer at its end; none when it was let go. From any thread."""
        return self._disk.read_apart(file.path, offset, length)

    def pieces(
        self, file: LogFile, slots: Slots, first: int
    ) -> tuple[list[tuple[int, memoryview]], int, bool]:
        """See `cleaned_log.pieces`."""
        return cleaned_log.pieces(self._disk, file.path, slots, first)

    def written_before(self, position: int) -> int:
        """What stands, or stood, there is not younger than this (wall clock ms); 0: it may be
        new."""
        at = self.find(position)
        if at == len(self.files) - 1:
            return 0
        if at < 0 or position >= self.files[at].end:
            # It is gone with its file: before the next one was begun.
            return self.files[at + 1].first_ms
        return self.files[at].last_ms

    def forgettable_to(self) -> int:
        """No file has anything that was not needed any more when the log ended here."""
        found = [
            file.judged_at if file.cleaned else max(file.start, file.judged_at)
            for file in self.files
        ]
        return min(found, default=0)

    def next_number(self) -> int:
        """The number of the next cleaning."""
        return 1 + max((file.number for file in self.files), default=0)
