"""Opening a partition in segments: what its directory holds, and what of it can be believed.

Of a closed file the head of its index is read. The last file is scanned from where its index ends:
a torn batch at its end is cut. A file without an index that can be believed is scanned as a whole,
checksums included. Bad bytes with a sound batch behind them, or at the end of a file that is not
the last, are set aside: copied to `quarantine/`, stepped over, and their offsets are lost.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from robustmq.core import batches
from robustmq.errors import BrokerError
from robustmq.storage import partition_state, segment_index
from robustmq.storage.disk import Disk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.partition_state import PartitionState
from robustmq.storage.segment_file import (
    CLEANED,
    HEADER_BYTES,
    INDEX,
    LOG,
    Area,
    SegmentFile,
    base_of,
    claimed_length,
    generation_of,
    next_sound,
)

SCAN_BYTES = 4 * 1024 * 1024
SMALL_BYTES = 2 * 1024 * 1024
SMALL_FILES = 2

SetAside = Callable[[int, bytes], None]


class Scan:
    """One file, read from a position on, batch by batch."""

    def __init__(
        self,
        disk: Disk,
        file: SegmentFile,
        interval: int,
        gaps_until: int,
        set_aside: SetAside,
    ) -> None:
        """Below `gaps_until` offsets may be missing; `set_aside(first offset, bytes)` hears of what
        is bad."""
        self._disk = disk
        self._file = file
        self._interval = interval
        self._gaps_until = gaps_until
        self._set_aside = set_aside
        self.end_offset = file.next_offset
        self.torn = b""
        """What was cut off at the end."""

    def run(self, position: int, size: int, next_base: int | None) -> None:
        """Learn of the batches from `position` to `size`. `next_base`: where the next file begins;
        None: it is the last one, whose end may be torn."""
        file = self._file
        while position < size:
            data = self._disk.read(file.path, position, min(SCAN_BYTES, size - position))
            used, sound = self._chunk(position, data)
            if not used:
                length = claimed_length(data)
                if sound and HEADER_BYTES <= length <= size - position and length > len(data):
                    data = self._disk.read(file.path, position, length)
                    used, sound = self._chunk(position, data)
            position += used
            if sound and used:
                continue
            bad = self._disk.read(file.path, position, size - position)
            behind = next_sound(bad, self.end_offset)
            if behind is None and next_base is None:
                self.torn = bad
                self._disk.truncate(file.path, position)
                size = position
                break
            stop = len(bad) if behind is None else behind
            following = next_base if behind is None else int.from_bytes(bad[behind:][:8], "big")
            assert following is not None, "what is torn was cut"
            area = Area(position, position + stop, self.end_offset, following)
            file.areas = (*file.areas, area)
            file.next_offset = self.end_offset = following
            self._set_aside(area.first_offset, bad[:stop])
            position += stop
        file.size = size

    def _chunk(self, position: int, data: bytes) -> tuple[int, bool]:
        """(bytes used, False at a bad batch)."""
        file = self._file
        used = 0
        stepped_over = bool(file.areas) and file.areas[-1].end == position
        try:
            for begin, info in batches.headers(data, 0, len(data), True):
                gap = info.base_offset - self.end_offset
                if not info.crc_ok or gap < 0 or (gap and self.end_offset >= self._gaps_until):
                    return used, False
                interval = 0 if stepped_over and not used else self._interval
                file.note(info, position + begin, interval)
                self.end_offset = file.next_offset
                used = begin + info.length
        except BrokerError:
            return used, False
        return used, True


def is_small(directory: str, disk: Disk) -> bool:
    """Does it take but a moment to open a partition, even if all of it must be scanned? One that
    has something in the object store is not small."""
    names = disk.list(directory)
    if partition_state.NAME in names:
        state = partition_state.load(directory, disk)
        if state is None or state.tiered_until:
            return False
    logs = [name for name in names if name.endswith(LOG)]
    sizes = (disk.size(f"{directory}/{name}") for name in logs)
    return len(logs) <= SMALL_FILES and sum(sizes) <= SMALL_BYTES


class Opened(msgspec.Struct):
    """What was found."""

    state: PartitionState
    files: list[SegmentFile] = []
    unindexed: list[SegmentFile] = []
    """Files that want an index on disk."""
    start_offset: int = 0
    end_offset: int = 0
    quarantined: list[tuple[int, int]] = []
    torn: bytes = b""
    """What was cut off at the end of the last file."""


class Opening:
    """One partition's directory."""

    def __init__(self, directory: str, disk: Disk, settings: PartitionSettings) -> None:
        self._directory = directory
        self._disk = disk
        self._settings = settings
        self._found = Opened(PartitionState())

    def run(self) -> Opened:
        """Read it, and mend what a crash has left."""
        found = self._found
        names = self._disk.list(self._directory)
        if partition_state.NAME in names:
            state = partition_state.load(self._directory, self._disk)
            if state is None:
                found.quarantined.append((0, 0))
                state = PartitionState(gaps_until=1 << 62)
            found.state = state
        logs = self._logs(names)
        for number, name in enumerate(logs):
            file = SegmentFile(base_of(name), f"{self._directory}/{name}")
            if found.files and file.base_offset < found.end_offset:
                # A compaction has written its records into the file before.
                self._disk.remove(file.path)
                self._disk.remove(file.index_path)
                continue
            self._note_missing(file.base_offset)
            found.files.append(file)
            later = (base_of(one) for one in logs[number + 1 :])
            self._open(file, next((base for base in later if base > file.base_offset), None))
        self._prefer_cold()
        self._begin_at_start()
        return found

    def _prefer_cold(self) -> None:
        """What a loss of power took from a file that the cold tier has whole is read from there:
        the file goes, and those before it."""
        found = self._found
        tiered_until = found.state.tiered_until if self._settings.tiered else 0
        files = found.files
        count = 0
        for number in range(len(files) - 1):
            if files[number].areas and files[number + 1].base_offset <= tiered_until:
                count = number + 1
        if not count:
            return
        for file in files[:count]:
            self._disk.remove(file.path)
            self._disk.remove(file.index_path)
            file.gone = True
        found.unindexed = [file for file in found.unindexed if not file.gone]
        del files[:count]
        found.quarantined = [row for row in found.quarantined if row[0] >= files[0].base_offset]

    def _logs(self, names: list[str]) -> list[str]:
        """The files that count, in order; what a compaction left is finished or dropped, and so is
        an index without its file."""
        state = self._found.state
        done = state.replaced if state.made in names else ()
        logs = {name for name in names if name.endswith(LOG) and name not in done}
        for name in names:
            alone = name.endswith(INDEX) and name.removesuffix(INDEX) + LOG not in logs
            if alone or name.endswith(CLEANED) or name in done:
                self._disk.remove(f"{self._directory}/{name}")
        # Of two with one base offset the later compaction's stands first.
        return sorted(logs, key=lambda name: (base_of(name), -generation_of(name)))

    def _note_missing(self, base_offset: int) -> None:
        """A file begins: what lies between it and the one before is lost, if anything may not."""
        found = self._found
        end_offset = found.end_offset
        found.end_offset = base_offset
        if not found.files or base_offset <= end_offset or end_offset < found.state.gaps_until:
            return
        file = found.files[-1]
        file.areas = (*file.areas, Area(file.size, file.size, end_offset, base_offset))
        found.quarantined.append((end_offset, 0))

    def _open(self, file: SegmentFile, next_base: int | None) -> None:
        """Learn of a file, from its index or by reading it."""
        found, disk = self._found, self._disk
        size = disk.size(file.path)
        head = segment_index.read_head(disk, file, size)
        if head is not None and next_base is not None:
            if head.covered != size or head.next_offset > next_base:
                head = None
            else:
                file.index = None
        if head is not None and next_base is None:
            file.index = segment_index.read_rows(disk, file, head)
            if file.index is None:
                head = None
        if head is None:
            fresh = SegmentFile(file.base_offset, file.path)
            file.index, file.areas = fresh.index, ()
        else:
            _believe(file, head)
            found.quarantined += [(one.first_offset, one.end - one.begin) for one in file.areas]
        if file.index is not None:
            interval = self._settings.index_interval_bytes
            scan = Scan(disk, file, interval, found.state.gaps_until, self._set_aside)
            scan.run(file.covered, size, next_base)
            found.torn = scan.torn
            if next_base is not None:
                found.unindexed.append(file)
        if not file.synced or file.covered != file.size:
            disk.mark_unsynced(file.path)
        found.end_offset = file.next_offset

    def _set_aside(self, offset: int, data: bytes) -> None:
        quarantine(self._directory, self._disk, offset, data)
        self._found.quarantined.append((offset, len(data)))

    def _begin_at_start(self) -> None:
        """Files wholly below the log's start go; the last one stays, or is made."""
        found = self._found
        files, end_offset = found.files, found.end_offset
        start_offset, tiered_until = found.state.start_offset, found.state.tiered_until
        while files and (
            end_offset < start_offset if len(files) == 1 else files[1].base_offset <= start_offset
        ):
            file = files.pop(0)
            self._disk.remove(file.path)
            self._disk.remove(file.index_path)
            file.gone = True
        if end_offset < tiered_until:
            # A loss of power took what the cold tier has.
            while files:
                file = files.pop()
                self._disk.remove(file.path)
                self._disk.remove(file.index_path)
                file.gone = True
        if not files:
            found.end_offset = max(end_offset, start_offset, tiered_until)
        first = files[0].base_offset if files else tiered_until
        found.start_offset = start_offset if first <= tiered_until else max(start_offset, first)


def _believe(file: SegmentFile, head: segment_index.Head) -> None:
    file.size = file.covered = head.covered
    file.next_offset = head.next_offset
    file.first_time, file.max_time = head.first_time, head.max_time
    file.last_position = head.last_position
    file.areas = head.areas
    file.synced = head.synced
    file.indexed = file.index is None


def quarantine(directory: str, disk: Disk, offset: int, data: bytes) -> None:
    """Keep bad bytes aside."""
    disk.make_directory(f"{directory}/quarantine")
    disk.replace(f"{directory}/quarantine/{offset:020d}.bad", data)
