"""Every packet that a client may send, spoilt field by field and property by property: the fixed
header's flags and length, each field cut at each byte, bytes behind the last one, strings that are
none, and each property of MQTT 5.0 where it may not be, twice, cut short, and out of its range.

The layouts here are written from the specification (MQTT 5.0 chapter 3 and section 2.2.2.2, MQTT
3.1.1 chapter 3), not taken from the broker's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from robustmq.mqtt.packets import ConnAck, Disconnect, PingReq, PingResp, Publish
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import Closed, Wire

MALFORMED, PROTOCOL, ALIAS = 0x81, 0x82, 0x94
VERSIONS = [3, 4, 5]


class Part(NamedTuple):
    """A field: its bytes, whether it is a string, and what it means when the packet ends in front
    of it: malformed (None), allowed (0), or a reason."""

    data: bytes
    is_string: bool = False
    absent: int | None = None


class Layout(NamedTuple):
    """A packet that is sound: its first byte and its fields."""

    header: int
    parts: tuple[Part, ...]
    takes_any_end: bool = False
    """What follows the last field belongs to it (a payload, one more filter)."""


def text(value: bytes, absent: int | None = None) -> Part:
    return Part(len(value).to_bytes(2, "big") + value, True, absent)


def packet(header: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes((header,)) + length + body


PACKET_ID = Part(b"\x00\x07")
USER = b"\x07\x26\x00\x01a\x00\x01b"
"""Properties: their length, and a user property."""

NAME_3_1, NAME = text(b"MQIsdp"), text(b"MQTT")


def layouts(version: int, client_id: bytes) -> dict[str, Layout]:
    """A sound packet of each type, with every field that it may have."""
    none: tuple[Part, ...] = (Part(b"\x00"),) if version == 5 else ()
    user = (Part(USER),) if version == 5 else ()
    lenient = 0 if version == 3 else None
    found = {
        "CONNECT": Layout(
            0x10,
            (
                NAME_3_1 if version == 3 else NAME,
                Part(bytes((version, 0xCE, 0, 60))),
                *user,
                text(client_id),
                *none,
                text(b"will/topic"),
                Part(b"\x00\x04will"),
                text(b"user", lenient),
                Part(b"\x00\x04pass", False, lenient),
            ),
        ),
        "PUBLISH QoS 0": Layout(0x30, (text(b"a/b"), *user, Part(b"", absent=0)), True),
        "PUBLISH QoS 1": Layout(0x32, (text(b"a/b"), PACKET_ID, *user), True),
        "PUBLISH QoS 2": Layout(0x34, (text(b"a/b"), PACKET_ID, *user), True),
        "SUBSCRIBE": Layout(
            0x82,
            (
                PACKET_ID, *user, text(b"a/b", PROTOCOL), Part(b"\x01"), text(b"a/+", 0),
                Part(b"\x02"),
            ),
        ),
        "UNSUBSCRIBE": Layout(
            0xA2, (PACKET_ID, *user, text(b"a/b", PROTOCOL), text(b"a/+", 0))
        ),
        "PINGREQ": Layout(0xC0, ()),
    }  # fmt: skip
    acks = {"PUBACK": 0x40, "PUBREC": 0x50, "PUBREL": 0x62, "PUBCOMP": 0x70}
    for name, header in acks.items():
        reason = Part(b"\x92" if name in ("PUBREL", "PUBCOMP") else b"\x80", absent=0)
        rest = (reason, Part(USER, absent=0)) if version == 5 else ()
        found[name] = Layout(header, (PACKET_ID, *rest))
    rest = (Part(b"\x04", absent=0), Part(USER, absent=0))
    found["DISCONNECT"] = Layout(0xE0, rest if version == 5 else ())
    return found


NAMES_OF_PACKETS = list(layouts(5, b""))


@pytest.fixture
def others(wire: Open, names: Names) -> Iterator[None]:
    """Somebody else, who is served all the time."""
    bystander, topic = wire(), names.topic(0)
    bystander.connect(names.client(1))
    bystander.subscribe(topic, qos=1)
    yield
    bystander.send(Publish(topic, b"x", 1, packet_id=1))
    assert {type(bystander.read()).__name__ for _ in range(2)} == {"Ack", "Publish"}


Outcome = int | str
"""The reason that a client was told, "closed" without one, or "served"."""


def outcome(client: Wire, data: bytes, connects: bool) -> Outcome:
    """Send bytes, and see what becomes of the connection."""
    client.send(data)
    if not connects:
        try:
            client.send(PingReq())
        except OSError:
            pass
    try:
        while True:
            answer = client.read()
            if isinstance(answer, ConnAck):
                return answer.reason_code or "served"
            if isinstance(answer, Disconnect):
                client.expect_end()
                return answer.reason_code
            if isinstance(answer, PingResp):
                return "served"
    except Closed:
        return "closed"


Try = Callable[[bytes], Outcome]


@pytest.fixture
def attempt(wire: Open, names: Names) -> Callable[[str, int], Try]:
    """Tries packets, each on a connection of its own."""

    def of(name: str, version: int) -> Try:
        def run(data: bytes) -> Outcome:
            with wire(version) as client:
                if name != "CONNECT":
                    client.connect(names.client(1), expiry=100)
                return outcome(client, data, name == "CONNECT")

        return run

    return of


def told(reason: int | None, name: str, version: int) -> Outcome:
    """What a fault leads to in this version."""
    if reason == 0:
        return "closed" if name == "DISCONNECT" else "served"
    if version == 5:
        return MALFORMED if reason is None else reason
    return "closed"


def compare(attempts: Iterator[tuple[str, bytes, Outcome]], attempt: Try) -> None:
    """All of them, and those that went otherwise."""
    wrong = []
    for what, data, wanted in attempts:
        got = attempt(data)
        if got != wanted:
            wrong.append((what, data.hex(), f"wanted {wanted}", f"got {got}"))
    assert wrong == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES_OF_PACKETS)
def test_a_sound_packet_is_served(
    attempt: Callable[[str, int], Try], others: None, names: Names, name: str, version: int
) -> None:
    layout = layouts(version, names.client(1))[name]
    data = packet(layout.header, b"".join(part.data for part in layout.parts))
    assert attempt(name, version)(data) == told(0, name, version)


@pytest.mark.mqtt("MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1")
@pytest.mark.mqtt311(
    "MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1",
    "MQTT-3.14.1-1",
)  # fmt: skip
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name in NAMES_OF_PACKETS if "PUBLISH" not in name])
def test_any_other_flags_of_the_fixed_header_are_malformed(
    attempt: Callable[[str, int], Try], others: None, names: Names, name: str, version: int
) -> None:
    layout = layouts(version, names.client(1))[name]
    body = b"".join(part.data for part in layout.parts)

    def rows() -> Iterator[tuple[str, bytes, Outcome]]:
        for flags in range(16):
            with_dup = version == 3 and layout.header & 15 == 2 and flags == 10
            if flags == layout.header & 15 or with_dup:
                continue
            data = packet(layout.header & 0xF0 | flags, body)
            yield f"flags {flags:04b}", data, told(None, name, version)

    compare(rows(), attempt(name, version))


@pytest.mark.mqtt("MQTT-1.5.5-1")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES_OF_PACKETS)
def test_a_remaining_length_that_is_not_minimal_or_too_long_is_malformed(
    attempt: Callable[[str, int], Try], others: None, names: Names, name: str, version: int
) -> None:
    layout = layouts(version, names.client(1))[name]
    body = b"".join(part.data for part in layout.parts)
    assert len(body) < 128

    def rows() -> Iterator[tuple[str, bytes, Outcome]]:
        for more in (1, 2, 3):
            length = bytes((len(body) | 0x80, *(0x80 for _ in range(more - 1)), 0))
            data = bytes((layout.header,)) + length + body
            wanted = "closed" if name == "CONNECT" else told(None, name, version)
            yield f"{more + 1} bytes for {len(body)}", data, wanted
        data = bytes((layout.header, 0xFF, 0xFF, 0xFF, 0xFF, 0x01)) + body
        yield "5 bytes", data, "closed" if name == "CONNECT" else told(None, name, version)

    compare(rows(), attempt(name, version))


@pytest.mark.mqtt("MQTT-3.1.3-3", "MQTT-3.1.4-1", "MQTT-3.3.2-1", "MQTT-3.8.3-2", "MQTT-3.10.3-2")
@pytest.mark.mqtt311(
    "MQTT-3.1.3-3", "MQTT-3.1.4-1", "MQTT-3.3.2-1", "MQTT-3.8.3-3", "MQTT-3.10.3-2",
    "MQTT-3.1.2-9", "MQTT-3.1.2-19", "MQTT-3.1.2-21",
)  # fmt: skip
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES_OF_PACKETS)
def test_a_packet_that_ends_inside_of_a_field_is_malformed(
    attempt: Callable[[str, int], Try], others: None, names: Names, name: str, version: int
) -> None:
    layout = layouts(version, names.client(1))[name]

    def rows() -> Iterator[tuple[str, bytes, Outcome]]:
        before = b""
        for number, part in enumerate(layout.parts):
            for cut in range(len(part.data)):
                data = packet(layout.header, before + part.data[:cut])
                absent = part.absent if cut == 0 else None
                wanted = told(absent, name, version)
                # Too short to tell that it is MQTT at all.
                if name == "CONNECT" and len(before) + cut < len(layout.parts[0].data) + 1:
                    wanted = "closed"
                yield f"field {number} cut at {cut}", data, wanted
            before += part.data
        if not layout.takes_any_end:
            data = packet(layout.header, before + b"\x00")
            yield "a byte too many", data, told(None, name, version)

    compare(rows(), attempt(name, version))


BAD_TEXT = {
    "a lone byte": b"\xff",
    "an overlong form": b"\xc0\xaf",
    "a longer overlong form": b"\xe0\x80\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "the last surrogate": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a letter cut short": b"\xe2\x82",
    "a continuation alone": b"a\x80b",
    "U+0000": b"a\x00b",
}


@pytest.mark.mqtt(
    "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12",
    "MQTT-3.3.2-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.3-2",
)  # fmt: skip
@pytest.mark.mqtt311(
    "MQTT-1.5.3-1", "MQTT-1.5.3-2", "MQTT-3.1.3-4", "MQTT-3.1.3-10", "MQTT-3.1.3-11",
    "MQTT-3.3.2-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.3-2",
)  # fmt: skip
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "name",
    [name for name in NAMES_OF_PACKETS if any(p.is_string for p in layouts(4, b"")[name].parts)],
)
def test_a_string_that_is_not_sound_utf_8_is_malformed(
    attempt: Callable[[str, int], Try], others: None, names: Names, name: str, version: int
) -> None:
    layout = layouts(version, names.client(1))[name]

    def rows() -> Iterator[tuple[str, bytes, Outcome]]:
        for number, part in enumerate(layout.parts):
            # The first string of CONNECT is the protocol's name.
            if not part.is_string or (name == "CONNECT" and number == 0):
                continue
            for what, bad in BAD_TEXT.items():
                parts = list(layout.parts)
                parts[number] = text(bad)
                data = packet(layout.header, b"".join(one.data for one in parts))
                yield f"field {number}: {what}", data, told(None, name, version)

    compare(rows(), attempt(name, version))


# -- the properties of MQTT 5.0 ------------------------------------------------------------------


class Property(NamedTuple):
    """A row of section 2.2.2.2 for what a client sends: a value, and values out of range."""

    identifier: int
    kind: str
    value: bytes
    packets: str
    out_of_range: tuple[tuple[bytes, int], ...] = ()
    repeats: bool = False


STRING, PAIR = b"\x00\x01s", b"\x00\x01n\x00\x01v"
ACKS = "PUBACK PUBREC PUBREL PUBCOMP"
PROPERTIES = {
    "payload format indicator": Property(
        0x01, "byte", b"\x01", "PUBLISH will", ((b"\x02", PROTOCOL), (b"\xff", PROTOCOL))
    ),
    "message expiry interval": Property(0x02, "four", b"\x00\x00\x00\x09", "PUBLISH will"),
    "content type": Property(0x03, "string", STRING, "PUBLISH will"),
    "response topic": Property(
        0x08, "string", STRING, "PUBLISH will",
        ((b"\x00\x00", PROTOCOL), (b"\x00\x01+", PROTOCOL), (b"\x00\x03a/#", PROTOCOL)),
    ),
    "correlation data": Property(0x09, "binary", b"\x00\x01\xff", "PUBLISH will"),
    "subscription identifier": Property(
        0x0B, "variable", b"\x05", "SUBSCRIBE",
        ((b"\x00", PROTOCOL), (b"\xff\xff\xff\xff\x01", MALFORMED), (b"\x85\x00", MALFORMED)),
    ),
    "session expiry interval": Property(0x11, "four", b"\x00\x00\x00\x09", "CONNECT DISCONNECT"),
    "assigned client identifier": Property(0x12, "string", STRING, ""),
    "server keep alive": Property(0x13, "two", b"\x00\x09", ""),
    "authentication method": Property(0x15, "string", STRING, "CONNECT AUTH"),
    "authentication data": Property(0x16, "binary", STRING, "CONNECT AUTH"),
    "request problem information": Property(
        0x17, "byte", b"\x01", "CONNECT", ((b"\x02", PROTOCOL),)
    ),
    "will delay interval": Property(0x18, "four", b"\x00\x00\x00\x09", "will"),
    "request response information": Property(
        0x19, "byte", b"\x01", "CONNECT", ((b"\x02", PROTOCOL),)
    ),
    "response information": Property(0x1A, "string", STRING, ""),
    "server reference": Property(0x1C, "string", STRING, "DISCONNECT"),
    "reason string": Property(0x1F, "string", STRING, f"{ACKS} DISCONNECT AUTH"),
    "receive maximum": Property(0x21, "two", b"\x00\x09", "CONNECT", ((b"\x00\x00", PROTOCOL),)),
    "topic alias maximum": Property(0x22, "two", b"\x00\x09", "CONNECT"),
    "topic alias": Property(
        0x23, "two", b"\x00\x09", "PUBLISH", ((b"\x00\x00", ALIAS), (b"\x00\x0b", ALIAS))
    ),
    "maximum QoS": Property(0x24, "byte", b"\x01", ""),
    "retain available": Property(0x25, "byte", b"\x01", ""),
    "user property": Property(
        0x26, "pair", PAIR, f"CONNECT PUBLISH will {ACKS} SUBSCRIBE UNSUBSCRIBE DISCONNECT AUTH",
        repeats=True,
    ),
    "maximum packet size": Property(
        0x27, "four", b"\x00\x00\x09\x09", "CONNECT", ((b"\x00\x00\x00\x00", PROTOCOL),)
    ),
    "wildcard subscription available": Property(0x28, "byte", b"\x01", ""),
    "subscription identifier available": Property(0x29, "byte", b"\x01", ""),
    "shared subscription available": Property(0x2A, "byte", b"\x01", ""),
    "nothing that there is": Property(0x7E, "byte", b"\x01", ""),
    "nothing that there is, of two bytes": Property(0x81, "byte", b"\x01\x01", ""),
}  # fmt: skip


def build(name: str, client_id: bytes, properties: bytes) -> bytes:
    """A packet of this type with these properties."""
    assert len(properties) < 128
    block = bytes((len(properties),)) + properties
    mqtt = b"\x00\x04MQTT\x05"
    match name:
        case "CONNECT":
            return packet(0x10, mqtt + b"\x02\x00\x00" + block + text(client_id).data)
        case "will":
            head = mqtt + b"\x06\x00\x00\x00" + text(client_id).data
            return packet(0x10, head + block + b"\x00\x04will\x00\x01x")
        case "PUBLISH":
            return packet(0x30, b"\x00\x03a/b" + block + b"payload")
        case "SUBSCRIBE":
            return packet(0x82, b"\x00\x07" + block + b"\x00\x03a/b\x01")
        case "UNSUBSCRIBE":
            return packet(0xA2, b"\x00\x07" + block + b"\x00\x03a/b")
        case "DISCONNECT":
            return packet(0xE0, b"\x00" + block)
        case "AUTH":
            return packet(0xF0, b"\x18" + block)
    header = {"PUBACK": 0x40, "PUBREC": 0x50, "PUBREL": 0x62, "PUBCOMP": 0x70}[name]
    return packet(header, b"\x00\x07\x00" + block)


def accepted(name: str, what: str) -> Outcome:
    """What a packet with this property once leads to."""
    if name == "AUTH":
        return PROTOCOL  # nobody authenticates so here
    if what.startswith("authentication"):
        return 0x8C if what.endswith("method") else PROTOCOL
    return "closed" if name == "DISCONNECT" else "served"


@pytest.mark.mqtt(
    "MQTT-1.5.4-1", "MQTT-1.5.7-1", "MQTT-2.2.2-1", "MQTT-3.3.2-8", "MQTT-3.3.2-9",
    "MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.3.2-19", "MQTT-3.3.4-6", "MQTT-4.13.1-1",
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["CONNECT", "will", "PUBLISH", *ACKS.split(), "SUBSCRIBE", "UNSUBSCRIBE", "DISCONNECT",
             "AUTH"],
)  # fmt: skip
def test_a_property_in_the_wrong_place_twice_cut_short_or_out_of_range_is_refused(
    attempt: Callable[[str, int], Try], others: None, names: Names, name: str
) -> None:
    client_id = names.client(1)

    def rows() -> Iterator[tuple[str, bytes, Outcome]]:
        for what, row in PROPERTIES.items():
            number = bytes((row.identifier,))
            once = number + row.value
            if name not in row.packets.split():
                wrong_way = what == "subscription identifier" and name == "PUBLISH"
                wanted = PROTOCOL if wrong_way else MALFORMED
                yield f"{what} where it may not be", build(name, client_id, once), wanted
                continue
            yield what, build(name, client_id, once), accepted(name, what)
            twice = accepted(name, what) if row.repeats else PROTOCOL
            yield f"{what} twice", build(name, client_id, once + once), twice
            for cut in range(1, len(once)):
                yield f"{what} cut at {cut}", build(name, client_id, once[:cut]), MALFORMED
            for value, reason in row.out_of_range:
                yield f"{what} = {value.hex()}", build(name, client_id, number + value), reason
            if row.kind in ("string", "pair"):
                for bad_name, bad in BAD_TEXT.items():
                    value = text(bad).data
                    values = [value] if row.kind == "string" else [value + STRING, STRING + value]
                    for one in values:
                        data = build(name, client_id, number + one)
                        yield f"{what}: {bad_name}", data, MALFORMED

    compare(rows(), attempt("CONNECT" if name in ("CONNECT", "will") else name, 5))
