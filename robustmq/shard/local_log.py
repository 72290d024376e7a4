"""Kafka's reads and writes of the logs that this worker holds.

A produced batch is stored as it came. Only when an MQTT client wants the topic is it looked into:
uncompressed, it is delivered as it is; compressed, it is rebuilt once for delivery. Idempotence is
checked before anything is written; a producer that is met for the first time since the start is
looked for in the end of the log first, so a restart never takes a batch twice. A
batch that comes again while the first one is not committed yet is answered when that one is.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from robustmq import names
from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.groups.producers import ProducerTable, SeenBatch
from robustmq.kafka.gateway import ListedOffset, ProduceResult, ReadResult
from robustmq.kafka.markers import end_marker
from robustmq.promises import Promise, resolved
from robustmq.shard import wire
from robustmq.shard.batch_times import first_at
from robustmq.shard.commits import Commits
from robustmq.shard.owner import Owner
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import (
    DECLARED,
    ENTRY_ACK,
    ENTRY_DECLARED,
    ENTRY_KAFKA,
    ENTRY_MEMORY,
    ENTRY_PERSISTENT,
    LIGHT,
    MEMORY,
    Placement,
)
from robustmq.storage.engine import ReadResult as StoredRead
from robustmq.storage.shard_store import ShardStore

REMEMBERED_BYTES = 4 * 1024 * 1024
MAX_PRODUCER_TABLES = 65536
MAX_GIVEN_IDS = 65536

_UNKNOWN = ReadResult(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)


class LocalLogs:
    """The partitions held by this worker, light and declared."""

    def __init__(
        self,
        max_message_bytes: int,
        placement: Placement,
        stores: dict[int, ShardStore],
        partitions: Partitions,
        owner: Owner,
        commits: Commits,
        shard_epoch: Callable[[int], int],
        wall_ms: Callable[[], int],
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.behind: Callable[[], bool] = lambda: False
        """While it says so, every producer waits for the commit, whatever its acks."""
        self._placement = placement
        self._stores = stores
        self._partitions = partitions
        self._owner = owner
        self._commits = commits
        self._shard_epoch = shard_epoch
        self._wall_ms = wall_ms
        self._producers: OrderedDict[tuple[bytes, int], ProducerTable] = OrderedDict()
        self._unconfirmed: dict[tuple[bytes, int, int], Promise[ProduceResult]] = {}
        self._given_ids: OrderedDict[uuid.UUID, bytes] = OrderedDict()

    # -- produce -----------------------------------------------------------------------------------

    def produce(
        self, topic: bytes, partition: int, batch: bytes | memoryview, acks: int, info: BatchInfo
    ) -> Promise[ProduceResult]:
        """Append one validated batch; settles when appended, with acks -1 when committed."""
        shard = self._placement.shard(topic, partition)
        store = self._stores.get(shard)
        if store is None:
            return resolved(ProduceResult(KafkaCode.NOT_LEADER_OR_FOLLOWER))
        if not self._is_here(store, topic, partition):
            return resolved(ProduceResult(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION))
        limit = self._placement.max_message_bytes.get(topic, self.max_message_bytes)
        if len(batch) > limit:
            return resolved(
                ProduceResult(
                    KafkaCode.MESSAGE_TOO_LARGE, message=f"at most {limit} bytes in a batch"
                )
            )
        table = self._producer_table(store, topic, partition) if info.producer_id >= 0 else None
        if table is not None:
            verdict = table.check(info)
            if verdict.error:
                return resolved(ProduceResult(verdict.error))
            if verdict.repeated is not None:
                start = self._start(store, topic, partition)
                return self._repeated(topic, partition, acks, verdict.repeated, start)
        return self._append(store, shard, topic, partition, bytes(batch), acks, info, table)

    def _repeated(
        self, topic: bytes, partition: int, acks: int, seen: SeenBatch, start: int
    ) -> Promise[ProduceResult]:
        """The answer to a batch that is in the log already; with acks -1 when it is committed."""
        result = ProduceResult(0, seen.base_offset, seen.timestamp_ms, start)
        first = self._unconfirmed.get((topic, partition, seen.base_offset))
        if acks != -1 or first is None:
            return resolved(result)
        answer: Promise[ProduceResult] = Promise()
        first.when_settled(
            lambda: answer.resolve(first.result() if first.result().error else result)
        )
        return answer

    def _append(
        self,
        store: ShardStore,
        shard: int,
        topic: bytes,
        partition: int,
        batch: bytes,
        acks: int,
        info: BatchInfo,
        table: ProducerTable | None,
    ) -> Promise[ProduceResult]:
        mode = self._placement.mode(topic)
        flags = ENTRY_KAFKA | (ENTRY_ACK if acks else 0)
        kind = LIGHT
        if topic in self._placement.declared:
            kind = DECLARED
            flags |= ENTRY_DECLARED
        elif mode == "memory":
            kind = MEMORY
        flags |= {"memory": ENTRY_MEMORY, "persistent": ENTRY_PERSISTENT}.get(mode, 0)
        done: Promise[ProduceResult] = Promise()
        result = ProduceResult()

        def committed(fault: Fault | None) -> None:
            self._unconfirmed.pop((topic, partition, result.base_offset), None)
            done.resolve(ProduceResult(fault.kafka) if fault is not None else result)

        confirm = committed if acks == -1 or self.behind() else None
        try:
            base_offset = self._owner.append_batch(
                shard, kind, topic, partition, flags, batch, confirm
            )
        except BrokerError as error:
            return resolved(ProduceResult(error.fault.kafka, message=error.detail or None))
        result = ProduceResult(0, base_offset, -1, self._start(store, topic, partition))
        if table is not None:
            table.record(info, base_offset, self._wall_ms())
        if confirm is None:
            done.resolve(result)
        elif table is not None:
            self._unconfirmed[topic, partition, base_offset] = done
        return done

    def produce_remote(self, call: wire.ProduceCall) -> Promise[Any]:
        """A batch that another worker received."""
        info = batches.validate(call.batch, 0, len(call.batch))
        promise = self.produce(call.topic, call.partition, call.batch, call.acks, info)
        answer: Promise[Any] = Promise()
        promise.when_settled(lambda: answer.resolve(msgspec.to_builtins(promise.result())))
        return answer

    def write_marker(self, call: wire.MarkerCall) -> Promise[Any]:
        """Append the control batch that ends a transaction; 0 when it is committed, or an error
        code."""
        topic, partition = call.topic, call.partition
        shard = self._placement.shard(topic, partition)
        store = self._stores.get(shard)
        if store is None:
            return resolved(KafkaCode.NOT_LEADER_OR_FOLLOWER)
        if not self._is_here(store, topic, partition):
            return resolved(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
        batch = end_marker(
            call.producer_id,
            call.producer_epoch,
            call.coordinator_epoch,
            call.commit,
            self._wall_ms(),
        )
        info = batches.validate(batch, 0, len(batch), False)
        appended = self._append(store, shard, topic, partition, batch, -1, info, None)
        answer: Promise[Any] = Promise()
        appended.when_settled(lambda: answer.resolve(appended.result().error))
        return answer

    def _is_here(self, store: ShardStore, topic: bytes, partition: int) -> bool:
        if topic in self._placement.declared:
            return self._partitions.get(topic, partition) is not None
        return partition == 0 and store.exists(topic)

    def _producer_table(self, store: ShardStore, topic: bytes, partition: int) -> ProducerTable:
        key = (topic, partition)
        table = self._producers.get(key)
        if table is not None:
            self._producers.move_to_end(key)
            return table
        table = self._producers[key] = ProducerTable()
        for info in self._last_batches(store, topic, partition):
            table.record(info, info.base_offset, info.max_timestamp)
        if len(self._producers) > MAX_PRODUCER_TABLES:
            self._producers.popitem(last=False)
        return table

    def _last_batches(self, store: ShardStore, topic: bytes, partition: int) -> list[BatchInfo]:
        log = self._partitions.get(topic, partition)
        if log is not None:
            return list(log.last_batches(REMEMBERED_BYTES))
        return list(store.last_batches(topic, REMEMBERED_BYTES))

    def _start(self, store: ShardStore, topic: bytes, partition: int) -> int:
        log = self._partitions.get(topic, partition)
        return log.start_offset if log is not None else store.start_offset(topic)

    # -- read --------------------------------------------------------------------------------------

    def read(
        self, topic: bytes, partition: int, offset: int, max_bytes: int, leader_epoch: int
    ) -> ReadResult:
        """Whole committed batches from an offset on."""
        refused = self._epoch_error(topic, partition, leader_epoch)
        if refused:
            return ReadResult(refused)
        log = self._partitions.get(topic, partition)
        if log is not None:
            return _converted(log.read(offset, max_bytes))
        store = self._light_store(topic, partition)
        if store is None:
            return _UNKNOWN
        return _converted(store.read(topic, offset, max_bytes))

    def high_watermark(self, topic: bytes, partition: int) -> int | None:
        """The end of what is committed; None when the partition is not here."""
        log = self._partitions.get(topic, partition)
        if log is not None:
            return log.high_watermark
        store = self._light_store(topic, partition)
        return store.high_watermark(topic) if store is not None else None

    def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, leader_epoch: int
    ) -> ListedOffset:
        """One row of ListOffsets."""
        refused = self._epoch_error(topic, partition, leader_epoch)
        if refused:
            return ListedOffset(refused)
        log = self._partitions.get(topic, partition)
        store = self._light_store(topic, partition)
        if log is None and store is None:
            return ListedOffset(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
        epoch = self._shard_epoch(self._placement.shard(topic, partition))
        if timestamp_ms == -1:
            return ListedOffset(0, self.high_watermark(topic, partition) or 0, -1, epoch)
        if timestamp_ms in (-2, -4):
            first = log.start_offset if log is not None else store.start_offset(topic)  # type: ignore[union-attr]
            return ListedOffset(0, first, -1, epoch)
        if timestamp_ms == -5:
            return ListedOffset()
        if log is not None:
            found = log.offset_for_time(timestamp_ms)
        else:
            found = store.offset_for_time(topic, timestamp_ms)  # type: ignore[union-attr]
        if found is None:
            return ListedOffset()
        return self._in_batch(topic, partition, found[0], timestamp_ms, epoch)

    def _in_batch(
        self, topic: bytes, partition: int, offset: int, timestamp_ms: int, epoch: int
    ) -> ListedOffset:
        """The record of a time in the batch that the engine found by its header alone."""
        result = self.read(topic, partition, offset, 1, -1)
        if result.error:
            return ListedOffset(result.error)
        if not result.buffers:
            return ListedOffset()
        record = first_at(bytes(result.buffers[0]), timestamp_ms)
        return ListedOffset() if record is None else ListedOffset(0, *record, epoch)

    def _epoch_error(self, topic: bytes, partition: int, leader_epoch: int) -> int:
        if leader_epoch < 0:
            return 0
        current = self._shard_epoch(self._placement.shard(topic, partition))
        if leader_epoch < current:
            return KafkaCode.FENCED_LEADER_EPOCH
        return KafkaCode.UNKNOWN_LEADER_EPOCH if leader_epoch > current else 0

    def _light_store(self, topic: bytes, partition: int) -> ShardStore | None:
        if partition or topic in self._placement.declared:
            return None
        store = self._stores.get(self._placement.shard(topic, 0))
        return store if store is not None and store.exists(topic) else None

    # -- light topics ------------------------------------------------------------------------------

    def light_topic(self, topic: bytes, action: str) -> Promise[Any]:
        """Look up, create or delete a light topic that lives here; True when it is (was) there."""
        store = self._stores.get(self._placement.shard(topic, 0))
        if store is None:
            raise BrokerError(Fault.OWNER_UNAVAILABLE, "the topic lives elsewhere")
        exists = store.exists(topic)
        if exists and action == "delete":
            store.delete(topic, self._wall_ms())
            self.forget(topic)
            deleted: Promise[Any] = Promise()
            self._commits.mark(
                self._placement.shard(topic, 0), False, lambda: deleted.resolve(True)
            )
            return deleted
        if not exists and action == "create":
            store.create(topic, self._wall_ms())
            self._commits.mark(self._placement.shard(topic, 0))
            exists = True
        if exists:
            self._given_ids[names.topic_id(topic, 0)] = topic
            if len(self._given_ids) > MAX_GIVEN_IDS:
                self._given_ids.popitem(last=False)
        return resolved(exists)

    def forget(self, topic: bytes) -> None:
        """A topic was deleted: the next one of its name begins with no producers."""
        for key in [key for key in self._producers if key[0] == topic]:
            del self._producers[key]

    def light_by_id(self, topic_id: uuid.UUID) -> bytes | None:
        """The light topic of an id that was given out by this worker."""
        topic = self._given_ids.get(topic_id)
        store = self._light_store(topic, 0) if topic is not None else None
        return topic if store is not None else None

    def list_light(self, limit: int) -> list[bytes]:
        """Names of light topics, so many at most, that Kafka can be shown by name."""
        found: list[bytes] = []
        for store in self._stores.values():
            if len(found) < limit:
                found.extend(store.topics(limit - len(found)))
        for topic in found:
            self._given_ids[names.topic_id(topic, 0)] = topic
        while len(self._given_ids) > MAX_GIVEN_IDS:
            self._given_ids.popitem(last=False)
        return found


def _converted(stored: StoredRead) -> ReadResult:
    """What the storage read, with Kafka's error code."""
    error = KafkaCode.OFFSET_OUT_OF_RANGE if stored.out_of_range else stored.error
    if error:
        return ReadResult(error)
    return ReadResult(
        0,
        stored.high_watermark,
        stored.high_watermark,
        stored.start_offset,
        list(stored.buffers),
    )
