"""The command line clients that users have: mosquitto's and kcat."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.broker import BrokerProcess

PROGRAMS = ("mosquitto_pub", "mosquitto_sub", "kcat")
needs_programs = pytest.mark.skipif(
    any(shutil.which(name) is None for name in PROGRAMS), reason=f"needs {', '.join(PROGRAMS)}"
)


def run(*command: str, given: str = "") -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def publish(broker: BrokerProcess, topic: str, message: str, qos: int = 1) -> None:
    port = str(broker.mqtt)
    run("mosquitto_pub", "-p", port, "-t", topic, "-m", message, "-q", str(qos), "-V", "5")


def consume(broker: BrokerProcess, topic: str) -> list[str]:
    output = run("kcat", "-b", f"127.0.0.1:{broker.kafka}", "-C", "-t", topic, "-e", "-q")
    return output.splitlines()
