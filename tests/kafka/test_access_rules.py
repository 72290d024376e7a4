"""What each API answers to who may not, and to who may: one table, with a row for every API.

A real broker that allows nothing without a rule; the client proves itself as `limited`, and a super
user makes the rules of a row. Denied: the code of the row stands in the answer. Allowed by the
rules of the row: no code of the answer is one of access.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from robustmq.acls import CLUSTER_NAME, Operation, Resource
from robustmq.kafka import schema
from robustmq.kafka.apis import APIS
from tests.broker import BrokerProcess
from tests.kafka.wire import SocketClient, batch, new_topic

TOPIC, GROUP, CLUSTER = Resource.TOPIC, Resource.GROUP, Resource.CLUSTER
TRANSACTION = Resource.TRANSACTIONAL_ID
READ, WRITE, CREATE, DELETE = Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DELETE
ALTER, DESCRIBE = Operation.ALTER, Operation.DESCRIBE
DESCRIBE_CONFIGS, ALTER_CONFIGS = Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS
ACTION = Operation.CLUSTER_ACTION
ACCESS_CODES = {29, 30, 31, 53}
NAME = "guarded"
PART = {"partition_index": 0, "partition": 0, "index": 0}
CONFIG = """
[security]
super_users = ["User:root"]
allow_if_no_acl = false
[kafka]
sasl_mechanisms = ["PLAIN"]
group_initial_rebalance_delay_ms = 0
[[kafka.user]]
name = "root"
password = "r"
[[kafka.user]]
name = "limited"
password = "l"
"""

Rule = tuple[int, int]
Row = tuple[dict[str, Any], int, list[Rule]]


def topics(key: str = "topics", inner: str = "partitions", **part: Any) -> dict[str, Any]:
    return {key: [{"name": NAME, "topic": NAME, inner: [{**PART, **part}]}]}


ROWS: dict[str, Row] = {
    "Produce": (
        {"acks": 1, "timeout_ms": 1000, **topics("topic_data", "partition_data", records=b"")},
        29,
        [(TOPIC, WRITE)],
    ),
    "Fetch": (
        {"session_epoch": -1, "max_bytes": 1, **topics(partition_max_bytes=1)},
        29,
        [(TOPIC, READ)],
    ),
    "ListOffsets": (topics(timestamp=-1, current_leader_epoch=-1), 29, [(TOPIC, DESCRIBE)]),
    "Metadata": ({"topics": [{"name": NAME}]}, 29, [(TOPIC, DESCRIBE)]),
    "OffsetCommit": (
        {"group_id": NAME, "generation_id_or_member_epoch": -1, **topics()},
        30,
        [(GROUP, READ), (TOPIC, READ)],
    ),
    "OffsetFetch": (
        {"groups": [{"group_id": NAME, "topics": [{"name": NAME, "partition_indexes": [0]}]}]},
        30,
        [(GROUP, DESCRIBE), (TOPIC, DESCRIBE)],
    ),
    "FindCoordinator": ({"coordinator_keys": [NAME]}, 30, [(GROUP, DESCRIBE)]),
    "JoinGroup": (
        {
            "group_id": NAME,
            "session_timeout_ms": 10_000,
            "rebalance_timeout_ms": 10_000,
            "protocol_type": "consumer",
            "protocols": [{"name": "range", "metadata": b""}],
        },
        30,
        [(GROUP, READ)],
    ),
    "Heartbeat": ({"group_id": NAME}, 30, [(GROUP, READ)]),
    "LeaveGroup": ({"group_id": NAME}, 30, [(GROUP, READ)]),
    "SyncGroup": ({"group_id": NAME}, 30, [(GROUP, READ)]),
    "DescribeGroups": ({"groups": [NAME]}, 30, [(GROUP, DESCRIBE)]),
    "CreateTopics": ({"topics": [new_topic(NAME + "-new")]}, 29, [(CLUSTER, CREATE)]),
    "DeleteTopics": ({"topics": [{"name": NAME}]}, 29, [(TOPIC, DELETE)]),
    "DeleteRecords": (topics(offset=0), 29, [(TOPIC, DELETE)]),
    "InitProducerId": (
        {"transactional_id": None, "producer_id": -1, "producer_epoch": -1},
        31,
        [(CLUSTER, Operation.IDEMPOTENT_WRITE)],
    ),
    "OffsetForLeaderEpoch": (topics(current_leader_epoch=-1), 29, [(TOPIC, DESCRIBE)]),
    "AddPartitionsToTxn": (
        {
            "v3_and_below_transactional_id": NAME,
            "v3_and_below_topics": [{"name": NAME, "partitions": [0]}],
        },
        53,
        [(TRANSACTION, WRITE), (TOPIC, WRITE)],
    ),
    "AddOffsetsToTxn": (
        {"transactional_id": NAME, "group_id": NAME},
        53,
        [(TRANSACTION, WRITE), (GROUP, READ)],
    ),
    "EndTxn": ({"transactional_id": NAME}, 53, [(TRANSACTION, WRITE)]),
    "WriteTxnMarkers": (
        {
            "markers": [
                {
                    "producer_id": 1,
                    "producer_epoch": 0,
                    "topics": [{"name": NAME, "partition_indexes": [0]}],
                }
            ]
        },
        31,
        [(CLUSTER, ACTION)],
    ),
    "TxnOffsetCommit": (
        {"transactional_id": NAME, "group_id": NAME, **topics()},
        53,
        [(TRANSACTION, WRITE), (GROUP, READ), (TOPIC, READ)],
    ),
    "DescribeAcls": (
        {
            "resource_type_filter": 2,
            "pattern_type_filter": 3,
            "operation": 1,
            "permission_type": 1,
        },
        31,
        [(CLUSTER, DESCRIBE)],
    ),
    "CreateAcls": (
        {
            "creations": [
                {
                    "resource_type": 2,
                    "resource_name": "other",
                    "resource_pattern_type": 3,
                    "principal": "User:other",
                    "host": "*",
                    "operation": 3,
                    "permission_type": 3,
                }
            ]
        },
        31,
        [(CLUSTER, ALTER)],
    ),
    "DeleteAcls": (
        {
            "filters": [
                {
                    "resource_type_filter": 2,
                    "resource_name_filter": "other",
                    "pattern_type_filter": 3,
                    "operation": 1,
                    "permission_type": 1,
                }
            ]
        },
        31,
        [(CLUSTER, ALTER)],
    ),
    "DescribeConfigs": (
        {"resources": [{"resource_type": 2, "resource_name": NAME, "configuration_keys": None}]},
        29,
        [(TOPIC, DESCRIBE_CONFIGS)],
    ),
    "AlterConfigs": (
        {"resources": [{"resource_type": 2, "resource_name": NAME}]},
        29,
        [(TOPIC, ALTER_CONFIGS)],
    ),
    "IncrementalAlterConfigs": (
        {"resources": [{"resource_type": 2, "resource_name": NAME}]},
        29,
        [(TOPIC, ALTER_CONFIGS)],
    ),
    "AlterReplicaLogDirs": (
        {"dirs": [{"path": "/x", "topics": [{"name": NAME, "partitions": [0]}]}]},
        31,
        [(CLUSTER, ALTER)],
    ),
    "DescribeLogDirs": ({"topics": None}, 31, [(CLUSTER, DESCRIBE)]),
    "CreatePartitions": (
        {"topics": [{"name": NAME, "count": 2, "assignments": None}], "validate_only": True},
        29,
        [(TOPIC, ALTER)],
    ),
    "DeleteGroups": ({"groups_names": [NAME]}, 30, [(GROUP, DELETE)]),
    "ElectLeaders": ({"topic_partitions": None}, 31, [(CLUSTER, ALTER)]),
    "AlterPartitionReassignments": ({"topics": []}, 31, [(CLUSTER, ALTER)]),
    "ListPartitionReassignments": ({"topics": None}, 31, [(CLUSTER, DESCRIBE)]),
    "OffsetDelete": ({"group_id": NAME, **topics()}, 30, [(GROUP, DELETE), (TOPIC, READ)]),
    "DescribeClientQuotas": ({"components": []}, 31, [(CLUSTER, DESCRIBE_CONFIGS)]),
    "AlterClientQuotas": (
        {"entries": [{"entity": [{"entity_type": "user", "entity_name": "u"}], "ops": []}]},
        31,
        [(CLUSTER, ALTER_CONFIGS)],
    ),
    "DescribeUserScramCredentials": ({"users": None}, 31, [(CLUSTER, DESCRIBE)]),
    "AlterUserScramCredentials": (
        {"deletions": [{"name": "nobody", "mechanism": 1}]},
        31,
        [(CLUSTER, ALTER)],
    ),
    "DescribeQuorum": ({"topics": []}, 31, [(CLUSTER, DESCRIBE)]),
    "UpdateFeatures": ({"feature_updates": []}, 31, [(CLUSTER, ALTER)]),
    "DescribeProducers": (
        {"topics": [{"name": NAME, "partition_indexes": [0]}]},
        29,
        [(TOPIC, READ)],
    ),
    "UnregisterBroker": ({"broker_id": 99}, 31, [(CLUSTER, ALTER)]),
    "DescribeTransactions": ({"transactional_ids": [NAME]}, 53, [(TRANSACTION, DESCRIBE)]),
    "ListConfigResources": ({"resource_types": []}, 31, [(CLUSTER, DESCRIBE_CONFIGS)]),
    "ConsumerGroupHeartbeat": (
        {
            "group_id": "consumers",
            "member_id": "m",
            "rebalance_timeout_ms": 10_000,
            "subscribed_topic_names": [NAME],
            "topic_partitions": [],
        },
        30,
        [(GROUP, READ), (TOPIC, DESCRIBE)],
    ),
    "ShareGroupHeartbeat": (
        {"group_id": "sharers", "member_id": "m", "subscribed_topic_names": [NAME]},
        30,
        [(GROUP, READ), (TOPIC, DESCRIBE)],
    ),
    "ShareGroupDescribe": ({"group_ids": [NAME]}, 30, [(GROUP, DESCRIBE)]),
    "ShareFetch": (
        {"group_id": "sharers", "member_id": "m", "topics": []},
        30,
        [(GROUP, READ)],
    ),
    "ShareAcknowledge": (
        {"group_id": "sharers", "member_id": "m", "topics": []},
        30,
        [(GROUP, READ)],
    ),
    "DescribeShareGroupOffsets": (
        {"groups": [{"group_id": "sharers", "topics": [{"topic_name": NAME, "partitions": [0]}]}]},
        30,
        [(GROUP, DESCRIBE), (TOPIC, DESCRIBE)],
    ),
    "AlterShareGroupOffsets": (
        {
            "group_id": "sharers",
            "topics": [
                {
                    "topic_name": NAME,
                    "partitions": [{"partition_index": 0, "start_offset": 0}],
                }
            ],
        },
        30,
        [(GROUP, READ), (TOPIC, READ)],
    ),
    "DeleteShareGroupOffsets": (
        {"group_id": "sharers", "topics": [{"topic_name": NAME}]},
        30,
        [(GROUP, DELETE), (TOPIC, READ)],
    ),
    "ConsumerGroupDescribe": ({"group_ids": [NAME]}, 30, [(GROUP, DESCRIBE)]),
    "DescribeTopicPartitions": (
        {"topics": [{"name": NAME}], "response_partition_limit": 9, "cursor": None},
        29,
        [(TOPIC, DESCRIBE)],
    ),
}
VERSIONS = {
    "Produce": 12,
    "Fetch": 12,
    "OffsetCommit": 9,
    "OffsetFetch": 9,
    "AddPartitionsToTxn": 3,
}
"""Asked in a version that has names where the newest has ids."""
OPEN = {
    "ApiVersions", "SaslHandshake", "SaslAuthenticate", "DescribeCluster", "ListGroups",
    "ListTransactions", "CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken",
    "DescribeDelegationToken", "GetTelemetrySubscriptions", "PushTelemetry",
}  # fmt: skip
"""Answered to everybody who is let in; lists leave out what the client may not see."""


def filled(fields: tuple[schema.Field, ...], values: dict[str, Any]) -> dict[str, Any]:
    """A request with these values, and zeros where nothing is said."""
    given: dict[str, Any] = {}
    for field in fields:
        if field.name in values:
            value = values[field.name]
            if field.is_struct and field.is_array and value is not None:
                value = [filled(field.fields, one) for one in value]
            given[field.name] = value
        elif field.is_array:
            given[field.name] = []
        elif field.nullable.first <= field.nullable.last:
            given[field.name] = None
        elif field.type in ("string", "bytes", "records"):
            given[field.name] = "" if field.type == "string" else b""
        elif field.type == "uuid":
            given[field.name] = uuid.UUID(int=0)
        elif field.is_struct:
            given[field.name] = None
        elif field.type == "bool":
            given[field.name] = False
        else:
            given[field.name] = int(field.default or 0) if field.default != "null" else 0
    return given


def codes(answer: Any) -> set[int]:
    """Every error code in an answer."""
    found: set[int] = set()
    if isinstance(answer, list):
        for one in answer:
            found |= codes(one)
    elif isinstance(answer, msgspec.Struct):
        for name in answer.__struct_fields__:
            value = getattr(answer, name)
            is_code = name in ("error_code", "partition_error_code")
            found |= {value} if is_code else codes(value)
    return found


class Guarded:
    """The broker, a super user's connection, and one of who may nothing."""

    def __init__(self, root: SocketClient, limited: SocketClient) -> None:
        self.root = root
        self.limited = limited

    def ask(self, name: str, values: dict[str, Any]) -> set[int]:
        """The codes that `limited` is answered."""
        key = next(api.key for api in APIS.values() if api.name == name)
        version = VERSIONS.get(name, APIS[key].max_version)
        request = filled(schema.messages()[f"{name}Request"], values)
        if name == "Produce":
            request["topic_data"][0]["partition_data"][0]["records"] = batch(b"v")
        return codes(self.limited.ask(key, version, **request))

    def rules(self, rules: list[Rule], name: str = "*") -> None:
        """These are all rules that there are."""
        everything = {
            "resource_type_filter": 1,
            "resource_name_filter": None,
            "pattern_type_filter": 1,
            "principal_filter": "User:limited",
            "host_filter": None,
            "operation": 1,
            "permission_type": 1,
        }
        self.root.ask(31, 3, filters=[everything])
        made = [
            {
                "resource_type": resource,
                "resource_name": CLUSTER_NAME if resource == CLUSTER else name,
                "resource_pattern_type": 3,
                "principal": "User:limited",
                "host": "127.0.0.1",
                "operation": operation,
                "permission_type": 3,
            }
            for resource, operation in rules
        ]
        assert codes(self.root.ask(30, 3, creations=made)) <= {0}


def proven(port: int, user: str, password: str) -> SocketClient:
    client = SocketClient(port)
    assert client.ask(17, 1, mechanism="PLAIN").error_code == 0
    token = f"\0{user}\0{password}".encode()
    assert client.ask(36, 2, auth_bytes=token).error_code == 0
    return client


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("guarded"), 2, CONFIG) as broker:
        yield broker


@pytest.fixture
def guarded(closed: BrokerProcess) -> Iterator[Guarded]:
    with proven(closed.kafka, "root", "r") as root, proven(closed.kafka, "limited", "l") as one:
        yield Guarded(root, one)


@pytest.fixture(autouse=True)
def topic(guarded: Guarded) -> None:
    """The topic and the group are there, whatever the test before has done."""
    made = guarded.root.ask(19, 7, topics=[new_topic(NAME)], timeout_ms=5000, validate_only=False)
    assert made.topics[0].error_code in (0, 36)
    values = {"group_id": NAME, "generation_id_or_member_epoch": -1, **topics()}
    request = filled(schema.messages()["OffsetCommitRequest"], values)
    guarded.root.ask(8, 8, **request)


def test_every_api_has_a_row() -> None:
    assert set(ROWS) | OPEN >= {api.name for api in APIS.values()}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_api_is_denied_without_rules_and_allowed_with_them(guarded: Guarded, name: str) -> None:
    values, denied, rules = ROWS[name]
    if not any(api.name == name for api in APIS.values()):
        pytest.fail(f"{name} is not offered: take its row out")
    guarded.rules([])
    assert denied in guarded.ask(name, values)
    for left_out in range(len(rules)):
        guarded.rules(rules[:left_out] + rules[left_out + 1 :])
        assert guarded.ask(name, values) & ACCESS_CODES
    guarded.rules(rules)
    assert not guarded.ask(name, values) & ACCESS_CODES


def test_lists_leave_out_what_the_client_may_not_see(guarded: Guarded) -> None:
    guarded.rules([])
    metadata = {"topics": None, "allow_auto_topic_creation": False}
    everything = {
        **metadata,
        "include_cluster_authorized_operations": True,
        "include_topic_authorized_operations": True,
    }
    assert guarded.limited.ask(3, 10, **everything).topics == []
    guarded.rules([(TOPIC, READ), (CLUSTER, DESCRIBE)], NAME)
    seen = guarded.limited.ask(3, 10, **everything)
    assert [one.name for one in seen.topics] == [NAME]
    assert seen.topics[0].topic_authorized_operations == 1 << READ | 1 << DESCRIBE
    assert seen.cluster_authorized_operations == 1 << DESCRIBE


def test_a_topic_is_made_by_who_may_make_it(guarded: Guarded) -> None:
    name = {"name": "made-by-metadata"}
    asked = {"topics": [name], "allow_auto_topic_creation": True}
    guarded.rules([])
    request = filled(schema.messages()["MetadataRequest"], asked)
    assert guarded.limited.ask(3, 9, **request).topics[0].error_code == 29
    names = {"resource_name": "made-by-metadata"}
    rule = {
        "resource_type": 2,
        "resource_pattern_type": 3,
        "principal": "User:limited",
        "host": "*",
        "permission_type": 3,
        **names,
    }
    guarded.root.ask(30, 3, creations=[{**rule, "operation": 8}])
    assert guarded.limited.ask(3, 9, **request).topics[0].error_code == 29
    guarded.root.ask(30, 3, creations=[{**rule, "operation": 5}])
    assert guarded.limited.ask(3, 9, **request).topics[0].error_code in (0, 3)
