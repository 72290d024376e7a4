"""CONNECT, CONNACK, keep alive, takeover, wills and the ends of connections on a real broker
(MQTT 5.0 sections 3.1, 3.2, 3.14)."""

from __future__ import annotations

import time

import pytest

from robustmq.mqtt.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Properties,
    Publish,
    Will,
)
from tests.conformance.conftest import Names, Open
from tests.mqtt.wire import PUBACK


@pytest.mark.mqtt311("MQTT-3.1.3-5", "MQTT-3.1.4-4", "MQTT-3.2.2-3", "MQTT-7.1.1-1")
@pytest.mark.mqtt("MQTT-3.1.4-5", "MQTT-3.2.2-2", "MQTT-3.2.2-1", "MQTT-3.1.3-5", "MQTT-4.2.0-1")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_connect_of_every_version_is_accepted(wire: Open, names: Names, version: int) -> None:
    assert wire(version).connect(names.client()) == ConnAck(False, 0, _connack_properties(version))


def _connack_properties(version: int) -> Properties:
    if version < 5:
        return Properties()
    return Properties(
        receive_maximum=1024, maximum_packet_size=16 * 1024 * 1024, topic_alias_maximum=10
    )


@pytest.mark.mqtt("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
def test_an_empty_client_id_gets_a_name_that_works(wire: Open) -> None:
    given = wire().connect(b"", expiry=60).properties.assigned_client_identifier
    other = wire().connect(b"").properties.assigned_client_identifier
    assert given and other and given != other
    again = wire().connect(given.encode(), False, expiry=0)
    assert again.session_present
    assert again.properties.assigned_client_identifier is None


@pytest.mark.mqtt311(
    "MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.1.3-8", "MQTT-3.2.2-4", "MQTT-3.2.2-5",
)  # fmt: skip
def test_an_empty_client_id_needs_a_clean_session_in_3_1_1_and_never_does_in_3_1(
    wire: Open,
) -> None:
    assert wire(4).connect(b"", True).reason_code == 0
    client = wire(4)
    assert client.connect(b"", False) == ConnAck(False, 2)
    client.expect_end()
    client = wire(3)
    assert client.connect(b"", True) == ConnAck(False, 2)
    client.expect_end()


@pytest.mark.mqtt311("MQTT-3.1.2-2")
@pytest.mark.mqtt("MQTT-3.1.2-2")
def test_an_unknown_protocol_version_is_answered_in_its_own_form(wire: Open) -> None:
    old = wire(4)
    old.send(bytes.fromhex("100d00044d5154540202003c000161"))
    assert old.expect(ConnAck) == ConnAck(False, 1)
    old.expect_end()
    new = wire(5)
    new.send(bytes.fromhex("100e00044d5154540602003c00000161"))
    assert new.expect(ConnAck).reason_code == 0x84
    new.expect_end()


@pytest.mark.mqtt311("MQTT-3.1.2-1")
@pytest.mark.mqtt("MQTT-3.1.2-1")
def test_an_unknown_protocol_name_is_closed(wire: Open) -> None:
    client = wire(4)
    client.send(bytes.fromhex("100d00044d5154580402003c000161"))
    client.expect_end()


@pytest.mark.mqtt311("MQTT-3.1.0-1")
@pytest.mark.mqtt("MQTT-3.1.0-1")
@pytest.mark.parametrize("first", ["c000", "3003000161", "820600010001 6100", "e000", "f000"])
def test_a_first_packet_that_is_no_connect_is_closed_without_an_answer(
    wire: Open, first: str
) -> None:
    client = wire()
    client.send(bytes.fromhex(first))
    client.expect_end()


@pytest.mark.mqtt311("MQTT-3.1.0-2", "MQTT-4.8.0-1")
@pytest.mark.mqtt("MQTT-3.1.0-2")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_second_connect_ends_the_connection(wire: Open, names: Names, version: int) -> None:
    client_id = names.client()
    client = wire(version)
    client.connect(client_id)
    client.send(Connect(version, client_id))
    client.expect_end(0x82)


def test_what_follows_connect_in_the_same_breath_is_served(wire: Open, names: Names) -> None:
    client = wire()
    client.send(
        Connect(5, names.client(1)), Publish(names.topic(), b"x", 1, packet_id=9), PingReq()
    )
    assert client.expect(ConnAck).reason_code == 0
    seen = {type(client.read()) for _ in range(2)}
    assert seen == {Ack, PingResp}


@pytest.mark.mqtt("MQTT-3.1.4-3")
@pytest.mark.parametrize("worker", [0, 1])
def test_a_second_connection_takes_the_client_id_over(
    wire: Open, names: Names, worker: int
) -> None:
    client_id = names.client(worker)
    first, second = wire(), wire()
    first.connect(client_id)
    assert not second.connect(client_id).session_present
    first.expect_end(0x8E)
    second.expect_nothing()


@pytest.mark.mqtt311("MQTT-3.1.4-2")
def test_a_takeover_closes_a_connection_of_3_1_1_without_a_word(wire: Open, names: Names) -> None:
    client_id = names.client(1)
    first, second = wire(4), wire(5)
    first.connect(client_id)
    second.connect(client_id)
    first.expect_end()
    second.expect_nothing()


@pytest.mark.mqtt(
    "MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-3.1.2-6", "MQTT-3.1.3-2", "MQTT-3.1.4-4", "MQTT-3.2.2-3"
)
def test_a_takeover_resumes_the_session_unless_it_is_to_start_clean(
    wire: Open, names: Names
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    first = wire()
    first.connect(client_id, expiry=60)
    first.subscribe(topic, qos=1)
    second = wire()
    assert second.connect(client_id, False, expiry=60).session_present
    first.expect_end(0x8E)
    publisher = wire()
    publisher.connect(names.client())
    publisher.publish(topic, b"1", 1)
    assert second.receive().payload == b"1"
    third = wire()
    assert not third.connect(client_id, True, expiry=60).session_present
    second.expect_end(0x8E)
    publisher.publish(topic, b"2", 1)
    third.subscribe(topic, qos=1)
    publisher.publish(topic, b"3", 1)
    assert third.receive().payload == b"3"


@pytest.mark.mqtt311("MQTT-3.1.2-24")
@pytest.mark.mqtt("MQTT-3.1.2-22", "MQTT-3.2.2-22")
def test_a_silent_client_is_ended_after_one_and_a_half_keep_alives(
    wire: Open, names: Names
) -> None:
    client, old = wire(5), wire(4)
    begin = time.monotonic()
    client.connect(names.client(), keep_alive=1)
    old.connect(names.client(1), keep_alive=1)
    client.expect_end(0x8D)
    old.expect_end()
    assert 1.4 < time.monotonic() - begin < 4


def test_bytes_that_make_no_packet_do_not_keep_a_client_alive(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client(), keep_alive=1)
    client.send(bytes.fromhex("3064 000161".replace(" ", "")))
    client.socket.settimeout(0.3)
    begin = time.monotonic()
    while time.monotonic() - begin < 6:
        try:
            client.send(b"x")
            if not client.socket.recv(100, 2):
                break
            assert client.socket.recv(2) == b"\xe0\x01"
            return
        except TimeoutError:
            continue
    pytest.fail("a client that sends one byte now and then stays for ever")


@pytest.mark.mqtt311("MQTT-3.12.4-1")
@pytest.mark.mqtt("MQTT-3.12.4-1")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_pings_keep_a_client_alive(wire: Open, names: Names, version: int) -> None:
    client = wire(version)
    client.connect(names.client(), keep_alive=1)
    for _ in range(8):
        client.expect_nothing()
        time.sleep(0.35)


@pytest.mark.mqtt("MQTT-3.14.4-1", "MQTT-3.14.4-2")
def test_the_broker_closes_after_disconnect(wire: Open, names: Names) -> None:
    for version in (3, 4, 5):
        client = wire(version)
        client.connect(names.client())
        client.disconnect()


def test_an_expiry_that_was_zero_cannot_be_changed_by_disconnect(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client())
    client.send(Disconnect(0, Properties(session_expiry_interval=5)))
    client.expect_end(0x82)


def test_disconnect_can_change_the_session_expiry(wire: Open, names: Names) -> None:
    client_id = names.client(1)
    client = wire()
    client.connect(client_id, expiry=100)
    client.disconnect(session_expiry_interval=0)
    client = wire()
    assert not client.connect(client_id, False, expiry=1).session_present
    client.disconnect(session_expiry_interval=100)
    time.sleep(1.5)
    client = wire()
    assert client.connect(client_id, False, expiry=1).session_present
    client.disconnect()
    time.sleep(1.8)
    assert not wire().connect(client_id, False).session_present


@pytest.mark.mqtt311(
    "MQTT-3.1.2-4", "MQTT-3.1.4-3", "MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-3",
)  # fmt: skip
@pytest.mark.mqtt("MQTT-3.1.2-23")
def test_a_clean_session_of_3_1_1_ends_with_its_connection_and_another_stays(
    wire: Open, names: Names
) -> None:
    client_id = names.client()
    client = wire(4)
    assert not client.connect(client_id, False).session_present
    client.disconnect()
    client = wire(4)
    assert client.connect(client_id, False).session_present
    client.disconnect()
    client = wire(4)
    assert not client.connect(client_id, True).session_present
    client.disconnect()
    assert not wire(4).connect(client_id, False).session_present


def test_a_session_expiry_above_the_limit_is_answered_with_the_limit(
    wire: Open, names: Names
) -> None:
    answer = wire().connect(names.client(), expiry=0xFFFFFFFF)
    assert answer.properties.session_expiry_interval == 7 * 86_400


@pytest.mark.mqtt("MQTT-4.12.0-1")
def test_an_authentication_method_that_is_not_known_is_refused(wire: Open, names: Names) -> None:
    client = wire()
    assert client.connect(names.client(), authentication_method="x").reason_code == 0x8C
    client.expect_end()


@pytest.mark.mqtt("MQTT-4.12.0-6", "MQTT-4.12.0-7")
def test_auth_without_a_method_at_connect_is_a_protocol_error(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client())
    client.send(bytes.fromhex("f00618041500 0178".replace(" ", "")))
    client.expect_end(0x82)


@pytest.mark.mqtt("MQTT-3.2.0-1", "MQTT-3.2.0-2")
def test_connack_comes_before_everything_else_also_while_messages_flow(
    wire: Open, names: Names
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    first = wire()
    first.connect(client_id, expiry=60)
    first.subscribe(topic, qos=0)
    first.subscribe(topic + b"/1", qos=1)
    publisher = wire()
    publisher.connect(names.client(0))
    for number in range(30):
        again = wire()
        burst = [
            Publish(topic + (b"/1" if at % 2 else b""), b"%d" % at, at % 2, packet_id=at)
            for at in range(1, 41)
        ]
        again.send(Connect(5, client_id, False, properties=Properties(session_expiry_interval=60)))
        publisher.send(*burst)
        answer = again.expect(ConnAck)
        assert answer.session_present, number
        for _ in range(20):
            publisher.expect_ack(PUBACK)
        last = 0
        for _ in range(20):
            packet = again.expect(Publish)
            while packet.qos == 0:
                packet = again.expect(Publish)
            assert int(packet.payload) > last
            last = int(packet.payload)
            again.send(Ack(PUBACK, packet.packet_id))
        first = again


@pytest.mark.mqtt311("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
@pytest.mark.mqtt("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.1.2-14", "MQTT-3.14.4-3")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_will_goes_at_every_end_but_a_normal_disconnect(
    wire: Open, names: Names, version: int
) -> None:
    topic = names.topic(1)
    watcher = wire()
    watcher.connect(names.client(0))
    watcher.subscribe(topic, qos=2)

    def with_will(name: bytes, keep_alive: int = 0) -> tuple[bytes, object]:
        client, client_id = wire(version), names.client(1)
        client.connect(client_id, keep_alive=keep_alive, will=Will(topic, name, 1))
        return client_id, client

    _, client = with_will(b"dropped")
    client.drop()  # type: ignore[attr-defined]
    assert watcher.receive().payload == b"dropped"
    _, client = with_will(b"silent", keep_alive=1)
    assert watcher.receive().payload == b"silent"
    _, client = with_will(b"malformed")
    client.send(b"\x3e\x00")  # type: ignore[attr-defined]
    assert watcher.receive().payload == b"malformed"
    client_id, client = with_will(b"taken over")
    wire().connect(client_id)
    assert watcher.receive().payload == b"taken over"
    if version == 5:
        _, client = with_will(b"asked for")
        client.disconnect(0x04)  # type: ignore[attr-defined]
        assert watcher.receive().payload == b"asked for"
        _, client = with_will(b"in error")
        client.disconnect(0x80)  # type: ignore[attr-defined]
        assert watcher.receive().payload == b"in error"
    _, client = with_will(b"never seen")
    client.disconnect()  # type: ignore[attr-defined]
    _, client = with_will(b"last")
    client.drop()  # type: ignore[attr-defined]
    assert watcher.receive().payload == b"last"


@pytest.mark.mqtt("MQTT-3.1.2-15", "MQTT-3.1.3-10")
def test_a_will_is_published_as_it_was_given(wire: Open, names: Names) -> None:
    topic = names.topic(1)
    watcher = wire()
    watcher.connect(names.client(0))
    watcher.subscribe(topic, qos=2, retain_as_published=True)
    properties = Properties(
        payload_format_indicator=1,
        message_expiry_interval=100,
        content_type="text/plain",
        response_topic=b"answer/here",
        correlation_data=b"\x00\xff",
        user_properties=(("b", "1"), ("a", "2"), ("b", "3")),
    )
    client = wire()
    client.connect(names.client(1), will=Will(topic, b"gone", 2, True, properties))
    client.drop()
    will = watcher.receive()
    assert (will.payload, will.qos, will.retain) == (b"gone", 2, True)
    assert will.properties == properties
    late = wire()
    late.connect(names.client(1))
    late.subscribe(topic, qos=1)
    kept = late.receive()
    assert (kept.payload, kept.qos, kept.retain) == (b"gone", 1, True)


@pytest.mark.mqtt("MQTT-3.1.3-9")
def test_a_will_waits_for_its_delay_and_a_reconnect_cancels_it(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    watcher = wire()
    watcher.connect(names.client(0))
    watcher.subscribe(topic)
    will = Will(topic, b"delayed", 0, False, Properties(will_delay_interval=1))
    client_id = names.client(1)
    client = wire()
    client.connect(client_id, expiry=60, will=will)
    client.drop()
    client = wire()
    client.connect(client_id, False, expiry=60)
    time.sleep(1.8)
    watcher.expect_nothing()
    client.disconnect()
    client = wire()
    client.connect(client_id, False, expiry=60, will=will)
    begin = time.monotonic()
    client.drop()
    assert watcher.receive().payload == b"delayed"
    assert time.monotonic() - begin > 0.9


def test_a_will_with_a_long_delay_goes_when_its_session_ends(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    watcher = wire()
    watcher.connect(names.client(0))
    watcher.subscribe(topic)
    will = Will(topic, b"1", 0, False, Properties(will_delay_interval=1000))
    client_id = names.client(1)
    client = wire()
    client.connect(client_id, expiry=1, will=will)
    client.drop()
    assert watcher.receive().payload == b"1"
    client = wire()
    client.connect(client_id, expiry=60, will=will)
    client.drop()
    wire().connect(client_id, True)
    assert watcher.receive().payload == b"1"


def test_a_new_connection_replaces_the_will(wire: Open, names: Names) -> None:
    topic, client_id = names.topic(0), names.client(1)
    watcher = wire()
    watcher.connect(names.client(0))
    watcher.subscribe(topic)
    delayed = Properties(will_delay_interval=1)
    client = wire()
    client.connect(client_id, expiry=60, will=Will(topic, b"old", 0, False, delayed))
    client.drop()
    client = wire()
    client.connect(client_id, False, expiry=60, will=Will(topic, b"new", 0, False, delayed))
    client.drop()
    assert watcher.receive().payload == b"new"
    time.sleep(0.5)
    watcher.expect_nothing()


@pytest.mark.mqtt("MQTT-3.1.4-2", "MQTT-3.1.2-17", "MQTT-3.1.2-19")
def test_a_user_name_and_a_password_are_taken_where_anybody_may_come(
    wire: Open, names: Names
) -> None:
    assert wire(5).connect(names.client(), user_name="u", password=b"p").reason_code == 0
    assert wire(4).connect(names.client(), user_name="u").reason_code == 0
    # MQTT 5.0 allows a password alone [3.1.2.9]; it says nothing that we could check.
    client = wire(5)
    assert client.connect(names.client(), password=b"p").reason_code == 0x86
    client.expect_end()


@pytest.mark.mqtt("MQTT-3.2.2-7")
def test_a_will_to_a_topic_with_a_wildcard_is_refused(wire: Open, names: Names) -> None:
    client = wire()
    assert client.connect(names.client(), will=Will(b"a/+", b"x")).reason_code == 0x90
    client.expect_end()


@pytest.mark.mqtt311("MQTT-3.1.3-9", "MQTT-3.2.2-5")
@pytest.mark.mqtt("MQTT-3.1.3-8", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-3.2.2-8")
def test_a_client_id_that_is_too_long_is_refused(wire: Open) -> None:
    for version, code in ((5, 0x85), (4, 2)):
        client = wire(version)
        assert client.connect(b"x" * 2000).reason_code == code
        client.expect_end()


@pytest.mark.mqtt("MQTT-3.1.4-6")
def test_what_follows_a_refused_connect_is_not_processed(wire: Open, names: Names) -> None:
    topic = names.topic(0)
    watcher, client, sound = wire(), wire(), wire()
    watcher.connect(names.client(1))
    watcher.subscribe(topic)
    client.send(Connect(5, b"x" * 2000), Publish(topic, b"refused"))
    assert client.expect(ConnAck).reason_code == 0x85
    client.expect_end()
    sound.connect(names.client(0))
    sound.publish(topic, b"sound")
    assert watcher.receive().payload == b"sound"


@pytest.mark.mqtt("MQTT-3.1.3-5")
@pytest.mark.mqtt311("MQTT-3.1.3-5")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_client_ids_of_1_to_23_letters_and_digits_are_taken(wire: Open, version: int) -> None:
    letters = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    ids = [letters[at : at + 1] for at in range(62)] + [letters[at : at + 23] for at in range(40)]
    for client_id in ids:
        with wire(version) as client:
            assert client.connect(client_id).reason_code == 0, client_id


@pytest.mark.mqtt("MQTT-3.2.2-6", "MQTT-3.2.2-7")
@pytest.mark.mqtt311("MQTT-3.2.2-4")
def test_a_refusal_tells_of_no_session_though_there_is_one_and_leaves_it_alone(
    wire: Open, names: Names
) -> None:
    client_id, topic = names.client(1), names.topic(0)
    client = wire()
    client.connect(client_id, expiry=60)
    client.subscribe(topic, qos=1)
    for method in ("x", "y"):
        refused = wire()
        assert refused.connect(client_id, False, authentication_method=method) == ConnAck(
            False, 0x8C
        )
        refused.expect_end()
    # Who is refused takes nothing over.
    client.publish(topic, b"still here", 1)
    assert client.receive().payload == b"still here"
    client.disconnect()
    assert wire().connect(client_id, False, expiry=60).session_present


@pytest.mark.mqtt("MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-3.14.4-3")
@pytest.mark.mqtt311("MQTT-3.14.4-1", "MQTT-3.14.4-2")
@pytest.mark.parametrize("version", [3, 4, 5])
def test_what_follows_disconnect_is_not_processed(wire: Open, names: Names, version: int) -> None:
    topic = names.topic(0)
    watcher, client = wire(), wire(version)
    watcher.connect(names.client(1))
    watcher.subscribe(topic, qos=1)
    client.connect(names.client(0), will=Will(topic, b"will", 1))
    client.send(
        Publish(topic, b"before", 1, packet_id=1),
        Disconnect(),
        Publish(topic, b"behind", 1, packet_id=2),
        PingReq(),
    )
    assert watcher.receive().payload == b"before"
    watcher.expect_nothing()


@pytest.mark.mqtt("MQTT-4.1.0-1")
@pytest.mark.mqtt311("MQTT-4.1.0-2")
def test_a_session_lasts_as_long_as_its_connection_whatever_its_expiry(
    wire: Open, names: Names
) -> None:
    topics = [names.topic(at) for at in range(3)]
    clients = [wire(5), wire(5), wire(4)]
    for client, topic, expiry in zip(clients, topics, (0, 1, None), strict=True):
        client.connect(names.client(1), expiry=expiry)
        client.subscribe(topic, qos=1)
    time.sleep(2.2)
    publisher = wire()
    publisher.connect(names.client(0))
    for client, topic in zip(clients, topics, strict=True):
        publisher.publish(topic, b"x", 1)
        assert client.receive().payload == b"x"


@pytest.mark.mqtt("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
@pytest.mark.mqtt311("MQTT-2.3.1-4")
def test_identifiers_go_round_and_leave_out_what_is_still_unacknowledged(
    wire: Open, names: Names
) -> None:
    topic = names.topic(0)
    client, publisher = wire(), wire()
    client.connect(names.client(1), receive_maximum=1000)
    client.subscribe(topic, qos=2)
    publisher.connect(names.client(0))
    publisher.publish(topic, b"slow", 1)
    publisher.publish(topic, b"slow", 2)
    held = {client.expect(Publish).packet_id for _ in range(2)}
    used: list[int] = []
    for round_ in range(66_000 // 500):
        publisher.send(*(Publish(topic, b"x", 1, packet_id=at) for at in range(1, 501)))
        batch = [client.expect(Publish).packet_id for _ in range(500)]
        assert 0 not in batch and not held & set(batch), round_
        assert len(set(batch)) == 500
        used += batch
        client.send(*(Ack(PUBACK, packet_id) for packet_id in batch))
        for _ in range(500):
            publisher.expect_ack(PUBACK)
    assert len(set(used)) >= 65_533, "they have gone round"
