"""What a checkpoint says of a shard's machines: groups, transactions, sessions, wills.

A checkpoint is made in slices, so each machine is seen at a moment of its own, behind the position
of the checkpoint. Its snapshot says that moment: what the log has of the machine before `taken_at`,
its records and its messages in inbox entries, the snapshot has, or the machine was done with it;
recovery leaves it out. A machine that was there when the checkpoint began and has gone since is
said to be gone, so that what the log has of it is not replayed on nothing. One that came since has
all that there is of it behind the checkpoint.

What is not of one machine (cursors, what is dealt, told, left, received) is of the moment at which
the checkpoint began.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from robustmq.mqtt.session_records import Assigned, Queued, Record, encode_record
from robustmq.shard.inbox import HELD
from robustmq.shard.placement import SESSION_KIND, WILL_KIND
from robustmq.shard.subscribing import encode_cursors
from robustmq.storage.shard_store import ShardStore

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker
    from robustmq.shard.subscriber import Subscriber

CURSORS_KIND = b"cursors"
DEALING_KIND = b"dealing"
LEFT_KIND = b"left"
RELEASES_KIND = b"releases"
RECEIVED_KIND = b"received"

Row = tuple[bytes, bytes, bytes]
"""Kind, key and value of what is kept of a machine."""


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A machine, seen where the log ended at `taken_at`."""

    taken_at: int
    records: list[bytes] | None
    """None: it is gone."""


class _Packed(msgspec.Struct, frozen=True):
    """The same with its records as MessagePack has them."""

    taken_at: int
    records: msgspec.Raw


RECORDS_A_LOOK = 500
"""Of one machine, encoded in 0.1 ms."""
_LIST = struct.Struct(">BI")
_LIST_MARK = 0xDD
"""MessagePack's array with 32 bits of length."""
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Snapshot | list[bytes]] = msgspec.msgpack.Decoder(
    Snapshot | list[bytes]
)


def decode_snapshot(value: bytes) -> Snapshot:
    """The snapshot in a row; the first checkpoints had the records alone, of their own moment."""
    found = _decoder.decode(value)
    return found if isinstance(found, Snapshot) else Snapshot(0, found)


class Snapshots:
    """Looks at the machines of one worker's shards."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its sessions."""
        self._broker = broker
        self.records_a_look = RECORDS_A_LOOK
        self._unqueued: dict[int, list[Queued]] | None = None
        """By the subscriber, as of this slice; None: nobody has looked."""

    def begin(self, shard: int) -> list[Row]:
        """What is not of one machine, as it is when the checkpoint begins."""
        broker = self._broker
        return [
            (RECEIVED_KIND, b"", broker.owner.received(shard).snapshot()),
            (CURSORS_KIND, b"", encode_cursors(broker.delivery.cursors.get(shard, {}))),
            (DEALING_KIND, b"", broker.dealing.snapshot(shard)),
            (RELEASES_KIND, b"", broker.kafka.releases.snapshot(shard)),
            (LEFT_KIND, b"", broker.left_behind.snapshot(shard)),
        ]

    def machines(self, shard: int, store: ShardStore) -> Iterator[Row | None]:
        """Begun with the checkpoint: the machines that are there now, each as it is when its turn
        comes; None behind a look at one of which there is nothing to say, or not all yet."""
        names = [
            (kind, name) for kind, some in self._broker.kafka.machines.names() for name in some
        ]
        # A will does not change: this is what there is at the checkpoint's own moment.
        position = store.end_position
        wills = [
            (client_id, Snapshot(position, [will]))
            for client_id, will in self._broker.sessions.wills.all()
        ]
        return self._machines(shard, store, names, wills, self._broker.sessions.everyone())

    def begin_slice(self) -> None:
        """Others may have done something since the last row."""
        self._unqueued = None

    def _machines(
        self,
        shard: int,
        store: ShardStore,
        names: list[tuple[bytes, str]],
        wills: list[tuple[bytes, Snapshot]],
        subscribers: list[Subscriber],
    ) -> Iterator[Row | None]:
        broker = self._broker
        for kind, name in names:
            if broker.placement.machine_shard(kind, name) == shard:
                yield from self._machine(kind, name, store)
            else:
                yield None
        for client_id, will in wills:
            if broker.placement.session_shard(client_id) == shard:
                yield WILL_KIND, client_id, _encoder.encode(will)
            else:
                yield None
        for subscriber in subscribers:
            yield self._session(subscriber, store) if subscriber.shard == shard else None

    def _machine(self, kind: bytes, name: str, store: ShardStore) -> Iterator[Row | None]:
        """As it is now, encoded in parts: a group may have 100,000 offsets."""
        records = self._broker.kafka.machines.snapshot(kind, name)
        if records is None:
            yield _row(kind, name.encode(), store, None)
            return
        taken_at, count, packed = store.end_position, 0, bytearray(_LIST.size)
        while part := list(islice(records, self.records_a_look)):
            if count:
                yield None
            count += len(part)
            for record in part:
                _encoder.encode_into(record, packed, len(packed))
        _LIST.pack_into(packed, 0, _LIST_MARK, count)
        snapshot = _Packed(taken_at, msgspec.Raw(packed))
        yield kind, name.encode(), _encoder.encode(snapshot)

    def _session(self, then: Subscriber, store: ShardStore) -> Row | None:
        """What was a session when the checkpoint began: `durable` is never taken back."""
        now = self._broker.sessions.get(then.client_id)
        if now is None or not now.session.durable:
            if not then.session.durable:
                return None
            return _row(SESSION_KIND, then.client_id, store, None)
        records = [*now.session.snapshot(), *self._unqueued_of(now)]
        rows = [encode_record(one) for one in records if not _is_held(one)]
        return _row(SESSION_KIND, then.client_id, store, rows)

    def _unqueued_of(self, subscriber: Subscriber) -> list[Queued]:
        """What the log has for a session and it has not got, as that is not committed."""
        if not subscriber.unqueued:
            return []
        found = self._unqueued
        if found is None:
            found = self._unqueued = {}
            for other, queued in self._broker.delivery.unqueued(subscriber.shard):
                found.setdefault(id(other), []).append(queued)
        return found.get(id(subscriber), [])


def _row(kind: bytes, key: bytes, store: ShardStore, records: list[bytes] | None) -> Row:
    return kind, key, _encoder.encode(Snapshot(store.end_position, records))


def _is_held(record: Record) -> bool:
    """Does a record tell of a message in memory, which no restart leaves?"""
    return isinstance(record, (Queued, Assigned)) and bool(record.reference & HELD)
