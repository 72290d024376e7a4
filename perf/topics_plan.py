"""What is written when very many topics are stressed: names, payloads, jobs, and what came of them.

A message names its topic and round in its first eight bytes, as a stamp of the load generator does
(`robustmq.bench.count`): so a record under a wrong topic, a missing one and a second copy are all
found out. A job is one round over a range of topics; loaders (MQTT, Kafka) take jobs and count what
was acknowledged. What was not when a broker went away is sent again when it is back.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

STAMP = struct.Struct("<IIQ")
MIN_SIZE = STAMP.size
STALLED_S = 60.0


class LoadFailed(Exception):
    """The broker refused something, or stopped answering."""


class Plan(NamedTuple):
    """N topics, M messages each, so many bytes a message."""

    topics: int
    messages: int = 1
    size: int = 100
    clients: int = 8
    window: int = 500

    @property
    def total(self) -> int:
        """All messages."""
        return self.topics * self.messages


class Job(NamedTuple):
    """One round over a range of topics."""

    round: int
    begin: int
    end: int


def topic_of(number: int) -> bytes:
    """A name like those of devices: three levels, the middle one shared by a thousand."""
    return b"site/%06d/sensor-%08d" % (number // 1_000, number)


FILTER = b"site/#"


def kafka_name(number: int) -> str:
    """The same topic as Kafka names it (`names.to_kafka`)."""
    return f"site.{number // 1_000:06d}.sensor-{number:08d}"


def payload_of(number: int, round_: int, size: int, now_ns: int) -> bytes:
    """What the topic must hold at this offset."""
    return STAMP.pack(number, round_, now_ns).ljust(size, b".")


def is_payload(value: bytes, number: int, round_: int, size: int) -> bool:
    """Is this the message of a topic and round?"""
    return len(value) == size and STAMP.unpack_from(value)[:2] == (number, round_)


def jobs(plan: Plan, by: str) -> Iterator[dict[str, Job]]:
    """What each way of writing does, round by round: with both, each has half of the topics in a
    round and the other half in the next, so that most topics are written by both."""
    for round_ in range(plan.messages):
        if by != "both":
            yield {by: Job(round_, 0, plan.topics)}
            continue
        half = plan.topics // 2
        first, second = ("mqtt", "kafka") if round_ % 2 == 0 else ("kafka", "mqtt")
        yield {first: Job(round_, 0, half), second: Job(round_, half, plan.topics)}


class Progress:
    """What all loaders have done, and whether they may go on. Each counts in a cell of its own."""

    def __init__(self) -> None:
        self.acked: dict[str, int] = {}
        self.resent = 0
        """Messages sent again because their acknowledgement was lost with the broker."""
        self.followed: Follower | None = None
        self.max_ahead = 50_000
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """All that is acknowledged."""
        return sum(self.acked.values())

    def add(self, name: str, number: int) -> None:
        """So many more are acknowledged."""
        with self._lock:
            self.acked[name] = self.acked.get(name, 0) + number

    def sent_again(self, number: int) -> None:
        """So many are sent a second time."""
        with self._lock:
            self.resent += number

    @property
    def may_send(self) -> bool:
        """False while the subscriber is too far behind: no broker is asked to queue without end."""
        follower = self.followed
        return follower is None or self.total - follower.received < self.max_ahead


class Follower(Protocol):
    """A subscriber to all topics."""

    received: int


class Loader(Protocol):
    """One way of writing."""

    def give(self, job: Job) -> None:
        """Something to do."""
        ...

    def run(self) -> None:
        """Work until all is acknowledged; raises OSError when the broker goes away, and goes on
        with what is left when called again."""
        ...


class Bar:
    """Progress on standard error: a bar on a terminal, nothing otherwise."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.begin = time.monotonic()
        self.shown = 0.0

    def show(self, done: int) -> None:
        """Redraw, ten times a second at most."""
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - self.shown < 0.1 and done < self.total):
            return
        self.shown = now
        filled = 40 * done // max(self.total, 1)
        rate = done / max(now - self.begin, 1e-9)
        end = "\n" if done >= self.total else ""
        drawn = "#" * filled + "." * (40 - filled)
        line = f"\r{self.what:<9} [{drawn}] {done:,} of {self.total:,}, {rate:,.0f}/s "
        print(line, end=end, file=sys.stderr, flush=True)


def percentiles(times_s: list[float]) -> dict[str, float]:
    """p50, p99 and the longest, in microseconds."""
    if not times_s:
        return {}
    ordered = sorted(times_s)
    wanted = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[int(last * part)] * 1e6, 1) for name, part in wanted.items()}
