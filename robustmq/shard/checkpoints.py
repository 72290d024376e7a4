"""When the shards of a worker make their checkpoints, and the loop's part of it, in slices.

One checkpoint at a time. A slice is SLICE_BYTES of the topic index, or as many snapshots of
machines as take SLICE_US; then clients have their turn. No more than WAITING_BYTES wait for the
storage thread, unless so many topics change meanwhile that keeping what was known of them would
take more. What a checkpoint consists of, and why no crash hurts it: `storage.checkpoints`,
`shard.snapshots`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING

from robustmq.shard.snapshots import Row, Snapshots
from robustmq.storage.checkpoints import CheckpointWriter
from robustmq.storage.shard_store import ShardStore

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

PAUSE_US = 2000
SLICE_BYTES = 128 * 1024
"""Copied in 0.1 to 1 ms."""
SLICE_US = 1000
LOOKS_A_SLICE = 2000
WAITING_BYTES = 4 * 1024 * 1024
KEPT_SLOTS = 65536
"""While more slots of the index than that are kept as they were, no slice waits for the disk."""

Slices = Generator[None, None, None]


class Checkpoints:
    """The checkpoints of one worker's shards."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its stores and sessions."""
        self._broker = broker
        self._stores = broker.stores
        self.snapshots = Snapshots(broker)
        self._slices: Slices | None = None
        self.slice_bytes = SLICE_BYTES
        self.looks_a_slice = LOOKS_A_SLICE

    def look(self) -> None:
        """Begin the checkpoint of a shard that has written enough since its last one."""
        if self._slices is not None or self._broker.draining:
            return
        for shard, store in self._stores.items():
            if store.needs_checkpoint:
                self._slices = self._make(shard, store)
                self._go_on(self._slices)
                return

    def make_all(self) -> None:
        """A checkpoint of every shard in one go: the worker ends (`kick` the committer)."""
        self._slices = None
        for shard, store in self._stores.items():
            self._broker.kafka.producers.save(shard)
            writer = store.begin_checkpoint(self.snapshots.begin(shard))
            self.snapshots.begin_slice()
            writer.add(row for row in self.snapshots.machines(shard, store) if row is not None)
            store.finish_checkpoint(writer)

    def _go_on(self, slices: Slices) -> None:
        if self._slices is not slices:
            return
        # At the end of a worker all shards get one (`make_all`).
        if self._broker.draining or next(slices, self) is self:
            self._slices = None
        else:
            self._broker.around.call_later(PAUSE_US, partial(self._go_on, slices))
        self._broker.around.kick()

    def _make(self, shard: int, store: ShardStore) -> Slices:
        self._broker.kafka.producers.save(shard)
        writer = store.begin_checkpoint(self.snapshots.begin(shard))
        machines = self.snapshots.machines(shard, store)
        yield
        while not writer.whole:
            if self._may_write(store, writer):
                writer.write_parts(self.slice_bytes)
            yield
        more = True
        while more:
            rows: list[Row] = []
            more = self._take(machines, rows)
            writer.add(rows)
            yield
        store.finish_checkpoint(writer)

    def _take(self, machines: Iterator[Row | None], rows: list[Row]) -> bool:
        """Take the rows of a slice; False: those were the last."""
        monotonic_us = self._broker.around.monotonic_us
        self.snapshots.begin_slice()
        until = monotonic_us() + SLICE_US
        for looks, row in enumerate(machines, 1):
            if row is not None:
                rows.append(row)
            if looks >= self.looks_a_slice or monotonic_us() > until:
                return True
        return False

    @staticmethod
    def _may_write(store: ShardStore, writer: CheckpointWriter) -> bool:
        return writer.waiting_bytes <= WAITING_BYTES or store.light.kept_slots > KEPT_SLOTS
