"""MQTT over sockets: those of one worker, and the bytes between them and their clients.

The sockets have an epoll of their own, which the event loop watches as one file. What is ready is
served in a row: bytes are read into one buffer that all share, and a run of QoS 0 PUBLISH goes from
there into the router's blocks without an object or a callback a message; whatever else came is
`shard.client.MqttClient`'s. (Through a transport of the loop a message that comes alone costs half
as much again, and an idle connection twice the memory.)

What a connection is made of is `net.mqtt_socket`'s. One that the broker ends is shut for writing,
and closed when the peer has read to the end and closed too (or after LINGER_S): a close with unread
bytes of the peer would take the reason code from it.
"""

from __future__ import annotations

import asyncio
import select
import socket

from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.net.mqtt_socket import MqttSocket
from robustmq.net.socket_io import AGAIN, receive
from robustmq.net.tls import TlsCarrier
from robustmq.shard.broker import Broker
from robustmq.shard.client import MqttClient
from robustmq.shard.rates import Meter

MAX_EVENTS = 512
LINGER_S = 2.0
GATHERED_BYTES = 4 * 1024 * 1024
"""Read in one turn; then blocks leave before it ends: each has to go into one frame of the bus."""
METERED_BYTES = 4 * 1024
"""Read at once of a client whose rate is bounded: its debt stays small, and its pauses short."""


class MqttSockets:
    """The open MQTT connections of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, broker: Broker) -> None:
        self._loop = loop
        self._broker = broker
        self._epoll = select.epoll()
        self._open: dict[int, MqttSocket] = {}
        self._buffer = bytearray(broker.limits.max_turn_bytes)
        self._metered = bytearray(min(METERED_BYTES, len(self._buffer)))
        self._lingering: dict[int, float] = {}
        self._again: dict[MqttSocket, None] = {}
        self._wall_ms = self._now_ms = 0
        self._sweep: asyncio.TimerHandle | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        loop.add_reader(self._epoll.fileno(), self._ready)

    def __len__(self) -> int:
        return len(self._open)

    def adopt(
        self,
        sock: socket.socket | TlsCarrier,
        address: str,
        listener: Listener,
        websocket: bool = False,
        identity: str = "",
    ) -> None:
        """Serve an accepted socket that does not block, or one with TLS. It is read in its turn, so
        that what its client sent on an older connection, which it takes over, is read before."""
        file = sock.file if isinstance(sock, TlsCarrier) else sock.fileno()
        # Before its client is made: that may say at once that it is not to be read.
        self._epoll.register(file, select.EPOLLIN)
        connection = MqttSocket(self, sock, file, websocket)
        broker = self._broker
        connection.meter = broker.rates.meter(listener, broker.limits, broker.monotonic_ms())
        connection.client = broker.connected(connection, address, listener, identity)
        self._open[file] = connection
        if connection.carrier is not None:
            self.read_again(connection)

    def close(self) -> None:
        """Close all, without a word: the end of the process."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        for connection in list(self._open.values()):
            self.forget(connection)
        self._epoll.close()

    def _ready(self) -> None:
        broker = self._broker
        broker.begin_turn()
        self._wall_ms = broker.wall_ms()
        self._now_ms = broker.monotonic_ms()
        gathered = self.bytes_in + GATHERED_BYTES
        for file, event in self._epoll.poll(0, MAX_EVENTS):
            connection = self._open.get(file)
            if connection is None:
                continue
            if self.bytes_in > gathered:
                gathered = self.bytes_in + GATHERED_BYTES
                broker.router.flush()
            if event & select.EPOLLOUT:
                connection.write_on()
            if event & ~select.EPOLLOUT and connection.file >= 0:
                self._read(connection)
        if self._again:
            self._read_waiting()
        broker.end_turn()

    def _read_waiting(self) -> None:
        """Read those that have more than epoll sees."""
        again, self._again = self._again, {}
        for connection in again:
            if connection.file >= 0 and not connection.paused:
                self._read(connection)

    def read_again(self, connection: MqttSocket) -> None:
        """It has bytes, or its end, that epoll does not see: a turn for it comes."""
        if not self._again:
            self._loop.call_soon(self._ready)
        self._again[connection] = None

    def _read(self, connection: MqttSocket) -> None:
        if connection.closing:
            self._discard(connection)
            return
        if connection.meter is None:
            self._take(connection, self._buffer)
        else:
            self._take_metered(connection, connection.meter)
        if connection.layered and connection.file >= 0:
            connection.attend()

    def _discard(self, connection: MqttSocket) -> None:
        """Read what comes behind the end of a conversation, until the peer ends it too."""
        size = receive(connection.file, self._buffer, 0)
        if size <= 0 and size != AGAIN:
            self.forget(connection)

    def _take_metered(self, connection: MqttSocket, meter: Meter) -> None:
        """Read, and let the client wait for what it has brought too soon."""
        broker, tally = self._broker, self._broker.tally
        size, messages = self.bytes_in, tally.messages + tally.denied
        self._take(connection, self._metered)
        size, messages = self.bytes_in - size, tally.messages + tally.denied - messages
        wait_ms = meter.take(messages, size, self._now_ms)
        if wait_ms and not connection.client.closed:
            broker.rates.pause(connection.client, self._now_ms + wait_ms)

    def _take(self, connection: MqttSocket, buffer: bytearray) -> None:
        client = connection.client
        have = len(client.rest)
        publisher = client.publisher
        if have and publisher is not None and have < len(buffer) // 2:
            buffer[:have] = client.rest
            client.rest = b""
        else:
            have = 0
        carrier = connection.carrier
        if carrier is None:
            size = receive(connection.file, buffer, have)
        else:
            size = carrier.receive(buffer, have)
        if size <= 0:
            if have:
                client.rest = bytes(buffer[:have])
            if size != AGAIN:
                self.forget(connection)
            return
        self.bytes_in += size
        end = have + size
        if connection.frames is not None:
            end = connection.frames.absorb(buffer, have, end)
        begin = 0
        if publisher is not None and not client.rest:
            largest = self._broker.limits.max_packet_bytes
            try:
                begin = publisher.absorb_stream(
                    buffer, end, self._broker.frame_table, largest, self._wall_ms
                )
            except BrokerError as error:
                client.failed(error)
                return
            if begin:
                client.last_packet_ms = self._now_ms
            if begin == end:
                return
        client.received(bytes(memoryview(buffer)[begin:end]))

    def watch(self, connection: MqttSocket, reading: bool, writing: bool) -> None:
        """What the epoll looks for."""
        events = (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if writing else 0)
        self._epoll.modify(connection.file, events)

    def broken_frames(self, client: MqttClient, why: str) -> None:
        """A client broke the rules of WebSocket."""
        self._broker.count("websocket_faults", 1)
        self._broker.fault(client, BrokerError(Fault.MALFORMED_PACKET, f"WebSocket: {why}"))

    def linger(self, connection: MqttSocket) -> None:
        """Close it when the peer does, or when it has had its time."""
        self._lingering[connection.file] = self._loop.time() + LINGER_S
        if self._sweep is None:
            self._sweep = self._loop.call_later(LINGER_S, self._close_late)

    def _close_late(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        for file, deadline_s in list(self._lingering.items()):
            if deadline_s > now_s:
                self._sweep = self._loop.call_later(deadline_s - now_s, self._close_late)
                break
            self.forget(self._open[file])

    def forget(self, connection: MqttSocket) -> None:
        """The connection is over."""
        file = connection.file
        if file < 0:
            return
        self._epoll.unregister(file)
        del self._open[file]
        self._lingering.pop(file, None)
        connection.release()
