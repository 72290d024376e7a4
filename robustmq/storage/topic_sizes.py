"""What topics hold in the log of a shard, found by reading it once: bytes, records, the time of the
last one.

Of a topic three numbers are kept by its key, 24 bytes and its place in a table; names are read
again for those that are shown. So a million topics cost whoever asks a hundred megabytes, and the
broker nothing: it is not asked. What is trimmed or compacted counts until the log is freed of it.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from robustmq.core import batches, blocks
from robustmq.core.hashing import topic_key
from robustmq.storage import shard_log
from robustmq.storage.inspection import Entry, log_entries

_NOT_HERE = blocks.DECLARED | blocks.MEMORY_MODE


class TopicSize(msgspec.Struct, frozen=True, gc=False):
    """One topic of the log; `name` as it is stored (`shared.named` of a shared partition)."""

    name: bytes
    bytes: int
    records: int
    first_offset: int
    next_offset: int
    last_ms: int


ORDERS = ("size", "records", "age")


class TopicSizes:
    """The topics of one shard's log."""

    def __init__(self, directory: Path, fits: Callable[[bytes], bool]) -> None:
        """`fits` says of a name as stored whether it is asked for."""
        self._directory = directory
        self._fits = fits
        self._places: dict[int, int] = {}
        self._names: list[bytes] = []
        self._bytes = array("q")
        self._records = array("q")
        self._first = array("q")
        self._next = array("q")
        self._last_ms = array("q")

    def read(self, end: int | None = None) -> Iterator[int]:
        """Read the log; yields the bytes of each step."""
        for found in log_entries(self._directory, 0, end):
            if isinstance(found, Entry):
                self._entry(found)
                yield found.end - found.position

    def _entry(self, entry: Entry) -> None:
        if entry.kind == shard_log.BLOCK:
            self._block(entry.payload, entry.timestamp_ms)
        elif entry.kind == shard_log.SHARED_BLOCK:
            begin = shard_log.block_begin(entry.payload)
            self._block(entry.payload[begin:], entry.timestamp_ms)
        elif entry.kind == shard_log.TOPIC_DELETED:
            place = self._places.pop(topic_key(entry.payload), None)
            if place is not None:
                self._names[place] = b""
        elif entry.kind == shard_log.TOPIC_TRIMMED:
            place = self._places.get(topic_key(entry.payload[8:]))
            if place is not None:
                self._first[place] = int.from_bytes(entry.payload[:8], "little")

    def _block(self, block: bytes, timestamp_ms: int) -> None:
        for entry in blocks.entries(block):
            if entry.flags & _NOT_HERE:
                continue
            key = int.from_bytes(block[entry.begin + 40 : entry.begin + 48], "little")
            place = self._places.get(key)
            if place is None:
                if not self._fits(entry.topic):
                    continue
                place = self._places[key] = len(self._names)
                self._names.append(entry.topic)
                for column in (self._bytes, self._records, self._next, self._last_ms):
                    column.append(0)
                self._first.append(entry.base_offset)
            taken = batches.validate(block, entry.batch_begin, entry.end, False)
            self._bytes[place] += entry.end - entry.begin
            self._records[place] += taken.count
            self._next[place] = entry.base_offset + taken.last_offset_delta + 1
            self._last_ms[place] = timestamp_ms

    def rows(self, by: str, limit: int) -> list[TopicSize]:
        """The topics that come first in an order: the largest, those with most records, or those
        whose last record is oldest. Limit 0: all."""
        order: dict[str, Callable[[int], int]] = {
            "size": lambda place: -self._bytes[place],
            "records": lambda place: -self._records[place],
            "age": lambda place: self._last_ms[place],
        }
        there = [place for place, name in enumerate(self._names) if name]
        key = order[by]
        chosen = heapq.nsmallest(limit, there, key) if limit else sorted(there, key=key)
        return [self._row(place) for place in chosen]

    def _row(self, place: int) -> TopicSize:
        return TopicSize(
            self._names[place],
            self._bytes[place],
            self._records[place],
            self._first[place],
            self._next[place],
            self._last_ms[place],
        )
