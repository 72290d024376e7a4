"""What a record is, and how an MQTT message and a Kafka record are the same thing (design section
7).

A message is stored as a record with a null key; its QoS, RETAIN flag and properties become headers
named `mqtt.*` in one fixed order, and user properties follow under their own names, in their order.
The same names turn headers back into properties. A user property whose own name begins with `mqtt.`
is stored as
`mqtt.user.` + name, so that no client can forge the others. The compiled core writes and reads the
same bytes:
`core.publish` and
`core.fanout`.
"""

from __future__ import annotations

import msgspec

QOS = "mqtt.qos"
RETAIN = "mqtt.retain"
CONTENT_TYPE = "mqtt.content-type"
RESPONSE_TOPIC = "mqtt.response-topic"
CORRELATION_DATA = "mqtt.correlation-data"
MESSAGE_EXPIRY = "mqtt.message-expiry"
PAYLOAD_FORMAT = "mqtt.payload-format"
RESERVED_PREFIX = "mqtt."
USER_PREFIX = "mqtt.user."

Header = tuple[str, bytes | None]


class Record(msgspec.Struct):
    """One record of a log. `timestamp_ms` and `offset` -1: as the batch says."""

    key: bytes | None = None
    value: bytes | None = None
    headers: list[Header] = msgspec.field(default_factory=list)
    timestamp_ms: int = -1
    offset: int = -1


class Message(msgspec.Struct):
    """One MQTT application message, as it is published (MQTT 5.0 section 3.3)."""

    topic: bytes
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: list[tuple[str, str]] = msgspec.field(default_factory=list)
    timestamp_ms: int = -1
    offset: int = -1


def to_record(message: Message, key: bytes | None = None) -> Record:
    """The record of a message; a stream passes the topic as key."""
    headers: list[Header] = []
    if message.qos:
        headers.append((QOS, b"%d" % message.qos))
    if message.retain:
        headers.append((RETAIN, b"1"))
    if message.payload_format_indicator is not None:
        headers.append((PAYLOAD_FORMAT, b"%d" % message.payload_format_indicator))
    if message.message_expiry_interval is not None:
        headers.append((MESSAGE_EXPIRY, b"%d" % message.message_expiry_interval))
    if message.content_type is not None:
        headers.append((CONTENT_TYPE, message.content_type.encode()))
    if message.response_topic is not None:
        headers.append((RESPONSE_TOPIC, message.response_topic.encode()))
    if message.correlation_data is not None:
        headers.append((CORRELATION_DATA, message.correlation_data))
    for name, value in message.user_properties:
        if name.startswith(RESERVED_PREFIX):
            name = USER_PREFIX + name
        headers.append((name, value.encode()))
    return Record(key, message.payload, headers, message.timestamp_ms, message.offset)


def from_record(record: Record, topic: bytes, kafka: bool = False) -> Message:
    """The message of a record. `kafka`: the record came by Produce (it counts as QoS 1 when it
    names no QoS)."""
    message = Message(
        topic,
        record.value or b"",
        qos=1 if kafka else 0,
        timestamp_ms=record.timestamp_ms,
        offset=record.offset,
    )
    for name, value in record.headers:
        if name.startswith(RESERVED_PREFIX) and not name.startswith(USER_PREFIX):
            if _set_property(message, name, value or b""):
                continue
        elif name.startswith(USER_PREFIX):
            name = name[len(USER_PREFIX) :]
        text = _text(value)
        if text is not None and "\0" not in name and len(name.encode("utf-8", "replace")) <= 65_535:
            message.user_properties.append((name, text))
    return message


def _set_property(message: Message, name: str, value: bytes) -> bool:
    """True when the header is one of ours and was taken (or is void); False: treat it as
    any other."""
    if name == QOS:
        message.qos = 2 if value == b"2" else 1 if value == b"1" else 0
    elif name == RETAIN:
        message.retain = value == b"1"
    elif name == PAYLOAD_FORMAT:
        if value in (b"0", b"1"):
            message.payload_format_indicator = int(value)
    elif name == MESSAGE_EXPIRY:
        if value.isdigit() and len(value) <= 10:
            message.message_expiry_interval = min(int(value), 0xFFFFFFFF)
    elif name == CONTENT_TYPE:
        message.content_type = _text(value)
    elif name == RESPONSE_TOPIC:
        text = _text(value)
        if text and "+" not in text and "#" not in text:
            message.response_topic = text
    elif name == CORRELATION_DATA:
        if len(value) <= 65_535:
            message.correlation_data = value
    else:
        return False
    return True


def _text(value: bytes | None) -> str | None:
    """The value as an MQTT UTF-8 string, None when it is none."""
    if value is None or 0 in value or len(value) > 65_535:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None
