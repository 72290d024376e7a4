"""The invariants of the design under a seeded scheduler: random delays, broken links and
connections, killed workers, rubbish. `scripts/test --sim SEED` replays one history.
"""

from __future__ import annotations

import os

import pytest

from robustmq.config import NodeSettings, Settings, StorageSettings
from tests.simulation.history import History

MANY = 500 if os.environ.get("ROBUSTMQ_TEST_ALL") else 20
ONE = os.environ.get("ROBUSTMQ_SIM_SEED")
SEEDS = [int(ONE)] if ONE else range(MANY)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_acked_is_lost_doubled_or_reordered(seed: int) -> None:
    print(f"seed {seed}: replay with scripts/test --sim {seed}")
    history = History(seed, workers=2 + seed % 2)
    history.run(messages=150, faults=10)
    history.check()


@pytest.mark.parametrize("seed", SEEDS if ONE else SEEDS[: max(12, MANY // 2)])
def test_nothing_acked_is_lost_while_the_logs_are_cleaned_all_the_time(seed: int) -> None:
    history = History(seed, workers=2 + seed % 2, cleaned=True)
    history.run(messages=150, faults=10)
    history.check()
    assert history.world.counters.get("storage_log_files_cleaned", 0) > 0


@pytest.mark.parametrize("cleaned", [False, True])
@pytest.mark.parametrize("seed", SEEDS if ONE else [*SEEDS[: max(6, MANY // 2)], 53])
def test_nothing_acked_is_lost_where_disks_are_synced_and_lose_power(
    seed: int, cleaned: bool
) -> None:
    node = NodeSettings(shards=3) if cleaned else NodeSettings()
    settings = Settings(node=node, storage=StorageSettings(sync="disk"))
    history = History(seed, 2 + seed % 2, cleaned, settings, loses_power=True)
    history.run(messages=150, faults=10)
    history.check()
