"""Ends transactions everywhere: the executor of the commands of robustmq.groups.transactions.

A marker goes to the owner of every partition, and to every group whose offsets are part of the
transaction, until each of them says that it is committed there; only then does the coordinator
hear of it. An owner that is away is asked again, with back-off. A topic that was deleted has
nothing left to end. What a crash forgets, the recovered coordinator asks for again: a marker that
is there already does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustmq.errors import BrokerError, KafkaCode
from robustmq.groups.transactions import WriteMarkers
from robustmq.kafka.gateway import GROUP, TRANSACTION, Gateway
from robustmq.kafka.group_events import EndOffsets
from robustmq.kafka.transaction_events import MarkersWritten
from robustmq.promises import Promise, gather, start
from robustmq.shard.placement import Placement
from robustmq.shard.runtime import MachineRuntime
from robustmq.shard.waits import AppendWaits

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 50, 1_000

_ENDED = frozenset(
    {
        KafkaCode.NONE,
        KafkaCode.UNKNOWN_TOPIC_OR_PARTITION,
        # A later epoch has written there: this transaction is over.
        KafkaCode.INVALID_PRODUCER_EPOCH,
        KafkaCode.TRANSACTION_COORDINATOR_FENCED,
    }
)

_Target = Callable[[], Promise[int]]


class TransactionMarkers:
    """Writes the markers of the transactions that are coordinated by this worker."""

    def __init__(
        self,
        gateway: Gateway,
        machines: MachineRuntime,
        placement: Placement,
        waits: AppendWaits,
        shard_epoch: Callable[[int], int],
    ) -> None:
        self._gateway = gateway
        self._machines = machines
        self._placement = placement
        self._waits = waits
        self._shard_epoch = shard_epoch

    def carry_out(self, transactional_id: str, command: Any) -> None:
        """The executor of the runtime."""
        assert isinstance(command, WriteMarkers), "the only command of a coordinator"
        start(self._write(transactional_id, command))

    async def _write(self, transactional_id: str, command: WriteMarkers) -> None:
        """Until all are written; the owner of this shard is the only one who does so."""
        left = self._targets(transactional_id, command)
        pause_ms = FIRST_PAUSE_MS
        while left:
            ended = await gather([start(_is_ended(target)) for target in left])
            left = [target for target, done in zip(left, ended, strict=True) if not done]
            if left:
                self._gateway.count("kafka_transaction_markers_repeated", len(left))
                await self._waits.wait((), pause_ms)
                pause_ms = min(2 * pause_ms, LONGEST_PAUSE_MS)
        if command.commit:
            self._gateway.count("kafka_transactions_committed")
        else:
            self._gateway.count("kafka_transactions_aborted")
        event = MarkersWritten(
            command.producer_id, command.producer_epoch, self._gateway.timestamp_ms()
        )
        self._machines.post(TRANSACTION, transactional_id, event)

    def _targets(self, transactional_id: str, command: WriteMarkers) -> list[_Target]:
        shard = self._placement.machine_shard(TRANSACTION, transactional_id)
        coordinator_epoch = self._shard_epoch(shard)
        targets: list[_Target] = []
        for topic, partition in command.partitions:
            targets.append(
                lambda topic=topic, partition=partition: self._gateway.write_marker(  # type: ignore[misc]
                    topic,
                    partition,
                    command.producer_id,
                    command.producer_epoch,
                    coordinator_epoch,
                    command.commit,
                    command.transaction_version,
                )
            )
        event = EndOffsets(command.producer_id, command.producer_epoch, command.commit)
        for group_id in command.groups:
            targets.append(lambda group_id=group_id: start(self._end_offsets(group_id, event)))  # type: ignore[misc]
        return targets

    async def _end_offsets(self, group_id: str, event: EndOffsets) -> int:
        reply = await self._gateway.machine(GROUP, group_id, event)
        return int(reply.error)


async def _is_ended(target: _Target) -> bool:
    try:
        return await target() in _ENDED
    except BrokerError:
        return False
