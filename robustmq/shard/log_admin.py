"""What administrators ask of the logs that a worker holds: where they begin, and how large they are
(DeleteRecords, DescribeLogDirs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustmq.errors import KafkaCode
from robustmq.promises import Promise, resolved
from robustmq.shard.commits import Commits
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import Placement
from robustmq.storage.shard_store import ShardStore

HIGH_WATERMARK = -1


class LogAdmin:
    """The logs of one worker as their administrators see them."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        partitions: Partitions,
        commits: Commits,
        wall_ms: Callable[[], int],
    ) -> None:
        self._placement = placement
        self._stores = stores
        self._partitions = partitions
        self._commits = commits
        self._wall_ms = wall_ms

    def delete_records(self, topic: bytes, partition: int, offset: int) -> Promise[Any]:
        """Have a log begin at `offset` (-1: at its high watermark); settles with the row of
        `DeletedRecords` when that lasts."""
        shard = self._placement.shard(topic, partition)
        store = self._stores.get(shard)
        if store is None:
            return resolved((KafkaCode.NOT_LEADER_OR_FOLLOWER, -1))
        log = self._partitions.get(topic, partition)
        light = (
            topic not in self._placement.declared and not partition and store.light.exists(topic)
        )
        if log is None and not light:
            return resolved((KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, -1))
        high_watermark = (
            log.high_watermark if log is not None else store.light.high_watermark(topic)
        )
        if offset == HIGH_WATERMARK:
            offset = high_watermark
        if not 0 <= offset <= high_watermark:
            return resolved((KafkaCode.OFFSET_OUT_OF_RANGE, -1))
        if log is not None:
            log.trim(offset)
            store.changed(log)
            start = log.start_offset
        else:
            start = store.light.trim(topic, offset, self._wall_ms())
        done: Promise[Any] = Promise()
        # It answers for records that must not come back: fdatasync, whatever the mode.
        self._commits.mark(shard, True, lambda: done.resolve((0, start)))
        return done

    def sizes(self) -> list[tuple[bytes, int, int]]:
        """(topic, partition, bytes) of all declared topics' partitions that are held here and have
        ever been used."""
        return [(held.topic, held.partition, held.log.size) for held in self._partitions.walk()]
