"""The questions that handlers ask of the authoriser, by what they ask about; and the bits of what
is allowed (KIP-430).

A topic is asked for by its Kafka name, or by its key where that is all that a handler has. While no
rule says otherwise all of them are answered by one look.
"""

from __future__ import annotations

from functools import lru_cache

from robustmq import names
from robustmq.errors import KafkaCode
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.context import NO_OPERATIONS, RequestContext
from robustmq.kafka.gateway import Gateway

TOPIC_DENIED = int(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
GROUP_DENIED = int(KafkaCode.GROUP_AUTHORIZATION_FAILED)
CLUSTER_DENIED = int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED)


@lru_cache(maxsize=65_536)
def shown(key: bytes) -> str:
    """The name that rules have for a topic."""
    return names.in_rules(key)


def on_topic(context: RequestContext, gateway: Gateway, operation: Operation, name: str) -> bool:
    """May the client do this to a topic?"""
    return gateway.authorized(context, operation, Resource.TOPIC, name)


def on_key(context: RequestContext, gateway: Gateway, operation: Operation, key: bytes) -> bool:
    """May the client do this to a topic, by its key?"""
    if gateway.access.is_open:
        return True
    return gateway.authorized(context, operation, Resource.TOPIC, shown(key))


def on_group(context: RequestContext, gateway: Gateway, operation: Operation, group: str) -> bool:
    """May the client do this to a group?"""
    return gateway.authorized(context, operation, Resource.GROUP, group)


def on_cluster(context: RequestContext, gateway: Gateway, operation: Operation) -> bool:
    """May the client do this to the cluster?"""
    return gateway.authorized(context, operation, Resource.CLUSTER, CLUSTER_NAME)


def may_create(context: RequestContext, gateway: Gateway, name: str) -> bool:
    """May the client make a topic: any, or this one?"""
    return on_cluster(context, gateway, Operation.CREATE) or on_topic(
        context, gateway, Operation.CREATE, name
    )


def bits(
    context: RequestContext, gateway: Gateway, asked: bool, resource: Resource, name: str
) -> int:
    """What the client may do, one bit an operation; NO_OPERATIONS when it did not ask."""
    if not asked:
        return NO_OPERATIONS
    return gateway.access.operations(context.connection.asker, resource, name)


def cluster_bits(context: RequestContext, gateway: Gateway, asked: bool) -> int:
    """The same for the cluster; none at all for who may not see it."""
    if asked and not on_cluster(context, gateway, Operation.DESCRIBE):
        return 0
    return bits(context, gateway, asked, Resource.CLUSTER, CLUSTER_NAME)
