"""When a will goes (MQTT 5.0 section 3.1.2.5 and 3.1.3.2.2).

A will is published when its connection ends in any way but a DISCONNECT with reason 0x00
[MQTT-3.1.2-8, -10]. It goes at the end of its Will Delay Interval or of its session, whichever
comes first, and not at all if the session is resumed before that [MQTT-3.1.3-9]. A new connection
with Clean Start ends the old session, so the will goes then. Times are wall-clock milliseconds:
they outlive the process.
"""

from __future__ import annotations

from typing import Final

from robustmq.mqtt.packets import Disconnect, Will
from robustmq.records import Message

NEVER_EXPIRES: Final = 0xFFFFFFFF
"""A Session Expiry Interval that has no end [section 3.1.2.11.2]."""


def is_dropped_by(disconnect: Disconnect | None) -> bool:
    """True when a connection that ended so leaves no will; None is an end without DISCONNECT."""
    return disconnect is not None and disconnect.reason_code == 0


def due_at_ms(will: Will, session_expiry_interval: int, ended_at_ms: int) -> int:
    """When the will of a connection that ended at `ended_at_ms` goes."""
    delay = will.properties.will_delay_interval or 0
    return ended_at_ms + 1000 * min(delay, session_expiry_interval)


def expires_at_ms(session_expiry_interval: int, ended_at_ms: int) -> int | None:
    """When the session of a connection that ended at `ended_at_ms` expires; None: never."""
    if session_expiry_interval == NEVER_EXPIRES:
        return None
    return ended_at_ms + 1000 * session_expiry_interval


def to_message(will: Will) -> Message:
    """The message that a will publishes; its expiry counts from then."""
    properties = will.properties
    response_topic = properties.response_topic
    return Message(
        topic=will.topic,
        payload=will.payload,
        qos=will.qos,
        retain=will.retain,
        payload_format_indicator=properties.payload_format_indicator,
        message_expiry_interval=properties.message_expiry_interval,
        content_type=properties.content_type,
        response_topic=None if response_topic is None else response_topic.decode("utf-8"),
        correlation_data=properties.correlation_data,
        user_properties=list(properties.user_properties),
    )
