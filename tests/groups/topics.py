"""The declared topics as a test sets them."""

from __future__ import annotations

import uuid

from robustmq.shard.cluster_view import Declared


class Topics:
    """Topics by name; ids are made from names and how often a topic was made."""

    def __init__(self) -> None:
        self.known: dict[bytes, Declared] = {}
        self.times_ms: tuple[int, int] | None = None
        self.share_groups: set[str] = set()
        self._made: dict[bytes, int] = {}

    def declared(self, name: bytes) -> Declared | None:
        """What a group asks."""
        return self.known.get(name)

    def group_times_ms(self, group_id: str) -> tuple[int, int] | None:
        """What was set for a group."""
        return self.times_ms

    def is_share_group(self, group_id: str) -> bool:
        """Whether a share group has this id."""
        return group_id in self.share_groups

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
