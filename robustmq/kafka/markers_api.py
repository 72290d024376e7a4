"""WriteTxnMarkers and DescribeProducers: transactions as their partitions see them (KIP-98,
KIP-664, KIP-1228).

The coordinator writes markers by itself; these requests are how an operator finds a transaction
that hangs (`kafka-transactions.sh find-hanging`) and ends it (`abort`).
"""

from __future__ import annotations

from typing import Any

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, legal_name, settled
from robustmq.kafka.gateway import Gateway
from robustmq.promises import Promise, resolved


async def write_markers(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one WriteTxnMarkers: all markers are handed out before the first is awaited."""
    allowed = any(
        gateway.authorized(context, operation, Resource.CLUSTER, CLUSTER_NAME)
        for operation in (Operation.ALTER, Operation.CLUSTER_ACTION)
    )
    started = [
        (marker.producer_id, [_started(marker, topic, allowed, gateway) for topic in marker.topics])
        for marker in request.markers
    ]
    answers = []
    for producer_id, topics in started:
        results = []
        for name, promises in topics:
            partitions = [
                messages.WritableTxnMarkerPartitionResult(
                    partition_index=index, error_code=await _code(promise)
                )
                for index, promise in promises
            ]
            results.append(messages.WritableTxnMarkerTopicResult(name=name, partitions=partitions))
        answers.append(messages.WritableTxnMarkerResult(producer_id=producer_id, topics=results))
    return messages.WriteTxnMarkersResponse(markers=answers)


def _started(
    marker: Any, topic: Any, allowed: bool, gateway: Gateway
) -> tuple[str, list[tuple[int, Promise[int]]]]:
    rows: list[tuple[int, Promise[int]]] = []
    for index in topic.partition_indexes:
        if not allowed:
            promise = resolved(int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED))
        elif not legal_name(topic.name):
            promise = resolved(int(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION))
        else:
            promise = gateway.write_marker(
                names.from_kafka(topic.name),
                index,
                marker.producer_id,
                marker.producer_epoch,
                marker.coordinator_epoch,
                marker.transaction_result,
                marker.transaction_version,
            )
        rows.append((index, promise))
    return topic.name, rows


async def _code(promise: Promise[int]) -> int:
    answer = await settled(promise)
    return kafka_code(answer) if isinstance(answer, BrokerError) else answer


async def describe_producers(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeProducers."""
    topics = []
    for topic in request.topics:
        refused = 0
        if not legal_name(topic.name):
            refused = KafkaCode.INVALID_TOPIC_EXCEPTION
        elif not gateway.authorized(context, Operation.READ, Resource.TOPIC, topic.name):
            refused = KafkaCode.TOPIC_AUTHORIZATION_FAILED
        partitions = [
            await _described(topic.name, index, refused, gateway)
            for index in topic.partition_indexes
        ]
        topics.append(messages.TopicResponse(name=topic.name, partitions=partitions))
    return messages.DescribeProducersResponse(topics=topics)


async def _described(name: str, index: int, refused: int, gateway: Gateway) -> Any:
    error, found = int(refused), []
    if not error:
        answer = await settled(gateway.producers(names.from_kafka(name), index))
        if isinstance(answer, BrokerError):
            error = kafka_code(answer)
        else:
            error, found = int(answer[0]), answer[1]
    return messages.PartitionResponse(
        partition_index=index,
        error_code=error,
        active_producers=[
            messages.ProducerState(
                producer_id=one.producer_id,
                producer_epoch=one.producer_epoch,
                last_sequence=one.last_sequence,
                last_timestamp=one.last_timestamp_ms,
                coordinator_epoch=one.coordinator_epoch,
                current_txn_start_offset=one.first_offset,
            )
            for one in found
        ],
    )


HANDLERS: Handlers = {
    27: write_markers,
    61: describe_producers,
}
