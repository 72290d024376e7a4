"""A loss of power where disks are not synced takes what was acknowledged before, and nothing of
what comes after."""

from __future__ import annotations

import os
import uuid
from functools import partial

import pytest

from tests.simulation.client import SimClient
from tests.simulation.history import DECLARED, LIGHT
from tests.simulation.producer import SimProducer
from tests.simulation.world import World

RECORDS = 10
LOAD_MS = 1_000
SEEDS = range(300 if os.environ.get("ROBUSTMQ_TEST_ALL") else 8)


def test_a_partition_goes_on_behind_what_is_known_of_its_producers() -> None:
    """Else what they send next counts as told of already, and after a restart they may send it
    again."""
    world = World(1, 1)
    world.checkpoint_bytes = 1 << 30
    view = world.cluster.views[0]
    view.create_topic(DECLARED, 1, {}, uuid.UUID(int=1))
    world.scheduler.run(50)
    producer = SimProducer(world, 100)
    for number in range(RECORDS):
        producer.produce((DECLARED, 0), b"%d" % number)
    world.scheduler.run(2_000)
    assert not producer.unacked
    broker = world.brokers[0]
    assert broker is not None
    shard = broker.placement.shard(DECLARED, 0)
    # As a checkpoint does that does not come to its end.
    broker.kafka.producers.save(shard)
    broker.commits.mark(shard)
    world.scheduler.run(100)
    world.kill(0)
    world.disks[0].lose_power(0)
    world.kvs[shard].lose_power(1)
    told: list[int] = []
    world.on_loss = lambda offset, size: told.append(offset)
    world.start(0)
    world.scheduler.run(500)
    producer.produce((DECLARED, 0), b"later")
    world.scheduler.run(5_000)
    assert not producer.unacked
    broker = world.brokers[0]
    assert broker is not None
    found = broker.kafka.logs.read(DECLARED, 0, RECORDS, 1 << 20, -1)
    assert told == [0], "operators are told"
    assert found.high_watermark == RECORDS + 1 and found.buffers


def synced(world: World) -> None:
    """As after a quiet minute."""
    for disk in world.disks:
        for path in disk.files:
            disk.sync(path)
    for kv in world.kvs.values():
        kv.write([], True)


@pytest.mark.parametrize("seed", SEEDS)
def test_sessions_miss_nothing_that_is_published_after_a_loss_of_power(seed: int) -> None:
    """However far they say that they have heard: each log has lost another part."""
    world = World(seed, 2)
    world.on_loss = lambda position, size: None
    chance = world.scheduler.random
    view = next(iter(world.cluster.views.values()))
    view.create_topic(DECLARED, 3, {}, uuid.UUID(int=1))
    world.scheduler.run(50)
    topics = [*LIGHT, DECLARED]
    readers = [SimClient(world, b"reader-%d" % n, {b"#": 1 + n % 2}) for n in range(6)]
    writers = [SimClient(world, b"writer-%d" % n) for n in range(3)]
    world.scheduler.run(500)
    assert all(one.subscribed and one.connected for one in (*readers, *writers))
    synced(world)
    for number in range(150):
        send = partial(
            chance.choice(writers).publish, chance.choice(topics), b"early %d" % number, 1
        )
        world.scheduler.at(chance.random() * LOAD_MS, send)
    world.scheduler.run(LOAD_MS * chance.random())
    world.lose_power()
    for number in range(world.worker_count):
        world.scheduler.at(20 + chance.random() * 200, partial(world.start, number))
    world.scheduler.run(LOAD_MS)
    for number in range(40):
        chance.choice(writers).publish(chance.choice(topics), b"late %d" % number, 1 + number % 2)
    world.scheduler.run(20_000)
    assert not any(one.unacked for one in writers)
    acked = {(topic, value) for one in writers for topic, value, _ in one.acked}
    late = {row for row in acked if row[1].startswith(b"late")}
    assert len(late) == 40
    for reader in readers:
        missed = late - {(topic, value) for topic, value, _ in reader.received}
        assert not missed, f"{reader.client_id!r} missed {missed}"
    for broker in world.brokers:
        assert broker is not None and broker.telling.idle
