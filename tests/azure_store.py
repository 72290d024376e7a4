"""A server of Azure's object store that we did not write, on loopback: Azurite, which npm installs
once for all tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import secrets
import socket
import subprocess
import time
from email.utils import formatdate
from pathlib import Path
from types import TracebackType

from tests.broker import until
from tests.clients.building import BUILD_TIMEOUT_S, CACHE, alone, make, needs
from tests.object_stores import tiering_settings

AZURITE = "3.37.0"
ACCOUNT = "tests"
ACCOUNT_KEY = base64.b64encode(b"the key of an account of tests").decode()
START_TIMEOUT_S = 90.0
"""It loads some thousands of files; two seconds on a machine that does nothing else."""


def azurite(timeout_s: float = BUILD_TIMEOUT_S) -> str:
    """Its script for blobs, installed if need be; skips without node and npm."""
    needs("node", "npm")
    folder = CACHE / f"azurite-{AZURITE}"
    with alone("azurite"):
        if not folder.exists():
            building = CACHE / f"azurite-{AZURITE}.new"
            building.mkdir(exist_ok=True)
            install = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
            package = ("--prefix", ".", f"azurite@{AZURITE}")
            make(*install, *package, folder=building, timeout_s=timeout_s)
            building.rename(folder)
    return str(folder / "node_modules/azurite/dist/src/blob/main.js")


class AzureServer:
    """The server, with a container and all in memory; a context manager."""

    container = "tests"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def options(self) -> dict[str, str]:
        """What storage.tiering.options needs."""
        return {
            "endpoint": f"http://127.0.0.1:{self.port}/{ACCOUNT}",
            "account_name": ACCOUNT,
            "account_key": ACCOUNT_KEY,
        }

    def fresh_url(self) -> str:
        """A place in the container that nobody has used."""
        return f"az://{self.container}/{secrets.token_hex(6)}"

    def settings(self, url: str) -> dict[str, str]:
        """Settings of a BrokerProcess that tiers to a place of `fresh_url`, and looks often."""
        return tiering_settings(url, self.options)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def _make_container(self) -> None:
        """Signed as Azure's "Authorize with Shared Key" says: obstore makes no containers."""
        stamps = {"x-ms-date": formatdate(time.time(), usegmt=True), "x-ms-version": "2023-11-03"}
        headers = [f"{name}:{stamps[name]}" for name in sorted(stamps)]
        what = [f"/{ACCOUNT}/{ACCOUNT}/{self.container}", "restype:container"]
        signed = "\n".join(["PUT", *[""] * 11, *headers, *what])
        key = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
        who = {"Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(key).decode()}"}
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            path = f"/{ACCOUNT}/{self.container}?restype=container"
            asked.request("PUT", path, b"", {**stamps, **who})
            answer = asked.getresponse()
            assert answer.status == 201, answer.read()
        finally:
            asked.close()

    def __enter__(self) -> AzureServer:
        command = ["node", azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
        environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, env=environment, stdout=log, stderr=log
            )
        try:
            until(self._listens, START_TIMEOUT_S, "Azurite")
            self._make_container()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Whatever it holds is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
