# cython: annotation_typing=False, cdivision=True
"""The head of an entry of a shard's log (docs/formats.md, "Shard log").

Little-endian: u32 length of head and payload, u32 CRC-32C of all that follows it, u8 kind, u8
version, u16 mark, u64 source, u64 sequence, u64 time stamp in ms; then the payload.
"""

from __future__ import annotations

import robustmq.core.memory as memory

HEAD_SIZE = 36
VERSION = 1
MARK = 0xB10C


def head(
    kind: int, payload: bytes | bytearray, source: int, sequence: int, timestamp_ms: int
) -> bytearray:
    """The head of an entry with this payload, checksum included."""
    out = bytearray(36)
    target = out
    size = len(payload)
    memory.put32(target, 0, 36 + size)
    target[8] = kind
    target[9] = 1
    memory.put16(target, 10, 0xB10C)
    memory.put64(target, 12, source)
    memory.put64(target, 20, sequence)
    memory.put64(target, 28, timestamp_ms)
    crc = memory.checksum(target, 8, 36)
    memory.put32(target, 4, memory.checksum_more(crc, payload, 0, size))
    return out
