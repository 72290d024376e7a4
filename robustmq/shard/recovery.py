"""Recovery of one worker: what the shards' logs say, fed back to the machines.

Snapshots come first, then the log entries behind the checkpoint in their order; each machine gets
those that its snapshot has not (`snapshots`). Sessions and groups live in
the shard of their name, so their records are in order however many shards there are; an inbox entry
comes after the records of the sessions that it names.
"""

from __future__ import annotations

from robustmq.core import blocks
from robustmq.errors import BrokerError
from robustmq.shard.dealing import Dealing
from robustmq.shard.delivery import Delivery
from robustmq.shard.inbox import InboxEntry, decode_inbox
from robustmq.shard.left_behind import LeftBehind
from robustmq.shard.machines import MachineEntry, decode_machine_entry
from robustmq.shard.owner import Owner
from robustmq.shard.partitions import Partitions, producer_part
from robustmq.shard.placement import ENTRY_KAFKA, ENTRY_QOS2, ENTRY_RETAIN, SESSION_KIND, WILL_KIND
from robustmq.shard.producer_states import ProducerStates
from robustmq.shard.received import packet_name
from robustmq.shard.releases import Releases
from robustmq.shard.retained import retain
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.sessions import Sessions
from robustmq.shard.snapshots import (
    CURSORS_KIND,
    DEALING_KIND,
    LEFT_KIND,
    RECEIVED_KIND,
    RELEASES_KIND,
    decode_snapshot,
)
from robustmq.shard.subscribing import decode_cursors
from robustmq.storage.markers import MarkedAppend
from robustmq.storage.shard_log import HEAD
from robustmq.storage.shard_store import (
    BLOCK,
    CURSOR,
    DEALT,
    DECLARED_MARKER,
    DELAYED_BLOCK,
    INBOX,
    MACHINE,
    PARTITION_ENDS,
    RELEASE,
    RETAINED_BLOCK,
    SHARED_BLOCK,
    TOPIC_DELETED,
    ShardStore,
)
from robustmq.storage.stored_producers import StoredProducers


class Recovery:
    """Takes what a shard store finds when it is opened."""

    def __init__(
        self,
        machines: MachineRuntime,
        sessions: Sessions,
        delivery: Delivery,
        owner: Owner,
        partitions: Partitions,
        dealing: Dealing,
        left: LeftBehind,
        producers: ProducerStates,
        releases: Releases,
    ) -> None:
        self._machines = machines
        self._sessions = sessions
        self._delivery = delivery
        self._owner = owner
        self._partitions = partitions
        self._dealing = dealing
        self._left = left
        self._producers = producers
        self._releases = releases
        self._retained: list[tuple[int, int, bytes]] = []
        self._taken: dict[tuple[bytes, bytes], int] = {}
        """Up to where the snapshots of the shard's machines have what the log has of them."""
        self.shard = -1

    def on_open(self, stored: StoredProducers) -> None:
        """The shard is about to be recovered."""
        self._taken.clear()
        self._producers.opened(self.shard, stored)

    def on_snapshot(self, kind: bytes, key: bytes, value: bytes) -> None:
        """A machine's snapshot."""
        if kind == CURSORS_KIND:
            self._cursors(value)
        elif kind == RECEIVED_KIND:
            self._owner.received(self.shard).restore(value)
        elif kind == DEALING_KIND:
            self._dealing.restore(self.shard, value)
        elif kind == RELEASES_KIND:
            self._releases.restore(value)
        elif kind == LEFT_KIND:
            self._left.restore(self.shard, value)
        else:
            found = decode_snapshot(value)
            self._taken[kind, key] = found.taken_at
            if found.records is not None:
                self._replay(kind, key, found.records)

    def on_entry(self, kind: int, position: int, payload: bytes, fresh: bool) -> None:
        """An entry of the log that is not about light topics alone. `fresh`: LevelDB may lack the
        retained values that it carries."""
        if kind == MACHINE:
            self._machine(position, decode_machine_entry(payload))
        elif kind == INBOX:
            self._inbox(position, decode_inbox(payload))
        elif kind == DEALT:
            self._dealing.on_entry(self.shard, payload)
        elif kind == CURSOR:
            self._cursors(payload)
        elif kind == DECLARED_MARKER:
            self._declared(position, payload, fresh)
        elif kind == SHARED_BLOCK:
            self._shared(position, payload, fresh)
        elif kind == PARTITION_ENDS:
            self._partitions.replay_end(self.shard, payload)
        elif kind == RETAINED_BLOCK:
            if fresh:
                self._retained.append((self.shard, kind, payload))
        elif kind == RELEASE:
            self._releases.on_entry(payload)
        elif kind == TOPIC_DELETED:
            self._producers.forget(payload)
            self._releases.forget(payload)
        else:
            self._block(kind, payload, fresh)

    def _machine(self, position: int, entry: MachineEntry) -> None:
        if not self._is_known(entry.kind, entry.key, position):
            self._replay(entry.kind, entry.key, entry.records)

    def _block(self, kind: int, payload: bytes, fresh: bool) -> None:
        if kind == DELAYED_BLOCK:
            self._owner.received(self.shard).learn(payload)
        elif kind == BLOCK:
            flags = blocks.all_flags(payload)
            if flags & ENTRY_KAFKA:
                self._producers.replay_block(payload)
            if flags & ENTRY_QOS2:
                self._owner.received(self.shard).learn(payload)
            if fresh and flags & ENTRY_RETAIN:
                self._retained.append((self.shard, kind, payload))

    def _declared(self, position: int, payload: bytes, fresh: bool) -> None:
        begin = position + HEAD.size
        marks = self._partitions.replay_marker(self.shard, begin, payload)
        self._marked(marks)
        if fresh and any(mark.flags & ENTRY_RETAIN for mark in marks):
            self._retained.append((self.shard, DECLARED_MARKER, payload))

    def _marked(self, marks: list[MarkedAppend]) -> None:
        for mark in marks:
            if mark.header:
                self._producers.replay(mark.log_topic, mark.partition, mark.topic_id, mark.header)
        self._owner.received(self.shard).remember(
            (mark.origin, packet_name(mark.packet_id, mark.generation))
            for mark in marks
            if mark.flags & ENTRY_QOS2
        )

    def _shared(self, position: int, payload: bytes, fresh: bool) -> None:
        begin = position + HEAD.size
        marks, stored, block = self._partitions.replay_shared(self.shard, begin, payload)
        self._marked(marks)
        flags = 0
        for one in stored:
            entry = one.entry
            header = producer_part(block, entry.batch_begin, entry.end, entry.flags)
            if header:
                self._producers.replay(one.log_topic, one.partition, one.topic_id, header)
            flags |= entry.flags
        if len(stored) < len(blocks.entries(block)):
            self._producers.replay_block(block)
        if flags & ENTRY_QOS2:
            self._owner.received(self.shard).learn(block)
        if fresh and any(bits & ENTRY_RETAIN for bits in (flags, *(one.flags for one in marks))):
            self._retained.append((self.shard, SHARED_BLOCK, payload))

    def finish(self, stores: dict[int, ShardStore]) -> None:
        """All shards and partitions are open: what the log retains, LevelDB retains."""
        self._taken.clear()
        self._producers.recovered()
        self._releases.recovered()
        for shard, kind, payload in self._retained:
            block: bytes | bytearray = payload
            try:
                if kind == DECLARED_MARKER:
                    block = self._partitions.read_marker(payload)
                elif kind == SHARED_BLOCK:
                    block = self._partitions.read_shared(payload)
            except BrokerError:
                # Unreadable, or in the object store already though no checkpoint was made since:
                # what LevelDB has stays.
                continue
            retain(stores[shard], block, self._owner.retained_expiry_s)

    def _inbox(self, position: int, entry: InboxEntry) -> None:

        def is_known(client_id: bytes) -> bool:
            return self._is_known(SESSION_KIND, client_id, position)

        self._delivery.replay_inbox(position, entry, self.shard, is_known)
        if entry.left:
            self._left.append(self.shard, position, entry.left)
        if entry.leaver and not is_known(entry.leaver):
            self._sessions.withdrawn(entry.leaver, entry.withdrawn)

    def _is_known(self, kind: bytes, key: bytes, position: int) -> bool:
        """Has the snapshot of a machine what stands at this position of the log?"""
        return position < self._taken.get((kind, key), 0)

    def _replay(self, kind: bytes, key: bytes, records: list[bytes]) -> None:
        if self._machines.runs(kind):
            self._machines.replay(kind, key, records)
        elif kind == SESSION_KIND:
            self._sessions.replay(key, records)
        elif kind == WILL_KIND:
            self._sessions.wills.replay(key, records)

    def _cursors(self, payload: bytes | memoryview) -> None:
        table = self._delivery.cursors.setdefault(self.shard, {})
        for shard, position in decode_cursors(payload).items():
            table[shard] = max(position, table.get(shard, -1))
