"""CreateTopics, DeleteTopics, CreatePartitions and the settings of topics (protocol guide; KIP-339,
KIP-464).

What is asked is checked here, in full, before the gateway proposes it to the cluster state. There
is one replica of everything: a replication factor other than 1 or -1 is 38, and an assignment names
one live broker for each partition (39 otherwise); placement itself follows from the topic's name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.context import RequestContext, kafka_code, legal_name, settled
from robustmq.kafka.gateway import AdminResult, Gateway, NewTopic, TopicInfo
from robustmq.kafka.topic_configs import STRING, TOPIC_SETTINGS, check_all, default, effective

MAX_PARTITIONS = 10_000
TOPIC, BROKER = 2, 4
_FROM_TOPIC, _FROM_BROKER, _FROM_DEFAULT = 1, 4, 5
_SET, _DELETE, _APPEND, _SUBTRACT = 0, 1, 2, 3
_BY_ID_VERSION = 6
_NO_ID = UUID(int=0)


def _refuse(code: int, message: str) -> AdminResult:
    return AdminResult(error=int(code), message=message)


def _of(outcome: AdminResult | BrokerError) -> AdminResult:
    if isinstance(outcome, BrokerError):
        return _refuse(kafka_code(outcome), str(outcome))
    return outcome


# Topics


async def handle_create_topics(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one CreateTopics; each topic succeeds or fails by itself."""
    times = Counter(topic.name for topic in request.topics)
    answers = []
    for topic in request.topics:
        if times[topic.name] > 1:
            result = _refuse(KafkaCode.INVALID_REQUEST, "named twice in this request")
        else:
            result = await _create_topic(topic, request, gateway)
        answers.append(_created(topic.name, result, gateway))
    return messages.CreateTopicsResponse(topics=answers)


async def _create_topic(topic: Any, request: Any, gateway: Gateway) -> AdminResult:
    refused = _check_shape(topic, gateway) or await _check_name(topic.name, gateway)
    if refused is not None:
        return refused
    bad = check_all((config.name, config.value) for config in topic.configs)
    if bad is not None:
        return _refuse(bad.error, bad.message)
    partitions = len(topic.assignments) or topic.num_partitions
    if partitions == -1:
        partitions = gateway.default_partitions
    configs = {config.name: config.value for config in topic.configs}
    wanted = NewTopic(names.from_kafka(topic.name), partitions, configs)
    return _of(
        await settled(gateway.create_topic(wanted, request.validate_only, request.timeout_ms))
    )


def _check_shape(topic: Any, gateway: Gateway) -> AdminResult | None:
    """Partitions, replication and assignments."""
    if topic.assignments:
        if topic.num_partitions != -1 or topic.replication_factor != -1:
            return _refuse(
                KafkaCode.INVALID_REQUEST,
                "with assignments, partitions and replication factor must be -1",
            )
        brokers = {node.node_id for node in gateway.nodes()}
        indexes = sorted(entry.partition_index for entry in topic.assignments)
        if indexes != list(range(len(indexes))) or not all(
            _one_live(entry.broker_ids, brokers) for entry in topic.assignments
        ):
            return _refuse(
                KafkaCode.INVALID_REPLICA_ASSIGNMENT,
                "partitions must be 0, 1, 2, ... with one live broker each",
            )
        return None
    if topic.num_partitions != -1 and not 1 <= topic.num_partitions <= MAX_PARTITIONS:
        return _refuse(
            KafkaCode.INVALID_PARTITIONS, f"partitions must be 1 to {MAX_PARTITIONS}, or -1"
        )
    if topic.replication_factor not in (-1, 1):
        return _refuse(KafkaCode.INVALID_REPLICATION_FACTOR, "there is one replica: say 1, or -1")
    return None


def _one_live(broker_ids: list[int], brokers: set[int]) -> bool:
    return len(broker_ids) == 1 and broker_ids[0] in brokers


async def _check_name(name: str, gateway: Gateway) -> AdminResult | None:
    """Kafka's alphabet, and its rule that `a.b` and `a_b` are not both declared."""
    if not legal_name(name):
        return _refuse(KafkaCode.INVALID_TOPIC_EXCEPTION, f"illegal topic name {name!r}")
    if "." not in name and "_" not in name:
        return None
    listed = await settled(gateway.list_topics(0))
    if isinstance(listed, BrokerError):
        return _refuse(kafka_code(listed), str(listed))
    for info in listed:
        other = names.to_kafka(info.name)
        if other and other != name and other.replace(".", "_") == name.replace(".", "_"):
            return _refuse(
                KafkaCode.INVALID_TOPIC_EXCEPTION,
                f"{name} collides with {other}: they differ only in . and _",
            )
    return None


def _created(name: str, result: AdminResult, gateway: Gateway) -> Any:
    info = result.topic
    if result.error or info is None:
        return messages.CreatableTopicResult(
            name=name,
            topic_id=_NO_ID,
            error_code=int(result.error),
            error_message=result.message,
            num_partitions=-1,
            replication_factor=-1,
            configs=None,
        )
    return messages.CreatableTopicResult(
        name=name,
        topic_id=info.topic_id,
        error_code=0,
        error_message=None,
        num_partitions=len(info.partitions),
        replication_factor=1,
        configs=[
            messages.CreatableTopicConfigs(
                name=setting,
                value=effective(info.configs, gateway.topic_defaults, setting),
                read_only=False,
                config_source=_FROM_TOPIC if setting in info.configs else _FROM_DEFAULT,
                is_sensitive=False,
            )
            for setting in TOPIC_SETTINGS
        ],
    )


async def handle_delete_topics(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DeleteTopics, by names or (version 6 and later) ids."""
    if context.api_version >= _BY_ID_VERSION:
        wanted = [(topic.name, topic.topic_id) for topic in request.topics]
    else:
        wanted = [(name, _NO_ID) for name in request.topic_names]
    answers = []
    for name, topic_id in wanted:
        answers.append(await _delete_topic(name, topic_id, request.timeout_ms, gateway))
    return messages.DeleteTopicsResponse(responses=answers)


async def _delete_topic(name: str | None, topic_id: UUID, timeout_ms: int, gateway: Gateway) -> Any:
    if name is None:
        info = await settled(gateway.topic_by_id(topic_id))
    else:
        info = await settled(gateway.topic(names.from_kafka(name), False))
    if isinstance(info, BrokerError):
        result = _refuse(kafka_code(info), str(info))
    elif info is None:
        unknown = KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
        if name is None:
            unknown = KafkaCode.UNKNOWN_TOPIC_ID
        result = _refuse(unknown, "no such topic")
    else:
        name = name or names.to_kafka(info.name)
        topic_id = info.topic_id
        result = _of(await settled(gateway.delete_topic(info.name, timeout_ms)))
    return messages.DeletableTopicResult(
        name=name,
        topic_id=topic_id,
        error_code=int(result.error),
        error_message=result.message,
    )


async def handle_create_partitions(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one CreatePartitions."""
    times = Counter(topic.name for topic in request.topics)
    results = []
    for topic in request.topics:
        if times[topic.name] > 1:
            result = _refuse(KafkaCode.INVALID_REQUEST, "named twice in this request")
        else:
            result = await _grow(topic, request, gateway)
        results.append(
            messages.CreatePartitionsTopicResult(
                name=topic.name, error_code=int(result.error), error_message=result.message
            )
        )
    return messages.CreatePartitionsResponse(results=results)


async def _grow(topic: Any, request: Any, gateway: Gateway) -> AdminResult:
    if not legal_name(topic.name):
        return _refuse(KafkaCode.INVALID_TOPIC_EXCEPTION, f"illegal topic name {topic.name!r}")
    key = names.from_kafka(topic.name)
    info = await settled(gateway.topic(key, False))
    if isinstance(info, BrokerError):
        return _refuse(kafka_code(info), str(info))
    if info is None:
        return _refuse(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "no such topic")
    now = len(info.partitions)
    if not now < topic.count <= MAX_PARTITIONS:
        return _refuse(
            KafkaCode.INVALID_PARTITIONS,
            f"the topic has {now} partitions; the new count must be above, up to {MAX_PARTITIONS}",
        )
    if not info.declared:
        return _refuse(KafkaCode.INVALID_PARTITIONS, "a light topic has one partition")
    if topic.assignments is not None:
        brokers = {node.node_id for node in gateway.nodes()}
        fits = len(topic.assignments) == topic.count - now and all(
            _one_live(entry.broker_ids, brokers) for entry in topic.assignments
        )
        if not fits:
            return _refuse(
                KafkaCode.INVALID_REPLICA_ASSIGNMENT, "one live broker for each new partition"
            )
    growth = gateway.create_partitions(key, topic.count, request.validate_only, request.timeout_ms)
    return _of(await settled(growth))


# Settings


async def handle_describe_configs(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeConfigs for topics and brokers."""
    results = []
    for resource in request.resources:
        refused, configs = await _describe(resource, request, gateway)
        if resource.configuration_keys is not None:
            configs = [entry for entry in configs if entry.name in resource.configuration_keys]
        results.append(
            messages.DescribeConfigsResult(
                error_code=int(refused.error),
                error_message=refused.message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
                configs=configs,
            )
        )
    return messages.DescribeConfigsResponse(results=results)


async def _describe(resource: Any, request: Any, gateway: Gateway) -> tuple[AdminResult, list[Any]]:
    if resource.resource_type == BROKER:
        known = {"", *(str(node.node_id) for node in gateway.nodes())}
        if resource.resource_name not in known:
            return _refuse(KafkaCode.INVALID_REQUEST, "no such broker"), []
        settings = sorted(gateway.broker_configs().items())
        return AdminResult(), [_broker_config(name, value) for name, value in settings]
    if resource.resource_type != TOPIC:
        return _refuse(KafkaCode.INVALID_REQUEST, "only topics and brokers have settings"), []
    info = await _find(resource.resource_name, gateway)
    if isinstance(info, AdminResult):
        return info, []
    return AdminResult(), [
        _topic_config(name, info, gateway.topic_defaults, request) for name in TOPIC_SETTINGS
    ]


async def _find(name: str, gateway: Gateway) -> TopicInfo | AdminResult:
    if not legal_name(name):
        return _refuse(KafkaCode.INVALID_TOPIC_EXCEPTION, f"illegal topic name {name!r}")
    info = await settled(gateway.topic(names.from_kafka(name), False))
    if info is None:
        return _refuse(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "no such topic")
    if isinstance(info, BrokerError):
        return _refuse(kafka_code(info), str(info))
    return info


def _broker_config(name: str, value: str) -> Any:
    return messages.DescribeConfigsResourceResult(
        name=name,
        value=value,
        read_only=True,
        is_default=False,
        config_source=_FROM_BROKER,
        is_sensitive=False,
        synonyms=[],
        config_type=STRING,
        documentation=None,
    )


def _topic_config(name: str, info: TopicInfo, broker: dict[str, str], request: Any) -> Any:
    setting = TOPIC_SETTINGS[name]
    source = _FROM_TOPIC if name in info.configs else _FROM_DEFAULT
    synonyms = []
    if request.include_synonyms:
        layers = [(_FROM_TOPIC, info.configs.get(name)), (_FROM_DEFAULT, default(broker, name))]
        synonyms = [
            messages.DescribeConfigsSynonym(name=name, value=value, source=layer)
            for layer, value in layers
            if value is not None
        ]
    return messages.DescribeConfigsResourceResult(
        name=name,
        value=effective(info.configs, broker, name),
        read_only=not info.declared,
        is_default=source == _FROM_DEFAULT,
        config_source=source,
        is_sensitive=False,
        synonyms=synonyms,
        config_type=setting.kind,
        documentation=setting.documentation if request.include_documentation else None,
    )


async def handle_incremental_alter_configs(
    request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    """Answer one IncrementalAlterConfigs (KIP-339): set, delete, append, subtract."""
    responses = []
    for resource in request.resources:
        result = await _alter(resource, request.validate_only, gateway)
        responses.append(
            messages.AlterConfigsResourceResponse(
                error_code=int(result.error),
                error_message=result.message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
        )
    return messages.IncrementalAlterConfigsResponse(responses=responses)


async def _alter(resource: Any, validate_only: bool, gateway: Gateway) -> AdminResult:
    info = await _alterable(resource, gateway)
    if isinstance(info, AdminResult):
        return info
    changes: dict[str, str | None] = {}
    for config in resource.configs:
        if config.name in changes:
            return _refuse(KafkaCode.INVALID_REQUEST, f"Config given twice: {config.name}")
        if config.config_operation == _DELETE:
            if config.name not in TOPIC_SETTINGS:
                return _refuse(KafkaCode.INVALID_CONFIG, f"Unknown topic config: {config.name}")
            changes[config.name] = None
            continue
        value = _operate(config, info, gateway.topic_defaults)
        refused = check_all([(config.name, value)])
        if refused is not None:
            return _refuse(refused.error, refused.message)
        changes[config.name] = value
    return _of(await settled(gateway.alter_topic_configs(info.name, changes, validate_only)))


def _operate(config: Any, info: TopicInfo, broker: dict[str, str]) -> str | None:
    """The new value under an operation; None (refused) where the operation does not fit."""
    if config.config_operation == _SET:
        return None if config.value is None else str(config.value)
    setting = TOPIC_SETTINGS.get(config.name)
    if setting is None or config.value is None:
        return None
    parts = [part for part in effective(info.configs, broker, config.name).split(",") if part]
    wanted = str(config.value).split(",")
    if config.config_operation == _APPEND:
        return ",".join(parts + [part for part in wanted if part not in parts])
    if config.config_operation == _SUBTRACT:
        return ",".join(part for part in parts if part not in wanted)
    return None


async def handle_alter_configs(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AlterConfigs: what is named is set, all else of the topic goes to its default."""
    responses = []
    for resource in request.resources:
        result = await _replace(resource, request.validate_only, gateway)
        responses.append(
            messages.AlterConfigsResourceResponse(
                error_code=int(result.error),
                error_message=result.message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
        )
    return messages.AlterConfigsResponse(responses=responses)


async def _replace(resource: Any, validate_only: bool, gateway: Gateway) -> AdminResult:
    info = await _alterable(resource, gateway)
    if isinstance(info, AdminResult):
        return info
    refused = check_all((config.name, config.value) for config in resource.configs)
    if refused is not None:
        return _refuse(refused.error, refused.message)
    changes: dict[str, str | None] = dict.fromkeys(info.configs)
    changes.update((config.name, config.value) for config in resource.configs)
    return _of(await settled(gateway.alter_topic_configs(info.name, changes, validate_only)))


async def _alterable(resource: Any, gateway: Gateway) -> TopicInfo | AdminResult:
    """The topic whose settings may be altered, or why not."""
    if resource.resource_type != TOPIC:
        return _refuse(
            KafkaCode.INVALID_REQUEST, "settings of brokers are in config.toml: edit and SIGHUP"
        )
    info = await _find(resource.resource_name, gateway)
    if isinstance(info, TopicInfo) and not info.declared:
        return _refuse(
            KafkaCode.INVALID_REQUEST, "a light topic has no settings: use [[storage.rules]]"
        )
    return info
