"""Slow subscriptions: which clients, and which of their topics, messages reach late.

Measured is the time from when the broker took a message in to the end of its delivery (`whole`), to
the beginning of it (`internal`), or from its beginning to its end (`response`). The end is PUBACK
for QoS 1, PUBCOMP for QoS 2; for QoS 0 it is when the bytes have gone into the socket: late ones
are those that the broker itself has held up, which is looked at once a block, and those of a client
that does not read, which is timed from the write that found no room. A message that waited for a
client that was away counts from its connection. Retained messages (and those that keep RETAIN), and
records of Kafka clients, whose times are their own, are not measured.

The table has the `top` pairs of client and topic with the highest latency, each the highest within
`expiry_s`. Invariant: the heap holds every pair with its latency of now; older rows are skipped
when they surface, and there are never more than HEAP_ROWS times as many.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from robustmq.client_settings import SlowSubscriptionSettings
from robustmq.core import blocks, frames
from robustmq.core.hash_table import HashTable
from robustmq.core.hashing import topic_key
from robustmq.shard.placement import ENTRY_KAFKA
from robustmq.shard.shares import RETAIN_FLAG

if TYPE_CHECKING:
    from collections.abc import Callable

    from robustmq.mqtt.inflight import Delivery
    from robustmq.shard.subscriber import Subscriber

PUBLISH, PUBREC = 3, 5
HEAP_ROWS = 4
MOST_OF_A_BLOCK = 1_000
"""Late deliveries of QoS 0 that are looked at in one block: a fan-out to thousands is one cause."""

Pair = tuple[bytes, bytes]


class Slow:
    """Of one pair of client and topic: the highest latency, when that was, and how often."""

    __slots__ = ("at_ms", "count", "latency_ms")

    def __init__(self, latency_ms: int, at_ms: int) -> None:
        self.latency_ms = latency_ms
        self.at_ms = at_ms
        self.count = 1


class Ranking:
    """The pairs with the highest latency, in bounded number."""

    def __init__(self, top: int, expiry_ms: int) -> None:
        self._top = top
        self._expiry_ms = expiry_ms
        self._pairs: dict[Pair, Slow] = {}
        self._heap: list[tuple[int, Pair]] = []

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> list[tuple[Pair, Slow]]:
        """The slowest first."""
        return sorted(self._pairs.items(), key=lambda row: -row[1].latency_ms)

    def note(self, pair: Pair, latency_ms: int, now_ms: int) -> None:
        """A delivery was late."""
        slow = self._pairs.get(pair)
        if slow is not None:
            slow.count += 1
            if latency_ms < slow.latency_ms:
                return
            slow.latency_ms, slow.at_ms = latency_ms, now_ms
        else:
            if len(self._pairs) >= self._top:
                lowest, one = self._lowest()
                if latency_ms <= lowest:
                    return
                del self._pairs[one]
            self._pairs[pair] = Slow(latency_ms, now_ms)
        heapq.heappush(self._heap, (latency_ms, pair))
        if len(self._heap) > HEAP_ROWS * self._top:
            self._heap = [(slow.latency_ms, one) for one, slow in self._pairs.items()]
            heapq.heapify(self._heap)

    def expire(self, now_ms: int) -> None:
        """Forget what is too long ago."""
        over = [p for p, slow in self._pairs.items() if slow.at_ms + self._expiry_ms <= now_ms]
        for pair in over:
            del self._pairs[pair]

    def clear(self) -> None:
        """Forget all."""
        self._pairs.clear()
        self._heap.clear()

    def _lowest(self) -> tuple[int, Pair]:
        while True:
            latency_ms, pair = self._heap[0]
            slow = self._pairs.get(pair)
            if slow is not None and slow.latency_ms == latency_ms:
                return latency_ms, pair
            heapq.heappop(self._heap)


class SlowSubscriptions:
    """What one worker measures; there is none while it is not wanted."""

    def __init__(
        self,
        settings: SlowSubscriptionSettings,
        wall_ms: Callable[[], int],
        count: Callable[[str, int], None],
    ) -> None:
        self.settings = settings
        self._count = count
        self.ranking = Ranking(settings.top, settings.expiry_s * 1000)
        self._wall_ms = wall_ms
        self._threshold_ms = settings.threshold_ms
        self._whole = settings.measure == "whole"
        self._internal = settings.measure == "internal"
        self._seen: tuple[bytes, int, bytes] = (b"", 0, b"")
        # Clients that do not read: since when, and the topic of the first message that waits.
        self._stalled: dict[bytes, tuple[int, bytes]] = {}
        self._rows = array("i", bytes(4 * 4 * 16))

    def __len__(self) -> int:
        return len(self.ranking)

    @property
    def highest_ms(self) -> int:
        """The latency of the slowest."""
        return max((slow.latency_ms for _, slow in self.ranking.items()), default=0)

    def delivered(self, block: Any, routes: HashTable) -> None:
        """Copies of QoS 0 of a block have been handed to their clients."""
        now_ms = self._wall_ms()
        if self.settings.measure == "response" or now_ms - _taken_ms(block, 0) < self._threshold_ms:
            return
        left = MOST_OF_A_BLOCK
        for entry in blocks.entries(block):
            route = routes.find(topic_key(entry.topic))
            if route is None or entry.flags & ENTRY_KAFKA:
                continue
            latency_ms = now_ms - _stamp(block, entry.batch_begin)
            for subscriber in _owners(route):
                self._note(subscriber, entry.topic, latency_ms, now_ms)
                left -= 1
                if not left:
                    return

    def sent(self, subscriber: Subscriber, entry: bytes, delivery: Delivery) -> None:
        """A message of QoS 1 or 2 goes out."""
        peer = subscriber.peer
        if delivery.flags & RETAIN_FLAG or not delivery.qos or peer is None:
            return
        if self._seen[0] is not entry:
            view = blocks.entries(entry)[0]
            taken_ms = 0 if view.flags & ENTRY_KAFKA else _stamp(entry, view.batch_begin)
            self._seen = (entry, taken_ms, view.topic)
        _, taken_ms, topic = self._seen
        if not taken_ms:
            return
        now_ms = self._wall_ms()
        begin_ms = max(taken_ms, peer.connected_at_ms)
        if self._internal:
            self._note(subscriber, topic, now_ms - begin_ms, now_ms)
        else:
            if subscriber.timing is None:
                subscriber.timing = {}
            subscriber.timing[delivery.packet_id] = (begin_ms if self._whole else now_ms, topic)

    def finished(self, subscriber: Subscriber, kind: int, packet_ids: array[int]) -> None:
        """A run of PUBACK or PUBCOMP; a PUBREC is not the end."""
        timing = subscriber.timing
        if not timing or kind == PUBREC:
            return
        now_ms = self._wall_ms()
        for packet_id in packet_ids:
            begun = timing.pop(packet_id, None)
            if begun is not None:
                self._note(subscriber, begun[1], now_ms - begun[0], now_ms)

    def stalled(self, subscriber: Subscriber, data: bytes | bytearray) -> None:
        """The socket of a client takes no more; `data` is what waits."""
        if not self._internal and subscriber.client_id not in self._stalled:
            topic = self._first_topic(data)
            if topic:
                self._stalled[subscriber.client_id] = (self._wall_ms(), topic)

    def drained(self, subscriber: Subscriber) -> None:
        """It takes more again, or is gone."""
        since = self._stalled.pop(subscriber.client_id, None)
        if since is not None:
            now_ms = self._wall_ms()
            self._note(subscriber, since[1], now_ms - since[0], now_ms)

    def gone(self, client_id: bytes) -> None:
        """A client has left."""
        self._stalled.pop(client_id, None)

    def tick(self) -> None:
        """Once a second: what is still waiting is late too."""
        now_ms = self._wall_ms()
        self.ranking.expire(now_ms)
        for client_id, (since_ms, topic) in self._stalled.items():
            if now_ms - since_ms >= self._threshold_ms:
                self.ranking.note((client_id, topic), now_ms - since_ms, now_ms)

    def _note(self, subscriber: Subscriber, topic: bytes, latency_ms: int, now_ms: int) -> None:
        if latency_ms >= self._threshold_ms:
            self._count("slow_deliveries", 1)
            self.ranking.note((subscriber.client_id, topic), latency_ms, now_ms)

    def _first_topic(self, data: bytes | bytearray) -> bytes:
        """The topic of the first PUBLISH among the first packets that names it."""
        count, _ = frames.scan(data, 0, len(data), self._rows, 1 << 28)
        for row in range(count):
            header, begin, end = self._rows[4 * row : 4 * row + 3]
            name = begin + 2 + int.from_bytes(data[begin : begin + 2], "big")
            if header >> 4 == PUBLISH and begin + 2 < name <= end:
                return bytes(data[begin + 2 : name])
        return b""


def _owners(route: Any) -> Iterator[Subscriber]:
    for variant in (*route.always, *route.when_qos0):
        for sink in variant.sinks:
            yield sink.owner


def _taken_ms(block: Any, begin: int) -> int:
    """When the first records of an entry were taken in."""
    topic = int.from_bytes(block[begin + 6 : begin + 8], "little")
    log_name = int.from_bytes(block[begin + 14 : begin + 16], "little")
    return _stamp(block, begin + blocks.ENTRY_HEADER + topic + log_name)


def _stamp(block: Any, batch: int) -> int:
    return int.from_bytes(block[batch + 27 : batch + 35], "big")
