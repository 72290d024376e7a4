"""The retained values of one shard: in LevelDB by topic, with a count and an index of what expires.

A value is a block entry with one record. Where other entries hold the position of their
predecessor it holds the wall clock at which it expires, NEVER for none, so that nothing has to be
decoded to know it; what expires is also found by time, and removed in slices. An expired value is
not shown, whether it was removed yet or not.
"""

from __future__ import annotations

from robustmq.core.filters import FilterTrie
from robustmq.storage.lookups import Lookups, after

NEVER = 2**64 - 1
EXPIRES_AT = 24
"""Where a value holds its time (docs/formats.md, "LevelDB")."""

LOOKS = 4
"""So many values are looked at, at most, for each that is asked for in one slice."""

_RETAINED, _EXPIRES = b"r", b"x"


class RetainedValues:
    """What one shard retains."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        count = lookups.counter(_RETAINED)
        if count is None:
            # Of a version that did not count: once.
            count = sum(1 for _ in lookups.range(_RETAINED, after(_RETAINED)))
        self.count = count

    def set(self, topic: bytes, entry: bytes | None) -> None:
        """Keep, or clear, the value of a topic."""
        key = _RETAINED + topic
        before = self._lookups.get(key)
        if before is None and entry is None:
            return
        if before is not None:
            self._index(topic, before, None)
        if entry is not None:
            self._index(topic, entry, b"")
        self._lookups.put(key, entry)
        self.count += (entry is not None) - (before is not None)
        self._lookups.set_counter(_RETAINED, self.count)

    def _index(self, topic: bytes, entry: bytes, value: bytes | None) -> None:
        expires_ms = expires_at_ms(entry)
        if expires_ms != NEVER:
            self._lookups.put(_EXPIRES + expires_ms.to_bytes(8, "big") + topic, value)

    def get(self, topic: bytes, now_ms: int = 0) -> bytes | None:
        """The value of a topic."""
        entry = self._lookups.get(_RETAINED + topic)
        return None if entry is None or expires_at_ms(entry) <= now_ms else entry

    def match(
        self, filter_: bytes, after_topic: bytes, limit: int, max_bytes: int, now_ms: int = 0
    ) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """(topic, entry) of the values that match a filter, by topic, after `after_topic`, and the
        topic to go on after (b"": that was all). One slice: it ends with `limit` values, or
        `max_bytes` of them, or when many were looked at."""
        trie = FilterTrie()
        trie.insert(filter_, 1)
        prefix = _literal_prefix(filter_)
        start = max(_RETAINED + prefix, _RETAINED + after_topic + b"\0" if after_topic else b"")
        found: list[tuple[bytes, bytes]] = []
        size = 0
        rows = self._lookups.range(start, after(_RETAINED + prefix))
        for looked_at, (key, value) in enumerate(rows, 1):
            topic = key[1:]
            if trie.match(topic) and expires_at_ms(value) > now_ms:
                found.append((topic, value))
                size += len(value)
            if len(found) >= limit or size >= max_bytes or looked_at >= LOOKS * limit:
                return found, topic
        return found, b""

    def sweep(self, now_ms: int, limit: int) -> int:
        """Remove what has expired, so many at most; how many."""
        stop = _EXPIRES + (now_ms + 1).to_bytes(8, "big")
        expired: list[bytes] = []
        for key, _ in self._lookups.range(_EXPIRES, stop):
            expired.append(key[9:])
            if len(expired) == limit:
                break
        for topic in expired:
            self.set(topic, None)
        return len(expired)


def expires_at_ms(entry: bytes) -> int:
    """When a value expires; NEVER for one that does not."""
    return int.from_bytes(entry[EXPIRES_AT : EXPIRES_AT + 8], "little")


def _literal_prefix(filter_: bytes) -> bytes:
    """The beginning that every topic of a filter has."""
    levels: list[bytes] = []
    for level in filter_.split(b"/"):
        if level in (b"+", b"#"):
            # `a/#` matches `a` too.
            return b"/".join(levels)
        levels.append(level)
    return filter_
