"""DescribeLogDirs and AlterReplicaLogDirs (KIP-113, KIP-827): one log directory, the node's data
directory.

Sizes are those of the segment files of declared topics' partitions; light topics share the logs of
their shards and have no files of their own, so none is told of them. Every broker id answers for
the partitions it leads.
"""

from __future__ import annotations

from typing import Any

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import Gateway, LogSize


async def handle_describe_log_dirs(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeLogDirs."""
    if not gateway.authorized(context, Operation.DESCRIBE, Resource.CLUSTER, CLUSTER_NAME):
        return messages.DescribeLogDirsResponse(
            error_code=int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED), results=[]
        )
    sizes = await settled(gateway.log_sizes())
    if isinstance(sizes, BrokerError):
        return messages.DescribeLogDirsResponse(error_code=kafka_code(sizes), results=[])
    directory, total, free = gateway.disk_space()
    described = messages.DescribeLogDirsResult(
        error_code=0,
        log_dir=directory,
        topics=_topics(_asked(request.topics, sizes)),
        total_bytes=total,
        usable_bytes=free,
    )
    return messages.DescribeLogDirsResponse(results=[described])


def _asked(topics: list[Any] | None, sizes: list[LogSize]) -> list[LogSize]:
    if topics is None:
        return sizes
    wanted = {
        (names.from_kafka(asked.topic), partition)
        for asked in topics
        for partition in asked.partitions
    }
    return [row for row in sizes if (row.topic, row.partition) in wanted]


def _topics(sizes: list[LogSize]) -> list[Any]:
    by_topic: dict[str, list[LogSize]] = {}
    for row in sizes:
        name = names.to_kafka(row.topic)
        if name is not None:
            by_topic.setdefault(name, []).append(row)
    return [
        messages.DescribeLogDirsTopic(
            name=name,
            partitions=[
                messages.DescribeLogDirsPartition(
                    partition_index=row.partition, partition_size=row.size, offset_lag=0
                )
                for row in rows
            ],
        )
        for name, rows in by_topic.items()
    ]


async def handle_alter_replica_log_dirs(
    request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    """Answer one AlterReplicaLogDirs: a replica that is to go where it is is there; there is no
    other directory (57)."""
    allowed = gateway.authorized(context, Operation.ALTER, Resource.CLUSTER, CLUSTER_NAME)
    directory, _, _ = gateway.disk_space()
    results: dict[str, list[Any]] = {}
    for asked in request.dirs:
        for topic in asked.topics:
            for partition in topic.partitions:
                if not allowed:
                    code: int = KafkaCode.CLUSTER_AUTHORIZATION_FAILED
                elif asked.path != directory:
                    code = KafkaCode.LOG_DIR_NOT_FOUND
                else:
                    code = await _there(topic.name, partition, gateway)
                results.setdefault(topic.name, []).append(
                    messages.AlterReplicaLogDirPartitionResult(
                        partition_index=partition, error_code=int(code)
                    )
                )
    return messages.AlterReplicaLogDirsResponse(
        results=[
            messages.AlterReplicaLogDirTopicResult(topic_name=name, partitions=rows)
            for name, rows in results.items()
        ]
    )


async def _there(name: str, partition: int, gateway: Gateway) -> int:
    info = await settled(gateway.topic(names.from_kafka(name), False))
    if isinstance(info, BrokerError):
        return kafka_code(info)
    if info is None or not 0 <= partition < len(info.partitions):
        return KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
    return 0


HANDLERS: Handlers = {34: handle_alter_replica_log_dirs, 35: handle_describe_log_dirs}
