"""The subscribers of a worker: by client id, and in an order that can be walked in slices.

Invariant: a walk holds no copy and survives whatever comes and goes between its steps. Who is there
from its beginning to its end is met; who is moved because another goes may be met twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustmq.shard.subscriber import Subscriber


class Roster:
    """A dictionary whose values stand in an array too; each knows its place there."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Subscriber] = {}
        self._order: list[Subscriber] = []
        self.get = self._by_id.get

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, client_id: bytes) -> bool:
        return client_id in self._by_id

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber whose client id is not there."""
        assert subscriber.client_id not in self._by_id, "a client id has one subscriber"
        subscriber.place = len(self._order)
        self._order.append(subscriber)
        self._by_id[subscriber.client_id] = subscriber

    def remove(self, client_id: bytes) -> None:
        """Take a subscriber out, if it is there; the last one takes its place."""
        gone = self._by_id.pop(client_id, None)
        if gone is None:
            return
        last = self._order.pop()
        if last is not gone:
            self._order[gone.place] = last
            last.place = gone.place

    def walk(self) -> Iterator[Subscriber]:
        """From the end to the beginning: whoever is moved comes to a place that is not met yet, or
        was met already."""
        place = len(self._order)
        while (place := min(place, len(self._order)) - 1) >= 0:
            yield self._order[place]

    def all(self) -> list[Subscriber]:
        """The subscribers of now, where a pause does not matter: recovery, snapshots."""
        return list(self._order)
