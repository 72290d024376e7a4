"""What a request of an operator is to who carries it out.

A request is answered in steps: a generator gives rows, None where it has looked and found nothing,
and promises that it waits for. Each step is short, so whoever drives it (net/control_socket.py)
lets go of the loop between any two of them: a list of a million sessions holds nobody up. What is
asked for and cannot be is raised as `Refused`, or as `BrokerError`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from robustmq.control.messages import MAX_PATTERN
from robustmq.promises import Promise
from robustmq.shard.broker import Broker
from robustmq.topic_rules import TopicCount

Steps = Iterator["msgspec.Struct | Promise[Any] | None"]


class Refused(Exception):
    """A request that cannot be carried out; the message is for people."""


class Operator:
    """What is asked: a worker's broker, since when it runs, and what all workers count."""

    def __init__(self, broker: Broker, topic_counts: Callable[[], list[TopicCount]] = list) -> None:
        self.broker = broker
        self.topic_counts = topic_counts
        self.began_ms = broker.wall_ms()


def pattern(written: str) -> Callable[[str], bool]:
    """What fits a pattern: with `*`, `?` or `[...]` the whole name, otherwise a part of it."""
    if len(written) > MAX_PATTERN:
        raise Refused(f"a pattern has at most {MAX_PATTERN} characters")
    if not written:
        return lambda name: True
    if any(character in written for character in "*?["):
        matches = re.compile(fnmatch.translate(written)).match
        return lambda name: matches(name) is not None
    return lambda name: written in name
