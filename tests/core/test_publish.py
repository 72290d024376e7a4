"""PUBLISH packets into blocks and out again (MQTT 5.0 section 3.3)."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.core import batches, blocks, fanout, frames
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.core.publish import BlockBuilder, Publisher, RouteTable, TopicRoute
from robustmq.errors import BrokerError, Fault
from robustmq.records import Message, from_record
from tests.core.tables import by_topic


def text(data: bytes) -> bytes:
    """A string with its length."""
    return len(data).to_bytes(2, "big") + data


def packet(
    topic: bytes,
    payload: bytes = b"x",
    first: int = 0x30,
    packet_id: int = 1,
    properties: bytes | None = b"",
) -> bytes:
    """A PUBLISH; `properties` None for 3.1.1."""
    body = text(topic)
    if first & 6:
        body += packet_id.to_bytes(2, "big")
    if properties is not None:
        body += fanout.identifiers_property((len(properties),))[1:] + properties
    body += payload
    return bytes([first]) + fanout.identifiers_property((len(body),))[1:] + body


class Side:
    """A publisher over four builders; topics that begin with `no` may not be written."""

    def __init__(self, version: int = 5) -> None:
        self.builders = [BlockBuilder(index, False) for index in range(4)]
        self.publisher = Publisher(
            version,
            77,
            RouteTable(),
            lambda t: TopicRoute(
                t,
                0,
                len(t) % 4,
                0,
                0,
                b"s" if t == b"str" else b"",
                Fault.NOT_AUTHORIZED if t[:2] == b"no" else None,
            ),
            self.builders,
            topic_alias_maximum=10,
            topic_length_max=100,
            topic_levels_max=8,
        )
        self.table = array("i", [0] * 4096)

    def absorb(self, data: bytes | bytearray) -> int:
        """The rows consumed."""
        count, end = frames.scan(data, 0, len(data), self.table)
        assert end == len(data)
        return self.publisher.absorb(data, self.table, 0, count, 1000)

    def messages(self) -> list[Message]:
        """What was stored, by entry."""
        found = []
        for builder in self.builders:
            block = builder.take()
            if block is None:
                continue
            for entry in blocks.entries(block):
                for record in batches.parse(block, entry.batch_begin, entry.end):
                    found.append(from_record(record, entry.topic))
        return found


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_run_is_grouped_by_topic_in_order(kind: type) -> None:
    side = Side()
    data = b"".join(packet(b"a" if n % 2 else b"bb", b"%d" % n) for n in range(600))
    assert side.absorb(kind(data)) == 600
    payloads = {t: [m.payload for m in side.messages() if m.topic == t] for t in (b"a",)}
    assert payloads[b"a"] == [b"%d" % n for n in range(600) if n % 2]


def test_qos_1_ids_keep_their_order_and_builders_are_named_once() -> None:
    side = Side()
    data = (
        packet(b"a", first=0x32, packet_id=9)
        + packet(b"b", first=0x32, packet_id=3)
        + packet(b"cc")
    )
    assert side.absorb(data) == 3
    assert list(side.publisher.packet_ids) == [9, 3]
    assert side.publisher.ack_builders == [1]
    assert side.publisher.tally.messages == 3


def test_what_python_must_handle_stops_the_run() -> None:
    side = Side()
    assert side.absorb(packet(b"no") + packet(b"a") + packet(b"no", first=0x32)) == 2
    assert side.publisher.tally.denied == 1
    assert side.absorb(packet(b"a") + b"\xc0\x00") == 1
    qos2 = packet(b"a", first=0x3C, packet_id=5)
    assert side.absorb(qos2) == 0
    assert side.publisher.peek(qos2, side.table, 0) == (b"a", 2, False, True, 5)
    assert side.publisher.absorb_one(qos2, side.table, 0, 1) == (5, 2, 1)
    block = side.builders[1].take()
    assert block is not None
    entry = blocks.entries(block)[-1]
    assert (entry.flags, entry.packet_id, entry.origin) == (
        blocks.ACK | blocks.QOS2 | blocks.DUP,
        5,
        77,
    )


def test_an_alias_stands_for_its_topic() -> None:
    side = Side()
    assert (
        side.absorb(
            packet(b"a", b"1", properties=b"\x23\0\x05")
            + packet(b"", b"2", properties=b"\x23\0\x05")
        )
        == 2
    )
    assert [(m.topic, m.payload) for m in side.messages()] == [(b"a", b"1"), (b"a", b"2")]


_BAD = [
    (packet(b"a", first=0x36), Fault.MALFORMED_PACKET),
    (packet(b"a", first=0x38), Fault.MALFORMED_PACKET),
    (packet(b"a", first=0x32, packet_id=0), Fault.PROTOCOL_ERROR),
    (packet(b""), Fault.PROTOCOL_ERROR),
    (packet(b"a/+"), Fault.TOPIC_NAME_INVALID),
    (packet(b"a/#"), Fault.TOPIC_NAME_INVALID),
    (packet(b"a" * 101), Fault.TOPIC_NAME_INVALID),
    (packet(b"/" * 8), Fault.TOPIC_NAME_INVALID),
    (packet(b"a\0"), Fault.MALFORMED_PACKET),
    (packet(b"\xed\xa0\x80"), Fault.MALFORMED_PACKET),
    (packet(b"\xc0\xaf"), Fault.MALFORMED_PACKET),
    (packet(b"a", properties=b"\x01\x01\x01\x01"), Fault.PROTOCOL_ERROR),
    (packet(b"a", properties=b"\x01\x02"), Fault.PROTOCOL_ERROR),
    (packet(b"a", properties=b"\x0b\x01"), Fault.PROTOCOL_ERROR),
    (packet(b"a", properties=b"\x11\0\0\0\1"), Fault.MALFORMED_PACKET),
    (packet(b"a", properties=b"\x23\0\0"), Fault.TOPIC_ALIAS_INVALID),
    (packet(b"a", properties=b"\x23\0\x0b"), Fault.TOPIC_ALIAS_INVALID),
    (packet(b"", properties=b"\x23\0\x07"), Fault.PROTOCOL_ERROR),
    (packet(b"a", properties=b"\x08" + text(b"r/#")), Fault.PROTOCOL_ERROR),
    (packet(b"a", properties=b"\x03" + text(b"\xff")), Fault.MALFORMED_PACKET),
    (packet(b"a", properties=b"\x26" + text(b"n")), Fault.MALFORMED_PACKET),
    (b"\x30\x03\x00\x01a", Fault.MALFORMED_PACKET),
    (b"\x30\x01\x00", Fault.MALFORMED_PACKET),
]


@pytest.mark.parametrize(("bad", "fault"), _BAD)
def test_a_bad_packet_raises_its_fault_and_what_precedes_it_stays(bad: bytes, fault: Fault) -> None:
    side = Side()
    with pytest.raises(BrokerError) as error:
        side.absorb(packet(b"a", b"good") + bad)
    assert error.value.fault is fault
    assert [message.payload for message in side.messages()] == [b"good"]


_strings = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=70
).map(str.encode)
_user = st.lists(st.tuples(_strings | _strings.map(b"mqtt.".__add__), _strings), max_size=3)


@settings(derandomize=True, max_examples=200, deadline=None)
def all_to(sink: Sink) -> Callable[[bytes], DeliveryRoute]:
    """One subscriber gets every topic."""
    variants = [Variant(5, 0, True, b"", [sink])]
    return lambda topic: DeliveryRoute(topic, variants, [], False)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"str", b"x/y"]),
            st.binary(max_size=300),
            st.sampled_from([0x30, 0x31, 0x32, 0x33, 0x3A]),
            st.none() | st.integers(6, 2**32 - 1),
            st.none() | _strings,
            st.none() | st.binary(max_size=9),
            _user,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_message_passes_unchanged_from_its_publisher_to_a_subscriber(rows: list[tuple]) -> None:  # type: ignore[type-arg]
    side = Side()
    stream, expected = b"", []
    for topic, payload, first, expiry, content, correlation, user in rows:
        sent = b""
        if expiry is not None:
            sent += b"\x02" + expiry.to_bytes(4, "big")
        aged = b"\x02" + (expiry - 5).to_bytes(4, "big") if expiry is not None else b""
        rest = b""
        if content is not None:
            rest += b"\x03" + text(content)
        if correlation is not None:
            rest += b"\x09" + text(correlation)
        for name, value in user:
            rest += b"\x26" + text(name) + text(value)
        stream += packet(topic, payload, first, 7, sent + rest)
        expected.append((topic, packet(topic, payload, 0x30 | first & 1, 0, aged + rest)))
    assert side.absorb(stream) == len(rows)
    block = bytearray().join(b.take() or b"" for b in side.builders)
    sink = Sink(5, 1 << 20)
    dirty: list[Sink] = []
    copies = fanout.deliver(block, by_topic(), all_to(sink), dirty, [], [], 1000 + 5000)
    assert copies == len(rows)
    assert dirty == [sink]
    order = [entry.topic for entry in blocks.entries(block)]
    assert bytes(sink.take()) == b"".join(p for t in order for topic, p in expected if topic == t)
    one_by_one = b""
    for entry in blocks.entries(block):
        alone = blocks.entry_bytes(block, entry.begin)
        for index, level in enumerate(fanout.record_levels(alone, 0)):
            one_by_one += fanout.encode(alone, 0, index, 5, 0, False, bool(level & 4), 0, (), 6000)
    assert one_by_one == b"".join(p for t in order for topic, p in expected if topic == t)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.data())
def test_damaged_packets_and_blocks_raise_broker_errors_only(data: st.DataObject) -> None:
    properties = (
        b"\x01\x01\x02\0\0\0\x09\x03"
        + text(b"c")
        + b"\x08"
        + text(b"r")
        + b"\x26"
        + text(b"n")
        + text(b"v")
    )
    stream = bytearray(packet(b"a/b", b"payload", 0x33, 7, properties) + packet(b"c", b"", 0x30))
    side = Side()
    side.absorb(stream)
    block = bytearray().join(b.take() or b"" for b in side.builders)
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    side = Side()
    try:
        count, _ = frames.scan(stream, 0, len(stream), side.table)
        side.publisher.absorb(stream, side.table, 0, count, 1)
    except BrokerError:
        pass
    sink = Sink(5, 1 << 20)
    try:
        fanout.deliver(block, by_topic(), all_to(sink), [], [], [], 1000)
        fanout.record_levels(block, 0)
        fanout.encode(bytes(block), 0, 0, 5, 1, False, False, 1, (), 1000)
    except BrokerError:
        pass
