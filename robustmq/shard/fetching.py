"""What a Fetch asks of the logs: many reads at once, and one wait for all of them.

What another worker holds is asked of it by one call for all its partitions, and a wait that is over
here is ended there, too. Long lists are gone through in slices, between which the event loop serves
others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka.gateway import (
    AbortedTransaction,
    AppendWait,
    ListedOffset,
    PartitionRead,
    ReadResult,
)
from robustmq.promises import Promise, start, tie
from robustmq.shard import wire
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.placement import Placement
from robustmq.shard.rpc import Rpc
from robustmq.shard.waits import AppendWaits, Row

SLICE = 250
"""Partitions that are read between two breaths; each takes some microseconds."""
Place = tuple[bytes, int, int, int]
"""(topic, partition, offset, bytes) of records in the object store"""
LIST_WAIT_MS = 5_000
"""So long a look-up by time waits for the object store, before it is an error that clients repeat.
"""
FRAME_BYTES = 8 * 1024 * 1024
"""What one call brings from another worker, but for the first batch, which always comes."""


class Fetching:
    """The reads and waits of one worker, for its clients and for the other workers."""

    def __init__(
        self,
        placement: Placement,
        logs: LocalLogs,
        waits: AppendWaits,
        rpc: Rpc,
        breathe: Callable[[], Promise[None]],
    ) -> None:
        self._placement = placement
        self._logs = logs
        self._waits = waits
        self._rpc = rpc
        self._breathe = breathe
        self._next_wait = 0
        # Waits that other workers have here, by (worker, their number).
        self._asked: dict[tuple[int, int], Promise[None]] = {}

    # -- reading -----------------------------------------------------------------------------------

    async def read_all(
        self, reads: Sequence[PartitionRead], max_bytes: int, isolation: int
    ) -> list[ReadResult]:
        """Every partition within the bound of all; the first batch that is found always comes."""
        worker_of, own = self._placement.worker, self._placement.worker_id
        elsewhere: dict[int, list[int]] = {}
        for index, read in enumerate(reads):
            worker = worker_of(read.topic, read.partition)
            if worker != own:
                elsewhere.setdefault(worker, []).append(index)
            if index % SLICE == SLICE - 1:
                await self._breathe()
        brought: dict[int, ReadResult] = {}
        calls = []
        for worker, rows in elsewhere.items():
            asked = self._call([reads[index] for index in rows], max_bytes, isolation)
            calls.append((rows, self._rpc.call(worker, asked)))
        for rows, call in calls:
            try:
                found = [_received(answer) for answer in await call]
            except BrokerError as error:
                found = [ReadResult(error.fault.kafka)] * len(rows)
            brought.update(zip(rows, found, strict=True))
        return await self._in_order(reads, brought, max_bytes, isolation)

    def _call(self, reads: list[PartitionRead], max_bytes: int, isolation: int) -> wire.ReadsCall:
        rows = [(r.topic, r.partition, r.offset, r.max_bytes, r.leader_epoch) for r in reads]
        return wire.ReadsCall(rows, min(max_bytes, FRAME_BYTES), isolation)

    async def _in_order(
        self,
        reads: Sequence[PartitionRead],
        brought: dict[int, ReadResult],
        max_bytes: int,
        isolation: int,
    ) -> list[ReadResult]:
        results = []
        size = 0
        for index, read in enumerate(reads):
            result = brought.get(index) if brought else None
            if result is None:
                result = self._logs.read(
                    read.topic,
                    read.partition,
                    read.offset,
                    max(min(read.max_bytes, max_bytes - size), 0),
                    read.leader_epoch,
                    isolation,
                )
            found = sum(map(len, result.buffers)) if result.buffers else 0
            if size and found and size + found > max_bytes:
                result = msgspec.structs.replace(result, buffers=[])
                found = 0
            results.append(result)
            size += found
            if index % SLICE == SLICE - 1:
                await self._breathe()
        return results

    def serve_reads(self, call: wire.ReadsCall) -> Promise[Any]:
        """Another worker's clients read what is held here."""
        return start(self._served(call))

    async def _served(self, call: wire.ReadsCall) -> list[tuple[Any, ...]]:
        reads = [PartitionRead(*row) for row in call.rows]
        found = await self._in_order(reads, {}, call.max_bytes, call.isolation)
        return [
            (
                result.error,
                result.high_watermark,
                result.last_stable_offset,
                result.log_start_offset,
                [bytes(buffer) for buffer in result.buffers],
                [(one.producer_id, one.first_offset) for one in result.aborted],
                result.pending,
            )
            for result in found
        ]

    async def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, leader_epoch: int, isolation: int
    ) -> ListedOffset:
        """One row of ListOffsets of a partition that is held here; waits for what is in the object
        store."""
        over: Promise[None] | None = None
        while True:
            found = self._logs.listed(topic, partition, timestamp_ms, leader_epoch, isolation)
            if not isinstance(found, Promise):
                break
            if over is None:
                over = self._waits.wait([], LIST_WAIT_MS)
            if over.settled:
                return ListedOffset(KafkaCode.KAFKA_STORAGE_ERROR)
            either: Promise[None] = Promise()
            for promise in (over, found):
                promise.when_settled(lambda either=either: either.resolve(None))  # type: ignore[misc]
            await either
        if over is not None:
            over.resolve(None)
        return found

    async def serve_list(self, call: wire.OffsetCall) -> Any:
        """Another worker's client asks for a row of ListOffsets."""
        listed = await start(
            self.list_offset(
                call.topic, call.partition, call.timestamp_ms, call.leader_epoch, call.isolation
            )
        )
        return msgspec.to_builtins(listed)

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, waits: Sequence[AppendWait], timeout_ms: int) -> Promise[None]:
        """Settles when a partition has grown beyond what was seen, when what one waits for is at
        hand, or after the time. Who settles it before ends the wait, here and elsewhere."""
        by_worker: dict[int, tuple[list[Row], list[Place]]] = {}
        for wait in waits:
            worker = self._placement.worker(wait.topic, wait.partition)
            rows, places = by_worker.setdefault(worker, ([], []))
            if wait.offset >= 0:
                places.append((wait.topic, wait.partition, wait.offset, wait.max_bytes))
            else:
                rows.append((wait.topic, wait.partition, wait.high_watermark, wait.isolation))
        local = by_worker.pop(self._placement.worker_id, None)
        if not by_worker:
            return self._wait_here(*(local or ([], [])), timeout_ms)
        woken: Promise[None] = Promise()
        if local is not None:
            tie(woken, self._wait_here(*local, timeout_ms))
        for worker, (rows, places) in by_worker.items():
            if not woken.settled:
                self._wait_there(worker, rows, places, timeout_ms, woken)
        return woken

    def _wait_here(
        self, rows: Sequence[Row], places: Sequence[Place], timeout_ms: int
    ) -> Promise[None]:
        waiting = self._waits.wait(rows, timeout_ms)
        for place in places:
            if waiting.settled:
                break
            coming = self._logs.coming(*place)
            if coming is None:
                waiting.resolve(None)
            else:
                coming.when_settled(lambda: waiting.resolve(None))
        return waiting

    def _wait_there(
        self,
        worker: int,
        rows: list[Row],
        places: list[Place],
        timeout_ms: int,
        woken: Promise[None],
    ) -> None:
        number = self._next_wait = self._next_wait + 1
        call = wire.AppendWait(rows, timeout_ms, self._placement.worker_id, number, places)
        answer = self._rpc.call(worker, call)
        answer.when_settled(lambda: woken.resolve(None))

        def over() -> None:
            if not answer.settled:
                self._rpc.notify(worker, wire.AppendWaitOver(self._placement.worker_id, number))

        woken.when_settled(over)

    def serve_wait(self, call: wire.AppendWait) -> Promise[Any]:
        """Another worker's client waits for what is held here."""
        waiting = self._wait_here(call.partitions, call.places, call.timeout_ms)
        key = (call.worker, call.number)
        if not waiting.settled:
            self._asked[key] = waiting
            waiting.when_settled(lambda: self._forget(key))
        return waiting

    def _forget(self, key: tuple[int, int]) -> None:
        self._asked.pop(key, None)

    def wait_over(self, message: wire.AppendWaitOver) -> None:
        """Nobody waits there any more."""
        waiting = self._asked.get((message.worker, message.number))
        if waiting is not None:
            waiting.resolve(None)


def _received(answer: Any) -> ReadResult:
    error, high_watermark, stable, start_offset, buffers, rows, pending = answer
    if error:
        return ReadResult(error)
    aborted = [AbortedTransaction(*row) for row in rows]
    return ReadResult(0, high_watermark, stable, start_offset, buffers, aborted, pending=pending)
