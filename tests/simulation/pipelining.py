"""Idempotent Kafka producers of the simulation with five batches in flight for each partition, that
do after an error what librdkafka and the Java client do.

librdkafka: what failed goes back to the head of the queue, and nothing is sent before all that is
in flight is answered; a batch that was taken says that all before it were; after 45 for a batch
that is not the next one it waits for all its partitions and begins a new epoch, in which what is
not acknowledged is numbered anew. Java: what failed is sent again, one batch at a time until all
that failed is there; 45 for a batch that is not the next one is such a failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka.gateway import ProduceResult
from robustmq.promises import Promise
from robustmq.records import Record
from robustmq.shard.broker import Broker
from tests.simulation.full_disk import FullWorld
from tests.simulation.world import WALL_OFFSET_MS

WINDOW = 5
LIBRDKAFKA, JAVA = "librdkafka", "java"
_AGAIN = (
    KafkaCode.UNKNOWN_TOPIC_OR_PARTITION,
    KafkaCode.NOT_LEADER_OR_FOLLOWER,
    KafkaCode.REQUEST_TIMED_OUT,
    KafkaCode.NOT_ENOUGH_REPLICAS,
    KafkaCode.KAFKA_STORAGE_ERROR,
)
Partition = tuple[bytes, int]
Answered = Callable[[ProduceResult | None], None]


class Batch(NamedTuple):
    """Records, the place of the first one among all of its partition, and its sequence."""

    first: int
    values: list[bytes]
    sequence: int


class Connection:
    """Requests arrive in order, and are answered in order; with the worker all that is not answered
    is lost."""

    def __init__(self, world: FullWorld, worker: int) -> None:
        self._world = world
        self._worker = worker
        self._life = world.incarnations[worker]
        self._open: deque[tuple[Promise[ProduceResult], Answered]] = deque()
        self._sent: deque[Answered] = deque()
        self._arrives = self._returns = 0.0
        self.is_up = world.brokers[worker] is not None

    def send(self, produce: Callable[[Broker], Promise[ProduceResult]], answered: Answered) -> None:
        """A request; None for an answer when the connection is gone."""
        self._sent.append(answered)

        def arrive() -> None:
            broker = self._world.brokers[self._worker]
            assert broker is not None, "it lives"
            promise = produce(broker)
            self._open.append((promise, answered))
            promise.when_settled(self._answer)

        self._arrives = self._later(self._arrives, arrive)

    def _later(self, before: float, run: Callable[[], None]) -> float:
        scheduler = self._world.scheduler
        when = max(before + 0.001, scheduler.now_ms + scheduler.random.random() * 2)
        scheduler.at(
            when - scheduler.now_ms,
            self._world.alive(self._worker, self._life, self._while_up(run)),
        )
        return when

    def _while_up(self, run: Callable[[], None]) -> Callable[[], None]:
        return lambda: run() if self.is_up else None

    def _answer(self) -> None:
        while self._open and self._open[0][0].settled:
            promise, answered = self._open.popleft()
            try:
                result = promise.result()
            except BrokerError as error:
                result = ProduceResult(error.fault.kafka)

            def come(answered: Answered = answered, result: ProduceResult = result) -> None:
                self._sent.popleft()
                answered(result)

            self._returns = self._later(self._returns, come)

    def gone(self) -> None:
        """The worker was killed."""
        self.is_up = False
        sent, self._sent = self._sent, deque()
        for answered in sent:
            answered(None)


class Flow:
    """What one producer has for one partition."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.values: list[bytes] = []
        self.numbered = 0
        """Values that are in a batch."""
        self.acked: set[int] = set()
        self.queue: list[Batch] = []
        """Batches to be sent again, the first one first."""
        self.in_flight: list[Batch] = []
        self.epoch_begin = 0
        self.next_ack = 0
        self.drains = False
        self.not_before_ms = 0.0

    @property
    def done(self) -> bool:
        """Is all acknowledged?"""
        return len(self.acked) == len(self.values)


class PipeliningProducer:
    """A producer id."""

    def __init__(
        self, world: FullWorld, producer_id: int, partitions: list[Partition], style: str
    ) -> None:
        self.world = world
        self.producer_id = producer_id
        self.style = style
        self.flows = {partition: Flow(partition) for partition in partitions}
        self.epoch = 0
        self.bumps = 0
        self.failed = ""
        """Why it has given up."""
        self._bumping = False
        self._connections: dict[int, Connection] = {}

    def produce(self, partition: Partition, value: bytes) -> None:
        """Send a record, behind what waits for this partition."""
        flow = self.flows[partition]
        flow.values.append(value)
        self._pump(flow)

    @property
    def done(self) -> bool:
        """Is all acknowledged?"""
        return all(flow.done for flow in self.flows.values())

    def gone(self, worker: int) -> None:
        """A worker was killed."""
        connection = self._connections.pop(worker, None)
        if connection is not None:
            self.world.scheduler.at(self.world.scheduler.random.random(), connection.gone)

    # -- sending -----------------------------------------------------------------------------------

    def _pump(self, flow: Flow) -> None:
        if self.failed or self._bumping or (flow.drains and flow.in_flight):
            return
        flow.drains = False
        scheduler = self.world.scheduler
        if scheduler.now_ms < flow.not_before_ms:
            return
        connection = self._connection(flow)
        if connection is None:
            self._later(flow, 5)
            return
        while len(flow.in_flight) < WINDOW:
            batch = self._next_batch(flow)
            if batch is None:
                return
            flow.in_flight.append(batch)
            self._send(connection, flow, batch)

    def _later(self, flow: Flow, delay_ms: float) -> None:
        flow.not_before_ms = self.world.scheduler.now_ms + delay_ms
        self.world.scheduler.at(delay_ms + 1, lambda: self._pump(flow))

    def _connection(self, flow: Flow) -> Connection | None:
        alive = next((broker for broker in self.world.brokers if broker is not None), None)
        if alive is None:
            return None
        worker = alive.placement.worker(*flow.partition)
        known = self._connections.get(worker)
        if known is None or not known.is_up:
            known = Connection(self.world, worker)
            if not known.is_up:
                return None
            self._connections[worker] = known
        return known

    def _next_batch(self, flow: Flow) -> Batch | None:
        if flow.queue:
            first = flow.queue[0]
            waits = any(one.first < first.first for one in flow.in_flight)
            if self.style == JAVA and waits:
                return None
            return flow.queue.pop(0)
        if flow.numbered == len(flow.values):
            return None
        count = self.world.scheduler.random.randint(1, 3)
        first_value = flow.numbered
        values = flow.values[first_value : first_value + count]
        flow.numbered += len(values)
        return Batch(first_value, values, first_value - flow.epoch_begin)

    def _send(self, connection: Connection, flow: Flow, batch: Batch) -> None:
        data = batches.build(
            [Record(None, value) for value in batch.values],
            WALL_OFFSET_MS + self.world.scheduler.now_ms,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            base_sequence=batch.sequence,
        )
        info = batches.validate(data, 0, len(data))
        connection.send(
            lambda broker: broker.kafka.gateway.produce(
                *flow.partition, bytearray(data), -1, 1000, info
            ),
            lambda result: self._answered(flow, batch, result),
        )

    # -- answers -----------------------------------------------------------------------------------

    def _answered(self, flow: Flow, batch: Batch, result: ProduceResult | None) -> None:
        flow.in_flight.remove(batch)
        following = batch.sequence + len(batch.values)
        if result is None:
            # It may be in the log.
            flow.next_ack = following
            self._again(flow, batch)
        elif not result.error:
            flow.next_ack = following
            self._acked(flow, batch)
        elif result.error in _AGAIN:
            self._again(flow, batch)
        elif result.error == KafkaCode.OUT_OF_ORDER_SEQUENCE_NUMBER and (
            batch.sequence > flow.next_ack
        ):
            self._again(flow, batch)
            if self.style == LIBRDKAFKA:
                self._bumping = True
        else:
            self.failed = f"{flow.partition}: {KafkaCode(result.error).name} for {batch}"
        if self._bumping and not any(one.in_flight for one in self.flows.values()):
            self._bump()
        self._pump(flow)

    def _acked(self, flow: Flow, batch: Batch) -> None:
        begin = batch.first
        if self.style == LIBRDKAFKA:
            # All that lies before it and waits to be sent again must be there, too.
            before = [one for one in flow.queue if one.first < batch.first]
            flow.queue = flow.queue[len(before) :]
            begin = min([begin, *(one.first for one in before)])
        flow.acked.update(range(begin, batch.first + len(batch.values)))

    def _again(self, flow: Flow, batch: Batch) -> None:
        flow.queue.append(batch)
        flow.queue.sort()
        flow.drains = self.style == LIBRDKAFKA
        self._later(flow, self.world.scheduler.random.uniform(2, 20))

    def _bump(self) -> None:
        self._bumping = False
        self.bumps += 1
        self.epoch += 1
        for flow in self.flows.values():
            flow.queue.clear()
            flow.numbered = flow.epoch_begin = len(flow.acked)
            flow.next_ack = 0
            self._later(flow, 1)
