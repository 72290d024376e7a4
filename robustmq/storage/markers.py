"""What a shard's log says of batches that lie in the files of partitions of declared topics
(docs/formats.md, "Shard log": DECLARED_MARKER).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Copied(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A batch as it stands in a segment file: what `segment_redo` writes there again."""

    file: str
    """The name of the file."""
    place: int
    """Where in it the batch begins."""
    batch: bytes


class MarkedAppend(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a marker says of one entry: where its batch lies and what the batch does not say."""

    log_topic: bytes
    partition: int
    base_offset: int
    topic: bytes
    flags: int
    origin: int
    packet_id: int = 0
    generation: int = 0
    topic_id: bytes = b""
    end_offset: int = 0
    header: bytes = b""
    """Of a producer with an id: the header of the batch; of a control batch all of it."""
    copied: Copied | None = None
    """The batch itself, where the fdatasync of the log speaks for the partition's file, too."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[MarkedAppend])


def encode_marker(marks: Sequence[MarkedAppend]) -> bytes:
    """The payload of a marker."""
    return _encoder.encode(marks)


def decode_marker(payload: bytes | memoryview) -> list[MarkedAppend]:
    """What a marker says, entry by entry."""
    return _decoder.decode(payload)


def partition_name(topic_id: bytes, partition: int) -> str:
    """The name of a partition's directory."""
    return f"{topic_id.hex()}-{partition}"


def split_name(name: str) -> tuple[bytes, int]:
    """(topic id, partition) of the name of a partition."""
    topic_id, _, number = name.partition("-")
    return bytes.fromhex(topic_id), int(number)
