"""The producers of the partitions held here, kept over restarts; what of a partition is stable
(KIP-98).

A partition's table (`groups.producers`) is in memory from its first use on. What it knows is saved
under the partition's key when the shard makes a checkpoint, when many tables of a shard have
changed, and when the table makes room for another; so what recovery does not find there stands in
the shard's log behind the checkpoint, where it is read (`replay`). An open transaction is therefore
never forgotten. In mode memory a declared topic's is lost at the start, with its records; that of a
light topic which has nothing in the log is kept in memory alone, until the topic leaves that mode
(`left_memory`).

Bounds: `MAX_TABLES` tables in memory, the least used saved and dropped; aborted transactions are
rows on the disk, and go when the log begins behind them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from robustmq.core import batches, blocks
from robustmq.groups.producers import ProducerTable
from robustmq.kafka.gateway import AbortedTransaction, ProducerState
from robustmq.kafka.markers import Marker, read_header, read_marker
from robustmq.shard.partitions import Partitions, producer_part
from robustmq.shard.placement import Placement
from robustmq.storage.light import OTHER_PREFIX
from robustmq.storage.stored_producers import Aborted, StoredProducers, declared_key, light_key

MAX_TABLES = 65536
MAX_CHANGED = 256
"""Tables of one shard that wait to be saved; with more they are."""
MAX_MEMORY_ABORTED = 10_000
TRIM_ROWS = 1000

Key = tuple[bytes, int]


class _State:
    """One partition: its table, under which key it is saved (None: never), and its last abort."""

    __slots__ = ("aborted", "key", "last_aborted", "shard", "table", "topic_id")

    def __init__(self, table: ProducerTable, shard: int, topic_id: bytes | None) -> None:
        self.table = table
        self.shard = shard
        self.topic_id = topic_id
        self.key: bytes | None = None
        self.last_aborted = -1
        self.aborted: list[Aborted] = []
        """Of one that is not saved."""


class ProducerStates:
    """The tables of this worker's partitions."""

    def __init__(
        self,
        placement: Placement,
        partitions: Partitions,
        wall_ms: Callable[[], int],
        expiry_ms: int,
    ) -> None:
        self.expiry_ms = expiry_ms
        self._placement = placement
        self._partitions = partitions
        self._wall_ms = wall_ms
        self._stored: dict[int, StoredProducers] = {}
        self._states: OrderedDict[Key, _State] = OrderedDict()
        self._changed: dict[int, dict[Key, None]] = {}

    # -- tables ------------------------------------------------------------------------------------

    def table(self, topic: bytes, partition: int) -> ProducerTable:
        """The producers of a partition held here."""
        return self._state(topic, partition).table

    def _state(self, topic: bytes, partition: int) -> _State:
        key = (topic, partition)
        state = self._states.get(key)
        if state is None:
            topic_id = self._partitions.topic_id(topic)
            durable = topic_id is not None or self._placement.mode(topic) != "memory"
            return self._load(key, topic_id, durable)
        self._states.move_to_end(key)
        return state

    def _load(self, key: Key, topic_id: bytes | None, durable: bool) -> _State:
        """`durable`: it is saved, also if nothing of it was so far."""
        topic, partition = key
        table = ProducerTable(expiry_ms=self.expiry_ms)
        state = _State(table, self._placement.shard(topic, partition), topic_id)
        stored, stored_key = self._stored[state.shard], _stored_key(topic_id, topic, partition)
        snapshot = stored.load(stored_key)
        if snapshot is not None:
            table.restore(snapshot)
        state.last_aborted = stored.last_aborted(stored_key)
        if durable or snapshot is not None or state.last_aborted >= 0:
            state.key = stored_key
        self._states[key] = state
        if len(self._states) > MAX_TABLES:
            self._make_room()
        return state

    def _make_room(self) -> None:
        for key in list(self._states)[:8]:
            state = self._states[key]
            if state.table.is_settled and (state.key is not None or not state.table.has_open):
                self._save(state)
                self._changed.get(state.shard, {}).pop(key, None)
                del self._states[key]
                return

    def changed(self, topic: bytes, partition: int) -> None:
        """Something was recorded in the table of a partition."""
        key = (topic, partition)
        state = self._states[key]
        if state.key is None:
            if self._placement.mode(topic) == "memory":
                return
            # It was only read in that mode.
            self._keep(state, topic, partition)
        changed = self._changed.get(state.shard)
        if changed is None:
            changed = self._changed[state.shard] = {}
        changed[key] = None
        if len(changed) > MAX_CHANGED:
            self.save(state.shard)

    def left_memory(self, topic: bytes) -> None:
        """What a light topic of mode memory has goes into the log: its producers are kept, too."""
        state = self._states.get((topic, 0))
        if state is not None and state.key is None:
            self._keep(state, topic, 0)
            self._save(state)

    def _keep(self, state: _State, topic: bytes, partition: int) -> None:
        state.key = _stored_key(state.topic_id, topic, partition)
        for row in state.aborted:
            self._stored[state.shard].add_aborted(state.key, row)
        state.aborted = []

    def save(self, shard: int) -> None:
        """Put what has changed in a shard where its next commit, or checkpoint, writes it."""
        for key in self._changed.pop(shard, {}):
            self._save(self._states[key])

    def _save(self, state: _State) -> None:
        if state.key is not None:
            self._stored[state.shard].save(state.key, state.table.encode(self._wall_ms()))

    def forget(self, topic: bytes) -> None:
        """A topic was deleted: the next one of its name begins with no producers."""
        for key in [key for key in self._states if key[0] == topic]:
            state = self._states.pop(key)
            self._changed.get(state.shard, {}).pop(key, None)
        stored = self._stored.get(self._placement.shard(topic, 0))
        if stored is not None:
            stored.drop(light_key(topic))

    def describe(self, topic: bytes, partition: int) -> list[ProducerState]:
        """The producers of a partition as DescribeProducers tells of them."""
        return [
            ProducerState(
                producer_id,
                producer.epoch,
                producer.window[-1].last_sequence if producer.window else -1,
                producer.seen_ms,
                producer.coordinator_epoch,
                producer.first_offset,
            )
            for producer_id, producer in self.table(topic, partition).producers(self._wall_ms())
        ]

    # -- what is stable ----------------------------------------------------------------------------

    def known_stable(self, topic: bytes, partition: int, high_watermark: int) -> int:
        """The last stable offset as far as it is known without asking the disk."""
        state = self._states.get((topic, partition))
        return high_watermark if state is None else state.table.last_stable_offset(high_watermark)

    def last_stable_offset(self, topic: bytes, partition: int, high_watermark: int) -> int:
        """Where readers of committed transactions stop."""
        return self._state(topic, partition).table.last_stable_offset(high_watermark)

    def may_be_aborted(self, topic: bytes, partition: int, offset: int) -> bool:
        """Can a record at or behind an offset be of an aborted transaction?"""
        return self._state(topic, partition).last_aborted >= offset

    def aborted(
        self, topic: bytes, partition: int, offset: int, end_offset: int
    ) -> list[AbortedTransaction]:
        """The aborted transactions with records in a range, by rising offset of their markers."""
        state = self._state(topic, partition)
        rows = (
            iter([row for row in state.aborted if row.last_offset >= offset])
            if state.key is None
            else self._stored[state.shard].aborted(state.key, offset)
        )
        return [
            AbortedTransaction(row.producer_id, row.first_offset)
            for row in _beginning_before(rows, end_offset)
        ]

    def aborted_until(
        self, topic: bytes, partition: int, offset: int, end_offset: int
    ) -> list[Aborted]:
        """The aborted transactions that end at or behind `offset` and begin before `end_offset`,
        which is stable."""
        state = self._state(topic, partition)
        if state.key is None:
            return []
        return list(
            _beginning_before(self._stored[state.shard].aborted(state.key, offset), end_offset)
        )

    # -- transactions end --------------------------------------------------------------------------

    def end(
        self, topic: bytes, partition: int, marker: Marker, offset: int, start_offset: int
    ) -> None:
        """A marker was appended at an offset of a partition that begins at `start_offset`."""
        state = self._state(topic, partition)
        self._end(state, marker, offset)
        self.changed(topic, partition)
        if state.key is not None:
            if state.last_aborted == offset:
                self._stored[state.shard].trim(state.key, start_offset, TRIM_ROWS)
        elif state.aborted:
            state.aborted = [row for row in state.aborted if row.last_offset >= start_offset]
            del state.aborted[:-MAX_MEMORY_ABORTED]

    def _end(self, state: _State, marker: Marker, offset: int) -> None:
        ended = state.table.end(marker, offset, self._wall_ms())
        if ended is None or marker.commit:
            return
        row = Aborted(marker.producer_id, ended.first_offset, offset, ended.last_stable_offset)
        state.last_aborted = offset
        if state.key is None:
            state.aborted.append(row)
        else:
            self._stored[state.shard].add_aborted(state.key, row)

    # -- recovery ----------------------------------------------------------------------------------

    def opened(self, shard: int, stored: StoredProducers) -> None:
        """A shard is about to be recovered."""
        self._stored[shard] = stored

    def replay_block(self, block: bytes) -> None:
        """A block of light topics that the log has behind the checkpoint."""
        for entry in blocks.entries(block):
            header = producer_part(block, entry.batch_begin, entry.end, entry.flags)
            if header and not entry.topic.startswith(OTHER_PREFIX):
                self.replay(entry.topic, 0, None, header)

    def replay(self, topic: bytes, partition: int, topic_id: bytes | None, header: bytes) -> None:
        """A batch that the log has behind the checkpoint, in the log's order."""
        key = (topic, partition)
        state = self._states.get(key)
        if state is None or state.topic_id != topic_id:
            self._changed.get(self._placement.shard(*key), {}).pop(key, None)
            state = self._load(key, topic_id, True)
        info = read_header(header)
        if info.attributes & batches.CONTROL:
            self._end(state, read_marker(header), info.base_offset)
        else:
            state.table.record(info, info.base_offset, self._wall_ms())
        self.changed(topic, partition)

    def recovered(self) -> None:
        """All topics are known: what was deleted, or lost with its records, has no producers."""
        for key, state in list(self._states.items()):
            if state.topic_id is None:
                continue
            lost = self._placement.mode(key[0]) == "memory"
            if lost or state.topic_id != self._partitions.topic_id(key[0]):
                del self._states[key]
                self._changed.get(state.shard, {}).pop(key, None)
                assert state.key is not None, "what the log has is kept"
                self._stored[state.shard].drop(state.key)
        for topic in self._placement.declared:
            topic_id = self._partitions.topic_id(topic)
            if topic_id is not None and self._placement.mode(topic) == "memory":
                for stored in self._stored.values():
                    stored.drop_topic(topic_id)


def _beginning_before(rows: Iterator[Aborted], end_offset: int) -> Iterator[Aborted]:
    """Those that begin before an offset; what follows a row that is stable behind it does not."""
    for row in rows:
        if row.first_offset < end_offset:
            yield row
        if row.last_stable_offset >= end_offset:
            return


def _stored_key(topic_id: bytes | None, topic: bytes, partition: int) -> bytes:
    return light_key(topic) if topic_id is None else declared_key(topic_id, partition)
