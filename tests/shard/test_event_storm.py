"""A storm of client events is told in order, in bounded number, and what is dropped is counted."""

from __future__ import annotations

import msgspec

from robustmq.config import MqttSettings, Settings
from robustmq.mqtt import codec
from robustmq.mqtt.packets import Connect, Subscribe, SubscriptionOptions
from robustmq.shard.sys_events import BUDGET, MAX_WAITING
from tests.simulation.world import World

VERSION = 5
MORE = 700
TICK_MS = 50


def test_what_is_too_much_at_a_time_waits_and_then_is_dropped_and_counted() -> None:
    settings = msgspec.structs.replace(Settings(), mqtt=MqttSettings(sys_events=("subscribed",)))
    world = World(1, 1, settings)
    broker = world.brokers[0]
    assert broker is not None
    client = world.accept(b"storm", bytearray().extend, lambda: None)
    assert client is not None
    client.received(bytes(codec.encode(Connect(VERSION, b"storm", True, 0), VERSION)))
    world.scheduler.run(2 * TICK_MS)
    count = BUDGET + MAX_WAITING + MORE
    filters = tuple((b"f/%d" % number, SubscriptionOptions(0)) for number in range(count))
    broker.events.subscribed(client, Subscribe(1, filters), [0] * count, [True] * count)
    assert world.counters["sys_events"] == BUDGET
    assert len(broker.events) == MAX_WAITING
    assert world.counters["sys_events_dropped"] == MORE
    world.scheduler.run(TICK_MS)
    assert world.counters["sys_events"] == 2 * BUDGET
    world.scheduler.run(TICK_MS * (MAX_WAITING // BUDGET + 1))
    assert world.counters["sys_events"] == BUDGET + MAX_WAITING and not len(broker.events)
