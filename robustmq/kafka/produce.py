"""Produce: every batch is checked whole before anything of it is written (protocol guide, Produce;
what is checked stands in `batch_checks`). Answers of this module: acks not -1, 0 or 1 is 21 for
every partition, a topic that the client may not write to 29, a transactional batch of an id that
may not be used (or is not given) 53.

All partitions are handed to the gateway before the first answer is awaited, so that they share a
commit, and so that requests of one connection are appended in the order in which they came: while a
check takes long, the connection serves no later request. acks=0 has no answer: an error closes the
connection, which is how such a producer learns of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from robustmq import names
from robustmq.core import batches
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.batch_checks import Checked, NotHere, check
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import ADDS, VERIFIES, Gateway, ProduceResult
from robustmq.kafka.permissions import on_key
from robustmq.promises import Promise, resolved

TOPIC_ID_VERSION = 13


class _Part(NamedTuple):
    """A partition of the request: its topic's key, its number, what became of its records."""

    key: bytes
    number: int
    outcome: ProduceResult | Checked


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one Produce; None for acks=0."""
    acks = request.acks
    connection = context.connection
    connection.hold()
    try:
        checked = [await _topic(topic, request, context, gateway) for topic in request.topic_data]
        started = [[_start(part, request, context, gateway) for part in parts] for parts in checked]
    finally:
        connection.release()
    responses = []
    failed = False
    for topic, parts, promises in zip(request.topic_data, checked, started, strict=True):
        answers = []
        for part, promise in zip(parts, promises, strict=True):
            answer = await _answer(part.number, promise)
            failed = failed or answer.error_code != 0
            answers.append(answer)
        responses.append(
            messages.TopicProduceResponse(
                name=topic.name, topic_id=topic.topic_id, partition_responses=answers
            )
        )
    if acks == 0:
        if failed:
            raise BrokerError(Fault.PROTOCOL_ERROR, "a batch of an acks=0 Produce was refused")
        return None
    return messages.ProduceResponse(responses=responses)


async def _topic(
    topic: Any, request: Any, context: RequestContext, gateway: Gateway
) -> list[_Part]:
    """Check what came for one topic."""
    key: bytes | None
    if context.api_version >= TOPIC_ID_VERSION:
        key = await _key_of(topic.topic_id, gateway)
    else:
        key = names.from_kafka(topic.name)
    refused = None
    if request.acks not in (-1, 0, 1):
        refused = ProduceResult(
            error=KafkaCode.INVALID_REQUIRED_ACKS, message="acks is not -1, 0 or 1"
        )
    elif key is None:
        refused = ProduceResult(error=KafkaCode.UNKNOWN_TOPIC_ID)
    elif not on_key(context, gateway, Operation.WRITE, key):
        refused = ProduceResult(error=KafkaCode.TOPIC_AUTHORIZATION_FAILED)
    if key is None or refused is not None:
        assert refused is not None, "a topic without a key is refused"
        return [_Part(b"", part.index, refused) for part in topic.partition_data]
    return [
        _Part(key, part.index, await _check(part.records, key, context, gateway))
        for part in topic.partition_data
    ]


async def _key_of(topic_id: UUID, gateway: Gateway) -> bytes | None:
    key = await settled(gateway.key_of_id(topic_id))
    return None if isinstance(key, BrokerError) else key


async def _check(
    records: Any, key: bytes, context: RequestContext, gateway: Gateway
) -> ProduceResult | Checked:
    rules = gateway.produce_rules(key)
    bound = context.connection.limits.max_decompressed_bytes
    now_ms = gateway.timestamp_ms()
    try:
        outcome = check(records, rules, bound, now_ms, here=True)
    except NotHere:
        outcome = await gateway.off_loop(lambda: check(records, rules, bound, now_ms))
    return outcome


def _start(
    part: _Part, request: Any, context: RequestContext, gateway: Gateway
) -> Promise[ProduceResult]:
    outcome = part.outcome
    if isinstance(outcome, ProduceResult):
        gateway.count("kafka_batches_refused")
        return resolved(outcome)
    batch, info = outcome.batch, outcome.info
    transactional_id = None
    if info.attributes & batches.TRANSACTIONAL:
        transactional_id = request.transactional_id
        if transactional_id is None or not gateway.authorized(
            context, Operation.WRITE, Resource.TRANSACTIONAL_ID, transactional_id
        ):
            return resolved(ProduceResult(KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))
    gateway.count("kafka_records_in", info.count)
    gateway.count("kafka_bytes_in", len(batch))
    return gateway.produce(
        part.key,
        part.number,
        batch,
        request.acks,
        request.timeout_ms,
        info,
        transactional_id,
        min(max(context.api_version - 10, VERIFIES), ADDS),
    )


async def _answer(index: int, promise: Promise[ProduceResult]) -> Any:
    result = await settled(promise)
    if isinstance(result, BrokerError):
        result = ProduceResult(error=kafka_code(result), message=result.detail or None)
    return messages.PartitionProduceResponse(
        index=index,
        error_code=int(result.error),
        base_offset=result.base_offset,
        log_append_time_ms=result.log_append_time_ms,
        log_start_offset=result.log_start_offset,
        record_errors=[
            messages.BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=each)
            for index, each in result.record_errors
        ],
        error_message=result.message,
    )


HANDLERS: Handlers = {
    0: handle,
}
