"""The admin process: metrics and health over HTTP, read from the counters in shared memory.

Live: this process answers. Ready: every worker has recovered its shards and listens. In the edge
profile `build` is started on a thread of the one process.
"""

from __future__ import annotations

import signal
import threading

from robustmq.admin.http import AdminServer, Answer
from robustmq.config import Settings
from robustmq.observability import logs
from robustmq.observability.counters import Counters
from robustmq.observability.prometheus import CONTENT_TYPE, metrics_text

log = logs.get_logger("admin")


def build(settings: Settings, counters: Counters) -> AdminServer:
    """The bound server, not yet serving."""

    def metrics() -> Answer:
        return 200, CONTENT_TYPE, metrics_text(counters)

    def live() -> Answer:
        return 200, "text/plain", b"live\n"

    def ready() -> Answer:
        waiting = [str(n) for n in range(counters.workers) if not counters.value("ready", n)]
        if waiting:
            return 503, "text/plain", f"workers not ready: {', '.join(waiting)}\n".encode()
        return 200, "text/plain", b"ready\n"

    routes = {"/metrics": metrics, "/health/live": live, "/health/ready": ready}
    return AdminServer(settings.metrics.bind, settings.metrics.port, routes)


def main(settings: Settings, counters: Counters) -> int:
    """The body of the admin process; the exit code. Ends with SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = build(settings, counters)
    except OSError as error:
        log.error(
            "cannot listen",
            bind=settings.metrics.bind,
            port=settings.metrics.port,
            reason=error.strerror or str(error),
        )
        return 1
    server.start()
    log.info("metrics ready", bind=settings.metrics.bind, port=server.port)
    stopped.wait()
    server.shutdown()
    server.server_close()
    return 0
