"""What reviewers would otherwise have to say: lengths, names, queues without a bound, dead modules.

Line length, complexity, docstrings and banned calls are ruff's, types mypy's, layers
import-linter's; all are set in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "robustmq").rglob("*.py"))
CHECKED = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "perf").glob("*.py"))]
MODULE_LINES = 800
FUNCTION_LINES = 60
BANNED_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "base", "tools"})
ENTRY_POINTS = {"robustmq.storage.rocksdb_engine", "robustmq.storage.rocksdb_stored"}
"""What the metadata of the package names."""
STARTED_BY_USERS = frozenset({"robustmq.cli.main"})
"""Modules that a command runs, and no module imports."""
TODO = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_modules_are_short_enough_to_be_read() -> None:
    lines = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CHECKED}
    assert [path for path, count in lines.items() if count > MODULE_LINES] == []


def test_functions_are_short_enough_to_be_read() -> None:
    found = [
        f"{shown(path)}:{function.lineno} {function.name}"
        for path in CHECKED
        for function in functions(parsed(path))
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES
    ]
    assert found == []


def test_what_other_compiled_modules_count_on_is_compiled_too() -> None:
    """One that is left out of the list is found only where it is imported."""
    built = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    typed = [
        path.with_suffix(".py")
        for path in sorted((ROOT / "robustmq").rglob("*.pxd"))
        if re.search(r"^(cpdef|cdef class) ", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert [shown(path) for path in typed if f'sources = ["{shown(path)}"]' not in built] == []


def test_modules_have_names_that_say_what_is_in_them() -> None:
    assert [shown(path) for path in CHECKED if path.stem in BANNED_NAMES] == []


def test_what_is_left_to_do_names_its_issue() -> None:
    found = [
        f"{shown(path)}:{number}"
        for path in CHECKED
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if TODO.search(line)
    ]
    assert found == [], "write TODO(#issue), or do it"


def test_every_queue_of_a_loop_has_a_bound() -> None:
    found = [
        f"{shown(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"asyncio.Queue", "asyncio.PriorityQueue"}
        and not (node.args or node.keywords)
    ]
    assert found == []


def test_no_module_is_dead() -> None:
    used = {name for path in SOURCES for name in imported(path)} | STARTED_BY_USERS | ENTRY_POINTS
    modules = {dotted(path) for path in SOURCES if path.stem != "__init__"}
    assert sorted(modules - used) == [], "nobody imports these"
