"""The declared topics as a test sets them."""

from __future__ import annotations

import uuid

from robustmq.shard.cluster_view import Declared


class Topics:
    """Topics by name; ids are made from names and how often a topic was made."""

    def __init__(self) -> None:
        self.known: dict[bytes, Declared] = {}
        self._made: dict[bytes, int] = {}

    def declared(self, name: bytes) -> Declared | None:
        """What a group asks."""
        return self.known.get(name)

    def make(self, name: bytes, partitions: int) -> uuid.UUID:
        """Declare a topic."""
        self._made[name] = self._made.get(name, 0) + 1
        topic_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{name!r} {self._made[name]}")
        self.known[name] = Declared(name, topic_id, partitions)
        return topic_id

    def grow(self, name: bytes, partitions: int) -> None:
        """Add partitions."""
        self.known[name] = Declared(name, self.known[name].topic_id, partitions)

    def delete(self, name: bytes) -> None:
        """Drop a topic."""
        del self.known[name]
