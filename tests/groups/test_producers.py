"""Idempotent producers: the table of kafka_behaviour, and recovery."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from robustmq.groups.producers import ProducerTable


class Batch(NamedTuple):
    """What the table looks at in a batch."""

    base_sequence: int
    count: int = 10  # type: ignore[assignment]
    producer_epoch: int = 0
    producer_id: int = 1

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
    for producer_id in (1, 2, 1, 3):
        table.record(Batch(0, producer_id=producer_id), 0, 10)
    assert len(table) == 2
    assert table.check(Batch(500, producer_id=2)).error == 0
    table.record(Batch(0, producer_id=4), 0, 5000)
    assert len(table) == 1
