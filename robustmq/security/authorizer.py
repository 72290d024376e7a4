"""The one authoriser: who may do what, for every protocol. Pure.

The verdict on (principal, host, operation, resource) is Kafka's: super users may do everything; a
DENY that applies wins; then an ALLOW that applies; then, if no rule names the resource at all,
`security.allow_if_no_acl`; otherwise no. A rule applies when its pattern covers the name (literal,
`*`, or a prefix), its principal is the asker or `User:*`, its host is the asker's or `*`, and its
operation covers the one asked for. READ, WRITE, DELETE and ALTER allow DESCRIBE, ALTER_CONFIGS
allows DESCRIBE_CONFIGS; denials imply nothing.

Rules are found by literal name, and by prefix with one look for each length of prefix that there
is, so what a check costs does not grow with the number of rules. Verdicts are remembered in
the caller's dictionary, one a connection, which `epoch` makes void when rules change.

Topics are named as Kafka names them. MQTT asks by `topic_allowed` with the canonical name.
"""

from __future__ import annotations

from collections.abc import Iterable

from robustmq import names
from robustmq.acls import (
    ANY_USER,
    OPERATIONS,
    WILDCARD,
    AclBinding,
    AclFilter,
    Asker,
    PatternType,
    Permission,
    Resource,
)

MAX_REMEMBERED = 4_096
"""Verdicts that one connection keeps."""
Rules = dict[AclBinding, None]
"""A set that keeps its order."""


class _Patterns:
    """The rules of one resource type: by name, and there by principal."""

    __slots__ = ("lengths", "literal", "prefixed", "principals")

    def __init__(self) -> None:
        self.literal: dict[str, dict[str, Rules]] = {}
        self.prefixed: dict[str, dict[str, Rules]] = {}
        # Length of a prefix -> how many prefixes have it.
        self.lengths: dict[int, int] = {}
        self.principals: dict[str, Rules] = {}

    def add(self, rule: AclBinding) -> None:
        table = self._table(rule)
        if rule.resource_name not in table:
            table[rule.resource_name] = {}
            if table is self.prefixed:
                length = len(rule.resource_name)
                self.lengths[length] = self.lengths.get(length, 0) + 1
        table[rule.resource_name].setdefault(rule.principal, {})[rule] = None
        self.principals.setdefault(rule.principal, {})[rule] = None

    def remove(self, rule: AclBinding) -> None:
        table = self._table(rule)
        named = table[rule.resource_name]
        _discard(named, rule)
        _discard(self.principals, rule)
        if named:
            return
        del table[rule.resource_name]
        if table is self.prefixed:
            length = len(rule.resource_name)
            self.lengths[length] -= 1
            if not self.lengths[length]:
                del self.lengths[length]

    def covering(self, name: str) -> list[dict[str, Rules]]:
        """The rules whose pattern covers a name, by principal."""
        found = [self.literal.get(name)]
        if name != WILDCARD:
            found.append(self.literal.get(WILDCARD))
        for length in self.lengths:
            if length <= len(name):
                found.append(self.prefixed.get(name[:length]))
        return [rules for rules in found if rules]

    def _table(self, rule: AclBinding) -> dict[str, dict[str, Rules]]:
        return self.prefixed if rule.pattern_type == PatternType.PREFIXED else self.literal


def _discard(by_principal: dict[str, Rules], rule: AclBinding) -> None:
    del by_principal[rule.principal][rule]
    if not by_principal[rule.principal]:
        del by_principal[rule.principal]


class Authorizer:
    """The rules of the cluster, ready to be asked."""

    def __init__(self, super_users: Iterable[str] = (), allow_if_no_acl: bool = True) -> None:
        self.epoch = 0
        """Grows with every change; a verdict of an older epoch counts no more."""
        self._rules: dict[AclBinding, None] = {}
        self._types: dict[int, _Patterns] = {}
        self._super_users = frozenset(super_users)
        self._allow_if_no_acl = allow_if_no_acl
        self.is_open = False
        """Is everything allowed to everybody?"""
        self._changed()

    def __len__(self) -> int:
        return len(self._rules)

    def configure(self, super_users: Iterable[str], allow_if_no_acl: bool) -> None:
        """Take the settings over."""
        self._super_users = frozenset(super_users)
        self._allow_if_no_acl = allow_if_no_acl
        self._changed()

    def add(self, rules: Iterable[AclBinding]) -> None:
        """Take rules in; those that are there already stay."""
        for rule in rules:
            if rule not in self._rules:
                self._rules[rule] = None
                self._types.setdefault(rule.resource_type, _Patterns()).add(rule)
        self._changed()

    def remove(self, rules: Iterable[AclBinding]) -> None:
        """Take rules out, those that are there."""
        for rule in rules:
            if rule in self._rules:
                del self._rules[rule]
                self._types[rule.resource_type].remove(rule)
        self._changed()

    def find(self, wanted: AclFilter) -> list[AclBinding]:
        """The rules that a filter means, in the order in which they were made."""
        return [rule for rule in self._rules if wanted.matches(rule)]

    # -- verdicts ----------------------------------------------------------------------------------

    def allowed(self, asker: Asker, operation: int, resource_type: int, name: str) -> bool:
        """The verdict on one operation."""
        if self.is_open:
            return True
        if asker.epoch != self.epoch or len(asker.verdicts) >= MAX_REMEMBERED:
            asker.verdicts = {}
            asker.epoch = self.epoch
        key = (operation, resource_type, name)
        known = asker.verdicts.get(key)
        if known is None:
            known = self.decide(asker.principal, asker.host, operation, resource_type, name)
            asker.verdicts[key] = known
        return known

    def topic_allowed(self, asker: Asker, operation: int, topic: bytes) -> bool:
        """The verdict on a topic by its canonical name (see robustmq.names)."""
        if self.is_open:
            return True
        return self.allowed(asker, operation, Resource.TOPIC, names.in_rules(topic))

    def decide(
        self, principal: str, host: str, operation: int, resource_type: int, name: str
    ) -> bool:
        """The verdict, not remembered."""
        if principal in self._super_users:
            return True
        patterns = self._types.get(resource_type)
        if patterns is None:
            return self._allow_if_no_acl
        covering = patterns.covering(name)
        allowing = False
        for rules in covering:
            for asked in (principal, ANY_USER):
                for rule in rules.get(asked, ()):
                    if rule.host not in (host, WILDCARD):
                        continue
                    if rule.permission == Permission.DENY:
                        if rule.denies(operation):
                            return False
                    elif rule.allows(operation):
                        allowing = True
        return allowing or (not covering and self._allow_if_no_acl)

    def allowed_somewhere(self, asker: Asker, operation: int, resource_type: int) -> bool:
        """Is there a name of this type for which the operation is allowed (KIP-679)?"""
        if self.is_open or asker.principal in self._super_users:
            return True
        patterns = self._types.get(resource_type)
        if patterns is None:
            return self._allow_if_no_acl
        rules = [
            rule
            for principal in (asker.principal, ANY_USER)
            for rule in patterns.principals.get(principal, ())
            if rule.host in (asker.host, WILDCARD)
        ]
        denials = [
            rule for rule in rules if rule.permission == Permission.DENY and rule.denies(operation)
        ]
        if any(_covers_all(rule) for rule in denials):
            return False
        if self._allow_if_no_acl:
            return True
        return any(
            rule.permission == Permission.ALLOW
            and rule.allows(operation)
            and not any(_dominates(denial, rule) for denial in denials)
            for rule in rules
        )

    def operations(self, asker: Asker, resource_type: Resource, name: str) -> int:
        """The operations that are allowed, one bit each, as answers carry them (KIP-430)."""
        return sum(
            1 << operation
            for operation in OPERATIONS[resource_type]
            if self.allowed(asker, operation, resource_type, name)
        )

    def _changed(self) -> None:
        self.epoch += 1
        self.is_open = self._allow_if_no_acl and not self._rules


def _covers_all(rule: AclBinding) -> bool:
    return rule.pattern_type == PatternType.LITERAL and rule.resource_name == WILDCARD


def _dominates(denial: AclBinding, rule: AclBinding) -> bool:
    """Does a denial take everything that a rule allows?"""
    if _covers_all(rule):
        return _covers_all(denial)
    if denial.pattern_type == PatternType.PREFIXED:
        return rule.resource_name.startswith(denial.resource_name)
    if rule.pattern_type == PatternType.PREFIXED:
        return _covers_all(denial)
    return denial.resource_name in (rule.resource_name, WILDCARD)
