"""Files that fail, under a real broker: rules that a test sets while it runs, and what the journal
says was synced (faulty_files.c, which is preloaded); and a disk that is full.
"""

from __future__ import annotations

import mmap
import random
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

READ, WRITE, SYNC, OPEN = 1, 2, 4, 8
FOR_EVER = 1 << 60
_RULE = struct.Struct("<qiiqqq216s")
_RULES = 8


class FaultyFiles:
    """The rules and the journal of one broker's data directory."""

    def __init__(self, directory: Path) -> None:
        """`directory` is for the library, the rules and the journal."""
        self._library = directory / "faulty_files.so"
        source = Path(__file__).with_name("faulty_files.c")
        compiler = sysconfig.get_config_var("CC").split()[0]
        command = [compiler, "-shared", "-fPIC", "-o", self._library, source, "-ldl"]
        subprocess.run(command, check=True)
        self._rules_file = directory / "rules"
        self._rules_file.write_bytes(bytes(_RULE.size * _RULES))
        self.journal = directory / "journal"
        with self._rules_file.open("r+b") as file:
            self._rules = mmap.mmap(file.fileno(), 0)

    def preload(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Under all brokers that are started from now on."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    @property
    def environment(self) -> dict[str, str]:
        """What a broker is started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAULTY_FILES_RULES": str(self._rules_file),
            "FAULTY_FILES_JOURNAL": str(self.journal),
        }

    def set(
        self,
        calls: int,
        path: str,
        error: int = 0,
        count: int = FOR_EVER,
        wait_s: float = 0,
        bytes_a_second: int = 0,
        number: int = 0,
    ) -> None:
        """From now on these calls on paths with `path` in them fail or wait, `count` times."""
        row = struct.pack(
            "<iiqqq216s", calls, error, int(wait_s * 1e6), bytes_a_second, 0, path.encode()
        )
        begin = number * _RULE.size
        self._rules[begin : begin + 8] = bytes(8)
        self._rules[begin + 8 : begin + _RULE.size] = row
        self._rules[begin : begin + 8] = count.to_bytes(8, "little")

    def hits(self, number: int = 0) -> int:
        """Calls that a rule has applied to."""
        return int(_RULE.unpack_from(self._rules, number * _RULE.size)[5])

    def clear(self) -> None:
        """All is well again."""
        for number in range(_RULES):
            self._rules[number * _RULE.size : number * _RULE.size + 8] = bytes(8)

    @contextmanager
    def failing(self, calls: int, path: str, error: int) -> Iterator[None]:
        """While it lasts, these calls fail."""
        self.set(calls, path, error)
        try:
            yield
        finally:
            self.clear()

    def synced(self) -> dict[str, int]:
        """How many bytes of each file survive power loss."""
        sizes: dict[str, int] = {}
        for line in self.journal.read_text().splitlines():
            what, _, rest = line.partition(" ")
            if what == "moved":
                before, after = rest.split("\t")
                sizes[after] = sizes.pop(before, 0)
                continue
            size, _, path = rest.partition(" ")
            known = sizes.get(path, 0)
            sizes[path] = max(known, int(size)) if what == "synced" else min(known, int(size))
        return sizes

    def lose_power(self, data: Path, choose: random.Random) -> dict[str, tuple[int, int]]:
        """Cut each file below `data` at a byte behind what was synced of it, while no broker runs;
        what was cut: (size before, size now) by path."""
        synced = self.synced()
        cut: dict[str, tuple[int, int]] = {}
        for path in sorted(data.rglob("*")):
            name = str(path)
            if not path.is_file() or not any(part in name for part in ("/log/", "/segments/")):
                continue
            size, safe = path.stat().st_size, synced.get(name, 0)
            if safe < size:
                keep = choose.choice((safe, size, choose.randint(safe, size)))
                with path.open("r+b") as file:
                    file.truncate(keep)
                with self.journal.open("a") as journal:
                    journal.write(f"cut {keep} {name}\nsynced {keep} {name}\n")
                if keep < size:
                    cut[name] = size, keep
        return cut


def fill(file: Path, leave_bytes: int = 0) -> None:
    """Take all room of a file's disk but so much."""
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        while shutil.disk_usage(file.parent).free > leave_bytes:
            ballast.write(bytes(1 << 18))
