"""The parent of a node's processes: start in order, restart what dies, stop in order.

Start: data directory, ports and limits are settled (`surroundings`); then meta, then the workers
and admin. Stop (SIGTERM, SIGINT): workers drain first, then admin, then meta, within
`node.drain_timeout_ms`; what is left is killed. SIGHUP: read the configuration, tell the workers.
The parent runs no event loop and no threads, so it may fork at any time; it waits in one poll for
signals and for what workers say. Invariant: every life of a worker has a greater incarnation than
any before it, over restarts of the node too.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from robustmq import __version__, clock
from robustmq.config import ConfigError, Settings
from robustmq.core import COMPILED
from robustmq.core.hashing import set_topic_secret
from robustmq.net.unix_paths import MAX_PATH_BYTES
from robustmq.net.ways_in import Prepared
from robustmq.observability import logs
from robustmq.observability.counters import Counters
from robustmq.process import admin, meta
from robustmq.process.children import HANDLED, Child
from robustmq.process.context import UNREADABLE, WorkerContext
from robustmq.process.reloading import Reloading
from robustmq.process.surroundings import (
    StartError,
    lock_data_directory,
    prepare_listeners,
    raise_open_files,
    settle_ports,
)
from robustmq.storage.data_directory import DataDirectoryError, open_data_directory

META_START_S = 15.0
STOP_S = 3.0
INCARNATION_FILE = "incarnation"
log = logs.get_logger("supervisor")


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run a node until SIGTERM; the exit code. `reload` reads the configuration again."""
    logs.configure(settings.log.level, settings.log.format)
    # What is kept is nobody else's to read; LevelDB asks for no mode of its own.
    os.umask(0o077)
    held: list[socket.socket] = []
    try:
        lock_data_directory(settings.node.data_dir)
        identity = open_data_directory(settings.node.data_dir, settings.node.shards)
        set_topic_secret(identity.topic_secret)
        if len(os.fsencode(meta.socket_path(settings))) > MAX_PATH_BYTES:
            raise StartError(f"the path {settings.node.data_dir} is too long: choose a shorter one")
        settled, held = settle_ports(settings)
        prepared = prepare_listeners(settled)
        raise_open_files(settings.node.open_files)
        run_directory = Path(settings.node.data_dir) / "run"
        run_directory.mkdir(mode=0o700, exist_ok=True)
    except (StartError, DataDirectoryError) as error:
        sys.stderr.write(f"robustmq: {error}\n")
        return 1
    if not COMPILED:
        log.warning("the core is not compiled: all works, but slower; a C compiler was missing")
    reloading = Reloading(settings, settled, reload)
    supervisor = Supervisor(reloading, identity.cluster_id, run_directory, prepared)
    try:
        return supervisor.embedded() if settings.node.profile == "edge" else supervisor.run()
    finally:
        prepared.remove()
        for sock in held:
            sock.close()


class Supervisor:
    """The processes of one node."""

    def __init__(
        self, reloading: Reloading, cluster_id: str, run_directory: Path, prepared: Prepared
    ) -> None:
        self._reloading = reloading
        self._prepared = prepared
        self._cluster_id = cluster_id
        self._run_directory = run_directory
        self._worker_count = reloading.settings.worker_count
        topics = tuple(one.filter for one in reloading.settings.topic_metrics)
        self._counters = Counters(self._worker_count, topics)
        self._incarnation = _read_number(run_directory / INCARNATION_FILE)
        self._listening: dict[int, list[str]] = {}
        self._announced = False
        self._meta = Child("meta", lambda: meta.main(self._settings, cluster_id))
        self._admin = Child("admin", lambda: admin.main(self._settings, self._counters))
        self._workers = [
            Child(f"worker-{worker}", self._worker_body(worker))
            for worker in range(self._worker_count)
        ]
        self._said = b""
        self._stopping = False
        self._code = 0

    @property
    def _settings(self) -> Settings:
        return self._reloading.settings

    def embedded(self) -> int:
        """The edge profile: one worker in this process, meta and metrics with it."""
        from robustmq.process import worker

        server = None
        if self._settings.metrics.enabled:
            try:
                server = admin.build(self._settings, self._counters)
            except OSError as error:
                sys.stderr.write(f"robustmq: metrics cannot be served: {error.strerror}\n")
                return 1
            server.start()
        self._next_incarnation()
        context = self._context(0, lambda names: self._ready(0, names), embedded=True)
        code = worker.main(context)
        if server is not None:
            server.shutdown()
            server.server_close()
        return code

    def run(self) -> int:
        """Start all, and look after them until a signal says stop."""
        self._reports, self._report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(self._report, fcntl.F_SETFL, 0)
        self._wakened, wakeup = socket.socketpair()
        self._wakened.setblocking(False)
        wakeup.setblocking(False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self._start(self._meta)
        if not self._meta_answers():
            log.error("meta does not start, giving up")
            self._stop()
            return 1
        for child in self._workers:
            self._start(child)
        if self._settings.metrics.enabled:
            self._start(self._admin)
        while not self._stopping:
            self._wait(self._delay_s())
            self._start_due()
        self._stop()
        return self._code

    # -- waiting -----------------------------------------------------------------------------------

    def _wait(self, timeout_s: float | None) -> None:
        """Until a signal, a report of a worker, or the time; then take what came."""
        poll = select.poll()
        poll.register(self._wakened, select.POLLIN)
        poll.register(self._reports, select.POLLIN)
        poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000) + 1))
        try:
            numbers = set(self._wakened.recv(4096))
        except BlockingIOError:
            numbers = set()
        if numbers & {signal.SIGTERM, signal.SIGINT} and not self._stopping:
            log.info("stopping")
            self._stopping = True
        if signal.SIGHUP in numbers and not self._stopping:
            self._reload()
        self._reap()
        self._hear()

    def _delay_s(self) -> float | None:
        due = [c.restart_at_s for c in self._children() if c.restart_at_s is not None]
        return max(0.0, min(due) - _now_s()) if due else None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for place, child in enumerate([*self._workers, self._meta, self._admin]):
                if child.pid == pid:
                    if place < self._worker_count:
                        self._counters.row(place).set("ready", 0)
                    if os.waitstatus_to_exitcode(status) == UNREADABLE:
                        log.error("stopping: what must be done is said above", name=child.name)
                        self._stopping, self._code = True, UNREADABLE
                    if self._stopping:
                        child.pid = 0
                    else:
                        child.ended(status, _now_s())

    def _hear(self) -> None:
        try:
            self._said += os.read(self._reports, 65_536)
        except BlockingIOError:
            return
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            worker, names = json.loads(line)
            self._ready(worker, names)

    def _ready(self, worker: int, names: list[str]) -> None:
        """A worker listens. When all do for the first time, say where."""
        self._listening[worker] = names
        if self._announced or len(self._listening) < self._worker_count:
            return
        self._announced = True
        settings = self._settings
        seen = dict.fromkeys(name for n in sorted(self._listening) for name in self._listening[n])
        places = list(seen)
        if settings.metrics.enabled:
            places.append(f"metrics http://{settings.metrics.bind}:{settings.metrics.port}/metrics")
        head = (
            f"RobustMQ {__version__} is ready:"
            f" {self._worker_count} worker(s), data in {settings.node.data_dir}"
        )
        sys.stdout.write("\n  ".join([head, *places]) + "\n")
        sys.stdout.flush()

    # -- starting ----------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [self._meta, *self._workers, self._admin]

    def _start(self, child: Child) -> None:
        if child in self._workers:
            self._next_incarnation()
        child.start(_now_s())

    def _next_incarnation(self) -> None:
        """Kept in a file, and not behind the clock: either alone is enough for it to grow, so a
        full disk does not keep a worker from being started again."""
        self._incarnation = max(self._incarnation + 1, clock.wall_ms() * 1_000_000)
        file = self._run_directory / INCARNATION_FILE
        beside = file.with_suffix(".new")
        try:
            beside.write_text(str(self._incarnation))
            beside.replace(file)
        except OSError as error:
            log.warning("the incarnation was not kept", reason=error.strerror)

    def _start_due(self) -> None:
        now_s = _now_s()
        for child in self._children():
            due = child.restart_at_s is not None and child.restart_at_s <= now_s
            if due and not self._stopping:
                self._start(child)

    def _meta_answers(self) -> bool:
        """Wait until meta takes connections."""
        deadline_s = _now_s() + META_START_S
        while _now_s() < deadline_s and not self._stopping:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                try:
                    sock.connect(meta.socket_path(self._settings))
                    return True
                except OSError:
                    self._wait(0.01)
            self._start_due()
        return self._stopping

    def _worker_body(self, worker: int) -> Callable[[], int]:
        def body() -> int:
            from robustmq.process import worker as process

            def ready(names: list[str]) -> None:
                os.write(self._report, json.dumps([worker, names]).encode() + b"\n")

            return process.main(self._context(worker, ready))

        return body

    def _context(
        self, worker: int, ready: Callable[[list[str]], None], embedded: bool = False
    ) -> WorkerContext:
        return WorkerContext(
            worker,
            self._worker_count,
            self._settings,
            self._read_again if embedded else self._reloading.taken,
            self._counters,
            self._counters.row(worker),
            self._run_directory,
            self._cluster_id,
            self._incarnation,
            ready,
            self._prepared,
            embedded,
        )

    # -- changing and ending -----------------------------------------------------------------------

    def _reload(self) -> None:
        # Also when no setting has changed: the password file may have.
        self._read_again()
        # For the workers that are started from now on.
        self._prepared.reload_tls(self._settings)
        for child in self._workers:
            child.signal(signal.SIGHUP)

    def _read_again(self) -> Settings | None:
        """The settings in force after a reload, and say what changed; None when none does."""
        try:
            applied, needs_restart = self._reloading.reload()
        except ConfigError as error:
            log.error("the configuration stays as it was", reason=str(error))
            return None
        settings = self._settings
        logs.configure(settings.log.level, settings.log.format)
        log.info("configuration read", applied=", ".join(applied) or "nothing")
        if needs_restart:
            log.warning("these settings need a restart", settings=", ".join(needs_restart))
        return settings if applied else None

    def _stop(self) -> None:
        """Workers, then admin, then meta."""
        self._stopping = True
        self._end(self._workers, self._settings.node.drain_timeout_ms / 1000)
        self._end([self._admin], STOP_S)
        self._end([self._meta], STOP_S)
        log.info("stopped")

    def _end(self, children: list[Child], timeout_s: float) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        deadline_s = _now_s() + timeout_s
        while any(child.pid for child in children) and _now_s() < deadline_s:
            self._wait(max(0.0, deadline_s - _now_s()))
        for child in children:
            if child.pid:
                log.warning("a process did not end in time, killing it", name=child.name)
                child.signal(signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0


def _now_s() -> float:
    return clock.monotonic_ms() / 1000


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
