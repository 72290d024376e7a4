# cython: annotation_typing=False, cdivision=True

"""Split a stream of MQTT control packets into a table of offsets (MQTT 5.0 section 2.1).

A row is four int32: the first byte of the fixed header, where the body begins, where it ends, where
the frame begins. Nothing is decoded and no object is made. A Remaining Length must be written in
the fewest bytes [MQTT-1.5.5-1], and a packet above the bound is refused as soon as its header is
there.
"""

from __future__ import annotations

from array import array

import robustmq.core.memory as memory
from robustmq.errors import BrokerError, Fault

ROW = 4
PACKET_SIZE_MAX = 268_435_460


def scan(
    buffer: bytes | bytearray,
    begin: int,
    end: int,
    table: array[int],
    max_packet_size: int = PACKET_SIZE_MAX,
) -> tuple[int, int]:
    """Fill the table with whole frames; the number of rows and the end of the last frame.

    A frame that is not whole stays. When rows precede a bad frame they are returned, and the next
    call, which begins at the bad frame, raises: what was sent before the fault is handled first.
    """
    assert 0 <= begin <= end <= len(buffer), "a scan stays inside its buffer"
    source = buffer
    rows = memory.ints(table)
    capacity = len(table) // 4
    count = 0
    at = begin
    while count < capacity and end - at >= 2:
        length = source[at + 1]
        body = at + 2
        if length >= 128:
            length = remaining_length(source, at + 1, end)
            if length == -1:
                break
            if length >= 0:
                body = at + (3 if length < 16_384 else 4 if length < 2_097_152 else 5)
        if length < 0 or body - at + length > max_packet_size:
            if count:
                break
            if length < 0:
                raise BrokerError(Fault.MALFORMED_PACKET, "bad remaining length")
            raise BrokerError(Fault.PACKET_TOO_LARGE)
        if body + length > end:
            break
        row = count * 4
        rows[row] = source[at]
        rows[row + 1] = body
        rows[row + 2] = body + length
        rows[row + 3] = at
        count += 1
        at = body + length
    return count, at


def needed(buffer: bytes | bytearray, begin: int, end: int) -> int:
    """The size of the frame that begins there; 0 when its header is not whole."""
    assert 0 <= begin <= end <= len(buffer), "a frame is looked at inside its buffer"
    source = buffer
    if end - begin < 2:
        return 0
    if source[begin + 1] < 128:
        return 2 + source[begin + 1]
    length = remaining_length(source, begin + 1, end)
    if length < 0:
        return 0
    return length + (3 if length < 16_384 else 4 if length < 2_097_152 else 5)


def remaining_length(source: bytes | bytearray, at: int, end: int) -> int:
    """A variable byte integer of two bytes or more; -1 when more bytes are needed, -2 when it is
    malformed."""
    value = 0
    shift = 0
    while shift < 28:
        if at >= end:
            return -1
        byte = source[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return -2 if byte == 0 else value
        shift += 7
        at += 1
    return -2
