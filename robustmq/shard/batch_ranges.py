"""Whole batches that were read, by their offsets: cut where a reader must stop, and where they end.

A read gives buffers that hold batches one behind the other; nothing here copies them.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustmq.core.batches import HEADER_SIZE

Buffer = bytes | memoryview


def each(buffer: Buffer) -> Iterator[tuple[int, int, int]]:
    """(begin, end, base offset) of every whole batch in a buffer."""
    begin, size = 0, len(buffer)
    while size - begin >= HEADER_SIZE:
        end = begin + 12 + int.from_bytes(buffer[begin + 8 : begin + 12], "big")
        if end > size:
            return
        yield begin, end, int.from_bytes(buffer[begin : begin + 8], "big")
        begin = end


def until(buffers: list[Buffer], offset: int) -> list[Buffer]:
    """The batches before an offset, at which one begins."""
    kept: list[Buffer] = []
    for buffer in buffers:
        for begin, _, base_offset in each(buffer):
            if base_offset >= offset:
                if begin:
                    kept.append(memoryview(buffer)[:begin])
                return kept
        kept.append(buffer)
    return kept


def end_of(buffers: list[Buffer]) -> int:
    """The offset behind the last record of batches, 0 without any."""
    end_offset = 0
    for begin, _, base_offset in each(buffers[-1]) if buffers else ():
        last_delta = int.from_bytes(buffers[-1][begin + 23 : begin + 27], "big")
        end_offset = base_offset + last_delta + 1
    return end_offset
