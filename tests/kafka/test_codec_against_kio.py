"""Every offered API and version, byte for byte as kio has it: a codec generated from Kafka's own
message definitions, by other people.

kio's dataclasses are filled at random (under a seed), written by kio, read by us, held field by
field against kio's, and written again by us: the bytes are the same.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import random
import re
import typing
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from kio.schema.errors import ErrorCode
from kio.serial import entity_writer
from kio.serial._introspect import classify_field, get_field_tag, is_optional
from kio.static.primitive import i32Timedelta, i64Timedelta

from robustmq.kafka import codec
from robustmq.kafka.apis import APIS, Api

ROUNDS = 12
CASES = [
    (api, version)
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
]
ERRORS = list(ErrorCode)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXTS = ("", "t", "sensors.roof_1", "größe-温度", "x" * 126, "y" * 127, "z" * 300)
RANGES = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


def kio_class(api: Api, version: int, side: str) -> Any:
    folder = re.sub(r"(?<!^)(?=[A-Z])", "_", api.name).lower()
    module = importlib.import_module(f"kio.schema.{folder}.v{version}.{side.lower()}")
    return getattr(module, api.name + side)


def primitive(kind: str, chance: random.Random) -> Any:
    if kind in RANGES:
        top = 1 << (RANGES[kind] - 1)
        return chance.choice((0, 1, -1, top - 1, -top, chance.randrange(-top, top)))
    if kind == "timedelta_i32":
        return i32Timedelta.parse(timedelta(milliseconds=chance.randrange(0, 1 << 31)))
    if kind == "timedelta_i64":
        return i64Timedelta.parse(timedelta(milliseconds=chance.randrange(0, 1 << 40)))
    if kind == "datetime_i64":
        return EPOCH + timedelta(seconds=chance.randrange(0, 1 << 31))
    if kind in ("bytes", "records"):
        return chance.randbytes(chance.choice((0, 1, 61, 127, 128, 20000)))
    drawn = {
        "bool": chance.random() < 0.5,
        "float64": chance.uniform(-1e9, 1e9),
        "uint16": chance.randrange(1 << 16),
        "string": chance.choice(TEXTS),
        "uuid": uuid.UUID(bytes=chance.randbytes(16)),
        "error_code": chance.choice(ERRORS),
    }
    return drawn[kind]


def fill(shape: Any, chance: random.Random) -> Any:
    """A kio entity with something in every field."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(shape):
        if get_field_tag(field) is not None and chance.random() < 0.4:
            continue
        row = classify_field(field)
        inner = row.type_
        nullable = is_optional(field) and typing.get_origin(field.type) is not tuple
        if nullable and chance.random() < 0.25:
            values[field.name] = None
            continue
        kind = field.metadata.get("kafka_type")

        def one(inner: Any = inner, kind: Any = kind) -> Any:
            return primitive(kind, chance) if kind else fill(inner, chance)

        count = chance.choice((0, 1, 2, 3)) if chance.random() < 0.97 else 130
        values[field.name] = tuple(one() for _ in range(count)) if row.is_array else one()
    return shape(**values)


def plain(value: Any) -> Any:
    """A kio entity as we say it: milliseconds, numbers, zero for no id."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {}
        for field in dataclasses.fields(value):
            kind = field.metadata.get("kafka_type", "")
            name = field.name
            if kind.startswith("timedelta") or (kind == "datetime_i64" and name != "timestamp"):
                name += "_ms"
            inner = getattr(value, field.name)
            if inner is None and kind == "uuid":
                inner = uuid.UUID(int=0)
            if inner is None and kind == "datetime_i64":
                inner = -1
            found[name] = plain(inner)
        return found
    if isinstance(value, ErrorCode):
        return value.value
    if isinstance(value, timedelta):
        return value // timedelta(milliseconds=1)
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    return value


def check(ours: Any, theirs: Any, where: str) -> None:
    """What we read is what kio wrote; a tagged struct that was not sent is None with us."""
    if isinstance(theirs, dict):
        for name, value in theirs.items():
            found = getattr(ours, name)
            if isinstance(value, dict) and found is None:
                assert value == default_of(ours, name, value), f"{where}.{name}"
                continue
            check(found, value, f"{where}.{name}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for mine, other in zip(ours, theirs, strict=True):
            check(mine, other, f"{where}[]")
    elif isinstance(ours, list):
        assert b"".join(ours) == theirs, where
    else:
        assert ours == theirs, where


def default_of(ours: Any, name: str, value: dict[str, Any]) -> dict[str, Any]:
    (field,) = (row for row in msgspec.structs.fields(type(ours)) if row.name == name)
    (shape,) = (arm for arm in typing.get_args(field.type) if arm is not type(None))
    return {key: getattr(shape(), key) for key in value}


@pytest.mark.parametrize("side", ["Request", "Response"])
@pytest.mark.parametrize(("api", "version"), CASES, ids=lambda case: getattr(case, "name", case))
def test_the_bytes_are_those_of_kio(api: Api, version: int, side: str) -> None:
    shape = kio_class(api, version, side)
    write = entity_writer(shape)
    chance = random.Random(f"{api.name} {version} {side}")
    decode = codec.decode_request if side == "Request" else codec.decode_response
    encode = codec.encode_request if side == "Request" else codec.encode_response
    for _ in range(ROUNDS):
        entity = fill(shape, chance)
        buffer = io.BytesIO()
        write(buffer, entity)
        wire = buffer.getvalue()
        ours = decode(api.key, version, b"head" + wire, 4)
        check(ours, plain(entity), api.name)
        assert b"".join(encode(api.key, version, ours)) == wire


@pytest.mark.parametrize(("api", "version"), CASES, ids=lambda case: getattr(case, "name", case))
def test_headers_and_flexible_versions_are_those_of_kio(api: Api, version: int) -> None:
    request = kio_class(api, version, "Request")
    response = kio_class(api, version, "Response")
    assert (request.__api_key__, request.__flexible__) == (api.key, api.is_flexible(version))
    header = codec.encode_header(api.key, version, 7, "client")
    buffer = io.BytesIO()
    shape = request.__header_schema__
    entity_writer(shape)(
        buffer,
        shape(
            request_api_key=api.key,
            request_api_version=version,
            correlation_id=7,
            client_id="client",
        ),
    )
    assert buffer.getvalue() == header
    read = codec.decode_header(header + b"body")
    assert (read.api_key, read.api_version, read.correlation_id) == (api.key, version, 7)
    assert (read.client_id, read.body_offset) == ("client", len(header))
    buffer = io.BytesIO()
    shape = response.__header_schema__
    entity_writer(shape)(buffer, shape(correlation_id=9))
    assert buffer.getvalue() == codec.response_header(api.key, version, 9)
