"""Metadata and DescribeCluster: who is there, and who leads what (protocol guide; KIP-516 topic
ids).

A null list of topics means all (all declared, and light ones up to `kafka.listed_light_topics`), an
empty one none; in version 0 the empty list means all. A topic asked for by name is made when the
request and the settings allow it. Names that Kafka forbids are 17. Topics that the client may not
describe are left out of all topics, and 29 when they are named.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import (
    NO_OPERATIONS,
    Handlers,
    RequestContext,
    kafka_code,
    legal_name,
    settled,
)
from robustmq.kafka.gateway import Gateway, TopicInfo
from robustmq.kafka.permissions import (
    TOPIC_DENIED,
    bits,
    cluster_bits,
    may_create,
    on_key,
    on_topic,
)
from robustmq.promises import gather, start

AUTO_CREATE_VERSION = 4
BY_ID_VERSION = 12
"""Versions 10 and 11 have a field for the topic id, and may not use it in a request: 42."""
SLICE = 1_000
"""Partitions that are told of between two breaths of the event loop."""
_NO_ID = UUID(int=0)
_BROKERS = 1


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one Metadata."""
    wanted = request.topics
    if wanted and context.api_version < BY_ID_VERSION and any(map(_by_id, wanted)):
        topics = [_failed(topic.name or "", _NO_ID, KafkaCode.INVALID_REQUEST) for topic in wanted]
    elif wanted is None or (context.api_version == 0 and not wanted):
        topics = await _all_topics(request, context, gateway)
    else:
        create = gateway.auto_create and (
            context.api_version < AUTO_CREATE_VERSION or request.allow_auto_topic_creation
        )
        # Asked for all at once: light topics are looked up at their owners.
        asked = [start(_one_topic(topic, create, request, context, gateway)) for topic in wanted]
        topics = await gather(asked)
    return messages.MetadataResponse(
        brokers=[
            messages.MetadataResponseBroker(
                node_id=node.node_id, host=node.host, port=node.port, rack=node.rack
            )
            for node in gateway.nodes(context.connection.listener)
        ],
        cluster_id=gateway.cluster_id,
        controller_id=gateway.controller_id(),
        topics=topics,
        cluster_authorized_operations=cluster_bits(
            context, gateway, request.include_cluster_authorized_operations
        ),
    )


def _by_id(topic: Any) -> bool:
    return topic.name is None or topic.topic_id != _NO_ID


async def _all_topics(request: Any, context: RequestContext, gateway: Gateway) -> list[Any]:
    """Those that the client may see."""
    listed = await gateway.list_topics(gateway.listed_light_topics)
    shown = []
    passed = 0
    for info in listed:
        passed += len(info.partitions) + 1
        if passed > SLICE:
            passed = 0
            await gateway.breathe()
        name = names.to_kafka(info.name)
        if name is not None and on_topic(context, gateway, Operation.DESCRIBE, name):
            shown.append(_topic(name, info, request, context, gateway))
    return shown


async def _one_topic(
    topic: Any, create: bool, request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    if topic.name is None or topic.topic_id != _NO_ID:
        # By id; the Java client then sends an empty name, not none.
        info = await settled(gateway.topic_by_id(topic.topic_id))
        if info is None or isinstance(info, BrokerError):
            code = kafka_code(info) if info else KafkaCode.UNKNOWN_TOPIC_ID
            return _failed(None, topic.topic_id, code)
        if not on_key(context, gateway, Operation.DESCRIBE, info.name):
            return _failed(None, topic.topic_id, TOPIC_DENIED)
        return _topic(names.to_kafka(info.name), info, request, context, gateway)
    if not on_topic(context, gateway, Operation.DESCRIBE, topic.name):
        return _failed(topic.name, _NO_ID, TOPIC_DENIED)
    if not legal_name(topic.name):
        return _failed(topic.name, _NO_ID, KafkaCode.INVALID_TOPIC_EXCEPTION)
    creates = create and may_create(context, gateway, topic.name)
    info = await settled(gateway.topic(names.from_kafka(topic.name), creates))
    if info is None or isinstance(info, BrokerError):
        code = kafka_code(info) if info else KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
        if info is None and create and not creates:
            code = TOPIC_DENIED
        return _failed(topic.name, _NO_ID, code)
    return _topic(topic.name, info, request, context, gateway)


def _failed(name: str | None, topic_id: UUID, code: int) -> Any:
    return messages.MetadataResponseTopic(
        error_code=int(code),
        name=name,
        topic_id=topic_id,
        partitions=[],
        topic_authorized_operations=NO_OPERATIONS,
    )


def _topic(
    name: str | None, info: TopicInfo, request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    asked = request.include_topic_authorized_operations
    operations = bits(context, gateway, asked, Resource.TOPIC, name or "")
    return messages.MetadataResponseTopic(
        error_code=0,
        name=name,
        topic_id=info.topic_id,
        is_internal=info.internal,
        partitions=[
            messages.MetadataResponsePartition(
                error_code=int(KafkaCode.LEADER_NOT_AVAILABLE) if part.leader < 0 else 0,
                partition_index=index,
                leader_id=part.leader,
                leader_epoch=part.leader_epoch,
                replica_nodes=part.replicas,
                isr_nodes=part.replicas,
                offline_replicas=[],
            )
            for index, part in enumerate(info.partitions)
        ],
        topic_authorized_operations=operations,
    )


async def handle_describe_cluster(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeCluster; endpoint type 2 (controllers) is not served by brokers."""
    if context.api_version >= 1 and request.endpoint_type != _BROKERS:
        return messages.DescribeClusterResponse(
            error_code=int(KafkaCode.INVALID_REQUEST),
            error_message="only endpoint type 1 (brokers) is served here",
            endpoint_type=request.endpoint_type,
            cluster_id=gateway.cluster_id,
            brokers=[],
        )
    return messages.DescribeClusterResponse(
        cluster_id=gateway.cluster_id,
        controller_id=gateway.controller_id(),
        brokers=[
            messages.DescribeClusterBroker(
                broker_id=node.node_id, host=node.host, port=node.port, rack=node.rack
            )
            for node in gateway.nodes(context.connection.listener)
        ],
        cluster_authorized_operations=cluster_bits(
            context, gateway, request.include_cluster_authorized_operations
        ),
    )


HANDLERS: Handlers = {
    3: handle,
    60: handle_describe_cluster,
}
