"""Topic names: what is valid, and the bijection between MQTT and Kafka names (design section 7).

Inside the broker a topic is the MQTT name in UTF-8, as `bytes`. MQTT 5.0 section 4.7 says what a
topic name and a filter may be. Kafka allows `[a-zA-Z0-9._-]`, at most 249 characters, and not `.`
or `..`.

The image of an MQTT name: `/` becomes `.`; letters, digits, `-` and `_` stay; every other byte is
`_xHH`; a `_` that stands before an `x` is itself written `_x5f`, so that `_xHH` always is an
escape. A name whose image would be `.` or
`..` has its first character escaped. A Kafka name that no MQTT name maps to is kept as NUL + name:
NUL may not stand in an MQTT topic, so the two kinds never meet, and no subscriber sees it.
"""

from __future__ import annotations

import hashlib
import re
import uuid

from robustmq.errors import BrokerError, Fault

KAFKA_NAME_MAX = 249
UTF8_MAX = 65_535
SHARE_PREFIX = b"$share/"
QUEUE_PREFIX = b"$queue/"
QUEUE_GROUP = b"$queue"
"""The share group of `$queue/{filter}`, which is `$share/$queue/{filter}`."""
DELAYED_PREFIX = b"$delayed/"
EXCLUSIVE_PREFIX = b"$exclusive/"

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_IMAGE = {
    byte: chr(byte) if byte in _PLAIN else "." if byte == 0x2F else f"_x{byte:02x}"
    for byte in range(256)
}
# Names without an escape, which most are: they map letter by letter, several times as quickly.
_SIMPLE_TOPIC = re.compile(rb"(?:[a-zA-Z0-9/-]|_(?!x)){3,249}")
_SIMPLE_NAME = re.compile(r"(?:[a-zA-Z0-9.-]|_(?!x)){3,249}", re.ASCII)
_ID_NAMESPACE = b"robustmq light topic\0"


def to_kafka(topic: bytes) -> str | None:
    """The Kafka name of a topic; None when it cannot be shown by name."""
    if _SIMPLE_TOPIC.fullmatch(topic):
        return topic.decode("ascii").replace("/", ".")
    if topic[:1] == b"\0":
        return topic[1:].decode("utf-8", "replace")
    pieces = [_IMAGE[byte] for byte in topic]
    for at in range(len(topic) - 1):
        if topic[at] == 0x5F and topic[at + 1] == 0x78:
            pieces[at] = "_x5f"
    name = "".join(pieces)
    if name in (".", ".."):
        name = "_x2f" + name[1:]
    return name if 0 < len(name) <= KAFKA_NAME_MAX else None


def in_rules(topic: bytes) -> str:
    """The name that access rules have for a topic: its Kafka name, or for one that Kafka cannot
    show the form it would have."""
    return to_kafka(topic) or topic.decode("utf-8", "replace").replace("/", ".")


def from_kafka(name: str) -> bytes:
    """The topic of a Kafka name: total, and the inverse of `to_kafka`."""
    if _SIMPLE_NAME.fullmatch(name):
        return name.replace(".", "/").encode("ascii")
    topic = bytearray()
    at = 0
    while at < len(name):
        character = name[at]
        if character == "_" and name[at + 1 : at + 2] == "x":
            try:
                topic.append(int(name[at + 2 : at + 4], 16))
            except ValueError:
                break
            at += 4
        else:
            topic += b"/" if character == "." else character.encode("utf-8", "replace")
            at += 1
    if at >= len(name) and _is_topic(bytes(topic)) and to_kafka(bytes(topic)) == name:
        return bytes(topic)
    return b"\0" + name.encode("utf-8", "replace")


def topic_id(topic: bytes, generation: int) -> uuid.UUID:
    """The Kafka topic id of a light topic: of its name and of how often it was deleted and made
    again."""
    digest = hashlib.blake2b(
        _ID_NAMESPACE + generation.to_bytes(8, "little") + topic, digest_size=16
    )
    return uuid.UUID(bytes=digest.digest(), version=5)


def validate_topic(topic: bytes) -> None:
    """Raise TOPIC_NAME_INVALID for what MQTT does not allow as the topic of a message (section
    4.7)."""
    if not _is_topic(topic):
        raise BrokerError(Fault.TOPIC_NAME_INVALID)


def validate_filter(filter: bytes) -> None:
    """Raise TOPIC_FILTER_INVALID for a bad filter; `$share/` and `$queue/` are parted and checked
    too (section 4.8.2)."""
    _, plain = split_share(filter)
    if not _is_text(plain):
        raise BrokerError(Fault.TOPIC_FILTER_INVALID)
    if b"#" not in plain and b"+" not in plain:
        return
    levels = plain.split(b"/")
    for index, level in enumerate(levels):
        if b"#" in level and (level != b"#" or index != len(levels) - 1):
            raise BrokerError(Fault.TOPIC_FILTER_INVALID, "# must be the whole last level")
        if b"+" in level and level != b"+":
            raise BrokerError(Fault.TOPIC_FILTER_INVALID, "+ must be a whole level")


def split_share(filter: bytes) -> tuple[bytes | None, bytes]:
    """The share name (None for a plain subscription) and the filter in it."""
    if filter.startswith(QUEUE_PREFIX) or filter == QUEUE_GROUP:
        plain = filter[len(QUEUE_PREFIX) :]
        if not plain:
            raise BrokerError(Fault.TOPIC_FILTER_INVALID, "a queue is $queue/{filter}")
        return QUEUE_GROUP, plain
    if not filter.startswith(SHARE_PREFIX):
        if filter == SHARE_PREFIX[:-1]:
            raise BrokerError(Fault.TOPIC_FILTER_INVALID, "$share lacks a share name and a filter")
        return None, filter
    group, slash, plain = filter[len(SHARE_PREFIX) :].partition(b"/")
    if not group or not slash or not plain or b"+" in group or b"#" in group:
        raise BrokerError(Fault.TOPIC_FILTER_INVALID, "a shared filter is $share/{name}/{filter}")
    return group, plain


def split_prefix(filter: bytes) -> tuple[bytes, bytes]:
    """What says how a filter is subscribed to (`$share/{name}/`, `$exclusive/`, nothing), and the
    filter that topics are held against; raises TOPIC_FILTER_INVALID."""
    _, plain = split_share(filter)
    if plain is filter and filter.startswith(EXCLUSIVE_PREFIX):
        plain = filter[len(EXCLUSIVE_PREFIX) :]
    return filter[: len(filter) - len(plain)], plain


def split_delayed(topic: bytes) -> tuple[int, bytes]:
    """The seconds and the topic of `$delayed/{seconds}/{topic}`; raises TOPIC_NAME_INVALID for a
    name that is none."""
    seconds, slash, plain = topic[len(DELAYED_PREFIX) :].partition(b"/")
    if not slash or not plain or not seconds.isdigit() or len(seconds) > 10:
        raise BrokerError(
            Fault.TOPIC_NAME_INVALID, "a delayed topic is $delayed/{seconds}/{topic name}"
        )
    if plain.startswith(DELAYED_PREFIX):
        raise BrokerError(Fault.TOPIC_NAME_INVALID, "a delay within a delay")
    return int(seconds), plain


def _is_text(text: bytes) -> bool:
    if not 0 < len(text) <= UTF8_MAX or 0 in text:
        return False
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_topic(topic: bytes) -> bool:
    return _is_text(topic) and b"+" not in topic and b"#" not in topic
