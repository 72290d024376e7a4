"""InitProducerId: who a producer is (KIP-98, KIP-360).

An idempotent producer gets an id that was never given out, with epoch 0: ids come in blocks from
the cluster state. With a transactional id its coordinator answers. Two-phase commit (KIP-939) is
not there: who asks for it is refused as by a broker that does not have it enabled.
"""

from __future__ import annotations

from typing import Any

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka import transaction_events as events
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.coordinating import ask, told
from robustmq.kafka.gateway import Gateway

_FENCED_VERSION = 4


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one InitProducerId."""
    refused = _refuse(request, context, gateway)
    if refused:
        return _failed(refused)
    if request.transactional_id is not None:
        return await _transactional(request, context, gateway)
    allocated = await settled(gateway.allocate_producer_id())
    if isinstance(allocated, BrokerError):
        return _failed(kafka_code(allocated))
    producer_id, producer_epoch = allocated
    return messages.InitProducerIdResponse(producer_id=producer_id, producer_epoch=producer_epoch)


def _refuse(request: Any, context: RequestContext, gateway: Gateway) -> int:
    """The error code of a request that no coordinator needs to see, or 0."""
    transactional_id = request.transactional_id
    if transactional_id is None:
        resource, name, operation = Resource.CLUSTER, CLUSTER_NAME, Operation.IDEMPOTENT_WRITE
        if not (
            gateway.authorized(context, operation, resource, name)
            or gateway.access.allowed_somewhere(
                context.connection.asker, Operation.WRITE, Resource.TOPIC
            )
        ):
            return KafkaCode.CLUSTER_AUTHORIZATION_FAILED
    elif not gateway.authorized(
        context, Operation.WRITE, Resource.TRANSACTIONAL_ID, transactional_id
    ):
        return KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    if (request.producer_id == events.NO_PRODUCER_ID) != (
        request.producer_epoch == events.NO_EPOCH
    ):
        return KafkaCode.INVALID_REQUEST
    if transactional_id is None:
        return KafkaCode.NONE
    if not transactional_id:
        return KafkaCode.INVALID_REQUEST
    if request.enable2_pc:
        return KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    return KafkaCode.UNSUPPORTED_VERSION if request.keep_prepared_txn else KafkaCode.NONE


async def _transactional(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    event = events.InitProducerId(
        request.transaction_timeout_ms,
        gateway.timestamp_ms(),
        request.producer_id,
        request.producer_epoch,
    )
    reply = await ask(gateway, request.transactional_id, event, events.ProducerReply)
    code = reply if isinstance(reply, int) else reply.error
    if code or isinstance(reply, int):
        return _failed(told(code, context.api_version, _FENCED_VERSION))
    return messages.InitProducerIdResponse(
        producer_id=reply.producer_id, producer_epoch=reply.producer_epoch
    )


def _failed(code: int) -> Any:
    return messages.InitProducerIdResponse(error_code=int(code), producer_id=-1, producer_epoch=-1)


HANDLERS: Handlers = {
    22: handle,
}
