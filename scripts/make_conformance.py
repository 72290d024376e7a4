#!/usr/bin/env python3
"""Write docs/mqtt-conformance.md: each normative statement of MQTT 5.0 and 3.1.1, and its tests.

Tests name the statements they prove with `@pytest.mark.mqtt("MQTT-3.1.2-24")` for 5.0 and
`@pytest.mark.mqtt311(...)` for 3.1.1, where the same number may mean something else. The statements
stand in tests/conformance/statements/. `scripts/make_conformance.py --check` says what has drifted,
and which statement that binds a server nobody proves (exit code 1).
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/mqtt-conformance.md"
TABLES = ROOT / "tests/conformance/statements"


class Specification(NamedTuple):
    """One version: its marker, its table, its name."""

    marker: str
    table: str
    title: str


class Statement(NamedTuple):
    """One row of a table."""

    number: str
    binds: str
    words: str
    reason: str = ""

    @property
    def needs_a_test(self) -> bool:
        """Does it bind servers, and can they break it?"""
        return self.binds != "client" and not self.reason


SPECIFICATIONS = (
    Specification("mqtt", "mqtt_5_0.txt", "MQTT 5.0"),
    Specification("mqtt311", "mqtt_3_1_1.txt", "MQTT 3.1.1"),
)
HEAD = """<!-- Written by scripts/make_conformance.py from the tests' markers; do not edit. -->

# MQTT conformance

Every normative statement of both specifications, in our own words, and the tests that prove it: on
the processes that users start, over real sockets, publisher, subscriber and session on different
workers. A statement about clients has a test where the broker can tell that one breaks it.
MQTT 3.1, which numbers no statements, is proven by `tests/conformance/test_mqtt_3_1.py` and the
tests that run in all versions.
"""


def statements(specification: Specification) -> list[Statement]:
    """All statements of a version, in its order."""
    found = []
    for line in (TABLES / specification.table).read_text().splitlines():
        if not line.startswith("#"):
            number, *columns = line.split(" | ")
            found.append(Statement(f"MQTT-{number}", *columns))
    return found


@cache
def markers() -> list[tuple[str, str, str]]:
    """(marker, statement, test) of all tests."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.parse(path.read_text()).body:
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            where = f"{path.relative_to(ROOT)}::{function.name}"
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call):
                    name = ast.unparse(decorator.func).removeprefix("pytest.mark.")
                    if name in ("mqtt", "mqtt311"):
                        found += [(name, ast.literal_eval(one), where) for one in decorator.args]
    return found


def proven(marker: str) -> dict[str, list[str]]:
    """Statement -> the tests that name it."""
    found: dict[str, list[str]] = {}
    for name, statement, where in markers():
        if name == marker:
            found.setdefault(statement, []).append(where)
    return found


def unproven(specification: Specification) -> list[str]:
    """What binds a server and has no test."""
    tests = proven(specification.marker)
    return [
        one.number
        for one in statements(specification)
        if one.needs_a_test and one.number not in tests
    ]


def section(specification: Specification) -> str:
    """The table of one version."""
    tests, rows = proven(specification.marker), statements(specification)
    unknown = sorted(set(tests) - {one.number for one in rows})
    assert not unknown, f"markers that name no statement of {specification.title}: {unknown}"
    servers = [one for one in rows if one.binds != "client"]
    clients = [one for one in rows if one.binds == "client"]
    lines = [
        f"## {specification.title}",
        "",
        f"{len(rows)} statements. {len(servers)} bind servers: {_tested(servers, tests)} have a"
        f" test, {sum(bool(one.reason) for one in servers)} need none for the reason given."
        f" {len(clients)} bind clients alone: {_tested(clients, tests)} have a test of what the"
        f" broker does when one breaks them.",
        "",
        "| Statement | Binds | What it asks | Tests |",
        "|---|---|---|---|",
    ]
    for one in rows:
        proof = "<br>".join(f"`{_short(test)}`" for test in tests.get(one.number, ()))
        if not proof:
            proof = one.reason or ("" if one.binds == "client" else "**not proven yet**")
        lines.append(f"| {one.number} | {one.binds} | {one.words} | {proof} |")
    return "\n".join(lines) + "\n"


def _tested(rows: list[Statement], tests: dict[str, list[str]]) -> int:
    return sum(one.number in tests for one in rows)


def _short(test: str) -> str:
    return test.removeprefix("tests/conformance/")


def page() -> str:
    """The page as text."""
    return "\n".join([HEAD, *(section(one) for one in SPECIFICATIONS)])


def main() -> int:
    """Write the page, or with --check say whether it has drifted and what is open."""
    text = page()
    failed = False
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print(f"{PAGE.relative_to(ROOT)} has drifted: run scripts/make_conformance.py")
        failed = True
    for specification in SPECIFICATIONS:
        if numbers := unproven(specification):
            print(f"{specification.title}: no test proves {' '.join(numbers)}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
