"""A transactional Kafka producer of the simulation (KIP-98, KIP-890 part 2): one transaction after
the other, each request sent again to any worker that lives until it is answered.

What it was told is its own record: of a transaction whose end was confirmed it knows for sure
whether its records count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka.gateway import ADDS, TRANSACTION
from robustmq.kafka.transaction_events import (
    TRANSACTION_V2,
    EndTransaction,
    InitProducerId,
    NeedsProducerId,
)
from robustmq.promises import Promise
from robustmq.records import Record
from robustmq.shard.broker import Broker
from tests.simulation.producer import AGAIN_MS, ANSWER_MS, Partition
from tests.simulation.world import WALL_OFFSET_MS, World

ASK_AGAIN = {
    KafkaCode.NOT_LEADER_OR_FOLLOWER,
    KafkaCode.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaCode.COORDINATOR_NOT_AVAILABLE,
    KafkaCode.NOT_COORDINATOR,
    KafkaCode.NOT_ENOUGH_REPLICAS,
    KafkaCode.CONCURRENT_TRANSACTIONS,
    KafkaCode.REQUEST_TIMED_OUT,
}


class SimTransactor:
    """A transactional id with what it has promised and given up."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.committed: list[tuple[Partition, bytes]] = []
        self.aborted: list[tuple[Partition, bytes]] = []
        self._plans: list[tuple[list[tuple[Partition, bytes]], bool]] = []
        self._running = False
        self._producer = (-1, -1)

    def run(self, writes: list[tuple[Partition, bytes]], commit: bool) -> None:
        """Make a transaction of these records, behind those before it."""
        self._plans.append((writes, commit))
        if not self._running:
            self._running = True
            self._begin()

    @property
    def left(self) -> int:
        """Transactions that are not through."""
        return len(self._plans)

    def _begin(self) -> None:
        if self._producer[0] < 0:
            self._init(-1)
        else:
            self._write(0, {})

    def _init(self, new_producer_id: int) -> None:
        event = InitProducerId(600_000, self._wall_ms(), new_producer_id=new_producer_id)

        def answered(reply: Any) -> None:
            if isinstance(reply, NeedsProducerId):
                self.world.cluster.next_producer_id += 1
                self._init(self.world.cluster.next_producer_id)
                return
            assert not reply.error, f"init of {self.name}: {reply.error}"
            self._producer = (reply.producer_id, reply.producer_epoch)
            self._write(0, {})

        self._ask(lambda one: one.kafka.gateway.machine(TRANSACTION, self.name, event), answered)

    def _write(self, at: int, sequences: dict[Partition, int]) -> None:
        writes, commit = self._plans[0]
        if at == len(writes):
            self._end(commit)
            return
        partition, value = writes[at]
        sequence = sequences.get(partition, 0)
        batch = batches.build(
            [Record(None, value)],
            self._wall_ms(),
            0,
            batches.TRANSACTIONAL,
            *self._producer,
            sequence,
        )
        info = batches.validate(batch, 0, len(batch))

        def answered(result: Any) -> None:
            assert not result.error, f"{self.name}: a write is refused with {result.error}"
            self._write(at + 1, {**sequences, partition: sequence + 1})

        self._ask(
            lambda one: one.kafka.gateway.produce(
                *partition, bytearray(batch), -1, ANSWER_MS, info, self.name, ADDS
            ),
            answered,
        )

    def _end(self, commit: bool) -> None:
        event = EndTransaction(*self._producer, self._wall_ms(), commit, TRANSACTION_V2)

        def answered(reply: Any) -> None:
            assert not reply.error, f"{self.name}: the end is refused with {reply.error}"
            self._producer = (reply.producer_id, reply.producer_epoch)
            writes, _ = self._plans.pop(0)
            (self.committed if commit else self.aborted).extend(writes)
            self._running = bool(self._plans)
            if self._running:
                self._write(0, {})

        self._ask(lambda one: one.kafka.gateway.machine(TRANSACTION, self.name, event), answered)

    def _wall_ms(self) -> int:
        return WALL_OFFSET_MS + self.world.scheduler.now_ms

    def _ask(self, call: Callable[[Broker], Promise[Any]], answered: Callable[[Any], None]) -> None:
        """Ask a worker that lives; again when it says so, dies, or does not answer in time."""
        scheduler = self.world.scheduler
        alive = [broker for broker in self.world.brokers if broker is not None]
        if not alive:
            scheduler.at(AGAIN_MS, lambda: self._ask(call, answered))
            return
        broker = scheduler.random.choice(alive)
        promise = call(broker)
        settled = False

        def arrived() -> None:
            nonlocal settled
            if settled:
                return
            settled = True
            try:
                reply = promise.result()
            except BrokerError:
                reply = None
            again = reply is None or getattr(reply, "error", 0) in ASK_AGAIN
            if broker not in self.world.brokers or again:
                scheduler.at(AGAIN_MS, lambda: self._ask(call, answered))
            else:
                answered(reply)

        def no_answer() -> None:
            nonlocal settled
            if not settled:
                settled = True
                self._ask(call, answered)

        promise.when_settled(lambda: scheduler.at(scheduler.random.random() * 3, arrived))
        scheduler.at(ANSWER_MS, no_answer)
