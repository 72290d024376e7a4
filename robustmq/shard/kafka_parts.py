"""What Kafka's requests meet on a worker, put together: the durable machines, the logs, the readers
that wait, and the gateway before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustmq.kafka.gateway import TRANSACTION
from robustmq.shard.gateway import KafkaGateway
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.log_admin import LogAdmin
from robustmq.shard.machines import group_kind, transaction_kind
from robustmq.shard.producer_states import ProducerStates
from robustmq.shard.releases import Releases
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.transactions import TransactionMarkers
from robustmq.shard.waits import AppendWaits

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker


class KafkaParts:
    """The Kafka side of one worker's broker."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its placement, stores, commits, owner and bus already."""
        around, placement = broker.around, broker.placement
        self.machines = MachineRuntime(
            (
                group_kind(broker.settings.kafka),
                transaction_kind(broker.settings.kafka, around.wall_ms),
            ),
            placement,
            broker.stores,
            broker.commits,
            broker.wheel,
            around.monotonic_ms,
            around.wall_ms,
        )
        self._open_logs(broker)
        self.gateway = KafkaGateway(
            broker.settings,
            placement,
            broker.cluster,
            self.logs,
            self.machines,
            self.waits,
            broker.rpc,
            around.monotonic_ms,
            around.wall_ms,
            around.unique,
            around.count,
            around.unique().int & 0x3FFFFFFF | 1,
            broker.turn,
            around.access,
            LogAdmin(placement, broker.stores, broker.partitions, broker.commits, around.wall_ms),
            around.space,
        )
        self.markers = TransactionMarkers(
            self.gateway, self.machines, placement, self.waits, broker.cluster.shard_epoch
        )
        self.machines.executors[TRANSACTION] = self.markers.carry_out

    def _open_logs(self, broker: Broker) -> None:
        """The logs, their producers and transactions, and who waits for them."""
        around, placement = broker.around, broker.placement
        self.producers = ProducerStates(
            placement,
            broker.partitions,
            around.wall_ms,
            broker.settings.kafka.producer_id_expiration_s * 1000,
        )
        self.releases = Releases(
            placement,
            broker.stores,
            broker.partitions,
            broker.interest,
            broker.owner,
            around.wall_ms,
            around.call_soon,
            broker.turn,
        )
        broker.telling.completed = self.releases.complete
        self.logs = LocalLogs(
            broker.limits.max_message_bytes,
            placement,
            broker.stores,
            broker.partitions,
            broker.owner,
            broker.commits,
            self.producers,
            self.releases,
            broker.cluster.shard_epoch,
            around.wall_ms,
        )
        self.logs.behind = broker.pressure.must_wait
        self.waits = AppendWaits(
            broker.wheel, around.monotonic_ms, placement.shard, self.logs.visible_end
        )
        self.waits.began = broker.commits.hurry
        broker.commits.awaited = self.waits.awaited
