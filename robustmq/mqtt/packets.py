"""The control packets of MQTT as data (MQTT 5.0 chapter 3; 3.1.1 and 3.1 are subsets).

Names are the specification's. Topic names, topic filters and client identifiers are the UTF-8 bytes
that came on the wire, already checked; payloads are opaque. A packet of 3.x has no properties and
reason code 0.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

MQTT_3_1: Final = 3
MQTT_3_1_1: Final = 4
MQTT_5_0: Final = 5
VERSION_NAMES: Final = {MQTT_3_1: "3.1", MQTT_3_1_1: "3.1.1", MQTT_5_0: "5.0"}


class PacketType(enum.IntEnum):
    """The upper four bits of the fixed header (section 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class ReasonCode(enum.IntEnum):
    """Reason codes below 0x80, and those above that no `Fault` is raised for (section 2.4)."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL_MESSAGE = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    MAXIMUM_CONNECT_TIME = 0xA0


class Properties(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, repr_omit_defaults=True
):
    """The properties of one packet; None, or an empty tuple, where one is not there."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: bytes | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_interval: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_interval: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


NO_PROPERTIES: Final = Properties()


class Will(msgspec.Struct, frozen=True, gc=False, repr_omit_defaults=True):
    """The will message of a CONNECT (section 3.1.2.5 and 3.1.3.2)."""

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


class Connect(msgspec.Struct, frozen=True, gc=False):
    """CONNECT (section 3.1). `version` is the protocol level: 3, 4 or 5."""

    version: int
    client_id: bytes
    clean_start: bool = True
    keep_alive: int = 0
    will: Will | None = None
    user_name: str | None = None
    password: bytes | None = None
    properties: Properties = NO_PROPERTIES


class ConnAck(msgspec.Struct, frozen=True, gc=False):
    """CONNACK (section 3.2). `reason_code` is a return code in 3.x."""

    session_present: bool = False
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Publish(msgspec.Struct, frozen=True, gc=False):
    """PUBLISH (section 3.3). An empty topic goes with a topic alias."""

    topic: bytes
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NO_PROPERTIES


class Ack(msgspec.Struct, frozen=True, gc=False):
    """PUBACK, PUBREC, PUBREL or PUBCOMP, told apart by `kind` (sections 3.4 to 3.7)."""

    kind: int
    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class SubscriptionOptions(msgspec.Struct, frozen=True, gc=False):
    """The options of one filter (section 3.8.3.1); 3.x has the QoS alone."""

    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """SUBSCRIBE (section 3.8)."""

    packet_id: int
    filters: tuple[tuple[bytes, SubscriptionOptions], ...]
    properties: Properties = NO_PROPERTIES


class SubAck(msgspec.Struct, frozen=True, gc=False):
    """SUBACK (section 3.9): one reason code for each filter, in order."""

    packet_id: int
    reason_codes: tuple[int, ...]
    properties: Properties = NO_PROPERTIES


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """UNSUBSCRIBE (section 3.10)."""

    packet_id: int
    filters: tuple[bytes, ...]
    properties: Properties = NO_PROPERTIES


class UnsubAck(msgspec.Struct, frozen=True, gc=False):
    """UNSUBACK (section 3.11); in 3.x the reason codes are not on the wire."""

    packet_id: int
    reason_codes: tuple[int, ...] = ()
    properties: Properties = NO_PROPERTIES


class PingReq(msgspec.Struct, frozen=True, gc=False):
    """PINGREQ (section 3.12)."""


class PingResp(msgspec.Struct, frozen=True, gc=False):
    """PINGRESP (section 3.13)."""


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """DISCONNECT (section 3.14)."""

    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


class Auth(msgspec.Struct, frozen=True, gc=False):
    """AUTH (section 3.15), MQTT 5.0 only."""

    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


Packet = (
    Connect
    | ConnAck
    | Publish
    | Ack
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
