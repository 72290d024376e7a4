"""What is said to the coordinator of a transactional id and what it answers: the messages between
the Kafka handlers, the partitions' owners and the machine robustmq.groups.transactions
(KIP-98, KIP-360, KIP-890).

They are tagged structs, so that they cross the bus as they are. Topics are canonical keys (bytes).
`timestamp_ms` is the wall clock: when a transaction began outlives its coordinator.
"""

from __future__ import annotations

import enum

import msgspec

NO_PRODUCER_ID = -1
NO_EPOCH = -1

TRANSACTION_V1, TRANSACTION_V2 = 1, 2
"""Levels of the feature transaction.version: with 2 each EndTxn bumps the epoch, and partitions
are added by producing to them."""


class State(enum.StrEnum):
    """States of a transactional id, named as DescribeTransactions names them."""

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"
    DEAD = "Dead"


STATE_NAMES = frozenset(State) | {"PrepareEpochFence"}
"""What ListTransactions may be asked for; nothing is ever seen in the last."""
OPEN_STATES = (State.ONGOING, State.PREPARE_COMMIT, State.PREPARE_ABORT)
"""A transaction is on its way."""


class InitProducerId(msgspec.Struct, frozen=True, tag="init", array_like=True):
    """A producer begins with a transactional id, or goes on after an error with the id and epoch
    it has (KIP-360; else both are -1).

    `new_producer_id` is used where one is needed; with -1 the reply then is `NeedsProducerId`.
    """

    timeout_ms: int
    timestamp_ms: int
    producer_id: int = NO_PRODUCER_ID
    producer_epoch: int = NO_EPOCH
    new_producer_id: int = NO_PRODUCER_ID


class AddPartitions(msgspec.Struct, frozen=True, tag="add", array_like=True):
    """Partitions, and groups whose offsets are committed, become part of the transaction; it
    begins with the first. `verify_only`: ask whether they are, and add none.

    While the transaction before is still being completed the request waits, `wait_ms` at most.
    """

    producer_id: int
    producer_epoch: int
    timestamp_ms: int
    partitions: list[tuple[bytes, int]]
    groups: list[str] = []
    verify_only: bool = False
    wait_ms: int = 0


class EndTransaction(msgspec.Struct, frozen=True, tag="end", array_like=True):
    """Commit or abort. `version` is that of the client (TRANSACTION_V1 or TRANSACTION_V2);
    `new_producer_id` as in `InitProducerId`."""

    producer_id: int
    producer_epoch: int
    timestamp_ms: int
    commit: bool
    version: int
    new_producer_id: int = NO_PRODUCER_ID


class MarkersWritten(msgspec.Struct, frozen=True, tag="written", array_like=True):
    """Every partition and group has committed the marker of this epoch. Has no reply."""

    producer_id: int
    producer_epoch: int
    timestamp_ms: int


class DescribeTransaction(msgspec.Struct, frozen=True, tag="describe", array_like=True):
    """Ask for the state of the transactional id."""


class TimerFired(msgspec.Struct, frozen=True, tag="timer", array_like=True):
    """A deadline from `Effects.timers` has come. Has no reply of its own."""

    key: str
    timestamp_ms: int


class Resumed(msgspec.Struct, frozen=True, tag="resumed", array_like=True):
    """The machine was recovered on this owner. Has no reply."""

    timestamp_ms: int


TransactionEvent = (
    InitProducerId
    | AddPartitions
    | EndTransaction
    | MarkersWritten
    | DescribeTransaction
    | TimerFired
    | Resumed
)


class ProducerReply(msgspec.Struct, frozen=True, tag="producer", array_like=True):
    """The answer to InitProducerId and EndTransaction: who the producer is from now on."""

    error: int = 0
    producer_id: int = NO_PRODUCER_ID
    producer_epoch: int = NO_EPOCH


class NeedsProducerId(msgspec.Struct, frozen=True, tag="needs", array_like=True):
    """Nothing was done: ask again with a new producer id."""


class PartitionsReply(msgspec.Struct, frozen=True, tag="partitions", array_like=True):
    """The answer to AddPartitions: `error` is that of all; else one code for each partition, then
    for each group, in the order of the request."""

    error: int = 0
    errors: list[int] = []


class TransactionDescription(msgspec.Struct, frozen=True, tag="description", array_like=True):
    """The answer to DescribeTransaction; the start is -1 where there is no transaction."""

    error: int = 0
    state: str = ""
    producer_id: int = NO_PRODUCER_ID
    producer_epoch: int = NO_EPOCH
    timeout_ms: int = 0
    start_timestamp_ms: int = -1
    partitions: list[tuple[bytes, int]] = []
    groups: list[str] = []


class TransactionListing(msgspec.Struct, frozen=True, array_like=True):
    """One transactional id as ListTransactions shows it."""

    transactional_id: str
    producer_id: int
    state: str
    start_timestamp_ms: int


TransactionReply = ProducerReply | NeedsProducerId | PartitionsReply | TransactionDescription

_encoder = msgspec.msgpack.Encoder()
_event_decoder: msgspec.msgpack.Decoder[TransactionEvent] = msgspec.msgpack.Decoder(
    TransactionEvent
)
_reply_decoder: msgspec.msgpack.Decoder[TransactionReply] = msgspec.msgpack.Decoder(
    TransactionReply
)
_listings_decoder = msgspec.msgpack.Decoder(list[TransactionListing])


def encode_event(event: TransactionEvent) -> bytes:
    """An event as bytes for the bus."""
    return _encoder.encode(event)


def decode_event(data: bytes | memoryview) -> TransactionEvent:
    """The event in bytes from the bus."""
    return _event_decoder.decode(data)


def encode_reply(reply: TransactionReply) -> bytes:
    """A reply as bytes for the bus."""
    return _encoder.encode(reply)


def decode_reply(data: bytes | memoryview) -> TransactionReply:
    """The reply in bytes from the bus."""
    return _reply_decoder.decode(data)


def encode_listings(listings: list[TransactionListing]) -> bytes:
    """A worker's transactional ids as bytes for the bus."""
    return _encoder.encode(listings)


def decode_listings(data: bytes | memoryview) -> list[TransactionListing]:
    """A worker's transactional ids from the bus."""
    return _listings_decoder.decode(data)
