"""DeleteRecords (KIP-107): a partition begins at a later offset, also that of a light topic.

What is deleted stays deleted: an answer without an error comes when that is on disk. Records go
with the whole segments that lie below; until then nobody can read them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, legal_name, settled
from robustmq.kafka.gateway import DeletedRecords, Gateway
from robustmq.promises import Promise, gather, resolved, start


async def handle_delete_records(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DeleteRecords; each partition succeeds or fails by itself."""
    asked = [(topic.name, one) for topic in request.topics for one in topic.partitions]
    times = Counter((name, one.partition_index) for name, one in asked)
    rows: list[Promise[DeletedRecords]] = []
    for name, one in asked:
        code = _refused(name, context, gateway)
        if not code and times[name, one.partition_index] > 1:
            code = KafkaCode.INVALID_REQUEST
        if code:
            rows.append(resolved(DeletedRecords(int(code))))
        else:
            rows.append(start(_delete(name, one.partition_index, one.offset, gateway)))
    results = iter(await gather(rows))
    return messages.DeleteRecordsResponse(
        topics=[
            messages.DeleteRecordsTopicResult(
                name=topic.name,
                partitions=[_row(one.partition_index, next(results)) for one in topic.partitions],
            )
            for topic in request.topics
        ]
    )


def _refused(name: str, context: RequestContext, gateway: Gateway) -> int:
    if not gateway.authorized(context, Operation.DELETE, Resource.TOPIC, name):
        return KafkaCode.TOPIC_AUTHORIZATION_FAILED
    return 0 if legal_name(name) else KafkaCode.INVALID_TOPIC_EXCEPTION


async def _delete(name: str, partition: int, offset: int, gateway: Gateway) -> DeletedRecords:
    key = names.from_kafka(name)
    info = await settled(gateway.topic(key, False))
    if isinstance(info, BrokerError):
        return DeletedRecords(kafka_code(info))
    if info is None or not 0 <= partition < len(info.partitions):
        return DeletedRecords(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
    if info.declared and info.configs.get("cleanup.policy", "delete") == "compact":
        return DeletedRecords(KafkaCode.POLICY_VIOLATION)
    result = await settled(gateway.delete_records(key, partition, offset))
    return DeletedRecords(kafka_code(result)) if isinstance(result, BrokerError) else result


def _row(partition: int, result: DeletedRecords) -> Any:
    return messages.DeleteRecordsPartitionResult(
        partition_index=partition,
        low_watermark=result.low_watermark,
        error_code=int(result.error),
    )


HANDLERS: Handlers = {21: handle_delete_records}
