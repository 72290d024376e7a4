"""Transactions whose coordinator, partitions and groups crash between any two steps: what was
acknowledged as committed is committed everywhere, what was aborted nowhere, and none half."""

from __future__ import annotations

import os
import uuid
from functools import partial

import pytest

from tests.kafka.wire import Client
from tests.simulation.transactions import GROUP, TOPIC, SimTransactions, read_committed
from tests.simulation.world import World

KEY, PARTITIONS = b"d/x", 3
EVERY = 1 if os.environ.get("ROBUSTMQ_TEST_ALL") else 30
OUTCOMES = [True, False, True]


def a_world(seed: int, workers: int) -> World:
    world = World(seed, workers)
    view = next(iter(world.cluster.views.values()))
    view.create_topic(KEY, PARTITIONS, {}, uuid.UUID(int=1))
    world.scheduler.run(50)
    return world


def check(world: World, one: SimTransactions) -> None:
    """All are back: what the promises say is what readers see."""
    for number in range(world.worker_count):
        if world.brokers[number] is None:
            world.start(number)
    for _ in range(200):
        if one.done:
            break
        world.scheduler.run(100)
    assert one.fenced is None, f"the producer was fenced by {one.fenced}"
    assert one.ended == one.wanted
    wanted = [
        b"%s %d" % (one.transactional_id.encode(), number)
        for number, commit in enumerate(one.wanted)
        if commit
    ]
    last = max((number for number, commit in enumerate(one.wanted) if commit), default=-1)
    for _ in range(100):
        seen = [read_committed(world, KEY, partition) for partition in range(PARTITIONS)]
        if None not in seen and offset_of(world) is not None:
            break
        world.scheduler.run(100)
    assert seen == [wanted] * PARTITIONS
    assert offset_of(world) == last


def offset_of(world: World) -> int | None:
    """The stable offset of the group; None while a transaction is open."""
    broker = next(one for one in world.brokers if one is not None)
    client = Client(broker.kafka.gateway)
    groups = [{"group_id": GROUP, "topics": [{"name": TOPIC, "partition_indexes": [0]}]}]
    promise = client.send(9, 8, groups=groups, require_stable=True)
    world.scheduler.run(100)
    part = client.read(9, 8, promise).groups[0].topics[0].partitions[0]
    assert part.error_code in (0, 88)
    return None if part.error_code else int(part.committed_offset)


def history(seed: int, v2: bool, kill_at: int | None, who: str) -> int:
    """Three transactions; some workers die at one event of all and come back. The number of
    events."""
    world = a_world(seed, 2)
    one = SimTransactions(world, "id", PARTITIONS, v2)
    one.begin(OUTCOMES)
    events = 0
    while not one.done and events < 20_000:
        if events == kill_at:
            broker = world.brokers[0]
            assert broker is not None
            coordinator = broker.kafka.gateway._machine_owner(b"transaction", "id")
            dying = {"coordinator": [coordinator], "other": [1 - coordinator], "all": [0, 1]}[who]
            for number in dying:
                world.kill(number)
                world.scheduler.at(5, partial(world.start, number))
        world.scheduler.step()
        events += 1
    check(world, one)
    return events


@pytest.mark.parametrize("who", ["coordinator", "other", "all"])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_a_crash_between_any_two_steps_leaves_no_transaction_half(v2: bool, who: str) -> None:
    for seed in range(2):
        total = history(seed, v2, None, who)
        assert total > 100
        for kill_at in range(seed, total, EVERY):
            try:
                history(seed, v2, kill_at, who)
            except BaseException:
                print(f"seed {seed}, killed at event {kill_at}")
                raise
