"""From accept to the home worker: a connection is looked at before anything of MQTT is read.

What comes before CONNECT is taken off step by step, as the listener says: the header of a proxy,
the TLS handshake, the upgrade to a WebSocket. Then CONNECT is looked at and left where it is, so
that the socket can go to its home as if nothing had been read (MSG_PEEK). Of a TLS connection,
which cannot move, the bytes that were decrypted stay with it, and a relay carries it to its home.

A socket that waits costs no task and no timer: one sweep over all of them closes those that are
late. Whose home is away, starting again as a rule, waits for it. Whose CONNECT is malformed, too
large or without a client identifier is adopted here: the connection answers. Invariant: SO_RCVLOWAT
is 1 again when a socket leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from robustmq.core.websocket import Deframer
from robustmq.errors import BrokerError
from robustmq.limits import Limits
from robustmq.listener import ENCRYPTED, WEBSOCKET, Listener
from robustmq.mqtt.codec import peek_connect
from robustmq.net import proxy_protocol, websocket
from robustmq.net.entrance import Entrance, Peeked, Secured
from robustmq.net.handoff import Arrival, Handoff
from robustmq.net.proxy_protocol import ProxyError
from robustmq.net.tls import HandshakeError, ServerTls, TlsCarrier
from robustmq.observability import logs

SWEEP_S = 0.05
MAX_EVENTS = 256
HANDSHAKES_A_TURN = 4
"""A step of a handshake takes a millisecond: in a storm of them the loop is not held for longer."""
MAX_FRAMING = 8
"""A byte in a WebSocket frame of its own is seven: so much more may be looked at before CONNECT."""
log = logs.get_logger("front_door")


class _Ended(Exception):
    """The connection is over; with what to log, if it is a fault."""


class Home(Protocol):
    """What takes the connections whose client is known."""

    def adopt(self, sock: socket.socket | TlsCarrier, arrival: Arrival) -> None:
        """Its home is this worker."""
        ...

    def relay(self, carrier: TlsCarrier, near: socket.socket) -> None:
        """Its home has the other end of this socket."""
        ...

    def admit(self, listener: Listener, sock: socket.socket, address: str) -> bool:
        """The client's address is known now (a proxy told it): False when a bound is reached."""
        ...


class _Waiting:
    """A connection whose client is not known."""

    __slots__ = ("address", "deadline_s", "entrance", "home", "identity", "steps", "websocket")

    def __init__(self, entrance: Entrance, address: str, deadline_s: float, steps: str) -> None:
        self.entrance = entrance
        self.address = address
        self.deadline_s = deadline_s
        self.steps = steps
        """What is to come, a letter each: see STEPS."""
        self.websocket = False
        self.identity = ""
        self.home = 0


PROXY, TLS, UPGRADE, CONNECT, REFUSED = "PTUCR"
"""The header of a proxy, a handshake, an HTTP request, CONNECT; the peer's end after a refusal."""


class MqttFrontDoor:
    """The sockets that one worker has accepted from one listener and that have not said who they
    are."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        home_of: Callable[[bytes], int],
        worker_id: int,
        home: Home,
        handoff: Handoff,
        listener: Listener,
        limits: Limits,
        count: Callable[[str], None],
        tls: ServerTls | None = None,
    ) -> None:
        """`home_of(client_id)` is the worker that holds its session."""
        self._loop = loop
        self._home_of = home_of
        self._worker_id = worker_id
        self._home = home
        self._handoff = handoff
        self._count = count
        self._tls = tls
        # All wait equally long, so the order of arrival is that of the deadlines (but for those
        # that a reload finds waiting).
        self._waiting: dict[int, _Waiting] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._look_around)
        self._stranded: list[_Waiting] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._unheard: dict[int, None] = {}
        self._turns: deque[_Waiting] = deque()
        self._actions: dict[str, Callable[[_Waiting], bool]] = {
            PROXY: self._proxy,
            TLS: self._handshake,
            UPGRADE: self._upgrade,
            CONNECT: self._connect,
            REFUSED: self._refused,
        }
        self.reload(listener, limits)

    @property
    def waiting(self) -> int:
        """Sockets that have not sent a whole CONNECT, or whose home is away."""
        return len(self._waiting) + len(self._stranded)

    def accepted(self, sock: socket.socket, address: str) -> None:
        """A new connection. CONNECT has often come already."""
        deadline_s = self._loop.time() + self._timeout_s
        waiting = _Waiting(Peeked(sock), address, deadline_s, self._steps)
        self._waiting[sock.fileno()] = waiting
        self._go_on(waiting)

    def reload(self, listener: Listener, limits: Limits) -> None:
        """Other bounds for those that come from now on."""
        self._listener = listener
        self._timeout_s = (listener.connect_timeout_ms or limits.connect_timeout_ms) / 1000
        self._max_connect_bytes = limits.max_connect_bytes
        steps = PROXY if listener.proxy_protocol else ""
        steps += TLS if listener.transport in ENCRYPTED else ""
        steps += UPGRADE if listener.transport in WEBSOCKET else ""
        self._steps = steps + CONNECT

    def close(self) -> None:
        """Close what waits."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for descriptor in list(self._waiting):
            self._release(descriptor).entrance.close()
        for waiting in self._stranded:
            waiting.entrance.close()
        self._stranded.clear()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    # -- watching ----------------------------------------------------------------------------------

    def _watch(self, entrance: Entrance) -> None:
        if entrance.unheard:
            self._unheard[entrance.file] = None
            return
        event = select.EPOLLOUT if entrance.wants_write else select.EPOLLIN
        self._epoll.register(entrance.file, event)

    def _unwatch(self, entrance: Entrance) -> None:
        # One that waits for its turn, or is looked at from time to time, is not watched.
        with contextlib.suppress(FileNotFoundError):
            self._epoll.unregister(entrance.file)

    def _look_around(self) -> None:
        """Some of those that are watched have more to say. (As an epoll of its own, which the loop
        watches as one file: a third of the loop's own cost for a connection.)"""
        for descriptor, _ in self._epoll.poll(0, MAX_EVENTS):
            if descriptor in self._waiting:
                self._ready(descriptor)

    def _ready(self, descriptor: int) -> None:
        waiting = self._waiting[descriptor]
        # The watch ends before the socket leaves: whoever adopts it sets its own.
        self._unwatch(waiting.entrance)
        self._go_on(waiting)

    def _go_on(self, waiting: _Waiting) -> None:
        """Take its next steps now, or when it is its turn."""
        if waiting.steps[0] != TLS:
            self._step(waiting)
            return
        if not self._turns:
            self._loop.call_soon(self._take_turns)
        self._turns.append(waiting)
        self._sweep_soon()

    def _take_turns(self) -> None:
        for _ in range(min(HANDSHAKES_A_TURN, len(self._turns))):
            waiting = self._turns.popleft()
            if self._waiting.get(waiting.entrance.file) is waiting:
                self._step(waiting)
        if self._turns:
            self._loop.call_soon(self._take_turns)

    def _step(self, waiting: _Waiting) -> None:
        descriptor = waiting.entrance.file
        if self._look(waiting):
            del self._waiting[descriptor]
        else:
            self._watch(waiting.entrance)
            self._sweep_soon()

    def _look(self, waiting: _Waiting) -> bool:
        """Take the steps that can be taken; True when the socket has left: adopted, handed over or
        closed."""
        try:
            while self._actions[waiting.steps[0]](waiting):
                waiting.steps = waiting.steps[1:]
                if not waiting.steps or waiting.steps[0] == TLS:
                    return not waiting.steps
        except (BlockingIOError, InterruptedError):
            return False
        except _Ended as ended:
            if ended.args:
                log.info("a connection was refused", peer=waiting.address, why=ended.args[0])
            waiting.entrance.close()
            return True
        except OSError:
            waiting.entrance.close()
            return True
        return False

    def _more(self, waiting: _Waiting, seen: int) -> bool:
        """Wait for more than was seen; raises _Ended when none can come."""
        if not waiting.entrance.wait_for(seen + 1):
            raise _Ended
        return False

    # -- steps: True when one is done, False when it must wait -------------------------------------

    def _proxy(self, waiting: _Waiting) -> bool:
        data = waiting.entrance.look(proxy_protocol.MAX_HEADER_BYTES)
        try:
            header = proxy_protocol.read(data) if data else None
        except ProxyError as error:
            self._count("proxy_headers_refused")
            raise _Ended(f"PROXY protocol: {error}") from None
        if header is None:
            return self._more(waiting, len(data))
        waiting.entrance.take(header.size)
        waiting.address = header.address or waiting.address
        accepted = waiting.entrance.accepted
        if not self._home.admit(self._listener, accepted, waiting.address):
            self._count("connections_refused")
            raise _Ended
        return True

    def _handshake(self, waiting: _Waiting) -> bool:
        entrance = waiting.entrance
        if isinstance(entrance, Peeked):
            assert self._tls is not None, "a listener with TLS has certificates"
            plain = entrance.leave()
            entrance = waiting.entrance = Secured(self._tls.wrap(plain), plain)
        try:
            if not entrance.handshake():
                return False
        except HandshakeError as error:
            self._count("tls_handshakes_failed")
            raise _Ended(f"TLS handshake: {error}") from None
        self._count("tls_handshakes")
        waiting.identity = entrance.identity
        return True

    def _upgrade(self, waiting: _Waiting) -> bool:
        entrance, listener = waiting.entrance, self._listener
        data = entrance.look(websocket.MAX_HEAD_BYTES)
        if not data:
            raise _Ended
        answer = websocket.upgrade(data, listener.websocket_path, listener.websocket_origins)
        if answer is None:
            return self._more(waiting, len(data))
        entrance.take(answer.size)
        if not entrance.send(answer.answer):
            raise _Ended
        if answer.why:
            self._count("websocket_upgrades_refused")
            log.info("a connection was refused", peer=waiting.address, why=answer.why)
            entrance.shut()
            waiting.steps = UPGRADE + REFUSED
        waiting.websocket = True
        return True

    def _refused(self, waiting: _Waiting) -> bool:
        """A close with unread bytes of the peer would take the answer from it."""
        while waiting.entrance.discard():
            continue
        raise _Ended

    def _connect(self, waiting: _Waiting) -> bool:
        bound = self._max_connect_bytes * (MAX_FRAMING if waiting.websocket else 1)
        data = waiting.entrance.look(bound)
        if not data:
            raise _Ended
        packets: bytes | bytearray = data
        if waiting.websocket:
            frames, packets = Deframer(), bytearray(data)
            del packets[frames.absorb(packets, 0, len(packets)) :]
            if frames.status:
                # Whoever adopts it meets the same.
                return self._leave(waiting, self._worker_id)
        try:
            peek = peek_connect(packets, self._max_connect_bytes)
        except BrokerError:
            return self._leave(waiting, self._worker_id)
        if peek is None:
            if len(data) >= bound:
                raise _Ended("more came before CONNECT than is looked at")
            if waiting.entrance.wait_for(len(data) + 1):
                return False
            # The peer has closed in the middle of CONNECT.
            return self._leave(waiting, self._worker_id)
        home = self._home_of(peek.client_id) if peek.client_id else self._worker_id
        return self._leave(waiting, home)

    # -- leaving -----------------------------------------------------------------------------------

    def _leave(self, waiting: _Waiting, home: int) -> bool:
        """The connection goes to its home, or waits for that to be back: it is not watched here any
        more either way."""
        entrance = waiting.entrance
        arrival = Arrival(
            self._listener.name,
            waiting.address,
            waiting.websocket,
            waiting.identity,
            isinstance(entrance, Secured),
        )
        if home == self._worker_id:
            self._home.adopt(entrance.leave(), arrival)
        elif self._hand_over(entrance, home, arrival):
            self._count("connections_handed_over")
        else:
            waiting.home = home
            self._stranded.append(waiting)
            self._sweep_soon()
        return True

    def _hand_over(self, entrance: Entrance, home: int, arrival: Arrival) -> bool:
        if isinstance(entrance, Peeked):
            return self._handoff.send(home, entrance.leave(), arrival)
        near, far = socket.socketpair()
        near.setblocking(False)
        if not self._handoff.send(home, far, arrival):
            near.close()
            far.close()
            return False
        self._home.relay(entrance.leave(), near)
        return True

    def _release(self, descriptor: int) -> _Waiting:
        waiting = self._waiting.pop(descriptor)
        self._unwatch(waiting.entrance)
        return waiting

    def _sweep_soon(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._close_late)

    def _try_homes(self, now_s: float) -> None:
        """Homes that were away may be back: a worker that died is started again at once."""
        stranded, self._stranded = self._stranded, []
        for waiting in stranded:
            if waiting.deadline_s > now_s:
                self._leave(waiting, waiting.home)
            else:
                log.info("home worker not reachable", peer=waiting.address, worker=waiting.home)
                self._count("connections_refused")
                waiting.entrance.close()

    def _close_late(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        self._try_homes(now_s)
        unheard, self._unheard = self._unheard, {}
        for descriptor in unheard:
            if descriptor in self._waiting:
                self._step(self._waiting[descriptor])
        for descriptor, waiting in list(self._waiting.items()):
            if waiting.deadline_s > now_s:
                break
            self._release(descriptor).entrance.close()
            self._count("connections_refused")
        if self._waiting:
            self._sweep_soon()
