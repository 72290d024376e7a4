"""Records of a log that are not at hand: every reader waits for them, holds up nobody else, and
goes on when they are there, or are said to be unreadable.

The log is a real one, but for its first records, which are away until the test brings them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from robustmq.core import batches
from robustmq.errors import KafkaCode
from robustmq.kafka.gateway import ADDS, AppendWait, PartitionRead
from robustmq.kafka.share_events import ShareKey
from robustmq.kafka.share_gateway import ShareWanted
from robustmq.promises import Promise, resolved
from robustmq.records import Record
from robustmq.shard.broker import Broker
from robustmq.shard.fetching import LIST_WAIT_MS
from robustmq.storage.engine import PartitionLog, ReadResult
from tests.simulation.client import SimClient
from tests.simulation.world import World

TOPIC = b"cold"
ERROR = int(KafkaCode.KAFKA_STORAGE_ERROR)


class AwayLog:
    """A partition's log whose first records are away."""

    def __init__(self, log: PartitionLog, until: int) -> None:
        self._log = log
        self._until = until
        self._coming: Promise[None] = Promise()
        self.error = 0
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        log = self._log
        if offset >= self._until:
            return log.read(offset, max_bytes, committed)
        self.asked += 1
        if self.error:
            return ReadResult(log.high_watermark, log.start_offset, [], False, self.error)
        return ReadResult(log.high_watermark, log.start_offset, pending=self._coming)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        return self._coming if self._until else self._log.offset_for_time(timestamp_ms)

    def bring(self) -> None:
        """The records are at hand."""
        self._until = 0
        self._coming.resolve(None)

    def fail(self) -> None:
        """They cannot be had."""
        self.error = ERROR
        self._coming.resolve(None)


class Node:
    """Two workers, a topic of four partitions, and all of one partition's records are away."""

    def __init__(self, records: int = 3) -> None:
        self.world = World(3, workers=2)
        next(iter(self.world.cluster.views.values())).create_topic(TOPIC, 4, {}, uuid.UUID(int=1))
        self.run()
        for number in range(records):
            self.produce(0, b"%d" % number)
            self.produce(1, b"%d" % number)
        self.owner = next(
            one for one in self.brokers if one.placement.worker(TOPIC, 0) == one.worker_id
        )
        self.other = next(one for one in self.brokers if one is not self.owner)
        self.log = self.away(0)

    @property
    def brokers(self) -> list[Broker]:
        return [one for one in self.world.brokers if one is not None]

    def away(self, partition: int) -> AwayLog:
        logs = self.owner.partitions._topics[TOPIC].logs
        self.owner.partitions.get(TOPIC, partition)
        away = AwayLog(logs[partition], logs[partition].end_offset)
        logs[partition] = away  # type: ignore[assignment]
        return away

    def run(self, for_ms: int = 100) -> None:
        self.world.scheduler.run(for_ms)

    def produce(self, partition: int, value: bytes) -> None:
        batch = batches.build([Record(None, value, [], 1_000)], 1_000)
        done = self.brokers[0].kafka.gateway.produce(
            TOPIC, partition, bytearray(batch), -1, 1000, batches.validate(batch, 0, len(batch))
        )
        self.run()
        assert done.result().error == 0


def read(offset: int = 0, partition: int = 0) -> PartitionRead:
    return PartitionRead(TOPIC, partition, offset, 1 << 20, -1)


def is_settled(promise: Promise[Any]) -> bool:
    return promise.settled


def at(node: Node, there: bool) -> Broker:
    return node.other if there else node.owner


@pytest.mark.parametrize("there", [False, True], ids=["own worker", "another worker"])
def test_a_read_says_that_records_come_and_a_wait_ends_when_they_have(there: bool) -> None:
    node = Node()
    gateway = at(node, there).kafka.gateway
    asked = gateway.read_all([read(), read(partition=1)], 1 << 20, 0)
    node.run()
    cold, hot = asked.result()
    assert cold.pending
    assert (cold.error, cold.buffers, cold.high_watermark) == (0, [], 3)
    assert not hot.pending
    assert hot.buffers
    waiting = gateway.wait_for_append([AppendWait(TOPIC, 0, 3, 0, 0, 1 << 20)], 10_000)
    node.run()
    assert not is_settled(waiting)
    node.log.bring()
    node.run()
    assert is_settled(waiting)
    asked = gateway.read_all([read()], 1 << 20, 0)
    node.run()
    assert asked.result()[0].buffers


@pytest.mark.parametrize("there", [False, True], ids=["own worker", "another worker"])
def test_a_wait_for_records_that_come_ends_with_its_time_and_its_reader(there: bool) -> None:
    node = Node()
    gateway = at(node, there).kafka.gateway
    late = gateway.wait_for_append([AppendWait(TOPIC, 0, 3, 0, 0, 100)], 200)
    gone = gateway.wait_for_append([AppendWait(TOPIC, 0, 3, 0, 0, 100)], 60_000)
    node.run()
    gone.resolve(None)
    assert not is_settled(late)
    node.run(400)
    assert is_settled(late)
    assert len(node.owner.kafka.waits) == 0


@pytest.mark.parametrize("there", [False, True], ids=["own worker", "another worker"])
def test_a_store_that_is_down_is_an_error_that_clients_repeat(there: bool) -> None:
    node = Node()
    gateway = at(node, there).kafka.gateway
    waiting = gateway.wait_for_append([AppendWait(TOPIC, 0, 3, 0, 0, 100)], 10_000)
    node.run()
    node.log.fail()
    node.run()
    assert is_settled(waiting)
    asked = gateway.read_all([read(), read(partition=1)], 1 << 20, 0)
    node.run()
    cold, hot = asked.result()
    assert (cold.error, hot.error) == (ERROR, 0)
    assert hot.buffers


@pytest.mark.parametrize("there", [False, True], ids=["own worker", "another worker"])
def test_a_look_up_by_time_waits_for_what_it_must_look_at(there: bool) -> None:
    node = Node()
    gateway = at(node, there).kafka.gateway
    asked = gateway.list_offset(TOPIC, 0, 1_000, 0, -1)
    node.run()
    assert not is_settled(asked)
    node.log.bring()
    node.run()
    assert (asked.result().error, asked.result().offset) == (0, 0)


def test_a_look_up_by_time_does_not_wait_for_ever() -> None:
    node = Node()
    asked = node.other.kafka.gateway.list_offset(TOPIC, 0, 1_000, 0, -1)
    node.run(LIST_WAIT_MS + 200)
    assert asked.result().error == ERROR
    ends = node.other.kafka.gateway.list_offset(TOPIC, 0, -1, 0, -1)
    node.run()
    assert (ends.result().error, ends.result().offset) == (0, 3)


def settled(node: Node, condition: Callable[[], bool]) -> None:
    for _ in range(50):
        if condition():
            return
        node.run()
    raise AssertionError("it never comes")


def share(node: Node) -> tuple[ShareKey, ShareWanted]:
    topic_id = uuid.UUID(int=1)
    key = ShareKey("group", TOPIC, topic_id, 0)
    return key, ShareWanted("group", "member", [], 1 << 20, 1, 100, 0, False)


def test_a_member_of_a_share_group_waits_for_what_is_away() -> None:
    node = Node()
    node.log.bring()
    key, wanted = share(node)
    gateway = node.owner.kafka.gateway.share
    begun = gateway.acquire([key], wanted)
    node.run()
    assert not begun.result().reads[key].acquired
    node.produce(0, b"next")
    log = node.away(0)
    asked = gateway.acquire([key], wanted)
    node.run()
    found = asked.result()
    assert (found.reads[key].error, found.reads[key].acquired) == (0, [])
    waiting = gateway.wait([key], found.seen, 10_000)
    node.run()
    assert not is_settled(waiting), "it is not asked again and again"
    log.bring()
    node.run()
    assert is_settled(waiting)
    asked = gateway.acquire([key], wanted)
    node.run()
    assert [(one.first, one.last) for one in asked.result().reads[key].acquired] == [(3, 3)]


def test_a_member_of_a_share_group_is_told_of_a_store_that_is_down() -> None:
    node = Node()
    node.log.bring()
    key, wanted = share(node)
    gateway = node.owner.kafka.gateway.share
    gateway.acquire([key], wanted)
    node.run()
    node.produce(0, b"next")
    log = node.away(0)
    log.fail()
    asked = gateway.acquire([key], wanted)
    node.run()
    assert asked.result().reads[key].error == ERROR


@pytest.mark.parametrize("fails", [False, True], ids=["comes", "fails for a while"])
def test_a_session_that_missed_records_gets_them_when_they_are_at_hand(fails: bool) -> None:
    node = Node(records=0)
    number = node.other.worker_id
    name = next(
        b"s%d" % n for n in range(100) if node.other.placement.session_home(b"s%d" % n) == number
    )
    client = SimClient(node.world, name, {TOPIC: 1})
    settled(node, lambda: client.subscribed)
    node.world.kill(number)
    node.run(20)
    for value in (b"one", b"two"):
        batch = batches.build([Record(None, value, [], 1_000)], 1_000)
        done = node.owner.kafka.logs.produce(
            TOPIC, 0, bytearray(batch), 1, batches.validate(batch, 0, len(batch))
        )
        node.run()
        assert done.result().error == 0
    log = node.away(0)
    if fails:
        log.error = ERROR
    node.world.start(number)
    node.run(1_000)
    assert client.received == []
    assert log.asked
    log.bring()
    settled(node, lambda: len(client.received) == 2)
    assert [payload for _, payload, _ in client.received] == [b"one", b"two"]


def test_a_transaction_is_told_when_its_records_are_at_hand() -> None:
    node = Node(records=0)
    client = SimClient(node.world, b"s", {TOPIC: 1})
    settled(node, lambda: client.subscribed)
    logs = node.owner.kafka.logs
    logs.transaction_partition = lambda *asked: resolved(0)
    batch = batches.build([Record(None, b"told", [], 1_000)], 1_000, 0, 16, 7, 0, 0)
    info = batches.validate(batch, 0, len(batch))
    logs.produce(TOPIC, 0, bytearray(batch), -1, info, "id", ADDS)
    node.run()
    log = node.away(0)
    node.owner.kafka.gateway.write_marker(TOPIC, 0, 7, 1, 1, True, 2)
    node.run(500)
    assert client.received == []
    assert 1 < log.asked < 50, "it is tried again, with the ticks"
    log.bring()
    settled(node, lambda: len(client.received) == 1)
    assert client.received[0][1] == b"told"
