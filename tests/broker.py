"""A real broker for tests: the command that users start, in processes of its own, on free ports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def until(
    condition: Callable[[], object], timeout_s: float = 15.0, what: str = "the condition"
) -> None:
    """Poll until the condition holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.01)


def _is_gone(pid: int) -> bool:
    """Has a process ended, whether somebody has looked at its end or not? Its files and ports are
    held until its last thread has."""
    try:
        return all(
            stat.read_text().rpartition(") ")[2][0] in "ZX"
            for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        )
    except OSError:
        return True


class BrokerProcess:
    """`robustmq start`, its ports and its process ids. A context manager: started and stopped."""

    def __init__(
        self, directory: Path, workers: int = 2, config: str = "", **settings: str
    ) -> None:
        """`config` is the text of config.toml; `settings` go before it:
        MQTT__SYS_INTERVAL_S="0"."""
        self.directory = directory
        self.data = directory / "data"
        self.workers = workers
        self.settings = settings
        self.config = directory / "config.toml"
        self.config.write_text(config)
        self.mqtt = 0
        self.listeners: dict[str, int] = {}
        """Ports by the names of [[listener]] tables."""
        self.kafka = 0
        self.worker_ports: list[int] = []
        self.metrics = 0
        self.said: list[str] = []
        self.log_file = directory / "log.jsonl"
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> BrokerProcess:
        try:
            self.start()
        except BaseException:
            # No __exit__ follows: what did not come up in time would run for ever.
            if self.running:
                self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.running:
            self.kill()
        if kind is not None:
            sys.stderr.write(self.log[-20_000:])

    @property
    def running(self) -> bool:
        """True until the supervisor has ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self.process is not None, "start() comes first"
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything that was logged, over restarts."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def log_lines_of(self, port: int, words: str) -> int:
        """Lines with these words about the peer at this port of ours."""
        lines = self.log.splitlines()
        return sum(words in line and f'"127.0.0.1:{port}"' in line for line in lines)

    def environment(self) -> dict[str, str]:
        """The settings as the environment has them."""
        return {
            "ROBUSTMQ_NODE__DATA_DIR": str(self.data),
            "ROBUSTMQ_NODE__WORKERS": str(self.workers),
            "ROBUSTMQ_MQTT__PORT": str(self.mqtt),
            "ROBUSTMQ_KAFKA__PORT": str(self.kafka),
            "ROBUSTMQ_METRICS__PORT": str(self.metrics),
            **{f"ROBUSTMQ_{name}": value for name, value in self.settings.items()},
        }

    def start(self) -> None:
        """Start, and wait until all listen. A port that was given to us once is kept."""
        command = [sys.executable, "-m", "robustmq.cli.main", "start", "--config", str(self.config)]
        environment = {**os.environ, **self.environment()}
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.said = []
        threading.Thread(target=self._listen, daemon=True).start()
        until(lambda: self._announced() or not self.running, START_TIMEOUT_S, "the broker")
        assert self.running, f"the broker ended at its start:\n{self.log[-5000:]}"
        places = [line.split() for line in self.said[1:]]
        for *name, address in places:
            if "unix" in name:
                continue
            port = int(address.rpartition(":")[2].partition("/")[0])
            if name == ["mqtt"]:
                self.mqtt = port
            elif name[0] == "mqtt":
                self.listeners[name[-1]] = port
            elif name == ["kafka"]:
                self.kafka = port
            elif name[0] == "kafka" and "worker" not in name:
                self.listeners[name[-1]] = port
            elif name == ["metrics"]:
                self.metrics = port
        self.worker_ports = [int(p[-1].rpartition(":")[2]) for p in places if p[1] == "worker"]

    def _listen(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    def _announced(self) -> bool:
        wanted = "metrics" if self.settings.get("METRICS__ENABLED") != "false" else "mqtt"
        return any(line.startswith(f"  {wanted}") for line in self.said)

    def processes(self) -> dict[str, int]:
        """Process ids by name: rmq-meta, rmq-worker-0, ..., rmq-admin. Empty when it does
        not run."""
        found: dict[str, int] = {}
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return found
        for child in children:
            try:
                found[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
            except OSError:
                continue
        return found

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that run now, by their number."""
        processes = self.processes()
        return [processes[name] for name in sorted(processes) if "worker" in name]

    def metric(self, name: str) -> int:
        """The sum of a metric over the workers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as page:
            rows = [row for row in page.read().decode().splitlines() if row.startswith(name + "{")]
        return int(sum(float(row.rpartition(" ")[2]) for row in rows))

    def open_sockets(self) -> int:
        """Open sockets of all workers. (The files are storage's, which keeps a bounded number
        open.)"""
        count = 0
        for pid in self.worker_pids():
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    count += str(link.readlink()).startswith("socket:")
        return count

    def kill_worker(self, worker: int) -> None:
        """Kill -9 a worker, which runs or is just starting again; the supervisor starts it
        again."""
        name, pid = f"rmq-worker-{worker}", 0

        def there() -> bool:
            # The kernel's list of children may lack one for a moment while others come and go.
            nonlocal pid
            pid = self.processes().get(name, 0)
            return bool(pid)

        until(there, START_TIMEOUT_S, name)
        os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill -9 the whole tree."""
        assert self.process is not None, "start() comes first"
        # Held first, so that it starts nobody while we look who is there.
        os.kill(self.pid, signal.SIGSTOP)
        pids = [self.pid, *self.processes().values()]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(STOP_TIMEOUT_S)
        # Their ports are free when they are gone, which takes a busy machine a moment.
        until(lambda: all(map(_is_gone, pids)), STOP_TIMEOUT_S, "the end of all processes")

    def stop(self) -> int:
        """SIGTERM, and wait; the exit code."""
        assert self.process is not None, "start() comes first"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Stop and start on the same ports and data."""
        assert self.stop() == 0, "a clean stop"
        self.start()
