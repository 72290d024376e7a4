"""The matrix of MQTT clients that users have: each library does the same job in each version that
it speaks, over each transport.

The job (tests/clients/mqtt/, one program a library) is to connect, publish and receive with every
QoS, see a retained message, resume a session, share work, and leave a will. What a library needs is
fetched and built once, and kept in ~/.cache/robustmq-clients; without the language it is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.broker import BrokerProcess

PROGRAMS = Path(__file__).parent / "mqtt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "robustmq-clients"
BUILD_TIMEOUT_S = 280

Command = list[str]


def needs(*programs: str) -> None:
    """Skip without these."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def make(*command: str, folder: Path, **environment: str) -> None:
    """Fetch or compile something."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-500:]}")


def python(library: str) -> Command:
    """paho-mqtt, aiomqtt, gmqtt."""
    return [sys.executable, str(PROGRAMS / "python/smoke.py"), library]


def mosquitto() -> Command:
    """mosquitto_pub and mosquitto_sub."""
    needs("mosquitto_pub", "mosquitto_sub")
    return [str(PROGRAMS / "mosquitto/smoke.sh")]


@cache
def node() -> Command:
    """MQTT.js."""
    needs("node", "npm")
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "smoke.js"):
        shutil.copy(PROGRAMS / "node" / name, folder)
    if not (folder / "node_modules/mqtt").exists():
        make("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", folder=folder)
    return ["node", str(folder / "smoke.js")]


@cache
def java(program: str) -> Command:
    """Eclipse Paho Java, the client of 3 and that of 5.0."""
    needs("java", "mvn")
    jars = CACHE / "java"
    if not list(jars.glob("*mqttv5*.jar")):
        jars.mkdir(parents=True, exist_ok=True)
        goal = "dependency:copy-dependencies"
        make("mvn", "-q", "-B", goal, f"-DoutputDirectory={jars}", folder=PROGRAMS / "java")
    return ["java", "-cp", f"{jars}/*", str(PROGRAMS / "java" / program)]


@cache
def go() -> Command:
    """paho.mqtt.golang for 3, paho.golang for 5.0."""
    needs("go")
    CACHE.mkdir(parents=True, exist_ok=True)
    make("go", "build", "-o", str(CACHE / "go-smoke"), ".", folder=PROGRAMS / "go")
    return [str(CACHE / "go-smoke")]


@cache
def rust() -> Command:
    """rumqttc."""
    needs("cargo")
    make("cargo", "build", "--locked", folder=PROGRAMS / "rust", CARGO_TARGET_DIR=f"{CACHE}/rust")
    return [str(CACHE / "rust/debug/smoke")]


class Library(NamedTuple):
    """One row: how to run it, the protocol levels it speaks, and the URL schemes it knows."""

    name: str
    command: Callable[[], Command]
    levels: tuple[int, ...]
    schemes: dict[str, str]


LIBRARIES = (
    Library("paho-mqtt", lambda: python("paho"), (3, 4, 5), {"tcp": "mqtt"}),
    Library("aiomqtt", lambda: python("aiomqtt"), (3, 4, 5), {"tcp": "mqtt"}),
    Library("gmqtt", lambda: python("gmqtt"), (4, 5), {"tcp": "mqtt"}),
    Library("mosquitto", mosquitto, (3, 4, 5), {"tcp": "mqtt"}),
    Library("MQTT.js", node, (3, 4, 5), {"tcp": "mqtt"}),
    Library("paho-java-3", lambda: java("Smoke3.java"), (3, 4), {"tcp": "tcp"}),
    Library("paho-java-5", lambda: java("Smoke5.java"), (5,), {"tcp": "tcp"}),
    Library("paho-go", go, (3, 4, 5), {"tcp": "mqtt"}),
    Library("rumqttc", rust, (4, 5), {"tcp": "mqtt"}),
)
VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5.0"}
MATRIX = [
    pytest.param(library, level, transport, id=f"{library.name} {VERSIONS[level]} {transport}")
    for library in LIBRARIES
    for level in library.levels
    for transport in library.schemes
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker of two workers, which all libraries share."""
    with BrokerProcess(tmp_path_factory.mktemp("matrix"), 2) as process:
        yield process
        assert process.running, "no client may end the broker"
        assert "Traceback" not in process.log


@pytest.mark.mqtt311("MQTT-7.0.0-2")
@pytest.mark.parametrize(("library", "level", "transport"), MATRIX)
def test_a_client_that_users_have_does_its_job(
    broker: BrokerProcess, library: Library, level: int, transport: str
) -> None:
    url = f"{library.schemes[transport]}://127.0.0.1:{broker.mqtt}"
    done = subprocess.run(
        [*library.command(), url, str(level), f"smoke/{uuid.uuid4().hex[:8]}"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
