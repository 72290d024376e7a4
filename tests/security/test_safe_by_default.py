"""What a stranger meets: loopback only, passwords that hold, files that are nobody else's."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire, client_id_on

SECRET = "correct horse battery staple"
WRONG = "tr0ub4dor&3"


def passwd(file: Path, user: str, password: str) -> None:
    """`robustmq passwd`, as an administrator types it."""
    command = [sys.executable, "-m", "robustmq.cli.main", "passwd", str(file), user, "--stdin"]
    subprocess.run(command, input=password + "\n", text=True, check=True, timeout=20)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that knows ann, on IPv4 and IPv6."""
    directory = tmp_path_factory.mktemp("broker")
    passwd(directory / "passwords", "ann", SECRET)
    config = f"""
[mqtt]
bind = ["127.0.0.1", "::1"]
[security]
password_file = "{directory / "passwords"}"
[log]
level = "debug"
"""
    with BrokerProcess(directory, 2, config) as process:
        yield process
        assert "Traceback" not in process.log


def publish(broker: BrokerProcess, version: str, *credentials: str) -> int:
    """mosquitto_pub; its exit code."""
    command = ["mosquitto_pub", "-p", str(broker.mqtt), "-V", version, "-t", "t", "-m", "m"]
    return subprocess.run(
        [*command, "-q", "1", *credentials], capture_output=True, timeout=20, check=False
    ).returncode


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_comes_in_with_the_password_and_not_without(
    broker: BrokerProcess, version: str
) -> None:
    assert publish(broker, version, "-u", "ann", "-P", SECRET) == 0
    assert publish(broker, version, "-u", "ann", "-P", WRONG) != 0
    assert publish(broker, version, "-u", "bob", "-P", SECRET) != 0
    assert publish(broker, version) != 0


@pytest.mark.parametrize(
    ("version", "bad_password", "anonymous"), [(3, 4, 5), (4, 4, 5), (5, 0x86, 0x87)]
)
def test_connack_says_why_in_the_words_of_each_version(
    broker: BrokerProcess, version: int, bad_password: int, anonymous: int
) -> None:
    for user, password, code in (
        ("ann", SECRET, 0),
        ("ann", WRONG, bad_password),
        ("nobody", WRONG, bad_password),
        ("ann", None, bad_password),
        (None, None, anonymous),
    ):
        with Wire(broker.mqtt, version) as wire:
            secret = None if password is None else password.encode()
            assert wire.connect(b"c", user_name=user, password=secret).reason_code == code


def test_a_password_file_that_changed_counts_after_sighup(broker: BrokerProcess) -> None:
    file = broker.directory / "passwords"
    passwd(file, "eve", "first")

    def code(password: bytes) -> int:
        with Wire(broker.mqtt) as wire:
            return wire.connect(b"e", user_name="eve", password=password).reason_code

    assert code(b"first") == 0x86
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: code(b"first") == 0, 10, "the new user")
    passwd(file, "eve", "second")
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: code(b"second") == 0, 10, "the new password")
    assert code(b"first") == 0x86
    command = [sys.executable, "-m", "robustmq.cli.main", "passwd", str(file), "eve", "--delete"]
    subprocess.run(command, check=True, timeout=20)
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: code(b"second") == 0x86, 10, "the end of a user")


def test_guessing_passwords_does_not_hold_up_who_is_in(broker: BrokerProcess) -> None:
    name = client_id_on(0, 2)
    with Wire(broker.mqtt) as inside:
        inside.connect(name, user_name="ann", password=SECRET.encode())
        stop = threading.Event()

        def guess() -> None:
            while not stop.is_set():
                with Wire(broker.mqtt) as wire:
                    try:
                        wire.connect(client_id_on(0, 2), user_name="ann", password=os.urandom(8))
                    except (Closed, ConnectionError, TimeoutError):
                        continue

        guessers = [threading.Thread(target=guess) for _ in range(4)]
        for thread in guessers:
            thread.start()
        took = []
        try:
            for _ in range(40):
                began = time.monotonic()
                inside.expect_nothing()
                took.append(time.monotonic() - began)
                time.sleep(0.02)
        finally:
            stop.set()
            for thread in guessers:
                thread.join()
    # One verification takes tens of milliseconds of a core and more; a ping waits for none.
    assert sorted(took)[len(took) // 2] < 0.05


def test_ipv6_is_listened_on_beside_ipv4(broker: BrokerProcess) -> None:
    with socket.create_connection(("::1", broker.mqtt), 5), Wire(broker.mqtt, host="::1") as wire:
        connack = wire.connect(b"six", user_name="ann", password=SECRET.encode())
        assert connack.reason_code == 0
        assert wire.publish(b"t", b"m", 1) == 0


def test_no_password_is_logged_or_stored_and_files_are_for_their_user_alone(
    broker: BrokerProcess,
) -> None:
    publish(broker, "5", "-u", "ann", "-P", SECRET)
    publish(broker, "5", "-u", "ann", "-P", WRONG)
    for text in (broker.log, (broker.directory / "passwords").read_text()):
        assert SECRET not in text
        assert WRONG not in text
    wrong = []
    for path in (broker.data, *broker.data.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
            if mode & 0o077:
                wrong.append((path.name, oct(mode)))
            if stat.S_ISREG(mode):
                assert SECRET.encode() not in path.read_bytes()
    assert wrong == []


def test_out_of_the_box_everything_listens_on_loopback_alone(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        pids = {broker.pid, *broker.processes().values()}
        import psutil

        addresses = {
            connection.laddr.ip
            for pid in pids
            for connection in psutil.Process(pid).net_connections(kind="inet")
            if connection.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}
        with Wire(broker.mqtt) as wire:
            assert wire.connect(b"anyone").reason_code == 0


@pytest.mark.parametrize("section", ["mqtt", "kafka", "metrics"])
def test_an_address_that_others_reach_is_refused_until_it_is_said_aloud(
    tmp_path: Path, section: str
) -> None:
    address = '"0.0.0.0"' if section == "metrics" else '["0.0.0.0"]'
    config = tmp_path / "config.toml"
    config.write_text(f"[{section}]\nbind = {address}\n")
    command = [sys.executable, "-m", "robustmq.cli.main", "start", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert f"{section}.bind" in done.stderr
    assert "security.allow_anonymous = true" in done.stderr
    if section == "mqtt":
        assert "robustmq passwd" in done.stderr
