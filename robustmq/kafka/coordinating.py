"""How handlers ask the coordinator of a transactional id (robustmq.groups.transactions), and what a
client of some version is told of its answer.

An owner that cannot be reached is 15 COORDINATOR_NOT_AVAILABLE, so that clients ask again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import transaction_events as events
from robustmq.kafka.context import settled
from robustmq.kafka.gateway import TRANSACTION, Gateway
from robustmq.promises import Promise, start

Reply = TypeVar("Reply")

PATIENCE_MS = 100
"""How long the first partition of a transaction waits for the end of the one before: the producer
was told of that end before every partition had its marker."""


async def ask(
    gateway: Gateway,
    transactional_id: str,
    event: events.TransactionEvent,
    kind: type[Reply],
) -> Reply | int:
    """The coordinator's reply, or an error code that stands for all of it."""
    if not transactional_id:
        return int(KafkaCode.INVALID_REQUEST)
    promise: Promise[events.TransactionReply] = start(_call(gateway, transactional_id, event))
    return await reply_of(promise, kind)


async def reply_of(promise: Awaitable[Any], kind: type[Reply]) -> Reply | int:
    """The reply of a coordinator, or the error code of one that is away."""
    reply = await settled(promise)
    if isinstance(reply, BrokerError):
        return int(KafkaCode.COORDINATOR_NOT_AVAILABLE)
    assert isinstance(reply, kind), "a coordinator answers an event with its own reply"
    return reply


async def _call(
    gateway: Gateway, transactional_id: str, event: events.TransactionEvent
) -> events.TransactionReply:
    """Also gives out a producer id where the coordinator needs one."""
    reply: events.TransactionReply = await gateway.machine(TRANSACTION, transactional_id, event)
    if isinstance(reply, events.NeedsProducerId):
        assert isinstance(event, events.InitProducerId | events.EndTransaction), "these need one"
        producer_id, _ = await gateway.allocate_producer_id()
        event = msgspec.structs.replace(event, new_producer_id=producer_id)
        reply = await gateway.machine(TRANSACTION, transactional_id, event)
    return reply


def told(code: int, version: int, fenced_from: int) -> int:
    """An error code as a client of a version knows it: PRODUCER_FENCED is younger than the APIs."""
    if code == KafkaCode.PRODUCER_FENCED and version < fenced_from:
        return int(KafkaCode.INVALID_PRODUCER_EPOCH)
    return int(code)
