"""What of light topics stands in a part of the log that recovery sets aside.

One flipped bit makes a log entry bad, and with it the batches of all topics that wrote in that
turn. But the head of each has a seal, and each batch a checksum: so nearly all of them are sound,
and of the one that is not it is known which offsets it had. They are read where they stand, and no
offset that was given is given again, though nothing of the topic comes behind.

A log entry may hold copies of block entries from elsewhere: what is taken goes on where the topic
ended, or is the first of a topic in what is known to be a block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from robustmq.core import batches, blocks
from robustmq.core.blocks import ENTRY_HEADER, UNKNOWN
from robustmq.core.hashing import topic_key
from robustmq.core.topic_index import NO_POSITION
from robustmq.storage.shard_log import BLOCK, NEEDLE, NEEDLE_AT, SHARED_BLOCK

MAX_LOOKS = 1 << 20
"""At so many places an entry is looked for: about a second."""
_NAMES = struct.Struct("<I2xH6xH")
_KIND_AT = 8
_MOST_OFFSETS = 1 << 20
_SMALLEST = ENTRY_HEADER + batches.HEADER_SIZE


class Salvaged(NamedTuple):
    """A batch that stands there, or stood."""

    topic: bytes
    position: int
    previous: int
    """Where its entry leads to; with `blocks.UNKNOWN` nobody knows."""
    base_offset: int
    end_offset: int


def salvaged(data: bytes, position: int) -> Iterator[Salvaged]:
    """What can be told of a bad part of the log that begins at a position."""
    at = looks = 0
    while at + _SMALLEST <= len(data) and looks < MAX_LOOKS:
        length, topic, log_name = _NAMES.unpack_from(data, at)
        found = None
        if topic and _SMALLEST + topic + log_name <= length <= len(data) - at:
            name = data[at + ENTRY_HEADER : at + ENTRY_HEADER + topic]
            found = _entry(data, at, name, at + ENTRY_HEADER + topic + log_name, position + at)
        if found is None:
            at += 1
            looks += 1
        else:
            yield found
            at += length


def is_block(data: bytes) -> bool:
    """Does a bad part of the log begin with the head of a block?"""
    marked = data[NEEDLE_AT : NEEDLE_AT + len(NEEDLE)] == NEEDLE
    return marked and data[_KIND_AT] in (BLOCK, SHARED_BLOCK)


def _entry(data: bytes, at: int, name: bytes, batch: int, position: int) -> Salvaged | None:
    entry = blocks.stored_batch(data, at, topic_key(name), name, position, True)
    if entry is None:
        return None
    _, previous, base_offset, last_offset, sound = entry
    if sound is None:
        if previous == UNKNOWN | position:
            return None
        last_offset = base_offset + _offsets_taken(data, batch) - 1
    return Salvaged(name, position, previous, base_offset, last_offset + 1)


def _offsets_taken(data: bytes, batch: int) -> int:
    """By a batch that is damaged: its header says it twice."""
    last_delta = int.from_bytes(data[batch + 23 : batch + 27], "big")
    count = int.from_bytes(data[batch + 57 : batch + 61], "big")
    return max((one for one in (last_delta + 1, count) if one <= _MOST_OFFSETS), default=1)


def follows(found: Salvaged, known: tuple[int, int] | None, begin: int, block: bool) -> bool:
    """Does a batch go on where its topic ended (`known`: its end, and the position of its last
    batch), or in the bad part of the log that begins there? `block`: that is a block."""
    unknown = found.previous == UNKNOWN | found.position
    if known is None:
        return block and (found.previous == NO_POSITION or (unknown and not found.base_offset))
    end_offset, last = known
    if unknown:
        return found.base_offset == end_offset
    inside = begin <= found.previous < found.position
    return found.base_offset >= end_offset and (found.previous == last or inside)
