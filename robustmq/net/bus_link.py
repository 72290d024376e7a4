"""The bus between the workers of a node: one UNIX stream socket for each pair (design, section 4).

Worker i connects to every j < i and tries again with back-off; the sockets are `bus_stream`'s, the
byte layout is in docs/formats.md, "The bus". Invariants: frames between two workers keep
their order; a link is used after both hellos have matched, and a mismatch is refused with a
log line; a newer life of a worker replaces its older link; what one loop turn gathers for a
worker leaves as one write. The bus never stops reading: back-pressure is the caller's, who
stops reading clients when
`on_pressure` says so. A peer that lets far more gather than that is taken for hung: its link is cut
and made again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from robustmq.net.bus_stream import FRAME_HEAD, LENGTH_BYTES, Buffer, Link
from robustmq.net.unix_paths import socket_path
from robustmq.observability import logs

VERSION = 1
MAGIC = b"RMQB"
HELLO = 0
HELLO_HEAD = struct.Struct("<4sHHQ")
MAX_HELLO_BYTES = 256
HUNG_FACTOR = 4
BACKLOG = 1024
BACK_OFF_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

log = logs.get_logger("bus")


class BusLink:
    """The links of one worker to all others."""

    def __init__(
        self,
        worker_id: int,
        worker_count: int,
        directory: Path,
        incarnation: int,
        cluster_id: str,
        on_frame: Callable[[int, int, memoryview | bytes], None],
        on_up: Callable[[int, int], None],
        on_down: Callable[[int], None],
        max_frame_bytes: int,
        high_water_bytes: int,
        count: Callable[[str, int], None] | None = None,
    ) -> None:
        """`on_frame(worker, kind, payload)`: the payload is a view that must be copied to be kept
        for long. `on_up(worker, incarnation)` comes before its first frame, `on_down` after the
        last. `count(name, amount)` adds to a counter."""
        self.worker_id = worker_id
        self.worker_count = worker_count
        self.max_frame_bytes = max_frame_bytes
        self.high_water_bytes = high_water_bytes
        self._directory = directory
        self._incarnation = incarnation
        self._cluster_id = cluster_id
        self._on_frame = on_frame
        self._on_up = on_up
        self._on_down = on_down
        self._count = count or (lambda name, amount: None)
        self._on_pressure: Callable[[bool], None] = lambda over: None
        self._on_turn_end: Callable[[], None] = lambda: None
        self._pressed: set[Link] = set()
        self._links: dict[int, Link] = {}
        self._unnamed: set[Link] = set()
        self._seen: dict[int, int] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._attempts: dict[int, int] = {}
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._dirty: list[Link] = []
        self._frames = 0

    async def start(self) -> None:
        """Listen, and begin to connect; `on_up` says when a link is there. A worker that is alone
        needs no socket."""
        self._loop = asyncio.get_running_loop()
        if self.worker_count == 1:
            return
        path = self._path(self.worker_id)
        Path(path).unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(path, 0o600)
        self._server = await self._loop.create_unix_server(
            lambda: Link(self, None), sock=sock, backlog=BACKLOG
        )
        for worker in range(self.worker_id):
            self._connect_soon(worker)

    async def close(self) -> None:
        """Send what is queued, as far as the peers read it, and close; no more calls back."""
        self.flush()
        self._closed = True
        for task in self._connecting.values():
            task.cancel()
        if self._server is not None:
            self._server.close()
            Path(self._path(self.worker_id)).unlink(missing_ok=True)
        for link in [*self._links.values(), *self._unnamed]:
            link.close()
        self._links.clear()
        await asyncio.sleep(0)

    def send(self, worker: int, kind: int, *buffers: Buffer) -> bool:
        """Queue a frame; False when the link is down (nothing is kept). The buffers must not be
        changed afterwards."""
        link = self._links.get(worker)
        if link is None:
            return False
        length = 1
        for buffer in buffers:
            length += len(buffer)
        assert length <= self.max_frame_bytes, "a frame is at most limits.max_bus_frame_bytes"
        if not link.pending:
            if not self._dirty:
                assert self._loop is not None, "start() comes first"
                self._loop.call_soon(self.flush)
            self._dirty.append(link)
        link.pending.append(FRAME_HEAD.pack(length, kind))
        link.pending.extend(buffers)
        link.pending_bytes += LENGTH_BYTES + length
        self._frames += 1
        return True

    def queued_bytes(self, worker: int) -> int:
        """What waits for a worker."""
        link = self._links.get(worker)
        return link.queued_bytes() if link is not None else 0

    def over_high_water(self) -> bool:
        """True while so much waits for some worker that clients must not be read."""
        return bool(self._pressed)

    def on_pressure(self, callback: Callable[[bool], None]) -> None:
        """Be told when `over_high_water` changes."""
        self._on_pressure = callback

    def on_turn_end(self, callback: Callable[[], None]) -> None:
        """Be called after the frames that one read brought."""
        self._on_turn_end = callback

    def hello(self) -> bytes:
        """The first frame of every link, either way."""
        head = HELLO_HEAD.pack(MAGIC, VERSION, self.worker_id, self._incarnation)
        payload = head + self._cluster_id.encode()
        return FRAME_HEAD.pack(1 + len(payload), HELLO) + payload

    def _accept_hello(self, link: Link, kind: int, payload: memoryview) -> bool:
        """A link said who it is: take it up, or say why not."""
        reason = self._mismatch(link, kind, payload)
        if reason:
            log.warning("a link between workers was refused", reason=reason)
            return False
        _, _, worker, incarnation = HELLO_HEAD.unpack_from(payload)
        self._unnamed.discard(link)
        older = self._links.pop(worker, None)
        if older is not None:
            older.close()
            self._on_down(worker)
        link.worker = worker
        if worker in self._seen:
            self._count("bus_reconnects", 1)
        self._seen[worker] = incarnation
        self._attempts.pop(worker, None)
        self._links[worker] = link
        self._on_up(worker, incarnation)
        return True

    def opened(self, link: Link) -> None:
        """A socket is there, its hello not yet."""
        self._unnamed.add(link)

    def frame(self, link: Link, kind: int, payload: memoryview) -> None:
        """A frame came; the first one is the hello."""
        if link.worker is not None:
            if self._links.get(link.worker) is link:
                self._on_frame(link.worker, kind, payload)
        elif not self._accept_hello(link, kind, payload):
            link.abort()

    def turn_end(self, link: Link) -> None:
        """The frames of one read were told."""
        if link.worker is not None and not self._closed:
            self._on_turn_end()

    def pressed(self, link: Link, over: bool) -> None:
        """More than the high-water mark waits in a link, or no longer."""
        before = bool(self._pressed)
        if over:
            self._pressed.add(link)
        else:
            self._pressed.discard(link)
        if before != bool(self._pressed) and not self._closed:
            self._on_pressure(not before)

    def lost(self, link: Link) -> None:
        """A socket is gone."""
        self._unnamed.discard(link)
        self.pressed(link, False)
        worker = link.worker
        if worker is not None and self._links.get(worker) is link and not self._closed:
            del self._links[worker]
            self._on_down(worker)
        if link.expected is not None and not self._closed:
            self._connect_soon(link.expected)

    def _mismatch(self, link: Link, kind: int, payload: memoryview) -> str:
        """Why a hello is refused; empty when it is right."""
        if kind != HELLO or not HELLO_HEAD.size <= len(payload) <= MAX_HELLO_BYTES:
            return "the first frame is no hello"
        magic, version, worker, incarnation = HELLO_HEAD.unpack_from(payload)
        if magic != MAGIC:
            return "the first frame is no hello"
        if version != VERSION:
            return f"the peer speaks version {version}, this is {VERSION}: restart the node"
        cluster_id = bytes(payload[HELLO_HEAD.size :]).decode("utf-8", "replace")
        if cluster_id != self._cluster_id:
            return f"the peer is of cluster {cluster_id}, this is {self._cluster_id}"
        # Connecting goes downwards only, so an accepted link is of a higher worker.
        known = link.expected if link.expected is not None else worker
        if worker != known or not 0 <= worker < self.worker_count or worker == self.worker_id:
            return f"the peer says it is worker {worker}"
        if link.expected is None and worker < self.worker_id:
            return f"worker {worker} connected the wrong way"
        if incarnation < self._seen.get(worker, 0):
            return f"worker {worker} is an older life than one seen before"
        return ""

    def flush(self) -> None:
        """Write what is queued; else it is written in the next loop turn."""
        dirty, self._dirty = self._dirty, []
        hung = HUNG_FACTOR * self.high_water_bytes + self.max_frame_bytes
        sent = 0
        for link in dirty:
            sent += link.flush()
            if link.queued_bytes() > hung:
                log.error("a worker does not read, cutting the link", worker=link.worker)
                link.abort()
        if sent:
            self._count("bus_bytes_sent", sent)
            self._count("bus_frames_sent", self._frames)
            self._frames = 0

    def _path(self, worker: int) -> str:
        return socket_path(self._directory, f"bus-{worker}.sock")

    def _connect_soon(self, worker: int) -> None:
        assert self._loop is not None, "start() comes first"
        task = self._loop.create_task(self._connect(worker), name=f"bus link {worker}")
        self._connecting[worker] = task

    async def _connect(self, worker: int) -> None:
        assert self._loop is not None, "start() comes first"
        while not self._closed:
            # Counted until a hello was taken, so that a peer that refuses is not asked on and on.
            attempt = self._attempts.get(worker, 0)
            self._attempts[worker] = attempt + 1
            await asyncio.sleep(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)])
            try:
                await self._loop.create_unix_connection(
                    lambda: Link(self, worker), self._path(worker)
                )
                return
            except OSError:
                continue
