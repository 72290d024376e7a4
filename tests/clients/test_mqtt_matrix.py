"""The matrix of MQTT clients that users have: each library does the same job in each version that
it speaks, over each transport.

The job (tests/clients/mqtt/, one program a library) is to connect, publish and receive with every
QoS, see a retained message, resume a session, share work, and leave a will. What a library needs is
fetched and built once, and kept in ~/.cache/robustmq-clients; without the language it is skipped.
"""

from __future__ import annotations

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
from tests.clients.building import CACHE, Command, make, needs
from tests.net.carriers import Certificates

PROGRAMS = Path(__file__).parent / "mqtt"


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
    """One row: how to run it, the protocol levels it speaks, and what it calls each transport in a
    URL."""

    name: str
    command: Callable[[], Command]
    levels: tuple[int, ...]
    schemes: dict[str, str]


MQTT = {"tcp": "mqtt", "tls": "mqtts"}
ALL = {**MQTT, "ws": "ws", "wss": "wss"}
PAHO_JAVA = {"tcp": "tcp", "tls": "ssl", "ws": "ws", "wss": "wss"}
LIBRARIES = (
    Library("paho-mqtt", lambda: python("paho"), (3, 4, 5), ALL),
    Library("aiomqtt", lambda: python("aiomqtt"), (3, 4, 5), ALL),
    Library("gmqtt", lambda: python("gmqtt"), (4, 5), MQTT),
    Library("mosquitto", mosquitto, (3, 4, 5), MQTT),
    Library("MQTT.js", node, (3, 4, 5), ALL),
    Library("paho-java-3", lambda: java("Smoke3.java"), (3, 4), PAHO_JAVA),
    Library("paho-java-5", lambda: java("Smoke5.java"), (5,), PAHO_JAVA),
    Library("paho-go", go, (3, 4, 5), ALL),
    # Its TLS would take minutes to compile.
    Library("rumqttc", rust, (4, 5), {"tcp": "mqtt", "ws": "ws"}),
)
VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5.0"}


def wanted(library: Library, level: int, transport: str) -> bool:
    """Each version over TCP, and the newest over every transport; the old ones change nothing
    there."""
    return transport == "tcp" or level == library.levels[-1]


MATRIX = [
    pytest.param(library, level, transport, id=f"{library.name} {VERSIONS[level]} {transport}")
    for library in LIBRARIES
    for level in library.levels
    for transport in library.schemes
    if wanted(library, level, transport)
]


class Place(NamedTuple):
    """The broker, and whom its certificate is of."""

    broker: BrokerProcess
    ca: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A broker of two workers with every transport, which all libraries share."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    certificate = certificates.server("server")
    config = "".join(
        f'[[listener]]\nname = "{transport}"\ntransport = "{transport}"\nport = 0\n'
        + (f'certificate = "{certificate}"\n' if transport in ("tls", "wss") else "")
        for transport in ALL
    )
    with BrokerProcess(tmp_path_factory.mktemp("matrix"), 2, config) as process:
        yield Place(process, certificates.ca)
        assert process.running, "no client may end the broker"
        assert "Traceback" not in process.log


@pytest.mark.mqtt311("MQTT-7.0.0-2")
@pytest.mark.parametrize(("library", "level", "transport"), MATRIX)
def test_a_client_that_users_have_does_its_job(
    place: Place, library: Library, level: int, transport: str
) -> None:
    port = place.broker.listeners[transport]
    url = f"{library.schemes[transport]}://127.0.0.1:{port}"
    if transport in ("ws", "wss"):
        url += "/mqtt"
    trust = [str(place.ca)] if transport in ("tls", "wss") else []
    done = subprocess.run(
        [*library.command(), url, str(level), f"smoke/{uuid.uuid4().hex[:8]}", *trust],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
