"""A mosquitto that is joined to this broker by its own bridge, in every version."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
VERSIONS = ("mqttv31", "mqttv311", "mqttv50")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that the tests of this module share."""
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2) as process:
        yield process


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def bridged(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a mosquitto with a bridge in each version. In 3.x its first CONNECT is one that
    only other mosquittos know, and it comes again seconds after that was refused."""
    port = free_port()
    config = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\n"
        + "".join(
            f"connection bridge-{version}\naddress 127.0.0.1:{broker.mqtt}\n"
            f"bridge_protocol_version {version}\ncleansession false\nrestart_timeout 1\n"
            f"topic # out 2 out/{version}/ {version}/from/\n"
            f"topic # in 2 in/{version}/ {version}/to/\n"
            for version in VERSIONS
        )
    )
    with Wire(broker.mqtt, 5) as before:
        before.connect(b"before")
        for version in VERSIONS:
            before.publish(f"{version}/to/kept".encode(), b"to", 1, True)
    assert MOSQUITTO is not None
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), what="mosquitto")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bridge_of_mosquitto_carries_messages_both_ways(
    broker: BrokerProcess, bridged: int, version: str
) -> None:
    with Wire(bridged, 4) as there, Wire(broker.mqtt, 5) as here:
        there.connect(b"there")
        here.connect(b"here")
        here.subscribe(f"{version}/from/#".encode(), qos=2)
        there.subscribe(f"in/{version}/#".encode(), qos=2)
        assert there.receive().payload == b"to"
        for qos in (0, 1, 2):
            there.publish(f"out/{version}/x".encode(), b"%d" % qos, qos)
            packet = here.receive()
            assert (packet.topic, packet.payload) == (f"{version}/from/x".encode(), b"%d" % qos)
            here.publish(f"{version}/to/x".encode(), b"%d" % qos, qos)
            assert there.receive().payload == b"%d" % qos
