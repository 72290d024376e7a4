"""The owner's side: what one worker does for the shards that it holds.

Offsets, order and the retained value of a topic are decided here and nowhere else. A block is
appended through the storage mode's engine, matched against the interest of the workers, and told
once to each that wants something of it (`telling`). Whoever asked for a confirmation gets it when
the append is committed and every worker with a matching persistent session has committed it too
(invariant 1). What is sent again is recognised: a worker's frames by their numbers, a client's QoS
2 messages by their names (`received`).
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.shard import wire
from robustmq.shard.commits import Commits
from robustmq.shard.deliverable import deliverable
from robustmq.shard.interest import OwnerInterest
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import (
    DECLARED,
    DELAYED,
    ENTRY_PERSISTENT,
    ENTRY_QOS2,
    ENTRY_RETAIN,
    LIGHT,
    MEMORY,
    Placement,
)
from robustmq.shard.received import Name, ReceivedIds
from robustmq.shard.retained import retain, tombstones
from robustmq.shard.telling import Commit, Confirm, Telling
from robustmq.storage.shard_store import DECLARED_MARKER, DELAYED_BLOCK, ShardStore

REPEATED = -1


class Owner:
    """Appends to the shards of this worker and has the workers told that want to hear."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        partitions: Partitions,
        interest: OwnerInterest,
        telling: Telling,
        wall_ms: Callable[[], int],
        notify: Callable[[int, wire.Message], object],
        count: Callable[[str, int], None],
    ) -> None:
        """`stores` are the shards held here; `notify(worker, message)` tells another worker."""
        self._count = count
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._partitions = partitions
        self._interest = interest
        self._telling = telling
        self._wall_ms = wall_ms
        self._notify = notify
        self._received: dict[int, ReceivedIds] = {}
        self.max_delayed = 0
        """Delayed messages that the shards held here keep at most."""
        self.retained_expiry_s = 0
        """How long values are retained that do not say it themselves; 0: for ever."""
        self.full = False
        """The disk has no room: nothing is appended until it has."""

    # -- appending ---------------------------------------------------------------------------------

    def publish(
        self,
        shard: int,
        kind: int,
        block: bytearray,
        source: int,
        sequence: int,
        confirm: Confirm | None,
    ) -> None:
        """Append a block of one class to a shard held here and deliver it."""
        store = self._stores[shard]
        fresh: list[Name] = []
        try:
            if kind == DELAYED:
                mask, same, flags = 0, True, blocks.all_flags(block)
            else:
                mask, same, flags = blocks.split(block, self._interest.masks, self._interest.mask)
            if flags & ENTRY_QOS2:
                block, fresh = self.received(shard).without_repeated(block)
            position = self._append(store, kind, block, source, sequence) if block else REPEATED
        except BrokerError as error:
            if confirm is not None:
                confirm(error.fault)
            return
        if fresh:
            self.received(shard).remember(fresh)
        if position == REPEATED:
            if confirm is not None:
                self._mark(shard, flags, block, Commit(confirm))
            return
        commit = Commit(confirm) if confirm is not None else None
        if kind == DELAYED:
            self._mark(shard, flags, block, commit)
            return
        if flags & ENTRY_RETAIN:
            retain(store, block, self.retained_expiry_s)
        self._tell(shard, position, block, mask, same, flags, commit, block)

    def append_batch(
        self,
        shard: int,
        kind: int,
        topic: bytes,
        partition: int,
        flags: int,
        batch: bytes,
        confirm: Confirm | None,
    ) -> int:
        """Append a Kafka batch to a shard held here and deliver it; its base offset. Raises
        BrokerError."""
        block = bytearray(build_entry(topic, b"", partition, flags, 0, 0, batch))
        position = self._append(self._stores[shard], kind, block, 0, 0)
        commit = Commit(confirm) if confirm is not None else None
        base_offset = blocks.base_offset(block, 0)
        if topic in self._placement.compacted:
            topic_of = self._placement.topic_of_record
            for cleared in tombstones(batch, lambda key: topic_of(topic, key)):
                self.clear_retained(cleared)
        shown = deliverable(block, self._placement)
        mask, same = 0, True
        if shown:
            mask, same, _ = blocks.split(shown, self._interest.masks, self._interest.mask)
        self._tell(shard, position, shown, mask, same, flags, commit, block)
        return base_offset

    def clear_retained(self, topic: bytes) -> None:
        """Clear a retained value where it is kept: at the home of its topic."""
        shard = self._placement.home(topic).shard
        store = self._stores.get(shard)
        if store is not None:
            store.retained.set(topic, None)
            self._commits.mark(shard)
            return
        self._notify(self._placement.shard_owner(shard), wire.ClearRetained(topic))

    def _tell(
        self,
        shard: int,
        position: int,
        shown: bytes | bytearray,
        mask: int,
        same: bool,
        flags: int,
        commit: Commit | None,
        block: bytearray,
    ) -> None:
        """Mark the shard for the turn's commit, and tell who wants the block: now, or then."""
        telling = self._telling
        if mask and position != wire.NO_POSITION and telling.must_wait(shard, mask, flags):
            sync = bool(flags & ENTRY_PERSISTENT)
            telling.after_commit(shard, sync, position, shown, mask, same, flags, commit)
            return
        self._mark(shard, flags, block, commit)
        if mask:
            # Not committed: told by no position, so that no cursor points at what a crash undoes.
            telling.tell(shard, wire.NO_POSITION, shown, mask, same, flags, commit)

    def _mark(self, shard: int, flags: int, block: bytearray, commit: Commit | None) -> None:
        """Mark the shard for the turn's commit, or a later one when nobody waits for it."""
        if commit is None and not flags & ENTRY_PERSISTENT:
            self._commits.mark_lazy(shard, len(block))
        else:
            step = commit.step if commit is not None else None
            self._commits.mark(shard, bool(flags & ENTRY_PERSISTENT), step)

    def _append(
        self, store: ShardStore, kind: int, block: bytearray, source: int, sequence: int
    ) -> int:
        """The log position, NO_POSITION in memory, or REPEATED when the frame was appended
        before."""
        if self.full and kind != MEMORY:
            raise BrokerError(Fault.STORAGE_FULL, "the disk is full")
        if kind == LIGHT:
            return store.append_block(block, source, sequence, self._wall_ms())
        if kind == MEMORY:
            new = store.memory_append(block, source, sequence)
            return wire.NO_POSITION if new else REPEATED
        if kind == DELAYED:
            return self._append_delayed(store, block, source, sequence)
        assert kind == DECLARED, "a block is light, memory or declared"
        if store.seen(source, sequence):
            return REPEATED
        marker = self._partitions.append_entries(block)
        return store.append(DECLARED_MARKER, marker, source, sequence, self._wall_ms())

    def _append_delayed(
        self, store: ShardStore, block: bytearray, source: int, sequence: int
    ) -> int:
        """All of a block waits, or none: its publishers hear one answer."""
        if store.seen(source, sequence):
            return REPEATED
        brought = sum(
            batches.record_count(block, entry.batch_begin) for entry in blocks.entries(block)
        )
        if brought + sum(one.delayed.count for one in self._stores.values()) > self.max_delayed:
            self._count("mqtt_delayed_refused", brought)
            raise BrokerError(Fault.QUOTA_EXCEEDED, "too many delayed messages")
        return store.append(DELAYED_BLOCK, block, source, sequence, self._wall_ms())

    def committed(self, shard: int, then: Callable[[], None]) -> None:
        """Call back when all that the shard holds now is committed."""
        self._commits.mark(shard, False, then)

    # -- QoS 2 messages that are sent again --------------------------------------------------------

    def received(self, shard: int) -> ReceivedIds:
        """The QoS 2 messages that a shard's log holds."""
        found = self._received.get(shard)
        if found is None:
            found = self._received[shard] = ReceivedIds()
        return found

    def release(self, message: wire.ReleasePacketIds) -> None:
        """A publisher's PUBREL has freed packet ids."""
        for known in self._received.values():
            known.forget(message.origin, message.packet_ids)
