"""The newest Java client of Apache Kafka, with topic ids on its data path."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.broker import BrokerProcess

JARS = Path.home() / ".cache" / "robustmq-peers" / "kafka"
SOURCE = Path(__file__).parent / "java" / "Smoke.java"
pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="needs java, 17 or newer"),
    pytest.mark.skipif(
        not list(JARS.glob("kafka-clients-*.jar")),
        reason="needs the client's jars: perf/peers fetches them",
    ),
]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_java_client_administers_produces_and_consumes(tmp_path: Path, workers: int) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        done = subprocess.run(
            ["java", "-cp", f"{JARS}/*", str(SOURCE), f"127.0.0.1:{broker.kafka}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
