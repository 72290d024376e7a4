"""Many MQTT topics in one Kafka topic: `[[streams]]`, with the clients users have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.broker import BrokerProcess
from tests.clients.programs import needs_programs, publish, run

pytestmark = needs_programs

CONFIG = """
[[streams]]
filter = "sensors/+/temp"
topic = "plant.sensors-temp"
partitions = {partitions}
mode = "persistent"
"""


def records(broker: BrokerProcess, topic: str) -> list[str]:
    """Key and value of every record, and its partition."""
    kafka = f"127.0.0.1:{broker.kafka}"
    output = run("kcat", "-b", kafka, "-C", "-t", topic, "-e", "-q", "-f", "%k %s %p\n")
    return sorted(output.splitlines())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_gathers_mqtt_topics_in_a_kafka_topic_keyed_by_them(
    tmp_path: Path, workers: int
) -> None:
    with BrokerProcess(tmp_path, workers, CONFIG.format(partitions=6)) as broker:
        for device in range(5):
            for value in range(2):
                publish(broker, f"sensors/{device}/temp", str(value))
        publish(broker, "sensors/0/hum", "1")
        found = [row.rsplit(" ", 1) for row in records(broker, "plant.sensors-temp")]
        expected = [f"sensors/{device}/temp {value}" for device in range(5) for value in range(2)]
        assert [row for row, _ in found] == expected
        homes = {(row.split()[0], partition) for row, partition in found}
        assert len(homes) == 5, "each topic has one partition"
        broker.restart()
        publish(broker, "sensors/9/temp", "after")
        assert any(
            row.startswith("sensors/9/temp") for row in records(broker, "plant.sensors-temp")
        )


def test_a_kafka_producer_publishes_to_the_mqtt_topic_that_its_key_names(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, CONFIG.format(partitions=3)) as broker:
        subscriber = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-p", str(broker.mqtt), "-t", "sensors/#", "-v",
             "-d", "-C", "1", "-W", "30"],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert subscriber.stdout is not None
        for line in subscriber.stdout:
            if "received SUBACK" in line:
                break
        kafka = f"127.0.0.1:{broker.kafka}"
        command = ("kcat", "-b", kafka, "-P", "-t", "plant.sensors-temp", "-K", ":")
        run(*command, given="sensors/8/temp:23\n")
        lines, _ = subscriber.communicate(timeout=30)
        assert "sensors/8/temp 23" in lines.splitlines()


def test_a_stream_that_is_given_more_partitions_has_them_after_a_restart(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, CONFIG.format(partitions=1)) as broker:
        publish(broker, "sensors/1/temp", "1")
        broker.config.write_text(CONFIG.format(partitions=4))
        broker.restart()
        listed = run("kcat", "-b", f"127.0.0.1:{broker.kafka}", "-L", "-t", "plant.sensors-temp")
        assert '"plant.sensors-temp" with 4 partitions' in listed
        assert records(broker, "plant.sensors-temp") == ["sensors/1/temp 1 0"]
