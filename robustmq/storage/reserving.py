"""Room on the disk for a file that grows (fallocate with FALLOC_FL_KEEP_SIZE: its length stays that
of what was written), which Python's own posix_fallocate cannot reserve without changing the length.

Where the file system or the C library knows no such thing, or has no room, nothing is reserved: the
writes say what is wrong.
"""

from __future__ import annotations

import ctypes
import os

FALLOC_FL_KEEP_SIZE = 1


def reserve(file: int, size: int) -> bool:
    """Reserve the first `size` bytes of an open file; False when that is not possible."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (AttributeError, OSError):
        return False
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return bool(function(file, FALLOC_FL_KEEP_SIZE, 0, size) == 0)


def give_back(path: str) -> None:
    """Free what lies behind the end of a file."""
    try:
        os.truncate(path, os.stat(path).st_size)
    except FileNotFoundError:
        return
