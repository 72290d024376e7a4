"""Credit for what nobody confirms: how far the QoS 0 blocks of a worker may run ahead of an owner.

An owner never stops reading the bus, so a publisher's worker must know how much of what it sent the
owner has got rid of. Both count the bytes of the PUBLISH frames without confirmation since their
link is there: `Spent` at the sender, `Taken` at the owner, which tells its count in CREDIT frames.
It keeps them back while its disk is behind, or while another worker does not take what it is told:
then the sender runs out of its window (limits.max_bus_bytes) and reads its clients no more, and TCP
slows them. Costs two additions a frame, and four CREDIT frames a window.
"""

from __future__ import annotations

STEPS = 4
"""An owner tells its count when it has grown by this part of the window."""


class Spent:
    """What was sent to each owner, and how much of it the owner has taken."""

    def __init__(self, worker_count: int) -> None:
        self._sent = [0] * worker_count
        self._taken = [0] * worker_count
        self.short: set[int] = set()
        """The owners that have more before them than the window allows."""

    def add(self, worker: int, size: int, window: int) -> None:
        """A frame was sent."""
        sent = self._sent[worker] = self._sent[worker] + size
        if sent - self._taken[worker] > window:
            self.short.add(worker)

    def credited(self, worker: int, taken: int, window: int) -> None:
        """The owner has taken so much."""
        self._taken[worker] = taken
        if self._sent[worker] - taken <= window:
            self.short.discard(worker)

    def begin(self, worker: int) -> None:
        """A link came up, or is gone: nothing is on its way."""
        self._sent[worker] = self._taken[worker] = 0
        self.short.discard(worker)


class Taken:
    """What came from each worker, and what it was told of that."""

    def __init__(self, worker_count: int) -> None:
        self._taken = [0] * worker_count
        self._told = [0] * worker_count
        self._due: set[int] = set()

    def add(self, worker: int, size: int, window: int) -> None:
        """A frame came."""
        taken = self._taken[worker] = self._taken[worker] + size
        if (taken - self._told[worker]) * STEPS >= window:
            self._due.add(worker)

    def begin(self, worker: int) -> None:
        """A link came up: nothing has come over it."""
        self._taken[worker] = self._told[worker] = 0
        self._due.discard(worker)

    def due(self) -> list[tuple[int, int]]:
        """The workers that are to be told, and what."""
        if not self._due:
            return []
        rows = [(worker, self._taken[worker]) for worker in sorted(self._due)]
        self._due.clear()
        for worker, taken in rows:
            self._told[worker] = taken
        return rows
