"""The frames that workers exchange over the bus (docs/formats.md, "The bus").

Hot frames are a fixed little-endian head and then a block (`core.blocks`) as it is; everything rare
is a tagged msgspec struct in one MESSAGE frame: a call with an id, its answer, or a notice without
one.

Invariants: frames between two workers keep their order; a PUBLISH frame that wants a confirmation
is kept by its sender until CONFIRM names its sequence; a DELIVER frame that wants one is answered
by DELIVERED with its ticket once every persistent session it reached has it committed. PUBLISH
frames that want none are counted on both sides of a link, and their sender is at most a window
ahead of the last CREDIT (see `credit`).
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

PUBLISH = 1
CONFIRM = 2
DELIVER = 3
DELIVERED = 4
MESSAGE = 5
CREDIT = 6
SHARE = 7

# PUBLISH: shard, class of block, flags, sequence; then the block.
PUBLISH_HEAD = struct.Struct("<HBBQ")
# CONFIRM: shard, fault (index into `errors.Fault` + 1, 0 when committed), sequence.
CONFIRM_HEAD = struct.Struct("<HHQ")
# DELIVER: shard, flags, reserved, log position, ticket; then the block. SHARE: the same; then
# msgpack of a list of SharePart.
DELIVER_HEAD = struct.Struct("<HBBQQ")
# DELIVERED: ticket.
DELIVERED_HEAD = struct.Struct("<Q")
# CREDIT: bytes of blocks that nobody confirms, as taken by the receiver over this link.
CREDIT_HEAD = struct.Struct("<Q")

WANTS_CONFIRM = 1
REPLAY = 2
"""Sent again: for persistent sessions that have not heard of it."""
EPHEMERAL = 4
"""For sessions that end with their connection; the others get it in a replay."""

KEPT = 8
"""Of a share group with a persistent member: also a session that ends with its connection has it in
the log, so that it is given to another member when the worker dies."""

NO_POSITION = 2**64 - 1


class InterestChange(msgspec.Struct, frozen=True, tag=True, gc=False):
    """What a worker's clients want, changed: `added` and `removed` hold (filter, flags) by
    `interest`."""

    added: list[tuple[bytes, int]] = []
    removed: list[tuple[bytes, int]] = []


class ShareChange(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The members of a share group at one home: so many are connected, so many are persistent,
    connected or not (0 and 0: none), the first connected one is there since `oldest`; `state` by
    `share_homes`."""

    group: bytes
    filter: bytes
    home: int
    connected: int
    persistent: int
    oldest: int
    state: int


class InterestReset(msgspec.Struct, frozen=True, tag=True, gc=False):
    """All that a worker's clients want, after a link came up, and how far each of its shards has
    heard.

    `cursors` maps a source shard to the log position from which its entries must be delivered
    again; shards that are not named need no replay. `exclusive` are (filter, client id) of the
    exclusive subscriptions that the receiver decides on.
    """

    filters: list[tuple[bytes, int]]
    shares: list[ShareChange]
    cursors: dict[int, int]
    exclusive: list[tuple[bytes, bytes]] = []


class InterestSettled(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The answer to a change: from here on is delivered. The end position of each shard the worker
    owns."""

    ends: dict[int, int]


class RetainedQuery(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Retained values that match some filters, so many at most, of the receiver's shards: those of
    the first filter from `shard` on, and in that one after the topic `after`."""

    filters: list[bytes]
    shard: int
    after: bytes
    limit: int


class RetainedPage(msgspec.Struct, frozen=True, gc=False):
    """Retained values as (topic, block entry of one record), and the `shard` and `after` of the
    query that goes on from there; shard -1: that was all."""

    entries: list[tuple[bytes, bytes]]
    shard: int
    after: bytes


class RetainedPages(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A page for each filter of a query that was reached; only the last may be cut."""

    pages: list[RetainedPage]


class ShareHand(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Records of an entry (None: all) that a share group's members of one home get. `sure`: its
    owner knows that none of them is connected, or has room, and of no better ones."""

    group: bytes
    filter: bytes
    home: int
    indexes: list[int] | None
    sure: bool = False


class SharePart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry of a block, and the homes of one worker that get records of it."""

    entry: bytes
    hands: list[ShareHand]


class ShareRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Records of an entry of a shard that a member of a share group has left behind."""

    group: bytes
    filter: bytes
    shard: int
    entry: bytes
    indexes: list[int]


class ShareAgain(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Their owner picks other members for these rows, all of its shard `shard`.

    `home` and `sequence` name the request for ever: its owner logs them, and takes it once.
    Sequence 0: nothing of it is in a log, and it is not confirmed.
    """

    home: int
    sequence: int
    shard: int
    rows: list[ShareRow]


class ShareTaken(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A ShareAgain is in the log of its owner."""

    home: int
    sequence: int
    shard: int


class ShareLoads(msgspec.Struct, frozen=True, tag=True, gc=False):
    """What members have not acknowledged: (group, filter, home, state by `share_homes`,
    messages)."""

    rows: list[tuple[bytes, bytes, int, int, int]]


class ReleasePacketIds(msgspec.Struct, frozen=True, tag=True, gc=False):
    """QoS 2 packet ids of a publisher (by `received.packet_name`) that PUBREL has freed."""

    origin: int
    packet_ids: list[int]


class ExclusiveClaim(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A client wants to be the one that holds a filter; answered with True or False."""

    filter: bytes
    client_id: bytes


class ExclusiveRelease(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A client holds a filter no longer."""

    filter: bytes
    client_id: bytes


class ProduceCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A Kafka batch for a partition that the receiver owns."""

    topic: bytes
    partition: int
    batch: bytearray
    acks: int
    transactional_id: str | None = None
    transactions: int = 0
    headers: bool = True
    """Its records may have headers."""


class ReadsCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Kafka reads of partitions that the receiver owns: (topic, partition, offset, max bytes,
    leader epoch)."""

    rows: list[tuple[bytes, int, int, int, int]]
    max_bytes: int
    isolation: int


class AppendWait(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Answer when one of these partitions has grown past its offset, as a reader of its isolation
    sees it, when the records of one of the places (topic, partition, offset, bytes) are at hand, or
    after the time. The asker and its number name it."""

    partitions: list[tuple[bytes, int, int, int]]
    timeout_ms: int
    worker: int
    number: int
    places: list[tuple[bytes, int, int, int]] = []


class AppendWaitOver(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Nobody waits for the answer to that wait any more."""

    worker: int
    number: int


class OffsetCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A Kafka ListOffsets question for one partition."""

    topic: bytes
    partition: int
    timestamp_ms: int
    leader_epoch: int
    isolation: int = 0


class ProducersCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The producers of a partition that the receiver owns."""

    topic: bytes
    partition: int


class MarkerCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The end of a producer's transaction on a partition that the receiver owns; the answer is an
    error code."""

    topic: bytes
    partition: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commit: bool
    transaction_version: int = 0


class MachineCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """An event for a durable machine of the receiver; the answer is its encoded reply."""

    kind: bytes
    key: str
    event: bytes


class DeleteRecordsCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Have a log begin at an offset; the answer: (error, where it begins)."""

    topic: bytes
    partition: int
    offset: int


class LogSizesCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The answer: (topic, partition, bytes) of the declared topics' logs held there."""


class ShareFetchCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A member of a share group wants records of share-partitions that the receiver holds; the
    answer is (commits seen, (error, batches, acquired) of each)."""

    group_id: str
    member_id: str
    partitions: list[tuple[bytes, bytes, int]]
    max_bytes: int
    min_bytes: int
    max_records: int
    mode: int
    last_call: bool


class ShareWaitCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Answer when one of these share-partitions may have something for a member, or after the
    time."""

    group_id: str
    partitions: list[tuple[bytes, bytes, int]]
    seen: int
    timeout_ms: int


class GroupsListCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The groups that the receiver coordinates."""


class TransactionsListCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Ask for the transactional ids that the receiver coordinates."""


class LightTopicCall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Look up, create or delete a light topic at its owner."""

    topic: bytes
    action: str


class LightTopicById(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The name of a light topic of the receiver by its Kafka topic id (16 bytes); answered None if
    unknown."""

    topic_id: bytes


class LightTopicsList(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Names of light topics on the receiver, so many at most."""

    limit: int


class TopicsInUse(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Which of these topics does any group on the receiver remember? Answered with their names."""

    topics: list[bytes]


class Drained(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The sender stops, and waits for nothing of the receiver any more."""


class ShardsClosed(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Shards of the sender that take no records, for want of room; all others do. Answered, so that
    it knows what was sent before."""

    shards: list[int]


class TopicDropped(msgspec.Struct, frozen=True, tag=True, gc=False):
    """A declared topic is gone: free its partitions."""

    topic: bytes


Message = (
    InterestChange
    | InterestReset
    | ShareChange
    | InterestSettled
    | RetainedQuery
    | RetainedPages
    | ShareAgain
    | ShareTaken
    | ShareLoads
    | ReleasePacketIds
    | ExclusiveClaim
    | ExclusiveRelease
    | ProduceCall
    | ReadsCall
    | AppendWait
    | AppendWaitOver
    | OffsetCall
    | ProducersCall
    | MarkerCall
    | MachineCall
    | ShareFetchCall
    | ShareWaitCall
    | GroupsListCall
    | DeleteRecordsCall
    | LogSizesCall
    | TransactionsListCall
    | LightTopicCall
    | LightTopicById
    | LightTopicsList
    | TopicsInUse
    | TopicDropped
    | Drained
    | ShardsClosed
)


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """One MESSAGE frame: a call (`call` > 0), a notice (`call` = 0) or an answer (`answers`
    > 0)."""

    call: int
    answers: int
    fault: str = ""
    message: Message | None = None
    value: Any = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)
_parts_decoder = msgspec.msgpack.Decoder(list[SharePart])


def encode(envelope: Envelope) -> bytes:
    """One MESSAGE frame's payload."""
    return _encoder.encode(envelope)


def decode(payload: bytes | memoryview) -> Envelope:
    """Raises msgspec.ValidationError when the peer runs another version (the hello should have
    told)."""
    return _decoder.decode(payload)


def encode_parts(parts: list[SharePart]) -> bytes:
    """What follows the head of a SHARE frame."""
    return _encoder.encode(parts)


def decode_parts(payload: bytes | memoryview) -> list[SharePart]:
    """The parts of a SHARE frame."""
    return _parts_decoder.decode(payload)
