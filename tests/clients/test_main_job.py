"""The main job, as README shows it: MQTT in, Kafka out, and back, with the clients users have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.clients.programs import consume, needs_programs, publish, run

pytestmark = needs_programs


@pytest.mark.parametrize("workers", [1, 2])
def test_what_mqtt_publishes_kafka_consumes_and_back_also_after_a_kill(
    tmp_path: Path, workers: int
) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        subscriber = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-p", str(broker.mqtt), "-t", "sensors/+/temp",
             "-v", "-q", "1", "-d", "-C", "2", "-W", "30"],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert subscriber.stdout is not None
        for line in subscriber.stdout:
            if "received SUBACK" in line:
                break
        publish(broker, "sensors/7/temp", "21.5")
        assert consume(broker, "sensors.7.temp") == ["21.5"]
        kafka = f"127.0.0.1:{broker.kafka}"
        run("kcat", "-b", kafka, "-P", "-t", "sensors.7.temp", given="22.5\n")
        lines, _ = subscriber.communicate(timeout=30)
        seen = [line for line in lines.splitlines() if line.startswith("sensors/")]
        assert seen == ["sensors/7/temp 21.5", "sensors/7/temp 22.5"]
        broker.kill()
        broker.start()
        assert consume(broker, "sensors.7.temp") == ["21.5", "22.5"]
        publish(broker, "sensors/7/temp", "23.5")
        assert consume(broker, "sensors.7.temp") == ["21.5", "22.5", "23.5"]


def test_a_killed_worker_comes_back_and_the_others_serve_on(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        publish(broker, "a/b", "1")
        before = broker.worker_pids()
        broker.kill_worker(0)
        until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids() != before)
        until(lambda: consume(broker, "a.b") == ["1"])
        assert broker.stop() == 0
