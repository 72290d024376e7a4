"""The codec against the shared table of raw packets, and against random and mutated packets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.errors import BrokerError
from robustmq.mqtt.codec import decode, encode, peek_connect
from robustmq.mqtt.packets import (
    Ack,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    Properties,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    UnsubAck,
    Unsubscribe,
    Will,
)
from robustmq.mqtt.properties import without_problem_information


class Case(NamedTuple):
    """A row of packets.txt."""

    version: int
    from_client: bool
    packet: bytes
    expected: str


def read_table() -> list[Case]:
    cases = []
    for line in Path(__file__).with_name("packets.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            packet, expected = line.split("|")
            version, direction, *parts = packet.split()
            cases.append(
                Case(
                    int(version), direction == "c", bytes.fromhex("".join(parts)), expected.strip()
                )
            )
    return cases


TABLE = read_table()


def decode_whole(packet: bytes, version: int, from_client: bool = True) -> Packet:
    body = 2
    while packet[body - 1] & 0x80:
        body += 1
    return decode(packet[0], packet, body, len(packet), version, from_client=from_client)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case.version}-{case.packet.hex()}")
def test_every_packet_of_the_table_is_taken_or_refused_with_its_fault(case: Case) -> None:
    if case.expected.startswith("ok"):
        packet = decode_whole(case.packet, case.version, case.from_client)
        if case.expected == "ok":
            assert encode(packet, case.version) == case.packet
    else:
        with pytest.raises(BrokerError) as raised:
            decode_whole(case.packet, case.version, case.from_client)
        assert raised.value.fault.name == case.expected


@pytest.mark.parametrize("case", [case for case in TABLE if case.expected == "ok"])
def test_a_packet_cut_short_is_malformed_or_another_packet(case: Case) -> None:
    for end in range(2, len(case.packet)):
        try:
            decode(case.packet[0], case.packet, 2, end, case.version, from_client=case.from_client)
        except BrokerError:
            pass


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
topics = st.text("abc/é", min_size=1, max_size=12).map(str.encode)
binary = st.binary(max_size=20)
packet_ids = st.integers(1, 65_535)
u32 = st.integers(0, 0xFFFFFFFF)

users = st.lists(st.tuples(words, words), max_size=3).map(tuple)
message_properties = st.builds(
    Properties,
    payload_format_indicator=st.none() | st.integers(0, 1),
    message_expiry_interval=st.none() | u32,
    content_type=st.none() | words,
    response_topic=st.none() | topics,
    correlation_data=st.none() | binary,
    user_properties=users,
)
will_properties = st.builds(Properties, will_delay_interval=st.none() | u32, user_properties=users)
reasons = st.builds(Properties, reason_string=st.none() | words, user_properties=users)
limits = {
    "session_expiry_interval": st.none() | u32,
    "receive_maximum": st.none() | st.integers(1, 65_535),
    "maximum_packet_size": st.none() | st.integers(1, 0xFFFFFFFF),
    "topic_alias_maximum": st.none() | st.integers(0, 65_535),
    "user_properties": users,
}
qos = st.integers(0, 2)
client_packets = st.one_of(
    st.builds(
        Connect,
        version=st.just(5),
        client_id=words.map(str.encode),
        clean_start=st.booleans(),
        keep_alive=st.integers(0, 65_535),
        will=st.none()
        | st.builds(Will, topics, binary, qos, st.booleans(), will_properties | message_properties),
        user_name=st.none() | words,
        password=st.none() | binary,
        properties=st.builds(Properties, **limits),
    ),
    st.builds(Publish, topics, binary, st.just(0), st.booleans(), properties=message_properties),
    st.builds(
        Publish,
        topics,
        binary,
        st.integers(1, 2),
        st.booleans(),
        st.booleans(),
        packet_ids,
        message_properties,
    ),
    st.builds(Ack, st.sampled_from([4, 5]), packet_ids, st.sampled_from([0, 0x10, 0x97]), reasons),
    st.builds(Ack, st.sampled_from([6, 7]), packet_ids, st.sampled_from([0, 0x92]), reasons),
    st.builds(
        Subscribe,
        packet_ids,
        st.lists(
            st.tuples(
                topics,
                st.builds(
                    SubscriptionOptions, qos, st.booleans(), st.booleans(), st.integers(0, 2)
                ),
            ),
            min_size=1,
            max_size=4,
        ).map(tuple),
        st.builds(
            Properties,
            subscription_identifiers=st.just(()) | st.tuples(st.integers(1, 268_435_455)),
            user_properties=users,
        ),
    ),
    st.builds(Unsubscribe, packet_ids, st.lists(topics, min_size=1, max_size=4).map(tuple)),
    st.builds(PingReq),
    st.builds(Disconnect, st.sampled_from([0, 4, 0x81]), reasons),
    st.builds(
        Auth,
        st.sampled_from([0x18, 0x19]),
        st.builds(Properties, authentication_method=words, authentication_data=st.none() | binary),
    ),
)
codes = st.lists(st.integers(0, 255), min_size=1, max_size=5).map(tuple)
server_packets = st.one_of(
    st.builds(ConnAck, st.booleans(), st.just(0), st.builds(Properties, **limits)),
    st.builds(SubAck, packet_ids, codes, reasons),
    st.builds(UnsubAck, packet_ids, codes, reasons),
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(client_packets)
def test_what_a_client_encodes_the_server_decodes_to_the_same(packet: Packet) -> None:
    assert decode_whole(encode(packet, 5), 5) == packet


@settings(derandomize=True, max_examples=100, deadline=None)
@given(server_packets)
def test_what_the_server_encodes_a_client_decodes_to_the_same(packet: Packet) -> None:
    assert decode_whole(encode(packet, 5), 5, from_client=False) == packet


@settings(derandomize=True, max_examples=1500, deadline=None)
@given(st.data(), st.sampled_from(TABLE), st.sampled_from([3, 4, 5]), st.booleans())
def test_a_mutated_packet_decodes_or_raises_a_named_fault(
    data: st.DataObject, case: Case, version: int, from_client: bool
) -> None:
    packet = bytearray(case.packet)
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    begin = min(2, len(packet))
    try:
        decode(packet[0], packet, begin, len(packet), version, from_client=from_client)
    except BrokerError:
        pass


def test_peek_needs_the_client_identifier_and_no_more() -> None:
    connect = Connect(5, b"thermometer", user_name="u", properties=Properties(receive_maximum=3))
    packet = encode(connect, 5)
    needed = packet.index(b"thermometer") + len(b"thermometer")
    for length in range(len(packet) + 1):
        peek = peek_connect(packet[:length])
        assert (peek is not None) == (length >= needed)
        if peek is not None:
            assert (peek.version, peek.client_id, peek.clean_start) == (5, b"thermometer", True)


@pytest.mark.parametrize(
    ("packet", "fault"),
    [
        (b"\x30", "PROTOCOL_ERROR"),
        (b"GET / HTTP/1.1\r\n", "PROTOCOL_ERROR"),
        (b"\x10\xff\xff\xff\xff\x01", "MALFORMED_PACKET"),
        (b"\x10\xff\xff\x7f", "PACKET_TOO_LARGE"),
        (b"\x10\x0d\x00\x04MQTX\x04\x02\x00\x00\x00\x01a", "UNSUPPORTED_PROTOCOL_VERSION"),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x05a", "MALFORMED_PACKET"),
    ],
)
def test_peek_refuses_what_can_never_be_a_connect(packet: bytes, fault: str) -> None:
    with pytest.raises(BrokerError) as raised:
        peek_connect(packet)
    assert raised.value.fault.name == fault


def test_packet_types_cover_the_upper_nibble() -> None:
    assert [int(kind) for kind in PacketType] == list(range(1, 16))


def test_problem_information_is_dropped_for_a_client_that_does_not_want_it() -> None:
    told = Properties(reason_string="why", user_properties=(("a", "b"),), receive_maximum=3)
    assert without_problem_information(told) == Properties(receive_maximum=3)
