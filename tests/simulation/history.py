"""One run of the simulated node: load, faults, and what must hold when all are back and at rest.

The design's invariants, by number: 1. every acknowledged message is in the log, and reached every
persistent subscriber that it matched; 2. offsets of a partition are dense, and no reader saw
another record at one; 3. per publisher, topic and QoS the order is kept; what was sent with QoS 2
or by an idempotent producer is in the log once, and QoS 2 at its subscribers once; 4. leader epochs
never fall along a log, and no later batch has an older one than the owner's; 5. nothing is left
over: no frame, ticket, inbox entry or session record waits for what is done; 6. bad input ended its
own connections and no other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial

from robustmq.config import Settings
from robustmq.core import batches
from robustmq.shard.broker import Broker
from robustmq.shard.surroundings import TierAround
from tests.simulation.client import SimClient
from tests.simulation.members import Groups
from tests.simulation.producer import Partition, SimProducer
from tests.simulation.world import World

LIGHT = [b"t/%d" % number for number in range(5)]
DECLARED = b"d/x"
TOPICS = [*LIGHT, DECLARED]
PARTITIONS = 3
LOAD_MS = 1_500
VANDAL = b"vandal"


class History:
    """A node, its clients and its faults, all from one seed."""

    def __init__(
        self,
        seed: int,
        workers: int,
        cleaned: bool = False,
        settings: Settings | None = None,
        tier: Callable[[World, int, int], TierAround] | None = None,
        loses_power: bool = False,
        world: World | None = None,
    ) -> None:
        """`world` is one that was made otherwise than these say."""
        self.world = world or World(seed, workers, settings, cleaned, tier, loses_power=loses_power)
        self.random = self.world.scheduler.random
        self.topics = TOPICS
        """What is published to."""
        self.seen: dict[tuple[Partition, int], bytes] = {}
        view = next(iter(self.world.cluster.views.values()))
        view.create_topic(DECLARED, PARTITIONS, {}, uuid.UUID(int=1))
        self.world.scheduler.run(50)
        self.publishers = [SimClient(self.world, b"publisher-%d" % n) for n in range(3)]
        self.producers = [SimProducer(self.world, 100 + n) for n in range(2)]
        self.subscribers = [
            SimClient(self.world, b"wide", {b"t/+": 2, b"d/#": 2}),
            SimClient(self.world, b"exact", {b"t/1": 1, b"t/2": 2, DECLARED: 2}),
            SimClient(self.world, b"all", {b"#": 1}),
            *(SimClient(self.world, b"named-%d" % n, {DECLARED: 1}) for n in range(3)),
        ]
        if cleaned:
            self._sleeper()
        self.groups = Groups(self.world)
        self.sent = 0
        waited_for = self.subscribers + self.groups.members
        self._until(lambda: all(one.subscribed and one.connected for one in waited_for))

    def _sleeper(self) -> None:
        """A subscriber that is away for most of the time, and for some after the load."""
        sleeper = SimClient(self.world, b"sleeper", {b"t/+": 2, b"d/#": 1})
        self.subscribers.append(sleeper)
        scheduler = self.world.scheduler
        scheduler.at(500 + self.random.random() * 300, sleeper.rest)
        scheduler.at(LOAD_MS + 1_000 + self.random.random() * 1_000, sleeper.wake)

    def run(self, messages: int, faults: int) -> None:
        """Load and faults at random times, until all is acknowledged and delivered."""
        self._load(messages)
        self._faults(faults)
        self.world.scheduler.run(LOAD_MS + 100)
        self._until(lambda: not any(self._unacked()))
        waited_for = self.subscribers + self.groups.members
        self._until(lambda: all(one.connected for one in waited_for))
        self._end_cleaning()
        self.world.scheduler.run(3_000)

    def _end_cleaning(self) -> None:
        """A cleaning commits what it goes by: as long as one runs, a worker is not at rest."""
        cleanings = [one.log_cleaning for one in self.world.brokers if one is not None]
        for cleaning in cleanings:
            cleaning.interval_ms = 1 << 40
        self.world.scheduler.run(1_000)
        self._until(lambda: all(cleaning.idle for cleaning in cleanings))

    def _until(self, condition: Callable[[], bool], limit_ms: int = 60_000) -> None:
        for _ in range(limit_ms // 100):
            self.world.scheduler.run(100)
            self._look()
            if condition():
                return
        raise AssertionError("the world did not come to what was waited for")

    def _unacked(self) -> list[int]:
        return [one.unacked for one in self.publishers] + [one.unacked for one in self.producers]

    def _at_random(self, run: Callable[[], None]) -> None:
        self.world.scheduler.at(self.random.random() * LOAD_MS, run)

    def _load(self, messages: int) -> None:
        for _ in range(messages):
            self.sent += 1
            topic = self.random.choice(self.topics)
            if self.random.random() < 0.25:
                self._load_kafka(topic, self.sent)
                continue
            publisher = self.random.choice(self.publishers)
            payload = b"%s %d" % (publisher.client_id, self.sent)
            qos = self.random.choice((1, 2))
            self._at_random(partial(publisher.publish, topic, payload, qos))

    def _load_kafka(self, topic: bytes, message: int) -> None:
        producer = self.random.choice(self.producers)
        number = self.random.randrange(PARTITIONS) if topic == DECLARED else 0
        value = b"producer-%d %d" % (producer.producer_id, message)
        self._at_random(lambda: producer.produce((topic, number), value))

    def _faults(self, count: int) -> None:
        """Kill workers or all of them, cut links and connections, send rubbish; the dead come
        back."""
        workers = self.world.worker_count
        for _ in range(count):
            kind = self.random.choice(
                ("kill", "kill", "kill all", "cut", "cut", "drop", "drop", "rubbish", "member")
            )
            if kind == "kill":
                self._at_random(partial(self._kill, [self.random.randrange(workers)]))
            elif kind == "kill all":
                self._at_random(partial(self._kill, list(range(workers))))
            elif kind == "cut":
                self._at_random(partial(self.world.cut, *self.random.sample(range(workers), 2)))
            elif kind == "drop":
                self._at_random(self.random.choice(self.publishers + self.subscribers).drop)
            elif kind == "member":
                self._at_random(self.groups.fault(self.random))
            else:
                self._at_random(partial(self._rubbish, self.random.randbytes(40)))

    def _kill(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.world.brokers[number] is not None:
                self.world.kill(number)
                wait_ms = 20 + self.random.random() * 200
                self.world.scheduler.at(wait_ms, partial(self.world.start, number))

    def _rubbish(self, data: bytes) -> None:
        server = self.world.accept(VANDAL, lambda data: None, lambda: None)
        if server is not None:
            server.received(data)

    # -- what must hold ----------------------------------------------------------------------------

    def _owners(self) -> list[tuple[Broker, Partition]]:
        pairs = [(topic, 0) for topic in LIGHT] + [(DECLARED, n) for n in range(PARTITIONS)]
        found = []
        for broker in self.world.brokers:
            if broker is not None:
                found += [
                    (broker, p) for p in pairs if broker.placement.worker(*p) == broker.worker_id
                ]
        return found

    def _read(self, broker: Broker, partition: Partition) -> list[bytes]:
        """The committed values of a partition, in order; offsets are dense, epochs do not fall."""
        values: list[bytes] = []
        epoch = 0
        while True:
            result = broker.kafka.logs.read(*partition, len(values), 1 << 20, -1)
            data = b"".join(bytes(buffer) for buffer in result.buffers)
            if not data:
                break
            for begin, info in batches.headers(data, 0, len(data)):
                assert info.base_offset == len(values), f"{partition}: offsets are dense"
                assert info.leader_epoch >= epoch, f"{partition}: an older epoch appends no more"
                epoch = info.leader_epoch
                records = batches.parse(data, begin, begin + info.length)
                values.extend(record.value or b"" for record in records)
        shard = broker.placement.shard(*partition)
        assert epoch <= self.world.cluster.epochs[shard], f"{partition}: an epoch of the future"
        if not (result.error or result.pending):
            assert len(values) == result.high_watermark, f"{partition}: the log has a hole"
        return values

    def _look(self) -> None:
        """Read as a Kafka consumer does, all the time: what was read at an offset stays there."""
        for broker, partition in self._owners():
            for offset, value in enumerate(self._read(broker, partition)):
                known = self.seen.setdefault((partition, offset), value)
                assert known == value, f"{partition} offset {offset}: {known!r}, then {value!r}"

    def check(self) -> None:
        """All that must hold in the end."""
        logged: dict[bytes, list[list[bytes]]] = {topic: [] for topic in TOPICS}
        for broker, partition in self._owners():
            logged[partition[0]].append(self._read(broker, partition))
        self._check_log(logged)
        for subscriber in self.subscribers:
            self._check_subscriber(subscriber)
        self.groups.check(self.publishers, self.producers)
        self._check_rest()
        strange = [
            fault
            for fault in self.world.faults
            if fault.get("peer") != VANDAL.decode() and fault.get("fault") != "SESSION_TAKEN_OVER"
        ]
        assert not strange, f"a connection ended by a fault: {strange[0]}"

    def _check_log(self, logged: dict[bytes, list[list[bytes]]]) -> None:
        acked = sum(len(one.acked) for one in self.publishers)
        acked += sum(len(one.acked) for one in self.producers)
        assert acked == self.sent, "everything was acknowledged in the end"
        for publisher in self.publishers:
            for topic, payload, qos in publisher.acked:
                count = sum(values.count(payload) for values in logged[topic])
                assert count >= 1, f"acked and not in the log: {topic!r} {payload!r}"
                assert count == 1 or qos == 1, f"QoS 2 {count} times in the log: {payload!r}"
        for producer in self.producers:
            name = b"producer-%d " % producer.producer_id
            for (topic, number), sent in producer.sent.items():
                values = logged[topic][self._place(topic, number)]
                found = [value for value in values if value.startswith(name)]
                assert found == sent, f"{topic!r} {number}: an idempotent producer is not exact"

    def _place(self, topic: bytes, number: int) -> int:
        """Which of a topic's logs, in the order of `_owners`, is that of a partition."""
        order = [partition[1] for _, partition in self._owners() if partition[0] == topic]
        return order.index(number)

    def _check_subscriber(self, subscriber: SimClient) -> None:
        granted = {
            topic: qos
            for name, qos in subscriber.filters.items()
            for topic in TOPICS
            if name in (topic, b"#", topic[:2] + b"+", topic[:2] + b"#")
        }
        got: dict[tuple[bytes, bytes], int] = {}
        for topic, payload, _ in subscriber.received:
            got[topic, payload] = got.get((topic, payload), 0) + 1
        for publisher in self.publishers:
            for topic, payload, qos in publisher.acked:
                if topic in granted:
                    count = got.get((topic, payload), 0)
                    assert count >= 1, f"{subscriber.client_id!r} missed {topic!r} {payload!r}"
                    if qos == 2 and granted[topic] == 2:
                        assert count == 1, f"{subscriber.client_id!r} got {payload!r} {count} times"
            for topic in granted:
                self._check_order(subscriber, publisher, topic)
        for producer in self.producers:
            for (topic, _), value in producer.acked:
                if topic in granted:
                    assert (topic, value) in got, f"{subscriber.client_id!r} missed {value!r}"

    def _check_order(self, subscriber: SimClient, publisher: SimClient, topic: bytes) -> None:
        """First deliveries of one publisher, topic and QoS come in the order of publishing."""
        order = {payload: n for n, (t, payload) in enumerate(publisher.published) if t == topic}
        qos_of = {payload: qos for t, payload, qos in publisher.acked if t == topic}
        last: dict[int, int] = {}
        seen: set[bytes] = set()
        for got_topic, payload, _ in subscriber.received:
            if got_topic == topic and payload in order and payload not in seen:
                seen.add(payload)
                qos = qos_of[payload]
                late = f"{subscriber.client_id!r}: {topic!r} {payload!r} came late"
                assert last.get(qos, -1) < order[payload], late
                last[qos] = order[payload]

    def _check_rest(self) -> None:
        """Nothing waits for what is done (memory is bounded by what is in flight)."""
        for broker in self.world.brokers:
            assert broker is not None, "all workers are back"
            assert broker.idle, f"worker {broker.worker_id} is not at rest"
            assert broker.telling.idle, f"worker {broker.worker_id} waits for a delivery"
            assert broker.dealing.idle, f"worker {broker.worker_id} has not given out all it has"
            assert broker.left_behind.idle, f"worker {broker.worker_id} has what members left"
            assert broker.delivery.idle, f"worker {broker.worker_id} has not queued what it has"
