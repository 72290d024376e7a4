"""An S3 server that we did not write, on loopback: versitygw, which Go builds once for all tests,
or moto's server where Go is not. It can be killed, held and started again on its port and data."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.broker import until
from tests.clients.building import BUILD_TIMEOUT_S, CACHE, alone, make

VERSITYGW = "v1.8.0"
ACCESS_KEY, SECRET_KEY = "tests", "tests-secret"


def program(timeout_s: float = BUILD_TIMEOUT_S) -> str | None:
    """Versitygw's program, built if need be; None without Go."""
    folder = CACHE / f"versitygw-{VERSITYGW}"
    built = folder / "versitygw"
    if built.exists():
        return str(built)
    if shutil.which("go") is None:
        return None
    with alone("versitygw"):
        if not built.exists():
            source = f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}"
            building = CACHE / f"versitygw-{VERSITYGW}.new"
            building.mkdir(exist_ok=True)
            make("go", "install", source, folder=building, timeout_s=timeout_s, GOBIN=str(building))
            building.rename(folder)
    return str(built)


def tiering_settings(url: str, options: dict[str, str]) -> dict[str, str]:
    """Settings of a BrokerProcess that tiers to a store, and looks often."""
    told = ", ".join(f'{name} = "{value}"' for name, value in options.items())
    return {
        "STORAGE__TIERING__URL": url,
        "STORAGE__TIERING__OPTIONS": "{" + told + "}",
        "STORAGE__TIERING__CHECK_MS": "20",
        "STORAGE__TIERING__RETRY_MAX_MS": "200",
        "STORAGE__TIERING__TIMEOUT_MS": "2000",
        "STORAGE__RETENTION_CHECK_S": "1",
    }


class S3Server:
    """The server; a context manager. `bucket` is there when it has started."""

    bucket = "tests"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = program()
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def keeps(self) -> bool:
        """Has it what it held when it is started again?"""
        return self._program is not None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """What storage.tiering.options needs."""
        return {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }

    @property
    def checks_signatures(self) -> bool:
        """Does it refuse who has another secret?"""
        return self._program is not None

    def fresh_url(self) -> str:
        """A place in the bucket that nobody has used."""
        return f"s3://{self.bucket}/{secrets.token_hex(6)}"

    def settings(self, url: str) -> dict[str, str]:
        """Settings of a BrokerProcess that tiers to a place of `fresh_url`, and looks often."""
        return tiering_settings(url, self.options)

    def start(self) -> None:
        """Start it, on the port and data that it had."""
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        if self._program is not None:
            (self._directory / self.bucket).mkdir(exist_ok=True)
            command = [self._program, "--port", f"127.0.0.1:{self.port}", "--quiet"]
            command += ["posix", str(self._directory)]
        else:
            command = [sys.executable, "-m", "moto.server", "-p", str(self.port)]
        with (self._directory.parent / f"{self._directory.name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until(self._answers, 30.0, "the S3 server")
        if self._program is None:
            self._make_bucket()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def _make_bucket(self) -> None:
        asked = urllib.request.Request(f"{self.endpoint}/{self.bucket}", method="PUT")
        with urllib.request.urlopen(asked, timeout=5):
            return

    def hold(self) -> None:
        """It answers nobody, and its port stays open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Behind `hold`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is down; moto forgets what it held."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)
        self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None, "start() comes first"
        self._process.send_signal(number)

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Whatever state it is in."""
        if self._process is not None:
            self.kill()
