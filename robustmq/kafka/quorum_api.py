"""DescribeQuorum, UpdateFeatures and UnregisterBroker (KIP-595, KIP-584, KIP-631), as a node with
one keeper of the metadata answers them.

The cluster's metadata has one voter, which no client talks to; it is told under the id of the
controller that Metadata names. Features have one level, that of this version, so no update has
anything to change; and a broker is a worker of the node, which cannot be taken out alone.
"""

from __future__ import annotations

from typing import Any

from robustmq.errors import KafkaCode
from robustmq.kafka import messages
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.api_versions import FEATURES
from robustmq.kafka.context import Handlers, RequestContext
from robustmq.kafka.gateway import Gateway

METADATA_TOPIC = "__cluster_metadata"


async def handle_describe_quorum(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeQuorum."""
    if not gateway.authorized(context, Operation.DESCRIBE, Resource.CLUSTER, CLUSTER_NAME):
        code = int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED)
        return messages.DescribeQuorumResponse(
            error_code=code, error_message=None, topics=[], nodes=[]
        )
    leader = gateway.controller_id()
    topics = [
        messages.DescribeQuorumTopicState(
            topic_name=topic.topic_name,
            partitions=[
                _partition(topic.topic_name, asked.partition_index, leader, gateway)
                for asked in topic.partitions
            ],
        )
        for topic in request.topics
    ]
    nodes = [
        messages.Node(
            node_id=node.node_id,
            listeners=[messages.Listener(name="PLAINTEXT", host=node.host, port=node.port)],
        )
        for node in gateway.nodes(context.connection.listener)
        if node.node_id == leader
    ]
    return messages.DescribeQuorumResponse(
        error_code=0, error_message=None, topics=topics, nodes=nodes
    )


def _partition(topic: str, partition: int, leader: int, gateway: Gateway) -> Any:
    if topic != METADATA_TOPIC or partition:
        return messages.DescribeQuorumPartitionState(
            partition_index=partition,
            error_code=int(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION),
            error_message=None,
            current_voters=[],
            observers=[],
        )
    version = gateway.metadata_version()
    voter = messages.DescribeQuorumReplicaState(
        replica_id=leader,
        log_end_offset=version,
        last_fetch_timestamp=gateway.timestamp_ms(),
        last_caught_up_timestamp=gateway.timestamp_ms(),
    )
    return messages.DescribeQuorumPartitionState(
        partition_index=0,
        error_code=0,
        error_message=None,
        leader_id=leader,
        leader_epoch=0,
        high_watermark=version,
        current_voters=[voter],
        observers=[],
    )


async def handle_update_features(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one UpdateFeatures."""
    if not gateway.authorized(context, Operation.ALTER, Resource.CLUSTER, CLUSTER_NAME):
        code, message = int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED), None
        return messages.UpdateFeaturesResponse(error_code=code, error_message=message, results=[])
    if not request.feature_updates:
        return messages.UpdateFeaturesResponse(error_code=0, error_message=None, results=[])
    results = [_updated(one) for one in request.feature_updates]
    refused = next((row for row in results if row.error_code), None)
    if refused is None or context.api_version < 2:
        return messages.UpdateFeaturesResponse(error_code=0, error_message=None, results=results)
    # From version 2 on there is one error for all.
    return messages.UpdateFeaturesResponse(
        error_code=refused.error_code, error_message=refused.error_message, results=[]
    )


def _updated(update: Any) -> Any:
    """A feature stays at its level; to ask for that level is no error."""
    _, _, level = FEATURES.get(update.feature, (0, 0, -1))
    code, why = 0, None
    if update.max_version_level != level:
        code = int(KafkaCode.INVALID_UPDATE_VERSION)
        why = f"{update.feature} has the one level of this version"
    return messages.UpdatableFeatureResult(
        feature=update.feature, error_code=code, error_message=why
    )


async def handle_unregister_broker(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one UnregisterBroker."""
    if not gateway.authorized(context, Operation.ALTER, Resource.CLUSTER, CLUSTER_NAME):
        code: int = KafkaCode.CLUSTER_AUTHORIZATION_FAILED
        message = None
    elif any(node.node_id == request.broker_id for node in gateway.nodes()):
        code = KafkaCode.INVALID_REQUEST
        message = "a broker is a worker of this node: change node.workers and restart"
    else:
        code = KafkaCode.BROKER_ID_NOT_REGISTERED
        message = f"there is no broker {request.broker_id}"
    return messages.UnregisterBrokerResponse(error_code=int(code), error_message=message)


HANDLERS: Handlers = {
    55: handle_describe_quorum,
    57: handle_update_features,
    64: handle_unregister_broker,
}
