"""Producers of a partition: the tables of what is answered, transactions, and recovery."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from robustmq.groups.producers import ProducerTable
from robustmq.kafka.markers import Marker


class Batch(NamedTuple):
    """What the table looks at in a batch."""

    base_sequence: int
    count: int = 10  # type: ignore[assignment]
    producer_epoch: int = 0
    producer_id: int = 1
    attributes: int = 0

    @property
    def last_offset_delta(self) -> int:
        return self.count - 1


def filled(batches: int) -> ProducerTable:
    table = ProducerTable()
    for number in range(batches):
        batch = Batch(number * 10)
        assert table.check(batch).error == 0
        table.record(batch, 100 + number * 10, 5)
    return table


@pytest.mark.parametrize(
    ("batch", "error", "base_offset"),
    [
        (Batch(70), 0, None),
        (Batch(60), 0, 160),
        (Batch(20), 0, 120),
        (Batch(10), 45, None),
        (Batch(80), 45, None),
        (Batch(60, count=5), 45, None),
        (Batch(0, producer_epoch=1), 0, None),
        (Batch(3, producer_epoch=1), 45, None),
        (Batch(40, producer_id=9), 0, None),
        (Batch(-1, producer_id=-1), 0, None),
    ],
)
def test_a_batch_after_seven_is_judged(batch: Batch, error: int, base_offset: int | None) -> None:
    verdict = filled(7).check(batch)
    assert verdict.error == error
    assert (verdict.repeated.base_offset if verdict.repeated else None) == base_offset


def test_an_older_epoch_is_fenced() -> None:
    table = filled(2)
    table.record(Batch(0, producer_epoch=3), 120, 6)
    assert table.check(Batch(20)).error == 47
    assert table.check(Batch(10, producer_epoch=3)).error == 0


def test_sequences_wrap() -> None:
    table = ProducerTable()
    table.record(Batch(2**31 - 5), 0, 1)
    assert table.check(Batch(5)).error == 0
    assert table.check(Batch(6)).error == 45


def test_recovery_may_see_a_batch_twice() -> None:
    table = filled(7)
    for number in range(2, 7):
        table.record(Batch(number * 10), 100 + number * 10, 5)
    assert table.check(Batch(70)).error == 0
    assert table.check(Batch(20)).repeated is not None


def test_the_longest_silent_producer_is_forgotten_first() -> None:
    table = ProducerTable(capacity=2, expiry_ms=1000)
    for number, producer_id in enumerate((1, 2, 1, 3)):
        table.record(Batch(0, producer_id=producer_id), number * 10, 10)
    assert len(table) == 2
    assert table.check(Batch(500, producer_id=2)).error == 0
    table.record(Batch(0, producer_id=4), 40, 5000)
    assert len(table) == 1


OPEN = 16
"""The attributes of a transactional batch."""


def in_transaction(first_offset: int = 100) -> ProducerTable:
    """Producer 1, epoch 2, whose transaction is open, coordinated in epoch 4 before."""
    table = ProducerTable()
    table.end(Marker(1, 2, 4, True), first_offset - 1, 1)
    table.record(Batch(0, producer_epoch=2, attributes=OPEN), first_offset, 5)
    return table


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (Batch(10, producer_epoch=2, attributes=OPEN), 0),
        (Batch(10, producer_epoch=2), 48),
        (Batch(0, producer_epoch=3), 48),
        (Batch(20, producer_epoch=2, attributes=OPEN), 45),
        (Batch(10, producer_epoch=1, attributes=OPEN), 47),
        (Batch(0, producer_epoch=3, attributes=OPEN), 0),
        (Batch(0, producer_id=9, attributes=OPEN), 0),
    ],
)
def test_a_batch_while_a_transaction_is_open_is_judged(batch: Batch, error: int) -> None:
    assert in_transaction().check(batch).error == error


@pytest.mark.parametrize(
    ("sequence", "strict", "error"), [(7, True, 45), (0, True, 0), (7, False, 0)]
)
def test_a_producer_of_the_newer_protocol_begins_with_sequence_0(
    sequence: int, strict: bool, error: int
) -> None:
    assert ProducerTable().check(Batch(sequence, attributes=OPEN), strict).error == error


@pytest.mark.parametrize(
    ("marker", "version", "error"),
    [
        (Marker(1, 2, 4, True), 0, 0),
        (Marker(1, 2, 5, False), 1, 0),
        (Marker(1, 1, 4, True), 0, 47),
        (Marker(1, 2, 3, True), 0, 52),
        (Marker(1, 3, 4, True), 2, 0),
        (Marker(1, 2, 4, True), 2, 47),
        (Marker(1, 3, 3, True), 2, 52),
        (Marker(9, 0, 0, True), 2, 0),
    ],
)
def test_a_marker_is_judged(marker: Marker, version: int, error: int) -> None:
    assert in_transaction().check_marker(marker, version) == error


def test_a_marker_of_the_newer_protocol_may_come_again() -> None:
    table = in_transaction()
    assert table.end(Marker(1, 3, 4, True), 110, 6) is not None
    assert table.check_marker(Marker(1, 3, 4, True), 2) == 0
    assert table.end(Marker(1, 3, 4, True), 111, 7) is None
    assert table.check(Batch(0, producer_epoch=2, attributes=OPEN)).error == 47
    assert table.check(Batch(10, producer_epoch=3, attributes=OPEN)).error == 45
    assert table.check(Batch(0, producer_epoch=3, attributes=OPEN)).error == 0


def test_an_open_transaction_is_neither_stable_nor_forgotten() -> None:
    table = ProducerTable(capacity=1, expiry_ms=1000)
    table.record(Batch(0, attributes=OPEN), 100, 5)
    for number in range(20):
        table.record(Batch(0, producer_id=10 + number), 110 + 10 * number, 100_000)
    assert table.is_open(1, 0)
    assert table.last_stable_offset(310) == 100
    assert table.last_stable_offset(90) == 90


def test_an_ended_transaction_is_stable_when_its_marker_is_committed() -> None:
    table = in_transaction()
    table.record(Batch(0, producer_id=2, attributes=OPEN), 110, 6)
    ended = table.end(Marker(1, 2, 4, False), 120, 7)
    assert ended is not None
    assert (ended.first_offset, ended.last_stable_offset) == (100, 110)
    assert table.last_stable_offset(115) == 100
    assert table.last_stable_offset(121) == 110
    assert table.end(Marker(2, 0, 4, True), 121, 8) is not None
    assert table.last_stable_offset(122) == 122


def test_a_snapshot_and_the_log_behind_it_give_the_same_table() -> None:
    table = in_transaction()
    table.record(Batch(0, producer_id=2, attributes=OPEN), 110, 6)
    snapshot = table.encode(6)
    assert snapshot is not None
    table.end(Marker(1, 2, 4, True), 120, 7)
    table.record(Batch(10, producer_epoch=2, attributes=OPEN), 121, 8)
    again = ProducerTable()
    again.restore(snapshot)
    again.record(Batch(0, producer_id=2, attributes=OPEN), 110, 6)
    again.end(Marker(1, 2, 4, True), 120, 7)
    again.record(Batch(10, producer_epoch=2, attributes=OPEN), 121, 8)
    assert again.encode(8) == table.encode(8)
    assert again.last_stable_offset(140) == 110
