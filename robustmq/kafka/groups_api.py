"""The requests of classic consumer groups, put as events to the group's machine at its owner
(gateway.group).

Here is what belongs to the protocol: versions, names, empty ids, the shapes of answers. What a
group decides is in robustmq.groups.classic, what concerns committed offsets in
robustmq.kafka.group_offsets. An owner that cannot be reached is 15
COORDINATOR_NOT_AVAILABLE, so that clients ask again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import group_events as events
from robustmq.kafka import messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import (
    NO_OPERATIONS,
    Handlers,
    RequestContext,
    settled,
)
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.permissions import (
    CLUSTER_DENIED,
    GROUP_DENIED,
    bits,
    on_cluster,
    on_group,
)
from robustmq.kafka.share_offsets_api import delete_group

Reply = TypeVar("Reply")

GROUP, TRANSACTION = 0, 1
_KINDS = {GROUP: "group", TRANSACTION: "transaction"}
_MANY_KEYS_VERSION = 4
_MEMBER_ID_REQUIRED_VERSION = 4
_SKIP_ASSIGNMENT_VERSION = 9
_MANY_MEMBERS_VERSION = 3
_PROTOCOL_NAMED_VERSION = 5
_UNKNOWN_GROUP_VERSION = 6


async def ask(
    gateway: Gateway, group_id: str, event: events.GroupEvent, kind: type[Reply]
) -> Reply | int:
    """The group's reply, or an error code that stands for all of it."""
    if not group_id:
        return int(KafkaCode.INVALID_GROUP_ID)
    return await reply_of(call(gateway, group_id, event), kind)


async def call(gateway: Gateway, group_id: str, event: events.GroupEvent) -> events.GroupReply:
    """The group's reply; also an error that is met before there is a promise is met here."""
    return await gateway.group(group_id, event)


async def reply_of(promise: Awaitable[events.GroupReply], kind: type[Reply]) -> Reply | int:
    """The reply that a promise brings, or an error code."""
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
        found = _coordinator(request.key, request.key_type, context, gateway)
        return messages.FindCoordinatorResponse(
            error_code=found.error_code,
            error_message=found.error_message,
            node_id=found.node_id,
            host=found.host,
            port=found.port,
        )
    return messages.FindCoordinatorResponse(
        coordinators=[
            _coordinator(key, request.key_type, context, gateway)
            for key in request.coordinator_keys
        ]
    )


def _coordinator(key: str, key_type: int, context: RequestContext, gateway: Gateway) -> Any:
    kind = _KINDS.get(key_type)
    denied = _finding_denied(key, key_type, context, gateway)
    node = None if kind is None else gateway.coordinator(kind, key, context.connection.listener)
    if kind is None:
        code, message = KafkaCode.INVALID_REQUEST, f"unknown coordinator type {key_type}"
    elif denied:
        code, message = KafkaCode(denied), None
    elif node is None:
        code, message = KafkaCode.COORDINATOR_NOT_AVAILABLE, "no owner at the moment"
    else:
        return messages.Coordinator(
            key=key, node_id=node.node_id, host=node.host, port=node.port, error_code=0
        )
    return messages.Coordinator(
        key=key, node_id=-1, host="", port=-1, error_code=int(code), error_message=message
    )


def _finding_denied(key: str, key_type: int, context: RequestContext, gateway: Gateway) -> int:
    """Why the client may not be told of a coordinator; 0: it may."""
    if key_type == GROUP:
        return 0 if on_group(context, gateway, Operation.DESCRIBE, key) else GROUP_DENIED
    if key_type == TRANSACTION:
        kind = Resource.TRANSACTIONAL_ID
        if gateway.authorized(context, Operation.DESCRIBE, kind, key):
            return 0
        return int(KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    return 0 if on_cluster(context, gateway, Operation.CLUSTER_ACTION) else CLUSTER_DENIED


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
    reply: events.JoinReply | int = GROUP_DENIED
    if on_group(context, gateway, Operation.READ, request.group_id):
        reply = await ask(gateway, request.group_id, event, events.JoinReply)
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
    reply: events.SyncReply | int
    silent = request.protocol_type is None or request.protocol_name is None
    if not on_group(context, gateway, Operation.READ, request.group_id):
        reply = GROUP_DENIED
    elif silent and context.api_version >= _PROTOCOL_NAMED_VERSION:
        reply = int(KafkaCode.INCONSISTENT_GROUP_PROTOCOL)
    else:
        reply = await ask(gateway, request.group_id, event, events.SyncReply)
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
    if not on_group(context, gateway, Operation.READ, request.group_id):
        return messages.HeartbeatResponse(error_code=GROUP_DENIED)
    reply = await ask(gateway, request.group_id, event, events.ErrorReply)
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
    if not on_group(context, gateway, Operation.READ, request.group_id):
        return messages.LeaveGroupResponse(error_code=GROUP_DENIED, members=[])
    event = events.LeaveGroup(leaving)
    reply = await ask(gateway, request.group_id, event, events.LeaveReply)
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


# Administration


async def handle_list(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ListGroups, by states (version 4) and types (version 5)."""
    states = {state.lower() for state in request.states_filter or []}
    types = {kind.lower() for kind in request.types_filter or []}
    sees_all = on_cluster(context, gateway, Operation.DESCRIBE)
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
            if (sees_all or on_group(context, gateway, Operation.DESCRIBE, listing.group_id))
            and (not states or listing.state.lower() in states)
            and (not types or listing.group_type.lower() in types)
        ]
    )


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeGroups; an unknown group is Dead, from version 6 on also 69."""
    groups = []
    for group_id in request.groups:
        if not on_group(context, gateway, Operation.DESCRIBE, group_id):
            denied = events.DescribeReply(error=GROUP_DENIED, state="")
            groups.append(_described(group_id, denied, GROUP_DENIED, None, NO_OPERATIONS))
            continue
        asked = request.include_authorized_operations
        operations = bits(context, gateway, asked, Resource.GROUP, group_id)
        reply = await ask(gateway, group_id, events.DescribeGroup(), events.DescribeReply)
        if isinstance(reply, int):
            reply = events.DescribeReply(error=reply, state="")
        code, message = int(reply.error), None
        if reply.state == "Dead" and context.api_version >= _UNKNOWN_GROUP_VERSION:
            found = f"a {reply.other_type} group" if reply.other_type else "no group"
            code = int(KafkaCode.GROUP_ID_NOT_FOUND)
            message = f"{group_id} is {found}, not a classic one"
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
        code = GROUP_DENIED
        if on_group(context, gateway, Operation.DELETE, group_id):
            reply = await ask(gateway, group_id, events.DeleteGroup(), events.ErrorReply)
            code = int(reply if isinstance(reply, int) else reply.error)
            if code == KafkaCode.GROUP_ID_NOT_FOUND:
                code = int(await delete_group(group_id, gateway))
        results.append(messages.DeletableGroupResult(group_id=group_id, error_code=code))
    return messages.DeleteGroupsResponse(results=results)


HANDLERS: Handlers = {
    10: handle_find_coordinator,
    11: handle_join,
    12: handle_heartbeat,
    13: handle_leave,
    14: handle_sync,
    15: handle_describe,
    16: handle_list,
    42: handle_delete,
}
