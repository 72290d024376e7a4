"""The records of a batch in another compression (a topic's `compression.type`).

Header fields stay as they are, but for length, attributes and checksum; so producers, sequences,
offsets and timestamps are untouched. Compressing is slow: callers do it off the event loop.
"""

from __future__ import annotations

import struct

from robustmq.core import batches, memory

CODECS = {"uncompressed": 0, "none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Numbers in a batch's attributes by the names of `compression.type`."""
_XERIAL_HEAD = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK = 32 * 1024


def recompress(batch: bytes | bytearray, codec: int, max_decompressed: int) -> bytearray:
    """A batch with its records compressed anew; CORRUPT_RECORD when they cannot be opened."""
    attributes = int.from_bytes(batch[21:23], "big")
    held = attributes & batches.COMPRESSION_MASK
    packed = bytes(memoryview(batch)[batches.HEADER_SIZE :])
    plain = batches.decompress(packed, held, max_decompressed)
    made = bytearray(memoryview(batch)[: batches.HEADER_SIZE])
    made += compress(plain, codec)
    struct.pack_into(">i", made, 8, len(made) - 12)
    struct.pack_into(">H", made, 21, attributes & ~batches.COMPRESSION_MASK | codec)
    struct.pack_into(">I", made, 17, memory.checksum(made, 21, len(made)))
    return made


def compress(plain: bytes, codec: int) -> bytes:
    """Records as Kafka's clients compress them."""
    if codec == CODECS["gzip"]:
        import zlib

        packer = zlib.compressobj(wbits=31)
        return packer.compress(plain) + packer.flush()
    if codec == CODECS["snappy"]:
        return _snappy(plain)
    if codec == CODECS["lz4"]:
        import lz4.frame

        return bytes(
            lz4.frame.compress(plain, compression_level=9, block_linked=False, store_size=False)
        )
    if codec == CODECS["zstd"]:
        import zstandard

        return zstandard.ZstdCompressor(level=3).compress(plain)
    return plain


def _snappy(plain: bytes) -> bytes:
    """In the framing of the Java client, which all clients read."""
    import cramjam

    made = bytearray(_XERIAL_HEAD)
    for begin in range(0, len(plain), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(plain[begin : begin + _XERIAL_BLOCK]))
        made += struct.pack(">i", len(block)) + block
    return bytes(made)
