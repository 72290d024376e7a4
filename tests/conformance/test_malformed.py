"""Every way to be malformed that the specification names, each on a real broker: the exact reason
code in DISCONNECT or CONNACK of 5.0, a close in 3.x, and nobody else is touched (MQTT 5.0 section
4.13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from robustmq.mqtt.packets import ConnAck, Disconnect, Publish
from tests.broker import BrokerProcess
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import Closed, Wire

MALFORMED, PROTOCOL, TOPIC, ALIAS, TOO_LARGE = 0x81, 0x82, 0x90, 0x94, 0x95

# What CONNECT is made of: 5.0, clean start, keep alive 0, no properties, client id "m".
_V5 = "00044d5154540502000000"
_V4 = "00044d51545404020000"


class Case(NamedTuple):
    """Packets in hex, and what they lead to."""

    packet: str
    reason: int
    why: str
    versions: str = "45"


CONNECT = [
    Case("110e" + _V5 + "00016d", MALFORMED, "reserved flags of the fixed header [MQTT-2.1.3-1]"),
    Case("10808080808001", MALFORMED, "remaining length of five bytes [MQTT-1.5.5-1]", "?"),
    Case("108e00" + _V5 + "00016d", MALFORMED, "length not minimal [MQTT-1.5.5-1]", "?"),
    Case("100e 00044d5154540503000000 00016d", MALFORMED, "reserved connect flag [MQTT-3.1.2-3]"),
    Case("100e 00044d515454050a000000 00016d", MALFORMED, "will QoS without will [MQTT-3.1.2-11]"),
    Case("100e 00044d5154540522000000 00016d", MALFORMED, "will retain alone [MQTT-3.1.2-13]"),
    Case("1015 00044d515454051e000000 00016d 00 000177 000178", MALFORMED, "will QoS 3 [-12]"),
    Case("100e 00044d5154540582000000 00016d", MALFORMED, "user name flag, no user name [-17]"),
    Case("100e 00044d5154540542000000 00016d", MALFORMED, "password flag, no password [-19]"),
    Case("100e 00044d5154540506000000 00016d", MALFORMED, "will flag, no will [MQTT-3.1.2-9]"),
    Case("100f" + _V5 + "00016d00", MALFORMED, "bytes behind the last field"),
    Case("1011" + _V5 + "00016d000178", MALFORMED, "a password without its flag [-18]"),
    Case("1014 00044d5154540506000000 00016d 00 0001ff 0000", MALFORMED, "will topic [-11]"),
    Case("1011 00044d5154540582000000 00016d 0001ff", MALFORMED, "user name not UTF-8 [-12]"),
    Case("100d" + _V5 + "0001", MALFORMED, "client id cut short"),
    Case("100e" + _V5 + "0001ff", MALFORMED, "client id not UTF-8 [MQTT-1.5.4-1]"),
    Case("1010" + _V5 + "0003eda080", MALFORMED, "client id with a surrogate [MQTT-1.5.4-1]"),
    Case("100e" + _V5 + "000100", MALFORMED, "client id with U+0000 [MQTT-1.5.4-2]"),
    Case("1010 00044d5154540502000002 0b01 00016d", MALFORMED, "a property of SUBSCRIBE"),
    Case("1010 00044d5154540502000002 7f01 00016d", MALFORMED, "an unknown property"),
    Case("1012 00044d5154540502000005 11000000 00016d", MALFORMED, "properties cut short"),
    Case(
        "1018 00044d515454050200000a 1100000001 1100000002 00016d", PROTOCOL, "expiry twice",
    ),
    Case("1011 00044d5154540502000003 210000 00016d", PROTOCOL, "receive maximum 0"),
    Case("1013 00044d5154540502000005 2700000000 00016d", PROTOCOL, "maximum packet size 0"),
    Case("1010 00044d5154540502000002 1702 00016d", PROTOCOL, "request problem information 2"),
    Case("1010 00044d5154540502000002 1902 00016d", PROTOCOL, "request response information 2"),
    Case("1012 00044d5154540502000004 16000161 00016d", PROTOCOL, "data without a method"),
    Case(
        "1015 00044d5154540506000000 00016d 00 000123 000178", TOPIC, "will topic with a wildcard"
    ),
    Case("1014 00044d5154540506000000 00016d 00 0000 000178", TOPIC, "empty will topic"),
    Case(
        "1017 00044d5154540506000000 00016d 02 0102 000177 000178", PROTOCOL, "format indicator 2",
    ),
    Case("10808008" + _V5, TOO_LARGE, "CONNECT of more than 64 KiB"),
]  # fmt: skip

CONNECT_3 = [
    "110d" + _V4 + "00016d",
    "100d 00044d51545404030000 00016d",
    "100d 00044d515454040a0000 00016d",
    "100d 00044d51545404420000 00016d",
    "1013 00044d515454041e0000 00016d 000177 000178",
    "100d 00044d51545404820000 00016d",
    "100e" + _V4 + "00016d00",
    "100d" + _V4 + "0001ff",
    "100d" + _V4 + "000100",
    "100c" + _V4 + "0001",
]

CONNECTED = [
    # The fixed header
    Case("0000", MALFORMED, "packet type 0 [MQTT-2.1.2]"),
    Case("f000", MALFORMED, "packet type 15 in 3.1.1", "4"),
    Case("c100", MALFORMED, "flags of PINGREQ [MQTT-2.1.3-1]"),
    Case("c0808080808001", MALFORMED, "remaining length of five bytes [MQTT-1.5.5-1]"),
    Case("c08000", MALFORMED, "remaining length not minimal [MQTT-1.5.5-1]"),
    Case("c00100", MALFORMED, "PINGREQ with a body"),
    Case("30ffffff7f", TOO_LARGE, "larger than the server's maximum packet size [MQTT-3.2.2-15]"),
    # Of the wrong direction
    Case("20020000", PROTOCOL, "CONNACK from a client", "4"),
    Case("2003000000", PROTOCOL, "CONNACK from a client", "5"),
    Case("9003000100", PROTOCOL, "SUBACK from a client", "4"),
    Case("900400010000", PROTOCOL, "SUBACK from a client", "5"),
    Case("b0020001", PROTOCOL, "UNSUBACK from a client"),
    Case("d000", PROTOCOL, "PINGRESP from a client"),
    # PUBLISH
    Case("3604 000161 78", MALFORMED, "QoS 3 [MQTT-3.3.1-4]"),
    Case("3806 000161 00 7878", MALFORMED, "DUP with QoS 0 [MQTT-3.3.1-2]"),
    Case("3000", MALFORMED, "PUBLISH without a body"),
    Case("3003 000561", MALFORMED, "topic cut short"),
    Case("3204 000161 00", MALFORMED, "packet identifier cut short"),
    Case("3206 000161 0000 00", PROTOCOL, "packet identifier 0 [MQTT-2.2.1-3]"),
    Case("3406 000161 0000 00", PROTOCOL, "packet identifier 0 in QoS 2 [MQTT-2.2.1-3]"),
    Case("3004 0001ff 00", MALFORMED, "topic not UTF-8 [MQTT-3.3.2-1]"),
    Case("3006 0003edbfbf 00", MALFORMED, "topic with a surrogate [MQTT-1.5.4-1]"),
    Case("3005 0002c080 00", MALFORMED, "topic with an overlong form [MQTT-1.5.4-1]"),
    Case("3006 0003610062 00", MALFORMED, "topic with U+0000 [MQTT-1.5.4-2]"),
    Case("3004 000123 00", TOPIC, "topic with # [MQTT-3.3.2-2]"),
    Case("3406 00012b 0001 00", TOPIC, "topic with + [MQTT-3.3.2-2]"),
    Case("3003 0000 00", PROTOCOL, "empty topic without an alias"),
    Case("3003 000161", MALFORMED, "no properties in 5.0", "5"),
    Case("3004 000161 05", MALFORMED, "properties longer than the packet", "5"),
    Case("3006 000161 80808080", MALFORMED, "property length of five bytes", "5"),
    Case("3005 000161 8000", MALFORMED, "property length not minimal", "5"),
    Case("3007 000161 03 230000", ALIAS, "topic alias 0 [MQTT-3.3.2-8]", "5"),
    Case("3007 000161 03 23000b", ALIAS, "topic alias above the maximum [MQTT-3.3.2-9]", "5"),
    Case("3006 0000 03 230001", PROTOCOL, "topic alias that means nothing", "5"),
    Case("300a 000161 06 230001230002", PROTOCOL, "topic alias twice", "5"),
    Case("3006 000161 02 0102", PROTOCOL, "payload format indicator 2", "5"),
    Case("3008 000161 04 01000100", PROTOCOL, "payload format indicator twice", "5"),
    Case("300e 000161 0a 02000000010200000002", PROTOCOL, "message expiry twice", "5"),
    Case("3007 000161 03 020000", MALFORMED, "message expiry cut short", "5"),
    Case("3007 000161 03 0800 00", PROTOCOL, "empty response topic", "5"),
    Case("3008 000161 04 080001ff", MALFORMED, "response topic not UTF-8 [MQTT-3.3.2-13]", "5"),
    Case("3008 000161 04 08000123", PROTOCOL, "response topic with a wildcard [-14]", "5"),
    Case("300c 000161 08 0800016108000162", PROTOCOL, "response topic twice", "5"),
    Case("300c 000161 08 0900016109000162", PROTOCOL, "correlation data twice", "5"),
    Case("300c 000161 08 0300016103000162", PROTOCOL, "content type twice", "5"),
    Case("3008 000161 04 030001ff", MALFORMED, "content type not UTF-8 [MQTT-3.3.2-19]", "5"),
    Case("300b 000161 07 2600016100 01ff", MALFORMED, "user property not UTF-8", "5"),
    Case("3006 000161 02 0b05", PROTOCOL, "subscription identifier [MQTT-3.3.4-6]", "5"),
    Case("3009 000161 05 1100000001", MALFORMED, "a property that PUBLISH does not have", "5"),
    # PUBACK, PUBREC, PUBREL, PUBCOMP
    *(
        case
        for kind in ("4", "5", "7")
        for case in (
            Case(f"{kind}1020001", MALFORMED, f"flags of packet type {kind} [MQTT-2.1.3-1]"),
            Case(f"{kind}0020000", PROTOCOL, f"packet identifier 0 in type {kind}"),
            Case(f"{kind}00100", MALFORMED, f"packet type {kind} cut short"),
            Case(f"{kind}003000100", MALFORMED, f"packet type {kind} with a reason in 3.1.1", "4"),
            Case(f"{kind}0030001a2", PROTOCOL, f"a reason that type {kind} does not have", "5"),
            Case(f"{kind}00500010002ff", MALFORMED, f"properties of type {kind} cut short", "5"),
            Case(
                f"{kind}00c00010008 1f0001611f000162", PROTOCOL, f"reason string twice, {kind}", "5"
            ),
        )
    ),
    Case("60020001", MALFORMED, "flags of PUBREL [MQTT-3.6.1-1]"),
    Case("6a020001", MALFORMED, "flags of PUBREL [MQTT-3.6.1-1]"),
    Case("62020000", PROTOCOL, "packet identifier 0 in PUBREL"),
    Case("620300011f", PROTOCOL, "a reason that PUBREL does not have", "5"),
    # SUBSCRIBE
    Case("8006 0001 000161 00", MALFORMED, "flags of SUBSCRIBE [MQTT-3.8.1-1]", "4"),
    Case("8007 0001 00 000161 00", MALFORMED, "flags of SUBSCRIBE [MQTT-3.8.1-1]", "5"),
    Case("8202 0001", PROTOCOL, "SUBSCRIBE without a filter [MQTT-3.8.3-2]", "4"),
    Case("8203 0001 00", PROTOCOL, "SUBSCRIBE without a filter [MQTT-3.8.3-2]", "5"),
    Case("8206 0000 000161 00", PROTOCOL, "packet identifier 0 in SUBSCRIBE", "4"),
    Case("8207 0000 00 000161 00", PROTOCOL, "packet identifier 0 in SUBSCRIBE", "5"),
    Case("8205 0001 000161", MALFORMED, "SUBSCRIBE without options", "4"),
    Case("8206 0001 00 000161", MALFORMED, "SUBSCRIBE without options", "5"),
    Case("8206 0001 000161 03", PROTOCOL, "maximum QoS 3", "4"),
    Case("8207 0001 00 000161 03", PROTOCOL, "maximum QoS 3", "5"),
    Case("8206 0001 000161 04", MALFORMED, "reserved bits of the options", "4"),
    Case("8207 0001 00 000161 40", MALFORMED, "reserved bits of the options [-5]", "5"),
    Case("8207 0001 00 000161 80", MALFORMED, "reserved bits of the options [-5]", "5"),
    Case("8207 0001 00 000161 30", PROTOCOL, "retain handling 3", "5"),
    Case("820f 0001 00 0009 2473686172652f672f 04", PROTOCOL, "no local on $share [-4]", "5"),
    Case("8206 0001 0001ff 00", MALFORMED, "filter not UTF-8 [MQTT-3.8.3-1]", "4"),
    Case("8207 0001 00 000100 00", MALFORMED, "filter with U+0000 [MQTT-1.5.4-2]", "5"),
    Case("8209 0001 02 0b00 000161 00", PROTOCOL, "subscription identifier 0", "5"),
    Case("820b 0001 04 0b010b02 000161 00", PROTOCOL, "subscription identifier twice", "5"),
    Case("820c 0001 05 0bffffffff 000161 00", MALFORMED, "identifier of five bytes", "5"),
    Case("8209 0001 02 0100 000161 00", MALFORMED, "a property of PUBLISH", "5"),
    # UNSUBSCRIBE
    Case("a005 0001 000161", MALFORMED, "flags of UNSUBSCRIBE [MQTT-3.10.1-1]", "4"),
    Case("a006 0001 00 000161", MALFORMED, "flags of UNSUBSCRIBE [MQTT-3.10.1-1]", "5"),
    Case("a202 0001", PROTOCOL, "UNSUBSCRIBE without a filter [MQTT-3.10.3-2]", "4"),
    Case("a203 0001 00", PROTOCOL, "UNSUBSCRIBE without a filter [MQTT-3.10.3-2]", "5"),
    Case("a206 0000 00 000161", PROTOCOL, "packet identifier 0 in UNSUBSCRIBE", "5"),
    Case("a206 0001 00 0001ff", MALFORMED, "filter not UTF-8 [MQTT-3.10.3-1]", "5"),
    Case("a205 0001 00 0005", MALFORMED, "filter cut short", "5"),
    # DISCONNECT and AUTH
    Case("e100", MALFORMED, "flags of DISCONNECT [MQTT-3.14.1-1]"),
    Case("e00100", MALFORMED, "DISCONNECT of 3.1.1 with a body", "4"),
    Case("e0018e", PROTOCOL, "a reason that only the server has", "5"),
    Case("e00c 00 0a 11000000011100000002", PROTOCOL, "session expiry twice", "5"),
    Case("e004 00 02 2100", MALFORMED, "a property that DISCONNECT does not have", "5"),
    Case("e007 00 05 1100000001", PROTOCOL, "session expiry was 0 [3.14.2.2.2]", "5"),
    Case("f100", MALFORMED, "flags of AUTH [MQTT-3.15.1-1]", "5"),
    Case("f006 18 04 15000178", PROTOCOL, "AUTH without a method in CONNECT [MQTT-4.12.0-6]", "5"),
    Case("f000", PROTOCOL, "AUTH without a method in CONNECT", "5"),
    Case("f006 11 04 15000178", PROTOCOL, "a reason that AUTH does not have", "5"),
]


@pytest.fixture(scope="module")
def bystander(broker: BrokerProcess) -> Iterator[Wire]:
    """Somebody else, who publishes and receives before and after."""
    with Wire(broker.mqtt) as client:
        client.connect(b"bystander", expiry=1000)
        client.subscribe(b"bystander/topic", qos=1)
        yield client


@pytest.fixture
def untouched(bystander: Wire) -> Iterator[None]:
    """Others are served on."""
    yield
    bystander.send(Publish(b"bystander/topic", b"x", 1, packet_id=1))
    assert {type(bystander.read()).__name__ for _ in range(2)} == {"Ack", "Publish"}


def _read_to_the_end(client: Wire) -> list[object]:
    found: list[object] = []
    while True:
        try:
            found.append(client.read())
        except Closed:
            return found


@pytest.mark.mqtt(
    "MQTT-2.1.3-1", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.5-1", "MQTT-3.1.2-3", "MQTT-3.1.2-9",
    "MQTT-3.1.2-11", "MQTT-3.1.2-12", "MQTT-3.1.2-13", "MQTT-3.1.2-17", "MQTT-3.1.2-19",
    "MQTT-3.1.2-16", "MQTT-3.1.2-18", "MQTT-3.1.3-1", "MQTT-3.1.3-3", "MQTT-3.1.3-4",
    "MQTT-3.1.3-11", "MQTT-3.1.3-12", "MQTT-3.1.4-1", "MQTT-3.14.0-1", "MQTT-4.13.1-1",
)  # fmt: skip
@pytest.mark.parametrize("case", CONNECT, ids=lambda case: case.why)
def test_a_connect_of_5_0_that_is_not_sound_gets_its_reason(
    wire: Open, untouched: None, case: Case
) -> None:
    client = wire(5)
    client.send(bytes.fromhex(case.packet.replace(" ", "")))
    answers = _read_to_the_end(client)
    assert answers == ([] if case.versions == "?" else [ConnAck(False, case.reason)])


@pytest.mark.mqtt311(
    "MQTT-1.5.3-1", "MQTT-1.5.3-2", "MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.1.2-3", "MQTT-3.1.2-9",
    "MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-14", "MQTT-3.1.2-15", "MQTT-3.1.2-18",
    "MQTT-3.1.2-19", "MQTT-3.1.2-20", "MQTT-3.1.2-21", "MQTT-3.1.2-22", "MQTT-3.1.3-1",
    "MQTT-3.1.3-3", "MQTT-3.1.3-4", "MQTT-3.1.3-10", "MQTT-3.1.3-11", "MQTT-3.1.4-1",
    "MQTT-3.2.2-6",
)  # fmt: skip
@pytest.mark.parametrize("packet", CONNECT_3)
def test_a_connect_of_3_1_1_that_is_not_sound_is_closed(
    wire: Open, untouched: None, packet: str
) -> None:
    client = wire(4)
    client.send(bytes.fromhex(packet.replace(" ", "")))
    assert _read_to_the_end(client) == []


@pytest.mark.mqtt311(
    "MQTT-1.5.3-1", "MQTT-1.5.3-2", "MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-2.3.1-1", "MQTT-3.3.1-2",
    "MQTT-3.3.1-4", "MQTT-3.3.2-1", "MQTT-3.3.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.8.3-1",
    "MQTT-3.8.3-3", "MQTT-3.8.3-4", "MQTT-3.10.1-1", "MQTT-3.10.3-1", "MQTT-3.10.3-2",
    "MQTT-3.14.1-1", "MQTT-4.7.1-1", "MQTT-4.7.3-2", "MQTT-4.8.0-1",
)  # fmt: skip
@pytest.mark.mqtt(
    "MQTT-2.1.3-1", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.5-1", "MQTT-2.2.1-3", "MQTT-3.2.2-15",
    "MQTT-3.3.1-2", "MQTT-3.3.1-4", "MQTT-3.3.2-1", "MQTT-3.3.2-2", "MQTT-3.3.2-8", "MQTT-3.3.2-9",
    "MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.14.2-2",
    "MQTT-3.3.2-19", "MQTT-3.3.4-6", "MQTT-3.6.1-1",
    "MQTT-3.8.1-1", "MQTT-3.8.3-1", "MQTT-3.8.3-2", "MQTT-3.8.3-4", "MQTT-3.8.3-5", "MQTT-3.10.1-1",
    "MQTT-3.10.3-1", "MQTT-3.10.3-2", "MQTT-3.14.1-1", "MQTT-3.14.2-1", "MQTT-3.15.1-1",
    "MQTT-4.7.0-1", "MQTT-4.7.3-2", "MQTT-1.5.7-1", "MQTT-4.13.2-1",
    "MQTT-4.13.1-1",
)  # fmt: skip
@pytest.mark.parametrize("case", CONNECTED, ids=lambda case: case.why)
def test_a_packet_that_is_not_sound_ends_its_connection_with_its_reason(
    wire: Open, names: Names, untouched: None, case: Case
) -> None:
    for version in map(int, case.versions):
        client = wire(version)
        client.connect(names.client(version))
        client.send(bytes.fromhex(case.packet.replace(" ", "")))
        answers = _read_to_the_end(client)
        assert answers == ([Disconnect(case.reason)] if version == 5 else []), version


def test_what_precedes_a_malformed_packet_is_still_served(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    watcher, client = wire(), wire()
    watcher.connect(names.client(1))
    watcher.subscribe(topic, qos=1)
    client.connect(names.client(0))
    for qos in (0, 1):
        client.send(Publish(topic, b"%d" % qos, qos, packet_id=qos))
    client.send(Publish(topic, b"last", 1, packet_id=9), b"\x36\x04\x00\x01ax")
    answers = _read_to_the_end(client)
    assert answers[-1] == Disconnect(MALFORMED)
    assert [watcher.receive().payload for _ in range(3)] == [b"0", b"1", b"last"]
