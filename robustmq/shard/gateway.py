"""The logs as Kafka sees them: the one implementation of `kafka.gateway.Gateway`.

What is held here is answered at once; what another worker holds is asked of it over the bus, by the
same methods at its end (`serve`). A light topic is one partition in its shard's log; a declared
topic has partitions of its own. Kafka readers see what is committed, in whole stored batches.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from robustmq.config import Settings
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault
from robustmq.kafka.access import Access, Operation, Resource
from robustmq.kafka.context import RequestContext
from robustmq.kafka.coordinating import PATIENCE_MS, ask
from robustmq.kafka.fetch_sessions import FetchSessions
from robustmq.kafka.gateway import (
    DEFAULT_RULES,
    GROUP,
    SHARE_GROUP,
    TRANSACTION,
    AppendWait,
    Broker,
    DeletedRecords,
    EpochEnd,
    ListedOffset,
    LogSize,
    PartitionRead,
    ProduceResult,
    ProducerState,
    ProduceRules,
    ReadResult,
)
from robustmq.kafka.group_events import (
    GroupEvent,
    GroupListing,
    GroupReply,
    decode_listings,
    encode_listings,
)
from robustmq.kafka.telemetry import Instances
from robustmq.kafka.topic_configs import ENGINE_SETTING, MODE_SETTING, TIERS
from robustmq.kafka.transaction_events import (
    AddPartitions,
    PartitionsReply,
    TransactionListing,
)
from robustmq.kafka.transaction_events import decode_listings as decode_transactions
from robustmq.kafka.transaction_events import encode_listings as encode_transactions
from robustmq.promises import Promise, resolved, start
from robustmq.shard import wire
from robustmq.shard.cluster_view import ClusterView
from robustmq.shard.directory import Directory
from robustmq.shard.fetching import Fetching
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.log_admin import LogAdmin
from robustmq.shard.placement import Placement
from robustmq.shard.refusals import Refusals
from robustmq.shard.rpc import Rpc
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.share_gateway import ShareCalls
from robustmq.shard.surroundings import OffLoop
from robustmq.shard.waits import AppendWaits

T = TypeVar("T")
PRODUCER_ID_BLOCK = 1000


class KafkaGateway(Directory):
    """What the Kafka handlers of one worker ask."""

    share: ShareCalls
    """What they ask of share-partitions; set when the worker is put together."""

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        cluster: ClusterView,
        logs: LocalLogs,
        machines: MachineRuntime,
        waits: AppendWaits,
        rpc: Rpc,
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        unique: Callable[[], uuid.UUID],
        count: Callable[[str, int], None],
        first_session_id: int,
        turn: Callable[[], None],
        access: Access,
        admin: LogAdmin,
        space: Callable[[], tuple[str, int, int]],
        off_loop: OffLoop,
        breathe: Callable[[], Promise[None]],
        refusals: Refusals,
    ) -> None:
        super().__init__(settings, placement, cluster, rpc, unique, breathe)
        self._refusals = refusals
        self._off_loop = off_loop
        self.cluster_id = cluster.cluster_id
        self.reload(settings)
        self.access = access
        self.telemetry = Instances()
        self.fetch_sessions = FetchSessions(settings.limits.max_fetch_sessions, first_session_id)
        self._logs = logs
        logs.transaction_partition = self.transaction_partition
        self._machines = machines
        self._fetching = Fetching(placement, logs, waits, rpc, breathe)
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms
        self._count = count
        self._turn = turn
        self._admin = admin
        self._space = space
        self._producer_ids: list[int] = []

    def reload(self, settings: Settings) -> None:
        """Take over new settings."""
        self._settings = settings
        self.auto_create = settings.kafka.auto_create
        self.default_partitions = settings.kafka.default_partitions
        self.listed_light_topics = settings.kafka.listed_light_topics
        self.topic_defaults = {
            "max.message.bytes": str(settings.limits.max_message_bytes),
            "segment.bytes": str(settings.storage.segment_bytes),
            "index.interval.bytes": str(settings.storage.index_interval_bytes),
            MODE_SETTING: settings.storage.default_mode,
            ENGINE_SETTING: settings.storage.default_engine,
            TIERS: "true" if settings.tiers else "false",
        }

    def defaults_of(self, topic: bytes) -> dict[str, str]:
        """The defaults of a topic that is matched by a storage rule are the rule's."""
        kept = self._placement.ruled(topic)
        return {**self.topic_defaults, MODE_SETTING: kept.mode, ENGINE_SETTING: kept.engine}

    def now_ms(self) -> int:
        """Monotonic milliseconds."""
        return self._monotonic_ms()

    def timestamp_ms(self) -> int:
        """Wall clock milliseconds."""
        return self._wall_ms()

    def unique_id(self) -> str:
        """An unguessable id in UUID form."""
        return str(self._unique())

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a counter of this worker."""
        self._count(counter, amount)

    def authorized(
        self, context: RequestContext, operation: Operation, resource: Resource, name: str
    ) -> bool:
        """What the access rules say."""
        return self.access.allowed(context.connection.asker, operation, resource, name)

    # -- records -----------------------------------------------------------------------------------

    def produce_rules(self, topic: bytes) -> ProduceRules:
        """What is asked of batches for a topic."""
        return self._placement.produce_rules.get(topic, DEFAULT_RULES)

    def off_loop(self, work: Callable[[], T]) -> Promise[T]:
        """Run what takes long on another thread."""
        return self._off_loop(work)

    def produce(
        self,
        topic: bytes,
        partition: int,
        batch: bytearray,
        acks: int,
        timeout_ms: int,
        info: BatchInfo,
        transactional_id: str | None = None,
        transactions: int = 0,
    ) -> Promise[ProduceResult]:
        """Append a checked batch at its owner."""
        worker = self._placement.worker(topic, partition)
        self._turn()
        if worker == self.node_id:
            return self._logs.produce(
                topic, partition, batch, acks, info, transactional_id, transactions
            )
        refused = self._refusals.behind(topic, partition, info)
        if refused is not None:
            return resolved(refused)
        call = wire.ProduceCall(
            topic, partition, batch, acks, transactional_id, transactions, info.headers
        )
        return start(self._forwarded(self._rpc.call(worker, call), topic, partition, info))

    async def _forwarded(
        self, promise: Promise[Any], topic: bytes, partition: int, info: BatchInfo
    ) -> ProduceResult:
        """The owner's answer. When it went away with it, nobody knows if it took the batch."""
        try:
            result: ProduceResult = await self._converted(promise, ProduceResult)
        except BrokerError as error:
            result = ProduceResult(error.fault.kafka, message=error.detail or None)
            self._refusals.refused(topic, partition, info, result)
            raise
        if not result.error:
            self._refusals.taken(topic, partition, info)
        return result

    def read_all(
        self, reads: Sequence[PartitionRead], max_bytes: int, isolation: int
    ) -> Promise[list[ReadResult]]:
        """Whole stored batches of many partitions."""
        return start(self._fetching.read_all(reads, max_bytes, isolation))

    async def _converted(self, promise: Promise[Any], kind: type[Any]) -> Any:
        return msgspec.convert(await promise, kind)

    def wait_for_append(self, waits: Sequence[AppendWait], timeout_ms: int) -> Promise[None]:
        """Wake when a partition has grown beyond what the reader saw, or after the time."""
        return self._fetching.wait(waits, timeout_ms)

    def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, isolation: int, leader_epoch: int
    ) -> Promise[ListedOffset]:
        """ListOffsets for one partition, at its owner."""
        worker = self._placement.worker(topic, partition)
        if worker == self.node_id:
            return start(
                self._fetching.list_offset(topic, partition, timestamp_ms, leader_epoch, isolation)
            )
        call = wire.OffsetCall(topic, partition, timestamp_ms, leader_epoch, isolation)
        return start(self._converted(self._rpc.call(worker, call), ListedOffset))

    def producers(self, topic: bytes, partition: int) -> Promise[tuple[int, list[ProducerState]]]:
        """The producers of a partition, from its owner."""
        call = wire.ProducersCall(topic, partition)
        return start(self._producers(self._placement.worker(topic, partition), call))

    async def _producers(
        self, worker: int, call: wire.ProducersCall
    ) -> tuple[int, list[ProducerState]]:
        error, rows = await self._rpc.call(worker, call)
        return error, [msgspec.convert(row, ProducerState) for row in rows]

    def write_marker(
        self,
        topic: bytes,
        partition: int,
        producer_id: int,
        producer_epoch: int,
        coordinator_epoch: int,
        commit: bool,
        transaction_version: int = 0,
    ) -> Promise[int]:
        """End a producer's transaction on one partition, at its owner."""
        call = wire.MarkerCall(
            topic,
            partition,
            producer_id,
            producer_epoch,
            coordinator_epoch,
            commit,
            transaction_version,
        )
        self._turn()
        return self._rpc.call(self._placement.worker(topic, partition), call)

    def transaction_partition(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        topic: bytes,
        partition: int,
        add: bool,
    ) -> Promise[int]:
        """Ask the coordinator of a transactional id about a partition."""
        event = AddPartitions(
            producer_id,
            producer_epoch,
            self._wall_ms(),
            [(topic, partition)],
            verify_only=not add,
            wait_ms=PATIENCE_MS,
        )
        return start(self._transaction_partition(transactional_id, event))

    async def _transaction_partition(self, transactional_id: str, event: AddPartitions) -> int:
        reply = await ask(self, transactional_id, event, PartitionsReply)
        if isinstance(reply, int):
            return reply
        return int(reply.error or reply.errors[0])

    def epoch_end(
        self, topic: bytes, partition: int, leader_epoch: int, current_leader_epoch: int
    ) -> Promise[EpochEnd]:
        """The end of an epoch: with one member the log never diverges, so it is the end of
        the log."""
        return start(self._epoch_end(topic, partition, leader_epoch, current_leader_epoch))

    async def _epoch_end(
        self, topic: bytes, partition: int, leader_epoch: int, current: int
    ) -> EpochEnd:
        listed = await self.list_offset(topic, partition, -1, 0, current)
        if listed.error:
            return EpochEnd(listed.error)
        return EpochEnd(0, min(leader_epoch, listed.leader_epoch), listed.offset)

    # -- groups ------------------------------------------------------------------------------------

    def group(self, group_id: str, event: GroupEvent) -> Promise[GroupReply]:
        """Run an event on the group's machine at its owner."""
        return self.machine(GROUP, group_id, event)

    def machine(self, kind: bytes, key: str, event: Any) -> Promise[Any]:
        """Run an event on a machine at its owner."""
        worker = self._machine_owner(kind, key)
        self._turn()
        if worker == self.node_id:
            return self._machines.handle(kind, key, event)
        return start(self._remote_machine(worker, kind, key, event))

    async def _remote_machine(self, worker: int, kind: bytes, key: str, event: Any) -> Any:
        call = wire.MachineCall(kind, key, self._machines.encode_event(kind, event))
        return self._machines.decode_reply(kind, await self._rpc.call(worker, call))

    def _machine_owner(self, kind: bytes, key: str) -> int:
        return self._placement.shard_owner(self._placement.machine_shard(kind, key))

    def coordinator(self, kind: str, key: str, listener: str = "") -> Broker | None:
        """Who coordinates a group or a transactional id."""
        return self._broker_of(self._machine_owner(kind.encode(), key), listener)

    def list_groups(self) -> Promise[list[GroupListing]]:
        """The groups coordinated here: clients ask every broker. Where one address is all that
        they know, those of every worker."""
        if self._settings.kafka.single_port:
            return start(self._list_groups())
        return resolved(self._listings())

    def _listings(self) -> list[GroupListing]:
        return [
            machine.listing()  # type: ignore[attr-defined]
            for kind in (GROUP, SHARE_GROUP)
            for machine in self._machines.machines(kind).values()
            if not machine.disposable
        ]

    async def _list_groups(self) -> list[GroupListing]:
        found: list[GroupListing] = []
        for worker in range(self._cluster.worker_count):
            if worker == self.node_id:
                found.extend(self._listings())
            else:
                found.extend(decode_listings(await self._rpc.call(worker, wire.GroupsListCall())))
        return found

    # -- administration ----------------------------------------------------------------------------

    def delete_records(self, topic: bytes, partition: int, offset: int) -> Promise[DeletedRecords]:
        """Have a partition begin at an offset, at its owner."""
        worker = self._placement.worker(topic, partition)
        self._turn()
        call = wire.DeleteRecordsCall(topic, partition, offset)
        return start(self._converted(self._rpc.call(worker, call), DeletedRecords))

    def log_sizes(self) -> Promise[list[LogSize]]:
        """The logs of declared topics that are held here; those of all workers where clients see
        one broker."""
        alone = not self._settings.kafka.single_port
        workers = [self.node_id] if alone else range(self._cluster.worker_count)
        return start(self._log_sizes(workers))

    async def _log_sizes(self, workers: Iterable[int]) -> list[LogSize]:
        found: list[LogSize] = []
        for worker in workers:
            rows = await self._rpc.call(worker, wire.LogSizesCall())
            found.extend(msgspec.convert(rows, list[LogSize]))
        return found

    def metadata_version(self) -> int:
        """The version of the cluster's state."""
        return self._cluster.version

    def disk_space(self) -> tuple[str, int, int]:
        """The data directory and its file system."""
        return self._space()

    def offsets_partition(self, group_id: str) -> int:
        """The shard of a group."""
        return self._placement.machine_shard(GROUP, group_id)

    def list_transactions(self) -> Promise[list[TransactionListing]]:
        """The transactional ids coordinated here; where clients know one address, all."""
        if self._settings.kafka.single_port:
            return start(self._list_transactions())
        return resolved(self._transaction_listings())

    def _transaction_listings(self) -> list[TransactionListing]:
        coordinators = self._machines.machines(TRANSACTION).values()
        return [one.listing() for one in coordinators if not one.disposable]  # type: ignore[attr-defined]

    async def _list_transactions(self) -> list[TransactionListing]:
        found: list[TransactionListing] = []
        for worker in range(self._cluster.worker_count):
            found.extend(
                decode_transactions(await self._rpc.call(worker, wire.TransactionsListCall()))
            )
        return found

    # -- producers ---------------------------------------------------------------------------------

    def allocate_producer_id(self) -> Promise[tuple[int, int]]:
        """From this worker's block; a new block comes from the cluster's state."""
        return start(self._allocate())

    async def _allocate(self) -> tuple[int, int]:
        if not self._producer_ids:
            result = await self._cluster.allocate_producer_ids(PRODUCER_ID_BLOCK)
            if result.error:
                raise BrokerError(Fault.SERVER_UNAVAILABLE, result.message or "no producer ids")
            first = result.value
            self._producer_ids = list(range(first + PRODUCER_ID_BLOCK - 1, first - 1, -1))
        return self._producer_ids.pop(), 0

    # -- the other end of what is asked over the bus -----------------------------------------------

    def serve(self, message: wire.Message) -> Promise[Any]:
        """Answer another worker about what is held here."""
        match message:
            case wire.ProduceCall():
                return self._logs.produce_remote(message)
            case wire.ReadsCall():
                return self._fetching.serve_reads(message)
            case wire.AppendWaitOver():
                self._fetching.wait_over(message)
                return resolved(None)
            case wire.AppendWait():
                return self._fetching.serve_wait(message)
            case wire.OffsetCall():
                return start(self._fetching.serve_list(message))
            case wire.ProducersCall():
                error, rows = self._logs.describe_producers(message.topic, message.partition)
                return resolved((int(error), msgspec.to_builtins(rows)))
            case wire.MarkerCall():
                return self._logs.write_marker(message)
            case wire.MachineCall():
                return self._machines.serve(message.kind, message.key, message.event)
            case wire.ShareFetchCall() | wire.ShareWaitCall():
                return self.share.serve(message)
            case wire.GroupsListCall():
                return resolved(encode_listings(self._listings()))
        return self._serve_topics(message)

    def _serve_topics(self, message: wire.Message) -> Promise[Any]:
        match message:
            case wire.DeleteRecordsCall():
                return self._admin.delete_records(message.topic, message.partition, message.offset)
            case wire.LogSizesCall():
                return resolved(self._admin.sizes())
            case wire.TransactionsListCall():
                return resolved(encode_transactions(self._transaction_listings()))
            case wire.LightTopicCall():
                return self._logs.light_topic(message.topic, message.action)
            case wire.LightTopicById():
                return resolved(self._logs.light_by_id(uuid.UUID(bytes=message.topic_id)))
            case wire.LightTopicsList():
                return resolved(self._logs.list_light(message.limit))
        raise BrokerError(Fault.IMPLEMENTATION_SPECIFIC, f"no answer to {type(message).__name__}")
