"""Who is banned stays out: real clients, any worker, over restarts."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from robustmq.cli.main import main
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire, client_id_on

FLAPPING = "[flapping]\nenabled = true\nmax_count = 4\nwindow_s = 60\nban_s = 3600\n"


@pytest.fixture(scope="module", params=[1, 2])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("broker")
    with BrokerProcess(directory, request.param, config=FLAPPING) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def types(broker: BrokerProcess, *words: str) -> int:
    return main([*words, "--data-dir", str(broker.data)])


def names_on_all_workers(broker: BrokerProcess, name: str) -> list[str]:
    return [client_id_on(w, broker.workers, name).decode() for w in range(broker.workers)]


def code_of(
    broker: BrokerProcess, client_id: str, user: str | None = None, version: int = 5
) -> int:
    with Wire(broker.mqtt, version) as client:
        return client.connect(client_id.encode(), user_name=user).reason_code


class Paho:
    """A client that tells how its connection went."""

    def __init__(self, broker: BrokerProcess, client_id: str, version: MQTTProtocolVersion) -> None:
        self.reasons: list[str] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version)
        self.client.on_connect = lambda _c, _u, _f, reason, _p: self.reasons.append(str(reason))
        self.client.on_disconnect = lambda _c, _u, _f, reason, _p: self.reasons.append(str(reason))
        self.client.connect("127.0.0.1", broker.mqtt)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_a_banned_client_is_told_why_and_may_come_in_again_after_the_ban(
    broker: BrokerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names_on_all_workers(broker, "banned"):
        client = Paho(broker, name, MQTTProtocolVersion.MQTTv5)
        until(lambda client=client: client.reasons, what="CONNACK")  # type: ignore[misc]
        assert types(broker, "bans", "add", "--client", name, "--reason", "too loud") == 0
        # It comes again by itself, and is told that it may not.
        until(lambda client=client: "Banned" in client.reasons, what="the ban")  # type: ignore[misc]
        assert client.reasons[:2] == ["Success", "Administrative action"]
        client.close()
        assert code_of(broker, name) == 0x8A
        assert code_of(broker, name, version=4) == 5
        assert types(broker, "bans", "list") == 0
        assert "too loud" in capsys.readouterr().out
        assert types(broker, "bans", "remove", "--client", name) == 0
        assert code_of(broker, name) == 0
        assert types(broker, "bans", "remove", "--client", name) == 1


def test_mosquitto_clients_understand_a_ban(broker: BrokerProcess) -> None:
    def publish(client_id: str, version: str) -> subprocess.CompletedProcess[str]:
        command = ["mosquitto_pub", "-p", str(broker.mqtt), "-t", "a", "-m", "x", "-q", "1"]
        command += ["-i", client_id, "-V", version]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)

    assert types(broker, "bans", "add", "--client-pattern", "mosq-*") == 0
    for version, said in (("5", "banned"), ("311", "not authorised")):
        done = publish("mosq-1", version)
        assert done.returncode != 0 and said in (done.stderr + done.stdout).lower()
        assert publish("other", version).returncode == 0
    assert types(broker, "bans", "remove", "--client-pattern", "mosq-*") == 0


def test_a_user_is_kept_out_whatever_the_client_id_is(broker: BrokerProcess) -> None:
    names = names_on_all_workers(broker, "user")
    clients = [Wire(broker.mqtt) for _ in names]
    for client, name in zip(clients, names, strict=True):
        client.connect(name.encode(), user_name="eve")
    assert types(broker, "bans", "add", "--user", "eve") == 0
    for client in clients:
        client.expect_end(0x98)
        client.drop()
    assert [code_of(broker, name, "eve") for name in names] == [0x8A] * len(names)
    assert [code_of(broker, name, "ann") for name in names] == [0] * len(names)
    assert types(broker, "bans", "remove", "--user", "eve") == 0


def test_a_banned_network_is_closed_at_accept_and_loses_its_connections(
    broker: BrokerProcess,
) -> None:
    client = Wire(broker.mqtt)
    client.connect()
    consumer = socket.create_connection(("127.0.0.1", broker.kafka), 10)
    assert types(broker, "bans", "add", "--address", "127.0.0.0/8", "--for", "1h") == 0
    client.expect_end(0x98)
    assert consumer.recv(1) == b""
    consumer.close()
    with pytest.raises((Closed, ConnectionError)), Wire(broker.mqtt) as refused:
        refused.connect()
    assert types(broker, "bans", "remove", "--address", "127.0.0.0/8") == 0
    assert code_of(broker, "x") == 0


def test_a_ban_ends_by_itself(broker: BrokerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert types(broker, "bans", "add", "--client", "short", "--for", "1s") == 0
    assert code_of(broker, "short") == 0x8A
    until(lambda: code_of(broker, "short") == 0, what="the end of the ban")

    def listed() -> str:
        capsys.readouterr()
        assert types(broker, "bans", "list", "--json") == 0
        return capsys.readouterr().out

    until(lambda: '"short"' not in listed(), what="the removal")
    until(lambda: "ban_removed" in _log_of_meta(broker), what="the removal on disk")


def _log_of_meta(broker: BrokerProcess) -> str:
    return (broker.data / "meta/log").read_bytes().decode("latin1")


def test_bans_hold_after_a_restart_and_after_the_death_of_any_process(
    broker: BrokerProcess,
) -> None:
    names = names_on_all_workers(broker, "kept")
    for name in names:
        assert types(broker, "bans", "add", "--client", name) == 0
    broker.restart()
    assert [code_of(broker, name) for name in names] == [0x8A] * len(names)
    broker.kill()
    broker.start()
    assert [code_of(broker, name) for name in names] == [0x8A] * len(names)
    for name in names:
        assert types(broker, "bans", "remove", "--client", name) == 0


def test_what_is_no_ban_is_refused_with_words(
    broker: BrokerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert types(broker, "bans", "add", "--address", "nonsense") == 1
    assert "no IP address" in capsys.readouterr().err
    assert types(broker, "bans", "add", "--client", "a", "--for", "999999999d") == 1
    assert "for ever" in capsys.readouterr().err
    for wrong in (["--for", "soon", "--client", "a"], [], ["--client", "a", "--user", "b"]):
        with pytest.raises(SystemExit) as ended:
            types(broker, "bans", "add", *wrong)
        assert ended.value.code == 2


def test_a_client_that_flaps_is_banned_for_a_time(
    broker: BrokerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names_on_all_workers(broker, "flaps"):
        for _ in range(4):
            assert code_of(broker, name) == 0
        until(lambda name=name: code_of(broker, name) == 0x8A, what="the ban")  # type: ignore[misc]
        capsys.readouterr()
        assert types(broker, "bans", "list", "--filter", name, "--json") == 0
        (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert row["by"] == "flapping detection" and "4 disconnects" in row["reason"]
        assert row["until_ms"] - row["at_ms"] == 3_600_000
        assert types(broker, "bans", "remove", "--client", name) == 0


def test_a_bound_of_bans_is_said_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BrokerProcess(tmp_path, 1, LIMITS__MAX_BANS="2", NODE__PROFILE="edge") as broker:
        for name in ("a", "b", "b"):
            assert types(broker, "bans", "add", "--client", name) == 0
        assert types(broker, "bans", "add", "--client", "c") == 1
        assert "limits.max_bans" in capsys.readouterr().err
        assert [code_of(broker, name) for name in ("a", "b", "c")] == [0x8A, 0x8A, 0]
        assert broker.stop() == 0
