"""The one table of bounds: what a peer can make the broker hold or do, at most.

Each row is a field of `Limits` (the `[limits]` section of the configuration) with its unit, its
allowed range, where the figure comes from, and what happens at the bound. `bound` writes a row;
`rows` reads the rows of any settings struct, so that config.toml, docs/reference/settings.md and
the tests walk the same table as the validation. Invariant: every default lies within its own
range, and every buffer of the broker names its bound here.
"""

from __future__ import annotations

import typing
from typing import Annotated, Any

import msgspec

KIB = 1024
MIB = 1024 * KIB
COMMIT_BOUNDS_US = (250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000)
"""Of the histogram of commits (`observability.counters`)."""

TIER_GET_CELLS = {
    f"storage_tier_get_le_{bound_ms}": bound_ms
    for bound_ms in (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)
}
"""The counters of the reads of the object store within each bound (ms)."""


def commit_cells(kind: str) -> list[str]:
    """The counters of the commits of a kind (`os`, `disk`): those within each bound, all, and their
    microseconds."""
    name = f"storage_commits_{kind}"
    return [*(f"{name}_le_{bound}us" for bound in COMMIT_BOUNDS_US), name, f"{name}_us"]


class Row(msgspec.Struct, frozen=True):
    """One setting as the documents show it."""

    name: str
    default: Any
    unit: str
    why: str
    reloadable: bool
    low: int | None
    high: int | None
    pattern: str | None


def bound(
    unit: str, why: str, low: int = 0, high: int | None = None, reloadable: bool = True
) -> msgspec.Meta:
    """The row of a number: unit, range, and one line that says why."""
    return msgspec.Meta(
        ge=low, le=high, description=why, extra={"unit": unit, "reloadable": reloadable}
    )


def text(why: str, pattern: str | None = None, reloadable: bool = False) -> msgspec.Meta:
    """The row of a string."""
    return msgspec.Meta(
        pattern=pattern, description=why, extra={"unit": "", "reloadable": reloadable}
    )


def choice(why: str, reloadable: bool = False, unit: str = "") -> msgspec.Meta:
    """The row of a switch, a list, or one of a few words."""
    return msgspec.Meta(description=why, extra={"unit": unit, "reloadable": reloadable})


def rows(struct: type[msgspec.Struct]) -> list[Row]:
    """The documented settings of a struct, in their order."""
    hints = typing.get_type_hints(struct, include_extras=True)
    table = []
    for field in msgspec.structs.fields(struct):
        metas = [
            m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, msgspec.Meta)
        ]
        if not metas:
            continue
        meta = metas[0]
        extra = meta.extra or {}
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        low = None if meta.ge is None else int(meta.ge)
        high = None if meta.le is None else int(meta.le)
        table.append(
            Row(
                name=field.encode_name,
                default=default,
                unit=extra.get("unit", ""),
                why=meta.description or "",
                reloadable=bool(extra.get("reloadable", False)),
                low=low,
                high=high,
                pattern=meta.pattern,
            )
        )
    return table


Backlog = Annotated[
    int,
    bound(
        "connections",
        "Connections that the kernel holds until they are accepted.",
        1,
        65_535,
        reloadable=False,
    ),
]
"""Of any listener."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every bound that a peer can run into."""

    # MQTT: packets
    max_packet_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Largest MQTT packet, told to clients. Firmware images fit; MQTT allows 268435455.",
            1 * KIB,
            268_435_455,
        ),
    ] = 16 * MIB
    max_connect_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Read before CONNECT is accepted; strangers cannot make the broker hold more.",
            256,
            1 * MIB,
        ),
    ] = 64 * KIB
    max_topic_bytes: Annotated[
        int, bound("bytes", "Longest topic name or filter. The protocol allows 65535.", 1, 65_535)
    ] = 4_096
    max_topic_levels: Annotated[
        int,
        bound(
            "levels",
            "Deepest topic name or filter; keeps matching cheap. mosquitto has 200.",
            1,
            1_024,
        ),
    ] = 128
    max_client_id_bytes: Annotated[
        int,
        bound("bytes", "Longest client identifier. The protocol asks for 23 at least.", 23, 65_535),
    ] = 1_024
    max_user_properties: Annotated[
        int,
        bound(
            "properties",
            "User properties in one packet; more is a protocol error of the peer.",
            0,
            65_535,
        ),
    ] = 128
    max_properties_bytes: Annotated[
        int, bound("bytes", "Length of the properties of one packet.", 256, 268_435_455)
    ] = 64 * KIB
    max_filters_per_packet: Annotated[
        int, bound("filters", "Topic filters in one SUBSCRIBE or UNSUBSCRIBE.", 1, 65_535)
    ] = 1_024
    # MQTT: sessions
    max_connections: Annotated[
        int,
        bound(
            "connections",
            "Open client connections of one worker, both protocols; the next ones are closed.",
            1,
        ),
    ] = 100_000
    max_connections_per_address: Annotated[
        int,
        bound(
            "connections",
            "Open connections of one remote address in one worker, loopback left out. 0: no bound.",
        ),
    ] = 10_000
    max_accepts_per_second: Annotated[
        int,
        bound(
            "connections/s",
            "Accepted by one worker in a second; the rest waits in the backlog. 0: no bound.",
        ),
    ] = 10_000
    max_accepts_per_address_per_second: Annotated[
        int,
        bound("connections/s", "The same for one remote address, loopback left out. 0: no bound."),
    ] = 1_000
    connect_timeout_ms: Annotated[
        int, bound("ms", "From accept to a whole CONNECT, or the socket is closed.", 100, 600_000)
    ] = 10_000
    max_sessions: Annotated[
        int,
        bound(
            "sessions",
            "Sessions held by one worker, connected or not; a new one is refused with server busy.",
            1,
        ),
    ] = 1_000_000
    max_session_expiry_s: Annotated[
        int,
        bound(
            "s",
            "Longest session expiry interval; 4294967295 is for ever. Told to 5.0 clients.",
            0,
            4_294_967_295,
        ),
    ] = 7 * 86_400
    max_subscriptions: Annotated[
        int, bound("filters", "Subscriptions of one session; the next gets quota exceeded.", 1)
    ] = 10_000
    receive_maximum: Annotated[
        int,
        bound(
            "messages",
            "QoS 1 and 2 messages a client may have unacknowledged towards the broker.",
            1,
            65_535,
        ),
    ] = 1_024
    max_inflight: Annotated[
        int,
        bound(
            "messages",
            "Unacknowledged messages towards a client that names no receive maximum.",
            1,
            65_535,
        ),
    ] = 1_024
    topic_alias_maximum: Annotated[
        int, bound("aliases", "Topic aliases of one connection, each way.", 0, 65_535)
    ] = 256
    max_queued_messages: Annotated[
        int,
        bound("messages", "Waiting in one session; beyond it mqtt.queue_policy holds.", 1),
    ] = 100_000
    max_queued_bytes: Annotated[int, bound("bytes", "The same in payload bytes.", 1 * KIB)] = (
        64 * MIB
    )
    max_retained_messages: Annotated[
        int,
        bound(
            "messages",
            "Retained messages of the node; the next topic gets quota exceeded. 0: no bound.",
            reloadable=False,
        ),
    ] = 0
    max_retained_payload_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Largest payload that may be retained; a larger one gets quota exceeded. 0: no bound.",
            reloadable=False,
        ),
    ] = 0
    max_delayed_messages: Annotated[
        int,
        bound(
            "messages",
            "Delayed messages that the shards of one worker keep; the next gets quota exceeded.",
        ),
    ] = 1_000_000
    max_delay_s: Annotated[
        int,
        bound("s", "Longest delay of a message; a longer one gets quota exceeded.", 0, 4_294_967),
    ] = 4_294_967
    max_outbound_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Unsent bytes of one connection; beyond it QoS 0 is dropped, QoS 1 and 2 wait.",
            16 * KIB,
        ),
    ] = 4 * MIB
    max_retained_replay: Annotated[
        int,
        bound(
            "messages",
            "Retained messages looked up in one slice, so that the loop is not held.",
            1,
            100_000,
        ),
    ] = 500
    keep_alive_maximum_s: Annotated[
        int,
        bound(
            "s",
            "Longest keep alive; who asks for more or none gets this. 0: as the client says.",
            0,
            65_535,
        ),
    ] = 0
    # Kafka
    max_request_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Largest Kafka request; Kafka's socket.request.max.bytes.",
            1 * KIB,
            2_147_483_647,
        ),
    ] = 100 * MIB
    max_message_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Largest record batch of a topic that sets none; Kafka's message.max.bytes.",
            1 * KIB,
            1_073_741_824,
        ),
    ] = 16 * MIB
    max_array_length: Annotated[
        int,
        bound(
            "entries",
            "Longest array in a Kafka request; a longer one closes the connection.",
            16,
        ),
    ] = 100_000
    max_decompressed_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Largest decompressed record batch; beyond it the batch is refused.",
            1 * KIB,
            1_073_741_824,
        ),
    ] = 128 * MIB
    max_fetch_bytes: Annotated[
        int,
        bound(
            "bytes", "Largest answer to a Fetch; Kafka's fetch.max.bytes.", 1 * KIB, 2_147_483_647
        ),
    ] = 55 * MIB
    max_fetch_sessions: Annotated[
        int,
        bound(
            "sessions",
            "Incremental fetch sessions of one worker; the oldest makes way.",
            0,
            1_000_000,
            reloadable=False,
        ),
    ] = 1_000
    max_requests_in_flight: Annotated[
        int,
        bound(
            "requests",
            "Requests of one Kafka connection being answered; then its socket is not read.",
            1,
            10_000,
        ),
    ] = 64
    max_partitions: Annotated[
        int, bound("partitions", "Partitions of one declared topic.", 1, 100_000)
    ] = 1_000
    max_declared_topics: Annotated[
        int, bound("topics", "Declared topics of the cluster; light topics are not counted.", 1)
    ] = 100_000
    # How fast clients may send
    messages_per_second: Annotated[
        int,
        bound(
            "messages/s",
            "PUBLISH packets of one MQTT client; a faster one is read more slowly. 0: no bound.",
        ),
    ] = 0
    bytes_per_second: Annotated[
        int, bound("bytes/s", "The same in bytes of all its packets. 0: no bound.")
    ] = 0
    rate_burst_ms: Annotated[
        int,
        bound(
            "ms",
            "What a client or a listener has saved up at most, as the time in which it comes.",
            100,
            3_600_000,
        ),
    ] = 1_000
    max_password_checks: Annotated[
        int,
        bound(
            "checks",
            "Different passwords that wait to be checked in one worker; then the server is busy.",
            1,
            100_000,
        ),
    ] = 500
    # Clients that are kept out
    max_bans: Annotated[
        int,
        bound("bans", "Bans of the cluster; one more is refused until one is removed or over.", 1),
    ] = 10_000
    # Who may do what
    max_acls: Annotated[
        int, bound("rules", "Access rules of the cluster; more are refused.", 1)
    ] = 200_000
    max_scram_credentials: Annotated[
        int, bound("credentials", "SCRAM credentials of users made at run time.", 1)
    ] = 100_000
    max_client_quotas: Annotated[
        int, bound("entities", "Users, client ids and addresses with a quota of their own.", 1)
    ] = 100_000
    # Inside
    max_bus_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Waiting for one other worker; above it the sockets that feed it are not read.",
            1 * MIB,
        ),
    ] = 64 * MIB
    max_bus_frame_bytes: Annotated[
        int, bound("bytes", "Largest frame between workers.", 1 * MIB, 2_147_483_647)
    ] = 256 * MIB
    max_commit_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Appended and not yet committed in one worker; above it clients are not read.",
            1 * MIB,
        ),
    ] = 128 * MIB
    max_turn_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Read from one MQTT client in one loop turn, so that it cannot hold the others.",
            4 * KIB,
            16 * MIB,
            reloadable=False,
        ),
    ] = 256 * KIB
