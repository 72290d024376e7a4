"""Runs one scenario: connects, warms up, measures, drains, and says what was seen.

One thread, one poll object, no timers: the loop asks the clock. A run ends when its time is over or
its count is delivered; then it waits until what was published has come, or nothing has come for a
second.
"""

from __future__ import annotations

import select
import time
from typing import NamedTuple

from robustmq.bench import plan, result
from robustmq.bench.connection import Connection, LoadError, Publisher, Shared
from robustmq.bench.count import Tally

STALL_NS = 1_000_000_000
SETUP_SECONDS = 30.0
_SECOND = 1_000_000_000


class Mark(NamedTuple):
    """The counters at one moment."""

    time_ns: int
    cpu: float
    broker: result.TreeUse
    messages: int
    bytes: int
    published: int


class Run:
    """One run of the load generator."""

    def __init__(self, options: plan.Options) -> None:
        self.options = options
        self.form = plan.shape(options)
        self.tally = Tally(max(1, self.form.publishers), options.topics)
        self.shared = Shared(options, self.tally)
        self.publishers: list[Publisher] = []
        self.connect_seconds = 0.0
        self.idle = result.TreeUse(0.0, 0)
        self.progress = (-1, 0)

    def execute(self) -> result.Result:
        """Set up, warm up, measure, drain."""
        if self.options.watch:
            self.idle = result.tree_use(self.options.watch)
        try:
            self._set_up()
            started = time.monotonic_ns()
            for publisher in self.publishers:
                publisher.start_ns = started
            self.shared.woken.update(self.publishers)
            if not self.options.count:
                self._turns(started + int(self.options.warmup * _SECOND))
            self.tally.timing = True
            first = self._mark()
            self._turns(first.time_ns + int(self.options.duration * _SECOND))
            last = self._mark()
            self.tally.timing = False
            self._drain()
            return self._result(first, last)
        finally:
            self.close()

    def close(self) -> None:
        """Close every socket."""
        for connection in list(self.shared.connections.values()):
            connection.close()
        self.shared.poll.close()

    def _set_up(self) -> None:
        form = self.form
        scenario = plan.SCENARIOS[self.options.scenario]
        streams = form.publishers * self.options.topics
        subscribers = []
        for number in range(form.subscribers):
            place = (number * self.options.topics, self.options.topics)
            chosen = place if scenario.own else (0, streams)
            wanted = plan.topic_filter(self.options, number)
            subscribers.append(
                Connection(self.shared, f"{self.options.prefix}-sub-{number}", wanted, chosen)
            )
        echo = self.options.scenario == "echo"
        others = form.publishers if form.publishers or form.subscribers else self.options.clients
        senders = subscribers if echo else [
            Connection(self.shared, f"{self.options.prefix}-pub-{number}", "", (0, 0))
            for number in range(others)
        ]  # fmt: skip
        begin = time.monotonic()
        self._connect(subscribers if echo else subscribers + senders)
        self.connect_seconds = time.monotonic() - begin
        for number in range(form.publishers):
            publisher = Publisher(senders[number], number, form)
            senders[number].publisher = publisher
            self.publishers.append(publisher)
        for number, connection in enumerate(subscribers):
            connection.feeds = (
                self.publishers[number : number + 1] if scenario.own else self.publishers
            )

    def _connect(self, connections: list[Connection]) -> None:
        """Keep a bounded number of connections on their way."""
        opened = 0
        deadline = time.monotonic() + SETUP_SECONDS + len(connections) / 500
        while self.shared.ready < len(connections):
            while opened < len(connections) and opened - self.shared.ready < self.options.parallel:
                connections[opened].open()
                opened += 1
            self._events(0.05)
            if self.shared.disconnected:
                raise LoadError("the broker closed a connection during the set-up")
            if time.monotonic() > deadline:
                raise LoadError(
                    f"{self.shared.ready} of {len(connections)} connections after the set-up time"
                )

    def _events(self, timeout: float) -> None:
        shared = self.shared
        if 0 < timeout < 0.001:
            # epoll waits whole milliseconds, which a rate above 1000/s cannot use
            select.select([shared.poll], [], [], timeout)
            timeout = 0
        connections = shared.connections
        for descriptor, event in shared.poll.poll(timeout):
            connection = connections.get(descriptor)
            if connection is not None:
                connection.on_event(event)

    def _turns(self, end_ns: int) -> None:
        """Serve until then, or until the count is delivered."""
        shared = self.shared
        paced = self.options.rate > 0
        again = True
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= end_ns and not self.options.count:
                return
            if self._stalled(now_ns) and self.options.count:
                return
            wait = 0.0 if again or shared.woken else self._wait(now_ns, end_ns)
            self._events(wait)
            woken = list(self.publishers) if paced else list(shared.woken)
            shared.woken.clear()
            again = False
            for publisher in woken:
                if publisher.pump():
                    shared.woken.add(publisher)
                    again = True
            if self.options.count and self._done():
                return

    def _wait(self, now_ns: int, end_ns: int) -> float:
        until = end_ns if not self.options.count else now_ns + 50_000_000
        if self.options.rate:
            until = min(until, *(publisher.due_ns() for publisher in self.publishers))
        return min(max(until - now_ns, 1_000) / 1e9, 0.05)

    def _stalled(self, now_ns: int) -> bool:
        """True, and the outstanding written off, when nothing has come for a second."""
        seen = self.tally.messages + sum(p.connection.inbox.completed for p in self.publishers)
        seen += sum(publisher.sent for publisher in self.publishers)
        if seen != self.progress[0] or not self.publishers:
            self.progress = (seen, now_ns)
            return False
        if now_ns - self.progress[1] < STALL_NS:
            return False
        for publisher in self.publishers:
            publisher.write_off()
        self.shared.woken.update(self.publishers)
        self.progress = (seen, now_ns)
        return True

    def _done(self) -> bool:
        for publisher in self.publishers:
            if publisher.sent < self.options.count or publisher.pending:
                return False
            if self.options.qos and publisher.connection.inbox.completed < publisher.sent:
                return False
        return not self.form.subscribers or self._arrived()

    def _arrived(self) -> bool:
        return self.tally.messages >= self._expected()

    def _expected(self) -> int:
        return sum(publisher.sent for publisher in self.publishers) * self.form.copies

    def _drain(self) -> None:
        quiet_ns = time.monotonic_ns()
        before = -1
        while self.publishers and self.form.subscribers and not self._arrived():
            self._events(0.02)
            now_ns = time.monotonic_ns()
            if self.tally.messages != before:
                before, quiet_ns = self.tally.messages, now_ns
            elif now_ns - quiet_ns > STALL_NS:
                return

    def _mark(self) -> Mark:
        watch = self.options.watch
        broker = result.tree_use(watch) if watch else result.TreeUse(0.0, 0)
        published = sum(publisher.sent for publisher in self.publishers)
        tally = self.tally
        now_ns = time.monotonic_ns()
        return Mark(now_ns, time.process_time(), broker, tally.messages, tally.bytes, published)

    def _result(self, first: Mark, last: Mark) -> result.Result:
        tally = self.tally
        seconds = max((last.time_ns - first.time_ns) / 1e9, 1e-9)
        published = last.published - first.published
        delivered = last.messages - first.messages
        unique = tally.messages - tally.duplicates - tally.foreign
        lost = (
            max(0, self._expected() - unique)
            if self.publishers and self.form.subscribers
            else tally.gaps
        )
        messages = delivered or published
        cpu = last.broker.cpu_seconds - first.broker.cpu_seconds
        return result.Result(
            scenario=self.options.scenario,
            seconds=seconds,
            published=published,
            delivered=delivered,
            publish_rate=published / seconds,
            delivery_rate=delivered / seconds,
            bytes_rate=(last.bytes - first.bytes) / seconds,
            latency_us=result.percentiles(tally.histogram),
            lost=lost,
            duplicates=tally.duplicates,
            reordered=tally.reordered,
            foreign=tally.foreign if self.publishers else 0,
            connected=self.shared.connected,
            connect_rate=self.shared.connected / max(self.connect_seconds, 1e-9),
            disconnected=self.shared.disconnected,
            load_cpu=(last.cpu - first.cpu) / seconds,
            broker_cpu_us_per_message=cpu * 1e6 / messages if messages else 0.0,
            broker_rss_bytes=last.broker.rss_bytes,
            broker_rss_before_bytes=self.idle.rss_bytes,
        )


def execute(options: plan.Options) -> result.Result:
    """Run a scenario once."""
    return Run(options).execute()
