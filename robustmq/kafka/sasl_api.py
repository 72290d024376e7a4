"""SaslHandshake and SaslAuthenticate (KIP-43, KIP-152, KIP-368); the states are in
robustmq.kafka.sasl.

A mechanism that the listener does not have is 33, with those that it has. A token that proves
nothing is 58; either ends the connection behind the answer. Where nobody asks, and after the proof,
both are 34. After a handshake of version 0 tokens come and go without Kafka's headers, and a
refusal is the end of the connection.
"""

from __future__ import annotations

import struct
from typing import Any

from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.context import ConnectionState, Handlers, RequestContext
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.sasl import SASL_AUTHENTICATE, SASL_HANDSHAKE, Step

ILLEGAL = int(KafkaCode.ILLEGAL_SASL_STATE)


async def handle_handshake(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one SaslHandshake."""
    connection = context.connection
    sasl = connection.sasl
    if sasl is None or not sasl.may_begin:
        return messages.SaslHandshakeResponse(error_code=ILLEGAL, mechanisms=[])
    mechanisms = list(sasl.verifier.mechanisms)
    if request.mechanism not in mechanisms:
        sasl.fail()
        connection.ending = True
        gateway.count("kafka_authentications_refused")
        return messages.SaslHandshakeResponse(
            error_code=int(KafkaCode.UNSUPPORTED_SASL_MECHANISM), mechanisms=mechanisms
        )
    sasl.begin(request.mechanism, context.api_version == 0)
    return messages.SaslHandshakeResponse(mechanisms=mechanisms)


async def handle_authenticate(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one SaslAuthenticate."""
    connection = context.connection
    if connection.sasl is None or not connection.sasl.awaits_token:
        return messages.SaslAuthenticateResponse(
            error_code=ILLEGAL, error_message="nobody asks for a token", auth_bytes=b""
        )
    step = await _step(bytes(request.auth_bytes), connection, gateway)
    if step.refused is not None:
        return messages.SaslAuthenticateResponse(
            error_code=int(KafkaCode.SASL_AUTHENTICATION_FAILED),
            error_message=step.refused,
            auth_bytes=b"",
        )
    lifetime_ms = connection.sasl.verifier.max_reauth_ms if step.principal else 0
    return messages.SaslAuthenticateResponse(
        error_message=None, auth_bytes=step.token, session_lifetime_ms=lifetime_ms
    )


async def serve_token(
    frame: bytes, connection: ConnectionState, gateway: Gateway
) -> list[bytes | memoryview]:
    """Answer a frame that is a bare token."""
    assert connection.sasl is not None, "it asked for the token"
    if not connection.sasl.awaits_token:
        raise BrokerError(Fault.PROTOCOL_ERROR, "a token before the last one is answered")
    step = await _step(frame, connection, gateway)
    if step.refused is not None:
        raise BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD, step.refused)
    return [struct.pack(">i", len(step.token)) + step.token]


async def _step(token: bytes, connection: ConnectionState, gateway: Gateway) -> Step:
    assert connection.sasl is not None, "the caller has looked"
    step = await connection.sasl.step(token, gateway.now_ms())
    if step.refused is not None:
        connection.ending = True
        gateway.count("kafka_authentications_refused")
    elif step.principal:
        connection.is_known_as(step.principal)
        gateway.count("kafka_authentications")
    return step


HANDLERS: Handlers = {SASL_HANDSHAKE: handle_handshake, SASL_AUTHENTICATE: handle_authenticate}
