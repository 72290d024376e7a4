"""Requests about rules, users, tokens and quotas for test_every_version: by the name of the API, a
call that asserts what is answered. `world` is that test's."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

CLUSTER_ADMIN = {"principal": "User:me", "host": "*", "operation": 3, "permission_type": 3}


def create_acls(world: Any, version: int) -> None:
    """A rule for a group of this test's own, which closes nothing that others use."""
    good = {**CLUSTER_ADMIN, "resource_type": 3, "resource_name": world.unique}
    answer = world.ask(
        "CreateAcls",
        version,
        creations=[
            {**good, "resource_pattern_type": 3},
            {**good, "resource_pattern_type": 2},
            {**good, "resource_pattern_type": 3, "resource_type": 4},
        ],
    )
    assert [one.error_code for one in answer.results] == [0, 42, 42]


def _filter(world: Any, **changes: Any) -> dict[str, Any]:
    return {
        "resource_type_filter": 3,
        "resource_name_filter": world.unique,
        "pattern_type_filter": 3,
        "principal_filter": None,
        "host_filter": None,
        "operation": 1,
        "permission_type": 1,
        **changes,
    }


def describe_acls(world: Any, version: int) -> None:
    create_acls(world, 3)
    answer = world.ask("DescribeAcls", version, **_filter(world))
    assert answer.error_code == 0
    (found,) = answer.resources
    assert (found.resource_type, found.resource_name) == (3, world.unique)
    assert [(one.principal, one.host, one.operation) for one in found.acls] == [("User:me", "*", 3)]
    assert world.ask("DescribeAcls", version, **_filter(world, operation=0)).error_code == 42


def delete_acls(world: Any, version: int) -> None:
    create_acls(world, 3)
    filters = [_filter(world), _filter(world, permission_type=0)]
    answer = world.ask("DeleteAcls", version, filters=filters)
    assert [one.error_code for one in answer.filter_results] == [0, 42]
    (gone,) = answer.filter_results[0].matching_acls
    assert gone.principal == "User:me"
    assert world.ask("DescribeAcls", 3, **_filter(world)).resources == ()


def create_token(world: Any, version: int) -> None:
    answer = world.ask("CreateDelegationToken", version, renewers=[], max_lifetime=-1)
    assert answer.error_code == 64


def renew_token(world: Any, version: int) -> None:
    answer = world.ask("RenewDelegationToken", version, hmac=b"h", renew_period=-1)
    assert answer.error_code == 64


def expire_token(world: Any, version: int) -> None:
    answer = world.ask("ExpireDelegationToken", version, hmac=b"h", expiry_time_period=-1)
    assert answer.error_code == 64


def describe_tokens(world: Any, version: int) -> None:
    assert world.ask("DescribeDelegationToken", version, owners=None).error_code == 64


def alter_quotas(world: Any, version: int) -> None:
    entity = [{"entity_type": "user", "entity_name": world.unique}]
    entries = [
        {"entity": entity, "ops": [_bound("producer_byte_rate", 1e9)]},
        {"entity": entity, "ops": [_bound("speed", 1.0)]},
        {"entity": entity, "ops": [_bound("consumer_byte_rate", 0.0)]},
        {
            "entity": [{"entity_type": "planet", "entity_name": None}],
            "ops": [_bound("producer_byte_rate", 1e9)],
        },
    ]
    answer = world.ask("AlterClientQuotas", version, entries=entries, validate_only=False)
    assert [one.error_code for one in answer.entries] == [0, 42, 42, 42]


def _bound(key: str, value: float) -> dict[str, Any]:
    return {"key": key, "value": value, "remove": False}


def describe_quotas(world: Any, version: int) -> None:
    alter_quotas(world, 1)
    component = {"entity_type": "user", "match_type": 0, "match": world.unique}
    answer = world.ask("DescribeClientQuotas", version, components=[component], strict=True)
    assert answer.error_code == 0
    (entry,) = answer.entries
    assert [(one.entity_type, one.entity_name) for one in entry.entity] == [("user", world.unique)]
    assert [(one.key, one.value) for one in entry.values] == [("producer_byte_rate", 1e9)]
    component["match_type"] = 1
    answer = world.ask("DescribeClientQuotas", version, components=[component], strict=True)
    assert answer.error_code == 42
    component = {"entity_type": "planet", "match_type": 2, "match": None}
    answer = world.ask("DescribeClientQuotas", version, components=[component], strict=True)
    assert answer.error_code == 35


def alter_users(world: Any, version: int) -> None:
    good = {
        "name": world.unique,
        "mechanism": 1,
        "iterations": 4096,
        "salt": b"0123456789abcdef",
        "salted_password": bytes(32),
    }
    bad = [
        {**good, "name": "few", "iterations": 4095},
        {**good, "name": "many", "iterations": 16_385},
        {**good, "name": "other", "mechanism": 3},
        {**good, "name": ""},
        {**good, "name": "twice"},
        {**good, "name": "twice"},
    ]
    gone = [{"name": "nobody", "mechanism": 1}]
    answer = world.ask(
        "AlterUserScramCredentials", version, deletions=gone, upsertions=[good, *bad]
    )
    codes = {one.user: one.error_code for one in answer.results}
    assert codes == {
        "nobody": 91, world.unique: 0, "few": 93, "many": 93, "other": 33, "": 93, "twice": 92,
    }  # fmt: skip


def describe_users(world: Any, version: int) -> None:
    alter_users(world, 0)
    users = [{"name": name} for name in (world.unique, "nobody", "twice", "twice")]
    answer = world.ask("DescribeUserScramCredentials", version, users=users)
    assert [one.error_code for one in answer.results] == [0, 91, 92]
    (info,) = answer.results[0].credential_infos
    assert (info.mechanism, info.iterations) == (1, 4096)
    answer = world.ask("DescribeUserScramCredentials", version, users=None)
    assert world.unique in {one.user for one in answer.results}


def sasl_handshake(world: Any, version: int) -> None:
    """Where nobody asks who the client is."""
    assert world.ask("SaslHandshake", version, mechanism="PLAIN").error_code == 34


def sasl_authenticate(world: Any, version: int) -> None:
    assert world.ask("SaslAuthenticate", version, auth_bytes=b"").error_code == 34


def get_subscriptions(world: Any, version: int) -> None:
    """Nobody has subscribed: the client is told to push nothing and to come again."""
    answer = world.ask("GetTelemetrySubscriptions", version)
    assert answer.error_code == 0 and answer.client_instance_id.int != 0
    assert answer.requested_metrics == ()
    again = {"client_instance_id": answer.client_instance_id}
    assert world.ask("GetTelemetrySubscriptions", version, **again).error_code == 89


def push_telemetry(world: Any, version: int) -> None:
    asked = world.ask("GetTelemetrySubscriptions", 0)
    known = {"client_instance_id": asked.client_instance_id}
    good = {**known, "subscription_id": asked.subscription_id}

    def pushed(**changes: Any) -> int:
        values = {**good, "compression_type": 0, "metrics": b"", **changes}
        return int(world.ask("PushTelemetry", version, **values).error_code)

    assert pushed(client_instance_id=uuid.UUID(int=0)) == 42
    assert pushed(subscription_id=asked.subscription_id ^ 1) == 117
    assert pushed(metrics=bytes(1_048_577)) == 118
    assert pushed(compression_type=9) == 76
    # One data point of a gauge, in one metric, scope and resource.
    otlp = b"\x0a\x08\x12\x06\x12\x04\x2a\x02\x0a\x00"
    assert pushed(metrics=otlp) == 0
    assert pushed(metrics=otlp) == 89
    assert pushed(metrics=b"\x0f", terminating=True) == 87
    assert pushed() == 42


SECURITY_CALLS: dict[str, Callable[[Any, int], None]] = {
    "GetTelemetrySubscriptions": get_subscriptions,
    "PushTelemetry": push_telemetry,
    "SaslHandshake": sasl_handshake,
    "SaslAuthenticate": sasl_authenticate,
    "DescribeAcls": describe_acls,
    "CreateAcls": create_acls,
    "DeleteAcls": delete_acls,
    "CreateDelegationToken": create_token,
    "RenewDelegationToken": renew_token,
    "ExpireDelegationToken": expire_token,
    "DescribeDelegationToken": describe_tokens,
    "DescribeClientQuotas": describe_quotas,
    "AlterClientQuotas": alter_quotas,
    "DescribeUserScramCredentials": describe_users,
    "AlterUserScramCredentials": alter_users,
}
