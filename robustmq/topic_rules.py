"""Rules about topics that the configuration gives: rewriting, what clients are subscribed to, what
is counted.

`[[rewrite]]`, `[[auto_subscribe]]` and `[[topic_metrics]]` tables become these values. Placeholders
in them stand for what is known of a client: `%c` its identifier, `%u` its user name, `%h` its
address. Patterns are run on names that clients choose, so those that can take long for a short name
are refused here: no repetition within a repetition, three without an end at most, nothing that
looks back or around.
"""

from __future__ import annotations

import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Annotated, Any, Literal

import msgspec

from robustmq import names
from robustmq.errors import BrokerError
from robustmq.limits import bound, choice, text

UNBOUNDED_REPEATS = 3
MAX_TOPIC_METRICS = 256
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
_REFUSED = (
    codes.GROUPREF,
    codes.GROUPREF_EXISTS,
    codes.ASSERT,
    codes.ASSERT_NOT,
)
_FEW = 4


class Rewrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Topics get another name; the first rule whose filter matches decides."""

    filter: Annotated[str, text("Topics that the rule is for.", ".+")]
    pattern: Annotated[
        str, text("Regular expression (Python's) that finds what stays of the name.", ".+")
    ]
    destination: Annotated[
        str, text("The new name: $1 to $9 are what the pattern found; %c client, %u user.", ".+")
    ]
    action: Annotated[
        Literal["publish", "subscribe", "all"],
        choice("Where it counts: PUBLISH and wills, SUBSCRIBE and UNSUBSCRIBE, or all."),
    ] = "all"


class AutoSubscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every client is subscribed to this when it connects."""

    filter: Annotated[
        str, text("Topic filter: %c client identifier, %u user name, %h address.", ".+")
    ]
    qos: Annotated[int, bound("", "Maximum QoS.", 0, 2, reloadable=False)] = 0
    no_local: Annotated[bool, choice("Not what the client published itself.")] = False
    retain_as_published: Annotated[bool, choice("RETAIN as it was published.")] = False
    retain_handling: Annotated[
        int,
        bound(
            "",
            "Retained messages: 0 at every connection, 1 with a new subscription, 2 none.",
            0,
            2,
            reloadable=False,
        ),
    ] = 0


class TopicMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The messages of these topics are counted together."""

    filter: Annotated[str, text("Topic filter.", ".+")]


class TopicCount(msgspec.Struct, frozen=True):
    """One filter: messages in, out and dropped by QoS, and of each so many a second of late."""

    filter: str
    messages_in: tuple[int, ...]
    messages_out: tuple[int, ...]
    messages_dropped: tuple[int, ...]
    rate_in: float
    rate_out: float
    rate_dropped: float


def problem_of_pattern(pattern: str, destination: str) -> str | None:
    """Why a pattern may not be used; None when it may."""
    try:
        compiled = re.compile(pattern)
        tree = parser.parse(pattern)
    except re.error as error:
        return f"is no regular expression: {error}"
    found = [int(number) for number in re.findall(r"\$([1-9])", destination)]
    if found and max(found) > compiled.groups:
        return f"has {compiled.groups} groups, and its destination asks for ${max(found)}"
    unbounded = _unbounded(tree, False)
    if unbounded is None:
        return "repeats a repetition, or looks back or around: say it in a simpler way"
    if unbounded > UNBOUNDED_REPEATS:
        return f"has more than {UNBOUNDED_REPEATS} repetitions without an end"
    return None


def _unbounded(tree: Any, repeated: bool) -> int | None:
    """How many repetitions without an end a pattern has; None when one could take too long."""
    count = 0
    for code, argument in tree:
        if code in _REFUSED:
            return None
        inner: list[Any] = []
        within = repeated
        if code in _REPEATS:
            least, most, body = argument
            many = most is codes.MAXREPEAT or most > _FEW
            if repeated and most != least:
                return None
            count += many
            within = repeated or many
            inner = [body]
        elif code is codes.BRANCH:
            if repeated:
                return None
            inner = argument[1]
        elif code is codes.SUBPATTERN:
            inner = [argument[3]]
        elif code is codes.ATOMIC_GROUP:
            inner = [argument]
        for part in inner:
            found = _unbounded(part, within)
            if found is None:
                return None
            count += found
    return count


def problem_of_rules(
    rewrite: tuple[Rewrite, ...],
    auto_subscribe: tuple[AutoSubscribe, ...],
    topic_metrics: tuple[TopicMetric, ...],
) -> str | None:
    """What is wrong with these tables; None when nothing is."""
    tables: tuple[tuple[str, tuple[Rewrite | AutoSubscribe | TopicMetric, ...]], ...] = (
        ("rewrite", rewrite),
        ("auto_subscribe", auto_subscribe),
        ("topic_metrics", topic_metrics),
    )
    for table, rows in tables:
        for row in rows:
            try:
                names.validate_filter(row.filter.encode())
            except BrokerError as error:
                return f"[[{table}]] filter = {row.filter!r}: {error}"
    for rule in rewrite:
        problem = problem_of_pattern(rule.pattern, rule.destination)
        if problem is not None:
            return f"[[rewrite]] {rule.filter!r}: the pattern {rule.pattern!r} {problem}"
    for table, rows in tables[1:]:
        filters = [one.filter for one in rows]
        if len(set(filters)) != len(filters):
            return f"two [[{table}]] have the same filter; keep one"
    if len(topic_metrics) > MAX_TOPIC_METRICS:
        return f"there are {len(topic_metrics)} [[topic_metrics]]; {MAX_TOPIC_METRICS} at most"
    return None
