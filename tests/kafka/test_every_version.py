"""Every API in every version that ApiVersions advertises works on a real broker.

The requests are written and the responses read by kio, an independent codec, over a socket
to each of two workers, so that what a worker does not own is asked of the other one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from robustmq.kafka.apis import APIS
from tests.broker import BrokerProcess
from tests.kafka.admin_calls import ADMIN_CALLS
from tests.kafka.kio_wire import KioClient, kio_class
from tests.kafka.security_calls import SECURITY_CALLS
from tests.kafka.share_calls import SHARE_CALLS
from tests.kafka.transaction_calls import TRANSACTION_CALLS
from tests.kafka.wire import batch

TOPIC = "every.version"
PARTITIONS = 4
CASES = [
    (api.name, version)
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
]


class World:
    """A client of one worker, and the topic that all cases use."""

    def __init__(self, client: KioClient, broker: BrokerProcess, topic_id: uuid.UUID) -> None:
        self.client = client
        self.broker = broker
        self.topic_id = topic_id
        self.unique = uuid.uuid4().hex

    def ask(self, name: str, version: int, **values: Any) -> Any:
        return self.client.ask(name, version, values)

    def topic(self, **values: Any) -> dict[str, Any]:
        return {"name": TOPIC, "topic": TOPIC, "topic_id": self.topic_id, **values}

    def join(self, version: int = 0, **values: Any) -> Any:
        """A member of the group `unique`: from version 4 on it is told its id first."""
        member: dict[str, Any] = {
            "group_id": self.unique,
            "session_timeout": 10_000,
            "rebalance_timeout": 10_000,
            "member_id": "",
            "protocol_type": "consumer",
            "protocols": [{"name": "range", "metadata": b"m"}],
            **values,
        }
        answer = self.ask("JoinGroup", version, **member)
        if version >= 4:
            assert answer.error_code == 79
            answer = self.ask("JoinGroup", version, **{**member, "member_id": answer.member_id})
        assert answer.error_code == 0
        return answer

    def stable(self) -> Any:
        """The only member of a stable group."""
        joined = self.join()
        synced = self.ask("SyncGroup", 0, **self.sync_of(joined))
        assert synced.error_code == 0
        return joined

    def sync_of(self, joined: Any) -> dict[str, Any]:
        return {
            "group_id": self.unique,
            "generation_id": joined.generation_id,
            "member_id": joined.member_id,
            "protocol_type": "consumer",
            "protocol_name": "range",
            "assignments": [{"member_id": joined.member_id, "assignment": b"mine"}],
        }


@pytest.fixture(scope="module")
def topic_id(broker: BrokerProcess) -> uuid.UUID:
    with KioClient(broker.kafka) as client:
        made = client.ask(
            "CreateTopics",
            7,
            {
                "topics": [
                    {
                        "name": TOPIC,
                        "num_partitions": PARTITIONS,
                        "replication_factor": -1,
                        # Its records are of 1970.
                        "configs": [{"name": "retention.ms", "value": "-1"}],
                    }
                ],
                "timeout": 5000,
            },
        )
        assert made.topics[0].error_code == 0
        found: uuid.UUID = made.topics[0].topic_id
        return found


@pytest.fixture(params=[0, 1], ids=["worker0", "worker1"])
def world(
    request: pytest.FixtureRequest, broker: BrokerProcess, topic_id: uuid.UUID
) -> Iterator[World]:
    with KioClient(broker.worker_ports[request.param]) as client:
        yield World(client, broker, topic_id)


def produce(world: World, version: int) -> None:
    parts = [{"index": index, "records": batch(b"a", b"b")} for index in range(PARTITIONS)]
    for acks in (-1, 1):
        answer = world.ask(
            "Produce",
            version,
            acks=acks,
            timeout=5000,
            topic_data=[world.topic(partition_data=parts)],
        )
        (topic,) = answer.responses
        assert [part.error_code for part in topic.partition_responses] == [0] * PARTITIONS
        assert all(part.base_offset >= 0 for part in topic.partition_responses)


def fetch(world: World, version: int) -> None:
    produce(world, 9)
    wanted = [
        {"partition": index, "fetch_offset": 0, "partition_max_bytes": 100_000}
        for index in range(PARTITIONS)
    ]
    answer = world.ask(
        "Fetch",
        version,
        max_wait=2000,
        min_bytes=1,
        topics=[world.topic(partitions=wanted)],
    )
    (topic,) = answer.responses
    for part in topic.partitions:
        assert part.error_code == 0
        assert part.high_watermark >= 2
        assert part.records


def list_offsets(world: World, version: int) -> None:
    produce(world, 9)
    parts = [{"partition_index": index, "timestamp": -1} for index in range(PARTITIONS)]
    answer = world.ask(
        "ListOffsets", version, replica_id=-1, topics=[world.topic(partitions=parts)]
    )
    assert all(part.error_code == 0 and part.offset >= 2 for part in answer.topics[0].partitions)


def metadata(world: World, version: int) -> None:
    answer = world.ask("Metadata", version, topics=[world.topic(topic_id=None)])
    assert [node.port for node in answer.brokers] == world.broker.worker_ports
    (topic,) = answer.topics
    assert (topic.error_code, topic.name, len(topic.partitions)) == (0, TOPIC, PARTITIONS)
    assert {part.leader_id for part in topic.partitions} <= {0, 1}
    if version >= 10:
        assert topic.topic_id == world.topic_id
    everything = world.ask("Metadata", version, topics=None if version else [])
    assert TOPIC in {topic.name for topic in everything.topics}
    if version >= 12:
        named = world.ask("Metadata", version, topics=[{"name": None, "topic_id": world.topic_id}])
        assert named.topics[0].name == TOPIC


def offset_commit(world: World, version: int) -> None:
    joined = world.stable()
    answer = world.ask(
        "OffsetCommit",
        version,
        group_id=world.unique,
        generation_id_or_member_epoch=joined.generation_id,
        member_id=joined.member_id,
        topics=[
            world.topic(
                partitions=[
                    {"partition_index": 1, "committed_offset": 7, "committed_metadata": "note"}
                ]
            )
        ],
    )
    assert answer.topics[0].partitions[0].error_code == 0
    read = world.ask(
        "OffsetFetch",
        8,
        groups=[{"group_id": world.unique, "topics": [world.topic(partition_indexes=[1])]}],
    )
    assert read.groups[0].topics[0].partitions[0].committed_offset == 7


def offset_fetch(world: World, version: int) -> None:
    offset_commit(world, 8)
    wanted = [world.topic(partition_indexes=[1, 2])]
    answer = world.ask(
        "OffsetFetch",
        version,
        group_id=world.unique,
        topics=wanted,
        groups=[{"group_id": world.unique, "topics": wanted}],
    )
    part = answer.groups[0] if version >= 8 else answer
    (topic,) = part.topics
    if version >= 10:
        assert topic.topic_id == world.topic_id
    else:
        assert topic.name == TOPIC
    found = [(entry.partition_index, entry.committed_offset) for entry in topic.partitions]
    assert found == [(1, 7), (2, -1)]
    assert topic.partitions[0].metadata == "note"


def find_coordinator(world: World, version: int) -> None:
    answer = world.ask("FindCoordinator", version, key="g", coordinator_keys=["g"])
    found = answer.coordinators[0] if version >= 4 else answer
    assert (found.error_code, found.port) == (0, world.broker.worker_ports[found.node_id])


def join_group(world: World, version: int) -> None:
    joined = world.join(version)
    assert joined.generation_id == 1
    assert joined.leader == joined.member_id
    assert [member.member_id for member in joined.members] == [joined.member_id]


def heartbeat(world: World, version: int) -> None:
    joined = world.stable()
    answer = world.ask(
        "Heartbeat",
        version,
        group_id=world.unique,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
    )
    assert answer.error_code == 0


def leave_group(world: World, version: int) -> None:
    joined = world.stable()
    answer = world.ask(
        "LeaveGroup",
        version,
        group_id=world.unique,
        member_id=joined.member_id,
        members=[{"member_id": joined.member_id}],
    )
    assert answer.error_code == 0
    if version >= 3:
        assert [member.error_code for member in answer.members] == [0]


def sync_group(world: World, version: int) -> None:
    answer = world.ask("SyncGroup", version, **world.sync_of(world.join()))
    assert (answer.error_code, bytes(answer.assignment)) == (0, b"mine")


def describe_groups(world: World, version: int) -> None:
    world.stable()
    answer = world.ask("DescribeGroups", version, groups=[world.unique])
    (group,) = answer.groups
    assert (group.error_code, group.group_state, len(group.members)) == (0, "Stable", 1)


def list_groups(world: World, version: int) -> None:
    world.stable()
    found = []
    for port in world.broker.worker_ports:
        with KioClient(port) as client:
            answer = client.ask("ListGroups", version, {})
        assert answer.error_code == 0
        found += [group.group_id for group in answer.groups]
    assert found.count(world.unique) == 1


def consumer_group_heartbeat(world: World, version: int) -> None:
    answer = world.ask(
        "ConsumerGroupHeartbeat",
        version,
        group_id=world.unique,
        member_id="m",
        member_epoch=0,
        rebalance_timeout=5000,
        subscribed_topic_names=[TOPIC],
        topic_partitions=[],
    )
    assert (answer.error_code, answer.member_epoch) == (0, 2)
    (given,) = answer.assignment.topic_partitions
    assert sorted(given.partitions) == list(range(PARTITIONS))


def consumer_group_describe(world: World, version: int) -> None:
    consumer_group_heartbeat(world, 0)
    answer = world.ask("ConsumerGroupDescribe", version, group_ids=[world.unique])
    (group,) = answer.groups
    assert (group.error_code, group.group_state, len(group.members)) == (0, "Stable", 1)


def api_versions(world: World, version: int) -> None:
    answer = world.ask(
        "ApiVersions", version, client_software_name="kio", client_software_version="1"
    )
    assert answer.error_code == 0
    offered = {row.api_key: (row.min_version, row.max_version) for row in answer.api_keys}
    spoken = {api.key: (api.min_version, api.max_version) for api in APIS.values()}
    assert offered == spoken | {0: (0, spoken[0][1])}


def create_topics(world: World, version: int) -> None:
    topic = {
        "name": world.unique,
        "num_partitions": 2,
        "replication_factor": 1,
        "configs": [{"name": "cleanup.policy", "value": "compact"}],
    }
    answer = world.ask("CreateTopics", version, topics=[topic], timeout=5000)
    (made,) = answer.topics
    assert (made.name, made.error_code) == (world.unique, 0)
    if version >= 5:
        assert made.num_partitions == 2
        assert {entry.name: entry.value for entry in made.configs}["cleanup.policy"] == "compact"


def delete_topics(world: World, version: int) -> None:
    create_topics(world, 7)
    answer = world.ask(
        "DeleteTopics",
        version,
        topic_names=[world.unique],
        topics=[{"name": world.unique}],
        timeout=5000,
    )
    assert [row.error_code for row in answer.responses] == [0]


def init_producer_id(world: World, version: int) -> None:
    seen = {
        world.ask("InitProducerId", version, transactional_id=None, producer_id=-1).producer_id
        for _ in range(2)
    }
    assert len(seen) == 2 and min(seen) >= 0


def offset_for_leader_epoch(world: World, version: int) -> None:
    produce(world, 9)
    (listed,) = world.ask(
        "ListOffsets", 4, replica_id=-1,
        topics=[world.topic(partitions=[{"partition_index": 0, "timestamp": -1}])],
    ).topics  # fmt: skip
    end = listed.partitions[0]
    answer = world.ask(
        "OffsetForLeaderEpoch",
        version,
        replica_id=-1,
        topics=[world.topic(partitions=[{"partition": 0, "leader_epoch": end.leader_epoch}])],
    )
    (part,) = answer.topics[0].partitions
    assert (part.error_code, part.leader_epoch) == (0, end.leader_epoch)
    assert part.end_offset >= end.offset


def describe_configs(world: World, version: int) -> None:
    resources = [
        {"resource_type": 2, "resource_name": TOPIC, "configuration_keys": ["retention.ms"]},
        {"resource_type": 4, "resource_name": "1", "configuration_keys": None},
    ]
    answer = world.ask("DescribeConfigs", version, resources=resources, include_synonyms=True)
    topic, node = answer.results
    assert (topic.error_code, node.error_code) == (0, 0)
    assert [entry.name for entry in topic.configs] == ["retention.ms"]
    assert node.configs


def alter_configs(world: World, version: int) -> None:
    create_topics(world, 7)
    configs = [{"name": "retention.ms", "value": "1000000"}]
    resource = {"resource_type": 2, "resource_name": world.unique, "configs": configs}
    answer = world.ask("AlterConfigs", version, resources=[resource])
    assert [row.error_code for row in answer.responses] == [0]


def incremental_alter_configs(world: World, version: int) -> None:
    create_topics(world, 7)
    configs = [{"name": "retention.ms", "config_operation": 0, "value": "1000000"}]
    resource = {"resource_type": 2, "resource_name": world.unique, "configs": configs}
    answer = world.ask("IncrementalAlterConfigs", version, resources=[resource])
    assert [row.error_code for row in answer.responses] == [0]


def create_partitions(world: World, version: int) -> None:
    create_topics(world, 7)
    answer = world.ask(
        "CreatePartitions",
        version,
        topics=[{"name": world.unique, "count": 3, "assignments": None}],
        timeout=5000,
    )
    assert [row.error_code for row in answer.results] == [0]


def delete_groups(world: World, version: int) -> None:
    leave_group(world, 3)
    answer = world.ask("DeleteGroups", version, groups_names=[world.unique])
    assert [row.error_code for row in answer.results] == [0]


def offset_delete(world: World, version: int) -> None:
    offset_commit(world, 8)
    world.ask("DescribeGroups", 0, groups=[world.unique])
    answer = world.ask(
        "OffsetDelete",
        version,
        group_id=world.unique,
        topics=[world.topic(partitions=[{"partition_index": 1}])],
    )
    assert answer.error_code == 0
    assert answer.topics[0].partitions[0].error_code == 0


def describe_cluster(world: World, version: int) -> None:
    answer = world.ask("DescribeCluster", version, endpoint_type=1)
    assert answer.error_code == 0
    assert [node.port for node in answer.brokers] == world.broker.worker_ports


CALLS: dict[str, Callable[[World, int], None]] = {
    **SECURITY_CALLS,
    **ADMIN_CALLS,
    **TRANSACTION_CALLS,
    **SHARE_CALLS,
    "Produce": produce,
    "Fetch": fetch,
    "ListOffsets": list_offsets,
    "Metadata": metadata,
    "OffsetCommit": offset_commit,
    "OffsetFetch": offset_fetch,
    "FindCoordinator": find_coordinator,
    "JoinGroup": join_group,
    "Heartbeat": heartbeat,
    "LeaveGroup": leave_group,
    "SyncGroup": sync_group,
    "DescribeGroups": describe_groups,
    "ListGroups": list_groups,
    "ApiVersions": api_versions,
    "ConsumerGroupDescribe": consumer_group_describe,
    "ConsumerGroupHeartbeat": consumer_group_heartbeat,
    "CreateTopics": create_topics,
    "DeleteTopics": delete_topics,
    "InitProducerId": init_producer_id,
    "OffsetForLeaderEpoch": offset_for_leader_epoch,
    "DescribeConfigs": describe_configs,
    "AlterConfigs": alter_configs,
    "CreatePartitions": create_partitions,
    "DeleteGroups": delete_groups,
    "IncrementalAlterConfigs": incremental_alter_configs,
    "OffsetDelete": offset_delete,
    "DescribeCluster": describe_cluster,
}


@pytest.mark.parametrize(("name", "version"), CASES)
def test_a_request_of_every_advertised_version_is_answered(
    world: World, name: str, version: int
) -> None:
    assert kio_class(name, version, "Request").__api_key__ in APIS
    CALLS[name](world, version)
