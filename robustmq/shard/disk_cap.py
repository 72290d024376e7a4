"""The cap on what a shard has on the disk (`storage.shard_max_bytes`): at the cap its producers are
refused, while consumers, retention, compaction and uploads go on; it takes records again when it is
somewhat below.

Measured once a second, and sooner when half of what was left has come since: what comes between two
ticks may be beyond the cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

MEASURE_MS = 1000


class DiskCap:
    """The shards of one worker, measured."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._due_ms = 0
        self._sizes: dict[int, int] = {}
        self._measure_at: dict[int, int] = {}
        """By shard, how much it will have appended when it is measured again."""
        self.capped = 0
        """Shards that are at their cap."""

    def tick(self) -> None:
        """Twenty times a second."""
        broker = self._broker
        cap = broker.settings.storage.shard_max_bytes
        if not cap and not self.capped:
            return
        now_ms = broker.monotonic_ms()
        all_of_them = now_ms >= self._due_ms
        if all_of_them:
            self._due_ms = now_ms + MEASURE_MS
        measured = False
        for shard, store in broker.stores.items():
            appended = store.appended_bytes
            if all_of_them or appended >= self._measure_at.get(shard, 0):
                self._sizes[shard] = size = store.disk_bytes
                self._measure_at[shard] = appended + max(1, cap - size) // 2
                measured = True
        if measured:
            self._say(*broker.owner.room.measure(self._sizes, cap))

    def _say(self, reached: set[int], left: set[int]) -> None:
        self.capped += len(reached) - len(left)
        log = self._broker.around.log
        for shard in sorted(reached):
            log(
                "error",
                "a shard is at storage.shard_max_bytes: nothing is taken until there is room",
                shard=shard,
                bytes=self._sizes[shard],
            )
        for shard in sorted(left):
            log("info", "a shard takes records again", shard=shard, bytes=self._sizes[shard])
