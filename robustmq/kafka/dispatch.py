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
from collections.abc import Awaitable, Callable
from typing import Any

from robustmq.errors import BrokerError, Fault
from robustmq.kafka import (
    api_versions,
    apis,
    codec,
    configs_api,
    fetch,
    group_offsets,
    groups_api,
    metadata,
    offsets,
    produce,
    producers_api,
    topics_api,
)
from robustmq.kafka.context import ConnectionState, RequestContext
from robustmq.kafka.gateway import Gateway
from robustmq.promises import Promise, start

Buffers = list[bytes | memoryview]
Handler = Callable[[Any, RequestContext, Gateway], Awaitable[Any]]

COUNTERS = (
    "kafka_requests",
    "kafka_requests_refused",
    "kafka_records_in",
    "kafka_records_out",
    "kafka_bytes_in",
    "kafka_bytes_out",
    "kafka_batches_refused",
)
"""Every counter that the handlers add to."""

HANDLERS: dict[int, Handler] = {
    0: produce.handle,
    1: fetch.handle,
    2: offsets.handle,
    3: metadata.handle,
    8: group_offsets.handle_commit,
    9: group_offsets.handle_fetch_offsets,
    10: groups_api.handle_find_coordinator,
    11: groups_api.handle_join,
    12: groups_api.handle_heartbeat,
    13: groups_api.handle_leave,
    14: groups_api.handle_sync,
    15: groups_api.handle_describe,
    16: groups_api.handle_list,
    18: api_versions.handle,
    22: producers_api.handle,
    23: offsets.handle_epochs,
    42: groups_api.handle_delete,
    47: group_offsets.handle_delete_offsets,
    60: metadata.handle_describe_cluster,
    **topics_api.HANDLERS,
    **configs_api.HANDLERS,
}


def dispatch(
    frame: bytes, connection: ConnectionState, gateway: Gateway
) -> Promise[Buffers | None]:
    """Serve one request; `frame` is what stands behind the length."""
    return start(_serve(frame, connection, gateway))


async def _serve(frame: bytes, connection: ConnectionState, gateway: Gateway) -> Buffers | None:
    gateway.count("kafka_requests")
    try:
        header = codec.decode_header(frame)
        key, version = header.api_key, header.api_version
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
    response = await handler(request, context, gateway)
    if response is None:
        return None
    return _encode(key, version, header.correlation_id, response)


def _encode(api_key: int, version: int, correlation_id: int, response: Any) -> Buffers:
    head = codec.response_header(api_key, version, correlation_id)
    body = codec.encode_response(api_key, version, response)
    length = len(head) + sum(len(buffer) for buffer in body)
    return [struct.pack(">i", length) + head, *body]
