"""What a home has written and not committed, it tells no owner that it has: the owner may let go of
it, and a crash of the home would lose it."""

from __future__ import annotations

from tests.simulation.client import SimClient
from tests.simulation.world import World


def test_an_owner_is_told_what_a_home_cannot_lose_any_more() -> None:
    world = World(7, 1)
    world.scheduler.run(50)
    subscriber = SimClient(world, b"subscriber", {b"t/+": 1})
    publisher = SimClient(world, b"publisher")
    world.scheduler.run(500)
    assert subscriber.subscribed
    broker = world.brokers[0]
    assert broker is not None
    for number in range(20):
        publisher.publish(b"t/%d" % number, b"x", 1)
    seen = 0
    while len(publisher.acked) < 20:
        world.scheduler.step()
        told = broker.sessions.cursors_of(0)
        for home, inboxes in broker.delivery._unqueued.items():
            for shard, position in (inbox.source for inbox in inboxes.values()):
                seen += 1
                assert told[shard] < position <= broker.delivery.cursors[home][shard]
    assert seen, "some of it was seen before its commit"
    assert broker.delivery.idle
    told = broker.sessions.cursors_of(0)
    assert told == {
        shard: min(table[shard] for table in broker.delivery.cursors.values() if shard in table)
        for shard in told
    }
