"""One worker process: a broker with real surroundings.

Order of the start: the cluster's state, the shards (which recovers them), the bus, and only when
every other worker is linked and has told its interest, the listeners: so what is published here is
delivered from the first message on. Order of the end (SIGTERM): stop accepting, tell clients,
finish acknowledgements and commits, exit 0.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import uvloop

from robustmq import clock, names
from robustmq.bans import Ban, BanTable
from robustmq.cluster.commands import OwnShards, RegisterWorker, UnregisterWorker
from robustmq.cluster.meta import Meta
from robustmq.control.contract import Operator
from robustmq.errors import BrokerError
from robustmq.kafka.gateway import Broker as KafkaBroker
from robustmq.kafka.topic_configs import ENGINE_SETTING, MODE_SETTING
from robustmq.net.bus_link import BusLink
from robustmq.net.control_socket import ControlSocket
from robustmq.net.gates import ConnectionGate
from robustmq.net.handoff import Handoff
from robustmq.net.kafka_connection import KafkaConnection
from robustmq.net.kafka_ways_in import KafkaWaysIn
from robustmq.net.mqtt_sockets import MqttSockets
from robustmq.net.ways_in import WaysIn
from robustmq.observability import logs
from robustmq.process.access import AccessControl
from robustmq.process.authentication import Authentication
from robustmq.process.cluster_view import MetaView
from robustmq.process.context import UNREADABLE, WorkerContext
from robustmq.process.freed_memory import reuse_freed_memory
from robustmq.process.housekeeping import Housekeeping
from robustmq.process.kafka_sasl import SaslVerifier
from robustmq.process.long_work import LongWork
from robustmq.process.machine_memory import ring_bytes
from robustmq.process.meta import socket_path
from robustmq.process.meta_client import LocalMeta, MetaClient, MetaPort
from robustmq.process.spawn import spawn
from robustmq.process.tiering import Tiering
from robustmq.promises import Promise
from robustmq.security.passwords import PasswordFileError
from robustmq.shard.broker import Broker
from robustmq.shard.recovery import Recovery
from robustmq.shard.room import DISK_RESERVE_BYTES
from robustmq.shard.surroundings import Surroundings, TierAround
from robustmq.storage.committer import ThreadCommitter
from robustmq.storage.data_directory import DataDirectoryError, shard_directory
from robustmq.storage.disk import RealDisk, free_bytes, total_bytes
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.memory import RingMemory
from robustmq.storage.shard_store import ShardStore, StoreSettings

LINK_TIMEOUT_S = 5.0
GC_THRESHOLDS = (10_000, 10, 10)
UNREADABLE_FILES_SAID = 1000
DISK_FAILED = 70
T = TypeVar("T")
log = logs.get_logger("worker")


def main(context: WorkerContext) -> int:
    """The body of a worker process; the exit code."""
    try:
        return uvloop.run(Worker(context).run())
    except DataDirectoryError as error:
        log.error("the data cannot be read", worker=context.worker_id, reason=str(error))
        return UNREADABLE
    except (OSError, BrokerError) as error:
        log.error(
            "worker ended: the disk or the system failed",
            worker=context.worker_id,
            reason=str(error),
        )
        return DISK_FAILED
    except Exception:
        log.exception("worker ended", worker=context.worker_id)
        return 1


class Worker:
    """A broker, its sockets, and its life."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._settings = context.settings
        self._row = context.row
        self._meters = context.counters.topics.meters(context.worker_id)
        self._kafka: Collection[KafkaConnection] = ()

    async def run(self) -> int:
        """Serve until SIGTERM."""
        context = self._context
        loop = self._loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        loop.add_signal_handler(signal.SIGINT, stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._row.begin(os.getpid())
        self._meta = self._meta_port()
        self._meta.start(loop)
        await _arrived(self._meta.ready)
        await self._own_shards()
        view = MetaView(self._meta, self._settings.node.shards, context.worker_count)
        await self._declare_streams(view)
        self._open_broker(loop, view)
        await self._link(loop)
        await self._listen(loop, view)
        self._control = ControlSocket(
            context.run_directory, Operator(self._broker, context.counters.topics.totals)
        )
        await self._control.start(loop)
        self._housekeeping = Housekeeping(
            self._broker,
            self._mqtt,
            self._ways_in.relays,
            self._meters,
            context,
            self._settings,
            loop,
            self._every_second,
        )
        self._housekeeping.start()
        # What the start has made stays: the collector need not look at it again and again. And it
        # looks less often: a turn makes hundreds of objects and hardly ever a cycle.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._row.set("ready", 1)
        context.ready(self._listening)
        log.info("worker ready", worker=context.worker_id, shards=len(self._broker.stores))
        await stopped.wait()
        await self._drain()
        return 0

    # -- starting ----------------------------------------------------------------------------------

    def _meta_port(self) -> MetaPort:
        if self._context.embedded:
            directory = Path(self._settings.node.data_dir) / "meta"
            return LocalMeta(Meta(directory, self._context.cluster_id, self._settings.limits))
        return MetaClient(socket_path(self._settings))

    async def _own_shards(self) -> None:
        context = self._context
        mine = tuple(
            shard
            for shard in range(self._settings.node.shards)
            if shard % context.worker_count == context.worker_id
        )
        await _arrived(self._meta.propose(OwnShards(context.worker_id, mine)))

    async def _declare_streams(self, view: MetaView) -> None:
        """The topics of streams are made by the configuration; every worker asks, one is first."""
        for stream in self._settings.streams:
            name = names.from_kafka(stream.topic)
            wanted = {MODE_SETTING: stream.mode, ENGINE_SETTING: stream.engine}
            configs = {key: value for key, value in wanted.items() if value}
            known = view.declared(name)
            if known is None:
                made = view.create_topic(name, stream.partitions, configs, uuid.uuid4())
            elif known.partitions < stream.partitions:
                made = view.create_partitions(name, stream.partitions)
            elif not configs.items() <= known.configs.items():
                made = view.alter_topic(name, {**configs})
            else:
                continue
            outcome = await _arrived(made)
            known = view.declared(name)
            if known is None or known.partitions < stream.partitions:
                log.error("a stream has no topic", topic=stream.topic, reason=outcome.message)

    def _open_broker(self, loop: asyncio.AbstractEventLoop, view: MetaView) -> None:
        settings, context = self._settings, self._context
        data_dir = settings.node.data_dir
        self._committer = ThreadCommitter(
            lambda run: loop.call_soon_threadsafe(run),
            self._disk_failed,
            lambda size: free_bytes(data_dir) >= size + DISK_RESERVE_BYTES,
            self._disk_full,
        )
        self._unreadable: set[str] = set()
        self._disk = RealDisk(
            wait_for_room=self._committer.wait_for_room, unreadable=self._read_failed
        )
        self._access = AccessControl(settings, self._meta)
        self._authenticator = Authentication(settings, loop, self._access.credentials)
        self._bus = BusLink(
            context.worker_id,
            context.worker_count,
            context.run_directory,
            context.incarnation,
            view.cluster_id,
            self._frame,
            lambda worker, incarnation: self._broker.on_worker_up(worker, incarnation),
            lambda worker: self._broker.on_worker_down(worker),
            settings.limits.max_bus_frame_bytes,
            settings.limits.max_bus_bytes,
            self._row.add,
        )
        self._bus.on_pressure(self._pressed)
        self._bus.on_turn_end(lambda: self._broker.end_turn())
        self._rings = RingMemory(settings.storage.memory_bytes or ring_bytes(context.worker_count))
        around = Surroundings(
            self._bus,
            clock.monotonic_ms,
            clock.wall_ms,
            loop.call_soon,
            uuid.uuid4,
            self._row.add,
            lambda level, text, **fields: getattr(log, level)(text, **fields),
            self._authenticator,
            self._committer.kick,
            clock.monotonic_us,
            lambda delay_us, run: loop.call_later(delay_us / 1e6, run),
            self._meters,
            self._access,
            lambda: (data_dir, total_bytes(data_dir), free_bytes(data_dir)),
            LongWork(loop),
            self._open_tier(loop),
            self._rings,
        )
        self._broker = Broker(
            settings,
            context.worker_id,
            context.worker_count,
            view,
            around,
            self._store_opener(view),
        )
        view.on_ban = self._banned

    def _open_tier(self, loop: asyncio.AbstractEventLoop) -> TierAround | None:
        """The object store, if there is one."""
        tiering = self._settings.storage.tiering
        self._tiering = None
        if tiering.url:
            reuse_freed_memory()
            context = self._context
            worker = (context.worker_id, context.worker_count)
            data_dir = Path(self._settings.node.data_dir)
            self._tiering = Tiering(tiering, loop, data_dir, worker, self._row)
        return self._tiering.around if self._tiering is not None else None

    def _banned(self, ban: Ban) -> None:
        """A ban has come, for whichever protocol."""
        self._broker.admission.banned(ban)
        if ban.kind == "address":
            table = BanTable()
            table.set(ban)
            for connection in list(self._kafka):
                if table.address(connection.address, clock.wall_ms()):
                    connection.close()

    def _every_second(self) -> None:
        self._end_idle()
        if self._tiering is not None:
            self._tiering.meter()

    def _end_idle(self) -> None:
        """Close the Kafka connections that nobody uses."""
        now_ms, longest_ms = clock.monotonic_ms(), self._settings.kafka.connections_max_idle_ms
        for connection in list(self._kafka):
            connection.end_if_idle(now_ms, longest_ms)

    def _store_opener(self, view: MetaView) -> Callable[[int, Recovery], ShardStore]:
        """How this worker opens a shard on its disk."""
        settings = self._settings
        shards = max(1, settings.node.shards // self._context.worker_count)
        storage = settings.storage
        store_settings = StoreSettings(
            storage.segment_bytes,
            storage.hot_bytes // shards,
            storage.checkpoint_bytes,
            storage.sync == "disk",
        )

        key_values = KeyValueSettings(
            storage.key_value_cache_bytes, storage.key_value_write_buffer_bytes
        )

        def open_store(shard: int, recovery: Recovery) -> ShardStore:
            directory = shard_directory(settings.node.data_dir, shard)
            self._disk.make_directory(directory)
            kv = open_key_value(directory, storage.key_value, key_values)
            return ShardStore(
                directory,
                store_settings,
                self._disk,
                kv,
                self._committer,
                view.shard_epoch(shard),
                recovery,
                lambda position, length: self._set_aside(shard, position, length),
                self._rings,
            )

        return open_store

    def _set_aside(self, shard: int, position: int, length: int) -> None:
        """Recovery met a bad record with sound ones behind it."""
        self._row.add("storage_corrupt_records")
        log.error(
            "corrupt log entries were set aside", shard=shard, position=position, length=length
        )

    def _disk_full(self, is_full: bool) -> None:
        """Producers are told; what was appended waits for room, and reading goes on."""
        self._broker.owner.room.disk_full(self._broker.stores if is_full else ())
        if is_full:
            log.error("the disk is full: nothing is taken until there is room")
        else:
            log.info("there is room on the disk again")

    def _pressed(self, over: bool) -> None:
        """Too much waits for another worker, or no longer: clients are not read meanwhile."""
        self._broker.turn()
        for connection in list(self._kafka):
            connection.hold(over)

    def _frame(self, worker: int, kind: int, payload: memoryview | bytes) -> None:
        """The turn ends when all frames of one read are told."""
        self._broker.begin_turn()
        self._broker.on_frame(worker, kind, payload)

    def _read_failed(self, path: str, error: OSError) -> None:
        """Its reader hears the protocol's error; a line a file and life of the worker."""
        self._row.add("storage_read_errors")
        if path not in self._unreadable and len(self._unreadable) < UNREADABLE_FILES_SAID:
            self._unreadable.add(path)
            log.error("a file cannot be read", path=path, reason=error.strerror)

    def _disk_failed(self, error: BaseException) -> None:
        """What the disk left is unknown: the process ends, recovery finds out (design,
        section 6)."""
        self._row.add("storage_errors")
        log.error("the disk failed, ending", reason=str(error))
        os._exit(DISK_FAILED)

    async def _link(self, loop: asyncio.AbstractEventLoop) -> None:
        """Join the other workers; go on without one that does not come."""
        await self._bus.start()
        others = set(range(self._context.worker_count)) - {self._context.worker_id}
        deadline = loop.time() + LINK_TIMEOUT_S
        while not others <= self._broker.heard and loop.time() < deadline:
            await asyncio.sleep(0.005)
        self._broker.sessions.settle_cut()

    async def _listen(self, loop: asyncio.AbstractEventLoop, view: MetaView) -> None:
        settings, context = self._settings, self._context
        self._listening: list[str] = []
        self._gate = ConnectionGate(settings.limits, view.bans)
        self._mqtt = MqttSockets(loop, self._broker)
        self._ways_in = WaysIn(
            loop,
            self._broker,
            self._mqtt,
            self._gate,
            Handoff(context.worker_id, context.run_directory),
            self._row.add,
            context.prepared,
        )
        self._listening += self._ways_in.open(settings)
        self._kafka_in = KafkaWaysIn(
            loop,
            self._broker.kafka.gateway,
            settings.limits,
            self._gate,
            self._row.add,
            context.prepared,
            lambda listener: SaslVerifier(
                listener, settings.kafka.connections_max_reauth_ms, self._authenticator
            ),
            spawn,
            lambda host: self._access.client_quotas.admits(host, clock.monotonic_ms()),
        )
        places, endpoints = self._kafka_in.open(settings, context.worker_id, context.run_directory)
        self._kafka = self._kafka_in.connections
        self._listening += places
        if endpoints:
            await self._register(view, endpoints)

    async def _register(self, view: MetaView, endpoints: dict[str, tuple[str, int]]) -> None:
        context = self._context
        if self._settings.kafka.single_port:
            view.single_brokers = {
                name: KafkaBroker(0, host, port) for name, (host, port) in endpoints.items()
            }
        host, port = next(iter(endpoints.values()))
        await _arrived(
            self._meta.propose(
                RegisterWorker(context.worker_id, host, port, context.incarnation, endpoints)
            )
        )

    # -- changing and ending -----------------------------------------------------------------------

    def _reload(self) -> None:
        """SIGHUP: take over what can be."""
        settings = self._context.reload()
        try:
            # The password file may be another though no setting is.
            self._authenticator.reload(settings or self._settings)
        except PasswordFileError as error:
            log.error("the passwords stay as they were", reason=str(error))
        self._access.reload(settings or self._settings)
        self._ways_in.reload(settings or self._settings)
        self._kafka_in.reload(settings or self._settings)
        if settings is None:
            return
        self._settings = settings
        limits = settings.limits
        self._broker.reload(settings)
        self._gate.reload(limits)
        self._bus.max_frame_bytes = limits.max_bus_frame_bytes
        self._bus.high_water_bytes = limits.max_bus_bytes
        self._housekeeping.reload(settings)
        logs.configure(settings.log.level, settings.log.format)
        log.info("settings reloaded", worker=self._context.worker_id)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = self._loop.time() + timeout_s
        while not condition() and self._loop.time() < deadline:
            await asyncio.sleep(0.005)

    async def _drain(self) -> None:
        """Stop accepting, finish what was promised, commit, snapshot."""
        context = self._context
        self._row.set("ready", 0)
        self._kafka_in.stop()
        self._ways_in.stop()
        self._housekeeping.stop()
        self._control.close()
        broker = self._broker
        broker.drain()
        for connection in self._kafka:
            connection.finish()
        budget_s = self._settings.node.drain_timeout_ms / 1000
        await self._until(lambda: broker.idle, budget_s * 0.5)
        # Long polls have nothing to wait for; they get a moment to be answered.
        await self._until(lambda: all(one.idle for one in self._kafka), budget_s * 0.05)
        broker.end_clients()
        for connection in self._kafka:
            connection.close()
        broker.tell_drained()
        await self._until(lambda: broker.peers_drained and broker.idle, budget_s * 0.25)
        # The others' clients that are carried by this worker are told goodbye, too.
        await self._until(lambda: self._ways_in.relays.idle, budget_s * 0.05)
        broker.uploader.drain()
        await self._until(lambda: broker.uploader.idle, budget_s * 0.1)
        if self._tiering is not None:
            self._tiering.close()
        self._broker.checkpoints.make_all()
        self._committer.close()
        await asyncio.sleep(0)
        for store in self._broker.stores.values():
            store.close()
        unregistered = self._meta.propose(UnregisterWorker(context.worker_id, context.incarnation))
        # Meta may be gone before it answers, where all processes were told to end at once. It
        # learns from the next incarnation then.
        with suppress(TimeoutError):
            await _arrived(unregistered, 1.0)
        self._meta.stop()
        await self._bus.close()
        log.info("worker stopped", worker=context.worker_id)


async def _arrived(promise: Promise[T], timeout_s: float = 30.0) -> T:
    """Wait for a promise on the event loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    promise.when_settled(lambda: None if future.done() else future.set_result(None))
    await asyncio.wait_for(future, timeout_s)
    return promise.result()
