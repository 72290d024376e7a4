"""A node of several workers in one process, under a seeded scheduler.

Real are the brokers, their storage code and their protocol code; simulated are time, the bus, the
disk, and sockets. The scheduler picks at random which of the events that are due runs next, delays
frames between workers (each link stays in order), and kills workers: a killed worker loses its
memory and what its disk had not written, its clients lose their connections, and it may come back.
One seed is one history.
"""

from __future__ import annotations

import functools
import heapq
import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from robustmq.bans import Ban, BanTable, key
from robustmq.config import NodeSettings, Settings
from robustmq.kafka.gateway import Broker as KafkaBroker
from robustmq.listener import DEFAULT, Listener
from robustmq.promises import Promise, resolved
from robustmq.shard.broker import Broker
from robustmq.shard.client import MqttClient
from robustmq.shard.cluster_view import Declared, Outcome
from robustmq.shard.recovery import Recovery
from robustmq.shard.surroundings import Surroundings, TierAround
from robustmq.storage.committer import InlineCommitter
from robustmq.storage.disk import Crash, MemoryDisk
from robustmq.storage.kv import MemoryKeyValue
from robustmq.storage.memory import RingMemory
from robustmq.storage.shard_store import ShardStore, StoreSettings

WALL_OFFSET_MS = 1_700_000_000_000


def _undamaged(position: int, length: int) -> None:
    """No disk is damaged here: whatever a kill leaves is a torn end."""
    raise AssertionError(f"{length} bytes at {position} are taken for damaged")


class Scheduler:
    """Virtual time; events of the same time run in random order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ms = 1_000
        self._events: list[tuple[float, float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, delay_ms: float, run: Callable[[], None]) -> None:
        """Run after some virtual time."""
        self._number += 1
        entry = (self.now_ms + delay_ms, self.random.random(), self._number, run)
        heapq.heappush(self._events, entry)

    def soon(self, run: Callable[[], None]) -> None:
        """Run at this time, after what is running."""
        self.at(0, run)

    def step(self) -> None:
        """Run the next event, whenever it is due."""
        when, _, _, run = heapq.heappop(self._events)
        self.now_ms = max(self.now_ms, int(when))
        run()

    def run(self, for_ms: float, limit: int = 1_000_000) -> None:
        """Let virtual time pass."""
        end = self.now_ms + for_ms
        for _ in range(limit):
            if not self._events or self._events[0][0] > end:
                self.now_ms = int(end)
                return
            self.step()
        raise AssertionError("the world never comes to rest")


class SimCluster:
    """The cluster's state, in memory, shared by all views; it outlives every worker."""

    def __init__(self, shard_count: int, worker_count: int) -> None:
        self.shard_count = shard_count
        self.worker_count = worker_count
        self.topics: dict[bytes, Declared] = {}
        self.epochs = [0] * shard_count
        self.next_producer_id = 0
        self.views: dict[int, SimView] = {}
        self.bans: dict[str, Ban] = {}

    def changed(self, name: bytes) -> None:
        """Tell every worker."""
        for view in self.views.values():
            view.on_change({name})


class SimView:
    """One worker's view (implements shard.cluster_view.ClusterView)."""

    def __init__(self, cluster: SimCluster, worker_id: int) -> None:
        self.cluster = cluster
        self.cluster_id = "simulated-cluster-id00"
        self.shard_count = cluster.shard_count
        self.worker_count = cluster.worker_count
        self.on_change: Callable[[set[bytes]], None] = lambda names: None
        self.on_resource: Callable[[int, str], None] = lambda resource_type, name: None
        self.bans = BanTable()
        self.on_ban: Callable[[Ban], None] = lambda ban: None
        self._incarnations: dict[int, int] = {}
        for ban in cluster.bans.values():
            self.bans.set(ban)
        cluster.views[worker_id] = self

    @property
    def version(self) -> int:
        """Not counted in the simulation."""
        return 0

    def shard_owner(self, shard: int) -> int:
        """Dealt out in turn."""
        return shard % self.worker_count

    def shard_epoch(self, shard: int) -> int:
        """How often the owner has started."""
        return self.cluster.epochs[shard]

    def incarnation(self, worker: int) -> int:
        """As its link said."""
        return self._incarnations.get(worker, 0)

    def worker_up(self, worker: int, incarnation: int) -> None:
        """A link came up."""
        self._incarnations[worker] = incarnation

    def brokers(self, listener: str = "") -> Sequence[KafkaBroker]:
        """All workers."""
        return [
            KafkaBroker(number, "localhost", 10_000 + number) for number in range(self.worker_count)
        ]

    def declared(self, name: bytes) -> Declared | None:
        """By name."""
        return self.cluster.topics.get(name)

    def declared_by_id(self, topic_id: uuid.UUID) -> bytes | None:
        """By id."""
        return next((n for n, t in self.cluster.topics.items() if t.topic_id == topic_id), None)

    def declared_names(self) -> Iterable[bytes]:
        """All."""
        return list(self.cluster.topics)

    def create_topic(
        self, name: bytes, partitions: int, configs: dict[str, str], topic_id: uuid.UUID
    ) -> Promise[Outcome]:
        """At once."""
        self.cluster.topics[name] = Declared(name, topic_id, partitions, configs)
        self.cluster.changed(name)
        return resolved(Outcome())

    def delete_topic(self, name: bytes) -> Promise[Outcome]:
        """At once."""
        del self.cluster.topics[name]
        self.cluster.changed(name)
        return resolved(Outcome())

    def create_partitions(self, name: bytes, count: int) -> Promise[Outcome]:
        """At once."""
        old = self.cluster.topics[name]
        self.cluster.topics[name] = Declared(name, old.topic_id, count, old.configs)
        self.cluster.changed(name)
        return resolved(Outcome())

    def alter_topic(self, name: bytes, changes: dict[str, str | None]) -> Promise[Outcome]:
        """Not used in the simulation."""
        return resolved(Outcome(42, "not simulated"))

    def resource(self, resource_type: int, name: str) -> dict[str, str]:
        """Nothing is set in the simulation."""
        return {}

    def resource_names(self, resource_type: int) -> list[str]:
        """Nothing is set in the simulation."""
        return []

    def alter_resource(
        self, resource_type: int, name: str, changes: dict[str, str | None]
    ) -> Promise[Outcome]:
        """Not used in the simulation."""
        return resolved(Outcome(42, "not simulated"))

    def allocate_producer_ids(self, count: int) -> Promise[Outcome]:
        """At once."""
        first = self.cluster.next_producer_id
        self.cluster.next_producer_id += count
        return resolved(Outcome(value=first))

    def add_ban(self, ban: Ban) -> Promise[Outcome]:
        """At once, everywhere."""
        self.cluster.bans[key(ban.kind, ban.value)] = ban
        for view in self.cluster.views.values():
            view.bans.set(ban)
            view.on_ban(ban)
        return resolved(Outcome())

    def remove_ban(self, kind: str, value: str) -> Promise[Outcome]:
        """At once, everywhere."""
        there = self.cluster.bans.pop(key(kind, value), None) is not None
        for view in self.cluster.views.values():
            view.bans.remove(kind, value)
        return resolved(Outcome(value=int(there)))

    def expire_bans(self) -> Promise[Outcome]:
        """Nothing is over: the simulated time is short."""
        return resolved(Outcome())


class SimBus:
    """One worker's end of the links."""

    def __init__(self, world: World, worker_id: int) -> None:
        self._world = world
        self._worker_id = worker_id

    def send(self, worker: int, kind: int, *buffers: bytes | bytearray | memoryview) -> bool:
        """Queue a frame on a link that keeps its order."""
        return self._world.transmit(self._worker_id, worker, kind, b"".join(buffers))

    def flush(self) -> None:
        """Nothing is held back."""

    def queued_bytes(self, worker: int) -> int:
        """Nothing is held back."""
        return 0

    def over_high_water(self) -> bool:
        """Links have no bound."""
        return False


class Anyone:
    """Lets everyone in."""

    def authenticate(
        self, user_name: str | None, password: bytes | None, address: str, listener: Listener
    ) -> Promise[None]:
        """Always."""
        return resolved(None)


class SimTransport:
    """The server's end of a client's socket: what is written arrives at the client later,
    in order."""

    def __init__(
        self, world: World, deliver: Callable[[bytes], None], gone: Callable[[], None]
    ) -> None:
        self._world = world
        self._deliver = deliver
        self._gone = gone
        self._open = True
        self._arrives = 0.0
        self.writable = True

    def write(self, data: bytes | bytearray) -> None:
        """Bytes for the client."""
        if self._open:
            copy = bytes(data)
            self._later(lambda: self._deliver(copy))

    def close(self) -> None:
        """Close behind what was written."""
        if self._open:
            self._open = False
            self._later(self._gone)

    def cut(self) -> None:
        """The machine at the other end died: what was not delivered is lost."""
        self._open = False
        self._deliver = lambda data: None
        self._world.scheduler.at(1, self._gone)

    def _later(self, run: Callable[[], None]) -> None:
        scheduler = self._world.scheduler
        self._arrives = max(self._arrives + 0.001, scheduler.now_ms + scheduler.random.random() * 3)
        scheduler.at(self._arrives - scheduler.now_ms, run)

    def pause_reading(self) -> None:
        """Clients of the simulation send little."""

    def resume_reading(self) -> None:
        """Clients of the simulation send little."""


class World:
    """A node under simulation."""

    def __init__(
        self,
        seed: int,
        workers: int = 2,
        settings: Settings | None = None,
        cleaned: bool = False,
        tier: Callable[[World, int, int], TierAround] | None = None,
        disk: Callable[[], MemoryDisk] = MemoryDisk,
        loses_power: bool = False,
    ) -> None:
        """`cleaned`: the logs of shards are small files, and cleaned all the time. `tier` gives a
        worker, in each of its lives, its object store; `disk` makes what a worker writes to. With
        `loses_power` it is synced, and half of the kills take what is not."""
        self.on_loss: Callable[[int, int], None] = _undamaged
        """Hears of (position or offset, bytes) what is lost."""
        self._tier = tier
        self._loses_power = loses_power
        self.cleaned = cleaned
        self.scheduler = Scheduler(seed)
        few = NodeSettings(shards=3) if cleaned else NodeSettings()
        self.settings = settings or Settings(node=few)
        self.worker_count = workers
        shards = self.settings.node.shards
        self.cluster = SimCluster(shards, workers)
        self.disks = [disk() for _ in range(workers)]
        self.kvs: dict[int, MemoryKeyValue] = {shard: MemoryKeyValue() for shard in range(shards)}
        self.brokers: list[Broker | None] = [None] * workers
        self.incarnations = [0] * workers
        self.transports: dict[int, list[SimTransport]] = {n: [] for n in range(workers)}
        self.counters: dict[str, int] = {}
        self.faults: list[dict[str, Any]] = []
        self.checkpoint_bytes = self.scheduler.random.choice((4_000, 30_000, 1 << 30))
        if cleaned:
            self.checkpoint_bytes = self.scheduler.random.choice((1_000, 4_000))
        self._links: dict[tuple[int, int], float] = {}
        self._link_numbers: dict[tuple[int, int], int] = {}
        self._up: set[tuple[int, int]] = set()
        self._lives = 0
        self.torn = 0
        self._unwritten: dict[int, deque[Callable[[], None]]] = {}
        for number in range(workers):
            self.start(number)

    # -- workers -----------------------------------------------------------------------------------

    def start(self, number: int) -> None:
        """A worker starts, recovers and links up, if it is not there."""
        if self.brokers[number] is not None:
            return
        self._lives += 1
        life = self.incarnations[number] = self._lives
        view = SimView(self.cluster, number)
        committer = InlineCommitter(self._storage_thread(number, life))
        rings = RingMemory()

        def open_store(shard: int, recovery: Recovery) -> ShardStore:
            self.cluster.epochs[shard] += 1
            return ShardStore(
                f"/{shard:04d}",
                StoreSettings(
                    segment_bytes=2_000 if self.cleaned else 64 * 1024,
                    hot_bytes=500 if self.cleaned else 16 * 1024,
                    checkpoint_bytes=self.checkpoint_bytes,
                    sync=self._loses_power or self.settings.storage.sync == "disk",
                ),
                self.disks[number],
                self.kvs[shard],
                committer,
                self.cluster.epochs[shard],
                recovery,
                self.on_loss,
                rings,
            )

        around = Surroundings(
            SimBus(self, number),
            lambda: self.scheduler.now_ms,
            lambda: WALL_OFFSET_MS + self.scheduler.now_ms,
            lambda run: self.scheduler.soon(self.alive(number, life, run)),
            lambda: uuid.UUID(int=self.scheduler.random.getrandbits(128)),
            self._count,
            lambda level, text, **fields: self.faults.append({"text": text, **fields}),
            Anyone(),
            committer.kick,
            lambda: self.scheduler.now_ms * 1000,
            lambda delay_us, run: self.scheduler.at(
                delay_us / 1000 + self.scheduler.random.random(), self.alive(number, life, run)
            ),
            tier=self._tier(self, number, life) if self._tier is not None else None,
            rings=rings,
        )
        broker = Broker(self.settings, number, self.worker_count, view, around, open_store)
        broker.checkpoints.slice_bytes = broker.checkpoints.looks_a_slice = 1
        broker.checkpoints.snapshots.records_a_look = 1
        if self.cleaned:
            cleaning = broker.log_cleaning
            cleaning.interval_ms = cleaning.files.again_ms = 0
            cleaning.files.smaller_than, cleaning.merged_bytes = 1.0, 8_000
            broker.light_tiers.longest_open_ms = 200
            broker.light_tiers.first_wait_ms = 500
        self.brokers[number] = broker
        for other in range(self.worker_count):
            if other != number and self.brokers[other] is not None:
                self._link(number, other)
        self._tick(number, life)

    def _storage_thread(self, number: int, life: int) -> Callable[[Callable[[], None]], None]:
        """Runs batches one behind the other, each after some time, as a thread does."""
        free_at_ms = 0.0
        batches: deque[Callable[[], None]] = deque()
        self._unwritten[number] = batches

        def schedule(run: Callable[[], None]) -> None:
            nonlocal free_at_ms
            now_ms, takes_ms = self.scheduler.now_ms, self.scheduler.random.random() * 4
            free_at_ms = max(free_at_ms, now_ms) + takes_ms
            batches.append(run)
            done = self.alive(number, life, lambda: batches.popleft()())
            self.scheduler.at(free_at_ms - now_ms, done)

        return schedule

    def alive(self, number: int, life: int, run: Callable[[], None]) -> Callable[[], None]:
        """An event of a worker's life that does nothing after its death."""

        def guarded() -> None:
            if self.brokers[number] is not None and self.incarnations[number] == life:
                run()

        return guarded

    def _tick(self, number: int, life: int) -> None:
        broker = self.brokers[number]
        if broker is None or self.incarnations[number] != life:
            return
        broker.tick()
        broker.check_keep_alive()
        broker.checkpoints.look()
        self.scheduler.at(50, lambda: self._tick(number, life))

    def kill(self, number: int) -> None:
        """kill -9: memory is gone, written bytes stay, clients and peers notice."""
        if self.brokers[number] is None:
            return
        self.brokers[number] = None
        self.cluster.views.pop(number, None)
        for transport in self.transports[number]:
            transport.cut()
        self.transports[number] = []
        for other in range(self.worker_count):
            self.cut(number, other)
        self._tear(number)
        if self._loses_power and self.scheduler.random.random() < 0.5:
            self._lose_power(number)

    def _lose_power(self, number: int) -> None:
        """Each file and each key-value store keeps another part of what is not synced."""
        chance = self.scheduler.random.random
        self.disks[number].lose_power(lambda path: chance())
        for shard, kv in self.kvs.items():
            if shard % self.worker_count == number:
                kv.lose_power(chance())

    def lose_power(self) -> None:
        """The machine stops."""
        for number in range(self.worker_count):
            self.kill(number)
            self._lose_power(number)

    def _tear(self, number: int) -> None:
        """The storage thread dies in the middle of its batch: some of the bytes are written."""
        disk, batches = self.disks[number], self._unwritten[number]
        if batches and self.scheduler.random.random() < 0.7:
            disk.crash_after = int(self.scheduler.random.random() ** 2 * 6_000)
            try:
                batches.popleft()()
            except Crash:
                self.torn += 1
            disk.crash_after = None

    def cut(self, one: int, two: int) -> None:
        """A link breaks: frames on it are lost, the ends that live notice, it is made anew."""
        if (one, two) not in self._up:
            return
        self._up -= {(one, two), (two, one)}
        for here, there in ((one, two), (two, one)):
            broker = self.brokers[here]
            if broker is not None:
                gone = self.alive(
                    here, self.incarnations[here], functools.partial(broker.on_worker_down, there)
                )
                self.scheduler.at(self.scheduler.random.random() * 2, gone)
        self._link(one, two)

    def _link(self, one: int, two: int) -> None:
        def up() -> None:
            first, second = self.brokers[one], self.brokers[two]
            if first is None or second is None or (one, two) in self._up:
                return
            self._up |= {(one, two), (two, one)}
            for ends in ((one, two), (two, one)):
                self._link_numbers[ends] = self._link_numbers.get(ends, 0) + 1
            first.on_worker_up(two, self.incarnations[two])
            second.on_worker_up(one, self.incarnations[one])

        self.scheduler.at(3, up)

    # -- the bus -----------------------------------------------------------------------------------

    def transmit(self, sender: int, receiver: int, kind: int, payload: bytes) -> bool:
        """Carry a frame; lost when either end dies before it arrives."""
        if (sender, receiver) not in self._up:
            return False
        link = self._link_numbers[sender, receiver]
        arrives = max(
            self._links.get((sender, receiver), 0.0) + 0.001,
            self.scheduler.now_ms + self.scheduler.random.random() * 5,
        )
        self._links[sender, receiver] = arrives

        def arrive() -> None:
            broker = self.brokers[receiver]
            same = self._link_numbers[sender, receiver] == link
            if broker is not None and same and (sender, receiver) in self._up:
                broker.on_frame(sender, kind, payload)

        self.scheduler.at(arrives - self.scheduler.now_ms, arrive)
        return True

    # -- clients -----------------------------------------------------------------------------------

    def accept(
        self, client_id: bytes, deliver: Callable[[bytes], None], gone: Callable[[], None]
    ) -> MqttClient | None:
        """A connection, at the home of its client id; None while that worker is away."""
        alive = next((broker for broker in self.brokers if broker is not None), None)
        if alive is None:
            return None
        home = alive.placement.session_home(client_id)
        broker = self.brokers[home]
        if broker is None:
            return None
        transport = SimTransport(self, deliver, gone)
        self.transports[home].append(transport)
        return broker.connected(transport, client_id.decode(), DEFAULT)

    def _count(self, name: str, amount: int) -> None:
        self.counters[name] = self.counters.get(name, 0) + amount
