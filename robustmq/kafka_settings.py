"""Settings of the Kafka listener, of the topics it makes and of its groups: section [kafka]."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from robustmq.limits import Backlog, bound, choice, text
from robustmq.listener import Mechanism


class KafkaUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user with a password in the configuration: a table [[kafka.user]]."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1_024)]
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=4_096)]


class KafkaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Kafka listener, the topics it makes and its groups."""

    bind: Annotated[
        tuple[str, ...],
        choice(
            "Addresses to listen on. Other than loopback needs sasl_mechanisms, or"
            " security.allow_anonymous = true."
        ),
    ] = ("127.0.0.1",)
    port: Annotated[
        int,
        bound(
            "port",
            "Bootstrap port, shared by all workers; 0 lets the system choose.",
            0,
            65_535,
            reloadable=False,
        ),
    ] = 9092
    worker_port_base: Annotated[
        int,
        bound(
            "port",
            "Worker n also listens on this + n. 0: ports that the system chooses, and keeps.",
            0,
            65_535,
            reloadable=False,
        ),
    ] = 0
    advertised_host: Annotated[
        str,
        text("Host that clients are sent to. Empty: the bound address; host name if that is any."),
    ] = ""
    single_port: Annotated[
        bool,
        choice("Advertise the bootstrap port only (behind NAT); costs a hop inside the node."),
    ] = False
    backlog: Backlog = 1_024
    sasl_mechanisms: Annotated[
        tuple[Mechanism, ...],
        choice(
            "Clients prove who they are by one of these: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512."
            " Empty: nobody asks."
        ),
    ] = ()
    connections_max_reauth_ms: Annotated[
        int,
        bound(
            "ms",
            "A SASL client must prove who it is again after this; Kafka's name. 0: once is enough.",
            0,
            86_400_000,
        ),
    ] = 0
    connections_max_idle_ms: Annotated[
        int,
        bound(
            "ms",
            "A connection without a request for so long is closed. Kafka: connections.max.idle.ms.",
            1_000,
        ),
    ] = 600_000
    auto_create: Annotated[
        bool,
        choice("Make a topic when a client asks for it by name, as Kafka does.", reloadable=True),
    ] = True
    default_partitions: Annotated[
        int,
        bound("partitions", "Partitions of a topic that is created without a number.", 1, 1_000),
    ] = 1
    listed_light_topics: Annotated[
        int,
        bound(
            "topics",
            "How many topics made by MQTT a full topic list shows; by name each is found.",
            0,
            1_000_000,
        ),
    ] = 1_000
    share_group_max_size: Annotated[
        int,
        bound(
            "members", "Members of a share group at most; Kafka's group.share.max.size.", 1, 1_000
        ),
    ] = 200
    max_share_sessions: Annotated[
        int,
        bound(
            "sessions",
            "Share sessions of a worker at most; Kafka's group.share.max.share.sessions.",
            1,
            100_000,
        ),
    ] = 2_000
    group_min_session_timeout_ms: Annotated[
        int,
        bound(
            "ms", "Shortest session timeout of a consumer; Kafka's name and default.", 1, 3_600_000
        ),
    ] = 6_000
    group_max_session_timeout_ms: Annotated[
        int,
        bound(
            "ms", "Longest session timeout of a consumer; Kafka's name and default.", 1, 86_400_000
        ),
    ] = 1_800_000
    group_initial_rebalance_delay_ms: Annotated[
        int,
        bound(
            "ms",
            "How long the first rebalance waits for more members. Kafka waits 3000.",
            0,
            60_000,
        ),
    ] = 100
    group_max_size: Annotated[
        int, bound("members", "Members of one consumer group.", 1, 1_000_000)
    ] = 10_000
    transaction_max_timeout_ms: Annotated[
        int,
        bound(
            "ms",
            "Longest time-out of a transaction that a producer may ask for; Kafka's name.",
            1,
            2_147_483_647,
        ),
    ] = 900_000
    transactional_id_expiration_ms: Annotated[
        int,
        bound(
            "ms",
            "A transactional id without a transaction is forgotten after this time; Kafka's name.",
            1_000,
        ),
    ] = 7 * 86_400_000
    producer_id_expiration_s: Annotated[
        int,
        bound(
            "s",
            "A producer that writes nothing for so long is forgotten, unless its transaction is"
            " open; Kafka's default.",
            1,
        ),
    ] = 86_400
    offsets_retention_s: Annotated[
        int,
        bound(
            "s", "Offsets of a group without members are kept so long; Kafka keeps them 7 days.", 1
        ),
    ] = 7 * 86_400
    offsets_retention_check_s: Annotated[
        int, bound("s", "How often offsets are looked at that may go; Kafka's default.", 1, 86_400)
    ] = 600
    group_consumer_session_timeout_ms: Annotated[
        int,
        bound(
            "ms",
            "A member of a consumer group (KIP-848) that is silent so long is gone; as in Kafka.",
            1,
            86_400_000,
        ),
    ] = 45_000
    group_consumer_heartbeat_interval_ms: Annotated[
        int,
        bound("ms", "How often members of consumer groups are told to speak.", 1, 3_600_000),
    ] = 5_000
    group_consumer_max_size: Annotated[
        int, bound("members", "Members of one consumer group (KIP-848).", 1, (1 << 31) - 1)
    ] = (1 << 31) - 1
    group_consumer_assignors: Annotated[
        tuple[Literal["uniform", "range"], ...],
        choice("Server-side assignors that members may ask for; the first is the default."),
    ] = ("uniform", "range")
    group_consumer_migration_policy: Annotated[
        Literal["bidirectional", "upgrade", "downgrade", "disabled"],
        choice("Whether groups with members change between the classic and consumer protocol."),
    ] = "bidirectional"
    group_consumer_assignment_interval_ms: Annotated[
        int,
        bound("ms", "How often a group of over 1000 partitions is assigned at most.", 0, 60_000),
    ] = 1_000
    group_consumer_regex_refresh_interval_ms: Annotated[
        int,
        bound(
            "ms",
            "How often it is looked which topics made by MQTT a regular expression matches.",
            1_000,
            86_400_000,
        ),
    ] = 60_000
    user: tuple[KafkaUser, ...] = ()
