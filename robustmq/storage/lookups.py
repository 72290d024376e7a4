"""What a shard looks up by key: LevelDB, with the changes over it that are not written yet.

Changes are made on the loop and are seen at once; the storage thread writes them in batches, behind
the log that they follow from (`take`, `written`). A counter is a key like any other, so it is
exact after a crash as far as the changes that it counts are.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustmq.storage.kv import KeyValue

Changes = dict[bytes, bytes | None]
_COUNTER = b"n"
LAST_KEY = b"\xff" * 16
"""Behind all keys: they begin with letters."""


class Lookups:
    """The keys of one shard."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv
        self._changes: Changes = {}
        self._writing: Changes = {}

    def put(self, key: bytes, value: bytes | None) -> None:
        """Give a key another value; None removes it."""
        self._changes[key] = value

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        for changes in (self._changes, self._writing):
            if key in changes:
                return changes[key]
        return self._kv.get(key)

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `start` (included) to `stop` (excluded) with their values, in order."""
        fresh = {
            key: value
            for changes in (self._writing, self._changes)
            for key, value in changes.items()
            if start <= key < stop
        }
        return _overlaid(self._kv.range(start, stop), fresh)

    def counter(self, name: bytes) -> int | None:
        """A number that was kept; None when there is none."""
        value = self.get(_COUNTER + name)
        return None if value is None else int.from_bytes(value, "little")

    def set_counter(self, name: bytes, number: int) -> None:
        """Keep a number."""
        self.put(_COUNTER + name, number.to_bytes(8, "little"))

    def take(self) -> Changes:
        """The changes since the last call, to be written in one batch."""
        changes, self._changes = self._changes, {}
        if changes:
            self._writing = {**self._writing, **changes}
        return changes

    def written(self, changes: Changes) -> None:
        """These are in LevelDB now."""
        writing = self._writing
        for key, value in changes.items():
            if writing.get(key, b"") is value:
                del writing[key]


def after(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix; of a prefix of none or of bytes 255 alone
    one behind all keys."""
    counted = prefix.rstrip(b"\xff")
    return counted[:-1] + bytes([counted[-1] + 1]) if counted else LAST_KEY


def _overlaid(
    stored: Iterator[tuple[bytes, bytes]], fresh: Changes
) -> Iterator[tuple[bytes, bytes]]:
    """Stored pairs in order, with fresh ones over them."""
    waiting = sorted(fresh)
    at = 0
    for key, value in stored:
        while at < len(waiting) and waiting[at] < key:
            new = fresh[waiting[at]]
            if new is not None:
                yield waiting[at], new
            at += 1
        if key in fresh:
            continue
        yield key, value
    for name in waiting[at:]:
        new = fresh[name]
        if new is not None:
            yield name, new
