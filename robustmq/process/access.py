"""The access control of one worker: the authoriser, credentials and quotas, kept as the cluster's
state has them. Implements `kafka.access.Access`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustmq import clock
from robustmq.acls import AclBinding, AclFilter, Asker, Resource
from robustmq.cluster.commands import (
    AclsChanged,
    ChangeAcls,
    ChangeQuotas,
    ChangeScram,
    Command,
    Delta,
    QuotaChanged,
)
from robustmq.config import Settings
from robustmq.credentials import SaltedPassword, ScramCredential
from robustmq.kafka.access import Changed, Limiter
from robustmq.process.meta_client import MetaPort
from robustmq.promises import Promise, start
from robustmq.quotas import QuotaEntity, QuotaSetting
from robustmq.security import scram
from robustmq.security.authorizer import Authorizer
from robustmq.security.client_quotas import ClientQuotas


class AccessControl:
    """What is allowed, to whom, and how much of it."""

    def __init__(self, settings: Settings, meta: MetaPort) -> None:
        """`meta` has its first state."""
        self.authorizer = Authorizer()
        self.client_quotas = ClientQuotas(clock.monotonic_us)
        self._meta = meta
        self.reload(settings)
        self.authorizer.add(meta.state.acls)
        self.client_quotas.replace(meta.state.quotas)
        meta.on_delta(self._on_delta)

    def reload(self, settings: Settings) -> None:
        """Take the settings over."""
        security = settings.security
        self.authorizer.configure(security.super_users, security.allow_if_no_acl)

    def _on_delta(self, delta: Delta) -> None:
        if isinstance(delta, AclsChanged):
            self.authorizer.remove(delta.removed)
            self.authorizer.add(delta.added)
        elif isinstance(delta, QuotaChanged):
            self.client_quotas.replace(self._meta.state.quotas)

    @property
    def limiter(self) -> Limiter | None:
        """What holds clients to their quotas; None: nobody has one."""
        return self.client_quotas if self.client_quotas.active else None

    @property
    def is_open(self) -> bool:
        """Is everything allowed to everybody?"""
        return self.authorizer.is_open

    def allowed(self, asker: Asker, operation: int, resource: int, name: str) -> bool:
        """May somebody do this?"""
        return self.authorizer.allowed(asker, operation, resource, name)

    def allowed_somewhere(self, asker: Asker, operation: int, resource: int) -> bool:
        """Is there a name of this type for which somebody may?"""
        return self.authorizer.allowed_somewhere(asker, operation, resource)

    def operations(self, asker: Asker, resource: Resource, name: str) -> int:
        """What somebody may do, one bit an operation."""
        return self.authorizer.operations(asker, resource, name)

    def find_rules(self, wanted: AclFilter) -> list[AclBinding]:
        """The rules that a filter means."""
        return self.authorizer.find(wanted)

    def change_rules(
        self, added: Sequence[AclBinding], removed: Sequence[AclBinding]
    ) -> Promise[Changed]:
        """Make rules and remove others."""
        return self._propose(ChangeAcls(tuple(added), tuple(removed)))

    def credentials(self) -> Mapping[str, ScramCredential]:
        """The SCRAM credentials of users who were made at run time."""
        return self._meta.state.scram

    def change_credentials(
        self, made: Sequence[SaltedPassword], removed: Sequence[str]
    ) -> Promise[Changed]:
        """Set credentials and remove others."""
        return self._propose(
            ChangeScram(
                tuple(
                    scram.of_salted(
                        one.user, one.mechanism, one.salted_password, one.salt, one.iterations
                    )
                    for one in made
                ),
                tuple(removed),
            )
        )

    def quotas(self) -> Mapping[str, QuotaSetting]:
        """The quotas that are set."""
        return self._meta.state.quotas

    def change_quotas(
        self, entity: QuotaEntity, changes: dict[str, float | None]
    ) -> Promise[Changed]:
        """Set bounds of an entity."""
        return self._propose(ChangeQuotas(entity, changes))

    def _propose(self, command: Command) -> Promise[Changed]:
        return start(self._changed(command))

    async def _changed(self, command: Command) -> Changed:
        result = await self._meta.propose(command)
        return Changed(result.error, result.message)
