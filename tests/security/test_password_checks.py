"""Passwords wait to be checked in bounded number, and equal ones are checked once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from robustmq.mqtt import codec
from robustmq.mqtt.packets import ConnAck, Connect
from robustmq.security import passwords
from tests.broker import BrokerProcess
from tests.mqtt.wire import Wire, client_id_on

MANY = 20


@pytest.fixture
def users(tmp_path: Path) -> str:
    file = tmp_path / "users"
    passwords.write(file, passwords.set_password({}, "ann", b"secret"))
    return str(file)


def answers(broker: BrokerProcess, version: int, given: list[bytes]) -> list[int]:
    """The reason codes of clients of one worker that connect at the same time."""
    clients = [Wire(broker.mqtt, version) for _ in given]
    for client, password in zip(clients, given, strict=True):
        name = client_id_on(0, broker.workers)
        client.send(codec.encode(Connect(version, name, True, 0, None, "ann", password), version))
    codes = [client.expect(ConnAck).reason_code for client in clients]
    for client in clients:
        client.drop()
    return codes


def test_who_comes_while_too_many_wait_is_told_that_the_server_is_busy(
    tmp_path: Path, users: str
) -> None:
    settings = {"SECURITY__PASSWORD_FILE": users, "LIMITS__MAX_PASSWORD_CHECKS": "2"}
    with BrokerProcess(tmp_path, 2, **settings) as broker:
        for version, busy, wrong in ((5, 0x89, 0x86), (4, 3, 4)):
            codes = answers(broker, version, [b"%d" % number for number in range(MANY)])
            assert set(codes) == {busy, wrong}
            assert 2 <= codes.count(wrong) < MANY // 2
        assert answers(broker, 5, [b"secret"]) == [0]
        assert broker.stop() == 0


def test_a_fleet_with_one_password_waits_for_one_check(tmp_path: Path, users: str) -> None:
    settings = {"SECURITY__PASSWORD_FILE": users, "LIMITS__MAX_PASSWORD_CHECKS": "1"}
    with BrokerProcess(tmp_path, 1, **settings) as broker:
        begin = time.monotonic()
        assert answers(broker, 5, [b"secret"] * 300) == [0] * 300
        assert time.monotonic() - begin < 5
        assert answers(broker, 5, [b"wrong"] * 50) == [0x86] * 50
        assert broker.stop() == 0
