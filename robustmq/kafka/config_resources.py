"""What has settings: the one table of resource types, each with how it is described and altered.

DescribeConfigs, AlterConfigs and IncrementalAlterConfigs (`configs_api`) walk `RESOURCES`: a type
that is not in it is refused with INVALID_REQUEST. A further type (a group, a subscription of client
metrics) is one more row; what it may be set to is its own affair.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import telemetry
from robustmq.kafka.admin_results import outcome, refuse
from robustmq.kafka.context import kafka_code, legal_name, settled
from robustmq.kafka.gateway import AdminResult, Gateway, TopicInfo
from robustmq.kafka.group_configs import GROUP_SETTINGS, GroupSetting, refusal
from robustmq.kafka.topic_configs import (
    BOOLEAN,
    INT,
    LIST,
    LONG,
    STRING,
    TOPIC_SETTINGS,
    check_all,
    check_together,
    check_turned_off,
    default,
)

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
"""Resource types of the protocol."""
FROM_TOPIC, FROM_DYNAMIC_BROKER, FROM_BROKER, FROM_DEFAULT = 1, 2, 4, 5
FROM_CLIENT_METRICS, FROM_GROUP = 7, 8
"""Where the value of a setting is from (DescribeConfigs)."""


class ConfigRow(msgspec.Struct, frozen=True):
    """One setting of one resource as it is now; `kind` as in `topic_configs`, `synonyms` are
    (name, value, source), the one in force first."""

    name: str
    value: str | None
    source: int
    kind: int = STRING
    read_only: bool = False
    sensitive: bool = False
    synonyms: tuple[tuple[str, str, int], ...] = ()
    documentation: str | None = None


Changes = dict[str, str | None]
"""New values by name; None: back to the default."""


class ConfigResource(msgspec.Struct, frozen=True):
    """How the settings of one type of resource are seen and changed.

    `describe(name, gateway)` gives all settings, or why not. `alter(name, changes, validate_only,
    gateway)` checks and takes over the changes, all or none. `set_source` is the source of values
    that were set for the resource itself: AlterConfigs resets those that it does not name.
    """

    set_source: int
    describe: Callable[[str, Gateway], Awaitable[list[ConfigRow] | AdminResult]]
    alter: Callable[[str, Changes, bool, Gateway], Awaitable[AdminResult]]


# Topics


async def _find_topic(name: str, gateway: Gateway) -> TopicInfo | AdminResult:
    if not legal_name(name):
        return refuse(KafkaCode.INVALID_TOPIC_EXCEPTION, f"illegal topic name {name!r}")
    info = await settled(gateway.topic(names.from_kafka(name), False))
    if info is None:
        return refuse(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "no such topic")
    if isinstance(info, BrokerError):
        return refuse(kafka_code(info), str(info))
    return info


async def _describe_topic(name: str, gateway: Gateway) -> list[ConfigRow] | AdminResult:
    info = await _find_topic(name, gateway)
    if isinstance(info, AdminResult):
        return info
    broker = gateway.defaults_of(info.name)
    return [_topic_row(setting, info, broker) for setting in TOPIC_SETTINGS]


def _topic_row(name: str, info: TopicInfo, broker: dict[str, str]) -> ConfigRow:
    setting = TOPIC_SETTINGS[name]
    layers = _broker_layers(name, broker)
    own = info.configs.get(name)
    if own is not None:
        layers.insert(0, (name, own, FROM_TOPIC))
    _, value, source = layers[0]
    return ConfigRow(
        name,
        value,
        source,
        setting.kind,
        not info.declared,
        False,
        tuple(layers),
        setting.documentation,
    )


def _broker_layers(name: str, broker: dict[str, str]) -> list[tuple[str, str, int]]:
    """What a topic inherits that does not set it itself: from config.toml, from the table."""
    setting = TOPIC_SETTINGS[name]
    called = setting.broker_names[0] if setting.broker_names else name
    layers = [(called, setting.default, FROM_DEFAULT)]
    inherited = default(broker, name)
    if inherited != setting.default:
        layers.insert(0, (called, inherited, FROM_BROKER))
    return layers


async def _alter_topic(
    name: str, changes: Changes, validate_only: bool, gateway: Gateway
) -> AdminResult:
    info = await _find_topic(name, gateway)
    if isinstance(info, AdminResult):
        return info
    if not info.declared:
        return refuse(
            KafkaCode.INVALID_REQUEST, "a light topic has no settings: use [[storage.rules]]"
        )
    for setting, value in changes.items():
        if value is None and setting not in TOPIC_SETTINGS:
            return refuse(KafkaCode.INVALID_CONFIG, f"Unknown topic config name: {setting}")
    refused = check_all((key, value) for key, value in changes.items() if value is not None)
    if refused is None:
        configs = {**info.configs, **changes}
        kept = {key: value for key, value in configs.items() if value is not None}
        broker = gateway.defaults_of(info.name)
        refused = check_together(kept, broker) or check_turned_off(info.configs, kept, broker)
    if refused is not None:
        return refuse(refused.error, refused.message)
    changed = gateway.alter_topic_configs(info.name, changes, validate_only)
    return outcome(await settled(changed))


# Brokers

_BROKER_KINDS = {
    "broker.id": INT,
    "node.id": INT,
    "num.partitions": INT,
    "default.replication.factor": INT,
    "socket.request.max.bytes": INT,
    "log.retention.check.interval.ms": LONG,
    "log.cleaner.dedupe.buffer.size": LONG,
    "auto.create.topics.enable": BOOLEAN,
    "delete.topic.enable": BOOLEAN,
    "auto.leader.rebalance.enable": BOOLEAN,
    "log.dirs": LIST,
}


async def _describe_broker(name: str, gateway: Gateway) -> list[ConfigRow] | AdminResult:
    if not name:
        # The defaults of the cluster that were set while it runs: there are none.
        return []
    if name not in {str(node.node_id) for node in gateway.nodes()}:
        return refuse(KafkaCode.INVALID_REQUEST, f"there is no broker {name!r}")
    rows = [
        ConfigRow(
            setting, value, FROM_BROKER, _BROKER_KINDS.get(setting, STRING), True, False,
            ((setting, value, FROM_BROKER),),
        )
        for setting, value in gateway.broker_configs().items()
    ]  # fmt: skip
    for setting in TOPIC_SETTINGS.values():
        if setting.broker_names:
            layers = _broker_layers(setting.name, gateway.topic_defaults)
            called, value, source = layers[0]
            rows.append(
                ConfigRow(
                    called, value, source, setting.kind, True, False, tuple(layers),
                    setting.documentation,
                )
            )  # fmt: skip
    return sorted(rows, key=lambda row: row.name)


async def _alter_broker(
    name: str, changes: Changes, validate_only: bool, gateway: Gateway
) -> AdminResult:
    if not changes:
        return AdminResult()
    return refuse(
        KafkaCode.INVALID_REQUEST,
        "Cannot update these configs dynamically: they are in config.toml; edit it and send SIGHUP",
    )


# Groups


async def _describe_group(name: str, gateway: Gateway) -> list[ConfigRow] | AdminResult:
    """A group has settings also before it has members."""
    if not name:
        return refuse(KafkaCode.INVALID_REQUEST, "a group has a name")
    own = gateway.resource_configs(GROUP, name)
    return [_group_row(setting, own.get(setting.name)) for setting in GROUP_SETTINGS.values()]


def _group_row(setting: GroupSetting, own: str | None) -> ConfigRow:
    inherited = (setting.broker_setting or setting.name, setting.default, FROM_DEFAULT)
    layers = (inherited,) if own is None else ((setting.name, own, FROM_GROUP), inherited)
    return ConfigRow(
        setting.name,
        setting.default if own is None else own,
        FROM_DEFAULT if own is None else FROM_GROUP,
        setting.kind,
        synonyms=layers,
        documentation=setting.documentation,
    )


async def _alter_group(
    name: str, changes: Changes, validate_only: bool, gateway: Gateway
) -> AdminResult:
    changed = {**gateway.resource_configs(GROUP, name), **changes}
    for setting, value in changes.items():
        if value is None and setting not in GROUP_SETTINGS:
            return refuse(KafkaCode.INVALID_CONFIG, f"Unknown group config name: {setting}")
    wrong = refusal({key: value for key, value in changed.items() if value is not None})
    if wrong is not None:
        return refuse(KafkaCode.INVALID_CONFIG, wrong)
    asked = gateway.alter_resource_configs(GROUP, name, changes, validate_only)
    return outcome(await settled(asked))


# Subscriptions of client metrics (KIP-714)


async def _describe_telemetry(name: str, gateway: Gateway) -> list[ConfigRow] | AdminResult:
    """A subscription that nobody made has no settings."""
    if not name:
        return refuse(KafkaCode.INVALID_REQUEST, "a subscription has a name")
    own = gateway.resource_configs(CLIENT_METRICS, name)
    if not own:
        return []
    rows = []
    for setting, usual in telemetry.SETTINGS.items():
        source = FROM_CLIENT_METRICS if setting in own else FROM_DEFAULT
        kind = INT if setting == "interval.ms" else LIST
        rows.append(ConfigRow(setting, own.get(setting, usual), source, kind))
    return rows


async def _alter_telemetry(
    name: str, changes: Changes, validate_only: bool, gateway: Gateway
) -> AdminResult:
    changed = {**gateway.resource_configs(CLIENT_METRICS, name), **changes}
    wrong = telemetry.problem_of(
        {key: value for key, value in changed.items() if value is not None}
    )
    if wrong is not None:
        return refuse(KafkaCode.INVALID_CONFIG, wrong)
    asked = gateway.alter_resource_configs(CLIENT_METRICS, name, changes, validate_only)
    return outcome(await settled(asked))


RESOURCES: dict[int, ConfigResource] = {
    TOPIC: ConfigResource(FROM_TOPIC, _describe_topic, _alter_topic),
    BROKER: ConfigResource(FROM_DYNAMIC_BROKER, _describe_broker, _alter_broker),
    CLIENT_METRICS: ConfigResource(FROM_CLIENT_METRICS, _describe_telemetry, _alter_telemetry),
    GROUP: ConfigResource(FROM_GROUP, _describe_group, _alter_group),
}
