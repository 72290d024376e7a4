"""When a worker makes the checkpoints of its shards."""

from __future__ import annotations

from robustmq.config import NodeSettings, Settings
from tests.simulation.world import World


def test_an_idle_worker_makes_the_checkpoint_that_is_wanted() -> None:
    # It was written with the next commit, for which a worker without clients waits for ever.
    world = World(1, 1, Settings(node=NodeSettings(shards=1)))
    broker = world.brokers[0]
    assert broker is not None
    broker.kafka.logs.light_topic(b"t", "create")
    world.scheduler.run(1_000)
    (store,) = broker.stores.values()
    before = store.durable_checkpoint
    assert store.log.end_position > before and not store.uncommitted_bytes
    store.checkpoint_wanted = True
    world.scheduler.run(1_000)
    assert store.durable_checkpoint == store.log.end_position > before
