"""The meta process: `cluster.Meta` behind a UNIX socket, `<data_dir>/run/meta.sock`.

What one read brought is proposed as one batch, with one fsync. Changes are written to every
subscriber before answers are, on the same socket, so whoever reads an answer knows the change; and
an answer waits until all the others have said that they know it (or for ANSWER_WAIT_S), so that a
topic that was made is a topic for everyone: no worker takes its messages for those of a light one.
A subscriber that does not read (more than MAX_UNSENT_BYTES wait for it) is cut off and starts again
from the whole state. A disk error ends the process: the supervisor starts it again, and workers
send what was not answered once more.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
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
    Applied,
    Changed,
    FullState,
    Propose,
    Subscribe,
    ToMeta,
)

MAX_UNSENT_BYTES = 64 * 1024 * 1024
ANSWER_WAIT_S = 2.0
log = logs.get_logger("meta")


def socket_path(settings: Settings) -> str:
    """Where meta listens."""
    return str(Path(settings.node.data_dir) / "run" / "meta.sock")


class Answers:
    """The answers that wait until every worker knows what they tell of."""

    def __init__(self) -> None:
        self.links: set[MetaLink] = set()
        self._waiting: deque[tuple[int, MetaLink, list[Answer]]] = deque()

    def add(self, version: int, link: MetaLink, answers: list[Answer]) -> None:
        """Answer a link when the others know the state up to this version."""
        self._waiting.append((version, link, answers))
        if self.look():
            loop = asyncio.get_running_loop()
            loop.call_later(ANSWER_WAIT_S, self.look, version)

    def look(self, overdue: int = -1) -> bool:
        """Send what need not wait, and what has waited for long; True when some waits on."""
        while self._waiting:
            version, link, answers = self._waiting[0]
            others = self.links - {link}
            if version > overdue and any(other.applied < version for other in others):
                return True
            self._waiting.popleft()
            for answer in answers:
                link.write(answer)
        return False


class MetaLink(asyncio.Protocol):
    """One worker's connection."""

    def __init__(
        self, meta: Meta, answers: Answers, on_fatal: Callable[[BaseException], None]
    ) -> None:
        self._meta = meta
        self._answers = answers
        self.applied = -1
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
                case Applied():
                    self.applied = message.version
                    self._answers.look()
        if not proposals:
            return
        try:
            results = self._meta.propose(proposals, clock.wall_ms())
        except OSError as error:
            self._on_fatal(error)
            return
        told = [Answer(row[0], result) for row, result in zip(proposals, results, strict=True)]
        self._answers.add(self._meta.state.version, self, told)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone; it comes again when it lives."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._transport = None
        self._answers.links.discard(self)
        self._answers.look()

    def _subscribe(self, message: Subscribe) -> None:
        if message.version != meta_wire.VERSION or self._unsubscribe is not None:
            log.warning("a worker of another version", version=message.version)
            self._close()
            return
        self.write(FullState(self._meta.snapshot()))
        self._unsubscribe = self._meta.subscribe(self._tell)
        self._answers.links.add(self)

    def _tell(self, changes: list[Change]) -> None:
        self.write(Changed(tuple(changes)))

    def write(self, message: meta_wire.Message) -> None:
        """Send a message, unless the link is gone."""
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
            answers = Answers()
            self._server = await loop.create_unix_server(
                lambda: MetaLink(self._meta, answers, self._fail), self._path
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
