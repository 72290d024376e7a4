"""Recovery of one worker: what the shards' logs say, fed back to the machines.

`snapshot` comes first, then the log entries behind it in their order. Sessions and groups live in
the shard of their name, so their records are in order however many shards there are; an inbox entry
comes after the records of the sessions that it names.
"""

from __future__ import annotations

import msgspec

from robustmq.shard.delivery import Delivery
from robustmq.shard.inbox import decode_inbox
from robustmq.shard.placement import GROUP_KIND, SESSION_KIND
from robustmq.shard.runtime import GroupRuntime, decode_machine_entry
from robustmq.shard.sessions import Sessions
from robustmq.shard.subscribing import decode_cursors, encode_cursors
from robustmq.storage.shard_store import CURSOR, INBOX, MACHINE

CURSORS_KIND = b"cursors"

_records = msgspec.msgpack.Decoder(list[bytes])


class Recovery:
    """Takes what a shard store finds when it is opened."""

    def __init__(self, groups: GroupRuntime, sessions: Sessions, delivery: Delivery) -> None:
        self._groups = groups
        self._sessions = sessions
        self._delivery = delivery
        self.shard = -1

    def on_snapshot(self, kind: bytes, key: bytes, value: bytes) -> None:
        """A machine's snapshot."""
        if kind == CURSORS_KIND:
            self._cursors(value)
        else:
            self._replay(kind, key, _records.decode(value))

    def on_entry(
        self, kind: int, position: int, payload: bytes | memoryview, source: int, sequence: int
    ) -> None:
        """An entry of the log that is not a block."""
        if kind == MACHINE:
            entry = decode_machine_entry(payload)
            self._replay(entry.kind, entry.key, entry.records)
        elif kind == INBOX:
            self._delivery.replay_inbox(position, decode_inbox(payload), self.shard)
        elif kind == CURSOR:
            self._cursors(payload)

    def _replay(self, kind: bytes, key: bytes, records: list[bytes]) -> None:
        if kind == GROUP_KIND:
            self._groups.replay(key, records)
        elif kind == SESSION_KIND:
            self._sessions.replay(key, records)

    def _cursors(self, payload: bytes | memoryview) -> None:
        table = self._delivery.cursors.setdefault(self.shard, {})
        for shard, position in decode_cursors(payload).items():
            table[shard] = max(position, table.get(shard, -1))


def encode_records(records: list[bytes]) -> bytes:
    """A machine's snapshot as one value."""
    return msgspec.msgpack.encode(records)


def cursor_snapshot(delivery: Delivery, shard: int) -> bytes:
    """The cursors of a shard as one value."""
    return encode_cursors(delivery.cursors.get(shard, {}))
