"""What people type."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from robustmq import config
from robustmq.cli.doctor import Finding, examine
from robustmq.cli.main import main
from robustmq.security import passwords
from robustmq.storage.data_directory import open_data_directory


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("start", "pub", "sub", "bench", "doctor", "passwd"))
    assert main(["nonsense"]) == 2


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, robustmq.cli.main; print('msgspec' in sys.modules, 'asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_wrong_setting_stops_the_start_with_a_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[mqtt]\nbind = ["0.0.0.0"]\n')
    assert main(["start", "--config", str(file)]) == 2
    assert "security.allow_anonymous = true" in capsys.readouterr().err


def test_doctor_examines_a_machine(tmp_path: Path) -> None:
    free = {"port": 0}
    raw = {"node": {"data_dir": str(tmp_path)}, "mqtt": free, "kafka": free, "metrics": free}
    findings = {finding.subject: finding for finding in examine(config.parse(raw))}
    assert findings["data directory"].verdict == "ok"
    assert findings["disk sync"].verdict in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "cluster.json").write_text('{"format_version": 2, "shard_count": 4}')
    findings = {finding.subject: finding for finding in examine(config.parse(raw))}
    assert "node.shards = 4" in findings["data directory"].detail


def test_a_data_directory_of_another_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    open_data_directory(data, 16)
    mark = data / "cluster.json"
    mark.write_text(mark.read_text().replace('"format_version": 2', '"format_version": 1'))
    file = tmp_path / "c.toml"
    file.write_text(f'[node]\ndata_dir = "{data}"\nshards = 16\n')
    assert main(["start", "--config", str(file)]) == 1
    shown = capsys.readouterr().err
    assert "has format 1, this version reads 2: run the version that wrote it" in shown


def test_doctor_looks_at_certificates(tmp_path: Path) -> None:
    def finding(certificate: str) -> Finding:
        table = {"name": "a", "transport": "tls", "port": 0, "certificate": certificate}
        found = examine(config.parse({"node": {"data_dir": str(tmp_path)}, "listener": [table]}))
        return next(one for one in found if one.subject == "certificates")

    def issued(days: int) -> str:
        file = tmp_path / f"{days}.pem"
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, hours=1)
        begins = ends - datetime.timedelta(days=1000)
        made = trustme.CA().issue_cert("localhost", not_before=begins, not_after=ends)
        made.private_key_and_cert_chain_pem.write_to_path(file)
        return str(file)

    assert finding(issued(400)).verdict == "ok"
    assert finding(issued(3)) == Finding(
        "warn", "certificates", f"{tmp_path / '3.pem'} is valid for 3 more days"
    )
    assert finding(issued(-2)).verdict == "fail"
    assert finding(issued(40 * 365)).verdict == "ok", "dates after 2049 are written otherwise"
    missing = finding(str(tmp_path / "nowhere.pem"))
    assert missing.verdict == "fail" and "nowhere.pem" in missing.detail


def test_passwd_sets_and_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "users"
    monkeypatch.setattr("robustmq.cli.main._ask_password", lambda from_stdin: b"secret")
    assert main(["passwd", str(file), "ann"]) == 0
    assert passwords.verify(passwords.read(file)["ann"], b"secret")
    assert main(["passwd", str(file), "ann", "--delete"]) == 0
    assert main(["passwd", str(file), "ann", "--delete"]) == 1
    assert passwords.read(file) == {}
