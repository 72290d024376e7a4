"""Light topics of mode tiered under a seeded scheduler: what belongs to them in the shards' logs
goes to the object store and leaves the local disk, while workers die, also in the middle of a call,
links break, and calls to the store fail. What was acknowledged is read from the first offset on,
once and in order, out of the store where it is nowhere else. `scripts/test --sim SEED` replays one
history.
"""

from __future__ import annotations

import os
from itertools import pairwise

import msgspec
import pytest

from robustmq.config import NodeSettings, Settings, StorageRule
from robustmq.shard.broker import Broker
from robustmq.storage.cluster_mark import NAME as MARK
from robustmq.storage.manifest import (
    LOG,
    NAME,
    log_prefix_of,
    object_name,
    read_head,
    read_rows,
)
from tests.simulation.history import History
from tests.simulation.producer import Partition
from tests.simulation.tiers import Tier, no_partitions

MANY = 200 if os.environ.get("ROBUSTMQ_TEST_ALL") else 8
ONE = os.environ.get("ROBUSTMQ_SIM_SEED")
SEEDS = [int(ONE)] if ONE else range(MANY)
SHARDS = 3
STORAGE_ERROR, UNKNOWN = 56, 3


def settings(rule: StorageRule) -> Settings:
    """Rounds that follow one another quickly."""
    made = Settings(node=NodeSettings(shards=SHARDS))
    tiering = msgspec.structs.replace(made.storage.tiering, check_ms=50, retry_max_ms=300)
    storage = msgspec.structs.replace(
        made.storage, tiering=tiering, rules=(rule,), light_retention_ms=-1
    )
    return msgspec.structs.replace(made, storage=storage)


class Tiered(History):
    """A history whose light topics are tiered."""

    def __init__(self, seed: int, workers: int, tier: Tier, rule: StorageRule) -> None:
        self.tier = tier
        super().__init__(seed, workers, True, settings(rule), tier.of_worker)

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
    run.world.faults = [one for one in run.world.faults if "the object store" not in one["text"]]
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
