"""Counting the messages of chosen topics (`[[topic_metrics]]`).

Which counters a topic has is decided once, where its routes are made: a topic that nobody counts
has none, and costs nothing.
"""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """The counters of the topics that match the same filters, by QoS."""

    def came(self, qos0: int, qos1: int, qos2: int) -> None:
        """Messages were published."""
        ...

    def sent(self, qos: int, count: int) -> None:
        """Messages were sent to subscribers."""
        ...

    def dropped(self, qos: int, count: int) -> None:
        """Messages were dropped for a subscriber: its queue is full, it is slow, they expired."""
        ...


class Meters(Protocol):
    """All counters of a worker."""

    any: bool
    """Is anything counted at all?"""

    def of(self, topic: bytes) -> Meter | None:
        """The counters of a topic."""
        ...


class NoMeters:
    """Nothing is counted."""

    any = False

    def of(self, topic: bytes) -> Meter | None:
        """None."""
        del topic
        return None


def came(meter: Meter, levels: list[int]) -> None:
    """Messages of these levels (`fanout.record_levels`) were published."""
    by_qos = [0, 0, 0, 0]
    for level in levels:
        by_qos[level & 3] += 1
    meter.came(*by_qos[:3])
