"""The fields of every Kafka message that the broker reads or writes, as data.

The tables stand in the modules schema_*, one line a field, in the order of the wire:

    ProduceRequest                       a message: the name of its API, and Request or Response
      timeout_ms: int32                  a field of a fixed size
      topic_data: [TopicProduceData]     an array of the struct whose fields follow, one deeper
        name: string @3-12               only in versions 3 to 12
        topic_id: uuid @13+              only from version 13
        records: records?                may be null
        error: string?2+ = null          may be null from version 2; the default is null
      assignment: Assignment?          a struct that may be null: a byte says whether it is there
      node_endpoints: [NodeEndpoint] @10+ tag 0          a tagged field (KIP-482)

A struct's fields stand in the versions of its parent where nothing is said. Where no default is
written it is zero, empty or false. `records` is one buffer of record batches (Produce), `batches`
is a list of such buffers (Fetch). Field names are Kafka's, in snake case
(clients/src/main/resources/common/message). A message is the union of its versions.

This module reads the notation. It decides nothing about bytes; that is the codec's.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import msgspec

from robustmq.kafka import (
    schema_admin,
    schema_cluster,
    schema_consumer,
    schema_data,
    schema_groups,
    schema_security,
    schema_share,
    schema_transactions,
)

LATEST: Final = 32767
_TABLES = (
    schema_data.TABLE,
    schema_cluster.TABLE,
    schema_groups.TABLE,
    schema_transactions.TABLE,
    schema_consumer.TABLE,
    schema_share.TABLE,
    schema_admin.TABLE,
    schema_security.TABLE,
)
_LINE = re.compile(
    r"(?P<indent> *)(?P<name>\w+): (?P<open>\[?)(?P<type>\w+)\]?"
    r"(?P<null>\?[\d+-]*)?(?: @(?P<versions>[\d+-]+))?(?: tag (?P<tag>\d+))?"
    r"(?: = (?P<default>\S+))?"
)

FIXED: Final = {
    "bool": ("?", 1),
    "int8": ("b", 1),
    "int16": ("h", 2),
    "int32": ("i", 4),
    "int64": ("q", 8),
    "uint16": ("H", 2),
    "float64": ("d", 8),
    "uuid": ("16s", 16),
}
"""Types of a fixed size: the letter of the struct module, and the bytes."""
VARIABLE: Final = frozenset(("string", "bytes", "records", "batches"))


class Versions(msgspec.Struct, frozen=True):
    """A range of versions, both ends included."""

    first: int
    last: int

    def __contains__(self, version: int) -> bool:
        return self.first <= version <= self.last


ALL = Versions(0, LATEST)
NONE = Versions(1, 0)


class Field(msgspec.Struct, frozen=True):
    """One field of a struct; `fields` is empty unless `type` is the name of a struct."""

    name: str
    type: str
    is_array: bool
    versions: Versions
    nullable: Versions
    tag: int | None
    default: str | None
    fields: tuple[Field, ...]

    @property
    def is_struct(self) -> bool:
        """Whether its value has fields of its own."""
        return bool(self.fields)


def element_of(field: Field) -> Field:
    """One element of an array, as a field that is never null."""
    return msgspec.structs.replace(field, is_array=False, nullable=NONE, tag=None)


@cache
def messages() -> dict[str, tuple[Field, ...]]:
    """Every message of the tables, by name."""
    found: dict[str, tuple[Field, ...]] = {}
    for table in _TABLES:
        lines = [line for line in table.splitlines() if line]
        at = 0
        while at < len(lines):
            name = lines[at]
            fields, at = _fields(lines, at + 1, 2, ALL)
            assert name not in found and fields, f"{name} stands once and has fields"
            found[name] = fields
    return found


@cache
def structs() -> dict[str, tuple[Field, ...]]:
    """The fields of every struct by its name, inner ones first.

    Two messages may use one name for structs that differ; it has the fields of both then.
    """
    found: dict[str, dict[str, Field]] = {}
    for name, fields in messages().items():
        _collect(name, fields, found)
    return {name: tuple(fields.values()) for name, fields in found.items()}


def _collect(name: str, fields: tuple[Field, ...], found: dict[str, dict[str, Field]]) -> None:
    for field in fields:
        if field.is_struct:
            _collect(field.type, field.fields, found)
    known = found.setdefault(name, {})
    for field in fields:
        other = known.setdefault(field.name, field)
        same = (other.type, other.is_array, other.default) == (
            field.type,
            field.is_array,
            field.default,
        )
        assert same, f"{name}.{field.name} means one thing"


def _fields(
    lines: list[str], at: int, indent: int, within: Versions
) -> tuple[tuple[Field, ...], int]:
    """The fields from line `at` on that stand `indent` deep, and the line behind them."""
    fields = []
    while at < len(lines):
        match = _LINE.fullmatch(lines[at])
        if match is None or len(match["indent"]) < indent:
            break
        assert len(match["indent"]) == indent, f"indentation of {lines[at]}"
        versions = _versions(match["versions"], within)
        inner, at = _fields(lines, at + 1, indent + 2, versions)
        assert bool(inner) != (match["type"] in FIXED or match["type"] in VARIABLE), match["type"]
        null = match["null"]
        fields.append(
            Field(
                name=match["name"],
                type=match["type"],
                is_array=bool(match["open"]),
                versions=versions,
                nullable=NONE if null is None else _versions(null[1:], versions),
                tag=None if match["tag"] is None else int(match["tag"]),
                default=match["default"],
                fields=inner,
            )
        )
    return tuple(fields), at


def _versions(text: str | None, within: Versions) -> Versions:
    if not text:
        return within
    first, _, last = text.rstrip("+").partition("-")
    if text.endswith("+"):
        return Versions(int(first), within.last)
    return Versions(int(first), int(last or first))
