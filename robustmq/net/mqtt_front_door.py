"""From accept to the home worker: an MQTT connection is looked at before anything of it is read.

The bytes of CONNECT are peeked at (MSG_PEEK), so that the socket can go to its home as it came. A
socket that waits costs no task and no timer: one sweep over all of them closes those that are late.
Whose home is away, starting again as a rule, waits for it. Whose CONNECT is malformed, too large or
without a client identifier is adopted here: the connection answers. Invariant: SO_RCVLOWAT is 1
again when a socket leaves.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from robustmq.errors import BrokerError
from robustmq.limits import Limits
from robustmq.listener import Listener
from robustmq.mqtt.codec import peek_connect
from robustmq.net.handoff import Arrival, Handoff
from robustmq.observability import logs

SWEEP_S = 0.05
log = logs.get_logger("front_door")


class _Waiting:
    """A socket whose CONNECT is not whole."""

    __slots__ = ("address", "deadline_s", "low_water", "sock")

    def __init__(self, sock: socket.socket, address: str, deadline_s: float) -> None:
        self.sock = sock
        self.address = address
        self.deadline_s = deadline_s
        self.low_water = 1


class MqttFrontDoor:
    """The sockets that one worker has accepted from one listener and that have not said who they
    are."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        home: Callable[[bytes], int],
        worker_id: int,
        adopt: Callable[[socket.socket, Arrival], None],
        handoff: Handoff,
        listener: Listener,
        limits: Limits,
        count: Callable[[str], None],
    ) -> None:
        """`home(client_id)` is the worker that holds its session; `adopt(sock, arrival)` makes the
        connection."""
        self._loop = loop
        self._home = home
        self._worker_id = worker_id
        self._adopt = adopt
        self._handoff = handoff
        self._count = count
        self.reload(listener, limits)
        # All wait equally long, so the order of arrival is that of the deadlines (but for those
        # that a reload finds waiting).
        self._waiting: dict[int, _Waiting] = {}
        self._stranded: list[tuple[_Waiting, int]] = []
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Sockets that have not sent a whole CONNECT, or whose home is away."""
        return len(self._waiting) + len(self._stranded)

    def accepted(self, sock: socket.socket, address: str) -> None:
        """A new connection. CONNECT has often come already."""
        waiting = _Waiting(sock, address, self._loop.time() + self._timeout_s)
        if self._look(waiting):
            return
        self._waiting[sock.fileno()] = waiting
        self._loop.add_reader(sock.fileno(), self._readable, sock.fileno())
        self._sweep_soon()

    def reload(self, listener: Listener, limits: Limits) -> None:
        """Other bounds for those that come from now on."""
        self._listener = listener.name
        self._timeout_s = (listener.connect_timeout_ms or limits.connect_timeout_ms) / 1000
        self._max_connect_bytes = limits.max_connect_bytes

    def close(self) -> None:
        """Close what waits."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for descriptor in list(self._waiting):
            self._release(descriptor).sock.close()
        for waiting, _ in self._stranded:
            waiting.sock.close()
        self._stranded.clear()

    def _readable(self, descriptor: int) -> None:
        waiting = self._waiting[descriptor]
        # The reader goes before the socket does: whoever adopts it sets its own.
        self._loop.remove_reader(descriptor)
        if self._look(waiting):
            del self._waiting[descriptor]
        else:
            self._loop.add_reader(descriptor, self._readable, descriptor)

    def _look(self, waiting: _Waiting) -> bool:
        """True when the socket has left: adopted, handed over or closed."""
        sock = waiting.sock
        try:
            data = sock.recv(self._max_connect_bytes, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            sock.close()
            return True
        if not data:
            sock.close()
            return True
        try:
            peek = peek_connect(data, self._max_connect_bytes)
        except BrokerError:
            self._leave(waiting, self._worker_id)
            return True
        if peek is None:
            return self._wait_for_more(waiting, len(data))
        home = self._home(peek.client_id) if peek.client_id else self._worker_id
        self._leave(waiting, home)
        return True

    def _wait_for_more(self, waiting: _Waiting, seen: int) -> bool:
        if seen >= self._max_connect_bytes or seen < waiting.low_water:
            # No more can be peeked at, or the peer has closed in the middle of CONNECT.
            self._leave(waiting, self._worker_id)
            return True
        waiting.low_water = seen + 1
        try:
            waiting.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, waiting.low_water)
        except OSError:
            waiting.sock.close()
            return True
        return False

    def _leave(self, waiting: _Waiting, home: int) -> None:
        sock = waiting.sock
        try:
            if waiting.low_water > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except OSError:
            sock.close()
            return
        arrival = Arrival(self._listener, waiting.address)
        if home == self._worker_id:
            self._adopt(sock, arrival)
        elif self._handoff.send(home, sock, arrival):
            self._count("connections_handed_over")
        else:
            self._stranded.append((waiting, home))
            self._sweep_soon()

    def _release(self, descriptor: int) -> _Waiting:
        self._loop.remove_reader(descriptor)
        return self._waiting.pop(descriptor)

    def _sweep_soon(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._close_late)

    def _try_homes(self, now_s: float) -> None:
        """Homes that were away may be back: a worker that died is started again at once."""
        stranded, self._stranded = self._stranded, []
        for waiting, home in stranded:
            if waiting.deadline_s > now_s:
                self._leave(waiting, home)
            else:
                log.info("home worker not reachable", peer=waiting.address, worker=home)
                self._count("connections_refused")
                waiting.sock.close()

    def _close_late(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        self._try_homes(now_s)
        for descriptor, waiting in list(self._waiting.items()):
            if waiting.deadline_s > now_s:
                break
            self._release(descriptor).sock.close()
            self._count("connections_refused")
        if self._waiting:
            self._sweep_soon()
