"""Counters in shared memory: one row of int64 for each worker, no locks.

The supervisor makes the memory before it forks; every process inherits it. A row has one writer,
its worker; whoever reads may see a value that is a moment old, never a torn one (aligned 8-byte
stores). Counters survive the restart of their worker, so that they never step back; gauges are set
to 0 by `begin`. `COUNTERS` is the one table: a name that is not in it does not exist, and
docs/reference/metrics.md is written from it.
"""

from __future__ import annotations

import mmap
from typing import Literal, NamedTuple

from robustmq.limits import COMMIT_BOUNDS_US, TIER_GET_CELLS, commit_cells
from robustmq.observability.topic_metrics import TopicCounters

CELL = 8
Labels = tuple[tuple[str, str], ...]


class Counter(NamedTuple):
    """One cell of a row: how code names it, and how Prometheus shows it."""

    name: str
    metric: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    le: str = ""
    """Of a histogram: what this cell counts, a bound in seconds, `+Inf` for all, or `sum` for the
    microseconds that all took together."""


def _counter(name: str, help_text: str, metric: str = "", **labels: str) -> Counter:
    return Counter(
        name, metric or f"robustmq_{name}_total", "counter", help_text, tuple(labels.items())
    )


def _gauge(name: str, help_text: str, metric: str = "", **labels: str) -> Counter:
    return Counter(name, metric or f"robustmq_{name}", "gauge", help_text, tuple(labels.items()))


def _histogram(
    metric: str, help_text: str, cells: dict[str, float], total: str, sum_us: str, **labels: str
) -> tuple[Counter, ...]:
    """`cells` names what is within each bound in seconds, all below it included."""
    rows = {name: f"{bound:g}" for name, bound in cells.items()}
    rows |= {total: "+Inf", sum_us: "sum"}
    return tuple(
        Counter(name, metric, "histogram", help_text, tuple(labels.items()), le)
        for name, le in rows.items()
    )


def _commit_latency(kind: str) -> tuple[Counter, ...]:
    *within, total, sum_us = commit_cells(kind)
    bounds = (bound / 1e6 for bound in COMMIT_BOUNDS_US)
    return _histogram(
        "robustmq_storage_commit_seconds",
        "From the end of a turn to its commit: written (os), or with fdatasync (disk).",
        dict(zip(within, bounds, strict=True)),
        total,
        sum_us,
        sync=kind,
    )


_HELD = "Bytes of records held by the engine of their topic (local disk, or memory)."
_READ = "Bytes read from the logs of shards, by where they came from."
_MESSAGES = "Messages taken in, or delivered to a subscriber or consumer."
_BYTES = "Bytes read from and written to sockets."
_CONNECTIONS = "Open client connections."
_OPENED = "Client connections accepted since the start."

_TIER_READS = "Looks at a block of the object store, by where it came from."
_TIER_READS_METRIC = "robustmq_storage_tier_reads_total"
_TIER_BYTES = "Bytes of cold records given to readers, and read from cache folder and store for it."
_TIER_BYTES_METRIC = "robustmq_storage_tier_read_bytes_total"
_TIER_GETS = "Reads of the object store that were answered."

COUNTERS: tuple[Counter, ...] = (
    _counter(
        "mqtt_messages_received",
        _MESSAGES,
        "robustmq_messages_total",
        protocol="mqtt",
        direction="in",
    ),
    _counter(
        "mqtt_messages_sent", _MESSAGES, "robustmq_messages_total", protocol="mqtt", direction="out"
    ),
    _counter(
        "kafka_records_in",
        _MESSAGES,
        "robustmq_messages_total",
        protocol="kafka",
        direction="in",
    ),
    _counter(
        "kafka_records_out",
        _MESSAGES,
        "robustmq_messages_total",
        protocol="kafka",
        direction="out",
    ),
    _counter(
        "mqtt_bytes_received", _BYTES, "robustmq_bytes_total", protocol="mqtt", direction="in"
    ),
    _counter("mqtt_bytes_sent", _BYTES, "robustmq_bytes_total", protocol="mqtt", direction="out"),
    _counter("kafka_bytes_in", _BYTES, "robustmq_bytes_total", protocol="kafka", direction="in"),
    _counter("kafka_bytes_out", _BYTES, "robustmq_bytes_total", protocol="kafka", direction="out"),
    _gauge("mqtt_connections", _CONNECTIONS, "robustmq_connections", protocol="mqtt"),
    _gauge("kafka_connections", _CONNECTIONS, "robustmq_connections", protocol="kafka"),
    _counter(
        "mqtt_connections_opened", _OPENED, "robustmq_connections_opened_total", protocol="mqtt"
    ),
    _counter(
        "kafka_connections_opened", _OPENED, "robustmq_connections_opened_total", protocol="kafka"
    ),
    _counter("kafka_connections_idled", "Kafka connections closed as nothing was asked for long."),
    _counter("connections_refused", "Connections closed by an accept limit or a banned address."),
    _counter("connections_handed_over", "MQTT connections passed to their home worker."),
    _counter("tls_handshakes", "TLS handshakes of clients that succeeded."),
    _counter("tls_handshakes_failed", "TLS handshakes that failed."),
    _gauge("tls_relayed", "TLS connections that are carried to another worker."),
    _counter("websocket_upgrades_refused", "HTTP requests that could not become a WebSocket."),
    _counter("websocket_faults", "WebSockets closed because their client broke the rules."),
    _counter("proxy_headers_refused", "Connections without a sound PROXY protocol header."),
    _counter("mqtt_packets_received", "MQTT packets received, of any type."),
    _counter("mqtt_packets_sent", "MQTT packets sent, of any type."),
    _counter(
        "mqtt_messages_dropped", "Messages not delivered: full queue, slow client, or expired."
    ),
    _counter("mqtt_publish_denied", "PUBLISH packets to topics the client may not write."),
    _counter("mqtt_connect_refused", "CONNECT packets answered with an error."),
    _counter("mqtt_authentication_failures", "CONNECT packets with a bad user name or password."),
    _counter("mqtt_takeovers", "Connections closed because their session was taken over."),
    _counter("mqtt_connects", "Clients that were let in."),
    _counter("mqtt_sessions_expired", "Sessions that ended as their client stayed away too long."),
    _counter("sys_events", "Client events published under $SYS."),
    _counter("sys_events_dropped", "Client events not published: too many at a time."),
    _gauge("sys_events_waiting", "Client events that wait to be published."),
    _counter("slow_deliveries", "Deliveries that took longer than the threshold."),
    _gauge("slow_subscriptions", "Pairs of client and topic that messages reach late."),
    _gauge("slow_subscriptions_highest_ms", "Latency of the slowest subscription."),
    _counter("mqtt_rate_pauses", "Times that a client was not read as it had sent too fast."),
    _gauge("mqtt_clients_slowed", "Clients that are not read as they have sent too fast."),
    _counter("mqtt_banned", "Connections refused after CONNECT, or ended, by a ban."),
    _counter("mqtt_flapping", "Clients banned because they came and went too often."),
    _counter("mqtt_clients_kicked", "Connections ended by an operator."),
    _counter("mqtt_queue_full_disconnects", "Clients ended because their queue was full."),
    _counter("mqtt_wills_published", "Wills published."),
    _counter("mqtt_auto_subscribe_refused", "Automatic subscriptions that could not be made."),
    _counter("mqtt_delayed_refused", "Delayed messages refused: too many wait."),
    _counter("mqtt_delayed_expired", "Delayed messages that expired before they were due."),
    _counter("mqtt_retained_refused", "Messages with RETAIN refused by a bound."),
    _counter("mqtt_retained_expired", "Retained messages removed because they expired."),
    _counter(
        "mqtt_faults",
        "Connections ended by bad input.",
        "robustmq_protocol_errors_total",
        protocol="mqtt",
    ),
    _counter(
        "kafka_faults",
        "Connections ended by bad input.",
        "robustmq_protocol_errors_total",
        protocol="kafka",
    ),
    _gauge("mqtt_sessions", "Sessions, connected or not."),
    _gauge("mqtt_subscriptions", "Subscriptions of all sessions."),
    _gauge("mqtt_delayed_messages", "Delayed messages that wait to be published."),
    _gauge("mqtt_retained_messages", "Retained messages."),
    _gauge("mqtt_shared_subscriptions", "Subscriptions of $share groups."),
    _gauge("mqtt_queued_messages", "Messages that wait in sessions."),
    _gauge("mqtt_queued_bytes", "Bytes that wait in sessions."),
    _gauge("mqtt_inflight", "QoS 1 and 2 messages sent and not acknowledged."),
    _counter("kafka_requests", "Kafka requests answered."),
    _counter(
        "kafka_requests_refused",
        "Kafka requests that could not be read or are in a version not offered.",
    ),
    _counter("kafka_throttled", "Answers that told a Kafka client to wait for its quota."),
    _counter("kafka_throttled_ms", "How long they told it to wait, in milliseconds."),
    _counter("kafka_telemetry_pushes", "Pushes of client metrics that were taken (KIP-714)."),
    _counter("kafka_telemetry_bytes", "Bytes of client metrics that were taken."),
    _counter("kafka_telemetry_points", "Data points of client metrics that were taken."),
    _counter("kafka_telemetry_refused", "Pushes of client metrics that were refused."),
    _counter("kafka_authentications", "Kafka clients that proved who they are."),
    _counter("kafka_authentications_refused", "Kafka clients that did not."),
    _counter("kafka_batches_refused", "Record batches that were refused."),
    _counter("kafka_dead_letters", "Records of share groups that went to a dead letter topic."),
    _counter("kafka_dead_letters_refused", "Times that a dead letter topic did not take records."),
    _counter("kafka_transactions_committed", "Transactions that were committed everywhere."),
    _counter("kafka_transactions_aborted", "Transactions that were aborted everywhere."),
    _counter(
        "kafka_transaction_markers_repeated",
        "Markers of transactions that had to be sent again: an owner was away, or could not write.",
    ),
    _gauge("kafka_fetches_parked", "Kafka fetches that wait for records."),
    _gauge("kafka_groups", "Consumer groups."),
    _gauge("topics", "Topics whose log is owned here, light ones included."),
    _gauge("partitions", "Partitions of declared topics owned here that are in use."),
    _counter("storage_bytes_written", "Bytes appended to the logs of shards."),
    _counter("storage_commits", "Commits of a shard; those of a turn are written together."),
    _counter("storage_syncs", "Commits of a shard with fdatasync."),
    _counter("storage_fsyncs", "fdatasyncs that were made; one serves all that waits for it."),
    *_commit_latency("os"),
    *_commit_latency("disk"),
    _gauge("storage_held_log", _HELD, "robustmq_storage_held_bytes", engine="log"),
    _gauge("storage_held_segment", _HELD, "robustmq_storage_held_bytes", engine="segment"),
    _gauge("storage_held_memory", _HELD, "robustmq_storage_held_bytes", engine="memory"),
    _gauge(
        "storage_memory_bound_bytes",
        "What all topics of mode memory of a worker may take (storage.memory_bytes).",
    ),
    _counter("storage_memory_bytes_dropped", "Bytes in mode memory that made way for newer ones."),
    _counter(
        "storage_log_read_memory", _READ, "robustmq_storage_log_read_bytes_total", source="memory"
    ),
    _counter(
        "storage_log_read_disk", _READ, "robustmq_storage_log_read_bytes_total", source="disk"
    ),
    _counter(
        "storage_partition_bytes_written",
        "Bytes appended to partitions outside of their shard's log.",
    ),
    _counter("storage_bytes_expired", "Bytes of segments that retention has let go."),
    _counter("topics_expired", "Light topics that went because nobody published to them."),
    _counter("storage_log_files_cleaned", "Files of shards' logs that went or were written anew."),
    _counter("storage_log_bytes_freed", "Bytes that shards' logs take no longer on the disk."),
    _counter("storage_log_bytes_rewritten", "Bytes of shards' logs that were written anew."),
    _counter("storage_compactions", "Compactions of a partition's log."),
    _counter("storage_bytes_compacted", "Bytes of logs that compactions have read."),
    _counter("storage_bytes_freed_by_compaction", "Bytes of them that compactions left out."),
    _counter("storage_corrupt_records", "Bad records found and quarantined."),
    _counter("storage_errors", "Disk errors."),
    _gauge("storage_shards_capped", "Shards at storage.shard_max_bytes, which take no records."),
    _counter("storage_read_errors", "Reads of stored records that the disk has failed."),
    _gauge("storage_pending_bytes", "Bytes appended and not yet committed."),
    _gauge("storage_tier_partitions", "Partitions that are tiered."),
    _gauge("storage_tier_segments", "Their segments in the object store."),
    _gauge("storage_tier_bytes", "Bytes of these."),
    _counter("storage_tier_segments_uploaded", "Segments that were uploaded."),
    _counter("storage_tier_bytes_uploaded", "Bytes of these."),
    _counter("storage_tier_segments_removed", "Segments that were removed from the object store."),
    _gauge("storage_tier_lag_segments", "Closed segments that are not in the object store yet."),
    _gauge("storage_tier_lag_bytes", "Bytes of these."),
    _gauge("storage_tier_lag_ms", "How long the oldest of these has waited, in milliseconds."),
    _counter("storage_tier_errors", "Requests to the object store that failed, all tries."),
    _gauge("storage_tier_unavailable", "1 while the object store does not answer or refuses."),
    *(
        _counter(f"storage_tier_reads_{source}", _TIER_READS, _TIER_READS_METRIC, source=source)
        for source in ("memory", "disk", "store")
    ),
    *(
        _counter(f"storage_tier_bytes_{source}", _TIER_BYTES, _TIER_BYTES_METRIC, source=source)
        for source in ("served", "disk", "store")
    ),
    _counter("storage_tier_evictions_memory", "Blocks that made way in memory."),
    _counter("storage_tier_evictions_disk", "Blocks that made way in the cache folder."),
    _counter(
        "storage_tier_disk_writes_skipped",
        "Blocks left out of the cache folder, as its disk did not keep up.",
    ),
    _counter("storage_tier_disk_errors", "Errors of the cache folder's disk."),
    _counter("storage_tier_prefetch_wasted_bytes", "Bytes fetched ahead that nobody came to read."),
    _counter(
        "storage_tier_fetches_abandoned", "Fetches that nobody waited for any more; not made."
    ),
    _counter("storage_tier_damaged_blocks", "Blocks whose records were damaged; fetched anew."),
    _counter("storage_tier_get_errors", "Reads of the object store that failed, each try."),
    *_histogram(
        "robustmq_storage_tier_get_seconds",
        _TIER_GETS,
        {name: bound_ms / 1000 for name, bound_ms in TIER_GET_CELLS.items()},
        "storage_tier_gets",
        "storage_tier_get_us",
    ),
    _gauge(
        "storage_tier_cache_memory_bytes",
        "Blocks of the object store in memory, with those that only readers still hold.",
    ),
    _gauge("storage_tier_cache_disk_bytes", "Blocks of the object store in the cache folder."),
    _gauge("storage_tier_fetches_in_flight", "Reads of folder and store that have begun."),
    _gauge(
        "storage_tier_reads_unavailable",
        "1 while the object store is not asked for records, as it has not answered.",
    ),
    _gauge("storage_tier_stopped", "Tiered partitions that are not uploaded, as the log says why."),
    _gauge(
        "storage_tier_light_objects",
        "Objects in the object store that have what light topics had in shards' logs.",
    ),
    _gauge("storage_tier_light_bytes", "Bytes of these."),
    _gauge(
        "storage_tier_light_lag_bytes",
        "Bytes of shards' logs that were not looked at yet for what is to be uploaded.",
    ),
    _gauge("storage_tier_light_stopped", "Shards whose log is not uploaded, as the log says why."),
    _counter("bus_frames_sent", "Frames sent to other workers."),
    _counter("bus_bytes_sent", "Bytes sent to other workers."),
    _gauge("bus_queued_bytes", "Bytes that wait for other workers."),
    _counter("bus_reconnects", "Links to other workers made again."),
    _gauge("shards", "Shards owned here."),
    _counter("loop_slow_turns", "Ticks of a worker that a turn of its loop held up over 5 ms."),
    _gauge("ready", "1 when the worker has recovered its shards and listens."),
    _gauge("pid", "Process id of the worker.", "robustmq_worker_pid"),
    _counter("starts", "Starts of the worker.", "robustmq_worker_starts_total"),
    _gauge(
        "heartbeat_ms",
        "Wall clock of the worker's last sign of life.",
        "robustmq_worker_heartbeat_milliseconds",
    ),
)

INDEX: dict[str, int] = {counter.name: place for place, counter in enumerate(COUNTERS)}


class Row:
    """One worker's cells. `cells[INDEX[name]] += n` is the fast way, `add` the easy one."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter or gauge; an unknown name is ignored."""
        place = INDEX.get(name)
        if place is not None:
            self.cells[place] += amount

    def set(self, name: str, value: int) -> None:
        """Set a gauge; an unknown name is ignored."""
        place = INDEX.get(name)
        if place is not None:
            self.cells[place] = value

    def get(self, name: str) -> int:
        """The value of one cell."""
        return int(self.cells[INDEX[name]])

    def begin(self, pid: int) -> None:
        """A worker starts on this row: gauges to 0, counters stay."""
        for place, counter in enumerate(COUNTERS):
            if counter.kind == "gauge":
                self.cells[place] = 0
        self.set("pid", pid)
        self.add("starts")


class Counters:
    """All rows, in anonymous memory shared with every process forked afterwards."""

    def __init__(self, workers: int, topic_filters: tuple[str, ...] = ()) -> None:
        """`topic_filters` name the topics that are counted of themselves."""
        assert workers > 0, "counters need at least one worker"
        self.topics = TopicCounters(workers, topic_filters)
        self.workers = workers
        self._memory = mmap.mmap(-1, workers * len(COUNTERS) * CELL)
        self._cells = memoryview(self._memory).cast("q")

    def row(self, worker: int) -> Row:
        """The row that worker `worker` writes."""
        assert 0 <= worker < self.workers, "no row for this worker"
        width = len(COUNTERS)
        return Row(self._cells[worker * width : (worker + 1) * width])

    def value(self, name: str, worker: int) -> int:
        """One cell."""
        return int(self._cells[worker * len(COUNTERS) + INDEX[name]])

    def total(self, name: str) -> int:
        """The sum over all workers."""
        return sum(self.value(name, worker) for worker in range(self.workers))

    def totals(self) -> dict[str, int]:
        """The sums of all counters by name."""
        return {counter.name: self.total(counter.name) for counter in COUNTERS}
