"""Writes the Python source of a decoder: one function for each message and version, made on first
use, as straight as one would write it by hand.

Fields of a fixed size that stand side by side, and the length that follows them, are unpacked by
one call. Every length is held against the bytes that are left before anything is made of it: an
array of n elements needs n times the least size of an element. `records` are views of the buffer,
all else is copied. Unknown tagged fields are skipped (KIP-482).

A decoder raises ValueError, IndexError or struct.error for bad bytes; robustmq.kafka.codec turns
them into the one fault.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

from robustmq.kafka import messages
from robustmq.kafka.schema import FIXED, Field, element_of, structs

Decoder = Callable[[bytes | memoryview, int, int], Any]

_LENGTH_CODES = {"string": ("h", 2)}
_INT32 = ("i", 4)
_WIDTHS = dict(FIXED.values()) | {"B": 1}


def read_varint(buffer: bytes | memoryview, at: int) -> tuple[int, int]:
    """An unsigned varint of at most five bytes, and the offset behind it."""
    value = shift = 0
    while shift < 35:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a varint of more than five bytes")


def skip_tagged(buffer: bytes | memoryview, at: int, count: int) -> int:
    """The offset behind `count` tagged fields."""
    for _ in range(count):
        at = read_varint(buffer, at)[1]
        size, at = read_varint(buffer, at)
        at += size
        if at > len(buffer):
            raise ValueError("a tagged field ends behind the message")
    return at


def make_decoder(name: str, fields: tuple[Field, ...], version: int, flexible: bool) -> Decoder:
    """The decoder of one message in one version: (buffer, offset, longest array) -> struct."""
    writer = _Writer(version, flexible)
    source = writer.message(name, fields)
    namespace: dict[str, Any] = {**writer.names}
    exec(compile(source, f"<decoder of {name} {version}>", "exec"), namespace)
    decoder: Decoder = namespace["decode"]
    return decoder


def least_size(field: Field, version: int, flexible: bool) -> int:
    """The fewest bytes that a field takes; 0 for a tagged one."""
    if field.tag is not None or version not in field.versions:
        return 0
    if field.is_array:
        return 1 if flexible else 4
    if field.type in FIXED:
        return FIXED[field.type][1]
    if field.is_struct:
        return 1 if version in field.nullable else least_struct(field.fields, version, flexible)
    return 1 if flexible else _LENGTH_CODES.get(field.type, _INT32)[1]


def least_struct(fields: tuple[Field, ...], version: int, flexible: bool) -> int:
    """The least bytes that a struct takes."""
    return sum(least_size(field, version, flexible) for field in fields) + flexible


class _Writer:
    """The source as it grows. `run` is what one unpack will read: letters and variables."""

    def __init__(self, version: int, flexible: bool) -> None:
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.depth = 1
        self.run: list[tuple[str, str]] = []
        self.counter = 0
        self.names: dict[str, Any] = {
            "UUID": UUID,
            "read_varint": read_varint,
            "skip_tagged": skip_tagged,
            "unpack_from": struct.unpack_from,
        }

    def message(self, name: str, fields: tuple[Field, ...]) -> str:
        built = self.build(name, fields)
        head = ["def decode(b, p, longest):", "    end = len(b)", "    view = memoryview(b)"]
        return "\n".join([*head, *self.lines, f"    return {built}"])

    def say(self, *lines: str) -> None:
        self.lines.extend("    " * self.depth + line for line in lines)

    def fresh(self, letter: str) -> str:
        self.counter += 1
        return f"{letter}{self.counter}"

    def read(self, letter: str) -> str:
        """A variable that the next unpack will fill."""
        variable = self.fresh("x")
        self.run.append((letter, variable))
        return variable

    def flush(self) -> None:
        """Write the unpack of what is in the run."""
        if not self.run:
            return
        size = sum(_WIDTHS[letter] for letter, _ in self.run)
        if [letter for letter, _ in self.run] == ["B"]:
            self.say(f"{self.run[0][1]} = b[p]", "p += 1")
        else:
            letters = "".join(letter for letter, _ in self.run)
            unpack = "unpack_" + letters.replace("?", "o")
            self.names[unpack] = struct.Struct(">" + letters).unpack_from
            variables = ", ".join(variable for _, variable in self.run)
            self.say(f"({variables},) = {unpack}(b, p)", f"p += {size}")
        self.run.clear()

    def build(self, name: str, fields: tuple[Field, ...]) -> str:
        """Read a struct; the expression that makes it."""
        values: dict[str, str] = {}
        for field in fields:
            if self.version in field.versions and field.tag is None:
                values[field.name] = self.field(field)
        if self.flexible:
            self.tagged(fields, values)
        self.flush()
        self.names[name] = messages.classes()[name]
        arguments = [values.get(field.name) or self.default(field) for field in structs()[name]]
        return f"{name}({', '.join(arguments)})"

    def field(self, field: Field) -> str:
        if field.is_array:
            return self.array(field)
        if field.is_struct:
            return self.struct(field)
        if field.type in FIXED:
            variable = self.read(FIXED[field.type][0])
            return f"UUID(bytes={variable})" if field.type == "uuid" else variable
        return self.bytes_like(field)

    def struct(self, field: Field) -> str:
        """Read a struct; where it may be null, a byte says whether it is there."""
        if self.version not in field.nullable:
            return self.build(field.type, field.fields)
        there, value = self.read("b"), self.fresh("x")
        self.flush()
        self.say(f"{value} = None", f"if {there} >= 0:")
        self.depth += 1
        self.say(f"{value} = {self.build(field.type, field.fields)}")
        self.depth -= 1
        return value

    def length(self, letter: str) -> str:
        """Read a length; the variable then holds it, -1 for null."""
        if not self.flexible:
            variable = self.read(letter)
            self.flush()
            return variable
        variable = self.read("B")
        self.flush()
        self.say(f"if {variable} > 127:", f"    {variable}, p = read_varint(b, p - 1)")
        self.say(f"{variable} -= 1")
        return variable

    def bytes_like(self, field: Field) -> str:
        size = self.length(_LENGTH_CODES.get(field.type, _INT32)[0])
        value, end = self.fresh("x"), self.fresh("e")
        taken = {
            "string": f"str(b[p:{end}], 'utf-8')",
            "bytes": f"bytes(b[p:{end}])",
            "records": f"view[p:{end}]",
            "batches": f"[view[p:{end}]]",
        }[field.type]
        self.absent(field, size, value)
        self.say(
            "else:",
            f"    {end} = p + {size}",
            f"    if {end} > end:",
            f"        raise ValueError('{field.name} ends behind the message')",
            f"    {value} = {taken}",
            f"    p = {end}",
        )
        return value

    def absent(self, field: Field, size: str, value: str) -> None:
        """What a negative length means."""
        self.say(f"if {size} < 0:")
        if self.version in field.nullable:
            self.say(f"    {value} = None")
        else:
            self.say(f"    raise ValueError('{field.name} is null')")

    def array(self, field: Field) -> str:
        count = self.length("i")
        value = self.fresh("x")
        least = self.least_element(field)
        self.absent(field, count, value)
        self.say(
            f"elif {count} * {least} > end - p:",
            f"    raise ValueError('{field.name} is longer than the message')",
            f"elif {count} > longest:",
            f"    raise ValueError('{field.name} has more than the bound of elements')",
            "else:",
        )
        self.depth += 1
        if field.type in ("int32", "int64", "int16", "int8"):
            letter, width = FIXED[field.type]
            self.say(f"{value} = list(unpack_from(f'>{{{count}}}{letter}', b, p))")
            self.say(f"p += {count} * {width}")
        else:
            self.say(f"{value} = []", f"for _ in range({count}):")
            self.depth += 1
            element = self.field(element_of(field))
            self.flush()
            self.say(f"{value}.append({element})")
            self.depth -= 1
        self.depth -= 1
        return value

    def least_element(self, field: Field) -> int:
        return max(1, least_size(element_of(field), self.version, self.flexible))

    def tagged(self, fields: tuple[Field, ...], values: dict[str, str]) -> None:
        """Read the tagged fields that end a struct; in any order, the last of a number counts."""
        known = [
            field for field in fields if field.tag is not None and self.version in field.versions
        ]
        for field in known:
            values[field.name] = self.fresh("x")
            self.say(f"{values[field.name]} = {self.default(field)}")
        count = self.read("B")
        self.flush()
        self.say(f"if {count}:")
        self.depth += 1
        self.say(f"{count}, p = read_varint(b, p - 1)")
        if not known:
            self.say(f"p = skip_tagged(b, p, {count})")
            self.depth -= 1
            return
        tag, size, end = self.fresh("t"), self.fresh("n"), self.fresh("e")
        self.say(
            f"for _ in range({count}):",
            f"    {tag}, p = read_varint(b, p)",
            f"    {size}, p = read_varint(b, p)",
            f"    {end} = p + {size}",
            f"    if {end} > end:",
            "        raise ValueError('a tagged field ends behind the message')",
        )
        self.depth += 1
        for field in known:
            self.say(f"if {tag} == {field.tag}:")
            self.depth += 1
            value = self.field(field)
            self.flush()
            self.say(f"{values[field.name]} = {value}", f"if p != {end}:")
            self.say(f"    raise ValueError('{field.name} is not as long as it says')")
            self.depth -= 1
        self.say(f"p = {end}")
        self.depth -= 2

    def default(self, field: Field) -> str:
        """An expression for the value of a field that is not there."""
        value = messages.default_of(field)
        if isinstance(value, UUID):
            self.names["ZERO_UUID"] = value
            return "ZERO_UUID"
        return repr(value)
