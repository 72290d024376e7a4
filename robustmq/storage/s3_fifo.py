"""Which block of a cache makes way: S3-FIFO (Yang et al., "FIFO queues are all you need for cache
eviction", SOSP 2023).

What comes for the first time waits in a small queue of a tenth of the room. If nobody asks for it
again until it reaches the end, it goes, and only its name stays for a while, in a third queue; so a
scan of more than the cache holds passes through the small queue and moves nothing else. What was
asked for again, or comes back while its name is known, is put into the main queue, where it goes
round once more for each time that it was asked for, up to three.

Invariants: `size` is the sum of the sizes of what is in the two queues and never above the
capacity; the third holds at most as many names as the two. Keys are integers; nothing of this does
I/O or asks a clock.
"""

from __future__ import annotations

from collections import OrderedDict

SMALL_PART = 10
"""The small queue has one part of so many of the room."""
MAX_FREQUENCY = 3


class S3Fifo:
    """The order in which keys make way. Each has a size; the values are the caller's."""

    __slots__ = ("_frequency", "_ghosts", "_main", "_small", "_small_size", "capacity", "size")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._small_size = 0
        # Key to size, oldest first. What is asked for does not change its place.
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        # How often it was asked for again; a key that never was has no row.
        self._frequency: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __contains__(self, key: int) -> bool:
        return key in self._small or key in self._main

    def hit(self, key: int) -> None:
        """A key that is in was asked for."""
        frequency = self._frequency.get(key, 0)
        if frequency < MAX_FREQUENCY:
            self._frequency[key] = frequency + 1

    def add(self, key: int, size: int, known: bool = False) -> list[int]:
        """A new key comes in; those that make way for it. One that is larger than the whole room
        is refused, and is all that makes way. `known`: it was in before (a restart), and has its
        place in the main queue."""
        assert key not in self, "a key comes in once"
        if size > self.capacity:
            return [key]
        gone: list[int] = []
        returns = key in self._ghosts
        self._ghosts.pop(key, None)
        while self.size + size > self.capacity:
            gone.append(self.make_way())
        if known or returns:
            self._main[key] = size
        else:
            self._small[key] = size
            self._small_size += size
        self.size += size
        return gone

    def remove(self, key: int) -> None:
        """Forget a key, whether it is in or not."""
        size = self._small.pop(key, None)
        if size is not None:
            self._small_size -= size
        else:
            size = self._main.pop(key, 0)
        self.size -= size
        self._frequency.pop(key, None)
        self._ghosts.pop(key, None)

    def stays(self, key: int) -> bool:
        """Was a key that is in asked for again, now or when it was in before?"""
        return key in self._main or key in self._frequency

    def evict(self, key: int) -> None:
        """A key that is in goes before its turn; its name stays."""
        self.remove(key)
        self._remember(key)

    def _remember(self, key: int) -> None:
        self._ghosts[key] = None
        while len(self._ghosts) > len(self) + 1:
            self._ghosts.popitem(last=False)

    def make_way(self) -> int:
        """One key goes, of those that are in. Each step takes one turn off a frequency or moves a
        key on, so this ends; a step costs the same however much is in."""
        while True:
            if self._small and (not self._main or self._small_size * SMALL_PART >= self.capacity):
                key, size = self._small.popitem(last=False)
                self._small_size -= size
                if self._frequency.pop(key, 0):
                    self._main[key] = size
                    continue
                self._remember(key)
                self.size -= size
                return key
            key, size = self._main.popitem(last=False)
            frequency = self._frequency.pop(key, 0)
            if frequency:
                if frequency > 1:
                    self._frequency[key] = frequency - 1
                self._main[key] = size
                continue
            self.size -= size
            return key
