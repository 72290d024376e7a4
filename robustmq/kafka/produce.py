"""Produce: every batch is checked whole before anything of it is written (protocol guide, Produce).

| records | code |
|---|---|
| null, empty, two batches, magic below 2, a control batch, a broken structure | 87 |
| CRC does not match | 2 |
| unknown compression | -1 |
| a producer id without a sequence, a transactional batch without a producer id | 87 |
| transactional batch of a transactional id that may not be used (or is not given) | 53 |
| a topic that the client may not write to | 29 |
| acks not -1, 0 or 1 (for every partition) | 21 |

All partitions are handed to the gateway before the first answer is awaited, so that they share a
commit, and so that requests of one connection are appended in the order in which they came. acks=0
has no answer: an error closes the connection, which is how such a producer learns of it.
"""

from __future__ import annotations

import struct
from array import array
from typing import Any
from uuid import UUID

from robustmq import names
from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import ADDS, VERIFIES, Gateway, ProduceResult
from robustmq.kafka.permissions import on_key
from robustmq.promises import Promise, resolved

TOPIC_ID_VERSION = 13
_HEADER = 61
_MAGIC = 16
_ZSTD = 4
_SLICE = 1024
"""Records that are looked at with one offset table."""


def check_records(records: bytes | None, max_decompressed: int) -> ProduceResult | BatchInfo:
    """What was read of the one batch of a partition, or why its records are refused."""
    if records is None or len(records) < _HEADER:
        return _refused(KafkaCode.INVALID_RECORD, "no record batch")
    (length,) = struct.unpack_from(">i", records, 8)
    if records[_MAGIC] != 2:
        return _refused(KafkaCode.INVALID_RECORD, "magic is not 2")
    if length + 12 != len(records):
        return _refused(KafkaCode.INVALID_RECORD, "not exactly one record batch")
    try:
        info = batches.validate(records, 0, len(records))
        if not info.crc_ok:
            return _refused(KafkaCode.CORRUPT_MESSAGE, "the checksum is wrong")
        if info.attributes & batches.COMPRESSION_MASK > _ZSTD:
            return _refused(KafkaCode.UNKNOWN_SERVER_ERROR, "unknown compression")
        if info.attributes & batches.CONTROL:
            return _refused(KafkaCode.INVALID_RECORD, "clients may not write control batches")
        if info.producer_id >= 0 and info.base_sequence < 0:
            return _refused(KafkaCode.INVALID_RECORD, "a producer id without a sequence")
        if info.producer_id < 0 and info.attributes & batches.TRANSACTIONAL:
            return _refused(KafkaCode.INVALID_RECORD, "a transactional batch without a producer")
        _check_structure(records, info, max_decompressed)
    except BrokerError as error:
        return _refused(KafkaCode.INVALID_RECORD, error.detail)
    return info


def _check_structure(records: bytes, info: BatchInfo, max_decompressed: int) -> None:
    """Every record is whole, numbered 0, 1, 2, ... and there are as many as the header says."""
    if info.count <= 0 or info.last_offset_delta != info.count - 1:
        raise BrokerError(Fault.CORRUPT_RECORD, "the header's counts do not match")
    body, begin = records, batches.HEADER_SIZE
    compression = info.attributes & batches.COMPRESSION_MASK
    if compression:
        body = batches.decompress(records[begin:], compression, max_decompressed)
        begin = 0
    table = array("i", bytes(4 * batches.RECORD_ROW * min(info.count, _SLICE)))
    found = 0
    while begin < len(body):
        rows = batches.scan_records(body, begin, len(body), table)
        last = (rows - 1) * batches.RECORD_ROW
        if table[last + 7] != found + rows - 1:
            raise BrokerError(Fault.CORRUPT_RECORD, "records are not numbered in order")
        found += rows
        begin = table[last + 6]
    if found != info.count:
        raise BrokerError(Fault.CORRUPT_RECORD, "the header's count is wrong")


def _refused(code: KafkaCode, message: str) -> ProduceResult:
    return ProduceResult(error=code, message=message)


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one Produce; None for acks=0."""
    acks = request.acks
    bound = context.connection.limits.max_decompressed_bytes
    started: list[tuple[Any, list[tuple[int, Promise[ProduceResult]]]]] = []
    for topic in request.topic_data:
        key: bytes | None
        if context.api_version >= TOPIC_ID_VERSION:
            key = await _key_of(topic.topic_id, gateway)
        else:
            key = names.from_kafka(topic.name)
        partitions = [
            (part.index, _start(key, part.index, part.records, request, context, gateway, bound))
            for part in topic.partition_data
        ]
        started.append((topic, partitions))
    responses = []
    failed = False
    for topic, partitions in started:
        answers = []
        for index, promise in partitions:
            answer = await _answer(index, promise)
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


async def _key_of(topic_id: UUID, gateway: Gateway) -> bytes | None:
    key = await settled(gateway.key_of_id(topic_id))
    return None if isinstance(key, BrokerError) else key


def _start(
    key: bytes | None,
    partition: int,
    records: bytes | memoryview | None,
    request: Any,
    context: RequestContext,
    gateway: Gateway,
    max_decompressed: int,
) -> Promise[ProduceResult]:
    if request.acks not in (-1, 0, 1):
        return resolved(_refused(KafkaCode.INVALID_REQUIRED_ACKS, "acks is not -1, 0 or 1"))
    if key is None:
        return resolved(ProduceResult(error=KafkaCode.UNKNOWN_TOPIC_ID))
    if not on_key(context, gateway, Operation.WRITE, key):
        return resolved(ProduceResult(error=KafkaCode.TOPIC_AUTHORIZATION_FAILED))
    batch = None if records is None else bytes(records)
    info = check_records(batch, max_decompressed)
    if batch is None or isinstance(info, ProduceResult):
        gateway.count("kafka_batches_refused")
        assert isinstance(info, ProduceResult), "records that are not there are refused"
        return resolved(info)
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
        key,
        partition,
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
        error_message=result.message,
    )


HANDLERS: Handlers = {
    0: handle,
}
