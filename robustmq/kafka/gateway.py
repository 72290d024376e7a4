"""What the Kafka handlers ask of the broker behind them.

The handlers know the protocol; `Gateway` knows topics, shards and their owners. Everything here is
said in the broker's own words: a topic is its canonical key (MQTT name in UTF-8, see
robustmq.names), never its Kafka name; time is `now_ms` (monotonic) or `timestamp_ms` (wall clock).
What can be answered at once is a plain value, what may have to cross the bus or wait for a commit
is a `Promise`.

Rules for whoever implements it:
- Errors that a partition's owner finds are error codes in the result structs. A promise fails only
  with `BrokerError` (an owner that cannot be reached: Fault.OWNER_UNAVAILABLE), which the handlers
  turn into that fault's Kafka code.
- The order of `produce` calls for one partition is the order of appends.
- A promise may settle before it is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from robustmq.promises import Promise

if TYPE_CHECKING:
    from robustmq.core.batches import BatchInfo
    from robustmq.kafka.access import Access, Operation, Resource
    from robustmq.kafka.context import RequestContext
    from robustmq.kafka.fetch_sessions import FetchSessions
    from robustmq.kafka.group_events import GroupEvent, GroupListing, GroupReply
    from robustmq.kafka.share_gateway import ShareGateway
    from robustmq.kafka.telemetry import Instances
    from robustmq.kafka.transaction_events import TransactionListing

GROUP = b"group"
TRANSACTION = b"transaction"
SHARE_GROUP = b"share-group"
SHARE_PARTITION = b"share-partition"
"""Kinds of durable machines, as their records in the logs name them."""

VERIFIES, ABORTABLE, ADDS = range(3)
"""Produce up to v10: the partition must have been added to the transaction; v11 also knows the
error TRANSACTION_ABORTABLE; from v12 on the first batch adds the partition (KIP-890)."""
T = TypeVar("T")

LATEST_TIMESTAMP = -1
EARLIEST_TIMESTAMP = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL_TIMESTAMP = -4
LATEST_TIERED_TIMESTAMP = -5
EARLIEST_PENDING_UPLOAD_TIMESTAMP = -6


class Broker(msgspec.Struct, frozen=True, gc=False):
    """One address that Metadata shows: a worker's own Kafka port (or the one port of
    `kafka.single_port`).
    """

    node_id: int
    host: str
    port: int
    rack: str | None = None


class PartitionInfo(msgspec.Struct, frozen=True, gc=False):
    """Who leads a partition. Its number is its place in `TopicInfo.partitions`; leader -1: none at
    the moment.
    """

    leader: int
    leader_epoch: int

    @property
    def replicas(self) -> list[int]:
        """The brokers that have it: its leader alone, if there is one."""
        return [self.leader] if self.leader >= 0 else []


class TopicInfo(msgspec.Struct, frozen=True):
    """One topic. `declared` ones live in the cluster metadata, light ones have one partition and no
    settings.
    """

    name: bytes
    topic_id: UUID
    partitions: tuple[PartitionInfo, ...]
    internal: bool = False
    """Consumers of a pattern leave it out: the topics whose names in MQTT begin with $, which its
    wildcards do not match either."""
    declared: bool = False
    configs: dict[str, str] = {}
    """Settings that were set for this topic, by their name in robustmq.kafka.topic_configs; not the
    defaults.
    """


class ProduceResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one batch. A repeated idempotent batch: error 0, the first base offset, append
    time filled.
    """

    error: int = 0
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    message: str | None = None
    record_errors: tuple[tuple[int, str], ...] = ()
    """(number in the batch, message) of the records for which it was refused (KIP-467)."""


class ProduceRules(msgspec.Struct, frozen=True, gc=False):
    """What a topic asks of produced records and makes of them; the defaults are Kafka's."""

    compression: int = -1
    """The codec that all batches get; -1: the producer's."""
    log_append_time: bool = False
    before_max_ms: int = (1 << 63) - 1
    after_max_ms: int = 3_600_000
    """How far a producer's timestamps may lie behind and before the wall clock."""
    compacted: bool = False


DEFAULT_RULES = ProduceRules()


class AbortedTransaction(msgspec.Struct, frozen=True, gc=False):
    """A producer's aborted range that a read_committed reader leaves out."""

    producer_id: int
    first_offset: int


class ProducerState(msgspec.Struct, frozen=True, gc=False):
    """A producer of a partition (DescribeProducers); the offset is that of its open transaction."""

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_timestamp_ms: int
    coordinator_epoch: int
    first_offset: int


class ReadResult(msgspec.Struct, frozen=True):
    """Whole stored batches from the one that holds the offset. Out of range: error 1 and -1 in all
    three offsets.

    `leader` and `leader_epoch` are filled when error is 6 or 74 (the reader is sent to the new
    leader).
    """

    error: int = 0
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    buffers: list[bytes | memoryview] = []
    aborted: list[AbortedTransaction] = []
    next_offset: int = -1
    """Where records at the offset were lost (error 2): the first offset behind them, for readers
    inside the broker."""
    leader: int = -1
    leader_epoch: int = -1
    pending: bool = False
    """The records are in the object store and not at hand; `wait_for_append` waits for them."""


class ListedOffset(msgspec.Struct, frozen=True, gc=False):
    """The answer of ListOffsets for one partition."""

    error: int = 0
    offset: int = -1
    timestamp_ms: int = -1
    leader_epoch: int = -1


class EpochEnd(msgspec.Struct, frozen=True, gc=False):
    """Where a leader epoch ended (OffsetForLeaderEpoch)."""

    error: int = 0
    leader_epoch: int = -1
    end_offset: int = -1


class PartitionRead(msgspec.Struct, frozen=True, gc=False):
    """A reader's place in a partition, and the most that it takes of it."""

    topic: bytes
    partition: int
    offset: int
    max_bytes: int
    leader_epoch: int


class AppendWait(msgspec.Struct, frozen=True, gc=False):
    """A reader that has seen a partition up to `high_watermark` (exclusive; of committed
    transactions, isolation 1, up to the last stable offset) and waits for more; or that waits for
    `max_bytes` from `offset` on to be at hand (-1: it does not)."""

    topic: bytes
    partition: int
    high_watermark: int
    isolation: int = 0
    offset: int = -1
    max_bytes: int = 0


class NewTopic(msgspec.Struct, frozen=True):
    """A declared topic to be made. All values are checked against the protocol's rules and
    `topic_configs`.
    """

    name: bytes
    partitions: int
    configs: dict[str, str] = {}


class DeletedRecords(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a partition begins now (DeleteRecords), or why nothing was deleted."""

    error: int = 0
    low_watermark: int = -1


class LogSize(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The bytes on disk (or in memory, in that mode) of a partition of a declared topic."""

    topic: bytes
    partition: int
    size: int


class AdminResult(msgspec.Struct, frozen=True):
    """The outcome of a change to the cluster metadata; `topic` as it is now (or would be, with
    validate_only).
    """

    error: int = 0
    message: str | None = None
    topic: TopicInfo | None = None


class Gateway(Protocol):
    """The broker as the Kafka handlers see it: one object per worker."""

    cluster_id: str
    """22 characters of base64url, as Kafka's cluster ids are."""
    node_id: int
    """The broker id of this worker."""
    auto_create: bool
    """kafka.auto_create: whether Metadata may make topics that are asked for by name."""
    default_partitions: int
    """kafka.default_partitions: for CreateTopics with -1."""
    listed_light_topics: int
    """kafka.listed_light_topics: how many light topics a Metadata request for all topics shows."""
    topic_defaults: dict[str, str]
    """Topic settings whose default is one of the broker's own settings."""
    access: Access
    """Rules, credentials and quotas."""
    telemetry: Instances
    """The clients that this worker has heard of in GetTelemetrySubscriptions and PushTelemetry."""
    fetch_sessions: FetchSessions
    """The fetch sessions of this worker (FetchSessions(capacity, first_id)); made once by the
    worker.
    """

    def defaults_of(self, topic: bytes) -> dict[str, str]:
        """`topic_defaults` as they hold for a topic: [[storage.rules]] may say it by name."""
        ...

    @property
    def share(self) -> ShareGateway:
        """What the handlers of share groups ask of share-partitions."""

    def now_ms(self) -> int:
        """Monotonic milliseconds, the clock of time-outs."""

    def timestamp_ms(self) -> int:
        """Wall clock milliseconds, for what is stored."""

    def unique_id(self) -> str:
        """An unguessable id in UUID form, from which member ids are made."""

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a counter of this worker; unknown names are ignored. Names used:
        kafka.dispatch.COUNTERS.
        """

    def authorized(
        self, context: RequestContext, operation: Operation, resource: Resource, name: str
    ) -> bool:
        """Whether the client of a request may do this. Names are Kafka's; of the cluster:
        access.CLUSTER_NAME. Every handler asks before it does or tells anything.
        """

    def nodes(self, listener: str = "") -> Sequence[Broker]:
        """All brokers (workers) that are up, this one included, by rising node_id, with the
        addresses that belong to a listener (`ConnectionState.listener`; empty: the first one).
        """

    def controller_id(self) -> int:
        """The broker that clients send CreateTopics and its like to; any worker can answer, so any
        that is up.
        """

    def coordinator(self, kind: str, key: str, listener: str = "") -> Broker | None:
        """Who coordinates a key, as `nodes` has it; kind is "group" or "transaction". None: nobody
        at the moment.
        """

    def topic(self, name: bytes, create: bool) -> Promise[TopicInfo | None]:
        """A topic by its key; with `create` a missing one is made. None: it is not there (or may
        not be made).
        """

    def topic_by_id(self, topic_id: UUID) -> Promise[TopicInfo | None]:
        """A topic by the id that Metadata gave out."""

    def key_of_id(self, topic_id: UUID) -> Promise[bytes | None]:
        """The key of a topic by its id, for requests that carry records: a topic that was deleted
        lately may still be known, its owner refuses it then.
        """

    def list_topics(self, light_limit: int) -> Promise[list[TopicInfo]]:
        """All declared topics and at most `light_limit` light ones."""

    def alike(self, name: str) -> str | None:
        """The Kafka name of a declared topic that differs from this one in `.` and `_` alone."""

    def produce_rules(self, topic: bytes) -> ProduceRules:
        """What is asked of batches for a topic; of an unknown one the defaults."""

    def off_loop(self, work: Callable[[], T]) -> Promise[T]:
        """Run what takes long on another thread; it may touch nothing that the event loop does."""

    def breathe(self) -> Promise[None]:
        """Settles when the event loop has served others: between the slices of long work."""

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
        """Append one checked batch (`info` is what was read from it), which is the log's from now
        on. A transactional one comes with the id of its producer, and with what the version of its
        request knows of transactions: `transactions` is VERIFIES, ABORTABLE or ADDS.

        Settles when appended (acks 0 and 1) or committed (acks -1). The owner runs the idempotence
        check (robustmq.groups.producers) and answers 3 for an unknown topic or partition: producing
        never makes a topic.
        """

    def read_all(
        self, reads: Sequence[PartitionRead], max_bytes: int, isolation: int
    ) -> Promise[list[ReadResult]]:
        """Whole batches of each partition from its offset on, at most its `max_bytes` of them, and
        `max_bytes` of all, except that the first that is found always goes whole.

        isolation: 0 read_uncommitted, 1 read_committed. leader_epoch: the reader's, -1 unknown;
        answers 74 when it is older than the leader's and 75 when newer. Unknown topic or partition:
        3. Where there is no room left only the offsets come.
        """

    def wait_for_append(self, waits: Sequence[AppendWait], timeout_ms: int) -> Promise[None]:
        """Settles as soon as the high watermark of one of them is beyond what the reader saw, what
        one waits for is at hand or cannot be had, or at the time-out.

        Because the wait says what was seen, an append between the read and this call is never
        missed. A partition that vanishes or changes its leader also wakes. Also true of remote
        partitions. Who resolves the promise before ends the wait everywhere.
        """

    def list_offset(
        self, topic: bytes, partition: int, timestamp_ms: int, isolation: int, leader_epoch: int
    ) -> Promise[ListedOffset]:
        """First offset at or after a time; or -1 end (with isolation 1: last stable offset), -2
        start, -3 the record with the greatest timestamp, -4 earliest local (= start), -5 latest
        tiered (offset -1 without tiers). Leader epoch as in `read`; unknown partition 3; nothing at
        or after the time: offset -1, error 0.
        """

    def epoch_end(
        self, topic: bytes, partition: int, leader_epoch: int, current_leader_epoch: int
    ) -> Promise[EpochEnd]:
        """The end offset of the largest epoch that is not above `leader_epoch`
        (OffsetForLeaderEpoch).
        """

    def group(self, group_id: str, event: GroupEvent) -> Promise[GroupReply]:
        """Run an event on the machine of a group at its owner (groups.group.Group),
        forwarded when remote.
        """

    def machine(self, kind: bytes, key: str, event: Any) -> Promise[Any]:
        """Run an event on the machine of a kind (above) and a key at its owner, forwarded when
        remote; the promise is of its reply. Events and replies are tagged structs of the kind.
        """

    def list_groups(self) -> Promise[list[GroupListing]]:
        """The groups coordinated by this broker, as clients see brokers."""

    def list_transactions(self) -> Promise[list[TransactionListing]]:
        """The transactional ids coordinated by this broker, as clients see brokers."""

    def offsets_partition(self, group_id: str) -> int:
        """A number for where the offsets of a group are, as `__consumer_offsets` would have it."""

    def create_topic(
        self, topic: NewTopic, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        """Make a declared topic; exists already: 36 (a light topic too). Settles when all workers
        know it.
        """

    def delete_topic(self, name: bytes, timeout_ms: int) -> Promise[AdminResult]:
        """Delete a declared or light topic with its records; unknown: 3."""

    def create_partitions(
        self, name: bytes, count: int, validate_only: bool, timeout_ms: int
    ) -> Promise[AdminResult]:
        """Raise the number of partitions of a declared topic to `count`; unknown 3; not more than
        now: 37.
        """

    def alter_topic_configs(
        self, name: bytes, changes: dict[str, str | None], validate_only: bool
    ) -> Promise[AdminResult]:
        """Set (value) or reset to the default (None) settings of a declared topic; unknown: 3."""

    def delete_records(self, topic: bytes, partition: int, offset: int) -> Promise[DeletedRecords]:
        """Have a partition, also a light topic's, begin at `offset`, or with -1 at its high
        watermark; settles when that lasts. Beyond the high watermark: 1; unknown: 3.
        """

    def log_sizes(self) -> Promise[list[LogSize]]:
        """The logs of declared topics that this broker holds, as clients see brokers."""

    def metadata_version(self) -> int:
        """How many changes the cluster's metadata has seen."""

    def disk_space(self) -> tuple[str, int, int]:
        """The log directory, the bytes of its file system, and those that are free."""

    def resource_configs(self, resource_type: int, name: str) -> dict[str, str]:
        """Settings that were set for a resource that is no topic (`config_resources`): a broker, a
        group, a subscription of client metrics. They are cluster state.
        """

    def resource_names(self, resource_type: int) -> list[str]:
        """The resources of a type that have such settings."""

    def alter_resource_configs(
        self, resource_type: int, name: str, changes: dict[str, str | None], validate_only: bool
    ) -> Promise[AdminResult]:
        """Set (value) or reset (None) settings of a resource that is no topic; they are checked
        already.
        """

    def broker_configs(self) -> dict[str, str]:
        """Effective settings of this broker under Kafka's names, read only."""

    def producers(self, topic: bytes, partition: int) -> Promise[tuple[int, list[ProducerState]]]:
        """An error code, and the producers that a partition's owner knows (DescribeProducers)."""

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
        """Append the control batch that ends a producer's transaction on one partition, at its
        owner (KIP-98; KIP-890 part 2: with transaction_version 2 `producer_epoch` is the bumped
        one, and a marker that does not raise the epoch of an open transaction is stale).

        Settles with 0 when the marker is committed. A repeated marker is 0, too, and may stand in
        the log again. 47 INVALID_PRODUCER_EPOCH: older than the producer's; 52
        TRANSACTION_COORDINATOR_FENCED: a newer coordinator has written already; 3: there is no such
        partition (any more); 6 and 56: ask again.
        """

    def transaction_partition(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        topic: bytes,
        partition: int,
        add: bool,
    ) -> Promise[int]:
        """Asks the coordinator of a transactional id, before the first batch of a transaction is
        appended to a partition, whether the partition belongs to the open transaction (KIP-890).
        With `add` it is added (Produce v12+), else only looked for.

        Settles with 0 when the coordinator has it committed, else with the code of
        AddPartitionsToTxn: 42, 49, 51, 90, 15; 120 when it is looked for and not there. A promise
        fails only with BrokerError.
        """

    def allocate_producer_id(self) -> Promise[tuple[int, int]]:
        """A producer id that was never given out before, and its epoch 0; from blocks of the
        cluster state.
        """
