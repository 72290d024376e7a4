"""Share-partitions for the Kafka handlers of one worker: what is held here is asked at once, what
another worker holds over the bus (robustmq.kafka.share_gateway).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from robustmq.errors import BrokerError
from robustmq.kafka.gateway import SHARE_PARTITION
from robustmq.kafka.share_events import (
    AcquiredRange,
    ShareErrorReply,
    ShareKey,
    SharePartitionEvent,
)
from robustmq.kafka.share_gateway import ShareFetched, ShareRead, ShareWanted
from robustmq.kafka.share_sessions import ShareSessions
from robustmq.promises import Promise, start, tie
from robustmq.shard import wire
from robustmq.shard.group_settings import GroupSettingsView
from robustmq.shard.placement import Placement
from robustmq.shard.rpc import Rpc
from robustmq.shard.share_partitions import SharePartitions

Machine = Callable[[bytes, str, Any], Promise[Any]]


class ShareCalls:
    """The share-partitions of all workers."""

    def __init__(
        self,
        placement: Placement,
        local: SharePartitions,
        settings: GroupSettingsView,
        rpc: Rpc,
        machine: Machine,
        turn: Callable[[], None],
        max_sessions: int,
    ) -> None:
        """`machine` runs an event on a machine at its owner."""
        self.sessions: ShareSessions = ShareSessions(max_sessions)
        self._placement = placement
        self._local = local
        self._settings = settings
        self._rpc = rpc
        self._machine = machine
        self._turn = turn

    def lock_duration_ms(self, group_id: str) -> int:
        """share.record.lock.duration.ms of a group."""
        return self._settings.share_partition(group_id).record_lock_duration_ms

    def tell(self, key: ShareKey, event: SharePartitionEvent) -> Promise[int]:
        """Run an event on a share-partition; its error code."""
        return start(self._told(self._machine(SHARE_PARTITION, key.text(), event)))

    async def _told(self, promise: Promise[Any]) -> int:
        reply = await promise
        assert isinstance(reply, ShareErrorReply), "for events that are answered with a code"
        return int(reply.error)

    def acquire(self, keys: Sequence[ShareKey], wanted: ShareWanted) -> Promise[ShareFetched]:
        """Records for a member, from one worker after the other until there are some."""
        self._turn()
        return start(self._acquire(self._by_worker(keys), wanted))

    async def _acquire(
        self, by_worker: Mapping[int, list[ShareKey]], wanted: ShareWanted
    ) -> ShareFetched:
        reads: dict[ShareKey, ShareRead] = {}
        seen: dict[int, int] = {}
        for worker, keys in by_worker.items():
            partitions = [(key.topic, key.topic_id, key.partition) for key in keys]
            asked = msgspec.structs.replace(wanted, partitions=partitions)
            try:
                seen[worker], found = await self._ask(worker, asked)
            except BrokerError as error:
                seen[worker], found = -1, [ShareRead(error.fault.kafka)] * len(keys)
            reads.update(zip(keys, found, strict=False))
            if any(read.acquired for read in found):
                break
        return ShareFetched(reads, seen)

    async def _ask(self, worker: int, wanted: ShareWanted) -> tuple[int, list[ShareRead]]:
        if worker == self._placement.worker_id:
            return await self._local.acquire(wanted)
        call = wire.ShareFetchCall(
            wanted.group_id,
            wanted.member_id,
            [(topic, topic_id.bytes, number) for topic, topic_id, number in wanted.partitions],
            wanted.max_bytes,
            wanted.min_bytes,
            wanted.max_records,
            wanted.mode,
            wanted.last_call,
        )
        seen, rows = await self._rpc.call(worker, call)
        return seen, [
            ShareRead(error, buffers, [AcquiredRange(*one) for one in acquired])
            for error, buffers, acquired in rows
        ]

    def wait(
        self, keys: Sequence[ShareKey], seen: Mapping[int, int], timeout_ms: int
    ) -> Promise[None]:
        """Wake when there may be something, or after the time."""
        woken: Promise[None] = Promise()
        for worker, held in self._by_worker(keys).items():
            number = seen.get(worker, -1)
            if worker == self._placement.worker_id:
                waiting: Promise[Any] = self._local.waits.wait(held, number, timeout_ms)
            else:
                rows = [(one.topic, one.topic_id.bytes, one.partition) for one in held]
                call = wire.ShareWaitCall(held[0].group_id, rows, number, timeout_ms)
                waiting = self._rpc.call(worker, call)
            tie(woken, waiting)
        return woken

    def _by_worker(self, keys: Sequence[ShareKey]) -> dict[int, list[ShareKey]]:
        found: dict[int, list[ShareKey]] = {}
        for key in keys:
            found.setdefault(self._placement.worker(key.topic, key.partition), []).append(key)
        return found

    # -- the other end -----------------------------------------------------------------------------

    def serve(self, message: wire.ShareFetchCall | wire.ShareWaitCall) -> Promise[Any]:
        """Answer another worker about share-partitions held here."""
        if isinstance(message, wire.ShareFetchCall):
            return self._serve_fetch(message)
        return self._serve_wait(message)

    def _serve_fetch(self, call: wire.ShareFetchCall) -> Promise[Any]:
        """Records of share-partitions held here, for a member at another worker."""
        wanted = ShareWanted(
            call.group_id,
            call.member_id,
            [(topic, UUID(bytes=topic_id), number) for topic, topic_id, number in call.partitions],
            call.max_bytes,
            call.min_bytes,
            call.max_records,
            call.mode,
            call.last_call,
        )
        return start(self._served(self._local.acquire(wanted)))

    async def _served(self, promise: Promise[tuple[int, list[ShareRead]]]) -> Any:
        seen, reads = await promise
        return seen, [
            (
                int(read.error),
                [bytes(buffer) for buffer in read.buffers],
                [(one.first, one.last, one.delivery_count) for one in read.acquired],
            )
            for read in reads
        ]

    def _serve_wait(self, call: wire.ShareWaitCall) -> Promise[None]:
        """Wait for share-partitions held here."""
        keys = [
            ShareKey(call.group_id, topic, UUID(bytes=topic_id), number)
            for topic, topic_id, number in call.partitions
        ]
        return self._local.waits.wait(keys, call.seen, call.timeout_ms)
