"""Fetching and building the clients of other languages, for the matrices."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "robustmq-clients"
BUILD_TIMEOUT_S = 280

Command = list[str]


def needs(*programs: str) -> None:
    """Skip without these."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def make(
    *command: str, folder: Path, timeout_s: float = BUILD_TIMEOUT_S, **environment: str
) -> None:
    """Fetch or compile something."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-500:]}")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """While tests that run beside these want the same, one of them makes it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
