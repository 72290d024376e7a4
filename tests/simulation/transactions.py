"""A transactional producer of the simulation: it speaks the protocol to any worker that lives,
sends again what was not answered, and keeps its own record of what was promised (KIP-98, KIP-890).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from robustmq.core import batches
from robustmq.errors import BrokerError
from robustmq.kafka.gateway import PartitionRead
from robustmq.records import Record
from tests.kafka.wire import Client
from tests.simulation.world import WALL_OFFSET_MS, World

ANSWER_MS, AGAIN_MS = 400, 30
PRODUCE, FETCH_OFFSETS, INIT, ADD, ADD_OFFSETS, END, COMMIT = 0, 9, 22, 24, 25, 26, 28
TOPIC, GROUP = "d.x", "readers"
AGAIN = {3, 6, 7, 14, 15, 16, 19, 51, 56}
"""Codes that a producer answers by asking again."""

Question = tuple[int, int, dict[str, Any], Callable[[Any], list[int]]]
"""API, version, fields, and the error codes in the answer."""


class SimTransactions:
    """Transactions one behind the other, each with a record in every partition and an offset."""

    def __init__(self, world: World, transactional_id: str, partitions: int, v2: bool) -> None:
        self.world = world
        self.transactional_id = transactional_id
        self.partitions = partitions
        self.v2 = v2
        self.pid, self.epoch = -1, -1
        self.sequences: dict[int, int] = {}
        self.wanted: list[bool] = []
        self.ended: list[bool] = []
        """What was acknowledged, in order: True a commit."""
        self.fenced: int | None = None
        """The error code that ended the producer."""
        self._steps: Generator[Question, Any, None] | None = None

    def begin(self, outcomes: list[bool]) -> None:
        """Run transactions with these ends."""
        self.wanted = outcomes
        self._steps = self._script()
        self._ask(next(self._steps))

    @property
    def done(self) -> bool:
        """Everything was acknowledged, or the producer fenced."""
        return self.fenced is not None or len(self.ended) == len(self.wanted)

    def _script(self) -> Generator[Question, Any, None]:
        answer = yield INIT, 4, self._who(timeout=True), lambda found: [found.error_code]
        self.pid, self.epoch = answer.producer_id, answer.producer_epoch
        for number, commit in enumerate(self.wanted):
            for partition in range(self.partitions):
                if not self.v2:
                    yield self._added(partition)
                yield self._produced(partition, b"%s %d" % (self.transactional_id.encode(), number))
            if not self.v2:
                who = self._who(group_id=GROUP)
                yield ADD_OFFSETS, 3, who, lambda found: [found.error_code]
            yield self._committed(number)
            version = 5 if self.v2 else 3
            answer = yield (
                END, version, self._who(committed=commit), lambda found: [found.error_code],
            )  # fmt: skip
            if self.v2:
                self.pid, self.epoch = answer.producer_id, answer.producer_epoch
                self.sequences.clear()
            self.ended.append(commit)

    def _who(self, timeout: bool = False, **more: Any) -> dict[str, Any]:
        if timeout:
            more["transaction_timeout_ms"] = 60_000
        return {
            "transactional_id": self.transactional_id,
            "producer_id": self.pid,
            "producer_epoch": self.epoch,
            **more,
        }

    def _added(self, partition: int) -> Question:
        who = self._who(topics=[{"name": TOPIC, "partitions": [partition]}])
        old = {f"v3_and_below_{name}": value for name, value in who.items()}
        return (
            ADD,
            3,
            old,
            lambda found: [
                part.partition_error_code
                for topic in found.results_by_topic_v3_and_below
                for part in topic.results_by_partition
            ],
        )

    def _produced(self, partition: int, value: bytes) -> Question:
        sequence = self.sequences.get(partition, 0)
        self.sequences[partition] = sequence + 1
        batch = batches.build(
            [Record(None, value)],
            WALL_OFFSET_MS + self.world.scheduler.now_ms,
            0,
            batches.TRANSACTIONAL,
            self.pid,
            self.epoch,
            sequence,
        )
        data = [{"name": TOPIC, "partition_data": [{"index": partition, "records": batch}]}]
        fields = {
            "transactional_id": self.transactional_id,
            "acks": -1,
            "timeout_ms": ANSWER_MS,
            "topic_data": data,
        }
        return (
            PRODUCE,
            12 if self.v2 else 11,
            fields,
            lambda found: [
                part.error_code for topic in found.responses for part in topic.partition_responses
            ],
        )

    def _committed(self, number: int) -> Question:
        part = {"partition_index": 0, "committed_offset": number, "committed_metadata": ""}
        topics = [{"name": TOPIC, "partitions": [part]}]
        who = self._who(group_id=GROUP, topics=topics)
        return (
            COMMIT,
            5 if self.v2 else 3,
            who,
            lambda found: [part.error_code for topic in found.topics for part in topic.partitions],
        )

    def _ask(self, question: Question) -> None:
        """Send it to some worker, until the answer says that it is done."""
        scheduler = self.world.scheduler
        alive = [broker for broker in self.world.brokers if broker is not None]
        if not alive:
            scheduler.at(AGAIN_MS, lambda: self._ask(question))
            return
        broker = scheduler.random.choice(alive)
        key, version, fields, codes = question
        client = Client(broker.kafka.gateway)
        promise = client.send(key, version, **fields)
        settled = False

        def answered() -> None:
            nonlocal settled
            if settled:
                return
            settled = True
            try:
                answer = client.read(key, version, promise)
            except (AssertionError, BrokerError):
                answer = None
            if broker not in self.world.brokers or answer is None or AGAIN & set(codes(answer)):
                scheduler.at(AGAIN_MS, lambda: self._ask(question))
            elif any(codes(answer)):
                self.fenced = max(codes(answer))
            else:
                self._go_on(answer)

        promise.when_settled(answered)
        scheduler.at(ANSWER_MS, answered)

    def _go_on(self, answer: Any) -> None:
        assert self._steps is not None, "begun"
        try:
            question = self._steps.send(answer)
        except StopIteration:
            return
        self.world.scheduler.soon(lambda: self._ask(question))


def read_committed(world: World, topic: bytes, partition: int) -> list[bytes] | None:
    """What a reader of committed records sees; None while a transaction is open."""
    owner = next(
        broker
        for broker in world.brokers
        if broker is not None and broker.placement.worker(topic, partition) == broker.worker_id
    )
    place = PartitionRead(topic, partition, 0, 1 << 20, -1)
    (result,) = owner.kafka.gateway.read_all([place], 1 << 20, 1).result()
    if result.last_stable_offset != result.high_watermark:
        return None
    aborted = sorted(result.aborted, key=lambda one: one.first_offset)
    ended: set[int] = set()
    values: list[bytes] = []
    data = b"".join(bytes(buffer) for buffer in result.buffers)
    for begin, info in batches.headers(data, 0, len(data)):
        while aborted and aborted[0].first_offset <= info.base_offset:
            ended.add(aborted.pop(0).producer_id)
        records = batches.parse(data, begin, begin + info.length)
        if info.attributes & batches.CONTROL:
            ended.discard(info.producer_id)
        elif not (info.attributes & batches.TRANSACTIONAL and info.producer_id in ended):
            values += [record.value or b"" for record in records]
    return values
