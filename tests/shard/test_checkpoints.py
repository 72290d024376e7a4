"""When a worker makes the checkpoints of its shards."""

from __future__ import annotations

import pytest

from robustmq.config import NodeSettings, Settings
from robustmq.shard.broker import Broker
from tests.simulation.client import SimClient
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


@pytest.mark.parametrize("delay_ms", range(0, 60, 4))
def test_sessions_that_change_end_and_come_while_a_checkpoint_is_made_are_as_they_were(
    delay_ms: int,
) -> None:
    world = World(delay_ms, 1, Settings(node=NodeSettings(shards=1)))
    names = [b"ends", b"reborn", b"away", *(b"steady-%d" % number for number in range(4))]
    clients = {name: SimClient(world, name, {b"t/+": 2}) for name in names}
    writer = SimClient(world, b"writer")
    sent: list[bytes] = []

    def publish(count: int) -> None:
        for _ in range(count):
            sent.append(b"%d" % len(sent))
            writer.publish(b"t/x", sent[-1], 2)

    world.scheduler.run(1_000)
    publish(5)
    world.scheduler.run(1_000)
    clients[b"away"].rest()
    (store,) = first_worker(world).stores.values()
    wanted = store.end_position
    store.checkpoint_wanted = True
    first_worker(world).checkpoints.look()
    world.scheduler.run(delay_ms)
    publish(5)
    clients[b"ends"].leave()
    clients[b"ends"].resting = True
    clients[b"reborn"].leave()
    clients[b"late"] = SimClient(world, b"late", {b"t/+": 2})
    world.scheduler.run(10)
    publish(5)
    world.scheduler.run(1_000)
    assert store.durable_checkpoint >= wanted, "it was made"
    publish(5)
    world.kill(0)
    world.start(0)
    for client in (*clients.values(), writer):
        if client is not clients[b"ends"]:
            client.wake()
    world.scheduler.run(5_000)
    publish(5)
    world.scheduler.run(5_000)
    assert first_worker(world).sessions.get(b"ends") is None
    for name, client in clients.items():
        got = [payload for _, payload, _ in client.received]
        assert len(got) == len(set(got)), f"{name!r}: exactly once"
        if name not in (b"ends", b"reborn", b"late"):
            assert got == sent, name
        elif name != b"ends":
            assert got[-5:] == sent[-5:], name


def first_worker(world: World) -> Broker:
    """Its broker, in the life of now."""
    broker = world.brokers[0]
    assert broker is not None
    return broker
