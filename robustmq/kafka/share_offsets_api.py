"""The offsets of share groups: DescribeShareGroupOffsets, AlterShareGroupOffsets,
DeleteShareGroupOffsets (KIP-932; the lag is KIP-1226's).

The group's coordinator knows which topics the group has state of, and that it is empty; the state
itself is with the logs of the partitions and is asked of their owners. What changes it carries the
group's epoch, so that an older change that comes late is fenced.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka import share_events as events
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import LATEST_TIMESTAMP, SHARE_PARTITION, Gateway, TopicInfo
from robustmq.kafka.permissions import on_topic
from robustmq.kafka.share_events import (
    DeleteState,
    InitializeState,
    ShareDescription,
    ShareGroupResult,
    ShareKey,
    StateReply,
    TopicShape,
)
from robustmq.kafka.share_groups_api import ask, is_consumer_group

_NO_OFFSET = -1


class _Row(msgspec.Struct):
    """One partition of an answer."""

    partition: int
    error: int = 0
    start_offset: int = _NO_OFFSET
    leader_epoch: int = 0
    lag: int = -1


# DescribeShareGroupOffsets


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeShareGroupOffsets."""
    groups = []
    for asked in request.groups:
        described = messages.DescribeShareGroupOffsetsResponseGroup(
            group_id=asked.group_id, topics=[], error_code=0
        )
        await _describe_group(asked, described, context, gateway)
        groups.append(described)
    return messages.DescribeShareGroupOffsetsResponse(groups=groups)


async def _describe_group(
    asked: Any, described: Any, context: RequestContext, gateway: Gateway
) -> None:
    if not gateway.authorized(context, Operation.DESCRIBE, Resource.GROUP, asked.group_id):
        described.error_code = int(KafkaCode.GROUP_AUTHORIZATION_FAILED)
        return
    group = await ask(gateway, asked.group_id, events.DescribeShareGroup(), ShareDescription)
    if isinstance(group, int):
        described.error_code = group
        return
    # As in Apache Kafka, a group that is not there has no offsets, and that is no error.
    known = {topic.name: topic for topic in group.topics}
    if asked.topics is None:
        wanted = [(names.to_kafka(one) or "", None) for one in sorted(known)]
    else:
        wanted = [(topic.topic_name, topic.partitions) for topic in asked.topics]
    for name, partitions in wanted:
        allowed = gateway.authorized(context, Operation.DESCRIBE, Resource.TOPIC, name)
        if not allowed and asked.topics is None:
            continue
        shape = known.get(names.from_kafka(name))
        numbers = partitions
        if numbers is None:
            numbers = list(range(shape.partitions)) if shape is not None else []
        if not allowed:
            code = int(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
            rows = [_Row(number, code) for number in numbers]
        else:
            rows = [await _look_at(asked.group_id, shape, one, gateway) for one in numbers]
        described.topics.append(_described_topic(name, shape, rows))


async def _look_at(
    group_id: str, shape: TopicShape | None, partition: int, gateway: Gateway
) -> _Row:
    """How far a group has come with a partition; -1 where it never was."""
    if shape is None or not 0 <= partition < shape.partitions:
        return _Row(partition)
    key = ShareKey(group_id, shape.name, UUID(bytes=shape.topic_id), partition)
    asked = gateway.machine(SHARE_PARTITION, key.text(), events.DescribeState())
    listing = gateway.list_offset(shape.name, partition, LATEST_TIMESTAMP, 0, -1)
    state, end = await settled(asked), await settled(listing)
    for found in (state, end):
        if isinstance(found, BrokerError):
            return _Row(partition, kafka_code(found))
    assert isinstance(state, StateReply), "a share-partition describes itself"
    assert not isinstance(end, BrokerError), "looked at above"
    if end.error:
        return _Row(partition, end.error)
    if state.start_offset < 0:
        return _Row(partition, 0, _NO_OFFSET, max(end.leader_epoch, 0))
    lag = max(end.offset - state.start_offset - state.delivery_complete, 0)
    return _Row(partition, 0, state.start_offset, max(end.leader_epoch, 0), lag)


def _described_topic(name: str, shape: TopicShape | None, rows: list[_Row]) -> Any:
    return messages.DescribeShareGroupOffsetsResponseTopic(
        topic_name=name,
        topic_id=UUID(bytes=shape.topic_id) if shape is not None else UUID(int=0),
        partitions=[
            messages.DescribeShareGroupOffsetsResponsePartition(
                partition_index=row.partition,
                start_offset=row.start_offset,
                leader_epoch=row.leader_epoch,
                lag=row.lag,
                error_code=int(row.error),
            )
            for row in rows
        ],
    )


# AlterShareGroupOffsets


async def handle_alter(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AlterShareGroupOffsets."""
    error = _refused(request, Operation.READ, context, gateway)
    found: dict[str, TopicInfo | int] = {}
    epoch = 0
    if not error and await is_consumer_group(request.group_id, gateway):
        error = KafkaCode.GROUP_ID_NOT_FOUND
    allowed = not error and _some_allowed(request, context, gateway)
    if not error:
        for topic in request.topics:
            found[topic.topic_name] = await _find(topic.topic_name, context, gateway)
    if allowed:
        shapes = [_shape(info) for info in found.values() if isinstance(info, TopicInfo)]
        changed = await ask(
            gateway, request.group_id, events.TouchShareTopics(shapes), ShareGroupResult
        )
        error = changed if isinstance(changed, int) else changed.error
        epoch = 0 if isinstance(changed, int) else changed.group_epoch
    if error:
        return messages.AlterShareGroupOffsetsResponse(
            error_code=int(error), error_message=_group_message(error, request), responses=[]
        )
    responses = []
    for topic in request.topics:
        info = found[topic.topic_name]
        rows = [await _set(request.group_id, info, one, epoch, gateway) for one in topic.partitions]
        responses.append(
            messages.AlterShareGroupOffsetsResponseTopic(
                topic_name=topic.topic_name,
                topic_id=info.topic_id if isinstance(info, TopicInfo) else UUID(int=0),
                partitions=[
                    messages.AlterShareGroupOffsetsResponsePartition(
                        partition_index=row.partition, error_code=int(row.error)
                    )
                    for row in rows
                ],
            )
        )
    return messages.AlterShareGroupOffsetsResponse(error_code=0, responses=responses)


async def _set(
    group_id: str, info: TopicInfo | int, asked: Any, epoch: int, gateway: Gateway
) -> _Row:
    """Set the start of one share-partition."""
    number = asked.partition_index
    if isinstance(info, int):
        return _Row(number, info)
    if not 0 <= number < len(info.partitions):
        return _Row(number, KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
    if asked.start_offset < 0:
        return _Row(number, KafkaCode.INVALID_REQUEST)
    key = ShareKey(group_id, info.name, info.topic_id, number)
    event = InitializeState(epoch, asked.start_offset)
    outcome = await settled(gateway.share.tell(key, event))
    return _Row(number, kafka_code(outcome) if isinstance(outcome, BrokerError) else outcome)


# DeleteShareGroupOffsets


async def handle_delete(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DeleteShareGroupOffsets."""
    error = _refused(request, Operation.DELETE, context, gateway)
    group: ShareDescription | int = ShareDescription()
    if not error and _some_allowed(request, context, gateway):
        group = await ask(gateway, request.group_id, events.DescribeShareGroup(), ShareDescription)
        error = group if isinstance(group, int) else _refuse_change(group)
    if error or isinstance(group, int):
        return messages.DeleteShareGroupOffsetsResponse(
            error_code=int(error), error_message=_group_message(error, request), responses=[]
        )
    known = {topic.name: topic for topic in group.topics}
    responses, gone = [], []
    for topic in request.topics:
        key = names.from_kafka(topic.topic_name)
        shape = known.get(key)
        code: int = KafkaCode.NONE
        if not gateway.authorized(context, Operation.READ, Resource.TOPIC, topic.topic_name):
            code = KafkaCode.TOPIC_AUTHORIZATION_FAILED
        elif shape is None:
            code = KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
        else:
            code = await delete_states(request.group_id, [shape], gateway)
        if not code:
            gone.append(key)
        responses.append(
            messages.DeleteShareGroupOffsetsResponseTopic(
                topic_name=topic.topic_name,
                topic_id=UUID(bytes=shape.topic_id) if shape is not None else UUID(int=0),
                error_code=int(code),
            )
        )
    if gone:
        forgotten = events.ForgetShareTopics(gone)
        await ask(gateway, request.group_id, forgotten, ShareGroupResult)
    return messages.DeleteShareGroupOffsetsResponse(error_code=0, responses=responses)


async def delete_states(group_id: str, topics: list[TopicShape], gateway: Gateway) -> int:
    """Delete what owners know of a group's progress; the first error code met."""
    told = [
        gateway.share.tell(
            ShareKey(group_id, topic.name, UUID(bytes=topic.topic_id), number), DeleteState()
        )
        for topic in topics
        for number in range(topic.partitions)
    ]
    outcomes = [await settled(promise) for promise in told]
    codes = [kafka_code(one) if isinstance(one, BrokerError) else one for one in outcomes]
    return next((code for code in codes if code), 0)


async def delete_group(group_id: str, gateway: Gateway) -> int:
    """DeleteGroups for a share group: what its owners know, and then the group itself. An error
    code, GROUP_ID_NOT_FOUND where there is no such share group.
    """
    group = await ask(gateway, group_id, events.DescribeShareGroup(), ShareDescription)
    if isinstance(group, int):
        return group
    error = _refuse_change(group) or await delete_states(group_id, group.topics, gateway)
    if error:
        return error
    gone = await ask(gateway, group_id, events.DeleteShareGroup(), ShareGroupResult)
    return gone if isinstance(gone, int) else gone.error


# What they have in common


def _refused(request: Any, operation: Operation, context: RequestContext, gateway: Gateway) -> int:
    if not request.group_id:
        return KafkaCode.INVALID_GROUP_ID
    if not gateway.authorized(context, operation, Resource.GROUP, request.group_id):
        return KafkaCode.GROUP_AUTHORIZATION_FAILED
    return KafkaCode.NONE


def _some_allowed(request: Any, context: RequestContext, gateway: Gateway) -> bool:
    """Is there a topic that the client may change offsets of? Else the group is not asked."""
    return any(
        on_topic(context, gateway, Operation.READ, topic.topic_name) for topic in request.topics
    )


def _refuse_change(group: ShareDescription) -> int:
    if group.state == "Dead":
        return KafkaCode.GROUP_ID_NOT_FOUND
    return KafkaCode.NON_EMPTY_GROUP if group.members else KafkaCode.NONE


def _group_message(error: int, request: Any) -> str | None:
    if error == KafkaCode.GROUP_ID_NOT_FOUND:
        return f"Group {request.group_id} not found."
    if error == KafkaCode.NON_EMPTY_GROUP:
        return f"Group {request.group_id} is not empty."
    return None


async def _find(name: str, context: RequestContext, gateway: Gateway) -> TopicInfo | int:
    if not gateway.authorized(context, Operation.READ, Resource.TOPIC, name):
        return int(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
    info = await settled(gateway.topic(names.from_kafka(name), False))
    if isinstance(info, BrokerError):
        return kafka_code(info)
    return int(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION) if info is None else info


def _shape(info: TopicInfo) -> TopicShape:
    return TopicShape(info.name, info.topic_id.bytes, len(info.partitions))


HANDLERS: Handlers = {90: handle_describe, 91: handle_alter, 92: handle_delete}
