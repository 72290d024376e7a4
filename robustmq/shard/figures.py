"""What is seen of a worker by looking at it: gauges, and totals counted where they arise."""

from __future__ import annotations

from robustmq.limits import commit_cells
from robustmq.shard.broker import Broker
from robustmq.shard.placement import GROUP_KIND


def gauges(broker: Broker) -> dict[str, int]:
    """What is counted by looking, for the counters."""
    stores, slow = broker.stores.values(), broker.slow
    return {
        "mqtt_connections": broker.connections,
        "slow_subscriptions": len(slow) if slow is not None else 0,
        "slow_subscriptions_highest_ms": slow.highest_ms if slow is not None else 0,
        "sys_events_waiting": len(broker.events),
        "mqtt_clients_slowed": len(broker.rates),
        "mqtt_sessions": len(broker.sessions),
        "mqtt_subscriptions": broker.sessions.subscriptions,
        "mqtt_shared_subscriptions": broker.sessions.shared_subscriptions,
        "mqtt_delayed_messages": broker.delayed.waiting,
        "storage_shards_capped": broker.disk_cap.capped,
        "mqtt_retained_messages": sum(store.retained.count for store in stores),
        "kafka_groups": len(broker.kafka.machines.machines(GROUP_KIND)),
        "kafka_fetches_parked": len(broker.kafka.waits),
        "topics": sum(len(store.light) for store in stores),
        "partitions": len(broker.partitions),
        "shards": len(broker.stores),
        "storage_pending_bytes": sum(store.uncommitted_bytes for store in stores),
        "bus_queued_bytes": sum(
            broker.around.bus.queued_bytes(worker) for worker in range(broker.worker_count)
        ),
        **_held(broker),
        **broker.uploader.gauges(),
        **broker.light_tiers.gauges(),
    }


def totals(broker: Broker) -> dict[str, int]:
    """What has been counted since the start of this worker, where the counters would cost."""
    received = broker.tally.messages + broker.tally.denied
    return {
        "mqtt_messages_received": broker.tally.messages,
        "mqtt_publish_denied": broker.tally.denied,
        "mqtt_packets_received": broker.packets_in + received,
        "mqtt_packets_sent": broker.packets_out,
        "mqtt_rate_pauses": broker.rates.pauses,
        **_storage_totals(broker),
        "storage_commits": broker.commits.count,
        "storage_syncs": broker.commits.syncs,
    }


def _held(broker: Broker) -> dict[str, int]:
    """Bytes of records by engine: logs and files on the disk, rings in memory."""
    stores = broker.stores.values()
    log = sum(store.log.disk_bytes for store in stores)
    return {
        "storage_held_log": log,
        "storage_held_segment": sum(store.disk_bytes for store in stores) - log,
        "storage_held_memory": broker.around.rings.held_bytes,
        "storage_memory_bound_bytes": broker.around.rings.max_bytes,
    }


def _storage_totals(broker: Broker) -> dict[str, int]:
    stores = broker.stores.values()
    written = sum(store.log.appended_bytes for store in stores)
    found = {
        "storage_bytes_written": written,
        "storage_partition_bytes_written": sum(store.appended_bytes for store in stores) - written,
        "storage_memory_bytes_dropped": broker.around.rings.dropped_bytes,
        "storage_fsyncs": max((store.disk.syncs for store in stores), default=0),
        "storage_log_read_memory": sum(store.log.hot_bytes_read for store in stores),
        "storage_log_read_disk": sum(store.log.cold_bytes_read for store in stores),
    }
    for kind, latencies in broker.commits.latencies.items():
        found |= zip(commit_cells(kind), latencies.cells(), strict=True)
    return found
