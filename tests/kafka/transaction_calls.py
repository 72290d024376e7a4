"""The transaction APIs in every version, for tests.kafka.test_every_version."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from robustmq.core import batches
from robustmq.records import Record


def begin(world: Any) -> tuple[int, int]:
    """A producer with the transactional id `unique`."""
    deadline = time.monotonic() + 10
    while True:
        answer = world.ask(
            "InitProducerId",
            4,
            transactional_id=world.unique,
            transaction_timeout=60_000,
            producer_id=-1,
            producer_epoch=-1,
        )
        if answer.error_code != 51 or time.monotonic() > deadline:
            assert answer.error_code == 0
            return answer.producer_id, answer.producer_epoch


def add(world: Any, version: int = 3) -> tuple[int, int]:
    """A transaction with one partition."""
    pid, epoch = begin(world)
    one = {
        "transactional_id": world.unique,
        "producer_id": pid,
        "producer_epoch": epoch,
        "topics": [{"name": world.topic()["name"], "partitions": [1]}],
    }
    old = {f"v3_and_below_{name}": value for name, value in one.items()}
    answer = world.ask("AddPartitionsToTxn", version, transactions=[one], **old)
    if version >= 4:
        assert answer.error_code == 0
        (topic,) = answer.results_by_transaction[0].topic_results
    else:
        (topic,) = answer.results_by_topic_v3_and_below
    (part,) = topic.results_by_partition
    assert (part.partition_index, part.partition_error_code) == (1, 0)
    return pid, epoch


def add_offsets(world: Any, version: int) -> tuple[int, int]:
    pid, epoch = begin(world)
    answer = world.ask(
        "AddOffsetsToTxn",
        version,
        transactional_id=world.unique,
        producer_id=pid,
        producer_epoch=epoch,
        group_id=world.unique,
    )
    assert answer.error_code == 0
    return pid, epoch


def end(world: Any, version: int) -> None:
    for committed in (True, False):
        pid, epoch = add(world)
        answer = world.ask(
            "EndTxn",
            version,
            transactional_id=world.unique,
            producer_id=pid,
            producer_epoch=epoch,
            committed=committed,
        )
        assert answer.error_code == 0
        if version >= 5:
            assert (answer.producer_id, answer.producer_epoch) == (pid, epoch + 1)


def commit_offsets(world: Any, version: int) -> None:
    pid, epoch = add_offsets(world, 3)
    answer = world.ask(
        "TxnOffsetCommit",
        version,
        transactional_id=world.unique,
        group_id=world.unique,
        producer_id=pid,
        producer_epoch=epoch,
        generation_id=-1,
        member_id="",
        topics=[
            world.topic(
                partitions=[
                    {"partition_index": 1, "committed_offset": 7, "committed_metadata": "note"}
                ]
            )
        ],
    )
    assert answer.topics[0].partitions[0].error_code == 0


def describe(world: Any, version: int) -> None:
    pid, epoch = add(world)
    answer = world.ask("DescribeTransactions", version, transactional_ids=[world.unique])
    (found,) = answer.transaction_states
    assert (found.error_code, found.transaction_state) == (0, "Ongoing")
    assert (found.producer_id, found.producer_epoch) == (pid, epoch)
    assert [list(topic.partitions) for topic in found.topics] == [[1]]


def list_all(world: Any, version: int) -> None:
    pid, _ = add(world)
    found = []
    for port in world.broker.worker_ports:
        with type(world.client)(port) as client:
            answer = client.ask("ListTransactions", version, {"state_filters": ["Ongoing"]})
        assert answer.error_code == 0
        found += [(one.transactional_id, one.producer_id) for one in answer.transaction_states]
    assert found.count((world.unique, pid)) == 1


def open_on_partition(world: Any) -> tuple[int, int, int]:
    """A transaction with one record in partition 1: whose it is, and its offset."""
    pid, epoch = add(world)
    records = batches.build([Record(None, b"v")], 1, 0, batches.TRANSACTIONAL, pid, epoch, 0)
    answer = world.ask(
        "Produce",
        8,
        transactional_id=world.unique,
        acks=-1,
        timeout=5000,
        topic_data=[world.topic(partition_data=[{"index": 1, "records": records}])],
    )
    (part,) = answer.responses[0].partition_responses
    assert part.error_code == 0
    return pid, epoch, part.base_offset


def producers(world: Any, version: int = 0) -> dict[int, Any]:
    topics = [world.topic(partition_indexes=[1])]
    answer = world.ask("DescribeProducers", version, topics=topics)
    (part,) = answer.topics[0].partitions
    assert part.error_code == 0
    return {one.producer_id: one for one in part.active_producers}


def describe_producers(world: Any, version: int) -> None:
    pid, epoch, offset = open_on_partition(world)
    found = producers(world, version)[pid]
    assert (found.producer_epoch, found.last_sequence) == (epoch, 0)
    assert (found.current_txn_start_offset, found.coordinator_epoch) == (offset, -1)


def write_markers(world: Any, version: int) -> None:
    pid, epoch, _ = open_on_partition(world)
    for committed in (True, False):
        marker = {
            "producer_id": pid,
            "producer_epoch": epoch + committed,
            "transaction_result": committed,
            "topics": [world.topic(partition_indexes=[1, 99])],
            "coordinator_epoch": 0,
            "transaction_version": 2,
        }
        answer = world.ask("WriteTxnMarkers", version, markers=[marker])
        (found,) = answer.markers
        assert found.producer_id == pid
        codes = [part.error_code for part in found.topics[0].partitions]
        # The second is of an epoch that the first has ended.
        assert codes == [0 if committed else 47, 3]
    assert producers(world)[pid].current_txn_start_offset == -1
    abort_as_an_operator(world, version)


def abort_as_an_operator(world: Any, version: int) -> None:
    """End a transaction with what DescribeProducers tells of it, as Kafka's tool does."""
    pid, epoch, offset = open_on_partition(world)
    found = producers(world)[pid]
    assert (found.producer_epoch, found.current_txn_start_offset) == (epoch, offset)
    marker = {
        "producer_id": pid,
        "producer_epoch": found.producer_epoch,
        "transaction_result": False,
        "topics": [world.topic(partition_indexes=[1])],
        "coordinator_epoch": found.coordinator_epoch,
    }
    answer = world.ask("WriteTxnMarkers", version, markers=[marker])
    assert answer.markers[0].topics[0].partitions[0].error_code == 0
    assert producers(world)[pid].current_txn_start_offset == -1


TRANSACTION_CALLS: dict[str, Callable[[Any, int], Any]] = {
    "AddPartitionsToTxn": add,
    "AddOffsetsToTxn": add_offsets,
    "EndTxn": end,
    "TxnOffsetCommit": commit_offsets,
    "DescribeTransactions": describe,
    "ListTransactions": list_all,
    "DescribeProducers": describe_producers,
    "WriteTxnMarkers": write_markers,
}
