"""The key-value store beside the log: what is looked up (topic names, retained values, snapshots of
machines).

A small interface, so that LevelDB (plyvel) can be replaced where it has no wheel. Writes are made
by the storage thread in batches; reads by the loop, of keys that are few or cached.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import Protocol

import plyvel

Change = tuple[bytes, bytes | None]
"""A key with its new value; None removes it."""


class KeyValue(Protocol):
    """An ordered map of bytes on disk."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        ...

    def write(self, changes: Iterable[Change], sync: bool = False) -> None:
        """All changes, or none after a crash; `sync`: they survive power loss."""
        ...

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `start` (included) to `stop` (excluded) with their values, in order."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class LevelDb:
    """LevelDB by plyvel."""

    def __init__(self, path: str, cache_bytes: int, write_buffer_bytes: int) -> None:
        self._db = plyvel.DB(
            path,
            create_if_missing=True,
            lru_cache_size=cache_bytes,
            write_buffer_size=write_buffer_bytes,
            bloom_filter_bits=10,
            max_open_files=64,
        )

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        value: bytes | None = self._db.get(key)
        return value

    def write(self, changes: Iterable[Change], sync: bool = False) -> None:
        """One write batch."""
        with self._db.write_batch(transaction=True, sync=sync) as batch:
            for key, value in changes:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """An ordered scan."""
        yield from self._db.iterator(start=start, stop=stop)

    def close(self) -> None:
        """Close the files."""
        self._db.close()


class MemoryKeyValue:
    """The same in memory: for the simulation and the tests. Its content outlives `close`."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        return self.values.get(key)

    def write(self, changes: Iterable[Change], sync: bool = False) -> None:
        """All changes."""
        for key, value in changes:
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self._keys = sorted(self.values)

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """An ordered scan."""
        first = bisect.bisect_left(self._keys, start)
        for key in self._keys[first:]:
            if key >= stop:
                return
            yield key, self.values[key]

    def close(self) -> None:
        """Nothing is open."""
