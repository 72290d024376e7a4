"""A listener: one way in for clients, with what holds for whoever comes that way.

`[[listener]]` tables of the configuration become `Listener` values; without any of a protocol,
`[mqtt]` or `[kafka]` is its only one. Every MQTT connection carries the value it came in by
(`MqttClient.listener`), over the hand-off between workers too, so that a right, a bound or a name
may depend on it. A setting of 0 or "inherit" leaves the decision to the setting of the whole node
that it names.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from robustmq.limits import Backlog, bound, choice, text

Protocol = Literal["mqtt", "kafka"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Transport = Literal["tcp", "tls", "ws", "wss", "unix"]
PORTS = {"tcp": 1883, "tls": 8883, "ws": 8083, "wss": 8084, "unix": 0}
"""Where users look for each transport."""
KAFKA_PORTS = {"tcp": 9092, "tls": 9093}
ENCRYPTED = frozenset({"tls", "wss"})
WEBSOCKET = frozenset({"ws", "wss"})


class ServerName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate for clients that ask for one of these names (SNI); `*.example.org` is every
    name one level below."""

    names: tuple[str, ...]
    certificate: str
    key: str = ""


class Listener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way in for clients."""

    name: Annotated[
        str,
        text("Short name, as logs and the start show it.", r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$"),
    ]
    transport: Annotated[
        Transport, choice("What carries the packets; wss is a WebSocket over TLS.")
    ] = "tcp"
    protocol: Annotated[Protocol, choice("What is spoken there; kafka over tcp or tls.")] = "mqtt"
    bind: Annotated[
        tuple[str, ...],
        choice("IPv4 or IPv6 addresses; other than loopback needs passwords. For unix: a path."),
    ] = ("127.0.0.1",)
    port: Annotated[
        int,
        bound(
            "port",
            "0: the system chooses. -1: 1883 (tcp), 8883 (tls), 8083 (ws), 8084 (wss);"
            " Kafka: 9092, 9093.",
            -1,
            65_535,
            reloadable=False,
        ),
    ] = -1
    backlog: Backlog = 4_096
    allow_anonymous: Annotated[
        bool | Literal["inherit"],
        choice("Clients without a user name; inherit: security.allow_anonymous.", reloadable=True),
    ] = "inherit"
    mount_point: Annotated[
        str,
        text(
            "Put before every topic of these clients: %c client, %u user. Empty: none.",
            r"^(?:|[^$+#\x00/][^+#\x00]*/)$",
        ),
    ] = ""
    max_connections: Annotated[
        int, bound("connections", "Open in one worker by this listener. 0: no bound of its own.", 0)
    ] = 0
    max_accepts_per_second: Annotated[
        int,
        bound("connections", "Accepted in one worker a second. 0: no bound of its own.", 0),
    ] = 0
    messages_per_second: Annotated[
        int,
        bound("messages/s", "Of one client, new ones. 0: limits.messages_per_second.", 0),
    ] = 0
    bytes_per_second: Annotated[
        int, bound("bytes/s", "Of one client, new ones. 0: limits.bytes_per_second.", 0)
    ] = 0
    total_messages_per_second: Annotated[
        int,
        bound(
            "messages/s",
            "Of all clients of this listener in one worker, new ones. 0: no bound.",
            0,
        ),
    ] = 0
    total_bytes_per_second: Annotated[
        int, bound("bytes/s", "The same in bytes. 0: no bound.", 0)
    ] = 0
    connect_timeout_ms: Annotated[
        int,
        bound("ms", "From accept to a whole CONNECT. 0: limits.connect_timeout_ms.", 0, 600_000),
    ] = 0

    proxy_protocol: Annotated[
        bool,
        choice("A proxy tells the client's address first (PROXY protocol, version 1 or 2)."),
    ] = False
    websocket_path: Annotated[
        str, text("Path that clients ask for. Empty: any.", r"^(/\S*)?$", reloadable=True)
    ] = "/mqtt"
    websocket_origins: Annotated[
        tuple[str, ...],
        choice("Web pages that may connect: https://example.org. Empty: all.", reloadable=True),
    ] = ()
    certificate: Annotated[
        str, text("TLS: file with the certificate and those that vouch for it, PEM.", None, True)
    ] = ""
    key: Annotated[
        str, text("TLS: file with the private key. Empty: in the certificate's.", None, True)
    ] = ""
    client_ca: Annotated[
        str, text("TLS: file with who vouches for clients' certificates.", None, True)
    ] = ""
    require_client_certificate: Annotated[
        bool, choice("TLS: nobody comes in without a certificate.", reloadable=True)
    ] = False
    use_identity_as_username: Annotated[
        bool,
        choice("TLS: the certificate's common name is the user, who needs no password.", True),
    ] = False
    tls_minimum: Annotated[
        Literal["1.2", "1.3"], choice("TLS: oldest version that is spoken.", reloadable=True)
    ] = "1.2"
    ciphers: Annotated[
        str, text("TLS 1.2: ciphers as OpenSSL writes them. Empty: its own choice.", None, True)
    ] = ""
    mode: Annotated[str, text("unix: who may connect, as chmod writes it.", r"^0?[0-7]{3}$")] = (
        "0660"
    )
    server_names: Annotated[
        tuple[ServerName, ...],
        choice("TLS: other certificates, by the names that clients ask for (SNI).", True),
    ] = ()

    sasl_mechanisms: Annotated[
        tuple[Mechanism, ...],
        choice(
            "Kafka: clients prove who they are by one of these: PLAIN, SCRAM-SHA-256,"
            " SCRAM-SHA-512. Empty: nobody asks."
        ),
    ] = ()
    advertised_host: Annotated[
        str, text("Kafka: host that clients are sent to. Empty: the bound address.")
    ] = ""
    worker_port_base: Annotated[
        int,
        bound(
            "port",
            "Kafka: worker n also listens on this + n. 0: ports that the system chooses.",
            0,
            65_535,
            reloadable=False,
        ),
    ] = 0

    @property
    def shown(self) -> str:
        """How the start and the logs call it."""
        if self.name == DEFAULT_NAME or (self.name == KAFKA_NAME and self.protocol == "kafka"):
            return self.protocol
        return f"{self.protocol} {self.transport} {self.name}"


DEFAULT_NAME = "default"
KAFKA_NAME = "kafka"
"""The listener of section [kafka]."""
DEFAULT = Listener(DEFAULT_NAME)
"""A listener of whom nothing is said."""


def with_port(listener: Listener) -> Listener:
    """The listener with the port of its transport, if it names none."""
    if listener.port >= 0:
        return listener
    ports = KAFKA_PORTS if listener.protocol == "kafka" else PORTS
    return msgspec.structs.replace(listener, port=ports[listener.transport])


def problem_of(listeners: tuple[Listener, ...]) -> str | None:
    """What is wrong between these tables; None when nothing is."""
    names = [listener.name for listener in listeners]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"two [[listener]] have the name {twice!r}: give each a name of its own"
    for listener in listeners:
        if not listener.bind:
            return f"listener {listener.name!r} has no address in bind: name one, or delete it"
        for is_wrong, remedy in _rules(listener):
            if is_wrong:
                return f"listener {listener.name!r}: {remedy}"
    return None


KAFKA_ALONE = ("sasl_mechanisms", "advertised_host", "worker_port_base")
MQTT_ALONE = (
    "mount_point",
    "messages_per_second",
    "bytes_per_second",
    "total_messages_per_second",
    "total_bytes_per_second",
    "connect_timeout_ms",
    "proxy_protocol",
    "websocket_path",
    "websocket_origins",
    "use_identity_as_username",
    "mode",
)


def _foreign(listener: Listener) -> str:
    """A setting that means nothing for the protocol; empty when there is none."""
    others = MQTT_ALONE if listener.protocol == "kafka" else KAFKA_ALONE
    changed = (name for name in others if getattr(listener, name) != getattr(DEFAULT, name))
    return next(changed, "")


def _rules(listener: Listener) -> list[tuple[bool, str]]:
    encrypted = listener.transport in ENCRYPTED
    unix = listener.transport == "unix"
    certified = listener.require_client_certificate
    of_tls = any(
        (listener.certificate, listener.key, listener.client_ca, certified, listener.server_names)
    )
    names = [name.lower() for extra in listener.server_names for name in extra.names]
    foreign = _foreign(listener)
    return [
        (
            listener.protocol == "kafka" and listener.transport not in KAFKA_PORTS,
            'Kafka is spoken over transport = "tcp" or "tls"',
        ),
        (bool(foreign), f"{foreign} means nothing for {listener.protocol}"),
        (
            unix and (len(listener.bind) > 1 or "/" not in listener.bind[0]),
            'bind of transport = "unix" is one path, with a / in it',
        ),
        (encrypted and not listener.certificate, "TLS needs a certificate"),
        (of_tls and not encrypted, 'has TLS settings: set transport = "tls" or "wss"'),
        (certified and not listener.client_ca, "require_client_certificate needs client_ca"),
        (
            listener.use_identity_as_username and not certified,
            "use_identity_as_username needs require_client_certificate = true",
        ),
        (len(set(names)) < len(names), "a name is in two of its server_names"),
    ]
