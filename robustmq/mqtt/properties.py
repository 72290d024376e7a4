"""The table of MQTT 5.0 properties (section 2.2.2) and the code that walks it.

One row a property: identifier, name, type, the packets that may carry it, and the values it may
have. A property that its packet may not carry is malformed [section 2.2.2.2]; a second copy of a
single property, or a value outside its range, is a protocol error, and a topic alias of 0 has its
own reason code [MQTT-3.3.2-8]. Only User Property may be repeated anywhere, and Subscription
Identifier in a PUBLISH of the server.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.packets import NO_PROPERTIES, PacketType, Properties
from robustmq.mqtt.wire import (
    MAXIMUM_VARIABLE_BYTE_INTEGER,
    Reader,
    protocol_error,
    put_binary,
    put_four_byte_integer,
    put_string,
    put_string_pair,
    put_two_byte_integer,
    put_variable_byte_integer,
)

WILL: Final = 16
"""Stands beside the packet types for the properties of a will."""


class Type(enum.Enum):
    """How a property's value is written."""

    BYTE = enum.auto()
    TWO_BYTE_INTEGER = enum.auto()
    FOUR_BYTE_INTEGER = enum.auto()
    VARIABLE_BYTE_INTEGER = enum.auto()
    BINARY = enum.auto()
    STRING = enum.auto()
    TOPIC = enum.auto()
    STRING_PAIR = enum.auto()


class Row(NamedTuple):
    """One property."""

    identifier: int
    name: str
    type: Type
    packets: frozenset[int]
    minimum: int = 0
    maximum: int = 0xFFFFFFFF


def _in(*packets: int) -> frozenset[int]:
    return frozenset(packets)


_P = PacketType
_MESSAGE = _in(_P.PUBLISH, WILL)
_AUTHENTICATION = _in(_P.CONNECT, _P.CONNACK, _P.AUTH)
_LIMITS = _in(_P.CONNECT, _P.CONNACK)
_ACKS = (_P.PUBACK, _P.PUBREC, _P.PUBREL, _P.PUBCOMP, _P.SUBACK, _P.UNSUBACK)
_REASON = _in(_P.CONNACK, *_ACKS, _P.DISCONNECT, _P.AUTH)
_EVERY = _REASON | _in(_P.CONNECT, _P.PUBLISH, _P.SUBSCRIBE, _P.UNSUBSCRIBE, WILL)
_CONNACK = _in(_P.CONNACK)

TABLE: Final[tuple[Row, ...]] = (
    Row(0x01, "payload_format_indicator", Type.BYTE, _MESSAGE, 0, 1),
    Row(0x02, "message_expiry_interval", Type.FOUR_BYTE_INTEGER, _MESSAGE),
    Row(0x03, "content_type", Type.STRING, _MESSAGE),
    Row(0x08, "response_topic", Type.TOPIC, _MESSAGE),
    Row(0x09, "correlation_data", Type.BINARY, _MESSAGE),
    Row(
        0x0B,
        "subscription_identifiers",
        Type.VARIABLE_BYTE_INTEGER,
        _in(_P.PUBLISH, _P.SUBSCRIBE),
        1,
        MAXIMUM_VARIABLE_BYTE_INTEGER,
    ),
    Row(
        0x11,
        "session_expiry_interval",
        Type.FOUR_BYTE_INTEGER,
        _in(_P.CONNECT, _P.CONNACK, _P.DISCONNECT),
    ),
    Row(0x12, "assigned_client_identifier", Type.STRING, _CONNACK),
    Row(0x13, "server_keep_alive", Type.TWO_BYTE_INTEGER, _CONNACK),
    Row(0x15, "authentication_method", Type.STRING, _AUTHENTICATION),
    Row(0x16, "authentication_data", Type.BINARY, _AUTHENTICATION),
    Row(0x17, "request_problem_information", Type.BYTE, _in(_P.CONNECT), 0, 1),
    Row(0x18, "will_delay_interval", Type.FOUR_BYTE_INTEGER, _in(WILL)),
    Row(0x19, "request_response_information", Type.BYTE, _in(_P.CONNECT), 0, 1),
    Row(0x1A, "response_information", Type.STRING, _CONNACK),
    Row(0x1C, "server_reference", Type.STRING, _in(_P.CONNACK, _P.DISCONNECT)),
    Row(0x1F, "reason_string", Type.STRING, _REASON),
    Row(0x21, "receive_maximum", Type.TWO_BYTE_INTEGER, _LIMITS, 1),
    Row(0x22, "topic_alias_maximum", Type.TWO_BYTE_INTEGER, _LIMITS),
    Row(0x23, "topic_alias", Type.TWO_BYTE_INTEGER, _in(_P.PUBLISH), 1),
    Row(0x24, "maximum_qos", Type.BYTE, _CONNACK, 0, 1),
    Row(0x25, "retain_available", Type.BYTE, _CONNACK, 0, 1),
    Row(0x26, "user_properties", Type.STRING_PAIR, _EVERY),
    Row(0x27, "maximum_packet_size", Type.FOUR_BYTE_INTEGER, _LIMITS, 1),
    Row(0x28, "wildcard_subscription_available", Type.BYTE, _CONNACK, 0, 1),
    Row(0x29, "subscription_identifier_available", Type.BYTE, _CONNACK, 0, 1),
    Row(0x2A, "shared_subscription_available", Type.BYTE, _CONNACK, 0, 1),
)

_BY_IDENTIFIER: Final = {row.identifier: row for row in TABLE}
_REPEATED: Final = frozenset({"user_properties", "subscription_identifiers"})

_READ: Final[dict[Type, Callable[[Reader], Any]]] = {
    Type.BYTE: Reader.byte,
    Type.TWO_BYTE_INTEGER: Reader.two_byte_integer,
    Type.FOUR_BYTE_INTEGER: Reader.four_byte_integer,
    Type.VARIABLE_BYTE_INTEGER: Reader.variable_byte_integer,
    Type.BINARY: Reader.binary,
    Type.STRING: Reader.string,
    Type.TOPIC: Reader.utf8,
    Type.STRING_PAIR: Reader.string_pair,
}

_PUT: Final[dict[Type, Callable[[bytearray, Any], None]]] = {
    Type.BYTE: bytearray.append,
    Type.TWO_BYTE_INTEGER: put_two_byte_integer,
    Type.FOUR_BYTE_INTEGER: put_four_byte_integer,
    Type.VARIABLE_BYTE_INTEGER: put_variable_byte_integer,
    Type.BINARY: put_binary,
    Type.STRING: put_string,
    Type.TOPIC: put_binary,
    Type.STRING_PAIR: put_string_pair,
}


def read(reader: Reader, packet: int) -> Properties:
    """Read a property length and the properties of a packet (or of a will, with `WILL`)."""
    length = reader.variable_byte_integer()
    if not length:
        return NO_PROPERTIES
    if length > reader.bounds.properties_bytes:
        raise BrokerError(Fault.PACKET_TOO_LARGE, f"{length} bytes of properties")
    part = reader.part(length)
    values: dict[str, Any] = {}
    while part.remaining:
        _read_one(part, packet, values)
    for name in _REPEATED & values.keys():
        values[name] = tuple(values[name])
    return Properties(**values)


def _read_one(reader: Reader, packet: int, values: dict[str, Any]) -> None:
    identifier = reader.variable_byte_integer()
    row = _BY_IDENTIFIER.get(identifier)
    if row is None or packet not in row.packets:
        raise BrokerError(
            Fault.MALFORMED_PACKET, f"property 0x{identifier:02x} is not allowed in this packet"
        )
    value = _READ[row.type](reader)
    if isinstance(value, int) and not row.minimum <= value <= row.maximum:
        fault = Fault.TOPIC_ALIAS_INVALID if row.name == "topic_alias" else Fault.PROTOCOL_ERROR
        raise BrokerError(fault, f"{row.name} is out of range")
    if row.type is Type.TOPIC and (not value or b"+" in value or b"#" in value):
        raise protocol_error(f"{row.name} is no topic name")
    if row.name in _REPEATED:
        single = packet == PacketType.SUBSCRIBE and row.type is not Type.STRING_PAIR
        if single and row.name in values:
            raise protocol_error(f"{row.name} comes twice")
        rows = values.setdefault(row.name, [])
        rows.append(value)
        if len(rows) > reader.bounds.user_properties:
            raise protocol_error(f"more than {reader.bounds.user_properties} user properties")
    elif row.name in values:
        raise protocol_error(f"{row.name} comes twice")
    else:
        values[row.name] = value


def write(out: bytearray, properties: Properties, packet: int) -> None:
    """Append the property length and the properties."""
    if properties is NO_PROPERTIES:
        out.append(0)
        return
    body = bytearray()
    for row in TABLE:
        value = getattr(properties, row.name)
        if value is None or value == ():
            continue
        assert packet in row.packets, f"{row.name} is not allowed in this packet"
        put = _PUT[row.type]
        values: Iterable[Any] = value if row.name in _REPEATED else (value,)
        for one in values:
            put_variable_byte_integer(body, row.identifier)
            put(body, one)
    put_variable_byte_integer(out, len(body))
    out += body


def without_problem_information(properties: Properties) -> Properties:
    """Drop Reason String and User Property, for a client with Request Problem Information 0.

    PUBLISH, CONNACK and DISCONNECT keep them [MQTT-3.1.2-29].
    """
    return msgspec.structs.replace(properties, reason_string=None, user_properties=())
