"""InitProducerId for idempotent producers (KIP-98). Ids come in blocks from the cluster state and
are never reused.

Transactions are not offered (their APIs are not in ApiVersions), so a transactional id is refused
with 42 and says so.
"""

from __future__ import annotations

from typing import Any

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import Gateway


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one InitProducerId: a fresh id with epoch 0."""
    if request.transactional_id is not None:
        return _failed(KafkaCode.INVALID_REQUEST)
    allocated = await settled(gateway.allocate_producer_id())
    if isinstance(allocated, BrokerError):
        return _failed(kafka_code(allocated))
    producer_id, producer_epoch = allocated
    return messages.InitProducerIdResponse(producer_id=producer_id, producer_epoch=producer_epoch)


def _failed(code: int) -> Any:
    return messages.InitProducerIdResponse(error_code=int(code), producer_id=-1, producer_epoch=-1)


HANDLERS: Handlers = {
    22: handle,
}
