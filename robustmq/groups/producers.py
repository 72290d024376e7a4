"""The producers of one partition: which batch is new, which was seen, which cannot be, and whose
transaction is open (KIP-98, KIP-360, KIP-890).

A producer numbers its records per partition. The owner remembers of each producer its epoch and its
last five batches (the most a client may have in flight), so that a batch sent again after a lost
answer gets its first answer instead of a second place in the log.

    same epoch, first sequence follows the last       new
    same epoch, equals one of the last five            repeated: error 0 and the first base offset
    same epoch, anything else                          45 OUT_OF_ORDER_SEQUENCE_NUMBER
    higher epoch, sequence 0 / not 0                   new / 45
    older epoch                                        47 INVALID_PRODUCER_EPOCH
    producer without state                             new, whatever its sequence; `strict` (a
                                                       producer of KIP-890 part 2): 45 when not 0
    not transactional while its transaction is open    48 INVALID_TXN_STATE

Sequences wrap from 2^31-1 to 0. A transaction is open from its first batch to its marker. Nothing
at or behind the first offset of an open one is stable; an ended one holds the last stable offset
back until its marker is committed.

The table is rebuilt in recovery: a snapshot (`encode`, `restore`), then `record` and `end` for what
the log has behind it; what the snapshot covers is passed over. Bound: `capacity` producers; beyond
it the one that has been silent longest is forgotten, and after `expiry_ms` any (its next batch is
"without state", so it is taken and not refused). One whose transaction is open is never forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from robustmq.errors import KafkaCode
from robustmq.kafka.markers import Marker

WINDOW = 5
NO_OFFSET = -1
TRANSACTIONAL = 16
EPOCH_BUMP = 2
"""The transaction version from which on a marker raises the producer's epoch (KIP-890 part 2)."""
_SEQUENCES = 1 << 31
_LOOKS = 8
"""Producers that are looked at, at most, for one to forget."""


class SequencedBatch(Protocol):
    """What is read of a batch; robustmq.core.batches.BatchInfo has it."""

    @property
    def attributes(self) -> int:
        """16: transactional."""

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


class SeenBatch(msgspec.Struct, frozen=True, gc=False, array_like=True):
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


class Opened(NamedTuple):
    """A transaction that is open: its first offset, and whether its records may be retained
    values."""

    first_offset: int
    retains: bool


class Ended(NamedTuple):
    """A transaction that a marker has ended: its first offset, and the last stable offset when all
    that has ended by then is committed."""

    first_offset: int
    last_stable_offset: int


class _Producer(msgspec.Struct, array_like=True):
    epoch: int
    window: list[SeenBatch]
    seen_ms: int
    coordinator_epoch: int = -1
    first_offset: int = NO_OFFSET
    retains: bool = True


class _Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """docs/formats.md, "LevelDB", key `s`."""

    version: int
    end_offset: int
    producers: list[tuple[int, _Producer]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Snapshot)

_NEW = Verdict()
_OUT_OF_ORDER = Verdict(KafkaCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
_FENCED = Verdict(KafkaCode.INVALID_PRODUCER_EPOCH)
_MIXED = Verdict(KafkaCode.INVALID_TXN_STATE)


class ProducerTable:
    """The producers of one partition, by how long they have been silent."""

    def __init__(self, capacity: int = 10_000, expiry_ms: int = 24 * 3_600_000) -> None:
        self._capacity = capacity
        self._expiry_ms = expiry_ms
        self._producers: OrderedDict[int, _Producer] = OrderedDict()
        self._open: dict[int, int] = {}
        """First offsets by producer, in rising order."""
        self._ending: list[tuple[int, int]] = []
        """(first offset, offset of the marker) of what has ended and is not committed."""
        self.end_offset = 0
        """What lies before it is known here."""

    def __len__(self) -> int:
        return len(self._producers)

    # -- batches -----------------------------------------------------------------------------------

    def check(self, batch: SequencedBatch, strict: bool = False) -> Verdict:
        """What to do with a batch, before anything of it is written."""
        if batch.producer_id < 0:
            return _NEW
        producer = self._producers.get(batch.producer_id)
        if producer is None:
            return _OUT_OF_ORDER if strict and batch.base_sequence else _NEW
        if batch.producer_epoch < producer.epoch:
            return _FENCED
        if batch.producer_epoch > producer.epoch:
            new = batch.base_sequence == 0
        else:
            last_sequence = last_sequence_of(batch)
            for seen in producer.window:
                if (seen.first_sequence, seen.last_sequence) == (
                    batch.base_sequence,
                    last_sequence,
                ):
                    return Verdict(repeated=seen)
            before = producer.window[-1].last_sequence if producer.window else -1
            new = batch.base_sequence == (before + 1) % _SEQUENCES
        if not new:
            return _OUT_OF_ORDER
        if producer.first_offset >= 0 and not batch.attributes & TRANSACTIONAL:
            return _MIXED
        return _NEW

    def record(self, batch: SequencedBatch, base_offset: int, timestamp_ms: int) -> None:
        """Remember a batch that was appended; in recovery: one that was found in the log, in its
        order.
        """
        if batch.producer_id < 0 or base_offset < self.end_offset:
            return
        self.end_offset = base_offset + batch.last_offset_delta + 1
        seen = SeenBatch(batch.base_sequence, last_sequence_of(batch), base_offset, timestamp_ms)
        producer = self._known(batch.producer_id, batch.producer_epoch, timestamp_ms)
        producer.window.append(seen)
        del producer.window[:-WINDOW]
        if batch.attributes & TRANSACTIONAL and producer.first_offset < 0:
            producer.first_offset = self._open[batch.producer_id] = base_offset
            producer.retains = False
        self._forget_silent(timestamp_ms)

    def _known(self, producer_id: int, epoch: int, timestamp_ms: int) -> _Producer:
        """The producer, heard of now in this epoch."""
        producer = self._producers.get(producer_id)
        if producer is None:
            producer = self._producers[producer_id] = _Producer(epoch, [], timestamp_ms)
        elif producer.epoch != epoch:
            producer.epoch = epoch
            producer.window = []
        producer.seen_ms = timestamp_ms
        self._producers.move_to_end(producer_id)
        return producer

    def _forget_silent(self, now_ms: int) -> None:
        for _ in range(_LOOKS):
            producer_id, producer = next(iter(self._producers.items()))
            silent = producer.seen_ms + self._expiry_ms < now_ms
            if not silent and len(self._producers) <= self._capacity:
                return
            if producer.first_offset >= 0:
                self._producers.move_to_end(producer_id)
            else:
                del self._producers[producer_id]
            if not self._producers:
                return

    # -- transactions ------------------------------------------------------------------------------

    def is_open(self, producer_id: int, epoch: int) -> bool:
        """Has a producer a transaction open here, in this epoch?"""
        producer = self._producers.get(producer_id)
        return producer is not None and producer.first_offset >= 0 and producer.epoch == epoch

    def opened(self, producer_id: int) -> Opened | None:
        """The open transaction of a producer."""
        producer = self._producers.get(producer_id)
        if producer is None or producer.first_offset < 0:
            return None
        return Opened(producer.first_offset, producer.retains)

    def retains(self, producer_id: int) -> None:
        """Records of the producer's open transaction may become retained values."""
        self._producers[producer_id].retains = True

    def check_marker(self, marker: Marker, transaction_version: int = 0) -> int:
        """0, or why a marker is refused (KIP-98; KIP-890 part 2, KIP-1228)."""
        producer = self._producers.get(marker.producer_id)
        if producer is None:
            return 0
        if marker.producer_epoch < producer.epoch:
            return KafkaCode.INVALID_PRODUCER_EPOCH
        if (
            transaction_version >= EPOCH_BUMP
            and marker.producer_epoch == producer.epoch
            and producer.first_offset >= 0
        ):
            # The marker of an earlier transaction, sent again: it must not end this one.
            return KafkaCode.INVALID_PRODUCER_EPOCH
        if marker.coordinator_epoch < producer.coordinator_epoch:
            return KafkaCode.TRANSACTION_COORDINATOR_FENCED
        return 0

    def end(self, marker: Marker, offset: int, timestamp_ms: int) -> Ended | None:
        """A marker was appended (in recovery: found) at an offset; what it has ended, if that was
        open."""
        if offset < self.end_offset:
            return None
        self.end_offset = offset + 1
        producer = self._known(marker.producer_id, marker.producer_epoch, timestamp_ms)
        producer.coordinator_epoch = max(producer.coordinator_epoch, marker.coordinator_epoch)
        first_offset, producer.first_offset = producer.first_offset, NO_OFFSET
        if first_offset < 0:
            return None
        del self._open[marker.producer_id]
        self._ending.append((first_offset, offset))
        return Ended(first_offset, next(iter(self._open.values()), offset + 1))

    def last_stable_offset(self, high_watermark: int) -> int:
        """Where readers of committed transactions must stop; at most the high watermark."""
        if self._ending:
            self._ending = [row for row in self._ending if row[1] >= high_watermark]
            high_watermark = min([high_watermark, *(row[0] for row in self._ending)])
        if self._open:
            return min(high_watermark, next(iter(self._open.values())))
        return high_watermark

    @property
    def has_open(self) -> bool:
        """Is any transaction open?"""
        return bool(self._open)

    @property
    def is_settled(self) -> bool:
        """Are all markers committed, as far as `last_stable_offset` was told?"""
        return not self._ending

    def producers(self, now_ms: int) -> Iterator[tuple[int, _Producer]]:
        """The producers that have not expired."""
        for producer_id, producer in self._producers.items():
            if producer.first_offset >= 0 or producer.seen_ms + self._expiry_ms >= now_ms:
                yield producer_id, producer

    # -- snapshots ---------------------------------------------------------------------------------

    def encode(self, now_ms: int) -> bytes | None:
        """The table for `restore`; None when there is nobody in it."""
        rows = list(self.producers(now_ms))
        return _encoder.encode(_Snapshot(1, self.end_offset, rows)) if rows else None

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot; what lies before its end is passed over from now on."""
        found = _decoder.decode(snapshot)
        self.end_offset = found.end_offset
        self._producers = OrderedDict(found.producers)
        opened = [
            (one.first_offset, number) for number, one in found.producers if one.first_offset >= 0
        ]
        self._open = {number: first_offset for first_offset, number in sorted(opened)}


def last_sequence_of(batch: SequencedBatch) -> int:
    """The sequence of a batch's last record."""
    return (batch.base_sequence + batch.last_offset_delta) % _SEQUENCES
