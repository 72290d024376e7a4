"""MQTT's side of the load on very many topics: publishers with QoS 1, and one subscriber to all."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from topics_plan import FILTER, STALLED_S, Job, LoadFailed, Plan, Progress, payload_of, topic_of

from robustmq.bench import count
from robustmq.core import acks
from robustmq.mqtt import codec
from robustmq.mqtt.packets import ConnAck, Connect, Properties, Subscribe, SubscriptionOptions

CHUNK = 500
READ_BYTES = 262_144
NEVER_EXPIRES = 0xFFFF_FFFF
RECEIVE_MAXIMUM = 65_535
Message = tuple[int, int]


def connect(port: int, packet: Connect) -> socket.socket:
    """A socket behind its CONNACK."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(codec.encode(packet, packet.version))
    head = _exactly(sock, 2)
    body = _exactly(sock, head[1])
    data = head + body
    answer = codec.decode(data[0], data, 2, len(data), packet.version, from_client=False)
    if not isinstance(answer, ConnAck) or answer.reason_code:
        raise LoadFailed(f"an MQTT connection was refused: {answer}")
    return sock


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        found = sock.recv(size - len(data))
        if not found:
            raise ConnectionResetError("the broker closed a connection")
        data += found
    return data


class _Publisher:
    """One connection that publishes with a window of unacknowledged messages."""

    def __init__(self, port: int, name: str, messages: Iterator[Message], plan: Plan) -> None:
        self.plan = plan
        self.messages = messages
        self.inbox = count.Inbox(4, 0, 0)
        self.tally = count.Tally(1, 1)
        self.waiting: deque[Message] = deque()
        self.acked = 0
        self.sent = 0
        self.rest = bytearray()
        self.unsent = bytearray()
        self.socket = connect(port, Connect(4, name.encode(), True, 0))
        self.socket.setblocking(False)

    def take(self) -> int:
        """Read acknowledgements, which come in the order of sending; how many."""
        try:
            chunk = self.socket.recv(65_536)
        except BlockingIOError:
            return 0
        if not chunk:
            raise ConnectionResetError("the broker closed a connection")
        self.rest += chunk
        taken = count.walk(self.rest, 0, len(self.rest), self.inbox, self.tally, 0)
        del self.rest[:taken]
        new = self.inbox.completed - self.acked
        self.acked += new
        for _ in range(new):
            self.waiting.popleft()
        return new

    def pump(self) -> bool:
        """Send what the window allows; True while something waits for the socket."""
        room = min(self.plan.window - len(self.waiting), CHUNK)
        now_ns = time.monotonic_ns()
        size = self.plan.size
        while room > 0 and len(self.unsent) < 65_536:
            message = next(self.messages, None)
            if message is None:
                break
            self.unsent += _publish(message, self.sent % 65_535 + 1, size, now_ns)
            self.waiting.append(message)
            self.sent += 1
            room -= 1
        if self.unsent:
            with suppress(BlockingIOError):
                del self.unsent[: self.socket.send(self.unsent)]
        return bool(self.unsent)


def _publish(message: Message, packet_id: int, size: int, now_ns: int) -> bytes:
    """A PUBLISH with QoS 1, written by hand: this is most of what a load costs its generator."""
    topic = topic_of(message[0])
    length = 4 + len(topic) + size
    head = bytes([0x32, length]) if length < 128 else bytes([0x32, length & 127 | 128, length >> 7])
    return b"".join(
        (
            head,
            len(topic).to_bytes(2, "big"),
            topic,
            packet_id.to_bytes(2, "big"),
            payload_of(*message, size, now_ns),
        )
    )


class MqttLoader:
    """Publishes by several connections, in one thread."""

    def __init__(self, port: int, plan: Plan, progress: Progress) -> None:
        self._port = port
        self._plan = plan
        self._progress = progress
        self._left: list[Iterator[Message]] = []
        self._publishers: list[_Publisher] = []

    def give(self, job: Job) -> None:
        """Part a round among the connections."""
        clients = self._plan.clients
        share = -(-(job.end - job.begin) // clients)
        for place in range(clients):
            begin = job.begin + place * share
            numbers = range(begin, min(job.end, begin + share))
            self._left.append((number, job.round) for number in numbers)

    def run(self) -> None:
        """Publish until all is acknowledged, over connections of this run."""
        given, self._left = self._left, []
        try:
            for place, messages in enumerate(given):
                name = f"many-topics-{place}"
                self._publishers.append(_Publisher(self._port, name, messages, self._plan))
            self._drive()
        except OSError:
            self._give_up(given)
            raise
        finally:
            for publisher in self._publishers:
                publisher.socket.close()
            self._publishers = []

    def _give_up(self, given: list[Iterator[Message]]) -> None:
        """The broker is gone: what is not acknowledged is to be sent again."""
        for publisher in self._publishers:
            self._progress.sent_again(len(publisher.waiting))
            self._left.append(_chained(list(publisher.waiting), publisher.messages))
        self._left += given[len(self._publishers) :]

    def _drive(self) -> None:
        """All publishers until each has its acknowledgements."""
        last = time.monotonic()
        while True:
            may_send = self._progress.may_send
            blocked = [one.socket for one in self._publishers if may_send and one.pump()]
            readers = {one.socket: one for one in self._publishers if one.waiting}
            if may_send and not readers:
                return
            done = 0
            for ready in select.select(list(readers), blocked, [], 0.01 if readers else 0)[0]:
                done += readers[ready].take()
            now = time.monotonic()
            if done:
                self._progress.add("mqtt", done)
                last = now
            elif now - last > STALLED_S:
                raise LoadFailed(f"no acknowledgement by MQTT for {STALLED_S:.0f} s")
            elif not readers:
                time.sleep(0.001)


def _chained(first: list[Message], then: Iterator[Message]) -> Iterator[Message]:
    yield from first
    yield from then


class WildcardSubscriber:
    """A session that wants every topic, with QoS 1, and counts what it gets in a thread of its own.

    The session outlives the broker: after a restart it comes back and gets what it has missed.
    """

    def __init__(self, port: int, plan: Plan) -> None:
        self._port = port
        self.tally = count.Tally(1, plan.topics)
        self.received = 0
        self.redelivered = 0
        """Messages with DUP: their acknowledgement was lost with the broker [MQTT-4.4.0-1]."""
        self._inbox = count.Inbox(5, 0, plan.topics)
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Connect, the first time subscribe, and begin to count."""
        fresh = self._socket is None
        properties = Properties(
            session_expiry_interval=NEVER_EXPIRES, receive_maximum=RECEIVE_MAXIMUM
        )
        self._socket = connect(
            self._port, Connect(5, b"many-topics-all", fresh, 0, properties=properties)
        )
        if fresh:
            wanted = Subscribe(1, ((FILTER, SubscriptionOptions(1)),))
            self._socket.sendall(codec.encode(wanted, 5))
            suback = _exactly(self._socket, 6)
            if suback[0] != 0x90 or suback[-1] > 2:
                raise LoadFailed(f"the subscription was refused: {suback.hex()}")
        self._ended.clear()
        self._thread = threading.Thread(target=self._count, args=(self._socket,), daemon=True)
        self._thread.start()

    def _count(self, sock: socket.socket) -> None:
        rest = bytearray()
        inbox = self._inbox
        resuming = True
        with suppress(OSError):
            sock.settimeout(0.1)
            while not self._ended.is_set():
                try:
                    chunk = sock.recv(READ_BYTES)
                except TimeoutError:
                    continue
                if not chunk:
                    return
                rest += chunk
                taken = count.walk(rest, 0, len(rest), inbox, self.tally, 0)
                if resuming and taken:
                    again, resuming = _duplicates(rest, taken)
                    self.redelivered += again
                del rest[:taken]
                self.received = self.tally.delivered[0]
                if inbox.pubacks:
                    sock.sendall(acks.encode(4, inbox.pubacks, 0, len(inbox.pubacks)))
                    del inbox.pubacks[:]

    def stop(self) -> None:
        """Leave; the session stays."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10)
        if self._socket is not None:
            self._socket.close()


def _duplicates(data: bytearray, end: int) -> tuple[int, bool]:
    """How many PUBLISH packets with DUP the area begins with, and whether it has no other."""
    found = at = 0
    while at < end:
        header = data[at]
        length = shift = 0
        while True:
            at += 1
            length |= (data[at] & 127) << shift
            shift += 7
            if data[at] < 128:
                break
        at += 1 + length
        if header & 0xF8 == 0x38:
            found += 1
        elif header >> 4 == 3:
            return found, False
    return found, True
