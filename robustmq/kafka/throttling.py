"""Quotas on the way of a request (KIP-13, KIP-124, KIP-219): what it used is charged when it is
answered, the answer says how long its client must wait, and for so long the connection reads
nothing more. Nothing of this runs while nobody has a quota.

Produce is charged with the bytes of the request when it comes, so that what is behind it waits, and
Fetch and ShareFetch with those of the answer; every request is charged with the time for which it
held the loop until its first wait, with the next answer. A Fetch may not ask for more than its
quota allows in one window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustmq.kafka.access import Limiter
from robustmq.kafka.context import ConnectionState, RequestContext

PRODUCE, FETCH, SHARE_FETCH = 0, 1, 78
WINDOW_S = 10
Buffers = list[bytes | memoryview]


def user_of(connection: ConnectionState) -> str:
    """The name of a client's principal."""
    return connection.principal.partition(":")[2]


def arrived(request: Any, context: RequestContext, size: int, limiter: Limiter, now_ms: int) -> int:
    """A request of `size` bytes has come: how long its client must wait, in ms. A Fetch asks for no
    more than one window's bytes from now on."""
    user = user_of(context.connection)
    if context.api_key == PRODUCE:
        waits_ms = limiter.charge("producer_byte_rate", user, context.client_id, size, now_ms)
        context.connection.throttle_ms = max(context.connection.throttle_ms, waits_ms)
        return waits_ms
    if context.api_key not in (FETCH, SHARE_FETCH):
        return 0
    bound = limiter.bound("consumer_byte_rate", user, context.client_id)
    if bound is not None:
        request.max_bytes = min(request.max_bytes, max(1, int(bound * WINDOW_S)))
    return 0


def charged(
    response: Any,
    encode: Callable[[], Buffers],
    waits_ms: int,
    context: RequestContext,
    limiter: Limiter,
    now_ms: int,
) -> Buffers | None:
    """The answer to a request, with the time that its client must wait; `waits_ms` is what it must
    already."""
    connection, key = context.connection, context.api_key
    user, client_id = user_of(connection), context.client_id
    buffers = None if response is None else encode()
    used_us, connection.used_us = connection.used_us, 0
    more_ms = limiter.charge("request_percentage", user, client_id, used_us, now_ms)
    more_ms = max(more_ms, connection.owed_ms)
    connection.owed_ms = 0
    if key in (FETCH, SHARE_FETCH) and buffers is not None:
        sent = sum(len(buffer) for buffer in buffers)
        spent_ms = limiter.charge("consumer_byte_rate", user, client_id, sent, now_ms)
        more_ms = max(more_ms, spent_ms)
    connection.throttle_ms = max(connection.throttle_ms, more_ms)
    waits_ms = max(waits_ms, more_ms)
    if not waits_ms or response is None or not hasattr(response, "throttle_time_ms"):
        return buffers
    response.throttle_time_ms = waits_ms
    return encode()


def mutates(
    context: RequestContext, limiter: Limiter | None, partitions: int, now_ms: int, strict: bool
) -> bool:
    """May the client make or delete so many partitions now (KIP-599)? Its answer says how long it
    must wait."""
    if limiter is None:
        return True
    connection = context.connection
    user = user_of(connection)
    allowed, waits_ms = limiter.mutate(user, context.client_id, partitions, now_ms, strict)
    connection.owed_ms = max(connection.owed_ms, waits_ms)
    return allowed
