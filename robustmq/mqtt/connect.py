"""What a CONNECT and the end of a connection lead to (MQTT 5.0 sections 3.1.4, 3.2, 3.14.4; 3.1.1
section 3.1.4).

`check_connect` raises what refuses a CONNECT, before it touches anybody's session, and `refusal`
makes its CONNACK. `open_session` gives the session that serves the connection and the CONNACK.
Authentication comes before and is not decided here.
Session Present is true only when state of an earlier connection goes on, and false with any error
[MQTT-3.2.2-2 to -6]. A session whose expiry is 0 ends with its connection, so a takeover never
resumes it. MQTT 3.x: Clean Session 1 is a session with expiry 0 that begins anew, 0 one that lives
as long as the server allows.
"""

from __future__ import annotations

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.capabilities import Capabilities, check_topic_size, connack_properties
from robustmq.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5_0,
    NO_PROPERTIES,
    ConnAck,
    Connect,
    Disconnect,
    PacketType,
    Properties,
    Will,
)
from robustmq.mqtt.reasons import reason_for
from robustmq.mqtt.session import Session
from robustmq.mqtt.will import NEVER_EXPIRES, is_dropped_by


class ConnectEffects(msgspec.Struct, frozen=True):
    """What else a CONNECT leads to, in this order."""

    takeover: bool = False
    """The old connection gets DISCONNECT 0x8E and is closed [MQTT-3.1.4-3]."""
    will: Will | None = None
    """The old connection's will is published."""
    ended: Session | None = None
    """This session is over: its subscriptions, references and records go."""
    keep_alive: int = 0
    """Seconds that count for this connection; 0 none. It is closed after one and a half of them."""


def open_session(
    connect: Connect,
    existing: Session | None,
    capabilities: Capabilities,
    now_ms: int,
    assigned_client_id: bytes = b"",
    mount: bytes = b"",
) -> tuple[Session, ConnAck, bool, ConnectEffects]:
    """The session, the CONNACK, Session Present, and what else is to be done.

    `assigned_client_id` is the name for a client that brought none; the caller makes it, and
    looks up `existing` under the name that counts. `mount` is put before all names that the
    client uses: a session under another mount is another's, and ends.
    """
    client_id = connect.client_id or assigned_client_id
    assert client_id, "the caller names clients that bring no name"
    takeover = existing is not None and existing.connected
    anew = connect.clean_start or (existing is not None and existing.mount != mount)
    session, will, ended = _continue(existing, anew, now_ms)
    session_present = session is not None
    if session is None:
        session = Session(client_id, capabilities)
    interval = session_expiry_interval(connect, capabilities)
    receive_maximum = min(
        connect.properties.receive_maximum or 65_535, capabilities.maximum_in_flight
    )
    session.open(connect.version, interval, receive_maximum, connect.will, mount)
    keep_alive = server_keep_alive(connect.keep_alive, capabilities)
    properties = _connack_properties(connect, capabilities, interval, keep_alive, client_id)
    connack = ConnAck(session_present and connect.version >= MQTT_3_1_1, 0, properties)
    counts = keep_alive if connect.version == MQTT_5_0 else connect.keep_alive
    return session, connack, session_present, ConnectEffects(takeover, will, ended, counts)


def _continue(
    existing: Session | None, clean_start: bool, now_ms: int
) -> tuple[Session | None, Will | None, Session | None]:
    """The session that goes on, the old will that is published, the session that ends."""
    if existing is None:
        return None, None, None
    existing.close(now_ms)
    will, ended = existing.advance(now_ms)
    if clean_start or ended:
        return None, will or existing.take_will(), existing
    return existing, will, None


def check_connect(connect: Connect, capabilities: Capabilities) -> None:
    """Raise what refuses a CONNECT that is well formed."""
    if not connect.client_id and connect.version != MQTT_5_0:
        if connect.version < MQTT_3_1_1 or not connect.clean_start:
            raise BrokerError(
                Fault.CLIENT_IDENTIFIER_NOT_VALID, "empty client identifier [MQTT-3.1.3-8]"
            )
    if connect.properties.authentication_method is not None:
        raise BrokerError(Fault.BAD_AUTHENTICATION_METHOD, "no enhanced authentication")
    will = connect.will
    if will is not None:
        if will.qos > capabilities.maximum_qos:
            raise BrokerError(Fault.QOS_NOT_SUPPORTED, "will QoS [MQTT-3.2.2-12]")
        if will.retain and not capabilities.retain_available:
            raise BrokerError(Fault.RETAIN_NOT_SUPPORTED, "will retain [MQTT-3.2.2-13]")
        check_topic_size(will.topic, capabilities, Fault.TOPIC_NAME_INVALID)


def refusal(fault: Fault, version: int) -> ConnAck | None:
    """The CONNACK of a refused CONNECT; None where 3.x can only close."""
    if version == MQTT_5_0:
        return ConnAck(False, reason_for(PacketType.CONNACK, fault))
    return ConnAck(False, fault.mqtt3) if fault.mqtt3 else None


def session_expiry_interval(connect: Connect, capabilities: Capabilities) -> int:
    """The interval that counts for this connection, in seconds."""
    if connect.version == MQTT_5_0:
        asked = connect.properties.session_expiry_interval or 0
    else:
        asked = 0 if connect.clean_start else NEVER_EXPIRES
    return min(asked, capabilities.maximum_session_expiry_interval)


def server_keep_alive(keep_alive: int, capabilities: Capabilities) -> int:
    """The keep-alive that counts in 5.0: the client's, or the server's when that is shorter."""
    maximum = capabilities.maximum_keep_alive
    return min(keep_alive or maximum, maximum) if maximum < 65_535 else keep_alive


def _connack_properties(
    connect: Connect,
    capabilities: Capabilities,
    interval: int,
    keep_alive: int,
    client_id: bytes,
) -> Properties:
    if connect.version != MQTT_5_0:
        return NO_PROPERTIES
    asked = connect.properties.session_expiry_interval or 0
    return connack_properties(
        capabilities,
        session_expiry_interval=None if interval == asked else interval,
        assigned_client_identifier=None if connect.client_id else client_id.decode("utf-8"),
        server_keep_alive=None if keep_alive == connect.keep_alive else keep_alive,
        response_information=connect.properties.request_response_information == 1,
    )


def close_session(
    session: Session,
    disconnect: Disconnect | None,
    capabilities: Capabilities,
    now_ms: int,
) -> tuple[Will | None, bool]:
    """A connection ended: the will to publish now, and whether its session has ended.

    `disconnect` is None for an end without DISCONNECT. Raises PROTOCOL_ERROR, and changes nothing,
    for an expiry that was 0 and is not any more [section 3.14.2.2.2]; the caller answers that, and
    closes with None.
    """
    interval = None
    if disconnect is not None:
        interval = disconnect.properties.session_expiry_interval
    if interval is not None:
        if interval and not session.session_expiry_interval:
            raise BrokerError(Fault.PROTOCOL_ERROR, "session expiry was 0 at CONNECT")
        interval = min(interval, capabilities.maximum_session_expiry_interval)
    session.close(now_ms, will_dropped=is_dropped_by(disconnect), session_expiry_interval=interval)
    return session.advance(now_ms)
