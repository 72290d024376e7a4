"""The subscriber's side: from a delivered block to the clients of this worker.

A block is matched once a topic (`DeliveryRoute`, kept until a subscription changes). Copies of QoS
0 are encoded straight into the sinks by the compiled core, once for each variant. For QoS 1 and 2 a
message is queued in the session: for a session that ends with its connection as a reference into
memory, for a persistent one as a reference to an inbox entry in the log of its shard, and `done` is
called when those are committed (invariant 1). Each client gets one copy of a message, however many
of its subscriptions match, with the highest QoS and all identifiers [MQTT-3.3.4-2, -4].
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple, cast

from robustmq.core import blocks, fanout
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.core.filters import FilterTrie
from robustmq.core.hash_table import HashTable
from robustmq.core.hashing import topic_key
from robustmq.errors import BrokerError
from robustmq.mqtt.inflight import Delivery as Outgoing
from robustmq.mqtt.session_records import Queued
from robustmq.mqtt.subscriptions import Subscription, merge
from robustmq.shard import wire
from robustmq.shard.commits import Commits
from robustmq.shard.inbox import (
    Inbox,
    InboxEntry,
    InboxPart,
    Located,
    Recipient,
    encode_inbox,
    first_ordinals,
    reference,
)
from robustmq.shard.left_behind import LeftBehind
from robustmq.shard.metering import Meter, Meters, NoMeters
from robustmq.shard.placement import ENTRY_PERSISTENT
from robustmq.shard.shares import RETAIN_FLAG, LocalSubscription, share_flags
from robustmq.shard.slow import SlowSubscriptions
from robustmq.shard.subscriber import Subscriber
from robustmq.storage.shard_store import INBOX, ShardStore

MAX_ROUTES = 65536
LEVEL_BITS = 3
"""Of what `fanout.record_levels` says of a record; above them is when it expires."""
UNLIMITED_PACKET = 0


class Wanted:
    """What one client gets of a topic's records with QoS above 0."""

    __slots__ = ("flags", "identifiers", "no_local", "qos", "retain_as_published", "subscriber")

    def __init__(
        self,
        subscriber: Subscriber,
        qos: int,
        retain_as_published: bool,
        no_local: bool,
        identifiers: tuple[int, ...],
        flags: int = 0,
    ) -> None:
        """`flags`: its share group, in the flags of a delivery."""
        self.flags = flags
        self.subscriber = subscriber
        self.qos = qos
        self.retain_as_published = retain_as_published
        self.no_local = no_local
        self.identifiers = identifiers


class Pending:
    """The inbox parts that one delivery brings to one shard; `left` finds nobody there; `source` is
    the shard and the log position that it comes from, -1: of no log."""

    __slots__ = ("left", "parts", "queued", "source")

    def __init__(self) -> None:
        self.source = (-1, 0)
        self.parts: list[InboxPart] = []
        self.left: list[wire.ShareRow] = []
        self.queued: list[tuple[int, list[tuple[Wanted, list[int], list[int]]]]] = []


class Audience(NamedTuple):
    """Who gets what matches the same subscriptions; thousands of topics share one, so that a
    message to any of them finds it in the processor's cache."""

    always: list[Variant]
    when_qos0: list[Variant]
    wanted: list[Wanted]


def audience_of(matched: list[LocalSubscription]) -> Audience:
    """The subscribers of these subscriptions, each once, those with the same bytes together."""
    by_client: dict[int, tuple[Subscriber, list[Subscription]]] = {}
    for local in matched:
        row = by_client.setdefault(id(local.subscriber), (local.subscriber, []))
        row[1].append(local.subscription)
    always: dict[tuple[object, ...], Variant] = {}
    when_qos0: dict[tuple[object, ...], Variant] = {}
    wanted: list[Wanted] = []
    for subscriber, subscriptions in by_client.values():
        # Overlapping subscriptions: those without No Local still get the client's own messages.
        merged = merge(subscriptions, False)
        if merged is None:
            continue
        qos, retain_as_published = merged.qos, merged.retain_as_published
        identifiers = merged.subscription_ids
        no_local = merge(subscriptions, True) is None
        own_origin = subscriber.origin if no_local else 0
        version = subscriber.session.version
        table = when_qos0 if qos else always
        key = (version, retain_as_published, identifiers, own_origin, subscriber.strip)
        variant = table.get(key)
        if variant is None:
            properties = fanout.identifiers_property(identifiers)
            variant = Variant(
                version, own_origin, retain_as_published, properties, strip=subscriber.strip
            )
            table[key] = variant
        variant.sinks.append(subscriber.sink)
        if qos:
            wanted.append(Wanted(subscriber, qos, retain_as_published, no_local, identifiers))
    return Audience(list(always.values()), list(when_qos0.values()), wanted)


class Delivery:
    """Hands delivered blocks to the clients of this worker."""

    def __init__(
        self,
        stores: dict[int, ShardStore],
        commits: Commits,
        inbox: Inbox,
        left: LeftBehind,
        wall_ms: Callable[[], int],
        ready: Callable[[Subscriber], None],
        count: Callable[[str, int], None],
    ) -> None:
        """`ready(subscriber)` says that its session has something to send at the end of the
        turn."""
        self._stores = stores
        self._commits = commits
        self._inbox = inbox
        self._left = left
        self._wall_ms = wall_ms
        self._ready = ready
        self._count = count
        self._trie = FilterTrie()
        self._routes = HashTable(MAX_ROUTES)
        self.meters: Meters = NoMeters()
        self._mounted = 0
        """Subscriptions of clients under a mount point."""
        self._audiences: dict[tuple[int, ...], Audience] = {}
        self.slow: SlowSubscriptions | None = None
        self._dirty: list[Sink] = []
        self._complex: list[tuple[int, DeliveryRoute]] = []
        self._away: list[tuple[int, Sink]] = []
        self._unqueued: dict[int, dict[int, Pending]] = {}
        self.cursors: dict[int, dict[int, int]] = {}
        self.subscribers: Callable[[bytes], Subscriber | None] = lambda client_id: None

    # -- subscriptions -----------------------------------------------------------------------------

    def add(self, local: LocalSubscription) -> None:
        """A client wants a filter."""
        self._trie.insert(local.filter, local)
        self._mounted += local.subscriber.strip > 0
        self.forget_routes()

    def remove(self, local: LocalSubscription) -> None:
        """A client no longer wants a filter."""
        self._trie.remove(local.filter, local)
        self._mounted -= local.subscriber.strip > 0
        self.forget_routes()

    def forget_routes(self) -> None:
        """What clients want has changed."""
        self._routes.clear()
        self._audiences.clear()

    def _resolve(self, topic: bytes) -> DeliveryRoute:
        """Who gets a topic's messages: made once, until a subscription changes."""
        matched = cast(list[LocalSubscription], self._trie.match(topic))
        if self._mounted:
            matched = [local for local in matched if local.sees(topic)]
        key = tuple(map(id, matched))
        audience = self._audiences.get(key)
        if audience is None:
            if len(self._audiences) >= MAX_ROUTES:
                self._audiences.clear()
            audience = self._audiences[key] = audience_of(matched)
        route = DeliveryRoute(topic, *audience[:2], bool(audience.wanted))
        route.wanted = audience.wanted
        route.meter = self.meters.of(topic)
        self._routes.put(topic_key(topic), route)
        return route

    # -- delivering --------------------------------------------------------------------------------

    def deliver(
        self,
        shard: int,
        position: int,
        block: bytes | bytearray | memoryview,
        flags: int,
        done: Callable[[], None] | None,
    ) -> None:
        """Hand a block to the local clients that `flags` (of wire.DELIVER) name; `done` when
        persistent sessions have it committed."""
        pending: dict[int, Pending] = {}
        if flags & wire.REPLAY:
            for entry in blocks.entries(block):
                route = self._routes.find(topic_key(entry.topic)) or self._resolve(entry.topic)
                self._deliver_above_0(block, entry.begin, route, shard, position, flags, pending)
        else:
            delivered = fanout.deliver(
                block,
                self._routes,
                self._resolve,
                self._dirty,
                self._complex,
                self._away,
                self._wall_ms(),
            )
            if delivered:
                self._count("mqtt_messages_sent", delivered)
                if self.slow is not None:
                    self.slow.delivered(block, self._routes)
            if self._dirty:
                self._wake_sinks()
            if self._complex:
                rows, self._complex = self._complex, []
                for begin, route in rows:
                    self._deliver_above_0(block, begin, route, shard, position, flags, pending)
            if self._away:
                away, self._away = self._away, []
                for begin, sink in away:
                    self._keep(block, begin, sink.owner, pending)
        self.commit(shard, position, pending, done)

    def deal(self, entry: bytes, hands: list[Variant | None]) -> None:
        """Send each record of an entry with QoS 0 to the one who stands at its place."""
        delivered = fanout.deal(entry, 0, hands, self._dirty, self._wall_ms())
        if delivered:
            self._count("mqtt_messages_sent", delivered)
        if self._dirty:
            self._wake_sinks()

    def _wake_sinks(self) -> None:
        for sink in self._dirty:
            peer = sink.owner.peer
            if peer is not None and not peer.writing:
                peer.sink_ready()
        self._dirty.clear()

    def _deliver_above_0(
        self,
        block: bytes | bytearray | memoryview,
        begin: int,
        route: DeliveryRoute,
        shard: int,
        position: int,
        flags: int,
        pending: dict[int, Pending],
    ) -> None:
        """Queue one entry's records in the sessions that want them with QoS above 0."""
        records = fanout.record_levels(block, begin)
        origin = blocks.origin(block, begin)
        data: bytes | None = None
        known = position != wire.NO_POSITION
        for wanted in cast(list[Wanted], route.wanted):
            subscriber = wanted.subscriber
            if wanted.no_local and subscriber.origin == origin:
                continue
            if not subscriber.persistent:
                if flags & wire.REPLAY:
                    continue
            elif known and self.heard(subscriber.shard, shard, position):
                # Also what is told in its turn: a replay may have run ahead of it.
                continue
            if data is None:
                data = blocks.entry_bytes(block, begin)
            self.queue(data, wanted, records, None, pending, flags)

    def _keep(
        self,
        block: bytes | bytearray | memoryview,
        begin: int,
        subscriber: Subscriber,
        pending: dict[int, Pending],
    ) -> None:
        """Queue the copies of QoS 0 of one entry for a client that is away."""
        data = blocks.entry_bytes(block, begin)
        matched = cast(list[LocalSubscription], self._trie.match(blocks.entries(data)[0].topic))
        merged = merge((one.subscription for one in matched if one.subscriber is subscriber), False)
        if merged is None:
            return
        wanted = Wanted(subscriber, 0, merged.retain_as_published, False, merged.subscription_ids)
        records = fanout.record_levels(data, 0)
        self._into_inbox(data, wanted, list(range(len(records))), records, pending)

    def heard(self, home: int, shard: int, position: int) -> bool:
        """Has the shard `home` of some sessions what the source had at `position`?"""
        return self.cursors.get(home, {}).get(shard, -1) >= position

    def queue(
        self,
        data: bytes,
        wanted: Wanted,
        records: list[int],
        indexes: Sequence[int] | None,
        pending: dict[int, Pending],
        flags: int = 0,
    ) -> None:
        """`records` holds for each record its QoS and, as 4, its RETAIN flag; `indexes` selects
        some."""
        subscriber = wanted.subscriber
        chosen = range(len(records)) if indexes is None else indexes
        above = [index for index in chosen if records[index] & 3] if wanted.qos else []
        if len(above) < len(chosen) and not flags & wire.REPLAY:
            if subscriber.sink.kept:
                if flags & wire.EPHEMERAL:
                    above = []
                kept = [i for i in chosen if i in above or not (wanted.qos and records[i] & 3)]
                self._into_inbox(data, wanted, kept, records, pending)
                return
            for index in chosen if subscriber.serving else ():
                if not (wanted.qos and records[index] & 3):
                    self._put_now(data, index, wanted, records[index])
        if above and (subscriber.persistent or flags & wire.KEPT):
            if not flags & wire.EPHEMERAL:
                self._into_inbox(data, wanted, above, records, pending)
        elif above and subscriber.peer is not None:
            self._into_window(data, wanted, above, records)

    def _put_now(self, data: bytes, index: int, wanted: Wanted, record: int) -> None:
        """Send a copy of QoS 0 at once, as the fan-out does: it stays in order with others."""
        subscriber = wanted.subscriber
        sink = subscriber.sink
        if len(sink.data) > sink.limit:
            if sink.limit:
                sink.dropped += 1
            return
        retain = wanted.retain_as_published and bool(record & 4)
        frame = fanout.encode(
            data,
            0,
            index,
            sink.version,
            0,
            False,
            retain,
            0,
            wanted.identifiers,
            self._wall_ms(),
            strip=subscriber.strip,
        )
        if frame and not (sink.max_packet_size and len(frame) > sink.max_packet_size):
            sink.append(frame)
            self._count("mqtt_messages_sent", 1)
            meter = self._meter(data) if self.meters.any else None
            if meter is not None:
                meter.sent(0, 1)
            if subscriber.peer is not None:
                subscriber.peer.sink_ready()

    def _into_window(
        self, data: bytes, wanted: Wanted, indexes: list[int], records: list[int]
    ) -> None:
        """Queue records, by reference into memory, in a session that ends with its connection."""
        subscriber = wanted.subscriber
        # The entry stays in memory as a whole, for these records of it.
        size = len(data) // len(indexes)
        now_ms = self._wall_ms()
        for index in indexes:
            for dropped in subscriber.session.offer(
                self._inbox.hold(data, index),
                min(records[index] & 3, wanted.qos),
                _flags(wanted, records[index]),
                wanted.identifiers,
                size,
                records[index] >> LEVEL_BITS,
                now_ms,
            ):
                self._count_dropped(subscriber, dropped)
                self._inbox.drop(dropped)
        self._ready(subscriber)

    def _into_inbox(
        self,
        data: bytes,
        wanted: Wanted,
        indexes: list[int],
        records: list[int],
        pending: dict[int, Pending],
    ) -> None:
        shard = wanted.subscriber.shard
        inbox = pending.get(shard)
        if inbox is None:
            inbox = pending[shard] = Pending()
        if not inbox.parts or inbox.parts[-1].entry is not data:
            inbox.parts.append(InboxPart(data, []))
            inbox.queued.append((len(inbox.parts) - 1, []))
        inbox.parts[-1].recipients.append(
            Recipient(
                wanted.subscriber.client_id,
                wanted.qos,
                wanted.retain_as_published,
                wanted.identifiers,
                None if len(indexes) == len(records) else tuple(indexes),
                wanted.flags,
            )
        )
        inbox.queued[-1][1].append((wanted, indexes, records))
        wanted.subscriber.unqueued += len(indexes)

    def commit(
        self,
        shard: int,
        position: int,
        pending: dict[int, Pending],
        done: Callable[[], None] | None,
    ) -> None:
        """Write the inbox entries; queue them in their sessions when they are committed."""
        known = position != wire.NO_POSITION
        # What was heard before counts when it is committed, too: the source lets go of it then.
        heard = []
        if known and done is not None:
            heard = [
                home
                for home, table in self.cursors.items()
                if home not in pending
                and table.get(shard, -1) >= position
                and self._stores[home].uncommitted_bytes
            ]
        remaining = len(pending) + len(heard)
        if not remaining:
            if done is not None:
                done()
            return

        def committed() -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining and done is not None:
                done()

        def step(home: int, inbox_position: int, inbox: Pending) -> None:
            self._offer(home, inbox_position, inbox)
            committed()

        for home in heard:
            self._commits.mark(home, False, committed)
        for home, inbox in pending.items():
            if known:
                inbox.source = (shard, position)
            entry = InboxEntry(*inbox.source, inbox.parts, inbox.left)
            inbox_position = self._stores[home].append(
                INBOX, encode_inbox(entry), 0, 0, self._wall_ms()
            )
            if known:
                self.cursors.setdefault(home, {})[shard] = position
            if inbox.left:
                self._left.append(home, inbox_position, inbox.left)
            self._unqueued.setdefault(home, {})[inbox_position] = inbox
            # In a topic of mode persistent a message is on the disk, here too, before it is acked.
            synced = any(blocks.all_flags(part.entry) & ENTRY_PERSISTENT for part in inbox.parts)
            self._commits.mark(
                home,
                synced,
                lambda home=home, at=inbox_position, inbox=inbox: step(home, at, inbox),  # type: ignore[misc]
            )

    @property
    def idle(self) -> bool:
        """True when all that stands in the inbox logs is queued in its sessions."""
        return not any(self._unqueued.values())

    def committed_cursors(self, home: int) -> dict[int, int]:
        """How far a home has heard of other shards in what it cannot lose any more."""
        cursors = dict(self.cursors.get(home, {}))
        for inbox in self._unqueued.get(home, {}).values():
            shard, position = inbox.source
            if shard >= 0:
                cursors[shard] = min(position - 1, cursors[shard])
        return cursors

    def unqueued(self, home: int) -> Iterator[tuple[Subscriber, Queued]]:
        """What stands in the log of a shard and waits for its commit to be queued in its session: a
        checkpoint must not forget it."""
        for inbox_position, inbox in self._unqueued.get(home, {}).items():
            firsts = first_ordinals(inbox.parts)
            for part, rows in inbox.queued:
                for wanted, indexes, records in rows:
                    for index in indexes:
                        yield (
                            wanted.subscriber,
                            Queued(
                                reference(inbox_position, firsts[part] + index),
                                min(records[index] & 3, wanted.qos),
                                _flags(wanted, records[index]),
                                wanted.identifiers,
                                _record_size(inbox.parts[part].entry, records),
                                records[index] >> LEVEL_BITS,
                            ),
                        )

    def withdraw(
        self, subscriber: Subscriber, marks: Container[int]
    ) -> list[tuple[int, int, Located]]:
        """Take back what stands in the inbox log for a member of these share groups and waits for
        its commit: (mark, reference, message)."""
        taken: list[tuple[int, int, Located]] = []
        for inbox_position, inbox in self._unqueued.get(subscriber.shard, {}).items():
            firsts = first_ordinals(inbox.parts)
            for part, rows in inbox.queued:
                for row in list(rows):
                    wanted, indexes, _ = row
                    if wanted.subscriber is subscriber and wanted.flags in marks:
                        rows.remove(row)
                        subscriber.unqueued -= len(indexes)
                        taken += [
                            (
                                wanted.flags,
                                reference(inbox_position, firsts[part] + at),
                                Located(inbox.parts[part].entry, at),
                            )
                            for at in indexes
                        ]
        return taken

    def _offer(self, home: int, inbox_position: int, inbox: Pending) -> None:
        del self._unqueued[home][inbox_position]
        if inbox.left:
            self._left.committed(home, inbox_position)
        firsts = self._inbox.remember(home, inbox_position, inbox.parts)
        now_ms = self._wall_ms()
        for part, rows in inbox.queued:
            for wanted, indexes, records in rows:
                session = wanted.subscriber.session
                wanted.subscriber.unqueued -= len(indexes)
                size = _record_size(inbox.parts[part].entry, records)
                for index in indexes:
                    dropped = session.offer(
                        reference(inbox_position, firsts[part] + index),
                        min(records[index] & 3, wanted.qos),
                        _flags(wanted, records[index]),
                        wanted.identifiers,
                        size,
                        records[index] >> LEVEL_BITS,
                        now_ms,
                    )
                    for one in dropped:
                        self._count_dropped(wanted.subscriber, one)
                self._ready(wanted.subscriber)

    def _count_dropped(self, subscriber: Subscriber, dropped: int) -> None:
        """There was no room in a queue for this message."""
        self._count("mqtt_messages_dropped", 1)
        if self.meters.any:
            located = self._inbox.locate(subscriber.shard, dropped)
            meter = None if located is None else self._meter(located.entry)
            if located is not None and meter is not None:
                meter.dropped(fanout.record_levels(located.entry, 0)[located.index] & 3, 1)

    def _meter(self, entry: bytes) -> Meter | None:
        return self.meters.of(blocks.entries(entry)[0].topic)

    def deliver_retained(self, local: LocalSubscription, entry: bytes) -> None:
        """Send a retained value to one new subscription: RETAIN is 1 [MQTT-3.3.1-8]."""
        if not local.sees(blocks.entries(entry)[0].topic):
            return
        wanted = wanted_of(local)
        wanted.retain_as_published = True
        records = [level | 4 for level in fanout.record_levels(entry, 0)]
        pending: dict[int, Pending] = {}
        self.queue(entry, wanted, records, None, pending)
        self.commit(0, wire.NO_POSITION, pending, None)

    def replay_inbox(
        self, position: int, entry: InboxEntry, home: int, is_known: Callable[[bytes], bool]
    ) -> None:
        """Recovery: queue again what an inbox entry says; what a session has finished it ignores.
        `is_known`: the snapshot of this session has it, or it was done with it."""
        if entry.source_shard >= 0:
            cursors = self.cursors.setdefault(home, {})
            cursors[entry.source_shard] = max(
                entry.source_position, cursors.get(entry.source_shard, -1)
            )
        first = 0
        for part in entry.parts:
            records = fanout.record_levels(part.entry, 0)
            size = _record_size(part.entry, records)
            for recipient in part.recipients:
                subscriber = self.subscribers(recipient.client_id)
                if subscriber is None or is_known(recipient.client_id):
                    continue
                indexes = (
                    recipient.indexes if recipient.indexes is not None else range(len(records))
                )
                for index in indexes:
                    retain = (
                        RETAIN_FLAG if recipient.retain_as_published and records[index] & 4 else 0
                    )
                    subscriber.session.restore_offer(
                        reference(position, first + index),
                        min(records[index] & 3, recipient.qos),
                        recipient.flags | retain,
                        recipient.identifiers,
                        size,
                        records[index] >> LEVEL_BITS,
                    )
            first += len(records)

    # -- sending -----------------------------------------------------------------------------------

    def send(self, subscriber: Subscriber, deliveries: list[Outgoing]) -> bool:
        """Encode deliveries (new or repeated) into the sink of a connected client; True when some
        are given up, because they have expired or are too large for it [MQTT-3.1.2-25]."""
        if subscriber.peer is None or not deliveries:
            return False
        sink, slow = subscriber.sink, self.slow
        sent = 0
        discarded: list[int] = []
        for delivery in deliveries:
            try:
                located = self._inbox.locate(subscriber.shard, delivery.reference)
            except BrokerError as error:
                # The session keeps it, and sends it when the client comes again.
                subscriber.peer.end(error.fault)
                break
            frame = b"" if located is None else self._encode(subscriber, located, delivery)
            if self.meters.any and located is not None:
                self._measure(located.entry, delivery, bool(frame))
            if not delivery.qos:
                self._inbox.drop(delivery.reference)
            if frame:
                sink.append(frame)
                sent += 1
                if slow is not None and located is not None:
                    slow.sent(subscriber, located.entry, delivery)
            elif delivery.qos:
                discarded.append(delivery.packet_id)
        if discarded:
            subscriber.session.discard(discarded)
        if sent:
            self._count("mqtt_messages_sent", sent)
            subscriber.peer.sink_ready()
        return bool(discarded)

    def _measure(self, entry: bytes, delivery: Outgoing, sent: bool) -> None:
        meter = self._meter(entry)
        if meter is not None and not delivery.dup:
            (meter.sent if sent else meter.dropped)(delivery.qos, 1)

    def _encode(self, subscriber: Subscriber, located: Located, delivery: Outgoing) -> bytes:
        """The packet, with a topic alias where the client allows one; b"" if it may not be sent."""
        topic, alias, known = b"", 0, False
        if subscriber.topic_alias_maximum:
            topic = blocks.entries(located.entry)[0].topic
            alias = subscriber.aliases.get(topic, 0)
            known = alias > 0
            if not known and len(subscriber.aliases) < subscriber.topic_alias_maximum:
                alias = len(subscriber.aliases) + 1
        now_ms = self._wall_ms()
        # What the client may know already does not expire: only a handshake ends it.
        for now in (now_ms, 0) if delivery.dup else (now_ms,):
            frame = fanout.encode(
                located.entry,
                0,
                located.index,
                subscriber.sink.version,
                delivery.qos,
                delivery.dup,
                bool(delivery.flags & RETAIN_FLAG),
                delivery.packet_id,
                delivery.subscription_ids,
                now,
                alias,
                not known,
                subscriber.strip,
            )
            if frame:
                break
        largest = subscriber.sink.max_packet_size
        if largest and len(frame) > largest:
            return b""
        if frame and alias and not known:
            subscriber.aliases[topic] = alias
        return frame


def _flags(wanted: Wanted, record: int) -> int:
    """The flags of a delivery: RETAIN, and the share group that it comes by."""
    return wanted.flags | (RETAIN_FLAG if wanted.retain_as_published and record & 4 else 0)


def wanted_of(local: LocalSubscription) -> Wanted:
    """What the client of one subscription gets by it alone."""
    subscription = local.subscription
    identifier = subscription.subscription_identifier
    return Wanted(
        local.subscriber,
        subscription.qos,
        subscription.retain_as_published,
        False,
        (identifier,) if identifier else (),
        share_flags(subscription),
    )


def _record_size(entry: bytes, records: list[int]) -> int:
    """What a record of an entry counts in a queue that is bounded in bytes: its even share."""
    return len(entry) // max(1, len(records))
