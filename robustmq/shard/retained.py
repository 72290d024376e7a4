"""Retained values: the last message of a topic that asked to be kept (MQTT 5.0 section 3.3.1.3).

Decided at the topic's owner, in the order of the log. A value is stored as a block entry with one
record, so it is delivered by the same code as any other message; its head says when it expires
(`storage.retained_values`). An empty payload clears the value and is not stored [MQTT-3.3.1-6, -7].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import MESSAGE_EXPIRY, RETAIN, Record
from robustmq.shard import wire
from robustmq.shard.interest import is_wildcard
from robustmq.shard.placement import ENTRY_ACK, ENTRY_KAFKA, ENTRY_RETAIN
from robustmq.storage.retained_values import EXPIRES_AT, NEVER
from robustmq.storage.shard_store import ShardStore

PAGE_BYTES = 1024 * 1024
LOOKS_A_QUERY = 100
"""Looks into a shard for the filters of one query."""


def kept(block: bytearray | bytes) -> Iterator[tuple[blocks.EntryView, Record]]:
    """The entries of a block that ask to be retained, each with its last record that does."""
    for entry in blocks.entries(block):
        if not entry.flags & ENTRY_RETAIN:
            continue
        last: Record | None = None
        for record in batches.parse(bytes(block[entry.batch_begin : entry.end])):
            if is_retained(record):
                last = record
        if last is not None:
            yield entry, last


def is_retained(record: Record) -> bool:
    """Does a record ask to be kept?"""
    return any(name == RETAIN and value == b"1" for name, value in record.headers)


def retain(store: ShardStore, block: bytearray | bytes, expiry_s: int) -> None:
    """Keep the retained values that a block carries. `expiry_s` is for those that have no message
    expiry interval; 0: they stay."""
    for entry, record in kept(block):
        if not record.value:
            store.retained.set(entry.topic, None)
            continue
        value = bytearray(value_entry(entry.topic, record, entry.flags, entry.origin))
        expires_ms = _expires_ms(record, expiry_s)
        value[EXPIRES_AT : EXPIRES_AT + 8] = expires_ms.to_bytes(8, "little")
        store.retained.set(entry.topic, bytes(value))


def value_entry(topic: bytes, record: Record, flags: int, origin: int) -> bytes:
    """A retained value: a block entry with one record."""
    batch = batches.build([record], record.timestamp_ms)
    flags &= ENTRY_ACK | ENTRY_RETAIN | ENTRY_KAFKA
    return build_entry(topic, b"", 0, flags, origin, 0, batch)


def _expires_ms(record: Record, expiry_s: int) -> int:
    """When a value expires: by its own interval, else after `expiry_s`; never when nobody knows how
    old it is."""
    for name, value in record.headers:
        if name == MESSAGE_EXPIRY and value is not None and value.isdigit():
            expiry_s = int(value)
            break
    else:
        if not expiry_s:
            return NEVER
    if record.timestamp_ms < 0:
        return NEVER
    return min(record.timestamp_ms + 1000 * expiry_s, NEVER)


def may_retain(batch: bytes | bytearray, compacted: bool) -> bool:
    """Can the records of a batch change retained values?"""
    return compacted or RETAIN.encode() in batch


def produced(
    batch: bytes | bytearray, compacted: bool, topic_of: Callable[[bytes | None], bytes]
) -> list[bytes]:
    """What a batch that Kafka produced does to retained values, as entries with one record: a
    record with the header `mqtt.retain` is kept, and a tombstone of a compacted topic clears (an
    empty record does so). The last record of each MQTT topic counts; `topic_of` a key tells it.

    A compressed batch is not opened for it.
    """
    if not may_retain(batch, compacted):
        return []
    last: dict[bytes, Record] = {}
    for record in batches.parse(batch):
        if is_retained(record):
            last[topic_of(record.key)] = record
        elif compacted and record.value is None:
            cleared = Record(None, b"", [(RETAIN, b"1")], record.timestamp_ms)
            last[topic_of(record.key)] = cleared
    flags = ENTRY_RETAIN | ENTRY_KAFKA
    return [
        value_entry(topic, Record(None, one.value, one.headers, one.timestamp_ms), flags, 0)
        for topic, one in last.items()
    ]


def pages(
    stores: dict[int, ShardStore], query: wire.RetainedQuery, now_ms: int
) -> list[wire.RetainedPage]:
    """What these shards retain for the filters of a query, one after the other from where it says:
    bounded in values, bytes and looks, so that neither the loop nor a frame carries too much. There
    are as many pages as filters were reached, and the last may be cut."""
    stores = {shard: stores[shard] for shard in sorted(stores) if stores[shard].retained.count}
    found: list[wire.RetainedPage] = []
    shard, after = query.shard, query.after
    values, size, looks = query.limit, PAGE_BYTES, LOOKS_A_QUERY
    for filter_ in query.filters:
        page = _page(stores, filter_, shard, after, values, size, now_ms)
        found.append(page)
        shard, after = 0, b""
        values -= len(page.entries)
        size -= sum(len(entry) for _, entry in page.entries)
        looks -= len(stores)
        if page.shard >= 0 or values <= 0 or size <= 0 or looks <= 0:
            break
    return found


def _page(
    stores: dict[int, ShardStore],
    filter_: bytes,
    first: int,
    after: bytes,
    limit: int,
    max_bytes: int,
    now_ms: int,
) -> wire.RetainedPage:
    """What is retained for one filter, from a place in the shard `first` on."""
    if not is_wildcard(filter_):
        entries = [store.retained.get(filter_, now_ms) for store in stores.values()]
        return wire.RetainedPage([(filter_, entry) for entry in entries if entry], -1, b"")
    rows: list[tuple[bytes, bytes]] = []
    for shard, store in stores.items():
        if shard < first:
            continue
        if len(rows) >= limit or max_bytes <= 0:
            return wire.RetainedPage(rows, shard, b"")
        matched, reached = store.retained.match(
            filter_, after if shard == first else b"", limit - len(rows), max_bytes, now_ms
        )
        rows += matched
        if reached:
            return wire.RetainedPage(rows, shard, reached)
        max_bytes -= sum(len(entry) for _, entry in matched)
    return wire.RetainedPage(rows, -1, b"")
