# cython: annotation_typing=False, cdivision=True

"""A cache by 64-bit keys: what is found by a topic's key (`hashing.topic_key`) without its name.

Open addressing with linear probing; key 0 is an empty slot. It doubles up to `capacity` entries;
the next one empties it, so it is bounded and never wrong for long.
"""

from __future__ import annotations

from array import array
from typing import Any

import robustmq.core.memory as memory

FIRST_SLOTS = 64


class HashTable:
    """Key -> value; a value is never None."""

    def __init__(self, capacity: int) -> None:
        """`capacity` bounds the entries."""
        self.capacity = capacity
        self.size = 0
        self._make(FIRST_SLOTS)

    def __len__(self) -> int:
        return self.size

    def _make(self, slots: int) -> None:
        self.mask = slots - 1
        self.keys: array[int] = array("Q", bytes(8 * slots))
        self.values: list[Any] = [None] * slots

    def find(self, key: int) -> Any:
        """The value of a key; None when it is not there."""
        keys = memory.unsigned_longs(self.keys)
        at = key & self.mask
        while keys[at]:
            if keys[at] == key:
                return self.values[at]
            at = (at + 1) & self.mask
        return None

    def put(self, key: int, value: Any) -> None:
        """Add a key, or give it another value."""
        if self.size >= self.capacity:
            self.clear()
        if self.size * 2 > self.mask:
            self._grow()
        keys = memory.unsigned_longs(self.keys)
        at = key & self.mask
        while keys[at] and keys[at] != key:
            at = (at + 1) & self.mask
        if not keys[at]:
            keys[at] = key
            self.size += 1
        self.values[at] = value

    def _grow(self) -> None:
        old_keys = self.keys
        old_values = self.values
        self._make((self.mask + 1) * 2)
        self.size = 0
        for at in range(len(old_keys)):
            if old_keys[at]:
                self.put(old_keys[at], old_values[at])

    def clear(self) -> None:
        """Forget all."""
        if self.size:
            self.size = 0
            self._make(FIRST_SLOTS)
