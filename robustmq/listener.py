"""A listener: one way in for MQTT clients, with what holds for whoever comes that way.

`[[listener]]` tables of the configuration become `Listener` values; without any, `[mqtt]` is the
only one. Every connection carries the value it came in by (`MqttClient.listener`), over the
hand-off between workers too, so that a right, a bound or a name may depend on it. A setting of 0
or "inherit" leaves the decision to the setting of the whole node that it names.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from robustmq.limits import bound, choice, text

PORTS = {"tcp": 1883}
"""Where users look for each transport."""


class Listener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way in for MQTT clients."""

    name: Annotated[
        str,
        text("Short name, as logs and the start show it.", r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$"),
    ]
    transport: Annotated[Literal["tcp"], choice("What carries the packets.")] = "tcp"
    bind: Annotated[
        tuple[str, ...],
        choice("Addresses to listen on, IPv4 or IPv6. Other than loopback needs passwords."),
    ] = ("127.0.0.1",)
    port: Annotated[
        int,
        bound(
            "port",
            "TCP port. 0 lets the system choose; -1 is 1883.",
            -1,
            65_535,
            reloadable=False,
        ),
    ] = -1
    backlog: Annotated[
        int,
        bound(
            "connections",
            "Connections that the kernel holds until they are accepted.",
            1,
            65_535,
            reloadable=False,
        ),
    ] = 4_096
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
    connect_timeout_ms: Annotated[
        int,
        bound("ms", "From accept to a whole CONNECT. 0: limits.connect_timeout_ms.", 0, 600_000),
    ] = 0

    @property
    def shown(self) -> str:
        """How the start and the logs call it."""
        return "mqtt" if self.name == DEFAULT_NAME else f"mqtt {self.transport} {self.name}"


DEFAULT_NAME = "default"
DEFAULT = Listener(DEFAULT_NAME)
"""A listener of whom nothing is said."""


def with_port(listener: Listener) -> Listener:
    """The listener with the port of its transport, if it names none."""
    if listener.port >= 0:
        return listener
    return msgspec.structs.replace(listener, port=PORTS[listener.transport])


def problem_of(listeners: tuple[Listener, ...]) -> str | None:
    """What is wrong between these tables; None when nothing is."""
    names = [listener.name for listener in listeners]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"two [[listener]] have the name {twice!r}: give each a name of its own"
    for listener in listeners:
        if not listener.bind:
            return f"listener {listener.name!r} has no address in bind: name one, or delete it"
    return None
