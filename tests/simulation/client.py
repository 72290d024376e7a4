"""A client of the simulation: speaks MQTT as a patient real one does, and keeps its own record of
what was promised.

It reconnects when it is cut off, resumes its session, sends unacknowledged messages again with DUP,
and finishes QoS 2 handshakes from its own stored state (MQTT 5.0 section 4.4).
"""

from __future__ import annotations

from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    PacketType,
    Properties,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    Unsubscribe,
)
from tests.simulation.world import World

VERSION = 5
RECONNECT_MS = 40


class SimClient:
    """One client, with a persistent session unless `expiry` is 0."""

    def __init__(
        self,
        world: World,
        client_id: bytes,
        filters: dict[bytes, int] | None = None,
        expiry: int = 3600,
    ) -> None:
        self.world = world
        self.client_id = client_id
        self.filters = filters or {}
        self.expiry = expiry
        self.subscribed = not self.filters
        self.received: list[tuple[bytes, bytes, int]] = []
        self.acked: list[tuple[bytes, bytes, int]] = []
        self.published: list[tuple[bytes, bytes]] = []
        self._outgoing: dict[int, Publish] = {}
        self._released: dict[int, Publish] = {}
        self._waiting: list[tuple[bytes, bytes, int]] = []
        self._inbound_qos2: set[int] = set()
        self._next_id = 1
        self._life = 0
        self._arrives_ms = 0.0
        self.connected = False
        self.resting = False
        self.connect()

    def connect(self) -> None:
        """Open a connection, or try again later."""
        self._life += 1
        life = self._life
        self.connected = False
        self._buffer = b""
        server = self.world.accept(
            self.client_id, lambda data: self._data(life, data), lambda: self._gone(life)
        )
        self._server = server
        if server is None:
            self.world.scheduler.at(RECONNECT_MS, lambda: self._again(life))
            return
        self._send(
            Connect(
                VERSION,
                self.client_id,
                False,
                0,
                properties=Properties(session_expiry_interval=self.expiry, receive_maximum=20),
            )
        )

    def _again(self, life: int) -> None:
        if life == self._life and not self.resting:
            self.connect()

    def _gone(self, life: int) -> None:
        if life == self._life:
            server, self._server = self._server, None
            self.connected = False
            if server is not None:
                server.lost()
            self.world.scheduler.at(RECONNECT_MS, lambda: self._again(life))

    def drop(self) -> None:
        """Lose the connection on the way, without a DISCONNECT."""
        self._gone(self._life)

    def rest(self) -> None:
        """Be away until `wake`."""
        self.resting = True
        self._gone(self._life)

    def wake(self) -> None:
        """Be back."""
        self.resting = False
        self.connect()

    def leave(self) -> None:
        """Say goodbye and end the session; come back with a new one."""
        if self.connected:
            self._send(Disconnect(0, Properties(session_expiry_interval=0)))

    def unsubscribe(self) -> None:
        """Give up the subscriptions; they come back with the next connection."""
        if self.connected and self.subscribed:
            self.subscribed = False
            self._send(Unsubscribe(62, tuple(self.filters)))

    def publish(self, topic: bytes, payload: bytes, qos: int) -> None:
        """Publish now, or when connected and the window has room."""
        self._waiting.append((topic, payload, qos))
        self._pump()

    def _pump(self) -> None:
        while self.connected and self._waiting and len(self._outgoing) + len(self._released) < 10:
            topic, payload, qos = self._waiting.pop(0)
            self.published.append((topic, payload))
            packet = Publish(topic, payload, qos, packet_id=self._free_id() if qos else 0)
            if qos:
                self._outgoing[packet.packet_id] = packet
            self._send(packet)

    def _free_id(self) -> int:
        while self._next_id in self._outgoing or self._next_id in self._released:
            self._next_id = self._next_id % 60 + 1
        packet_id = self._next_id
        self._next_id = self._next_id % 60 + 1
        return packet_id

    def _send(self, packet: object) -> None:
        server, life = self._server, self._life
        data = codec.encode(packet, VERSION)  # type: ignore[arg-type]

        def arrive() -> None:
            if server is not None and life == self._life and not server.closed:
                server.received(data)

        # Bytes of one connection arrive in the order in which they were sent.
        scheduler = self.world.scheduler
        earliest_ms = scheduler.now_ms + scheduler.random.random() * 2
        self._arrives_ms = max(self._arrives_ms + 0.001, earliest_ms)
        scheduler.at(self._arrives_ms - scheduler.now_ms, arrive)

    def _data(self, life: int, data: bytes) -> None:
        if life != self._life:
            return
        self._buffer += data
        while True:
            packet = self._next()
            if packet is None:
                return
            self._handle(packet)

    def _next(self) -> object | None:
        buffer = self._buffer
        length = shift = 0
        for at in range(1, len(buffer)):
            length |= (buffer[at] & 127) << shift
            shift += 7
            if not buffer[at] & 128:
                if len(buffer) < at + 1 + length:
                    return None
                self._buffer = buffer[at + 1 + length :]
                return codec.decode(
                    buffer[0], buffer, at + 1, at + 1 + length, VERSION, from_client=False
                )
        return None

    def _handle(self, packet: object) -> None:
        match packet:
            case ConnAck():
                assert packet.reason_code == 0, packet
                self._connected(packet.session_present)
            case SubAck():
                assert all(code < 0x80 for code in packet.reason_codes)
                self.subscribed = True
            case Publish():
                self._on_publish(packet)
            case Ack():
                self._on_ack(packet)

    def _connected(self, session_present: bool) -> None:
        self.connected = True
        if not session_present:
            self._inbound_qos2.clear()
            self._outgoing = {**self._outgoing, **self._released}
            self._released = {}
        if self.filters and not (self.subscribed and session_present):
            rows = tuple((name, SubscriptionOptions(qos)) for name, qos in self.filters.items())
            self._send(Subscribe(61, rows))
        for packet_id in self._released:
            self._send(Ack(PacketType.PUBREL, packet_id))
        for packet in self._outgoing.values():
            again = Publish(packet.topic, packet.payload, packet.qos, False, True, packet.packet_id)
            self._send(again)
        self._pump()

    def _on_publish(self, packet: Publish) -> None:
        if packet.qos < 2:
            self.received.append((packet.topic, packet.payload, packet.qos))
            if packet.qos:
                self._send(Ack(PacketType.PUBACK, packet.packet_id))
            return
        if packet.packet_id not in self._inbound_qos2:
            self._inbound_qos2.add(packet.packet_id)
            self.received.append((packet.topic, packet.payload, 2))
        self._send(Ack(PacketType.PUBREC, packet.packet_id))

    def _on_ack(self, packet: Ack) -> None:
        packet_id = packet.packet_id
        if packet.kind == PacketType.PUBREL:
            self._inbound_qos2.discard(packet_id)
            self._send(Ack(PacketType.PUBCOMP, packet_id))
            return
        assert packet.reason_code in (0, 0x10, 0x92), packet
        if packet.kind == PacketType.PUBACK:
            self._done(self._outgoing.pop(packet_id, None))
        elif packet.kind == PacketType.PUBREC:
            sent = self._outgoing.pop(packet_id, None)
            if sent is not None:
                self._released[packet_id] = sent
            self._send(Ack(PacketType.PUBREL, packet_id))
        elif packet.kind == PacketType.PUBCOMP:
            self._done(self._released.pop(packet_id, None))
        self._pump()

    def _done(self, packet: Publish | None) -> None:
        if packet is not None:
            self.acked.append((packet.topic, packet.payload, packet.qos))

    @property
    def unacked(self) -> int:
        """Messages that wait for their acknowledgement, or to be sent."""
        return len(self._outgoing) + len(self._released) + len(self._waiting)
