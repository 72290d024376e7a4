"""Requests of share groups for test_every_version: by the name of the API, a call that asserts what
is answered. `world` is that test's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.kafka.wire import batch

ACCEPT = 1


def _beat(world: Any, **values: Any) -> Any:
    asked = {"group_id": world.unique, "member_id": "m", "member_epoch": 0, "rack_id": None}
    topics = {"subscribed_topic_names": [world.topic()["name"]]}
    return world.ask("ShareGroupHeartbeat", 1, **{**asked, **topics, **values})


def heartbeat(world: Any, version: int) -> None:
    joined = _beat(world)
    assert (joined.error_code, joined.member_id) == (0, "m")
    (topic,) = joined.assignment.topic_partitions
    assert (topic.topic_id, topic.partitions) == (world.topic_id, (0, 1, 2, 3))
    again = _beat(world, member_epoch=joined.member_epoch, subscribed_topic_names=None)
    assert (again.error_code, again.assignment) == (0, None)
    left = _beat(world, member_epoch=-1, subscribed_topic_names=None)
    assert (left.error_code, left.member_epoch) == (0, -1)


def describe(world: Any, version: int) -> None:
    _beat(world)
    answer = world.ask(
        "ShareGroupDescribe",
        version,
        group_ids=[world.unique, "no such group"],
        include_authorized_operations=True,
    )
    here, other = answer.groups
    assert (here.error_code, here.group_state, here.assignor_name) == (0, "Stable", "simple")
    assert [member.member_id for member in here.members] == ["m"]
    assert here.members[0].assignment.topic_partitions[0].topic_id == world.topic_id
    assert (other.error_code, other.group_state) == (69, "Dead")


def _fetch(world: Any, version: int, epoch: int, **part: Any) -> Any:
    return world.ask(
        "ShareFetch",
        version,
        group_id=world.unique,
        member_id="m",
        share_session_epoch=epoch,
        max_wait=200,
        min_bytes=1,
        max_bytes=100_000,
        max_records=10,
        batch_size=10,
        topics=[world.topic(partitions=[{"partition_index": 0, **part}])],
    )


def fetch(world: Any, version: int) -> None:
    """The first fetch of a group begins at the end; what is written then is given, and
    acknowledged with the next fetch."""
    first = _fetch(world, version, 0)
    while not first.responses[0].partitions[0].acquired_records:
        world.ask(
            "Produce",
            9,
            acks=-1,
            timeout=5000,
            topic_data=[world.topic(partition_data=[{"index": 0, "records": batch(b"a", b"b")}])],
        )
        first = _fetch(world, version, 0)
    assert first.error_code == 0
    (part,) = first.responses[0].partitions
    (run,) = part.acquired_records
    assert (part.error_code, part.acknowledge_error_code, run.delivery_count) == (0, 0, 1)
    assert part.records
    done = {"first_offset": run.first_offset, "last_offset": run.last_offset}
    acknowledged = _fetch(
        world, version, -1, acknowledgement_batches=[{**done, "acknowledge_types": [ACCEPT]}]
    )
    (part,) = acknowledged.responses[0].partitions
    assert (acknowledged.error_code, part.acknowledge_error_code) == (0, 0)


def acknowledge(world: Any, version: int) -> None:
    _fetch(world, version, 0)
    answer = world.ask(
        "ShareAcknowledge",
        version,
        group_id=world.unique,
        member_id="m",
        share_session_epoch=1,
        topics=[
            world.topic(
                partitions=[
                    {
                        "partition_index": 0,
                        "acknowledgement_batches": [
                            {
                                "first_offset": 1 << 40,
                                "last_offset": 1 << 40,
                                "acknowledge_types": [ACCEPT],
                            }
                        ],
                    }
                ]
            )
        ],
    )
    assert answer.error_code == 0
    assert answer.responses[0].partitions[0].error_code == 42


def _alter(world: Any) -> Any:
    return world.ask(
        "AlterShareGroupOffsets",
        0,
        group_id=world.unique,
        topics=[
            {
                "topic_name": world.topic()["name"],
                "partitions": [{"partition_index": 0, "start_offset": 0}],
            }
        ],
    )


def alter_offsets(world: Any, version: int) -> None:
    answer = _alter(world)
    assert answer.error_code == 0
    assert answer.responses[0].partitions[0].error_code == 0


def describe_offsets(world: Any, version: int) -> None:
    alter_offsets(world, 0)
    answer = world.ask(
        "DescribeShareGroupOffsets",
        version,
        groups=[
            {
                "group_id": world.unique,
                "topics": [{"topic_name": world.topic()["name"], "partitions": [0, 1]}],
            }
        ],
    )
    (group,) = answer.groups
    moved, untouched = group.topics[0].partitions
    assert (moved.error_code, moved.start_offset) == (0, 0)
    assert (untouched.error_code, untouched.start_offset) == (0, -1)
    if version >= 1:
        assert (moved.lag >= 0, untouched.lag) == (True, -1)


def delete_offsets(world: Any, version: int) -> None:
    alter_offsets(world, 0)
    answer = world.ask(
        "DeleteShareGroupOffsets",
        version,
        group_id=world.unique,
        topics=[{"topic_name": world.topic()["name"]}, {"topic_name": "not-there"}],
    )
    assert answer.error_code == 0
    assert [topic.error_code for topic in answer.responses] == [0, 3]


SHARE_CALLS: dict[str, Callable[[Any, int], None]] = {
    "ShareGroupHeartbeat": heartbeat,
    "ShareGroupDescribe": describe,
    "ShareFetch": fetch,
    "ShareAcknowledge": acknowledge,
    "DescribeShareGroupOffsets": describe_offsets,
    "AlterShareGroupOffsets": alter_offsets,
    "DeleteShareGroupOffsets": delete_offsets,
}
