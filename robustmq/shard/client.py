"""The server's side of one MQTT connection, without I/O: bytes in, effects on the broker, bytes
out.

The hot packets never become objects: runs of PUBLISH go through the compiled `Publisher` into the
router's builders, runs of acknowledgements into arrays of packet identifiers. All others are
decoded by `mqtt.codec` and handled here.

Invariants: acknowledgements leave in the order of the packets that they answer [MQTT-4.6.0-2 to
-4]; nothing but CONNECT is handled before it is accepted [MQTT-3.1.0-1], and what a client sends
after it in the same breath waits; a fault ends this connection alone, with the protocol's reason
code.
"""

from __future__ import annotations

import traceback
from array import array
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from robustmq.core import acks, frames
from robustmq.core.publish import Publisher
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.mqtt import codec
from robustmq.mqtt.connect import refusal
from robustmq.mqtt.packets import (
    MQTT_5_0,
    Ack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from robustmq.mqtt.reasons import reason_for
from robustmq.mqtt.session import FIRST_ERROR
from robustmq.promises import Promise, start
from robustmq.shard import sys_events
from robustmq.shard.router import AckGroup

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker
    from robustmq.shard.naming import Naming
    from robustmq.shard.subscriber import Subscriber

TABLE_ROWS = 4096
SLICE_STEPS = 256
"""Packets, or runs of them, that are handled in a row; what was read behind them waits for the next
turn, so that a flood of small requests does not hold the loop."""
SUBSCRIBE_STEPS = 8
MAX_ASKED = 64
"""SUBSCRIBE and UNSUBSCRIBE packets of a client that wait for their answers; then it waits, too."""

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, UNSUBSCRIBE = 3, 4, 5, 6, 7, 8, 10

_NO_ACKS: deque[AckGroup] = deque()
"""The groups of those who have had none yet: a deque takes 600 bytes, and most clients are idle."""


class Transport(Protocol):
    """What carries the bytes; not `writable` while the client reads too slowly."""

    writable: bool

    def write(self, data: bytes | bytearray) -> None:
        """Queue bytes for the client."""
        ...

    def close(self) -> None:
        """Close after what is queued has been sent."""
        ...

    def pause_reading(self) -> None:
        """Stop reading: the client is slowed down by TCP."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...


class _Nowhere:
    """Carries nothing: the transport of a connection that has ended."""

    writable = False

    def write(self, data: bytes | bytearray) -> None:
        """Nobody reads it."""

    def close(self) -> None:
        """It is closed."""

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""


NOWHERE = _Nowhere()


class MqttClient:
    """One connection. The shell calls `received`, `lost` and `check_keep_alive`; the broker calls
    the rest."""

    __slots__ = (
        "_acks",
        "_ahead",
        "_asked",
        "_broker",
        "_connect",
        "_connecting",
        "_full",
        "_held",
        "_largest",
        "_needed",
        "_paused",
        "_reason",
        "_sliced",
        "_slowed",
        "_transport",
        "_unacked",
        "_unreleased",
        "_version",
        "address",
        "closed",
        "connected_at_ms",
        "identity",
        "keep_alive_ms",
        "last_packet_ms",
        "listener",
        "naming",
        "publisher",
        "rest",
        "subscriber",
        "writing",
    )

    def __init__(
        self,
        broker: Broker,
        transport: Transport,
        address: str,
        listener: Listener,
        now_ms: int,
        identity: str = "",
    ) -> None:
        self._broker = broker
        self._transport = transport
        self.address = address
        self.listener = listener
        self.identity = identity
        self.naming: Naming
        self.subscriber: Subscriber | None = None
        self.closed = False
        self.writing = False
        self._connecting = False
        self.rest: bytes | bytearray = b""
        self._needed = 0
        self._version = 0
        self._connect: Connect | None = None
        self._largest = 0
        self.publisher: Publisher | None = None
        self._acks = _NO_ACKS
        self._unacked = 0
        self._unreleased: set[int] = set()
        self._held = False
        self._ahead = False
        self._full = False
        self._paused = False
        self._asked = 0
        self._sliced = False
        self._slowed = False
        self.last_packet_ms = now_ms
        self.connected_at_ms = 0
        self._reason = sys_events.CLOSED
        self.keep_alive_ms = 0

    @property
    def host(self) -> str:
        """The address that the client connects from, without its port."""
        return self.address.rpartition(":")[0].strip("[]") or self.address

    @property
    def connect_packet(self) -> Connect:
        """What it has said of itself."""
        assert self._connect is not None, "a client that was let in has sent CONNECT"
        return self._connect

    @property
    def user_name(self) -> str | None:
        """Who the client says it is."""
        return self._connect.user_name if self._connect is not None else None

    # -- bytes in ----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.closed:
            return
        if self.rest or self._connecting or self._sliced:
            # A large packet comes in many pieces: they are joined once.
            if not isinstance(self.rest, bytearray):
                self.rest = bytearray(self.rest)
            self.rest += data
            if self._connecting or self._sliced:
                self._read_or_not()
                return
            if len(self.rest) < self._needed:
                return
            data = bytes(self.rest)
            self.rest = b""
        try:
            self._scan(data)
            if len(data) > self._broker.limits.max_turn_bytes:
                # Large packets do not gather: a block has to go into one frame.
                self._broker.router.flush()
        except BrokerError as error:
            if not self._version:
                self._version = codec.answer_version(data)
            self.failed(error)

    def failed(self, error: BrokerError) -> None:
        """What came is not sound: what came before it is answered first."""
        self._finish_acks()
        self.end_with(error)

    def _scan(self, data: bytes) -> None:
        limits = self._broker.limits
        begin, end = 0, len(data)
        table = self._broker.frame_table
        while begin < end and not self.closed:
            connected = self.publisher is not None
            largest = limits.max_packet_bytes if connected else limits.max_connect_bytes
            count, consumed = frames.scan(data, begin, end, table, largest)
            if not count:
                break
            self.last_packet_ms = self._broker.monotonic_ms()
            row = self._handle(data, table, count)
            begin = consumed if row == count else table[4 * row + 3]
            if self._connecting or self._sliced:
                break
        self._finish_acks()
        if begin < end and not self.closed:
            self.rest = data[begin:]
            self._needed = frames.needed(data, begin, end)
        if self._sliced:
            self._read_or_not()
            if self._asked < MAX_ASKED:
                self._broker.around.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The next slice of what was read."""
        self._sliced = False
        rest, self.rest = self.rest, b""
        if rest:
            self.received(bytes(rest))
        self._read_or_not()

    def _handle(self, data: bytes, table: array[int], count: int) -> int:
        """Handle frames of the table; the first row that must wait (for CONNECT to be accepted, or
        for the next turn)."""
        row = steps = 0
        while row < count and not self.closed:
            kind = table[4 * row] >> 4
            steps += 1
            if kind == PUBLISH and self.publisher is not None:
                row = self._publishes(data, table, row, count)
            elif PUBACK <= kind <= PUBCOMP and self.subscriber is not None:
                after = self._acknowledgements(data, table, row, count, kind)
                self._broker.packets_in += after - row
                row = after
            else:
                self._broker.packets_in += 1
                self._packet(data, table, row)
                if kind in (SUBSCRIBE, UNSUBSCRIBE):
                    steps += SUBSCRIBE_STEPS
                row += 1
                if self._connecting:
                    return row
            if steps >= SLICE_STEPS or self._asked >= MAX_ASKED:
                self._sliced = True
                return row
        return count

    def _packet(self, data: bytes, table: array[int], row: int) -> None:
        header, begin, end = table[4 * row], table[4 * row + 1], table[4 * row + 2]
        if self.publisher is None and header >> 4 != PacketType.CONNECT:
            raise BrokerError(Fault.PROTOCOL_ERROR, "the first packet is not CONNECT")
        self._packets(
            codec.decode(header, data, begin, end, self._version, bounds=self._broker.bounds)
        )

    def _packets(self, packet: Packet) -> None:
        match packet:
            case Connect():
                self._on_connect(packet)
            case Subscribe():
                self._run(self._subscribe(packet))
            case Unsubscribe():
                self._run(self._unsubscribe(packet))
            case PingReq():
                self.send(PingResp())
            case Disconnect():
                self._on_disconnect(packet)
            case _:
                raise BrokerError(Fault.PROTOCOL_ERROR, f"unexpected {type(packet).__name__}")

    def _run(self, conversation: Coroutine[Promise[Any], None, None]) -> None:
        """Run what answers a packet. It handles the faults of its peer; any other error is ours: it
        is logged, and costs this connection alone."""
        outcome = start(conversation)

        def settled() -> None:
            try:
                outcome.result()
            except Exception as error:  # noqa: BLE001
                # Not raised: this runs among the callbacks of a promise that others wait for too.
                trace = "".join(traceback.format_exception(error))
                self._broker.around.log("error", "a packet's answer failed", trace=trace)
                self.end(Fault.UNSPECIFIED)

        outcome.when_settled(settled)

    # -- publishing --------------------------------------------------------------------------------

    def _publishes(self, data: bytes, table: array[int], row: int, count: int) -> int:
        publisher = self.publisher
        assert publisher is not None, "PUBLISH is handled after CONNECT"
        self._broker.turn()
        after = publisher.absorb(data, table, row, count, self._broker.wall_ms())
        if after < count and table[4 * after] >> 4 == PUBLISH:
            self._publish_one(publisher, data, table, after)
            after += 1
        self._check_receive_maximum(self._unacked + len(publisher.packet_ids))
        return after

    def _check_receive_maximum(self, unacked: int) -> None:
        """A 5.0 client that sends more than it may is ended [MQTT-3.3.4-7]; one of 3.x cannot know,
        and is not read until what it has sent is answered."""
        maximum = self._broker.capabilities.receive_maximum
        if self._version == MQTT_5_0:
            if unacked + len(self._unreleased) > maximum:
                raise BrokerError(Fault.RECEIVE_MAXIMUM_EXCEEDED)
        elif (unacked > maximum) != self._ahead:
            self._ahead = not self._ahead
            self._read_or_not()

    def _publish_one(self, publisher: Publisher, data: bytes, table: array[int], row: int) -> None:
        """QoS 2, what may not be published, or is answered alone: what the compiled core leaves to
        us."""
        self._finish_acks()
        subscriber = self.subscriber
        assert subscriber is not None, "PUBLISH is handled after CONNECT"
        _, qos, retain, _, packet_id = publisher.peek(data, table, row)
        if qos == 2 and packet_id in subscriber.session.inbound_qos2:
            # It is in the log: only the answer was lost (section 4.3.3).
            self._queue_group(self._group(array("H", [packet_id]), 2), [])
            return
        generation = subscriber.session.generation(packet_id) if qos == 2 else 0
        wall_ms = self._broker.wall_ms()
        alone = retain and publisher.retain_alone
        if alone:
            # A block of its own: when it is refused, nothing else is.
            self._broker.router.flush()
        _, _, builder = publisher.absorb_one(data, table, row, wall_ms, generation)
        # Its builder is this group's alone: a later group must not wait for an empty builder.
        publisher.ack_builders.clear()
        if qos:
            group = self._group(array("H", [packet_id]), qos)
            if builder < 0:
                group.fault = publisher.refusal
            self._queue_group(group, [builder] if builder >= 0 else [])
        if alone:
            self._broker.router.flush()

    def _finish_acks(self) -> None:
        """The QoS 1 packets read so far are one group: it waits for the blocks that they
        went into."""
        publisher = self.publisher
        if publisher is None or not publisher.packet_ids:
            return
        group = self._group(publisher.packet_ids, 1)
        publisher.packet_ids = array("H")
        builders = list(publisher.ack_builders)
        publisher.ack_builders.clear()
        self._queue_group(group, builders)

    def _group(self, packet_ids: array[int], qos: int) -> AckGroup:
        failed = None if self._version == MQTT_5_0 else self._group_failed
        return AckGroup(packet_ids, qos, self._group_done, failed)

    def _group_failed(self, group: AckGroup) -> None:
        """3.x: what cannot be taken ends the connection at once, before anything behind it is."""
        if group.fault is not Fault.NOT_AUTHORIZED and not self.closed:
            self._refuse(group)

    def _queue_group(self, group: AckGroup, builders: list[int]) -> None:
        if self._acks is _NO_ACKS:
            self._acks = deque()
        self._acks.append(group)
        self._unacked += len(group.packet_ids)
        if builders:
            self._broker.turn()
            self._broker.router.await_ack(group, builders)
        else:
            self._group_done(group)

    def _group_done(self, _group: AckGroup) -> None:
        """Send the acknowledgements whose turn has come."""
        while self._acks and not self._acks[0].remaining:
            group = self._acks.popleft()
            self._unacked -= len(group.packet_ids)
            if self.closed or self.subscriber is None:
                continue
            if group.fault is not None:
                self._refuse(group)
            elif group.qos == 1:
                self._write_acks(PUBACK, group.packet_ids)
            else:
                self._broker.sessions.received_qos2(
                    self.subscriber,
                    group.packet_ids,
                    self._write_received,
                )

        if self._ahead:
            self._check_receive_maximum(self._unacked)

    def _write_received(self, packet_ids: array[int]) -> None:
        self._unreleased.update(packet_ids)
        self._write_acks(PUBREC, packet_ids)

    def _refuse(self, group: AckGroup) -> None:
        """The publish failed: 5.0 says why in the acknowledgement. 3.x has no word for it: what is
        not allowed is acknowledged and dropped, as other brokers do (bridges of mosquitto count on
        it); anything else ends the connection, so that the client sends it again
        [MQTT-3.3.5-2 and MQTT-4.8.0-2 of 3.1.1]."""
        assert group.fault is not None, "only a failed group is refused"
        kind = PUBACK if group.qos == 1 else PUBREC
        if self._version != MQTT_5_0:
            if group.fault is Fault.NOT_AUTHORIZED:
                self._write_acks(kind, group.packet_ids)
            else:
                self.end_with(BrokerError(group.fault))
            return
        for packet_id in group.packet_ids:
            self.send(Ack(kind, packet_id, reason_for(kind, group.fault)))

    # -- acknowledgements --------------------------------------------------------------------------

    def _acknowledgements(
        self, data: bytes, table: array[int], row: int, count: int, kind: int
    ) -> int:
        subscriber = self.subscriber
        assert subscriber is not None, "acknowledgements are handled after CONNECT"
        packet_ids: array[int] = array("H")
        after = acks.parse(data, table, row, count, kind, packet_ids)
        sessions = self._broker.sessions
        if packet_ids:
            if kind == PUBREL:
                self._unreleased.difference_update(packet_ids)
                sessions.released_qos2(subscriber, packet_ids, self._write_completed)
            else:
                sessions.acknowledged(subscriber, kind, packet_ids)
        if after == row or not packet_ids:
            header, begin, end = table[4 * row], table[4 * row + 1], table[4 * row + 2]
            packet = codec.decode(
                header, data, begin, end, self._version, bounds=self._broker.bounds
            )
            assert isinstance(packet, Ack), "the kind says so"
            self._one_acknowledgement(subscriber, packet)
            after = row + 1
        return after

    def _one_acknowledgement(self, subscriber: Subscriber, packet: Ack) -> None:
        """An acknowledgement with a reason code or properties."""
        sessions = self._broker.sessions
        packet_ids = array("H", [packet.packet_id])
        if packet.kind == PUBREL:
            self._unreleased.discard(packet.packet_id)
            sessions.released_qos2(subscriber, packet_ids, self._write_completed)
        elif packet.kind == PUBREC and packet.reason_code >= FIRST_ERROR:
            sessions.refused(subscriber, packet.packet_id)
        else:
            # An error in PUBACK or PUBCOMP ends the delivery as success does [MQTT-4.4.0-2].
            sessions.acknowledged(subscriber, packet.kind, packet_ids)

    def _write_completed(self, packet_ids: array[int]) -> None:
        self._write_acks(PUBCOMP, packet_ids)

    def _write_acks(self, kind: int, packet_ids: array[int]) -> None:
        if not self.closed:
            self._broker.packets_out += len(packet_ids)
            self._queue(acks.encode(kind, packet_ids, 0, len(packet_ids)))

    # -- connecting --------------------------------------------------------------------------------

    def _on_connect(self, packet: Connect) -> None:
        if self._connect is not None:
            raise BrokerError(Fault.PROTOCOL_ERROR, "a second CONNECT [MQTT-3.1.0-2]")
        if self.listener.use_identity_as_username:
            # What a client calls itself does not count where its certificate says who it is.
            packet = msgspec.structs.replace(packet, user_name=self.identity, password=None)
        self._connect = packet
        self._version = packet.version
        self._largest = packet.properties.maximum_packet_size or 0
        self._connecting = True
        self._run(self._connect_session(packet))

    async def _connect_session(self, packet: Connect) -> None:
        try:
            opened = await self._broker.sessions.connect(self, packet)
        except BrokerError as error:
            self._connecting = False
            self.refuse_connect(error)
            return
        self._connecting = False
        if self.closed:
            self._broker.sessions.disconnected(opened.subscriber, self, None)
            return
        if self._too_large(codec.encode(opened.connack, self._version)):
            self._broker.sessions.disconnected(opened.subscriber, self, Disconnect())
            self.refuse_connect(BrokerError(Fault.PACKET_TOO_LARGE, "no room for CONNACK"))
            return
        subscriber = self.subscriber = opened.subscriber
        self.naming = opened.naming
        self.publisher = self._broker.publisher(packet.version, subscriber.origin, opened.naming)
        self.connected_at_ms = self._broker.wall_ms()
        self._broker.joined(self, subscriber.client_id)
        keep_alive_s = opened.keep_alive
        self.keep_alive_ms = keep_alive_s * 1500
        self.send(opened.connack)
        self._broker.sessions.resume(subscriber)
        rest, self.rest = self.rest, b""
        self._read_or_not()
        if rest:
            self.received(bytes(rest))
        await self._broker.sessions.send_retained(subscriber, opened.retained_for)

    def refuse_connect(self, error: BrokerError) -> None:
        """CONNACK with the reason, then close [MQTT-3.2.2-7]."""
        self._broker.fault(self, error)
        self._broker.count("mqtt_connect_refused", 1)
        if error.fault in (Fault.BAD_USER_NAME_OR_PASSWORD, Fault.NOT_AUTHORIZED):
            self._broker.count("mqtt_authentication_failures", 1)
        if not self.closed and self._version:
            connack = refusal(error.fault, self._version)
            if connack is not None:
                self._last_word(connack)
        self._close()

    # -- subscribing -------------------------------------------------------------------------------

    async def _subscribe(self, packet: Subscribe) -> None:
        subscriber = self.subscriber
        assert subscriber is not None, "SUBSCRIBE is handled after CONNECT"
        self._asked += 1
        try:
            inside = self.naming.subscribe(packet)
            new = self._broker.events.new_filters(self, inside)
            outcome = await self._broker.sessions.subscribe(subscriber, inside)
        except BrokerError as error:
            self.end_with(error)
            return
        finally:
            self._answered()
        if self.closed:
            return
        self.send(SubAck(packet.packet_id, outcome.reason_codes))
        self._broker.events.subscribed(self, packet, outcome.reason_codes, new)
        await self._broker.sessions.send_retained(subscriber, outcome.retained_for)

    async def _unsubscribe(self, packet: Unsubscribe) -> None:
        subscriber = self.subscriber
        assert subscriber is not None, "UNSUBSCRIBE is handled after CONNECT"
        self._asked += 1
        try:
            codes = await self._broker.sessions.unsubscribe(
                subscriber, self.naming.unsubscribe(packet)
            )
        except BrokerError as error:
            self.end_with(error)
            return
        finally:
            self._answered()
        if not self.closed:
            self.send(UnsubAck(packet.packet_id, codes))
            self._broker.events.unsubscribed(self, packet.filters, codes)

    def _answered(self) -> None:
        """A SUBSCRIBE or UNSUBSCRIBE waits no more: those behind it may have waited for that."""
        self._asked -= 1
        if self._asked == MAX_ASKED - 1 and self._sliced:
            self._broker.around.call_soon(self._go_on)

    # -- ending ------------------------------------------------------------------------------------

    def _on_disconnect(self, packet: Disconnect) -> None:
        subscriber, self.subscriber = self.subscriber, None
        self.closed = True
        assert subscriber is not None, "DISCONNECT is handled after CONNECT"
        try:
            self._broker.sessions.disconnected(subscriber, self, packet)
        except BrokerError as error:
            self.subscriber, self.closed = subscriber, False
            raise error
        self._broker.left(self, subscriber.client_id, sys_events.NORMAL)
        self._write_sink(subscriber)
        self._close()

    def end(self, fault: Fault) -> None:
        """The broker ends the connection (taken over, shutting down)."""
        self.end_with(BrokerError(fault))

    def end_with(self, error: BrokerError) -> None:
        """End with the protocol's own word: DISCONNECT in 5.0, CONNACK before, a close in 3.x."""
        if self.closed:
            return
        if self.publisher is None:
            self.refuse_connect(error)
            return
        self._broker.fault(self, error)
        self._reason = sys_events.reason_of(error.fault)
        subscriber = self.subscriber
        if subscriber is not None:
            self._write_sink(subscriber)
        if self._version == MQTT_5_0:
            self._last_word(Disconnect(reason_for(PacketType.DISCONNECT, error.fault)))
        self._close()

    def _close(self) -> None:
        self.closed = True
        self._transport.close()
        self.lost()

    def lost(self) -> None:
        """The transport is gone, by whoever's will."""
        self.closed = True
        # Each held the other: what has ended is freed at once, and not when the collector comes.
        self._transport = NOWHERE
        self._acks.clear()
        subscriber, self.subscriber = self.subscriber, None
        if subscriber is not None:
            self._broker.sessions.disconnected(subscriber, self, None)
            self._broker.left(self, subscriber.client_id, self._reason)
        self._broker.clients.discard(self)

    def check_keep_alive(self, now_ms: int, connect_timeout_ms: int) -> None:
        """End a client that has been silent for too long [MQTT-3.1.2-22], or never said CONNECT.

        Whole packets count; while we do not read, the silence is ours.
        """
        if self._paused:
            self.last_packet_ms = now_ms
        silent_ms = now_ms - self.last_packet_ms
        if self.publisher is None:
            connect_timeout_ms = self.listener.connect_timeout_ms or connect_timeout_ms
            if silent_ms > connect_timeout_ms and not self._connecting:
                self._broker.fault(self, BrokerError(Fault.KEEP_ALIVE_TIMEOUT, "no CONNECT"))
                self._close()
        elif self.keep_alive_ms and silent_ms > self.keep_alive_ms:
            self.end(Fault.KEEP_ALIVE_TIMEOUT)

    # -- bytes out ---------------------------------------------------------------------------------

    def send(self, packet: Packet) -> None:
        """Send one packet, in order with what is queued. One that is larger than the client takes
        is not sent, and nobody can go on without it [MQTT-3.1.2-24]."""
        data = codec.encode(packet, self._version)
        if self._too_large(data):
            self.end(Fault.PACKET_TOO_LARGE)
            return
        self._broker.packets_out += 1
        self._queue(data)

    def _last_word(self, packet: Packet) -> None:
        """Send a packet that ends the connection, if the client takes one of its size."""
        data = codec.encode(packet, self._version)
        if not self._too_large(data):
            self._transport.write(data)

    def _too_large(self, data: bytes) -> bool:
        return 0 < self._largest < len(data)

    def _queue(self, data: bytes | bytearray) -> None:
        """Bytes go out through the sink, in order with the messages, at the end of the turn."""
        if self.subscriber is None:
            self._transport.write(data)
        else:
            sink = self.subscriber.sink
            sink.append(data)
            if len(sink.data) > self.subscriber.limit and not self._full:
                # It sends, and does not read what we answer.
                self._full = True
                self._read_or_not()
            self.sink_ready()

    def sink_ready(self) -> None:
        """There are bytes in the sink: write them at the end of the turn."""
        self._broker.writing.add(self)

    def flush(self) -> int:
        """Write what the turn has put into the sink; how many bytes. A slow client's stay there,
        bounded."""
        subscriber = self.subscriber
        if subscriber is None or not self._transport.writable:
            return 0
        size = self._write_sink(subscriber)
        if size > subscriber.limit // 2 and self._transport.writable:
            # It was crowded, and all went at once.
            self._has_room(subscriber)
        return size

    def drained(self) -> None:
        """The client reads again: send what has gathered."""
        if self._broker.slow is not None and self.subscriber is not None:
            self._broker.slow.drained(self.subscriber)
        self.flush()
        if self.subscriber is not None:
            self._has_room(self.subscriber)

    def _has_room(self, subscriber: Subscriber) -> None:
        subscriber.has_room()
        self._broker.to_pump(subscriber)

    def _write_sink(self, subscriber: Subscriber) -> int:
        data = subscriber.sink.take()
        if data:
            self._transport.write(data)
            slow = self._broker.slow
            if slow is not None and not self._transport.writable:
                slow.stalled(subscriber, data)
        if self._full:
            self._full = False
            self._read_or_not()
        return len(data)

    def hold(self, held: bool) -> None:
        """Back-pressure: stop or go on reading this client."""
        self._held = held
        self._read_or_not()

    def slow(self, slowed: bool) -> None:
        """It has sent faster than it may: not read until it has waited for that."""
        self._slowed = slowed
        self._read_or_not()

    def _read_or_not(self) -> None:
        early = self._connecting and len(self.rest) > self._broker.limits.max_connect_bytes
        behind = self._ahead or self._full or self._sliced or self._slowed
        paused = self._held or behind or early
        if paused != self._paused and not self.closed:
            self._paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()
