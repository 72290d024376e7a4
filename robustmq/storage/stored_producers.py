"""What a shard keeps of the producers of its partitions, and the index of aborted transactions.

A snapshot of a partition's producers says up to which offset it knows them; the log has the rest.
The aborted transactions of a partition are rows by the offset of their marker, so that a reader of
a range finds its rows without those before it, and stops where no later one can begin in its range.
Keys: docs/formats.md, "LevelDB".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from robustmq.storage.lookups import Lookups, after

_PRODUCERS, _ABORTED = b"s", b"a"
_NUMBER = 8

_head_decoder = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
"""Of a snapshot: version, end offset, producers."""


class Aborted(NamedTuple):
    """An aborted transaction: whose, its first offset, that of its marker, and the last stable
    offset behind it."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


def light_key(topic: bytes) -> bytes:
    """The key of a light topic's one partition."""
    return b"l" + len(topic).to_bytes(2, "big") + topic


def declared_key(topic_id: bytes, partition: int) -> bytes:
    """The key of a partition of a declared topic."""
    return _declared(topic_id) + partition.to_bytes(4, "big")


def _declared(topic_id: bytes) -> bytes:
    return b"d" + topic_id


class StoredProducers:
    """The producers that one shard has on its disk."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    def load(self, key: bytes) -> bytes | None:
        """The snapshot of a partition's producers."""
        return self._lookups.get(_PRODUCERS + key)

    def save(self, key: bytes, snapshot: bytes | None) -> None:
        """Keep a snapshot; None: there are no producers."""
        if snapshot is not None or self.load(key) is not None:
            self._lookups.put(_PRODUCERS + key, snapshot)

    def end_offset(self, key: bytes) -> int:
        """Behind all offsets of a partition that are known here."""
        snapshot = self.load(key)
        end_offset = 0 if snapshot is None else _head_decoder.decode(snapshot)[1]
        return max(end_offset, self.last_aborted(key) + 1)

    def light_topics(self) -> set[bytes]:
        """The light topics of which something is known."""
        found = set()
        for prefix in (_PRODUCERS + b"l", _ABORTED + b"l"):
            for name, _ in self._lookups.range(prefix, after(prefix)):
                begin = len(prefix) + 2
                found.add(name[begin : begin + int.from_bytes(name[len(prefix) : begin], "big")])
        return found

    def add_aborted(self, key: bytes, row: Aborted) -> None:
        """A transaction of a partition was aborted."""
        value = b"".join(
            number.to_bytes(_NUMBER, "little")
            for number in (row.producer_id, row.first_offset, row.last_stable_offset)
        )
        self._lookups.put(_aborted_key(key, row.last_offset), value)
        self._lookups.put(_ABORTED + key, row.last_offset.to_bytes(_NUMBER, "little"))

    def aborted(self, key: bytes, offset: int) -> Iterator[Aborted]:
        """The aborted transactions that end at or behind an offset, in the order of their ends."""
        start, stop = _aborted_key(key, offset), _behind(key)
        for name, value in self._lookups.range(start, stop):
            yield Aborted(
                int.from_bytes(value[:8], "little"),
                int.from_bytes(value[8:16], "little"),
                int.from_bytes(name[-_NUMBER:], "big"),
                int.from_bytes(value[16:24], "little"),
            )

    def last_aborted(self, key: bytes) -> int:
        """The offset of the last marker that aborted something; -1: none is known."""
        value = self._lookups.get(_ABORTED + key)
        return -1 if value is None else int.from_bytes(value, "little")

    def trim(self, key: bytes, start_offset: int, limit: int) -> int:
        """Remove the rows of transactions that end before the log begins, so many at most; how many
        there were."""
        stop = _aborted_key(key, start_offset)
        old: list[bytes] = []
        for name, _ in self._lookups.range(_aborted_key(key, 0), stop):
            if len(old) >= limit:
                break
            old.append(name)
        for name in old:
            self._lookups.put(name, None)
        return len(old)

    def drop(self, key: bytes) -> None:
        """The partition is gone."""
        self.save(key, None)
        if self._lookups.get(_ABORTED + key) is None:
            return
        self._lookups.put(_ABORTED + key, None)
        for name, _ in list(self._lookups.range(_ABORTED + key, _behind(key))):
            self._lookups.put(name, None)

    def drop_topic(self, topic_id: bytes) -> None:
        """All partitions of a declared topic have lost their records."""
        for prefix in (_PRODUCERS + _declared(topic_id), _ABORTED + _declared(topic_id)):
            for name, _ in list(self._lookups.range(prefix, after(prefix))):
                self._lookups.put(name, None)


def _aborted_key(key: bytes, offset: int) -> bytes:
    return _ABORTED + key + offset.to_bytes(_NUMBER, "big")


def _behind(key: bytes) -> bytes:
    """The first key behind all rows of a partition."""
    return _ABORTED + key + b"\xff" * (_NUMBER + 1)
