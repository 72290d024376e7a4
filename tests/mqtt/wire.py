"""A raw MQTT client for tests: sends what it is told, also what no client may send, and reads
packet by packet.

It answers nothing by itself: no acknowledgement, no ping. `client_id_on` and `topic_on` choose
names whose session or log lives on a given worker, so that publisher, subscriber and session can be
set apart.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import deque
from types import TracebackType
from typing import Any, Self, TypeVar

from robustmq.core.hashing import key_hash, topic_hash
from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    MQTT_5_0,
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    UnsubAck,
    Unsubscribe,
    Will,
)
from robustmq.shard.placement import SESSION_KIND

SHARDS = 16
"""The default of node.shards; shard n belongs to worker n modulo the number of workers."""

TIMEOUT_S = 10.0
PUBACK, PUBREC, PUBREL, PUBCOMP = (
    PacketType.PUBACK,
    PacketType.PUBREC,
    PacketType.PUBREL,
    PacketType.PUBCOMP,
)

P = TypeVar("P", bound=Packet)
_numbers = itertools.count(1)


def client_id_on(worker: int, workers: int, name: str = "c") -> bytes:
    """A fresh client id whose session lives on this worker."""
    while True:
        client_id = f"{name}-{next(_numbers)}".encode()
        if key_hash(SESSION_KIND, client_id) % SHARDS % workers == worker % workers:
            return client_id


def topic_on(worker: int, workers: int, name: str = "t") -> bytes:
    """A fresh topic whose log lives on this worker."""
    while True:
        topic = f"{name}{next(_numbers)}/x".encode()
        if topic_hash(topic, 0) % SHARDS % workers == worker % workers:
            return topic


class Closed(Exception):
    """The broker has closed the connection."""


def resumed(port: int, client_id: bytes, **options: Any) -> Wire:
    """A connection that goes on with a session, as soon as the worker that has it is there."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            wire = Wire(port)
            if wire.connect(client_id, False, **options).reason_code == 0:
                return wire
            wire.drop()
        except (Closed, OSError):
            assert time.monotonic() < deadline, "no worker took the session up"
            time.sleep(0.02)


class Wire:
    """One connection. `version` is the protocol level that packets are written and read by."""

    def __init__(
        self,
        port: int,
        version: int = MQTT_5_0,
        host: str = "127.0.0.1",
        carrier: socket.socket | None = None,
    ) -> None:
        """`carrier` is a socket that is connected already, by TLS or what else looks like one."""
        self.version = version
        self.socket = carrier or socket.create_connection((host, port), TIMEOUT_S)
        if carrier is None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bytes = b""
        self._early: deque[Packet] = deque()
        self._next_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()

    # -- bytes and packets -------------------------------------------------------------------------

    def send(self, *packets: Packet | bytes) -> None:
        """Send packets, or bytes as they are, in one write."""
        self.socket.sendall(
            b"".join(
                packet if isinstance(packet, bytes) else codec.encode(packet, self.version)
                for packet in packets
            )
        )

    def read(self, timeout_s: float = TIMEOUT_S) -> Packet:
        """The next packet. Raises Closed at the end of the connection, TimeoutError when none
        comes."""
        if self._early:
            return self._early.popleft()
        return self._arrival(time.monotonic() + timeout_s)

    def _arrival(self, deadline: float) -> Packet:
        while True:
            packet = self._cut()
            if packet is not None:
                return packet
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65_536)
            except ConnectionError as error:
                raise Closed from error
            if not data:
                raise Closed
            self._bytes += data

    def _cut(self) -> Packet | None:
        data = self._bytes
        length, shift, body = 0, 0, 1
        while True:
            if body >= len(data):
                return None
            byte = data[body]
            length |= (byte & 127) << shift
            shift += 7
            body += 1
            if byte < 128:
                break
        end = body + length
        if end > len(data):
            return None
        packet = codec.decode(data[0], data, body, end, self.version, from_client=False)
        self._bytes = data[end:]
        return packet

    def expect(self, kind: type[P], timeout_s: float = TIMEOUT_S) -> P:
        """The next packet, which is of this kind."""
        packet = self.read(timeout_s)
        assert isinstance(packet, kind), f"{packet} came instead of a {kind.__name__}"
        return packet

    def expect_ack(self, kind: int, packet_id: int | None = None) -> Ack:
        """The next packet, an acknowledgement of this kind (and for this identifier)."""
        packet = self.expect(Ack)
        assert packet.kind == kind, f"{packet} came instead of a {PacketType(kind).name}"
        assert packet_id is None or packet.packet_id == packet_id, packet
        return packet

    def wait_for(self, kind: type[P], acknowledges: int = 0) -> P:
        """The first packet of this kind (an Ack: of this sort); what comes before it stays for
        `read`."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            packet = self._arrival(deadline)
            if isinstance(packet, kind) and acknowledges in (0, getattr(packet, "kind", 0)):
                return packet
            self._early.append(packet)

    def expect_end(self, reason: int | None = None) -> None:
        """The connection ends; in 5.0 with a DISCONNECT of this reason, if one is given."""
        if reason is not None and self.version == MQTT_5_0:
            assert self.expect(Disconnect).reason_code == reason
        try:
            packet = self.read()
        except Closed:
            return
        raise AssertionError(f"{packet} came instead of the end of the connection")

    def expect_nothing(self) -> None:
        """Nothing waits for us: the answer to a ping is the next packet."""
        self.send(PingReq())
        self.expect(PingResp)

    def drop(self) -> None:
        """Cut the connection without a word."""
        self.socket.close()

    # -- conversations -----------------------------------------------------------------------------

    def connect(
        self,
        client_id: bytes = b"",
        clean_start: bool = True,
        *,
        expiry: int | None = None,
        keep_alive: int = 0,
        will: Will | None = None,
        user_name: str | None = None,
        password: bytes | None = None,
        **properties: Any,
    ) -> ConnAck:
        """CONNECT, and the CONNACK that answers it, whatever it says."""
        if self.version == MQTT_5_0:
            properties["session_expiry_interval"] = expiry
        self.send(
            Connect(
                self.version,
                client_id,
                clean_start,
                keep_alive,
                will,
                user_name,
                password,
                Properties(**properties),
            )
        )
        return self.expect(ConnAck)

    def next_id(self) -> int:
        """A packet identifier that was not used yet."""
        self._next_id += 1
        return self._next_id

    def subscribe(
        self, *filters: bytes, qos: int = 0, identifier: int | None = None, **options: Any
    ) -> tuple[int, ...]:
        """SUBSCRIBE with the same options for all filters; the codes of the SUBACK."""
        return self.subscribe_each(
            *((one, SubscriptionOptions(qos, **options)) for one in filters), identifier=identifier
        )

    def subscribe_each(
        self, *filters: tuple[bytes, SubscriptionOptions], identifier: int | None = None
    ) -> tuple[int, ...]:
        """SUBSCRIBE; the codes of the SUBACK."""
        packet_id = self.next_id()
        identifiers = () if identifier is None else (identifier,)
        properties = Properties(subscription_identifiers=identifiers)
        self.send(Subscribe(packet_id, filters, properties))
        answer = self.wait_for(SubAck)
        assert answer.packet_id == packet_id
        return answer.reason_codes

    def unsubscribe(self, *filters: bytes) -> tuple[int, ...]:
        """UNSUBSCRIBE; the codes of the UNSUBACK."""
        packet_id = self.next_id()
        self.send(Unsubscribe(packet_id, filters))
        answer = self.wait_for(UnsubAck)
        assert answer.packet_id == packet_id
        return answer.reason_codes

    def publish(
        self,
        topic: bytes,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        **properties: Any,
    ) -> int:
        """PUBLISH with its whole handshake; the reason code of the first answer (0 for QoS 0)."""
        packet_id = self.next_id() if qos else 0
        self.send(Publish(topic, payload, qos, retain, False, packet_id, Properties(**properties)))
        if not qos:
            return 0
        answer = self.wait_for(Ack, PUBACK if qos == 1 else PUBREC)
        assert answer.packet_id == packet_id
        if qos == 2 and answer.reason_code < 0x80:
            self.send(Ack(PUBREL, packet_id))
            assert self.wait_for(Ack, PUBCOMP) == Ack(PUBCOMP, packet_id)
        return answer.reason_code

    def receive(self, timeout_s: float = TIMEOUT_S) -> Publish:
        """The next packet, a PUBLISH, acknowledged to the end as its QoS asks."""
        packet = self.expect(Publish, timeout_s)
        if packet.qos == 1:
            self.send(Ack(PUBACK, packet.packet_id))
        elif packet.qos == 2:
            self.send(Ack(PUBREC, packet.packet_id))
            assert self.wait_for(Ack, PUBREL) == Ack(PUBREL, packet.packet_id)
            self.send(Ack(PUBCOMP, packet.packet_id))
        return packet

    def disconnect(self, reason_code: int = 0, **properties: Any) -> None:
        """DISCONNECT, and the end of the connection."""
        self.send(Disconnect(reason_code, Properties(**properties)))
        self.expect_end()
        self.drop()
