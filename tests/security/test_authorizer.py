"""The authoriser against a table of Kafka's rules, against a plain reading of them, and with many
rules."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.acls import (
    AclBinding,
    AclFilter,
    Asker,
    Operation,
    PatternType,
    Permission,
    Resource,
    problem_of,
)
from robustmq.security.authorizer import Authorizer

TOPIC, GROUP, CLUSTER = Resource.TOPIC, Resource.GROUP, Resource.CLUSTER
LITERAL, PREFIXED = PatternType.LITERAL, PatternType.PREFIXED
ALLOW, DENY = Permission.ALLOW, Permission.DENY
READ, WRITE, DESCRIBE, ALL = Operation.READ, Operation.WRITE, Operation.DESCRIBE, Operation.ALL


def rule(
    name: str = "t",
    operation: int = READ,
    permission: int = ALLOW,
    pattern: int = LITERAL,
    principal: str = "User:a",
    host: str = "*",
    resource: int = TOPIC,
) -> AclBinding:
    return AclBinding(resource, name, pattern, principal, host, operation, permission)


def verdict(rules: list[AclBinding], operation: int, name: str = "t", closed: bool = True) -> bool:
    authorizer = Authorizer((), not closed)
    authorizer.add(rules)
    return authorizer.allowed(Asker("User:a", "10.0.0.1"), operation, TOPIC, name)


@pytest.mark.parametrize(
    ("rules", "operation", "allowed"),
    [
        ([], READ, False),
        ([rule()], READ, True),
        ([rule()], WRITE, False),
        ([rule()], DESCRIBE, True),
        ([rule(operation=ALL)], WRITE, True),
        ([rule(operation=ALL)], Operation.ALTER_CONFIGS, True),
        ([rule(operation=WRITE)], DESCRIBE, True),
        ([rule(operation=Operation.CREATE)], DESCRIBE, False),
        ([rule(operation=Operation.ALTER_CONFIGS)], Operation.DESCRIBE_CONFIGS, True),
        ([rule(operation=Operation.ALTER_CONFIGS)], DESCRIBE, False),
        ([rule("other")], READ, False),
        ([rule("*")], READ, True),
        ([rule("", pattern=PREFIXED)], READ, True),
        ([rule("t", pattern=PREFIXED)], READ, True),
        ([rule("tt", pattern=PREFIXED)], READ, False),
        ([rule(principal="User:*")], READ, True),
        ([rule(principal="User:b")], READ, False),
        ([rule(host="10.0.0.1")], READ, True),
        ([rule(host="10.0.0.2")], READ, False),
        ([rule(), rule(permission=DENY)], READ, False),
        ([rule(), rule(permission=DENY, host="10.0.0.2")], READ, True),
        ([rule(), rule("*", ALL, DENY, principal="User:*")], READ, False),
        ([rule("*"), rule("t", permission=DENY, pattern=PREFIXED)], READ, False),
        # A denial implies nothing: what is not named stays allowed.
        ([rule(operation=ALL), rule(permission=DENY)], DESCRIBE, True),
        ([rule(resource=GROUP)], READ, False),
    ],
)
def test_a_verdict_is_kafkas(rules: list[AclBinding], operation: int, allowed: bool) -> None:
    assert verdict(rules, operation) is allowed


def test_what_no_rule_names_is_open_if_the_settings_say_so() -> None:
    assert verdict([], READ, closed=False)
    assert verdict([rule("other")], READ, closed=False)
    assert not verdict([rule(principal="User:b")], READ, closed=False)
    assert not verdict([rule("*", principal="User:b")], READ, closed=False)
    assert not verdict([rule("", principal="User:b", pattern=PREFIXED)], READ, closed=False)


def test_a_super_user_may_do_what_is_denied() -> None:
    authorizer = Authorizer(["User:root"], False)
    authorizer.add([rule("*", ALL, DENY, principal="User:*")])
    assert authorizer.allowed(Asker("User:root", "h"), WRITE, TOPIC, "t")
    assert not authorizer.allowed(Asker("User:boot", "h"), WRITE, TOPIC, "t")


def test_a_change_makes_what_was_remembered_void() -> None:
    authorizer = Authorizer((), False)
    asker = Asker("User:a", "h")
    assert not authorizer.allowed(asker, READ, TOPIC, "t")
    authorizer.add([rule()])
    assert authorizer.allowed(asker, READ, TOPIC, "t")
    authorizer.remove([rule()])
    assert not authorizer.allowed(asker, READ, TOPIC, "t")
    authorizer.configure(["User:a"], False)
    assert authorizer.allowed(asker, READ, TOPIC, "t")


def test_what_a_connection_remembers_is_bounded() -> None:
    authorizer = Authorizer((), False)
    asker = Asker("User:a", "h")
    for number in range(10_000):
        authorizer.allowed(asker, READ, TOPIC, f"t{number}")
    assert len(asker.verdicts) <= 4_096


def test_mqtt_asks_by_the_canonical_name() -> None:
    authorizer = Authorizer((), False)
    authorizer.add([rule("plant.7.", pattern=PREFIXED)])
    asker = Asker("User:a", "h")
    assert authorizer.topic_allowed(asker, READ, b"plant/7/heat")
    assert not authorizer.topic_allowed(asker, READ, b"plant/8/heat")
    assert authorizer.topic_allowed(asker, READ, b"plant/7/" + b"x" * 300)


def test_the_operations_of_a_resource_are_bits() -> None:
    authorizer = Authorizer((), False)
    authorizer.add([rule(operation=WRITE)])
    asker = Asker("User:a", "h")
    assert authorizer.operations(asker, TOPIC, "t") == 1 << WRITE | 1 << DESCRIBE
    assert Authorizer().operations(asker, GROUP, "g") == sum(1 << n for n in (3, 6, 8, 10, 11))


NAMES = st.text("ab", max_size=3)
RULES = st.builds(
    AclBinding,
    st.just(2),
    st.one_of(st.just("*"), NAMES.filter(bool)),
    st.sampled_from([3, 4]),
    st.sampled_from(["User:a", "User:b", "User:*"]),
    st.sampled_from(["*", "h", "g"]),
    st.sampled_from([2, 3, 4, 5, 6, 7, 8, 10, 11]),
    st.sampled_from([2, 3]),
)
ASKED = [3, 4, 5, 6, 7, 8, 10, 11]


def plainly(rules: list[AclBinding], operation: int, name: str, open_: bool) -> bool:
    """The rules read one by one, without an index."""
    named = [
        one
        for one in rules
        if (one.pattern_type == 4 and name.startswith(one.resource_name))
        or (one.pattern_type == 3 and one.resource_name in (name, "*"))
    ]
    mine = [one for one in named if one.principal in ("User:a", "User:*") and one.host in "*h"]
    if any(one.permission == 2 and one.operation in (operation, 2) for one in mine):
        return False
    implied = {8: {3, 4, 6, 7, 8, 2}, 10: {10, 11, 2}}.get(operation, {operation, 2})
    if any(one.permission == 3 and one.operation in implied for one in mine):
        return True
    return open_ and not named


@settings(max_examples=50)
@given(st.lists(RULES, max_size=12), st.data(), st.booleans())
def test_the_index_says_what_a_plain_reading_says(
    rules: list[AclBinding], data: st.DataObject, open_: bool
) -> None:
    authorizer = Authorizer((), open_)
    authorizer.add(rules)
    gone = data.draw(st.lists(st.sampled_from(rules), max_size=6)) if rules else []
    authorizer.remove(gone)
    left = [one for one in rules if one not in gone]
    assert authorizer.find(AclFilter()) == list(dict.fromkeys(left))
    asker = Asker("User:a", "h")
    names = ["a", "ab", "b", "aab", "bb"]
    for name in names:
        for operation in ASKED:
            wanted = plainly(left, operation, name, open_)
            assert authorizer.allowed(asker, operation, TOPIC, name) is wanted
            if wanted:
                # What is allowed for one name is allowed somewhere.
                assert authorizer.allowed_somewhere(asker, operation, TOPIC)


def test_allowed_somewhere_is_no_when_a_denial_takes_it_all() -> None:
    authorizer = Authorizer((), False)
    asker = Asker("User:a", "h")
    authorizer.add([rule("ab", WRITE, pattern=PREFIXED), rule("a", WRITE, DENY, PREFIXED)])
    assert not authorizer.allowed_somewhere(asker, WRITE, TOPIC)
    authorizer.add([rule("c", WRITE)])
    assert authorizer.allowed_somewhere(asker, WRITE, TOPIC)
    authorizer.add([rule("*", WRITE, DENY)])
    assert not authorizer.allowed_somewhere(asker, WRITE, TOPIC)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (AclFilter(), {"t", "te", "*"}),
        (AclFilter(TOPIC, "test", PatternType.MATCH), {"t", "te", "*"}),
        (AclFilter(TOPIC, "x", PatternType.MATCH), {"*"}),
        (AclFilter(TOPIC, "te", PatternType.ANY), {"te"}),
        (AclFilter(TOPIC, "te", LITERAL), set()),
        (AclFilter(TOPIC, None, PREFIXED), {"t", "te"}),
        (AclFilter(TOPIC, None, LITERAL), {"*"}),
        (AclFilter(GROUP), set()),
        (AclFilter(principal="User:b"), {"te"}),
        (AclFilter(operation=WRITE), {"te"}),
        (AclFilter(host="h"), set()),
        (AclFilter(permission=DENY), {"*"}),
    ],
)
def test_a_filter_finds_rules(wanted: AclFilter, found: set[str]) -> None:
    authorizer = Authorizer()
    authorizer.add(
        [
            rule("t", pattern=PREFIXED),
            rule("te", WRITE, pattern=PREFIXED, principal="User:b"),
            rule("*", permission=DENY),
        ]
    )
    assert {one.resource_name for one in authorizer.find(wanted)} == found


@pytest.mark.parametrize(
    "bad",
    [
        rule(resource=1),
        rule(pattern=2),
        rule(permission=1),
        rule(operation=1),
        rule(""),
        rule(host=""),
        rule(principal="a"),
        rule("x" * 4_097),
        rule("t", Operation.CREATE, resource=CLUSTER),
    ],
    ids=range(9),
)
def test_a_rule_that_cannot_be_is_refused(bad: AclBinding) -> None:
    assert problem_of(bad)


def test_a_hundred_thousand_rules_do_not_slow_a_check() -> None:
    authorizer = Authorizer((), False)
    authorizer.add(rule(f"topic-{n}", principal=f"User:{n}") for n in range(40_000))
    authorizer.add(rule(f"p{n}-", pattern=PREFIXED, principal=f"User:{n}") for n in range(30_000))
    authorizer.add(rule("*", principal=f"User:{n}") for n in range(30_000))
    assert len(authorizer) == 100_000
    began = time.perf_counter()
    for number in range(1_000):
        assert authorizer.decide(f"User:{number}", "h", READ, TOPIC, f"p{number}-x")
    assert (time.perf_counter() - began) / 1_000 < 0.000_5
