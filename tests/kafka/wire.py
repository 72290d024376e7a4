"""Requests as raw frames and back: a client's end of the wire, for tests of the handlers."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from robustmq.core import batches
from robustmq.kafka import apis, codec, messages
from robustmq.kafka.context import ConnectionState
from robustmq.kafka.dispatch import dispatch
from robustmq.kafka.gateway import Gateway
from robustmq.promises import Promise
from robustmq.records import Record

API_VERSIONS = 18


class Client:
    """A connection to the handlers, without a socket."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.connection = ConnectionState("127.0.0.1")
        self.correlation_id = 0

    def send(self, api_key: int, version: int, **fields: Any) -> Promise[Any]:
        """Start a request; the promise is of the response's buffers, None for no answer."""
        self.correlation_id += 1
        shape = getattr(messages, f"{apis.APIS[api_key].name}Request")
        body = codec.encode_request(api_key, version, msgspec.convert(fields, shape))
        flexible = len(codec.response_header(api_key, version, 0)) > 4 or (
            api_key == API_VERSIONS and version >= 3
        )
        head = struct.pack(">hhih", api_key, version, self.correlation_id, 1) + b"c"
        frame = head + (b"\0" if flexible else b"") + b"".join(body)
        return dispatch(frame, self.connection, self.gateway)

    def send_raw(self, api_key: int, version: int, body: bytes = b"\0\0\0\0") -> Promise[Any]:
        """Start a request of any key, version and bytes."""
        return dispatch(
            struct.pack(">hhih", api_key, version, 1, -1) + body, self.connection, self.gateway
        )

    def ask(self, api_key: int, version: int, **fields: Any) -> Any:
        """A request that is answered at once."""
        promise = self.send(api_key, version, **fields)
        assert promise.settled, "the request is parked"
        return self.read(api_key, version, promise)

    def read(self, api_key: int, version: int, promise: Promise[Any]) -> Any:
        """The response in the buffers of a settled promise."""
        data = b"".join(promise.result())
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        head = codec.response_header(api_key, version, 0)
        return codec.decode_response(api_key, version, data, 4 + len(head))


def batch(*values: bytes, **header: int) -> bytes:
    """A record batch of these values."""
    records = [
        Record(key=None, value=value, headers=[], timestamp_ms=1, offset=0) for value in values
    ]
    return batches.build(records, 1, **header)
