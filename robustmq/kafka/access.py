"""What the Kafka handlers know of access: the words of robustmq.acls under one roof, and what they
ask of whoever keeps rules, credentials and quotas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from robustmq.acls import CLUSTER_NAME as CLUSTER_NAME
from robustmq.acls import OPERATIONS, AclBinding, AclFilter, Asker
from robustmq.acls import Operation as Operation
from robustmq.acls import Resource as Resource
from robustmq.credentials import SaltedPassword, ScramCredential
from robustmq.promises import Promise, resolved
from robustmq.quotas import QuotaEntity, QuotaSetting


class Changed(msgspec.Struct, frozen=True, gc=False):
    """What became of a change to the cluster's state: a Kafka code (0: done), and words."""

    error: int = 0
    message: str | None = None


class Limiter(Protocol):
    """How long clients must wait for what they have used (robustmq.quotas)."""

    def now_us(self) -> int:
        """Monotonic microseconds, for the time that requests take."""

    def bound(self, key: str, user: str, client_id: str) -> float | None:
        """The bound of a client; None: there is none."""

    def charge(self, key: str, user: str, client_id: str, amount: float, now_ms: int) -> int:
        """A client has used so much; how long it must wait, in ms."""

    def mutate(
        self, user: str, client_id: str, partitions: int, now_ms: int, strict: bool
    ) -> tuple[bool, int]:
        """May a client make or delete so many partitions, and how long must it wait?"""


class Access(Protocol):
    """Rules, credentials and quotas of the cluster, as this worker knows them. Changes settle when
    all workers know them."""

    @property
    def limiter(self) -> Limiter | None:
        """What holds clients to their quotas; None: nobody has one."""

    @property
    def is_open(self) -> bool:
        """Is everything allowed to everybody?"""

    def allowed(self, asker: Asker, operation: int, resource: int, name: str) -> bool:
        """May somebody do this?"""

    def allowed_somewhere(self, asker: Asker, operation: int, resource: int) -> bool:
        """Is there a name of this type for which somebody may (KIP-679)?"""

    def operations(self, asker: Asker, resource: Resource, name: str) -> int:
        """What somebody may do, one bit an operation (KIP-430)."""

    def find_rules(self, wanted: AclFilter) -> list[AclBinding]:
        """The rules that a filter means."""

    def change_rules(
        self, added: Sequence[AclBinding], removed: Sequence[AclBinding]
    ) -> Promise[Changed]:
        """Make rules and remove others."""

    def credentials(self) -> Mapping[str, ScramCredential]:
        """The SCRAM credentials of users who were made at run time, by credential_key."""

    def change_credentials(
        self, made: Sequence[SaltedPassword], removed: Sequence[str]
    ) -> Promise[Changed]:
        """Set credentials and remove others; 91 when one to be removed is not there."""

    def quotas(self) -> Mapping[str, QuotaSetting]:
        """The quotas that are set, by entity_key."""

    def change_quotas(
        self, entity: QuotaEntity, changes: dict[str, float | None]
    ) -> Promise[Changed]:
        """Set bounds of an entity; None takes one away."""


class Unguarded:
    """The access of a broker that has none of this (the simulation): everything is allowed."""

    limiter = None
    is_open = True

    def allowed(self, asker: Asker, operation: int, resource: int, name: str) -> bool:
        """Yes."""
        return True

    def allowed_somewhere(self, asker: Asker, operation: int, resource: int) -> bool:
        """Yes."""
        return True

    def operations(self, asker: Asker, resource: Resource, name: str) -> int:
        """Every one that the resource knows."""
        return sum(1 << operation for operation in OPERATIONS[resource])

    def find_rules(self, wanted: AclFilter) -> list[AclBinding]:
        """None."""
        return []

    def change_rules(
        self, added: Sequence[AclBinding], removed: Sequence[AclBinding]
    ) -> Promise[Changed]:
        """Nothing is kept."""
        return resolved(Changed())

    def credentials(self) -> Mapping[str, ScramCredential]:
        """None."""
        return {}

    def change_credentials(
        self, made: Sequence[SaltedPassword], removed: Sequence[str]
    ) -> Promise[Changed]:
        """Nothing is kept."""
        return resolved(Changed())

    def quotas(self) -> Mapping[str, QuotaSetting]:
        """None."""
        return {}

    def change_quotas(
        self, entity: QuotaEntity, changes: dict[str, float | None]
    ) -> Promise[Changed]:
        """Nothing is kept."""
        return resolved(Changed())
