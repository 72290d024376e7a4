"""The meta process: `cluster.Meta` behind a UNIX socket, `<data_dir>/run/meta.sock`.

What one read brought is proposed as one batch, with one fsync. Changes are written to every
subscriber before answers are, on the same socket, so whoever reads an answer knows the change. A
subscriber that does not read (more than MAX_UNSENT_BYTES wait for it) is cut off and starts again
from the whole state. A disk error ends the process: the supervisor starts it again, and workers
send what was not answered once more.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from robustmq import clock
from robustmq.cluster.commands import Change
from robustmq.cluster.meta import Meta
from robustmq.config import Settings
from robustmq.observability import logs
from robustmq.process import meta_wire
from robustmq.process.meta_wire import (
    Answer,
    Changed,
    FullState,
    Propose,
    Subscribe,
    ToMeta,
)

MAX_UNSENT_BYTES = 64 * 1024 * 1024
log = logs.get_logger("meta")


def socket_path(settings: Settings) -> str:
    """Where meta listens."""
    return str(Path(settings.node.data_dir) / "run" / "meta.sock")


class MetaLink(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, meta: Meta, on_fatal: Callable[[BaseException], None]) -> None:
        self._meta = meta
        self._on_fatal = on_fatal
        self._splitter = meta_wire.Splitter()
        self._decoder = msgspec.msgpack.Decoder(ToMeta)
        self._transport: asyncio.Transport | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A worker is there."""
        # A cast: the transports of uvloop do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Everything that came is one batch."""
        try:
            messages = [self._decoder.decode(payload) for payload in self._splitter.feed(data)]
        except (msgspec.MsgspecError, meta_wire.BadFrame) as error:
            log.warning("bad frame from a worker", reason=str(error))
            self._close()
            return
        proposals = []
        for message in messages:
            match message:
                case Subscribe():
                    self._subscribe(message)
                case Propose():
                    proposals.append((message.command_id, message.command))
        if not proposals:
            return
        try:
            results = self._meta.propose(proposals, clock.wall_ms())
        except OSError as error:
            self._on_fatal(error)
            return
        for (command_id, _), result in zip(proposals, results, strict=True):
            self._write(Answer(command_id, result))

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone; it comes again when it lives."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._transport = None

    def _subscribe(self, message: Subscribe) -> None:
        if message.version != meta_wire.VERSION or self._unsubscribe is not None:
            log.warning("a worker of another version", version=message.version)
            self._close()
            return
        self._write(FullState(self._meta.snapshot()))
        self._unsubscribe = self._meta.subscribe(self._tell)

    def _tell(self, changes: list[Change]) -> None:
        self._write(Changed(tuple(changes)))

    def _write(self, message: meta_wire.Message) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.warning("a worker does not read, cutting it off")
            transport.abort()
            return
        transport.write(meta_wire.encode(message))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class MetaServer:
    """Meta on a UNIX socket."""

    def __init__(self, meta: Meta, path: str) -> None:
        self._meta = meta
        self._path = path
        self._server: asyncio.Server | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Listen; a socket file that a dead process left is removed (the supervisor's lock guards
        it)."""
        Path(self._path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        Path(self._path).unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(
                lambda: MetaLink(self._meta, self._fail), self._path
            )
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        """Stop listening and close the files."""
        if self._server is not None:
            self._server.close()
        self._meta.close()

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)


async def serve(settings: Settings, new_cluster_id: str) -> None:
    """Serve until SIGTERM."""
    meta = Meta(Path(settings.node.data_dir) / "meta", new_cluster_id, settings.limits)
    server = MetaServer(meta, socket_path(settings))
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    await server.start()
    log.info("meta ready", version=meta.state.version, topics=len(meta.state.topics))
    server.failed.add_done_callback(lambda _: stopped.set())
    await stopped.wait()
    await server.stop()
    if server.failed.done():
        server.failed.result()


def main(settings: Settings, new_cluster_id: str) -> int:
    """The body of the meta process; the exit code."""
    try:
        asyncio.run(serve(settings, new_cluster_id))
    except Exception:
        log.exception("meta ended")
        return 1
    return 0
