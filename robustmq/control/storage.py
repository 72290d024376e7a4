"""Storage, as operators look at it: what only the worker knows. The files they read themselves
(`storage.inspection`)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from uuid import UUID

from robustmq import engines, names
from robustmq.control.contract import Operator, Refused, Steps, pattern
from robustmq.control.messages import (
    CompactedRow,
    CompactStorage,
    HeldRow,
    KeptRow,
    ListHeld,
    ListLookups,
    ListShards,
    LookupRow,
    ShardRow,
    ShowKept,
)
from robustmq.promises import Promise
from robustmq.shard.broker import Broker
from robustmq.shard.partitions import HeldLog
from robustmq.storage.lookups import after
from robustmq.storage.memory import MemoryPartition
from robustmq.storage.segment import SegmentPartition

LOOK_US = 20_000
"""How often an operator who waits for a compaction is told whether it is over."""
MAX_TOPICS = 1_000
_IS_ID = re.compile("[0-9a-f]{32}")


def list_shards(operator: Operator, _request: ListShards) -> Steps:
    """One row for each."""
    broker = operator.broker
    open_ = dict.fromkeys(broker.stores, 0)
    memory = dict.fromkeys(broker.stores, 0)
    for held in broker.partitions.walk():
        open_[held.shard] += 1
        if isinstance(held.log, MemoryPartition):
            memory[held.shard] += held.log.weight
        yield None
    for shard, store in broker.stores.items():
        rings = sum(ring.weight for _, ring in store.light.rings())
        yield ShardRow(
            shard,
            broker.worker_id,
            store.start_position,
            store.end_position,
            store.committed_position,
            store.checkpoint_position,
            len(store.light),
            open_[shard],
            memory[shard] + rings,
            _dead_bytes(broker, shard),
        )


def _dead_bytes(broker: Broker, shard: int) -> int:
    rows = broker.log_cleaning.rows(shard)
    return sum(max(0, row.size - row.needed_bytes) for row in rows if row.needed_bytes >= 0)


def list_held(operator: Operator, request: ListHeld) -> Steps:
    """Open partitions of declared topics, then topics of mode memory."""
    broker = operator.broker
    fits = pattern(request.filter)
    for held in broker.partitions.walk():
        name = _shown(held.topic)
        if not fits(name) or broker.placement.kept(held.topic).engine == engines.SHARED:
            yield None
            continue
        yield _held_row(broker, held, name)
    for shard, store in broker.stores.items():
        for topic, ring in store.light.rings():
            name = _shown(topic)
            if not fits(name):
                yield None
                continue
            last = max((info.max_timestamp for info in ring.last_batches(1)), default=-1)
            yield HeldRow(
                name,
                0,
                shard,
                broker.worker_id,
                engines.MEMORY,
                "memory",
                False,
                ring.size,
                ring.start_offset,
                ring.end_offset,
                last,
            )


def _held_row(broker: Broker, held: HeldLog, name: str) -> HeldRow:
    log = held.log
    kept = broker.placement.kept(held.topic)
    last = max((info.max_timestamp for info in log.last_batches(1)), default=-1)
    return HeldRow(
        name,
        held.partition,
        held.shard,
        broker.worker_id,
        engines.MEMORY if kept.mode == "memory" else kept.engine,
        kept.mode,
        isinstance(log, SegmentPartition) and log.settings.tiered,
        log.size,
        log.start_offset,
        log.end_offset,
        last,
    )


def show_kept(operator: Operator, request: ShowKept) -> Steps:
    """Mode and engine of each topic that was asked for."""
    if len(request.topics) > MAX_TOPICS:
        raise Refused(f"at most {MAX_TOPICS} topics at a time")
    broker = operator.broker
    for asked in request.topics:
        topic = broker.cluster.declared_by_id(UUID(asked)) if _IS_ID.fullmatch(asked) else None
        if topic is None:
            # A light topic: its records are in the log of its shard, whatever rules say of engines.
            yield KeptRow(asked, asked, broker.placement.mode(asked.encode()), "light")
        else:
            kept = broker.placement.kept(topic)
            yield KeptRow(asked, _shown(topic), kept.mode, kept.engine)


def list_lookups(operator: Operator, request: ListLookups) -> Steps:
    """A range of one shard's look-ups."""
    store = operator.broker.stores.get(request.shard)
    if store is None:
        return
    try:
        prefix = base64.b64decode(request.prefix, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("the prefix must be base64") from None
    for key, value in store.lookups(prefix, after(prefix)):
        yield LookupRow(key, value)


def compact(operator: Operator, request: CompactStorage) -> Steps:
    """One partition after the other; answered when it is over."""
    broker = operator.broker
    for held in _wanted(broker, request):
        while not broker.cleaning.is_idle():
            yield _pause(broker)
        before = held.log.size
        reason = broker.cleaning.compact_now(held)
        while not reason and not broker.cleaning.is_idle():
            yield _pause(broker)
        if reason and not request.topic:
            yield None
            continue
        yield CompactedRow(
            _shown(held.topic),
            held.partition,
            held.shard,
            broker.worker_id,
            before,
            held.log.size,
            reason,
        )
    if request.topic:
        return
    for shard in list(broker.stores):
        if request.shard in (-1, shard):
            before = sum(row.size for row in broker.log_cleaning.rows(shard))
            cleaned = broker.log_cleaning.clean_now(shard)
            yield cleaned
            yield CompactedRow("", -1, shard, broker.worker_id, before, cleaned.result())


def _wanted(broker: Broker, request: CompactStorage) -> Iterator[HeldLog]:
    topic = request.topic.encode()
    by_kafka = names.from_kafka(request.topic) if request.topic else b""
    for held in broker.partitions.walk():
        here = request.shard < 0 or held.shard == request.shard
        if here and (not topic or held.topic in (topic, by_kafka)):
            yield held


def _pause(broker: Broker) -> Promise[None]:
    passed: Promise[None] = Promise()
    broker.around.call_later(LOOK_US, lambda: passed.resolve(None))
    return passed


def _shown(topic: bytes) -> str:
    return topic.decode(errors="backslashreplace")
