"""The seam between storage and the machine: everything that touches a disk goes through a `Disk`.

`RealDisk` is the machine. `MemoryDisk` is a disk in memory that can crash: what was not written is
gone, and what was written and not synced may be gone too, up to any byte; it can fail on demand. It
serves the simulation and the tests.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from robustmq.errors import BrokerError, Fault
from robustmq.storage import group_io, reserving
from robustmq.storage.mapped_files import MappedFiles

Buffer = bytes | bytearray | memoryview
Row = tuple[str, Sequence[Buffer]]
Rows = Sequence[Row]
"""What is appended, by file. An empty row is of a file that nobody wants any more."""

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
IOV_MAX = 512
SYNCS_AT_ONCE = 8
GROUP_FILES = 128
"""Files that are written and synced by one call."""
FULL = (errno.ENOSPC, errno.EDQUOT)
BOOT_ID_BYTES = 16
GONE = ".gone"


class Disk(Protocol):
    """Files by path. Writes are made by the storage thread, reads by any."""

    syncs: int
    """fdatasyncs that were made of files that are appended to."""

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents."""
        ...

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted; none if it is not there."""
        ...

    def size(self, path: str) -> int:
        """Bytes in a file, 0 if it is not there."""
        ...

    def append(self, path: str, buffers: Sequence[Buffer]) -> None:
        """Write at the end of a file, making it."""
        ...

    def reserve(self, path: str, size: int) -> None:
        """Make a file, and room on the disk for so many bytes of it, if that is possible; it is as
        long as what is appended all the same."""
        ...

    def settle(self, path: str) -> None:
        """Nothing is appended to a file any more: what was reserved and not used is free again."""
        ...

    def sync(self, path: str) -> None:
        """Make what was written to a file survive power loss."""
        ...

    def sync_below(self, *directories: str) -> None:
        """The same for every file below these that was written to and not synced since; all at
        once, as far as the disk can."""
        ...

    def commit(self, rows: Rows, *directories: str) -> None:
        """`append` each row, in order, then `sync_below` the directories."""
        ...

    def mark_unsynced(self, path: str) -> None:
        """A file that another process has written, nobody knows whether it synced it."""
        ...

    def is_unsynced(self, path: str) -> bool:
        """May a loss of power undo a part of what was written to a file?"""
        ...

    @property
    def boot_id(self) -> bytes:
        """16 bytes that change when the machine starts again: what was written without a sync is
        whole as long as they are the same."""
        ...

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer at its end."""
        ...

    def read_apart(self, path: str, offset: int, length: int) -> bytes:
        """The same, from any thread: nothing of it is kept open."""
        ...

    def view(self, path: str, offset: int, length: int) -> bytes | memoryview:
        """Bytes of a file that changes no more, fewer at its end; perhaps without a copy."""
        ...

    def rename(self, path: str, to: str) -> None:
        """Give a file that is synced another name, which lasts."""
        ...

    def remove_directory(self, path: str) -> None:
        """Remove a directory with all that is in it, if it is there. A crash may leave some of it
        under another name: with GONE behind it."""
        ...

    def replace(self, path: str, data: Buffer) -> None:
        """Write a whole file so that a crash leaves the old one or the new one."""
        ...

    def put(self, path: str, data: Buffer) -> None:
        """Write a whole file in the place of the old one. A loss of power may leave any part of it,
        a full disk nothing: whoever reads it checks it, and can do without."""
        ...

    def overwrite(self, path: str, offset: int, data: Buffer) -> bool:
        """Change a few bytes of what `put` has written, as little certain as that; False where the
        disk is full or the file is gone."""
        ...

    def write_again(self, path: str, offset: int, data: Buffer) -> bool:
        """Write the bytes that were appended to a file at a place, as they were: it may have lost
        them. False where the disk is full."""
        ...

    def truncate(self, path: str, size: int) -> None:
        """Cut a file."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        ...

    def close(self) -> None:
        """Close all files."""
        ...


def _no_room(error: OSError) -> None:
    raise error


class UnsyncedFiles:
    """Files that were written to and not synced since, by every directory that they lie below: they
    may be thousands, and each commit asks for the few of its logs. One thread takes out; the loop
    may add meanwhile."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._below: dict[str, dict[str, None]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def add(self, path: str) -> None:
        """A file is written to."""
        if path not in self._paths:
            for directory in _above(path):
                self._below.setdefault(directory, {})[path] = None
            self._paths.add(path)

    def discard(self, path: str) -> None:
        """A file is synced, or gone."""
        if path in self._paths:
            for directory in _above(path):
                self._below.get(directory, {}).pop(path, None)
            self._paths.discard(path)

    def below(self, directories: Sequence[str]) -> list[str]:
        """Those below these, each once."""
        found: dict[str, None] = {}
        for directory in directories:
            found.update(dict.fromkeys(tuple(self._below.get(directory, ()))))
        return list(found)

    def forget_directory(self, path: str) -> None:
        """A directory is removed, with all that was in it."""
        for file in tuple(self._below.get(path, ())):
            self.discard(file)
        self._below.pop(path, None)


def _above(path: str) -> Iterator[str]:
    end = path.rfind("/")
    while end >= 0:
        yield path[:end]
        end = path.rfind("/", 0, end)


class RealDisk:
    """The machine's files. Keeps at most `max_open` descriptors open for each way of use.

    Writing, removing and syncing belong to one thread, reading to another (or the same).
    """

    def __init__(
        self,
        max_open: int = 256,
        wait_for_room: Callable[[OSError], None] = _no_room,
        unreadable: Callable[[str, OSError], None] = lambda path, error: None,
    ) -> None:
        """`wait_for_room` is called where a write finds the disk full, again and again until it
        goes on, or raises; `unreadable` hears of reads that fail."""
        self._max_open = max_open
        self._wait_for_room = wait_for_room
        self._unreadable = unreadable
        self._appending = ""
        self._writers: dict[str, int] = {}
        self._readers: dict[str, int] = {}
        self._unnamed: set[str] = set()
        self._unsynced = UnsyncedFiles()
        self._syncing: ThreadPoolExecutor | None = None
        """Begun at the first use, so never before a fork, as the queue is."""
        self._queue: int | None = None
        self._removed: deque[str] = deque()
        self._mapped = MappedFiles()
        self.boot_id = _boot_id()
        self.syncs = 0

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents."""
        os.makedirs(path, DIRECTORY_MODE, exist_ok=True)

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        """Bytes in a file."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return 0

    def append(self, path: str, buffers: Sequence[Buffer]) -> None:
        """Write at the end of a file."""
        file = self._writer(path)
        self._unsynced.add(path)
        self._appending = path
        for first in range(0, len(buffers), IOV_MAX):
            _write_all(file, list(buffers[first : first + IOV_MAX]), self._wait_for_room)
        self._appending = ""
        if path not in self._writers:
            # It was removed while it waited for room.
            os.close(file)

    def _writer(self, path: str) -> int:
        """Used last is closed last: those of one `sync_below` stay open together."""
        file = self._writers.pop(path, None)
        if file is not None:
            self._writers[path] = file
            return file
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if not os.path.exists(path):
            self._unnamed.add(path)
        return self._keep(self._writers, path, os.open(path, flags, FILE_MODE))

    def _keep(self, table: dict[str, int], path: str, file: int) -> int:
        if len(table) >= self._max_open:
            os.close(table.pop(next(iter(table))))
        table[path] = file
        return file

    def reserve(self, path: str, size: int) -> None:
        """fallocate."""
        reserving.reserve(self._writer(path), size)

    def settle(self, path: str) -> None:
        """ftruncate to its size."""
        reserving.give_back(path)

    def sync(self, path: str) -> None:
        """fdatasync; the name of a new file is made to last, too."""
        os.fdatasync(self._writer(path))
        self._synced(path)

    def _synced(self, path: str) -> None:
        self.syncs += 1
        self._unsynced.discard(path)
        if path in self._unnamed:
            self._unnamed.discard(path)
            _sync_directory(os.path.dirname(path))

    def sync_below(self, *directories: str) -> None:
        """fdatasync of each, at once: a file system makes one commit of those that come while it
        makes one. Eight files took 0.8 ms so, and 6 ms one after the other."""
        self.commit((), *directories)

    def commit(self, rows: Rows, *directories: str) -> None:
        """All in one call (`group_io`), or so many files a call; where the disk is found full, one
        file after the other."""
        rows = [row for row in rows if row[1]]
        paths = {path: None for path, _ in rows}
        # Marked first: what fails in the middle is not synced.
        for path in paths:
            self._unsynced.add(path)
        synced = self._unsynced.below(directories)
        most = min(GROUP_FILES, self._max_open)
        if len({*paths, *synced}) <= most:
            self._commit_group(rows, synced)
            return
        for first in range(0, len(rows), most):
            self._commit_group(rows[first : first + most], ())
        for first in range(0, len(synced), most):
            self._commit_group((), synced[first : first + most])

    def _commit_group(self, rows: Rows, synced: Sequence[str]) -> None:
        if not (rows or synced):
            return
        if self._queue is None:
            self._queue = group_io.open_queue()
        files = [self._writer(path) for path, _ in rows]
        syncing = [self._writer(path) for path in synced]
        buffers = [row[1] for row in rows]
        whole, part, error = group_io.commit(self._queue, files, buffers, syncing)
        assert error >= group_io.NOT_SYNCED, "it is known what became of each fdatasync"
        if whole < len(rows):
            path, left = rows[whole]
            if error not in FULL:
                raise OSError(error, os.strerror(error), path)
            self.append(path, _behind(left, part))
            for path, left in rows[whole + 1 :]:
                # What was removed while room was waited for has lost its buffers.
                if left:
                    self.append(path, left)
            self._commit_group([], [path for path in synced if path in self._unsynced])
            return
        if error == group_io.NOT_SYNCED:
            self._sync_on_threads(syncing)
        elif error:
            raise OSError(error, os.strerror(error), ", ".join(synced))
        for path in synced:
            self._synced(path)

    def _sync_on_threads(self, files: Sequence[int]) -> None:
        """Where the kernel does not make many fdatasyncs of one call."""
        if self._syncing is None:
            self._syncing = ThreadPoolExecutor(SYNCS_AT_ONCE, "sync")
        for _ in self._syncing.map(os.fdatasync, files):
            pass

    def mark_unsynced(self, path: str) -> None:
        """It has its fdatasync with the next `sync_below`."""
        self._unsynced.add(path)

    def is_unsynced(self, path: str) -> bool:
        """Was it written to since its last fdatasync, or by another process?"""
        return path in self._unsynced

    def _drop_removed(self) -> None:
        while self._removed:
            path = self._removed.popleft()
            self._mapped.forget(path)
            gone = self._readers.pop(path, None)
            if gone is not None:
                os.close(gone)

    def view(self, path: str, offset: int, length: int) -> bytes | memoryview:
        """A part of a mapping of the file; pread where there cannot be one."""
        self._drop_removed()
        found = self._mapped.view(path, offset, length)
        return self.read(path, offset, length) if found is None else found

    def read(self, path: str, offset: int, length: int) -> bytes:
        """pread."""
        if self._removed:
            self._drop_removed()
        try:
            file = self._readers.get(path)
            if file is None:
                opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                file = self._keep(self._readers, path, opened)
            return os.pread(file, length, offset)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._failed_to_read(path, error) from None

    def read_apart(self, path: str, offset: int, length: int) -> bytes:
        """Open, pread, close."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(file, length, offset)
        except OSError as error:
            raise self._failed_to_read(path, error) from None
        finally:
            os.close(file)

    def _failed_to_read(self, path: str, error: OSError) -> BrokerError:
        """What its reader hears: it may go well another time."""
        self._unreadable(path, error)
        return BrokerError(Fault.STORAGE_FAILED, f"{path} cannot be read: {error.strerror}")

    def rename(self, path: str, to: str) -> None:
        """rename; the new name is made to last."""
        file = self._writers.pop(path, None)
        if file is not None:
            os.close(file)
        self._forget(path)
        os.rename(path, to)
        _sync_directory(os.path.dirname(to))

    def remove_directory(self, path: str) -> None:
        """It has another name before it is half of what it was. Its files go one by one, so that no
        descriptor outlives its file."""
        gone = path
        if not path.endswith(GONE) and os.path.isdir(path):
            gone = path + GONE
            self._remove_all(gone)
            for name in self.list(path):
                self._let_go(f"{path}/{name}")
                self._unsynced.forget_directory(f"{path}/{name}")
            self._unsynced.forget_directory(path)
            os.rename(path, gone)
        self._remove_all(gone)

    def _remove_all(self, path: str) -> None:
        for name in self.list(path):
            inside = f"{path}/{name}"
            if os.path.isdir(inside):
                self._remove_all(inside)
            else:
                self.remove(inside)
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return

    def replace(self, path: str, data: Buffer) -> None:
        """Write beside, sync, rename."""
        beside = path + ".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(beside, flags, FILE_MODE)
        try:
            _write_all(file, [data], self._wait_for_room)
            os.fdatasync(file)
        finally:
            os.close(file)
        os.rename(beside, path)
        _sync_directory(os.path.dirname(path))

    def put(self, path: str, data: Buffer) -> None:
        """Write, without a sync."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            file = os.open(path, flags, FILE_MODE)
            try:
                _write_all(file, [data], _no_room)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.remove(path)

    def overwrite(self, path: str, offset: int, data: Buffer) -> bool:
        """Open, pwrite, close."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                return os.pwrite(file, data, offset) == len(data)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in (*FULL, errno.ENOENT):
                raise
            return False

    def write_again(self, path: str, offset: int, data: Buffer) -> bool:
        """It has its fdatasync with the next `sync_below`."""
        self.mark_unsynced(path)
        return self.overwrite(path, offset, data)

    def truncate(self, path: str, size: int) -> None:
        """ftruncate."""
        os.truncate(path, size)

    def remove(self, path: str) -> None:
        """unlink."""
        self._let_go(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def _let_go(self, path: str) -> None:
        """A reader's descriptor is closed by the reader: its number may be in use."""
        file = self._writers.pop(path, None)
        if file is not None and path != self._appending:
            os.close(file)
        self._forget(path)
        self._removed.append(path)

    def _forget(self, path: str) -> None:
        self._unnamed.discard(path)
        self._unsynced.discard(path)

    def close(self) -> None:
        """Close all files."""
        self._mapped.close()
        if self._queue:
            self._queue = group_io.close_queue(self._queue)
        for table in (self._writers, self._readers):
            for file in table.values():
                os.close(file)
            table.clear()


def free_bytes(path: str) -> int:
    """Bytes that can still be written to the file system of a path."""
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def total_bytes(path: str) -> int:
    """The size of the file system of a path."""
    state = os.statvfs(path)
    return state.f_blocks * state.f_frsize


def _boot_id() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        # Then nothing that was not synced is believed by another process.
        return os.urandom(BOOT_ID_BYTES)


def _behind(buffers: Sequence[Buffer], size: int) -> list[Buffer]:
    """What lies behind the first `size` bytes."""
    found: list[Buffer] = []
    for buffer in buffers:
        if size < len(buffer):
            found.append(memoryview(buffer)[size:] if size else buffer)
        size = max(0, size - len(buffer))
    return found


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_all(file: int, buffers: list[Buffer], wait_for_room: Callable[[OSError], None]) -> None:
    """writev until all is written; where the disk is full it goes on when there is room."""
    while buffers:
        try:
            written = os.writev(file, buffers)
        except OSError as error:
            if error.errno not in FULL:
                raise
            wait_for_room(error)
            continue
        buffers = _behind(buffers, written)


class Crash(Exception):
    """The machine stopped in the middle of a write."""


class MemoryDisk:
    """A disk in memory that can crash and fail. `fail_next` holds errors that the next writes
    raise; after `crash_after` more bytes a write stops where it is."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.synced: dict[str, int] = {}
        self.fail_next: list[OSError] = []
        self.crash_after: int | None = None
        self.boots = 0
        self.syncs = 0

    def make_directory(self, path: str) -> None:
        """Directories need no making."""

    def list(self, path: str) -> list[str]:
        """Names directly in a directory, sorted."""
        prefix = path.rstrip("/") + "/"
        names = {
            name[len(prefix) :].split("/")[0] for name in self.files if name.startswith(prefix)
        }
        return sorted(names)

    def size(self, path: str) -> int:
        """Bytes in a file."""
        return len(self.files.get(path, b""))

    def append(self, path: str, buffers: Sequence[Buffer]) -> None:
        """Write at the end of a file."""
        self._maybe_fail()
        file = self.files.setdefault(path, bytearray())
        for buffer in buffers:
            if self.crash_after is not None:
                buffer = memoryview(buffer)
                if len(buffer) > self.crash_after:
                    file += buffer[: self.crash_after]
                    raise Crash
                self.crash_after -= len(buffer)
            file += buffer

    def reserve(self, path: str, size: int) -> None:
        """There is room."""
        self.append(path, [])

    def settle(self, path: str) -> None:
        """Nothing was reserved."""

    def sync(self, path: str) -> None:
        """What is in the file survives `lose_power`."""
        self.syncs += 1
        self._maybe_fail()
        self.synced[path] = len(self.files.get(path, b""))

    def sync_below(self, *directories: str) -> None:
        """Each file below these."""
        prefixes = tuple(directory + "/" for directory in directories)
        for path in self.files:
            if path.startswith(prefixes):
                self.sync(path)

    def commit(self, rows: Rows, *directories: str) -> None:
        """Write the rows that are wanted, and sync."""
        for path, buffers in rows:
            if buffers:
                self.append(path, buffers)
        if directories:
            self.sync_below(*directories)

    def mark_unsynced(self, path: str) -> None:
        """What is synced is known here."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file."""
        return bytes(self.files.get(path, b"")[offset : offset + length])

    def read_apart(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file."""
        return self.read(path, offset, length)

    def view(self, path: str, offset: int, length: int) -> bytes | memoryview:
        """Bytes of a file."""
        return self.read(path, offset, length)

    def is_unsynced(self, path: str) -> bool:
        """Is there more in it than was synced?"""
        return self.synced.get(path, 0) < len(self.files.get(path, b""))

    @property
    def boot_id(self) -> bytes:
        """Another one after `lose_power`."""
        return self.boots.to_bytes(BOOT_ID_BYTES, "little")

    def put(self, path: str, data: Buffer) -> None:
        """Write a whole file, not synced."""
        self.files[path] = bytearray()
        self.synced.pop(path, None)
        self.append(path, [data])

    def overwrite(self, path: str, offset: int, data: Buffer) -> bool:
        """Nothing of the file is certain any more."""
        self._maybe_fail()
        file = self.files.get(path)
        if file is None:
            return False
        self.synced[path] = min(offset, self.synced.get(path, 0))
        file[offset : offset + len(data)] = data
        return True

    def rename(self, path: str, to: str) -> None:
        """The file has another name."""
        self._maybe_fail()
        self.files[to] = self.files.pop(path)
        self.synced[to] = self.synced.pop(path, 0)

    def remove_directory(self, path: str) -> None:
        """All files below a path."""
        for name in [one for one in self.files if one.startswith(path.rstrip("/") + "/")]:
            self.remove(name)

    def replace(self, path: str, data: Buffer) -> None:
        """Write a whole file at once."""
        self._maybe_fail()
        if self.crash_after is not None and self.crash_after < len(data):
            raise Crash
        self.files[path] = bytearray(data)
        self.synced[path] = len(data)

    def write_again(self, path: str, offset: int, data: Buffer) -> bool:
        """What was synced is as it was."""
        file, synced = self.files[path], self.synced.get(path, 0)
        assert offset <= len(file), "a file has no holes"
        here = max(0, min(synced - offset, len(data)))
        assert file[offset : offset + here] == data[:here], "what is synced does not change"
        file[offset : offset + len(data)] = data
        return True

    def truncate(self, path: str, size: int) -> None:
        """Cut a file."""
        del self.files[path][size:]
        self.synced[path] = min(size, self.synced.get(path, 0))

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.files.pop(path, None)
        self.synced.pop(path, None)

    def close(self) -> None:
        """Nothing is open."""

    def lose_power(self, keep: float | Callable[[str], float]) -> None:
        """Of what each file was not synced, keep this part (0 to 1; by its path), cut at any
        byte."""
        self.boots += 1
        for path, file in self.files.items():
            synced = self.synced.get(path, 0)
            part = keep(path) if callable(keep) else keep
            del file[synced + int((len(file) - synced) * part) :]

    def _maybe_fail(self) -> None:
        if self.fail_next:
            raise self.fail_next.pop(0)
