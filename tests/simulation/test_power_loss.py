"""A loss of power of a disk that is not synced, of which the look-ups survive and nothing else."""

from __future__ import annotations

import uuid

from tests.simulation.history import DECLARED
from tests.simulation.producer import SimProducer
from tests.simulation.world import World

RECORDS = 10


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
