"""Tables by topic, as the core wants them."""

from __future__ import annotations

from typing import Any

from robustmq.core.hash_table import HashTable
from robustmq.core.hashing import topic_key


def by_topic(values: dict[bytes, Any] | None = None) -> HashTable:
    """A table with a value for each topic."""
    table = HashTable(1 << 20)
    for topic, value in (values or {}).items():
        table.put(topic_key(topic), value)
    return table
