"""What a server may leave out by settings: CONNACK says so, asking for it all the same has its own
reason code, and everything else works as before (MQTT 5.0 section 3.2.2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from robustmq.mqtt.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    Properties,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    Unsubscribe,
    Will,
)
from tests.broker import BrokerProcess
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, PUBREL, Closed, Wire

SMALL = {
    "MQTT__SYS_INTERVAL_S": "0",
    "MQTT__MAXIMUM_QOS": "1",
    "MQTT__WILDCARD_SUBSCRIPTION_AVAILABLE": "false",
    "MQTT__SUBSCRIPTION_IDENTIFIERS_AVAILABLE": "false",
    "MQTT__SHARED_SUBSCRIPTION_AVAILABLE": "false",
    "MQTT__RESPONSE_INFORMATION": "answers/here/",
    "LIMITS__KEEP_ALIVE_MAXIMUM_S": "2",
    "LIMITS__MAX_TOPIC_BYTES": "65535",
    "LIMITS__MAX_PACKET_BYTES": "200000",
    "LIMITS__TOPIC_ALIAS_MAXIMUM": "0",
    "LIMITS__RECEIVE_MAXIMUM": "7",
    "LIMITS__MAX_SESSION_EXPIRY_S": "60",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that offers little."""
    with BrokerProcess(tmp_path_factory.mktemp("small"), 2, **SMALL) as process:
        yield process
        assert process.running, "no test may end the broker"
        assert "Traceback" not in process.log
        assert process.stop() == 0


@pytest.fixture
def few(small: BrokerProcess) -> Iterator[Open]:
    """Makes connections to it."""
    with ExitStack() as stack:
        yield lambda version=5: stack.enter_context(Wire(small.mqtt, version))


NAMES = Names(2)


@pytest.mark.mqtt("MQTT-3.2.2-9", "MQTT-3.2.2-17", "MQTT-3.2.2-18", "MQTT-3.2.2-21")
def test_connack_says_what_there_is(few: Open) -> None:
    answer = few().connect(NAMES.client(), keep_alive=60, expiry=1000)
    assert answer == ConnAck(
        False,
        0,
        Properties(
            session_expiry_interval=60,
            receive_maximum=7,
            maximum_qos=1,
            maximum_packet_size=200_000,
            wildcard_subscription_available=0,
            subscription_identifier_available=0,
            shared_subscription_available=0,
            server_keep_alive=2,
        ),
    )
    # Versions that cannot be told are served all the same.
    for version in (3, 4):
        assert few(version).connect(NAMES.client(), keep_alive=60) == ConnAck(False, 0)


@pytest.mark.mqtt("MQTT-3.2.2-11")
def test_a_publish_above_the_maximum_qos_ends_the_connection(few: Open) -> None:
    topic = NAMES.topic()
    client, watcher = few(), few()
    watcher.connect(NAMES.client(1))
    watcher.subscribe(topic, qos=2)
    client.connect(NAMES.client())
    client.publish(topic, b"1", 1)
    client.send(Publish(topic, b"2", 2, packet_id=9))
    client.expect_end(0x9B)
    for version in (3, 4):
        old = few(version)
        old.connect(NAMES.client())
        old.send(Publish(topic, b"2", 2, packet_id=9))
        old.expect_end()
    assert watcher.receive().payload == b"1"
    watcher.expect_nothing()


@pytest.mark.mqtt("MQTT-3.2.2-10", "MQTT-3.8.4-7")
@pytest.mark.mqtt311("MQTT-3.8.4-5")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_subscriptions_of_every_qos_are_taken_and_get_the_highest_there_is(
    few: Open, version: int
) -> None:
    topics = [NAMES.topic(at) for at in range(3)]
    client, publisher = few(version), few()
    client.connect(NAMES.client(1))
    publisher.connect(NAMES.client())
    options = [(topic, SubscriptionOptions(qos)) for qos, topic in enumerate(topics)]
    assert client.subscribe_each(*options) == (0, 1, 1)
    for topic, granted in zip(topics, (0, 1, 1), strict=True):
        publisher.publish(topic, b"x", 1)
        assert client.receive().qos == granted


@pytest.mark.mqtt("MQTT-3.2.2-12")
def test_a_will_above_the_maximum_qos_is_refused(few: Open) -> None:
    will = Will(NAMES.topic(), b"x", 2)
    client = few()
    assert client.connect(NAMES.client(), will=will) == ConnAck(False, 0x9B)
    client.expect_end()
    for version in (3, 4):
        old = few(version)
        old.send(Connect(version, NAMES.client(), will=will))
        old.expect_end()


@pytest.mark.mqtt("MQTT-4.13.1-1", "MQTT-4.13.2-1")
@pytest.mark.parametrize(
    ("filter_", "identifier", "reason"),
    [
        (b"a/+", None, 0xA2),
        (b"#", None, 0xA2),
        (b"$share/g/a", None, 0x9E),
        (b"a", 5, 0xA1),
    ],
)
def test_what_connack_has_said_is_not_there_ends_the_connection_that_asks_for_it(
    few: Open, filter_: bytes, identifier: int | None, reason: int
) -> None:
    client = few()
    client.connect(NAMES.client())
    properties = Properties(subscription_identifiers=() if identifier is None else (identifier,))
    filters = ((NAMES.topic(), SubscriptionOptions(1)), (filter_, SubscriptionOptions(1)))
    client.send(Subscribe(1, filters, properties))
    client.expect_end(reason)


@pytest.mark.mqtt311("MQTT-3.8.3-2", "MQTT-3.9.3-2")
def test_filters_with_wildcards_are_refused_one_by_one_in_3_1_1(few: Open) -> None:
    topic = NAMES.topic()
    client = few(4)
    client.connect(NAMES.client(1))
    codes = client.subscribe(topic, topic + b"/#", b"+/" + topic, b"$share/g/a", qos=2)
    assert codes == (1, 0x80, 0x80, 0x80)
    client.publish(topic, b"x", 1)
    assert client.receive().payload == b"x"


@pytest.mark.mqtt("MQTT-3.1.2-28")
def test_response_information_is_for_those_who_ask(few: Open, wire: Open) -> None:
    for asks, told in ((None, None), (0, None), (1, "answers/here/")):
        answer = few().connect(NAMES.client(), request_response_information=asks)
        assert answer.properties.response_information == told
    # Without the setting there is none.
    answer = wire().connect(NAMES.client(), request_response_information=1)
    assert answer.properties.response_information is None


@pytest.mark.mqtt("MQTT-3.1.2-21", "MQTT-3.1.2-22", "MQTT-3.2.2-21")
def test_the_servers_keep_alive_counts_where_it_was_told(few: Open) -> None:
    asleep, pings = few(), few()
    asleep.connect(NAMES.client(), keep_alive=0)
    pings.connect(NAMES.client(1), keep_alive=60)
    asleep.socket.settimeout(5)
    pings.socket.settimeout(0.5)
    for _ in range(8):
        pings.expect_nothing()
        try:
            asleep.read(0.5)
        except TimeoutError:
            continue
        except Closed:
            pytest.fail("closed without a word")
        break
    else:
        pytest.fail("a silent client stays")
    pings.expect_nothing()


@pytest.mark.mqtt("MQTT-3.3.4-7")
@pytest.mark.parametrize("qos", [1])
def test_a_smaller_receive_maximum_is_enforced(few: Open, qos: int) -> None:
    client, topic = few(), NAMES.topic(1)
    client.connect(NAMES.client(0))
    client.send(*(Publish(topic, b"x", qos, packet_id=at) for at in range(1, 9)))
    while isinstance(packet := client.read(), Ack):
        continue
    assert packet == Disconnect(0x93)
    client.expect_end()


@pytest.mark.mqtt("MQTT-3.2.2-18", "MQTT-3.3.2-9")
def test_an_alias_where_none_is_allowed_ends_the_connection(few: Open) -> None:
    client = few()
    assert client.connect(NAMES.client()).properties.topic_alias_maximum is None
    client.send(Publish(NAMES.topic(), b"x", properties=Properties(topic_alias=1)))
    client.expect_end(0x94)


@pytest.mark.mqtt("MQTT-4.7.3-3", "MQTT-3.3.2-3")
@pytest.mark.mqtt311("MQTT-4.7.3-3")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_topic_may_have_every_byte_that_the_protocol_has_room_for(
    few: Open, version: int
) -> None:
    topic = NAMES.topic().ljust(65_535, b"t")
    client = few(version)
    client.connect(NAMES.client(1))
    assert client.subscribe(topic, qos=1) == (1,)
    client.publish(topic, b"x", 1)
    packet = client.receive()
    assert (packet.topic, packet.payload) == (topic, b"x")


@pytest.mark.mqtt(
    "MQTT-3.1.2-29", "MQTT-3.2.2-19", "MQTT-3.2.2-20", "MQTT-3.4.2-2", "MQTT-3.4.2-3",
    "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3", "MQTT-3.7.2-2", "MQTT-3.7.2-3",
    "MQTT-3.9.2-1", "MQTT-3.9.2-2", "MQTT-3.11.2-1", "MQTT-3.11.2-2", "MQTT-3.14.2-2",
    "MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.15.2-1", "MQTT-3.15.2-2", "MQTT-3.15.2-3",
    "MQTT-4.12.0-2", "MQTT-4.12.0-6",
)  # fmt: skip
@pytest.mark.parametrize("wanted", [None, 0, 1])
def test_no_packet_of_the_broker_but_publish_and_connack_has_properties(
    wire: Open, names: Names, wanted: int | None
) -> None:
    client, topic = wire(), names.topic(1)
    seen: list[Packet] = [client.connect(names.client(0), request_problem_information=wanted)]
    bad = (topic + b"#", SubscriptionOptions(2))
    client.send(
        Subscribe(1, ((topic, SubscriptionOptions(2)), bad)),
        Publish(topic, b"1", 1, packet_id=1),
        Publish(topic, b"2", 2, packet_id=2),
        Publish(b"$SYS/refused", b"1", 1, packet_id=3),
        Publish(b"$SYS/refused", b"2", 2, packet_id=4),
        Ack(PUBREL, 2),
        Ack(PUBREL, 99),
        Ack(PUBREC, 98),
        PingReq(),
    )
    kinds = set[int]()
    while not kinds >= {PUBACK, PUBREC, PUBREL, PUBCOMP} or len(seen) < 12:
        packet = client.read()
        seen.append(packet)
        if isinstance(packet, Ack):
            kinds.add(packet.kind)
    assert client.unsubscribe(topic, topic + b"#") == (0, 0x8F)
    client.send(Connect(5, b"again"))
    while True:
        try:
            seen.append(client.read())
        except Closed:
            break
    assert {SubAck, Ack, Disconnect} <= {type(packet) for packet in seen}
    for packet in seen:
        if isinstance(packet, ConnAck):
            assert packet.properties.reason_string is None
            assert packet.properties.user_properties == ()
            assert packet.properties.authentication_method is None
        elif not isinstance(packet, Publish):
            assert getattr(packet, "properties", Properties()) == Properties(), packet


@pytest.mark.mqtt("MQTT-3.1.2-24", "MQTT-3.14.0-1")
def test_a_connack_that_is_too_large_for_the_client_is_not_sent(wire: Open, names: Names) -> None:
    for size, answer in ((4, None), (5, ConnAck(False, 0x95)), (10, ConnAck(False, 0x95))):
        client = wire()
        client.send(Connect(5, names.client(1), properties=Properties(maximum_packet_size=size)))
        if answer is not None:
            assert client.expect(ConnAck) == answer
        client.expect_end()


@pytest.mark.mqtt("MQTT-3.1.2-24")
def test_an_answer_that_is_too_large_for_the_client_ends_the_connection(
    wire: Open, names: Names
) -> None:
    topics = tuple(names.topic(at) for at in range(30))
    filters = tuple((topic, SubscriptionOptions(1)) for topic in topics)
    for packet in (Subscribe(1, filters), Unsubscribe(1, topics)):
        client = wire()
        assert client.connect(names.client(1), maximum_packet_size=30).reason_code == 0
        client.send(packet)
        client.expect_end(0x95)


def test_the_largest_answer_that_fits_is_sent(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client(1), maximum_packet_size=30)
    topics = [names.topic(at) for at in range(25)]
    # Two bytes of header, two of identifier, one of properties, and the codes.
    assert client.subscribe(*topics) == (0,) * 25
    assert client.unsubscribe(*topics) == (0,) * 25


@pytest.mark.mqtt("MQTT-4.12.0-1", "MQTT-4.12.0-4", "MQTT-4.12.0-5", "MQTT-3.1.2-30")
@pytest.mark.parametrize("method", ["", "PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("data", [None, b"", b"secret"])
def test_a_connect_with_an_authentication_method_is_never_accepted(
    wire: Open, names: Names, method: str, data: bytes | None
) -> None:
    topic = names.topic(0)
    watcher, client = wire(), wire()
    watcher.connect(names.client(1))
    watcher.subscribe(topic)
    properties = Properties(authentication_method=method, authentication_data=data)
    client.send(
        Connect(5, names.client(0), will=Will(topic, b"will"), properties=properties),
        bytes.fromhex("f00618041500 0178".replace(" ", "")),
        Publish(topic, b"x"),
    )
    assert client.expect(ConnAck) == ConnAck(False, 0x8C)
    client.expect_end()
    watcher.expect_nothing()


@pytest.mark.mqtt("MQTT-4.12.0-7", "MQTT-4.12.1-1", "MQTT-4.12.1-2", "MQTT-3.15.2-1")
@pytest.mark.parametrize(
    "packet",
    ["f000", "f00100", "f00118", "f00119", "f0020000", "f006 18 04 15000178",
     "f006 19 04 15000178", "f006 00 04 15000178", "f00a 19 08 15000178 16000179"],
)  # fmt: skip
def test_auth_from_who_named_no_method_ends_the_connection(
    wire: Open, names: Names, packet: str
) -> None:
    client = wire()
    assert client.connect(names.client()).properties.authentication_method is None
    client.send(bytes.fromhex(packet.replace(" ", "")))
    client.expect_end(0x82)
