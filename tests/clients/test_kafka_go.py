"""franz-go, the fastest client of the Go world."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.broker import BrokerProcess

SOURCE = Path(__file__).parent / "go"
pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="needs go, 1.26 or newer")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("go") / "smoke"
    done = subprocess.run(
        ["go", "build", "-o", str(built), "."],
        check=False,
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        pytest.skip(f"franz-go cannot be built here: {done.stderr[-300:]}")
    return built


@pytest.mark.parametrize("workers", [1, 2])
def test_franz_go_produces_and_consumes(tmp_path: Path, program: Path, workers: int) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        done = subprocess.run(
            [str(program), f"127.0.0.1:{broker.kafka}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
