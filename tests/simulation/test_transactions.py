"""Transactions under a seeded scheduler: while workers die and links break, readers of committed
transactions and MQTT subscribers see every record of a committed one, in order, and none of an
aborted one. `scripts/test --sim SEED` replays one history.
"""

from __future__ import annotations

import os
import uuid
from functools import partial

import pytest

from robustmq.core import batches
from robustmq.shard.broker import Broker
from tests.simulation.client import SimClient
from tests.simulation.producer import Partition
from tests.simulation.transactor import SimTransactor
from tests.simulation.world import World

MANY = 200 if os.environ.get("ROBUSTMQ_TEST_ALL") else 12
ONE = os.environ.get("ROBUSTMQ_SIM_SEED")
SEEDS = [int(ONE)] if ONE else range(MANY)
LIGHT, DECLARED = b"x/light", b"x/declared"
WHERE: list[Partition] = [(LIGHT, 0), (DECLARED, 0), (DECLARED, 1)]
LOAD_MS = 1_500


def owner(world: World, partition: Partition) -> Broker:
    for broker in world.brokers:
        if broker is not None and broker.placement.worker(*partition) == broker.worker_id:
            return broker
    raise AssertionError("all workers are back")


def committed(world: World, partition: Partition) -> list[bytes]:
    """What a reader of committed transactions makes of a partition, as clients do it: by the list
    of aborted transactions, and the markers."""
    logs = owner(world, partition).kafka.logs
    values: list[bytes] = []
    given_up: set[int] = set()
    offset = 0
    while True:
        result = logs.read(*partition, offset, 300, -1, 1)
        assert not result.error
        data = b"".join(bytes(buffer) for buffer in result.buffers)
        if not data:
            assert result.last_stable_offset == result.high_watermark == offset
            return values
        listed = sorted((row.first_offset, row.producer_id) for row in result.aborted)
        for begin, info in batches.headers(data, 0, len(data)):
            offset = info.base_offset + info.last_offset_delta + 1
            while listed and listed[0][0] <= info.base_offset:
                given_up.add(listed.pop(0)[1])
            if info.attributes & batches.CONTROL:
                given_up.discard(info.producer_id)
            elif info.producer_id not in given_up:
                records = batches.parse(data, begin, begin + info.length)
                values += [record.value or b"" for record in records]


class History:
    """Two transactional producers, a subscriber and faults."""

    def __init__(self, world: World, **configs: str) -> None:
        """`configs` are settings of the declared topic, with _ in the place of dots."""
        self.world = world
        self.random = self.world.scheduler.random
        view = next(iter(self.world.cluster.views.values()))
        told = {name.replace("_", "."): value for name, value in configs.items()}
        view.create_topic(DECLARED, 2, told, uuid.UUID(int=1))
        self.world.scheduler.run(50)
        self.transactors = [SimTransactor(self.world, f"id-{number}") for number in range(2)]
        self.subscriber = SimClient(self.world, b"subscriber", {b"x/+": 2})
        for _ in range(100):
            self.world.scheduler.run(100)
            if self.subscriber.subscribed and self.subscriber.connected:
                break
        self._make_light()

    def _make_light(self) -> None:
        made = owner(self.world, (LIGHT, 0)).kafka.logs.light_topic(LIGHT, "create")
        self.world.scheduler.run(50)
        assert made.settled

    def load(self, transactions: int) -> None:
        for number in range(transactions):
            source = self.random.choice(self.transactors)
            writes = [
                (self.random.choice(WHERE), b"%s %d %d" % (source.name.encode(), number, one))
                for one in range(self.random.randrange(1, 6))
            ]
            run = partial(source.run, writes, self.random.random() < 0.6)
            self.world.scheduler.at(self.random.random() * LOAD_MS, run)

    def fail(self, faults: int) -> None:
        for _ in range(faults):
            if self.random.random() < 0.7 or self.world.worker_count == 1:
                run = partial(self._kill, self.random.randrange(self.world.worker_count))
            else:
                one, two = self.random.sample(range(self.world.worker_count), 2)
                run = partial(self.world.cut, one, two)
            self.world.scheduler.at(self.random.random() * LOAD_MS, run)

    def _kill(self, number: int) -> None:
        if self.world.brokers[number] is not None:
            self.world.kill(number)
            wait_ms = 20 + self.random.random() * 200
            self.world.scheduler.at(wait_ms, partial(self.world.start, number))

    def settle(self) -> None:
        self.world.scheduler.run(LOAD_MS + 300)
        for _ in range(600):
            self.world.scheduler.run(100)
            if not any(one.left for one in self.transactors) and self.subscriber.connected:
                break
        else:
            raise AssertionError("the transactions did not come to their ends")
        self.world.scheduler.run(3_000)

    def check(self) -> None:
        for partition in WHERE:
            values = committed(self.world, partition)
            for source in self.transactors:
                own = [value for value in values if value.startswith(source.name.encode() + b" ")]
                promised = [value for where, value in source.committed if where == partition]
                assert own == promised, f"{partition}: {source.name}"
        for source in self.transactors:
            for topic in (LIGHT, DECLARED):
                promised = [value for where, value in source.committed if where[0] == topic]
                got = [
                    payload
                    for name, payload, _ in self.subscriber.received
                    if name == topic and payload.startswith(source.name.encode() + b" ")
                ]
                assert set(got) == set(promised), f"{topic!r}: what MQTT was told"
            light = [value for where, value in source.committed if where == (LIGHT, 0)]
            got = [payload for name, payload, _ in self.subscriber.received if name == LIGHT]
            first = list(dict.fromkeys(value for value in got if value in set(light)))
            assert first == light, "the order of what MQTT was told"


@pytest.mark.parametrize("seed", SEEDS)
def test_transactions_are_whole_or_nothing(seed: int) -> None:
    print(f"seed {seed}: replay with scripts/test --sim {seed}")
    history = History(World(seed, workers=1 + seed % 3))
    history.load(transactions=25)
    history.fail(faults=6)
    history.settle()
    history.check()
