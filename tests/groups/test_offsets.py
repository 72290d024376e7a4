"""Offsets of open transactions: when they count, and what a restart keeps of them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from robustmq.groups.offsets import OffsetTable
from robustmq.groups.records import GroupRecord, decode_record, encode_record
from robustmq.kafka.group_events import CommitOffsets, EndOffsets, OffsetToCommit

T0, T1 = (b"t", 0), (b"t", 1)


class Offsets:
    """A table with its log."""

    def __init__(self) -> None:
        self.table = OffsetTable(100)
        self.log: list[bytes] = []

    def _kept(self, records: list[GroupRecord]) -> None:
        self.log += [encode_record(record) for record in records]

    def commit(
        self, offset: int, pid: int = -1, epoch: int = -1, key: tuple[bytes, int] = T0
    ) -> int:
        wanted = [OffsetToCommit(*key, offset)]
        records, errors = self.table.commit(CommitOffsets("", None, -1, wanted, 5, pid, epoch))
        self._kept(records)
        return int(errors[0])

    def end(self, pid: int, epoch: int, commit: bool = True) -> None:
        self._kept(self.table.end(EndOffsets(pid, epoch, commit)))

    def stable(self, key: tuple[bytes, int] = T0) -> int | None:
        """The offset; None while it may still change."""
        (found,) = self.table.fetch([key], require_stable=True)
        assert found.error in (0, 88)
        return None if found.error else found.offset

    def restart(self) -> None:
        twin, again = OffsetTable(100), OffsetTable(100)
        for data in self.log:
            twin.replay(decode_record(data))  # type: ignore[arg-type]
        for record in twin.snapshot():
            again.replay(decode_record(encode_record(record)))  # type: ignore[arg-type]
        assert by_partition(again) == by_partition(twin) == by_partition(self.table)
        self.table = again


def by_partition(table: OffsetTable) -> list[object]:
    """Its snapshot; of a partition what is pending in its order."""
    rows: list[Any] = table.snapshot()
    return sorted(rows, key=lambda row: (row.topic, row.partition))


@pytest.fixture
def offsets() -> Offsets:
    return Offsets()


def test_an_offset_counts_when_its_transaction_is_committed(offsets: Offsets) -> None:
    offsets.commit(1)
    offsets.commit(5, 7, 0)
    assert offsets.stable() is None
    assert offsets.table.fetch([T0])[0].offset == 1
    assert offsets.table.fetch(None, require_stable=True)[0].error == 88
    assert offsets.stable(T1) == -1
    offsets.end(7, 1)
    assert offsets.stable() == 5


def test_an_offset_of_an_aborted_transaction_never_counts(offsets: Offsets) -> None:
    offsets.commit(5, 7, 0)
    offsets.end(7, 1, commit=False)
    assert offsets.stable() == -1
    assert len(offsets.table) == 0


def test_what_was_committed_since_stays(offsets: Offsets) -> None:
    offsets.commit(5, 7, 0)
    offsets.commit(30)
    assert offsets.stable() is None, "the transaction is open"
    offsets.restart()
    offsets.end(7, 1)
    assert offsets.stable() == 30


def test_of_two_transactions_the_later_offset_stays(offsets: Offsets) -> None:
    for first, second in ((7, 8), (8, 7)):
        offsets.commit(1, 7, 0)
        offsets.commit(2, 8, 0)
        offsets.end(first, 0)
        offsets.restart()
        offsets.end(second, 0)
        assert offsets.stable() == 2


def test_an_offset_that_was_on_its_way_comes_too_late(offsets: Offsets) -> None:
    offsets.commit(1, 7, 0)
    offsets.end(7, 1, commit=False)
    assert offsets.commit(2, 7, 0) == 47
    assert offsets.commit(3, 7, 1) == 0


def test_an_end_of_an_older_epoch_ends_nothing(offsets: Offsets) -> None:
    offsets.commit(3, 7, 1)
    offsets.end(7, 0)
    assert offsets.stable() is None


def test_a_topic_that_is_gone_has_no_offsets(offsets: Offsets) -> None:
    offsets.commit(1)
    offsets.commit(2, 7, 0)
    offsets.commit(3, 7, 0, key=T1)
    offsets.log += [encode_record(record) for record in offsets.table.forget_topic(b"t")]
    offsets.restart()
    assert not offsets.table.has_pending
    offsets.end(7, 0)
    assert (offsets.stable(), offsets.stable(T1)) == (-1, -1)


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_keeps_all_of_it(seed: int) -> None:
    chance = random.Random(seed)
    offsets = Offsets()
    for step in range(120):
        key = (b"t", chance.randrange(2))
        pid = chance.randrange(4) - 1
        if chance.random() < 0.6:
            offsets.commit(step, pid, 0 if pid >= 0 else -1, key)
        elif pid >= 0:
            offsets.end(pid, 0, chance.random() < 0.7)
        if chance.random() < 0.2:
            offsets.restart()
    for pid in range(3):
        offsets.end(pid, 0)
    offsets.restart()
    assert not offsets.table.has_pending
