"""Rows for people (columns) and for programs (`--json`: one object a line)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

SHOWN_AT_ONCE = 500
"""Rows that are held to find the widths of the columns; the next ones get the same."""


class Column(NamedTuple):
    """A heading, and whether numbers stand under it."""

    heading: str
    right: bool = False


def print_rows(rows: Iterable[msgspec.Struct]) -> None:
    """One JSON object a line."""
    encoder = msgspec.json.Encoder()
    for row in rows:
        sys.stdout.write(encoder.encode(row).decode() + "\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> int:
    """Print rows under headings; how many there were. No rows: no headings."""
    count = 0
    widths: list[int] = []
    held: list[list[str]] = []
    for row in rows:
        count += 1
        cells = [_cell(value) for value in row]
        if widths:
            print(_line(columns, widths, cells))
            continue
        held.append(cells)
        if len(held) == SHOWN_AT_ONCE:
            widths = _print_held(columns, held)
    if held and not widths:
        _print_held(columns, held)
    return count


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    shown = [(name, _cell(value)) for name, value in facts]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name:<{width}}  {value}".rstrip())


def ago(timestamp_ms: int) -> str:
    """How long ago something was: `5 s`, `3 min`, `2 h 10 min`, `4 d 3 h`."""
    return duration(max(0.0, time.time() - timestamp_ms / 1000)) if timestamp_ms else ""


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    whole = int(seconds)
    for size, unit, smaller, of in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {of}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def _print_held(columns: Sequence[Column], held: list[list[str]]) -> list[int]:
    headings = [column.heading for column in columns]
    widths = [max(len(cells[at]) for cells in [headings, *held]) for at in range(len(columns))]
    for cells in [headings, *held]:
        print(_line(columns, widths, cells))
    return widths


def _line(columns: Sequence[Column], widths: list[int], cells: list[str]) -> str:
    shown = (
        f"{cell:>{width}}" if column.right else f"{cell:<{width}}"
        for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return "  ".join(shown).rstrip()


def _cell(value: object) -> str:
    """Names come from clients: what would move the cursor is shown, not done."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))
