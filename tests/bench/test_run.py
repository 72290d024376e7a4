"""Short real runs of the load generator and of the small clients against mosquitto, where it is
installed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.bench import plan, run
from robustmq.bench.main import run_bench, run_pub, run_sub

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    config: Path = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    config.write_text(
        f"listener {number} 127.0.0.1\nallow_anonymous true\n"
        "persistence false\nmax_queued_messages 0\n"
    )
    assert MOSQUITTO is not None
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", number), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield number
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("scenario", ["pairs", "fanout", "fanin", "topics", "echo"])
def test_everything_that_is_published_is_delivered_once_and_in_order(
    port: int, scenario: str, qos: int, version: int
) -> None:
    options = plan.Options(
        scenario=scenario,
        port=port,
        qos=qos,
        version=version,
        clients=3,
        topics=2,
        batch=8,
        count=100,
    )
    measured = run.execute(options)
    form = plan.shape(options)
    assert measured.delivered == 100 * form.publishers * form.copies
    faults = (
        measured.lost,
        measured.duplicates,
        measured.reordered,
        measured.foreign,
        measured.disconnected,
    )
    assert faults == (0, 0, 0, 0, 0)


def test_a_rate_is_kept(port: int) -> None:
    options = plan.Options(scenario="topics", port=port, rate=500.0, warmup=0.1, duration=0.5)
    measured = run.execute(options)
    assert measured.publish_rate == pytest.approx(500, rel=0.1)
    assert measured.latency_us["p50"] > 0


def test_connections_are_counted_and_memory_is_watched(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["conn", "--port", str(port), "-c", "20", "-d", "0.05", "--warmup", "0", "--json"]
    assert run_bench(arguments) == 0
    assert '"connected":20' in capsys.readouterr().out


def test_a_broker_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        unused = free.getsockname()[1]
    assert run_bench(["pairs", "--port", str(unused), "-d", "0.1"]) == 1
    assert "robustmq bench:" in capsys.readouterr().err


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_pub_and_sub_carry_a_message(port: int, qos: str) -> None:
    assert run_pub(["-p", str(port), "-t", f"r/{qos}", "-m", "21.5", "-q", qos, "-r"]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "robustmq.cli.main", "sub",
         "-p", str(port), "-t", f"r/{qos}", "-q", qos, "-v", "-C", "1", "-W", "5"],
        capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == b"r/%s 21.5\n" % qos.encode()


def test_sub_ends_with_27_when_nothing_comes(port: int) -> None:
    assert run_sub(["-p", str(port), "-t", "nothing/here", "-W", "0.2"]) == 27
