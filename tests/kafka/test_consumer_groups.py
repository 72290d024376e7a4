"""What ConsumerGroupHeartbeat, ConsumerGroupDescribe and the classic requests of a consumer group
answer (KIP-848); the codes are those that Apache Kafka 4.3 gives.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from robustmq.kafka.access import Operation, Resource
from tests.kafka.fake_gateway import FakeGateway
from tests.kafka.wire import Client

HEARTBEAT, DESCRIBE = 68, 69
SHARE_HEARTBEAT = 76
JOIN, CLASSIC_HEARTBEAT, LEAVE, SYNC, DESCRIBE_CLASSIC, LIST, DELETE = 11, 12, 13, 14, 15, 16, 42
COMMIT, FETCH_OFFSETS, DELETE_OFFSETS = 8, 9, 47
JOINING: dict[str, Any] = {
    "group_id": "g",
    "member_id": "m",
    "member_epoch": 0,
    "rebalance_timeout_ms": 60_000,
    "subscribed_topic_names": ["t"],
    "topic_partitions": [],
}


@pytest.fixture
def gateway() -> FakeGateway:
    gateway = FakeGateway()
    gateway.add(b"t", 4, True, {})
    return gateway


@pytest.fixture
def client(gateway: FakeGateway) -> Client:
    return Client(gateway)


def beat(client: Client, version: int = 1, **changes: Any) -> Any:
    return client.ask(HEARTBEAT, version, **{**JOINING, **changes})


def live(client: Client, member_id: str, epoch: int, **changes: Any) -> Any:
    asked = {"group_id": "g", "member_id": member_id, "member_epoch": epoch, **changes}
    return client.ask(HEARTBEAT, 1, **asked)


def given(answer: Any) -> list[int] | None:
    """The partitions of the one topic."""
    if answer.assignment is None:
        return None
    return sorted(
        number for topic in answer.assignment.topic_partitions for number in topic.partitions
    )


def owned(gateway: FakeGateway, *partitions: int) -> list[dict[str, Any]]:
    return [{"topic_id": gateway.topics[b"t"].topic_id, "partitions": list(partitions)}]


REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "empty-group": (42, {"group_id": ""}),
    "empty-member": (42, {"member_id": ""}),
    "empty-instance": (42, {"instance_id": ""}),
    "empty-rack": (42, {"rack_id": ""}),
    "no-rebalance-timeout": (42, {"rebalance_timeout_ms": -1}),
    "no-owned": (42, {"topic_partitions": None}),
    "no-subscription": (42, {"subscribed_topic_names": None}),
    "epoch": (42, {"member_epoch": -3}),
    "dynamic-leaves-for-a-while": (42, {"member_epoch": -2}),
    "assignor": (112, {"server_assignor": "nope"}),
    "expression": (128, {"subscribed_topic_regex": "(a"}),
    "unknown-group": (69, {"member_epoch": 5}),
    "leaves-unknown-group": (69, {"member_epoch": -1}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_join_is_refused(client: Client, gateway: FakeGateway, name: str) -> None:
    code, changes = REFUSALS[name]
    answer = beat(client, **changes)
    assert answer.error_code == code
    assert answer.error_message
    assert not any(not group.disposable for group in gateway.groups.values())


LIVE: dict[str, tuple[int, dict[str, Any]]] = {
    "unknown-member": (25, {"member_id": "x"}),
    "greater-epoch": (110, {"member_epoch": 9}),
    "smaller-epoch": (110, {"member_epoch": 1}),
    "unknown-instance": (25, {"instance_id": "other"}),
    "instance-of-another": (82, {"member_id": "x", "instance_id": "i"}),
    "instance-in-use": (111, {"member_id": "x", "instance_id": "i", "member_epoch": 0}),
    "leaves-unknown": (25, {"member_id": "x", "member_epoch": -1}),
    "leaves-as-another": (82, {"member_id": "x", "instance_id": "i", "member_epoch": -2}),
}


@pytest.mark.parametrize("name", LIVE)
def test_a_heartbeat_is_refused(client: Client, name: str) -> None:
    beat(client, instance_id="i")
    epoch = beat(client, member_id="n").member_epoch
    live(client, "m", epoch - 1, topic_partitions=[])
    code, changes = LIVE[name]
    joins = JOINING if changes.get("member_epoch") == 0 else {}
    asked = {"group_id": "g", "member_id": "m", "member_epoch": epoch, **joins, **changes}
    assert client.ask(HEARTBEAT, 1, **asked).error_code == code
    assert live(client, "m", epoch).error_code == 0


def test_who_may_not_is_refused(client: Client, gateway: FakeGateway) -> None:
    beat(client)
    gateway.denied.add((Operation.DESCRIBE, Resource.TOPIC, "t"))
    assert beat(client, member_id="n").error_code == 29
    assert client.ask(DESCRIBE, 1, group_ids=["g"]).groups[0].error_code == 29
    # A regular expression matches what its sender may see.
    answer = beat(
        client, member_id="n", subscribed_topic_names=None, subscribed_topic_regex="t|other"
    )
    assert (answer.error_code, given(answer)) == (0, [])
    gateway.denied.add((Operation.READ, Resource.GROUP, "g"))
    gateway.denied.add((Operation.DESCRIBE, Resource.GROUP, "g"))
    assert beat(client).error_code == 30
    assert client.ask(DESCRIBE, 1, group_ids=["g"]).groups[0].error_code == 30


def test_the_broker_names_a_member_of_version_0(client: Client) -> None:
    answer = beat(client, 0, member_id="")
    assert answer.error_code == 0
    assert answer.member_id


def test_partitions_are_given_up_before_another_has_them(
    client: Client, gateway: FakeGateway
) -> None:
    assert given(beat(client)) == [0, 1, 2, 3]
    second = beat(client, member_id="n")
    assert (second.member_epoch, given(second)) == (3, [])
    first = live(client, "m", 2)
    assert (first.member_epoch, given(first)) == (2, [0, 1])
    assert given(live(client, "n", 3)) is None
    # Still owned: not given up.
    assert live(client, "m", 2, topic_partitions=owned(gateway, 0, 1, 2)).member_epoch == 2
    assert live(client, "m", 2, topic_partitions=owned(gateway, 0, 1)).member_epoch == 3
    assert given(live(client, "n", 3)) == [2, 3]
    # The answer was lost: the previous epoch is taken with no more than what was given.
    assert live(client, "m", 2, topic_partitions=owned(gateway, 0)).error_code == 0
    assert live(client, "m", 2, topic_partitions=owned(gateway, 3)).error_code == 110
    (group,) = client.ask(DESCRIBE, 1, group_ids=["g"]).groups
    assert (group.group_state, group.group_epoch, group.assignor_name) == ("Stable", 3, "uniform")
    assert [member.member_type for member in group.members] == [1, 1]


def test_a_static_member_comes_back_to_what_it_had(client: Client) -> None:
    first = beat(client, instance_id="i")
    assert live(client, "m", -2, instance_id="i").member_epoch == -2
    again = beat(client, member_id="n", instance_id="i")
    assert (again.member_epoch, given(again)) == (first.member_epoch, [0, 1, 2, 3])
    assert live(client, "m", 2, instance_id="i").error_code == 82


def commit(client: Client, member_id: str, epoch: int, partition: int, version: int = 9) -> int:
    parts = [{"partition_index": partition, "committed_offset": 3, "committed_metadata": ""}]
    answer = client.ask(
        COMMIT,
        version,
        group_id="g",
        generation_id_or_member_epoch=epoch,
        member_id=member_id,
        topics=[{"name": "t", "partitions": parts}],
    )
    return int(answer.topics[0].partitions[0].error_code)


def test_commits_name_a_member_and_its_epoch(client: Client, gateway: FakeGateway) -> None:
    assert commit(client, "m", 1, 0) == 69
    assert commit(client, "m", 1, 0, 8) == 22
    beat(client)
    assert commit(client, "m", 2, 0) == 0
    assert commit(client, "m", 2, 0, 8) == 35
    assert commit(client, "m", 1, 0) == commit(client, "m", 3, 0) == commit(client, "m", -1, 0)
    assert commit(client, "m", 3, 0) == 113
    assert commit(client, "x", 2, 0) == commit(client, "", -1, 0) == 25
    beat(client, member_id="n")
    live(client, "m", 2)
    live(client, "m", 2, topic_partitions=owned(gateway, 0, 1))
    # With its earlier epoch it commits what it has had since then (KIP-1251).
    assert commit(client, "m", 2, 0) == 0
    assert commit(client, "m", 2, 3) == 113
    live(client, "m", -1)
    live(client, "n", -1)
    assert commit(client, "", -1, 0) == 0
    assert commit(client, "m", 3, 0) == 25


@pytest.mark.parametrize(
    ("member_id", "epoch", "code"),
    [(None, -1, 0), ("m", 2, 0), ("m", 1, 113), ("x", 2, 25), ("", -1, 25)],
    ids=["nobody", "member", "stale", "unknown", "empty"],
)
def test_offsets_are_told_to_members_of_now(
    client: Client, member_id: str | None, epoch: int, code: int
) -> None:
    beat(client)
    commit(client, "m", 2, 0)
    asked = {"group_id": "g", "member_id": member_id, "member_epoch": epoch}
    topics = [{"name": "t", "partition_indexes": [0]}]
    answer = client.ask(FETCH_OFFSETS, 9, groups=[{**asked, "topics": topics}])
    (group,) = answer.groups
    assert group.error_code == code
    offsets = [part.committed_offset for topic in group.topics for part in topic.partitions]
    assert offsets == ([3] if not code else [])


def test_other_requests_see_what_kind_of_group_it_is(client: Client) -> None:
    beat(client)
    (shown,) = client.ask(DESCRIBE_CLASSIC, 6, groups=["g"]).groups
    assert (shown.error_code, shown.group_state) == (69, "Dead")
    (shown,) = client.ask(DESCRIBE_CLASSIC, 5, groups=["g"]).groups
    assert (shown.error_code, shown.group_state) == (0, "Dead")
    (listed,) = client.ask(LIST, 5, types_filter=["Consumer"]).groups
    assert (listed.protocol_type, listed.group_state, listed.group_type) == (
        "consumer",
        "Stable",
        "consumer",
    )
    assert client.ask(LIST, 5, types_filter=["classic"]).groups == []
    assert client.ask(DELETE, 2, groups_names=["g"]).results[0].error_code == 68
    topics = [{"name": "t", "partitions": [{"partition_index": 0}]}]
    answer = client.ask(DELETE_OFFSETS, 0, group_id="g", topics=topics)
    assert answer.topics[0].partitions[0].error_code == 86
    live(client, "m", -1)
    assert client.ask(DELETE, 2, groups_names=["g"]).results[0].error_code == 0
    assert client.ask(DESCRIBE, 1, group_ids=["g"]).groups[0].error_code == 69


def subscription(*owned_partitions: int) -> bytes:
    data = struct.pack(">hi", 1, 1) + b"\0\1t" + struct.pack(">ii", -1, bool(owned_partitions))
    if owned_partitions:
        data += b"\0\1t" + struct.pack(
            f">i{len(owned_partitions)}i", len(owned_partitions), *owned_partitions
        )
    return data


def join_classic(
    client: Client, member_id: str = "", *owned_partitions: int, **changes: Any
) -> Any:
    values = {
        "group_id": "g",
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "member_id": member_id,
        "protocol_type": "consumer",
        "protocols": [{"name": "sticky", "metadata": subscription(*owned_partitions)}],
        **changes,
    }
    return client.ask(JOIN, 3 if not member_id else 5, **values)


def sync_classic(client: Client, member: Any, **changes: Any) -> Any:
    values = {
        "group_id": "g",
        "generation_id": member.generation_id,
        "member_id": member.member_id,
        "protocol_type": "consumer",
        "protocol_name": "sticky",
        "assignments": [],
        **changes,
    }
    return client.ask(SYNC, 5, **values)


def test_classic_members_are_served_by_a_consumer_group(client: Client) -> None:
    classic = join_classic(client)
    everything = struct.pack(">hi", 1, 1) + b"\0\1t" + struct.pack(">iiiiii", 4, 0, 1, 2, 3, -1)
    mine = [{"member_id": classic.member_id, "assignment": everything}]
    assert sync_classic(client, classic, assignments=mine).error_code == 0
    # A member of the new protocol converts the group; the classic one is asked to join again.
    assert beat(client).error_code == 0
    who = {"group_id": "g", "generation_id": 1, "member_id": classic.member_id}
    assert client.ask(CLASSIC_HEARTBEAT, 4, **who).error_code == 27
    assert client.ask(CLASSIC_HEARTBEAT, 4, **{**who, "generation_id": 8}).error_code == 22
    assert client.ask(CLASSIC_HEARTBEAT, 4, **{**who, "member_id": "x"}).error_code == 25
    assert sync_classic(client, classic).error_code == 27
    holding = join_classic(client, classic.member_id, 0, 1, 2, 3)
    assert (holding.error_code, holding.generation_id) == (0, 1)
    synced = sync_classic(client, holding)
    assert synced.assignment.endswith(struct.pack(">iiii", 2, 0, 1, -1))
    assert given(live(client, "m", 2)) is None
    released = join_classic(client, classic.member_id, 0, 1)
    assert (released.generation_id, released.protocol_name) == (2, "sticky")
    assert sync_classic(client, released, generation_id=9).error_code == 22
    assert sync_classic(client, released, protocol_name="range").error_code == 23
    assert sync_classic(client, released).error_code == 0
    assert given(live(client, "m", 2)) == [2, 3]
    others = [{"name": "range", "metadata": subscription()}]
    assert join_classic(client, protocols=others).error_code == 23
    assert join_classic(client, protocol_type="connect").error_code == 23
    assert join_classic(client, session_timeout_ms=1).error_code == 26
    # The last of the new protocol leaves: a classic group again, which rebalances.
    live(client, "m", -1)
    (shown,) = client.ask(DESCRIBE_CLASSIC, 6, groups=["g"]).groups
    assert (shown.error_code, shown.group_state) == (0, "PreparingRebalance")


def test_a_group_that_is_no_consumers_is_not_converted(client: Client) -> None:
    join_classic(client, protocol_type="connect")
    assert beat(client).error_code == 69
    assert live(client, "m", 5).error_code == 69


def test_a_name_is_found_when_the_topic_is_made(client: Client, gateway: FakeGateway) -> None:
    names = ["t", "later"]
    assert given(beat(client, subscribed_topic_names=names)) == [0, 1, 2, 3]
    gateway.add(b"later", 1, False, {})
    assert given(live(client, "m", 2)) is None
    assert given(live(client, "m", 2)) == [0, 0, 1, 2, 3]


def test_a_group_has_an_interval_of_its_own(client: Client, gateway: FakeGateway) -> None:
    assert beat(client).heartbeat_interval_ms == 5_000
    gateway.resources[32, "g"] = {"consumer.heartbeat.interval.ms": "7000"}
    assert live(client, "m", 2).heartbeat_interval_ms == 7_000


def test_the_id_of_a_share_group_is_not_for_consumers(client: Client, gateway: FakeGateway) -> None:
    shared = {"group_id": "g", "member_id": "s", "member_epoch": 0}
    assert client.ask(SHARE_HEARTBEAT, 1, **shared, subscribed_topic_names=["t"]).error_code == 0
    assert beat(client).error_code == 69
    assert join_classic(client).error_code == 23


def test_the_id_of_a_consumer_group_is_not_for_share_groups(client: Client) -> None:
    beat(client)
    shared = {"group_id": "g", "member_id": "s", "member_epoch": 0}
    assert client.ask(SHARE_HEARTBEAT, 1, **shared, subscribed_topic_names=["t"]).error_code == 69


@pytest.mark.parametrize("missing", ["protocol_type", "protocol_name"])
def test_a_sync_of_version_5_names_its_protocol(client: Client, missing: str) -> None:
    classic = join_classic(client)
    assert sync_classic(client, classic, **{missing: None}).error_code == 23
    assert sync_classic(client, classic).error_code == 0
