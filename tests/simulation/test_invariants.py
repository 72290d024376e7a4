"""The invariants of the design under a seeded scheduler: random delays, lost connections, killed
workers.

Checked at the end of each history, when all are back and at rest (the design's numbers):
1. every acked message is in the log, and reached every persistent subscriber that it matched;
2. offsets of a topic are dense;
3. per publisher, topic and QoS the order is kept; QoS 2 is in the log and at its subscribers
exactly once;
6. no connection ended by a fault of the broker.
`ROBUSTMQ_SIM_SEED=n` replays one history.
"""

from __future__ import annotations

import os

import pytest

from robustmq.core import batches
from tests.simulation.client import SimClient
from tests.simulation.world import World

SEEDS = [int(os.environ["ROBUSTMQ_SIM_SEED"])] if "ROBUSTMQ_SIM_SEED" in os.environ else range(20)
TOPICS = [b"t/%d" % number for number in range(6)]


class History:
    """One run: load, faults, and what must hold in the end."""

    def __init__(self, seed: int, workers: int) -> None:
        self.world = World(seed, workers)
        self.random = self.world.scheduler.random
        self.world.scheduler.run(50)
        self.publishers = [SimClient(self.world, b"publisher-%d" % n) for n in range(3)]
        self.subscribers = [
            SimClient(self.world, b"wide", {b"t/+": 2}),
            SimClient(self.world, b"exact", {b"t/1": 1, b"t/2": 2}),
            SimClient(self.world, b"all", {b"#": 1}),
        ]
        self.sent = 0
        self._until(lambda: all(one.subscribed and one.connected for one in self.subscribers))

    def _until(self, condition: object, limit_ms: int = 60_000) -> None:
        for _ in range(limit_ms // 100):
            self.world.scheduler.run(100)
            if condition():  # type: ignore[operator]
                return
        raise AssertionError("the world did not come to what was waited for")

    def load(self, messages: int) -> None:
        """Publish at random times."""
        for _ in range(messages):
            publisher = self.random.choice(self.publishers)
            topic = self.random.choice(TOPICS)
            payload = b"%s %d" % (publisher.client_id, self.sent)
            self.sent += 1
            qos = self.random.choice((1, 2))
            self.world.scheduler.at(
                self.random.random() * 1500,
                lambda one=publisher, t=topic, p=payload, q=qos: one.publish(t, p, q),  # type: ignore[misc]
            )

    def faults(self, count: int) -> None:
        """Kill workers and cut connections at random times; the dead come back."""
        scheduler = self.world.scheduler
        for _ in range(count):
            when = self.random.random() * 1500
            if self.random.random() < 0.5:
                number = self.random.randrange(self.world.worker_count)
                scheduler.at(when, lambda n=number: self._kill(n))  # type: ignore[misc]
            else:
                client = self.random.choice(self.publishers + self.subscribers)
                scheduler.at(when, client.drop)

    def _kill(self, number: int) -> None:
        if sum(broker is not None for broker in self.world.brokers) < self.world.worker_count:
            return
        self.world.kill(number)
        self.world.scheduler.at(20 + self.random.random() * 200, lambda: self.world.start(number))

    def settle(self) -> None:
        """Wait until all is acknowledged and delivered."""
        self._until(lambda: not any(one.unacked for one in self.publishers))
        self._until(lambda: all(one.connected for one in self.subscribers))
        self.world.scheduler.run(3_000)

    def logged(self) -> dict[bytes, list[bytes]]:
        """The payloads of each topic's log, in order; checks that offsets are dense."""
        found: dict[bytes, list[bytes]] = {}
        for topic in TOPICS:
            values: list[bytes] = []
            for broker in self.world.brokers:
                assert broker is not None, "all workers are back"
                store = broker.stores.get(broker.placement.shard(topic, 0))
                if store is None or not store.exists(topic):
                    continue
                while True:
                    result = store.read(topic, len(values), 1 << 20)
                    if not result.buffers:
                        break
                    data = b"".join(bytes(buffer) for buffer in result.buffers)
                    for begin, info in batches.headers(data, 0, len(data)):
                        assert info.base_offset == len(values), "offsets are dense"
                        records = batches.parse(data, begin, begin + info.length)
                        values.extend(record.value or b"" for record in records)
                assert len(values) == result.high_watermark
            found[topic] = values
        return found

    def check(self) -> None:
        """All that must hold."""
        logged = self.logged()
        acked = [row for one in self.publishers for row in one.acked]
        assert len(acked) == self.sent, "everything was acknowledged in the end"
        for topic, payload, qos in acked:
            count = logged[topic].count(payload)
            assert count >= 1, f"acked and not in the log: {topic!r} {payload!r}"
            if qos == 2:
                assert count == 1, f"QoS 2 twice in the log: {topic!r} {payload!r}"
        for subscriber in self.subscribers:
            self._check_subscriber(subscriber, acked, logged)
        assert not [fault for fault in self.world.faults if fault["fault"] != "SESSION_TAKEN_OVER"]

    def _check_subscriber(
        self,
        subscriber: SimClient,
        acked: list[tuple[bytes, bytes, int]],
        logged: dict[bytes, list[bytes]],
    ) -> None:
        granted = {
            topic: qos
            for name, qos in subscriber.filters.items()
            for topic in TOPICS
            if name in (topic, b"#") or (name == b"t/+" and topic.startswith(b"t/"))
        }
        got: dict[tuple[bytes, bytes], int] = {}
        for topic, payload, _ in subscriber.received:
            got[topic, payload] = got.get((topic, payload), 0) + 1
        for topic, payload, qos in acked:
            if topic not in granted:
                continue
            count = got.get((topic, payload), 0)
            assert count >= 1, f"{subscriber.client_id!r} missed {topic!r} {payload!r}"
            if qos == 2 and granted[topic] == 2:
                assert count == 1, f"{subscriber.client_id!r} got QoS 2 {count} times: {payload!r}"
        for topic in granted:
            self._check_order(subscriber, topic)

    def _check_order(self, subscriber: SimClient, topic: bytes) -> None:
        """First deliveries of one publisher, topic and QoS come in the order of publishing."""
        qos_of = {(t, p): q for one in self.publishers for t, p, q in one.acked}
        last: dict[tuple[bytes, int], int] = {}
        seen: set[bytes] = set()
        for got_topic, payload, _ in subscriber.received:
            if got_topic != topic or payload in seen:
                continue
            seen.add(payload)
            publisher, _, _ = payload.partition(b" ")
            order = self._order(publisher, got_topic, payload)
            key = (publisher, qos_of[got_topic, payload])
            assert last.get(key, -1) < order, f"{subscriber.client_id!r}: {payload!r} came late"
            last[key] = order

    def _order(self, publisher: bytes, topic: bytes, payload: bytes) -> int:
        client = next(one for one in self.publishers if one.client_id == publisher)
        return client.published.index((topic, payload))


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_acked_is_lost_doubled_or_reordered(seed: int) -> None:
    print(f"seed {seed}: replay with ROBUSTMQ_SIM_SEED={seed}")
    history = History(seed, workers=2 + seed % 2)
    history.load(120)
    history.faults(8)
    history.world.scheduler.run(1_600)
    history.settle()
    history.check()
