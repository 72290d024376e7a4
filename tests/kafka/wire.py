"""Requests as raw frames and back: a client's end of the wire, with and without a socket."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Any, Self

import msgspec

from robustmq.core import batches
from robustmq.kafka import apis, codec, messages
from robustmq.kafka.context import ConnectionState
from robustmq.kafka.dispatch import dispatch
from robustmq.kafka.gateway import Gateway
from robustmq.promises import Promise
from robustmq.records import Record


def frame_of(api_key: int, version: int, correlation_id: int, **fields: Any) -> bytes:
    """What stands behind the length of a request."""
    shape = getattr(messages, f"{apis.APIS[api_key].name}Request")
    body = codec.encode_request(api_key, version, msgspec.convert(fields, shape))
    return codec.encode_header(api_key, version, correlation_id, "c") + b"".join(body)


def response_of(api_key: int, version: int, data: bytes) -> Any:
    """The response in what stands behind its length."""
    head = codec.response_header(api_key, version, 0)
    return codec.decode_response(api_key, version, data, len(head))


def new_topic(name: str, partitions: int = 1, **changes: Any) -> dict[str, Any]:
    """A topic of a CreateTopics request."""
    return {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": -1,
        "assignments": [],
        "configs": [],
        **changes,
    }


class SocketClient:
    """A connection to a real broker, for raw frames; a context manager."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.correlation_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, api_key: int, version: int, **fields: Any) -> None:
        """Send a request."""
        self.correlation_id += 1
        self.send_frame(frame_of(api_key, version, self.correlation_id, **fields))

    def send_frame(self, frame: bytes) -> None:
        """Send what stands behind the length, with its length."""
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def read_frame(self) -> bytes | None:
        """What stands behind the length of the next response; None when the broker has closed."""
        head = self._read(4)
        return None if head is None else self._read(int.from_bytes(head, "big"))

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                found = self.socket.recv(size - len(data))
            except ConnectionResetError:
                return None
            if not found:
                return None
            data += found
        return data

    def read(self, api_key: int, version: int) -> Any:
        """The next response."""
        data = self.read_frame()
        assert data is not None, "the broker has closed the connection"
        assert int.from_bytes(data[:4], "big") == self.correlation_id
        return response_of(api_key, version, data)

    def ask(self, api_key: int, version: int, **fields: Any) -> Any:
        """Send a request and read its response."""
        self.send(api_key, version, **fields)
        return self.read(api_key, version)


class Client:
    """A connection to the handlers, without a socket."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.connection = ConnectionState("127.0.0.1")
        self.correlation_id = 0

    def send(self, api_key: int, version: int, **fields: Any) -> Promise[Any]:
        """Start a request; the promise is of the response's buffers, None for no answer."""
        self.correlation_id += 1
        frame = frame_of(api_key, version, self.correlation_id, **fields)
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
        return response_of(api_key, version, data[4:])


def batch(*values: bytes, **header: int) -> bytes:
    """A record batch of these values."""
    records = [
        Record(key=None, value=value, headers=[], timestamp_ms=1, offset=0) for value in values
    ]
    return batches.build(records, 1, **header)
