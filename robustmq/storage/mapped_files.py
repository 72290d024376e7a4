"""Views of files that change no more, by mmap: no copy, and no memory of the process's own.

Windows of a file are mapped, so many bytes of them at most at a time; the least used window goes
first. A window lives as long as a view of it does, whoever holds that: it is never unmapped by
hand. The pages of a view are brought in by MADV_POPULATE_READ before it is given out, so that a
sector that does not read, or a file that another program has cut, is an error here and not a SIGBUS
later; where the kernel cannot do that nothing is mapped. A file that is removed stays readable
through its windows.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import OrderedDict

WINDOW_BYTES = 4 * 1024 * 1024
MAPPED_BYTES = 64 * 1024 * 1024
MADV_POPULATE_READ = 22


class MappedFiles:
    """The windows that one thread reads through."""

    def __init__(self, max_bytes: int = MAPPED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._windows: OrderedDict[tuple[str, int], mmap.mmap] = OrderedDict()
        self._works = True

    def view(self, path: str, offset: int, length: int) -> memoryview | None:
        """An area of a file; None when it has to be read in another way."""
        if not self._works or not 0 < length <= WINDOW_BYTES:
            return None
        window = offset // WINDOW_BYTES
        begin = offset - window * WINDOW_BYTES
        mapped = self._windows.get((path, window))
        if mapped is None:
            mapped = self._map(path, window)
            if mapped is None:
                return None
        else:
            self._windows.move_to_end((path, window))
        if begin + length > len(mapped):
            return None
        page = begin - begin % mmap.PAGESIZE
        try:
            mapped.madvise(MADV_POPULATE_READ, page, begin + length - page)
        except OSError as error:
            self._works = error.errno != errno.EINVAL
            return None
        return memoryview(mapped)[begin : begin + length]

    def _map(self, path: str, window: int) -> mmap.mmap | None:
        """Two windows of the file, or what there is of them: what begins in the first one and is
        not longer than a window lies in it."""
        begin = window * WINDOW_BYTES
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            length = min(os.fstat(file).st_size - begin, 2 * WINDOW_BYTES)
            if length <= 0:
                return None
            mapped = mmap.mmap(file, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=begin)
        except OSError:
            return None
        finally:
            os.close(file)
        while self._windows and self._size + length > self._max_bytes:
            _, oldest = self._windows.popitem(last=False)
            self._size -= len(oldest)
        self._windows[path, window] = mapped
        self._size += length
        return mapped

    def forget(self, path: str) -> None:
        """A file is gone: another may get its name."""
        for key in [one for one in self._windows if one[0] == path]:
            self._size -= len(self._windows.pop(key))

    def close(self) -> None:
        """Let go of all windows."""
        self._windows.clear()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that are mapped."""
        return self._size
