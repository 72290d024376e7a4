"""What Kafka's requests meet on a worker, put together: the durable machines, the logs, the readers
that wait, and the gateway before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustmq.kafka import config_resources
from robustmq.kafka.consumer_events import ExpireOffsets
from robustmq.kafka.gateway import GROUP, SHARE_GROUP, TRANSACTION
from robustmq.kafka.group_configs import CONSUMER_HEARTBEAT_INTERVAL, CONSUMER_SESSION_TIMEOUT
from robustmq.shard.cluster_view import Declared
from robustmq.shard.commits import LogKey
from robustmq.shard.gateway import KafkaGateway
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.log_admin import LogAdmin
from robustmq.shard.machines import group_kind, transaction_kind
from robustmq.shard.producer_states import ProducerStates
from robustmq.shard.refusals import Refusals
from robustmq.shard.releases import Releases
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.share_parts import ShareParts
from robustmq.shard.transactions import TransactionMarkers
from robustmq.shard.waits import AppendWaits

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker


EXPIRE = "expire-offsets"
"""The timer of `KafkaParts.expire_offsets`."""
GROUPS_AT_ONCE = 50


class GroupSurroundings:
    """What a group sees of the broker: its topics, the settings of groups, who else has its id."""

    def __init__(self, broker: Broker, parts: KafkaParts) -> None:
        self._cluster = broker.cluster
        self._parts = parts
        kafka = broker.settings.kafka
        self._session_ms = kafka.group_consumer_session_timeout_ms
        self._interval_ms = kafka.group_consumer_heartbeat_interval_ms

    def declared(self, name: bytes) -> Declared | None:
        """A declared topic by name."""
        return self._cluster.declared(name)

    def group_times_ms(self, group_id: str) -> tuple[int, int] | None:
        """What was set for this group."""
        own = self._cluster.resource(config_resources.GROUP, group_id)
        if not own:
            return None
        return (
            int(own.get(CONSUMER_SESSION_TIMEOUT, self._session_ms)),
            int(own.get(CONSUMER_HEARTBEAT_INTERVAL, self._interval_ms)),
        )

    def is_share_group(self, group_id: str) -> bool:
        """It lives in the same shard, so its machine is here if there is one."""
        found = self._parts.machines.machines(SHARE_GROUP).get(group_id)
        return found is not None and not found.disposable


class KafkaParts:
    """The Kafka side of one worker's broker."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its placement, stores, commits, owner and bus already."""
        around, placement = broker.around, broker.placement
        self.share = ShareParts(broker)
        self.machines = MachineRuntime(
            (
                group_kind(broker.settings.kafka, GroupSurroundings(broker, self)),
                transaction_kind(broker.settings.kafka, around.wall_ms),
                *self.share.kinds,
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
            around.off_loop,
            broker.next_turn,
            self.refusals,
        )
        self.markers = TransactionMarkers(
            self.gateway, self.machines, placement, self.waits, broker.cluster.shard_epoch
        )
        self.machines.executors[TRANSACTION] = self.markers.carry_out
        self.share.open(self.logs, self.machines, self.gateway)
        self._wheel, self._monotonic_ms = broker.wheel, around.monotonic_ms
        self._wall_ms = around.wall_ms
        self._expire_every_ms = broker.settings.kafka.offsets_retention_check_s * 1000
        self._to_expire: list[str] = []
        self._wheel.set((EXPIRE,), self._monotonic_ms() + self._expire_every_ms)

    def expire_offsets(self) -> None:
        """The time of a look at the groups' offsets has come; it is made some groups a turn."""
        if not self._to_expire:
            self._to_expire = list(self.machines.machines(GROUP))
        event = ExpireOffsets(self._wall_ms())
        for group_id in self._to_expire[-GROUPS_AT_ONCE:]:
            self.machines.tell_one(GROUP, group_id, event)
        del self._to_expire[-GROUPS_AT_ONCE:]
        wait_ms = 1 if self._to_expire else self._expire_every_ms
        self._wheel.set((EXPIRE,), self._monotonic_ms() + wait_ms)

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
        self.refusals = Refusals(around.monotonic_ms)
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
            self.refusals,
        )
        self.logs.behind = broker.pressure.must_wait
        self.waits = AppendWaits(
            broker.wheel, around.monotonic_ms, placement.shard, self.logs.visible_end
        )
        self.waits.began = broker.commits.hurry
        broker.commits.noted = self.waits.many
        broker.commits.awaited = self._awaited

    def _awaited(self, shard: int) -> bool:
        return self.waits.awaited(shard) or self.share.waits.awaited(shard)

    def committed(self, shard: int, touched: set[LogKey] | None) -> None:
        """A shard's commit may have something for those who wait."""
        self.waits.committed(shard, touched)
        self.share.waits.committed(shard)
