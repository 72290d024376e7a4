"""What the cluster state decides on access: rules, credentials and quotas.

The parts of `cluster.state.apply` and `difference` for them; as there, nothing is changed here.
"""

from __future__ import annotations

from robustmq.acls import AclBinding
from robustmq.cluster.commands import (
    AclsChanged,
    ChangeAcls,
    ChangeQuotas,
    ChangeScram,
    Delta,
    QuotaChanged,
    Result,
    ScramChanged,
)
from robustmq.credentials import ScramCredential
from robustmq.errors import KafkaCode
from robustmq.quotas import QuotaSetting

Decision = tuple[Result, tuple[Delta, ...]]


def change_acls(acls: dict[AclBinding, None], command: ChangeAcls) -> Decision:
    """Result.value is the number of rules that were removed."""
    removed = tuple(rule for rule in dict.fromkeys(command.removed) if rule in acls)
    added = tuple(
        rule for rule in dict.fromkeys(command.added) if rule not in acls or rule in removed
    )
    if not added and not removed:
        return Result(), ()
    return Result(value=len(removed)), (AclsChanged(added, removed),)


def change_scram(scram: dict[str, ScramCredential], command: ChangeScram) -> Decision:
    """All of the command or nothing."""
    if any(key not in scram for key in command.removed):
        message = "Attempt to delete a user credential that does not exist"
        return Result(int(KafkaCode.RESOURCE_NOT_FOUND), message), ()
    return Result(), (ScramChanged(command.credentials, command.removed),)


def change_quotas(quotas: dict[str, QuotaSetting], command: ChangeQuotas) -> Decision:
    """The bounds of one entity."""
    known = quotas.get(command.entity.key)
    changed: dict[str, float | None] = {**(known.values if known else {}), **command.changes}
    values = {name: value for name, value in changed.items() if value is not None}
    if values == (known.values if known else {}):
        return Result(), ()
    return Result(), (QuotaChanged(QuotaSetting(command.entity, values)),)


def difference(
    old_acls: dict[AclBinding, None],
    new_acls: dict[AclBinding, None],
    old_scram: dict[str, ScramCredential],
    new_scram: dict[str, ScramCredential],
) -> list[Delta]:
    """Deltas that lead from one set of rules and credentials to another."""
    deltas: list[Delta] = []
    added = tuple(rule for rule in new_acls if rule not in old_acls)
    removed = tuple(rule for rule in old_acls if rule not in new_acls)
    if added or removed:
        deltas.append(AclsChanged(added, removed))
    credentials = tuple(one for key, one in new_scram.items() if old_scram.get(key) != one)
    gone = tuple(key for key in old_scram if key not in new_scram)
    if credentials or gone:
        deltas.append(ScramChanged(credentials, gone))
    return deltas


def quota_difference(old: dict[str, QuotaSetting], new: dict[str, QuotaSetting]) -> list[Delta]:
    """Deltas that lead from some quotas to others."""
    gone = (QuotaSetting(old[key].entity, {}) for key in old if key not in new)
    deltas: list[Delta] = [QuotaChanged(setting) for setting in gone]
    deltas += [QuotaChanged(setting) for key, setting in new.items() if old.get(key) != setting]
    return deltas
