"""The one table of topic settings: name, type, default, and which values are taken.

Only what the broker does is here: a setting is enforced, or it describes the one way in which
things are done (then that is its only value). Any other name or value is refused with
INVALID_CONFIG (40), never stored and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from robustmq import engines
from robustmq.errors import BrokerError, KafkaCode
from robustmq.names import validate_filter

BOOLEAN, STRING, INT, LONG, DOUBLE, LIST = 1, 2, 3, 5, 6, 7
_INT_MAX = (1 << 31) - 1
_LONG_MAX = (1 << 63) - 1
_MIB = 1024 * 1024
_DAY_MS = 86_400_000

MODE_SETTING = "robustmq.storage.mode"
ENGINE_SETTING = "robustmq.storage.engine"
TIERS = "robustmq.storage.tiers"
"""Among a broker's defaults, and no setting: "true" where there is an object store."""
REMOTE_STORAGE = "remote.storage.enable"
DEAD_LETTERS_ENABLE = "robustmq.errors.deadletterqueue.group.enable"


class TopicSetting(msgspec.Struct, frozen=True):
    """One setting; `accepts` says whether a text is a value of it, `broker_names` what a broker's
    default for it is called."""

    name: str
    kind: int
    default: str
    accepts: Callable[[str], bool]
    documentation: str
    broker_names: tuple[str, ...] = ()


def _whole(low: int, high: int) -> Callable[[str], bool]:
    def accepts(text: str) -> bool:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
            return False
        return low <= int(text) <= high

    return accepts


def _one_of(*values: str) -> Callable[[str], bool]:
    return lambda text: text in values


def _cleanup(text: str) -> bool:
    parts = [part.strip() for part in text.split(",")]
    return len(set(parts)) == len(parts) and all(part in ("delete", "compact") for part in parts)


def _ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _filter(text: str) -> bool:
    """An MQTT filter that may feed a stream, or nothing."""
    if not text:
        return True
    try:
        validate_filter(text.encode())
    except BrokerError:
        return False
    return not text.startswith("$")


def _fixed(
    name: str, kind: int, value: str, documentation: str, *broker_names: str
) -> TopicSetting:
    """What is done in one way: that is its only value."""
    return TopicSetting(name, kind, value, _one_of(value), documentation, broker_names)


_ROWS = (
    TopicSetting(
        "cleanup.policy",
        LIST,
        "delete",
        _cleanup,
        "delete: old segments go. compact: the newest record of each key stays.",
        ("log.cleanup.policy",),
    ),
    TopicSetting(
        "retention.ms",
        LONG,
        str(7 * _DAY_MS),
        _whole(-1, _LONG_MAX),
        "How long records are kept at least, with cleanup.policy delete; -1 for ever.",
        ("log.retention.ms",),
    ),
    TopicSetting(
        "retention.bytes",
        LONG,
        "-1",
        _whole(-1, _LONG_MAX),
        "Bytes of a partition beyond which old segments go, with cleanup.policy delete; -1 no"
        " bound.",
        ("log.retention.bytes",),
    ),
    TopicSetting(
        "segment.bytes",
        INT,
        str(64 * _MIB),
        _whole(_MIB, _INT_MAX),
        "Bytes of a segment file; a closed segment is the unit of deletion and compaction.",
        ("log.segment.bytes",),
    ),
    TopicSetting(
        "segment.ms",
        LONG,
        str(7 * _DAY_MS),
        _whole(1, _LONG_MAX),
        "A segment is closed by a record that is younger than its first by more than this.",
        ("log.roll.ms",),
    ),
    TopicSetting(
        "preallocate",
        BOOLEAN,
        "false",
        _one_of("true", "false"),
        "A file gets segment.bytes on the disk when it is begun, and gives back what is left.",
        ("log.preallocate",),
    ),
    TopicSetting(
        "segment.index.bytes",
        INT,
        str(10 * _MIB),
        _whole(1024, _INT_MAX),
        "A segment is closed when its index, 8 bytes an entry, has this size.",
        ("log.index.size.max.bytes",),
    ),
    TopicSetting(
        "index.interval.bytes",
        INT,
        "4096",
        _whole(1024, 16 * _MIB),
        "Bytes of a segment between two entries of its index.",
        ("log.index.interval.bytes",),
    ),
    TopicSetting(
        "delete.retention.ms",
        LONG,
        str(_DAY_MS),
        _whole(0, _LONG_MAX),
        "How long a tombstone, or the marker of a transaction without records, outlives the first"
        " compaction that meets it.",
        ("log.cleaner.delete.retention.ms",),
    ),
    TopicSetting(
        "min.compaction.lag.ms",
        LONG,
        "0",
        _whole(0, _LONG_MAX),
        "A record younger than this is not compacted.",
        ("log.cleaner.min.compaction.lag.ms",),
    ),
    TopicSetting(
        "max.compaction.lag.ms",
        LONG,
        str(_LONG_MAX),
        _whole(1, _LONG_MAX),
        "A record older than this is compacted, whatever min.cleanable.dirty.ratio says.",
        ("log.cleaner.max.compaction.lag.ms",),
    ),
    TopicSetting(
        "min.cleanable.dirty.ratio",
        DOUBLE,
        "0.5",
        _ratio,
        "The share of a log's closed segments that no compaction has seen, from which on one is"
        " made.",
        ("log.cleaner.min.cleanable.ratio",),
    ),
    TopicSetting(
        "max.message.bytes",
        INT,
        "1048588",
        _whole(0, _INT_MAX),
        "Bytes of the largest record batch that is taken.",
        ("message.max.bytes",),
    ),
    TopicSetting(
        "message.timestamp.type",
        STRING,
        "CreateTime",
        _one_of("CreateTime", "LogAppendTime"),
        "Records have the time that their producer gave them, or that of the append.",
        ("log.message.timestamp.type",),
    ),
    TopicSetting(
        "message.timestamp.before.max.ms",
        LONG,
        str(_LONG_MAX),
        _whole(0, _LONG_MAX),
        "How far a producer's timestamps may lie in the past; others are refused.",
        ("log.message.timestamp.before.max.ms",),
    ),
    TopicSetting(
        "message.timestamp.after.max.ms",
        LONG,
        "3600000",
        _whole(0, _LONG_MAX),
        "How far a producer's timestamps may lie in the future; others are refused.",
        ("log.message.timestamp.after.max.ms",),
    ),
    TopicSetting(
        "compression.type",
        STRING,
        "producer",
        _one_of("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"),
        "producer: batches are stored as they came. Else all get this compression.",
        ("compression.type",),
    ),
    TopicSetting(
        DEAD_LETTERS_ENABLE,
        BOOLEAN,
        "false",
        _one_of("true", "false"),
        "Whether share groups may have the topic as their dead letter topic (KIP-1191).",
    ),
    TopicSetting(
        MODE_SETTING,
        STRING,
        "hybrid",
        _one_of("memory", "hybrid", "persistent", "tiered"),
        "memory: lost on restart. hybrid: acked after the commit. persistent: after fdatasync."
        " tiered: as persistent, and closed segments go to the object store.",
    ),
    TopicSetting(
        ENGINE_SETTING,
        STRING,
        engines.SEGMENT,
        lambda text: engines.problem_of(text) is None,
        "segment: files for each partition. shared: in the log of the shard, for many small"
        " partitions. Others come with packages. Its records and offsets move when it changes.",
    ),
    TopicSetting(
        "robustmq.mqtt.filter",
        STRING,
        "",
        _filter,
        "An MQTT filter: what is published to the topics it matches goes to this topic, with the"
        " MQTT topic as key.",
    ),
    _fixed("compression.gzip.level", INT, "-1", "The level at which this broker compresses."),
    _fixed("compression.lz4.level", INT, "9", "The level at which this broker compresses."),
    _fixed("compression.zstd.level", INT, "3", "The level at which this broker compresses."),
    _fixed(
        "file.delete.delay.ms",
        LONG,
        "0",
        "Files are removed at once: who reads one keeps it until the read is done.",
        "log.segment.delete.delay.ms",
    ),
    _fixed(
        "flush.messages",
        LONG,
        str(_LONG_MAX),
        "When records reach the disk is said by robustmq.storage.mode.",
        "log.flush.interval.messages",
    ),
    _fixed(
        "flush.ms",
        LONG,
        str(_LONG_MAX),
        "When records reach the disk is said by robustmq.storage.mode.",
        "log.flush.interval.ms",
    ),
    _fixed(
        "follower.replication.throttled.replicas", LIST, "", "There is one replica, no follower."
    ),
    _fixed("leader.replication.throttled.replicas", LIST, "", "There is one replica, no follower."),
    _fixed(
        "min.insync.replicas",
        INT,
        "1",
        "Replicas that must have a record before acks=all is answered.",
        "min.insync.replicas",
    ),
    _fixed("segment.jitter.ms", LONG, "0", "segment.ms holds exactly.", "log.roll.jitter.ms"),
    _fixed(
        "unclean.leader.election.enable",
        BOOLEAN,
        "false",
        "There is one replica: nobody else can be elected.",
        "unclean.leader.election.enable",
    ),
    TopicSetting(
        REMOTE_STORAGE,
        BOOLEAN,
        "false",
        _one_of("true", "false"),
        "Closed segments go to the object store, too (KIP-405); as robustmq.storage.mode tiered.",
    ),
    TopicSetting(
        "remote.log.copy.disable",
        BOOLEAN,
        "false",
        _one_of("true", "false"),
        "Nothing more is copied to the object store; what is there can be read (KIP-950).",
    ),
    TopicSetting(
        "remote.log.delete.on.disable",
        BOOLEAN,
        "false",
        _one_of("true", "false"),
        "Whether remote.storage.enable may be set to false, which removes what is in the object"
        " store.",
    ),
    TopicSetting(
        "local.retention.ms",
        LONG,
        "-2",
        _whole(-2, _LONG_MAX),
        "How long a segment that is in the object store is kept on the local disk at least; -1 for"
        " ever, -2 as retention.ms.",
        ("log.local.retention.ms",),
    ),
    TopicSetting(
        "local.retention.bytes",
        LONG,
        "-2",
        _whole(-2, _LONG_MAX),
        "Bytes of a partition's local segments beyond which those in the object store go from the"
        " local disk; -1 no bound, -2 as retention.bytes.",
        ("log.local.retention.bytes",),
    ),
)
TOPIC_SETTINGS = {row.name: row for row in _ROWS}


class ConfigRefused(msgspec.Struct, frozen=True):
    """Why a setting was refused."""

    error: int
    message: str


def check(name: str, value: str | None) -> ConfigRefused | None:
    """None when the value may be stored."""
    setting = TOPIC_SETTINGS.get(name)
    if setting is None:
        return ConfigRefused(KafkaCode.INVALID_CONFIG, f"Unknown topic config name: {name}")
    if value is not None and name == ENGINE_SETTING:
        problem = engines.problem_of(value)
        if problem is not None:
            return ConfigRefused(
                KafkaCode.INVALID_CONFIG, f"Invalid value {value} for {name}: {problem}"
            )
    if value is None or not setting.accepts(value):
        return ConfigRefused(KafkaCode.INVALID_CONFIG, f"Invalid value {value} for {name}")
    return None


def check_all(settings: Iterable[tuple[str, str | None]]) -> ConfigRefused | None:
    """The first refusal among several settings; a name given twice is one."""
    seen: set[str] = set()
    for name, value in settings:
        refused = check(name, value)
        if refused is not None:
            return refused
        if name in seen:
            return ConfigRefused(KafkaCode.INVALID_CONFIG, f"Config given twice: {name}")
        seen.add(name)
    return None


def check_together(configs: dict[str, str], broker: dict[str, str]) -> ConfigRefused | None:
    """What is wrong with the settings of a topic beside one another, each a value of its own."""
    low = int(effective(configs, broker, "min.compaction.lag.ms"))
    high = int(effective(configs, broker, "max.compaction.lag.ms"))
    if low > high:
        return ConfigRefused(
            KafkaCode.INVALID_CONFIG,
            f"min.compaction.lag.ms {low} is above max.compaction.lag.ms {high}",
        )
    problem = storage_problem(
        effective(configs, broker, MODE_SETTING),
        effective(configs, broker, ENGINE_SETTING),
        "compact" in effective(configs, broker, "cleanup.policy"),
        broker.get(TIERS) == "true",
    )
    problem = problem or tiering_problem(configs, broker)
    return None if problem is None else ConfigRefused(KafkaCode.INVALID_CONFIG, problem)


def storage_problem(mode: str, engine: str, compact: bool, tiers: bool) -> str | None:
    """Why a topic cannot be kept so; None: it can."""
    if compact and mode == "memory":
        return (
            "what is kept in memory is not compacted: choose another cleanup.policy or"
            f" {MODE_SETTING} (of a topic that does not set it, [[storage.rules]] says it)"
        )
    if compact and engine != engines.SEGMENT:
        return (
            f"what the engine {engine} keeps is not compacted: choose another cleanup.policy or"
            f" {ENGINE_SETTING} = segment"
        )
    if mode == "tiered" and not tiers:
        return engines.NO_TIER
    if mode == "tiered" and engine != engines.SEGMENT:
        return f"only the engine segment has files to tier: set {ENGINE_SETTING} = segment"
    return None


def is_tiered(configs: dict[str, str], broker: dict[str, str], mode: str) -> bool:
    """Do closed segments of a topic go to the object store?"""
    return mode == "tiered" or effective(configs, broker, REMOTE_STORAGE) == "true"


def local_retention(configs: dict[str, str], broker: dict[str, str], unit: str) -> int:
    """local.retention.ms or .bytes; -1: no bound."""
    local = int(effective(configs, broker, f"local.retention.{unit}"))
    return int(effective(configs, broker, f"retention.{unit}")) if local == -2 else local


def tiering_problem(configs: dict[str, str], broker: dict[str, str]) -> str | None:
    """What Apache Kafka finds wrong with a topic's settings for tiered storage (KIP-405, KIP-950);
    None: nothing."""
    mode = effective(configs, broker, MODE_SETTING)
    if not is_tiered(configs, broker, mode):
        return None
    if broker.get(TIERS) != "true":
        return (
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured"
            " with remote log storage: set url in [storage.tiering]"
        )
    engine = effective(configs, broker, ENGINE_SETTING)
    if mode == "memory" or engine != engines.SEGMENT:
        return f"only the engine segment has files to tier: set {ENGINE_SETTING} = segment"
    if "compact" in effective(configs, broker, "cleanup.policy"):
        return "Remote log storage is unsupported for the compacted topics"
    for unit in ("ms", "bytes"):
        problem = _retention_problem(configs, broker, unit)
        if problem is not None:
            return problem
    return None


def _retention_problem(configs: dict[str, str], broker: dict[str, str], unit: str) -> str | None:
    """Local retention beside that of the whole log."""
    local = int(effective(configs, broker, f"local.retention.{unit}"))
    whole = int(effective(configs, broker, f"retention.{unit}"))
    copies = effective(configs, broker, "remote.log.copy.disable") == "false"
    if not copies and local not in (-2, whole):
        return (
            f"When `remote.log.copy.disable` is set to true, the `local.retention.{unit}` and"
            f" `retention.{unit}` must be set to the identical value because there will be no more"
            " logs copied to the remote storage."
        )
    if local == -2 or whole == -1:
        return None
    if local == -1:
        return (
            f"Invalid value -1 for configuration local.retention.{unit}: Value must not be -1 as"
            f" retention.{unit} value is set as {whole}."
        )
    if local > whole:
        return (
            f"Invalid value {local} for configuration local.retention.{unit}: Value must not be"
            f" more than property: retention.{unit} value {whole}."
        )
    return None


def check_turned_off(
    before: dict[str, str], after: dict[str, str], broker: dict[str, str]
) -> ConfigRefused | None:
    """May a topic stop being tiered (KIP-950)?"""
    was = is_tiered(before, broker, effective(before, broker, MODE_SETTING))
    if not was or is_tiered(after, broker, effective(after, broker, MODE_SETTING)):
        return None
    if effective(after, broker, "remote.log.delete.on.disable") == "true":
        return None
    return ConfigRefused(
        KafkaCode.INVALID_CONFIG,
        "It is invalid to disable remote storage without deleting remote data. If you want to keep"
        " the remote data and turn to read only, please set `remote.storage.enable=true,"
        "remote.log.copy.disable=true`. If you want to disable remote storage and delete all remote"
        " data, please set `remote.storage.enable=false,remote.log.delete.on.disable=true`.",
    )


def default(broker: dict[str, str], name: str) -> str:
    """The value of a topic that sets none: the broker's own setting where there is one."""
    return broker.get(name, TOPIC_SETTINGS[name].default)


def effective(configs: dict[str, str], broker: dict[str, str], name: str) -> str:
    """The value in force: what was set, else the default."""
    return configs.get(name, default(broker, name))
