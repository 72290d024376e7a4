"""TxnOffsetCommit: offsets of a group that count when a producer's transaction is committed
(KIP-98; KIP-447 who may commit for a group, KIP-890 the group joins the transaction by it).

The coordinator of the transactional id is asked before anything is stored: from version 5 on the
group becomes part of the transaction, before that AddOffsetsToTxn must have made it one.
"""

from __future__ import annotations

from typing import Any

from robustmq.errors import KafkaCode
from robustmq.kafka import group_events, messages
from robustmq.kafka import transaction_events as events
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext
from robustmq.kafka.coordinating import PATIENCE_MS, ask
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.group_offsets import find_topic, refused
from robustmq.kafka.groups_api import ask as ask_group
from robustmq.promises import gather, start

_ADDS_VERSION = 5
_ABORTABLE_VERSION = 4


async def handle_commit(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one TxnOffsetCommit."""
    errors: dict[tuple[int, int], int] = {}
    offsets: list[group_events.OffsetToCommit] = []
    places: list[tuple[int, int]] = []
    everything = _refuse(request, context, gateway)
    looked_up = await gather([start(find_topic(topic, False, gateway)) for topic in request.topics])
    for number, (topic, known) in enumerate(zip(request.topics, looked_up, strict=True)):
        allowed = gateway.authorized(context, Operation.READ, Resource.TOPIC, topic.name)
        for part in topic.partitions:
            code = everything or refused(known, part.partition_index)
            if not everything and not allowed:
                code = int(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
            errors[number, part.partition_index] = int(code)
            if not code:
                assert known.key is not None, "by name there is a key"
                offsets.append(
                    group_events.OffsetToCommit(
                        known.key,
                        part.partition_index,
                        part.committed_offset,
                        part.committed_leader_epoch,
                        part.committed_metadata or "",
                    )
                )
                places.append((number, part.partition_index))
    if offsets:
        answers = await _commit(request, context, gateway, offsets)
        errors.update(zip(places, answers, strict=True))
    return messages.TxnOffsetCommitResponse(
        topics=[
            messages.TxnOffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    messages.TxnOffsetCommitResponsePartition(
                        partition_index=part.partition_index,
                        error_code=errors[number, part.partition_index],
                    )
                    for part in topic.partitions
                ],
            )
            for number, topic in enumerate(request.topics)
        ]
    )


def _refuse(request: Any, context: RequestContext, gateway: Gateway) -> int:
    """The error code that stands for all offsets before any is looked at, or 0."""
    transactional_id, group_id = request.transactional_id, request.group_id
    if not gateway.authorized(
        context, Operation.WRITE, Resource.TRANSACTIONAL_ID, transactional_id
    ):
        return KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    if not gateway.authorized(context, Operation.READ, Resource.GROUP, group_id):
        return KafkaCode.GROUP_AUTHORIZATION_FAILED
    return KafkaCode.NONE if group_id else KafkaCode.INVALID_GROUP_ID


async def _commit(
    request: Any,
    context: RequestContext,
    gateway: Gateway,
    offsets: list[group_events.OffsetToCommit],
) -> list[int]:
    """An error code for each offset: first the transaction is asked, then the group."""
    code = await _enter(request, context, gateway)
    if code:
        return [code] * len(offsets)
    event = group_events.CommitOffsets(
        request.member_id,
        request.group_instance_id,
        request.generation_id,
        offsets,
        gateway.timestamp_ms(),
        request.producer_id,
        request.producer_epoch,
    )
    reply = await ask_group(gateway, request.group_id, event, group_events.CommitReply)
    if isinstance(reply, int):
        return [reply] * len(offsets)
    return [int(code) for code in reply.errors]


async def _enter(request: Any, context: RequestContext, gateway: Gateway) -> int:
    """Is the group part of the open transaction? From version 5 on it becomes one."""
    version = context.api_version
    event = events.AddPartitions(
        request.producer_id,
        request.producer_epoch,
        gateway.timestamp_ms(),
        [],
        [request.group_id],
        verify_only=version < _ADDS_VERSION,
        wait_ms=PATIENCE_MS,
    )
    reply = await ask(gateway, request.transactional_id, event, events.PartitionsReply)
    code = reply if isinstance(reply, int) else int(reply.error or reply.errors[0])
    if code == KafkaCode.PRODUCER_FENCED:
        return int(KafkaCode.INVALID_PRODUCER_EPOCH)
    if code == KafkaCode.TRANSACTION_ABORTABLE and version < _ABORTABLE_VERSION:
        return int(KafkaCode.INVALID_TXN_STATE)
    if code == KafkaCode.CONCURRENT_TRANSACTIONS and version < _ADDS_VERSION:
        return int(KafkaCode.COORDINATOR_NOT_AVAILABLE)
    return code


HANDLERS: Handlers = {
    28: handle_commit,
}
