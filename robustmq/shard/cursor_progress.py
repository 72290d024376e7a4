"""The cursors of persistent sessions follow the logs that they hear of, also where nothing was for
them.

A cursor moves with what is delivered; that of sessions whose topics are quiet stays behind, and
after a restart the owner would look through all that came since. So every worker asks the others
now and then how far it was told: the answer comes behind all that was told, so what is older need
not be told again. A cursor that is LAG_BYTES behind is written anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustmq.errors import BrokerError
from robustmq.promises import Promise
from robustmq.shard import wire
from robustmq.shard.subscribing import encode_cursors
from robustmq.storage.shard_store import CURSOR

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

EVERY_MS = 2000
LAG_BYTES = 1024 * 1024


class CursorProgress:
    """The cursors of one worker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._due_ms = 0

    def tick(self) -> None:
        """Twenty times a second."""
        broker = self._broker
        now_ms = broker.monotonic_ms()
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + EVERY_MS
        if not any(broker.delivery.cursors.values()):
            return
        for worker in range(broker.worker_count):
            asked = broker.rpc.call(worker, wire.InterestChange())
            asked.when_settled(lambda asked=asked: self._answered(asked))  # type: ignore[misc]

    def _answered(self, asked: Promise[Any]) -> None:
        try:
            ends: dict[int, int] = asked.result().ends
        except BrokerError:
            # It is away: what it has told is asked when it is back.
            return
        broker = self._broker
        for home, cursors in broker.delivery.cursors.items():
            moved = {
                shard: end - 1
                for shard, end in ends.items()
                if shard in cursors and end - cursors[shard] > LAG_BYTES
            }
            if moved and home in broker.stores:
                cursors.update(moved)
                payload = encode_cursors(moved)
                broker.stores[home].append(CURSOR, payload, 0, 0, broker.wall_ms())
                broker.commits.mark_lazy(home, len(payload))
