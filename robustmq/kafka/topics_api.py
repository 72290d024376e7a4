"""CreateTopics, DeleteTopics and CreatePartitions (protocol guide; KIP-464).

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
from robustmq.kafka.access import Operation
from robustmq.kafka.admin_results import outcome, refuse
from robustmq.kafka.config_resources import FROM_DEFAULT, FROM_TOPIC
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, legal_name, settled
from robustmq.kafka.gateway import AdminResult, Gateway, NewTopic, TopicInfo
from robustmq.kafka.permissions import TOPIC_DENIED, may_create, on_key, on_topic
from robustmq.kafka.throttling import mutates
from robustmq.kafka.topic_configs import TOPIC_SETTINGS, check_all, check_together, effective
from robustmq.promises import Promise, gather, resolved, start

MAX_PARTITIONS = 10_000
TOO_MUCH = "above the quota of changes: wait as long as the answer says"
_BY_ID_VERSION = 6
_NO_ID = UUID(int=0)


async def handle_create_topics(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one CreateTopics; each topic succeeds or fails by itself."""
    times = Counter(topic.name for topic in request.topics)
    begun: dict[str, str] = {}
    made: list[Promise[AdminResult]] = []
    for topic in request.topics:
        # One that is made by this request is not declared yet when the next one is checked.
        alike = begun.setdefault(topic.name.replace(".", "_"), topic.name)
        if times[topic.name] > 1:
            refused = refuse(KafkaCode.INVALID_REQUEST, "named twice in this request")
            made.append(resolved(refused))
        elif alike != topic.name:
            made.append(resolved(_collision(topic.name, alike)))
        else:
            # All at once, so that they share one commit of the cluster's state.
            made.append(start(_create_topic(topic, request, context, gateway)))
    answers = [
        _created(topic.name, result, context, gateway)
        for topic, result in zip(request.topics, await gather(made), strict=True)
    ]
    return messages.CreateTopicsResponse(topics=answers)


async def _create_topic(
    topic: Any, request: Any, context: RequestContext, gateway: Gateway
) -> AdminResult:
    if not may_create(context, gateway, topic.name):
        return AdminResult(TOPIC_DENIED)
    refused = _check_shape(topic, gateway) or _check_name(topic.name, gateway)
    if refused is not None:
        return refused
    bad = check_all((config.name, config.value) for config in topic.configs)
    if bad is None:
        bad = check_together(
            {config.name: config.value for config in topic.configs},
            gateway.defaults_of(names.from_kafka(topic.name)),
        )
    if bad is not None:
        return refuse(bad.error, bad.message)
    partitions = len(topic.assignments) or topic.num_partitions
    if partitions == -1:
        partitions = gateway.default_partitions
    configs = {config.name: config.value for config in topic.configs}
    if not request.validate_only and _is_too_much(partitions, 6, context, gateway):
        return refuse(KafkaCode.THROTTLING_QUOTA_EXCEEDED, TOO_MUCH)
    wanted = NewTopic(names.from_kafka(topic.name), partitions, configs)
    return outcome(
        await settled(gateway.create_topic(wanted, request.validate_only, request.timeout_ms))
    )


def _check_shape(topic: Any, gateway: Gateway) -> AdminResult | None:
    """Partitions, replication and assignments."""
    if topic.assignments:
        if topic.num_partitions != -1 or topic.replication_factor != -1:
            return refuse(
                KafkaCode.INVALID_REQUEST,
                "with assignments, partitions and replication factor must be -1",
            )
        brokers = {node.node_id for node in gateway.nodes()}
        indexes = sorted(entry.partition_index for entry in topic.assignments)
        if indexes != list(range(len(indexes))) or not all(
            _one_live(entry.broker_ids, brokers) for entry in topic.assignments
        ):
            return refuse(
                KafkaCode.INVALID_REPLICA_ASSIGNMENT,
                "partitions must be 0, 1, 2, ... with one live broker each",
            )
        return None
    if topic.num_partitions != -1 and not 1 <= topic.num_partitions <= MAX_PARTITIONS:
        return refuse(
            KafkaCode.INVALID_PARTITIONS, f"partitions must be 1 to {MAX_PARTITIONS}, or -1"
        )
    if topic.replication_factor not in (-1, 1):
        return refuse(KafkaCode.INVALID_REPLICATION_FACTOR, "there is one replica: say 1, or -1")
    return None


def _one_live(broker_ids: list[int], brokers: set[int]) -> bool:
    return len(broker_ids) == 1 and broker_ids[0] in brokers


def _check_name(name: str, gateway: Gateway) -> AdminResult | None:
    """Kafka's alphabet, and its rule that `a.b` and `a_b` are not both declared."""
    if not legal_name(name):
        return refuse(KafkaCode.INVALID_TOPIC_EXCEPTION, f"illegal topic name {name!r}")
    other = gateway.alike(name)
    return None if other is None else _collision(name, other)


def _collision(name: str, other: str) -> AdminResult:
    return refuse(
        KafkaCode.INVALID_TOPIC_EXCEPTION,
        f"{name} collides with {other}: they differ only in . and _",
    )


def _created(name: str, result: AdminResult, context: RequestContext, gateway: Gateway) -> Any:
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
    if not on_topic(context, gateway, Operation.DESCRIBE_CONFIGS, name):
        # It is made, and what it is like is not told.
        return messages.CreatableTopicResult(
            name=name,
            topic_id=info.topic_id,
            error_code=0,
            error_message=None,
            topic_config_error_code=TOPIC_DENIED,
            num_partitions=-1,
            replication_factor=-1,
            configs=None,
        )
    broker = gateway.defaults_of(info.name)
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
                value=effective(info.configs, broker, setting),
                read_only=False,
                config_source=FROM_TOPIC if setting in info.configs else FROM_DEFAULT,
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
        answers.append(await _delete_topic(name, topic_id, request.timeout_ms, context, gateway))
    return messages.DeleteTopicsResponse(responses=answers)


async def _delete_topic(
    name: str | None, topic_id: UUID, timeout_ms: int, context: RequestContext, gateway: Gateway
) -> Any:
    info: TopicInfo | BrokerError | None
    if name is not None and not on_topic(context, gateway, Operation.DELETE, name):
        return _not_deleted(name, _NO_ID)
    if name is None:
        info = await settled(gateway.topic_by_id(topic_id))
    else:
        info = await settled(gateway.topic(names.from_kafka(name), False))
    if isinstance(info, BrokerError):
        result = refuse(kafka_code(info), str(info))
    elif info is None:
        unknown = KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
        if name is None:
            unknown = KafkaCode.UNKNOWN_TOPIC_ID
        result = refuse(unknown, "no such topic")
    elif not on_key(context, gateway, Operation.DELETE, info.name):
        seen = on_key(context, gateway, Operation.DESCRIBE, info.name)
        return _not_deleted(names.to_kafka(info.name) if seen else None, topic_id)
    elif _is_too_much(len(info.partitions), 5, context, gateway):
        result = refuse(KafkaCode.THROTTLING_QUOTA_EXCEEDED, TOO_MUCH)
    else:
        name = name or names.to_kafka(info.name)
        topic_id = info.topic_id
        result = outcome(await settled(gateway.delete_topic(info.name, timeout_ms)))
    return messages.DeletableTopicResult(
        name=name,
        topic_id=topic_id,
        error_code=int(result.error),
        error_message=result.message,
    )


def _not_deleted(name: str | None, topic_id: UUID) -> Any:
    return messages.DeletableTopicResult(
        name=name, topic_id=topic_id, error_code=TOPIC_DENIED, error_message=None
    )


async def handle_create_partitions(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one CreatePartitions."""
    times = Counter(topic.name for topic in request.topics)
    results = []
    for topic in request.topics:
        if times[topic.name] > 1:
            result = refuse(KafkaCode.INVALID_REQUEST, "named twice in this request")
        elif not on_topic(context, gateway, Operation.ALTER, topic.name):
            result = AdminResult(TOPIC_DENIED)
        else:
            result = await _grow(topic, request, context, gateway)
        results.append(
            messages.CreatePartitionsTopicResult(
                name=topic.name, error_code=int(result.error), error_message=result.message
            )
        )
    return messages.CreatePartitionsResponse(results=results)


def _is_too_much(
    partitions: int, strict_from: int, context: RequestContext, gateway: Gateway
) -> bool:
    """Is the client above its quota of changes? Older versions are not refused, they wait."""
    strict = context.api_version >= strict_from
    limiter = gateway.access.limiter
    return not mutates(context, limiter, partitions, gateway.now_ms(), strict)


async def _grow(topic: Any, request: Any, context: RequestContext, gateway: Gateway) -> AdminResult:
    if not legal_name(topic.name):
        return refuse(KafkaCode.INVALID_TOPIC_EXCEPTION, f"illegal topic name {topic.name!r}")
    key = names.from_kafka(topic.name)
    info = await settled(gateway.topic(key, False))
    if isinstance(info, BrokerError):
        return refuse(kafka_code(info), str(info))
    if info is None:
        return refuse(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "no such topic")
    now = len(info.partitions)
    if not now < topic.count <= MAX_PARTITIONS:
        return refuse(
            KafkaCode.INVALID_PARTITIONS,
            f"the topic has {now} partitions; the new count must be above, up to {MAX_PARTITIONS}",
        )
    if not info.declared:
        return refuse(KafkaCode.INVALID_PARTITIONS, "a light topic has one partition")
    if topic.assignments is not None:
        brokers = {node.node_id for node in gateway.nodes()}
        fits = len(topic.assignments) == topic.count - now and all(
            _one_live(entry.broker_ids, brokers) for entry in topic.assignments
        )
        if not fits:
            return refuse(
                KafkaCode.INVALID_REPLICA_ASSIGNMENT, "one live broker for each new partition"
            )
    if not request.validate_only and _is_too_much(topic.count - now, 3, context, gateway):
        return refuse(KafkaCode.THROTTLING_QUOTA_EXCEEDED, TOO_MUCH)
    growth = gateway.create_partitions(key, topic.count, request.validate_only, request.timeout_ms)
    return outcome(await settled(growth))


HANDLERS: Handlers = {
    19: handle_create_topics,
    20: handle_delete_topics,
    37: handle_create_partitions,
}
