"""When the shards of a worker make their checkpoints, and the loop's part of it, in slices.

One checkpoint at a time. A slice is SLICE_BYTES of the topic index; then clients have their turn.
No more than WAITING_BYTES wait for the storage thread, unless so many topics change meanwhile that
keeping what was known of them would take more. What a checkpoint consists of, and why no crash
hurts it: `storage.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustmq.shard.placement import SESSION_KIND, WILL_KIND
from robustmq.shard.recovery import (
    CURSORS_KIND,
    DEALING_KIND,
    LEFT_KIND,
    RECEIVED_KIND,
    RELEASES_KIND,
    cursor_snapshot,
    encode_records,
)
from robustmq.storage.checkpoints import CheckpointWriter
from robustmq.storage.shard_store import ShardStore

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

PAUSE_US = 2000
SLICE_BYTES = 128 * 1024
"""Copied in 0.1 to 1 ms."""
WAITING_BYTES = 4 * 1024 * 1024
KEPT_SLOTS = 65536
"""While more slots of the index than that are kept as they were, no slice waits for the disk."""


class Checkpoints:
    """The checkpoints of one worker's shards."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its stores and sessions."""
        self._broker = broker
        self._stores = broker.stores
        self._store: ShardStore | None = None
        self._writer: CheckpointWriter | None = None
        self.slice_bytes = SLICE_BYTES

    def look(self) -> None:
        """Begin the checkpoint of a shard that has written enough since its last one."""
        if self._writer is not None or self._broker.draining:
            return
        for shard, store in self._stores.items():
            if store.needs_checkpoint:
                self._broker.kafka.producers.save(shard)
                writer = store.begin_checkpoint(self._machines(shard))
                self._store, self._writer = store, writer
                self._pause(writer)
                return

    def make_all(self) -> None:
        """A checkpoint of every shard in one go: the worker ends (`kick` the committer)."""
        self._store = self._writer = None
        for shard, store in self._stores.items():
            self._broker.kafka.producers.save(shard)
            store.checkpoint(self._machines(shard))

    def _pause(self, writer: CheckpointWriter) -> None:
        self._broker.around.kick()
        self._broker.around.call_later(PAUSE_US, lambda: self._go_on(writer))

    def _go_on(self, writer: CheckpointWriter) -> None:
        store = self._store
        if self._writer is not writer or store is None:
            return
        if self._broker.draining:
            # The end makes one of everything.
            self._store = self._writer = None
            return
        if writer.waiting_bytes <= WAITING_BYTES or store.light.kept_slots > KEPT_SLOTS:
            writer.write_parts(self.slice_bytes)
        if not writer.whole:
            self._pause(writer)
            return
        store.finish_checkpoint(writer).when_settled(lambda: self._done(writer))
        self._broker.around.kick()

    def _done(self, writer: CheckpointWriter) -> None:
        if self._writer is writer:
            self._store = self._writer = None

    def _machines(self, shard: int) -> Iterator[tuple[bytes, bytes, bytes]]:
        broker = self._broker
        for kind, key, records in broker.kafka.machines.snapshot(shard):
            yield kind, key, encode_records(records)
        for client_id, records in broker.sessions.snapshot(shard):
            yield SESSION_KIND, client_id, encode_records(records)
        for client_id, records in broker.sessions.wills.snapshot(shard):
            yield WILL_KIND, client_id, encode_records(records)
        yield RECEIVED_KIND, b"", broker.owner.received(shard).snapshot()
        yield CURSORS_KIND, b"", cursor_snapshot(broker.delivery, shard)
        yield DEALING_KIND, b"", broker.dealing.snapshot(shard)
        yield RELEASES_KIND, b"", broker.kafka.releases.snapshot(shard)
        yield LEFT_KIND, b"", broker.left_behind.snapshot(shard)
