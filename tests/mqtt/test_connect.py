"""CONNECT and DISCONNECT: sessions, CONNACK properties, refusals and wills."""

from __future__ import annotations

import pytest

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.connect import check_connect, close_session, open_session, refusal
from robustmq.mqtt.packets import NO_PROPERTIES, Connect, Disconnect, Properties, Will
from robustmq.mqtt.session import Session
from robustmq.mqtt.will import to_message

CAPABILITIES = Capabilities(
    receive_maximum=65_535, topic_alias_maximum=0, maximum_session_expiry_interval=1000
)


def connect_5(clean_start: bool = False, expiry: int = 100, will: Will | None = None) -> Connect:
    return Connect(
        5, b"c", clean_start, will=will, properties=Properties(session_expiry_interval=expiry)
    )


def test_a_default_server_says_nothing_in_connack() -> None:
    _, connack, present, effects = open_session(connect_5(), None, CAPABILITIES, 0)
    assert connack.properties == NO_PROPERTIES
    assert not connack.session_present
    assert not present
    assert not effects.takeover


def test_connack_tells_what_differs_from_the_defaults_and_from_what_was_asked() -> None:
    capabilities = Capabilities(
        receive_maximum=10,
        maximum_qos=1,
        retain_available=False,
        maximum_packet_size=1000,
        topic_alias_maximum=5,
        wildcard_subscription_available=False,
        subscription_identifier_available=False,
        shared_subscription_available=False,
        maximum_session_expiry_interval=50,
        maximum_keep_alive=60,
    )
    connect = Connect(5, b"", True, 300, properties=Properties(session_expiry_interval=100))
    _, connack, _, effects = open_session(connect, None, capabilities, 0, b"assigned")
    assert connack.properties == Properties(
        session_expiry_interval=50,
        assigned_client_identifier="assigned",
        server_keep_alive=60,
        receive_maximum=10,
        maximum_qos=1,
        retain_available=0,
        maximum_packet_size=1000,
        topic_alias_maximum=5,
        wildcard_subscription_available=0,
        subscription_identifier_available=0,
        shared_subscription_available=0,
    )
    assert effects.keep_alive == 60


def test_3_1_1_gets_session_present_and_3_1_does_not() -> None:
    for version, expected in ((4, True), (3, False)):
        connect = Connect(version, b"c", clean_start=False)
        session, _, _, _ = open_session(connect, None, CAPABILITIES, 0)
        session.close(0)
        again, connack, present, _ = open_session(connect, session, CAPABILITIES, 1)
        assert again is session
        assert present
        assert connack.session_present is expected


@pytest.mark.parametrize(("version", "clean"), [(3, True), (3, False), (4, False)])
def test_an_empty_client_identifier_is_refused_with_return_code_2(
    version: int, clean: bool
) -> None:
    with pytest.raises(BrokerError) as raised:
        check_connect(Connect(version, b"", clean), CAPABILITIES)
    connack = refusal(raised.value.fault, version)
    assert connack is not None
    assert (connack.reason_code, connack.session_present) == (2, False)


def test_an_empty_client_identifier_with_clean_session_is_named_by_the_server() -> None:
    session, _, _, _ = open_session(Connect(4, b"", True), None, CAPABILITIES, 0, b"assigned")
    assert session.client_id == b"assigned"


@pytest.mark.parametrize(
    ("connect", "capabilities", "fault"),
    [
        (connect_5(will=Will(b"w", b"", 2)), Capabilities(maximum_qos=1), "QOS_NOT_SUPPORTED"),
        (
            connect_5(will=Will(b"w", b"", 0, True)),
            Capabilities(retain_available=False),
            "RETAIN_NOT_SUPPORTED",
        ),
        (
            Connect(5, b"c", properties=Properties(authentication_method="x")),
            CAPABILITIES,
            "BAD_AUTHENTICATION_METHOD",
        ),
    ],
)
def test_what_the_server_does_not_offer_is_refused(
    connect: Connect, capabilities: Capabilities, fault: str
) -> None:
    with pytest.raises(BrokerError) as raised:
        check_connect(connect, capabilities)
    assert raised.value.fault.name == fault


def test_a_refusal_is_a_connack_or_in_3_x_maybe_only_a_close() -> None:
    assert refusal(Fault.MALFORMED_PACKET, 4) is None
    refused = refusal(Fault.MALFORMED_PACKET, 5)
    assert refused is not None
    assert refused.reason_code == 0x81


def test_expiry_0_at_connect_cannot_be_raised_by_disconnect() -> None:
    session, _, _, _ = open_session(connect_5(expiry=0), None, CAPABILITIES, 0)
    late = Disconnect(0, Properties(session_expiry_interval=5))
    with pytest.raises(BrokerError) as raised:
        close_session(session, late, CAPABILITIES, 0)
    assert raised.value.fault is Fault.PROTOCOL_ERROR
    assert session.connected


def closed(disconnect: Disconnect | None, expiry: int, delay: int) -> tuple[Session, bool, bool]:
    will = Will(b"w", b"", properties=Properties(will_delay_interval=delay))
    session, _, _, _ = open_session(connect_5(expiry=expiry, will=will), None, CAPABILITIES, 0)
    published, ended = close_session(session, disconnect, CAPABILITIES, 0)
    return session, published is not None, ended


def test_disconnect_0x00_drops_the_will_and_0x04_or_a_cut_publishes_it() -> None:
    assert closed(Disconnect(0), 100, 0)[1] is False
    assert closed(Disconnect(4), 100, 0)[1] is True
    assert closed(None, 100, 0)[1] is True


def test_a_will_waits_for_the_shorter_of_delay_and_session() -> None:
    assert closed(None, 100, 30)[0].will_due_at_ms == 30_000
    assert closed(None, 10, 30)[0].will_due_at_ms == 10_000
    assert closed(None, 0, 30)[1:] == (True, True)


def test_a_longer_expiry_in_disconnect_is_capped() -> None:
    session, _, _, _ = open_session(connect_5(), None, CAPABILITIES, 0)
    close_session(session, Disconnect(0, Properties(session_expiry_interval=5000)), CAPABILITIES, 0)
    assert session.expires_at_ms == 1_000_000


def test_a_will_publishes_all_its_properties() -> None:
    properties = Properties(
        payload_format_indicator=1,
        message_expiry_interval=9,
        content_type="text",
        response_topic=b"answer",
        correlation_data=b"1",
        user_properties=(("a", "b"), ("a", "c")),
    )
    message = to_message(Will(b"w", b"gone", 1, True, properties))
    assert (message.topic, message.payload, message.qos, message.retain) == (b"w", b"gone", 1, True)
    assert message.payload_format_indicator == 1
    assert message.message_expiry_interval == 9
    assert message.content_type == "text"
    assert message.response_topic == "answer"
    assert message.correlation_data == b"1"
    assert message.user_properties == [("a", "b"), ("a", "c")]
