"""How fast clients may send: token buckets for messages and bytes, of a client and of a listener.

What one read brought is paid for at once, and may lead into debt; while there is debt the client is
not read, so TCP slows it down. Nothing is dropped and nobody is disconnected; what the broker sends
flows on. In the long run the rate is exact: a debt is paid in full, and a pause that ends late (the
worker looks twenty times a second) has filled the bucket meanwhile. The silence of a client that is
not read is ours, and no fault of its keep-alive.

A connection without a rate has no meter, and costs nothing.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple, Protocol

from robustmq.limits import Limits
from robustmq.listener import Listener


class Slowed(Protocol):
    """Who is read, or not."""

    def slow(self, slowed: bool) -> None:
        """Stop reading, or go on."""
        ...


class Bucket:
    """So many tokens a second, and at most so many at once. Counted in thousandths, exactly."""

    __slots__ = ("_filled_ms", "_full", "_level", "_rate")

    def __init__(self, rate: int, burst_ms: int, now_ms: int) -> None:
        assert rate > 0, "a bucket has a rate"
        self._rate = rate
        self._full = max(rate * burst_ms, 1000)
        self._level = self._full
        self._filled_ms = now_ms

    def take(self, tokens: int, now_ms: int) -> int:
        """Take tokens, maybe more than there are; how many milliseconds until the debt is paid."""
        level = self._level + (now_ms - self._filled_ms) * self._rate
        self._filled_ms = now_ms
        self._level = level = min(level, self._full) - tokens * 1000
        return -(level // self._rate) if level < 0 else 0


class Meter(NamedTuple):
    """What one connection pays to: its own buckets and those that its listener shares."""

    messages: tuple[Bucket, ...]
    bytes: tuple[Bucket, ...]

    def take(self, messages: int, size: int, now_ms: int) -> int:
        """What a read has brought; how many milliseconds the client is not to be read."""
        wait_ms = 0
        if messages:
            for bucket in self.messages:
                wait_ms = max(wait_ms, bucket.take(messages, now_ms))
        for bucket in self.bytes:
            wait_ms = max(wait_ms, bucket.take(size, now_ms))
        return wait_ms


class Rates:
    """The meters of one worker, and who waits."""

    def __init__(self) -> None:
        self._shared: dict[str, tuple[Listener, int, Meter]] = {}
        self._waiting: list[tuple[int, int, Slowed]] = []
        self._order = 0
        self.pauses = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def meter(self, listener: Listener, limits: Limits, now_ms: int) -> Meter | None:
        """What a new connection pays to; None when nothing is bounded."""
        messages = listener.messages_per_second or limits.messages_per_second
        size = listener.bytes_per_second or limits.bytes_per_second
        shared = self._of_listener(listener, limits, now_ms)
        own = _meter(messages, size, limits.rate_burst_ms, now_ms)
        meter = Meter(own.messages + shared.messages, own.bytes + shared.bytes)
        return meter if meter.messages or meter.bytes else None

    def _of_listener(self, listener: Listener, limits: Limits, now_ms: int) -> Meter:
        known = self._shared.get(listener.name)
        if known is not None and known[0] is listener and known[1] == limits.rate_burst_ms:
            return known[2]
        meter = _meter(
            listener.total_messages_per_second,
            listener.total_bytes_per_second,
            limits.rate_burst_ms,
            now_ms,
        )
        self._shared[listener.name] = (listener, limits.rate_burst_ms, meter)
        return meter

    def pause(self, client: Slowed, until_ms: int) -> None:
        """Do not read a client for some time; it is not paused already."""
        self.pauses += 1
        self._order += 1
        heapq.heappush(self._waiting, (until_ms, self._order, client))
        client.slow(True)

    def resume(self, now_ms: int) -> None:
        """Read those again whose debt is paid."""
        while self._waiting and self._waiting[0][0] <= now_ms:
            heapq.heappop(self._waiting)[2].slow(False)


def _meter(messages: int, size: int, burst_ms: int, now_ms: int) -> Meter:
    def buckets(rate: int) -> tuple[Bucket, ...]:
        return (Bucket(rate, burst_ms, now_ms),) if rate else ()

    return Meter(buckets(messages), buckets(size))
