"""Records of transactions on their way to MQTT: when they are committed, and not before (KIP-98).

What a transaction has written is in the log like anything else, but nobody is told of it. When its
COMMIT marker comes, the owner reads those records back from the log, a slice at a time, and tells
of them as if they came then: in the order of their offsets, one transaction of a partition after
the other, at the pace at which persistent sessions commit them. So the size of a transaction costs
no memory. An aborted one is never told of.

Each slice is told by the position of a RELEASE entry of its own in the shard's log, which names the
range of offsets; so a worker's cursor knows what it has heard, and what was missed is read again
from there. The first entry of a transaction, right before its marker, holds no range: it says that
the transaction is to be told, which is decided there and then, by who wants the topic. A crash
leaves it without its marker, or the transaction told of half: recovery drops the one and goes on
with the other, when all workers have said what they want.

Nothing of this happens for topics that no MQTT client wants, and that hold no retained values.
In mode memory there are no entries: what a crash interrupts is lost with its records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from robustmq.core import batches
from robustmq.core.hashing import topic_key
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.kafka.markers import read_header
from robustmq.shard import wire
from robustmq.shard.batch_ranges import each
from robustmq.shard.interest import OwnerInterest
from robustmq.shard.owner import Owner
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import ENTRY_MEMORY, Placement
from robustmq.storage.engine import ReadResult, is_away
from robustmq.storage.shard_store import RELEASE, ShardStore

SLICE_BYTES = 256 * 1024

Key = tuple[bytes, int]


class Release(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of a log entry of kind 13: records of a producer from `begin` to `end` (the first
    offset behind them) are told here. Both are equal in the entry that only announces them."""

    topic: bytes
    partition: int
    topic_id: bytes
    producer_id: int
    marker_offset: int
    begin: int
    end: int
    over: bool = False
    """This is the last of the transaction."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Release)
_rows = msgspec.msgpack.Decoder(list[Release])


class Releases:
    """The committed transactions that MQTT is told of, by partition, in their order."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        partitions: Partitions,
        interest: OwnerInterest,
        owner: Owner,
        wall_ms: Callable[[], int],
        later: Callable[[Callable[[], None]], object],
        turn: Callable[[], None],
    ) -> None:
        """`later` runs a function in a following turn; `turn` sees that this one has an end."""
        self._placement = placement
        self._stores = stores
        self._partitions = partitions
        self._interest = interest
        self._owner = owner
        self._wall_ms = wall_ms
        self._later = later
        self._turn = turn
        self._queues: dict[Key, deque[Release]] = {}
        self._running: set[Key] = set()
        self._unmarked: set[tuple[Key, int]] = set()
        """Announced, and their marker is not committed yet."""
        self._complete = False
        # Partitions whose records could not be read.
        self._resting: list[Key] = []
        partitions.read_release = self.block

    # -- a transaction is committed ----------------------------------------------------------------

    def wanted(self, topic: bytes, retains: bool) -> bool:
        """Must MQTT hear of what a transaction has written to a topic?"""
        if retains or not self._complete or self._placement.is_stream(topic):
            return True
        mask = self._interest.masks.find(topic_key(topic))
        return bool(self._interest.mask(topic) if mask is None else mask)

    def announce(
        self, topic: bytes, partition: int, producer_id: int, first_offset: int, marker: int
    ) -> Release:
        """A transaction is about to get its marker, at the offset `marker`."""
        topic_id = self._partitions.topic_id(topic) or b""
        release = Release(
            topic, partition, topic_id, producer_id, marker, first_offset, first_offset
        )
        self._append(release)
        key = (topic, partition)
        self._unmarked.add((key, marker))
        self._queues.setdefault(key, deque()).append(release)
        return release

    def begin(self, release: Release) -> None:
        """The marker is committed."""
        key = (release.topic, release.partition)
        self._unmarked.discard((key, release.marker_offset))
        self._go_on(key)

    def withdraw(self, release: Release) -> None:
        """The marker could not be appended."""
        key = (release.topic, release.partition)
        self._unmarked.discard((key, release.marker_offset))
        self._queues[key].remove(release)

    def _append(self, release: Release) -> int:
        _, flags = self._placement.produced(release.topic, -1)
        if flags & ENTRY_MEMORY:
            return wire.NO_POSITION
        shard = self._placement.shard(release.topic, release.partition)
        payload = _encoder.encode(release)
        return self._stores[shard].append(RELEASE, payload, 0, 0, self._wall_ms())

    # -- slices ------------------------------------------------------------------------------------

    def _go_on(self, key: Key) -> None:
        if self._complete and key not in self._running and self._queues.get(key):
            self._running.add(key)
            self._later(lambda: self._slice(key))
            self._turn()

    def _slice(self, key: Key) -> None:
        """Tell of the next records of the transaction whose turn it is."""
        queue = self._queues.get(key)
        if not queue or (key, queue[0].marker_offset) in self._unmarked:
            self._running.discard(key)
            if not queue:
                self._queues.pop(key, None)
            return
        release = queue[0]
        try:
            found, following = self._read(release, release.end)
        except BrokerError:
            # With a later tick.
            self._resting.append(key)
            return
        begin = found[0][0] if found else following
        release = msgspec.structs.replace(
            release, begin=begin, end=following, over=following >= release.marker_offset
        )
        if found or release.over:
            self._tell(key, release, self._block(release, found))
        else:
            queue[0] = release
            self._next(key)

    def _tell(self, key: Key, release: Release, block: bytearray) -> None:
        shard = self._placement.shard(*key)

        def retained() -> None:
            queue = self._queues.get(key)
            if not queue:
                # Its topic was deleted.
                self._running.discard(key)
                return
            position = self._append(release)
            _, flags = self._placement.produced(release.topic, -1)
            if release.over:
                queue.popleft()
            else:
                queue[0] = release
            self._owner.tell_released(shard, position, flags, block, lambda fault: self._next(key))
            self._turn()

        self._owner.retain_released(block, retained)

    def _next(self, key: Key) -> None:
        self._later(lambda: self._slice(key))
        self._turn()

    def _read(self, release: Release, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        """The producer's batches of one slice from an offset on, with their offsets, and where the
        next slice begins: at the marker, if nothing is left. Raises STORAGE_FAILED when what is
        in the object store is not at hand."""
        result = self._stored(release.topic, release.partition, offset)
        marker = release.marker_offset
        if result is not None and is_away(result):
            raise BrokerError(Fault.STORAGE_FAILED, "the records are in the object store")
        if result is None or (result.out_of_range and offset >= result.start_offset):
            return [], marker
        if result.out_of_range:
            # The log begins behind it now: what is gone is not told.
            return [], min(result.start_offset, marker)
        if result.next_offset > offset:
            # What a bad disk has lost is not told.
            return [], min(result.next_offset, marker)
        found: list[tuple[int, bytes]] = []
        following = offset
        for buffer in result.buffers:
            for begin, end, base_offset in each(buffer):
                if base_offset >= marker:
                    return found, marker
                info = read_header(buffer[begin:end])
                following = base_offset + info.last_offset_delta + 1
                control = info.attributes & batches.CONTROL
                if info.producer_id != release.producer_id or control or base_offset < offset:
                    continue
                if info.attributes & batches.TRANSACTIONAL:
                    found.append((base_offset, bytes(buffer[begin:end])))
        return found, following if following > offset else marker

    def _stored(self, topic: bytes, partition: int, offset: int) -> ReadResult | None:
        log = self._partitions.get(topic, partition)
        if log is not None:
            return log.read(offset, SLICE_BYTES)
        store = self._stores.get(self._placement.shard(topic, partition))
        if store is None or topic in self._placement.declared or not store.light.exists(topic):
            return None
        return store.light.read(topic, offset, SLICE_BYTES)

    def _block(self, release: Release, found: list[tuple[int, bytes]]) -> bytearray:
        _, flags = self._placement.produced(release.topic, -1)
        block = bytearray()
        for _, batch in found:
            block += build_entry(release.topic, b"", release.partition, flags, 0, 0, batch)
        return block

    def block(self, payload: bytes | memoryview) -> bytearray:
        """What a RELEASE entry tells, read back from the log; what is gone is left out."""
        release = _decoder.decode(payload)
        if release.topic_id and release.topic_id != self._partitions.topic_id(release.topic):
            return bytearray()
        found: list[tuple[int, bytes]] = []
        offset = release.begin
        while offset < release.end:
            more, offset = self._read(release, offset)
            found += [row for row in more if row[0] < release.end]
        return self._block(release, found)

    # -- the start, and the end --------------------------------------------------------------------

    def on_entry(self, payload: bytes | memoryview) -> None:
        """Recovery: a RELEASE entry, in the log's order."""
        release = _decoder.decode(payload)
        queue = self._queues.setdefault((release.topic, release.partition), deque())
        for at, known in enumerate(queue):
            if known.marker_offset == release.marker_offset:
                if release.over:
                    del queue[at]
                else:
                    queue[at] = release
                return
        if not release.over:
            queue.append(release)

    def snapshot(self, shard: int) -> bytes:
        """For a checkpoint: what a shard has yet to tell."""
        rows = [
            release
            for key, queue in self._queues.items()
            if self._placement.shard(*key) == shard
            for release in queue
            if not self._placement.produced(release.topic, -1)[1] & ENTRY_MEMORY
        ]
        return _encoder.encode(rows)

    def restore(self, snapshot: bytes) -> None:
        """Recovery: what a checkpoint says."""
        for release in _rows.decode(snapshot):
            self._queues.setdefault((release.topic, release.partition), deque()).append(release)

    def recovered(self) -> None:
        """All partitions are open: what the crash left without its marker is not committed."""
        for key, queue in list(self._queues.items()):
            kept = deque(release for release in queue if self._is_committed(release))
            if kept:
                self._queues[key] = kept
            else:
                del self._queues[key]

    def _is_committed(self, release: Release) -> bool:
        if release.topic_id != (self._partitions.topic_id(release.topic) or b""):
            return False
        result = self._stored(release.topic, release.partition, release.marker_offset)
        if result is not None and is_away(result):
            # What is in the object store was committed.
            return True
        if result is None or not result.buffers:
            return False
        info = read_header(result.buffers[0])
        return (
            info.base_offset == release.marker_offset
            and info.producer_id == release.producer_id
            and bool(info.attributes & batches.CONTROL)
        )

    def complete(self) -> None:
        """Every worker has said what its clients want."""
        self._complete = True
        for key in list(self._queues):
            self._go_on(key)

    def tick(self) -> None:
        """What could not be read is tried again."""
        resting, self._resting = self._resting, []
        for key in resting:
            self._next(key)

    def forget(self, topic: bytes) -> None:
        """A topic was deleted."""
        for key in [key for key in self._queues if key[0] == topic]:
            del self._queues[key]

    @property
    def idle(self) -> bool:
        """True when nothing waits to be told."""
        return not self._queues
