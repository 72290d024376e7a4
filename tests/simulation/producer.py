"""An idempotent Kafka producer of the simulation: one batch in flight for each partition, sent
again until it is acknowledged.

It asks any worker that lives, forgets an answer that does not come, and keeps its own record of
what was promised (KIP-98).
"""

from __future__ import annotations

from functools import partial

from robustmq.core import batches
from robustmq.errors import BrokerError
from robustmq.kafka.gateway import ProduceResult
from robustmq.promises import Promise
from robustmq.records import Record
from tests.simulation.world import WALL_OFFSET_MS, World

ANSWER_MS = 400
AGAIN_MS = 30
Partition = tuple[bytes, int]


class SimProducer:
    """A producer id with its sequences."""

    def __init__(self, world: World, producer_id: int) -> None:
        self.world = world
        self.producer_id = producer_id
        self.sent: dict[Partition, list[bytes]] = {}
        self.acked: list[tuple[Partition, bytes]] = []
        self._waiting: dict[Partition, list[bytes]] = {}
        self._sequences: dict[Partition, int] = {}
        self._in_flight: set[Partition] = set()

    def produce(self, partition: Partition, value: bytes) -> None:
        """Send a record, behind what waits for this partition."""
        self._waiting.setdefault(partition, []).append(value)
        self._next(partition)

    @property
    def unacked(self) -> int:
        """Records that wait for their acknowledgement, or to be sent."""
        return sum(map(len, self._waiting.values()))

    def _next(self, partition: Partition) -> None:
        if self._waiting[partition] and partition not in self._in_flight:
            self._in_flight.add(partition)
            values = self._waiting[partition][:3]
            self.sent.setdefault(partition, []).extend(values)
            self._send(partition, values)

    def _send(self, partition: Partition, values: list[bytes]) -> None:
        scheduler = self.world.scheduler
        alive = [broker for broker in self.world.brokers if broker is not None]
        again = partial(self._send, partition, values)
        if not alive:
            scheduler.at(AGAIN_MS, again)
            return
        batch = batches.build(
            [Record(None, value) for value in values],
            WALL_OFFSET_MS + scheduler.now_ms,
            producer_id=self.producer_id,
            producer_epoch=0,
            base_sequence=self._sequences.get(partition, 0),
        )
        info = batches.validate(batch, 0, len(batch))
        broker = scheduler.random.choice(alive)
        promise = broker.kafka.gateway.produce(*partition, bytearray(batch), -1, ANSWER_MS, info)
        settled = False

        def answered() -> None:
            nonlocal settled
            if settled:
                return
            settled = True
            if broker not in self.world.brokers or not self._succeeded(promise):
                scheduler.at(AGAIN_MS, again)
                return
            del self._waiting[partition][: len(values)]
            self._sequences[partition] = self._sequences.get(partition, 0) + len(values)
            self.acked += [(partition, value) for value in values]
            self._in_flight.discard(partition)
            self._next(partition)

        def no_answer() -> None:
            nonlocal settled
            if not settled:
                settled = True
                again()

        promise.when_settled(lambda: scheduler.at(scheduler.random.random() * 3, answered))
        scheduler.at(ANSWER_MS, no_answer)

    def _succeeded(self, promise: Promise[ProduceResult]) -> bool:
        try:
            return promise.result().error == 0
        except BrokerError:
            return False
