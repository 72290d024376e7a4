"""The life of a node's processes, with real ones."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robustmq.process.children import Child

SCRIPT = Path(__file__).with_name("supervised.py")
ROOT = Path(__file__).parents[2]


class Node:
    """A supervisor in a process of its own."""

    def __init__(self, directory: Path, mqtt_port: int = 0, kafka_port: int = 0) -> None:
        self.data = directory / "data"
        self.file = directory / "config.toml"
        self.mqtt_port = mqtt_port
        self.kafka_port = kafka_port
        self.configure("")
        self.process: subprocess.Popen[str] | None = None

    def configure(self, extra: str, inflight: int = 100) -> None:
        self.file.write_text(
            f'[node]\ndata_dir = "{self.data}"\nworkers = 2\n{extra}\n'
            f"[mqtt]\nport = {self.mqtt_port}\n[kafka]\nport = {self.kafka_port}\n"
            f"[metrics]\nenabled = false\n[limits]\nmax_inflight = {inflight}\n"
        )

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.file)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def announced(self) -> list[str]:
        """The lines that say what listens."""
        assert self.process is not None and self.process.stdout is not None
        lines = [self.process.stdout.readline()]
        lines.append(self.process.stdout.readline())
        return lines

    def lives(self, worker: int) -> list[str]:
        path = self.data / f"lives-{worker}"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def children(self) -> list[int]:
        assert self.process is not None
        pid = self.process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def finish(self) -> tuple[int, str]:
        """Stop; exit code and what was logged."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        _, logged = self.process.communicate(timeout=15)
        return self.process.returncode, logged


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not come"
        time.sleep(0.01)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    if node.process is not None and node.process.poll() is None:
        node.process.kill()
        node.process.communicate()


def test_a_node_says_where_it_listens_and_drains_on_sigterm(node: Node) -> None:
    node.start()
    head, place = node.announced()
    assert "is ready: 2 worker(s)" in head
    assert re.fullmatch(r"  mqtt 127\.0\.0\.1:[1-9]\d*\n", place)
    assert node.data.stat().st_mode & 0o777 == 0o700
    code, _ = node.finish()
    assert code == 0
    assert node.lives(0)[-1] == node.lives(1)[-1] == "drained"


def test_a_worker_that_dies_comes_again_with_a_greater_incarnation(node: Node) -> None:
    node.start()
    node.announced()
    before = node.lives(0) + node.lives(1)
    assert len(set(before)) == 2
    _, *workers = node.children()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(node.lives(0)) == 2 and len(node.lives(1)) == 2)
    after = {int(node.lives(0)[1]), int(node.lives(1)[1])}
    assert len(after) == 2 and min(after) > max(map(int, before))
    code, logged = node.finish()
    assert code == 0 and "a process died, starting it again" in logged


def test_sighup_reaches_the_workers_and_names_what_needs_a_restart(node: Node) -> None:
    process = node.start()
    node.announced()
    node.configure("open_files = 100", inflight=77)
    process.send_signal(signal.SIGHUP)
    until(lambda: node.lives(0)[-1] == "reloaded 77" and node.lives(1)[-1] == "reloaded 77")
    node.file.write_text("[nonsense]\n")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    _, logged = node.finish()
    assert "limits.max_inflight" in logged
    assert re.search(r"need a restart.*node\.open_files", logged)
    assert "nonsense" in logged


def test_the_second_supervisor_of_a_data_directory_is_refused_by_name(
    node: Node, tmp_path: Path
) -> None:
    process = node.start()
    node.announced()
    second = Node(tmp_path)
    _, logged = second.start().communicate(timeout=10)
    assert second.process is not None and second.process.returncode == 1
    assert f"in use by process {process.pid}" in logged
    assert node.finish()[0] == 0


def test_a_port_in_use_is_found_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = Node(tmp_path, mqtt_port=taken.getsockname()[1])
        _, logged = node.start().communicate(timeout=10)
    assert node.process is not None and node.process.returncode == 1
    assert "set mqtt.port" in logged


def test_two_protocols_on_one_port_are_refused(tmp_path: Path) -> None:
    node = Node(tmp_path, mqtt_port=21_883, kafka_port=21_883)
    _, logged = node.start().communicate(timeout=10)
    assert node.process is not None and node.process.returncode == 1
    assert "mqtt.port and kafka.port both take port 21883" in logged


def test_a_worker_is_started_again_though_the_disk_takes_no_incarnation(node: Node) -> None:
    node.start()
    node.announced()
    (node.data / "run" / "incarnation.new").mkdir()
    _, *workers = node.children()
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(node.lives(0)) == 2)
    assert int(node.lives(0)[1]) > max(int(node.lives(0)[0]), int(node.lives(1)[0]))
    code, logged = node.finish()
    assert code == 0 and "the incarnation was not kept" in logged


def test_a_system_that_cannot_fork_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", cannot)
    child = Child("worker-0", lambda: 0)
    child.start(100.0)
    assert child.pid == 0 and child.restart_at_s == 101.0
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_signal_to_the_process_group_is_the_supervisors_alone(node: Node) -> None:
    process = node.start()
    node.announced()
    assert all(os.getpgid(pid) != os.getpgid(process.pid) for pid in node.children())
    assert node.finish()[0] == 0


def test_children_do_not_outlive_the_supervisor(node: Node) -> None:
    process = node.start()
    node.announced()
    children = node.children()
    assert len(children) == 3
    process.kill()
    process.communicate()
    until(lambda: not any(_lives(pid) for pid in children))


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
