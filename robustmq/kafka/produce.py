"""Produce: every batch is checked whole before anything of it is written (protocol guide, Produce).

| records | code |
|---|---|
| null, empty, two batches, magic below 2, a control batch, a broken structure | 87 |
| CRC does not match | 2 |
| unknown compression | -1 |
| transactional batch | 48 |
| acks not -1, 0 or 1 (for every partition) | 21 |

All partitions are handed to the gateway before the first answer is awaited, so that they share a commit, and so that
requests of one connection are appended in the order in which they came. acks=0 has no answer: an error closes the
connection, which is how such a producer learns of it.
"""

from __future__ import annotations

import struct
from typing import Any
from uuid import UUID

from robustmq import names
from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.context import RequestContext, kafka_code, settled
from robustmq.kafka.gateway import Gateway, ProduceResult
from robustmq.promises import Promise, resolved

TOPIC_ID_VERSION = 13
_HEADER = 61
_MAGIC = 16
_COMPRESSIONS = 5
_TRANSACTIONAL = 0x10
_CONTROL = 0x20


def check_records(records: bytes | memoryview | None) -> tuple[ProduceResult | None, BatchInfo | None]:
    """Exactly one of both: why the records of a partition are refused, or what was read of their one batch."""
    if records is None or len(records) < _HEADER:
        return _refused(KafkaCode.INVALID_RECORD, "no record batch"), None
    (length,) = struct.unpack_from(">i", records, 8)
    if records[_MAGIC] != 2:
        return _refused(KafkaCode.INVALID_RECORD, "magic is not 2"), None
    if length + 12 != len(records):
        return _refused(KafkaCode.INVALID_RECORD, "not exactly one record batch"), None
    (attributes,) = struct.unpack_from(">h", records, 21)
    if attributes & 7 >= _COMPRESSIONS:
        return _refused(KafkaCode.UNKNOWN_SERVER_ERROR, "unknown compression"), None
    if attributes & _CONTROL:
        return _refused(KafkaCode.INVALID_RECORD, "clients may not write control batches"), None
    if attributes & _TRANSACTIONAL:
        return _refused(KafkaCode.INVALID_TXN_STATE, "no transaction is open"), None
    try:
        info = batches.validate(records, 0, len(records))
    except BrokerError as error:
        code = KafkaCode.INVALID_RECORD
        if error.fault is Fault.CORRUPT_RECORD:
            code = KafkaCode.CORRUPT_MESSAGE
        return _refused(code, error.detail), None
    if info.count <= 0 or info.last_offset_delta != info.count - 1:
        return _refused(KafkaCode.INVALID_RECORD, "record count does not match"), None
    return None, info


def _refused(code: KafkaCode, message: str) -> ProduceResult:
    return ProduceResult(error=code, message=message)


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one Produce; None for acks=0."""
    acks = request.acks
    started: list[tuple[Any, list[tuple[int, Promise[ProduceResult]]]]] = []
    for topic in request.topic_data:
        key: bytes | None
        if context.api_version >= TOPIC_ID_VERSION:
            key = await _key_of(topic.topic_id, gateway)
        else:
            key = names.from_kafka(topic.name)
        partitions = [
            (part.index, _start(key, part.index, part.records, request, gateway))
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
    info = await settled(gateway.topic_by_id(topic_id))
    return None if info is None or isinstance(info, BrokerError) else info.name


def _start(
    key: bytes | None,
    partition: int,
    records: bytes | memoryview | None,
    request: Any,
    gateway: Gateway,
) -> Promise[ProduceResult]:
    if request.acks not in (-1, 0, 1):
        return resolved(_refused(KafkaCode.INVALID_REQUIRED_ACKS, "acks is not -1, 0 or 1"))
    if key is None:
        return resolved(ProduceResult(error=KafkaCode.UNKNOWN_TOPIC_ID))
    refused, info = check_records(records)
    if refused is not None or info is None or records is None:
        gateway.count("kafka_batches_refused")
        assert refused is not None, "records without info are refused"
        return resolved(refused)
    gateway.count("kafka_records_in", info.count)
    gateway.count("kafka_bytes_in", len(records))
    return gateway.produce(key, partition, records, request.acks, request.timeout_ms, info)


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
