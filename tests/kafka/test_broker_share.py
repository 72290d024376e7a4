"""Share groups of a real broker with two workers, by raw requests to each of them: what one does
not hold it asks of the other.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import BrokerProcess, until
from tests.kafka.sharing import (
    ACCEPT,
    GROUP_RESOURCE,
    REJECT,
    RELEASE,
    RENEW,
    TOPIC_RESOURCE,
    Member,
    configure,
    join,
    make_topic,
    offsets_of,
    produce,
)
from tests.kafka.wire import SocketClient

LOCK = {"share_record_lock_duration_ms": "1000", "share_auto_offset_reset": "earliest"}


@pytest.fixture
def group(client: SocketClient) -> str:
    """A group that begins with what is there, and whose locks are short."""
    name = uuid.uuid4().hex
    assert configure(client, GROUP_RESOURCE, name, **LOCK) == 0
    return name


@pytest.fixture
def other(client: SocketClient, broker: BrokerProcess) -> Iterator[SocketClient]:
    """A further connection, to any worker."""
    with SocketClient(broker.kafka) as connected:
        yield connected


def test_members_share_a_partition_record_by_record(
    client: SocketClient, other: SocketClient, group: str
) -> None:
    topic, topic_id = make_topic(client)
    produce(client, topic, *[b"%d" % number for number in range(10)])
    one, two = Member(client, group, topic_id), Member(other, group, topic_id)
    assert one.take(most=4) == [(0, 3, 1)]
    assert two.take(most=4) == [(4, 7, 1)]
    assert one.take(acknowledge=[(0, 3, [ACCEPT, RELEASE, REJECT, ACCEPT])], most=4) == [
        (1, 1, 2),
        (8, 9, 1),
    ]
    assert two.acknowledge(4, 7, ACCEPT) == 0
    assert one.acknowledge(1, 1, ACCEPT) == 0
    assert one.acknowledge(8, 9, ACCEPT) == 0
    assert two.take() == []


def test_any_number_of_members_work_on_one_partition_at_the_same_time(
    client: SocketClient, broker: BrokerProcess, group: str
) -> None:
    topic, topic_id = make_topic(client)
    with contextlib.ExitStack() as stack:
        members = [
            Member(stack.enter_context(SocketClient(broker.kafka)), group, topic_id)
            for _ in range(32)
        ]
        for member in members:
            member.send_fetch(wait_ms=20_000, most=1)
        produce(client, topic, *[b"work"] * 32)
        held = []
        for member in members:
            (part,) = member.client.read(78, 2).responses[0].partitions
            held += [(run.first_offset, run.last_offset) for run in part.acquired_records]
        assert sorted(held) == [(offset, offset) for offset in range(32)]


def test_a_fetch_waits_for_what_is_written_or_released(
    client: SocketClient, other: SocketClient, group: str
) -> None:
    topic, topic_id = make_topic(client)
    one, two = Member(client, group, topic_id), Member(other, group, topic_id)
    one.send_fetch(wait_ms=8_000)
    produce(other, topic, b"a", b"b")
    (part,) = client.read(78, 2).responses[0].partitions
    assert [(run.first_offset, run.last_offset) for run in part.acquired_records] == [(0, 1)]
    two.send_fetch(wait_ms=8_000)
    assert one.acknowledge(0, 1, ACCEPT, RELEASE) == 0
    (part,) = other.read(78, 2).responses[0].partitions
    assert [(run.first_offset, run.delivery_count) for run in part.acquired_records] == [(1, 2)]


def test_locks_time_out_unless_they_are_renewed(client: SocketClient, group: str) -> None:
    topic, topic_id = make_topic(client)
    produce(client, topic, b"a", b"b")
    one, two = Member(client, group, topic_id), Member(client, group, topic_id)
    assert one.take() == [(0, 1, 1)]
    begin = time.monotonic()
    taken: list[tuple[int, int, int]] = []
    while not taken:
        assert one.acknowledge(0, 0, RENEW) == 0
        taken = two.take(wait_ms=300)
        assert time.monotonic() - begin < 10
    assert taken == [(1, 1, 2)]
    assert time.monotonic() - begin >= 0.9
    assert one.acknowledge(1, 1, ACCEPT) == 121
    assert one.acknowledge(0, 0, ACCEPT) == 0


def test_what_a_lost_connection_held_is_given_to_others_at_once(
    client: SocketClient, broker: BrokerProcess
) -> None:
    group = uuid.uuid4().hex
    configure(client, GROUP_RESOURCE, group, share_auto_offset_reset="earliest")
    topic, topic_id = make_topic(client)
    produce(client, topic, b"a", b"b", b"c")
    with SocketClient(broker.kafka) as lost:
        assert Member(lost, group, topic_id).take() == [(0, 2, 1)]
    assert Member(client, group, topic_id).take(wait_ms=8_000) == [(0, 2, 2)]


def test_a_session_that_is_closed_gives_back_what_it_did_not_acknowledge(
    client: SocketClient, group: str
) -> None:
    topic, topic_id = make_topic(client)
    produce(client, topic, b"a", b"b", b"c")
    one = Member(client, group, topic_id)
    assert one.take() == [(0, 2, 1)]
    assert one.acknowledge(0, 0, ACCEPT, epoch=-1) == 0
    assert one.acknowledge(1, 1, ACCEPT, epoch=1) == 122
    assert Member(client, group, topic_id).take() == [(1, 2, 2)]


def test_a_record_is_delivered_as_often_as_the_group_says(client: SocketClient, group: str) -> None:
    configure(client, GROUP_RESOURCE, group, share_delivery_count_limit="2")
    topic, topic_id = make_topic(client)
    produce(client, topic, b"poison", b"good")
    one = Member(client, group, topic_id)
    assert one.take() == [(0, 1, 1)]
    assert one.take(acknowledge=[(0, 1, [RELEASE, ACCEPT])]) == [(0, 0, 2)]
    assert one.take(acknowledge=[(0, 0, [RELEASE])]) == []
    produce(client, topic, b"next")
    assert one.take(wait_ms=5_000) == [(2, 2, 1)]


def test_dead_letters_go_to_the_topic_of_the_group_with_what_is_known_of_them(
    client: SocketClient, group: str
) -> None:
    dead, dead_id = make_topic(client)
    settings = {
        "robustmq_errors_deadletterqueue_topic_name": dead,
        "robustmq_errors_deadletterqueue_copy_record_enable": "true",
        "share_delivery_count_limit": "2",
    }
    assert configure(client, GROUP_RESOURCE, group, **settings) == 0
    topic, topic_id = make_topic(client)
    produce(client, topic, b"bad", b"good", b"poison")
    one = Member(client, group, topic_id)
    assert one.take() == [(0, 2, 1)]
    one.take(acknowledge=[(0, 2, [REJECT, ACCEPT, RELEASE])])
    assert one.acknowledge(2, 2, RELEASE) == 0
    join(client, group, topic)
    # The topic does not allow it yet: the records wait.
    assert offsets_of(client, group, topic) == (0, 2)
    enable = {"robustmq_errors_deadletterqueue_group_enable": "true"}
    assert configure(client, TOPIC_RESOURCE, dead, **enable) == 0
    until(lambda: offsets_of(client, group, topic) == (3, 0), 15, "the burial")
    reader = uuid.uuid4().hex
    configure(client, GROUP_RESOURCE, reader, **LOCK)
    answer = Member(client, reader, dead_id).fetch(wait_ms=5_000)
    found = b"".join(bytes(one) for one in answer.responses[0].partitions[0].records)
    for text in (b"bad", b"poison", b"__dlq.errors.topic", topic.encode(), b"__dlq.errors.group"):
        assert text in found, text
    assert b"good" not in found


def test_the_start_of_a_group_is_moved_by_duration_and_by_hand(client: SocketClient) -> None:
    topic, topic_id = make_topic(client)
    produce(client, topic, b"a", b"b", b"c")
    for strategy, first in (("latest", 3), ("by_duration:PT1H", 0), ("by_duration:P36500D", 0)):
        group = uuid.uuid4().hex
        assert configure(client, GROUP_RESOURCE, group, share_auto_offset_reset=strategy) == 0
        join(client, group, topic)
        Member(client, group, topic_id).take()
        assert offsets_of(client, group, topic)[0] == first, strategy
    join(client, group, topic, member_epoch=-1, subscribed_topic_names=None)
    wanted = [{"topic_name": topic, "partitions": [{"partition_index": 0, "start_offset": 2}]}]
    assert client.ask(91, 0, group_id=group, topics=wanted).error_code == 0
    assert offsets_of(client, group, topic) == (2, 1)
    assert client.ask(42, 2, groups_names=[group]).results[0].error_code == 0
    assert client.ask(77, 1, group_ids=[group]).groups[0].error_code == 69


def test_a_deleted_topic_leaves_nothing_of_itself_in_the_group(
    client: SocketClient, group: str
) -> None:
    topic, topic_id = make_topic(client)
    joined = join(client, group, topic)
    assert [one.topic_id for one in joined.assignment.topic_partitions] == [topic_id]
    produce(client, topic, b"a")
    assert Member(client, group, topic_id).take() == [(0, 0, 1)]
    assert client.ask(20, 6, topics=[{"name": topic}], timeout_ms=5000).responses[0].error_code == 0

    def assigned() -> Any:
        beat = join(client, group, topic, member_epoch=epoch[0], subscribed_topic_names=None)
        epoch[0] = beat.member_epoch
        return beat.assignment

    epoch = [joined.member_epoch]
    until(lambda: (found := assigned()) is not None and not found.topic_partitions)
    answer = client.ask(90, 1, groups=[{"group_id": group, "topics": None}])
    assert answer.groups[0].topics == []


# The error codes


def acknowledged(answer: Any) -> int:
    """What became of the acknowledgements for partition 0."""
    parts = [part for topic in answer.responses for part in topic.partitions]
    (code,) = [part.acknowledge_error_code for part in parts if part.partition_index == 0]
    return int(code)


def test_heartbeats_that_are_refused(client: SocketClient, group: str) -> None:
    topic, _ = make_topic(client)
    joined = join(client, group, topic)
    beats: list[tuple[dict[str, Any], int]] = [
        ({"member_id": ""}, 42),
        ({"group_id": ""}, 42),
        ({"rack_id": ""}, 42),
        ({"member_epoch": -2}, 42),
        ({"subscribed_topic_names": None}, 42),
        ({"subscribed_topic_names": ["no/name"]}, 0),
        ({"member_id": "x", "member_epoch": 1}, 25),
        ({"member_id": "x", "member_epoch": -1}, 25),
        ({"group_id": uuid.uuid4().hex, "member_epoch": -1}, 69),
        ({"group_id": uuid.uuid4().hex, "member_epoch": 3}, 69),
        ({"member_epoch": joined.member_epoch + 5}, 110),
    ]
    for changes, code in beats:
        assert join(client, group, topic, **changes).error_code == code, changes


def test_a_consumer_group_is_no_share_group(client: SocketClient) -> None:
    group = uuid.uuid4().hex
    member = {
        "group_id": group,
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b"m"}],
    }
    assert client.ask(11, 0, **member).error_code == 0
    topic, _ = make_topic(client)
    assert join(client, group, topic).error_code == 69
    wanted = [{"topic_name": topic, "partitions": [{"partition_index": 0, "start_offset": 0}]}]
    assert client.ask(91, 0, group_id=group, topics=wanted).error_code == 69
    shared = uuid.uuid4().hex
    assert join(client, shared, topic).error_code == 0
    assert client.ask(11, 0, **{**member, "group_id": shared}).error_code == 23
    consumer = {"group_id": shared, "member_id": "m", "member_epoch": 0, "instance_id": None}
    rest = {"rack_id": None, "rebalance_timeout_ms": 10_000, "subscribed_topic_names": [topic]}
    beat = client.ask(68, 1, **consumer, **rest, server_assignor=None, topic_partitions=[])
    assert beat.error_code == 69


def test_sessions_that_are_refused(client: SocketClient, group: str) -> None:
    topic, topic_id = make_topic(client)
    produce(client, topic, b"a")
    one = Member(client, group, topic_id)
    assert one.fetch(epoch=3).error_code == 122
    assert one.fetch(epoch=-1).error_code == 122
    assert one.acknowledge(0, 0, ACCEPT, epoch=0) == 123
    assert one.acknowledge(0, 0, ACCEPT, epoch=1) == 122
    assert one.fetch([(0, 0, [ACCEPT])], epoch=0).error_code == 42
    assert one.take() == [(0, 0, 1)]
    assert one.fetch(epoch=5).error_code == 123
    assert one.acknowledge(0, 0, ACCEPT, epoch=7) == 123
    assert one.fetch(group_id="").error_code == 42
    one.epoch = 1
    assert one.fetch(is_renew_ack=True).error_code == 42


def test_partitions_and_acknowledgements_that_are_refused(client: SocketClient, group: str) -> None:
    topic, topic_id = make_topic(client)
    produce(client, topic, b"a", b"b", b"c")
    one = Member(client, group, topic_id)
    assert one.take(partition=0) == [(0, 2, 1)]
    (part,) = one.fetch(partition=7).responses[0].partitions
    assert part.error_code == 3
    stranger = [{"topic_id": uuid.uuid4(), "partitions": [{"partition_index": 0}]}]
    (part,) = one.fetch(topics=stranger).responses[0].partitions
    assert part.error_code == 100
    acknowledgements = [
        ((0, 2, [9]), 42),
        ((0, 2, [RENEW]), 42),
        ((0, 2, []), 42),
        ((0, 2, [1, 1]), 42),
        ((2, 0, [1]), 42),
        ((0, 9, [1]), 42),
        ((50, 60, [1]), 42),
    ]
    for given, code in acknowledgements:
        assert acknowledged(one.fetch([given])) == code, given
    overlapping = [(0, 1, [1]), (1, 2, [1])]
    assert acknowledged(one.fetch(overlapping)) == 121
    assert one.acknowledge(0, 2, ACCEPT) == 0


def test_settings_of_groups_that_are_refused(client: SocketClient) -> None:
    refused = {
        "share_record_lock_duration_ms": ("999", "soon"),
        "share_delivery_count_limit": ("1", "26"),
        "share_partition_max_record_locks": ("99",),
        "share_auto_offset_reset": ("none", "by_duration:PT", "by_duration:-PT1S", "by_duration:P"),
        "share_isolation_level": ("serializable",),
        "share_session_timeout_ms": ("4000",),
        "robustmq_errors_deadletterqueue_topic_name": ("a/b",),
        "no_such_setting": ("1",),
    }
    for name, values in refused.items():
        for value in values:
            assert configure(client, GROUP_RESOURCE, "g", **{name: value}) == 40, (name, value)
    assert configure(client, GROUP_RESOURCE, "", share_isolation_level="read_committed") == 42


def test_offsets_of_a_group_that_lives_are_not_changed(client: SocketClient, group: str) -> None:
    topic, _ = make_topic(client)
    wanted = [{"topic_name": topic, "partitions": [{"partition_index": 0, "start_offset": 0}]}]
    assert client.ask(92, 0, group_id=group, topics=[{"topic_name": topic}]).error_code == 69
    (described,) = client.ask(90, 1, groups=[{"group_id": group, "topics": None}]).groups
    assert (described.error_code, described.topics) == (0, [])
    join(client, group, topic)
    assert client.ask(91, 0, group_id=group, topics=wanted).error_code == 68
    assert client.ask(92, 0, group_id=group, topics=[{"topic_name": topic}]).error_code == 68
    assert client.ask(42, 2, groups_names=[group]).results[0].error_code == 68
    join(client, group, topic, member_epoch=-1, subscribed_topic_names=None)
    partitions = [
        {"partition_index": 5, "start_offset": 0},
        {"partition_index": 0, "start_offset": -3},
    ]
    answer = client.ask(
        91,
        0,
        group_id=group,
        topics=[
            {"topic_name": topic, "partitions": partitions},
            {"topic_name": "not-there", "partitions": [partitions[0]]},
        ],
    )
    codes = [part.error_code for row in answer.responses for part in row.partitions]
    assert codes == [3, 42, 3]
