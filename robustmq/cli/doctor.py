"""`robustmq doctor`: what can be known about a machine and a configuration before the broker is
started.

Each check looks at one thing and gives findings: ok, warn (it will run, but), fail (it will not
run). Nothing is changed but a scratch file in the data directory, which is removed.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from robustmq.cli.certificate_dates import ends_at_s
from robustmq.config import Settings
from robustmq.listener import ENCRYPTED
from robustmq.net.tls import ServerTls, TlsError
from robustmq.security import passwords
from robustmq.storage.data_directory import FORMAT_VERSION

WANTED_FILES = 65_536
SLOW_SYNC_MS = 10.0
SYNC_ROUNDS = 20
EARLIEST_YEAR_S = 1_735_689_600
LOCK_FILE = "lock"
DAY_S = 86_400
FEW_DAYS = 14


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Literal["ok", "warn", "fail"]
    subject: str
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """All checks, in the order in which one would repair."""
    findings = [Finding("ok", "configuration", "valid")]
    for check in (_python, _core, _users, _tls, _files, _data, _ports, _clock, _kernel):
        findings += check(settings)
    return findings


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    advice = "" if supported else "; 3.11 and 3.12 are supported"
    yield Finding("ok" if supported else "fail", "python", version + advice)


def _core(settings: Settings) -> Iterator[Finding]:
    try:
        source = importlib.import_module("robustmq.core.frames").__file__ or ""
    except ImportError as error:
        yield Finding("fail", "compiled core", f"cannot be imported: {error}")
        return
    if source.endswith(".py"):
        yield Finding("warn", "compiled core", "interpreted, which is slower: install a C compiler")
    else:
        yield Finding("ok", "compiled core", "there")


def _users(settings: Settings) -> Iterator[Finding]:
    if not settings.security.password_file:
        yield Finding("ok", "password file", "none; clients of this machine need no password")
        return
    try:
        users = passwords.read(settings.security.password_file)
    except passwords.PasswordFileError as error:
        yield Finding("fail", "password file", str(error))
        return
    yield Finding("ok" if users else "warn", "password file", f"{len(users)} users")


def _tls(settings: Settings) -> Iterator[Finding]:
    for listener in (*settings.listeners, *settings.kafka_listeners):
        if listener.transport not in ENCRYPTED:
            continue
        try:
            ServerTls(listener)
        except TlsError as error:
            yield Finding("fail", "certificates", str(error))
            continue
        for file in (listener.certificate, *(one.certificate for one in listener.server_names)):
            yield _lifetime(file)


def _lifetime(file: str) -> Finding:
    try:
        days = int(ends_at_s(file) - time.time()) // DAY_S
    except (OSError, ValueError) as error:
        return Finding("warn", "certificates", f"{file}: {error}")
    if days < 0:
        return Finding("fail", "certificates", f"{file} has expired: no client will trust it")
    verdict: Literal["ok", "warn"] = "ok" if days >= FEW_DAYS else "warn"
    return Finding(verdict, "certificates", f"{file} is valid for {days} more days")


def _files(settings: Settings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.node.open_files or WANTED_FILES
    enough = hard == resource.RLIM_INFINITY or hard >= wanted
    advice = "" if enough else f"; raise it to {wanted} (ulimit -Hn, LimitNOFILE=)"
    yield Finding("ok" if enough else "warn", "open files", f"limit {hard}{advice}")


def _data(settings: Settings) -> Iterator[Finding]:
    directory = Path(settings.node.data_dir)
    nearest = next(
        parent for parent in (directory, *directory.absolute().parents) if parent.exists()
    )
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield Finding("fail", "data directory", f"{directory} cannot be written by this user")
        return
    if _locked(directory / LOCK_FILE):
        yield Finding("fail", "data directory", f"{directory} is in use by another supervisor")
        return
    try:
        facts = json.loads((directory / "cluster.json").read_text(encoding="utf-8"))
        version, shards = int(facts["format_version"]), int(facts["shard_count"])
    except FileNotFoundError:
        yield Finding("ok", "data directory", f"{directory} is new")
    except (OSError, ValueError, KeyError, TypeError):
        yield Finding("fail", "data directory", f"{directory}/cluster.json cannot be read")
    else:
        if version != FORMAT_VERSION:
            yield Finding("fail", "data directory", f"format {version}; this is {FORMAT_VERSION}")
        elif shards != settings.node.shards:
            detail = f"made with {shards} shards: set node.shards = {shards}"
            yield Finding("fail", "data directory", detail)
        else:
            yield Finding("ok", "data directory", f"{directory}, {shards} shards")
    free = psutil.disk_usage(str(nearest)).free
    yield Finding("ok" if free > 2**30 else "warn", "disk space", f"{free >> 20} MiB free")
    yield _sync_latency(nearest)


def _locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _sync_latency(directory: Path) -> Finding:
    path = directory / f".doctor-{os.getpid()}"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return Finding("fail", "disk sync", f"cannot write in {directory}: {error.strerror}")
    taken = []
    try:
        for _ in range(SYNC_ROUNDS):
            begin = time.perf_counter()
            os.write(file, b"x" * 512)
            os.fdatasync(file)
            taken.append((time.perf_counter() - begin) * 1000)
    finally:
        os.close(file)
        path.unlink()
    middle = sorted(taken)[len(taken) // 2]
    verdict: Literal["ok", "warn"] = "ok" if middle < SLOW_SYNC_MS else "warn"
    return Finding(
        verdict, "disk sync", f"fdatasync p50 {middle:.2f} ms, worst {max(taken):.2f} ms"
    )


def _ports(settings: Settings) -> Iterator[Finding]:
    everywhere = (*settings.listeners, *settings.kafka_listeners)
    listeners = [one for one in everywhere if one.transport != "unix"]
    wanted = [(one.shown, host, one.port) for one in listeners for host in one.bind]
    if settings.metrics.enabled:
        wanted.append(("metrics", settings.metrics.bind, settings.metrics.port))
    for protocol, host, port in wanted:
        if not port:
            yield Finding("ok", f"port {protocol}", f"{host}: the system chooses one at each start")
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                detail = f"{host}:{port}: {error.strerror}{_listener(port)}"
                yield Finding("fail", f"port {protocol}", detail)
            else:
                yield Finding("ok", f"port {protocol}", f"{host}:{port} is free")


def _listener(port: int) -> str:
    try:
        for link in psutil.net_connections("tcp"):
            if link.status == psutil.CONN_LISTEN and link.laddr.port == port and link.pid:
                return f"; {psutil.Process(link.pid).name()} (process {link.pid}) listens there"
    except psutil.Error:
        return ""
    return ""


def _clock(settings: Settings) -> Iterator[Finding]:
    right = time.time() > EARLIEST_YEAR_S
    detail = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    yield Finding("ok" if right else "warn", "clock", detail + ("" if right else ": set it"))


def _kernel(settings: Settings) -> Iterator[Finding]:
    try:
        backlog = int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))
    except (OSError, ValueError):
        yield Finding("warn", "kernel", "net.core.somaxconn cannot be read")
        return
    everywhere = (*settings.listeners, *settings.kafka_listeners)
    wanted = max(one.backlog for one in everywhere)
    advice = "" if backlog >= wanted else f"; bursts of connections want {wanted}"
    yield Finding("ok" if not advice else "warn", "kernel", f"net.core.somaxconn {backlog}{advice}")
