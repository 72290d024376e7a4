"""What a producer with an id has under way behind a batch that is refused for a while."""

from __future__ import annotations

import uuid

import pytest

from robustmq.core import batches
from robustmq.errors import KafkaCode
from robustmq.kafka.gateway import ProduceResult
from robustmq.promises import Promise
from robustmq.records import Record
from robustmq.shard import refusals
from robustmq.shard.broker import Broker
from robustmq.shard.refusals import REMEMBERED_MS, Refusals
from tests.simulation.world import World

LIGHT, DECLARED = (b"r/light", 0), (b"r/declared", 0)
FULL = KafkaCode.KAFKA_STORAGE_ERROR
OUT_OF_ORDER = KafkaCode.OUT_OF_ORDER_SEQUENCE_NUMBER
PARTITIONS = pytest.mark.parametrize("partition", [LIGHT, DECLARED], ids=["light", "declared"])


def made(sequence: int, producer_id: int = 7, epoch: int = 0) -> bytes:
    """A batch of two records that says its sequence."""
    records = [Record(None, b"%d" % (sequence + number)) for number in range(2)]
    return batches.build(records, 1, 0, 0, producer_id, epoch, sequence)


class Node:
    """A node under simulation with one topic of each kind, and who produces to it."""

    def __init__(self, workers: int, partition: tuple[bytes, int]) -> None:
        self.world = World(3, workers)
        view = next(iter(self.world.cluster.views.values()))
        view.create_topic(DECLARED[0], 1, {}, uuid.UUID(int=1))
        self.partition = partition
        self.owner_number = self.broker(0).placement.worker(*partition)
        self.world.scheduler.run(50)
        home = self.broker(self.owner.placement.worker(*LIGHT))
        home.kafka.logs.light_topic(LIGHT[0], "create")
        self.world.scheduler.run(50)

    def broker(self, number: int) -> Broker:
        found = self.world.brokers[number]
        assert found is not None, "the worker lives"
        return found

    @property
    def owner(self) -> Broker:
        return self.broker(self.owner_number)

    def full(self, is_full: bool) -> None:
        self.owner.owner.room.disk_full(self.owner.stores if is_full else ())
        self.world.scheduler.run(50)

    def send(self, batch: bytes, worker: int | None = None) -> Promise[ProduceResult]:
        info = batches.validate(batch, 0, len(batch))
        broker = self.owner if worker is None else self.broker(worker)
        return broker.kafka.gateway.produce(*self.partition, bytearray(batch), -1, 1000, info)

    def error(self, sequence: int, epoch: int = 0) -> int:
        """The answer to a batch."""
        done = self.send(made(sequence, epoch=epoch))
        self.world.scheduler.run(50)
        return done.result().error

    def log(self) -> list[bytes]:
        result = self.owner.kafka.logs.read(*self.partition, 0, 1 << 20, -1, 0)
        data = b"".join(bytes(buffer) for buffer in result.buffers)
        return [
            record.value or b""
            for begin, info in batches.headers(data, 0, len(data))
            for record in batches.parse(data, begin, begin + info.length)
        ]


@PARTITIONS
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_behind_a_batch_that_was_refused_for_want_of_room_nothing_is_taken_when_there_is_room(
    partition: tuple[bytes, int], known: bool
) -> None:
    node = Node(1, partition)
    first = 0
    if known:
        assert node.error(0) == 0
        first = 2
    node.full(True)
    assert node.error(first) == FULL
    node.full(False)
    assert node.error(first + 2) == FULL, "45 would be answered with a new epoch"
    assert node.error(first + 4) == FULL
    assert [node.error(first + number) for number in (0, 2, 4)] == [0, 0, 0]
    assert node.log() == [b"%d" % number for number in range(first + 6)]


@PARTITIONS
def test_behind_a_batch_whose_owner_went_away_nothing_is_taken_when_it_is_back(
    partition: tuple[bytes, int],
) -> None:
    node = Node(2, partition)
    other = 1 - node.owner_number
    node.world.kill(node.owner_number)
    node.world.scheduler.run(5)
    lost = node.send(made(0), other)
    node.world.scheduler.run(50)
    with pytest.raises(Exception, match="away"):
        lost.result()
    node.world.start(node.owner_number)
    node.world.scheduler.run(50)
    answers = []
    for sequence in (2, 0, 2, 4):
        done = node.send(made(sequence), other)
        node.world.scheduler.run(50)
        answers.append(done.result().error)
    assert answers == [KafkaCode.NOT_LEADER_OR_FOLLOWER, 0, 0, 0]
    assert node.log() == [b"%d" % number for number in range(6)]


def test_a_new_epoch_and_time_end_what_was_refused() -> None:
    node = Node(1, DECLARED)
    assert node.error(0) == 0
    node.full(True)
    assert node.error(2) == FULL
    node.full(False)
    assert node.error(4) == FULL
    node.world.scheduler.run(REMEMBERED_MS + 1)
    assert node.error(4) == OUT_OF_ORDER, "what was refused never came again"
    node.full(True)
    assert node.error(2) == FULL
    node.full(False)
    assert node.error(0, epoch=1) == 0, "the producer gave it up"
    assert node.error(2, epoch=1) == 0
    assert node.error(4) == KafkaCode.INVALID_PRODUCER_EPOCH


def test_a_gap_that_nobody_has_refused_is_out_of_order() -> None:
    node = Node(1, DECLARED)
    assert node.error(0) == 0
    assert node.error(6) == OUT_OF_ORDER
    node.full(True)
    assert node.error(0) == 0, "what is in the log is answered though there is no room"


def test_sequences_wrap_behind_a_refused_batch() -> None:
    now_ms = 0
    table = Refusals(lambda: now_ms)
    last = (1 << 31) - 2

    def info(sequence: int, epoch: int = 0) -> batches.BatchInfo:
        batch = made(0, epoch=epoch)
        return batches.validate(batch, 0, len(batch))._replace(base_sequence=sequence)

    refused = ProduceResult(FULL)
    assert table.refused(b"t", 0, info(last), refused) is refused
    assert table.behind(b"t", 0, info(0)) is refused
    assert table.behind(b"t", 0, info(last)) is None
    assert table.behind(b"t", 0, info(last - 2)) is None
    assert table.behind(b"u", 0, info(0)) is None
    table.taken(b"t", 0, info(0))
    assert table.behind(b"t", 0, info(0)) is refused, "another one was taken"
    table.taken(b"t", 0, info(last))
    assert table.behind(b"t", 0, info(0)) is None and not table


def test_no_more_producers_are_remembered_than_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "MAX_REFUSED", 3)
    table = Refusals(lambda: 0)
    for producer_id in range(5):
        batch = made(0, producer_id)
        table.refused(b"t", 0, batches.validate(batch, 0, len(batch)), ProduceResult(FULL))
    assert len(table) == 3
    for producer_id, remembered in ((1, False), (2, True), (4, True)):
        batch = made(2, producer_id)
        found = table.behind(b"t", 0, batches.validate(batch, 0, len(batch)))
        assert (found is not None) is remembered
