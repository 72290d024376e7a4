"""Idempotent producers of one partition: which batch is new, which was seen, which cannot be
(KIP-98, KIP-360).

A producer numbers its records per partition. The owner remembers of each producer its epoch and its
last five batches (the most a client may have in flight), so that a batch sent again after a lost
answer gets its first answer instead of a second place in the log.

    same epoch, first sequence follows the last       new
    same epoch, equals one of the last five            repeated: error 0 and the first base offset
    same epoch, anything else                          45 OUT_OF_ORDER_SEQUENCE_NUMBER
    higher epoch, sequence 0 / not 0                   new / 45
    older epoch                                        47 INVALID_PRODUCER_EPOCH
    producer without state                             new, whatever its sequence

Sequences wrap from 2^31-1 to 0. The table is rebuilt in recovery by `record` for every stored
batch. Bound: `capacity` producers; beyond it the one that has been silent longest is forgotten, and
after `expiry_ms` any (its next batch is "without state", so it is taken and not refused).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import msgspec

from robustmq.errors import KafkaCode

WINDOW = 5
_SEQUENCES = 1 << 31


class SequencedBatch(Protocol):
    """What is read of a batch; robustmq.core.batches.BatchInfo has it."""

    @property
    def producer_id(self) -> int:
        """-1 when the producer is not idempotent."""

    @property
    def producer_epoch(self) -> int:
        """Incarnation of the producer."""

    @property
    def base_sequence(self) -> int:
        """Sequence of the first record."""

    @property
    def last_offset_delta(self) -> int:
        """Offset of the last record minus that of the first."""


class SeenBatch(msgspec.Struct, frozen=True, gc=False):
    """A batch in a producer's window."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp_ms: int


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """error 0 and `repeated` None: append it. `repeated`: answer with its base offset and time
    instead.
    """

    error: int = 0
    repeated: SeenBatch | None = None


class _Producer(msgspec.Struct):
    epoch: int
    window: list[SeenBatch]
    seen_ms: int


_NEW = Verdict()
_OUT_OF_ORDER = Verdict(KafkaCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
_FENCED = Verdict(KafkaCode.INVALID_PRODUCER_EPOCH)


class ProducerTable:
    """The producers of one partition, by how long they have been silent."""

    def __init__(self, capacity: int = 10_000, expiry_ms: int = 24 * 3_600_000) -> None:
        self._capacity = capacity
        self._expiry_ms = expiry_ms
        self._producers: OrderedDict[int, _Producer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, batch: SequencedBatch) -> Verdict:
        """What to do with a batch, before anything of it is written."""
        if batch.producer_id < 0:
            return _NEW
        producer = self._producers.get(batch.producer_id)
        if producer is None:
            return _NEW
        if batch.producer_epoch < producer.epoch:
            return _FENCED
        if batch.producer_epoch > producer.epoch:
            return _NEW if batch.base_sequence == 0 else _OUT_OF_ORDER
        last_sequence = last_sequence_of(batch)
        for seen in producer.window:
            if (seen.first_sequence, seen.last_sequence) == (batch.base_sequence, last_sequence):
                return Verdict(repeated=seen)
        if batch.base_sequence == (producer.window[-1].last_sequence + 1) % _SEQUENCES:
            return _NEW
        return _OUT_OF_ORDER

    def record(self, batch: SequencedBatch, base_offset: int, timestamp_ms: int) -> None:
        """Remember a batch that was appended; in recovery: one that was found in the log, in its
        order.
        """
        if batch.producer_id < 0:
            return
        seen = SeenBatch(batch.base_sequence, last_sequence_of(batch), base_offset, timestamp_ms)
        producer = self._producers.get(batch.producer_id)
        if producer is None or producer.epoch != batch.producer_epoch:
            producer = _Producer(batch.producer_epoch, [seen], timestamp_ms)
            self._producers[batch.producer_id] = producer
        elif producer.window[-1].base_offset < base_offset:
            producer.window.append(seen)
            del producer.window[:-WINDOW]
            producer.seen_ms = timestamp_ms
        self._producers.move_to_end(batch.producer_id)
        self._forget_silent(timestamp_ms)

    def _forget_silent(self, timestamp_ms: int) -> None:
        while self._producers:
            producer_id, producer = next(iter(self._producers.items()))
            silent = producer.seen_ms + self._expiry_ms < timestamp_ms
            if not silent and len(self._producers) <= self._capacity:
                return
            del self._producers[producer_id]


def last_sequence_of(batch: SequencedBatch) -> int:
    """The sequence of a batch's last record."""
    return (batch.base_sequence + batch.last_offset_delta) % _SEQUENCES
