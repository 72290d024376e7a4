"""SUBSCRIBE, UNSUBSCRIBE and what they lead to on a real broker (MQTT 5.0 sections 3.8 to 3.11, 4.7
and 4.8)."""

from __future__ import annotations

import pytest

from robustmq.mqtt.packets import (
    Ack,
    Disconnect,
    Properties,
    Publish,
    Subscribe,
    SubscriptionOptions,
)
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK, PUBREC, PUBREL, Wire


def payloads(client: Wire, count: int) -> list[bytes]:
    """The payloads of the next messages, acknowledged."""
    return [client.receive().payload for _ in range(count)]


@pytest.mark.mqtt311(
    "MQTT-2.3.1-7", "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1",
    "MQTT-3.9.3-2", "MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-1",
)  # fmt: skip
@pytest.mark.mqtt(
    "MQTT-2.2.1-6", "MQTT-3.8.4-7", "MQTT-3.9.3-2", "MQTT-3.10.4-1", "MQTT-3.10.4-6",
    "MQTT-3.11.3-1", "MQTT-3.11.3-2", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1",
    "MQTT-4.7.3-2", "MQTT-3.8.4-1",
    "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.9.3-1", "MQTT-4.8.2-1", "MQTT-4.8.2-2",
)  # fmt: skip
def test_each_filter_gets_its_code_in_order(wire: Open, names: Names) -> None:
    good = [b"a", b"#", b"+", b"a/+/b/#", b"/", b"//", b"+/+", b"$share/g/#", b"$share/g//a", b" "]
    bad = [
        b"", b"a#", b"a/#/b", b"#/", b"a+", b"+a/b", b"a/b+", b"$share/g", b"$share/g/",
        b"$share//a", b"$share/+/a", b"$share/#/a", b"$share/g+/a", b"$share", b"$share/",
        b"$share/g/a#", b"x" * 5000, b"/".join([b"x"] * 300),
    ]  # fmt: skip
    client, old = wire(5), wire(4)
    client.connect(names.client(1))
    old.connect(names.client(1))
    filters = [one for pair in zip(good, bad, strict=False) for one in pair] + bad[len(good) :]
    codes = client.subscribe(*filters, qos=1)
    assert codes == tuple(1 if one in good else 0x8F for one in filters)
    assert old.subscribe(*filters, qos=1) == tuple(1 if one in good else 0x80 for one in filters)
    for one, code in zip(filters, client.unsubscribe(*filters), strict=True):
        # What only a limit of ours has refused is a sound filter.
        assert code == (0 if one in good else 0x11 if len(one) > 100 else 0x8F)
    assert client.unsubscribe(b"never/there") == (0x11,)
    assert client.unsubscribe(b"a") == (0x11,)
    old.unsubscribe(*filters)


@pytest.mark.mqtt311("MQTT-4.7.3-4")
@pytest.mark.mqtt("MQTT-4.7.3-4")
@pytest.mark.parametrize("version", [4, 5])
def test_topics_are_matched_level_by_level_and_dollar_is_hidden_from_wildcards(
    wire: Open, names: Names, version: int
) -> None:
    base = names.topic(0)
    rows = {
        b"%b/#": [b"%b", b"%b/", b"%b/a", b"%b/a/b"],
        b"%b/+": [b"%b/", b"%b/a", b"%b/A"],
        b"%b/+/b": [b"%b//b", b"%b/a/b"],
        b"%b/a": [b"%b/a"],
        b"%b/a/#": [b"%b/a", b"%b/a/", b"%b/a/b", b"%b/a//"],
        b"%b/+/+": [b"%b//", b"%b/a/", b"%b/a/b"],
        b"/%b": [b"/%b"],
        b"+/%b": [b"/%b", b"x/%b"],
        # The same letter in two spellings is two topics, and so are two cases.
        b"%b/\xc3\xa9": [b"%b/\xc3\xa9"],
        b"%b/e\xcc\x81": [b"%b/e\xcc\x81"],
        b"%b/\xef\xbb\xbfa": [b"%b/\xef\xbb\xbfa"],
    }
    topics = sorted({topic % base for row in rows.values() for topic in row})
    publisher = wire()
    publisher.connect(names.client(0))
    for filter_, row in rows.items():
        subscriber = wire(version)
        subscriber.connect(names.client(1))
        subscriber.subscribe(filter_ % base, qos=1)
        for topic in topics:
            publisher.publish(topic, b"x", 1)
        publisher.publish(row[0] % base, b"end", 1)
        got = []
        while (packet := subscriber.receive()).payload != b"end":
            got.append(packet.topic)
        wanted = [topic % base for topic in row]
        assert {topic for topic in got if topic in wanted} == set(wanted), filter_
        also = [t for t in got if t not in wanted]
        assert all(_matches(filter_ % base, topic) for topic in also), filter_


def _matches(filter_: bytes, topic: bytes) -> bool:
    """Does the filter match, by the words of section 4.7.1?"""
    levels, names = filter_.split(b"/"), topic.split(b"/")
    if levels[-1] == b"#":
        levels.pop()
        if len(names) < len(levels):
            return False
        names = names[: len(levels)]
    return len(levels) == len(names) and all(
        level in (b"+", name) for level, name in zip(levels, names, strict=True)
    )


@pytest.mark.mqtt311("MQTT-4.7.2-1")
@pytest.mark.mqtt("MQTT-4.7.2-1")
@pytest.mark.parametrize("version", [4, 5])
def test_leading_wildcards_do_not_see_dollar_topics_and_sys_is_told(
    wire: Open, names: Names, version: int
) -> None:
    wild, exact, publisher = wire(version), wire(version), wire()
    for client in (wild, exact, publisher):
        client.connect(names.client(1))
    wild.subscribe(b"#", b"+/dollar", b"+/#")
    exact.subscribe(b"$mine/dollar", b"$mine/+")
    publisher.publish(b"$mine/dollar", b"hidden", 1)
    publisher.publish(b"mine/dollar", b"seen", 1)
    assert exact.receive().payload == b"hidden"
    while True:
        packet = wild.receive()
        assert not packet.topic.startswith(b"$")
        if packet.payload == b"seen":
            break
    system = wire()
    system.connect(names.client(0))
    system.subscribe(b"$SYS/broker/#")
    assert system.receive().topic.startswith(b"$SYS/broker/")


@pytest.mark.mqtt("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("expiry", [0, 100])
def test_overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_all_identifiers(
    wire: Open, names: Names, qos: int, expiry: int
) -> None:
    topic = names.topic(0)
    subscriber, publisher = wire(), wire()
    subscriber.connect(names.client(1), expiry=expiry)
    publisher.connect(names.client(0))
    subscriber.subscribe(topic, qos=0, identifier=1)
    subscriber.subscribe(topic + b"/#", qos=2, identifier=268_435_455)
    subscriber.subscribe(topic.split(b"/")[0] + b"/+", qos=1)
    subscriber.subscribe(names.topic(1), qos=1, identifier=3)
    publisher.publish(topic, b"1", qos)
    publisher.publish(topic, b"2", qos)
    for payload in (b"1", b"2"):
        packet = subscriber.receive()
        assert (packet.payload, packet.qos) == (payload, qos)
        assert sorted(packet.properties.subscription_identifiers) == [1, 268_435_455]
    # A new SUBSCRIBE replaces the identifier, or takes it away [MQTT-3.8.4-3].
    subscriber.subscribe(topic, qos=0)
    publisher.publish(topic, b"3", qos)
    assert subscriber.receive().properties.subscription_identifiers == (268_435_455,)
    subscriber.unsubscribe(topic + b"/#")
    publisher.publish(topic, b"4", qos)
    packet = subscriber.receive()
    assert (packet.qos, packet.properties.subscription_identifiers) == (min(qos, 1), ())
    subscriber.expect_nothing()


@pytest.mark.mqtt("MQTT-3.8.3-3")
@pytest.mark.parametrize("qos", [0, 1])
def test_no_local_keeps_a_clients_own_messages_from_it_also_after_resumption(
    wire: Open, names: Names, qos: int
) -> None:
    topic, client_id = names.topic(0), names.client(1)
    client, other = wire(), wire()
    client.connect(client_id, expiry=100)
    other.connect(names.client(0))
    client.subscribe(topic, qos=2, no_local=True)
    for round_ in range(2):
        client.publish(topic, b"own", qos)
        other.publish(topic, b"foreign", qos)
        assert client.receive().payload == b"foreign"
        client.expect_nothing()
        if not round_:
            client.disconnect()
            client = wire()
            assert client.connect(client_id, False, expiry=100).session_present
    # Another subscription that matches wants them [3.8.3.1].
    client.subscribe(topic + b"/#", qos=1, identifier=5)
    client.publish(topic, b"own", qos)
    assert client.receive().payload == b"own"


@pytest.mark.mqtt("MQTT-3.3.1-12", "MQTT-3.3.1-13")
@pytest.mark.parametrize("qos", [0, 1])
def test_retain_as_published_keeps_the_flag_of_live_messages(
    wire: Open, names: Names, qos: int
) -> None:
    topic = names.topic(0)
    keeps, clears, publisher = wire(), wire(), wire()
    for client, option in ((keeps, True), (clears, False)):
        client.connect(names.client(1))
        client.subscribe(topic, qos=1, retain_as_published=option)
    publisher.connect(names.client(0))
    publisher.publish(topic, b"1", qos, True)
    publisher.publish(topic, b"2", qos, False)
    assert [keeps.receive().retain for _ in range(2)] == [True, False]
    assert [clears.receive().retain for _ in range(2)] == [False, False]


@pytest.mark.mqtt("MQTT-3.3.1-8", "MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "MQTT-3.8.4-4")
def test_retain_handling_says_when_retained_messages_are_sent(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    publisher, client = wire(), wire()
    publisher.connect(names.client(0))
    publisher.publish(topic, b"kept", 1, True)
    client.connect(names.client(1))
    client.subscribe(topic, qos=1, retain_handling=2)
    client.expect_nothing()
    client.subscribe(topic, qos=1, retain_handling=1)
    client.expect_nothing()
    for identifier in (4, 5):
        client.subscribe(topic, qos=1, retain_handling=0, identifier=identifier)
        packet = client.receive()
        assert (packet.payload, packet.retain) == (b"kept", True)
        assert packet.properties.subscription_identifiers == (identifier,)
    client.unsubscribe(topic)
    client.subscribe(topic, qos=1, retain_handling=1, retain_as_published=False)
    packet = client.receive()
    assert (packet.payload, packet.retain) == (b"kept", True)
    client.subscribe(topic, qos=1, retain_handling=1)
    client.expect_nothing()


def test_a_wildcard_finds_the_retained_messages_of_all_workers(wire: Open, names: Names) -> None:
    base = names.topic(0)
    publisher = wire()
    publisher.connect(names.client(0))
    wanted = {base + b"/%d" % at: b"%d" % at for at in range(1500)}
    for topic, payload in wanted.items():
        publisher.send(Publish(topic, payload, 0, True))
    publisher.expect_nothing()
    publisher.publish(base + b"/1", b"1", 1, True)
    for version in (4, 5):
        for qos in (0, 1):
            client = wire(version)
            client.connect(names.client(1))
            client.subscribe(base + b"/+", qos=qos)
            got: dict[bytes, bytes] = {}
            while len(got) < len(wanted):
                packet = client.receive()
                assert packet.retain
                got[packet.topic] = packet.payload
            assert got == wanted


@pytest.mark.mqtt311("MQTT-3.8.4-3")
@pytest.mark.mqtt("MQTT-3.8.4-3")
@pytest.mark.parametrize("version", [4, 5])
def test_a_new_subscribe_to_the_same_filter_loses_and_doubles_nothing(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(0)
    client, publisher = wire(version), wire()
    client.connect(names.client(1), False, expiry=100)
    publisher.connect(names.client(0))
    client.subscribe(topic, qos=1)
    for number in range(200):
        publisher.send(Publish(topic, b"%d" % number, 1, packet_id=number + 1))
        if number % 5 == 0:
            client.send(Subscribe(1000 + number, ((topic, SubscriptionOptions(1 + number % 2)),)))
    got: list[int] = []
    while len(got) < 200:
        packet = client.read()
        if isinstance(packet, Publish):
            got.append(int(packet.payload))
            client.send(Ack(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id))
        elif isinstance(packet, Ack) and packet.kind == PUBREL:
            client.send(Ack(7, packet.packet_id))
    assert sorted(got) == list(range(200))


@pytest.mark.mqtt311("MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6")
@pytest.mark.mqtt("MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5")
def test_after_unsubscribe_nothing_new_comes(wire: Open, names: Names) -> None:
    one, two = names.topic(0), names.topic(1)
    client, publisher = wire(4), wire()
    client.connect(names.client(1))
    publisher.connect(names.client(0))
    client.subscribe(one, two, qos=1)
    client.unsubscribe(one)
    publisher.publish(one, b"x", 1)
    publisher.publish(two, b"y", 1)
    assert client.receive().payload == b"y"
    client.unsubscribe(two, two, b"never/there")
    publisher.publish(two, b"z", 1)
    client.expect_nothing()


@pytest.mark.mqtt("MQTT-3.8.3-4")
def test_no_local_on_a_shared_subscription_is_a_protocol_error(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client(1))
    options = SubscriptionOptions(1, no_local=True)
    client.send(Subscribe(1, ((b"$share/g/" + names.topic(), options),)))
    client.expect_end(0x82)


def test_a_shared_subscription_gets_no_retained_messages(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    publisher, client = wire(), wire()
    publisher.connect(names.client(0))
    publisher.publish(topic, b"kept", 1, True)
    client.connect(names.client(1))
    client.subscribe(b"$share/g/" + topic, qos=1)
    client.expect_nothing()
    publisher.publish(topic, b"live", 1, True)
    packet = client.receive()
    assert (packet.payload, packet.retain) == (b"live", False)


@pytest.mark.mqtt("MQTT-4.8.2-3")
@pytest.mark.parametrize("expiry", [0, 100])
def test_each_message_goes_to_one_member_of_each_group_with_its_qos(
    wire: Open, names: Names, expiry: int
) -> None:
    topic = names.topic(0)
    publisher = wire()
    publisher.connect(names.client(0))
    members = [(wire(), at % 3) for at in range(6)]
    for at, (client, qos) in enumerate(members):
        client.connect(names.client(at), expiry=expiry)
        client.subscribe(b"$share/one/" + topic, qos=qos, identifier=at + 1)
    other, both = wire(), wire()
    other.connect(names.client(1))
    other.subscribe(b"$share/two/" + topic.split(b"/")[0] + b"/#", qos=1)
    both.connect(names.client(1))
    both.subscribe(topic, b"$share/three/" + topic, b"$share/four/" + topic, qos=1)
    for number in range(120):
        publisher.publish(topic, b"%d" % number, number % 3)
    marker = b"$share/one/" + topic
    got: list[int] = []
    for at, (client, granted) in enumerate(members):
        share = []
        client.socket.settimeout(1)
        while True:
            try:
                packet = client.read(0.4)
            except TimeoutError:
                break
            if isinstance(packet, Ack):
                client.send(Ack(7, packet.packet_id))
                continue
            assert isinstance(packet, Publish)
            if packet.qos:
                client.send(Ack(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id))
            number = int(packet.payload)
            assert packet.qos == min(granted, number % 3)
            assert packet.properties.subscription_identifiers == (at + 1,)
            share.append(number)
        assert 15 <= len(share) <= 25, (at, marker, len(share))
        assert share == sorted(share)
        got += share
    assert sorted(got) == list(range(120))
    assert sorted(map(int, payloads(other, 120))) == list(range(120))
    copies = [int(both.receive().payload) for _ in range(360)]
    assert all(copies.count(number) == 3 for number in range(120))


def test_members_that_leave_leave_their_share_to_the_others(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    publisher = wire()
    publisher.connect(names.client(0))
    first, second = wire(), wire()
    for at, client in enumerate((first, second)):
        client.connect(names.client(at))
        client.subscribe(b"$share/g/" + topic, qos=1)
    first.unsubscribe(b"$share/g/" + topic)
    for number in range(10):
        publisher.publish(topic, b"%d" % number, 1)
    assert payloads(second, 10) == [b"%d" % number for number in range(10)]
    first.subscribe(b"$share/g/" + topic, qos=1)
    second.disconnect()
    for number in range(10):
        publisher.publish(topic, b"%d" % number, 1)
    assert payloads(first, 10) == [b"%d" % number for number in range(10)]


@pytest.mark.mqtt("MQTT-4.8.2-5", "MQTT-4.8.2-6")
@pytest.mark.parametrize("expiry", [0, 100])
def test_what_a_member_has_not_acknowledged_goes_to_another_when_its_session_ends(
    wire: Open, names: Names, expiry: int
) -> None:
    topic = names.topic(0)
    share = b"$share/g/" + topic
    publisher, slow, quick = wire(), wire(), wire()
    publisher.connect(names.client(0))
    slow.connect(names.client(1), receive_maximum=2, expiry=expiry)
    slow.subscribe(share, qos=2)
    for number, qos in enumerate((2, 1, 1, 2, 1)):
        publisher.publish(topic, b"%d" % number, qos)
    in_flight = [slow.expect(Publish) for _ in range(2)]
    assert [packet.payload for packet in in_flight] == [b"0", b"1"]
    quick.connect(names.client(0))
    quick.subscribe(share, qos=2)
    if expiry:
        slow.disconnect(session_expiry_interval=0)
    else:
        slow.drop()
    # The message of QoS 2 that was sent is lost with its session, and sent to nobody else.
    assert sorted(payloads(quick, 4)) == [b"1", b"2", b"3", b"4"]
    # What a member refuses is over: neither it nor another gets it, not even when it leaves.
    publisher.publish(topic, b"refused", 1)
    publisher.publish(topic, b"refused", 2)
    refused = [quick.expect(Publish), quick.expect(Publish)]
    other = wire()
    other.connect(names.client(1))
    other.subscribe(share, qos=2)
    for packet in refused:
        quick.send(Ack(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id, 0x80))
    quick.expect_nothing()
    quick.disconnect()
    publisher.publish(topic, b"last", 1)
    assert other.receive().payload == b"last"
    other.expect_nothing()


@pytest.mark.mqtt("MQTT-4.8.2-4")
def test_a_qos_2_message_of_a_group_stays_with_its_client_over_a_reconnect(
    wire: Open, names: Names
) -> None:
    topic, client_id = names.topic(0), names.client(1)
    share = b"$share/g/" + topic
    publisher, member = wire(), wire()
    publisher.connect(names.client(0))
    member.connect(client_id, expiry=100)
    member.subscribe(share, qos=2)
    publisher.publish(topic, b"mine", 2)
    packet = member.expect(Publish)
    other = wire()
    other.connect(names.client(0))
    other.subscribe(share, qos=2)
    member.drop()
    member = wire()
    member.connect(client_id, False, expiry=100)
    again = member.receive()
    assert (again.payload, again.packet_id, again.dup) == (b"mine", packet.packet_id, True)
    other.expect_nothing()


def test_a_group_prefers_members_that_are_there(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    share = b"$share/g/" + topic
    publisher, here = wire(), wire()
    publisher.connect(names.client(0))
    for at in (0, 1):
        away = wire()
        away.connect(names.client(at), expiry=100)
        away.subscribe(share, qos=1)
        away.disconnect()
    here.connect(names.client(1))
    here.subscribe(share, qos=1)
    for number in range(20):
        publisher.publish(topic, b"%d" % number, 1)
    assert payloads(here, 20) == [b"%d" % number for number in range(20)]


def test_a_subscription_identifier_of_zero_is_a_protocol_error(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client())
    client.send(bytes.fromhex("8209 0001 020b00 00016100"))
    client.expect_end(0x82)


@pytest.mark.mqtt("MQTT-3.3.4-6")
def test_a_publish_with_a_subscription_identifier_is_a_protocol_error(
    wire: Open, names: Names
) -> None:
    client = wire()
    client.connect(names.client())
    properties = Properties(subscription_identifiers=(1,))
    client.send(Publish(names.topic(), b"x", properties=properties))
    client.expect_end(0x82)


@pytest.mark.parametrize("expiry", [0, 100])
@pytest.mark.parametrize("qos", [0, 1])
def test_no_retained_message_comes_behind_a_newer_one_of_its_topic(
    wire: Open, names: Names, qos: int, expiry: int
) -> None:
    topic, publisher = names.topic(0), wire()
    publisher.connect(names.client(0))
    publisher.publish(topic, b"0", qos, True)
    sleeper = wire()
    sleeper.connect(names.client(1), expiry=100)
    sleeper.subscribe(topic, qos=1)
    number = 0
    for worker in range(30):
        subscriber = wire()
        subscriber.connect(names.client(worker), expiry=expiry)
        options = SubscriptionOptions(qos)
        flood = []
        for _ in range(20):
            number += 1
            flood.append(Publish(topic, b"%d" % number, qos, True, packet_id=number if qos else 0))
        publisher.send(*flood[:10])
        filters = (topic,) if worker % 2 else (topic.split(b"/")[0] + b"/+",)
        subscriber.send(Subscribe(1, ((filters[0], options),)))
        publisher.send(*flood[10:])
        last = -1
        while last < number:
            packet = subscriber.read()
            if isinstance(packet, Publish):
                if packet.qos:
                    subscriber.send(Ack(PUBACK, packet.packet_id))
                assert int(packet.payload) >= last, "an older value came later"
                last = int(packet.payload)
        subscriber.drop()


@pytest.mark.parametrize("expiry", [0, 100])
def test_no_message_of_a_group_is_lost_while_its_members_come_and_go(
    wire: Open, names: Names, expiry: int
) -> None:
    topic, publisher = names.topic(0), wire()
    share = b"$share/churn/" + topic
    publisher.connect(names.client(1))
    got: set[int] = set()

    def member(worker: int) -> Wire:
        client = wire()
        client.connect(names.client(worker), expiry=expiry, receive_maximum=20)
        client.subscribe(share, qos=1)
        return client

    def serve(client: Wire, acknowledge: bool) -> None:
        try:
            while True:
                packet = client.read(0.02)
                if isinstance(packet, Publish) and acknowledge:
                    got.add(int(packet.payload))
                    client.send(Ack(PUBACK, packet.packet_id))
        except TimeoutError:
            return

    stays = member(1)
    total = 0
    for round_ in range(12):
        leaves = member(round_)
        burst = [Publish(topic, b"%d" % (total + at), 1, packet_id=at + 1) for at in range(100)]
        total += 100
        publisher.send(*burst)
        serve(leaves, round_ % 3 == 0)
        if expiry:
            leaves.send(Disconnect(0, Properties(session_expiry_interval=0)))
        leaves.drop()
        serve(stays, True)
        for _ in burst:
            assert publisher.wait_for(Ack, PUBACK).reason_code in (0, 0x10)
    while len(got) < total:
        got.add(int(stays.receive().payload))
    stays.expect_nothing()


@pytest.mark.mqtt311("MQTT-3.10.4-3")
@pytest.mark.mqtt("MQTT-3.10.4-3")
@pytest.mark.parametrize("version", [4, 5])
def test_deliveries_that_have_begun_are_completed_after_unsubscribe(
    wire: Open, names: Names, version: int
) -> None:
    topic, client_id = names.topic(0), names.client(1)
    client, publisher = wire(version), wire()
    client.connect(client_id, False, expiry=100)
    publisher.connect(names.client(0))
    client.subscribe(topic, qos=2)
    publisher.publish(topic, b"1", 1)
    publisher.publish(topic, b"2", 2)
    begun = [client.expect(Publish), client.expect(Publish)]
    assert client.unsubscribe(topic) == ((0,) if version == 5 else ())
    client.drop()
    client = wire(version)
    client.connect(client_id, False, expiry=100)
    again = [client.receive(), client.receive()]
    assert [(p.packet_id, p.payload) for p in again] == [(p.packet_id, p.payload) for p in begun]
    client.expect_nothing()


def test_a_subscribe_of_many_filters_gets_the_retained_message_of_each_once(
    wire: Open, names: Names
) -> None:
    publisher, client = wire(5), wire(5)
    publisher.connect(names.client(0))
    client.connect(names.client(1))
    prefix = names.topic(0)
    topics = [
        b"%s/%d/%s" % (prefix, number, kind) for number in range(300) for kind in (b"a", b"b")
    ]
    for topic in topics:
        publisher.publish(topic, topic, qos=1, retain=True)
    # Every other filter is a wildcard that matches one of the two.
    filters = [
        b"%s/%d/a" % (prefix, number)
        if number % 2
        else b"+/" * (prefix.count(b"/") + 1) + b"%d/b" % number
        for number in range(300)
    ]
    assert client.subscribe(*filters, qos=0) == (0,) * 300
    got = sorted(client.receive().topic for _ in filters)
    assert got == sorted(
        b"%s/%d/%s" % (prefix, number, b"a" if number % 2 else b"b") for number in range(300)
    )
    client.expect_nothing()
    for topic in topics:
        publisher.publish(topic, b"", qos=1, retain=True)
