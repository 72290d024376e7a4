"""The key-value store beside the log: what is looked up (topic names, retained values, snapshots of
machines).

A small interface: LevelDB (`leveldb`, by plyvel), or RocksDB (`rocksdb`, by rocksdict) where plyvel
has no wheel or where it is wanted; each is a module of its own, imported when it is used.
Writes are made by the storage thread in batches; reads by the loop, of keys that are few or cached.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from robustmq.storage.data_directory import DataDirectoryError

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


class KeyValueSettings(msgspec.Struct, frozen=True):
    """Bytes of memory that one store may use."""

    cache_bytes: int = 1024 * 1024
    write_buffer_bytes: int = 1024 * 1024


def _open_leveldb(path: str, settings: KeyValueSettings) -> KeyValue:
    from robustmq.storage.leveldb import LevelDb

    return LevelDb(path, settings)


def _open_rocksdb(path: str, settings: KeyValueSettings) -> KeyValue:
    from robustmq.storage.rocksdb import RocksDb

    return RocksDb(path, settings)


Opener = Callable[[str, KeyValueSettings], KeyValue]
STORES: dict[str, tuple[str, Opener]] = {
    "leveldb": ("plyvel", _open_leveldb),
    "rocksdb": ("rocksdict", _open_rocksdb),
}
"""Each kind of store, which is the name of its folder in a shard too: the package it needs, and
what opens it, which raises ImportError where that is not there."""


def open_key_value(directory: str, wanted: str, settings: KeyValueSettings) -> KeyValue:
    """The store in the folder of a shard. A new one is of the kind `wanted`, or with "" of the
    first kind whose package is there; one that exists keeps its kind. Raises DataDirectoryError."""
    there = [kind for kind in STORES if os.path.isdir(f"{directory}/{kind}")]
    if there and wanted not in ("", there[0]):
        raise DataDirectoryError(
            f"{directory} was made with storage.key_value = {there[0]!r}: set it so"
        )
    possible = there or ([wanted] if wanted else list(STORES))
    for kind in possible:
        try:
            return STORES[kind][1](f"{directory}/{kind}", settings)
        except ImportError:
            continue
    package = STORES[possible[0]][0]
    raise DataDirectoryError(
        f"{directory} needs the package {package}, which is not installed: pip install {package}"
    )


class MemoryKeyValue:
    """The same in memory: for the simulation and the tests. Its content outlives `close`, and
    `lose_power` takes back the last writes that were not synced."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._unsynced: list[list[Change]] = []
        """What undoes each write since the last one that was synced."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        return self.values.get(key)

    def write(self, changes: Iterable[Change], sync: bool = False) -> None:
        """All changes."""
        undo: list[Change] = []
        for key, value in changes:
            undo.append((key, self.values.get(key)))
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self._keys = sorted(self.values)
        self._unsynced.append(undo)
        if sync:
            self._unsynced.clear()

    def lose_power(self, keep: float) -> None:
        """Of the writes since the last one that was synced, keep this part (0 to 1)."""
        lost = self._unsynced[int(len(self._unsynced) * keep) :]
        self._unsynced.clear()
        for undo in reversed(lost):
            self.write(reversed(undo), True)

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """An ordered scan."""
        first = bisect.bisect_left(self._keys, start)
        for key in self._keys[first:]:
            if key >= stop:
                return
            yield key, self.values[key]

    def close(self) -> None:
        """Nothing is open."""
