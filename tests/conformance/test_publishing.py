"""PUBLISH and its acknowledgements in both directions on a real broker (MQTT 5.0 sections 3.3 to
3.7, 4.3, 4.4, 4.6 and 4.9)."""

from __future__ import annotations

import time

import pytest

from robustmq.mqtt.packets import Ack, Properties, Publish, SubAck, Will
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, PUBREL, Wire

EVERYTHING = Properties(
    payload_format_indicator=1,
    message_expiry_interval=1000,
    content_type="text/plain; \ufeff",
    response_topic=b"answer/to/me",
    correlation_data=b"\x00\x01\xff",
    user_properties=(("z", "1"), ("a", "2"), ("z", "1"), ("mqtt.qos", "forged"), ("", "")),
)


@pytest.mark.mqtt311(
    "MQTT-2.3.1-4", "MQTT-2.3.1-5", "MQTT-2.3.1-6", "MQTT-3.3.1-2", "MQTT-3.3.2-3", "MQTT-3.3.4-1",
    "MQTT-3.8.4-6", "MQTT-4.3.1-1",
)  # fmt: skip
@pytest.mark.mqtt(
    "MQTT-2.2.1-2", "MQTT-2.2.1-4", "MQTT-2.2.1-5", "MQTT-2.2.2-1", "MQTT-3.3.1-3", "MQTT-3.3.2-3",
    "MQTT-3.3.4-1", "MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.8.4-8", "MQTT-4.3.1-1", "MQTT-4.3.2-1",
    "MQTT-4.3.2-2", "MQTT-4.3.2-4", "MQTT-4.3.3-1", "MQTT-4.3.3-2", "MQTT-4.3.3-8", "MQTT-4.3.3-11",
)  # fmt: skip
@pytest.mark.parametrize("publisher_version", [3, 4, 5])
@pytest.mark.parametrize("subscriber_version", [3, 4, 5])
def test_a_message_goes_with_the_lower_of_both_qos_between_all_versions(
    wire: Open, names: Names, publisher_version: int, subscriber_version: int
) -> None:
    publisher = wire(publisher_version)
    publisher.connect(names.client(0))
    for granted in (0, 1, 2):
        subscriber, topic = wire(subscriber_version), names.topic(granted)
        subscriber.connect(names.client(1))
        assert subscriber.subscribe(topic, qos=granted) == (granted,)
        for qos in (0, 1, 2):
            assert publisher.publish(topic, b"%d" % qos, qos) == 0
            packet = subscriber.receive()
            assert packet == Publish(
                topic, b"%d" % qos, min(qos, granted), packet_id=packet.packet_id
            )
            assert bool(packet.packet_id) == bool(packet.qos)


@pytest.mark.mqtt(
    "MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18",
    "MQTT-3.3.2-20", "MQTT-1.5.4-3",
)  # fmt: skip
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_arrive_as_they_were_sent_live_kept_and_queued(
    wire: Open, names: Names, qos: int
) -> None:
    topic, sleeper_id = names.topic(0), names.client(1)
    sleeper = wire()
    sleeper.connect(sleeper_id, expiry=100)
    sleeper.subscribe(topic, qos=2)
    sleeper.disconnect()
    live = wire()
    live.connect(names.client(1))
    live.subscribe(topic, qos=2)
    publisher = wire()
    publisher.connect(names.client(0))
    publisher.send(Publish(topic, b"\xef\xbb\xbf\x00", qos, True, False, bool(qos), EVERYTHING))
    assert live.receive().properties == EVERYTHING
    late = wire()
    late.connect(names.client(1))
    late.subscribe(topic, qos=2)
    kept = late.receive()
    assert (kept.payload, kept.retain, kept.qos) == (b"\xef\xbb\xbf\x00", True, qos)
    assert kept.properties == EVERYTHING
    if qos:
        sleeper = wire()
        sleeper.connect(sleeper_id, False, expiry=100)
        queued = sleeper.receive()
        assert (queued.retain, queued.qos) == (False, qos)
        assert queued.properties == EVERYTHING


@pytest.mark.mqtt("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-20")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    "properties",
    [
        Properties(payload_format_indicator=0),
        Properties(payload_format_indicator=1),
        Properties(message_expiry_interval=0xFFFFFFFF),
        Properties(content_type=""),
        Properties(correlation_data=b""),
        Properties(correlation_data=bytes(range(256)) * 200),
        Properties(response_topic="\ufeff/\u20ac".encode()),
        Properties(user_properties=(("", ""), ("\ufeff", "a\nb"), ("", "\U0010ffff"))),
        Properties(user_properties=tuple((str(at), str(-at)) for at in range(100))),
    ],
    ids=lambda one: repr(one)[11:50],
)
def test_each_property_arrives_as_it_was_sent_also_when_it_says_nothing(
    wire: Open, names: Names, qos: int, properties: Properties
) -> None:
    topic = names.topic(0)
    live, publisher = wire(), wire()
    live.connect(names.client(1))
    live.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    publisher.send(Publish(topic, b"x", qos, True, packet_id=bool(qos), properties=properties))
    assert live.receive().properties == properties
    late = wire()
    late.connect(names.client(1))
    late.subscribe(topic, qos=2)
    assert late.receive().properties == properties


def test_a_message_with_properties_reaches_3_1_1_without_them(wire: Open, names: Names) -> None:
    topic = names.topic()
    subscriber, publisher = wire(4), wire(5)
    subscriber.connect(names.client(1))
    subscriber.subscribe(topic, qos=1)
    publisher.connect(names.client())
    publisher.send(Publish(topic, b"x", 1, packet_id=1, properties=EVERYTHING))
    assert subscriber.receive() == Publish(topic, b"x", 1, packet_id=1)


@pytest.mark.mqtt("MQTT-3.3.2-5", "MQTT-3.3.2-6")
def test_the_message_expiry_counts_down_in_the_queue_and_in_the_retained_value(
    wire: Open, names: Names
) -> None:
    topic, sleeper_id = names.topic(1), names.client(1)
    sleeper = wire()
    sleeper.connect(sleeper_id, expiry=100)
    sleeper.subscribe(topic + b"/#", qos=1)
    sleeper.disconnect()
    publisher = wire()
    publisher.connect(names.client(0))
    publisher.publish(topic + b"/short", b"short", 1, True, message_expiry_interval=1)
    publisher.publish(topic + b"/long", b"long", 1, True, message_expiry_interval=100)
    publisher.publish(topic + b"/ever", b"ever", 1, True)
    time.sleep(2.1)
    for client_id in (sleeper_id, names.client(0)):
        client = wire()
        if not client.connect(client_id, False, expiry=100).session_present:
            client.subscribe(topic + b"/#", qos=1)
        got = {packet.payload: packet.properties for packet in (client.receive(), client.receive())}
        assert got.keys() == {b"long", b"ever"}
        assert 96 <= (got[b"long"].message_expiry_interval or 0) <= 98
        assert got[b"ever"].message_expiry_interval is None
        client.expect_nothing()


@pytest.mark.mqtt311(
    "MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-8", "MQTT-3.3.1-9", "MQTT-3.3.1-10",
    "MQTT-3.3.1-11", "MQTT-3.3.1-12",
)  # fmt: skip
@pytest.mark.mqtt("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-8")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_the_last_retained_message_is_kept_and_an_empty_one_clears_it(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(1)
    publisher, live = wire(version), wire(version)
    publisher.connect(names.client(0))
    live.connect(names.client(1))
    live.subscribe(topic, qos=1)

    def kept() -> Publish | None:
        with wire(version) as late:
            late.connect(names.client(1))
            late.subscribe(topic, qos=1)
            late.send(Publish(names.topic(0), b""))
            late.subscribe(topic + b"/marker", qos=0)
            late.publish(topic + b"/marker", b"marker")
            packet = late.receive()
            return packet if packet.topic == topic else None

    publisher.publish(topic, b"1", 1, True)
    publisher.publish(topic, b"2", 0, True)
    publisher.publish(topic, b"not kept", 1, False)
    found = kept()
    assert found is not None
    assert (found.payload, found.qos, found.retain) == (b"2", 0, True)
    publisher.publish(topic, b"", 1, True)
    got = [live.receive() for _ in range(4)]
    assert [packet.payload for packet in got] == [b"1", b"2", b"not kept", b""]
    assert not any(packet.retain for packet in got)
    assert kept() is None


@pytest.mark.mqtt("MQTT-3.3.2-7", "MQTT-3.3.2-12")
def test_topic_aliases_from_a_client(wire: Open, names: Names) -> None:
    one, two = names.topic(0), names.topic(1)
    subscriber, publisher = wire(), wire()
    subscriber.connect(names.client(1))
    subscriber.subscribe(one, two, qos=2)
    publisher.connect(names.client(0))
    for qos in (0, 1, 2):
        publisher.publish(one, b"set", qos, topic_alias=10)
        publisher.publish(b"", b"used", qos, topic_alias=10)
        publisher.publish(two, b"changed", qos, topic_alias=10)
        publisher.publish(b"", b"used", qos, topic_alias=10)
        got = [subscriber.receive() for _ in range(4)]
        assert {(packet.topic, packet.payload) for packet in got[:2]} == {
            (one, b"set"), (one, b"used"),
        } or qos == 0  # fmt: skip
        assert sorted((packet.topic, packet.payload) for packet in got) == sorted(
            [(one, b"set"), (one, b"used"), (two, b"changed"), (two, b"used")]
        )
        assert all(packet.properties == Properties() for packet in got)
    again = wire()
    again.connect(names.client(0))
    again.send(Publish(b"", b"x", properties=Properties(topic_alias=10)))
    again.expect_end(0x82)


@pytest.mark.mqtt("MQTT-3.3.2-9", "MQTT-3.2.2-17")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_topic_alias_above_the_limit_is_refused(wire: Open, names: Names, qos: int) -> None:
    client = wire()
    assert client.connect(names.client()).properties.topic_alias_maximum == 10
    alias = Properties(topic_alias=11)
    client.send(Publish(names.topic(), b"x", qos, packet_id=bool(qos), properties=alias))
    client.expect_end(0x94)


@pytest.mark.mqtt("MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-8", "MQTT-3.3.2-11")
def test_topic_aliases_towards_a_client_that_allows_them(wire: Open, names: Names) -> None:
    one, two, three = names.topic(0), names.topic(1), names.topic(0)
    allows, not_allows, publisher = wire(), wire(), wire()
    allows.connect(names.client(1), topic_alias_maximum=2)
    not_allows.connect(names.client(1))
    publisher.connect(names.client(0))
    for client in (allows, not_allows):
        client.subscribe(one, two, three, qos=1)
    seen: list[tuple[bytes, int | None]] = []
    for topic in (one, one, two, one, two, three, three):
        publisher.publish(topic, b"x", 1)
        packet = allows.receive()
        seen.append((packet.topic, packet.properties.topic_alias))
        plain = not_allows.receive()
        assert (plain.topic, plain.properties.topic_alias) == (topic, None)
    assert seen == [
        (one, 1), (b"", 1), (two, 2), (b"", 1), (b"", 2), (three, None), (three, None),
    ]  # fmt: skip


@pytest.mark.mqtt("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_too_large_for_a_client_is_left_out_for_it_alone(
    wire: Open, names: Names, qos: int
) -> None:
    topic = names.topic(0)
    small, large, publisher = wire(), wire(), wire()
    small.connect(names.client(1), maximum_packet_size=100, receive_maximum=1)
    large.connect(names.client(1))
    publisher.connect(names.client(0))
    small.subscribe(topic, qos=2)
    large.subscribe(topic, qos=2)
    sizes = [10, 200, 300, 20, 400, 30]
    for size in sizes:
        publisher.publish(topic, b"x" * size, qos)
    assert [len(large.receive().payload) for _ in sizes] == sizes
    assert [len(small.receive().payload) for _ in range(3)] == [10, 20, 30]
    small.expect_nothing()


@pytest.mark.mqtt(
    "MQTT-3.3.4-9", "MQTT-3.3.4-10", "MQTT-4.4.0-2", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.9.0-3"
)
@pytest.mark.parametrize("expiry", [0, 100])
def test_the_receive_maximum_of_a_client_holds_and_delays_nothing_else(
    wire: Open, names: Names, expiry: int
) -> None:
    topic = names.topic(0)
    client, publisher = wire(), wire()
    client.connect(names.client(1), receive_maximum=2, expiry=expiry)
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    for number, qos in enumerate((1, 2, 1, 2, 1)):
        publisher.publish(topic, b"%d" % number, qos)
    first, second = client.expect(Publish), client.expect(Publish)
    client.expect_nothing()
    publisher.publish(topic, b"of QoS 0", 0)
    assert client.expect(Publish).payload == b"of QoS 0"
    client.subscribe(names.topic())
    client.send(Ack(PUBREC, second.packet_id))
    client.expect_ack(PUBREL, second.packet_id)
    client.expect_nothing()
    client.send(Ack(PUBCOMP, second.packet_id))
    third = client.expect(Publish)
    assert third.payload == b"2"
    client.send(Ack(PUBACK, first.packet_id, 0x80))
    fourth = client.expect(Publish)
    assert fourth.payload == b"3"
    client.expect_nothing()
    # A PUBREC with an error ends it, and frees its place [MQTT-4.4.0-2].
    client.send(Ack(PUBREC, fourth.packet_id, 0x97))
    assert client.expect(Publish).payload == b"4"
    client.expect_nothing()


@pytest.mark.mqtt("MQTT-3.3.4-7")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_that_exceeds_the_receive_maximum_is_ended(
    wire: Open, names: Names, qos: int
) -> None:
    client, topic = wire(), names.topic(1)
    client.connect(names.client(0))
    packets = [Publish(topic, b"x", qos, packet_id=at) for at in range(1, 1026)]
    if qos == 1:
        client.send(*packets)
    else:
        client.send(*packets[:1000])
        for at in range(1, 1001):
            client.expect_ack(PUBREC, at)
        client.send(*packets[1000:1024])
        for at in range(1001, 1025):
            client.expect_ack(PUBREC, at)
        client.send(packets[1024])
    while True:
        packet = client.read()
        if not isinstance(packet, Ack):
            break
    assert getattr(packet, "reason_code", None) == 0x93
    client.expect_end()


@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_of_3_1_1_that_sends_ahead_is_slowed_and_served(
    wire: Open, names: Names, qos: int
) -> None:
    client, topic = wire(4), names.topic(1)
    client.connect(names.client(0))
    client.send(*(Publish(topic, b"x", qos, packet_id=at) for at in range(1, 20_001)))
    kind = PUBACK if qos == 1 else PUBREC
    for at in range(1, 20_001):
        client.expect_ack(kind, at)
    client.expect_nothing()


@pytest.mark.mqtt311("MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.mqtt("MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("version", [4, 5])
def test_acknowledgements_and_messages_keep_their_order_over_many_topics(
    wire: Open, names: Names, version: int
) -> None:
    topics = [names.topic(at) for at in range(6)]
    subscriber, publisher = wire(version), wire(version)
    subscriber.connect(names.client(1), False, expiry=100)
    subscriber.subscribe(*topics, qos=2)
    publisher.connect(names.client(0))
    packets = [
        Publish(topics[at % 6], b"%d" % at, 1 + at % 2, packet_id=at) for at in range(1, 301)
    ]
    publisher.send(*packets)
    order: dict[int, list[int]] = {PUBACK: [], PUBREC: []}
    for _ in packets:
        packet = publisher.expect(Ack)
        order[packet.kind].append(packet.packet_id)
    assert order[PUBACK] == [at for at in range(1, 301) if at % 2 == 0]
    assert order[PUBREC] == [at for at in range(1, 301) if at % 2 == 1]
    publisher.send(*(Ack(PUBREL, at) for at in order[PUBREC]))
    assert [publisher.expect_ack(PUBCOMP).packet_id for _ in range(150)] == order[PUBREC]
    got: dict[tuple[bytes, int], list[int]] = {}
    for _ in packets:
        message = _receive_in_flood(subscriber)
        got.setdefault((message.topic, message.qos), []).append(int(message.payload))
    assert sum(map(len, got.values())) == 300
    assert all(numbers == sorted(numbers) for numbers in got.values())


def _receive_in_flood(client: Wire) -> Publish:
    """The next PUBLISH; acknowledges it, and answers PUBRELs that come between."""
    while True:
        packet = client.read()
        if isinstance(packet, Ack) and packet.kind == PUBREL:
            client.send(Ack(PUBCOMP, packet.packet_id))
            continue
        assert isinstance(packet, Publish), packet
        client.send(Ack(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id))
        return packet


@pytest.mark.mqtt311("MQTT-4.3.3-2", "MQTT-3.3.1-3")
@pytest.mark.mqtt("MQTT-4.3.3-10", "MQTT-4.3.3-12")
@pytest.mark.parametrize("version", [4, 5])
def test_a_qos_2_message_that_is_sent_again_is_published_once(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(1)
    subscriber, publisher = wire(), wire(version)
    subscriber.connect(names.client(1))
    subscriber.subscribe(topic, qos=2)
    publisher.connect(names.client(0), False, expiry=100)
    message = Publish(topic, b"once", 2, packet_id=7)
    publisher.send(message)
    publisher.expect_ack(PUBREC, 7)
    publisher.send(Publish(topic, b"once", 2, False, True, 7))
    assert publisher.expect_ack(PUBREC, 7).reason_code == 0
    publisher.send(Ack(PUBREL, 7))
    assert publisher.expect_ack(PUBCOMP, 7).reason_code == 0
    publisher.send(Ack(PUBREL, 7))
    assert publisher.expect_ack(PUBCOMP, 7).reason_code == (0x92 if version == 5 else 0)
    publisher.send(Publish(topic, b"another", 2, packet_id=7))
    publisher.expect_ack(PUBREC, 7)
    assert [subscriber.receive().payload for _ in range(2)] == [b"once", b"another"]
    subscriber.expect_nothing()


@pytest.mark.mqtt("MQTT-3.6.2-1", "MQTT-3.7.2-1")
def test_acknowledgements_of_nothing(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client(1))
    client.send(Ack(PUBACK, 99), Ack(PUBCOMP, 99))
    client.expect_nothing()
    client.send(Ack(PUBREC, 99))
    assert client.expect_ack(PUBREL, 99).reason_code == 0x92
    client.send(Ack(PUBCOMP, 99, 0x92))
    client.expect_nothing()
    old = wire(4)
    old.connect(names.client(1))
    old.send(Ack(PUBREC, 99))
    old.expect_ack(PUBREL, 99)
    old.send(Ack(PUBREL, 99))
    old.expect_ack(PUBCOMP, 99)


@pytest.mark.parametrize(("qos", "wrong"), [(1, PUBREC), (1, PUBCOMP), (2, PUBACK), (2, PUBCOMP)])
def test_an_acknowledgement_of_the_wrong_kind_is_a_protocol_error(
    wire: Open, names: Names, qos: int, wrong: int
) -> None:
    topic = names.topic(0)
    client, publisher = wire(), wire()
    client.connect(names.client(1))
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    publisher.publish(topic, b"x", qos)
    client.send(Ack(wrong, client.expect(Publish).packet_id))
    client.expect_end(0x82)


@pytest.mark.mqtt("MQTT-4.3.3-4")
def test_a_pubcomp_with_an_error_ends_the_delivery_and_frees_its_place(
    wire: Open, names: Names
) -> None:
    topic = names.topic(0)
    client, publisher = wire(), wire()
    client.connect(names.client(1), receive_maximum=1)
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    for number in range(3):
        publisher.publish(topic, b"%d" % number, 2)
    for number in range(3):
        packet = client.expect(Publish)
        assert packet.payload == b"%d" % number
        client.send(Ack(PUBREC, packet.packet_id))
        client.expect_ack(PUBREL, packet.packet_id)
        client.send(Ack(PUBCOMP, packet.packet_id, 0x92))


def test_a_client_cannot_publish_to_sys(wire: Open, names: Names) -> None:
    watcher, client = wire(), wire()
    watcher.connect(names.client(1))
    watcher.subscribe(b"$SYS/forged")
    client.connect(names.client(0))
    assert client.publish(b"$SYS/forged", b"x", 1) == 0x87
    assert client.publish(b"$SYS/forged", b"x", 2) == 0x87
    client.publish(b"$SYS/forged", b"x", 0)
    client.expect_nothing()
    client.publish(b"$SYSTEM/mine", b"x", 1)
    # Nor can its will.
    for version in (3, 4, 5):
        dying = wire(version)
        dying.connect(names.client(0), will=Will(b"$SYS/forged", b"x", 1, True))
        dying.drop()
    watcher.expect_nothing()
    watcher.subscribe(b"$SYS/forged")
    watcher.expect_nothing()


def test_large_and_empty_payloads_arrive_as_they_are(wire: Open, names: Names) -> None:
    topic = names.topic(1)
    subscriber, publisher = wire(), wire()
    subscriber.connect(names.client(1), expiry=100)
    subscriber.subscribe(topic, qos=1)
    publisher.connect(names.client(0))
    for size in (0, 1, 127, 128, 16_383, 16_384, 100_000, 2_097_152, 9_000_000):
        payload = bytes([size % 251]) * size
        for qos in (0, 1):
            publisher.publish(topic, payload, qos)
            assert subscriber.receive().payload == payload


def test_3_1_may_send_pubrel_and_subscribe_again_with_dup(wire: Open, names: Names) -> None:
    client, topic = wire(3), names.topic(1)
    client.connect(names.client(0), False)
    client.send(Publish(topic, b"x", 2, packet_id=5))
    client.expect_ack(PUBREC, 5)
    client.send(b"\x6a\x02\x00\x05")
    client.expect_ack(PUBCOMP, 5)
    client.send(b"\x8a\x06\x00\x07\x00\x01a\x01")
    assert client.expect(SubAck) == SubAck(7, (1,))
    newer = wire(4)
    newer.connect(names.client(0))
    newer.send(b"\x6a\x02\x00\x05")
    newer.expect_end()


@pytest.mark.mqtt("MQTT-4.3.2-5", "MQTT-4.3.3-9", "MQTT-4.3.3-13")
def test_an_identifier_that_was_answered_stands_for_a_new_message(wire: Open, names: Names) -> None:
    topic = names.topic(1)
    watcher, client = wire(), wire()
    watcher.connect(names.client(1))
    watcher.subscribe(topic, qos=2)
    client.connect(names.client(0), expiry=100)
    for payload, dup in ((b"1", False), (b"2", True)):
        client.send(Publish(topic, payload, 1, False, dup, 5))
        client.expect_ack(PUBACK, 5)
    client.send(Publish(b"$SYS/mine", b"refused", 2, packet_id=6))
    assert client.expect_ack(PUBREC, 6).reason_code == 0x87
    client.send(Publish(topic, b"3", 2, packet_id=6))
    assert client.expect_ack(PUBREC, 6).reason_code == 0
    client.send(Ack(PUBREL, 6))
    client.expect_ack(PUBCOMP, 6)
    # What expires on the way is still acknowledged to the end.
    client.publish(topic, b"expired", 2, message_expiry_interval=0)
    client.publish(topic, b"4", 2)
    assert [watcher.receive().payload for _ in range(4)] == [b"1", b"2", b"3", b"4"]
