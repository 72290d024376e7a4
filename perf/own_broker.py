"""This broker in processes of its own, as users start it: stopped, killed and started again on the
same data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from brokers import ROOT, START_SECONDS, free_ports

from robustmq.bench import result

STOP_SECONDS = 60.0


class OwnBroker:
    """A context manager: started, and at the end gone with all that it wrote."""

    def __init__(self, workers: int = 2, config: str = "", keep: str = "") -> None:
        """`config` is a file of settings; `keep` names a directory that stays, with its data."""
        self.workers = workers
        self.directory = Path(keep or tempfile.mkdtemp(prefix="many-topics-"))
        self.data = self.directory / "data"
        self._keep = bool(keep)
        self._config = config
        self.mqtt_port, self.kafka_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if not self._keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> float:
        """Start; the seconds until every worker listens."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ROBUSTMQ_NODE__DATA_DIR": str(self.data),
            "ROBUSTMQ_NODE__WORKERS": str(self.workers),
            "ROBUSTMQ_MQTT__PORT": str(self.mqtt_port),
            "ROBUSTMQ_KAFKA__PORT": str(self.kafka_port),
            "ROBUSTMQ_METRICS__PORT": "0",
            "ROBUSTMQ_LOG__LEVEL": "warning",
        }
        command = [sys.executable, "-m", "robustmq.cli.main", "start"]
        if self._config:
            command += ["--config", str(Path(self._config).resolve())]
        begin = time.monotonic()
        said = self.directory / "said.txt"
        with said.open("wb") as out, (self.directory / "log.jsonl").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self.directory, stdout=out, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        while b" is ready:" not in said.read_bytes():
            if self._process.poll() is not None or time.monotonic() - begin > START_SECONDS:
                tail = (self.directory / "log.jsonl").read_bytes()[-2_000:].decode(errors="replace")
                raise RuntimeError(f"the broker did not come up:\n{tail}")
            time.sleep(0.005)
        return time.monotonic() - begin

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended."""
        assert self._process is not None, "start() comes first"
        begin = time.monotonic()
        self._process.terminate()
        code = self._process.wait(STOP_SECONDS)
        if code:
            raise RuntimeError(f"the broker ended with {code}")
        return time.monotonic() - begin

    def kill(self) -> None:
        """kill -9 of all its processes, which are those of its session."""
        assert self._process is not None, "start() comes first"
        for pid in result.process_tree(self._process.pid):
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == self._process.pid:
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while self._lives() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _lives(self) -> bool:
        """Is a thread of its session still there? A process whose first thread has ended holds
        its files until the last one has.
        """
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if os.getsid(int(entry.name)) == self.pid and any(
                        stat.read_text().rpartition(") ")[2][0] not in "ZX"
                        for stat in entry.glob("task/*/stat")
                    ):
                        return True
        return False
