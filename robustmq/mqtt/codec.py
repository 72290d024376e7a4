"""One control packet to a struct and back (MQTT 5.0 chapter 3, 3.1.1 chapter 3, MQTT 3.1).

`decode` takes the first byte of the fixed header and the body that the framing found; it accepts
exactly what a peer may send in that version and raises `BrokerError` with the reason for anything
else. `encode` writes whole packets. `from_client` says which direction is read: some packets and
properties go one way only.

What differs by version: 3.x has no properties and no reason codes but in CONNACK and SUBACK; 3.1
alone allows DUP in the fixed header of SUBSCRIBE, UNSUBSCRIBE and PUBREL, and user name flags
without the fields behind them. Client identifiers longer than 23 characters are taken in 3.1 too,
as every broker does.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Final

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt import properties as table
from robustmq.mqtt.packets import (
    MQTT_3_1,
    MQTT_3_1_1,
    MQTT_5_0,
    NO_PROPERTIES,
    Ack,
    Auth,
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
from robustmq.mqtt.reasons import FROM_CLIENT
from robustmq.mqtt.wire import (
    UNBOUNDED,
    Bounds,
    Buffer,
    Reader,
    malformed,
    protocol_error,
    put_binary,
    put_string,
    put_two_byte_integer,
    put_variable_byte_integer,
)

PEEK_MAXIMUM_BYTES: Final = 65_536
# A bridge of mosquitto asks with this bit first, and without it when the level is refused.
_BRIDGE: Final = 0x80
_PROTOCOLS: Final = {b"MQTT": (MQTT_3_1_1, MQTT_5_0), b"MQIsdp": (MQTT_3_1,)}

_FROM_CLIENT_ONLY: Final = frozenset(
    {PacketType.CONNECT, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE, PacketType.PINGREQ}
)
_FROM_SERVER_ONLY: Final = frozenset(
    {PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP}
)
_FLAGS: Final = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}


class Peek(msgspec.Struct, frozen=True, gc=False):
    """What the listener needs of a CONNECT that it has only peeked at."""

    version: int
    client_id: bytes
    clean_start: bool


def peek_connect(buffer: Buffer, maximum_bytes: int = PEEK_MAXIMUM_BYTES) -> Peek | None:
    """What the CONNECT at the begin of the buffer says of itself; None if more bytes are needed.

    Raises when the first packet is no CONNECT, is larger than `maximum_bytes`, or is malformed as
    far as looked at; the connection that reads it properly finds the rest.
    """
    if len(buffer) < 2:
        if buffer and buffer[0] != 0x10:
            raise protocol_error("the first packet is not CONNECT")
        return None
    if buffer[0] != 0x10:
        raise protocol_error("the first packet is not CONNECT")
    header = Reader(buffer, 1, min(len(buffer), 5))
    try:
        length = header.variable_byte_integer()
    except BrokerError:
        if len(buffer) < 5 and buffer[len(buffer) - 1] >= 0x80:
            return None
        raise
    end = header.position + length
    if end > maximum_bytes:
        raise BrokerError(Fault.PACKET_TOO_LARGE, f"CONNECT is larger than {maximum_bytes} bytes")
    reader = Reader(buffer, header.position, min(end, len(buffer)))
    try:
        version, flags = _connect_head(reader)
        if version == MQTT_5_0:
            reader.take(reader.variable_byte_integer())
        return Peek(version, reader.utf8(), bool(flags & 2))
    except BrokerError as error:
        if error.fault is Fault.MALFORMED_PACKET and end > len(buffer):
            return None
        raise


def answer_version(packet: Buffer) -> int:
    """The version in whose form a CONNECT that cannot be decoded is refused; 0: it is not MQTT.

    `packet` begins with the fixed header and may be cut short. A protocol level that is not known
    is answered in the form of the nearest that is [MQTT-3.1.2-2].
    """
    if not packet or packet[0] >> 4 != PacketType.CONNECT:
        return 0
    reader = Reader(packet, 1, len(packet))
    try:
        reader.variable_byte_integer()
        name, level = reader.binary(), reader.byte()
    except BrokerError:
        return 0
    if name not in _PROTOCOLS:
        return 0
    if name == b"MQIsdp":
        return MQTT_3_1
    return MQTT_5_0 if level & ~_BRIDGE >= MQTT_5_0 else MQTT_3_1_1


def decode(
    header: int,
    buffer: Buffer,
    begin: int,
    end: int,
    version: int,
    *,
    from_client: bool = True,
    bounds: Bounds = UNBOUNDED,
) -> Packet:
    """Decode the body `buffer[begin:end]` of the packet whose first byte is `header`."""
    kind = header >> 4
    if kind == 0 or (kind == PacketType.AUTH and version != MQTT_5_0):
        raise malformed("reserved packet type")
    if kind in (_FROM_SERVER_ONLY if from_client else _FROM_CLIENT_ONLY):
        raise protocol_error("packet of the wrong direction")
    flags = header & 15
    if kind != PacketType.PUBLISH and flags != _FLAGS.get(PacketType(kind), 0):
        with_dup_3_1 = version == MQTT_3_1 and flags == 10 and _FLAGS.get(PacketType(kind)) == 2
        if not with_dup_3_1:
            raise malformed("reserved flags of the fixed header")
    reader = Reader(buffer, begin, end, bounds)
    packet = _DECODERS[kind](header, reader, version, from_client)
    reader.finish()
    return packet


def _connect_head(reader: Reader) -> tuple[int, int]:
    name = reader.binary()
    versions = _PROTOCOLS.get(name)
    if versions is None:
        raise BrokerError(Fault.UNSUPPORTED_PROTOCOL_VERSION, "unknown protocol name")
    version = reader.byte()
    if version not in versions:
        raise BrokerError(
            Fault.UNSUPPORTED_PROTOCOL_VERSION, f"unsupported protocol version {version}"
        )
    flags = reader.byte()
    reader.take(2)
    return version, flags


def decode_connect(buffer: Buffer, begin: int, end: int, bounds: Bounds = UNBOUNDED) -> Connect:
    """Decode the body of a CONNECT of any version (section 3.1)."""
    reader = Reader(buffer, begin, end, bounds)
    version, flags = _connect_head(reader)
    keep_alive = int.from_bytes(bytes(buffer[reader.position - 2 : reader.position]), "big")
    _check_connect_flags(flags, version)
    properties = _properties(reader, PacketType.CONNECT, version)
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise protocol_error("authentication data without a method")
    client_id = reader.utf8()
    will = _read_will(reader, flags, version) if flags & 4 else None
    lenient = version == MQTT_3_1
    user_name = password = None
    if flags & 0x80 and not (lenient and not reader.remaining):
        user_name = reader.string()
    if flags & 0x40 and not (lenient and not reader.remaining):
        password = reader.binary()
    reader.finish()
    return Connect(
        version, client_id, bool(flags & 2), keep_alive, will, user_name, password, properties
    )


def _check_connect_flags(flags: int, version: int) -> None:
    if flags & 1:
        if version != MQTT_3_1:
            raise malformed("reserved connect flag [MQTT-3.1.2-3]")
    if flags & 4:
        if flags & 0x18 == 0x18:
            raise malformed("will QoS 3 [MQTT-3.1.2-12]")
    elif flags & 0x38:
        raise malformed("will QoS or retain without a will [MQTT-3.1.2-11]")
    if flags & 0x40 and not flags & 0x80 and version != MQTT_5_0:
        raise malformed("password without user name [MQTT-3.1.2-22]")


def _read_will(reader: Reader, flags: int, version: int) -> Will:
    properties = _properties(reader, table.WILL, version)
    topic = _topic_name(reader, may_be_empty=False)
    payload = reader.binary()
    return Will(topic, payload, flags >> 3 & 3, bool(flags & 0x20), properties)


def _properties(reader: Reader, packet: int, version: int) -> Properties:
    return table.read(reader, packet) if version == MQTT_5_0 else NO_PROPERTIES


def _topic_name(reader: Reader, may_be_empty: bool) -> bytes:
    topic = reader.utf8()
    if b"+" in topic or b"#" in topic or not (topic or may_be_empty):
        raise BrokerError(Fault.TOPIC_NAME_INVALID, "topic name is empty or has a wildcard")
    return topic


def _packet_id(reader: Reader) -> int:
    packet_id = reader.two_byte_integer()
    if not packet_id:
        raise protocol_error("packet identifier 0 [MQTT-2.2.1-3]")
    return packet_id


def _connect(_header: int, reader: Reader, _version: int, _from_client: bool) -> Packet:
    packet = decode_connect(reader.buffer, reader.position, reader.end, reader.bounds)
    reader.position = reader.end
    return packet


def _connack(_header: int, reader: Reader, version: int, _from_client: bool) -> Packet:
    flags = reader.byte()
    if flags > 1:
        raise malformed("reserved acknowledge flags [MQTT-3.2.2-1]")
    reason = reader.byte()
    if reason and flags:
        raise protocol_error("session present with an error [MQTT-3.2.2-6]")
    return ConnAck(bool(flags), reason, _properties(reader, PacketType.CONNACK, version))


def _publish(header: int, reader: Reader, version: int, from_client: bool) -> Packet:
    qos = header >> 1 & 3
    if qos == 3:
        raise malformed("QoS 3 [MQTT-3.3.1-4]")
    if not qos and header & 8:
        raise malformed("DUP with QoS 0 [MQTT-3.3.1-2]")
    topic = _topic_name(reader, may_be_empty=version == MQTT_5_0)
    packet_id = _packet_id(reader) if qos else 0
    properties = _properties(reader, PacketType.PUBLISH, version)
    if not topic and properties.topic_alias is None:
        raise protocol_error("empty topic without a topic alias")
    if from_client and properties.subscription_identifiers:
        raise protocol_error("subscription identifier from a client [MQTT-3.3.4-6]")
    return Publish(
        topic, reader.rest(), qos, bool(header & 1), bool(header & 8), packet_id, properties
    )


def _ack(header: int, reader: Reader, version: int, _from_client: bool) -> Packet:
    kind = header >> 4
    packet_id = _packet_id(reader)
    if version != MQTT_5_0 or not reader.remaining:
        return Ack(kind, packet_id)
    reason = _reason(reader.byte(), kind)
    return Ack(kind, packet_id, reason, _optional_properties(reader, kind))


def _reason(reason: int, packet: int) -> int:
    if reason not in FROM_CLIENT[packet]:
        raise protocol_error(f"reason code 0x{reason:02x} is not one of this packet")
    return reason


def _optional_properties(reader: Reader, packet: int) -> Properties:
    return table.read(reader, packet) if reader.remaining else NO_PROPERTIES


def _subscribe(_header: int, reader: Reader, version: int, _from_client: bool) -> Packet:
    packet_id = _packet_id(reader)
    properties = _properties(reader, PacketType.SUBSCRIBE, version)
    filters = []
    while reader.remaining:
        topic_filter = reader.utf8()
        filters.append((topic_filter, _options(reader.byte(), version, topic_filter)))
        _check_count(filters, reader)
    if not filters:
        raise protocol_error("SUBSCRIBE without a filter [MQTT-3.8.3-2]")
    return Subscribe(packet_id, tuple(filters), properties)


def _check_count(filters: Sized, reader: Reader) -> None:
    if len(filters) > reader.bounds.filters:
        raise BrokerError(Fault.QUOTA_EXCEEDED, f"more than {reader.bounds.filters} topic filters")


def _options(byte: int, version: int, topic_filter: bytes) -> SubscriptionOptions:
    if byte & (0xC0 if version == MQTT_5_0 else 0xFC):
        raise malformed("reserved bits of the subscription options [MQTT-3.8.3-5]")
    if byte & 3 == 3:
        raise protocol_error("maximum QoS 3")
    if byte & 0x30 == 0x30:
        raise protocol_error("retain handling 3")
    if byte & 4 and topic_filter.startswith((b"$share/", b"$queue/")):
        raise protocol_error("no local on a shared subscription [MQTT-3.8.3-4]")
    return SubscriptionOptions(byte & 3, bool(byte & 4), bool(byte & 8), byte >> 4)


def _suback(_header: int, reader: Reader, version: int, _from_client: bool) -> Packet:
    packet_id = _packet_id(reader)
    properties = _properties(reader, PacketType.SUBACK, version)
    return SubAck(packet_id, tuple(reader.rest()), properties)


def _unsubscribe(_header: int, reader: Reader, version: int, _from_client: bool) -> Packet:
    packet_id = _packet_id(reader)
    properties = _properties(reader, PacketType.UNSUBSCRIBE, version)
    filters = []
    while reader.remaining:
        filters.append(reader.utf8())
        _check_count(filters, reader)
    if not filters:
        raise protocol_error("UNSUBSCRIBE without a filter [MQTT-3.10.3-2]")
    return Unsubscribe(packet_id, tuple(filters), properties)


def _unsuback(_header: int, reader: Reader, version: int, _from_client: bool) -> Packet:
    packet_id = _packet_id(reader)
    properties = _properties(reader, PacketType.UNSUBACK, version)
    return UnsubAck(packet_id, tuple(reader.rest()) if version == MQTT_5_0 else (), properties)


def _disconnect(_header: int, reader: Reader, version: int, from_client: bool) -> Packet:
    if version != MQTT_5_0:
        if not from_client:
            raise protocol_error("DISCONNECT from a server of 3.x")
        return Disconnect()
    if not reader.remaining:
        return Disconnect()
    reason = reader.byte()
    if from_client:
        _reason(reason, PacketType.DISCONNECT)
    return Disconnect(reason, _optional_properties(reader, PacketType.DISCONNECT))


def _auth(_header: int, reader: Reader, _version: int, _from_client: bool) -> Packet:
    if not reader.remaining:
        return Auth()
    reason = _reason(reader.byte(), PacketType.AUTH)
    properties = _optional_properties(reader, PacketType.AUTH)
    if properties.authentication_method is None:
        raise protocol_error("AUTH without a method")
    return Auth(reason, properties)


_Decoder = Callable[[int, Reader, int, bool], Packet]
_DECODERS: Final[dict[int, _Decoder]] = {
    PacketType.CONNECT: _connect,
    PacketType.CONNACK: _connack,
    PacketType.PUBLISH: _publish,
    PacketType.PUBACK: _ack,
    PacketType.PUBREC: _ack,
    PacketType.PUBREL: _ack,
    PacketType.PUBCOMP: _ack,
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: lambda _header, _reader, _version, _from_client: PingReq(),
    PacketType.PINGRESP: lambda _header, _reader, _version, _from_client: PingResp(),
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}


def encode(packet: Packet, version: int) -> bytes:
    """The whole packet as bytes."""
    body = bytearray()
    header = _ENCODERS[type(packet)](packet, body, version)
    out = bytearray((header,))
    put_variable_byte_integer(out, len(body))
    out += body
    return bytes(out)


def _put_properties(body: bytearray, properties: Properties, packet: int, version: int) -> None:
    if version == MQTT_5_0:
        table.write(body, properties, packet)


def _put_connect(packet: Connect, body: bytearray, _version: int) -> int:
    version, will = packet.version, packet.will
    put_binary(body, b"MQIsdp" if version == MQTT_3_1 else b"MQTT")
    flags = packet.clean_start << 1
    flags |= (packet.user_name is not None) << 7 | (packet.password is not None) << 6
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
    body += bytes((version, flags))
    put_two_byte_integer(body, packet.keep_alive)
    _put_properties(body, packet.properties, PacketType.CONNECT, version)
    put_binary(body, packet.client_id)
    if will is not None:
        _put_properties(body, will.properties, table.WILL, version)
        put_binary(body, will.topic)
        put_binary(body, will.payload)
    if packet.user_name is not None:
        put_string(body, packet.user_name)
    if packet.password is not None:
        put_binary(body, packet.password)
    return 0x10


def _put_connack(packet: ConnAck, body: bytearray, version: int) -> int:
    body += bytes((packet.session_present, packet.reason_code))
    _put_properties(body, packet.properties, PacketType.CONNACK, version)
    return 0x20


def _put_publish(packet: Publish, body: bytearray, version: int) -> int:
    put_binary(body, packet.topic)
    if packet.qos:
        put_two_byte_integer(body, packet.packet_id)
    _put_properties(body, packet.properties, PacketType.PUBLISH, version)
    body += packet.payload
    return 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain


def _put_ack(packet: Ack, body: bytearray, version: int) -> int:
    put_two_byte_integer(body, packet.packet_id)
    if version == MQTT_5_0:
        _put_reason(body, packet.reason_code, packet.properties, packet.kind)
    return packet.kind << 4 | (2 if packet.kind == PacketType.PUBREL else 0)


def _put_reason(body: bytearray, reason: int, properties: Properties, packet: int) -> None:
    """Reason code and properties, each left out when the specification lets it."""
    if properties != NO_PROPERTIES:
        body.append(reason)
        table.write(body, properties, packet)
    elif reason:
        body.append(reason)


def _put_subscribe(packet: Subscribe, body: bytearray, version: int) -> int:
    put_two_byte_integer(body, packet.packet_id)
    _put_properties(body, packet.properties, PacketType.SUBSCRIBE, version)
    for topic_filter, options in packet.filters:
        put_binary(body, topic_filter)
        body.append(
            options.qos
            | options.no_local << 2
            | options.retain_as_published << 3
            | options.retain_handling << 4
        )
    return 0x82


def _put_suback(packet: SubAck, body: bytearray, version: int) -> int:
    put_two_byte_integer(body, packet.packet_id)
    _put_properties(body, packet.properties, PacketType.SUBACK, version)
    body += bytes(packet.reason_codes)
    return 0x90


def _put_unsubscribe(packet: Unsubscribe, body: bytearray, version: int) -> int:
    put_two_byte_integer(body, packet.packet_id)
    _put_properties(body, packet.properties, PacketType.UNSUBSCRIBE, version)
    for topic_filter in packet.filters:
        put_binary(body, topic_filter)
    return 0xA2


def _put_unsuback(packet: UnsubAck, body: bytearray, version: int) -> int:
    put_two_byte_integer(body, packet.packet_id)
    if version == MQTT_5_0:
        table.write(body, packet.properties, PacketType.UNSUBACK)
        body += bytes(packet.reason_codes)
    return 0xB0


def _put_disconnect(packet: Disconnect, body: bytearray, version: int) -> int:
    if version == MQTT_5_0:
        _put_reason(body, packet.reason_code, packet.properties, PacketType.DISCONNECT)
    return 0xE0


def _put_auth(packet: Auth, body: bytearray, _version: int) -> int:
    _put_reason(body, packet.reason_code, packet.properties, PacketType.AUTH)
    return 0xF0


_ENCODERS: Final[dict[type, Callable[..., int]]] = {
    Connect: _put_connect,
    ConnAck: _put_connack,
    Publish: _put_publish,
    Ack: _put_ack,
    Subscribe: _put_subscribe,
    SubAck: _put_suback,
    Unsubscribe: _put_unsubscribe,
    UnsubAck: _put_unsuback,
    PingReq: lambda _packet, _body, _version: 0xC0,
    PingResp: lambda _packet, _body, _version: 0xD0,
    Disconnect: _put_disconnect,
    Auth: _put_auth,
}
