"""Kafka's reads and writes of the logs that this worker holds.

A produced batch is stored as it came. Only when an MQTT client wants the topic is it looked into:
uncompressed, it is delivered as it is; compressed, it is rebuilt once for delivery. Idempotence and
the state of transactions are checked before anything is written (`producer_states`), so a restart
never takes a batch twice. A batch that comes again while the first one is not committed yet is
answered when that one is. The first batch of a transaction waits for the coordinator
(`verifying`), and its records for their marker before anybody is told of them (`releases`).
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
from robustmq.groups.producers import EPOCH_BUMP, ProducerTable, SeenBatch
from robustmq.kafka.gateway import (
    ADDS,
    EARLIEST_LOCAL_TIMESTAMP,
    EARLIEST_TIMESTAMP,
    AbortedTransaction,
    ListedOffset,
    ProduceResult,
    ProducerState,
    ReadResult,
)
from robustmq.kafka.markers import Marker, end_marker
from robustmq.promises import Promise, resolved
from robustmq.shard import wire
from robustmq.shard.batch_ranges import end_of, until
from robustmq.shard.batch_times import first_at
from robustmq.shard.commits import Commits
from robustmq.shard.owner import Owner
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import ENTRY_PERSISTENT, Placement
from robustmq.shard.producer_states import ProducerStates
from robustmq.shard.refusals import Refusals
from robustmq.shard.releases import Release, Releases
from robustmq.shard.retained import may_retain
from robustmq.shard.verifying import Verifications, produce_error
from robustmq.storage.engine import PartitionLog
from robustmq.storage.engine import ReadResult as StoredResult
from robustmq.storage.log_files import Away
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.shard_store import ShardStore
from robustmq.storage.tiered import TIERED, tier_offset

MAX_GIVEN_IDS = 65536
LOOKED_AT = 100
"""Batches in which the record of a time is looked for."""

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
        producers: ProducerStates,
        releases: Releases,
        shard_epoch: Callable[[int], int],
        wall_ms: Callable[[], int],
        refusals: Refusals,
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
        self.producers = producers
        self._releases = releases
        self._refusals = refusals
        self._verifications = Verifications()
        self.transaction_partition: Callable[[str, int, int, bytes, int, bool], Promise[int]] = (
            lambda *asked: resolved(int(KafkaCode.COORDINATOR_NOT_AVAILABLE))
        )
        """Asks the coordinator about a partition (`kafka.gateway.Gateway`); set by the gateway."""
        self._unconfirmed: dict[tuple[bytes, int, int], Promise[ProduceResult]] = {}
        self._given_ids: OrderedDict[uuid.UUID, bytes] = OrderedDict()

    # -- produce -----------------------------------------------------------------------------------

    def produce(
        self,
        topic: bytes,
        partition: int,
        batch: bytearray,
        acks: int,
        info: BatchInfo,
        transactional_id: str | None = None,
        transactions: int = 0,
    ) -> Promise[ProduceResult]:
        """Append one validated batch; settles when appended, with acks -1 when committed."""
        shard = self._placement.shard(topic, partition)
        store = self._stores.get(shard)
        if store is None:
            code = KafkaCode.NOT_LEADER_OR_FOLLOWER
            return resolved(self._refused(topic, partition, info, code))
        if not self._is_here(store, topic, partition):
            code = KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
            return resolved(self._refused(topic, partition, info, code))
        limit = self._placement.max_message_bytes.get(topic, self.max_message_bytes)
        if len(batch) > limit:
            return resolved(
                ProduceResult(
                    KafkaCode.MESSAGE_TOO_LARGE, message=f"at most {limit} bytes in a batch"
                )
            )
        if info.producer_id < 0:
            return self._append(store, shard, topic, partition, batch, acks, info, None)
        table = self.producers.table(topic, partition)
        if info.attributes & batches.TRANSACTIONAL:
            key = (topic, partition, info.producer_id, info.producer_epoch)
            waiting = self._verifications.is_open(key)
            if waiting or not table.is_open(info.producer_id, info.producer_epoch):
                return self._verified(
                    topic, partition, batch, acks, info, transactional_id, transactions
                )
        return self._checked(store, shard, topic, partition, batch, acks, info, table, False)

    def _refused(
        self, topic: bytes, partition: int, info: BatchInfo, error: int, message: str | None = None
    ) -> ProduceResult:
        """A batch is not taken; what follows it is not, either, if its producer sends it again."""
        result = ProduceResult(error, message=message)
        return self._refusals.refused(topic, partition, info, result)

    def _verified(
        self,
        topic: bytes,
        partition: int,
        batch: bytearray,
        acks: int,
        info: BatchInfo,
        transactional_id: str | None,
        transactions: int,
    ) -> Promise[ProduceResult]:
        """Append a transactional batch when the coordinator says that its partition is part of the
        open transaction; one that is there already needs no word of it."""
        key = (topic, partition, info.producer_id, info.producer_epoch)
        done: Promise[ProduceResult] = Promise()

        def go(error: int) -> None:
            if error:
                code, message = produce_error(error, transactions)
                done.resolve(self._refused(topic, partition, info, code, message))
                return
            shard = self._placement.shard(topic, partition)
            store = self._stores[shard]
            if not self._is_here(store, topic, partition):
                code = KafkaCode.UNKNOWN_TOPIC_OR_PARTITION
                done.resolve(self._refused(topic, partition, info, code))
                return
            table = self.producers.table(topic, partition)
            strict = transactions >= ADDS
            appended = self._checked(
                store, shard, topic, partition, batch, acks, info, table, strict
            )
            appended.when_settled(lambda: done.resolve(appended.result()))

        if self._verifications.is_open(key):
            self._verifications.wait(key, go)
            return done
        verdict = self.producers.table(topic, partition).check(info)
        if verdict.repeated is not None or verdict.error == KafkaCode.INVALID_PRODUCER_EPOCH:
            go(0)
            return done
        asked = (
            transactional_id or "",
            info.producer_id,
            info.producer_epoch,
            topic,
            partition,
            transactions >= ADDS,
        )
        self._verifications.ask(key, lambda: self.transaction_partition(*asked), go)
        return done

    def _checked(
        self,
        store: ShardStore,
        shard: int,
        topic: bytes,
        partition: int,
        batch: bytearray,
        acks: int,
        info: BatchInfo,
        table: ProducerTable,
        strict: bool,
    ) -> Promise[ProduceResult]:
        """Append a batch of a producer with an id, if its turn has come."""
        verdict = table.check(info, strict)
        if verdict.repeated is None:
            refused = self._refusals.behind(topic, partition, info)
            if refused is not None:
                return resolved(refused)
        if verdict.error:
            return resolved(ProduceResult(verdict.error))
        if verdict.repeated is not None:
            start = self._start(store, topic, partition)
            return self._repeated(topic, partition, acks, verdict.repeated, start)
        return self._append(store, shard, topic, partition, batch, acks, info, table)

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
        batch: bytearray,
        acks: int,
        info: BatchInfo,
        table: ProducerTable | None,
    ) -> Promise[ProduceResult]:
        kind, flags = self._placement.produced(topic, acks)
        done: Promise[ProduceResult] = Promise()
        result = ProduceResult()

        def committed(fault: Fault | None) -> None:
            self._unconfirmed.pop((topic, partition, result.base_offset), None)
            done.resolve(ProduceResult(fault.kafka) if fault is not None else result)

        waits = acks == -1 or (acks == 1 and flags & ENTRY_PERSISTENT) or self.behind()
        confirm = committed if waits else None
        appended_ms = -1
        if topic in self._placement.produce_rules:
            if self._placement.produce_rules[topic].log_append_time:
                appended_ms = self._wall_ms()
                batches.stamp(batch, appended_ms)
        try:
            base_offset = self._owner.append_batch(
                shard,
                kind,
                topic,
                partition,
                flags,
                batch,
                info.headers,
                confirm,
                not info.attributes & batches.TRANSACTIONAL,
            )
        except BrokerError as error:
            code, message = error.fault.kafka, error.detail or None
            return resolved(self._refused(topic, partition, info, code, message))
        result = ProduceResult(0, base_offset, appended_ms, self._start(store, topic, partition))
        if table is not None:
            self._refusals.taken(topic, partition, info)
            table.record(info, base_offset, self._wall_ms())
            compacted = topic in self._placement.compacted
            if info.attributes & batches.TRANSACTIONAL and may_retain(batch, compacted):
                table.retains(info.producer_id)
            self.producers.changed(topic, partition)
        if confirm is None:
            done.resolve(result)
        elif table is not None:
            self._unconfirmed[topic, partition, base_offset] = done
        return done

    def produce_remote(self, call: wire.ProduceCall) -> Promise[Any]:
        """A batch that another worker received."""
        info = batches.validate(call.batch, 0, len(call.batch), False)
        info = info._replace(headers=call.headers)
        promise = self.produce(
            call.topic,
            call.partition,
            call.batch,
            call.acks,
            info,
            call.transactional_id,
            call.transactions,
        )
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
        marker = Marker(call.producer_id, call.producer_epoch, call.coordinator_epoch, call.commit)
        refused = self.producers.table(topic, partition).check_marker(
            marker, call.transaction_version
        )
        if refused:
            return resolved(int(refused))
        # A marker that raises the epoch is older than what the producer asks with it (KIP-890).
        below = call.producer_epoch + (call.transaction_version < EPOCH_BUMP)
        self._verifications.ended(topic, partition, call.producer_id, below)
        batch = bytearray(end_marker(marker, self._wall_ms()))
        kind, flags = self._placement.produced(topic, -1)
        answer: Promise[Any] = Promise()
        release = self._announced(store, topic, partition, marker) if call.commit else None

        def committed(fault: Fault | None) -> None:
            if release is not None:
                self._releases.begin(release)
            answer.resolve(0 if fault is None else fault.kafka)

        try:
            offset = self._owner.append_batch(
                shard, kind, topic, partition, flags, batch, False, committed, False
            )
        except BrokerError as error:
            if release is not None:
                self._releases.withdraw(release)
            return resolved(error.fault.kafka)
        self.producers.end(topic, partition, marker, offset, self._start(store, topic, partition))
        return answer

    def _announced(
        self, store: ShardStore, topic: bytes, partition: int, marker: Marker
    ) -> Release | None:
        """The transaction that a marker is about to commit, if MQTT must hear of it."""
        found = self.producers.table(topic, partition).opened(marker.producer_id)
        if found is None or not self._releases.wanted(topic, found.retains):
            return None
        log = self._partitions.get(topic, partition)
        offset = log.end_offset if log is not None else store.light.end_offset(topic)
        return self._releases.announce(
            topic, partition, marker.producer_id, found.first_offset, offset
        )

    def describe_producers(self, topic: bytes, partition: int) -> tuple[int, list[ProducerState]]:
        """An error code, and the producers of a partition."""
        store = self._stores.get(self._placement.shard(topic, partition))
        if store is None:
            return KafkaCode.NOT_LEADER_OR_FOLLOWER, []
        if not self._is_here(store, topic, partition):
            return KafkaCode.UNKNOWN_TOPIC_OR_PARTITION, []
        return 0, self.producers.describe(topic, partition)

    def _is_here(self, store: ShardStore, topic: bytes, partition: int) -> bool:
        if topic in self._placement.declared:
            return self._partitions.get(topic, partition) is not None
        return partition == 0 and store.light.exists(topic)

    def _start(self, store: ShardStore, topic: bytes, partition: int) -> int:
        log = self._partitions.get(topic, partition)
        return log.start_offset if log is not None else store.light.known_start(topic)

    # -- read --------------------------------------------------------------------------------------

    def read(
        self,
        topic: bytes,
        partition: int,
        offset: int,
        max_bytes: int,
        leader_epoch: int,
        isolation: int = 0,
    ) -> ReadResult:
        """Whole committed batches from an offset on; with isolation 1 of ended transactions only,
        and with those that were aborted (KIP-98)."""
        refused = self._epoch_error(topic, partition, leader_epoch)
        if refused:
            return ReadResult(refused)
        stored = self._stored(topic, partition, offset, max_bytes)
        if stored is None:
            return _UNKNOWN
        error = KafkaCode.OFFSET_OUT_OF_RANGE if stored.out_of_range else stored.error
        if error:
            return ReadResult(error, next_offset=stored.next_offset)
        end, start, buffers = stored.high_watermark, stored.start_offset, list(stored.buffers)
        pending = stored.pending is not None
        if not isolation:
            stable = max(start, self.producers.known_stable(topic, partition, end))
            return ReadResult(0, end, stable, start, buffers, pending=pending)
        stable = max(start, self.producers.last_stable_offset(topic, partition, end))
        if stable < end:
            buffers = until(buffers, stable)
        aborted: list[AbortedTransaction] = []
        if buffers and self.producers.may_be_aborted(topic, partition, offset):
            aborted = self.producers.aborted(topic, partition, offset, end_of(buffers))
        return ReadResult(0, end, stable, start, buffers, aborted, pending=pending)

    def _stored(
        self, topic: bytes, partition: int, offset: int, max_bytes: int
    ) -> StoredResult | None:
        """What the partition's log gives; None when it is not here."""
        log = self._partitions.get(topic, partition)
        if log is not None:
            return log.read(offset, max_bytes)
        store = self._light_store(topic, partition)
        return store.light.read(topic, offset, max_bytes) if store is not None else None

    def coming(
        self, topic: bytes, partition: int, offset: int, max_bytes: int
    ) -> Promise[None] | None:
        """Of records that are in the object store, and are not at hand: settles when they are, or
        cannot be had. None: a read gives what there is."""
        stored = self._stored(topic, partition, offset, max_bytes)
        return stored.pending if stored is not None else None

    def high_watermark(self, topic: bytes, partition: int) -> int | None:
        """The end of what is committed; None when the partition is not here."""
        log = self._partitions.get(topic, partition)
        if log is not None:
            return log.high_watermark
        store = self._light_store(topic, partition)
        return store.light.high_watermark(topic) if store is not None else None

    def visible_end(self, topic: bytes, partition: int, isolation: int) -> int | None:
        """Where readers of an isolation stop; None when the partition is not here. A transaction
        whose first records were deleted holds nobody back before the log's start."""
        end = self.high_watermark(topic, partition)
        if not isolation or end is None:
            return end
        stable = self.producers.last_stable_offset(topic, partition, end)
        if stable == end:
            return end
        store = self._stores[self._placement.shard(topic, partition)]
        return max(stable, self._start(store, topic, partition))

    def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, leader_epoch: int, isolation: int = 0
    ) -> ListedOffset:
        """One row of ListOffsets, at once: what must be fetched from the object store for it is an
        error that is to be repeated."""
        found = self.listed(topic, partition, timestamp_ms, leader_epoch, isolation)
        if isinstance(found, Promise):
            return ListedOffset(KafkaCode.KAFKA_STORAGE_ERROR)
        return found

    def listed(
        self, topic: bytes, partition: int, timestamp_ms: int, leader_epoch: int, isolation: int = 0
    ) -> ListedOffset | Promise[None]:
        """One row of ListOffsets; with isolation 1 nothing at or behind the last stable offset is
        there. A promise: what must be looked at is in the object store; ask again when it settles.
        """
        refused = self._epoch_error(topic, partition, leader_epoch)
        if refused:
            return ListedOffset(refused)
        log = self._partitions.get(topic, partition)
        store = self._light_store(topic, partition)
        if log is None and store is None:
            return ListedOffset(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
        epoch = self._shard_epoch(self._placement.shard(topic, partition))
        if timestamp_ms == -1:
            end = self.visible_end(topic, partition, isolation)
            return ListedOffset(0, end or 0, -1, epoch)
        if timestamp_ms in TIERED and isinstance(log, SegmentPartition):
            offset = tier_offset(log, timestamp_ms)
            return ListedOffset(0, offset, -1, epoch) if offset >= 0 else ListedOffset()
        if timestamp_ms in TIERED and log is None:
            is_tiered = self._placement.mode(topic) == "tiered"
            return _light_tier_offset(store, topic, timestamp_ms, is_tiered, epoch)
        if timestamp_ms in (EARLIEST_TIMESTAMP, EARLIEST_LOCAL_TIMESTAMP):
            if log is not None:
                return ListedOffset(0, log.start_offset, -1, epoch)
            return _earliest(store, topic, epoch)
        if timestamp_ms in TIERED:
            return ListedOffset()
        found = _at_time(log, store, topic, timestamp_ms)
        if isinstance(found, ListedOffset | Promise):
            return found
        if found is None:
            return ListedOffset()
        if isolation and found[0] >= (self.visible_end(topic, partition, isolation) or 0):
            return ListedOffset()
        return self._in_batch(topic, partition, found[0], timestamp_ms, epoch)

    def _in_batch(
        self, topic: bytes, partition: int, offset: int, timestamp_ms: int, epoch: int
    ) -> ListedOffset | Promise[None]:
        """The record of a time in the batch that the engine found by its header alone."""
        log = self._partitions.get(topic, partition)
        store = self._stores[self._placement.shard(topic, partition)]
        start = log.start_offset if log is not None else store.light.known_start(topic)
        offset = max(offset, start)
        # A batch may begin before the log does, or be one that a compaction has left empty.
        for _ in range(LOOKED_AT):
            result = self.read(topic, partition, offset, 1, -1)
            if result.pending:
                coming = self.coming(topic, partition, offset, 1)
                if coming is not None:
                    return coming
                # It has come meanwhile.
                result = self.read(topic, partition, offset, 1, -1)
            if result.next_offset > offset:
                offset = result.next_offset
                continue
            if result.error:
                return ListedOffset(result.error)
            if not result.buffers:
                return ListedOffset()
            batch = bytes(result.buffers[0])
            record = first_at(batch, timestamp_ms, start)
            if record is not None:
                return ListedOffset(0, *record, epoch)
            info = batches.validate(batch, 0, len(batch), False)
            offset = info.base_offset + info.last_offset_delta + 1
        return ListedOffset()

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
        return store if store is not None and store.light.exists(topic) else None

    # -- light topics ------------------------------------------------------------------------------

    def light_topic(self, topic: bytes, action: str) -> Promise[Any]:
        """Look up, create or delete a light topic that lives here; True when it is (was) there."""
        store = self._stores.get(self._placement.shard(topic, 0))
        if store is None:
            raise BrokerError(Fault.OWNER_UNAVAILABLE, "the topic lives elsewhere")
        exists = store.light.exists(topic)
        if exists and action == "delete":
            store.light.delete(topic, self._wall_ms())
            self.forget(topic)
            deleted: Promise[Any] = Promise()
            self._commits.mark(
                self._placement.shard(topic, 0), False, lambda: deleted.resolve(True)
            )
            return deleted
        if not exists and action == "create":
            store.light.create(topic, self._wall_ms())
            self._commits.mark(self._placement.shard(topic, 0))
            exists = True
        if exists:
            self._given_ids[names.topic_id(topic, 0)] = topic
            if len(self._given_ids) > MAX_GIVEN_IDS:
                self._given_ids.popitem(last=False)
        return resolved(exists)

    def forget(self, topic: bytes) -> None:
        """A topic was deleted: the next one of its name begins with no producers."""
        self.producers.forget(topic)
        self._releases.forget(topic)

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
                found.extend(store.light.topics(limit - len(found)))
        for topic in found:
            self._given_ids[names.topic_id(topic, 0)] = topic
        while len(self._given_ids) > MAX_GIVEN_IDS:
            self._given_ids.popitem(last=False)
        return found


def _earliest(store: ShardStore | None, topic: bytes, epoch: int) -> ListedOffset | Promise[None]:
    """Where a light topic begins."""
    assert store is not None, "it is here"
    try:
        return ListedOffset(0, store.light.start_offset(topic), -1, epoch)
    except BrokerError as error:
        return _unread(error)


def _light_tier_offset(
    store: ShardStore | None, topic: bytes, which: int, is_tiered: bool, epoch: int
) -> ListedOffset | Promise[None]:
    """What of a light topic is on the local disk, in the object store, and still to be there."""
    assert store is not None, "it is here"
    try:
        offset = store.light.tier_offset(topic, which, is_tiered)
    except BrokerError as error:
        return _unread(error)
    return ListedOffset(0, offset, -1, epoch) if offset >= 0 else ListedOffset()


def _at_time(
    log: PartitionLog | None, store: ShardStore | None, topic: bytes, timestamp_ms: int
) -> tuple[int, int] | ListedOffset | Promise[None] | None:
    """The first batch at or after a time, or what is to be told instead."""
    try:
        if log is not None:
            return log.offset_for_time(timestamp_ms)
        assert store is not None, "it is here"
        return store.light.offset_for_time(topic, timestamp_ms)
    except BrokerError as error:
        return _unread(error)


def _unread(error: BrokerError) -> ListedOffset | Promise[None]:
    """What is not at hand is asked for again when it has come."""
    return error.coming if isinstance(error, Away) else ListedOffset(error.fault.kafka)
