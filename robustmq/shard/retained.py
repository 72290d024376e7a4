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
from robustmq.shard import wire
from robustmq.shard.interest import is_wildcard
from robustmq.shard.placement import ENTRY_ACK, ENTRY_RETAIN
from robustmq.storage.retained_values import EXPIRES_AT, NEVER
from robustmq.storage.shard_store import ShardStore

PAGE_BYTES = 1024 * 1024


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
    stores: dict[int, ShardStore], query: wire.RetainedQuery, now_ms: int
) -> wire.RetainedPage:
    """One slice of the retained values of these shards that match, from where the query says:
    bounded in values and bytes, so that neither the loop nor a frame carries too much."""
    if not is_wildcard(query.filter):
        found = [store.retained.get(query.filter, now_ms) for store in stores.values()]
        return wire.RetainedPage([(query.filter, entry) for entry in found if entry], -1, b"")
    remaining = sorted(shard for shard in stores if shard >= query.shard)
    after = query.after
    for shard in remaining:
        rows, reached = stores[shard].retained.match(
            query.filter, after, query.limit, PAGE_BYTES, now_ms
        )
        if reached:
            return wire.RetainedPage(rows, shard, reached)
        if rows:
            following = shard + 1 if shard != remaining[-1] else -1
            return wire.RetainedPage(rows, following, b"")
        after = b""
    return wire.RetainedPage([], -1, b"")
