"""The one table of topic settings: name, type, default, and which values are taken.

Only what the broker does is here: a setting is enforced, or it describes the one way in which
things are done (then that is its only value). Any other name or value is refused with
INVALID_CONFIG (40), never stored and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from robustmq.errors import KafkaCode

BOOLEAN, STRING, INT, LONG, LIST = 1, 2, 3, 5, 7
_INT_MAX = (1 << 31) - 1
_LONG_MAX = (1 << 63) - 1


class TopicSetting(msgspec.Struct, frozen=True):
    """One setting; `accepts` says whether a text is a value of it."""

    name: str
    kind: int
    default: str
    accepts: Callable[[str], bool]
    documentation: str


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


_ROWS = (
    TopicSetting(
        "cleanup.policy",
        LIST,
        "delete",
        _cleanup,
        "delete: old segments go. compact: the newest record of each key stays.",
    ),
    TopicSetting(
        "retention.ms",
        LONG,
        "604800000",
        _whole(-1, _LONG_MAX),
        "How long records are kept at least; -1 for ever.",
    ),
    TopicSetting(
        "retention.bytes",
        LONG,
        "-1",
        _whole(-1, _LONG_MAX),
        "Bytes of a partition beyond which old segments go; -1 no bound.",
    ),
    TopicSetting(
        "segment.bytes",
        INT,
        "67108864",
        _whole(1 << 20, _INT_MAX),
        "Bytes of a segment file; a closed segment is the unit of deletion.",
    ),
    TopicSetting(
        "max.message.bytes",
        INT,
        "1048588",
        _whole(0, _INT_MAX),
        "Bytes of the largest record batch that is taken.",
    ),
    TopicSetting(
        "message.timestamp.type",
        STRING,
        "CreateTime",
        _one_of("CreateTime"),
        "Records keep the time their producer gave them.",
    ),
    TopicSetting(
        "compression.type",
        STRING,
        "producer",
        _one_of("producer"),
        "Batches are stored as they came.",
    ),
    TopicSetting(
        "min.insync.replicas",
        INT,
        "1",
        _one_of("1"),
        "Replicas that must have a record before acks=all is answered.",
    ),
    TopicSetting(
        "robustmq.storage.mode",
        STRING,
        "hybrid",
        _one_of("memory", "hybrid", "persistent"),
        "memory: lost on restart. hybrid: acked after the commit. persistent: after fdatasync.",
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


def default(broker: dict[str, str], name: str) -> str:
    """The value of a topic that sets none: the broker's own setting where there is one."""
    return broker.get(name, TOPIC_SETTINGS[name].default)


def effective(configs: dict[str, str], broker: dict[str, str], name: str) -> str:
    """The value in force: what was set, else the default."""
    return configs.get(name, default(broker, name))
