"""Requests of administrators for test_every_version: by the name of the API, a call that asserts
what is answered. `world` is that test's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOPIC = "every.version"


def delete_records(world: Any, version: int) -> None:
    asked = [
        {"partition_index": 0, "offset": 0},
        {"partition_index": 1, "offset": 1 << 40},
        {"partition_index": 99, "offset": 0},
    ]
    answer = world.ask(
        "DeleteRecords", version, topics=[{"name": TOPIC, "partitions": asked}], timeout=5000
    )
    rows = answer.topics[0].partitions
    assert [(row.error_code, row.low_watermark) for row in rows] == [(0, 0), (1, -1), (3, -1)]


def describe_log_dirs(world: Any, version: int) -> None:
    answer = world.ask("DescribeLogDirs", version, topics=None)
    (described,) = answer.results
    assert described.error_code == 0 and described.log_dir
    sizes = [one.partition_size for topic in described.topics for one in topic.partitions]
    assert all(size >= 0 for size in sizes)
    if version >= 4:
        assert 0 < described.usable_bytes < described.total_bytes


def alter_replica_log_dirs(world: Any, version: int) -> None:
    directory = world.ask("DescribeLogDirs", 4, topics=[]).results[0].log_dir
    codes = {}
    for path, partition in ((directory, 0), (directory, 99), ("/elsewhere", 0)):
        topic = {"name": TOPIC, "partitions": [partition]}
        answer = world.ask("AlterReplicaLogDirs", version, dirs=[{"path": path, "topics": [topic]}])
        codes[path, partition] = answer.results[0].partitions[0].error_code
    assert list(codes.values()) == [0, 3, 57]


def elect_leaders(world: Any, version: int) -> None:
    wanted = [{"topic": TOPIC, "partitions": [0, 99]}]
    answer = world.ask("ElectLeaders", version, topic_partitions=wanted, timeout=5000)
    rows = answer.replica_election_results[0].partition_result
    assert [row.error_code for row in rows] == [84, 3]
    assert not world.ask("ElectLeaders", version, topic_partitions=None).replica_election_results


def alter_reassignments(world: Any, version: int) -> None:
    described = world.ask("DescribeTopicPartitions", 0, topics=[{"name": TOPIC}], cursor=None)
    leader = described.topics[0].partitions[0].leader_id
    codes = []
    for partition, replicas in (
        (0, [leader]),
        (0, [leader ^ 1]),
        (0, None),
        (99, [0]),
        (0, [0, 1]),
    ):
        row = {"partition_index": partition, "replicas": replicas}
        answer = world.ask(
            "AlterPartitionReassignments",
            version,
            topics=[{"name": TOPIC, "partitions": [row]}],
            timeout=5000,
        )
        codes.append(answer.responses[0].partitions[0].error_code)
    assert codes == [0, 39, 85, 3, 38]


def list_reassignments(world: Any, version: int) -> None:
    answer = world.ask("ListPartitionReassignments", version, topics=None, timeout=5000)
    assert (answer.error_code, list(answer.topics)) == (0, [])


def describe_quorum(world: Any, version: int) -> None:
    topics = [
        {"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]},
        {"topic_name": TOPIC, "partitions": [{"partition_index": 0}]},
    ]
    answer = world.ask("DescribeQuorum", version, topics=topics)
    metadata, other = (topic.partitions[0] for topic in answer.topics)
    assert (metadata.error_code, other.error_code) == (0, 3)
    assert [voter.replica_id for voter in metadata.current_voters] == [metadata.leader_id]
    assert metadata.high_watermark > 0


def update_features(world: Any, version: int) -> None:
    update = {"feature": "metadata.version", "max_version_level": 9}
    answer = world.ask("UpdateFeatures", version, feature_updates=[update], timeout=5000)
    code = answer.error_code if version >= 2 else answer.results[0].error_code
    assert code == 95
    assert world.ask("UpdateFeatures", version, feature_updates=[]).error_code == 0


def unregister_broker(world: Any, version: int) -> None:
    codes = [world.ask("UnregisterBroker", version, broker_id=one).error_code for one in (0, 77)]
    assert codes == [42, 102]


def list_config_resources(world: Any, version: int) -> None:
    if not version:
        assert world.ask("ListConfigResources", 0).error_code == 0
        return
    answer = world.ask("ListConfigResources", version, resource_types=[2, 4])
    found = {(row.resource_type, row.resource_name) for row in answer.config_resources}
    assert {(2, TOPIC), (4, "0"), (4, "1")} <= found
    assert world.ask("ListConfigResources", version, resource_types=[3]).error_code == 35


def describe_topic_partitions(world: Any, version: int) -> None:
    wanted = [{"name": TOPIC}, {"name": "missing"}, {"name": "a/b"}]
    answer = world.ask("DescribeTopicPartitions", version, topics=wanted, cursor=None)
    found = {topic.name: topic for topic in answer.topics}
    assert {name: topic.error_code for name, topic in found.items()} == {
        TOPIC: 0,
        "missing": 3,
        "a/b": 17,
    }
    assert [row.partition_index for row in found[TOPIC].partitions] == [0, 1, 2, 3]
    assert answer.next_cursor is None
    cursor: Any = None
    pages = []
    while True:
        page = world.ask(
            "DescribeTopicPartitions",
            version,
            topics=[{"name": TOPIC}],
            response_partition_limit=3,
            cursor=cursor,
        )
        pages.append([row.partition_index for row in page.topics[0].partitions])
        if page.next_cursor is None:
            break
        cursor = {
            "topic_name": page.next_cursor.topic_name,
            "partition_index": page.next_cursor.partition_index,
        }
    assert pages == [[0, 1, 2], [3]]


ADMIN_CALLS: dict[str, Callable[[Any, int], None]] = {
    "DeleteRecords": delete_records,
    "AlterReplicaLogDirs": alter_replica_log_dirs,
    "DescribeLogDirs": describe_log_dirs,
    "ElectLeaders": elect_leaders,
    "AlterPartitionReassignments": alter_reassignments,
    "ListPartitionReassignments": list_reassignments,
    "DescribeQuorum": describe_quorum,
    "UpdateFeatures": update_features,
    "UnregisterBroker": unregister_broker,
    "ListConfigResources": list_config_resources,
    "DescribeTopicPartitions": describe_topic_partitions,
}
