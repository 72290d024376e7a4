"""One connection of the load generator, and the publisher that may sit on it.

Sockets do not block. `Shared` is what all connections of a run share: one read buffer, the tally,
the poll object. A publisher sends whole batches out of its frames, and what the kernel does not
take stays where it is until the socket is writable: nothing is copied, and no frame is stamped
again before it has gone.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import TYPE_CHECKING

from robustmq.bench import count, plan
from robustmq.bench.stream import Stream, TlsStream, WebSocketStream, tls_context
from robustmq.core import acks
from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    ConnAck,
    Connect,
    PacketType,
    SubAck,
    Subscribe,
    SubscriptionOptions,
)

if TYPE_CHECKING:
    from robustmq.bench.count import Tally

READ_BYTES = 262_144
BATCHES_A_TURN = 4
_QUICK = select.EPOLLIN
_BLOCKED = select.EPOLLIN | select.EPOLLOUT


class LoadError(Exception):
    """The run cannot go on: a refused connection or subscription, or a broker that closes during
    the set-up.
    """


class Shared:
    """What the connections of a run share."""

    def __init__(self, options: plan.Options, tally: Tally) -> None:
        self.options = options
        self.tally = tally
        self.poll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.buffer = bytearray(max(READ_BYTES, 2 * options.payload + 1_024))
        self.view = memoryview(self.buffer)
        self.connected = 0
        self.ready = 0
        self.disconnected = 0
        self.woken: set[Publisher] = set()
        self.tls = tls_context(options) if options.transport in ("tls", "wss") else None
        self.websocket = options.transport in ("ws", "wss")


class Connection:
    """A client: connects, subscribes when `topic_filter` is set, then receives and answers."""

    def __init__(
        self, shared: Shared, name: str, topic_filter: str, streams: tuple[int, int]
    ) -> None:
        self.shared = shared
        self.name = name
        self.topic_filter = topic_filter
        self.inbox = count.Inbox(shared.options.version, *streams)
        self.publisher: Publisher | None = None
        self.feeds: list[Publisher] = []
        self.socket: Stream | None = None
        self.handshakes = bool(shared.tls) + shared.websocket
        self.rest = b""
        self.unsent = bytearray()
        self.blocked = False

    def open(self) -> None:
        """Begin to connect; the rest happens as events come."""
        options = self.shared.options
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex((options.host, options.port))
        if error not in (0, errno.EINPROGRESS):
            raise LoadError(f"cannot connect to {options.host}:{options.port}: error {error}")
        self.socket = sock
        self.shared.connections[sock.fileno()] = self
        packet = Connect(
            options.version,
            self.name.encode(),
            True,
            0xFFFF,
            user_name=options.user or None,
            password=options.password.encode() if options.password else None,
        )
        self.unsent += codec.encode(packet, options.version)
        self.blocked = True
        self.shared.poll.register(sock.fileno(), _BLOCKED)

    def close(self) -> None:
        """Leave without a DISCONNECT; a second call does nothing."""
        if self.socket is not None:
            del self.shared.connections[self.socket.fileno()]
            self.socket.close()
            self.socket = None

    def on_event(self, event: int) -> None:
        """Write first, as that makes room at the broker."""
        if self.handshakes and not self._handshake():
            return
        if event & select.EPOLLOUT:
            self.flush()
            if self.publisher is not None:
                self.shared.woken.add(self.publisher)
        if event & ~select.EPOLLOUT and self.socket is not None:
            self.read()

    def _handshake(self) -> bool:
        """Go on with the handshakes of TLS and of WebSockets, which begin when the socket is
        connected; True when they are through."""
        shared = self.shared
        try:
            while self.handshakes:
                stream = self._stream()
                self.socket = stream
                if not stream.handshake():
                    # The broker's turn, as a rule: its word wakes the poll.
                    shared.poll.modify(stream.fileno(), _QUICK)
                    return False
                self.handshakes -= 1
        except OSError as error:
            raise LoadError(f"{self.name}: no connection with the broker: {error}") from None
        assert self.socket is not None, "it has shaken hands"
        shared.poll.modify(self.socket.fileno(), _BLOCKED)
        return True

    def _stream(self) -> TlsStream | WebSocketStream:
        """The stream whose handshake goes on, or begins."""
        shared, stream = self.shared, self.socket
        host = shared.options.host
        assert stream is not None, "a handshake is over an open socket"
        if shared.tls is not None and isinstance(stream, socket.socket):
            return TlsStream(shared.tls, stream, host)
        if isinstance(stream, WebSocketStream) or (
            isinstance(stream, TlsStream) and self.handshakes > shared.websocket
        ):
            return stream
        return WebSocketStream(stream, host)

    def read(self) -> None:
        """Take what is there, once; the poll is level-triggered."""
        shared = self.shared
        assert self.socket is not None, "only an open connection is read"
        kept = len(self.rest)
        if kept:
            shared.buffer[:kept] = self.rest
        try:
            size = self.socket.recv_into(shared.view[kept:])
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            shared.disconnected += 1
            self.close()
            return
        end = kept + size
        taken = count.walk(shared.buffer, 0, end, self.inbox, shared.tally, time.monotonic_ns())
        self.rest = bytes(shared.view[taken:end]) if taken < end else b""
        if self.inbox.others:
            self._control()
        self._answer()
        shared.woken.update(self.feeds)

    def _control(self) -> None:
        version = self.shared.options.version
        for header, begin, end in self.inbox.others:
            packet = codec.decode(
                header, self.shared.buffer, begin, end, version, from_client=False
            )
            if isinstance(packet, ConnAck):
                self._on_connack(packet)
            elif isinstance(packet, SubAck):
                if max(packet.reason_codes) >= 0x80:
                    raise LoadError(f"{self.name}: subscription to {self.topic_filter} refused")
                self.shared.ready += 1
        self.inbox.others.clear()

    def _on_connack(self, packet: ConnAck) -> None:
        if packet.reason_code:
            raise LoadError(f"{self.name}: connection refused with {packet.reason_code}")
        options = self.shared.options
        self.shared.connected += 1
        if not self.topic_filter:
            self.shared.ready += 1
            return
        wanted = (self.topic_filter.encode(), SubscriptionOptions(options.qos))
        self.send(bytes(codec.encode(Subscribe(1, (wanted,)), options.version)))

    def _answer(self) -> None:
        inbox = self.inbox
        for kind, ids in (
            (PacketType.PUBACK, inbox.pubacks),
            (PacketType.PUBREC, inbox.pubrecs),
            (PacketType.PUBREL, inbox.released),
            (PacketType.PUBCOMP, inbox.pubcomps),
        ):
            if ids:
                self.send(acks.encode(int(kind), ids, 0, len(ids)))
                del ids[:]
        if self.publisher is not None:
            self.shared.woken.add(self.publisher)

    def send(self, data: bytes) -> None:
        """Send small packets behind everything that is still to go."""
        self.unsent += data
        if not self.blocked:
            self.flush()

    def flush(self) -> None:
        """Write the rest of the publisher's batch, then the small packets, as far as the kernel
        takes them.
        """
        publisher = self.publisher
        if publisher is not None and publisher.pending:
            publisher.pending = publisher.pending[self.write(publisher.pending) :]
            if publisher.pending:
                return
        if self.unsent:
            done = self.write(self.unsent)
            del self.unsent[:done]
        if not self.unsent and self.blocked:
            self._set_blocked(False)

    def write(self, data: bytearray | memoryview) -> int:
        """How much the kernel took; asks to be told when it takes more."""
        if self.socket is None:
            return len(data)
        try:
            done = self.socket.send(data)
        except BlockingIOError:
            done = 0
        except OSError:
            self.shared.disconnected += 1
            self.close()
            return len(data)
        if done < len(data) and not self.blocked:
            self._set_blocked(True)
        return done

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        if self.socket is not None:
            self.shared.poll.modify(self.socket.fileno(), _BLOCKED if blocked else _QUICK)


class Publisher:
    """Sends the messages of one client as its window, its subscribers and the rate allow."""

    def __init__(self, connection: Connection, number: int, form: plan.Shape) -> None:
        options = connection.shared.options
        self.connection = connection
        self.number = number
        self.copies = max(1, form.copies)
        self.frames = plan.frames(options, number)
        self.view = memoryview(self.frames.buffer)
        self.batch = options.batch
        self.window = min(options.window, 65_535) if options.qos else 0
        self.ahead = plan.outstanding(options, form)
        self.interval_ns = form.publishers * 1e9 / options.rate if options.rate else 0.0
        self.limit = options.count
        self.sent = 0
        self.written_off = 0
        self.packet_id = 1
        self.pending = self.view[:0]
        self.start_ns = 0

    def delivered(self) -> int:
        """Messages that all their subscribers have."""
        return self.connection.shared.tally.delivered[self.number] // self.copies

    def due_ns(self) -> int:
        """When the rate allows the next message; 0 without a rate."""
        if not self.interval_ns:
            return 0
        return self.start_ns + int(self.interval_ns * (self.sent + 1))

    def allowed(self, now_ns: int) -> int:
        """How many messages may go in the next write."""
        slot = self.sent % self.frames.slots
        number = min(self.batch, self.frames.slots - slot)
        if self.limit:
            number = min(number, self.limit - self.sent)
        if self.ahead:
            room = self.ahead - (self.sent - self.written_off - self.delivered())
            if room < number:
                return 0
        if self.window:
            number = min(number, self.window - (self.sent - self.connection.inbox.completed))
        if self.interval_ns:
            due = int((now_ns - self.start_ns) / self.interval_ns) - self.sent
            number = min(number, due)
        return number

    def pump(self) -> bool:
        """Send up to a few batches; True when it may send more at once."""
        connection = self.connection
        if self.pending or connection.unsent or connection.socket is None:
            return False
        frames = self.frames
        for _ in range(BATCHES_A_TURN):
            now_ns = time.monotonic_ns()
            number = self.allowed(now_ns)
            if number <= 0:
                return False
            slot = self.sent % frames.slots
            self.packet_id = count.fill(
                frames.buffer, frames.size, frames.packet_id_at, frames.payload_at, slot,
                self.sent, number, connection.shared.options.topics, self.packet_id, now_ns,
            )  # fmt: skip
            self.sent += number
            data = self.view[slot * frames.size : (slot + number) * frames.size]
            done = connection.write(data)
            if done < len(data):
                self.pending = data[done:]
                return False
        return True

    def write_off(self) -> None:
        """Take what is outstanding as lost, so that a broker that drops does not end the run."""
        self.written_off = self.sent - self.delivered()
