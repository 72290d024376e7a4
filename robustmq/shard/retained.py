"""Retained values: the last message of a topic that asked to be kept (MQTT 5.0 section 3.3.1.3).

Decided at the topic's owner, in the order of the log. A value is stored as a block entry with one
record, so it is delivered by the same code as any other message. An empty payload clears the value
and is not stored [MQTT-3.3.1-6, -7].
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.shard.placement import ENTRY_ACK, ENTRY_RETAIN
from robustmq.storage.shard_store import ShardStore

RETAIN_HEADER = "mqtt.retain"
EXPIRY_HEADER = "mqtt.message-expiry"
QOS_HEADER = "mqtt.qos"


def retain(store: ShardStore, block: bytearray | bytes) -> None:
    """Keep the retained values that a block carries."""
    for entry in blocks.entries(block):
        if not entry.flags & ENTRY_RETAIN:
            continue
        last: Record | None = None
        for record in batches.parse(bytes(block[entry.batch_begin : entry.end])):
            if any(name == RETAIN_HEADER for name, _ in record.headers):
                last = record
        if last is None:
            continue
        if not last.value:
            store.set_retained(entry.topic, None)
            continue
        batch = batches.build([last], last.timestamp_ms)
        flags = entry.flags & (ENTRY_ACK | ENTRY_RETAIN)
        store.set_retained(
            entry.topic, build_entry(entry.topic, b"", 0, flags, entry.origin, 0, batch)
        )


def tombstones(batch: bytes, topic_of: Callable[[bytes | None], bytes]) -> list[bytes]:
    """The MQTT topics whose last record in a batch of a compacted topic is a Kafka tombstone, which
    clears their retained value (design section 7)."""
    last = {topic_of(record.key): record.value for record in batches.parse(batch)}
    return [topic for topic, value in last.items() if value is None]


def page(
    store: ShardStore,
    filter_: bytes,
    after: bytes,
    limit: int,
    is_wildcard: Callable[[bytes], bool],
) -> list[tuple[bytes, bytes]]:
    """(topic, entry) of the shard's retained values that match, in topic order, after `after`."""
    if is_wildcard(filter_):
        return store.match_retained(filter_, after, limit)
    entry = store.get_retained(filter_)
    return [(filter_, entry)] if entry is not None and filter_ > after else []
