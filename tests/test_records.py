"""Messages and records are the same thing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.records import Message, Record, from_record, to_record

_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
messages = st.builds(
    Message,
    topic=st.just(b"t"),
    payload=st.binary(max_size=20),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    payload_format_indicator=st.none() | st.integers(0, 1),
    message_expiry_interval=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | _text,
    response_topic=st.none() | _text.filter(lambda t: t and "+" not in t and "#" not in t),
    correlation_data=st.none() | st.binary(max_size=8),
    user_properties=st.lists(st.tuples(_text | _text.map("mqtt.".__add__), _text), max_size=4),
    timestamp_ms=st.just(7),
    offset=st.just(3),
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(messages)
def test_a_message_comes_back_from_its_record(message: Message) -> None:
    assert from_record(to_record(message), b"t") == message


def test_headers_that_mqtt_cannot_say_are_left_out() -> None:
    headers = [("a", b"\xff"), ("b", None), ("c\0", b"x"), ("d", b"ok"), ("mqtt.retain", b"yes")]
    message = from_record(Record(None, None, headers), b"t", kafka=True)
    assert message.user_properties == [("d", "ok")]
    assert (message.payload, message.qos, message.retain) == (b"", 1, False)
