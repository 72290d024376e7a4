"""DescribeTopicPartitions, ElectLeaders and reassignments (KIP-966, KIP-460, KIP-455), as a node
with one replica of everything answers them.

A partition lives where its topic's name and number put it, and its one replica leads it. So the
preferred leader leads already (84), an unclean election has nobody else to elect (84), a
reassignment to the broker that has it is done at once, to any other it is refused (39), and none is
ever under way (85).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.context import (
    NO_OPERATIONS,
    Handlers,
    RequestContext,
    kafka_code,
    legal_name,
    settled,
)
from robustmq.kafka.gateway import Gateway, TopicInfo
from robustmq.kafka.permissions import bits

MAX_DESCRIBED_PARTITIONS = 2000
"""Kafka's max.request.partition.size.limit."""
PREFERRED, UNCLEAN = 0, 1


# DescribeTopicPartitions


async def handle_describe_topic_partitions(
    request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    """Answer one DescribeTopicPartitions: topics by name, so many partitions a page, and where the
    next page begins."""
    asked = sorted({topic.name for topic in request.topics})
    everything = not asked
    first = 0
    if request.cursor is not None and request.cursor.partition_index < 0:
        refused = [_unknown(name, KafkaCode.INVALID_REQUEST) for name in asked]
        return messages.DescribeTopicPartitionsResponse(topics=refused, next_cursor=None)
    if everything:
        listed = await settled(gateway.list_topics(gateway.listed_light_topics))
        found = [] if isinstance(listed, BrokerError) else listed
        asked = sorted(name for name in (names.to_kafka(info.name) for info in found) if name)
    if request.cursor is not None:
        first = request.cursor.partition_index
        asked = asked[bisect_left(asked, request.cursor.topic_name) :]
        if not asked or asked[0] != request.cursor.topic_name:
            first = 0
    left = max(1, min(request.response_partition_limit, MAX_DESCRIBED_PARTITIONS))
    topics: list[Any] = []
    for name in asked:
        if left <= 0:
            return messages.DescribeTopicPartitionsResponse(
                topics=topics, next_cursor=_cursor(name, 0)
            )
        info = await _visible(name, context, gateway)
        if not isinstance(info, TopicInfo):
            if not everything:
                topics.append(_unknown(name, info))
            continue
        end = min(len(info.partitions), first + left)
        topics.append(_described(name, info, range(first, end), context, gateway))
        left -= max(0, end - first)
        if end < len(info.partitions):
            return messages.DescribeTopicPartitionsResponse(
                topics=topics, next_cursor=_cursor(name, end)
            )
        first = 0
    return messages.DescribeTopicPartitionsResponse(topics=topics, next_cursor=None)


def _cursor(name: str, partition: int) -> Any:
    return messages.Cursor(topic_name=name, partition_index=partition)


async def _visible(name: str, context: RequestContext, gateway: Gateway) -> TopicInfo | int:
    """The topic, or the code why it is not described."""
    if not legal_name(name):
        return KafkaCode.INVALID_TOPIC_EXCEPTION
    if not gateway.authorized(context, Operation.DESCRIBE, Resource.TOPIC, name):
        return KafkaCode.TOPIC_AUTHORIZATION_FAILED
    info = await settled(gateway.topic(names.from_kafka(name), False))
    if isinstance(info, BrokerError):
        return kafka_code(info)
    return KafkaCode.UNKNOWN_TOPIC_OR_PARTITION if info is None else info


def _unknown(name: str, code: int) -> Any:
    return messages.DescribeTopicPartitionsResponseTopic(
        error_code=int(code), name=name, partitions=[], topic_authorized_operations=NO_OPERATIONS
    )


def _described(
    name: str, info: TopicInfo, partitions: range, context: RequestContext, gateway: Gateway
) -> Any:
    rows = []
    for number in partitions:
        leader = info.partitions[number]
        replicas = leader.replicas
        rows.append(
            messages.DescribeTopicPartitionsResponsePartition(
                error_code=0 if replicas else int(KafkaCode.LEADER_NOT_AVAILABLE),
                partition_index=number,
                leader_id=leader.leader,
                leader_epoch=leader.leader_epoch,
                replica_nodes=replicas,
                isr_nodes=replicas,
                eligible_leader_replicas=[],
                last_known_elr=[],
                offline_replicas=[],
            )
        )
    return messages.DescribeTopicPartitionsResponseTopic(
        error_code=0,
        name=name,
        topic_id=info.topic_id,
        is_internal=info.internal,
        partitions=rows,
        topic_authorized_operations=bits(context, gateway, True, Resource.TOPIC, name),
    )


# ElectLeaders


async def handle_elect_leaders(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ElectLeaders: whoever can lead leads already."""
    if not gateway.authorized(context, Operation.ALTER, Resource.CLUSTER, CLUSTER_NAME):
        code = KafkaCode.CLUSTER_AUTHORIZATION_FAILED
        return messages.ElectLeadersResponse(error_code=int(code), replica_election_results=[])
    if request.election_type not in (PREFERRED, UNCLEAN):
        return messages.ElectLeadersResponse(
            error_code=int(KafkaCode.INVALID_REQUEST), replica_election_results=[]
        )
    results = []
    # Null asks for all partitions, of which only those are told that were elected: none.
    for asked in request.topic_partitions or []:
        info = await settled(gateway.topic(names.from_kafka(asked.topic), False))
        rows = [_election(partition, info) for partition in asked.partitions]
        results.append(messages.ReplicaElectionResult(topic=asked.topic, partition_result=rows))
    return messages.ElectLeadersResponse(error_code=0, replica_election_results=results)


def _election(partition: int, info: TopicInfo | BrokerError | None) -> Any:
    code: int = KafkaCode.ELECTION_NOT_NEEDED
    message = "the one replica leads already"
    if isinstance(info, BrokerError):
        code, message = kafka_code(info), str(info)
    elif info is None or not 0 <= partition < len(info.partitions):
        code, message = KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "no such partition"
    elif info.partitions[partition].leader < 0:
        code, message = KafkaCode.PREFERRED_LEADER_NOT_AVAILABLE, "its broker is starting again"
    return messages.PartitionResult(
        partition_id=partition, error_code=int(code), error_message=message
    )


# Reassignments


async def handle_alter_reassignments(
    request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    """Answer one AlterPartitionReassignments."""
    if not gateway.authorized(context, Operation.ALTER, Resource.CLUSTER, CLUSTER_NAME):
        return messages.AlterPartitionReassignmentsResponse(
            error_code=int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED), responses=[]
        )
    responses = []
    for topic in request.topics:
        info = await settled(gateway.topic(names.from_kafka(topic.name), False))
        rows = []
        for asked in topic.partitions:
            code, message = _reassigned(asked, info, gateway)
            rows.append(
                messages.ReassignablePartitionResponse(
                    partition_index=asked.partition_index,
                    error_code=int(code),
                    error_message=message,
                )
            )
        responses.append(messages.ReassignableTopicResponse(name=topic.name, partitions=rows))
    return messages.AlterPartitionReassignmentsResponse(
        error_code=0,
        error_message=None,
        allow_replication_factor_change=request.allow_replication_factor_change,
        responses=responses,
    )


def _reassigned(
    asked: Any, info: TopicInfo | BrokerError | None, gateway: Gateway
) -> tuple[int, str | None]:
    if isinstance(info, BrokerError):
        return kafka_code(info), str(info)
    if info is None or not 0 <= asked.partition_index < len(info.partitions):
        return KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, "no such partition"
    if asked.replicas is None:
        return KafkaCode.NO_REASSIGNMENT_IN_PROGRESS, "no partition is being moved"
    if asked.replicas == [info.partitions[asked.partition_index].leader]:
        return 0, None
    known = {node.node_id for node in gateway.nodes()}
    if len(asked.replicas) != 1 and known.issuperset(asked.replicas) and asked.replicas:
        return KafkaCode.INVALID_REPLICATION_FACTOR, "there is one replica of a partition"
    return (
        KafkaCode.INVALID_REPLICA_ASSIGNMENT,
        "a partition stays with the broker that its name and number lead to",
    )


async def handle_list_reassignments(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ListPartitionReassignments: there are none."""
    if not gateway.authorized(context, Operation.DESCRIBE, Resource.CLUSTER, CLUSTER_NAME):
        return messages.ListPartitionReassignmentsResponse(
            error_code=int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED), topics=[]
        )
    return messages.ListPartitionReassignmentsResponse(error_code=0, error_message=None, topics=[])


HANDLERS: Handlers = {
    43: handle_elect_leaders,
    45: handle_alter_reassignments,
    46: handle_list_reassignments,
    75: handle_describe_topic_partitions,
}
