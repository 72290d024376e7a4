"""The wills of sessions that end with their connection, kept while the connection lasts.

Such a session writes nothing, but its will is a promise: it is published when the connection ends,
also when that is the end of its worker [MQTT-3.1.2-8]. So the will goes into the log of the
session's shard before CONNACK, and a record without content behind it when the connection is over.
What a recovery finds between the two belongs to a connection that the crash has cut. A client
without a will costs nothing. (Sessions that outlive their connection keep the will in their own
records, `mqtt.session_records`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from robustmq.mqtt.packets import Will
from robustmq.promises import Promise
from robustmq.shard.commits import Commits
from robustmq.shard.machines import encode_machine_entry
from robustmq.shard.placement import WILL_KIND, Placement
from robustmq.storage.shard_store import MACHINE, ShardStore

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Will)


class Wills:
    """The wills that a crash of this worker must not lose."""

    def __init__(
        self,
        stores: dict[int, ShardStore],
        commits: Commits,
        placement: Placement,
        wall_ms: Callable[[], int],
    ) -> None:
        self._stores = stores
        self._commits = commits
        self._placement = placement
        self._wall_ms = wall_ms
        self._kept: dict[bytes, bytes] = {}

    async def keep(self, client_id: bytes, will: Will) -> None:
        """A connection with a will begins; settles when the will is committed."""
        record = self._kept[client_id] = _encoder.encode(will)
        committed: Promise[None] = Promise()
        self._append(client_id, [record], lambda: committed.resolve(None))
        await committed

    def over(self, client_id: bytes) -> None:
        """The connection has ended: its will was published, or is not to be."""
        if self._kept.pop(client_id, None) is not None:
            self._append(client_id, [], None)

    def _append(
        self, client_id: bytes, records: list[bytes], then: Callable[[], None] | None
    ) -> None:
        shard = self._placement.session_shard(client_id)
        payload = encode_machine_entry(WILL_KIND, client_id, records)
        self._stores[shard].append(MACHINE, payload, 0, 0, self._wall_ms())
        self._commits.mark(shard, False, then)

    def replay(self, client_id: bytes, records: Iterable[bytes]) -> None:
        """Recovery: a record of the log or of a snapshot."""
        self._kept.pop(client_id, None)
        for record in records:
            self._kept[client_id] = record

    def cut(self) -> list[tuple[bytes, Will]]:
        """After the recovery: the wills of the connections that the crash has cut."""
        return [(client_id, _decoder.decode(record)) for client_id, record in self._kept.items()]

    def all(self) -> list[tuple[bytes, bytes]]:
        """(client id, record) of the connections that have wills."""
        return list(self._kept.items())
