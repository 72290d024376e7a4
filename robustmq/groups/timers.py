"""The time wheel of a worker: deadlines by key, without a clock of its own.

Kept as a heap of (deadline, order, key) with a table of what is in force: setting a key again or
cancelling it leaves a dead entry that is skipped when it surfaces, and the heap is rebuilt when
more than half of it is dead. So a machine may move its deadlines at will, and memory is bounded by
the timers in force. Timers with the same deadline fire in the order in which they were set, which
keeps the simulation the same under a seed.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Key = TypeVar("Key")

_SMALL = 64


class TimeWheel(Generic[Key]):
    """Deadlines of a worker; a key is whatever names the machine and its timer."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._live: dict[Key, tuple[int, int]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._live)

    def set(self, key: Key, deadline_ms: int | None) -> None:
        """Set or replace the deadline of a key; None cancels."""
        if deadline_ms is None:
            self._live.pop(key, None)
        else:
            self._order += 1
            self._live[key] = (deadline_ms, self._order)
            heapq.heappush(self._heap, (deadline_ms, self._order, key))
        if len(self._heap) > _SMALL and len(self._heap) > 2 * len(self._live):
            self._heap = [(when, order, key) for key, (when, order) in self._live.items()]
            heapq.heapify(self._heap)

    def next_deadline_ms(self) -> int | None:
        """When the worker must look again, or None."""
        self._skip_dead()
        return self._heap[0][0] if self._heap else None

    def due(self, now_ms: int, limit: int = 1000) -> list[Key]:
        """Take out the keys whose time has come, oldest first, at most `limit` (the rest next
        turn).
        """
        keys: list[Key] = []
        while len(keys) < limit:
            self._skip_dead()
            if not self._heap or self._heap[0][0] > now_ms:
                break
            key = heapq.heappop(self._heap)[2]
            del self._live[key]
            keys.append(key)
        return keys

    def _skip_dead(self) -> None:
        while self._heap:
            deadline_ms, order, key = self._heap[0]
            if self._live.get(key) == (deadline_ms, order):
                return
            heapq.heappop(self._heap)
