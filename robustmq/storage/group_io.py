# cython: annotation_typing=False
"""Write to several files and sync several, letting go of the interpreter once for all of them.

A thread that takes the interpreter back waits until the loop lets go of it, up to half a
millisecond each time, and with a file for each shard a group commit has dozens of system calls.
The fdatasyncs of a group are one call into the kernel, which runs them at once and wakes the thread
when the last one has ended: eight threads of Python for that took a third of the time that the
messages themselves did.
"""

from __future__ import annotations

from collections.abc import Sequence

import robustmq.storage.posix_files as posix_files

NO_QUEUE = 0
NOT_SYNCED = -1

Buffer = bytes | bytearray | memoryview


def open_queue() -> int:
    """A queue of fdatasyncs for one thread of this process; NO_QUEUE where there is no such
    thing."""
    return posix_files.open_queue()


def close_queue(queue: int) -> int:
    """Give it back."""
    return posix_files.close_queue(queue)


def commit(
    queue: int, files: list[int], buffers: list[Sequence[Buffer]], synced: list[int]
) -> tuple[int, int, int]:
    """Append `buffers[n]` to `files[n]`, in order, then sync `synced`, all at once. How many files
    were written whole, bytes of the next one, and what ended it: an errno (of the writes as long as
    some are missing, else of an fdatasync), 0 when all is done, or NOT_SYNCED when all is written
    and the caller has to sync. Below that: nobody knows."""
    return posix_files.commit(queue, files, buffers, synced)
