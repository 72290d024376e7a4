"""Writes the Python source of an encoder: one function for each message and version, made on first
use, as straight as one would write it by hand.

The fields of a fixed size that stand side by side are packed by one call, with the length that
follows them where it is not a varint. Records are not copied: they stand in the result as buffers
of their own. A tagged field is written when it is neither None nor its default, in the order of the
tags, as Kafka writes it. A field that the version does not have is left out.

Bad values are a bug of ours and raise whatever they raise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from robustmq.kafka import messages
from robustmq.kafka.schema import FIXED, Field, element_of

Encoder = Callable[[Any], list[bytes | memoryview]]

SMALL_VARINTS = [bytes((value,)) for value in range(128)]


def varint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def make_encoder(name: str, fields: tuple[Field, ...], version: int, flexible: bool) -> Encoder:
    """The encoder of one message in one version: struct -> buffers."""
    writer = _Writer(version, flexible)
    source = writer.message(fields)
    namespace: dict[str, Any] = {**writer.names}
    exec(compile(source, f"<encoder of {name} {version}>", "exec"), namespace)
    encoder: Encoder = namespace["encode"]
    return encoder


class _Writer:
    """The source as it grows. `run` is what one pack will write: letters and expressions."""

    def __init__(self, version: int, flexible: bool) -> None:
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.depth = 1
        self.run: list[tuple[str, str]] = []
        self.counter = 0
        self.append = "append"
        self.names: dict[str, Any] = {
            "V": SMALL_VARINTS,
            "varint": varint,
            "pack": struct.pack,
            "join": b"".join,
        }

    def message(self, fields: tuple[Field, ...]) -> str:
        self.body(fields, "x")
        return "\n".join(
            [
                "def encode(x):",
                "    out = []",
                "    parts = []",
                "    append = parts.append",
                *self.lines,
                "    if parts:",
                "        out.append(join(parts))",
                "    return out",
            ]
        )

    def say(self, *lines: str) -> None:
        self.lines.extend("    " * self.depth + line for line in lines)

    def fresh(self, letter: str) -> str:
        self.counter += 1
        return f"{letter}{self.counter}"

    def flush(self) -> None:
        """Write the pack of what is in the run; the letter x is a zero byte without a value."""
        if not self.run:
            return
        letters = "".join(letter for letter, _ in self.run)
        values = [value for letter, value in self.run if letter != "x"]
        if values:
            packer = "pack_" + letters.replace("?", "o")
            self.names[packer] = struct.Struct(">" + letters).pack
            self.say(f"{self.append}({packer}({', '.join(values)}))")
        else:
            self.say(f"{self.append}({bytes(len(letters))!r})")
        self.run.clear()

    def body(self, fields: tuple[Field, ...], source: str) -> None:
        """Write the fields of the struct that the expression `source` holds."""
        for field in fields:
            if self.version not in field.versions or field.tag is not None:
                continue
            if field.is_struct and not field.is_array:
                self.struct(field, f"{source}.{field.name}")
            else:
                self.field(field, f"{source}.{field.name}")
        if self.flexible:
            self.tagged(fields, source)
        self.flush()

    def struct(self, field: Field, source: str) -> None:
        """Write a struct in a struct: behind a byte that says whether it is there, where it may be
        null; else None means the defaults."""
        self.flush()
        value = self.fresh("v")
        self.say(f"{value} = {source}", f"if {value} is None:")
        if self.version in field.nullable:
            self.say(f"    {self.append}(b'\\xff')", "else:", f"    {self.append}(b'\\x01')")
            self.depth += 1
            self.body(field.fields, value)
            self.depth -= 1
        else:
            self.say(f"    {value} = {self.default_struct(field)}")
            self.body(field.fields, value)

    def field(self, field: Field, value: str) -> None:
        if field.is_array:
            self.array(field, value)
        elif field.is_struct:
            self.body(field.fields, value)
        elif field.type == "uuid":
            self.run.append(("16s", f"{value}.bytes"))
        elif field.type in FIXED:
            self.run.append((FIXED[field.type][0], value))
        elif field.type in ("records", "batches"):
            self.records(field, value)
        else:
            self.bytes_like(field, value)

    def length(self, size: str, letter: str) -> None:
        """Write a length; `size` is an expression, -1 for null."""
        if not self.flexible:
            self.run.append((letter, size))
            return
        self.flush()
        length = self.fresh("n")
        self.say(f"{length} = {size} + 1")
        self.say(f"{self.append}(V[{length}] if {length} < 128 else varint({length}))")

    def bytes_like(self, field: Field, value: str) -> None:
        encoded, size = self.fresh("s"), self.fresh("n")
        made = f"{value}.encode()" if field.type == "string" else value
        if self.version in field.nullable:
            self.say(
                f"{encoded} = {value}",
                f"if {encoded} is None:",
                f"    {encoded} = b''",
                f"    {size} = -1",
                "else:",
            )
            if field.type == "string":
                self.say(f"    {encoded} = {encoded}.encode()")
            self.say(f"    {size} = len({encoded})")
        else:
            self.say(f"{encoded} = {made}")
            size = f"len({encoded})"
        self.length(size, "h" if field.type == "string" else "i")
        self.flush()
        self.say(f"{self.append}({encoded})")

    def records(self, field: Field, value: str) -> None:
        assert self.append == "append", "records stand in no tagged field"
        buffers, size = self.fresh("s"), self.fresh("n")
        self.say(f"{buffers} = {value}", f"if {buffers} is None:", f"    {size} = -1", "else:")
        total = "sum(map(len, {0}))" if field.type == "batches" else "len({0})"
        self.say(f"    {size} = {total.format(buffers)}")
        self.length(size, "i")
        self.flush()
        self.say(f"if {size} > 0:", "    out.append(join(parts))", "    parts.clear()")
        self.say(f"    out.{'extend' if field.type == 'batches' else 'append'}({buffers})")

    def array(self, field: Field, value: str) -> None:
        items = self.fresh("a")
        self.say(f"{items} = {value}")
        size = f"len({items})"
        if self.version in field.nullable:
            size = f"(-1 if {items} is None else len({items}))"
        self.length(size, "i")
        self.flush()
        if self.version in field.nullable:
            self.say(f"if {items}:")
            self.depth += 1
        if field.type in ("int32", "int64", "int16", "int8"):
            letter = FIXED[field.type][0]
            self.say(f"{self.append}(pack(f'>{{len({items})}}{letter}', *{items}))")
        else:
            item = self.fresh("y")
            self.say(f"for {item} in {items}:")
            self.depth += 1
            self.field(element_of(field), item)
            self.flush()
            self.depth -= 1
        if self.version in field.nullable:
            self.depth -= 1

    def tagged(self, fields: tuple[Field, ...], source: str) -> None:
        """Write the tagged fields that end a struct."""
        known = [
            field for field in fields if field.tag is not None and self.version in field.versions
        ]
        if not known:
            self.run.append(("x", ""))
            return
        self.flush()
        found = self.fresh("g")
        outer = self.append
        self.say(f"{found} = []")
        for field in sorted(known, key=lambda field: field.tag or 0):
            value, parts = self.fresh("v"), self.fresh("t")
            self.say(f"{value} = {source}.{field.name}", f"if {self.worth_sending(field, value)}:")
            self.depth += 1
            self.append = f"{parts}.append"
            self.say(f"{parts} = []")
            self.field(field, value)
            self.flush()
            tag = varint(field.tag or 0)
            self.say(f"{parts} = join({parts})")
            self.say(f"{found}.append({tag!r} + varint(len({parts})) + {parts})")
            self.depth -= 1
        self.append = outer
        self.say(f"{outer}(V[len({found})])", f"if {found}:", f"    {outer}(join({found}))")

    def worth_sending(self, field: Field, value: str) -> str:
        if field.is_array:
            return value
        if field.is_struct:
            return f"{value} is not None and {value} != {self.default_struct(field)}"
        default = messages.default_of(field)
        self.names[f"DEFAULT_{field.name}"] = default
        return f"{value} != DEFAULT_{field.name}"

    def default_struct(self, field: Field) -> str:
        """The name of a struct with nothing but defaults."""
        name = f"DEFAULT_{field.type}"
        self.names[name] = messages.classes()[field.type]()
        return name
