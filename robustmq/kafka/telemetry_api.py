"""GetTelemetrySubscriptions and PushTelemetry (KIP-714). What is decided is in
robustmq.kafka.telemetry.

Without a subscription a client is told to push nothing, and to ask again in five minutes.

| push | code |
|---|---|
| an instance id that is zero; another push after the last one | 42 |
| another subscription id than what is asked of the client now | 117 |
| sooner than it was told to | 89 |
| more than 1 MiB | 118 |
| an unknown compression | 76 |
| not sound, or no OTLP | 87 |
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.config_resources import CLIENT_METRICS
from robustmq.kafka.context import Handlers, RequestContext
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.telemetry import (
    COMPRESSIONS,
    MAX_BYTES,
    MAX_PLAIN_BYTES,
    Subscribed,
    count_points,
    subscription_for,
)

NOBODY = UUID(int=0)


async def handle_get(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one GetTelemetrySubscriptions."""
    instance_id = request.client_instance_id
    if instance_id == NOBODY:
        instance_id = UUID(gateway.unique_id())
    subscribed = _subscribed(instance_id, context, gateway)
    error = gateway.telemetry.asks(instance_id, subscribed, gateway.now_ms())
    return messages.GetTelemetrySubscriptionsResponse(
        error_code=error,
        client_instance_id=instance_id,
        subscription_id=subscribed.subscription_id,
        accepted_compression_types=list(COMPRESSIONS),
        push_interval_ms=subscribed.interval_ms,
        telemetry_max_bytes=MAX_BYTES,
        delta_temporality=True,
        requested_metrics=list(subscribed.metrics),
    )


async def handle_push(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one PushTelemetry."""
    error = _push(request, context, gateway)
    if error:
        gateway.count("kafka_telemetry_refused")
    return messages.PushTelemetryResponse(error_code=error)


def _push(request: Any, context: RequestContext, gateway: Gateway) -> int:
    instance_id = request.client_instance_id
    if instance_id == NOBODY:
        return int(KafkaCode.INVALID_REQUEST)
    subscribed = _subscribed(instance_id, context, gateway)
    data = bytes(request.metrics)
    if len(data) > MAX_BYTES:
        return int(KafkaCode.TELEMETRY_TOO_LARGE)
    if request.compression_type not in (0, *COMPRESSIONS):
        return int(KafkaCode.UNSUPPORTED_COMPRESSION_TYPE)
    error = gateway.telemetry.pushes(
        instance_id, subscribed, request.subscription_id, request.terminating, gateway.now_ms()
    )
    if error:
        return error
    try:
        plain = data
        if data and request.compression_type:
            plain = batches.decompress(data, request.compression_type, MAX_PLAIN_BYTES)
        points = count_points(plain)
    except BrokerError:
        return int(KafkaCode.INVALID_RECORD)
    gateway.count("kafka_telemetry_pushes")
    gateway.count("kafka_telemetry_bytes", len(data))
    gateway.count("kafka_telemetry_points", points)
    return 0


def _subscribed(instance_id: UUID, context: RequestContext, gateway: Gateway) -> Subscribed:
    connection = context.connection
    client = {
        "client_instance_id": str(instance_id),
        "client_id": context.client_id,
        "client_software_name": connection.client_software_name,
        "client_software_version": connection.client_software_version,
        "client_source_address": connection.client_host,
        "client_source_port": str(connection.client_port),
    }
    names = gateway.resource_names(CLIENT_METRICS)
    settings = [gateway.resource_configs(CLIENT_METRICS, name) for name in names]
    return subscription_for(instance_id, client, settings)


HANDLERS: Handlers = {71: handle_get, 72: handle_push}
