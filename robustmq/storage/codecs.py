"""Compression of records that the broker itself writes: a compaction's batches, as they came.

`core.batches.decompress` is the other way. Every format is what the clients of Kafka read: lz4 in
frames of independent blocks, snappy in xerial's framing.
"""

from __future__ import annotations

import zlib

_GZIP, _SNAPPY, _LZ4, _ZSTD = range(1, 5)
_XERIAL_HEAD = b"\x82SNAPPY\0" + (1).to_bytes(4, "big") * 2
_SNAPPY_BLOCK = 32 * 1024


def compress(plain: bytes, compression: int) -> bytes:
    """The packed form of a batch's records."""
    if compression == _GZIP:
        packer = zlib.compressobj(wbits=31)
        return packer.compress(plain) + packer.flush()
    if compression == _LZ4:
        import lz4.frame

        return bytes(lz4.frame.compress(plain, block_linked=False))
    if compression == _ZSTD:
        import zstandard

        return zstandard.ZstdCompressor().compress(plain)
    assert compression == _SNAPPY, "there are four ways to compress"
    import cramjam

    out = bytearray(_XERIAL_HEAD)
    for at in range(0, len(plain), _SNAPPY_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(plain[at : at + _SNAPPY_BLOCK]))
        out += len(block).to_bytes(4, "big") + block
    return bytes(out)


def varint(value: int) -> bytes:
    """A zigzag varint."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest >= 128:
        out.append((rest & 127) | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)
