"""Fetch: whole stored batches, at once or after a wait (protocol guide, Fetch; KIP-74 sizes,
KIP-227 sessions).

- The first batch found always goes whole, however small the bounds; after it the response bound is
  kept.
- A partition's error, or min_bytes reached, answers at once. Else the request waits for an append
  behind what it saw; it holds nothing meanwhile but its own list of partitions, and ends with its
  connection.
- What cannot be read, and was asked for by the connection's last Fetch, too, answers no sooner than
  an empty partition: some clients (aiokafka) ask for it again at once, and go on so.
- Records that are in the object store and not at hand are waited for like appends, and never keep
  others back: what is there is answered. When nothing is, the wait for them is at least
  `COLD_WAIT_MS` (as Apache Kafka's remote.fetch.max.wait.ms); they go on coming when it ends, and
  are there when the client asks again.
- In an incremental session only partitions with records, errors or moved offsets are answered, and
  those served go to the end of the order, so that a small bound starves none.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from robustmq import names
from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation
from robustmq.kafka.context import ConnectionState, Handlers, RequestContext, settled
from robustmq.kafka.fetch_sessions import FetchPartition, Opened, PartitionKey
from robustmq.kafka.gateway import AppendWait, Gateway, PartitionRead, ReadResult
from robustmq.kafka.permissions import on_key
from robustmq.promises import Promise, tie

TOPIC_ID_VERSION = 13
MAX_WAIT_MS = 300_000
SLICE = 500
"""Partitions that are gone through between two breaths of the event loop."""
COLD_WAIT_MS = 500
WAIT_SLICE = 1_000
"""Partitions that one wait is for."""
_UNREADABLE = (KafkaCode.CORRUPT_MESSAGE, KafkaCode.KAFKA_STORAGE_ERROR)
_LEADER_ERRORS = (KafkaCode.NOT_LEADER_OR_FOLLOWER, KafkaCode.FENCED_LEADER_EPOCH)


_NOTHING = ReadResult()


class _Target(msgspec.Struct):
    """A partition of the request, its topic's key (None: not to be read), and what was read."""

    wanted: FetchPartition
    topic: bytes | None
    result: ReadResult


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one Fetch."""
    by_id = context.api_version >= TOPIC_ID_VERSION
    opened = gateway.fetch_sessions.open(
        request.session_id,
        request.session_epoch,
        _wanted(request, by_id),
        _forgotten(request, by_id),
        gateway.now_ms(),
    )
    if opened.error:
        return messages.FetchResponse(error_code=int(opened.error), session_id=0, responses=[])
    targets = await _targets(opened, context, gateway)
    isolation = request.isolation_level
    max_bytes = min(max(request.max_bytes, 0), context.connection.limits.max_fetch_bytes)
    began_ms = gateway.now_ms()
    wait_ms = min(max(request.max_wait_ms, 0), MAX_WAIT_MS)
    while True:
        size = await _read_all(targets, max_bytes, isolation, gateway)
        cold = not size and any(target.result.pending for target in targets)
        left_ms = began_ms + max(wait_ms, COLD_WAIT_MS if cold else 0) - gateway.now_ms()
        read = [target for target in targets if not target.result.error]
        failed = len(read) < len(targets) and not _asked_again(targets, context.connection)
        enough = size >= request.min_bytes and not cold
        if enough or failed or left_ms <= 0 or not targets:
            break
        if not await _woken(read, isolation, left_ms, context, gateway):
            break
    context.connection.unreadable = _unreadable(targets) if len(read) < len(targets) else {}
    gateway.count("kafka_bytes_out", size)
    if size:
        buffers = [buffer for target in targets for buffer in target.result.buffers]
        gateway.count("kafka_records_out", sum(batches.count_records(one) for one in buffers))
    return await _response(opened, targets, isolation, gateway)


def _unreadable(targets: list[_Target]) -> dict[PartitionKey, int]:
    """The offsets that cannot be read."""
    lost = (target.wanted for target in targets if target.result.error in _UNREADABLE)
    return {wanted.key: wanted.offset for wanted in lost}


def _asked_again(targets: list[_Target], connection: ConnectionState) -> bool:
    """Was the client told of all that fails here already?"""
    failed = {target.wanted.key for target in targets if target.result.error}
    lost = _unreadable(targets)
    return failed == lost.keys() and lost.items() <= connection.unreadable.items()


async def _woken(
    targets: list[_Target],
    isolation: int,
    left_ms: int,
    context: RequestContext,
    gateway: Gateway,
) -> bool:
    """Park the request until there is more to read, or its time is over; False when its client is
    gone, which ends the waits."""
    connection = context.connection
    woken: Promise[None] = Promise()
    connection.on_close[woken] = lambda: woken.resolve(None)
    for begin in range(0, max(len(targets), 1), WAIT_SLICE):
        if begin:
            await gateway.breathe()
        if woken.settled or connection.closed:
            break
        waits = [_wait(target, isolation) for target in targets[begin : begin + WAIT_SLICE]]
        # One wait that is over ends all.
        tie(woken, gateway.wait_for_append(waits, left_ms))
    if not connection.closed:
        await woken
    connection.on_close.pop(woken, None)
    return not connection.closed


def _wait(target: _Target, isolation: int) -> AppendWait:
    """What a partition that was read is waited for: more than its reader can see, or what is not
    at hand."""
    assert target.topic is not None, "a topic that is not known is not waited for"
    result, wanted = target.result, target.wanted
    seen = result.last_stable_offset if isolation else result.high_watermark
    if result.pending:
        return AppendWait(
            target.topic, wanted.key[1], seen, isolation, wanted.offset, max(wanted.max_bytes, 1)
        )
    return AppendWait(target.topic, wanted.key[1], seen, isolation)


def _wanted(request: Any, by_id: bool) -> list[FetchPartition]:
    return [
        FetchPartition(
            (topic.topic_id if by_id else topic.topic, part.partition),
            part.fetch_offset,
            part.partition_max_bytes,
            part.current_leader_epoch,
        )
        for topic in request.topics
        for part in topic.partitions
    ]


def _forgotten(request: Any, by_id: bool) -> list[PartitionKey]:
    return [
        (topic.topic_id if by_id else topic.topic, partition)
        for topic in request.forgotten_topics_data
        for partition in topic.partitions
    ]


async def _targets(opened: Opened, context: RequestContext, gateway: Gateway) -> list[_Target]:
    """The partitions with the keys of their topics; each topic is looked up once."""
    keys: dict[str | UUID, bytes | int] = {}
    targets = []
    for index, wanted in enumerate(opened.partitions):
        key = keys.get(wanted.key[0])
        if key is None:
            key = keys[wanted.key[0]] = await _key(wanted.key[0], context, gateway)
        if isinstance(key, bytes):
            targets.append(_Target(wanted, key, _NOTHING))
        else:
            targets.append(_Target(wanted, None, ReadResult(error=key)))
        if index % SLICE == SLICE - 1:
            await gateway.breathe()
    return targets


async def _key(name: str | UUID, context: RequestContext, gateway: Gateway) -> bytes | int:
    """The key of a topic, or the error of all its partitions."""
    if isinstance(name, UUID):
        key = await settled(gateway.key_of_id(name))
        if key is None or isinstance(key, BrokerError):
            return int(KafkaCode.UNKNOWN_TOPIC_ID)
    else:
        key = names.from_kafka(name)
    if not on_key(context, gateway, Operation.READ, key):
        return int(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
    return key


async def _read_all(
    targets: list[_Target], max_bytes: int, isolation: int, gateway: Gateway
) -> int:
    """Read every partition within the response's bound; the bytes found."""
    readable = [target for target in targets if target.topic is not None]
    reads = [
        PartitionRead(
            target.topic or b"",
            target.wanted.key[1],
            target.wanted.offset,
            target.wanted.max_bytes,
            target.wanted.leader_epoch,
        )
        for target in readable
    ]
    size = 0
    for target, result in zip(
        readable, await gateway.read_all(reads, max_bytes, isolation), strict=True
    ):
        target.result = result
        if result.buffers:
            size += sum(map(len, result.buffers))
    return size


async def _response(
    opened: Opened, targets: list[_Target], isolation: int, gateway: Gateway
) -> Any:
    topics: dict[str | UUID, list[Any]] = {}
    served = []
    for index, target in enumerate(targets):
        result, wanted = target.result, target.wanted
        told = (result.high_watermark, result.last_stable_offset, result.log_start_offset)
        quiet = not result.buffers and not result.error and told == wanted.told
        wanted.told = (-1, -1, -1) if result.error else told
        if result.buffers:
            served.append(wanted.key)
        if not (opened.incremental and quiet):
            topics.setdefault(wanted.key[0], []).append(_partition(target, isolation))
        if index % SLICE == SLICE - 1:
            await gateway.breathe()
    if opened.session is not None:
        gateway.fetch_sessions.served(opened.session, served)
    return messages.FetchResponse(
        session_id=opened.session_id,
        responses=[_topic(name, partitions) for name, partitions in topics.items()],
    )


def _topic(name: str | UUID, partitions: list[Any]) -> Any:
    if isinstance(name, UUID):
        return messages.FetchableTopicResponse(topic_id=name, partitions=partitions)
    return messages.FetchableTopicResponse(topic=name, partitions=partitions)


def _partition(target: _Target, isolation: int) -> Any:
    result = target.result
    aborted = None
    if isolation:
        aborted = [
            messages.AbortedTransaction(
                producer_id=transaction.producer_id, first_offset=transaction.first_offset
            )
            for transaction in result.aborted
        ]
    answer = messages.PartitionData(
        partition_index=target.wanted.key[1],
        error_code=int(result.error),
        high_watermark=result.high_watermark,
        last_stable_offset=result.last_stable_offset,
        log_start_offset=result.log_start_offset,
        aborted_transactions=aborted,
        records=result.buffers,
    )
    if result.error in _LEADER_ERRORS and result.leader >= 0:
        answer.current_leader = messages.LeaderIdAndEpoch(
            leader_id=result.leader, leader_epoch=result.leader_epoch
        )
    return answer


HANDLERS: Handlers = {
    1: handle,
}
