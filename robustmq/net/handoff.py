"""Passing an accepted socket to the worker that is its home: SCM_RIGHTS over UNIX datagrams.

Invariants: a socket is at one worker at any time (the sender closes its copy when the kernel has
taken the message); a worker that does not read lets at most MAX_QUEUED sockets wait here, the next
ones are refused; a worker that is gone fails `send`, and what waited for it is closed, so that the
clients try again.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from robustmq.net.unix_paths import socket_path
from robustmq.observability import logs

MAX_QUEUED = 4096
MAX_ARRIVAL_BYTES = 4096
BATCH = 64
DESCRIPTOR_BYTES = array.array("i").itemsize
log = logs.get_logger("handoff")


class Arrival(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a connection came in, from where, and what it has done already."""

    listener: str
    address: str
    websocket: bool = False
    """Its HTTP connection was upgraded: WebSocket frames follow."""
    identity: str = ""
    """The common name of its certificate."""
    secured: bool = False
    """TLS; handed over, the socket is an end of a relay."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Arrival).decode


class Handoff:
    """One worker's mailbox for sockets, and its ways to the others' mailboxes."""

    def __init__(
        self,
        worker_id: int,
        directory: Path,
    ) -> None:
        self._worker_id = worker_id
        self._directory = directory
        self._on_socket: Callable[[socket.socket, Arrival], None] = lambda sock, _: sock.close()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: socket.socket | None = None
        self._peers: dict[int, _Peer] = {}

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_socket: Callable[[socket.socket, Arrival], None],
    ) -> None:
        """Open the mailbox. `on_socket(sock, arrival)`: the socket does not block and is the
        receiver's."""
        self._loop = loop
        self._on_socket = on_socket
        path = socket_path(self._directory, f"handoff-{self._worker_id}.sock")
        Path(path).unlink(missing_ok=True)
        self._mailbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mailbox.setblocking(False)
        self._mailbox.bind(path)
        os.chmod(path, 0o600)
        loop.add_reader(self._mailbox.fileno(), self._receive)

    def close(self) -> None:
        """Close the mailbox, and the sockets that still wait to be passed on."""
        for worker in list(self._peers):
            self._forget(worker)
        if self._mailbox is not None and self._loop is not None:
            self._loop.remove_reader(self._mailbox.fileno())
            self._mailbox.close()
            self._mailbox = None
            path = socket_path(self._directory, f"handoff-{self._worker_id}.sock")
            Path(path).unlink(missing_ok=True)

    def send(self, worker: int, sock: socket.socket, arrival: Arrival) -> bool:
        """Pass a socket on and close it here; False when the worker cannot take it (the socket is
        still the caller's)."""
        peer = self._peers.get(worker) or self._reach(worker)
        if peer is None:
            return False
        if peer.waiting:
            if len(peer.waiting) >= MAX_QUEUED:
                return False
            peer.waiting.append((sock, arrival))
            return True
        failure = _pass_on(peer.sock, sock, arrival)
        if failure in GONE:
            # The worker was started again: its new mailbox has the same name.
            self._forget(worker)
            peer = self._reach(worker)
            if peer is None:
                return False
            failure = _pass_on(peer.sock, sock, arrival)
        if failure in BUSY:
            self._wait(worker, peer, sock, arrival)
            return True
        if failure:
            log.warning("a connection could not be passed on", worker=worker, errno=failure)
            return False
        sock.close()
        return True

    def _reach(self, worker: int) -> _Peer | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.connect(socket_path(self._directory, f"handoff-{worker}.sock"))
        except OSError:
            sock.close()
            return None
        peer = self._peers[worker] = _Peer(sock)
        return peer

    def _wait(self, worker: int, peer: _Peer, sock: socket.socket, arrival: Arrival) -> None:
        assert self._loop is not None, "start() comes first"
        peer.waiting.append((sock, arrival))
        self._loop.add_writer(peer.sock.fileno(), self._drain, worker)

    def _drain(self, worker: int) -> None:
        peer = self._peers[worker]
        while peer.waiting:
            sock, arrival = peer.waiting[0]
            failure = _pass_on(peer.sock, sock, arrival)
            if failure in BUSY:
                return
            if failure in GONE:
                self._forget(worker)
                return
            peer.waiting.popleft()
            sock.close()
        assert self._loop is not None, "start() comes first"
        self._loop.remove_writer(peer.sock.fileno())

    def _forget(self, worker: int) -> None:
        peer = self._peers.pop(worker)
        if peer.waiting and self._loop is not None:
            log.warning("a worker is gone, closing connections for it", count=len(peer.waiting))
            self._loop.remove_writer(peer.sock.fileno())
            for sock, _ in peer.waiting:
                sock.close()
        peer.sock.close()

    def _receive(self) -> None:
        assert self._mailbox is not None, "read only while open"
        for _ in range(BATCH):
            try:
                data, ancillary, flags, _ = self._mailbox.recvmsg(
                    MAX_ARRIVAL_BYTES,
                    socket.CMSG_SPACE(DESCRIPTOR_BYTES),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("a connection was not received", reason=str(error))
                return
            if flags & socket.MSG_CTRUNC:
                # The kernel closes what this process has no descriptor for; the client comes again.
                log.error("a connection was lost: too many open files")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self._take(content, data)

    def _take(self, content: bytes, data: bytes) -> None:
        descriptors = array.array("i")
        descriptors.frombytes(content[: len(content) - len(content) % DESCRIPTOR_BYTES])
        arrival = _decode(data)
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            self._on_socket(sock, arrival)


GONE = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOENT, errno.ENOTCONN, errno.EPIPE})
BUSY = frozenset({errno.EAGAIN, errno.ENOBUFS})


class _Peer:
    """The way to one other worker's mailbox."""

    __slots__ = ("sock", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.waiting: deque[tuple[socket.socket, Arrival]] = deque()


def _pass_on(way: socket.socket, sock: socket.socket, arrival: Arrival) -> int:
    """0, or the errno."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))
    try:
        way.sendmsg([_encode(arrival)], [rights])
    except OSError as error:
        return error.errno or errno.EIO
    return 0
