"""The owner's side: what one worker does for the shards that it holds.

Offsets, order and the retained value of a topic are decided here and nowhere else. A block is
appended through the storage mode's engine, matched against the interest of the workers, and told
once to each that wants something of it (`telling`). Whoever asked for a confirmation gets it when
the append is committed and every worker with a matching persistent session has committed it too
(invariant 1). What is sent again is recognised: a worker's frames by their numbers, a client's QoS
2 messages by their names (`received`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from robustmq.core import batches, blocks
from robustmq.core.hashing import topic_key
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.shard import wire
from robustmq.shard.commits import Commits, LogKey
from robustmq.shard.deliverable import deliverable
from robustmq.shard.interest import SHARED, OwnerInterest
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import (
    DECLARED,
    DELAYED,
    ENTRY_ACK,
    ENTRY_KAFKA,
    ENTRY_MEMORY,
    ENTRY_PERSISTENT,
    ENTRY_QOS2,
    ENTRY_RETAIN,
    LIGHT,
    MEMORY,
    RETAINED,
    SYS_PREFIX,
    Placement,
)
from robustmq.shard.received import Name, ReceivedIds
from robustmq.shard.retained import kept, produced, retain
from robustmq.shard.room import Room
from robustmq.shard.telling import Commit, Confirm, Telling
from robustmq.storage.shard_store import (
    DELAYED_BLOCK,
    RETAINED_BLOCK,
    ShardStore,
)

REPEATED = -1
_MORE_THAN_APPENDED = ENTRY_ACK | ENTRY_KAFKA | ENTRY_PERSISTENT | ENTRY_QOS2 | ENTRY_RETAIN


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
        pass_retained: Callable[[bytes, Callable[[], None]], None],
        count: Callable[[str, int], None],
        room: Room,
    ) -> None:
        """`stores` are the shards held here; `pass_retained(entry, done)` brings a retained value
        to the home of its topic."""
        self._pass_retained = pass_retained
        self._count = count
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._partitions = partitions
        self._interest = interest
        self._telling = telling
        self._wall_ms = wall_ms
        self.room = room
        self._received: dict[int, ReceivedIds] = {}
        self.max_delayed = 0
        """Delayed messages that the shards held here keep at most."""
        self.retained_expiry_s = 0
        """How long values are retained that do not say it themselves; 0: for ever."""
        self.max_retained = 0
        """Retained values of the node, at most; 0: no bound."""
        self.max_retained_bytes = 0
        self.retained_elsewhere = 0
        """Retained values of the node's other workers, as of the last second."""
        self.retained_refused = 0

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
            if kind in (DELAYED, RETAINED):
                mask, same, flags = 0, True, blocks.all_flags(block)
            else:
                mask, same, flags = blocks.split(block, self._interest.masks, self._interest.mask)
                if (
                    kind == LIGHT
                    and confirm is None
                    and not (flags & _MORE_THAN_APPENDED or mask & SHARED)
                    and self.room.open
                    and not self._telling.holds(shard)
                ):
                    self._append_at_once(store, shard, block, source, sequence, mask, same)
                    return
            flags = _weakest(kind, block, flags)
            if flags & ENTRY_QOS2:
                block, fresh = self.received(shard).without_repeated(block)
            if flags & ENTRY_RETAIN and kind != DELAYED:
                self._check_retained(store, block, source, sequence)
            position = self._append(shard, kind, block, source, sequence) if block else REPEATED
        except BrokerError as error:
            if confirm is not None:
                confirm(error.fault)
            return
        if fresh:
            self.received(shard).remember(fresh)
        if position == REPEATED:
            if confirm is not None:
                self._mark(shard, flags, len(block), Commit(confirm))
            return
        commit = Commit(confirm) if confirm is not None else None
        self._await_moves(kind, block, commit)
        if flags & ENTRY_RETAIN and kind != DELAYED:
            retain(store, block, self.retained_expiry_s)
        if kind in (DELAYED, RETAINED):
            self._mark(shard, flags, len(block), commit)
            return
        self._tell(shard, position, block, mask, same, flags, commit, block)

    def _append_at_once(
        self,
        store: ShardStore,
        shard: int,
        block: bytearray,
        source: int,
        sequence: int,
        mask: int,
        same: bool,
    ) -> None:
        """The way of most messages: QoS 0 of light topics, for which nobody waits."""
        if store.append_block(block, source, sequence, self._wall_ms()) == REPEATED:
            return
        self._commits.appended(shard, lambda: logs_of(block))
        self._commits.mark_lazy(shard, len(block))
        if mask:
            self._telling.gather(shard, block, mask, same)

    def append_batch(
        self,
        shard: int,
        kind: int,
        topic: bytes,
        partition: int,
        flags: int,
        batch: bytearray,
        headers: bool,
        confirm: Confirm | None,
        told: bool = True,
    ) -> int:
        """Append a Kafka batch to a shard held here and deliver it; its base offset. The batch is
        the log's from now on; `headers`: its records may have some. What is not `told` waits for
        the end of its transaction. Raises BrokerError."""
        commit = Commit(confirm) if confirm is not None else None
        retains = told and (headers or topic in self._placement.compacted)
        if kind == DECLARED and not self._wanted(topic):
            self.room.check(shard, 0)
            store, now_ms = self._stores[shard], self._wall_ms()
            base_offset = self._partitions.append_batch(
                store, topic, partition, flags, batch, now_ms
            )
            self._commits.appended(shard, lambda: ((topic, partition),))
            self._await_move(topic, partition, commit)
            if retains:
                self._retain_produced(topic, batch, commit)
            self._mark(shard, flags, len(batch), commit)
            return base_offset
        block = bytearray(build_entry(topic, b"", partition, flags, 0, 0, bytes(batch)))
        position = self._append(shard, kind, block, 0, 0)
        self._await_moves(kind, block, commit)
        base_offset = blocks.base_offset(block, 0)
        if not told:
            self._mark(shard, flags, len(block), commit)
            return base_offset
        if retains:
            self._retain_produced(topic, batch, commit)
        shown = deliverable(block, self._placement, True)
        mask, same = 0, True
        if shown:
            mask, same, _ = blocks.split(shown, self._interest.masks, self._interest.mask)
        self._tell(shard, position, shown, mask, same, flags, commit, block)
        return base_offset

    def retain_released(self, block: bytes | bytearray, done: Callable[[], None]) -> None:
        """A transaction is committed: what the records of this block change of retained values is
        changed; then go on."""
        commit = Commit(lambda fault: done())
        for entry in blocks.entries(block):
            self._retain_produced(entry.topic, block[entry.batch_begin : entry.end], commit)
        commit.step()

    def tell_released(
        self, shard: int, position: int, flags: int, block: bytearray, confirm: Confirm
    ) -> None:
        """A transaction is committed: tell of these records of it, by the position of their entry
        in the log; confirmed as an append is."""
        shown = deliverable(block, self._placement, True)
        mask, same = 0, True
        if shown:
            mask, same, _ = blocks.split(shown, self._interest.masks, self._interest.mask)
        self._tell(shard, position, shown, mask, same, flags, Commit(confirm), block)

    def _wanted(self, topic: bytes) -> bool:
        """May anybody over MQTT want what Kafka writes to a topic?"""
        if self._placement.is_stream(topic):
            return True
        mask = self._interest.masks.find(topic_key(topic))
        return bool(self._interest.mask(topic) if mask is None else mask)

    def _retain_produced(
        self, topic: bytes, batch: bytes | bytearray, commit: Commit | None
    ) -> None:
        """What Kafka produced changes retained values, each at the home of its topic; `commit`
        waits for it."""
        placement = self._placement
        try:
            entries = produced(
                batch,
                topic in placement.compacted,
                lambda key: placement.topic_of_record(topic, key),
            )
        except BrokerError:
            # The producer's checksum is right and its records are not sound: no MQTT messages.
            return
        for entry in entries:
            if commit is not None:
                commit.remaining += 1
            self._pass_retained(entry, commit.step if commit is not None else lambda: None)
        if entries:
            # Its turn must come, also when nobody waits for the batch.
            self._commits.wake()

    def _check_retained(
        self, store: ShardStore, block: bytearray, source: int, sequence: int
    ) -> None:
        """Refuse a block with a value that is too large, or for whose topic there is no room. Where
        there is a bound such a message has a block of its own."""
        if not (self.max_retained or self.max_retained_bytes) or store.seen(source, sequence):
            return
        held = self.retained_elsewhere + sum(one.retained.count for one in self._stores.values())
        for entry, record in kept(block):
            size = len(record.value or b"")
            if not size or entry.topic.startswith(SYS_PREFIX):
                continue
            no_room = (
                0 < self.max_retained <= held and store.retained.get(entry.topic) is None
            ) or 0 < self.max_retained_bytes < size
            if no_room:
                self.retained_refused += 1
                self._count("mqtt_retained_refused", 1)
                raise BrokerError(Fault.QUOTA_EXCEEDED, "no room for a retained message")

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
        self._mark(shard, flags, len(block), commit)
        if mask:
            # Not committed: told by no position, so that no cursor points at what a crash undoes.
            telling.tell(shard, wire.NO_POSITION, shown, mask, same, flags, commit)

    def _mark(self, shard: int, flags: int, size: int, commit: Commit | None) -> None:
        """Mark the shard for the turn's commit, or a later one when nobody waits for it; of what is
        kept in memory alone nobody waits for that."""
        if flags & ENTRY_MEMORY:
            self._commits.mark_lazy(shard, size)
            if commit is not None:
                self._commits.accept(commit.step)
            return
        if commit is None and not flags & ENTRY_PERSISTENT:
            self._commits.mark_lazy(shard, size)
        else:
            step = commit.step if commit is not None else None
            self._commits.mark(shard, bool(flags & ENTRY_PERSISTENT), step)

    def _append(self, shard: int, kind: int, block: bytearray, source: int, sequence: int) -> int:
        """The log position, NO_POSITION in memory, or REPEATED when the frame was appended
        before."""
        store = self._stores[shard]
        if kind != MEMORY and not self.room.open and not store.seen(source, sequence):
            self.room.check(shard, source)
        if kind in (LIGHT, MEMORY, DECLARED):
            self._commits.appended(shard, lambda: logs_of(block))
        if kind == LIGHT:
            return store.append_block(block, source, sequence, self._wall_ms())
        if kind == MEMORY:
            new = store.memory_append(block, source, sequence)
            return wire.NO_POSITION if new else REPEATED
        if kind == DELAYED:
            return self._append_delayed(store, block, source, sequence)
        if kind == RETAINED:
            return store.append(RETAINED_BLOCK, block, source, sequence, self._wall_ms())
        assert kind == DECLARED, "a block is light, memory or declared"
        if store.seen(source, sequence):
            return REPEATED
        return self._partitions.append_entries(store, block, source, sequence, self._wall_ms())

    def _await_moves(self, kind: int, block: bytearray, commit: Commit | None) -> None:
        """Partitions that have still to leave the memory: who wants to hear of the commit hears
        when they have."""
        if commit is not None and kind == DECLARED and self._partitions.settling:
            for entry in blocks.entries(block):
                self._await_move(entry.log_name or entry.topic, entry.partition, commit)

    def _await_move(self, topic: bytes, partition: int, commit: Commit | None) -> None:
        if commit is not None and self._partitions.settling:
            settled = self._partitions.settled(topic, partition)
            if settled is not None:
                commit.remaining += 1
                settled.when_settled(commit.step)

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


def logs_of(block: bytes | bytearray) -> Iterator[LogKey]:
    """The logs that the entries of a block go to."""
    for entry in blocks.entries(block):
        yield entry.log_name or entry.topic, entry.partition


def _weakest(kind: int, block: bytes | bytearray, flags: int) -> int:
    """The flags of a block, with that of mode memory only when all of it is of that mode."""
    if not flags & ENTRY_MEMORY or kind != DECLARED:
        return flags
    if all(entry.flags & ENTRY_MEMORY for entry in blocks.entries(block)):
        return flags
    return flags & ~ENTRY_MEMORY
