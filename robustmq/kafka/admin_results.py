"""The outcomes of changes to the cluster, as the handlers of administration make them."""

from __future__ import annotations

from robustmq.errors import BrokerError
from robustmq.kafka.context import kafka_code
from robustmq.kafka.gateway import AdminResult


def refuse(code: int, message: str) -> AdminResult:
    """A refusal with Kafka's code and a message for people."""
    return AdminResult(error=int(code), message=message)


def outcome(result: AdminResult | BrokerError) -> AdminResult:
    """What became of a change, or of the way to whoever decides it."""
    if isinstance(result, BrokerError):
        return refuse(kafka_code(result), str(result))
    return result
