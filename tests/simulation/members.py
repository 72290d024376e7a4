"""Share groups in a simulated node, and what each promises (MQTT 5.0 section 4.8.2).

While a group has a persistent member, what was acknowledged to its publisher reaches at least one
member, whatever dies; what was published and subscribed with QoS 2 reaches one at most, and exactly
one when no session ends. One group keeps all its sessions; in the other members come and go, with
sessions that end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.simulation.client import SimClient
from tests.simulation.producer import SimProducer
from tests.simulation.world import World

STEADY, CHANGING = b"$share/steady/#", b"$share/changing/#"


class Groups:
    """The members of both groups."""

    def __init__(self, world: World) -> None:
        self.steady = [SimClient(world, b"steady-%d" % n, {STEADY: 2}) for n in range(3)]
        self.changing = [
            SimClient(world, b"stays", {CHANGING: 2}),
            SimClient(world, b"goes", {CHANGING: 2}),
            *(SimClient(world, b"passes-%d" % n, {CHANGING: 2}, 0) for n in range(3)),
        ]
        self.members = self.steady + self.changing

    def fault(self, choose: random.Random) -> Callable[[], None]:
        """What a member may do: lose its connection, end its session, unsubscribe."""
        member = choose.choice(self.members)
        if member in self.steady or member is self.changing[0]:
            return member.drop
        return choose.choice((member.drop, member.leave, member.unsubscribe))

    def check(self, publishers: Iterable[SimClient], producers: Iterable[SimProducer]) -> None:
        """What must hold in the end."""
        for members, exact in ((self.steady, True), (self.changing, False)):
            got = _received(members)
            name = members[0].client_id
            for publisher in publishers:
                for topic, payload, qos in publisher.acked:
                    count = got[topic, payload]
                    if qos == 1 or exact:
                        assert count, f"no member of the group of {name!r} got {payload!r}"
                    if qos == 2:
                        who = [one.client_id for one in members if _has(one, topic, payload)]
                        assert count <= 1, f"QoS 2 {count} times to a group: {payload!r}, {who}"
            for producer in producers:
                for (topic, _), value in producer.acked:
                    assert got[topic, value], f"no member of the group of {name!r} got {value!r}"


def _received(members: Sequence[SimClient]) -> Counter[tuple[bytes, bytes]]:
    return Counter((topic, payload) for one in members for topic, payload, _ in one.received)


def _has(member: SimClient, topic: bytes, payload: bytes) -> bool:
    return any((topic, payload) == row[:2] for row in member.received)
