"""The control socket of a worker: `control-<worker>.sock` in the run directory, for its user alone.

Decides who may hold the loop, and for how long: an answer is driven in slices of SLICE_S, with as
long a pause after each, and waits while the other side does not read. A line that is too long, and
one connection more than MAX_CONNECTIONS, get an error and the end; nothing that comes over a
control socket costs the worker more than that.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from robustmq.control.commands import answer, end
from robustmq.control.contract import Operator
from robustmq.control.messages import MAX_LINE_BYTES
from robustmq.net.unix_paths import socket_path
from robustmq.observability import logs
from robustmq.promises import Promise

SLICE_S = 0.001
MAX_CONNECTIONS = 32
BACKLOG = 64
log = logs.get_logger("control")


def control_path(run_directory: Path, worker: int) -> str:
    """Where a worker listens for its operators."""
    return socket_path(run_directory, f"control-{worker}.sock")


class ControlSocket:
    """The listening end, and its connections."""

    def __init__(self, run_directory: Path, operator: Operator) -> None:
        self.operator = operator
        self.connections: set[ControlConnection] = set()
        self._path = control_path(run_directory, operator.broker.worker_id)
        self._server: asyncio.Server | None = None

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen; a file that an earlier life left makes way."""
        Path(self._path).unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.bind(self._path)
        os.chmod(self._path, 0o600)
        self._server = await loop.create_unix_server(
            lambda: ControlConnection(self, loop), sock=sock, backlog=BACKLOG
        )

    def close(self) -> None:
        """Stop listening, and end what is asked."""
        if self._server is not None:
            self._server.close()
            self._server = None
            Path(self._path).unlink(missing_ok=True)
        for connection in list(self.connections):
            connection.end()


class ControlConnection(asyncio.Protocol):
    """One operator; its requests are answered one after the other."""

    def __init__(self, control: ControlSocket, loop: asyncio.AbstractEventLoop) -> None:
        self._control = control
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: Iterator[bytes | Promise[Any] | None] | None = None
        self._writable = True
        self._parked = False
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """An operator is there."""
        # A cast: the transports of uvloop do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if len(self._control.connections) >= MAX_CONNECTIONS:
            self._refuse("too many control connections")
            return
        self._control.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The operator has gone; what is being answered is for nobody."""
        self._transport = None
        self._answer = None
        self._control.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of requests. While one is answered no more than one line's worth is read."""
        self._received += data
        if self._answer is None:
            self._next()
        elif len(self._received) > MAX_LINE_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """No more requests come; those that came are answered."""
        self._ended = True
        if self._answer is None:
            self._next()
        return True

    def pause_writing(self) -> None:
        """The operator reads slowly: the answer waits."""
        self._writable = False

    def resume_writing(self) -> None:
        """The operator reads again."""
        self._writable = True
        if self._parked:
            self._parked = False
            self._slice()

    def end(self) -> None:
        """Close, after what is written."""
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        """Begin with the next request that has come whole."""
        line, newline, rest = self._received.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            self._refuse(f"a request has at most {MAX_LINE_BYTES} bytes")
            return
        if self._transport is None:
            return
        if not newline:
            if self._ended:
                self._transport.close()
            return
        self._received = rest
        if len(rest) <= MAX_LINE_BYTES:
            self._transport.resume_reading()
        self._answer = answer(self._control.operator, bytes(line))
        self._slice()

    def _slice(self) -> None:
        """Go on with the answer for a moment."""
        begin_s = self._loop.time()
        out = bytearray()
        while self._answer is not None and self._transport is not None:
            try:
                step = next(self._answer)
            except StopIteration:
                self._answer = None
                self._loop.call_soon(self._next)
                break
            except Exception:
                # A bug of ours: it costs this connection alone.
                log.exception("a request of an operator failed")
                self._answer = None
                self._refuse("the request failed; the log of the broker says why")
                return
            if isinstance(step, Promise):
                # Not at once: whoever settles it is in the middle of something.
                step.when_settled(self._wake)
                break
            if step is not None:
                out += step
            took_s = self._loop.time() - begin_s
            if took_s > SLICE_S:
                self._loop.call_later(took_s, self._continue)
                break
        if out and self._transport is not None:
            self._transport.write(bytes(out))

    def _wake(self) -> None:
        self._loop.call_soon(self._slice)

    def _continue(self) -> None:
        if self._writable:
            self._slice()
        else:
            self._parked = True

    def _refuse(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.write(end(reason))
            self._transport.close()
            self._transport = None
