"""What requests of administrators are refused with: one table for each API."""

from __future__ import annotations

from typing import Any

import pytest

from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.context import RequestContext
from tests.kafka.fake_gateway import FakeGateway
from tests.kafka.wire import Client

DELETE_RECORDS, DESCRIBE_CONFIGS, ALTER_CONFIGS, LOG_DIRS, ELECT, INCREMENTAL = (
    21,
    32,
    33,
    35,
    43,
    44,
)
REASSIGN, QUORUM, FEATURES, RESOURCES = 45, 55, 57, 74
TOPIC, BROKER = 2, 4
MAX_LAG = "max.compaction.lag.ms"
SET, DELETE, APPEND, SUBTRACT = range(4)


@pytest.fixture
def gateway() -> FakeGateway:
    made = FakeGateway()
    made.add(b"t", 2, True, {"cleanup.policy": "compact"})
    made.add(b"plain", 1, True, {})
    made.add(b"light", 1, False, {})
    return made


@pytest.fixture
def client(gateway: FakeGateway) -> Client:
    return Client(gateway)


@pytest.mark.parametrize(
    ("resource", "configs", "code"),
    [
        ((TOPIC, "t"), [("retention.ms", SET, "5")], 0),
        ((TOPIC, "t"), [("retention.ms", DELETE, None)], 0),
        ((TOPIC, "t"), [("cleanup.policy", APPEND, "delete")], 0),
        ((TOPIC, "t"), [("cleanup.policy", SUBTRACT, "compact")], 40),
        ((TOPIC, "t"), [("retention.ms", APPEND, "5")], 40),
        ((TOPIC, "t"), [("retention.ms", SET, None)], 42),
        ((TOPIC, "t"), [("retention.ms", 9, "5")], 42),
        ((TOPIC, "t"), [("retention.ms", SET, "5"), ("retention.ms", DELETE, None)], 42),
        ((TOPIC, "t"), [("nothing", SET, "5")], 40),
        ((TOPIC, "t"), [("nothing", DELETE, None)], 40),
        ((TOPIC, "t"), [("min.insync.replicas", SET, "2")], 40),
        ((TOPIC, "t"), [("remote.storage.enable", SET, "true")], 40),
        ((TOPIC, "t"), [("local.retention.ms", SET, "-3")], 40),
        ((TOPIC, "t"), [("robustmq.storage.mode", SET, "memory")], 40),
        ((TOPIC, "plain"), [("robustmq.storage.mode", SET, "memory")], 0),
        ((TOPIC, "t"), [("min.compaction.lag.ms", SET, "9"), (MAX_LAG, SET, "8")], 40),
        ((TOPIC, "light"), [("retention.ms", SET, "5")], 42),
        ((TOPIC, "missing"), [("retention.ms", SET, "5")], 3),
        ((TOPIC, "a/b"), [("retention.ms", SET, "5")], 17),
        ((BROKER, "0"), [("log.retention.ms", SET, "5")], 42),
        ((BROKER, ""), [("log.retention.ms", SET, "5")], 42),
        ((BROKER, "9"), [("log.retention.ms", SET, "5")], 42),
        ((99, "x"), [("a", SET, "5")], 42),
    ],
)  # fmt: skip
def test_incremental_alter_configs(
    client: Client, resource: tuple[int, str], configs: list[tuple[str, int, str | None]], code: int
) -> None:
    rows = [{"name": n, "config_operation": o, "value": v} for n, o, v in configs]
    asked = {"resource_type": resource[0], "resource_name": resource[1], "configs": rows}
    answer = client.ask(INCREMENTAL, 1, resources=[asked])
    assert answer.responses[0].error_code == code


def test_alter_configs_replaces_all_that_was_set(client: Client, gateway: FakeGateway) -> None:
    def alter(**configs: str | None) -> int:
        rows = [{"name": n.replace("_", "."), "value": v} for n, v in configs.items()]
        asked = {"resource_type": TOPIC, "resource_name": "t", "configs": rows}
        return int(client.ask(ALTER_CONFIGS, 2, resources=[asked]).responses[0].error_code)

    assert alter(retention_ms=None) == 42
    assert alter(retention_ms="x") == 40
    assert gateway.topics[b"t"].configs == {"cleanup.policy": "compact"}
    assert alter(retention_ms="7") == 0
    assert gateway.topics[b"t"].configs == {"retention.ms": "7"}
    asked = {"resource_type": TOPIC, "resource_name": "t", "configs": []}
    answer = client.ask(ALTER_CONFIGS, 2, resources=[asked, asked])
    assert [row.error_code for row in answer.responses] == [42, 42]
    assert client.ask(ALTER_CONFIGS, 2, resources=[asked], validate_only=True).responses
    assert gateway.topics[b"t"].configs == {"retention.ms": "7"}


def test_describe_configs_says_where_a_value_is_from(client: Client, gateway: FakeGateway) -> None:
    gateway.topic_defaults = {"segment.bytes": "2000000"}

    def rows(kind: int, name: str) -> dict[str, Any]:
        asked = {"resource_type": kind, "resource_name": name, "configuration_keys": None}
        answer = client.ask(
            DESCRIBE_CONFIGS, 4, resources=[asked], include_synonyms=True,
            include_documentation=True,
        )  # fmt: skip
        assert answer.results[0].error_code == 0
        return {row.name: row for row in answer.results[0].configs}

    topic = rows(TOPIC, "t")
    assert (topic["cleanup.policy"].value, topic["cleanup.policy"].config_source) == ("compact", 1)
    synonyms = [(s.name, s.value, s.source) for s in topic["cleanup.policy"].synonyms]
    assert synonyms == [("cleanup.policy", "compact", 1), ("log.cleanup.policy", "delete", 5)]
    assert topic["segment.bytes"].config_source == 4 and topic["retention.ms"].config_source == 5
    assert topic["min.cleanable.dirty.ratio"].config_type == 6
    assert all(row.documentation for row in topic.values())
    broker = rows(BROKER, "0")
    assert broker["log.segment.bytes"].value == "2000000" and broker["log.segment.bytes"].read_only
    assert rows(BROKER, "") == {}


@pytest.mark.parametrize(
    ("topic", "partition", "offset", "code"),
    [
        ("plain", 0, 0, 0),
        ("plain", 0, -1, 0),
        ("light", 0, -1, 0),
        ("plain", 0, 5, 1),
        ("plain", 0, -2, 1),
        ("plain", 1, 0, 3),
        ("missing", 0, 0, 3),
        ("a/b", 0, 0, 17),
        ("t", 0, 0, 44),
    ],
)
def test_delete_records(client: Client, topic: str, partition: int, offset: int, code: int) -> None:
    asked = {"name": topic, "partitions": [{"partition_index": partition, "offset": offset}]}
    answer = client.ask(DELETE_RECORDS, 2, topics=[asked], timeout_ms=100)
    assert answer.topics[0].partitions[0].error_code == code


def test_a_partition_that_is_named_twice_is_deleted_from_neither_time(client: Client) -> None:
    rows = [{"partition_index": 0, "offset": 0}, {"partition_index": 0, "offset": -1}]
    answer = client.ask(DELETE_RECORDS, 2, topics=[{"name": "plain", "partitions": rows}])
    assert [row.error_code for row in answer.topics[0].partitions] == [42, 42]


def test_who_may_not_is_refused(client: Client, gateway: FakeGateway) -> None:
    denied: list[tuple[Operation, Resource]] = []

    def authorized(
        context: RequestContext, operation: Operation, resource: Resource, name: str
    ) -> bool:
        denied.append((operation, resource))
        return False

    gateway.authorized = authorized  # type: ignore[method-assign]
    row = {"partition_index": 0, "offset": 0}
    answer = client.ask(DELETE_RECORDS, 2, topics=[{"name": "plain", "partitions": [row]}])
    assert answer.topics[0].partitions[0].error_code == 29
    assert client.ask(LOG_DIRS, 4, topics=None).error_code == 31
    assert client.ask(ELECT, 2, topic_partitions=None).error_code == 31
    assert client.ask(REASSIGN, 1, topics=[]).error_code == 31
    assert client.ask(46, 0, topics=None).error_code == 31
    assert client.ask(QUORUM, 2, topics=[]).error_code == 31
    assert client.ask(FEATURES, 2, feature_updates=[]).error_code == 31
    assert client.ask(64, 0, broker_id=0).error_code == 31
    assert client.ask(RESOURCES, 1, resource_types=[]).error_code == 31
    described = client.ask(75, 0, topics=[{"name": "plain"}], cursor=None)
    assert described.topics[0].error_code == 29
    assert {resource for _, resource in denied} == {Resource.TOPIC, Resource.CLUSTER}


def test_an_election_of_an_unknown_kind_is_42(client: Client) -> None:
    assert client.ask(ELECT, 1, election_type=7, topic_partitions=None).error_code == 42
