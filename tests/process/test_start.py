"""What a user sees who starts the broker."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from crc32c import crc32c
from paho.mqtt import publish

from tests.broker import BrokerProcess, until


def get(broker: BrokerProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_it_says_what_listens_where_and_there_it_answers(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        assert broker.said[0].startswith("RobustMQ ")
        assert 0 not in (broker.mqtt, broker.kafka, broker.metrics), broker.said
        assert len(broker.worker_ports) == 2
        until(lambda: get(broker, "/health/ready") == "ready\n")
        assert "robustmq_messages_total" in get(broker, "/metrics")
        assert broker.stop() == 0


def test_what_it_keeps_is_for_its_own_user_alone(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        kept = [path for path in broker.data.rglob("*") if not path.is_socket()]
        readable = [str(path) for path in kept if path.stat().st_mode & 0o077]
        assert len(kept) > 50
        assert readable == []
        assert broker.stop() == 0


def test_a_core_that_is_not_compiled_is_named_once_and_serves(tmp_path: Path) -> None:
    os.environ["ROBUSTMQ_PURE"] = "1"
    try:
        with BrokerProcess(tmp_path) as broker:
            assert broker.log.count("not compiled") == 1
            assert broker.stop() == 0
    finally:
        del os.environ["ROBUSTMQ_PURE"]


def test_logs_are_json_unless_a_person_reads_them(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        assert broker.stop() == 0
    events = [json.loads(line)["event"] for line in broker.log.splitlines()]
    assert {"worker ready", "stopping", "stopped"} <= set(events)


def test_a_mistake_is_answered_with_what_to_do(tmp_path: Path) -> None:
    def start(*options: str, **settings: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "robustmq.cli.main", "start", *options],
            cwd=tmp_path,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.returncode, done.stderr

    code, told = start(ROBUSTMQ_MQTT__BIND='["0.0.0.0"]')
    assert code == 2 and "robustmq passwd" in told
    code, told = start("--config", "nowhere.toml")
    assert code == 2 and "--config" in told
    code, told = start(ROBUSTMQ_MQTT__PROT="1")
    assert code == 2 and "ROBUSTMQ_MQTT__PROT" in told
    assert list(tmp_path.iterdir()) == [], "nothing was made"


@pytest.mark.parametrize("profile", ["server", "edge"])
def test_a_log_of_another_version_ends_the_node_with_advice(tmp_path: Path, profile: str) -> None:
    with BrokerProcess(tmp_path, NODE__PROFILE=profile) as broker:
        publish.single("kept", b"x", qos=1, port=broker.mqtt)
        broker.kill()
        log = max(broker.data.glob("*/log/*"), key=lambda path: path.stat().st_size)
        written = bytearray(log.read_bytes())
        written[9] += 1
        (length,) = struct.unpack_from("<I", written)
        struct.pack_into("<I", written, 4, crc32c(written[8:length]))
        log.write_bytes(written)
        done = subprocess.run(
            [sys.executable, "-m", "robustmq.cli.main", "start", "--config", str(broker.config)],
            env={**os.environ, **broker.environment()},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 78
    assert "run that version, or choose another node.data_dir" in done.stderr
    assert log.read_bytes() == written
