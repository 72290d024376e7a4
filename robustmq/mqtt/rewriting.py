"""Other names for topics and filters: rewriting, and placeholders for what is known of a client.

The first rule whose filter matches decides (a filter is matched as if it were a name); when its
pattern finds nothing the name stays. In `$share/{group}/{filter}` only the filter is rewritten. A
value put in for a placeholder must not change what a filter means: one with a wildcard is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from robustmq.core.filters import FilterTrie
from robustmq.errors import BrokerError, Fault

LONGEST = 512
"""Bytes of a name that patterns are run on; a longer one that a rule is for is refused."""
_PLACEHOLDER = re.compile(r"%[cuh]|\$\{(?:clientid|username|host)\}")
_LETTERS = {"%c": 0, "%u": 1, "%h": 2, "${clientid}": 0, "${username}": 1, "${host}": 2}
_GROUP = re.compile(r"\$([1-9])")


class Identity(NamedTuple):
    """What placeholders stand for; None: not known."""

    client_id: str
    user_name: str | None = None
    host: str | None = None


class Rule(NamedTuple):
    """One rule; `publish` and `subscribe` say what it counts for."""

    filter: str
    pattern: str
    destination: str
    publish: bool = True
    subscribe: bool = True


def is_personal(text: str) -> bool:
    """Does a text have placeholders?"""
    return _PLACEHOLDER.search(text) is not None


def fill(text: str, identity: Identity, forbidden: str = "+#") -> str:
    """A text with its placeholders filled in; raises NOT_AUTHORIZED when a value is missing, or
    has one of these characters."""

    def value(match: re.Match[str]) -> str:
        found = identity[_LETTERS[match[0]]]
        if not found or any(character in found for character in forbidden):
            raise BrokerError(Fault.NOT_AUTHORIZED, f"{match[0]} has no value that can be used")
        return found

    return _PLACEHOLDER.sub(value, text)


class Rewriting:
    """The rules, in their order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = list(rules)
        self._patterns = [re.compile(rule.pattern) for rule in self._rules]
        self._publish = _trie(self._rules, "publish")
        self._subscribe = _trie(self._rules, "subscribe")
        self.personal = any(is_personal(rule.destination) for rule in self._rules)
        """Do names depend on who uses them?"""

    def __bool__(self) -> bool:
        return bool(self._rules)

    def published(self, topic: bytes, identity: Identity) -> bytes:
        """The name under which a message is published; raises TOPIC_NAME_INVALID for none."""
        return self._rewritten(self._publish, topic, identity, Fault.TOPIC_NAME_INVALID)

    def subscribed(self, filter_: bytes, identity: Identity) -> bytes:
        """The filter (without a `$share/{group}/`) that is subscribed to; raises
        TOPIC_FILTER_INVALID for none."""
        return self._rewritten(self._subscribe, filter_, identity, Fault.TOPIC_FILTER_INVALID)

    def _rewritten(self, trie: FilterTrie, name: bytes, identity: Identity, fault: Fault) -> bytes:
        numbers = [number for number in trie.match(name) if isinstance(number, int)]
        if not numbers:
            return name
        if len(name) > LONGEST:
            raise BrokerError(fault, "too long to be rewritten")
        number = min(numbers)
        match = self._patterns[number].search(name.decode("utf-8"))
        if match is None:
            return name
        destination = fill(self._rules[number].destination, identity)
        return _GROUP.sub(lambda group: match[int(group[1])] or "", destination).encode()


def _trie(rules: list[Rule], action: str) -> FilterTrie:
    trie = FilterTrie()
    for number, rule in enumerate(rules):
        if getattr(rule, action):
            trie.insert(rule.filter.encode(), number)
    return trie
