"""`robustmq pub`, `sub` and `passwd` against a real broker, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.broker import BrokerProcess
from tests.net.carriers import Certificates


def robustmq(*arguments: str, given: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "robustmq.cli.main", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_with_a_password_file_only_its_users_come_in_and_are_told_why_not(tmp_path: Path) -> None:
    users = tmp_path / "users"
    assert robustmq("passwd", str(users), "alice", "--stdin", given="secret\n")[0] == 0
    config = f'[mqtt]\nbind = ["0.0.0.0"]\n[security]\npassword_file = "{users}"\n'
    with BrokerProcess(tmp_path, config=config) as broker:
        publish = ("pub", "-p", str(broker.mqtt), "-t", "a", "-m", "x", "-r", "-q", "1")
        assert robustmq(*publish, "-u", "alice", "-P", "secret") == (0, "", "")
        code, _, told = robustmq(*publish, "-u", "alice", "-P", "wrong")
        assert code == 1 and "bad user name or password (0x86)" in told
        code, _, told = robustmq(*publish)
        assert code == 1 and "not authorized (0x87)" in told
        seen = robustmq(
            "sub", "-p", str(broker.mqtt), "-t", "#", "-C", "1", "-u", "alice", "-P", "secret"
        )
        assert seen == (0, "x\n", "")
        assert broker.stop() == 0


def test_a_broker_that_is_not_there_is_named() -> None:
    code, _, told = robustmq("pub", "-p", "1", "-t", "a", "-m", "x")
    assert code == 1
    assert told == (
        "robustmq pub: cannot connect to 127.0.0.1 port 1: Connection refused;"
        " is a broker running there?\n"
    )


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    script = f"{sys.executable} -m robustmq.cli.main doctor | true"
    done = subprocess.run(
        script, shell=True, capture_output=True, text=True, timeout=30, check=False
    )
    assert "Traceback" not in done.stderr


def test_pub_and_sub_reach_every_transport(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificate, ann = certificates.server("server"), certificates.client("ann", "ann")
    tables = f"""
[[listener]]
name = "unix"
transport = "unix"
bind = ["{tmp_path / "mqtt.sock"}"]
"""
    for transport in ("tls", "ws", "wss"):
        secured = f'certificate = "{certificate}"\nclient_ca = "{certificates.ca}"\n'
        secured += "require_client_certificate = true\n"
        tables += f'[[listener]]\nname = "{transport}"\ntransport = "{transport}"\nport = 0\n'
        tables += "" if transport == "ws" else secured
    with BrokerProcess(tmp_path, config=tables) as broker:
        trusted = ("--cafile", str(certificates.ca), "--cert", str(ann), "-h", "localhost")
        ways: dict[str, tuple[str, ...]] = {
            "unix": ("--unix", str(tmp_path / "mqtt.sock")),
            "ws": ("--ws", "/mqtt", "-p", str(broker.listeners["ws"])),
            "tls": (*trusted, "-p", str(broker.listeners["tls"])),
            "wss": (*trusted, "--ws", "/mqtt", "-p", str(broker.listeners["wss"])),
        }
        for name, way in ways.items():
            assert robustmq("pub", *way, "-t", name, "-m", name, "-r", "-q", "2") == (0, "", "")
            assert robustmq("sub", *way, "-t", name, "-C", "1") == (0, f"{name}\n", "")
        code, _, told = robustmq("pub", *ways["ws"], "--ws", "/other", "-t", "a", "-m", "x")
        assert code == 1 and "404 Not Found" in told
        tls = ("-h", "localhost", "-p", str(broker.listeners["tls"]), "-t", "a", "-m", "x")
        code, _, told = robustmq("pub", "--tls", *tls)
        assert code == 1 and "certificate" in told
        code, _, told = robustmq("pub", "--insecure", *tls)
        assert code == 1 and "Traceback" not in told, "the broker wants to see a certificate"
        assert broker.stop() == 0
