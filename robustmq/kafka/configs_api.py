"""DescribeConfigs, AlterConfigs and IncrementalAlterConfigs (protocol guide; KIP-133, KIP-339).

The settings themselves are those of `config_resources`; here is what the three requests have in
common. Both ways to alter become one set of changes, which is taken over as a whole or not at all.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.admin_results import refuse
from robustmq.kafka.config_resources import (
    BROKER,
    BROKER_LOGGER,
    CLIENT_METRICS,
    FROM_DEFAULT,
    GROUP,
    RESOURCES,
    TOPIC,
    Changes,
    ConfigResource,
    ConfigRow,
)
from robustmq.kafka.context import Handlers, RequestContext, settled
from robustmq.kafka.gateway import AdminResult, Gateway
from robustmq.kafka.permissions import (
    CLUSTER_DENIED,
    GROUP_DENIED,
    TOPIC_DENIED,
    on_cluster,
    on_group,
    on_topic,
)
from robustmq.kafka.topic_configs import LIST

_SET, _DELETE, _APPEND, _SUBTRACT = range(4)


def _unknown_type(resource_type: int) -> AdminResult:
    return refuse(KafkaCode.INVALID_REQUEST, f"no resource of type {resource_type} has settings")


async def handle_describe_configs(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeConfigs."""
    results = []
    for asked in request.resources:
        found = await _describe(asked, context, gateway)
        refused = found if isinstance(found, AdminResult) else AdminResult()
        rows = [] if isinstance(found, AdminResult) else found
        if asked.configuration_keys is not None:
            rows = [row for row in rows if row.name in asked.configuration_keys]
        results.append(
            messages.DescribeConfigsResult(
                error_code=int(refused.error),
                error_message=refused.message,
                resource_type=asked.resource_type,
                resource_name=asked.resource_name,
                configs=[_config(row, request) for row in rows],
            )
        )
    return messages.DescribeConfigsResponse(results=results)


def _denied(asked: Any, operation: Operation, context: RequestContext, gateway: Gateway) -> int:
    """Why the client may not see or change the settings of a resource; 0: it may."""
    name = asked.resource_name
    if asked.resource_type == TOPIC:
        return 0 if on_topic(context, gateway, operation, name) else TOPIC_DENIED
    if asked.resource_type == GROUP:
        return 0 if on_group(context, gateway, operation, name) else GROUP_DENIED
    return 0 if on_cluster(context, gateway, operation) else CLUSTER_DENIED


async def _describe(
    asked: Any, context: RequestContext, gateway: Gateway
) -> list[ConfigRow] | AdminResult:
    resource = RESOURCES.get(asked.resource_type)
    if resource is None:
        return _unknown_type(asked.resource_type)
    denied = _denied(asked, Operation.DESCRIBE_CONFIGS, context, gateway)
    if denied:
        return AdminResult(denied)
    return await resource.describe(asked.resource_name, gateway)


def _config(row: ConfigRow, request: Any) -> Any:
    synonyms = []
    if request.include_synonyms:
        synonyms = [
            messages.DescribeConfigsSynonym(name=name, value=value, source=source)
            for name, value, source in row.synonyms
        ]
    return messages.DescribeConfigsResourceResult(
        name=row.name,
        value=None if row.sensitive else row.value,
        read_only=row.read_only,
        is_default=row.source == FROM_DEFAULT,
        config_source=row.source,
        is_sensitive=row.sensitive,
        synonyms=synonyms,
        config_type=row.kind,
        documentation=row.documentation if request.include_documentation else None,
    )


async def handle_alter_configs(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AlterConfigs: what is named is set, all else that was set goes to its default."""
    responses = await _alter_all(request, context, gateway, _replaced)
    return messages.AlterConfigsResponse(responses=responses)


async def handle_incremental_alter_configs(
    request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    """Answer one IncrementalAlterConfigs (KIP-339): set, delete, append, subtract."""
    responses = await _alter_all(request, context, gateway, _operated)
    return messages.IncrementalAlterConfigsResponse(responses=responses)


async def _alter_all(
    request: Any, context: RequestContext, gateway: Gateway, changes_of: Any
) -> list[Any]:
    times = Counter((asked.resource_type, asked.resource_name) for asked in request.resources)
    responses = []
    for asked in request.resources:
        if times[asked.resource_type, asked.resource_name] > 1:
            result = refuse(KafkaCode.INVALID_REQUEST, "named twice in this request")
        elif denied := _denied(asked, Operation.ALTER_CONFIGS, context, gateway):
            result = AdminResult(denied)
        else:
            result = await _alter(asked, request.validate_only, gateway, changes_of)
        responses.append(
            messages.AlterConfigsResourceResponse(
                error_code=int(result.error),
                error_message=result.message,
                resource_type=asked.resource_type,
                resource_name=asked.resource_name,
            )
        )
    return responses


async def _alter(asked: Any, validate_only: bool, gateway: Gateway, changes_of: Any) -> AdminResult:
    resource = RESOURCES.get(asked.resource_type)
    if resource is None:
        return _unknown_type(asked.resource_type)
    rows = await resource.describe(asked.resource_name, gateway)
    if isinstance(rows, AdminResult):
        return rows
    times = Counter(config.name for config in asked.configs)
    if any(count > 1 for count in times.values()):
        return refuse(KafkaCode.INVALID_REQUEST, "a setting is named twice")
    changes = changes_of(asked.configs, rows, resource)
    if isinstance(changes, AdminResult):
        return changes
    return await resource.alter(asked.resource_name, changes, validate_only, gateway)


def _replaced(
    configs: list[Any], rows: list[ConfigRow], resource: ConfigResource
) -> Changes | AdminResult:
    changes: Changes = {row.name: None for row in rows if row.source == resource.set_source}
    for config in configs:
        if config.value is None:
            return _null(config.name)
        changes[config.name] = config.value
    return changes


def _operated(
    configs: list[Any], rows: list[ConfigRow], resource: ConfigResource
) -> Changes | AdminResult:
    by_name = {row.name: row for row in rows}
    changes: Changes = {}
    for config in configs:
        operation = config.config_operation
        if operation == _DELETE:
            changes[config.name] = None
            continue
        if operation not in (_SET, _APPEND, _SUBTRACT):
            return refuse(KafkaCode.INVALID_REQUEST, f"no operation {operation}")
        if config.value is None:
            return _null(config.name)
        if operation == _SET:
            changes[config.name] = config.value
            continue
        row = by_name.get(config.name)
        if row is None or row.kind != LIST:
            return refuse(
                KafkaCode.INVALID_CONFIG,
                f"append and subtract are for settings that are lists, {config.name} is none",
            )
        changes[config.name] = _combined(operation, row.value or "", config.value)
    return changes


def _combined(operation: int, value: str, change: str) -> str:
    parts = [part for part in value.split(",") if part]
    wanted = change.split(",")
    if operation == _APPEND:
        return ",".join(parts + [part for part in wanted if part not in parts])
    return ",".join(part for part in parts if part not in wanted)


def _null(name: str) -> AdminResult:
    return refuse(KafkaCode.INVALID_REQUEST, f"null is no value of {name}")


async def handle_list_config_resources(
    request: Any, context: RequestContext, gateway: Gateway
) -> Any:
    """Answer one ListConfigResources (KIP-1142): what could be described, by type; version 0 asks
    for subscriptions of client metrics alone."""
    if not gateway.authorized(context, Operation.DESCRIBE_CONFIGS, Resource.CLUSTER, CLUSTER_NAME):
        return messages.ListConfigResourcesResponse(
            error_code=int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED), config_resources=[]
        )
    types = [CLIENT_METRICS]
    if context.api_version:
        types = sorted(set(request.resource_types)) or sorted(RESOURCES)
    if not set(types) <= {*RESOURCES, CLIENT_METRICS, BROKER_LOGGER, GROUP}:
        return messages.ListConfigResourcesResponse(
            error_code=int(KafkaCode.UNSUPPORTED_VERSION), config_resources=[]
        )
    found = []
    for kind in types:
        for name in await _resource_names(kind, gateway):
            found.append(messages.ConfigResource(resource_name=name, resource_type=kind))
    return messages.ListConfigResourcesResponse(error_code=0, config_resources=found)


async def _resource_names(kind: int, gateway: Gateway) -> list[str]:
    if kind == TOPIC:
        listed = await settled(gateway.list_topics(0))
        infos = [] if isinstance(listed, BrokerError) else listed
        return [name for name in (names.to_kafka(info.name) for info in infos) if name]
    if kind == BROKER:
        return [str(node.node_id) for node in gateway.nodes()]
    return gateway.resource_names(kind)


HANDLERS: Handlers = {
    74: handle_list_config_resources,
    32: handle_describe_configs,
    33: handle_alter_configs,
    44: handle_incremental_alter_configs,
}
