"""/metrics, /health/live and /health/ready over HTTP, on the standard library's server.

It answers GET and HEAD, reads no body, closes after every answer. Bounds: MAX_THREADS requests at
a time (more wait in the backlog), TIMEOUT_S a socket operation; request line and header bounds are
the library's (64 KiB, 100 headers).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_THREADS = 16
TIMEOUT_S = 5.0
Answer = tuple[int, str, bytes]
Routes = dict[str, Callable[[], Answer]]


class AdminServer(ThreadingHTTPServer):
    """The server; `start` runs it on a thread of its own."""

    daemon_threads = True
    allow_reuse_port = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, routes: Routes) -> None:
        self.routes = routes
        self._slots = threading.BoundedSemaphore(MAX_THREADS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self.server_address[1])

    def start(self) -> threading.Thread:
        """Serve in the background."""
        thread = threading.Thread(target=self.serve_forever, name="admin", daemon=True)
        thread.start()
        return thread

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a free slot before a thread is made."""
        self._slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One request on its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away is its own business."""


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    server_version = "robustmq"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a body."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests for metrics are not news."""

    def _answer(self, with_body: bool) -> None:
        assert isinstance(self.server, AdminServer), "the handler belongs to AdminServer"
        route = self.server.routes.get(self.path.partition("?")[0])
        status, kind, body = route() if route else (404, "text/plain", b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
