#!/usr/bin/env python3
"""Write docs/mqtt-conformance.md: each normative statement of MQTT 5.0 with the tests for it.

Tests name their statements with `@pytest.mark.mqtt("MQTT-3.1.2-24")`; the numbers below are those
of the specification's appendix B. `scripts/make_conformance.py --check` only says what has drifted
(exit code 1).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/mqtt-conformance.md"

# Section: first and last number of its statements.
STATEMENTS = {
    "1.5.4": (1, 3), "1.5.5": (1, 1), "1.5.7": (1, 1), "2.1.3": (1, 1), "2.2.1": (2, 6),
    "2.2.2": (1, 1), "3.1.0": (1, 2), "3.1.2": (1, 30), "3.1.3": (1, 12), "3.1.4": (1, 6),
    "3.2.0": (1, 2), "3.2.2": (1, 22), "3.3.1": (1, 13), "3.3.2": (1, 20), "3.3.4": (1, 10),
    "3.4.2": (1, 3), "3.5.2": (1, 3), "3.6.1": (1, 1), "3.6.2": (1, 3), "3.7.2": (1, 3),
    "3.8.1": (1, 1), "3.8.3": (1, 5), "3.8.4": (1, 8), "3.9.2": (1, 2), "3.9.3": (1, 2),
    "3.10.1": (1, 1), "3.10.3": (1, 2), "3.10.4": (1, 6), "3.11.2": (1, 2), "3.11.3": (1, 2),
    "3.12.4": (1, 1), "3.14.0": (1, 1), "3.14.1": (1, 1), "3.14.2": (1, 4), "3.14.4": (1, 3),
    "3.15.1": (1, 1), "3.15.2": (1, 3), "4.1.0": (1, 2), "4.2.0": (1, 1), "4.3.1": (1, 1),
    "4.3.2": (1, 5), "4.3.3": (1, 13), "4.4.0": (1, 2), "4.5.0": (1, 2), "4.6.0": (1, 6),
    "4.7.0": (1, 1), "4.7.1": (1, 2), "4.7.2": (1, 1), "4.7.3": (1, 4), "4.8.2": (1, 6),
    "4.9.0": (1, 3), "4.12.0": (1, 7), "4.12.1": (1, 2), "4.13.1": (1, 1), "4.13.2": (1, 1),
    "6.0.0": (1, 4),
}  # fmt: skip
CLIENT = "binds clients"
NO_TEXT = "the broker sends no Reason String, User Property or Response Information of its own"
NO_LIMIT = "the broker has no such limit: CONNACK says so"
NO_AUTH = "enhanced authentication is not offered: CONNACK 0x8C"
NO_WEBSOCKET = "no WebSocket listener yet"
NO_ROOM = "the protocol's strings have no room for more"
ONE_COPY = "the broker sends one copy [MQTT-3.3.4-4]"

# Why a statement has no test of its own.
REASONS = {
    CLIENT: "2.2.1-3 3.1.2-20 3.1.2-21 3.1.2-30 3.2.2-4 3.2.2-5 3.2.2-11 3.2.2-14 3.2.2-18 3.2.2-21"
    " 3.3.2-10 3.3.4-8 4.5.0-2 4.6.0-1 4.6.0-4",
    NO_TEXT: "3.2.2-19 3.2.2-20 3.4.2-2 3.4.2-3 3.5.2-2 3.5.2-3 3.6.2-2 3.6.2-3 3.7.2-2 3.7.2-3"
    " 3.9.2-1 3.9.2-2 3.11.2-1 3.11.2-2 3.14.2-3 3.14.2-4 3.15.2-2 3.15.2-3 3.1.2-28 3.1.2-29",
    NO_LIMIT: "3.2.2-9 3.2.2-10 3.2.2-12 3.2.2-13",
    NO_AUTH: "3.15.2-1 4.12.0-2 4.12.0-3 4.12.0-4 4.12.0-5 4.12.1-1 4.12.1-2",
    NO_WEBSOCKET: "6.0.0-1 6.0.0-2 6.0.0-3 6.0.0-4",
    ONE_COPY: "3.3.4-5",
    NO_ROOM: "4.7.3-3",
}


def statements() -> Iterator[str]:
    """All statements in the specification's order."""
    for section, (first, last) in STATEMENTS.items():
        for number in range(first, last + 1):
            yield f"MQTT-{section}-{number}"


def proven() -> dict[str, list[str]]:
    """Statement -> the tests that name it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.parse(path.read_text()).body:
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in function.decorator_list:
                if not isinstance(decorator, ast.Call):
                    continue
                if ast.unparse(decorator.func) == "pytest.mark.mqtt":
                    where = f"{path.relative_to(ROOT)}::{function.name}"
                    for argument in decorator.args:
                        found.setdefault(ast.literal_eval(argument), []).append(where)
    return found


def reasons() -> dict[str, str]:
    """Statement -> why it has no test."""
    return {f"MQTT-{one}": why for why, many in REASONS.items() for one in many.split()}


def page() -> str:
    """The page as text."""
    tests, why = proven(), reasons()
    known = list(statements())
    unknown = sorted(set(tests) - set(known))
    assert not unknown, f"markers that name no statement: {unknown}"
    open_ones = [one for one in known if one not in tests and one not in why]
    lines = [
        "<!-- Written by scripts/make_conformance.py from the tests' markers; do not edit. -->",
        "",
        "# MQTT conformance",
        "",
        f"Of {len(known)} normative statements of MQTT 5.0, {len(set(tests))} have a test on a real"
        f" broker that names them, {sum(one not in tests for one in why)} need none for the reason"
        f" given, {len(open_ones)} are not proven yet.",
        "",
        "| Statement | Proven by |",
        "|---|---|",
    ]
    for one in known:
        if one in tests:
            proof = "<br>".join(f"`{test}`" for test in tests[one])
        else:
            proof = why.get(one, "**not proven yet**")
        lines.append(f"| {one} | {proof} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it has drifted."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text() == text:
            return 0
        print(f"{PAGE.relative_to(ROOT)} has drifted: run scripts/make_conformance.py")
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
