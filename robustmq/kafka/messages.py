"""The structs of Kafka's messages: `messages.ProduceRequest`, `messages.PartitionData` and so on.

They are made from the schema tables when the first of them is asked for. One struct serves all
versions of a message: it has the fields of all of them, all with defaults, and the codec reads and
writes those of a version. A struct in a tagged field is None where it is not sent; every other
field is what Kafka's schema says.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID

import msgspec

from robustmq.kafka import schema
from robustmq.kafka.schema import Field

ZERO_UUID = UUID(int=0)

_TYPES: dict[str, tuple[Any, Any]] = {
    "bool": (bool, False),
    "int8": (int, 0),
    "int16": (int, 0),
    "int32": (int, 0),
    "int64": (int, 0),
    "uint16": (int, 0),
    "float64": (float, 0.0),
    "uuid": (UUID, ZERO_UUID),
    "string": (str, ""),
    "bytes": (bytes, b""),
    "records": (Any, b""),
    "batches": (Any, None),
}
"""Of each type of the schema: the type of its attribute, and the default. `records` may be bytes or
memoryview, `batches` a list of them."""


def default_of(field: Field) -> Any:
    """The value of a field that was not sent; a list for every array, never shared."""
    if field.default == "null" or (field.is_struct and not field.is_array):
        return None
    if field.is_array:
        return []
    if field.default is None:
        return _TYPES[field.type][1]
    return field.default == "true" if field.type == "bool" else int(field.default)


@cache
def classes() -> dict[str, Any]:
    """Every struct by name."""
    made: dict[str, Any] = {}
    for name, fields in schema.structs().items():
        rows = []
        for field in fields:
            default = default_of(field)
            if field.is_array and default is not None:
                default = msgspec.field(default_factory=list)
            rows.append((field.name, _type_of(field, made), default))
        made[name] = msgspec.defstruct(name, rows, module=__name__, gc=False)
    return made


def _type_of(field: Field, made: dict[str, Any]) -> Any:
    kind: Any = made[field.type] if field.is_struct else _TYPES[field.type][0]
    if field.is_array:
        kind = list[kind]
    may_be_null = field.nullable != schema.NONE or default_of(field) is None
    return kind | None if may_be_null and kind is not Any else kind


def __getattr__(name: str) -> Any:
    found = None if name.startswith("_") else classes().get(name)
    if found is None:
        raise AttributeError(f"Kafka has no message {name} in the schema tables")
    globals()[name] = found
    return found
