"""What a worker does as time passes: timers, keep-alive, checkpoints, gauges, $SYS.

One timer for all of it. The worker that owns a `$SYS` topic publishes it, so each value has one
publisher.
"""

from __future__ import annotations

import asyncio

from robustmq import __version__, clock
from robustmq.config import Settings
from robustmq.observability.sys_topics import LoadAverages, sys_topics
from robustmq.process.context import WorkerContext
from robustmq.records import Message
from robustmq.shard.broker import Broker

TICK_S = 0.05
TICKS_A_SECOND = 20


class Housekeeping:
    """The one recurring timer of a worker."""

    def __init__(
        self,
        broker: Broker,
        context: WorkerContext,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._broker = broker
        self._context = context
        self._settings = settings
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._seconds = 0
        self._loads = LoadAverages()

    def start(self) -> None:
        """Begin ticking."""
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()

    def reload(self, settings: Settings) -> None:
        """Take over new settings."""
        self._settings = settings

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self._broker.tick()
        self._ticks += 1
        if self._ticks % TICKS_A_SECOND == 0:
            self._second()

    def _second(self) -> None:
        self._seconds += 1
        broker, row = self._broker, self._context.row
        broker.check_keep_alive()
        broker.checkpoint()
        for name, value in broker.gauges().items():
            row.set(name, value)
        row.set("heartbeat_ms", clock.monotonic_ms())
        interval = self._settings.mqtt.sys_interval_s
        if interval and self._seconds % interval == 0:
            self._publish_sys()

    def _publish_sys(self) -> None:
        totals = self._context.counters.totals()
        rows = sys_topics(totals, __version__, self._seconds)
        rows += self._loads.update(totals, clock.monotonic_ms())
        broker = self._broker
        for topic, payload in rows:
            if broker.placement.worker(topic, 0) == broker.worker_id:
                broker.sessions.publish(Message(topic, payload, 0, True), 0)
