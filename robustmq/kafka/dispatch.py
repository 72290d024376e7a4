"""One frame in, a promise of one response out: the only place that knows which handler serves which
API.

- ApiVersions of an unknown version is answered in version 0 with 35. Any other unknown API or
  version, and anything that cannot be decoded, fails the promise with `BrokerError`: the connection
  closes without an answer.
- The promise is of the response's buffers, the four bytes of its length in front, ready for
  writelines; or of None when the request has no answer (Produce with acks=0).
- A handler is started before `dispatch` returns and runs to its first wait, so requests of a
  connection start in the order in which they came. Keeping the order of answers is the connection's
  part.
"""

from __future__ import annotations

import struct
from typing import Any

from robustmq.errors import BrokerError, Fault
from robustmq.kafka import (
    acls_api,
    api_versions,
    apis,
    codec,
    configs_api,
    consumer_groups_api,
    fetch,
    group_offsets,
    groups_api,
    log_dirs_api,
    markers_api,
    metadata,
    offsets,
    partitions_api,
    produce,
    producers_api,
    quorum_api,
    quotas_api,
    records_api,
    sasl_api,
    share_fetch,
    share_groups_api,
    share_offsets_api,
    telemetry_api,
    throttling,
    topics_api,
    transaction_offsets,
    transactions_api,
    users_api,
)
from robustmq.kafka.context import ConnectionState, Handlers, RequestContext
from robustmq.kafka.gateway import Gateway
from robustmq.promises import Promise, start

LONG_PARTITIONS = 2_000
"""More are encoded on another thread; one takes a microsecond or two."""
Buffers = list[bytes | memoryview]

COUNTERS = (
    "kafka_requests",
    "kafka_requests_refused",
    "kafka_authentications",
    "kafka_telemetry_pushes",
    "kafka_telemetry_refused",
    "kafka_telemetry_bytes",
    "kafka_telemetry_points",
    "kafka_authentications_refused",
    "kafka_records_in",
    "kafka_records_out",
    "kafka_bytes_in",
    "kafka_bytes_out",
    "kafka_batches_refused",
    "kafka_dead_letters",
    "kafka_dead_letters_refused",
)
"""Every counter that the handlers add to."""

_MODULES = (
    acls_api,
    api_versions,
    configs_api,
    consumer_groups_api,
    fetch,
    group_offsets,
    groups_api,
    log_dirs_api,
    markers_api,
    metadata,
    offsets,
    partitions_api,
    produce,
    producers_api,
    quorum_api,
    records_api,
    quotas_api,
    sasl_api,
    share_fetch,
    share_groups_api,
    share_offsets_api,
    telemetry_api,
    topics_api,
    transaction_offsets,
    transactions_api,
    users_api,
)
HANDLERS: Handlers = {
    key: handler for module in _MODULES for key, handler in module.HANDLERS.items()
}


def dispatch(
    frame: bytes, connection: ConnectionState, gateway: Gateway
) -> Promise[Buffers | None]:
    """Serve one request; `frame` is what stands behind the length."""
    sasl = connection.sasl
    if sasl is not None and sasl.wants_tokens:
        return start(sasl_api.serve_token(frame, connection, gateway))
    limiter = gateway.access.limiter
    if limiter is None:
        return start(_serve(frame, connection, gateway))
    began_us = limiter.now_us()
    answer = start(_serve(frame, connection, gateway))
    connection.used_us += limiter.now_us() - began_us
    return answer


async def _serve(frame: bytes, connection: ConnectionState, gateway: Gateway) -> Buffers | None:
    gateway.count("kafka_requests")
    try:
        header = codec.decode_header(frame)
        key, version = header.api_key, header.api_version
        if connection.sasl is not None:
            connection.sasl.admit(key, gateway.now_ms())
        api = apis.APIS.get(key)
        handler = HANDLERS.get(key)
        if api is None or handler is None:
            raise BrokerError(Fault.PROTOCOL_ERROR, f"unknown API key {key}")
        if not api.min_version <= version <= api.max_version:
            if key != api_versions.API_VERSIONS:
                raise BrokerError(Fault.UNSUPPORTED_PROTOCOL_VERSION, f"API {key} v{version}")
            return _encode(key, 0, header.correlation_id, api_versions.unknown_version())
        request = codec.decode_request(
            key, version, frame, header.body_offset, connection.limits.max_array_length
        )
    except BrokerError:
        gateway.count("kafka_requests_refused")
        raise
    context = RequestContext(key, version, header.client_id or "", connection)
    limiter = gateway.access.limiter
    waits_ms = 0
    if limiter is not None:
        waits_ms = throttling.arrived(request, context, len(frame), limiter, gateway.now_ms())
    response = await handler(request, context, gateway)
    if limiter is None:
        if response is None:
            return None
        if _is_long(key, response):
            return await gateway.off_loop(
                lambda: _encode(key, version, header.correlation_id, response)
            )
        return _encode(key, version, header.correlation_id, response)

    def encode() -> Buffers:
        return _encode(key, version, header.correlation_id, response)

    return throttling.charged(response, encode, waits_ms, context, limiter, gateway.now_ms())


def _is_long(api_key: int, response: Any) -> bool:
    """Does an answer tell of so many partitions that to encode it would hold the event loop?"""
    if api_key not in (1, 3):
        return False
    topics = response.responses if api_key == 1 else response.topics
    return sum(len(topic.partitions) for topic in topics) > LONG_PARTITIONS


def _encode(api_key: int, version: int, correlation_id: int, response: Any) -> Buffers:
    head = codec.response_header(api_key, version, correlation_id)
    body = codec.encode_response(api_key, version, response)
    length = len(head) + sum(len(buffer) for buffer in body)
    return [struct.pack(">i", length) + head, *body]
