"""Transactions at their partitions, by raw frames to a real broker of two workers: what a producer,
a marker and a reader of committed transactions are told."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest

from robustmq.core import batches
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient, batch

PRODUCE, FETCH, LIST_OFFSETS, METADATA, COORDINATOR = 0, 1, 2, 3, 10
INIT, ADD, END, MARKERS, PRODUCERS = 22, 24, 26, 27, 61
PLAIN = batch(b"plain")


class Source:
    """A transactional id, and its requests."""

    def __init__(self, client: SocketClient, topic: str) -> None:
        self.client, self.topic = client, topic
        self.name = uuid.uuid4().hex
        self.id, self.epoch = -1, -1
        until(self._begin, 10)

    def _begin(self) -> bool:
        answer = self.client.ask(
            INIT,
            5,
            transactional_id=self.name,
            transaction_timeout_ms=60_000,
            producer_id=-1,
            producer_epoch=-1,
        )
        self.id, self.epoch = answer.producer_id, answer.producer_epoch
        return int(answer.error_code) == 0

    def add(self) -> None:
        answer = self.client.ask(
            ADD,
            3,
            v3_and_below_transactional_id=self.name,
            v3_and_below_producer_id=self.id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=[{"name": self.topic, "partitions": [0]}],
        )
        (topic,) = answer.results_by_topic_v3_and_below
        assert topic.results_by_partition[0].partition_error_code == 0

    def batch(self, sequence: int, epoch: int | None = None, transactional: bool = True) -> bytes:
        return batches.build(
            [Record(None, b"v")],
            1,
            0,
            batches.TRANSACTIONAL if transactional else 0,
            self.id,
            self.epoch if epoch is None else epoch,
            sequence,
        )

    def produce(self, records: bytes, version: int = 12, transactional_id: str | None = "") -> Any:
        answer = self.client.ask(
            PRODUCE,
            version,
            transactional_id=self.name if transactional_id == "" else transactional_id,
            acks=-1,
            timeout_ms=5000,
            topic_data=[{"name": self.topic, "partition_data": [{"index": 0, "records": records}]}],
        )
        return answer.responses[0].partition_responses[0]

    def write(self, sequence: int = 0) -> int:
        """A record of the transaction; its offset."""
        part = self.produce(self.batch(sequence))
        assert part.error_code == 0
        offset: int = part.base_offset
        return offset

    def end(self, commit: bool) -> None:
        """End the transaction; the partition has heard of it."""
        self.decide(commit)
        until(lambda: self.id not in opened(self.client, self.topic), 10)

    def decide(self, commit: bool) -> None:
        """End the transaction: that is in the coordinator's log."""
        answer = self.client.ask(
            END,
            5,
            transactional_id=self.name,
            producer_id=self.id,
            producer_epoch=self.epoch,
            committed=commit,
        )
        assert answer.error_code == 0
        self.id, self.epoch = answer.producer_id, answer.producer_epoch

    def mark(self, epoch: int, coordinator_epoch: int, version: int, partition: int = 0) -> int:
        marker = {
            "producer_id": self.id,
            "producer_epoch": epoch,
            "transaction_result": True,
            "topics": [{"name": self.topic, "partition_indexes": [partition]}],
            "coordinator_epoch": coordinator_epoch,
            "transaction_version": version,
        }
        answer = self.client.ask(MARKERS, 2, markers=[marker])
        code: int = answer.markers[0].topics[0].partitions[0].error_code
        return code


@pytest.fixture
def source(client: SocketClient, topic: str) -> Source:
    return Source(client, topic)


def opened(client: SocketClient, topic: str) -> dict[int, int]:
    """First offsets of the open transactions, by producer id."""
    answer = client.ask(PRODUCERS, 0, topics=[{"name": topic, "partition_indexes": [0]}])
    (part,) = answer.topics[0].partitions
    assert part.error_code == 0
    return {
        one.producer_id: one.current_txn_start_offset
        for one in part.active_producers
        if one.current_txn_start_offset >= 0
    }


def fetch(client: SocketClient, topic: str, offset: int, isolation: int, wait_ms: int = 0) -> Any:
    place = {
        "partition": 0,
        "fetch_offset": offset,
        "partition_max_bytes": 1 << 20,
        "current_leader_epoch": -1,
    }
    answer = client.ask(
        FETCH,
        11,
        max_wait_ms=wait_ms,
        min_bytes=1,
        max_bytes=1 << 20,
        isolation_level=isolation,
        session_epoch=-1,
        topics=[{"topic": topic, "partitions": [place]}],
    )
    (part,) = answer.responses[0].partitions
    assert part.error_code == 0
    return part


def data(part: Any) -> bytes:
    return b"".join(part.records or ())


@pytest.mark.parametrize(("version", "code"), [(8, 48), (11, 120)], ids=["produce8", "produce11"])
def test_a_partition_that_was_not_added_is_refused(source: Source, version: int, code: int) -> None:
    assert source.produce(source.batch(0), version).error_code == code
    source.add()
    assert source.produce(source.batch(0), version).error_code == 0


def test_from_version_12_on_the_first_batch_adds_its_partition(source: Source) -> None:
    assert source.produce(source.batch(5)).error_code == 45
    offset = source.write()
    assert opened(source.client, source.topic) == {source.id: offset}
    assert source.produce(source.batch(0)).base_offset == offset


def test_what_does_not_fit_the_open_transaction_is_refused(source: Source) -> None:
    source.write()
    assert source.produce(source.batch(1, transactional=False)).error_code == 48
    assert source.produce(source.batch(7)).error_code == 45
    assert source.produce(source.batch(1), transactional_id=None).error_code == 53
    assert source.produce(source.batch(1), transactional_id="another").error_code == 0
    old, fresh = source.epoch, source.batch(2)
    source.end(True)
    assert source.produce(fresh).error_code == 47
    assert source.epoch == old + 1


def test_markers_are_judged_by_their_epochs(source: Source) -> None:
    source.write()
    epoch = source.epoch
    assert source.mark(epoch, 7, 2) == 47
    assert source.mark(epoch + 1, 7, 2) == 0
    assert source.mark(epoch + 1, 7, 2) == 0
    assert source.mark(epoch, 7, 0) == 47
    assert source.mark(epoch + 1, 6, 0) == 52
    assert source.mark(epoch + 1, 7, 0, partition=5) == 3
    assert opened(source.client, source.topic) == {}


def test_a_reader_of_committed_transactions_stops_at_the_first_open_one(source: Source) -> None:
    client, topic = source.client, source.topic
    first = source.write()
    source.end(False)
    second = source.write()
    client_ends = [
        client.ask(
            LIST_OFFSETS,
            5,
            replica_id=-1,
            isolation_level=isolation,
            topics=[{"name": topic, "partitions": [{"partition_index": 0, "timestamp": -1}]}],
        )
        .topics[0]
        .partitions[0]
        .offset
        for isolation in (0, 1)
    ]
    assert client_ends == [second + 1, second]
    part = fetch(client, topic, 0, 1)
    assert (part.last_stable_offset, part.high_watermark) == (second, second + 1)
    listed = [(one.producer_id, one.first_offset) for one in part.aborted_transactions]
    assert listed == [(source.id, first)]
    assert fetch(client, topic, 0, 0).aborted_transactions is None
    assert not data(fetch(client, topic, second, 1))
    assert data(fetch(client, topic, second, 0))
    assert fetch(client, topic, first + 2, 1).aborted_transactions == []


def test_a_waiting_reader_is_woken_by_the_end_of_the_transaction_alone(
    source: Source, broker: BrokerProcess
) -> None:
    topic, offset = source.topic, source.write()
    found: list[Any] = []
    times: list[float] = []

    def read() -> None:
        with SocketClient(broker.worker_ports[0]) as other:
            found.append(fetch(other, topic, offset, 1, 8_000))
            times.append(time.monotonic())

    before = broker.metric("robustmq_kafka_requests_total")
    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: broker.metric("robustmq_kafka_requests_total") > before, 10)
    for _ in range(5):
        assert source.produce(PLAIN, transactional_id=None).error_code == 0
    assert not found
    source.end(True)
    reader.join(10)
    assert data(found[0])
    assert found[0].last_stable_offset == offset + 7
