"""Metadata, administration and groups through raw frames: the codes of kafka_behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from robustmq.errors import BrokerError
from robustmq.kafka import apis
from robustmq.kafka.dispatch import HANDLERS
from tests.kafka.fake_gateway import FakeGateway
from tests.kafka.wire import Client

METADATA, COMMIT, OFFSETS, COORDINATOR, JOIN, HEARTBEAT, LEAVE, SYNC = 3, 8, 9, 10, 11, 12, 13, 14
TOPIC_PARTITIONS = 75
DESCRIBE_GROUPS, LIST_GROUPS, API_VERSIONS, CREATE, DELETE, PRODUCER = 15, 16, 18, 19, 20, 22
DESCRIBE_CONFIGS, PARTITIONS, DELETE_GROUPS, ALTER, DELETE_OFFSETS, CLUSTER = 32, 37, 42, 44, 47, 60


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def client(gateway: FakeGateway) -> Client:
    return Client(gateway)


# ApiVersions and what is not known


def test_every_offered_api_has_a_handler() -> None:
    assert set(apis.APIS) <= set(HANDLERS)


def test_api_versions_of_an_unknown_version_is_35_in_version_0(client: Client) -> None:
    answer = client.read(API_VERSIONS, 0, client.send_raw(API_VERSIONS, 99))
    assert answer.error_code == 35
    assert [api.api_key for api in answer.api_keys] == [API_VERSIONS]


def test_an_illegal_software_name_is_42(client: Client) -> None:
    for name, code in (("kafka-client.1", 0), ("-bad", 42), ("", 42)):
        answer = client.ask(
            API_VERSIONS, 3, client_software_name=name, client_software_version="1.0"
        )
        assert answer.error_code == code


@pytest.mark.parametrize(("key", "version"), [(METADATA, 99), (METADATA, -1), (999, 0)])
def test_other_unknown_versions_and_apis_close(client: Client, key: int, version: int) -> None:
    with pytest.raises(BrokerError):
        client.send_raw(key, version).result()


# Metadata


def names_of(answer: Any) -> list[tuple[str, int]]:
    return [(topic.name, topic.error_code) for topic in answer.topics]


def test_metadata_null_is_all_and_empty_is_none(client: Client, gateway: FakeGateway) -> None:
    gateway.add(b"a/b", 1, False, {})
    gateway.add(b"c", 2, True, {})
    assert names_of(client.ask(METADATA, 9, topics=None)) == [("c", 0), ("a.b", 0)]
    assert names_of(client.ask(METADATA, 9, topics=[])) == []
    assert len(client.ask(METADATA, 0, topics=[]).topics) == 2


def test_metadata_makes_a_topic_only_when_both_sides_want_it(
    client: Client, gateway: FakeGateway
) -> None:
    wanted = {"topics": [{"name": "n"}]}
    assert names_of(client.ask(METADATA, 9, allow_auto_topic_creation=False, **wanted)) == [
        ("n", 3)
    ]
    gateway.auto_create = False
    assert names_of(client.ask(METADATA, 9, **wanted)) == [("n", 3)]
    gateway.auto_create = True
    assert names_of(client.ask(METADATA, 9, **wanted)) == [("n", 0)]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 250])
def test_an_illegal_name_is_17(client: Client, name: str) -> None:
    assert names_of(client.ask(METADATA, 9, topics=[{"name": name}])) == [(name, 17)]


def test_metadata_by_topic_id(client: Client, gateway: FakeGateway) -> None:
    info = gateway.add(b"a/b", 1, False, {})
    unknown = type(info.topic_id)(int=999)
    wanted = [{"name": None, "topic_id": info.topic_id}, {"name": None, "topic_id": unknown}]
    assert names_of(client.ask(METADATA, 12, topics=wanted)) == [("a.b", 0), (None, 100)]


@pytest.mark.parametrize("version", [10, 11])
def test_metadata_by_topic_id_is_42_before_version_12(
    client: Client, gateway: FakeGateway, version: int
) -> None:
    info = gateway.add(b"a", 1, False, {})
    wanted = [{"name": None, "topic_id": info.topic_id}, {"name": "a"}]
    assert names_of(client.ask(METADATA, version, topics=wanted)) == [("", 42), ("a", 42)]


def test_a_page_of_partitions_that_begins_before_the_first_is_42(
    client: Client, gateway: FakeGateway
) -> None:
    gateway.add(b"a", 3, True, {})
    cursor = {"topic_name": "a", "partition_index": -2}
    answer = client.ask(TOPIC_PARTITIONS, 0, topics=[{"name": "a"}], cursor=cursor)
    assert names_of(answer) == [("a", 42)]


def test_describe_cluster(client: Client) -> None:
    answer = client.ask(CLUSTER, 1)
    assert [broker.port for broker in answer.brokers] == [9092, 9093]
    assert client.ask(CLUSTER, 1, endpoint_type=2).error_code == 42


# Topics and their settings


def create(client: Client, name: str, **more: Any) -> int:
    topic = {"name": name, "num_partitions": 2, "replication_factor": 1, "configs": []}
    answer = client.ask(CREATE, 7, topics=[{**topic, "assignments": [], **more}], timeout_ms=1)
    return int(answer.topics[0].error_code)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, 0),
        ({"num_partitions": -1, "replication_factor": -1}, 0),
        ({"num_partitions": 0}, 37),
        ({"replication_factor": 3}, 38),
        ({"configs": [{"name": "flush.ms", "value": "1"}]}, 40),
        ({"configs": [{"name": "retention.ms", "value": "soon"}]}, 40),
        ({"configs": [{"name": "retention.ms", "value": "1000"}]}, 0),
        ({"assignments": [{"partition_index": 0, "broker_ids": [0]}]}, 42),
        (
            {
                "num_partitions": -1,
                "replication_factor": -1,
                "assignments": [{"partition_index": 0, "broker_ids": [7]}],
            },
            39,
        ),
        (
            {
                "num_partitions": -1,
                "replication_factor": -1,
                "assignments": [{"partition_index": 0, "broker_ids": [1]}],
            },
            0,
        ),
    ],
)
def test_create_topics_checks_what_is_asked(
    client: Client, more: dict[str, Any], code: int
) -> None:
    assert create(client, "new", **more) == code


def test_create_topics_names(client: Client, gateway: FakeGateway) -> None:
    assert create(client, "a.b") == 0
    assert create(client, "a.b") == 36
    assert create(client, "a_b") == 17
    assert create(client, "a/b") == 17
    twice = {"name": "x", "num_partitions": 1, "replication_factor": 1}
    answer = client.ask(CREATE, 7, topics=[twice, twice], timeout_ms=1)
    assert [topic.error_code for topic in answer.topics] == [42, 42]
    topic = {"name": "y", "num_partitions": -1, "replication_factor": -1}
    answer = client.ask(CREATE, 7, topics=[topic], timeout_ms=1, validate_only=True)
    assert (answer.topics[0].error_code, answer.topics[0].num_partitions) == (0, 3)
    assert b"y" not in gateway.topics


def test_delete_topics_by_name_and_id(client: Client, gateway: FakeGateway) -> None:
    gateway.add(b"a/b", 1, False, {})
    info = gateway.add(b"c", 1, True, {})
    unknown = type(info.topic_id)(int=999)
    answer = client.ask(
        DELETE,
        6,
        timeout_ms=1,
        topics=[
            {"name": "a.b", "topic_id": type(unknown)(int=0)},
            {"name": None, "topic_id": info.topic_id},
            {"name": None, "topic_id": unknown},
        ],
    )
    assert [(t.name, t.error_code) for t in answer.responses] == [("a.b", 0), ("c", 0), (None, 100)]
    answer = client.ask(DELETE, 4, timeout_ms=1, topic_names=["c"])
    assert answer.responses[0].error_code == 3


def test_create_partitions_only_grows_declared_topics(client: Client, gateway: FakeGateway) -> None:
    gateway.add(b"light", 1, False, {})
    gateway.add(b"t", 2, True, {})
    for name, count, code in (("t", 2, 37), ("light", 2, 37), ("no", 2, 3), ("t", 4, 0)):
        topic = {"name": name, "count": count, "assignments": None}
        answer = client.ask(PARTITIONS, 2, topics=[topic], timeout_ms=1)
        assert answer.results[0].error_code == code
    assert len(gateway.topics[b"t"].partitions) == 4


def test_settings_are_described_and_altered(client: Client, gateway: FakeGateway) -> None:
    gateway.add(b"t", 1, True, {"retention.ms": "5"})

    def alter(name: str, operation: int, value: str | None) -> int:
        configs = [{"name": name, "config_operation": operation, "value": value}]
        resource = {"resource_type": 2, "resource_name": "t", "configs": configs}
        return int(client.ask(ALTER, 1, resources=[resource]).responses[0].error_code)

    assert alter("retention.ms", 0, "7") == 0
    assert alter("cleanup.policy", 2, "compact") == 0
    assert alter("retention.ms", 0, "x") == 40
    assert alter("nothing", 1, None) == 40
    asked = {
        "resource_type": 2,
        "resource_name": "t",
        "configuration_keys": ["retention.ms", "cleanup.policy"],
    }
    answer = client.ask(DESCRIBE_CONFIGS, 4, resources=[asked], include_synonyms=True)
    shown = {entry.name: entry.value for entry in answer.results[0].configs}
    assert shown == {"retention.ms": "7", "cleanup.policy": "delete,compact"}
    assert alter("retention.ms", 1, None) == 0
    assert gateway.topics[b"t"].configs == {"cleanup.policy": "delete,compact"}
    settings = [{"name": "segment.bytes", "value": "2000000"}]
    replaced = {"resource_type": 2, "resource_name": "t", "configs": settings}
    assert client.ask(33, 1, resources=[replaced]).responses[0].error_code == 0
    assert gateway.topics[b"t"].configs == {"segment.bytes": "2000000"}
    broker = {"resource_type": 4, "resource_name": "0", "configuration_keys": None}
    assert client.ask(DESCRIBE_CONFIGS, 4, resources=[broker]).results[0].configs
    missing = {"resource_type": 2, "resource_name": "no", "configuration_keys": None}
    assert client.ask(DESCRIBE_CONFIGS, 4, resources=[missing]).results[0].error_code == 3


# Groups


def join(client: Client, version: int = 5, member_id: str = "", group_id: str = "g") -> Any:
    return client.ask(
        JOIN,
        version,
        group_id=group_id,
        session_timeout_ms=10_000,
        rebalance_timeout_ms=5_000,
        member_id=member_id,
        group_instance_id=None,
        protocol_type="consumer",
        protocols=[{"name": "range", "metadata": b"m"}],
    )


def member(client: Client) -> str:
    """Join, sync, and be the one member of generation 1."""
    told = join(client)
    assert told.error_code == 79
    joined = join(client, member_id=told.member_id)
    assert (joined.error_code, joined.generation_id) == (0, 1)
    share = {"member_id": told.member_id, "assignment": b"all"}
    synced = client.ask(
        SYNC, 3, group_id="g", generation_id=1, member_id=told.member_id, assignments=[share]
    )
    assert bytes(synced.assignment) == b"all"
    return str(told.member_id)


def test_a_member_id_is_required_from_version_4(client: Client) -> None:
    assert join(client, version=3, group_id="old").error_code == 0
    assert join(client, group_id="").error_code == 24
    assert join(client, member_id="nobody").error_code == 25
    member(client)


def test_heartbeat_codes(client: Client) -> None:
    me = member(client)
    for group_id, member_id, generation, code in (
        ("g", me, 1, 0),
        ("g", me, 0, 22),
        ("g", "x", 1, 25),
        ("other", me, 1, 25),
        ("", me, 1, 24),
    ):
        answer = client.ask(
            HEARTBEAT, 3, group_id=group_id, generation_id=generation, member_id=member_id
        )
        assert answer.error_code == code


def commit(client: Client, generation: int, member_id: str, **part: Any) -> int:
    wanted = {"partition_index": 0, "committed_offset": 5, "committed_metadata": "", **part}
    answer = client.ask(
        COMMIT,
        7,
        group_id="g",
        generation_id_or_member_epoch=generation,
        member_id=member_id,
        topics=[{"name": "t", "partitions": [wanted]}],
    )
    return int(answer.topics[0].partitions[0].error_code)


def test_offsets_are_committed_and_fetched(client: Client, gateway: FakeGateway) -> None:
    gateway.add(b"t", 1, True, {})
    assert commit(client, -1, "") == 0
    me = member(client)
    assert commit(client, -1, "") == 25
    assert commit(client, 0, me) == 22
    assert commit(client, 1, me, committed_offset=9) == 0
    assert commit(client, 1, me, committed_metadata="x" * 5000) == 12
    assert commit(client, 1, me, partition_index=4) == 3
    one = client.ask(OFFSETS, 7, group_id="g", topics=[{"name": "t", "partition_indexes": [0, 1]}])
    assert [part.committed_offset for part in one.topics[0].partitions] == [9, -1]
    everything = client.ask(OFFSETS, 7, group_id="g", topics=None)
    assert everything.topics[0].partitions[0].committed_offset == 9
    wanted = [{"name": "t", "partition_indexes": [0]}]
    many = client.ask(
        OFFSETS,
        8,
        groups=[
            {"group_id": "g", "topics": wanted},
            {"group_id": "unknown", "topics": wanted},
            {"group_id": "", "topics": wanted},
        ],
    )
    assert [group.error_code for group in many.groups] == [0, 0, 24]
    offsets = [group.topics[0].partitions[0].committed_offset for group in many.groups]
    assert offsets == [9, -1, -1]


def test_groups_are_listed_described_and_deleted(client: Client, gateway: FakeGateway) -> None:
    gateway.add(b"t", 1, True, {})
    me = member(client)
    assert commit(client, 1, me) == 0
    listed = client.ask(LIST_GROUPS, 4, states_filter=["Stable"])
    assert [(group.group_id, group.group_state) for group in listed.groups] == [("g", "Stable")]
    assert client.ask(LIST_GROUPS, 4, states_filter=["Empty"]).groups == []
    shown, unknown = client.ask(DESCRIBE_GROUPS, 5, groups=["g", "no"]).groups
    assert (shown.group_state, shown.members[0].member_id) == ("Stable", me)
    assert (unknown.group_state, unknown.error_code) == ("Dead", 0)
    answer = client.ask(DELETE_GROUPS, 2, groups_names=["g", "no"])
    assert [result.error_code for result in answer.results] == [68, 69]
    left = client.ask(
        LEAVE, 4, group_id="g", members=[{"member_id": me, "group_instance_id": None}]
    )
    assert (left.error_code, left.members[0].error_code) == (0, 0)
    assert client.ask(LEAVE, 1, group_id="g", member_id=me).error_code == 25
    topics = [{"name": "t", "partitions": [{"partition_index": 0}]}]
    answer = client.ask(DELETE_OFFSETS, 0, group_id="g", topics=topics)
    assert answer.topics[0].partitions[0].error_code == 0
    assert client.ask(DELETE_OFFSETS, 0, group_id="no", topics=topics).error_code == 69
    assert client.ask(DELETE_GROUPS, 2, groups_names=["g"]).results[0].error_code == 0


def test_find_coordinator(client: Client) -> None:
    assert client.ask(COORDINATOR, 2, key="", key_type=0).port == 9092
    assert client.ask(COORDINATOR, 2, key="g", key_type=9).error_code == 42
    found = client.ask(COORDINATOR, 4, key_type=0, coordinator_keys=["a", "ab", "nobody"])
    assert [(entry.port, entry.error_code) for entry in found.coordinators] == [
        (9093, 0),
        (9092, 0),
        (-1, 15),
    ]
    assert client.ask(COORDINATOR, 2, key="nobody", key_type=1).error_code == 15


def test_producer_ids_are_new_each_time(client: Client) -> None:
    fields = {"transactional_id": None, "transaction_timeout_ms": 1}
    first, second = (client.ask(PRODUCER, 4, **fields).producer_id for _ in range(2))
    assert first != second


@pytest.mark.parametrize("name", [None, ""], ids=["null", "empty"])
def test_metadata_of_a_topic_id_comes_whatever_stands_in_the_name(name: str | None) -> None:
    gateway = FakeGateway()
    info = gateway.add(b"t", 2, True, {})
    asked = [{"topic_id": info.topic_id, "name": name}]
    answer = Client(gateway).ask(3, 13, topics=asked, allow_auto_topic_creation=False)
    (topic,) = answer.topics
    assert (topic.error_code, topic.name, len(topic.partitions)) == (0, "t", 2)
