"""ConsumerGroupHeartbeat and ConsumerGroupDescribe (KIP-848).

Here is what belongs to the protocol: shapes, versions, who may, and what only the whole broker
knows and the group does not. The names of a heartbeat are looked up (light topics are known to
their owners alone), its regular expression is matched against all declared topics and the light
ones that Metadata lists, as far as the client may see them. What a group asks for in its reply is
looked up as well, while the client has its answer. What a group decides is in
robustmq.groups.consumer.

Regular expressions are RE2's, as in Apache Kafka: they match in time linear in the name, whatever
a client sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import consumer_events, messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.consumer_events import (
    JOIN_EPOCH,
    LEAVE_STATIC_EPOCH,
    ConsumerDescribeReply,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    DescribeConsumerGroup,
    TopicsFound,
)
from robustmq.kafka.context import (
    Handlers,
    RequestContext,
    legal_name,
    settled,
)
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.groups_api import ask
from robustmq.kafka.permissions import bits
from robustmq.promises import gather, start

_MEMBER_ID_BY_CLIENT_VERSION = 1
_PATTERN_MEMORY_BYTES = 1 << 20
_CLASSIC, _CONSUMER = 0, 1
"""member_type of ConsumerGroupDescribe."""


# Heartbeat


async def handle_heartbeat(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ConsumerGroupHeartbeat."""
    error, message = _refused(request, context, gateway)
    pattern = None
    if not error and request.subscribed_topic_regex:
        pattern = compiled(request.subscribed_topic_regex)
        if isinstance(pattern, str):
            error = int(KafkaCode.INVALID_REGULAR_EXPRESSION)
            message = f"{request.subscribed_topic_regex!r}: {pattern}"
    if error:
        return _response(ConsumerHeartbeatReply(error, message))
    event = await _event(request, pattern, context, gateway)
    reply = await ask(gateway, request.group_id, event, ConsumerHeartbeatReply)
    if isinstance(reply, int):
        return _response(ConsumerHeartbeatReply(reply))
    if reply.unknown_topics or reply.stale_patterns:
        start(_look_up(request.group_id, reply, context, gateway))
    return _response(reply)


def _refused(request: Any, context: RequestContext, gateway: Gateway) -> tuple[int, str | None]:
    """Why a request is refused before a group hears of it; error 0: it is not."""
    if not gateway.authorized(context, Operation.READ, Resource.GROUP, request.group_id):
        return int(KafkaCode.GROUP_AUTHORIZATION_FAILED), None
    for name in request.subscribed_topic_names or ():
        if not gateway.authorized(context, Operation.DESCRIBE, Resource.TOPIC, name):
            return int(KafkaCode.TOPIC_AUTHORIZATION_FAILED), None
    message = _malformed(request, context.api_version)
    return (0, None) if message is None else (int(KafkaCode.INVALID_REQUEST), message)


def _malformed(request: Any, version: int) -> str | None:
    epoch = request.member_epoch
    made_here = version < _MEMBER_ID_BY_CLIENT_VERSION and epoch == JOIN_EPOCH
    if not request.group_id:
        return "the group id is empty"
    if not request.member_id and not made_here:
        return "the member id is empty"
    if request.instance_id == "":
        return "the instance id is empty"
    if request.rack_id == "":
        return "the rack id is empty"
    if epoch < LEAVE_STATIC_EPOCH:
        return f"there is no member epoch {epoch}"
    if epoch == LEAVE_STATIC_EPOCH and request.instance_id is None:
        return "only a static member leaves for a while, and this names no instance id"
    if epoch != JOIN_EPOCH:
        return None
    if request.rebalance_timeout_ms < 0:
        return "who joins says its rebalance time-out"
    if request.topic_partitions is None or request.topic_partitions:
        return "who joins owns no partitions, and says so"
    if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
        return "who joins subscribes to topics, by names or by a regular expression"
    return None


def compiled(pattern: str) -> Any:
    """A regular expression ready to match, or what is wrong with it."""
    import re2  # 2.5 MiB, only where it is used

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY_BYTES
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0]
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


async def _event(
    request: Any, pattern: Any, context: RequestContext, gateway: Gateway
) -> ConsumerHeartbeat:
    topics = request.subscribed_topic_names
    keys = None if topics is None else [names.from_kafka(name) for name in topics]
    light: list[tuple[bytes, bytes]] = []
    matched = None
    if topics:
        light = await _light_topics(
            (key for name, key in zip(topics, keys or (), strict=True) if legal_name(name)), gateway
        )
    if pattern is not None:
        more, matched = await _matching(pattern, context, gateway)
        light += more
    owned = request.topic_partitions
    return ConsumerHeartbeat(
        request.member_id or gateway.unique_id(),
        request.member_epoch,
        request.instance_id,
        request.rack_id,
        request.rebalance_timeout_ms,
        keys,
        request.subscribed_topic_regex,
        request.server_assignor,
        None if owned is None else [(topic.topic_id.bytes, topic.partitions) for topic in owned],
        context.client_id,
        context.connection.client_host,
        light,
        matched,
    )


async def _light_topics(keys: Iterable[bytes], gateway: Gateway) -> list[tuple[bytes, bytes]]:
    """Those of the topics that are there and not declared."""
    looked_up = await gather([start(settled(gateway.topic(key, False))) for key in keys])
    return [
        (info.name, info.topic_id.bytes)
        for info in looked_up
        if info is not None and not isinstance(info, BrokerError) and not info.declared
    ]


async def _matching(
    pattern: Any, context: RequestContext, gateway: Gateway
) -> tuple[list[tuple[bytes, bytes]], list[bytes] | None]:
    """(light topics, all topics) whose whole name a pattern matches and the client may see; no
    list when topics cannot be told now."""
    infos = await settled(gateway.list_topics(gateway.listed_light_topics))
    if isinstance(infos, BrokerError):
        return [], None
    light, matched = [], []
    for info in infos:
        name = names.to_kafka(info.name)
        if name is None or info.internal or pattern.fullmatch(name) is None:
            continue
        if not gateway.authorized(context, Operation.DESCRIBE, Resource.TOPIC, name):
            continue
        matched.append(info.name)
        if not info.declared:
            light.append((info.name, info.topic_id.bytes))
    return light, matched


async def _look_up(
    group_id: str, reply: ConsumerHeartbeatReply, context: RequestContext, gateway: Gateway
) -> None:
    """Tell a group what it asked for, if there is anything."""
    light = await _light_topics(reply.unknown_topics, gateway)
    matched = []
    for text in reply.stale_patterns:
        pattern = compiled(text)
        assert not isinstance(pattern, str), "it was compiled when it came"
        more, topics = await _matching(pattern, context, gateway)
        if topics is not None:
            light += more
            matched.append((text, topics))
    if light or matched:
        await settled(gateway.group(group_id, TopicsFound(light, matched)))


def _response(reply: ConsumerHeartbeatReply) -> Any:
    assignment = None
    if reply.assignment is not None:
        assignment = messages.Assignment(
            topic_partitions=[
                messages.ConsumerGroupHeartbeatTopicPartitions(
                    topic_id=UUID(bytes=topic), partitions=partitions
                )
                for topic, partitions in reply.assignment
            ]
        )
    return messages.ConsumerGroupHeartbeatResponse(
        error_code=int(reply.error),
        error_message=reply.message,
        member_id=reply.member_id,
        member_epoch=reply.epoch,
        heartbeat_interval_ms=reply.heartbeat_interval_ms,
        assignment=assignment,
    )


# Describe


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ConsumerGroupDescribe; a topic that the client may not see refuses its group."""
    groups = []
    for group_id in request.group_ids:
        reply: ConsumerDescribeReply | int
        if gateway.authorized(context, Operation.DESCRIBE, Resource.GROUP, group_id):
            reply = await ask(gateway, group_id, DescribeConsumerGroup(), ConsumerDescribeReply)
        else:
            reply = int(KafkaCode.GROUP_AUTHORIZATION_FAILED)
        if isinstance(reply, int):
            reply = ConsumerDescribeReply(reply)
        elif not _may_see(reply, context, gateway):
            reply = ConsumerDescribeReply(
                KafkaCode.TOPIC_AUTHORIZATION_FAILED, "a topic of the group may not be described"
            )
        asked = request.include_authorized_operations and not reply.error
        operations = bits(context, gateway, asked, Resource.GROUP, group_id)
        groups.append(_described(group_id, reply, operations))
    return messages.ConsumerGroupDescribeResponse(groups=groups)


def _may_see(reply: ConsumerDescribeReply, context: RequestContext, gateway: Gateway) -> bool:
    topics = {
        topic
        for member in reply.members
        for topic in [
            *member.topics,
            *(name for _, name, _ in member.assigned),
            *(name for _, name, _ in member.target),
        ]
    }
    return all(
        gateway.authorized(context, Operation.DESCRIBE, Resource.TOPIC, names.to_kafka(topic) or "")
        for topic in topics
    )


def _described(group_id: str, reply: ConsumerDescribeReply, operations: int) -> Any:
    return messages.ConsumerGroupDescribeDescribedGroup(
        error_code=int(reply.error),
        error_message=reply.message,
        group_id=group_id,
        group_state=reply.state,
        group_epoch=reply.epoch,
        assignment_epoch=reply.assignment_epoch,
        assignor_name=reply.assignor,
        members=[_member(member) for member in reply.members],
        authorized_operations=operations,
    )


def _member(member: consumer_events.ConsumerDescription) -> Any:
    return messages.Member(
        member_id=member.member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=member.epoch,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=[names.to_kafka(topic) or "" for topic in member.topics],
        subscribed_topic_regex=member.pattern or "",
        assignment=_places(member.assigned),
        target_assignment=_places(member.target),
        member_type=_CLASSIC if member.classic else _CONSUMER,
    )


def _places(places: list[tuple[bytes, bytes, list[int]]]) -> Any:
    return messages.ConsumerGroupDescribeAssignment(
        topic_partitions=[
            messages.ConsumerGroupDescribeTopicPartitions(
                topic_id=UUID(bytes=topic),
                topic_name=names.to_kafka(name) or "",
                partitions=partitions,
            )
            for topic, name, partitions in places
        ]
    )


HANDLERS: Handlers = {68: handle_heartbeat, 69: handle_describe}
