"""What MQTT 3.1.1 asks in its own words, and some that it shares with 5.0; most of what they share
is proven by tests that run in both versions."""

from __future__ import annotations

import pytest

from robustmq.mqtt.packets import Ack, ConnAck, Connect, Publish, Will
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, PUBREL

OLD = pytest.mark.parametrize("version", [3, 4])
ALL = pytest.mark.parametrize("version", [3, 4, 5])


@OLD
@pytest.mark.mqtt311("MQTT-3.1.2-6", "MQTT-3.2.2-1", "MQTT-4.1.0-2")
def test_a_clean_session_begins_anew_and_leaves_nothing_behind(
    wire: Open, names: Names, version: int
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    publisher, client = wire(5), wire(version)
    publisher.connect(names.client(0))
    # A session that stays, with a subscription, a message that waits, and one in flight.
    client.connect(client_id, False)
    client.subscribe(topic, qos=1)
    publisher.publish(topic, b"in flight", 1)
    client.expect(Publish)
    client.drop()
    publisher.publish(topic, b"waits", 1)
    client = wire(version)
    assert client.connect(client_id, True) == ConnAck(False, 0)
    publisher.publish(topic, b"not subscribed", 1)
    client.expect_nothing()
    client.subscribe(topic, qos=1)
    publisher.publish(topic, b"in its time", 1)
    assert client.receive().payload == b"in its time"
    client.drop()
    publisher.publish(topic, b"too late", 1)
    client = wire(version)
    assert client.connect(client_id, False) == ConnAck(False, 0)
    publisher.publish(topic, b"not subscribed", 1)
    client.expect_nothing()


@OLD
@pytest.mark.mqtt311("MQTT-3.1.2-7")
def test_retained_messages_outlive_the_session_of_their_publisher_and_subscriber(
    wire: Open, names: Names, version: int
) -> None:
    topic, client_id = names.topic(0), names.client(1)
    with wire(version) as client:
        client.connect(client_id, True)
        client.subscribe(topic, qos=1)
        client.publish(topic, b"kept", 1, True)
        assert client.receive().payload == b"kept"
        client.disconnect()
    late = wire(version)
    late.connect(client_id, True)
    late.subscribe(topic, qos=1)
    packet = late.receive()
    assert (packet.payload, packet.retain) == (b"kept", True)


@ALL
@pytest.mark.mqtt("MQTT-3.1.2-14", "MQTT-3.1.2-15")
@pytest.mark.mqtt311("MQTT-3.1.2-12", "MQTT-3.1.2-16", "MQTT-3.1.2-17")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_has_the_qos_and_the_retain_flag_that_it_was_given(
    wire: Open, names: Names, version: int, qos: int
) -> None:
    topic = names.topic(0)
    watcher = wire(5)
    watcher.connect(names.client(0))
    watcher.subscribe(topic, qos=2, retain_as_published=True)
    for will in (None, Will(topic, b"live", qos, False), Will(topic, b"kept", qos, True)):
        client = wire(version)
        client.connect(names.client(1), will=will)
        client.drop()
        if will is not None:
            packet = watcher.receive()
            assert (packet.payload, packet.qos, packet.retain) == (will.payload, qos, will.retain)
        late = wire(version)
        late.connect(names.client(1))
        late.subscribe(topic, qos=2)
        if will is not None and will.retain:
            assert late.receive().payload == b"kept"
        else:
            late.expect_nothing()
    watcher.expect_nothing()


@OLD
@pytest.mark.mqtt311("MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.2-4", "MQTT-3.2.2-5")
def test_nothing_behind_a_refused_connect_is_processed(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(0)
    watcher, client = wire(5), wire(version)
    watcher.connect(names.client(1))
    watcher.subscribe(topic)
    client.send(Connect(version, b"x" * 2000), Publish(topic, b"refused"))
    assert client.expect(ConnAck) == ConnAck(False, 2)
    client.expect_end()
    sound = wire(version)
    sound.send(Connect(version, names.client(0)), Publish(topic, b"sound", 1, packet_id=1))
    assert sound.expect(ConnAck) == ConnAck(False, 0)
    sound.expect_ack(PUBACK, 1)
    assert watcher.receive().payload == b"sound"


@OLD
@pytest.mark.mqtt311("MQTT-3.3.5-1", "MQTT-3.3.1-9")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_overlapping_subscriptions_give_one_copy_with_the_highest_qos(
    wire: Open, names: Names, version: int, qos: int
) -> None:
    topic = names.topic(0)
    subscriber, publisher = wire(version), wire(5)
    subscriber.connect(names.client(1))
    publisher.connect(names.client(0))
    subscriber.subscribe(topic, qos=0)
    subscriber.subscribe(topic + b"/#", qos=2)
    subscriber.subscribe(topic.split(b"/")[0] + b"/+", qos=1)
    publisher.publish(topic, b"x", qos, True)
    packet = subscriber.receive()
    assert (packet.payload, packet.qos, packet.retain) == (b"x", qos, False)
    subscriber.expect_nothing()


@OLD
@pytest.mark.mqtt311("MQTT-3.3.5-2")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_publish_that_is_not_allowed_is_acknowledged_and_dropped(
    wire: Open, names: Names, version: int, qos: int
) -> None:
    watcher, client = wire(5), wire(version)
    watcher.connect(names.client(1))
    watcher.subscribe(b"$SYS/forged/#", qos=2)
    client.connect(names.client(0))
    assert client.publish(b"$SYS/forged", b"x", qos, True) == 0
    client.expect_nothing()
    watcher.expect_nothing()
    watcher.subscribe(b"$SYS/forged", qos=2)
    watcher.expect_nothing()


@ALL
@pytest.mark.mqtt("MQTT-3.10.4-1", "MQTT-3.10.4-2")
@pytest.mark.mqtt311("MQTT-3.10.4-1", "MQTT-3.10.4-2")
def test_unsubscribe_takes_the_filter_that_is_the_same_in_every_character(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(0)
    client, publisher = wire(version), wire(5)
    client.connect(names.client(1))
    publisher.connect(names.client(0))
    wildcard = topic.split(b"/")[0] + b"/+"
    client.subscribe(topic, wildcard, qos=1)
    # None of these is the exact filter, though all of them match the topic.
    client.unsubscribe(topic + b"/#", topic.split(b"/")[0] + b"/#", b"+/" + topic.split(b"/")[1])
    publisher.publish(topic, b"1", 1)
    assert client.receive().payload == b"1"
    client.unsubscribe(wildcard)
    publisher.publish(topic, b"2", 1)
    assert client.receive().payload == b"2"
    client.unsubscribe(topic)
    publisher.publish(topic, b"3", 1)
    client.expect_nothing()


@ALL
@pytest.mark.mqtt("MQTT-1.5.4-3", "MQTT-4.7.3-4")
@pytest.mark.mqtt311("MQTT-1.5.3-3", "MQTT-4.7.3-4")
def test_a_byte_order_mark_is_a_character_of_a_topic(
    wire: Open, names: Names, version: int
) -> None:
    plain = names.topic(0)
    marked = b"\xef\xbb\xbf" + plain
    subscriber, publisher = wire(version), wire(version)
    subscriber.connect(names.client(1))
    publisher.connect(names.client(0))
    subscriber.subscribe(marked, qos=1)
    publisher.publish(plain, b"without", 1)
    publisher.publish(marked, b"with", 1)
    packet = subscriber.receive()
    assert (packet.topic, packet.payload) == (marked, b"with")
    subscriber.expect_nothing()


@pytest.mark.mqtt("MQTT-3.3.1-3", "MQTT-4.3.1-1", "MQTT-4.3.2-2", "MQTT-4.3.3-2")
@pytest.mark.mqtt311("MQTT-3.3.1-3", "MQTT-4.3.2-2")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_the_dup_flag_of_a_publisher_is_not_handed_on(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(0)
    subscriber, publisher = wire(version), wire(version)
    subscriber.connect(names.client(1))
    subscriber.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    # What was acknowledged has freed its identifier: a PUBLISH with it is another message,
    # whatever its DUP flag says.
    for number in range(3):
        publisher.send(Publish(topic, b"1-%d" % number, 1, False, True, 7))
        publisher.expect_ack(PUBACK, 7)
        assert subscriber.receive().dup is False
        publisher.send(Publish(topic, b"2-%d" % number, 2, False, True, 7))
        publisher.expect_ack(PUBREC, 7)
        publisher.send(Ack(PUBREL, 7))
        publisher.expect_ack(PUBCOMP, 7)
        packet = subscriber.receive()
        assert (packet.payload, packet.dup) == (b"2-%d" % number, False)
    subscriber.expect_nothing()


@pytest.mark.mqtt("MQTT-4.6.0-4")
@pytest.mark.mqtt311("MQTT-4.6.0-4")
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("stays", [True, False])
def test_pubrels_go_in_the_order_of_their_pubrecs(
    wire: Open, names: Names, version: int, stays: bool
) -> None:
    topic = names.topic(0)
    subscriber, publisher = wire(version), wire(5)
    subscriber.connect(names.client(1), not stays, expiry=100 if stays else 0)
    subscriber.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    for number in range(40):
        publisher.send(Publish(topic, b"%d" % number, 2, packet_id=number + 1))
    ids = [subscriber.expect(Publish).packet_id for _ in range(40)]
    order = ids[20:] + ids[:10] + ids[19:9:-1]
    # In several writes, so that some meet a commit and some do not.
    for at in range(0, 40, 8):
        subscriber.send(*(Ack(PUBREC, one) for one in order[at : at + 8]))
    assert [subscriber.expect_ack(PUBREL).packet_id for _ in order] == order


@pytest.mark.mqtt("MQTT-3.3.4-5")
def test_each_of_several_copies_carries_the_identifier_of_its_subscription(
    wire: Open, names: Names
) -> None:
    topic = names.topic(0)
    subscriber, publisher = wire(), wire()
    subscriber.connect(names.client(1))
    publisher.connect(names.client(0))
    subscriber.subscribe(topic, qos=1, identifier=1)
    subscriber.subscribe(b"$share/two/" + topic, qos=1, identifier=2)
    subscriber.subscribe(b"$share/three/" + topic.split(b"/")[0] + b"/#", qos=1, identifier=3)
    subscriber.subscribe(b"$share/none/" + topic, qos=1)
    publisher.publish(topic, b"x", 1)
    copies = [subscriber.receive().properties.subscription_identifiers for _ in range(4)]
    assert sorted(copies) == [(), (1,), (2,), (3,)]
    subscriber.expect_nothing()
