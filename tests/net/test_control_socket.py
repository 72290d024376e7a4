"""Operators look at clients, and end them, while the broker runs: over its control sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.cli.main import main
from robustmq.control.messages import MAX_LINE_BYTES
from robustmq.mqtt.packets import Will
from robustmq.net.control_socket import MAX_CONNECTIONS, control_path
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on

WORKERS = 2


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), WORKERS) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


class Operator:
    """What a person types, and what is printed."""

    def __init__(self, broker: BrokerProcess, capsys: pytest.CaptureFixture[str]) -> None:
        self._where = ["--data-dir", str(broker.data)]
        self._capsys = capsys
        self.said = ""
        self.complained = ""

    def types(self, *words: str) -> int:
        code = main([*words, *self._where])
        self.said, self.complained = self._capsys.readouterr()
        return code

    def rows(self, *words: str) -> list[dict[str, object]]:
        assert self.types(*words, "--json") == 0, self.complained
        return [json.loads(line) for line in self.said.splitlines()]


@pytest.fixture
def operator(broker: BrokerProcess, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(broker, capsys)


def control(broker: BrokerProcess, worker: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(control_path(broker.data / "run", worker))
    return sock


def test_clients_of_all_workers_are_listed(broker: BrokerProcess, operator: Operator) -> None:
    names = [client_id_on(worker, WORKERS, "listed").decode() for worker in (0, 1, 0)]
    with Wire(broker.mqtt) as one, Wire(broker.mqtt, 4) as two, Wire(broker.mqtt) as gone:
        one.connect(names[0].encode(), user_name="ann", keep_alive=60)
        one.subscribe(b"a/+", b"b/#")
        two.connect(names[1].encode())
        gone.connect(names[2].encode(), expiry=3600)
        gone.disconnect()
        rows = {str(row["client_id"]): row for row in operator.rows("clients", "list")}
        assert set(names) <= set(rows)
        assert [rows[name]["worker"] for name in names] == [0, 1, 0]
        assert [rows[name]["version"] for name in names] == ["5.0", "3.1.1", "5.0"]
        assert [rows[name]["connected"] for name in names] == [True, True, False]
        first = rows[names[0]]
        assert (first["user_name"], first["keep_alive_s"], first["subscriptions"]) == ("ann", 60, 2)
        shown = [row["client_id"] for row in operator.rows("clients", "list", "--away")]
        assert names[2] in shown and names[0] not in shown
        assert [r["client_id"] for r in operator.rows("clients", "list", "--user", "a?n")] == [
            names[0]
        ]
        assert operator.types("clients", "list", "--filter", "listed-*") == 0
        assert "ann" in operator.said and len(operator.said.splitlines()) == 4
        assert operator.types("clients", "list", "--filter", "listed", "--limit", "1") == 0
        assert len(operator.said.splitlines()) == 2 and "and more" in operator.complained


def test_one_client_is_shown_with_its_subscriptions(
    broker: BrokerProcess, operator: Operator
) -> None:
    name = client_id_on(1, WORKERS)
    with Wire(broker.mqtt) as client:
        client.connect(name, expiry=60, will=Will(b"gone", b"x"))
        client.subscribe(b"$share/g/a/+", qos=1)
        assert operator.types("clients", "show", name.decode()) == 0
        assert "$share/g/a/+" in operator.said and "gone" in operator.said
    assert operator.types("clients", "show", "nobody") == 1
    assert "there is no client 'nobody'" in operator.complained


def test_subscriptions_say_who_gets_a_topic(broker: BrokerProcess, operator: Operator) -> None:
    names = [client_id_on(worker, WORKERS, "who") for worker in (0, 1)]
    with Wire(broker.mqtt) as one, Wire(broker.mqtt) as two:
        one.connect(names[0])
        two.connect(names[1])
        one.subscribe(b"who/+/x", b"other/1", qos=1)
        two.subscribe(b"who/#")
        rows = operator.rows("subscriptions", "list", "--topic", "who/7/x")
        assert {(row["client_id"], row["filter"], row["qos"]) for row in rows} == {
            (names[0].decode(), "who/+/x", 1),
            (names[1].decode(), "who/#", 0),
        }
        rows = operator.rows("subscriptions", "list", "--client", names[0].decode())
        assert [row["filter"] for row in rows] == ["other/1", "who/+/x"]


@pytest.mark.mqtt("MQTT-3.1.2-8")
@pytest.mark.parametrize("home", range(WORKERS))
def test_a_kicked_client_is_told_and_its_will_is_published(
    broker: BrokerProcess, operator: Operator, home: int
) -> None:
    name = client_id_on(home, WORKERS)
    with Wire(broker.mqtt) as witness, Wire(broker.mqtt) as client:
        witness.connect()
        witness.subscribe(b"kicked/%d" % home)
        client.connect(name, expiry=3600, will=Will(b"kicked/%d" % home, b"x"))
        assert operator.types("clients", "kick", name.decode()) == 0
        assert "connection ended" in operator.said
        client.expect_end(0x98)
        assert witness.receive().payload == b"x"
    with Wire(broker.mqtt) as again:
        assert again.connect(name, clean_start=False, expiry=3600).session_present
    assert operator.types("clients", "kick", "nobody") == 1


def test_a_kick_may_end_the_session_too_and_a_restart_does_not_bring_it_back(
    broker: BrokerProcess, operator: Operator
) -> None:
    name = client_id_on(1, WORKERS)
    with Wire(broker.mqtt, 4) as client:
        client.connect(name, clean_start=False)
        client.subscribe(b"a", qos=1)
        assert operator.types("clients", "kick", name.decode(), "--end-session") == 0
        client.expect_end()
    broker.kill_worker(1)
    until(lambda: operator.types("status") == 0, 15, "worker 1")
    with Wire(broker.mqtt, 4) as again:
        assert not again.connect(name, clean_start=False).session_present


def test_the_status_shows_every_worker(broker: BrokerProcess, operator: Operator) -> None:
    until(lambda: operator.types("status") == 0, 15, "all workers")
    assert [row["pid"] for row in operator.rows("status")] == broker.worker_pids()
    assert operator.types("status") == 0
    assert "2 worker(s)" in operator.said


def test_no_other_user_can_reach_the_control_socket(broker: BrokerProcess) -> None:
    for worker in range(WORKERS):
        path = control_path(broker.data / "run", worker)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(Path(path).parent).st_mode) == 0o700


@pytest.mark.parametrize(
    "line",
    [b"", b"nonsense", b"[]", b"{}", b'{"type":"clients_list","limit":"x"}', b"\xff\x00",
     b'{"type":"clients_show"}', b'{"type":"format_disk"}'],
)  # fmt: skip
def test_a_bad_request_is_answered_and_the_next_one_is_served(
    broker: BrokerProcess, line: bytes
) -> None:
    with control(broker) as sock, sock.makefile("rb") as answers:
        sock.sendall(line + b'\n{"type":"status"}\n')
        assert json.loads(answers.readline())["end"]["error"].startswith("no such request")
        assert json.loads(answers.readline())["row"]["worker"] == 0
        assert json.loads(answers.readline())["end"]["error"] == ""


def test_a_request_without_an_end_costs_its_own_connection(broker: BrokerProcess) -> None:
    with control(broker) as sock, sock.makefile("rb") as answers:
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(b"x" * (4 * MAX_LINE_BYTES))
        assert str(MAX_LINE_BYTES) in json.loads(answers.readline())["end"]["error"]
        with contextlib.suppress(ConnectionResetError):
            assert answers.read() == b""


def test_requests_that_came_before_the_end_of_the_stream_are_answered(
    broker: BrokerProcess,
) -> None:
    with control(broker, 1) as sock, sock.makefile("rb") as answers:
        sock.sendall(b'{"type":"status"}\n{"type":"status"}\n')
        sock.shutdown(socket.SHUT_WR)
        assert len(answers.readlines()) == 4


def test_more_operators_than_may_be_are_told_so(broker: BrokerProcess) -> None:
    socks = [control(broker) for _ in range(MAX_CONNECTIONS)]
    try:
        for sock in socks:
            sock.sendall(b'{"type":"status"}\n')
            assert sock.recv(10)
        with control(broker) as more:
            assert b"too many" in more.recv(1000)
            assert more.recv(1000) == b""
    finally:
        for sock in socks:
            sock.close()


def test_a_long_list_does_not_hold_up_clients_of_the_worker(broker: BrokerProcess) -> None:
    with Wire(broker.mqtt) as client, control(broker) as sock:
        client.connect(client_id_on(0, WORKERS))
        client.subscribe(*(b"long/%d" % number for number in range(1000)))
        request = b'{"type":"subscriptions_list","filter":"long/"}\n'
        # Nobody reads the answers, which are more than the socket holds.
        sock.sendall(request * 100)
        for _ in range(20):
            client.expect_nothing()
        with sock.makefile("rb") as answers:
            rows = sum(
                json.loads(answers.readline()).get("row") is not None for _ in range(100_100)
            )
        assert rows == 100_000


def test_who_asks_where_no_broker_runs_is_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clients", "list", "--data-dir", str(tmp_path / "none")]) == 1
    assert "no broker runs" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
