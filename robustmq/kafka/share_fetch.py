"""ShareFetch and ShareAcknowledge: records for the members of share groups, and what became of them
(KIP-932; KIP-1206 acquire modes, KIP-1222 renewal).

- Acknowledgements that come with a fetch are done first; their answer comes with the fetch's, when
  all of it is committed.
- A fetch that finds nothing waits for an append, a lock that is released, or its time; it holds
  nothing meanwhile but its list of partitions.
- Any worker answers for all partitions. Clients go to the leader, where it costs no hop.
- A member is whoever says so: as in Kafka the group's coordinator is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.fetch import MAX_WAIT_MS
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.permissions import on_key
from robustmq.kafka.share_events import (
    RENEW,
    Acknowledge,
    AcknowledgementBatch,
    ReleaseMember,
    ShareKey,
)
from robustmq.kafka.share_gateway import ShareFetched, ShareRead, ShareWanted
from robustmq.kafka.share_sessions import FINAL_EPOCH, INITIAL_EPOCH, ShareSession, update
from robustmq.promises import Promise, start

WAIT_SLICE_MS = 2_000
"""A wait at another worker is asked for again this often: it does not hear that its client went."""
_MESSAGES: dict[int, str] = {
    KafkaCode.GROUP_AUTHORIZATION_FAILED: "Not authorized to access the group.",
    KafkaCode.SHARE_SESSION_NOT_FOUND: "The share session was not found.",
    KafkaCode.INVALID_SHARE_SESSION_EPOCH: "The share session epoch is not the one expected.",
    KafkaCode.SHARE_SESSION_LIMIT_REACHED: "The limit of share sessions has been reached.",
    KafkaCode.INVALID_RECORD_STATE: "The records are not acquired by this member.",
    KafkaCode.INVALID_REQUEST: "The request is not valid.",
}


class _Target(msgspec.Struct):
    """A partition of the request: where it is, and what became of it."""

    topic_id: UUID
    partition: int
    key: ShareKey | None = None
    error: int = 0
    acknowledgements: list[Any] = []
    acknowledged: int = 0
    read: ShareRead = ShareRead()


# ShareFetch


async def handle_fetch(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ShareFetch."""
    error = _refused(request, context, gateway)
    acknowledges = any(
        part.acknowledgement_batches for topic in request.topics for part in topic.partitions
    )
    if request.is_renew_ack and (
        request.max_bytes or request.min_bytes or request.max_records or request.max_wait_ms
    ):
        error = error or KafkaCode.INVALID_REQUEST
    if acknowledges and request.share_session_epoch == INITIAL_EPOCH:
        error = error or KafkaCode.INVALID_REQUEST
    session = error or _session(request, context, gateway)
    if not isinstance(session, ShareSession):
        return messages.ShareFetchResponse(
            error_code=int(session), error_message=_message(session), responses=[]
        )
    targets = await _targets(request, context, gateway)
    forgotten = [
        ShareKey(request.group_id, key, topic.topic_id, number)
        for topic in request.forgotten_topics_data
        if (key := await _key(topic.topic_id, gateway)) is not None
        for number in topic.partitions
    ]
    wanted = [one.key for one in targets if one.key is not None and not one.error]
    update(session, wanted, forgotten)
    acknowledged = _acknowledge(targets, request, gateway)
    if request.share_session_epoch != FINAL_EPOCH and not request.is_renew_ack:
        fetched = await _fetch(request, session, context, gateway)
    else:
        fetched = {}
    await acknowledged
    await _settle_session(request, session, context, gateway)
    return _fetch_response(request, targets, fetched, gateway)


async def _fetch(
    request: Any, session: ShareSession, context: RequestContext, gateway: Gateway
) -> dict[ShareKey, ShareRead]:
    """What the member is given, at once or after a wait."""
    keys = list(session.partitions)
    if keys:
        session.partitions.move_to_end(keys[0])
    deadline_ms = gateway.now_ms() + min(max(request.max_wait_ms, 0), MAX_WAIT_MS)
    max_bytes = min(max(request.max_bytes, 0), context.connection.limits.max_fetch_bytes)
    while True:
        left_ms = deadline_ms - gateway.now_ms()
        wanted = ShareWanted(
            request.group_id,
            request.member_id,
            [],
            max_bytes,
            min(request.min_bytes, max_bytes),
            request.max_records,
            request.share_acquire_mode,
            left_ms <= 0,
        )
        found = await settled(gateway.share.acquire(keys, wanted))
        if isinstance(found, BrokerError):
            return {key: ShareRead(kafka_code(found)) for key in keys}
        done = any(read.acquired or read.error for read in found.reads.values())
        if done or left_ms <= 0 or context.connection.closed:
            return _counted(found, gateway)
        if keys:
            waiting = gateway.share.wait(keys, found.seen, min(left_ms, WAIT_SLICE_MS))
        else:
            waiting = gateway.wait_for_append([], left_ms)
        # A wait ends with its client: one that nobody waits for would be woken in another's place.
        on_close = context.connection.on_close
        on_close[waiting] = partial(waiting.resolve, None)
        await settled(waiting)
        on_close.pop(waiting, None)


def _counted(found: ShareFetched, gateway: Gateway) -> dict[ShareKey, ShareRead]:
    buffers = [buffer for read in found.reads.values() for buffer in read.buffers]
    if buffers:
        gateway.count("kafka_bytes_out", sum(len(buffer) for buffer in buffers))
        gateway.count("kafka_records_out", sum(batches.count_records(one) for one in buffers))
    return dict(found.reads)


def _fetch_response(
    request: Any, targets: list[_Target], fetched: dict[ShareKey, ShareRead], gateway: Gateway
) -> Any:
    """What has something to say: in the first answer of a session every partition asked for."""
    told = {(one.topic_id, one.partition): one for one in targets}
    for key, read in fetched.items():
        place = (key.topic_id, key.partition)
        if place not in told and (read.acquired or read.error):
            told[place] = _Target(key.topic_id, key.partition, key)
        if place in told and not told[place].error:
            told[place].read = read
    topics: dict[UUID, list[Any]] = {}
    for one in told.values():
        whole = request.share_session_epoch == INITIAL_EPOCH or one.acknowledgements
        if whole or one.error or one.read.error or one.read.acquired:
            topics.setdefault(one.topic_id, []).append(_fetched_partition(one))
    return messages.ShareFetchResponse(
        acquisition_lock_timeout_ms=gateway.share.lock_duration_ms(request.group_id),
        responses=[
            messages.ShareFetchableTopicResponse(topic_id=topic_id, partitions=partitions)
            for topic_id, partitions in topics.items()
        ],
        node_endpoints=[],
    )


def _fetched_partition(one: _Target) -> Any:
    error = int(one.error or one.read.error)
    acknowledged = int(one.error or one.acknowledged) if one.acknowledgements else 0
    return messages.ShareFetchPartitionData(
        partition_index=one.partition,
        error_code=error,
        error_message=_message(error),
        acknowledge_error_code=acknowledged,
        acknowledge_error_message=_message(acknowledged),
        current_leader=messages.ShareFetchLeaderIdAndEpoch(leader_id=-1, leader_epoch=-1),
        records=one.read.buffers,
        acquired_records=[
            messages.AcquiredRecords(
                first_offset=run.first, last_offset=run.last, delivery_count=run.delivery_count
            )
            for run in one.read.acquired
        ],
    )


# ShareAcknowledge


async def handle_acknowledge(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ShareAcknowledge."""
    error = _refused(request, context, gateway)
    if request.share_session_epoch == INITIAL_EPOCH:
        error = error or KafkaCode.INVALID_SHARE_SESSION_EPOCH
    session = error or _session(request, context, gateway)
    if not isinstance(session, ShareSession):
        return messages.ShareAcknowledgeResponse(
            error_code=int(session), error_message=_message(session), responses=[]
        )
    targets = await _targets(request, context, gateway)
    await _acknowledge(targets, request, gateway)
    await _settle_session(request, session, context, gateway)
    topics: dict[UUID, list[Any]] = {}
    for one in targets:
        code = int(one.error or one.acknowledged)
        topics.setdefault(one.topic_id, []).append(
            messages.ShareAcknowledgePartitionData(
                partition_index=one.partition,
                error_code=code,
                error_message=_message(code),
                current_leader=messages.ShareAcknowledgeLeaderIdAndEpoch(
                    leader_id=-1, leader_epoch=-1
                ),
            )
        )
    return messages.ShareAcknowledgeResponse(
        acquisition_lock_timeout_ms=gateway.share.lock_duration_ms(request.group_id),
        responses=[
            messages.ShareAcknowledgeTopicResponse(topic_id=topic_id, partitions=partitions)
            for topic_id, partitions in topics.items()
        ],
        node_endpoints=[],
    )


# What both have in common


def _refused(request: Any, context: RequestContext, gateway: Gateway) -> int:
    if not request.group_id or not request.member_id:
        return KafkaCode.INVALID_REQUEST
    if not gateway.authorized(context, Operation.READ, Resource.GROUP, request.group_id):
        return KafkaCode.GROUP_AUTHORIZATION_FAILED
    return KafkaCode.NONE


def _message(error: int) -> str | None:
    return _MESSAGES.get(error)


def _session(request: Any, context: RequestContext, gateway: Gateway) -> ShareSession | int:
    """The session of a request, or an error code. A connection that closes ends its sessions."""
    name = (request.group_id, request.member_id)
    sessions = gateway.share.sessions
    if request.share_session_epoch != INITIAL_EPOCH:
        return sessions.find(name, request.share_session_epoch)
    session = sessions.open(name, context.connection)
    if isinstance(session, ShareSession):
        opened = session

        def gone() -> None:
            if sessions.close(opened):
                start(_release(opened, gateway))

        context.connection.on_close[name] = gone
    return session


async def _targets(request: Any, context: RequestContext, gateway: Gateway) -> list[_Target]:
    found = []
    for topic in request.topics:
        key = await _key(topic.topic_id, gateway)
        error = KafkaCode.UNKNOWN_TOPIC_ID if key is None else KafkaCode.NONE
        if key is not None and not on_key(context, gateway, Operation.READ, key):
            error = KafkaCode.TOPIC_AUTHORIZATION_FAILED
        for part in topic.partitions:
            target = _Target(topic.topic_id, part.partition_index, error=error)
            if key is not None:
                number = part.partition_index
                target.key = ShareKey(request.group_id, key, topic.topic_id, number)
            target.acknowledgements = part.acknowledgement_batches
            found.append(target)
    return found


async def _key(topic_id: UUID, gateway: Gateway) -> bytes | None:
    key = await settled(gateway.key_of_id(topic_id))
    return None if isinstance(key, BrokerError) else key


def _acknowledge(targets: Iterable[_Target], request: Any, gateway: Gateway) -> Promise[None]:
    """Begin what is to be acknowledged; settles when all of it is committed."""
    begun: list[tuple[_Target, Promise[int]]] = []
    for one in targets:
        if not one.acknowledgements or one.error or one.key is None:
            continue
        converted = _batches(one.acknowledgements, request.is_renew_ack)
        if isinstance(converted, int):
            one.acknowledged = converted
        else:
            event = Acknowledge(request.member_id, converted)
            begun.append((one, gateway.share.tell(one.key, event)))
    return start(_acknowledged(begun))


async def _acknowledged(begun: list[tuple[_Target, Promise[int]]]) -> None:
    for one, promise in begun:
        outcome = await settled(promise)
        one.acknowledged = kafka_code(outcome) if isinstance(outcome, BrokerError) else outcome


def _batches(given: list[Any], renewing: bool) -> list[AcknowledgementBatch] | int:
    """The batches of one partition, or an error code when they are not as the protocol has them;
    a record that is named twice is not acquired the second time.
    """
    converted = []
    behind = -1
    for batch in given:
        types = batch.acknowledge_types
        size = batch.last_offset - batch.first_offset + 1
        if batch.first_offset < behind or size <= 0 or len(types) not in (1, size):
            return int(KafkaCode.INVALID_REQUEST)
        if not all(0 <= kind < RENEW or (kind == RENEW and renewing) for kind in types):
            return int(KafkaCode.INVALID_REQUEST)
        if batch.first_offset == behind:
            return int(KafkaCode.INVALID_RECORD_STATE)
        behind = batch.last_offset
        converted.append(AcknowledgementBatch(batch.first_offset, batch.last_offset, bytes(types)))
    return converted


async def _settle_session(
    request: Any, session: ShareSession, context: RequestContext, gateway: Gateway
) -> None:
    """A session that is over, or whose client is gone, holds nothing."""
    if request.share_session_epoch == FINAL_EPOCH:
        gateway.share.sessions.close(session)
        context.connection.on_close.pop(session.name, None)
        await _release(session, gateway)
    elif context.connection.closed:
        await _release(session, gateway)


async def _release(session: ShareSession, gateway: Gateway) -> None:
    told = [gateway.share.tell(key, ReleaseMember(session.name[1])) for key in session.touched]
    for promise in told:
        await settled(promise)


HANDLERS: Handlers = {78: handle_fetch, 79: handle_acknowledge}
