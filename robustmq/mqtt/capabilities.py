"""What this server offers, and how CONNACK says it (MQTT 5.0 section 3.2.2.3).

A property whose value is the specification's default is not sent. `maximum_in_flight` is ours: the
most messages that wait for one client, also when it allows more or (3.x) cannot say. So are the
bounds of a queue and of a topic name or filter, which CONNACK cannot tell.
"""

from __future__ import annotations

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.inflight import DropPolicy
from robustmq.mqtt.packets import Properties
from robustmq.mqtt.will import NEVER_EXPIRES


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """The server's limits and features. Intervals and keep-alive are seconds, sizes bytes."""

    receive_maximum: int = 1024
    maximum_qos: int = 2
    retain_available: bool = True
    maximum_packet_size: int = 268_435_460
    topic_alias_maximum: int = 256
    wildcard_subscription_available: bool = True
    subscription_identifier_available: bool = True
    shared_subscription_available: bool = True
    exclusive_subscription_available: bool = True
    maximum_session_expiry_interval: int = NEVER_EXPIRES
    maximum_keep_alive: int = 65_535
    maximum_subscriptions: int = 10_000
    maximum_in_flight: int = 1024
    maximum_queued_messages: int = 100_000
    maximum_queued_bytes: int = 64 * 1024 * 1024
    maximum_topic_bytes: int = 65_535
    maximum_topic_levels: int = 65_535
    drop_policy: DropPolicy = DropPolicy.DROP_OLDEST
    response_information: str = ""


def check_topic_size(topic: bytes, capabilities: Capabilities, fault: Fault) -> None:
    """Raise `fault` for a topic name or filter that is longer or deeper than this server takes."""
    levels = topic.count(b"/") + 1
    if len(topic) > capabilities.maximum_topic_bytes or levels > capabilities.maximum_topic_levels:
        raise BrokerError(fault, "a topic is too long or too deep")


LARGEST_PACKET = 268_435_460
"""A packet cannot be larger: five bytes of fixed header and the largest remaining length."""


def connack_properties(
    capabilities: Capabilities,
    *,
    session_expiry_interval: int | None = None,
    assigned_client_identifier: str | None = None,
    server_keep_alive: int | None = None,
    response_information: bool = False,
) -> Properties:
    """The properties of a CONNACK that accepts; the arguments are those of this one connection."""
    size = capabilities.maximum_packet_size
    return Properties(
        session_expiry_interval=session_expiry_interval,
        assigned_client_identifier=assigned_client_identifier,
        server_keep_alive=server_keep_alive,
        receive_maximum=_unless(capabilities.receive_maximum, 65_535),
        maximum_qos=_unless(capabilities.maximum_qos, 2),
        retain_available=_unless(int(capabilities.retain_available), 1),
        maximum_packet_size=size if size < LARGEST_PACKET else None,
        topic_alias_maximum=_unless(capabilities.topic_alias_maximum, 0),
        wildcard_subscription_available=_unless(
            int(capabilities.wildcard_subscription_available), 1
        ),
        subscription_identifier_available=_unless(
            int(capabilities.subscription_identifier_available), 1
        ),
        shared_subscription_available=_unless(int(capabilities.shared_subscription_available), 1),
        response_information=(capabilities.response_information or None)
        if response_information
        else None,
    )


def _unless(value: int, default: int) -> int | None:
    return None if value == default else value
