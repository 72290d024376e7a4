"""Sessions that outlive their connection: what is kept, and how delivery goes on (MQTT 5.0 sections
3.1.2.4, 4.1 and 4.4)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from robustmq.mqtt.packets import Ack, Connect, Properties, Publish
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, PUBREL

DAY = 86_400


@pytest.mark.mqtt311(
    "MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-3.1.3-2", "MQTT-3.2.2-2", "MQTT-4.1.0-1", "MQTT-4.5.0-1",
)  # fmt: skip
@pytest.mark.mqtt("MQTT-4.1.0-1", "MQTT-4.5.0-1", "MQTT-3.1.2-5", "MQTT-3.2.2-3")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_messages_wait_for_a_session_that_is_away(wire: Open, names: Names, version: int) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client, publisher = wire(version), wire()
    client.connect(client_id, False, expiry=DAY)
    client.subscribe(topic, qos=2)
    client.drop()
    publisher.connect(names.client(0))
    for number in range(300):
        publisher.publish(topic, b"%d" % number, 1 + number % 2)
    publisher.publish(topic, b"QoS 0 does not wait", 0)
    client = wire(version)
    # 3.1 has no Session Present.
    assert client.connect(client_id, False, expiry=DAY).session_present == (version > 3)
    got = [client.receive() for _ in range(300)]
    assert [packet.payload for packet in got] == [b"%d" % number for number in range(300)]
    assert [packet.qos for packet in got] == [1 + number % 2 for number in range(300)]
    assert not any(packet.dup for packet in got)
    client.expect_nothing()


@pytest.mark.mqtt311(
    "MQTT-2.3.1-4", "MQTT-3.3.1-1", "MQTT-4.3.2-1", "MQTT-4.3.3-1", "MQTT-4.4.0-1", "MQTT-4.6.0-1",
)  # fmt: skip
@pytest.mark.mqtt(
    "MQTT-3.3.1-1", "MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-4.3.3-5", "MQTT-4.3.3-6", "MQTT-4.4.0-1"
)
@pytest.mark.parametrize("version", [4, 5])
def test_what_was_not_acknowledged_is_sent_again_with_its_identifiers_in_order(
    wire: Open, names: Names, version: int
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client, publisher = wire(version), wire()
    client.connect(client_id, False, expiry=DAY)
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    for number in range(8):
        publisher.publish(topic, b"%d" % number, 1 + number % 2)
    first = [client.expect(Publish) for _ in range(8)]
    # Acknowledged: 0 wholly, 1 and 3 up to PUBREC, 5 wholly.
    client.send(Ack(PUBACK, first[0].packet_id))
    for at in (3, 1, 5):
        client.send(Ack(PUBREC, first[at].packet_id))
        client.expect_ack(PUBREL, first[at].packet_id)
    client.send(Ack(PUBCOMP, first[5].packet_id))
    client.expect_nothing()
    client.drop()
    publisher.publish(topic, b"new", 1)
    for _ in range(2):
        client = wire(version)
        assert client.connect(client_id, False, expiry=DAY).session_present
        client.expect_ack(PUBREL, first[3].packet_id)
        client.expect_ack(PUBREL, first[1].packet_id)
        for at in (2, 4, 6, 7):
            packet = client.expect(Publish)
            assert packet == Publish(
                topic, b"%d" % at, 1 + at % 2, dup=True, packet_id=first[at].packet_id
            )
        new = client.expect(Publish)
        assert new.payload == b"new"
        assert new.packet_id not in {packet.packet_id for packet in first[1:]}
        client.expect_nothing()
        client.drop()


@pytest.mark.mqtt311("MQTT-4.3.3-2")
@pytest.mark.mqtt("MQTT-4.3.3-10", "MQTT-4.3.3-12")
@pytest.mark.parametrize("version", [4, 5])
def test_a_publisher_resumes_its_qos_2_handshakes_and_nothing_is_doubled(
    wire: Open, names: Names, version: int
) -> None:
    client_id, topics = names.client(1), [names.topic(0), names.topic(1)]
    watcher = wire()
    watcher.connect(names.client(0))
    watcher.subscribe(*topics, qos=2)
    publisher = wire(version)
    publisher.connect(client_id, False, expiry=DAY)
    messages = [Publish(topics[at % 2], b"%d" % at, 2, packet_id=at) for at in range(1, 21)]
    publisher.send(*messages)
    for _ in messages:
        publisher.expect_ack(PUBREC)
    publisher.send(*(Ack(PUBREL, at) for at in range(1, 6)))
    for _ in range(5):
        publisher.expect_ack(PUBCOMP)
    publisher.drop()
    publisher = wire(version)
    assert publisher.connect(client_id, False, expiry=DAY).session_present
    # 6 to 10: it lost our PUBREC, sends PUBLISH again; 11 to 15: it lost PUBCOMP, sends PUBREL.
    again = [Publish(m.topic, m.payload, 2, dup=True, packet_id=m.packet_id) for m in messages]
    publisher.send(*again[5:10])
    for at in range(6, 11):
        assert publisher.expect_ack(PUBREC, at).reason_code == 0
    publisher.send(*(Ack(PUBREL, at) for at in range(6, 16)))
    for at in range(6, 16):
        assert publisher.expect_ack(PUBCOMP, at).reason_code == 0
    # The identifiers are free for others now [MQTT-4.3.3-12]; 16 to 20 still wait.
    publisher.send(*(Publish(topics[0], b"new %d" % at, 2, packet_id=at) for at in range(1, 4)))
    for at in range(1, 4):
        publisher.expect_ack(PUBREC, at)
    publisher.send(Ack(PUBREL, 16), Ack(PUBREL, 5))
    assert publisher.expect_ack(PUBCOMP, 16).reason_code == 0
    assert publisher.expect_ack(PUBCOMP, 5).reason_code == (0x92 if version == 5 else 0)
    got = sorted(watcher.receive().payload for _ in range(23))
    assert got == sorted(
        [b"%d" % at for at in range(1, 21)] + [b"new %d" % at for at in range(1, 4)]
    )
    watcher.expect_nothing()


@pytest.mark.mqtt("MQTT-4.1.0-2", "MQTT-3.1.2-4")
def test_an_ended_session_leaves_nothing_behind(wire: Open, names: Names) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client, publisher = wire(), wire()
    publisher.connect(names.client(0))
    client.connect(client_id, expiry=1)
    client.subscribe(topic, qos=2)
    client.drop()
    publisher.publish(topic, b"too late", 2)
    time.sleep(2)
    client = wire()
    assert not client.connect(client_id, False, expiry=DAY).session_present
    publisher.publish(topic, b"not subscribed", 2)
    client.expect_nothing()
    client.subscribe(topic, qos=2)
    publisher.publish(topic, b"subscribed", 1)
    assert client.receive() == Publish(topic, b"subscribed", 1, packet_id=1)
    client.drop()
    publisher.publish(topic, b"cleared", 1)
    client = wire()
    assert not client.connect(client_id, True, expiry=DAY).session_present
    client.expect_nothing()


def test_a_session_goes_on_in_another_version(wire: Open, names: Names) -> None:
    client_id, topic = names.client(1), names.topic(0)
    publisher = wire()
    publisher.connect(names.client(0))
    client = wire(4)
    client.connect(client_id, False)
    client.subscribe(topic, qos=1)
    client.disconnect()
    for number, version in enumerate((5, 4, 3, 5)):
        publisher.publish(topic, b"%d" % number, 1, content_type="text/plain")
        client = wire(version)
        client.connect(client_id, False, expiry=DAY)
        packet = client.receive()
        assert packet.payload == b"%d" % number
        assert (packet.properties.content_type == "text/plain") == (version == 5)
        publisher.publish(topic, b"live", 0, content_type="text/plain")
        packet = client.receive()
        assert packet.payload == b"live"
        assert (packet.properties.content_type == "text/plain") == (version == 5)
        client.disconnect(**({"session_expiry_interval": DAY} if version == 5 else {}))


def test_subscriptions_of_a_resumed_session_get_live_messages_and_no_retained_ones(
    wire: Open, names: Names
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    publisher, client = wire(), wire()
    publisher.connect(names.client(0))
    client.connect(client_id, expiry=DAY)
    client.subscribe(topic, qos=1, identifier=7)
    client.disconnect()
    client = wire()
    client.connect(client_id, False, expiry=DAY)
    client.expect_nothing()
    publisher.publish(topic, b"live", 1, True)
    packet = client.receive()
    assert (packet.payload, packet.retain) == (b"live", False)
    assert packet.properties.subscription_identifiers == (7,)
    client.disconnect()
    client = wire()
    client.connect(client_id, False, expiry=DAY)
    client.expect_nothing()


@pytest.mark.mqtt("MQTT-4.3.3-7")
def test_a_message_that_was_sent_before_it_expired_is_sent_again(wire: Open, names: Names) -> None:
    client_id, topic = names.client(1), names.topic(0)
    publisher, client = wire(), wire()
    publisher.connect(names.client(0))
    client.connect(client_id, expiry=DAY, receive_maximum=1)
    client.subscribe(topic, qos=2)
    for payload in (b"sent", b"never sent"):
        publisher.publish(topic, payload, 2, message_expiry_interval=1)
    sent = client.expect(Publish)
    client.drop()
    time.sleep(1.5)
    client = wire()
    client.connect(client_id, False, expiry=DAY, receive_maximum=1)
    again = client.receive()
    assert (again.payload, again.packet_id, again.dup) == (b"sent", sent.packet_id, True)
    client.expect_nothing()


@pytest.mark.mqtt311("MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.mqtt("MQTT-4.6.0-5")
@pytest.mark.parametrize("version", [4, 5])
def test_order_holds_while_the_subscriber_comes_and_goes(
    wire: Open, names: Names, version: int
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    publisher = wire()
    publisher.connect(names.client(0))
    client = wire(version)
    receive: dict[str, Any] = {"receive_maximum": 10} if version == 5 else {}
    client.connect(client_id, False, expiry=DAY, **receive)
    client.subscribe(topic, qos=2)
    total, lives = 400, 0
    seen: list[int] = []
    for number in range(total):
        publisher.send(Publish(topic, b"%d" % number, 1 + number % 2, packet_id=number + 1))
    known: set[int] = set()
    while len(seen) < total:
        try:
            packet = client.read()
        except TimeoutError:
            pytest.fail(f"{len(seen)} of {total} came")
        if isinstance(packet, Ack):
            known.discard(packet.packet_id)
            client.send(Ack(PUBCOMP, packet.packet_id))
            continue
        assert isinstance(packet, Publish)
        number = int(packet.payload)
        if packet.qos == 2:
            if packet.packet_id not in known:
                known.add(packet.packet_id)
                seen.append(number)
            client.send(Ack(PUBREC, packet.packet_id))
        else:
            if number not in seen:
                seen.append(number)
            client.send(Ack(PUBACK, packet.packet_id))
        if number % 37 == 0 and lives < 12:
            lives += 1
            client.drop()
            client = wire(version)
            client.connect(client_id, False, expiry=DAY, **receive)
    assert sorted(seen) == list(range(total))
    for qos in (1, 2):
        of_qos = [number for number in seen if 1 + number % 2 == qos]
        assert of_qos == sorted(of_qos)


def test_many_sessions_may_be_opened_and_taken_over_at_once(wire: Open, names: Names) -> None:
    client_id = names.client(1)
    storm = [wire() for _ in range(20)]
    for client in storm:
        client.send(Connect(5, client_id, False, properties=Properties(session_expiry_interval=60)))
    alive = wire()
    time.sleep(0.3)
    assert alive.connect(client_id, False, expiry=60).session_present
    alive.expect_nothing()
    alive.subscribe(names.topic(0))


@pytest.mark.mqtt("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_the_receive_maximum_of_the_new_connection_holds_for_what_is_sent_again(
    wire: Open, names: Names, qos: int
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client, publisher = wire(), wire()
    client.connect(client_id, expiry=DAY, receive_maximum=5)
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    for number in range(8):
        publisher.publish(topic, b"%d" % number, qos)
    first = [client.expect(Publish) for _ in range(5)]
    client.expect_nothing()
    client.drop()
    client = wire()
    client.connect(client_id, False, expiry=DAY, receive_maximum=2)
    for number in range(0, 8, 2):
        pair = [client.expect(Publish), client.expect(Publish)]
        assert [packet.payload for packet in pair] == [b"%d" % number, b"%d" % (number + 1)]
        for packet in pair:
            before = [one for one in first if one.payload == packet.payload]
            assert packet.dup == bool(before)
            assert not before or before[0].packet_id == packet.packet_id
        client.expect_nothing()
        for packet in pair:
            client.send(Ack(PUBACK if qos == 1 else PUBREC, packet.packet_id))
        if qos == 2:
            for packet in pair:
                client.expect_ack(PUBREL, packet.packet_id)
            client.expect_nothing()
            client.send(*(Ack(PUBCOMP, packet.packet_id) for packet in pair))
    client.expect_nothing()


@pytest.mark.mqtt("MQTT-3.3.2-7", "MQTT-3.1.2-27")
def test_what_is_sent_again_does_not_count_on_the_aliases_of_the_old_connection(
    wire: Open, names: Names
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client, publisher = wire(), wire()
    client.connect(client_id, expiry=DAY, topic_alias_maximum=5)
    client.subscribe(topic, qos=1)
    publisher.connect(names.client(0))
    for number in range(3):
        publisher.publish(topic, b"%d" % number, 1)
    first = [client.expect(Publish) for _ in range(3)]
    assert [packet.topic for packet in first] == [topic, b"", b""]
    for allowed, topics in ((0, [topic] * 3), (5, [topic, b"", b""])):
        client.drop()
        client = wire()
        client.connect(client_id, False, expiry=DAY, topic_alias_maximum=allowed)
        again = [client.expect(Publish) for _ in range(3)]
        assert [packet.topic for packet in again] == topics
        assert [packet.packet_id for packet in again] == [packet.packet_id for packet in first]
        aliases = {packet.properties.topic_alias for packet in again}
        assert aliases == ({1} if allowed else {None})


@pytest.mark.mqtt("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [1, 2])
def test_what_has_become_too_large_for_the_client_is_left_out_when_it_is_back(
    wire: Open, names: Names, qos: int
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client, publisher = wire(), wire()
    client.connect(client_id, expiry=DAY, receive_maximum=2)
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    for size in (200, 10, 300, 20, 400, 30):
        publisher.publish(topic, b"x" * size, qos)
    assert [len(client.expect(Publish).payload) for _ in range(2)] == [200, 10]
    client.drop()
    client = wire()
    client.connect(client_id, False, expiry=DAY, receive_maximum=1, maximum_packet_size=100)
    assert [len(client.receive().payload) for _ in range(3)] == [10, 20, 30]
    client.expect_nothing()
    client.drop()
    # They count as delivered: a connection that takes more does not get them either.
    client = wire()
    client.connect(client_id, False, expiry=DAY)
    client.expect_nothing()
