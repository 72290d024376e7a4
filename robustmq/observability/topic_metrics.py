"""Counters of chosen topics in shared memory: for each `[[topic_metrics]]` filter one row a worker.

As `counters`: made before the fork, a row has one writer, values survive the worker. A row is
messages in, out and dropped, each by QoS, and the three rates of the last seconds.
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import NamedTuple

from robustmq.core.filters import FilterTrie
from robustmq.topic_rules import TopicCount

CELL = 8
DIRECTIONS = ("in", "out", "dropped")
LEVELS = 3
COUNTS = len(DIRECTIONS) * LEVELS
WIDTH = COUNTS + len(DIRECTIONS)
RATE_SECONDS = 10
MAX_CACHED = 1_024


class Cell(NamedTuple):
    """One counter of one worker."""

    filter: str
    direction: str
    qos: int
    worker: int
    value: int


class TopicCounters:
    """All rows, in anonymous memory shared with every process forked afterwards."""

    def __init__(self, workers: int, filters: tuple[str, ...]) -> None:
        self.filters = filters
        self._workers = workers
        size = max(1, workers * len(filters) * WIDTH) * CELL
        self._cells = memoryview(mmap.mmap(-1, size)).cast("q")

    def _at(self, worker: int, number: int) -> int:
        return (worker * len(self.filters) + number) * WIDTH

    def meters(self, worker: int) -> TopicMeters:
        """What a worker counts with."""
        bases = [self._at(worker, number) for number in range(len(self.filters))]
        return TopicMeters(self._cells, bases, self.filters)

    def cells(self) -> list[Cell]:
        """Every counter."""
        return [
            Cell(
                filter_,
                direction,
                qos,
                worker,
                int(self._cells[self._at(worker, number) + place * LEVELS + qos]),
            )
            for number, filter_ in enumerate(self.filters)
            for place, direction in enumerate(DIRECTIONS)
            for qos in range(LEVELS)
            for worker in range(self._workers)
        ]

    def totals(self) -> list[TopicCount]:
        """The sums over all workers."""
        return [self._total(number) for number in range(len(self.filters))]

    def _total(self, number: int) -> TopicCount:
        begins = [self._at(worker, number) for worker in range(self._workers)]
        sums = [sum(int(self._cells[at + cell]) for at in begins) for cell in range(WIDTH)]
        came, sent, dropped = (tuple(sums[at : at + LEVELS]) for at in range(0, COUNTS, LEVELS))
        rates = [rate / 1000 for rate in sums[COUNTS:]]
        return TopicCount(self.filters[number], came, sent, dropped, *rates)


class TopicMeter:
    """The counters of the topics that match the same filters; see `shard.metering`."""

    __slots__ = ("_bases", "_cells")

    def __init__(self, cells: memoryview, bases: list[int]) -> None:
        self._cells = cells
        self._bases = bases

    def came(self, qos0: int, qos1: int, qos2: int) -> None:
        """Messages were published."""
        for base in self._bases:
            self._cells[base] += qos0
            self._cells[base + 1] += qos1
            self._cells[base + 2] += qos2

    def sent(self, qos: int, count: int) -> None:
        """Messages were sent to subscribers."""
        for base in self._bases:
            self._cells[base + LEVELS + qos] += count

    def dropped(self, qos: int, count: int) -> None:
        """Messages were dropped for a subscriber."""
        for base in self._bases:
            self._cells[base + 2 * LEVELS + qos] += count


class TopicMeters:
    """One worker's rows."""

    def __init__(self, cells: memoryview, bases: list[int], filters: tuple[str, ...]) -> None:
        self.any = bool(filters)
        self._cells = cells
        self._bases = bases
        self._trie = FilterTrie()
        for number, filter_ in enumerate(filters):
            self._trie.insert(filter_.encode(), number)
        self._meters: dict[tuple[int, ...], TopicMeter] = {}
        self._seen: deque[list[int]] = deque(maxlen=RATE_SECONDS + 1)

    def of(self, topic: bytes) -> TopicMeter | None:
        """The counters of a topic; None when nobody counts it."""
        if not self.any:
            return None
        matched = self._trie.match(topic)
        numbers = tuple(sorted(number for number in matched if isinstance(number, int)))
        if not numbers:
            return None
        meter = self._meters.get(numbers)
        if meter is None:
            if len(self._meters) >= MAX_CACHED:
                self._meters.clear()
            meter = TopicMeter(self._cells, [self._bases[number] for number in numbers])
            self._meters[numbers] = meter
        return meter

    def second(self) -> None:
        """A second has passed: the rates of the last ones, in thousandths a second."""
        now = [
            sum(int(self._cells[base + at + qos]) for qos in range(LEVELS))
            for base in self._bases
            for at in range(0, COUNTS, LEVELS)
        ]
        self._seen.append(now)
        before, seconds = self._seen[0], max(1, len(self._seen) - 1)
        for place, value in enumerate(now):
            number, direction = divmod(place, len(DIRECTIONS))
            rate = (value - before[place]) * 1000 // seconds
            self._cells[self._bases[number] + COUNTS + direction] = rate
