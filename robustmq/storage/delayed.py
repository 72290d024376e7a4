"""The delayed messages of one shard, in LevelDB by the time at which they are due.

A message waits as the block entry that its publisher sent, under (due time, number); the number is
the log position of the block that brought it and its place in that block, so among those of one
time the order is that of their arrival. In memory there are a count and the earliest time: millions
of messages cost no more.

The log is the truth. A DELAYED_BLOCK adds; the log entry that publishes a message carries
its due time and number as source and sequence (`published_as`), so a message is published and
removed by one and the same write. Recovery applies what LevelDB has not seen.
"""

from __future__ import annotations

from typing import NamedTuple

from robustmq.core import batches, blocks
from robustmq.storage.lookups import Lookups, after

PUBLISHED_DELAYED = 1 << 63
"""This bit in the source of a log entry: it publishes a delayed message, or gives it up."""
NUMBER_BITS = 20

_DELAYED = b"d"


class DelayedMessage(NamedTuple):
    """One block entry that waits."""

    due_ms: int
    number: int
    entry: bytes


def published_as(message: DelayedMessage) -> tuple[int, int]:
    """Source and sequence of the log entry that publishes a message."""
    return PUBLISHED_DELAYED | message.due_ms, message.number


class DelayedMessages:
    """What waits in one shard."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self.count = lookups.counter(_DELAYED) or 0
        """Messages that wait."""
        self._first: bytes | None = _DELAYED
        """No message has a key before this; None: none waits."""
        self.advance()

    @property
    def next_due_ms(self) -> int | None:
        """No message is due before this; None: none waits."""
        return None if self._first is None else int.from_bytes(self._first[1:9], "big")

    def add(self, position: int, block: bytes | bytearray | memoryview) -> None:
        """Keep the entries of a block that stands at this position of the log."""
        for place, entry in enumerate(blocks.entries(block)):
            due_ms = entry.base_offset
            key = _key(due_ms, position << NUMBER_BITS | place)
            self._lookups.put(key, bytes(block[entry.begin : entry.end]))
            self._count(batches.record_count(bytes(block), entry.batch_begin))
            if self._first is None or key < self._first:
                self._first = key

    def remove(self, due_ms: int, number: int) -> None:
        """A message was published, or given up."""
        key = _key(due_ms, number)
        entry = self._lookups.get(key)
        if entry is not None:
            self._lookups.put(key, None)
            self._count(-batches.record_count(entry, blocks.entries(entry)[0].batch_begin))

    def _count(self, change: int) -> None:
        self.count += change
        self._lookups.set_counter(_DELAYED, self.count)

    def due(self, now_ms: int, limit: int) -> list[DelayedMessage]:
        """What is due now, in order, so many at most. They wait on until they are removed."""
        if self._first is None:
            return []
        found: list[DelayedMessage] = []
        # What lies before was removed: LevelDB would walk over its graves.
        for key, entry in self._lookups.range(self._first, _key(now_ms + 1, 0)):
            due_ms = int.from_bytes(key[1:9], "big")
            found.append(DelayedMessage(due_ms, int.from_bytes(key[9:], "big"), entry))
            if len(found) == limit:
                break
        return found

    def advance(self) -> None:
        """Look which is due next, after some were removed."""
        if self._first is not None:
            found = next(self._lookups.range(self._first, after(_DELAYED)), None)
            self._first = None if found is None else found[0]


def _key(due_ms: int, number: int) -> bytes:
    return _DELAYED + due_ms.to_bytes(8, "big") + number.to_bytes(8, "big")
