"""Tiered partitions under a seeded scheduler: workers die, also in the middle of an upload; calls
to the object store fail before they are done or behind it; what a dead worker had begun may reach
the store later. Transactions go on meanwhile. Readers, who read what is cold out of the store, see
every committed record once and in order, and the store has what its manifests tell of, and nothing
else. `scripts/test --sim SEED` replays one history.
"""

from __future__ import annotations

import os

import msgspec
import pytest

from robustmq.config import Settings
from robustmq.core import batches
from robustmq.promises import Promise
from robustmq.storage.cluster_mark import NAME as MARK
from robustmq.storage.cold_segments import ColdSegments
from robustmq.storage.engine import ReadResult
from robustmq.storage.manifest import (
    ABORTED,
    INDEX,
    LOG,
    NAME,
    object_name,
    part_name,
    prefix_of,
    read_head,
    read_rows,
)
from robustmq.storage.segment import SegmentPartition
from tests.simulation.test_transactions import DECLARED, LOAD_MS, History, owner
from tests.simulation.tiers import Tier
from tests.simulation.world import World
from tests.storage.memory_objects import MemoryObjects

MANY = 100 if os.environ.get("ROBUSTMQ_TEST_ALL") else 10
ONE = os.environ.get("ROBUSTMQ_SIM_SEED")
SEEDS = [int(ONE)] if ONE else range(MANY)
TRANSACTIONS = 80
SEGMENT_BYTES = 700


class Reader:
    """Reads cold segments where they lie."""

    def __init__(self, store: MemoryObjects, prefix: str, cold: ColdSegments) -> None:
        self._store = store
        self._prefix = prefix
        self._cold = cold

    def read(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        """One batch."""
        for row in self._cold:
            if row.next_offset <= offset:
                continue
            path = self._prefix + object_name(row.base_offset, row.leader_epoch) + LOG
            data = self._store.objects[path][0]
            for begin, info in batches.headers(data, 0, len(data), True):
                assert info.crc_ok
                if offset < info.base_offset + info.last_offset_delta + 1:
                    found: list[bytes | memoryview] = [data[begin : begin + info.length]]
                    return ReadResult(end, self._cold.start_offset, found)
        raise AssertionError(f"offset {offset} is not in the store")

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """Nobody asks."""
        raise NotImplementedError


def settings() -> Settings:
    """Rounds that follow one another quickly."""
    made = Settings()
    tiering = msgspec.structs.replace(made.storage.tiering, check_ms=50, retry_max_ms=300)
    storage = msgspec.structs.replace(made.storage, tiering=tiering, retention_check_s=1)
    return msgspec.structs.replace(made, storage=storage)


def history(seed: int, workers: int) -> tuple[History, Tier]:
    tier = Tier(Reader)
    world = World(seed, workers, settings(), tier=tier.of_worker)
    made = History(
        world,
        remote_storage_enable="true",
        segment_bytes=str(SEGMENT_BYTES),
        index_interval_bytes="200",
        local_retention_bytes=str(2 * SEGMENT_BYTES),
    )
    tier.troubled = True
    return made, tier


def check_store(run: History, tier: Tier) -> int:
    """What manifests tell of is there, nothing else is, and all that is closed is told of."""
    count = 0
    expected: set[str] = set()
    cluster = next(iter(run.world.cluster.views.values()))
    for partition in (0, 1):
        log = owner(run.world, (DECLARED, partition)).partitions.get(DECLARED, partition)
        assert isinstance(log, SegmentPartition) and log.tier is not None
        known = cluster.declared(DECLARED)
        assert known is not None
        prefix = prefix_of(cluster.cluster_id, known.topic_id.bytes, partition)
        head, _ = read_head(tier.store, prefix)
        rows = read_rows(tier.store, prefix, head)
        assert list(log.tier.cold) == rows
        assert [row.next_offset for row in rows[:-1]] == [row.base_offset for row in rows[1:]]
        assert not rows or rows[0].base_offset == 0
        assert head.end_offset == log.files[-1].base_offset == log.state.tiered_until
        expected |= {prefix + NAME} | {prefix + part_name(part) for part in head.parts}
        for row in rows:
            name = prefix + object_name(row.base_offset, row.leader_epoch)
            assert len(tier.store.objects[name + LOG][0]) == row.size
            expected |= {name + LOG, name + INDEX}
        count += len(rows)
    expected.add(f"{cluster.cluster_id}/{MARK}")
    assert {path for path in tier.store.objects if not path.endswith(ABORTED)} == expected
    return count


@pytest.mark.parametrize("seed", SEEDS)
def test_no_death_and_no_failure_of_the_store_shows(seed: int) -> None:
    workers = 1 + seed % 2
    run, tier = history(seed, workers)
    run.load(TRANSACTIONS)
    run.fail(4)
    run.world.scheduler.run(LOAD_MS + 500)
    tier.troubled = False
    run.settle()
    run.check()
    count = check_store(run, tier)
    print(f"seed {seed}: {count} segments, {tier.failed} failures, {tier.died} deaths in a call")
    assert count > 4
    local = [
        log.local_start_offset - log.start_offset
        for partition in (0, 1)
        for log in [owner(run.world, (DECLARED, partition)).partitions.get(DECLARED, partition)]
        if isinstance(log, SegmentPartition)
    ]
    assert max(local) > 0, "something was read out of the store alone"
