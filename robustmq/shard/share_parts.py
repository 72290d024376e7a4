"""What share groups need on a worker, put together: their settings, their kinds of machines, the
share-partitions, and what the gateway asks of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustmq.groups import share_records
from robustmq.groups.share_group import ShareGroup
from robustmq.groups.share_partition import SharePartition
from robustmq.kafka import share_events
from robustmq.kafka.gateway import SHARE_GROUP, SHARE_PARTITION
from robustmq.names import topic_id
from robustmq.shard.dead_letters import DeadLetters
from robustmq.shard.gateway import KafkaGateway
from robustmq.shard.group_settings import GroupSettingsView
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.machines import MachineKind
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.share_gateway import ShareCalls
from robustmq.shard.share_partitions import SharePartitions

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker


def share_group_kind(settings: GroupSettingsView) -> MachineKind:
    """Share groups: their members."""
    return MachineKind(
        SHARE_GROUP,
        lambda group_id: ShareGroup(group_id, lambda: settings.share_group(group_id)),
        share_records.encode_record,
        share_records.decode_group_record,
        share_events.encode,
        share_events.decode_group_event,
        share_events.encode,
        share_events.decode_group_reply,
        share_events.ShareGroupResumed,
        share_events.ShareTimer,
    )


def share_partition_kind(settings: GroupSettingsView) -> MachineKind:
    """Share-partitions: what the members of share groups hold."""

    def make(key: str) -> SharePartition:
        group_id = share_events.share_key(key).group_id
        return SharePartition(lambda: settings.share_partition(group_id))

    return MachineKind(
        SHARE_PARTITION,
        make,
        share_records.encode_record,
        share_records.decode_partition_record,
        share_events.encode,
        share_events.decode_partition_event,
        share_events.encode,
        share_events.decode_partition_reply,
        share_events.ShareResumed,
        share_events.LockTimer,
    )


class ShareParts:
    """The share groups of one worker's broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        kafka = broker.settings.kafka
        self.settings = GroupSettingsView(broker.cluster.resource, kafka.share_group_max_size)
        self.kinds = (share_group_kind(self.settings), share_partition_kind(self.settings))

    def open(self, logs: LocalLogs, machines: MachineRuntime, gateway: KafkaGateway) -> None:
        """The logs, the machines and the gateway are there."""
        broker = self._broker
        self.partitions = SharePartitions(
            logs,
            machines,
            self.settings,
            broker.wheel,
            broker.placement.shard,
            broker.around.monotonic_ms,
            broker.around.wall_ms,
        )
        self.waits = self.partitions.waits
        self.waits.began = broker.commits.hurry
        self._machines = machines
        self.dead_letters = DeadLetters(gateway, logs, machines, self.settings, broker.around.log)
        machines.executors[SHARE_PARTITION] = self.dead_letters.carry_out
        gateway.share = ShareCalls(
            broker.placement,
            self.partitions,
            self.settings,
            broker.rpc,
            gateway.machine,
            broker.turn,
            broker.settings.kafka.max_share_sessions,
        )

    def recovered(self) -> None:
        """What is known of topics that were deleted while this worker was away goes."""
        declared = self._broker.cluster.declared_by_id
        self.partitions.drop_others(
            lambda key: (
                declared(key.topic_id) == key.topic
                or (declared(key.topic_id) is None and key.topic_id == topic_id(key.topic, 0))
            )
        )

    def drop_topic(self, topic: bytes) -> None:
        """A topic is gone."""
        self.partitions.drop_topic(topic)
        self._machines.tell(SHARE_GROUP, share_events.DropShareTopic(topic))
