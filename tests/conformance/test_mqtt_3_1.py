"""MQTT 3.1 (`MQIsdp`, version 3): what differs from 3.1.1, on a real broker. What is the same is
proven by the tests that run in all versions."""

from __future__ import annotations

import pytest

from robustmq.mqtt.packets import ConnAck, Connect, Publish, SubAck
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, Wire


def raw(client: Wire, packet: str) -> None:
    """Send hex."""
    client.send(bytes.fromhex(packet.replace(" ", "")))


@pytest.mark.mqtt311("MQTT-3.1.2-1", "MQTT-3.1.2-2")
@pytest.mark.parametrize(
    ("name_and_level", "code"),
    [
        ("0006 4d5149736470 03", 0),
        ("0006 4d5149736470 04", 1),
        ("0006 4d5149736470 05", 1),
        ("0006 4d5149736470 00", 1),
        # A bridge of mosquitto tries levels with the upper bit set, and those without it then.
        ("0006 4d5149736470 83", 1),
        ("0004 4d515454 84", 1),
        ("0004 4d515454 03", 1),
        ("0004 4d515454 00", 1),
        ("0004 4d515454 04", 0),
        # Names that are nearly right.
        ("0006 6d7169736470 03", None),
        ("0004 6d717474 04", None),
        ("0005 4d51497364 03", None),
        ("0000 04", None),
    ],
)
def test_a_name_goes_with_its_version_and_any_other_version_is_told_1(
    wire: Open, name_and_level: str, code: int | None
) -> None:
    client = wire(3)
    body = bytes.fromhex((name_and_level + "02 0000 0001 6d").replace(" ", ""))
    client.send(bytes((0x10, len(body))) + body)
    if code is not None:
        assert client.expect(ConnAck) == ConnAck(False, code)
    if code != 0:
        client.expect_end()


def test_connack_never_tells_of_a_session_and_resumes_it_all_the_same(
    wire: Open, names: Names
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    publisher, client = wire(5), wire(3)
    publisher.connect(names.client(0))
    assert client.connect(client_id, False) == ConnAck(False, 0)
    client.subscribe(topic, qos=2)
    client.disconnect()
    publisher.publish(topic, b"waits", 2)
    client = wire(3)
    assert client.connect(client_id, False) == ConnAck(False, 0)
    assert client.receive().payload == b"waits"
    client.disconnect()
    # A client that was updated finds it again.
    assert wire(4).connect(client_id, False) == ConnAck(True, 0)


@pytest.mark.parametrize("size", [1, 23, 24, 200])
def test_client_ids_may_be_longer_than_23_characters(wire: Open, names: Names, size: int) -> None:
    client_id = names.client().ljust(size, b"x")[:size]
    assert wire(3).connect(client_id) == ConnAck(False, 0)


@pytest.mark.parametrize("clean", [True, False])
def test_an_empty_client_id_is_rejected(wire: Open, clean: bool) -> None:
    client = wire(3)
    assert client.connect(b"", clean) == ConnAck(False, 2)
    client.expect_end()


def test_a_filter_that_is_refused_is_answered_with_its_qos_and_gets_nothing(
    wire: Open, names: Names
) -> None:
    topic = names.topic(0)
    client, publisher = wire(3), wire(5)
    client.connect(names.client(1))
    publisher.connect(names.client(0))
    assert client.subscribe(topic, topic + b"#", b"$share/" + topic, qos=1) == (1, 1, 1)
    publisher.publish(topic, b"x", 1)
    assert client.receive().payload == b"x"
    client.expect_nothing()
    # UNSUBACK comes for all of them.
    client.unsubscribe(topic + b"#", topic)
    publisher.publish(topic, b"y", 1)
    client.expect_nothing()


def test_the_flags_of_user_name_and_password_may_stand_without_their_fields(wire: Open) -> None:
    for flags, rest in (("c2", ""), ("c2", "000175"), ("82", "")):
        client = wire(3)
        body = bytes.fromhex("00064d514973647003" + flags + "0000" + "00016d" + rest)
        client.send(bytes((0x10, len(body))) + body)
        assert client.expect(ConnAck) == ConnAck(False, 0)
        client.drop()
        newer = wire(4)
        body = bytes.fromhex("00044d51545404" + flags + "0000" + "00016d" + rest)
        newer.send(bytes((0x10, len(body))) + body)
        newer.expect_end()


def test_the_lowest_connect_flag_is_not_looked_at(wire: Open, names: Names) -> None:
    client = wire(3)
    raw(client, "100f 00064d514973647003 03 0000 00016d")
    assert client.expect(ConnAck) == ConnAck(False, 0)


def test_subscribe_unsubscribe_and_pubrel_may_be_repeated_with_dup(
    wire: Open, names: Names
) -> None:
    client, topic = wire(3), names.topic(1)
    client.connect(names.client(0), False)
    for flags in ("82", "8a"):
        raw(client, flags + "06 0007 000161 01")
        assert client.expect(SubAck) == SubAck(7, (1,))
    client.send(Publish(topic, b"x", 2, packet_id=5))
    client.expect_ack(PUBREC, 5)
    for flags in ("62", "6a"):
        raw(client, flags + "02 0005")
        client.expect_ack(PUBCOMP, 5)
    for flags in ("a2", "aa"):
        raw(client, flags + "05 0008 000161")
        assert client.read() is not None
    client.expect_nothing()
    for packet in ("8a06 0007 000161 01", "aa05 0008 000161", "6a02 0005"):
        newer = wire(4)
        newer.connect(names.client(0))
        raw(newer, packet)
        newer.expect_end()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_cross_between_3_1_and_5_0_with_what_both_know(
    wire: Open, names: Names, qos: int
) -> None:
    topic = names.topic(0)
    old, new = wire(3), wire(5)
    old.connect(names.client(1), False)
    new.connect(names.client(0))
    old.subscribe(topic, qos=2)
    new.subscribe(topic, qos=2, identifier=3, no_local=True, retain_as_published=True)
    new.send(
        Publish(topic, b"new", qos, True, False, bool(qos)),
    )
    got = old.receive()
    assert (got.payload, got.qos, got.retain) == (b"new", qos, False)
    while qos and new.read().kind != (PUBACK if qos == 1 else PUBREC):  # type: ignore[union-attr]
        continue
    if qos == 2:
        new.send(b"\x62\x02\x00\x01")
        new.expect_ack(PUBCOMP)
    old.send(Publish(topic, b"old", qos, True, False, bool(qos) * 9))
    got = new.receive()
    assert (got.payload, got.qos, got.retain) == (b"old", qos, True)
    assert got.properties.subscription_identifiers == (3,)


def test_a_second_connect_and_a_packet_of_5_0_end_the_connection(wire: Open, names: Names) -> None:
    for packet in (Connect(3, b"again"), b"\xf0\x00", b"\x40\x03\x00\x01\x00"):
        client = wire(3)
        client.connect(names.client(1))
        client.send(packet)
        client.expect_end()


def test_an_unknown_pubrel_is_answered(wire: Open, names: Names) -> None:
    client = wire(3)
    client.connect(names.client(1))
    raw(client, "6202 0063")
    client.expect_ack(PUBCOMP, 0x63)
