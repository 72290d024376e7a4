"""The share-partitions of the logs that this worker holds: reading for them, waiting, burying
(KIP-932).

What a member is given is read, decided and appended in one go: the state of a share-partition lies
in the shard of its log, so nothing can come between. The answer leaves when the state is committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from robustmq.core import batches
from robustmq.core.batches import CONTROL, TRANSACTIONAL, BatchInfo
from robustmq.errors import KafkaCode
from robustmq.groups.share_partition import SharePartition
from robustmq.groups.timers import TimeWheel
from robustmq.kafka import group_configs
from robustmq.kafka.gateway import SHARE_PARTITION, ReadResult
from robustmq.kafka.share_events import (
    Acquire,
    AcquiredRange,
    DeleteState,
    FetchedBatch,
    InitializeState,
    MoveStart,
    ShareKey,
    StartAt,
    share_key,
)
from robustmq.kafka.share_gateway import ShareRead, ShareWanted
from robustmq.promises import Promise, start
from robustmq.shard.group_settings import GroupSettingsView
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.share_waits import ShareWaits

CHUNK_BYTES = 256 * 1024
"""So much is read at a time: a member mostly wants fewer records than bytes."""
_LATEST, _EARLIEST = -1, -2

Buffer = bytes | memoryview


class _Window(msgspec.Struct):
    """What was read of a log for a member."""

    batches: list[FetchedBatch] = []
    parts: list[tuple[int, int, Buffer]] = []
    """(first offset, last offset, bytes) of each usable batch."""
    size: int = 0
    records: int = 0
    coming: Promise[None] | None = None
    """What would be next is in the object store, and not at hand."""


class SharePartitions:
    """The share-partitions of this worker."""

    def __init__(
        self,
        logs: LocalLogs,
        machines: MachineRuntime,
        settings: GroupSettingsView,
        wheel: TimeWheel[tuple[str, ...]],
        shard_of: Callable[[bytes, int], int],
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
    ) -> None:
        self._logs = logs
        self._machines = machines
        self._settings = settings
        self._wall_ms = wall_ms
        self.waits = ShareWaits(wheel, monotonic_ms, shard_of, self._ready)

    def acquire(self, wanted: ShareWanted) -> Promise[tuple[int, list[ShareRead]]]:
        """Records for a member, of these share-partitions in turn; settles when it is committed
        that it has them. With the number of commits that were looked at.
        """
        seen = self.waits.commits
        records, size = wanted.max_records, wanted.max_bytes
        reads: list[ShareRead] = []
        held: list[Promise[Any]] = []
        for key in wanted.share_keys():
            if records <= 0 or size <= 0:
                break
            read = self._acquire(key, wanted, records, size, held)
            reads.append(read)
            records -= sum(one.last - one.first + 1 for one in read.acquired)
            size -= sum(len(buffer) for buffer in read.buffers)
        return start(_when_held(seen, reads, held))

    def _acquire(
        self,
        key: ShareKey,
        wanted: ShareWanted,
        max_records: int,
        max_bytes: int,
        held: list[Promise[Any]],
    ) -> ShareRead:
        text = key.text()
        error = self._begin(key, text, held)
        if error:
            return ShareRead(error)
        machine = self._machine(text)
        place = machine.wanted(max_records)
        if place is None:
            return ShareRead()
        isolation = self._isolation(key.group_id)
        found = self._read(key, *place, max_records, max_bytes, isolation)
        if isinstance(found, int):
            return self._moved(key, text, machine, found)
        if found.coming is not None:
            found.coming.when_settled(lambda: self.waits.at_hand(key))
        if not found.batches or (found.size < wanted.min_bytes and not wanted.last_call):
            return ShareRead()
        event = Acquire(wanted.member_id, place[0], found.batches, max_records, wanted.mode)
        held.append(self._machines.handle(SHARE_PARTITION, text, event))
        return ShareRead(0, _kept(found.parts, machine.given), machine.given)

    def _begin(self, key: ShareKey, text: str, held: list[Promise[Any]]) -> int:
        """See that the share-partition has a start."""
        if self._logs.high_watermark(key.topic, key.partition) is None:
            return KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
        machine = self._machines.machines(SHARE_PARTITION).get(text)
        if not isinstance(machine, SharePartition) or not machine.started:
            at = self._reset(key)
            if at < 0:
                return KafkaCode.KAFKA_STORAGE_ERROR
            held.append(self._machines.handle(SHARE_PARTITION, text, StartAt(at)))
        return KafkaCode.NONE

    def _reset(self, key: ShareKey) -> int:
        """The offset of share.auto.offset.reset; -1 while the object store has not said it."""
        configs = self._settings.configs(key.group_id)
        isolation = self._isolation(key.group_id)
        strategy = group_configs.effective(configs, group_configs.AUTO_OFFSET_RESET)
        ago_ms = group_configs.reset_duration_ms(strategy)
        if ago_ms is not None:
            at = max(self._wall_ms() - ago_ms, 0)
            listed = self._logs.list_offset(key.topic, key.partition, at, -1, isolation)
            if listed.offset >= 0 or listed.error:
                return listed.offset
            strategy = group_configs.LATEST
        where = _EARLIEST if strategy == group_configs.EARLIEST else _LATEST
        return self._logs.list_offset(key.topic, key.partition, where, -1, isolation).offset

    def _moved(self, key: ShareKey, text: str, machine: SharePartition, error: int) -> ShareRead:
        """The log does not hold what the share-partition wants next."""
        if error != KafkaCode.OFFSET_OUT_OF_RANGE:
            return ShareRead(error)
        first = self._logs.list_offset(key.topic, key.partition, _EARLIEST, -1).offset
        if first > machine.ranges.start:
            self._machines.handle(SHARE_PARTITION, text, MoveStart(first))
        else:
            # The end of a log that lives in memory went with its owner.
            end = self._logs.high_watermark(key.topic, key.partition) or 0
            event = InitializeState(machine.state_epoch, end)
            self._machines.handle(SHARE_PARTITION, text, event)
        return ShareRead()

    def _read(
        self,
        key: ShareKey,
        first: int,
        last: int | None,
        max_records: int,
        max_bytes: int,
        isolation: int,
    ) -> _Window | int:
        """Whole batches from an offset on, until there are enough; or an error code."""
        window = _Window([], [])
        at = first
        while window.records < max_records and window.size < max_bytes:
            room = min(CHUNK_BYTES, max_bytes - window.size)
            result = self._logs.read(key.topic, key.partition, at, room, -1, isolation)
            if result.next_offset > at and last is None:
                # Records that a bad disk has lost are no records for any member.
                window.batches.append(FetchedBatch(at, result.next_offset - 1, False))
                at = result.next_offset
                continue
            if result.error:
                return window if window.batches else int(result.error)
            if result.pending and not window.batches:
                window.coming = self._logs.coming(key.topic, key.partition, at, room)
            before = at
            for info, part, usable in _split(result):
                end = info.base_offset + info.last_offset_delta
                if last is not None and info.base_offset > last:
                    return window
                window.batches.append(FetchedBatch(info.base_offset, end, usable))
                if usable:
                    window.parts.append((info.base_offset, end, part))
                    window.records += end - max(info.base_offset, at) + 1
                    window.size += len(part)
                at = end + 1
            if at == before or (last is not None and at > last):
                break
        return window

    def _isolation(self, group_id: str) -> int:
        """1 for read_committed."""
        configs = self._settings.configs(group_id)
        level = group_configs.effective(configs, group_configs.ISOLATION_LEVEL)
        return int(level == "read_committed")

    def drop_topic(self, topic: bytes) -> None:
        """A topic is gone, and how far groups have come with it."""
        self.drop_others(lambda key: key.topic != topic)

    def drop_others(self, keeps: Callable[[ShareKey], bool]) -> None:
        """Forget the share-partitions that are not to be kept."""
        for text in list(self._machines.machines(SHARE_PARTITION)):
            if not keeps(share_key(text)):
                self._machines.tell_one(SHARE_PARTITION, text, DeleteState())

    def _machine(self, text: str) -> SharePartition:
        machine = self._machines.machines(SHARE_PARTITION)[text]
        assert isinstance(machine, SharePartition), "the kind says what its machines are"
        return machine

    def _ready(self, key: ShareKey) -> bool:
        """May there be something for a member?"""
        machine = self._machines.machines(SHARE_PARTITION).get(key.text())
        isolation = self._isolation(key.group_id)
        end = self._logs.visible_end(key.topic, key.partition, isolation)
        if end is None or not isinstance(machine, SharePartition) or not machine.started:
            return True
        place = machine.wanted(1)
        return place is not None and place[0] < end


async def _when_held(
    seen: int, reads: list[ShareRead], held: list[Promise[Any]]
) -> tuple[int, list[ShareRead]]:
    for promise in held:
        await promise
    return seen, reads


def _split(result: ReadResult) -> Iterator[tuple[BatchInfo, Buffer, bool]]:
    """The batches of a read, one by one, and whether consumers are given them: control batches are
    not, nor what was aborted (as a read_committed consumer has it, KIP-98).
    """
    begun = deque(sorted(result.aborted, key=lambda one: one.first_offset))
    aborted: set[int] = set()
    for buffer in result.buffers:
        whole = bytes(buffer)
        for begin, info in batches.headers(whole, 0, len(whole)):
            while begun and begun[0].first_offset <= info.base_offset + info.last_offset_delta:
                aborted.add(begun.popleft().producer_id)
            control = bool(info.attributes & CONTROL)
            gone = bool(info.attributes & TRANSACTIONAL) and info.producer_id in aborted
            if control:
                # Of a producer whose transaction was aborted this is the end of it.
                aborted.discard(info.producer_id)
            yield info, memoryview(whole)[begin : begin + info.length], not (control or gone)


def _kept(parts: list[tuple[int, int, Buffer]], acquired: list[AcquiredRange]) -> list[Buffer]:
    """The batches that hold something of what was acquired."""
    kept: list[Buffer] = []
    at = 0
    for first, last, part in parts:
        while at < len(acquired) and acquired[at].last < first:
            at += 1
        if at == len(acquired):
            break
        if acquired[at].first <= last:
            kept.append(part)
    return kept
