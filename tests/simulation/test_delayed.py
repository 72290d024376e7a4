"""Delayed messages under a seeded scheduler: workers die before, at and behind the due time."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial

import pytest

from tests.simulation.client import SimClient
from tests.simulation.test_invariants import SEEDS
from tests.simulation.world import World

TOPICS = [b"t/1", b"t/2", b"t/3", b"d/x"]
LOAD_MS = 800


def kill(world: World, numbers: list[int]) -> None:
    for number in numbers:
        if world.brokers[number] is not None:
            world.kill(number)
            world.scheduler.at(
                20 + world.scheduler.random.random() * 200, partial(world.start, number)
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_an_acked_delayed_message_comes_at_its_time_and_with_qos_2_once(seed: int) -> None:
    world = World(seed, 2 + seed % 2)
    chance = world.scheduler.random
    next(iter(world.cluster.views.values())).create_topic(b"d/x", 3, {}, uuid.UUID(int=1))
    world.scheduler.run(50)
    publisher = SimClient(world, b"publisher")
    subscriber = SimClient(world, b"subscriber", {b"t/+": 2, b"d/x": 2})
    arrived: dict[bytes, int] = {}
    sent: dict[bytes, int] = {}
    take = subscriber.received.append

    class Received(list[tuple[bytes, bytes, int]]):
        def append(self, message: tuple[bytes, bytes, int]) -> None:
            arrived.setdefault(message[1], world.scheduler.now_ms)
            take(message)

    plain = subscriber.received
    subscriber.received = Received()
    world.scheduler.run(500)
    assert subscriber.subscribed

    def publish(topic: bytes, payload: bytes, qos: int, delay_s: int) -> None:
        sent[payload] = world.scheduler.now_ms + 1000 * delay_s
        publisher.publish(b"$delayed/%d/%s" % (delay_s, topic), payload, qos)

    for number in range(60):
        row = (chance.choice(TOPICS), b"%d" % number, chance.choice((1, 2)), chance.choice((1, 2)))
        world.scheduler.at(chance.random() * LOAD_MS, partial(publish, *row))
    for _ in range(8):
        numbers = [chance.randrange(world.worker_count)]
        if chance.random() < 0.3:
            numbers = list(range(world.worker_count))
        world.scheduler.at(chance.random() * (LOAD_MS + 2_500), partial(kill, world, numbers))
    world.scheduler.run(LOAD_MS + 12_000)
    assert len(publisher.acked) == 60
    count = Counter(payload for _, payload, _ in plain)
    for topic, payload, qos in publisher.acked:
        assert count[payload] >= 1, f"{topic!r} {payload!r} was lost"
        assert qos == 1 or count[payload] == 1, f"{payload!r} came {count[payload]} times"
        assert arrived[payload] >= sent[payload], f"{payload!r} came early"
    for broker in world.brokers:
        assert broker is not None and broker.delayed.waiting == 0
        assert broker.idle
