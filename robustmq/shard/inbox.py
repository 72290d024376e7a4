"""What waits for persistent sessions: entries in the log of the session's shard.

One inbox entry holds a delivered block's entries once, and beside each the sessions that it waits
for. A session queues references: (log position of the inbox entry, number of the record in it), one
integer each; the message is read back when its turn comes, from memory as a rule. The entry also
names the source shard and its log position: it is the cursor up to which this shard has heard of
the source, so a delivery that is repeated is recognised.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from robustmq.core import batches, blocks
from robustmq.errors import BrokerError, Fault
from robustmq.shard.wire import ShareRow
from robustmq.storage.shard_store import ShardStore

ORDINAL_BITS = 20
ORDINAL_MASK = (1 << ORDINAL_BITS) - 1
HELD = 1 << 63
"""A reference to a message in memory, for sessions that end with their connection."""

MAX_CACHED_ENTRIES = 1024
MAX_CACHED_BYTES = 16 * 1024 * 1024


class Recipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A session that gets records of an entry: with its granted QoS, RETAIN as published,
    identifiers.

    `indexes` None: every record. `flags` name its share group, if it gets them as a member (see
    `shares`).
    """

    client_id: bytes
    qos: int
    retain_as_published: bool
    identifiers: tuple[int, ...]
    indexes: tuple[int, ...] | None
    flags: int = 0


class InboxPart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One block entry and who waits for it."""

    entry: bytes
    recipients: list[Recipient]


class InboxEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of a log entry of kind 3. source_shard -1: of no log (a retained value, memory
    mode).

    `left` goes back to its owners, for other members of share groups. From `leaver` it takes the
    messages `withdrawn`; None: its session has ended.
    """

    source_shard: int
    source_position: int
    parts: list[InboxPart]
    left: list[ShareRow] = []
    leaver: bytes = b""
    withdrawn: tuple[int, ...] | None = ()


class Located(msgspec.Struct, frozen=True, gc=False):
    """A message: a record of a block entry."""

    entry: bytes
    index: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(InboxEntry)


def encode_inbox(entry: InboxEntry) -> bytes:
    """The payload of a log entry."""
    return _encoder.encode(entry)


def decode_inbox(payload: bytes | memoryview) -> InboxEntry:
    """The inbox entry in a payload."""
    return _decoder.decode(payload)


def reference(position: int, ordinal: int) -> int:
    """The reference of record `ordinal` (counted over all parts) of the inbox entry at
    `position`."""
    assert ordinal <= ORDINAL_MASK, "a block holds at most a million records"
    return position << ORDINAL_BITS | ordinal


class Inbox:
    """Finds messages again by their references."""

    def __init__(self, stores: dict[int, ShardStore]) -> None:
        self._stores = stores
        self._cache: OrderedDict[tuple[int, int], list[tuple[int, bytes]]] = OrderedDict()
        self._cached_bytes = 0
        self._held: dict[int, Located] = {}
        self._next_held = HELD

    def hold(self, entry: bytes, index: int) -> int:
        """A reference to a message in memory; `drop` it when its session is done with it."""
        self._next_held += 1
        self._held[self._next_held] = Located(entry, index)
        return self._next_held

    def drop(self, reference_: int) -> None:
        """Forget a message in memory; a reference to a log needs no forgetting."""
        self._held.pop(reference_, None)

    def remember(self, shard: int, position: int, parts: list[InboxPart]) -> list[int]:
        """Keep a new inbox entry at hand; the first ordinal of each part."""
        firsts = first_ordinals(parts)
        entries = [part.entry for part in parts]
        assert (shard, position) not in self._cache, "an entry is new, or was not found here"
        self._cache[shard, position] = list(zip(firsts, entries, strict=True))
        self._cached_bytes += sum(map(len, entries))
        while len(self._cache) > MAX_CACHED_ENTRIES or (
            self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1
        ):
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= sum(len(entry) for _, entry in oldest)
        return firsts

    def locate(self, shard: int, reference_: int) -> Located | None:
        """The message of a reference; None when the log no longer has it. Raises STORAGE_FAILED
        where the disk cannot read it now."""
        if reference_ & HELD:
            return self._held.get(reference_)
        position, ordinal = reference_ >> ORDINAL_BITS, reference_ & ORDINAL_MASK
        starts = self._cache.get((shard, position))
        if starts is None:
            try:
                _, payload = self._stores[shard].read_entry(position)
            except BrokerError as error:
                if error.fault is Fault.STORAGE_FAILED:
                    raise
                return None
            self.remember(shard, position, decode_inbox(payload).parts)
            starts = self._cache[shard, position]
        else:
            self._cache.move_to_end((shard, position))
        for first, entry in reversed(starts):
            if first <= ordinal:
                return Located(entry, ordinal - first)
        return None


def first_ordinals(parts: list[InboxPart]) -> list[int]:
    """The number of each part's first record, counted over all parts."""
    firsts: list[int] = []
    ordinal = 0
    for part in parts:
        firsts.append(ordinal)
        ordinal += record_count(part.entry)
    return firsts


def record_count(entry: bytes) -> int:
    """How many records a block entry holds."""
    return batches.record_count(entry, blocks.entries(entry)[0].batch_begin)
