"""Rounds of faults under load, one of each kind (rounds.py); the seed is another every day.
`ROBUSTMQ_FAULTS_SEED=n` replays the choices of a run; with ROBUSTMQ_TEST_ALL a hundred rounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.rounds import FAULTS, Rounds
from tests.faults.test_kill import seed

ROUNDS = 100 if os.environ.get("ROBUSTMQ_TEST_ALL") else len(FAULTS)


@pytest.mark.timeout(120 + 10 * ROUNDS)
def test_what_was_acknowledged_survives_every_fault_of_the_disk_and_of_processes(
    tmp_path: Path,
) -> None:
    chosen = seed()
    print(f"replay with scripts/test --faults {chosen}")
    rounds = Rounds(tmp_path, chosen)
    try:
        rounds.run(ROUNDS)
        rounds.check()
    except BaseException:
        print(rounds.broker.log[-20_000:])
        raise
    finally:
        rounds.close()
