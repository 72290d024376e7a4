"""The publisher's side: from a worker's clients to the owners of the topics.

What one loop turn gathered leaves as one block for each shard and class (light, memory, declared):
to the own owner by a call, to another worker by one bus frame. A frame that must be confirmed is
numbered per shard and kept until its owner has confirmed it; when the link comes back it is sent
again under its old number, so an owner's death neither loses nor doubles (design, section 5.9).
Frames of QoS 0 are not kept; they spend the credit that their owner has given (`credit`).

Acks: each chunk that a connection read is one `AckGroup`; it is complete when every block that it
touched is confirmed, and the connection answers its groups in the order of receipt [MQTT-4.6.0-2].
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from robustmq.core import blocks
from robustmq.core.blocks import filled
from robustmq.core.publish import BlockBuilder
from robustmq.errors import Fault
from robustmq.shard import wire
from robustmq.shard.credit import Spent
from robustmq.shard.placement import CLASSES, MEMORY, RETAINED, Placement
from robustmq.shard.rpc import Bus

FAULTS = list(Fault)


class AckGroup:
    """The QoS 1 packets of one read, or one QoS 2 packet: complete when `remaining` is 0."""

    __slots__ = ("complete", "failed", "fault", "packet_ids", "qos", "remaining")

    def __init__(
        self,
        packet_ids: array[int],
        qos: int,
        complete: Callable[[AckGroup], None],
        failed: Callable[[AckGroup], None] | None = None,
    ) -> None:
        """`failed` hears of a fault at once, whatever else the group waits for."""
        self.failed = failed
        self.packet_ids = packet_ids
        self.qos = qos
        self.remaining = 0
        self.fault: Fault | None = None
        self.complete = complete


class LocalOwner(Protocol):
    """What the router asks of the owner on its own worker."""

    def publish(
        self,
        shard: int,
        kind: int,
        block: bytearray,
        source: int,
        sequence: int,
        confirm: Callable[[Fault | None], None] | None,
    ) -> None:
        """Append a block and deliver it; `confirm` is called when it is committed (None: nobody
        waits)."""
        ...


class _Unconfirmed:
    """A frame whose owner has not confirmed it yet."""

    __slots__ = ("block", "groups", "kind")

    def __init__(self, kind: int, block: bytearray, groups: list[AckGroup]) -> None:
        self.kind = kind
        self.block = block
        self.groups = groups


class Router:
    """A worker's builders, one for each shard and class, and the frames that wait for
    confirmation."""

    def __init__(
        self,
        worker_id: int,
        placement: Placement,
        bus: Bus,
        owner: LocalOwner,
        high_water_bytes: int,
        worker_count: int,
    ) -> None:
        """`high_water_bytes` bounds what waits for confirmation, or for credit of one owner, before
        clients are no longer read."""
        self._worker_id = worker_id
        self.spent = Spent(worker_count)
        self._placement = placement
        self._bus = bus
        self._owner = owner
        self.high_water_bytes = high_water_bytes
        shards = placement.shard_count
        self.builders = [
            BlockBuilder(index // CLASSES, index % CLASSES == 1)
            for index in range(shards * CLASSES)
        ]
        self._waiting: list[list[AckGroup]] = [[] for _ in self.builders]
        self._sequences = [0] * shards
        self._unconfirmed: list[OrderedDict[int, _Unconfirmed]] = [
            OrderedDict() for _ in range(shards)
        ]
        self._unconfirmed_bytes = 0
        self.dropped_frames = 0
        self._closed: dict[int, frozenset[int]] = {}
        """By worker, the shards that take nothing."""

    def close_shards(self, worker: int, shards: Iterable[int]) -> None:
        """A worker has said which of its shards take nothing (`room`)."""
        self._closed[worker] = frozenset(shards)
        if not self._closed[worker]:
            del self._closed[worker]

    @property
    def congested(self) -> bool:
        """True when clients must not be read until owners have confirmed, or given credit."""
        return self._unconfirmed_bytes > self.high_water_bytes or bool(self.spent.short)

    def await_ack(self, group: AckGroup, builders: list[int]) -> None:
        """`group` completes when the blocks now being built in these builders are confirmed."""
        group.remaining = len(builders)
        for index in builders:
            self._waiting[index].append(group)

    def send(
        self,
        builder: int,
        entry: bytes | bytearray,
        complete: Callable[[AckGroup], None] | None = None,
    ) -> None:
        """Put an entry that no connection brings into a block; `complete` when that is confirmed:
        it is sent again to an owner that was away."""
        self.builders[builder].append_entry(entry)
        if complete is not None:
            self.await_ack(AckGroup(array("H"), 1, complete), [builder])

    def retain(self, entry: bytes, done: Callable[[], None]) -> None:
        """Bring a retained value that Kafka has changed to the home of its topic."""
        home = self._placement.home(blocks.entries(entry)[0].topic)
        self.send(home.shard * CLASSES + RETAINED, entry, lambda _group: done())

    def flush(self) -> None:
        """Send what the turn has gathered."""
        for index in filled(self.builders):
            block = self.builders[index].take()
            assert block is not None, "a filled builder has a block"
            groups = self._waiting[index]
            if groups:
                self._waiting[index] = []
            self._send(index // CLASSES, index % CLASSES, block, groups)

    def _send(self, shard: int, kind: int, block: bytearray, groups: list[AckGroup]) -> None:
        worker = self._placement.shard_owner(shard)
        if self._closed and kind != MEMORY and shard in self._closed.get(worker, ()):
            _settle(groups, Fault.STORAGE_FULL)
            return
        if worker == self._worker_id:
            confirm = (lambda fault: _settle(groups, fault)) if groups else None
            self._owner.publish(shard, kind, block, 0, 0, confirm)
            return
        self._sequences[shard] += 1
        sequence = self._sequences[shard]
        if groups:
            self._unconfirmed[shard][sequence] = _Unconfirmed(kind, block, groups)
            self._unconfirmed_bytes += len(block)
        head = wire.PUBLISH_HEAD.pack(shard, kind, wire.WANTS_CONFIRM if groups else 0, sequence)
        sent = self._bus.send(worker, wire.PUBLISH, head, block)
        if not groups:
            if sent:
                self.spent.add(worker, len(block), self.high_water_bytes)
            else:
                self.dropped_frames += 1

    def confirmed(self, payload: bytes | memoryview) -> None:
        """A CONFIRM frame: a shard's owner has committed a frame, or refused it."""
        shard, fault, sequence = wire.CONFIRM_HEAD.unpack(payload)
        frame = self._unconfirmed[shard].pop(sequence, None)
        if frame is None:
            return
        self._unconfirmed_bytes -= len(frame.block)
        _settle(frame.groups, FAULTS[fault - 1] if fault else None)

    def worker_up(self, worker: int) -> None:
        """The link to an owner is there (again): send it what it has not confirmed, in order."""
        self.spent.begin(worker)
        self._closed.pop(worker, None)
        for shard, frames in enumerate(self._unconfirmed):
            if self._placement.shard_owner(shard) != worker:
                continue
            for sequence, frame in frames.items():
                head = wire.PUBLISH_HEAD.pack(shard, frame.kind, wire.WANTS_CONFIRM, sequence)
                self._bus.send(worker, wire.PUBLISH, head, frame.block)

    @property
    def idle(self) -> bool:
        """True when nothing waits to be sent or confirmed (a drain waits for it)."""
        return not any(self._unconfirmed) and not any(builder.size for builder in self.builders)


def _settle(groups: list[AckGroup], fault: Fault | None) -> None:
    for group in groups:
        if fault is not None:
            group.fault = fault
            if group.failed is not None:
                group.failed(group)
        group.remaining -= 1
        if not group.remaining:
            group.complete(group)
