"""The owner's side: what one worker does for the shards that it holds.

Offsets, order and the retained value of a topic are decided here and nowhere else. A block is
appended through the storage mode's engine, matched against the interest of the workers, and sent
once to each that wants something of it. Whoever asked for a confirmation gets it when the append is
committed and every worker with a matching persistent session has committed it too (invariant 1).

Delivery to a worker is a cursor on the shard's log. A worker that went away keeps its place: when
it is back, it is sent again what it had not confirmed, read from the log, before anything newer of
that shard.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

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
    ENTRY_ACK,
    ENTRY_DUP,
    ENTRY_KAFKA,
    ENTRY_PERSISTENT,
    ENTRY_QOS2,
    ENTRY_RETAIN,
    LIGHT,
    MEMORY,
    Placement,
)
from robustmq.shard.retained import clear_if_tombstone, retain
from robustmq.shard.rpc import Bus
from robustmq.storage.shard_store import BLOCK, DECLARED_MARKER, ShardStore

Confirm = Callable[[Fault | None], None]

MAX_REMEMBERED_PACKET_IDS = 65536
REMEMBERED_LOG_BYTES = 16 * 1024 * 1024
REPLAY_SLICE_BYTES = 1024 * 1024

REPEATED = -1


class LocalDelivery(Protocol):
    """What the owner asks of the subscriber's side on its own worker."""

    def deliver(
        self,
        shard: int,
        position: int,
        block: bytearray | bytes,
        replay: bool,
        done: Callable[[], None] | None,
    ) -> None:
        """Hand a block to the local subscribers; `done` when persistent sessions have it
        committed."""
        ...

    def deliver_share(self, delivery: wire.ShareDelivery, done: Callable[[], None] | None) -> None:
        """Hand records to members of a share group."""
        ...


class _Commit:
    """A confirmation that waits for the commit and for the workers that must have it."""

    __slots__ = ("confirm", "remaining")

    def __init__(self, confirm: Confirm) -> None:
        self.confirm = confirm
        self.remaining = 1

    def step(self) -> None:
        """One of those waited for has it."""
        self.remaining -= 1
        if not self.remaining:
            self.confirm(None)


class _Ticket:
    """A delivery that a worker has not confirmed."""

    __slots__ = ("commit", "position", "shard", "share")

    def __init__(
        self, shard: int, position: int, commit: _Commit | None, share: wire.ShareDelivery | None
    ) -> None:
        self.shard = shard
        self.position = position
        self.commit = commit
        self.share = share


class Owner:
    """Appends to the shards of this worker and tells the workers that want to hear."""

    def __init__(
        self,
        worker_id: int,
        worker_count: int,
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        partitions: Partitions,
        interest: OwnerInterest,
        delivery: LocalDelivery,
        bus: Bus,
        wall_ms: Callable[[], int],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        """`stores` are the shards held here; `later` runs a function in a following loop turn."""
        self._worker_id = worker_id
        self._workers = range(worker_count)
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._partitions = partitions
        self._interest = interest
        self._delivery = delivery
        self._bus = bus
        self._wall_ms = wall_ms
        self._later = later
        self._tickets: list[OrderedDict[int, _Ticket]] = [OrderedDict() for _ in self._workers]
        self._next_ticket = 1
        self._gathered: list[list[bytes | bytearray]] = [[] for _ in self._workers]
        self._has_gathered = False
        self._replaying: dict[tuple[int, int], int] = {}
        self._packet_ids: dict[int, OrderedDict[tuple[int, int], None]] = {}

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
        try:
            mask, same, flags = blocks.split(block, self._interest.masks, self._interest.mask)
            if flags & ENTRY_QOS2:
                block = self._without_repeated(shard, block)
            position = self._append(store, kind, block, source, sequence) if block else REPEATED
        except BrokerError as error:
            if confirm is not None:
                confirm(error.fault)
            return
        commit = None
        if confirm is None and not flags & ENTRY_PERSISTENT:
            self._commits.mark_lazy(shard, len(block))
        else:
            commit = self._commit_of(shard, flags, confirm)
        if position == REPEATED:
            return
        if flags & ENTRY_RETAIN:
            retain(store, block)
        if mask:
            self._tell(shard, position, block, mask, same, flags, commit)
        if self._interest.has_shares:
            self._tell_shares(shard, position, block, commit)

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
        commit = self._commit_of(shard, flags, confirm)
        base_offset = blocks.base_offset(block, 0)
        if topic in self._placement.compacted:
            clear_if_tombstone(self._stores[shard], topic, batch)
        shown = deliverable(block, self._placement)
        if shown:
            mask, same, _ = blocks.split(shown, self._interest.masks, self._interest.mask)
            if mask:
                self._tell(shard, position, shown, mask, same, flags, commit)
            if self._interest.has_shares:
                self._tell_shares(shard, position, shown, commit)
        return base_offset

    def _commit_of(self, shard: int, flags: int, confirm: Confirm | None) -> _Commit | None:
        """Mark the shard for this turn's commit; what waits for it."""
        commit = _Commit(confirm) if confirm is not None else None
        step = commit.step if commit is not None else None
        self._commits.mark(shard, bool(flags & ENTRY_PERSISTENT), step)
        return commit

    def _append(
        self, store: ShardStore, kind: int, block: bytearray, source: int, sequence: int
    ) -> int:
        """The log position, NO_POSITION in memory, or REPEATED when the frame was appended
        before."""
        if kind == LIGHT:
            return store.append_block(block, source, sequence, self._wall_ms())
        if kind == MEMORY:
            store.memory_append(block)
            return wire.NO_POSITION
        assert kind == DECLARED, "a block is light, memory or declared"
        if store.seen(source, sequence):
            return REPEATED
        marker = self._partitions.append_entries(block)
        return store.append(DECLARED_MARKER, marker, source, sequence, self._wall_ms())

    def _without_repeated(self, shard: int, block: bytearray) -> bytearray:
        """Leave out QoS 2 messages that a publisher sent again and that are in the log (4.3.3)."""
        known = self._packet_ids.get(shard)
        kept = bytearray()
        for entry in blocks.entries(block):
            if entry.flags & ENTRY_QOS2:
                key = (entry.origin, entry.packet_id)
                if entry.flags & ENTRY_DUP:
                    if known is None:
                        known = self._packet_ids[shard] = self._remembered(shard)
                    if key in known:
                        continue
                if known is None:
                    known = self._packet_ids[shard] = OrderedDict()
                known[key] = None
                if len(known) > MAX_REMEMBERED_PACKET_IDS:
                    known.popitem(last=False)
            kept += block[entry.begin : entry.end]
        return block if len(kept) == len(block) else kept

    def _remembered(self, shard: int) -> OrderedDict[tuple[int, int], None]:
        """The QoS 2 packet ids of the log's end, after a restart of the owner."""
        known: OrderedDict[tuple[int, int], None] = OrderedDict()
        store = self._stores[shard]
        for _, kind, payload in store.scan_last(REMEMBERED_LOG_BYTES):
            if kind == BLOCK:
                for entry in blocks.entries(payload):
                    if entry.flags & ENTRY_QOS2:
                        known[(entry.origin, entry.packet_id)] = None
        return known

    def release(self, message: wire.ReleasePacketIds) -> None:
        """A publisher's PUBREL has freed packet ids."""
        for known in self._packet_ids.values():
            for packet_id in message.packet_ids:
                known.pop((message.origin, packet_id), None)

    # -- telling the workers -----------------------------------------------------------------------

    def _tell(
        self,
        shard: int,
        position: int,
        block: bytes | bytearray,
        mask: int,
        same: bool,
        flags: int,
        commit: _Commit | None,
    ) -> None:
        if not flags & (ENTRY_ACK | ENTRY_KAFKA):
            self._gather(block, mask, same)
            return
        for worker in self._workers:
            bits = (mask >> (2 * worker)) & 3
            if not bits:
                continue
            bit = 1 << (2 * worker)
            part = block if same else blocks.select(block, self._interest.masks, bit)
            must = bool(bits & 2)
            wanted = commit if must else None
            if wanted is not None:
                wanted.remaining += 1
            if worker == self._worker_id:
                self._delivery.deliver(
                    shard, position, part, False, wanted.step if wanted else None
                )
                continue
            ticket = self._ticket(worker, shard, position, wanted, None) if must else 0
            if (worker, shard) not in self._replaying or position == wire.NO_POSITION:
                self._send(worker, shard, position, ticket, 0, part)

    def _gather(self, block: bytes | bytearray, mask: int, same: bool) -> None:
        """QoS 0 alone needs neither position nor ticket: it goes with that of other shards."""
        for worker in self._workers:
            if (mask >> (2 * worker)) & 3:
                bit = 1 << (2 * worker)
                part = block if same else blocks.select(block, self._interest.masks, bit)
                self._gathered[worker].append(part)
                self._has_gathered = True

    def flush(self) -> None:
        """Tell the workers what was gathered for them; the broker calls it once a turn."""
        if not self._has_gathered:
            return
        self._has_gathered = False
        for worker, parts in enumerate(self._gathered):
            if not parts:
                continue
            self._gathered[worker] = []
            block = parts[0] if len(parts) == 1 else b"".join(parts)
            if worker == self._worker_id:
                self._delivery.deliver(0, wire.NO_POSITION, block, False, None)
            else:
                self._send(worker, 0, wire.NO_POSITION, 0, 0, block)

    def _send(
        self,
        worker: int,
        shard: int,
        position: int,
        ticket: int,
        flags: int,
        block: bytes | bytearray,
    ) -> None:
        if ticket:
            flags |= wire.WANTS_CONFIRM
        head = wire.DELIVER_HEAD.pack(shard, flags, 0, position, ticket)
        self._bus.send(worker, wire.DELIVER, head, block)

    def _ticket(
        self,
        worker: int,
        shard: int,
        position: int,
        commit: _Commit | None,
        share: wire.ShareDelivery | None,
    ) -> int:
        ticket = self._next_ticket
        self._next_ticket += 1
        self._tickets[worker][ticket] = _Ticket(shard, position, commit, share)
        return ticket

    def delivered(self, worker: int, ticket: int) -> None:
        """A worker's persistent sessions have committed a delivery."""
        waiting = self._tickets[worker].pop(ticket, None)
        if waiting is not None and waiting.commit is not None:
            waiting.commit.step()

    def _tell_shares(
        self, shard: int, position: int, block: bytes | bytearray, commit: _Commit | None
    ) -> None:
        for entry in blocks.entries(block):
            shares = self._interest.shares(entry.topic)
            if not shares:
                continue
            count = batches.record_count(block, entry.batch_begin)
            for share in shares:
                chosen: dict[int, list[int]] = {}
                for index in range(count):
                    worker = share.pick()
                    if worker is not None:
                        chosen.setdefault(worker, []).append(index)
                data = bytes(block[entry.begin : entry.end])
                acked = bool(entry.flags & (ENTRY_ACK | ENTRY_KAFKA))
                for worker, indexes in chosen.items():
                    must = acked and worker in share.persistent
                    if must and commit is not None:
                        commit.remaining += 1
                    self._send_share(
                        worker,
                        wire.ShareDelivery(
                            share.group, share.filter, shard, position, 0, indexes, data
                        ),
                        commit if must else None,
                        must,
                    )

    def _send_share(
        self, worker: int, delivery: wire.ShareDelivery, commit: _Commit | None, must: bool
    ) -> None:
        if worker == self._worker_id:
            self._delivery.deliver_share(delivery, commit.step if commit is not None else None)
            return
        if must:
            ticket = self._ticket(worker, delivery.shard, delivery.position, commit, delivery)
            delivery = self._with_ticket(delivery, ticket)
            self._tickets[worker][ticket].share = delivery
        self._bus.send(worker, wire.MESSAGE, wire.encode(wire.Envelope(0, 0, "", delivery)))

    @staticmethod
    def _with_ticket(delivery: wire.ShareDelivery, ticket: int) -> wire.ShareDelivery:
        return wire.ShareDelivery(
            delivery.group,
            delivery.filter,
            delivery.shard,
            delivery.position,
            ticket,
            delivery.indexes,
            delivery.entry,
        )

    # -- a worker comes back -----------------------------------------------------------------------

    def replay(self, worker: int, cursors: dict[int, int]) -> None:
        """A worker is up and has told its interest: send it what it may have missed, shard by
        shard."""
        starts: dict[int, int] = {}
        for ticket, waiting in list(self._tickets[worker].items()):
            if waiting.share is not None:
                self._bus.send(
                    worker, wire.MESSAGE, wire.encode(wire.Envelope(0, 0, "", waiting.share))
                )
            elif waiting.position == wire.NO_POSITION:
                self.delivered(worker, ticket)
            else:
                starts[waiting.shard] = min(
                    waiting.position, starts.get(waiting.shard, waiting.position)
                )
        for shard, position in cursors.items():
            if shard in self._stores:
                starts[shard] = min(position, starts.get(shard, position))
        for shard, position in starts.items():
            running = (worker, shard) in self._replaying
            self._replaying[worker, shard] = position
            if not running:
                self._replay_slice(worker, shard)

    def _replay_slice(self, worker: int, shard: int) -> None:
        """Send one slice of the log's end; go on in a later turn until the end is reached."""
        if (worker, shard) not in self._replaying:
            return
        position = self._replaying[worker, shard]
        store = self._stores[shard]
        tickets = {
            waiting.position: ticket
            for ticket, waiting in self._tickets[worker].items()
            if waiting.shard == shard and waiting.share is None
        }
        persistent = 2 << (2 * worker)
        sent = 0
        for entry_position, kind, payload in store.scan(position):
            if sent > REPLAY_SLICE_BYTES:
                self._replaying[worker, shard] = entry_position
                self._later(lambda: self._replay_slice(worker, shard))
                return
            block: bytes | bytearray | memoryview = payload
            if kind == DECLARED_MARKER:
                block = self._partitions.read_marker(payload)
            elif kind != BLOCK:
                continue
            block = deliverable(block, self._placement)
            blocks.split(block, self._interest.masks, self._interest.mask)
            part = blocks.select(block, self._interest.masks, persistent)
            ticket = tickets.pop(entry_position, 0)
            if part:
                self._send(worker, shard, entry_position, ticket, wire.REPLAY, part)
                sent += len(part)
            elif ticket:
                self.delivered(worker, ticket)
        del self._replaying[worker, shard]

    def worker_down(self, worker: int) -> None:
        """A worker went away: its persistent sessions still count, its other clients do not."""
        self._interest.only_persistent(worker)
        for key in [key for key in self._replaying if key[0] == worker]:
            del self._replaying[key]

    def ends(self) -> dict[int, int]:
        """The end position of each shard held here."""
        return {shard: store.end_position for shard, store in self._stores.items()}
