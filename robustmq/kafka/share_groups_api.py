"""ShareGroupHeartbeat and ShareGroupDescribe: the members of share groups (KIP-932).

What a group decides is in robustmq.groups.share_group; here is what belongs to the protocol, and
the looking up of the topics that a group asks for. A share group's name may not be that of a
consumer group.
"""

from __future__ import annotations

from typing import Any, TypeVar
from uuid import UUID

import msgspec

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import group_events, messages
from robustmq.kafka import share_events as events
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import (
    Handlers,
    RequestContext,
    legal_name,
    settled,
)
from robustmq.kafka.coordinating import reply_of
from robustmq.kafka.gateway import SHARE_GROUP, Gateway
from robustmq.kafka.permissions import bits
from robustmq.kafka.share_events import HeartbeatReply, ShareDescription, TopicShape

JOIN_EPOCH, LEAVE_EPOCH = 0, -1
ASSIGNOR = "simple"
Reply = TypeVar("Reply")


async def ask(
    gateway: Gateway, group_id: str, event: events.ShareGroupEvent, kind: type[Reply]
) -> Reply | int:
    """The reply of a share group, or the error code of a coordinator that is away."""
    return await reply_of(gateway.machine(SHARE_GROUP, group_id, event), kind)


# ShareGroupHeartbeat


async def handle_heartbeat(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ShareGroupHeartbeat."""
    reply = await _refused(request, context, gateway)
    if reply is None:
        reply = await _beat(request, context, gateway)
    assignment = None
    if reply.assignment is not None:
        assignment = messages.ShareGroupHeartbeatAssignment(
            topic_partitions=[
                messages.ShareGroupHeartbeatTopicPartitions(
                    topic_id=UUID(bytes=topic_id), partitions=partitions
                )
                for topic_id, partitions in reply.assignment
            ]
        )
    return messages.ShareGroupHeartbeatResponse(
        error_code=int(reply.error),
        error_message=reply.message or None,
        member_id=reply.member_id or None,
        member_epoch=reply.member_epoch,
        heartbeat_interval_ms=reply.heartbeat_interval_ms,
        assignment=assignment,
    )


async def _refused(
    request: Any, context: RequestContext, gateway: Gateway
) -> HeartbeatReply | None:
    """Why a heartbeat is not for the group, or None."""
    wrong = _wrong(request)
    if wrong:
        return HeartbeatReply(KafkaCode.INVALID_REQUEST, wrong)
    if not gateway.authorized(context, Operation.READ, Resource.GROUP, request.group_id):
        return HeartbeatReply(KafkaCode.GROUP_AUTHORIZATION_FAILED)
    for name in request.subscribed_topic_names or ():
        if not gateway.authorized(context, Operation.DESCRIBE, Resource.TOPIC, name):
            return HeartbeatReply(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
    if request.member_epoch == JOIN_EPOCH and await is_consumer_group(request.group_id, gateway):
        return HeartbeatReply(
            KafkaCode.GROUP_ID_NOT_FOUND, f"Group {request.group_id} is not a share group."
        )
    return None


def _wrong(request: Any) -> str:
    if not request.member_id.strip():
        return "MemberId can't be empty."
    if not request.group_id.strip():
        return "GroupId can't be empty."
    if request.rack_id is not None and not request.rack_id.strip():
        return "RackId can't be empty."
    if request.member_epoch < LEAVE_EPOCH:
        return "MemberEpoch is invalid."
    if request.member_epoch == JOIN_EPOCH and not request.subscribed_topic_names:
        return "SubscribedTopicNames must be set in first request."
    return ""


async def is_consumer_group(group_id: str, gateway: Gateway) -> bool:
    """Is there a consumer group of this name?"""
    reply = await settled(gateway.group(group_id, group_events.DescribeGroup()))
    if not isinstance(reply, group_events.DescribeReply):
        return False
    return reply.other_type != "" or reply.state not in ("", "Dead")


async def _beat(request: Any, context: RequestContext, gateway: Gateway) -> HeartbeatReply:
    topics = None
    if request.subscribed_topic_names is not None:
        # A name that no topic can have is one that is not there.
        wanted = filter(legal_name, request.subscribed_topic_names)
        topics = [names.from_kafka(name) for name in wanted]
    event = events.ShareHeartbeat(
        request.member_id,
        request.member_epoch,
        context.client_id,
        context.connection.client_host,
        request.rack_id,
        topics,
    )
    reply = await ask(gateway, request.group_id, event, HeartbeatReply)
    if isinstance(reply, int):
        return HeartbeatReply(reply)
    if reply.error or not reply.look_up:
        return reply
    shapes = await _look_up(reply.look_up, gateway)
    if shapes is None:
        return reply
    told = events.TopicsSeen(request.member_id, reply.look_up, shapes)
    newer = await ask(gateway, request.group_id, told, HeartbeatReply)
    if isinstance(newer, int) or newer.error:
        return reply
    if newer.assignment is None:
        return msgspec.structs.replace(newer, assignment=reply.assignment)
    return newer


async def _look_up(wanted: list[bytes], gateway: Gateway) -> list[TopicShape] | None:
    """The topics that are there; None when somebody who would know is away."""
    found = []
    for name in wanted:
        info = await settled(gateway.topic(name, False))
        if isinstance(info, BrokerError):
            return None
        if info is not None:
            found.append(TopicShape(name, info.topic_id.bytes, len(info.partitions)))
    return found


# ShareGroupDescribe


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ShareGroupDescribe."""
    groups = [
        await _described(group_id, request.include_authorized_operations, context, gateway)
        for group_id in request.group_ids
    ]
    return messages.ShareGroupDescribeResponse(groups=groups)


async def _described(
    group_id: str, operations: bool, context: RequestContext, gateway: Gateway
) -> Any:
    described = messages.ShareGroupDescribeDescribedGroup(
        error_code=0,
        group_id=group_id,
        group_state="",
        group_epoch=0,
        assignment_epoch=0,
        assignor_name="",
        members=[],
    )
    if not gateway.authorized(context, Operation.DESCRIBE, Resource.GROUP, group_id):
        described.error_code = int(KafkaCode.GROUP_AUTHORIZATION_FAILED)
        return described
    if not group_id:
        described.error_code = int(KafkaCode.INVALID_GROUP_ID)
        return described
    reply = await ask(gateway, group_id, events.DescribeShareGroup(), ShareDescription)
    if isinstance(reply, int):
        described.error_code = reply
        return described
    described.group_state = reply.state
    if reply.state == "Dead":
        described.error_code = int(KafkaCode.GROUP_ID_NOT_FOUND)
        described.error_message = f"Group {group_id} not found."
        return described
    described.group_epoch = reply.group_epoch
    described.assignment_epoch = reply.assignment_epoch
    described.assignor_name = ASSIGNOR
    described.members = [_member(member) for member in reply.members]
    described.authorized_operations = bits(context, gateway, operations, Resource.GROUP, group_id)
    return described


def _member(member: events.ShareMemberDescription) -> Any:
    return messages.ShareGroupDescribeMember(
        member_id=member.member_id,
        rack_id=member.rack_id,
        member_epoch=member.member_epoch,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=[names.to_kafka(topic) or "" for topic in member.topics],
        assignment=messages.ShareGroupDescribeAssignment(
            topic_partitions=[
                messages.ShareGroupDescribeTopicPartitions(
                    topic_id=UUID(bytes=topic_id),
                    topic_name=names.to_kafka(topic) or "",
                    partitions=partitions,
                )
                for topic_id, topic, partitions in member.assignment
            ]
        ),
    )


HANDLERS: Handlers = {76: handle_heartbeat, 77: handle_describe}
