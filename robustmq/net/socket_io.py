# cython: annotation_typing=False, cdivision=True
"""Bytes between a socket that does not block and a buffer, without an object in between."""

from __future__ import annotations

import robustmq.net.posix_io as posix_io

AGAIN = -1
GONE = -2


def receive(file: int, buffer: bytearray, at: int) -> int:
    """Read what is there into the buffer from a place on; 0 at the end of the stream, AGAIN when
    there is nothing, GONE when the connection is broken."""
    size = len(buffer) - at
    assert at >= 0 and size > 0, "there is room to read into"
    target = buffer
    return posix_io.receive(file, target, at, size)


def transmit(file: int, data: bytes | bytearray, size: int = -1) -> int:
    """Write as much as the socket takes of the data, or of its first `size` bytes; how many bytes,
    AGAIN for none, or GONE."""
    if size < 0:
        size = len(data)
    source = data
    return posix_io.transmit(file, source, 0, size)


def transmit_framed(file: int, head: bytes, data: bytes | bytearray) -> int:
    """Write a head and the data behind it in one go; how many bytes of both, AGAIN, or GONE."""
    first = head
    source = data
    return posix_io.transmit_framed(file, first, len(head), source, len(data))
