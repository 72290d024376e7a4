"""DescribeAcls, CreateAcls, DeleteAcls (KIP-140, KIP-290): the access rules of the cluster.

Describing needs DESCRIBE on the cluster, changing them ALTER; else 31. A rule or filter that cannot
be is 42, alone: the others of the request stand. What is answered is known to all workers.
"""

from __future__ import annotations

from typing import Any

from robustmq.acls import AclBinding, AclFilter, PatternType, Permission, problem_of
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import Changed, Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, kafka_code, settled
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.permissions import CLUSTER_DENIED, on_cluster

UNKNOWN_WORD = "the filter has a number that means nothing"


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeAcls."""
    if not on_cluster(context, gateway, Operation.DESCRIBE):
        return messages.DescribeAclsResponse(
            error_code=CLUSTER_DENIED, error_message=None, resources=[]
        )
    wanted = _filter(request)
    if wanted is None:
        code = int(KafkaCode.INVALID_REQUEST)
        return messages.DescribeAclsResponse(
            error_code=code, error_message=UNKNOWN_WORD, resources=[]
        )
    patterns: dict[tuple[int, str, int], list[AclBinding]] = {}
    for rule in gateway.access.find_rules(wanted):
        pattern = (rule.resource_type, rule.resource_name, rule.pattern_type)
        patterns.setdefault(pattern, []).append(rule)
    return messages.DescribeAclsResponse(
        error_message=None,
        resources=[
            messages.DescribeAclsResource(
                resource_type=resource,
                resource_name=name,
                pattern_type=pattern,
                acls=[
                    messages.AclDescription(
                        principal=rule.principal,
                        host=rule.host,
                        operation=rule.operation,
                        permission_type=rule.permission,
                    )
                    for rule in rules
                ],
            )
            for (resource, name, pattern), rules in patterns.items()
        ],
    )


async def handle_create(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one CreateAcls."""
    rules = [
        AclBinding(
            one.resource_type,
            one.resource_name,
            one.resource_pattern_type,
            one.principal,
            one.host,
            one.operation,
            one.permission_type,
        )
        for one in request.creations
    ]
    if not on_cluster(context, gateway, Operation.ALTER):
        return _created([Changed(CLUSTER_DENIED)] * len(rules))
    problems = [problem_of(rule) for rule in rules]
    good = [rule for rule, problem in zip(rules, problems, strict=True) if problem is None]
    changed = await settled(gateway.access.change_rules(good, [])) if good else Changed()
    if isinstance(changed, BrokerError):
        changed = Changed(kafka_code(changed), changed.detail)
    invalid = int(KafkaCode.INVALID_REQUEST)
    return _created(
        [changed if problem is None else Changed(invalid, problem) for problem in problems]
    )


def _created(results: list[Changed]) -> Any:
    return messages.CreateAclsResponse(
        results=[
            messages.AclCreationResult(error_code=one.error, error_message=one.message)
            for one in results
        ]
    )


async def handle_delete(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DeleteAcls."""
    if not on_cluster(context, gateway, Operation.ALTER):
        return _deleted([(Changed(CLUSTER_DENIED), [])] * len(request.filters))
    filters = [_filter(one) for one in request.filters]
    found = [[] if one is None else gateway.access.find_rules(one) for one in filters]
    removed = list(dict.fromkeys(rule for rules in found for rule in rules))
    changed = await settled(gateway.access.change_rules([], removed)) if removed else Changed()
    if isinstance(changed, BrokerError):
        changed = Changed(kafka_code(changed), changed.detail)
    invalid = Changed(int(KafkaCode.INVALID_REQUEST), UNKNOWN_WORD)
    return _deleted(
        [
            (invalid, []) if one is None else (changed, [] if changed.error else rules)
            for one, rules in zip(filters, found, strict=True)
        ]
    )


def _deleted(results: list[tuple[Changed, list[AclBinding]]]) -> Any:
    return messages.DeleteAclsResponse(
        filter_results=[
            messages.DeleteAclsFilterResult(
                error_code=one.error,
                error_message=one.message,
                matching_acls=[
                    messages.DeleteAclsMatchingAcl(
                        error_message=None,
                        resource_type=rule.resource_type,
                        resource_name=rule.resource_name,
                        pattern_type=rule.pattern_type,
                        principal=rule.principal,
                        host=rule.host,
                        operation=rule.operation,
                        permission_type=rule.permission,
                    )
                    for rule in rules
                ],
            )
            for one, rules in results
        ]
    )


def _filter(one: Any) -> AclFilter | None:
    """What DescribeAcls and each filter of DeleteAcls ask for; None: not to be understood."""
    known = (
        (one.resource_type_filter, Resource),
        (one.pattern_type_filter, PatternType),
        (one.operation, Operation),
        (one.permission_type, Permission),
    )
    if any(number not in set(kind) - {0} for number, kind in known):
        return None
    return AclFilter(
        one.resource_type_filter,
        one.resource_name_filter,
        one.pattern_type_filter,
        one.principal_filter,
        one.host_filter,
        one.operation,
        one.permission_type,
    )


HANDLERS: Handlers = {29: handle_describe, 30: handle_create, 31: handle_delete}
