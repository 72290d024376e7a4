"""What a worker does as time passes: timers, keep-alive, checkpoints, gauges, $SYS.

One timer for all of it. The worker that owns a `$SYS` topic publishes it, so each value has one
publisher.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from robustmq import __version__, clock
from robustmq.config import Settings
from robustmq.net.mqtt_sockets import MqttSockets
from robustmq.net.relay import Relays
from robustmq.observability.sys_topics import WATCHED, LoadAverages, Maxima, Status, sys_topics
from robustmq.observability.topic_metrics import TopicMeters
from robustmq.process.context import WorkerContext
from robustmq.records import Message
from robustmq.shard.broker import Broker
from robustmq.shard.figures import gauges, totals

TICK_S = 0.05
LATE_S = 0.005
SESSIONS_A_TICK = 50
TICKS_A_ROUND = 200
"""A look at all sessions takes ten seconds when there are many."""
TICKS_A_SECOND = 20


class Housekeeping:
    """The one recurring timer of a worker."""

    def __init__(
        self,
        broker: Broker,
        mqtt: MqttSockets,
        relays: Relays,
        meters: TopicMeters,
        context: WorkerContext,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        every_second: Callable[[], None],
    ) -> None:
        self._every_second = every_second
        self._broker = broker
        self._mqtt = mqtt
        self._relays = relays
        self._meters = meters
        self._context = context
        self._settings = settings
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._seconds = 0
        self._loads = LoadAverages()
        self._maxima = Maxima()
        # What recovery has read was counted when it was written.
        self._counted = self._totals()
        self._sessions = self._look_at_sessions()
        self._due_s = 0.0

    def start(self) -> None:
        """Begin ticking."""
        self._due_s = self._loop.time() + TICK_S
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()

    def reload(self, settings: Settings) -> None:
        """Take over new settings."""
        self._settings = settings

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s - self._due_s > LATE_S:
            self._context.row.add("loop_slow_turns")
        self._due_s = now_s + TICK_S
        self._timer = self._loop.call_later(TICK_S, self._tick)
        next(self._sessions)
        self._broker.tick()
        self._ticks += 1
        if self._ticks % TICKS_A_SECOND == 0:
            self._second()

    def _second(self) -> None:
        self._seconds += 1
        broker, row = self._broker, self._context.row
        broker.check_keep_alive()
        self._every_second()
        broker.sweep_retained()
        broker.checkpoints.look()
        if broker.slow is not None:
            broker.slow.tick()
        bans = broker.cluster.bans
        if broker.worker_id == 0 and bans.any and bans.has_expired(clock.wall_ms()):
            broker.cluster.expire_bans()
        for name, value in gauges(broker).items():
            row.set(name, value)
        row.set("tls_relayed", len(self._relays))
        held = self._context.counters.total("mqtt_retained_messages")
        broker.owner.retained_elsewhere = held - row.get("mqtt_retained_messages")
        self._meters.second()
        self._count_totals()
        row.set("heartbeat_ms", clock.wall_ms())
        interval = self._settings.mqtt.sys_interval_s
        if interval:
            counters = self._context.counters
            self._maxima.see({name: counters.total(name) for name in WATCHED})
        if interval and self._seconds % interval == 0:
            self._publish_sys()

    def _count_totals(self) -> None:
        """Add what was counted elsewhere since the last second: counters survive their worker."""
        counted = self._totals()
        for name, total in counted.items():
            self._context.row.add(name, total - self._counted[name])
        self._counted = counted

    def _totals(self) -> dict[str, int]:
        return {
            **totals(self._broker),
            "mqtt_bytes_received": self._mqtt.bytes_in,
            "mqtt_bytes_sent": self._mqtt.bytes_out,
        }

    def _look_at_sessions(self) -> Iterator[None]:
        """What waits in all sessions, summed a slice a tick, round after round."""
        row = self._context.row
        while True:
            messages = size = in_flight = 0
            slice_ = max(SESSIONS_A_TICK, len(self._broker.sessions) // TICKS_A_ROUND)
            for number, subscriber in enumerate(self._broker.sessions.walk()):
                session = subscriber.session
                row.add("mqtt_messages_dropped", subscriber.take_dropped())
                messages += session.window.queued
                size += session.window.queued_bytes
                in_flight += session.window.in_flight
                if number % slice_ == slice_ - 1:
                    yield
            row.set("mqtt_queued_messages", messages)
            row.set("mqtt_queued_bytes", size)
            row.set("mqtt_inflight", in_flight)
            yield

    def _publish_sys(self) -> None:
        sums = self._context.counters.totals()
        heap = self._resident_bytes()
        self._maxima.see({"heap": heap})
        status = Status(
            self._settings.node_name,
            __version__,
            self._seconds,
            datetime.fromtimestamp(clock.wall_ms() / 1000, UTC).isoformat(timespec="seconds"),
            self._maxima.seen,
            heap,
        )
        rows = sys_topics(sums, status)
        rows += self._loads.update(sums, clock.monotonic_ms())
        broker = self._broker
        for topic, payload in rows:
            if broker.placement.worker(topic, 0) == broker.worker_id:
                broker.sessions.publish(Message(topic, payload, 0, True), 0)

    def _resident_bytes(self) -> int:
        """The memory of all workers; one that is starting again counts nothing."""
        counters = self._context.counters
        pages = 0
        for worker in range(counters.workers):
            try:
                statm = Path(f"/proc/{counters.value('pid', worker)}/statm").read_text()
            except OSError:
                continue
            pages += int(statm.split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
