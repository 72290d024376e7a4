"""Several ways in: each has its own bounds and its own rule for strangers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire, client_id_on

CONFIG = """
[security]
allow_anonymous = false
[[listener]]
name = "inside"
port = 0
allow_anonymous = true
[[listener]]
name = "strict"
bind = ["127.0.0.1", "::1"]
port = 0
[[listener]]
name = "small"
port = 0
allow_anonymous = true
max_connections = 2
connect_timeout_ms = 300
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, CONFIG) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def test_the_start_names_each_listener_with_its_address(broker: BrokerProcess) -> None:
    assert set(broker.listeners) == {"inside", "strict", "small"}
    assert f"  mqtt tcp strict [::1]:{broker.listeners['strict']}" in broker.said
    assert broker.mqtt == 0, "the listener of [mqtt] is not there beside tables"


@pytest.mark.parametrize("home", [0, 1])
def test_each_listener_has_its_own_rule_for_strangers(broker: BrokerProcess, home: int) -> None:
    with Wire(broker.listeners["inside"]) as wire:
        assert wire.connect(client_id_on(home, 2)).reason_code == 0
    with Wire(broker.listeners["strict"]) as wire:
        assert wire.connect(client_id_on(home, 2)).reason_code == 0x87


def test_a_listener_has_a_connect_timeout_of_its_own(broker: BrokerProcess) -> None:
    began = time.monotonic()
    with Wire(broker.listeners["small"]) as slow, Wire(broker.listeners["inside"]) as patient:
        slow.send(b"\x10")
        with pytest.raises(Closed):
            slow.read()
        assert time.monotonic() - began < 5
        patient.connect()


def test_a_listener_has_a_bound_of_connections_of_its_own_which_a_reload_changes(
    broker: BrokerProcess,
) -> None:
    def comes_in(client_id: bytes) -> bool:
        wire = Wire(broker.listeners["small"])
        clients.append(wire)
        try:
            return wire.connect(client_id).reason_code == 0
        except (Closed, ConnectionError):
            return False

    # All belong to one worker, whose two places two of them take.
    clients: list[Wire] = []
    assert [comes_in(client_id_on(0, 2)) for _ in range(3)] == [True, True, False]
    with Wire(broker.listeners["inside"]) as other:
        assert other.connect(client_id_on(0, 2)).reason_code == 0
    Path(broker.config).write_text(CONFIG.replace("max_connections = 2", "max_connections = 9"))
    assert broker.process is not None
    broker.process.send_signal(signal.SIGHUP)
    until(lambda: broker.log.count("settings reloaded") == 2, what="the reload")
    assert comes_in(client_id_on(0, 2))
    for client in clients:
        client.drop()
