"""Writes and fdatasyncs of several files: the interpreted form.

The compiled module never calls this one: `posix_files.pxd` holds the same names as inline C, which
lets go of the interpreter once for all of them, and has the kernel make the fdatasyncs at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

NO_QUEUE = 0
NOT_SYNCED = -1
_PARTS_A_CALL = 512

Buffer = bytes | bytearray | memoryview


def open_queue() -> int:
    """There is none."""
    return NO_QUEUE


def close_queue(queue: int) -> int:
    """There is none."""
    return queue


def commit(
    queue: int, files: list[int], buffers: list[Sequence[Buffer]], synced: list[int]
) -> tuple[int, int, int]:
    """Write; the fdatasyncs are the caller's when there is more than one."""
    for whole, (file, rows) in enumerate(zip(files, buffers, strict=True)):
        part = 0
        left = list(rows)
        while left:
            try:
                written = os.writev(file, left[:_PARTS_A_CALL])
            except OSError as error:
                return whole, part, error.errno or 0
            part += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left and written:
                left[0] = memoryview(left[0])[written:]
    if len(synced) > 1:
        return len(files), 0, NOT_SYNCED
    try:
        for file in synced:
            os.fdatasync(file)
    except OSError as error:
        return len(files), 0, error.errno or 0
    return len(files), 0, 0
