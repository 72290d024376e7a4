"""The settings of groups: the resource type GROUP of DescribeConfigs and IncrementalAlterConfigs.

One table, with the names, defaults and bounds of Apache Kafka 4.3 (KIP-848, KIP-932, KIP-1222,
KIP-1240); bounds that Kafka's brokers can be configured to have are its widest. Dead letters follow
KIP-1191, whose names come with Kafka 4.4: here they have the prefix `robustmq.`. What is not
enforced is not in the table and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from robustmq import names
from robustmq.kafka.context import legal_name
from robustmq.kafka.topic_configs import BOOLEAN, INT, STRING

CONSUMER_SESSION_TIMEOUT = "consumer.session.timeout.ms"
CONSUMER_HEARTBEAT_INTERVAL = "consumer.heartbeat.interval.ms"
SESSION_TIMEOUT = "share.session.timeout.ms"
HEARTBEAT_INTERVAL = "share.heartbeat.interval.ms"
ASSIGNMENT_INTERVAL = "share.assignment.interval.ms"
RECORD_LOCK_DURATION = "share.record.lock.duration.ms"
DELIVERY_COUNT_LIMIT = "share.delivery.count.limit"
MAX_RECORD_LOCKS = "share.partition.max.record.locks"
AUTO_OFFSET_RESET = "share.auto.offset.reset"
ISOLATION_LEVEL = "share.isolation.level"
RENEW_ENABLE = "share.renew.acknowledge.enable"
DEAD_LETTER_TOPIC = "robustmq.errors.deadletterqueue.topic.name"
DEAD_LETTER_COPY = "robustmq.errors.deadletterqueue.copy.record.enable"

LATEST, EARLIEST = "latest", "earliest"
_BY_DURATION = "by_duration:"
_DURATION = re.compile(
    r"P(?=.)(?:(\d{1,6})D)?(?:T(?=.)(?:(\d{1,8})H)?(?:(\d{1,9})M)?(?:(\d{1,12})(?:\.\d{1,9})?S)?)?",
    re.IGNORECASE,
)
_SECONDS = (86_400, 3_600, 60, 1)


class GroupSetting(msgspec.Struct, frozen=True):
    """One row; `broker_setting` is the name of Kafka's broker setting that gives the default."""

    name: str
    kind: int
    default: str
    accepts: Callable[[str], bool]
    documentation: str
    broker_setting: str = ""


def _whole(least: int, most: int) -> Callable[[str], bool]:
    def accepts(value: str) -> bool:
        return re.fullmatch(r"\d{1,10}", value) is not None and least <= int(value) <= most

    return accepts


def _one_of(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def reset_duration_ms(strategy: str) -> int | None:
    """The time of by_duration:PnDTnHnMnS, or None for any other strategy."""
    if not strategy.startswith(_BY_DURATION):
        return None
    found = _DURATION.fullmatch(strategy[len(_BY_DURATION) :])
    if found is None or not any(found.groups()):
        return None
    parts = zip(found.groups(), _SECONDS, strict=True)
    return 1000 * sum(int(number) * seconds for number, seconds in parts if number)


def _reset(value: str) -> bool:
    return value in (LATEST, EARLIEST) or reset_duration_ms(value) is not None


def _topic(value: str) -> bool:
    return not value or legal_name(value)


_INT_MAX = (1 << 31) - 1
_ROWS = (
    GroupSetting(
        CONSUMER_SESSION_TIMEOUT,
        INT,
        "45000",
        _whole(1_000, 3_600_000),
        "A member that sends no heartbeat for so long is removed from the consumer group.",
        "group.consumer.session.timeout.ms",
    ),
    GroupSetting(
        CONSUMER_HEARTBEAT_INTERVAL,
        INT,
        "5000",
        _whole(100, 3_600_000),
        "How often the members of a consumer group are told to send heartbeats.",
        "group.consumer.heartbeat.interval.ms",
    ),
    GroupSetting(
        SESSION_TIMEOUT,
        INT,
        "45000",
        _whole(1_000, 3_600_000),
        "A member that sends no heartbeat for so long is removed from the share group.",
        "group.share.session.timeout.ms",
    ),
    GroupSetting(
        HEARTBEAT_INTERVAL,
        INT,
        "5000",
        _whole(100, 3_600_000),
        "How often the members of a share group are told to send heartbeats.",
        "group.share.heartbeat.interval.ms",
    ),
    GroupSetting(
        ASSIGNMENT_INTERVAL,
        INT,
        "1000",
        _whole(0, _INT_MAX),
        "A share group looks at its topics at most so often.",
        "group.share.assignment.interval.ms",
    ),
    GroupSetting(
        RECORD_LOCK_DURATION,
        INT,
        "30000",
        _whole(1_000, 3_600_000),
        "A record that was delivered is not given to others for so long.",
        "group.share.record.lock.duration.ms",
    ),
    GroupSetting(
        DELIVERY_COUNT_LIMIT,
        INT,
        "5",
        _whole(2, 25),
        "A record is delivered so often at most.",
        "group.share.delivery.count.limit",
    ),
    GroupSetting(
        MAX_RECORD_LOCKS,
        INT,
        "2000",
        _whole(100, 10_000),
        "So many records of a partition at most are delivered, or given back, and not done with.",
        "group.share.partition.max.record.locks",
    ),
    GroupSetting(
        AUTO_OFFSET_RESET,
        STRING,
        LATEST,
        _reset,
        "Where a share group begins with a partition: latest, earliest, by_duration:PnDTnHnMn.nS.",
    ),
    GroupSetting(
        ISOLATION_LEVEL,
        STRING,
        "read_uncommitted",
        _one_of("read_uncommitted", "read_committed"),
        "Whether a share group is given records of transactions before they are committed.",
    ),
    GroupSetting(
        RENEW_ENABLE,
        BOOLEAN,
        "true",
        _one_of("true", "false"),
        "Whether members may renew the acquisition locks of records.",
    ),
    GroupSetting(
        DEAD_LETTER_TOPIC,
        STRING,
        "",
        _topic,
        "Where records go that were rejected, or delivered too often; empty: nowhere. The topic "
        "must exist and have robustmq.errors.deadletterqueue.group.enable=true.",
    ),
    GroupSetting(
        DEAD_LETTER_COPY,
        BOOLEAN,
        "false",
        _one_of("true", "false"),
        "Whether dead letters have the key, the value and the headers of the record, or headers "
        "that say which it was and nothing else.",
    ),
)
GROUP_SETTINGS = {row.name: row for row in _ROWS}

Configs = Mapping[str, str]


def effective(configs: Configs, name: str) -> str:
    """The value in force: what was set for the group, else the default."""
    return configs.get(name, GROUP_SETTINGS[name].default)


def number(configs: Configs, name: str) -> int:
    """The value in force of a setting that is a number."""
    return int(effective(configs, name))


def enabled(configs: Configs, name: str) -> bool:
    """The value in force of a setting that is on or off."""
    return effective(configs, name) == "true"


def dead_letter_topic(configs: Configs) -> bytes | None:
    """The key of the group's dead letter topic."""
    name = effective(configs, DEAD_LETTER_TOPIC)
    return names.from_kafka(name) if name else None


def refusal(changed: Configs) -> str | None:
    """Why these settings of a group cannot be in force, or None; `changed` is all that is set."""
    for name, value in changed.items():
        setting = GROUP_SETTINGS.get(name)
        if setting is None:
            return f"Unknown group config name: {name}"
        if not setting.accepts(value):
            return f"Invalid value {value} for {name}"
    if number(changed, HEARTBEAT_INTERVAL) >= number(changed, SESSION_TIMEOUT):
        return f"{SESSION_TIMEOUT} must be greater than {HEARTBEAT_INTERVAL}"
    return None
