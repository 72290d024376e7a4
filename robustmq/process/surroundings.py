"""What the supervisor settles before it forks: data directory, ports, limits of the system.

Everything that can be wrong is found here, where one message can say what to change.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
from itertools import combinations
from pathlib import Path

import msgspec

from robustmq.config import Settings
from robustmq.listener import DEFAULT_NAME, KAFKA_NAME, Listener, with_port
from robustmq.net.listeners import open_listener
from robustmq.net.tls import TlsError
from robustmq.net.ways_in import Prepared
from robustmq.observability import logs

LOCK_FILE = "lock"
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
MAX_PORT = 65_535
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
log = logs.get_logger("supervisor")


class StartError(Exception):
    """The node cannot start; the message says what to change."""


def lock_data_directory(path: str) -> int:
    """The descriptor that holds the data directory until this process ends."""
    directory = Path(path)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        advice = "choose another"
        if error.errno == errno.EROFS:
            advice = "mount it for writing (the kernel's log says why it is not), or choose another"
        raise StartError(
            f"node.data_dir = {path!r} cannot be used: {error.strerror}; {advice}"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StartError(
            f"{directory} is in use by process {owner}: stop it, or choose another node.data_dir"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def settle_ports(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """Settings without a shared port of 0, and the sockets that keep such ports ours (bound, not
    listening: the kernel gives them no connections). Raises StartError for a port in use."""
    _refuse_shared_ports(settings)
    held: list[socket.socket] = []
    mqtt, kafka, metrics = settings.mqtt, settings.kafka, settings.metrics
    listeners = tuple(_settle_listener(one, held) for one in settings.listener)
    mqtt_port, kafka_port = mqtt.port, kafka.port
    if all(one.protocol != "mqtt" for one in listeners):
        mqtt_port = _settle("mqtt.", mqtt.bind, mqtt.port, held)
    if all(one.protocol != "kafka" for one in listeners):
        kafka_port = _settle("kafka.", kafka.bind, kafka.port, held)
    for one in settings.kafka_listeners:
        for port in _worker_ports(settings, one):
            for host in one.bind:
                _check(f"{_where(one)}worker_port_base", host, port)
    metrics_port = metrics.port
    if metrics.enabled:
        metrics_port = _settle("metrics.", (metrics.bind,), metrics.port, held)
    replace = msgspec.structs.replace
    settled = replace(
        settings,
        mqtt=replace(mqtt, port=mqtt_port),
        listener=listeners,
        kafka=replace(kafka, port=kafka_port),
        metrics=replace(metrics, port=metrics_port),
    )
    return settled, held


def prepare_listeners(settings: Settings) -> Prepared:
    """Certificates and UNIX sockets; raises StartError."""
    try:
        return Prepared(settings)
    except TlsError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        where = error.filename or "a UNIX listener"
        raise StartError(
            f"cannot listen at {where}: {error.strerror}; choose another path in bind"
        ) from None


def raise_open_files(wanted: int) -> None:
    """Raise the limit of open files: to `wanted`, or as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = min(wanted, hard) if wanted and hard != resource.RLIM_INFINITY else wanted or hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files stays", limit=soft, reason=str(error))
        return
    if target < wanted:
        log.warning("fewer open files than wanted: raise the hard limit", limit=target)


def become_child(parent: int, name: str) -> None:
    """In a child: be seen as `rmq-NAME` (ps, top), and be killed when the supervisor dies, so that
    none is left over."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NAME, f"rmq-{name}".encode()[:15], 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _refuse_shared_ports(settings: Settings) -> None:
    """With SO_REUSEPORT the kernel would not mind two protocols on one port: each connection would
    meet either."""
    metrics = settings.metrics
    wanted = []
    for one in (*settings.listeners, *settings.kafka_listeners):
        if one.transport != "unix":
            wanted.append((f"{_where(one)}port", one.bind, one.port))
    for one in settings.kafka_listeners:
        key, ports = f"{_where(one)}worker_port_base", _worker_ports(settings, one)
        if ports and ports[-1] > MAX_PORT:
            raise StartError(
                f"{key} = {one.worker_port_base} leaves no room for"
                f" {len(ports)} workers below port {MAX_PORT + 1}: set a smaller one"
            )
        wanted += [(key, one.bind, port) for port in ports]
    if metrics.enabled:
        wanted.append(("metrics.port", (metrics.bind,), metrics.port))
    for (key, hosts, port), (other_key, other_hosts, other_port) in combinations(wanted, 2):
        if port and port == other_port and _overlap(hosts, other_hosts):
            raise StartError(f"{key} and {other_key} both take port {port}: change one of them")


def _where(listener: Listener) -> str:
    """How a setting of a listener is called, but for its name."""
    if listener.name == DEFAULT_NAME or listener.name == KAFKA_NAME:
        return f"{listener.protocol}."
    return f"listener {listener.name!r}: "


def _worker_ports(settings: Settings, listener: Listener) -> range:
    """The ports that workers have of their own by the settings."""
    first = listener.worker_port_base
    if not first or settings.kafka.single_port:
        return range(0)
    return range(first, first + settings.worker_count)


def _settle_listener(listener: Listener, held: list[socket.socket]) -> Listener:
    if listener.transport == "unix":
        return with_port(listener)
    port = with_port(listener).port
    where = _where(listener)
    return msgspec.structs.replace(listener, port=_settle(where, listener.bind, port, held))


def _overlap(hosts: tuple[str, ...], others: tuple[str, ...]) -> bool:
    if not hosts or not others:
        return False
    return bool(set(hosts) & set(others) or ANY_ADDRESS & {*hosts, *others})


def _settle(section: str, hosts: tuple[str, ...], port: int, held: list[socket.socket]) -> int:
    for host in hosts:
        if port:
            _check(f"{section}port", host, port)
        else:
            sock = _reserve(section, host)
            held.append(sock)
            port = int(sock.getsockname()[1])
    return port


def _reserve(section: str, host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(("127.0.0.1" if host == "localhost" else host, 0))
    except OSError as error:
        raise StartError(f"cannot bind {section}bind = {host!r}: {error.strerror}") from None
    return sock


def _check(key: str, host: str, port: int) -> None:
    """Bind without SO_REUSEPORT, so that another program's port is seen, and let go."""
    try:
        open_listener(host, port, 1, reuse_port=False).close()
    except OSError as error:
        bind = key.replace("port", "bind").replace("worker_bind_base", "bind")
        raise StartError(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it,"
            f" or set {key} (0 lets the system choose) or {bind}"
        ) from None
