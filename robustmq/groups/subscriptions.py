"""The consumer embedded protocol: what members of the classic protocol say in the metadata of
JoinGroup and read in the assignment of SyncGroup (protocol type "consumer"; ConsumerProtocol
messages of the Kafka clients, versions 0 to 3).

Topics are names on the wire and canonical keys here. What stands behind the fields that are read is
the assignor's own business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from robustmq import names

CONSUMER = "consumer"
_RACK_VERSION = 3
_OWNED_VERSION = 1


class EmbeddedSubscription(msgspec.Struct, frozen=True):
    """What a member wants, and what it says it has."""

    version: int
    topics: list[bytes]
    owned: list[tuple[bytes, list[int]]] = []
    rack_id: str | None = None


class Malformed(ValueError):
    """The bytes are not of the embedded protocol."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self, layout: str) -> int:
        value = struct.unpack_from(layout, self._data, self._position)[0]
        self._position += struct.calcsize(layout)
        return int(value)

    def count(self) -> int:
        """The length of an array; a null one has none."""
        count = self.number(">i")
        if count > len(self._data):
            raise Malformed("an array is longer than what holds it")
        return max(0, count)

    def text(self) -> str | None:
        length = self.number(">h")
        if length < 0:
            return None
        return self.raw(length).decode()

    def raw(self, length: int) -> bytes:
        end = self._position + length
        if length < 0 or end > len(self._data):
            raise Malformed("a field ends behind what holds it")
        data, self._position = self._data[self._position : end], end
        return data

    def topic(self) -> bytes:
        return names.from_kafka(self.text() or "")

    def places(self) -> list[tuple[bytes, list[int]]]:
        return [
            (self.topic(), [self.number(">i") for _ in range(self.count())])
            for _ in range(self.count())
        ]


def parse_subscription(metadata: bytes) -> EmbeddedSubscription:
    """Read the metadata of a member; raises Malformed."""
    reader = _Reader(metadata)
    try:
        version = reader.number(">h")
        topics = [reader.topic() for _ in range(reader.count())]
        owned: list[tuple[bytes, list[int]]] = []
        rack_id = None
        if version >= _OWNED_VERSION:
            length = reader.number(">i")
            reader.raw(max(0, length))
            owned = reader.places()
        if version >= _RACK_VERSION - 1:
            reader.number(">i")
        if version >= _RACK_VERSION:
            rack_id = reader.text()
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    return EmbeddedSubscription(version, topics, owned, rack_id)


def parse_assignment(data: bytes) -> list[tuple[bytes, list[int]]]:
    """Read the assignment of a member; none given: nothing. Raises Malformed."""
    if not data:
        return []
    reader = _Reader(data)
    try:
        reader.number(">h")
        return reader.places()
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error


def encode_assignment(version: int, places: Iterable[tuple[bytes, list[int]]]) -> bytes:
    """An assignment as members read it; topics that have no name in Kafka are left out."""
    shown = [
        (name.encode(), numbers)
        for name, numbers in ((names.to_kafka(topic), numbers) for topic, numbers in places)
        if name is not None
    ]
    parts = [struct.pack(">hi", version, len(shown))]
    for name, numbers in shown:
        parts.append(struct.pack(">h", len(name)) + name)
        parts.append(struct.pack(f">i{len(numbers)}i", len(numbers), *numbers))
    parts.append(struct.pack(">i", -1))
    return b"".join(parts)


def subscribed_topics(metadata: bytes) -> set[bytes]:
    """The topics a member is subscribed to; metadata of another kind names none."""
    try:
        return set(parse_subscription(metadata).topics)
    except Malformed:
        return set()
