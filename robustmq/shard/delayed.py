"""Delayed messages: published by the owner of their topic when they are due.

A PUBLISH to `$delayed/{seconds}/{topic}` goes to the shard of the topic itself and waits there
(`storage.delayed`). When its time has come by the wall clock it is appended to the topic as if it
had just been published: offset, order, retained value and delivery are decided then. In the shard
that it waits in it is published and removed by one write, so exactly once; only when its topic has
moved to another shard meanwhile (declared after it was sent) may a crash in between publish it
again.

A shard publishes a slice, and the next when that is committed; the shards take turns. So however
many are due at once, the loop is not held and little waits for the disk.

The time that it waits counts against its message expiry interval [MQTT-3.3.2-5]: what remains goes
on with it, and what has expired is not published.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from robustmq.core import batches, blocks, fanout
from robustmq.core.publish import TopicRoute, build_entry
from robustmq.errors import Fault
from robustmq.records import MESSAGE_EXPIRY, Header, Record
from robustmq.shard.commits import Commits
from robustmq.shard.metering import came
from robustmq.shard.owner import Owner
from robustmq.shard.placement import (
    CLASSES,
    ENTRY_ACK,
    ENTRY_QOS2,
    ENTRY_RETAIN,
    MEMORY,
    Placement,
)
from robustmq.shard.router import AckGroup, Router
from robustmq.storage.delayed import DelayedMessage, published_as
from robustmq.storage.shard_store import DELAYED_OVER, ShardStore

SLICE = 40
"""Entries published in one go, so that what is due at once does not hold the loop."""
_TRY_AGAIN = (Fault.STORAGE_FULL, Fault.STORAGE_FAILED, Fault.OWNER_UNAVAILABLE)


class Delayed:
    """The delayed messages of the shards that this worker holds."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        owner: Owner,
        router: Router,
        wall_ms: Callable[[], int],
        count: Callable[[str, int], None],
        later: Callable[[Callable[[], None]], object],
        turn: Callable[[], None],
    ) -> None:
        """`later` runs a function in a following turn; `turn` sees that this one has an end."""
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._owner = owner
        self._router = router
        self._wall_ms = wall_ms
        self._count = count
        self._later = later
        self._turn = turn
        self._sent_on: set[tuple[int, int, int]] = set()
        self._ready: deque[int] = deque()
        self._busy: set[int] = set()
        self._running = False

    @property
    def waiting(self) -> int:
        """Messages that wait in the shards of this worker."""
        return sum(store.delayed.count for store in self._stores.values())

    def tick(self) -> None:
        """Look what is due."""
        now_ms = self._wall_ms()
        for shard, store in self._stores.items():
            if shard not in self._busy and _is_due(store, now_ms):
                self._line_up(shard)

    def _line_up(self, shard: int) -> None:
        self._busy.add(shard)
        self._ready.append(shard)
        if not self._running:
            self._running = True
            self._later(self._publish_slice)

    def _publish_slice(self) -> None:
        """Publish a slice of the shard that is first in line."""
        shard = self._ready.popleft()
        store, now_ms = self._stores[shard], self._wall_ms()
        messages = store.delayed.due(now_ms, SLICE)
        published = sum(self._publish(shard, store, one, now_ms) for one in messages)
        store.delayed.advance()
        if published:
            self._commits.mark(shard, False, lambda: self._committed(shard))
            self._turn()
        else:
            # What cannot be published now is tried again at the next tick.
            self._busy.discard(shard)
        self._running = bool(self._ready)
        if self._running:
            self._later(self._publish_slice)

    def _committed(self, shard: int) -> None:
        self._busy.discard(shard)
        if _is_due(self._stores[shard], self._wall_ms()):
            self._line_up(shard)

    def _publish(self, shard: int, store: ShardStore, message: DelayedMessage, now_ms: int) -> bool:
        """Publish one; False when it has to be tried again later."""
        entry = blocks.entries(message.entry)[0]
        route = self._placement.route(entry.topic)
        block = _as_published(message.entry, entry, route, now_ms)
        if not block:
            self._count("mqtt_delayed_expired", 1)
            self._over(shard, store, message)
            return True
        kind = route.builder % CLASSES
        if route.shard != shard:
            return self._send_on(shard, store, message, route, block)
        refused: list[Fault] = []

        def confirm(fault: Fault | None) -> None:
            if fault is not None:
                refused.append(fault)

        source, sequence = (0, 0) if kind == MEMORY else published_as(message)
        self._owner.publish(shard, kind, block, source, sequence, confirm)
        if refused and refused[0] in _TRY_AGAIN:
            return False
        if refused:
            self._count("mqtt_delayed_refused", 1)
        elif route.meter is not None:
            came(route.meter, fanout.record_levels(block, 0))
        if refused or kind == MEMORY:
            self._over(shard, store, message)
        return True

    def _over(self, shard: int, store: ShardStore, message: DelayedMessage) -> None:
        """The log hears that a message no longer waits."""
        source, sequence = published_as(message)
        store.append(DELAYED_OVER, b"", source, sequence, self._wall_ms())
        self._commits.mark(shard)

    def _send_on(
        self,
        shard: int,
        store: ShardStore,
        message: DelayedMessage,
        route: TopicRoute,
        block: bytearray,
    ) -> bool:
        """The topic lives in another shard by now: its owner confirms before this one forgets."""
        key = (shard, message.due_ms, message.number)
        if key in self._sent_on:
            return False

        def confirmed(group: AckGroup) -> None:
            self._sent_on.discard(key)
            if group.fault is None:
                self._over(shard, store, message)

        self._sent_on.add(key)
        self._router.send(route.builder, block, confirmed)
        return True


def _is_due(store: ShardStore, now_ms: int) -> bool:
    next_due_ms = store.delayed.next_due_ms
    return next_due_ms is not None and next_due_ms <= now_ms


def _as_published(
    entry: bytes, view: blocks.EntryView, route: TopicRoute, now_ms: int
) -> bytearray:
    """The entry that is appended to the topic now; empty when all of it has expired."""
    records: list[Record] = []
    for record in batches.parse(entry, view.batch_begin, view.end):
        headers = _headers_now(record, now_ms)
        if headers is not None:
            key = route.topic if route.log_name else None
            records.append(Record(key, record.value, headers, now_ms))
    if not records:
        return bytearray()
    flags = route.flags | view.flags & (ENTRY_ACK | ENTRY_RETAIN | ENTRY_QOS2)
    batch = batches.build(records, now_ms)
    return bytearray(
        build_entry(route.topic, route.log_name, route.partition, flags, view.origin, 0, batch)
    )


def _headers_now(record: Record, now_ms: int) -> list[Header] | None:
    """A record's headers with what remains of its message expiry interval; None when nothing
    does."""
    waited_s = max(0, now_ms - record.timestamp_ms) // 1000
    headers: list[Header] = []
    for name, value in record.headers:
        if name == MESSAGE_EXPIRY and value is not None:
            if int(value) <= waited_s:
                return None
            value = b"%d" % (int(value) - waited_s)
        headers.append((name, value))
    return headers
