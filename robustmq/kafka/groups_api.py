"""The requests of classic consumer groups, put as events to the group's machine at its owner
(gateway.group).

Here is what belongs to the protocol: versions, names, empty ids, the shapes of answers. What a
group decides is in robustmq.groups.classic. An owner that cannot be reached is 15
COORDINATOR_NOT_AVAILABLE, so that clients ask again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import group_events as events
from robustmq.kafka import messages
from robustmq.kafka.context import (
    GROUP_OPERATIONS,
    NO_OPERATIONS,
    RequestContext,
    legal_name,
    settled,
)
from robustmq.kafka.gateway import Gateway
from robustmq.promises import Promise, start

Reply = TypeVar("Reply")

GROUP, TRANSACTION = 0, 1
_KINDS = {GROUP: "group", TRANSACTION: "transaction"}
_MANY_KEYS_VERSION = 4
_MEMBER_ID_REQUIRED_VERSION = 4
_SKIP_ASSIGNMENT_VERSION = 9
_MANY_MEMBERS_VERSION = 3
_MANY_GROUPS_VERSION = 8
_ALL_TOPICS_VERSION = 2
_UNKNOWN_GROUP_VERSION = 6
_ONE_SHAPES = (messages.OffsetFetchResponseTopic, messages.OffsetFetchResponsePartition)
_MANY_SHAPES = (messages.OffsetFetchResponseTopics, messages.OffsetFetchResponsePartitions)
"""OffsetFetch has structs of its own for one group (before version 8) and for many."""


async def _ask(
    gateway: Gateway, group_id: str, event: events.GroupEvent, kind: type[Reply]
) -> Reply | int:
    """The group's reply, or an error code that stands for all of it."""
    if not group_id:
        return int(KafkaCode.INVALID_GROUP_ID)
    return await _reply(_call(gateway, group_id, event), kind)


async def _call(gateway: Gateway, group_id: str, event: events.GroupEvent) -> events.GroupReply:
    return await gateway.group(group_id, event)


async def _reply(promise: Awaitable[events.GroupReply], kind: type[Reply]) -> Reply | int:
    reply = await settled(promise)
    if isinstance(reply, BrokerError):
        return int(KafkaCode.COORDINATOR_NOT_AVAILABLE)
    if isinstance(reply, kind):
        return reply
    assert isinstance(reply, events.ErrorReply), "a group answers an event with its own reply"
    return int(reply.error)


# FindCoordinator


async def handle_find_coordinator(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one FindCoordinator, for one key or (version 4 and later) for many."""
    if context.api_version < _MANY_KEYS_VERSION:
        found = _coordinator(request.key, request.key_type, gateway)
        return messages.FindCoordinatorResponse(
            error_code=found.error_code,
            error_message=found.error_message,
            node_id=found.node_id,
            host=found.host,
            port=found.port,
        )
    return messages.FindCoordinatorResponse(
        coordinators=[
            _coordinator(key, request.key_type, gateway) for key in request.coordinator_keys
        ]
    )


def _coordinator(key: str, key_type: int, gateway: Gateway) -> Any:
    kind = _KINDS.get(key_type)
    node = None if kind is None else gateway.coordinator(kind, key)
    if kind is None:
        code, message = KafkaCode.INVALID_REQUEST, f"unknown coordinator type {key_type}"
    elif node is None and key_type == TRANSACTION:
        # Retriable codes would keep a transactional producer waiting for what never comes.
        code, message = KafkaCode.INVALID_REQUEST, "transactions are not offered"
    elif node is None:
        code, message = KafkaCode.COORDINATOR_NOT_AVAILABLE, "no owner at the moment"
    else:
        return messages.Coordinator(
            key=key, node_id=node.node_id, host=node.host, port=node.port, error_code=0
        )
    return messages.Coordinator(
        key=key, node_id=-1, host="", port=-1, error_code=int(code), error_message=message
    )


# Membership


async def handle_join(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one JoinGroup when the rebalance is over."""
    event = events.JoinGroup(
        member_id=request.member_id,
        group_instance_id=request.group_instance_id,
        new_member_id=f"{request.group_instance_id or context.client_id}-{gateway.unique_id()}",
        member_id_required=context.api_version >= _MEMBER_ID_REQUIRED_VERSION,
        client_id=context.client_id,
        client_host=context.connection.client_host,
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=_rebalance_timeout(request),
        protocol_type=request.protocol_type,
        protocols=[(entry.name, bytes(entry.metadata)) for entry in request.protocols],
        skip_assignment_supported=context.api_version >= _SKIP_ASSIGNMENT_VERSION,
    )
    reply = await _ask(gateway, request.group_id, event, events.JoinReply)
    if isinstance(reply, int):
        reply = events.JoinReply(error=reply, member_id=request.member_id)
    name = reply.protocol_name
    if name is None and context.api_version < 7:
        name = ""
    return messages.JoinGroupResponse(
        error_code=int(reply.error),
        generation_id=reply.generation_id,
        protocol_type=reply.protocol_type,
        protocol_name=name,
        leader=reply.leader,
        skip_assignment=reply.skip_assignment,
        member_id=reply.member_id,
        members=[
            messages.JoinGroupResponseMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.metadata,
            )
            for member in reply.members
        ],
    )


def _rebalance_timeout(request: Any) -> int:
    """Version 0 has none: there the session time-out is meant."""
    timeout_ms = int(request.rebalance_timeout_ms)
    return timeout_ms if timeout_ms >= 0 else int(request.session_timeout_ms)


async def handle_sync(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one SyncGroup when the leader has come."""
    event = events.SyncGroup(
        request.member_id,
        request.group_instance_id,
        request.generation_id,
        request.protocol_type,
        request.protocol_name,
        [(entry.member_id, bytes(entry.assignment)) for entry in request.assignments],
    )
    reply = await _ask(gateway, request.group_id, event, events.SyncReply)
    if isinstance(reply, int):
        reply = events.SyncReply(error=reply)
    return messages.SyncGroupResponse(
        error_code=int(reply.error),
        protocol_type=reply.protocol_type,
        protocol_name=reply.protocol_name,
        assignment=reply.assignment,
    )


async def handle_heartbeat(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one Heartbeat."""
    event = events.Heartbeat(request.member_id, request.group_instance_id, request.generation_id)
    reply = await _ask(gateway, request.group_id, event, events.ErrorReply)
    code = reply if isinstance(reply, int) else reply.error
    return messages.HeartbeatResponse(error_code=int(code))


async def handle_leave(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one LeaveGroup; before version 3 its one member's error is the whole answer."""
    many = context.api_version >= _MANY_MEMBERS_VERSION
    if many:
        leaving = [
            events.LeavingMember(member.member_id, member.group_instance_id)
            for member in request.members
        ]
    else:
        leaving = [events.LeavingMember(request.member_id)]
    event = events.LeaveGroup(leaving)
    reply = await _ask(gateway, request.group_id, event, events.LeaveReply)
    if isinstance(reply, int):
        return messages.LeaveGroupResponse(error_code=reply, members=[])
    if not many:
        return messages.LeaveGroupResponse(error_code=int(reply.members[0].error))
    return messages.LeaveGroupResponse(
        error_code=int(reply.error),
        members=[
            messages.MemberResponse(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                error_code=int(member.error),
            )
            for member in reply.members
        ],
    )


# Offsets


async def handle_commit(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetCommit; partitions that do not exist are 3 and the others are stored."""
    codes: dict[tuple[str, int], int] = {}
    offsets = []
    kept = []
    for topic in request.topics:
        key, count = await _partition_count(topic.name, gateway)
        for part in topic.partitions:
            place = (topic.name, part.partition_index)
            if not 0 <= part.partition_index < count:
                codes[place] = int(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
                continue
            kept.append(place)
            offsets.append(
                events.OffsetToCommit(
                    key,
                    part.partition_index,
                    part.committed_offset,
                    part.committed_leader_epoch,
                    part.committed_metadata or "",
                )
            )
    event = events.CommitOffsets(
        request.member_id,
        request.group_instance_id,
        request.generation_id_or_member_epoch,
        offsets,
        gateway.timestamp_ms(),
    )
    reply = await _ask(gateway, request.group_id, event, events.CommitReply)
    errors = [reply] * len(kept) if isinstance(reply, int) else reply.errors
    codes.update((place, int(error)) for place, error in zip(kept, errors, strict=True))
    return messages.OffsetCommitResponse(
        topics=[
            messages.OffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    messages.OffsetCommitResponsePartition(
                        partition_index=part.partition_index,
                        error_code=codes[(topic.name, part.partition_index)],
                    )
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


async def _partition_count(name: str, gateway: Gateway) -> tuple[bytes, int]:
    """A topic's key, and how many partitions it has: 0 when it is not there."""
    key = names.from_kafka(name)
    if not legal_name(name):
        return key, 0
    info = await settled(gateway.topic(key, False))
    if info is None or isinstance(info, BrokerError):
        return key, 0
    return key, len(info.partitions)


async def handle_fetch_offsets(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetFetch, for one group or (version 8 and later) for many."""
    if context.api_version >= _MANY_GROUPS_VERSION:
        started = [
            (group, _start_fetch(group.group_id, group.topics, gateway)) for group in request.groups
        ]
        groups = []
        for group, promise in started:
            code, topics = await _offsets(promise, group.topics, _MANY_SHAPES)
            groups.append(
                messages.OffsetFetchResponseGroup(
                    group_id=group.group_id, topics=topics, error_code=code
                )
            )
        return messages.OffsetFetchResponse(groups=groups)
    wanted = request.topics
    promise = _start_fetch(request.group_id, wanted, gateway)
    code, topics = await _offsets(promise, wanted, _ONE_SHAPES)
    if code and context.api_version < _ALL_TOPICS_VERSION:
        for topic in topics:
            for part in topic.partitions:
                part.error_code = code
    return messages.OffsetFetchResponse(topics=topics, error_code=code)


def _start_fetch(group_id: str, topics: Any, gateway: Gateway) -> Promise[events.GroupReply] | None:
    if not group_id:
        return None
    partitions = None
    if topics is not None:
        partitions = [
            (names.from_kafka(topic.name), index)
            for topic in topics
            for index in topic.partition_indexes
        ]
    return start(_call(gateway, group_id, events.FetchOffsets(partitions)))


async def _offsets(
    promise: Promise[events.GroupReply] | None, wanted: Any, shapes: tuple[Any, Any]
) -> tuple[int, list[Any]]:
    """An error code and the topics of one group, in the structs of the version's shape."""
    topic_shape, partition_shape = shapes
    if promise is None:
        code: events.OffsetsReply | int = int(KafkaCode.INVALID_GROUP_ID)
    else:
        code = await _reply(promise, events.OffsetsReply)
    found: list[tuple[str, events.CommittedOffset]] = []
    if isinstance(code, int):
        for topic in wanted or []:
            for index in topic.partition_indexes:
                found.append((topic.name, events.CommittedOffset(b"", index)))
    elif wanted is None:
        for entry in code.offsets:
            found.append((names.to_kafka(entry.topic) or "", entry))
    else:
        asked = [topic.name for topic in wanted for _ in topic.partition_indexes]
        found = list(zip(asked, code.offsets, strict=True))
    topics: dict[str, list[Any]] = {}
    for name, entry in found:
        if name:
            topics.setdefault(name, []).append(
                partition_shape(
                    partition_index=entry.partition,
                    committed_offset=entry.offset,
                    committed_leader_epoch=entry.leader_epoch,
                    metadata=entry.metadata,
                    error_code=0,
                )
            )
    listed = [topic_shape(name=name, partitions=parts) for name, parts in topics.items()]
    return (code if isinstance(code, int) else int(code.error)), listed


async def handle_delete_offsets(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one OffsetDelete."""
    partitions = [
        (names.from_kafka(topic.name), part.partition_index)
        for topic in request.topics
        for part in topic.partitions
    ]
    event = events.DeleteOffsets(partitions)
    reply = await _ask(gateway, request.group_id, event, events.DeleteOffsetsReply)
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
                        partition_index=part.partition_index, error_code=int(next(errors))
                    )
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


# Administration


async def handle_list(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ListGroups, by states (version 4) and types (version 5)."""
    states = {state.lower() for state in request.states_filter or []}
    types = {kind.lower() for kind in request.types_filter or []}
    listings = await settled(gateway.list_groups())
    if isinstance(listings, BrokerError):
        code = int(KafkaCode.COORDINATOR_NOT_AVAILABLE)
        return messages.ListGroupsResponse(error_code=code, groups=[])
    return messages.ListGroupsResponse(
        groups=[
            messages.ListedGroup(
                group_id=listing.group_id,
                protocol_type=listing.protocol_type,
                group_state=listing.state,
                group_type=listing.group_type,
            )
            for listing in sorted(listings, key=lambda listing: listing.group_id)
            if (not states or listing.state.lower() in states)
            and (not types or listing.group_type.lower() in types)
        ]
    )


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeGroups; an unknown group is Dead, from version 6 on also 69."""
    operations = NO_OPERATIONS
    if request.include_authorized_operations:
        operations = GROUP_OPERATIONS
    groups = []
    for group_id in request.groups:
        reply = await _ask(gateway, group_id, events.DescribeGroup(), events.DescribeReply)
        if isinstance(reply, int):
            reply = events.DescribeReply(error=reply, state="")
        code, message = int(reply.error), None
        if reply.state == "Dead" and context.api_version >= _UNKNOWN_GROUP_VERSION:
            code, message = int(KafkaCode.GROUP_ID_NOT_FOUND), f"Group {group_id} not found."
        groups.append(_described(group_id, reply, code, message, operations))
    return messages.DescribeGroupsResponse(groups=groups)


def _described(
    group_id: str, reply: events.DescribeReply, code: int, message: str | None, operations: int
) -> Any:
    return messages.DescribedGroup(
        error_code=code,
        error_message=message,
        group_id=group_id,
        group_state=reply.state,
        protocol_type=reply.protocol_type,
        protocol_data=reply.protocol,
        members=[
            messages.DescribedGroupMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=member.metadata,
                member_assignment=member.assignment,
            )
            for member in reply.members
        ],
        authorized_operations=operations,
    )


async def handle_delete(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DeleteGroups."""
    results = []
    for group_id in request.groups_names:
        reply = await _ask(gateway, group_id, events.DeleteGroup(), events.ErrorReply)
        code = reply if isinstance(reply, int) else reply.error
        results.append(messages.DeletableGroupResult(group_id=group_id, error_code=int(code)))
    return messages.DeleteGroupsResponse(results=results)
