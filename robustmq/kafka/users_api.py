"""Users who are made at run time (KIP-554), and delegation tokens (KIP-48): there are none.

DescribeUserScramCredentials needs DESCRIBE on the cluster, AlterUserScramCredentials ALTER; else
31. A request that is wrong in one of a user's changes changes nothing of that user. Salted
passwords come over the wire, so clients do this over TLS; only what proves them is kept.

Delegation tokens are answered as by a Kafka broker that has no secret key for them: 61, and 64 to
who has not proven who it is.
"""

from __future__ import annotations

from typing import Any

from robustmq.acls import ANONYMOUS
from robustmq.credentials import (
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    SCRAM_NUMBERS,
    SaltedPassword,
    credential_key,
)
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Changed, Operation
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.permissions import CLUSTER_DENIED, on_cluster

NUMBERS = {name: number for number, name in SCRAM_NUMBERS.items()}


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeUserScramCredentials."""
    if not on_cluster(context, gateway, Operation.DESCRIBE):
        return messages.DescribeUserScramCredentialsResponse(
            error_code=CLUSTER_DENIED, error_message=None, results=[]
        )
    found: dict[str, list[tuple[int, int]]] = {}
    for one in gateway.access.credentials().values():
        found.setdefault(one.user, []).append((NUMBERS[one.mechanism], one.iterations))
    asked = [user.name for user in request.users or ()]
    twice = {name for name in asked if asked.count(name) > 1}
    results = []
    for name in dict.fromkeys(asked) or sorted(found):
        error, message = 0, None
        if name in twice:
            error = int(KafkaCode.DUPLICATE_RESOURCE)
            message = f"the credentials of {name} are asked for twice"
        elif name not in found:
            error = int(KafkaCode.RESOURCE_NOT_FOUND)
            message = f"{name} has no SCRAM credentials"
        results.append(
            messages.DescribeUserScramCredentialsResult(
                user=name,
                error_code=error,
                error_message=message,
                credential_infos=[
                    messages.CredentialInfo(mechanism=number, iterations=iterations)
                    for number, iterations in sorted(found.get(name, ()))
                    if not error
                ],
            )
        )
    return messages.DescribeUserScramCredentialsResponse(error_message=None, results=results)


async def handle_alter(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AlterUserScramCredentials."""
    changes = [*request.deletions, *request.upsertions]
    users = list(dict.fromkeys(one.name for one in changes))
    if not on_cluster(context, gateway, Operation.ALTER):
        return _altered(dict.fromkeys(users, Changed(CLUSTER_DENIED)))
    problems = _problems(request, gateway)
    removed = [
        credential_key(one.name, SCRAM_NUMBERS[one.mechanism])
        for one in request.deletions
        if one.name not in problems
    ]
    made = [
        SaltedPassword(
            one.name,
            SCRAM_NUMBERS[one.mechanism],
            one.iterations,
            bytes(one.salt),
            bytes(one.salted_password),
        )
        for one in request.upsertions
        if one.name not in problems
    ]
    changed: Changed | BrokerError = Changed()
    if removed or made:
        changed = await settled(gateway.access.change_credentials(made, removed))
    if isinstance(changed, BrokerError):
        changed = Changed(kafka_code(changed), changed.detail)
    return _altered({user: problems.get(user, changed) for user in users})


def _problems(request: Any, gateway: Gateway) -> dict[str, Changed]:
    """What is wrong with the changes of a user, by user."""
    known = gateway.access.credentials()
    problems: dict[str, Changed] = {}
    seen: set[tuple[str, int]] = set()
    unacceptable = KafkaCode.UNACCEPTABLE_CREDENTIAL
    for one in [*request.deletions, *request.upsertions]:
        mechanism = SCRAM_NUMBERS.get(one.mechanism)
        iterations = getattr(one, "iterations", MIN_ITERATIONS)
        is_deletion = not hasattr(one, "iterations")
        code, why = 0, ""
        if not one.name:
            code, why = unacceptable, "a user has a name"
        elif mechanism is None:
            code, why = KafkaCode.UNSUPPORTED_SASL_MECHANISM, "there is no such SCRAM mechanism"
        elif iterations < MIN_ITERATIONS:
            code, why = unacceptable, f"too few iterations, {MIN_ITERATIONS} at least"
        elif iterations > MAX_ITERATIONS:
            code, why = unacceptable, f"too many iterations, {MAX_ITERATIONS} at most"
        elif (one.name, one.mechanism) in seen:
            code, why = KafkaCode.DUPLICATE_RESOURCE, "a credential is changed once in a request"
        elif is_deletion and credential_key(one.name, mechanism) not in known:
            code, why = KafkaCode.RESOURCE_NOT_FOUND, "there is no such credential to delete"
        seen.add((one.name, one.mechanism))
        if code:
            problems.setdefault(one.name, Changed(int(code), why))
    return problems


def _altered(results: dict[str, Changed]) -> Any:
    return messages.AlterUserScramCredentialsResponse(
        results=[
            messages.AlterUserScramCredentialsResult(
                user=user, error_code=one.error, error_message=one.message
            )
            for user, one in results.items()
        ]
    )


def _no_tokens(context: RequestContext) -> int:
    if context.connection.principal == ANONYMOUS:
        return int(KafkaCode.DELEGATION_TOKEN_REQUEST_NOT_ALLOWED)
    return int(KafkaCode.DELEGATION_TOKEN_AUTH_DISABLED)


async def handle_create_token(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one CreateDelegationToken."""
    kind, _, name = context.connection.principal.partition(":")
    return messages.CreateDelegationTokenResponse(
        error_code=_no_tokens(context),
        principal_type=kind,
        principal_name=name,
        token_requester_principal_type=kind,
        token_requester_principal_name=name,
        issue_timestamp_ms=0,
        expiry_timestamp_ms=0,
        max_timestamp_ms=0,
        token_id="",
        hmac=b"",
    )


async def handle_renew_token(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one RenewDelegationToken."""
    return messages.RenewDelegationTokenResponse(
        error_code=_no_tokens(context), expiry_timestamp_ms=0
    )


async def handle_expire_token(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ExpireDelegationToken."""
    return messages.ExpireDelegationTokenResponse(
        error_code=_no_tokens(context), expiry_timestamp_ms=0
    )


async def handle_describe_tokens(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeDelegationToken."""
    return messages.DescribeDelegationTokenResponse(error_code=_no_tokens(context), tokens=[])


HANDLERS: Handlers = {
    38: handle_create_token,
    39: handle_renew_token,
    40: handle_expire_token,
    41: handle_describe_tokens,
    50: handle_describe,
    51: handle_alter,
}
