"""ListOffsets and OffsetForLeaderEpoch: where a partition begins and ends, where a time is in it,
and where a leader epoch ended (protocol guide; KIP-320).

The special times -3, -4, -5 and -6 came with versions 7, 8, 9 and 11; asked for in an older version
they are 35.
"""

from __future__ import annotations

from typing import Any

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import (
    EARLIEST_LOCAL_TIMESTAMP,
    EARLIEST_PENDING_UPLOAD_TIMESTAMP,
    LATEST_TIERED_TIMESTAMP,
    MAX_TIMESTAMP,
    EpochEnd,
    Gateway,
    ListedOffset,
)
from robustmq.kafka.permissions import on_topic
from robustmq.promises import Promise, resolved

_SINCE = {
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL_TIMESTAMP: 8,
    LATEST_TIERED_TIMESTAMP: 9,
    EARLIEST_PENDING_UPLOAD_TIMESTAMP: 11,
}


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ListOffsets; all partitions are asked before the first answer is awaited."""
    seen: set[tuple[str, int]] = set()
    started: list[tuple[str, list[tuple[int, Promise[ListedOffset]]]]] = []
    for topic in request.topics:
        promises = []
        for part in topic.partitions:
            key = (topic.name, part.partition_index)
            if key in seen:
                promise = resolved(ListedOffset(error=KafkaCode.INVALID_REQUEST))
            else:
                promise = _start(topic.name, part, request.isolation_level, context, gateway)
            seen.add(key)
            promises.append((part.partition_index, promise))
        started.append((topic.name, promises))
    topics = [
        messages.ListOffsetsTopicResponse(
            name=name, partitions=[await _answer(index, promise) for index, promise in promises]
        )
        for name, promises in started
    ]
    return messages.ListOffsetsResponse(topics=topics)


def _start(
    name: str, part: Any, isolation: int, context: RequestContext, gateway: Gateway
) -> Promise[ListedOffset]:
    timestamp_ms = part.timestamp
    oldest = _SINCE.get(timestamp_ms, 0)
    if context.api_version < oldest or timestamp_ms < EARLIEST_PENDING_UPLOAD_TIMESTAMP:
        return resolved(ListedOffset(error=KafkaCode.UNSUPPORTED_VERSION))
    if not on_topic(context, gateway, Operation.DESCRIBE, name):
        return resolved(ListedOffset(error=KafkaCode.TOPIC_AUTHORIZATION_FAILED))
    return gateway.list_offset(
        names.from_kafka(name),
        part.partition_index,
        timestamp_ms,
        isolation,
        part.current_leader_epoch,
    )


async def _answer(index: int, promise: Promise[ListedOffset]) -> Any:
    found = await settled(promise)
    if isinstance(found, BrokerError):
        found = ListedOffset(error=kafka_code(found))
    return messages.ListOffsetsPartitionResponse(
        partition_index=index,
        error_code=int(found.error),
        timestamp=found.timestamp_ms,
        offset=found.offset,
        leader_epoch=found.leader_epoch,
    )


async def handle_epochs(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetForLeaderEpoch."""
    topics = []
    for topic in request.topics:
        key = names.from_kafka(topic.topic)
        allowed = on_topic(context, gateway, Operation.DESCRIBE, topic.topic)
        partitions = []
        for part in topic.partitions:
            asked = resolved(EpochEnd(error=KafkaCode.TOPIC_AUTHORIZATION_FAILED))
            if allowed:
                asked = gateway.epoch_end(
                    key, part.partition, part.leader_epoch, part.current_leader_epoch
                )
            found = await settled(asked)
            if isinstance(found, BrokerError):
                found = EpochEnd(error=kafka_code(found))
            partitions.append(
                messages.EpochEndOffset(
                    error_code=int(found.error),
                    partition=part.partition,
                    leader_epoch=found.leader_epoch,
                    end_offset=found.end_offset,
                )
            )
        topics.append(messages.OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions))
    return messages.OffsetForLeaderEpochResponse(topics=topics)


HANDLERS: Handlers = {
    2: handle,
    23: handle_epochs,
}
