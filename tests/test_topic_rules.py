"""Patterns that could hold the broker up are refused when it starts."""

from __future__ import annotations

import pytest

from robustmq.config import ConfigError, parse
from robustmq.topic_rules import problem_of_pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(.*)*x",
        "(a*b?)+",
        r"(a)\1",
        "(?=a)b",
        "(?<!a)b",
        ".*.*.*.*x",
        "((a{1,9}){1,9})",
    ],
)
def test_a_pattern_that_may_take_long_is_refused(pattern: str) -> None:
    assert problem_of_pattern(pattern, "x")


@pytest.mark.parametrize(
    "pattern", ["^x/y/(.+)$", "^y/(.+)/z/(.+)$", "^([^/]+)/([^/]+)/(.*)$", "a|b", "(?:ab)?c{1,3}"]
)
def test_the_patterns_that_people_write_are_taken(pattern: str) -> None:
    assert problem_of_pattern(pattern, "x") is None


def test_a_destination_that_asks_for_what_the_pattern_does_not_find_is_refused() -> None:
    assert "$3" in (problem_of_pattern("(a)(b)", "$3") or "")


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("rewrite", {"filter": "a/#/b", "pattern": "a", "destination": "b"}),
        ("rewrite", {"filter": "a", "pattern": "(", "destination": "b"}),
        ("auto_subscribe", {"filter": "a+"}),
        ("auto_subscribe", {"filter": "a", "qos": 3}),
        ("listener", {"name": "a", "mount_point": "no slash"}),
        ("listener", {"name": "a", "mount_point": "#/"}),
        ("listener", {"name": "a", "mount_point": "$SYS/"}),
    ],
)
def test_a_table_that_cannot_work_refuses_the_start(table: str, row: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse({table: [row]})
