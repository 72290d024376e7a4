"""DescribeClientQuotas and AlterClientQuotas (KIP-546): who may use how much.

Describing needs DESCRIBE_CONFIGS on the cluster, altering ALTER_CONFIGS; else 31. What is wrong
with an entity or a key is 42, for that entry alone.
"""

from __future__ import annotations

from typing import Any

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Changed, Operation
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.permissions import CLUSTER_DENIED, on_cluster
from robustmq.quotas import QuotaEntity, QuotaSetting, entity_of, problem_of

EXACT, OF_DEFAULT, ANY = 0, 1, 2
INVALID = int(KafkaCode.INVALID_REQUEST)
ENTITY_TYPES = ("user", "client-id", "ip")


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeClientQuotas."""
    if not on_cluster(context, gateway, Operation.DESCRIBE_CONFIGS):
        return _refused(CLUSTER_DENIED, None)
    problem = _problem_of_filter(request.components)
    if problem is not None:
        return _refused(*problem)
    return messages.DescribeClientQuotasResponse(
        error_message=None,
        entries=[
            messages.EntryData(
                entity=[
                    messages.EntityData(entity_type=kind, entity_name=name)
                    for kind, name in setting.entity.parts
                ],
                values=[
                    messages.ValueData(key=key, value=value)
                    for key, value in sorted(setting.values.items())
                ],
            )
            for setting in gateway.access.quotas().values()
            if _matches(setting, request.components, request.strict)
        ],
    )


def _refused(code: int, message: str | None) -> Any:
    return messages.DescribeClientQuotasResponse(
        error_code=code, error_message=message, entries=None
    )


def _problem_of_filter(components: list[Any]) -> tuple[int, str] | None:
    kinds = [one.entity_type for one in components]
    if "" in kinds:
        return INVALID, "an entity type is empty"
    unknown = next((kind for kind in kinds if kind not in ENTITY_TYPES), None)
    if unknown is not None:
        return int(KafkaCode.UNSUPPORTED_VERSION), f"there is no entity type {unknown!r}"
    if len(set(kinds)) < len(kinds):
        return INVALID, "an entity type stands twice"
    if "ip" in kinds and len(kinds) > 1:
        return INVALID, "an address stands alone"
    if any(
        one.match_type not in (EXACT, OF_DEFAULT, ANY)
        or (one.match_type == EXACT) is not (one.match is not None)
        for one in components
    ):
        return INVALID, "a match type is unknown, or does not go with its name"
    return None


def _matches(setting: QuotaSetting, components: list[Any], strict: bool) -> bool:
    parts = dict(setting.entity.parts)
    for one in components:
        if one.entity_type not in parts:
            return False
        name = parts[one.entity_type]
        if one.match_type == EXACT and name != one.match:
            return False
        if one.match_type == OF_DEFAULT and name is not None:
            return False
    return not strict or len(parts) == len(components)


async def handle_alter(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AlterClientQuotas."""
    if not on_cluster(context, gateway, Operation.ALTER_CONFIGS):
        return _altered(request, [Changed(CLUSTER_DENIED)] * len(request.entries))
    decided = [_decide(entry) for entry in request.entries]
    results = []
    for one in decided:
        if isinstance(one, Changed) or request.validate_only:
            results.append(one if isinstance(one, Changed) else Changed())
            continue
        changed = await settled(gateway.access.change_quotas(*one))
        if isinstance(changed, BrokerError):
            changed = Changed(kafka_code(changed), changed.detail)
        results.append(changed)
    return _altered(request, results)


def _decide(entry: Any) -> tuple[QuotaEntity, dict[str, float | None]] | Changed:
    """The change that an entry asks for, or why there is none."""
    names = {one.entity_type: one.entity_name for one in entry.entity}
    if len(names) < len(entry.entity):
        return Changed(INVALID, "an entity type stands twice")
    try:
        entity = entity_of(names)
    except ValueError as error:
        return Changed(INVALID, str(error))
    changes: dict[str, float | None] = {}
    for op in entry.ops:
        value = None if op.remove else op.value
        problem = problem_of(entity, op.key, value)
        if problem is None and op.key in changes:
            problem = f"{op.key} stands twice"
        if problem is not None:
            return Changed(INVALID, problem)
        changes[op.key] = value
    return entity, changes


def _altered(request: Any, results: list[Changed]) -> Any:
    return messages.AlterClientQuotasResponse(
        entries=[
            messages.AlterClientQuotasEntryResult(
                error_code=one.error, error_message=one.message, entity=entry.entity
            )
            for entry, one in zip(request.entries, results, strict=True)
        ]
    )


HANDLERS: Handlers = {48: handle_describe, 49: handle_alter}
