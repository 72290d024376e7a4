"""Settings: what can be configured, its defaults, and how a file and the environment become one
checked value.

The structs below are the one table: default, range, unit, why, and whether SIGHUP takes a change
over. config.toml and docs/reference/settings.md are written from them by scripts/make_reference.py.
Reading is strict: an unknown key, a wrong type or a value out of range is a `ConfigError` that
names the key and says what to do. Precedence: defaults, then the file, then
`ROBUSTMQ_<SECTION>__<KEY>` from the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from robustmq import engines
from robustmq.client_settings import FlappingSettings, SlowSubscriptionSettings
from robustmq.kafka_settings import KafkaSettings
from robustmq.limits import KIB, MIB, Backlog, Limits, bound, choice, rows, text
from robustmq.listener import DEFAULT, DEFAULT_NAME, KAFKA_NAME, Listener, problem_of, with_port
from robustmq.sharing import SharedSubscription, Sharing, Strategy, WhenAway, problem_of_tables
from robustmq.tiering_settings import TieringSettings
from robustmq.tiering_settings import problem_of as tiering_problem_of
from robustmq.topic_rules import AutoSubscribe, Rewrite, TopicMetric, problem_of_rules

_KAFKA_NAME = re.compile(r"(?!\.\.?$)[a-zA-Z0-9._-]{1,249}")

Mode = Literal["memory", "hybrid", "persistent", "tiered"]
MODES: tuple[str, ...] = ("memory", "hybrid", "persistent", "tiered")
ENVIRONMENT_PREFIX = "ROBUSTMQ_"
S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the key and the remedy."""


class NodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This node: where its data is and how many processes it runs."""

    data_dir: Annotated[
        str, text("Everything the broker keeps; relative to the working directory.", ".+")
    ] = "shards"
    name: Annotated[
        str,
        text("Name under $SYS/brokers. Empty: robustmq@ and the host's.", "^[A-Za-z0-9@._-]*$"),
    ] = ""
    workers: Annotated[
        int,
        bound(
            "processes",
            "Worker processes. 0: one per core that the process may use.",
            0,
            256,
            reloadable=False,
        ),
    ] = 0
    profile: Annotated[
        Literal["server", "edge"], choice("edge: everything in one process, for small machines.")
    ] = "server"
    shards: Annotated[
        int,
        bound(
            "shards",
            "Parts of the key space; fixed when the data directory is made.",
            1,
            1024,
            reloadable=False,
        ),
    ] = 16
    drain_timeout_ms: Annotated[
        int,
        bound(
            "ms", "After SIGTERM: finish acknowledgements and commit within this time.", 0, 600_000
        ),
    ] = 10_000
    open_files: Annotated[
        int,
        bound(
            "descriptors",
            "Wanted limit of open files. 0: as many as the system lets us have.",
            0,
            reloadable=False,
        ),
    ] = 0


class MqttSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The MQTT listener that is there without a [[listener]] table, and what all of them offer."""

    bind: Annotated[
        tuple[str, ...],
        choice("Addresses to listen on, IPv4 or IPv6. Other than loopback needs [security]."),
    ] = ("127.0.0.1",)
    port: Annotated[
        int, bound("port", "TCP port; 0 lets the system choose.", 0, 65_535, reloadable=False)
    ] = 1883
    backlog: Backlog = 4_096
    retained_expiry_s: Annotated[
        int,
        bound(
            "s",
            "Retained messages without an expiry of their own are removed after this. 0: never.",
            0,
            4_294_967_295,
        ),
    ] = 0
    queue_policy: Annotated[
        Literal["drop_newest", "drop_oldest", "disconnect"],
        choice(
            "What a full queue of a session does; disconnect: a connected client is told so.",
            reloadable=True,
        ),
    ] = "drop_newest"
    queue_qos0: Annotated[
        bool,
        choice("Queue QoS 0 for persistent sessions while they are away.", reloadable=True),
    ] = False
    share_strategy: Annotated[
        Strategy,
        choice(
            "How share groups spread their messages, unless a [[shared_subscription]] table says"
            " it: round_robin, random, sticky, hash_topic, hash_client, least_inflight or"
            " local_first.",
            reloadable=True,
        ),
    ] = "round_robin"
    share_when_away: Annotated[
        WhenAway,
        choice(
            "pass_on: what was not sent to a member of a share group that has gone goes to others;"
            " keep: it waits.",
            reloadable=True,
        ),
    ] = "pass_on"
    sys_interval_s: Annotated[
        int,
        bound("s", "How often the status topics under $SYS are published. 0: never.", 0, 86_400),
    ] = 10
    sys_events: Annotated[
        tuple[Literal["connected", "disconnected", "subscribed", "unsubscribed"], ...],
        choice(
            "Which client events are published under $SYS/brokers; each takes a topic of its own.",
            reloadable=True,
        ),
    ] = ()
    maximum_qos: Annotated[
        int,
        bound("", "Highest QoS of a PUBLISH or a will; above it DISCONNECT 0x9B.", 0, 2, False),
    ] = 2
    retain_available: Annotated[
        bool, choice("Whether messages may be retained; if not, DISCONNECT 0x9A.")
    ] = True
    wildcard_subscription_available: Annotated[
        bool, choice("Whether filters may have + and #; if not, DISCONNECT 0xA2.")
    ] = True
    subscription_identifiers_available: Annotated[
        bool, choice("Whether SUBSCRIBE may carry an identifier; if not, DISCONNECT 0xA1.")
    ] = True
    shared_subscription_available: Annotated[
        bool, choice("Whether there is $share/...; if not, DISCONNECT 0x9E.")
    ] = True
    exclusive_subscription_available: Annotated[
        bool, choice("Whether there is $exclusive/...; if not, SUBACK 0x8F.")
    ] = True
    response_information: Annotated[
        str,
        text("Told to MQTT 5.0 clients that ask for it: a prefix for their response topics."),
    ] = ""


class StorageRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Topics that match `filter` use `mode`, and partitions of declared topics `engine`; the first
    rule that matches counts. Light topics keep their records as the limits say (-1: for ever): for
    so long, so many bytes, so many records. Of those of mode tiered, what is in the object store
    stays on the local disk, too, for so long, and so many bytes of it (-1: as long as it is kept).
    What is empty or not there is as by default."""

    filter: str
    mode: Literal["", "memory", "hybrid", "persistent", "tiered"] = ""
    engine: str = ""
    retention_ms: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    retention_bytes: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    retention_records: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    local_retention_ms: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    local_retention_bytes: Annotated[int, msgspec.Meta(ge=-1)] | None = None


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How messages are kept."""

    default_mode: Annotated[
        Mode,
        choice(
            "memory: lost on restart; hybrid: acked after the write; persistent: after fdatasync;"
            " tiered: as persistent, with closed segments in the object store.",
            reloadable=True,
        ),
    ] = "hybrid"
    default_engine: Annotated[
        str,
        text(
            "What partitions of declared topics are kept in: segment (files of their own), shared"
            " (the log of their shard: many small partitions), or one that a package brings.",
            reloadable=True,
        ),
    ] = "segment"
    sync: Annotated[
        Literal["os", "disk"],
        choice("What hybrid waits for: os survives the death of a process, disk a power loss."),
    ] = "os"
    segment_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Size of one log file; whole files are removed by retention.",
            1 * MIB,
            2_147_483_647,
            reloadable=False,
        ),
    ] = 64 * MIB
    hot_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Recent records that one worker keeps in memory for readers.",
            1 * MIB,
            reloadable=False,
        ),
    ] = 32 * MIB
    memory_bytes: Annotated[
        int,
        bound(
            "bytes",
            "All topics of mode memory in one worker, with 64 bytes a batch; the oldest records of"
            " the largest make way. 0: by all workers a sixteenth of the machine's memory (or of"
            " what its container may take), and 8 MiB at least.",
            0,
            reloadable=False,
        ),
    ] = 0
    retention_check_s: Annotated[
        int,
        bound(
            "s",
            "How often a worker looks for segments whose retention is over, and for logs to"
            " compact.",
            1,
            86_400,
        ),
    ] = 5
    light_retention_ms: Annotated[
        int,
        bound(
            "ms",
            "How long light topics keep their records, from their arrival on; -1: for ever."
            " [[storage.rules]] may say otherwise.",
            -1,
        ),
    ] = 604_800_000
    topic_idle_expiry_s: Annotated[
        int,
        bound(
            "s",
            "Light topics to which nobody has published for so long go, with their offsets, unless"
            " they have a retained value or a group's offset; 0: never.",
            0,
        ),
    ] = 0
    shard_log_bytes: Annotated[
        int,
        bound(
            "bytes",
            "What the log of one shard may take on the disk: beyond it the oldest records of light"
            " topics go, whole files at a time; 0: no bound.",
            0,
        ),
    ] = 0
    shard_max_bytes: Annotated[
        int,
        bound(
            "bytes",
            "What one shard may have on the disk, its log and the files of its partitions; at that"
            " producers are refused, until it is 5 % less. 0: no bound.",
            0,
        ),
    ] = 0
    compaction_memory_bytes: Annotated[
        int,
        bound(
            "bytes",
            "What a worker remembers keys in while it compacts a log, 24 bytes a slot; a log with"
            " more keys is compacted in several runs.",
            1 * MIB,
        ),
    ] = 16 * MIB
    checkpoint_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Log written in a shard between snapshots; bounds the replay after a crash.",
            1 * MIB,
            reloadable=False,
        ),
    ] = 64 * MIB
    index_interval_bytes: Annotated[
        int,
        bound(
            "bytes",
            "One entry of the sparse offset index per so many bytes of a segment.",
            512,
            1 * MIB,
            reloadable=False,
        ),
    ] = 4 * KIB
    key_value: Annotated[
        Literal["", "leveldb", "rocksdb"],
        choice("What look-ups are kept in; empty: LevelDB, or RocksDB where plyvel is not there."),
    ] = ""
    key_value_cache_bytes: Annotated[
        int, bound("bytes", "Block cache of one shard's look-ups.", 64 * KIB, reloadable=False)
    ] = 1 * MIB
    key_value_write_buffer_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Write buffer of one shard's look-ups; larger is faster and takes memory.",
            64 * KIB,
            reloadable=False,
        ),
    ] = 1 * MIB
    rules: tuple[StorageRule, ...] = ()
    tiering: TieringSettings = TieringSettings()


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Kafka topic (`topic` is its Kafka name) fed by an MQTT filter; the key of its records is
    the MQTT topic."""

    filter: str
    topic: str
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    mode: Literal["", "memory", "hybrid", "persistent", "tiered"] = ""
    engine: str = ""


class SecuritySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may connect."""

    allow_anonymous: Annotated[
        bool | Literal["loopback"],
        choice(
            "true, false, or loopback: as long as all listen on loopback without a password file."
        ),
    ] = "loopback"
    password_file: Annotated[
        str,
        text(
            "User names with argon2 hashes, made by `robustmq passwd`. Empty: none.",
            reloadable=True,
        ),
    ] = ""
    super_users: Annotated[
        tuple[str, ...],
        choice("Who may do everything, whatever the access rules say: User:name.", reloadable=True),
    ] = ()
    allow_if_no_acl: Annotated[
        bool,
        choice("Whether what no access rule names is open to all who come in.", reloadable=True),
    ] = True


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP endpoint for /metrics and /health."""

    bind: Annotated[
        str,
        text("Address to listen on. Other than loopback needs security.allow_anonymous = true."),
    ] = "127.0.0.1"
    port: Annotated[
        int, bound("port", "TCP port. 0 lets the system choose.", 0, 65_535, reloadable=False)
    ] = 9464
    enabled: Annotated[bool, choice("Whether to listen at all.")] = True


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        choice("Least level that is written.", reloadable=True),
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        choice("auto: text on a terminal, JSON otherwise.", reloadable=True),
    ] = "auto"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a node."""

    node: NodeSettings = NodeSettings()
    mqtt: MqttSettings = MqttSettings()
    kafka: KafkaSettings = KafkaSettings()
    storage: StorageSettings = StorageSettings()
    security: SecuritySettings = SecuritySettings()
    metrics: MetricsSettings = MetricsSettings()
    flapping: FlappingSettings = FlappingSettings()
    slow_subscriptions: SlowSubscriptionSettings = SlowSubscriptionSettings()
    log: LogSettings = LogSettings()
    limits: Limits = Limits()
    streams: tuple[Stream, ...] = ()
    listener: tuple[Listener, ...] = ()
    rewrite: tuple[Rewrite, ...] = ()
    auto_subscribe: tuple[AutoSubscribe, ...] = ()
    topic_metrics: tuple[TopicMetric, ...] = ()
    shared_subscription: tuple[SharedSubscription, ...] = ()

    @property
    def node_name(self) -> str:
        """What this node is called: one level of a topic."""
        host = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)
        return self.node.name or f"robustmq@{host}"

    @property
    def worker_count(self) -> int:
        """How many workers to run; never more than shards, since a worker without one owns
        nothing."""
        if self.node.profile == "edge":
            return 1
        wanted = self.node.workers or len(os.sched_getaffinity(0))
        return max(1, min(wanted, self.node.shards))

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Where MQTT clients come in: the tables, or else [mqtt]."""
        tables = tuple(with_port(one) for one in self.listener if one.protocol == "mqtt")
        if tables:
            return tables
        mqtt = self.mqtt
        if not mqtt.bind:
            return ()
        return (
            msgspec.structs.replace(DEFAULT, bind=mqtt.bind, port=mqtt.port, backlog=mqtt.backlog),
        )

    @property
    def kafka_listeners(self) -> tuple[Listener, ...]:
        """Where Kafka clients come in: the tables, or else [kafka]. The first is the one whose
        addresses are shown where no listener is meant."""
        tables = tuple(with_port(one) for one in self.listener if one.protocol == "kafka")
        kafka = self.kafka
        if tables or not kafka.bind:
            return tables
        return (
            Listener(
                KAFKA_NAME,
                protocol="kafka",
                bind=kafka.bind,
                port=kafka.port,
                backlog=kafka.backlog,
                sasl_mechanisms=kafka.sasl_mechanisms,
                advertised_host=kafka.advertised_host,
                worker_port_base=kafka.worker_port_base,
            ),
        )

    @property
    def tiers(self) -> bool:
        """Is there an object store for mode tiered?"""
        return bool(self.storage.tiering.url)

    @property
    def sharing(self) -> Sharing:
        """How share groups spread their messages."""
        mqtt = self.mqtt
        return Sharing(mqtt.share_strategy, mqtt.share_when_away, self.shared_subscription)

    def anonymous_allowed(self, one: Listener) -> bool:
        """May MQTT clients of this listener connect without a user name?"""
        if one.allow_anonymous != "inherit":
            return one.allow_anonymous
        if self.security.allow_anonymous == "loopback":
            return not self.security.password_file
        return self.security.allow_anonymous


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "node": NodeSettings,
    "mqtt": MqttSettings,
    "kafka": KafkaSettings,
    "storage": StorageSettings,
    "storage.tiering": TieringSettings,
    "security": SecuritySettings,
    "metrics": MetricsSettings,
    "flapping": FlappingSettings,
    "slow_subscriptions": SlowSubscriptionSettings,
    "log": LogSettings,
    "limits": Limits,
}


def section_of(settings: Settings, section: str) -> Any:
    """The settings of a section by its name."""
    return attrgetter(section)(settings)


TABLES = (
    "streams",
    "listener",
    "rewrite",
    "auto_subscribe",
    "topic_metrics",
    "shared_subscription",
)
"""Lists of tables: [[streams]]."""


def load(path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read a file (None: defaults alone) and the environment (None: the process's); raises
    ConfigError."""
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}; give another with --config"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
    override(raw, os.environ if environment is None else environment)
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> Settings:
    """Checked settings from the tables of a TOML file."""
    unknown = sorted(set(raw) - set(SECTIONS) - set(TABLES))
    if unknown:
        known = ", ".join((*SECTIONS, *TABLES))
        raise ConfigError(f"unknown section [{unknown[0]}]; the sections are {known}")
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error))) from None
    check(settings)
    return settings


def override(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put `ROBUSTMQ_<SECTION>__<KEY>` variables over the tables; values are TOML, or else plain
    strings."""
    for name in sorted(environment):
        words = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        section, divider, key = words.rpartition(".")
        if not name.startswith(ENVIRONMENT_PREFIX) or not divider:
            continue
        if section not in SECTIONS:
            raise ConfigError(f"environment variable {name}: there is no section [{section}]")
        known = msgspec.structs.fields(SECTIONS[section])
        fields = {field.encode_name: field.type for field in known}
        if key not in fields:
            raise ConfigError(f"environment variable {name}: there is no setting {section}.{key}")
        table = raw
        for part in section.split("."):
            table = table.setdefault(part, {})
        table[key] = environment[name] if _is_text(fields[key]) else _toml_value(environment[name])


def check(settings: Settings) -> None:
    """Rules that hold between settings; raises ConfigError."""
    problem = (
        problem_of(settings.listener)
        or problem_of_rules(settings.rewrite, settings.auto_subscribe, settings.topic_metrics)
        or problem_of_tables(settings.shared_subscription)
    )
    if problem is not None:
        raise ConfigError(problem)
    _check_storage(settings)
    wrong = tiering_problem_of(settings.storage.tiering)
    if wrong is not None:
        raise ConfigError(f"storage.tiering.url: {wrong}")
    _check_addresses(settings)
    if not settings.listeners and not settings.kafka_listeners:
        raise ConfigError("mqtt.bind and kafka.bind are both empty: nothing to listen on")
    if settings.kafka.group_min_session_timeout_ms > settings.kafka.group_max_session_timeout_ms:
        raise ConfigError(
            "kafka.group_min_session_timeout_ms is above kafka.group_max_session_timeout_ms"
        )
    users = [user.name for user in settings.kafka.user]
    if len(set(users)) != len(users):
        raise ConfigError("two [[kafka.user]] have the same name; give each a name of its own")
    topics = [stream.topic for stream in settings.streams]
    if len(set(topics)) != len(topics):
        raise ConfigError("two [[streams]] have the same topic; give each a topic of its own")
    if any(
        not stream.filter or not _KAFKA_NAME.fullmatch(stream.topic) for stream in settings.streams
    ):
        raise ConfigError(
            "each of [[streams]] needs a filter, and a Kafka topic:"
            " letters, digits, '.', '_' and '-', 249 at most"
        )


def _check_storage(settings: Settings) -> None:
    """Modes and engines that can be had here."""
    storage = settings.storage
    asked = [("storage.default_engine", storage.default_engine)]
    asked += [(f"[[storage.rules]] {one.filter!r}", one.engine) for one in storage.rules]
    asked += [(f"[[streams]] {one.topic!r}", one.engine) for one in settings.streams]
    for where, name in asked:
        problem = engines.problem_of(name) if name else None
        if problem is not None:
            raise ConfigError(f"{where}: {problem}")
    modes: list[tuple[str, str]] = [("storage.default_mode", storage.default_mode)]
    modes += [(f"[[storage.rules]] {one.filter!r}", one.mode) for one in storage.rules]
    modes += [(f"[[streams]] {one.topic!r}", one.mode) for one in settings.streams]
    for where, mode in modes:
        if mode == "tiered" and not settings.tiers:
            raise ConfigError(f"{where}: {engines.NO_TIER}")
    if any(not one.filter for one in storage.rules):
        raise ConfigError("each of [[storage.rules]] needs a filter")


def _check_addresses(settings: Settings) -> None:
    """Other machines come in with a password, or because the settings say so."""
    security = settings.security
    open_to_all = security.allow_anonymous is True
    ways = []
    for one in settings.kafka_listeners:
        where = "kafka." if one.name == KAFKA_NAME else f"listener {one.name!r}: "
        said = one.allow_anonymous is True or (one.allow_anonymous == "inherit" and open_to_all)
        said = said or one.require_client_certificate or bool(one.sasl_mechanisms)
        ways.append((where, one.bind, said, " or ask for sasl_mechanisms"))
    if settings.metrics.enabled:
        ways.append(("metrics", (settings.metrics.bind,), open_to_all, ""))
    for one in settings.listeners:
        if one.transport == "unix":
            continue
        said = one.allow_anonymous is True or (one.allow_anonymous == "inherit" and open_to_all)
        said = said or one.require_client_certificate
        where = "mqtt." if one.name == DEFAULT_NAME else f"listener {one.name!r}: "
        remedy = " or set security.password_file (see `robustmq passwd`)"
        ways.append((where, one.bind, said or bool(security.password_file), remedy))
    for where, addresses, allowed, remedy in ways:
        key = f"{where}bind" if where[-1] in ".: " else f"{where}.bind"
        for address in addresses:
            if not is_loopback(address, key) and not allowed:
                raise ConfigError(
                    f"{key} = {address!r} lets other machines in without a password:"
                    f" bind 127.0.0.1, or allow it with security.allow_anonymous = true{remedy}"
                )


def is_loopback(address: str, key: str) -> bool:
    """True for an address that only this machine can reach; a name other than localhost is an
    error."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise ConfigError(
            f"{key} = {address!r} is not an IP address; host names are not looked up"
        ) from None


def diff(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """What a reload changes: (settings that are taken over, settings that need a restart), as
    `section.key`."""
    applied: list[str] = []
    needs_restart: list[str] = []
    for section, struct in SECTIONS.items():
        before, after = section_of(old, section), section_of(new, section)
        for row in rows(struct):
            if getattr(before, row.name) != getattr(after, row.name):
                (applied if row.reloadable else needs_restart).append(f"{section}.{row.name}")
    if old.kafka.user != new.kafka.user:
        applied.append("kafka.user")
    if old.storage.rules != new.storage.rules:
        applied.append("storage.rules")
    for table in ("streams", "rewrite", "auto_subscribe", "topic_metrics"):
        if getattr(old, table) != getattr(new, table):
            needs_restart.append(table)
    if old.shared_subscription != new.shared_subscription:
        applied.append("shared_subscription")
    _diff_listeners(old, new, applied, needs_restart)
    return applied, needs_restart


def _diff_listeners(
    old: Settings, new: Settings, applied: list[str], needs_restart: list[str]
) -> None:
    now = {one.name: one for one in new.listener}
    if list(now) != [one.name for one in old.listener]:
        needs_restart.append("listener")
    for before in old.listener:
        after = now.get(before.name, before)
        for row in rows(Listener):
            if getattr(before, row.name) != getattr(after, row.name):
                where = applied if row.reloadable else needs_restart
                where.append(f"listener.{before.name}.{row.name}")


def merge(old: Settings, new: Settings) -> Settings:
    """The settings in force after a reload: reloadable ones from `new`, all others from `old`."""
    sections = {}
    for section in SECTIONS:
        outer, _, inner = section.partition(".")
        before, after = getattr(old, outer), getattr(new, outer)
        if not inner:
            sections[outer] = _taken(before, after)
            continue
        taken = _taken(getattr(before, inner), getattr(after, inner))
        sections[outer] = msgspec.structs.replace(sections[outer], **{inner: taken})
    sections["kafka"] = msgspec.structs.replace(sections["kafka"], user=new.kafka.user)
    sections["storage"] = msgspec.structs.replace(sections["storage"], rules=new.storage.rules)
    now = {one.name: one for one in new.listener}
    listeners = tuple(_taken(one, now.get(one.name, one)) for one in old.listener)
    return msgspec.structs.replace(
        old, listener=listeners, shared_subscription=new.shared_subscription, **sections
    )


def _taken(before: S, after: S) -> S:
    """The settings of `before`, but for those that a reload takes from `after`."""
    taken = {row.name: getattr(after, row.name) for row in rows(type(after)) if row.reloadable}
    return msgspec.structs.replace(before, **taken)


def _toml_value(written: str) -> Any:
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written


def _is_text(kind: Any) -> bool:
    return kind is str or getattr(kind, "__origin__", None) is str


def _explain(message: str) -> str:
    """msgspec's message with the key first: `storage.sync: Invalid enum value 'x'`."""
    place = re.search(r" - at `\$\.?([^`]*)`", message)
    where = place.group(1) if place else ""
    what = message[: place.start()] if place else message
    unknown = re.search(r"unknown field `(\w+)`", what)
    if unknown:
        section = where.split("[")[0]
        known = (
            ", ".join(row.name for row in rows(SECTIONS[section])) if section in SECTIONS else ""
        )
        key = f"{where}.{unknown.group(1)}" if where else unknown.group(1)
        return f"unknown setting {key}" + (f"; settings of [{section}]: {known}" if known else "")
    return f"{where}: {what}" if where else what
