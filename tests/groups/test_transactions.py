"""The coordinator of a transactional id: what it answers is what Apache Kafka 4.3 answers to the
same requests; whatever crashes, a transaction ends one way everywhere."""

from __future__ import annotations

import random

import msgspec
import pytest

from robustmq.groups.transaction_records import decode_record, encode_record
from robustmq.groups.transactions import (
    LAST_GIVEN_EPOCH,
    TransactionCoordinator,
    TransactionSettings,
    WriteMarkers,
)
from robustmq.kafka import transaction_events as events
from robustmq.kafka.transaction_events import NeedsProducerId, PartitionsReply, ProducerReply, State

WALL = 1_000_000
T0 = (b"t", 0)


class Driver:
    """One coordinator on a log, with a clock; ids are given out from 100 on."""

    def __init__(self) -> None:
        self.settings = TransactionSettings(max_timeout_ms=60_000, expiration_ms=1_000_000)
        self.machine = TransactionCoordinator("id", self.settings)
        self.now_ms = 0
        self.ids = 100
        self.log: list[bytes] = []
        self.timers: dict[str, int] = {}
        self.commands: list[WriteMarkers] = []
        self.replies: dict[int, events.TransactionReply] = {}
        self.token = 0

    def state(self) -> State:
        return self.machine.state

    def send(self, event: events.TransactionEvent) -> int:
        self.token += 1
        token = self.token
        event = events.decode_event(events.encode_event(event))
        effects = self.machine.handle(event, self.now_ms, token)
        self.log += [encode_record(record) for record in effects.records]
        for when, key in effects.timers:
            self.timers.pop(key, None)
            if when is not None:
                self.timers[key] = when
        self.commands += effects.commands
        for one, reply in effects.replies:
            assert one not in self.replies, "a token is replied to once"
            self.replies[one] = events.decode_reply(events.encode_reply(reply))
        return token

    def ask(self, event: events.TransactionEvent) -> events.TransactionReply:
        return self.replies[self.send(event)]

    def init(self, pid: int = -1, epoch: int = -1, timeout_ms: int = 1_000) -> tuple[int, int, int]:
        event = events.InitProducerId(timeout_ms, WALL + self.now_ms, pid, epoch)
        return self._producer(event)

    def _producer(
        self, event: events.InitProducerId | events.EndTransaction
    ) -> tuple[int, int, int]:
        reply = self.ask(event)
        if isinstance(reply, NeedsProducerId):
            self.ids += 1
            reply = self.ask(msgspec.structs.replace(event, new_producer_id=self.ids))
        assert isinstance(reply, ProducerReply)
        return reply.error, reply.producer_id, reply.producer_epoch

    def add(
        self, pid: int, epoch: int, *more: tuple[bytes, int], verify: bool = False, wait_ms: int = 0
    ) -> events.TransactionReply:
        partitions = list(more) or [T0]
        return self.ask(
            events.AddPartitions(
                pid, epoch, WALL + self.now_ms, partitions, verify_only=verify, wait_ms=wait_ms
            )
        )

    def end(
        self, pid: int, epoch: int, commit: bool = True, version: int = 2
    ) -> tuple[int, int, int]:
        return self._producer(
            events.EndTransaction(pid, epoch, WALL + self.now_ms, commit, version)
        )

    def written(self) -> None:
        """All markers of the last command are there."""
        command = self.commands[-1]
        self.send(
            events.MarkersWritten(command.producer_id, command.producer_epoch, WALL + self.now_ms)
        )

    def wait(self, for_ms: int) -> None:
        end = self.now_ms + for_ms
        while self.timers and min(self.timers.values()) <= end:
            key = min(self.timers, key=lambda one: self.timers[one])
            self.now_ms = max(self.now_ms, self.timers.pop(key))
            self.send(events.TimerFired(key, WALL + self.now_ms))
        self.now_ms = end

    def restart(self) -> None:
        twin = TransactionCoordinator("id", self.settings)
        for record in self.log:
            twin.replay(decode_record(record))
        again = TransactionCoordinator("id", self.settings)
        for stored in twin.snapshot():
            again.replay(decode_record(encode_record(stored)))
        assert again.snapshot() == twin.snapshot() == self.machine.snapshot()
        self.machine = again
        self.timers.clear()
        if not again.disposable:
            self.send(events.Resumed(WALL + self.now_ms))


@pytest.fixture
def one() -> Driver:
    return Driver()


def test_each_producer_that_comes_has_an_epoch_of_its_own(one: Driver) -> None:
    assert one.init() == (0, 101, 0)
    assert one.init() == (0, 101, 1)
    assert one.state() is State.EMPTY
    for timeout_ms in (0, -1, 60_001):
        assert one.init(timeout_ms=timeout_ms) == (50, -1, -1)


def test_a_producer_goes_on_after_an_error_with_the_epoch_that_follows(one: Driver) -> None:
    one.init()
    assert one.init(101, 0) == (0, 101, 1)
    assert one.init(101, 0) == (0, 101, 1), "the answer was lost: the same again"
    assert one.init(101, 1) == (0, 101, 2)
    assert one.init(101, 0) == (90, -1, -1), "older than that"
    assert one.init(7, 2) == (90, -1, -1), "an id of another"
    assert one.init() == (0, 101, 3)
    assert one.init(101, 2) == (90, -1, -1), "another producer has come in between"


def test_an_unknown_id_gives_a_new_producer_whatever_it_was(one: Driver) -> None:
    assert one.init(999, 3) == (0, 101, 0)


def test_who_comes_while_a_transaction_is_open_aborts_it_first(one: Driver) -> None:
    one.init()
    one.add(101, 0)
    assert one.init() == (51, -1, -1)
    assert one.commands == [WriteMarkers(101, 1, False, 2, (T0,), ())]
    assert one.init() == (51, -1, -1)
    one.written()
    assert one.state() is State.COMPLETE_ABORT
    assert one.init() == (0, 101, 2)
    assert one.add(101, 0) == PartitionsReply(90)


@pytest.mark.parametrize(
    ("pid", "epoch", "error"), [(1, 0, 49), (101, 1, 90), (101, -1, 90), (101, 0, 0)]
)
def test_partitions_are_added_by_the_producer_alone(
    one: Driver, pid: int, epoch: int, error: int
) -> None:
    assert one.add(pid, epoch) == PartitionsReply(49)
    one.init()
    reply = one.add(pid, epoch)
    assert isinstance(reply, PartitionsReply)
    assert reply.error == error
    written = len(one.log)
    one.add(pid, epoch)
    assert len(one.log) == written, "what is in it already is not written again"


def test_partitions_are_looked_for(one: Driver) -> None:
    one.init()
    assert one.add(101, 0, verify=True) == PartitionsReply(0, [120])
    one.add(101, 0)
    assert one.add(101, 0, (b"t", 1), T0, verify=True) == PartitionsReply(0, [120, 0])
    assert one.add(101, 1, verify=True) == PartitionsReply(90)
    assert one.add(1, 0, verify=True) == PartitionsReply(49)
    one.end(101, 0, version=1)
    assert one.add(101, 0, verify=True) == PartitionsReply(51)
    one.written()
    assert one.add(101, 0, verify=True) == PartitionsReply(0, [120])


def test_a_transaction_of_the_first_version_keeps_its_epoch(one: Driver) -> None:
    assert one.end(101, 0, version=1) == (49, -1, -1)
    one.init()
    assert one.end(101, 0, version=1) == (48, -1, -1)
    assert one.end(101, 0, False, version=1) == (48, -1, -1)
    one.add(101, 0)
    assert one.end(101, 1, version=1) == (90, -1, -1)
    assert one.end(1, 0, version=1) == (49, -1, -1)
    assert one.end(101, 0, version=1)[0] == 0
    assert one.state() is State.PREPARE_COMMIT
    assert one.commands == [WriteMarkers(101, 0, True, 1, (T0,), ())]
    assert one.end(101, 0, version=1)[0] == 51
    one.written()
    assert one.state() is State.COMPLETE_COMMIT
    assert one.end(101, 0, version=1)[0] == 0
    assert one.end(101, 0, False, version=1)[0] == 48


def test_each_end_of_the_second_version_raises_the_epoch(one: Driver) -> None:
    assert one.end(101, 0) == (49, -1, -1)
    one.init()
    assert one.end(101, 0) == (48, -1, -1)
    assert one.end(101, 0, False) == (0, 101, 1), "nothing to abort: an end all the same"
    assert one.state() is State.COMPLETE_ABORT
    assert one.end(101, 0, False) == (0, 101, 1), "again"
    assert one.end(101, 0) == (48, -1, -1)
    assert one.end(101, 1) == (48, -1, -1)
    one.add(101, 1)
    assert one.end(101, 0) == (90, -1, -1)
    assert one.end(101, 2) == (90, -1, -1)
    assert one.end(1, 1) == (49, -1, -1)
    assert one.end(101, 1) == (0, 101, 2)
    assert one.commands == [WriteMarkers(101, 2, True, 2, (T0,), ())]
    assert one.end(101, 1) == (51, -1, -1)
    one.written()
    assert one.end(101, 1) == (0, 101, 2)
    assert one.end(101, 1, False) == (48, -1, -1)
    assert one.end(101, 2) == (48, -1, -1)
    assert one.end(101, 2, False) == (0, 101, 3)


def test_behind_the_last_epoch_stands_another_producer_id(one: Driver) -> None:
    one.init()
    one.machine.current = msgspec.structs.replace(
        one.machine.current, producer_epoch=LAST_GIVEN_EPOCH
    )
    one.add(101, LAST_GIVEN_EPOCH)
    assert one.end(101, LAST_GIVEN_EPOCH) == (0, 102, 0)
    assert one.commands[-1].producer_id == 101
    assert one.commands[-1].producer_epoch == LAST_GIVEN_EPOCH + 1
    one.written()
    assert one.end(101, LAST_GIVEN_EPOCH) == (0, 102, 0)
    assert one.end(101, LAST_GIVEN_EPOCH, False) == (48, -1, -1)
    assert one.init(101, LAST_GIVEN_EPOCH) == (0, 102, 0)
    assert one.add(102, 0) == PartitionsReply(0, [0])


def test_the_next_transaction_waits_for_the_one_before(one: Driver) -> None:
    one.init()
    one.add(101, 0)
    one.end(101, 0)
    assert one.add(101, 1) == PartitionsReply(51), "who does not wait is told so"
    waiting = one.send(events.AddPartitions(101, 1, WALL, [T0], wait_ms=100))
    late = one.send(events.AddPartitions(101, 1, WALL, [(b"t", 1)], wait_ms=100))
    assert waiting not in one.replies
    one.written()
    assert one.replies[waiting] == one.replies[late] == PartitionsReply(0, [0])
    assert one.state() is State.ONGOING
    one.end(101, 1)
    waiting = one.send(events.AddPartitions(101, 2, WALL, [T0], wait_ms=100))
    one.wait(100)
    assert one.replies[waiting] == PartitionsReply(51)


def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(one: Driver) -> None:
    one.init(timeout_ms=500)
    one.wait(300)
    one.add(101, 0)
    one.wait(499)
    assert one.state() is State.ONGOING
    one.wait(1)
    assert one.commands == [WriteMarkers(101, 1, False, 2, (T0,), ())]
    one.written()
    assert one.add(101, 0) == PartitionsReply(90)
    assert one.end(101, 0, version=1) == (90, -1, -1)
    assert one.end(101, 0) == (48, -1, -1), "it cannot be committed any more"
    assert one.end(101, 0, False) == (0, 101, 1), "a late producer that is alone goes on"
    assert one.init(101, 0) == (0, 101, 1)


def test_a_restart_does_not_prolong_the_time_of_a_transaction(one: Driver) -> None:
    one.init(timeout_ms=500)
    one.add(101, 0)
    one.wait(400)
    one.restart()
    one.wait(100)
    assert one.state() is State.PREPARE_ABORT


def test_an_id_that_is_not_used_is_forgotten(one: Driver) -> None:
    one.init()
    one.wait(600_000)
    one.end(101, 0, False)
    one.restart()
    one.wait(900_000)
    assert one.machine.snapshot()
    one.wait(200_000)
    assert one.machine.snapshot() == []
    described = one.ask(events.DescribeTransaction())
    assert isinstance(described, events.TransactionDescription)
    assert described.error == 105
    one.restart()
    assert one.init(101, 1) == (0, 102, 0)


def test_what_is_described_is_what_is(one: Driver) -> None:
    one.init()
    one.ask(events.AddPartitions(101, 0, WALL, [T0, (b"a", 3)], ["g"]))
    described = one.ask(events.DescribeTransaction())
    assert described == events.TransactionDescription(
        0, "Ongoing", 101, 0, 1_000, WALL, [(b"a", 3), T0], ["g"]
    )
    assert one.machine.listing().state == "Ongoing"


class Crowd:
    """Producers of one transactional id that come, are late, and end twice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.one = Driver()
        self.given: set[tuple[int, int]] = set()
        self.decided: dict[tuple[int, int], bool] = {}
        self.producers: list[tuple[int, int]] = []

    def come(self) -> None:
        error, pid, epoch = self.one.init()
        if not error:
            assert (pid, epoch) not in self.given, "an epoch is given to one producer"
            self.given.add((pid, epoch))
            self.producers.append((pid, epoch))

    def add(self) -> None:
        pid, epoch = self.random.choice(self.producers)
        partition = (b"t", self.random.randrange(3))
        wait_ms = self.random.choice((0, 50))
        self.one.send(events.AddPartitions(pid, epoch, WALL, [partition], wait_ms=wait_ms))

    def end(self) -> None:
        place = self.random.randrange(len(self.producers))
        pid, epoch = self.producers[place]
        commit, version = self.random.random() < 0.6, self.random.choice((1, 2))
        open_before = self.one.state() is State.ONGOING
        error, *following = self.one.end(pid, epoch, commit, version)
        if not error and open_before:
            assert self.one.commands[-1].commit is commit
        if not error and version == 2 and self.random.random() < 0.8:
            self.producers[place] = (following[0], following[1])
            self.given.add(self.producers[place])

    def turn(self) -> None:
        choice = self.random.random()
        if choice < 0.1 or not self.producers:
            self.come()
        elif choice < 0.5:
            self.add()
        elif choice < 0.7:
            self.end()
        elif choice < 0.8:
            self.one.restart()
        elif choice < 0.95 and self.one.commands:
            self.one.written()
        else:
            self.one.wait(self.random.randrange(400))
        for command in self.one.commands:
            if command.transaction_version == events.TRANSACTION_V2:
                key = (command.producer_id, command.producer_epoch)
                assert self.decided.setdefault(key, command.commit) == command.commit


@pytest.mark.parametrize("seed", range(30))
def test_a_transaction_ends_one_way_whatever_crashes(seed: int) -> None:
    """The coordinator crashes between any two events. The markers of an epoch say one thing; what
    was answered is what is sent; an epoch belongs to one producer."""
    crowd = Crowd(seed)
    for _ in range(400):
        crowd.turn()
    assert crowd.decided
