"""What the cluster state decides on access: rules, credentials and quotas.

The parts of `cluster.state.apply` and `difference` for them; as there, nothing is changed here.
"""

from __future__ import annotations

from typing import Protocol

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
from robustmq.credentials import ScramCredential, credential_key
from robustmq.errors import KafkaCode
from robustmq.quotas import QuotaSetting

Decision = tuple[Result, tuple[Delta, ...]]


class Held(Protocol):
    """The part of the cluster state that this is about."""

    acls: dict[AclBinding, None]
    scram: dict[str, ScramCredential]
    quotas: dict[str, QuotaSetting]


def decide(state: Held, command: ChangeAcls | ChangeScram | ChangeQuotas) -> Decision:
    """As `state.apply`."""
    match command:
        case ChangeAcls():
            return _change_acls(state.acls, command)
        case ChangeScram():
            return _change_scram(state.scram, command)
        case ChangeQuotas():
            return _change_quotas(state.quotas, command)


def take(state: Held, delta: AclsChanged | ScramChanged | QuotaChanged) -> None:
    """Take a delta over."""
    match delta:
        case AclsChanged():
            for rule in delta.removed:
                state.acls.pop(rule, None)
            state.acls.update(dict.fromkeys(delta.added))
        case ScramChanged():
            for removed in delta.removed:
                state.scram.pop(removed, None)
            for one in delta.credentials:
                state.scram[credential_key(one.user, one.mechanism)] = one
        case QuotaChanged():
            key = delta.setting.entity.key
            if delta.setting.values:
                state.quotas[key] = delta.setting
            else:
                state.quotas.pop(key, None)


def difference(old: Held, new: Held) -> list[Delta]:
    """Deltas that lead from one state to another."""
    deltas: list[Delta] = []
    added = tuple(rule for rule in new.acls if rule not in old.acls)
    removed = tuple(rule for rule in old.acls if rule not in new.acls)
    if added or removed:
        deltas.append(AclsChanged(added, removed))
    credentials = tuple(one for key, one in new.scram.items() if old.scram.get(key) != one)
    gone = tuple(key for key in old.scram if key not in new.scram)
    if credentials or gone:
        deltas.append(ScramChanged(credentials, gone))
    ended = (setting.entity for key, setting in old.quotas.items() if key not in new.quotas)
    deltas += [QuotaChanged(QuotaSetting(entity, {})) for entity in ended]
    fresh = (one for key, one in new.quotas.items() if old.quotas.get(key) != one)
    deltas += [QuotaChanged(setting) for setting in fresh]
    return deltas


def _change_acls(acls: dict[AclBinding, None], command: ChangeAcls) -> Decision:
    """Result.value is the number of rules that were removed."""
    removed = tuple(rule for rule in dict.fromkeys(command.removed) if rule in acls)
    added = tuple(
        rule for rule in dict.fromkeys(command.added) if rule not in acls or rule in removed
    )
    if not added and not removed:
        return Result(), ()
    return Result(value=len(removed)), (AclsChanged(added, removed),)


def _change_scram(scram: dict[str, ScramCredential], command: ChangeScram) -> Decision:
    """All of the command or nothing."""
    if any(key not in scram for key in command.removed):
        message = "Attempt to delete a user credential that does not exist"
        return Result(int(KafkaCode.RESOURCE_NOT_FOUND), message), ()
    return Result(), (ScramChanged(command.credentials, command.removed),)


def _change_quotas(quotas: dict[str, QuotaSetting], command: ChangeQuotas) -> Decision:
    """The bounds of one entity."""
    known = quotas.get(command.entity.key)
    changed: dict[str, float | None] = {**(known.values if known else {}), **command.changes}
    values = {name: value for name, value in changed.items() if value is not None}
    if values == (known.values if known else {}):
        return Result(), ()
    return Result(), (QuotaChanged(QuotaSetting(command.entity, values)),)
