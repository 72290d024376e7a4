"""A Kafka client made of kio alone: an independent codec on a real socket, to any API and
version."""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
import socket
import struct
import uuid
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from kio.serial import entity_reader, entity_writer
from kio.serial._introspect import classify_field, is_optional
from kio.static.primitive import i32Timedelta, i64Timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZERO: dict[str, Any] = {
    "bool": False, "string": "", "bytes": b"", "records": None,
    "uuid": uuid.UUID(int=0), "error_code": 0, "int8": 0, "int16": 0, "int32": 0, "int64": 0,
    "timedelta_i32": 0, "timedelta_i64": 0, "datetime_i64": -1,
}  # fmt: skip


def kio_class(name: str, version: int, side: str) -> Any:
    """kio's dataclass of one side of an API in one version."""
    folder = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    module = importlib.import_module(f"kio.schema.{folder}.v{version}.{side.lower()}")
    return getattr(module, name + side)


def made(shape: Any, values: dict[str, Any]) -> Any:
    """An entity with the values that its version has; zeros where nothing is said and no
    default is."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(shape):
        row = classify_field(field)
        kind = field.metadata.get("kafka_type")
        if field.name in values:
            value = values[field.name]
            if isinstance(value, list):
                given[field.name] = tuple(_one(row.type_, kind, inner) for inner in value)
            elif value is None and is_optional(field):
                given[field.name] = None
            else:
                given[field.name] = _one(row.type_, kind, value)
        elif field.default is dataclasses.MISSING:
            if row.is_array:
                given[field.name] = ()
            elif is_optional(field):
                given[field.name] = None
            else:
                given[field.name] = _one(row.type_, kind, ZERO[kind] if kind else {})
    return shape(**given)


def _one(shape: Any, kind: str | None, value: Any) -> Any:
    if kind is None:
        return made(shape, value)
    if kind == "timedelta_i32":
        return i32Timedelta.parse(timedelta(milliseconds=value))
    if kind == "timedelta_i64":
        return i64Timedelta.parse(timedelta(milliseconds=value))
    if kind == "datetime_i64":
        return None if value < 0 else EPOCH + timedelta(milliseconds=value)
    return value


class KioClient:
    """A connection; a context manager."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._stream = self._socket.makefile("rb")
        self._correlation_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, name: str, version: int, values: dict[str, Any]) -> Any:
        """Send a request and read its response, to the last byte."""
        self.send(name, version, values)
        return self.read(name, version)

    def send(self, name: str, version: int, values: dict[str, Any]) -> None:
        """Send a request."""
        self._correlation_id += 1
        shape = kio_class(name, version, "Request")
        buffer = io.BytesIO()
        header = shape.__header_schema__
        entity_writer(header)(
            buffer,
            header(
                request_api_key=shape.__api_key__,
                request_api_version=version,
                correlation_id=self._correlation_id,
                client_id="kio",
            ),
        )
        entity_writer(shape)(buffer, made(shape, values))
        self._socket.sendall(struct.pack(">i", len(buffer.getvalue())) + buffer.getvalue())

    def read(self, name: str, version: int) -> Any:
        """The next response."""
        size = self._stream.read(4)
        assert len(size) == 4, f"{name} {version}: the broker has closed the connection"
        data = self._stream.read(int.from_bytes(size, "big"))
        shape = kio_class(name, version, "Response")
        head, size_of_head = entity_reader(shape.__header_schema__)(data, 0)
        assert head.correlation_id == self._correlation_id
        answer, size_of_body = entity_reader(shape)(data, size_of_head)
        assert size_of_head + size_of_body == len(data), (
            f"{name} {version}: bytes behind the response"
        )
        return answer
