"""Retained values: the last message of a topic that asked to be kept (MQTT 5.0 section 3.3.1.3).

Decided at the topic's owner, in the order of the log. A value is stored as a block entry with one
record, so it is delivered by the same code as any other message; its head says when it expires
(`storage.retained_values`). An empty payload clears the value and is not stored [MQTT-3.3.1-6, -7].
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import MESSAGE_EXPIRY, RETAIN, Record
from robustmq.shard.placement import ENTRY_ACK, ENTRY_RETAIN
from robustmq.storage.retained_values import EXPIRES_AT, NEVER
from robustmq.storage.shard_store import ShardStore


def retain(store: ShardStore, block: bytearray | bytes, expiry_s: int) -> None:
    """Keep the retained values that a block carries. `expiry_s` is for those that have no message
    expiry interval; 0: they stay."""
    for entry in blocks.entries(block):
        if not entry.flags & ENTRY_RETAIN:
            continue
        last: Record | None = None
        for record in batches.parse(bytes(block[entry.batch_begin : entry.end])):
            if any(name == RETAIN for name, _ in record.headers):
                last = record
        if last is None:
            continue
        if not last.value:
            store.retained.set(entry.topic, None)
            continue
        batch = batches.build([last], last.timestamp_ms)
        flags = entry.flags & (ENTRY_ACK | ENTRY_RETAIN)
        value = bytearray(build_entry(entry.topic, b"", 0, flags, entry.origin, 0, batch))
        expires_ms = _expires_ms(last, expiry_s)
        value[EXPIRES_AT : EXPIRES_AT + 8] = expires_ms.to_bytes(8, "little")
        store.retained.set(entry.topic, bytes(value))


def _expires_ms(record: Record, expiry_s: int) -> int:
    """When a value expires: by its own interval, else after `expiry_s`."""
    for name, value in record.headers:
        if name == MESSAGE_EXPIRY and value is not None and value.isdigit():
            expiry_s = int(value)
            break
    else:
        if not expiry_s:
            return NEVER
    return min(record.timestamp_ms + 1000 * expiry_s, NEVER)


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
    now_ms: int,
) -> list[tuple[bytes, bytes]]:
    """(topic, entry) of the shard's retained values that match, in topic order, after `after`."""
    if is_wildcard(filter_):
        return store.retained.match(filter_, after, limit, now_ms)
    entry = store.retained.get(filter_, now_ms)
    return [(filter_, entry)] if entry is not None and filter_ > after else []
