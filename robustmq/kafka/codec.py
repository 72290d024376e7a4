"""Bytes to structs and back, for every API and version of robustmq.kafka.apis.

    request:   header (api_key, version, correlation id, client id, [tags])  body
    response:  header (correlation id, [tags])  body

The codec of a message in one version is a function made from the schema tables when it is first
needed (decoders, encoders). Bad bytes are `BrokerError(Fault.MALFORMED_PACKET)`; bytes behind a
whole message are let be, as Kafka does. Whether a version is offered is dispatch's to ask first.

In header version 2 the client id keeps its two bytes of length: a broker must be able to read it
before it knows the version.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.kafka import schema
from robustmq.kafka.apis import APIS
from robustmq.kafka.decoders import Decoder, make_decoder, read_varint, skip_tagged
from robustmq.kafka.encoders import Encoder, make_encoder

Buffer = bytes | memoryview

_BAD_BYTES = (ValueError, IndexError, struct.error)
_HEADER = struct.Struct(">hhih")
_CORRELATION_ID = struct.Struct(">i")
_API_VERSIONS = 18
UNBOUNDED = 2**31 - 1


class RequestHeader(msgspec.Struct, frozen=True, gc=False):
    """Header version 1 or 2; the body begins at `body_offset`."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body_offset: int


def decode_header(buffer: Buffer) -> RequestHeader:
    """The header of a request. The tags are read where the API and version are offered."""
    try:
        key, version, correlation_id, length = _HEADER.unpack_from(buffer)
        at = _HEADER.size
        client_id = None
        if length >= 0:
            end = at + length
            if end > len(buffer):
                raise ValueError("the client id ends behind the message")
            client_id = str(buffer[at:end], "utf-8")
            at = end
        api = APIS.get(key)
        if api is not None and api.is_flexible(version) and version <= api.max_version:
            count, at = read_varint(buffer, at)
            at = skip_tagged(buffer, at, count)
    except _BAD_BYTES as error:
        raise _malformed("request header", error) from error
    return RequestHeader(key, version, correlation_id, client_id, at)


def encode_header(api_key: int, version: int, correlation_id: int, client_id: str | None) -> bytes:
    """The header of a request, as a client sends it."""
    name = b"" if client_id is None else client_id.encode()
    length = -1 if client_id is None else len(name)
    tags = b"\0" if APIS[api_key].is_flexible(version) else b""
    return _HEADER.pack(api_key, version, correlation_id, length) + name + tags


def response_header(api_key: int, version: int, correlation_id: int) -> bytes:
    """The header of a response."""
    if api_key != _API_VERSIONS and APIS[api_key].is_flexible(version):
        return _CORRELATION_ID.pack(correlation_id) + b"\0"
    return _CORRELATION_ID.pack(correlation_id)


def decode_request(
    api_key: int, version: int, buffer: Buffer, offset: int = 0, longest: int = UNBOUNDED
) -> Any:
    """The request whose body begins at `offset`. Its records are views of the buffer; no array has
    more than `longest` elements."""
    try:
        return _decoder(api_key, version, "Request")(buffer, offset, longest)
    except _BAD_BYTES as error:
        raise _malformed(f"{APIS[api_key].name} request version {version}", error) from error


def encode_request(api_key: int, version: int, request: Any) -> list[Buffer]:
    """The body of a request, in buffers."""
    return _encoder(api_key, version, "Request")(request)


def decode_response(api_key: int, version: int, buffer: Buffer, offset: int = 0) -> Any:
    """The response whose body begins at `offset`. Its records are lists of views of the buffer."""
    try:
        return _decoder(api_key, version, "Response")(buffer, offset, UNBOUNDED)
    except _BAD_BYTES as error:
        raise _malformed(f"{APIS[api_key].name} response version {version}", error) from error


def encode_response(api_key: int, version: int, response: Any) -> list[Buffer]:
    """The body of a response, in buffers; those of records are the ones that it was given."""
    return _encoder(api_key, version, "Response")(response)


@cache
def _decoder(api_key: int, version: int, side: str) -> Decoder:
    api = APIS[api_key]
    assert api.min_version <= version <= api.max_version, f"{api.name} {version} is offered"
    name = api.name + side
    return make_decoder(name, schema.messages()[name], version, api.is_flexible(version))


@cache
def _encoder(api_key: int, version: int, side: str) -> Encoder:
    api = APIS[api_key]
    assert api.min_version <= version <= api.max_version, f"{api.name} {version} is offered"
    name = api.name + side
    return make_encoder(name, schema.messages()[name], version, api.is_flexible(version))


def _malformed(what: str, error: Exception) -> BrokerError:
    return BrokerError(Fault.MALFORMED_PACKET, f"{what}: {error}")
