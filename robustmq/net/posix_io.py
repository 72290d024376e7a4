"""recv and send on a descriptor: the interpreted form.

The compiled module never calls this one: `posix_io.pxd` holds the same names as inline C. Neither
lets go of the interpreter: a call that does not block is over before another thread could use it.
"""

from __future__ import annotations

import os

AGAIN = -1
GONE = -2


def receive(file: int, buffer: bytearray, at: int, size: int) -> int:
    """Read at most `size` bytes to a place in the buffer; 0 at the end, AGAIN, or GONE."""
    try:
        return os.readv(file, [memoryview(buffer)[at : at + size]])
    except (BlockingIOError, InterruptedError):
        return AGAIN
    except OSError:
        return GONE


def transmit_framed(
    file: int, head: bytes, head_size: int, data: bytes | bytearray, size: int
) -> int:
    """Write a head and what follows it as far as they go; how much of both, AGAIN, or GONE."""
    try:
        return os.writev(file, [head[:head_size], memoryview(data)[:size]])
    except (BlockingIOError, InterruptedError):
        return AGAIN
    except OSError:
        return GONE


def transmit(file: int, data: bytes | bytearray, at: int, size: int) -> int:
    """Write as much as goes; how much, AGAIN, or GONE."""
    try:
        return os.write(file, memoryview(data)[at : at + size])
    except (BlockingIOError, InterruptedError):
        return AGAIN
    except OSError:
        return GONE
