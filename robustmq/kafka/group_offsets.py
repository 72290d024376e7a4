"""OffsetCommit, OffsetFetch and OffsetDelete (protocol guide; KIP-848 member epochs,
KIP-516 topic ids).

From version 10 on topics are named by their ids: one that is not known is 100 for each of
its partitions. By name, partitions that do not exist are 3 when they are committed; asked
for, they have no offset.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import group_events as events
from robustmq.kafka import messages
from robustmq.kafka.access import Operation
from robustmq.kafka.context import Handlers, RequestContext, legal_name, settled
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.groups_api import ask, call, reply_of
from robustmq.kafka.permissions import GROUP_DENIED, TOPIC_DENIED, on_group, on_key, on_topic
from robustmq.promises import Promise, gather, start

_TOPIC_ID_VERSION = 10
_MEMBER_EPOCH_VERSION = 9
_MANY_GROUPS_VERSION = 8
_ALL_TOPICS_VERSION = 2
NO_ID = UUID(int=0)
_ONE_SHAPES = (messages.OffsetFetchResponseTopic, messages.OffsetFetchResponsePartition)
_MANY_SHAPES = (messages.OffsetFetchResponseTopics, messages.OffsetFetchResponsePartitions)
"""OffsetFetch has structs of its own for one group (before version 8) and for many."""


class AskedTopic(msgspec.Struct, frozen=True):
    """A topic of a request: as it was named, its key (None: not known), how many partitions
    it has."""

    name: str
    topic_id: UUID
    key: bytes | None
    partitions: int = 0
    denied: bool = False


async def find_topic(topic: Any, by_id: bool, gateway: Gateway) -> AskedTopic:
    """The topic that a request means, looked up."""
    if by_id:
        info = await settled(gateway.topic_by_id(topic.topic_id))
        if info is None or isinstance(info, BrokerError):
            return AskedTopic("", topic.topic_id, None)
        return AskedTopic("", topic.topic_id, info.name, len(info.partitions))
    key = names.from_kafka(topic.name)
    if not legal_name(topic.name):
        return AskedTopic(topic.name, NO_ID, key)
    info = await settled(gateway.topic(key, False))
    if info is None or isinstance(info, BrokerError):
        return AskedTopic(topic.name, NO_ID, key)
    return AskedTopic(topic.name, NO_ID, key, len(info.partitions))


# Commit


async def handle_commit(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetCommit; partitions that do not exist are refused and the others are
    stored."""
    if not on_group(context, gateway, Operation.READ, request.group_id):
        return _none_committed(request)
    by_id = context.api_version >= _TOPIC_ID_VERSION
    looked_up = await gather([start(find_topic(topic, by_id, gateway)) for topic in request.topics])
    asked = [
        (judged(found, Operation.READ, context, gateway), topic.partitions)
        for found, topic in zip(looked_up, request.topics, strict=True)
    ]
    offsets = [
        events.OffsetToCommit(
            topic.key,
            part.partition_index,
            part.committed_offset,
            part.committed_leader_epoch,
            part.committed_metadata or "",
        )
        for topic, partitions in asked
        for part in partitions
        if topic.key is not None and not refused(topic, part.partition_index)
    ]
    event = events.CommitOffsets(
        request.member_id,
        request.group_instance_id,
        request.generation_id_or_member_epoch,
        offsets,
        gateway.timestamp_ms(),
        by_generation=context.api_version < _MEMBER_EPOCH_VERSION,
    )
    reply = await ask(gateway, request.group_id, event, events.CommitReply)
    errors = iter([reply] * len(offsets) if isinstance(reply, int) else reply.errors)
    return messages.OffsetCommitResponse(
        topics=[
            messages.OffsetCommitResponseTopic(
                topic_id=topic.topic_id,
                name=topic.name,
                partitions=[
                    messages.OffsetCommitResponsePartition(
                        partition_index=part.partition_index,
                        error_code=refused(topic, part.partition_index) or int(next(errors)),
                    )
                    for part in partitions
                ],
            )
            for topic, partitions in asked
        ]
    )


def _none_committed(request: Any) -> Any:
    """The answer to who may not commit offsets of the group."""
    return messages.OffsetCommitResponse(
        topics=[
            messages.OffsetCommitResponseTopic(
                topic_id=topic.topic_id,
                name=topic.name,
                partitions=[
                    messages.OffsetCommitResponsePartition(
                        partition_index=part.partition_index, error_code=GROUP_DENIED
                    )
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def judged(
    topic: AskedTopic, operation: Operation, context: RequestContext, gateway: Gateway
) -> AskedTopic:
    """The topic, marked when the client may not do this to it."""
    if topic.key is None or on_key(context, gateway, operation, topic.key):
        return topic
    return msgspec.structs.replace(topic, denied=True)


def refused(topic: AskedTopic, partition: int) -> int:
    """Why nothing may be committed for a partition; 0: it may."""
    if topic.key is None:
        return int(KafkaCode.UNKNOWN_TOPIC_ID)
    if topic.denied:
        return TOPIC_DENIED
    if not 0 <= partition < topic.partitions:
        return int(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
    return 0


# Fetch


async def handle_fetch_offsets(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetFetch, for one group or (version 8 and later) for many."""
    stable = request.require_stable
    if context.api_version >= _MANY_GROUPS_VERSION:
        by_id = context.api_version >= _TOPIC_ID_VERSION
        started = [
            (
                group.group_id,
                start(
                    _fetch(
                        _Asker(group.group_id, group.member_id, group.member_epoch, stable),
                        group.topics,
                        by_id,
                        context,
                        gateway,
                    )
                ),
            )
            for group in request.groups
        ]
        groups = []
        for group_id, promise in started:
            code, found = await promise
            groups.append(
                messages.OffsetFetchResponseGroup(
                    group_id=group_id, topics=_shaped(found, _MANY_SHAPES), error_code=code
                )
            )
        return messages.OffsetFetchResponse(groups=groups)
    code, found = await _fetch(
        _Asker(request.group_id, stable=stable), request.topics, False, context, gateway
    )
    topics = _shaped(found, _ONE_SHAPES)
    if code and context.api_version < _ALL_TOPICS_VERSION:
        for topic in topics:
            for part in topic.partitions:
                part.error_code = code
    return messages.OffsetFetchResponse(topics=topics, error_code=code)


class _Asker(msgspec.Struct, frozen=True):
    """Whose offsets are asked for; by which member of the consumer protocol, if by one."""

    group_id: str
    member_id: str | None = None
    member_epoch: int = -1
    stable: bool = False


_Found = list[tuple[AskedTopic, list[events.CommittedOffset]]]


async def _fetch(
    asker: _Asker, topics: Any, by_id: bool, context: RequestContext, gateway: Gateway
) -> tuple[int, _Found]:
    """An error code, and the offsets of one group by topic; `topics` None: all that there are, and
    that the client may see."""
    if not on_group(context, gateway, Operation.DESCRIBE, asker.group_id):
        return GROUP_DENIED, []
    if topics is None:
        code, everything = await _fetch_all(asker, by_id, gateway)
        seen = [
            (topic, offsets)
            for topic, offsets in everything
            if not judged(topic, Operation.DESCRIBE, context, gateway).denied
        ]
        return code, seen
    asked = []
    for topic in topics:
        # By name nothing is looked up: an offset may outlive its topic's name for a moment.
        known = AskedTopic(topic.name, NO_ID, names.from_kafka(topic.name)) if not by_id else None
        found_topic = known or await find_topic(topic, by_id, gateway)
        asked.append(
            (judged(found_topic, Operation.DESCRIBE, context, gateway), topic.partition_indexes)
        )
    wanted = [
        (topic.key, index)
        for topic, indexes in asked
        for index in indexes
        if topic.key is not None and not topic.denied
    ]
    reply = await _ask_offsets(asker, wanted, gateway)
    if isinstance(reply, events.OffsetsReply) and reply.error:
        return int(reply.error), []
    none = [events.CommittedOffset(key, index) for key, index in wanted]
    offsets = iter(none if isinstance(reply, int) else reply.offsets)
    found = [
        (
            topic,
            [
                events.CommittedOffset(b"", index)
                if topic.key is None or topic.denied
                else next(offsets)
                for index in indexes
            ],
        )
        for topic, indexes in asked
    ]
    return (reply if isinstance(reply, int) else int(reply.error)), found


async def _fetch_all(asker: _Asker, by_id: bool, gateway: Gateway) -> tuple[int, _Found]:
    reply = await _ask_offsets(asker, None, gateway)
    if isinstance(reply, int):
        return reply, []
    by_topic: dict[bytes, list[events.CommittedOffset]] = {}
    for entry in reply.offsets:
        by_topic.setdefault(entry.topic, []).append(entry)
    found: _Found = []
    for key, entries in by_topic.items():
        name = names.to_kafka(key)
        if name is None:
            continue
        topic_id = NO_ID
        if by_id:
            info = await settled(gateway.topic(key, False))
            if info is None or isinstance(info, BrokerError):
                continue
            topic_id = info.topic_id
        found.append((AskedTopic(name, topic_id, key), entries))
    return int(reply.error), found


async def _ask_offsets(
    asker: _Asker, partitions: list[tuple[bytes, int]] | None, gateway: Gateway
) -> events.OffsetsReply | int:
    if not asker.group_id:
        return int(KafkaCode.INVALID_GROUP_ID)
    promise: Promise[events.GroupReply] = start(
        call(
            gateway,
            asker.group_id,
            events.FetchOffsets(partitions, asker.stable, asker.member_id, asker.member_epoch),
        )
    )
    return await reply_of(promise, events.OffsetsReply)


def _shaped(found: _Found, shapes: tuple[Any, Any]) -> list[Any]:
    """The topics of a response, in the structs of the version's shape."""
    topic_shape, partition_shape = shapes
    topics = []
    for topic, entries in found:
        unknown = int(KafkaCode.UNKNOWN_TOPIC_ID) if topic.key is None else 0
        if topic.denied:
            unknown = TOPIC_DENIED
        shown = topic_shape(
            name=topic.name,
            partitions=[
                partition_shape(
                    partition_index=entry.partition,
                    committed_offset=entry.offset,
                    committed_leader_epoch=entry.leader_epoch,
                    metadata=entry.metadata,
                    error_code=unknown or entry.error,
                )
                for entry in entries
            ],
        )
        if topic_shape is messages.OffsetFetchResponseTopics:
            shown.topic_id = topic.topic_id
        topics.append(shown)
    return topics


# Delete


async def handle_delete_offsets(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetDelete."""
    if not on_group(context, gateway, Operation.DELETE, request.group_id):
        return messages.OffsetDeleteResponse(error_code=GROUP_DENIED, topics=[])
    allowed = {
        topic.name
        for topic in request.topics
        if on_topic(context, gateway, Operation.READ, topic.name)
    }
    partitions = [
        (names.from_kafka(topic.name), part.partition_index)
        for topic in request.topics
        for part in topic.partitions
        if topic.name in allowed
    ]
    event = events.DeleteOffsets(partitions)
    reply = await ask(gateway, request.group_id, event, events.DeleteOffsetsReply)
    code = reply if isinstance(reply, int) else int(reply.error)
    if code or isinstance(reply, int):
        return messages.OffsetDeleteResponse(error_code=code, topics=[])
    errors = iter(reply.errors)
    return messages.OffsetDeleteResponse(
        topics=[
            messages.OffsetDeleteResponseTopic(
                name=topic.name,
                partitions=[
                    messages.OffsetDeleteResponsePartition(
                        partition_index=part.partition_index,
                        error_code=int(next(errors)) if topic.name in allowed else TOPIC_DENIED,
                    )
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


HANDLERS: Handlers = {
    8: handle_commit,
    9: handle_fetch_offsets,
    47: handle_delete_offsets,
}
