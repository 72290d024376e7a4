"""The programs of the Kafka matrix: how each is fetched and built, once, and how it is talked to.

What a library needs is kept in ~/.cache/robustmq-clients. A program is told its library's name and
the broker's address; it prints "wrote CODEC" for what it produced, "first" when the broker may
restart, reads a line when that is done, and ends with "ok".
"""

from __future__ import annotations

import hashlib
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.clients.building import CACHE, Command, alone, make, needs

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests/clients/kafka"
WAIT_S = 120.0


def python(library: str) -> Command:
    """confluent-kafka, aiokafka, kafka-python."""
    return [sys.executable, "-m", "tests.clients.kafka.python.smoke"]


def kcat(library: str) -> Command:
    """kcat, which is librdkafka on the command line."""
    needs("kcat")
    return [sys.executable, str(PROGRAMS / "kcat/smoke.py")]


@cache
def jars() -> Path:
    """Apache Kafka's own clients and tools."""
    needs("java", "mvn")
    folder = CACHE / "kafka-java"
    done = folder / "done"
    with alone("kafka-java"):
        if not done.exists():
            goal = "dependency:copy-dependencies"
            make("mvn", "-q", "-B", goal, f"-DoutputDirectory={folder}", folder=PROGRAMS / "java")
            done.touch()
    return folder


@cache
def classes() -> Path:
    """Our own Java, compiled."""
    needs("javac")
    sources = sorted((PROGRAMS / "java").glob("*.java"))
    fingerprint = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = CACHE / f"kafka-java-{fingerprint}"
    done, found = folder / "done", jars()
    with alone("kafka-java"):
        if not done.exists():
            names = [str(path) for path in sources]
            make("javac", "-cp", f"{found}/*", "-d", str(folder), *names, folder=PROGRAMS)
            done.touch()
    return folder


def java(main: str) -> Command:
    """A class of ours or of Apache Kafka's."""
    fast = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]
    return ["java", *fast, "-cp", f"{classes()}:{jars()}/*", main]


@cache
def go(library: str) -> Command:
    """franz-go and sarama, in one program."""
    needs("go")
    with alone("go-kafka"):
        make("go", "build", "-o", str(CACHE / "go-kafka"), ".", folder=PROGRAMS / "go")
    return [str(CACHE / "go-kafka")]


@cache
def node(library: str) -> Command:
    """kafkajs and @platformatic/kafka."""
    needs("node", "npm")
    folder = CACHE / "node-kafka"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (PROGRAMS / "node").iterdir():
        shutil.copy(path, folder)
    if not (folder / "node_modules/kafkajs").exists():
        make("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", folder=folder)
    return ["node", str(folder / "smoke.js")]


LIBRARIES: dict[str, Callable[[str], Command]] = {
    "confluent": python,
    "aiokafka": python,
    "kafka-python": python,
    "kcat": kcat,
    "java": lambda library: java("Job"),
    "franz-go": go,
    "sarama": go,
    "kafkajs": node,
    "platformatic": node,
}


class Run:
    """A program that runs, and what it has printed."""

    def __init__(self, errors: Path, command: Command, *arguments: str) -> None:
        """`errors` is the file that its standard error goes to."""
        self._errors = errors
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue(1000)
        with errors.open("w") as said:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=ROOT,
                text=True,
            )
        self._deadline = time.monotonic() + WAIT_S
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, word: str | None) -> bool:
        """Read until a line, or until it ends; False when it ended or took too long."""
        while not self.lines or self.lines[-1] != word:
            try:
                line = self._queue.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                self._process.kill()
                self.lines.append(f"took longer than {WAIT_S} s")
                return False
            if line is None:
                return word is None
            self.lines.append(line)
        return True

    @property
    def errors(self) -> str:
        """The end of what it said on its standard error."""
        return self._errors.read_text()[-5000:]

    def say(self, line: str) -> None:
        """To its standard input; one that has ended hears nothing."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def end(self) -> None:
        """Wait until it has ended."""
        self.wait_for(None)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
