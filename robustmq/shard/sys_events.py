"""Client events: `$SYS/brokers/<node>/clients/<client id>/connected` and its like, as JSON.

Names and fields are those that users of EMQX know. An event comes from the home worker of the
client, and is published like any other message (QoS 0, not retained). `mqtt.sys_events` chooses
which kinds are published; none of them costs anything otherwise.

A client id is one level of the topic, whatever is in it: `/`, `+`, `#` and `%` are written %2F,
%2B, %23 and %25. The payload has it as it is.

Bounded in a storm: at most BUDGET events are published between two ticks (50 ms) of the worker, as
they happen; what comes beyond that waits in order, MAX_WAITING at most, and the next ones are
dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from robustmq.errors import Fault
from robustmq.mqtt.packets import MQTT_3_1, Subscribe
from robustmq.records import Message

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker
    from robustmq.shard.client import MqttClient

BUDGET = 500
MAX_WAITING = 10_000
FIRST_ERROR = 0x80
CLOSED = "tcp_closed"
NORMAL = "normal"
REASONS = {
    Fault.SESSION_TAKEN_OVER: "takenover",
    Fault.ADMINISTRATIVE_ACTION: "kicked",
    Fault.KEEP_ALIVE_TIMEOUT: "keepalive_timeout",
}
"""Why a connection ended, where EMQX has a word of its own for it."""

_ESCAPED = str.maketrans({"%": "%25", "/": "%2F", "+": "%2B", "#": "%23"})


def reason_of(fault: Fault) -> str:
    """The word for a connection that the broker ended."""
    return REASONS.get(fault) or fault.name.lower()


class SysEvents:
    """The client events of one worker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._budget = BUDGET
        self._waiting: deque[tuple[str, str, dict[str, Any]]] = deque()
        self.reload()

    def reload(self) -> None:
        """Take over settings."""
        settings = self._broker.settings
        kinds = settings.mqtt.sys_events
        self._connected = "connected" in kinds
        self._disconnected = "disconnected" in kinds
        self._subscribed = "subscribed" in kinds
        self._unsubscribed = "unsubscribed" in kinds
        self._prefix = f"$SYS/brokers/{settings.node_name}/clients/"

    def __len__(self) -> int:
        return len(self._waiting)

    def connected(self, client: MqttClient, client_id: bytes) -> None:
        """A client has been let in."""
        if self._connected:
            connect = client.connect_packet
            session = client.subscriber.session if client.subscriber is not None else None
            self._emit(
                client_id,
                "connected",
                {
                    **_who(client, client_id, self._broker.wall_ms()),
                    "keepalive": connect.keep_alive,
                    "expiry_interval": session.session_expiry_interval if session else 0,
                    "connected_at": client.connected_at_ms,
                    "connack": 0,
                    "clean_start": connect.clean_start,
                },
            )

    def disconnected(self, client: MqttClient, client_id: bytes, reason: str) -> None:
        """A client that was let in is gone."""
        if self._disconnected:
            now_ms = self._broker.wall_ms()
            about = {"reason": reason, "connected_at": client.connected_at_ms}
            fields = {**_who(client, client_id, now_ms), **about, "disconnected_at": now_ms}
            self._emit(client_id, "disconnected", fields)

    def new_filters(self, client: MqttClient, inside: Subscribe) -> Sequence[bool]:
        """Which filters a client does not have yet, for `subscribed`; `inside`: by the names that
        its session knows."""
        if not self._subscribed or client.subscriber is None:
            return ()
        known = client.subscriber.session.subscriptions
        return [filter_ not in known for filter_, _ in inside.filters]

    def subscribed(
        self, client: MqttClient, packet: Subscribe, codes: Sequence[int], new: Sequence[bool]
    ) -> None:
        """Filters were granted."""
        if not self._subscribed or client.subscriber is None:
            return
        identifiers = packet.properties.subscription_identifiers
        properties = {"Subscription-Identifier": identifiers[0]} if identifiers else {}
        for (filter_, options), code, is_new in zip(packet.filters, codes, new, strict=True):
            if code < FIRST_ERROR:
                granted = {
                    "sub_props": properties,
                    "rh": options.retain_handling,
                    "rap": int(options.retain_as_published),
                    "nl": int(options.no_local),
                    "qos": code,
                    "is_new": is_new,
                }
                self._of_filter(client, "subscribed", filter_, {"subopts": granted})

    def unsubscribed(
        self, client: MqttClient, filters: Sequence[bytes], codes: Sequence[int]
    ) -> None:
        """Subscriptions were removed."""
        if self._unsubscribed and client.subscriber is not None:
            for filter_, code in zip(filters, codes, strict=True):
                if code == 0:
                    self._of_filter(client, "unsubscribed", filter_, {})

    def _of_filter(
        self, client: MqttClient, kind: str, filter_: bytes, fields: dict[str, Any]
    ) -> None:
        assert client.subscriber is not None, "who subscribes is connected"
        client_id = client.subscriber.client_id
        about = {
            "clientid": client_id.decode(),
            "username": client.user_name,
            "ts": self._broker.wall_ms(),
            "protocol": "mqtt",
            "topic": filter_.decode(),
        }
        self._emit(client_id, kind, about | fields)

    def _emit(self, client_id: bytes, kind: str, fields: dict[str, Any]) -> None:
        name = client_id.decode().translate(_ESCAPED)
        if self._budget and not self._waiting:
            self._budget -= 1
            self._publish(name, kind, fields)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((name, kind, fields))
        else:
            self._broker.count("sys_events_dropped", 1)

    def tick(self) -> None:
        """Publish what waits, within the budget of the time until the next call."""
        self._budget = BUDGET
        while self._waiting and self._budget:
            self._budget -= 1
            self._publish(*self._waiting.popleft())

    def _publish(self, name: str, kind: str, fields: dict[str, Any]) -> None:
        topic = f"{self._prefix}{name}/{kind}".encode()
        self._broker.count("sys_events", 1)
        self._broker.sessions.publish(Message(topic, msgspec.json.encode(fields)), 0)


def _who(client: MqttClient, client_id: bytes, now_ms: int) -> dict[str, Any]:
    """What the events of a connection have in common."""
    version = client.connect_packet.version
    return {
        "clientid": client_id.decode(),
        "username": client.user_name,
        "ipaddress": client.address.rpartition(":")[0].strip("[]"),
        "sockport": client.listener.port,
        "proto_name": "MQIsdp" if version == MQTT_3_1 else "MQTT",
        "proto_ver": version,
        "ts": now_ms,
    }
