"""What an access rule is: Kafka's ACL bindings (KIP-11, KIP-290), their filters and their numbers.

A binding allows or denies one operation to one principal, from one host, on the resources that a
pattern names. Bindings are cluster state (robustmq/cluster); `security.authorizer` decides by them.
Topics stand here by their Kafka names, also where MQTT asks: one rule holds for both protocols.
The numbers are those of the wire.
"""

from __future__ import annotations

import enum

import msgspec

WILDCARD = "*"
"""As a literal name: every resource of the type. As a host: every host."""
ANY_USER = "User:*"
CLUSTER_NAME = "kafka-cluster"
"""The name of the one resource of type CLUSTER."""
USER_PREFIX = "User:"
ANONYMOUS = "User:ANONYMOUS"


MAX_NAME = 4_096
"""The longest name, host or principal of a rule."""


class Resource(enum.IntEnum):
    """What is guarded."""

    UNKNOWN = 0
    ANY = 1
    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7


class Operation(enum.IntEnum):
    """What is done to it."""

    UNKNOWN = 0
    ANY = 1
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12
    CREATE_TOKENS = 13
    DESCRIBE_TOKENS = 14
    TWO_PHASE_COMMIT = 15


class PatternType(enum.IntEnum):
    """How a name is meant. MATCH stands in filters only: whatever would apply to the name."""

    UNKNOWN = 0
    ANY = 1
    MATCH = 2
    LITERAL = 3
    PREFIXED = 4


class Permission(enum.IntEnum):
    """What a binding says."""

    UNKNOWN = 0
    ANY = 1
    DENY = 2
    ALLOW = 3


OPERATIONS: dict[Resource, frozenset[Operation]] = {
    Resource.TOPIC: frozenset(
        {
            Operation.READ,
            Operation.WRITE,
            Operation.CREATE,
            Operation.DELETE,
            Operation.ALTER,
            Operation.DESCRIBE,
            Operation.DESCRIBE_CONFIGS,
            Operation.ALTER_CONFIGS,
        }
    ),
    Resource.GROUP: frozenset(
        {
            Operation.READ,
            Operation.DELETE,
            Operation.DESCRIBE,
            Operation.DESCRIBE_CONFIGS,
            Operation.ALTER_CONFIGS,
        }
    ),
    Resource.CLUSTER: frozenset(
        {
            Operation.CREATE,
            Operation.ALTER,
            Operation.DESCRIBE,
            Operation.CLUSTER_ACTION,
            Operation.DESCRIBE_CONFIGS,
            Operation.ALTER_CONFIGS,
            Operation.IDEMPOTENT_WRITE,
        }
    ),
    Resource.TRANSACTIONAL_ID: frozenset(
        {Operation.WRITE, Operation.DESCRIBE, Operation.TWO_PHASE_COMMIT}
    ),
    Resource.DELEGATION_TOKEN: frozenset({Operation.DESCRIBE}),
    Resource.USER: frozenset({Operation.CREATE_TOKENS, Operation.DESCRIBE_TOKENS}),
}
"""Which operations a resource knows; `authorized operations` of an answer are of these."""

IMPLIED_BY: dict[int, frozenset[int]] = {
    Operation.DESCRIBE: frozenset(
        {
            Operation.DESCRIBE,
            Operation.READ,
            Operation.WRITE,
            Operation.DELETE,
            Operation.ALTER,
            Operation.ALL,
        }
    ),
    Operation.DESCRIBE_CONFIGS: frozenset(
        {Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS, Operation.ALL}
    ),
}
"""What allows an operation beside itself and ALL. Denials imply nothing."""


Verdicts = dict[tuple[int, int, str], bool]
"""By operation, resource and name."""


class Asker(msgspec.Struct):
    """Who asks, and what it was told before: one a connection."""

    principal: str
    host: str
    epoch: int = -1
    verdicts: Verdicts = {}


class AclBinding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One rule. The numbers are those of the enumerations above."""

    resource_type: int
    resource_name: str
    pattern_type: int
    principal: str
    host: str
    operation: int
    permission: int

    def allows(self, operation: int) -> bool:
        """Does its operation cover this one, if the rule is an ALLOW?"""
        implied = IMPLIED_BY.get(operation)
        if implied is not None:
            return self.operation in implied
        return self.operation in (operation, Operation.ALL)

    def denies(self, operation: int) -> bool:
        """Does its operation cover this one, if the rule is a DENY?"""
        return self.operation in (operation, Operation.ALL)


class AclFilter(msgspec.Struct, frozen=True):
    """Which rules are meant: ANY and None match everything."""

    resource_type: int = Resource.ANY
    resource_name: str | None = None
    pattern_type: int = PatternType.ANY
    principal: str | None = None
    host: str | None = None
    operation: int = Operation.ANY
    permission: int = Permission.ANY

    def matches(self, rule: AclBinding) -> bool:
        """Is this rule meant?"""
        return (
            self.resource_type in (Resource.ANY, rule.resource_type)
            and self.operation in (Operation.ANY, rule.operation)
            and self.permission in (Permission.ANY, rule.permission)
            and self.principal in (None, rule.principal)
            and self.host in (None, rule.host)
            and self._matches_pattern(rule)
        )

    def _matches_pattern(self, rule: AclBinding) -> bool:
        wanted = self.pattern_type
        if wanted not in (PatternType.ANY, PatternType.MATCH, rule.pattern_type):
            return False
        name = self.resource_name
        if name is None:
            return True
        if wanted != PatternType.MATCH:
            return name == rule.resource_name
        if rule.pattern_type == PatternType.PREFIXED:
            return name.startswith(rule.resource_name)
        return rule.resource_name in (name, WILDCARD)


def problem_of(rule: AclBinding) -> str | None:
    """Why a rule cannot be made, in words for people; None when it can."""
    if rule.resource_type not in OPERATIONS:
        return "the resource type is not one to make rules for"
    rules = (
        (
            rule.pattern_type in (PatternType.LITERAL, PatternType.PREFIXED),
            "the pattern type is LITERAL or PREFIXED",
        ),
        (rule.permission in (Permission.ALLOW, Permission.DENY), "the permission is unknown"),
        (
            rule.operation in set(Operation) - {Operation.UNKNOWN, Operation.ANY},
            "the operation is unknown",
        ),
        (bool(rule.resource_name), "the resource name is empty"),
        (bool(rule.host), "the host is empty"),
        (
            max(map(len, (rule.resource_name, rule.host, rule.principal))) <= MAX_NAME,
            f"a name has {MAX_NAME} characters at most",
        ),
        (
            rule.resource_type != Resource.CLUSTER or rule.resource_name == CLUSTER_NAME,
            f"the only resource of type CLUSTER is {CLUSTER_NAME}",
        ),
        (rule.principal.find(":") > 0, "a principal is type:name"),
    )
    return next((why for holds, why in rules if not holds), None)
