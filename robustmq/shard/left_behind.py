"""What members of share groups have left behind, until the owners of the topics have it back.

A session that ends, unsubscribes or loses its connection leaves messages for other members. They
stand in the log of its shard, and are sent to their owners when that is committed, in the order of
the log, and again after every break and restart until it is confirmed. The position in that log is
their name: an owner takes each once.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from robustmq.shard import wire

_decoder = msgspec.msgpack.Decoder(dict[int, list[wire.ShareRow]])


class LeftBehind:
    """The rows of this worker's homes that no owner has confirmed."""

    def __init__(
        self, owner: Callable[[int], int], notify: Callable[[int, wire.Message], object]
    ) -> None:
        """`owner` of a shard; `notify(worker, message)`."""
        self._owner = owner
        self._notify = notify
        self._rows: dict[int, dict[int, dict[int, list[wire.ShareRow]]]] = {}
        self._committed: dict[int, int] = {}

    def append(self, home: int, position: int, rows: list[wire.ShareRow]) -> None:
        """The log of `home` has these rows at `position`."""
        by_shard: dict[int, list[wire.ShareRow]] = {}
        for row in rows:
            by_shard.setdefault(row.shard, []).append(row)
        self._rows.setdefault(home, {})[position] = by_shard

    def committed(self, home: int, position: int) -> None:
        """They are committed: ask their owners."""
        self._committed[home] = position
        for shard in self._rows[home].get(position, ()):
            self._send(home, position, shard)

    def _send(self, home: int, position: int, shard: int) -> None:
        rows = self._rows[home][position][shard]
        # The log may begin with them, and 0 names nothing.
        message = wire.ShareAgain(home, position + 1, shard, rows)
        self._notify(self._owner(shard), message)

    def taken(self, message: wire.ShareTaken) -> None:
        """An owner has them."""
        positions = self._rows.get(message.home, {})
        position = message.sequence - 1
        by_shard = positions.get(position)
        if by_shard is not None:
            by_shard.pop(message.shard, None)
            if not by_shard:
                del positions[position]

    def worker_up(self, worker: int) -> None:
        """The link to an owner is there (again): ask it for what it has not confirmed, in order."""
        for home, positions in self._rows.items():
            for position, by_shard in list(positions.items()):
                if position <= self._committed.get(home, -1):
                    for shard in list(by_shard):
                        if self._owner(shard) == worker:
                            self._send(home, position, shard)

    def recovered(self, worker: int) -> None:
        """All that recovery has found is committed; `worker` is this one."""
        for home, positions in self._rows.items():
            self._committed[home] = max(positions, default=-1)
        self.worker_up(worker)

    def snapshot(self, home: int) -> bytes:
        """The rows of a home, for a checkpoint."""
        rows = {
            position: [row for part in by_shard.values() for row in part]
            for position, by_shard in self._rows.get(home, {}).items()
        }
        return msgspec.msgpack.encode(rows)

    def restore(self, home: int, value: bytes) -> None:
        """The rows of a checkpoint."""
        for position, rows in _decoder.decode(value).items():
            self.append(home, position, rows)

    @property
    def idle(self) -> bool:
        """True when nothing waits for an owner."""
        return not any(self._rows.values())
