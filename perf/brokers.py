"""Starts and stops the brokers that are compared, each on free ports in a directory of its own.

What a broker needs is a row: a configuration from peers/, a command, how to see that it is there.
What is fetched (rumqttd by cargo, Apache Kafka by Maven) stays in ~/.cache/robustmq-peers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from robustmq.bench import plan, result, run
from robustmq.bench.connection import LoadError

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "perf" / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "robustmq-peers"
START_SECONDS = 40.0


LISTENERS = ("tcp", "tls", "ws", "auth")
"""What MQTT comes in by; `auth` is TCP for clients with a password alone."""
USER = PASSWORD = "bench"


class Running(NamedTuple):
    """A broker that is up; `ports` are those of its MQTT listeners."""

    name: str
    process: int
    ports: dict[str, int]
    kafka_port: int
    directory: Path

    @property
    def mqtt_port(self) -> int:
        """Plain MQTT."""
        return self.ports["tcp"]


class Peer(NamedTuple):
    """How to run one; `command` and `prepare` get the path of its configuration."""

    name: str
    config: str
    speaks: str
    command: Callable[[Path], list[str]]
    found: Callable[[], bool]
    advice: str
    workers: int = 2
    profile: str = "server"
    prepare: Callable[[Path], list[str]] | None = None


def _java(main: str, *arguments: str) -> list[str]:
    """As kafka-server-start.sh has it by default."""
    options = (
        "-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20"
        " -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent"
    )
    return ["java", *options.split(), "-cp", f"{CACHE}/kafka/*", main, *arguments]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "robustmq.cli.main", *arguments]


def _robustmq(config: Path) -> list[str]:
    return _command("start", "--config", str(config))


def _passwords(config: Path) -> list[str]:
    return _command("passwd", "--stdin", str(config.parent / "passwords"), USER)


def _mosquitto_passwords(config: Path) -> list[str]:
    return ["mosquitto_passwd", "-b", "-c", str(config.parent / "passwords"), USER, PASSWORD]


def certificate() -> Path:
    """A key and its own certificate for all brokers, in one file; made once."""
    path = CACHE / "certificate.pem"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj",
             "/CN=localhost", "-keyout", str(path), "-out", str(path) + ".crt"],
            check=True, capture_output=True,
        )  # fmt: skip
        made = Path(str(path) + ".crt")
        path.write_text(path.read_text() + made.read_text())
        path.chmod(0o644)
        made.unlink()
    return path


_KAFKA_ADVICE = (
    f"mvn -f {PEERS.relative_to(ROOT)}/kafka/pom.xml dependency:copy-dependencies"
    f" -DoutputDirectory={CACHE}/kafka"
)

ALL = {
    peer.name: peer
    for peer in (
        Peer("robustmq", "robustmq.toml", "both", _robustmq, lambda: True, "", prepare=_passwords),
        Peer(
            "edge",
            "robustmq.toml",
            "both",
            _robustmq,
            lambda: True,
            "",
            1,
            "edge",
            prepare=_passwords,
        ),
        Peer(
            "mosquitto",
            "mosquitto.conf",
            "mqtt",
            lambda config: ["mosquitto", "-c", str(config)],
            lambda: shutil.which("mosquitto", path=_path()) is not None,
            "apt-get install mosquitto",
            prepare=_mosquitto_passwords,
        ),
        Peer(
            "mosquitto_ws",
            "mosquitto-websockets.conf",
            "mqtt",
            lambda config: [str(CACHE / "bin" / "mosquitto-websockets"), "-c", str(config)],
            lambda: (CACHE / "bin" / "mosquitto-websockets").exists(),
            "build mosquitto with WITH_WEBSOCKETS=yes, as perf/README.md says",
        ),
        Peer(
            "rumqttd",
            "rumqttd.toml",
            "mqtt",
            lambda config: [str(CACHE / "bin" / "rumqttd"), "-c", str(config)],
            lambda: (CACHE / "bin" / "rumqttd").exists(),
            f"cargo install rumqttd --version ^0.20 --root {CACHE}",
        ),
        Peer(
            "kafka",
            "kafka.properties",
            "kafka",
            lambda config: _java("kafka.Kafka", str(config)),
            lambda: any((CACHE / "kafka").glob("kafka_*.jar")),
            _KAFKA_ADVICE,
            prepare=lambda config: _java(
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qg",
                "-c",
                str(config),
            ),
        ),
    )
}


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@contextmanager
def running(name: str) -> Iterator[Running]:
    """A fresh broker, gone at the end with all it wrote."""
    peer = ALL[name]
    directory = Path(tempfile.mkdtemp(prefix=f"perf-{name}-"))
    kafka_port, controller_port, *own = free_ports(2 + len(LISTENERS))
    ports = dict(zip(LISTENERS, own, strict=True))
    config = directory / peer.config
    text = (PEERS / peer.config).read_text()
    values = {
        "directory": str(directory),
        "certificate": str(certificate()),
        **{f"{name}_port": port for name, port in ports.items()},
        "kafka_port": kafka_port,
        "controller_port": controller_port,
        "workers": peer.workers,
        "profile": peer.profile,
    }
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    config.write_text(text)
    environment = {**os.environ, "PATH": _path(), "PYTHONPATH": str(ROOT)}
    log = (directory / "log.txt").open("wb")
    try:
        if peer.prepare is not None:
            subprocess.run(
                peer.prepare(config),
                env=environment,
                cwd=directory,
                input=f"{PASSWORD}\n".encode(),
                stdout=log,
                stderr=log,
                check=True,
            )
        process = subprocess.Popen(
            peer.command(config), env=environment, cwd=directory, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            up = (
                partial(_kafka_up, kafka_port)
                if peer.speaks == "kafka"
                else partial(_mqtt_up, ports["tcp"])
            )
            _await(name, process, up, directory)
            yield Running(name, process.pid, ports, kafka_port, directory)
        finally:
            _stop(process)
    finally:
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


def _mqtt_up(port: int) -> bool:
    """Several clients get in, so that every worker is there."""
    try:
        run.execute(plan.Options(scenario="conn", port=port, clients=8, warmup=0, duration=0.01))
    except (LoadError, OSError):
        return False
    return True


def _kafka_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _await(
    name: str, process: subprocess.Popen[bytes], up: Callable[[], bool], directory: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if up():
            time.sleep(0.3)
            return
        time.sleep(0.1)
    tail = (directory / "log.txt").read_bytes()[-2_000:].decode(errors="replace")
    raise RuntimeError(f"{name} did not come up:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end what is left of its session, which holds this broker alone."""
    tree = result.process_tree(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(12)
    for left in tree:
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(left) == process.pid:
                os.kill(left, signal.SIGKILL)
    process.wait()
