"""Groups and topics of a real broker answer raw frames as Apache Kafka does."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient, new_topic

METADATA, COMMIT, FETCH_OFFSETS, FIND, JOIN, HEARTBEAT, LEAVE, SYNC = 3, 8, 9, 10, 11, 12, 13, 14
CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS = 19, 20, 37


@pytest.fixture
def group() -> str:
    return uuid.uuid4().hex


def join(client: SocketClient, group: str, version: int = 5, **changes: Any) -> Any:
    values = {
        "group_id": group,
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b"m"}],
        **changes,
    }
    return client.ask(JOIN, version, **values)


def joined(client: SocketClient, group: str) -> Any:
    """The first member of a group, which waits for its assignment."""
    answer = join(client, group, member_id=join(client, group).member_id)
    assert answer.error_code == 0
    return answer


def sync(client: SocketClient, group: str, member: Any) -> Any:
    assignments = [{"member_id": member.member_id, "assignment": b"all"}]
    return client.ask(
        SYNC,
        3,
        group_id=group,
        generation_id=member.generation_id,
        member_id=member.member_id,
        assignments=assignments,
    )


def heartbeat(client: SocketClient, group: str, generation: int, member_id: str) -> int:
    answer = client.ask(HEARTBEAT, 3, group_id=group, generation_id=generation, member_id=member_id)
    return int(answer.error_code)


def commit(
    client: SocketClient,
    group: str,
    topic: str,
    generation: int = -1,
    member_id: str = "",
    offset: int = 5,
    partition: int = 0,
    metadata: str = "",
) -> int:
    place = {
        "partition_index": partition,
        "committed_offset": offset,
        "committed_metadata": metadata,
    }
    answer = client.ask(
        COMMIT,
        7,
        group_id=group,
        generation_id_or_member_epoch=generation,
        member_id=member_id,
        topics=[{"name": topic, "partitions": [place]}],
    )
    return int(answer.topics[0].partitions[0].error_code)


def committed(client: SocketClient, group: str, topic: str) -> tuple[int, int]:
    answer = client.ask(
        FETCH_OFFSETS, 5, group_id=group, topics=[{"name": topic, "partition_indexes": [0]}]
    )
    part = answer.topics[0].partitions[0]
    return int(part.error_code or answer.error_code), int(part.committed_offset)


# Members


def test_a_join_without_an_id_is_79_from_version_4_and_taken_before(
    client: SocketClient, group: str
) -> None:
    first = join(client, group, 4)
    assert first.error_code == 79 and first.member_id
    other = uuid.uuid4().hex
    assert join(client, other, 3).error_code == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"member_id": "nobody"}, 25),
        ({"protocols": []}, 23),
        ({"protocol_type": ""}, 23),
        ({"group_id": ""}, 24),
        ({"session_timeout_ms": 1}, 26),
        ({"session_timeout_ms": 2_000_000_000}, 26),
        ({"group_instance_id": "one", "member_id": "nobody"}, 25),
    ],
)
def test_a_join_that_cannot_be_is_refused(
    client: SocketClient, group: str, changes: dict[str, Any], code: int
) -> None:
    assert join(client, group, **changes).error_code == code


def test_a_second_member_must_share_a_protocol(client: SocketClient, group: str) -> None:
    joined(client, group)
    refused = join(client, group, protocols=[{"name": "other", "metadata": b""}])
    assert refused.error_code == 23
    assert join(client, group, protocol_type="connect").error_code == 23


def test_heartbeat_codes(client: SocketClient, group: str) -> None:
    member = joined(client, group)
    assert heartbeat(client, group, 1, member.member_id) == 0
    assert sync(client, group, member).assignment == b"all"
    assert heartbeat(client, group, 1, member.member_id) == 0
    assert heartbeat(client, group, 0, member.member_id) == 22
    assert heartbeat(client, group, 2, member.member_id) == 22
    assert heartbeat(client, group, 1, "nobody") == 25
    assert heartbeat(client, uuid.uuid4().hex, 1, "nobody") == 25
    assert heartbeat(client, "", 1, "nobody") == 24


def test_sync_and_leave_codes(client: SocketClient, group: str) -> None:
    member = joined(client, group)
    member.generation_id = 7
    assert sync(client, group, member).error_code == 22
    member.generation_id = 1
    member_id, member.member_id = member.member_id, "nobody"
    assert sync(client, group, member).error_code == 25
    left = client.ask(
        LEAVE, 3, group_id=group, members=[{"member_id": "nobody"}, {"member_id": member_id}]
    )
    assert [entry.error_code for entry in left.members] == [25, 0]
    assert client.ask(LEAVE, 1, group_id=group, member_id=member_id).error_code == 25


def test_a_static_member_fences_its_older_self(client: SocketClient, group: str) -> None:
    first = join(client, group, group_instance_id="one")
    assert first.error_code == 0
    assert sync(client, group, first).error_code == 0
    second = join(client, group, group_instance_id="one")
    assert second.error_code == 0
    assert second.member_id != first.member_id
    answer = client.ask(
        HEARTBEAT,
        3,
        group_id=group,
        generation_id=second.generation_id,
        member_id=first.member_id,
        group_instance_id="one",
    )
    assert answer.error_code == 82


# Offsets


def test_offset_commit_codes(client: SocketClient, topic: str, group: str) -> None:
    assert commit(client, group, topic, generation=3, member_id="nobody") == 22
    assert commit(client, group, topic) == 0
    assert commit(client, group, topic, partition=9) == 3
    assert commit(client, group, "no.such.topic") == 3
    assert commit(client, "", topic) == 24
    assert commit(client, group, topic, metadata="x" * 5000) == 12
    assert commit(client, group, topic, offset=1 << 40) == 0
    assert committed(client, group, topic) == (0, 1 << 40)
    member = joined(client, group)
    sync(client, group, member)
    assert commit(client, group, topic) == 25
    assert commit(client, group, topic, 9, member.member_id) == 22
    assert commit(client, group, topic, 1, "nobody") == 25
    assert commit(client, group, topic, 1, member.member_id, 6) == 0
    assert committed(client, group, topic) == (0, 6)


def test_offsets_of_what_is_unknown_are_minus_1(
    client: SocketClient, topic: str, group: str
) -> None:
    assert committed(client, group, topic) == (0, -1)
    assert committed(client, group, "no.such.topic") == (0, -1)
    assert committed(client, "", topic)[0] == 24


def test_a_deleted_topic_takes_its_offsets_along(
    client: SocketClient, topic: str, group: str
) -> None:
    assert commit(client, group, topic) == 0
    deleted = client.ask(DELETE_TOPICS, 5, topic_names=[topic], timeout_ms=5000)
    assert deleted.responses[0].error_code == 0
    assert committed(client, group, topic) == (0, -1)


def test_find_coordinator_codes(client: SocketClient) -> None:
    assert client.ask(FIND, 2, key="", key_type=0).error_code == 0
    assert client.ask(FIND, 2, key="x", key_type=9).error_code == 42


# Topics


def metadata(client: SocketClient, names: list[str] | None, create: bool = False) -> Any:
    topics = None if names is None else [{"name": name} for name in names]
    return client.ask(METADATA, 9, topics=topics, allow_auto_topic_creation=create)


def test_metadata_of_an_unknown_topic(client: SocketClient) -> None:
    name = uuid.uuid4().hex
    assert [topic.error_code for topic in metadata(client, [name]).topics] == [3]
    made = metadata(client, [name], create=True).topics[0]
    # Apache Kafka says 3 at first and clients ask again; here the topic is there at once.
    assert made.error_code == 0
    assert len(made.partitions) == 1
    assert metadata(client, [name]).topics[0].error_code == 0


@pytest.mark.parametrize("name", [".", "..", "a/b", "a b", "", "x" * 250, "ü"])
def test_an_illegal_name_is_17(client: SocketClient, name: str) -> None:
    assert metadata(client, [name], create=True).topics[0].error_code == 17
    made = client.ask(CREATE_TOPICS, 7, topics=[new_topic(name)], timeout_ms=5000)
    assert made.topics[0].error_code == 17


def test_metadata_of_none_and_all(client: SocketClient, topic: str) -> None:
    assert metadata(client, []).topics == []
    assert topic in {entry.name for entry in metadata(client, None).topics}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"replication_factor": 2}, 38),
        ({"replication_factor": 0}, 38),
        ({"num_partitions": 0}, 37),
        ({"num_partitions": -2}, 37),
        ({"num_partitions": -1}, 0),
        ({"configs": [{"name": "no.such.setting", "value": "1"}]}, 40),
        ({"configs": [{"name": "retention.ms", "value": "soon"}]}, 40),
        ({"configs": [{"name": "retention.ms", "value": "-1"}]}, 0),
    ],
)
def test_create_topics_codes(client: SocketClient, changes: dict[str, Any], code: int) -> None:
    topic = new_topic(uuid.uuid4().hex, **changes)
    made = client.ask(CREATE_TOPICS, 7, topics=[topic], timeout_ms=5000)
    assert made.topics[0].error_code == code


def test_names_that_exist_or_collide(client: SocketClient, topic: str) -> None:
    def create(*names: str) -> list[int]:
        topics = [new_topic(name) for name in names]
        answer = client.ask(CREATE_TOPICS, 7, topics=topics, timeout_ms=5000)
        return [int(made.error_code) for made in answer.topics]

    assert create(topic) == [36]
    assert create(f"{topic}.x") == [0]
    assert create(f"{topic}_x") == [17]
    assert create(f"{topic}y", f"{topic}y") == [42, 42]
    light = uuid.uuid4().hex
    metadata(client, [light], create=True)
    assert create(light) == [36]


def test_what_is_only_validated_is_not_made(client: SocketClient) -> None:
    name = uuid.uuid4().hex
    made = client.ask(
        CREATE_TOPICS, 7, topics=[new_topic(name)], timeout_ms=5000, validate_only=True
    )
    assert made.topics[0].error_code == 0
    assert metadata(client, [name]).topics[0].error_code == 3


def test_delete_and_grow_codes(client: SocketClient, topic: str) -> None:
    def grow(name: str, count: int) -> int:
        asked = [{"name": name, "count": count, "assignments": None}]
        answer = client.ask(CREATE_PARTITIONS, 3, topics=asked, timeout_ms=5000)
        return int(answer.results[0].error_code)

    assert grow(topic, 1) == 37
    assert grow("no.such.topic", 2) == 3
    assert grow(topic, 3) == 0
    assert len(metadata(client, [topic]).topics[0].partitions) == 3
    answer = client.ask(DELETE_TOPICS, 5, topic_names=[topic, "no.such.topic"], timeout_ms=5000)
    assert [entry.error_code for entry in answer.responses] == [0, 3]
    assert metadata(client, [topic]).topics[0].error_code == 3


def test_a_topic_of_mqtt_is_shown_while_its_owner_is_restarted(broker: BrokerProcess) -> None:
    """A consumer that leads its group while a topic is not shown assigns nothing of it, and some
    clients never notice that it is there again."""
    name = f"away-{uuid.uuid4().hex[:8]}"
    with SocketClient(broker.worker_ports[0]) as client:
        asked: dict[str, Any] = {"topics": [{"name": name}], "allow_auto_topic_creation": True}
        until(lambda: client.ask(3, 9, **asked).topics[0].error_code == 0, what="the topic")
        owner = client.ask(3, 9, **asked).topics[0].partitions[0].leader_id
    with SocketClient(broker.worker_ports[1 - owner]) as client:
        asked["allow_auto_topic_creation"] = False
        assert client.ask(3, 9, **asked).topics[0].error_code == 0
        before = broker.worker_pids()
        broker.kill_worker(owner)
        while len(broker.worker_pids()) < broker.workers or broker.worker_pids() == before:
            (topic,) = client.ask(3, 9, **asked).topics
            assert (topic.error_code, len(topic.partitions)) == (0, 1)
            everything = client.ask(3, 9, topics=None, allow_auto_topic_creation=False)
            assert name in [topic.name for topic in everything.topics]
