"""Light topics of mode tiered under a seeded scheduler: what belongs to them in the shards' logs
goes to the object store and leaves the local disk, while workers die, also in the middle of a call,
links break, the machine loses power, its disk gets full, and calls to the store fail. What was
acknowledged is read from the first offset on, once and in order, out of the store where it is
nowhere else. `scripts/test --sim SEED` replays one history.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise

import msgspec
import pytest

from robustmq.config import NodeSettings, Settings, StorageRule
from robustmq.core.topic_index import NO_POSITION
from robustmq.shard.broker import Broker
from robustmq.storage.cluster_mark import NAME as MARK
from robustmq.storage.light_topics import PREVIOUS_AT
from robustmq.storage.manifest import (
    LOG,
    NAME,
    log_prefix_of,
    object_name,
    read_head,
    read_rows,
)
from tests.simulation.full_disk import FullWorld
from tests.simulation.history import LIGHT, LOAD_MS, TOPICS, History
from tests.simulation.producer import Partition
from tests.simulation.tiers import Tier, no_partitions
from tests.simulation.world import World

MANY = 200 if os.environ.get("ROBUSTMQ_TEST_ALL") else 8
ONE = os.environ.get("ROBUSTMQ_SIM_SEED")
SEEDS = [int(ONE)] if ONE else range(MANY)
FEW = SEEDS if ONE or MANY > 8 else SEEDS[:4]
SHARDS = 3
STORAGE_ERROR, UNKNOWN = 56, 3


def settings(rule: StorageRule, sync: str = "os") -> Settings:
    """Rounds that follow one another quickly."""
    made = Settings(node=NodeSettings(shards=SHARDS))
    tiering = msgspec.structs.replace(made.storage.tiering, check_ms=50, retry_max_ms=300)
    storage = msgspec.structs.replace(
        made.storage, tiering=tiering, rules=(rule,), light_retention_ms=-1, sync=sync
    )
    return msgspec.structs.replace(made, storage=storage)


class Tiered(History):
    """A history whose light topics are tiered."""

    def __init__(
        self,
        seed: int,
        workers: int,
        tier: Tier,
        rule: StorageRule,
        sync: str = "os",
        world: type[World] = World,
    ) -> None:
        self.tier = tier
        self.checked = TOPICS
        """What must have lost nothing."""
        self.power_lost = self.times_full = 0
        made = world(seed, workers, settings(rule, sync), True, tier.of_worker)
        super().__init__(seed, workers, True, world=made)

    def _load(self, messages: int) -> None:
        """Where the disk gets full, by Kafka alone: MQTT clients give up what is refused."""
        if not isinstance(self.world, FullWorld):
            super()._load(messages)
            return
        self.sent += messages
        for number in range(messages):
            self._load_kafka(self.random.choice(self.topics), number)

    def _owners(self) -> list[tuple[Broker, Partition]]:
        return [(broker, one) for broker, one in super()._owners() if one[0] in self.checked]

    def lose_power(self, times: int) -> None:
        """At random times, while the load runs."""
        for _ in range(times):
            self._at_random(self._lose_power)

    def _lose_power(self) -> None:
        self.power_lost += 1
        self.world.lose_power()
        for number in range(self.world.worker_count):
            wait_ms = 20 + self.random.random() * 200
            self.world.scheduler.at(wait_ms, partial(self.world.start, number))

    def fill_disk(self, part: float) -> None:
        """This part of all writes find the disk full, until the load is over."""
        world = self.world
        assert isinstance(world, FullWorld), "its disk may be full"
        for broker, (topic, _) in self._owners():
            if topic in LIGHT:
                broker.kafka.logs.light_topic(topic, "create")
        world.scheduler.run(100)

        def following() -> None:
            over = world.scheduler.now_ms > begun_ms + LOAD_MS
            world.full_at = -1 if over else world.writes + int(self.random.expovariate(part)) + 1
            world.part = self.random.random()

        def room() -> None:
            following()
            world.give_room()

        def got_full(_: int) -> None:
            self.times_full += 1
            world.scheduler.at(self.random.uniform(1, 200), room)

        begun_ms = world.scheduler.now_ms
        world.got_full = got_full
        following()

    def forgive_store(self) -> None:
        """That calls to the store have failed is no fault."""
        faults = self.world.faults
        self.world.faults = [one for one in faults if "the object store" not in one["text"]]

    def check_acked(self) -> None:
        """What was acknowledged of the topics that are looked at is in their logs."""
        logged = {one[0]: self._read(broker, one) for broker, one in self._owners()}
        acked = [(topic, value) for one in self.publishers for topic, value, _ in one.acked]
        acked += [(one[0], value) for producer in self.producers for one, value in producer.acked]
        for topic, value in acked:
            assert topic not in logged or value in logged[topic], f"{topic!r} {value!r} is lost"

    def _read(self, broker: Broker, partition: Partition) -> list[bytes]:
        """Waits for what is in the store alone; of a worker that dies meanwhile nothing is read."""
        for _ in range(3_000):
            if broker not in self.world.brokers:
                return []
            values = super()._read(broker, partition)
            result = broker.kafka.logs.read(*partition, len(values), 1 << 20, -1)
            if not result.pending and result.error != STORAGE_ERROR:
                assert result.error in (0, UNKNOWN), f"{partition}: {len(values)}, {result}"
                return values
            self.world.scheduler.run(10)
        raise AssertionError(f"{partition} could not be read")

    def _end_cleaning(self) -> None:
        """No worker dies any more."""
        self.tier.troubled = False
        self._until(lambda: None not in self.world.brokers)
        super()._end_cleaning()

    def settle(self) -> None:
        """All that is closed is in the store, and no longer here."""
        for broker in self.world.brokers:
            assert broker is not None
            broker.log_cleaning.interval_ms = 0
        for _ in range(200):
            self.world.scheduler.run(100)
            if all(
                file.end <= store.cold.may_go_to
                for broker in self.world.brokers
                if broker is not None
                for store in broker.stores.values()
                for file in store.log.files.files[:-1]
            ):
                break
        else:
            raise AssertionError("the logs were not uploaded")
        self.world.scheduler.run(2_000)
        self._end_cleaning()


def check_store(run: Tiered) -> int:
    """What manifests tell of is there, and nothing else is."""
    count = 0
    cluster = next(iter(run.world.cluster.views.values()))
    objects = run.tier.store.objects
    expected = {f"{cluster.cluster_id}/{MARK}"}
    for broker in run.world.brokers:
        assert broker is not None
        for shard, store in broker.stores.items():
            prefix = log_prefix_of(cluster.cluster_id, shard)
            head, _ = read_head(run.tier.store, prefix)
            rows = read_rows(run.tier.store, prefix, head)
            assert list(store.cold.table) == rows
            assert all(a.next_offset <= b.base_offset for a, b in pairwise(rows))
            expected.add(prefix + NAME)
            for row in rows:
                name = prefix + object_name(row.base_offset, row.leader_epoch) + LOG
                assert len(objects[name][0]) == row.size
                expected.add(name)
            count += len(rows)
    assert set(objects) == expected
    return count


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_in_the_store_alone_is_read_as_if_it_were_here(seed: int) -> None:
    tier = Tier(no_partitions)
    rule = StorageRule("t/+", mode="tiered", local_retention_ms=200)
    run = Tiered(seed, 2 + seed % 2, tier, rule)
    tier.troubled = True
    run.run(messages=150, faults=10)
    run.settle()
    count = check_store(run)
    run.forgive_store()
    run.check()
    here = sum(
        store.log.disk_bytes
        for broker in run.world.brokers
        if broker is not None
        for store in broker.stores.values()
    )
    reads = sum(one.reads for one in tier.runs)
    print(f"seed {seed}: {count} objects, {reads} reads, {here} bytes here, {tier.died} deaths")
    assert count > 0 and reads > 0


@pytest.mark.parametrize("seed", FEW)
def test_power_that_is_lost_in_the_middle_of_uploads_takes_nothing(seed: int) -> None:
    tier = Tier(no_partitions)
    rule = StorageRule("t/+", mode="tiered", local_retention_ms=200)
    sync = ("disk", "os")[seed % 2]
    run = Tiered(seed, 2, tier, rule, sync)
    if sync == "os":
        # What is not of mode tiered loses some.
        run.checked = LIGHT
        run.world.on_loss = lambda position, length: None
    tier.troubled = True
    run.lose_power(3)
    run.run(messages=150, faults=3 if sync == "disk" else 0)
    run.settle()
    count = check_store(run)
    print(f"seed {seed}: {count} objects, {run.power_lost} losses of power, {tier.died} deaths")
    assert count > 0 and run.power_lost > 0
    if sync == "os":
        run.check_acked()
    else:
        run.forgive_store()
        run.check()


@pytest.mark.parametrize("seed", FEW)
def test_a_disk_that_gets_full_in_the_middle_of_uploads_takes_nothing(seed: int) -> None:
    tier = Tier(no_partitions)
    rule = StorageRule("t/+", mode="tiered", local_retention_ms=200)
    run = Tiered(seed, 2, tier, rule, world=FullWorld)
    run.fill_disk(0.02)
    tier.troubled = True
    run.run(messages=150, faults=3)
    run.settle()
    count = check_store(run)
    print(f"seed {seed}: {count} objects, full {run.times_full} times, {tier.died} deaths")
    assert count > 0 and run.times_full > 3
    run.forgive_store()
    run.check()


def test_files_of_a_quiet_shard_go_though_a_checkpoint_was_wanted_in_vain() -> None:
    rule = StorageRule("t/+", mode="tiered", local_retention_ms=200)
    run = Tiered(0, 2, Tier(no_partitions), rule)
    run.run(messages=50, faults=0)
    for broker in run.world.brokers:
        assert broker is not None
        for shard, store in broker.stores.items():
            broker.log_cleaning.roll(shard)
            store.checkpoint([])
            # As when one is asked for while another is being made.
            store.checkpoint_wanted = True
    run.settle()


@pytest.mark.parametrize("leads_to", [1, NO_POSITION])
def test_a_damaged_entry_here_hides_nothing_that_is_in_the_store(leads_to: int) -> None:
    rule = StorageRule("t/+", mode="tiered", local_retention_ms=200)
    run = Tiered(1, 2, Tier(no_partitions), rule)
    run.run(messages=150, faults=0)
    run.settle()
    away = check_store(run)
    for topic in LIGHT:
        run.publishers[0].publish(topic, b"here", 1)
    run.world.scheduler.run(100)
    lights = [(broker, place) for broker, place in run._owners() if place[0] in LIGHT]
    whole = {place: run._read(broker, place) for broker, place in lights}
    for broker, (topic, number) in lights:
        store = broker.stores[broker.placement.shard(topic, number)]
        log, light = store.log, store.light
        found = light._index.lookup(topic)
        assert found is not None
        here = log.files.files[log.files.find(found[1])]
        # As if it had been read from the disk all the time.
        log._hot_bytes = 0
        log._cool()
        light.let_go()
        lead = found[1] - here.start + PREVIOUS_AT
        data = run.world.disks[broker.worker_id].files[here.path]
        data[lead : lead + 8] = leads_to.to_bytes(8, "little")
    assert away
    for broker, place in lights:
        assert run._read(broker, place) == whole[place]
