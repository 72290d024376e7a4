"""Share groups with the newest Java client: what two members of one group get, in every way that
they can acknowledge it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.broker import BrokerProcess

JARS = Path.home() / ".cache" / "robustmq-peers" / "kafka"
SOURCE = Path(__file__).parent / "java" / "Share.java"
pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="needs java, 17 or newer"),
    pytest.mark.skipif(
        not list(JARS.glob("kafka-clients-*.jar")),
        reason="needs the client's jars: perf/peers fetches them",
    ),
]


def java(broker: BrokerProcess, *arguments: str) -> list[str]:
    """What Share.java prints."""
    command = ["java", "-cp", f"{JARS}/*", str(SOURCE), f"127.0.0.1:{broker.kafka}", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_java_client_shares_acknowledges_renews_and_administers(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        java(broker)
