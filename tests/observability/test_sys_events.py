"""Clients that come, go, subscribe and unsubscribe are told of under $SYS, if one wants that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustmq.mqtt.packets import Publish, SubscriptionOptions
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on

WORKERS = 2
NODE = "robustmq@test"
ALL = '["connected", "disconnected", "subscribed", "unsubscribed"]'


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    settings = {"NODE__NAME": NODE, "MQTT__SYS_EVENTS": ALL, "MQTT__SYS_INTERVAL_S": "1"}
    with BrokerProcess(tmp_path_factory.mktemp("broker"), WORKERS, **settings) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


class Witness:
    """Who hears of one client."""

    def __init__(self, broker: BrokerProcess, client_level: str) -> None:
        self.wire = Wire(broker.mqtt)
        self.wire.connect(client_id_on(1, WORKERS))
        self._prefix = f"$SYS/brokers/{NODE}/clients/{client_level}/"
        self.wire.subscribe(f"{self._prefix}+".encode())

    def hears(self) -> tuple[str, dict[str, Any]]:
        packet = self.wire.receive()
        assert packet.topic.decode().startswith(self._prefix)
        assert not packet.retain
        return packet.topic.decode().rpartition("/")[2], json.loads(packet.payload)


@pytest.mark.parametrize("home", range(WORKERS))
def test_the_life_of_a_client_is_told_with_the_fields_that_users_know(
    broker: BrokerProcess, home: int
) -> None:
    name = client_id_on(home, WORKERS, "told").decode()
    witness = Witness(broker, name)
    with Wire(broker.mqtt, 5) as client:
        client.connect(name.encode(), expiry=60, keep_alive=30, user_name="ann")
        kind, told = witness.hears()
        assert kind == "connected"
        assert told["connected_at"] == pytest.approx(told["ts"], abs=1000)
        wanted = {
            "clientid": name,
            "username": "ann",
            "ipaddress": "127.0.0.1",
            "proto_name": "MQTT",
            "proto_ver": 5,
            "keepalive": 30,
            "expiry_interval": 60,
            "clean_start": True,
            "connack": 0,
        }
        assert {key: told[key] for key in wanted} == wanted
        assert told["sockport"] == broker.mqtt
        client.subscribe_each((b"a/+", SubscriptionOptions(1, True)), identifier=7)
        kind, told = witness.hears()
        assert (kind, told["topic"], told["clientid"]) == ("subscribed", "a/+", name)
        assert told["subopts"] == {
            "sub_props": {"Subscription-Identifier": 7},
            "rh": 0,
            "rap": 0,
            "nl": 1,
            "qos": 1,
            "is_new": True,
        }
        client.subscribe(b"a/+")
        assert witness.hears()[1]["subopts"]["is_new"] is False
        client.unsubscribe(b"a/+", b"never")
        kind, told = witness.hears()
        assert (kind, told["topic"]) == ("unsubscribed", "a/+")
        client.disconnect()
    kind, told = witness.hears()
    assert (kind, told["reason"], told["username"]) == ("disconnected", "normal", "ann")
    assert told["disconnected_at"] >= told["connected_at"]


def test_why_a_connection_ended_is_told(broker: BrokerProcess) -> None:
    witness = Witness(broker, "ends")
    with Wire(broker.mqtt) as first, Wire(broker.mqtt) as second:
        first.connect(b"ends")
        second.connect(b"ends")
        # They are told on two topics, each with an order of its own.
        told = sorted((witness.hears() for _ in range(3)), key=lambda one: one[0])
        assert [kind for kind, _ in told] == ["connected", "connected", "disconnected"]
        assert told[2][1]["reason"] == "takenover"
        second.send(b"\x3e\x00")
        assert witness.hears()[1]["reason"] == "malformed_packet"
    with Wire(broker.mqtt, 4) as third:
        third.connect(b"ends")
        assert witness.hears()[1]["proto_ver"] == 4
    assert witness.hears()[1]["reason"] == "tcp_closed"


def test_a_client_id_is_one_level_whatever_is_in_it(broker: BrokerProcess) -> None:
    witness = Witness(broker, "a%2Fb%2B%23%25")
    with Wire(broker.mqtt) as client:
        client.connect(b"a/b+#%")
        kind, told = witness.hears()
        assert (kind, told["clientid"]) == ("connected", "a/b+#%")


def test_the_nodes_status_is_there(broker: BrokerProcess) -> None:
    with Wire(broker.mqtt) as client:
        client.connect()
        client.subscribe(b"$SYS/brokers", f"$SYS/brokers/{NODE}/#".encode(), b"$SYS/broker/#")
        seen: dict[str, bytes] = {}

        def complete() -> bool:
            packet = client.expect(Publish)
            seen[packet.topic.decode()] = packet.payload
            wanted = ("version", "uptime", "datetime", "sysdescr", "stats/connections/max")
            return all(f"$SYS/brokers/{NODE}/{name}" in seen for name in wanted) and (
                "$SYS/broker/load/sockets/1min" in seen
                and int(seen.get("$SYS/broker/clients/maximum", b"0")) > 0
                and "$SYS/broker/retained messages/count" in seen
                and "$SYS/broker/clients/expired" in seen
            )

        until(complete, 15, "the status")
        assert seen["$SYS/brokers"] == NODE.encode()
        assert int(seen["$SYS/broker/heap/current size"]) > 1 << 20


def test_a_storm_of_events_is_told_in_order_and_a_worker_survives_it(broker: BrokerProcess) -> None:
    with Wire(broker.mqtt) as witness, Wire(broker.mqtt) as client:
        witness.connect(client_id_on(0, WORKERS))
        witness.subscribe(f"$SYS/brokers/{NODE}/clients/storm/+".encode())
        client.connect(b"storm")
        count = 3000
        for first in range(0, count, 1000):
            client.subscribe(*(b"s/%d" % number for number in range(first, first + 1000)))
        assert json.loads(witness.receive().payload)["connack"] == 0
        told = [json.loads(witness.receive().payload)["topic"] for _ in range(count)]
        assert told == [f"s/{number}" for number in range(count)]


def test_nothing_is_told_unless_asked_for(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 1) as broker:
        with Wire(broker.mqtt) as witness, Wire(broker.mqtt) as client:
            witness.connect()
            witness.subscribe(b"$SYS/brokers/+/clients/#")
            client.connect(b"quiet")
            client.subscribe(b"a")
            client.disconnect()
            witness.expect_nothing()
        assert broker.stop() == 0
