"""The disk gets full at each of a history's writes in turn, with none, half or all of its bytes on
it; workers are killed meanwhile. What idempotent producers with five batches in flight have sent is
in the log once and in order, and no producer is given a reason to begin a new epoch.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from robustmq.core import batches
from robustmq.kafka.topic_configs import ENGINE_SETTING
from robustmq.shard.broker import Broker
from robustmq.shard.cluster_view import Declared
from tests.simulation.full_disk import FullWorld
from tests.simulation.pipelining import JAVA, LIBRDKAFKA, Partition, PipeliningProducer

EVERY = 1 if os.environ.get("ROBUSTMQ_TEST_ALL") else 199
"""Of all cases; all of them take half an hour."""
SEED = int(os.environ.get("ROBUSTMQ_SIM_SEED") or 0)
VALUES = 40
LIGHT: Partition = (b"f/light", 0)
TOPICS = {b"f/segment": "segment", b"f/shared": "shared", b"f/moves": "segment"}
PARTITIONS: list[Partition] = [LIGHT, *((name, number) for name in TOPICS for number in range(2))]


class Case(NamedTuple):
    """What happens: which write finds the disk full, how much of it fits, and who is killed."""

    seed: int
    full_at: int
    part: float
    kills: str


KILLS = ("", "back while full", "back with room", "the other one", "when there is room")


class History:
    """One run."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.world = world = FullWorld(case.seed)
        self.random = world.scheduler.random
        for number, (name, engine) in enumerate(TOPICS.items()):
            self._declare(name, engine, number)
        world.scheduler.run(50)
        self._home(LIGHT).kafka.logs.light_topic(LIGHT[0], "create")
        world.scheduler.run(50)
        self.producers = [
            PipeliningProducer(world, 11, PARTITIONS, LIBRDKAFKA),
            PipeliningProducer(world, 12, PARTITIONS, JAVA),
        ]
        world.killed = self._killed
        world.writes, world.full_at, world.part = 0, case.full_at, case.part
        world.got_full = self._got_full

    def _declare(self, name: bytes, engine: str, number: int) -> None:
        configs = {ENGINE_SETTING: engine}
        topic_id = uuid.UUID(int=number + 1)
        self.world.cluster.topics[name] = Declared(name, topic_id, 2, configs)
        self.world.cluster.changed(name)

    def _home(self, partition: Partition) -> Broker:
        alive = next(broker for broker in self.world.brokers if broker is not None)
        found = self.world.brokers[alive.placement.worker(*partition)]
        assert found is not None, "it lives"
        return found

    def _killed(self, number: int) -> None:
        for producer in self.producers:
            producer.gone(number)

    def _got_full(self, full: int) -> None:
        """In the write that has no room."""
        world, kills = self.world, self.case.kills
        room_ms = self.random.uniform(5, 60)
        world.scheduler.at(room_ms, world.give_room)
        if self.random.random() < 0.5:
            engine = self.random.choice(("shared", "segment"))
            world.scheduler.soon(lambda: self._declare(b"f/moves", engine, 2))
        if not kills:
            return
        number = 1 - full if kills == "the other one" else full
        kill_ms = self.random.uniform(1, room_ms)
        back_ms = self.random.uniform(kill_ms, room_ms)
        if kills == "when there is room":
            kill_ms = room_ms + self.random.uniform(0, 4)
        if kills != "back while full":
            back_ms = max(room_ms, kill_ms) + self.random.uniform(1, 20)
        world.scheduler.at(kill_ms, lambda: world.kill(number))
        world.scheduler.at(back_ms, lambda: world.start(number))

    def run(self) -> None:
        """Until all is acknowledged."""
        scheduler = self.world.scheduler
        for producer in self.producers:
            for partition in PARTITIONS:
                for number in range(VALUES):
                    value = b"%d %d" % (producer.producer_id, number)
                    scheduler.at(
                        self.random.uniform(number, number + 3),
                        partial(producer.produce, partition, value),
                    )
        for _ in range(200):
            scheduler.run(50)
            if all(one.done or one.failed for one in self.producers) and not self.world.is_full:
                break
        scheduler.run(100)

    def check(self) -> None:
        """What was promised."""
        for producer in self.producers:
            assert not producer.failed, producer.failed
            assert producer.done, "all is acknowledged"
            assert not producer.bumps, "a producer was told that it is out of order"
        self._check_logs()
        for number in range(2):
            self.world.kill(number)
            self.world.start(number)
        self.world.scheduler.run(50)
        self._check_logs()
        # What recovery knows of the producers is what the log has.
        for producer in self.producers:
            for partition in PARTITIONS:
                producer.produce(partition, b"%d last" % producer.producer_id)
        self.world.scheduler.run(200)
        for producer in self.producers:
            assert producer.done and not producer.failed and not producer.bumps
        self._check_logs()

    def _check_logs(self) -> None:
        for partition in PARTITIONS:
            values = self._log(partition)
            for producer in self.producers:
                mine = [one for one in values if one.startswith(b"%d " % producer.producer_id)]
                assert mine == producer.flows[partition].values, partition

    def _log(self, partition: Partition) -> list[bytes]:
        """All values; offsets are dense."""
        values: list[bytes] = []
        while True:
            result = self._home(partition).kafka.logs.read(*partition, len(values), 1 << 20, -1, 0)
            assert not result.error, result
            data = b"".join(bytes(buffer) for buffer in result.buffers)
            if not data:
                assert len(values) == result.high_watermark
                return values
            for begin, info in batches.headers(data, 0, len(data)):
                assert info.base_offset == len(values)
                records = batches.parse(data, begin, begin + info.length)
                values += [record.value or b"" for record in records]


def writes() -> int:
    """How many there are when the disk is never full."""
    history = History(Case(SEED, -1, 0, ""))
    history.run()
    found = history.world.writes
    history.check()
    return found


def cases() -> Iterator[Case]:
    """All of them, one beside the other those of one write."""
    for full_at in range(1, writes() + 1):
        for part in (0, 0.5, 1):
            for kills in KILLS:
                yield Case(SEED, full_at, part, kills)


def test_what_an_idempotent_producer_sends_is_there_once_whenever_the_disk_gets_full() -> None:
    for case in islice(cases(), 0, None, EVERY):
        try:
            history = History(case)
            history.run()
            assert case.full_at <= history.world.writes, "the disk was full"
            history.check()
        except BaseException:
            print(case)
            raise
