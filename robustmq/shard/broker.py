"""One worker's broker: its parts, put together, and the turn that drives them.

A turn is one round of the event loop. What the connections read in it is gathered; at its end, in
this order, blocks go to their owners, sessions into sinks, sinks into sockets, and appended shards
to the storage thread. Everything outside is injected (bus, clocks, storage, the loop's
`call_soon`), so the whole worker runs under the simulation's scheduler.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustmq import names
from robustmq.config import Settings, StorageSettings
from robustmq.core.publish import Publisher, Tally
from robustmq.errors import OUR_DECISION, BrokerError, Fault
from robustmq.groups.timers import TimeWheel
from robustmq.kafka.consumer_events import TopicsChanged
from robustmq.kafka.group_events import ForgetTopic
from robustmq.listener import Listener
from robustmq.promises import Promise, resolved
from robustmq.shard import wire
from robustmq.shard.admission import Admission
from robustmq.shard.checkpoints import Checkpoints
from robustmq.shard.cleaning import Cleaning
from robustmq.shard.client import TABLE_ROWS, MqttClient, Transport
from robustmq.shard.cluster_view import ClusterView
from robustmq.shard.commits import Commits, LogKey
from robustmq.shard.cursor_progress import CursorProgress
from robustmq.shard.dealing import Dealing
from robustmq.shard.delayed import Delayed
from robustmq.shard.delivery import Delivery
from robustmq.shard.disk_cap import DiskCap
from robustmq.shard.exclusive import Exclusive, Holders
from robustmq.shard.inbox import Inbox
from robustmq.shard.interest import OwnerInterest
from robustmq.shard.kafka_parts import EXPIRE, KafkaParts
from robustmq.shard.left_behind import LeftBehind
from robustmq.shard.light_tiers import LightTiers
from robustmq.shard.log_cleaning import LogCleaning
from robustmq.shard.mending import Mending
from robustmq.shard.moving import Leavers, Moves
from robustmq.shard.naming import Naming, Namings
from robustmq.shard.owner import Owner
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import GROUP_KIND, Kept, Placement
from robustmq.shard.pressure import Pressure
from robustmq.shard.rates import Rates
from robustmq.shard.recovery import Recovery
from robustmq.shard.retained import pages
from robustmq.shard.room import Room
from robustmq.shard.router import FAULTS, Router
from robustmq.shard.rpc import Rpc
from robustmq.shard.sessions import Sessions, bounds_of, capabilities_of
from robustmq.shard.share_delivery import ShareDelivery
from robustmq.shard.slow import SlowSubscriptions
from robustmq.shard.strategies import Dice
from robustmq.shard.surroundings import Surroundings
from robustmq.shard.sys_events import SysEvents
from robustmq.shard.telling import Telling
from robustmq.shard.uploader import Uploader
from robustmq.shard.writing import Writing
from robustmq.storage.shard_store import ShardStore

if TYPE_CHECKING:
    from robustmq.shard.subscriber import Subscriber


RETAINED_SWEEP = 1000
"""Expired retained values that one shard removes in one go."""


class Broker:
    """The shards, clients and machines of one worker."""

    def __init__(
        self,
        settings: Settings,
        worker_id: int,
        worker_count: int,
        cluster: ClusterView,
        around: Surroundings,
        open_store: Callable[[int, Recovery], ShardStore],
    ) -> None:
        """Opens (and so recovers) the shards that the shard map gives this worker."""
        self.settings = settings
        self.limits = settings.limits
        self.worker_id = worker_id
        self.worker_count = worker_count
        self.cluster = cluster
        self.around = around
        self.monotonic_ms = around.monotonic_ms
        self.wall_ms = around.wall_ms
        self.count = around.count
        self.capabilities = capabilities_of(settings)
        self.bounds = bounds_of(settings)
        self.frame_table = array("i", bytes(4 * 4 * TABLE_ROWS))
        self.clients: set[MqttClient] = set()
        self.connections = 0
        """Clients that have been let in and are there."""
        self.tally = Tally()
        self.packets_in = 0
        """Packets other than PUBLISH."""
        self.packets_out = 0
        self.wheel: TimeWheel[tuple[str, ...]] = TimeWheel()
        self._turning = False
        self.writing = Writing(around.monotonic_us, around.call_later, self.turn)
        self._to_pump: dict[Subscriber, None] = {}
        self.draining = False
        self.heard: set[int] = set()
        self._links: dict[int, list[Promise[None]]] = {}
        self._link_numbers = [0] * worker_count
        self._drained: set[int] = set()
        self.placement = Placement(
            worker_id,
            cluster.shard_count,
            cluster.shard_owner,
            *_storage_rules(settings.storage),
            [(stream.filter, names.from_kafka(stream.topic)) for stream in settings.streams],
        )
        self._open_storage()
        self._open_delivery()
        self._open_messages()
        self.rpc = Rpc(self.worker_id, self.around.bus, self._on_message)
        self.kafka = KafkaParts(self)
        self.cleaning.knows(self.kafka.producers)
        self.uploader.knows(self.kafka.producers)
        self.commits.committed = self._committed
        self._watch_clients()
        cluster.on_change = self._topics_changed
        self._recover(open_store)

    def _open_storage(self) -> None:
        """The shards, as far as they can be without being recovered."""
        self.stores: dict[int, ShardStore] = {}
        self.commits = Commits(
            self.stores,
            self.around.kick,
            self.around.monotonic_us,
            self.settings.storage.sync == "disk",
        )
        self.commits.wake = self.turn
        self.partitions = Partitions(
            self.placement,
            self.stores,
            self.settings.storage,
            Moves(self.commits, self.around.kick),
            lambda what, topic, partition, why: self.around.log(
                "error", what, topic=topic.decode(), partition=partition, why=why
            ),
        )
        self.leavers = Leavers(self.stores, self.commits, self.placement.mode)
        self.cleaning = Cleaning(self)
        self.uploader = self.partitions.uploader = Uploader(self)
        self.disk_cap = DiskCap(self)
        self.cursor_progress = CursorProgress(self)
        self.inbox = Inbox(self.stores)

    def _open_shares(self) -> None:
        """Share groups: as the owner of topics, and as the home of members."""
        around = self.around
        self.sharing = self.settings.sharing
        dice = Dice(around.unique().int)
        self.interest = OwnerInterest(self.worker_id, dice, self._strategy)
        self.shares = ShareDelivery(self, dice, self._strategy)
        self.left_behind = LeftBehind(self.placement.shard_owner, self._notify)
        self.dealing = Dealing(
            self.placement,
            self.stores,
            self.commits,
            self.partitions,
            self.interest,
            around.wall_ms,
            around.call_soon,
        )

    def _open_delivery(self) -> None:
        """The way of messages to subscribers."""
        around = self.around
        self._open_shares()
        self.delivery = Delivery(
            self.stores,
            self.commits,
            self.inbox,
            self.left_behind,
            around.wall_ms,
            self.to_pump,
            self._count_delivery,
        )
        self.telling = Telling(
            self.worker_id,
            self.worker_count,
            self.placement,
            self.stores,
            self.commits,
            self.partitions,
            self.interest,
            self.dealing,
            self.delivery,
            self.shares,
            around.bus,
            around.call_soon,
            self.turn,
        )

    def _open_messages(self) -> None:
        """The way of messages from publishers: router, owner; and sessions."""
        around = self.around
        self.owner = Owner(
            self.placement,
            self.stores,
            self.commits,
            self.partitions,
            self.interest,
            self.telling,
            around.wall_ms,
            lambda entry, done: self.router.retain(entry, done),
            self.count,
            Room(
                lambda: range(self.worker_count),
                lambda worker: 0 if worker == self.worker_id else self.cluster.incarnation(worker),
                lambda worker, shards: self.rpc.call(worker, wire.ShardsClosed(shards)),
            ),
        )
        self.router = Router(
            self.worker_id,
            self.placement,
            around.bus,
            self.owner,
            self.limits.max_bus_bytes,
            self.worker_count,
        )
        self.delayed = Delayed(
            self.placement,
            self.stores,
            self.commits,
            self.owner,
            self.router,
            around.wall_ms,
            self.count,
            around.call_soon,
            self.turn,
        )
        self.delivery.meters = self.placement.meters = around.meters
        self._bound_topics()
        self.namings = Namings(self.settings, self.placement)
        self.pressure = Pressure(
            self.limits,
            self.worker_count,
            self.clients,
            self.stores,
            self.router,
            self.telling,
            around.bus,
        )
        self.holders = Holders(self.worker_count)
        self.exclusive = Exclusive(self)
        self.sessions = Sessions(self)
        self.delivery.subscribers = self.sessions.get
        self.dealing.tell = self.telling.tell_given
        self.log_cleaning = LogCleaning(self)
        self.mending = Mending(self)
        self.checkpoints = Checkpoints(self)
        self.light_tiers = LightTiers(self)

    def _notify(self, worker: int, message: wire.Message) -> bool:
        return self.rpc.notify(worker, message)

    def _strategy(self, group: bytes, filter_: bytes) -> str:
        return self.sharing.strategy(group, filter_)

    def _bound_topics(self) -> None:
        """What topics may hold, from the limits."""
        self.placement.max_delay_s = self.limits.max_delay_s
        self.owner.max_delayed = self.limits.max_delayed_messages
        self.owner.retained_expiry_s = self.settings.mqtt.retained_expiry_s
        self.owner.max_retained = self.limits.max_retained_messages
        self.owner.max_retained_bytes = self.limits.max_retained_payload_bytes
        self.retain_alone = bool(self.owner.max_retained or self.owner.max_retained_bytes)
        self.placement.forget_routes()

    def _watch_clients(self) -> None:
        """Who may come, and stay, and how fast it may send."""
        self.rates = Rates()
        self.events = SysEvents(self)
        self.slow: SlowSubscriptions | None = None
        self._measure()
        self.admission = Admission(self)
        self.cluster.on_ban = self.admission.banned

    def _measure(self) -> None:
        """Look for slow subscriptions, or not; what was found by the same settings stays."""
        settings = self.settings.slow_subscriptions
        if self.slow is None or self.slow.settings != settings:
            self.slow = SlowSubscriptions(settings, self.wall_ms, self.count)
        self.slow = self.delivery.slow = self.slow if settings.enabled else None

    def _recover(self, open_store: Callable[[int, Recovery], ShardStore]) -> None:
        recovery = Recovery(
            self.kafka.machines,
            self.sessions,
            self.delivery,
            self.owner,
            self.partitions,
            self.dealing,
            self.left_behind,
            self.kafka.producers,
            self.kafka.releases,
        )
        for shard in range(self.placement.shard_count):
            if self.placement.shard_owner(shard) == self.worker_id:
                recovery.shard = shard
                store = self.stores[shard] = open_store(shard, recovery)
                store.light.left_memory = self.kafka.producers.left_memory
        self.light_tiers.attach()
        self.partitions.recovered()
        self._cluster_changed(set(self.cluster.declared_names()))
        self.partitions.declared()
        recovery.finish(self.stores)
        self.dealing.begin()
        self.kafka.machines.resume()
        self.kafka.share.recovered()
        self.left_behind.recovered(self.worker_id)
        self.sessions.resume_all()
        self._all_heard()
        # The crash may lie between the append of a message and that of its inbox entries.
        self.telling.worker_heard(self.worker_id, self.sessions.cursors_of(self.worker_id))
        self.holders.heard(self.worker_id, self.exclusive.held_of(self.worker_id))
        self.turn()

    def _count_delivery(self, name: str, amount: int) -> None:
        self.count(name, amount)
        if name == "mqtt_messages_sent":
            self.packets_out += amount

    # -- the turn ----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Something was gathered: see that the turn's end comes."""
        if not self._turning:
            self._turning = True
            self.around.call_soon(self.end_turn)

    def next_turn(self) -> Promise[None]:
        """Settles in a following turn: long work goes on then."""
        following: Promise[None] = Promise()

        def begin() -> None:
            following.resolve(None)
            self.turn()

        self.around.call_soon(begin)
        return following

    def begin_turn(self) -> None:
        """A caller that hands over a lot at once says when the turn ends, with `end_turn`: that
        saves a round of the event loop before what came is answered."""
        self._turning = True

    def to_pump(self, subscriber: Subscriber) -> None:
        """A session has something to send."""
        self._to_pump[subscriber] = None
        self.turn()

    def end_turn(self) -> None:
        """Pass on what was gathered."""
        self._turning = False
        self.router.flush()
        self.telling.flush()
        if self._to_pump:
            pumped, self._to_pump = self._to_pump, {}
            for subscriber in pumped:
                if subscriber.peer is not None:
                    self.sessions.pump(subscriber)
                else:
                    self.sessions.keep(subscriber)
        self.pressure.give_credit()
        # First the other workers: they write to their clients while this one does.
        self.around.bus.flush()
        self.writing.flush()
        if self.draining:
            self.commits.hurry()
        self.commits.flush()
        self.pressure.steer(self.draining)

    def _committed(self, shard: int, touched: set[LogKey] | None) -> None:
        self.kafka.committed(shard, touched)
        if self.pressure.committed():
            self.turn()

    def tick(self) -> None:
        """Time has passed: timers, commits that nobody waits for. The shell calls it twenty times
        a second."""
        self.commits.hurry()
        self.telling.tick()
        if self.pressure.tick():
            self.turn()
        self.delayed.tick()
        self.kafka.releases.tick()
        self.cleaning.tick()
        self.leavers.tick()
        self.uploader.tick()
        self.disk_cap.tick()
        self.cursor_progress.tick()
        self.log_cleaning.tick()
        self.mending.tick()
        self.light_tiers.tick()
        self.shares.tick()
        now = self.monotonic_ms()
        self.rates.resume(now)
        self.events.tick()
        for key in self.wheel.due(now):
            kind, *rest = key
            if kind == "wait":
                self.kafka.waits.fire(int(rest[0]))
            elif kind == "share-wait":
                self.kafka.share.waits.fire(int(rest[0]))
            elif kind == "machine":
                self.kafka.machines.fire(rest[0].encode(), rest[1], rest[2])
            elif kind == "session":
                self.sessions.fire(rest[0])
            elif kind == EXPIRE:
                self.kafka.expire_offsets()

    def check_keep_alive(self) -> None:
        """End clients that have been silent for too long; the shell calls it once a second."""
        now = self.monotonic_ms()
        for client in list(self.clients):
            client.check_keep_alive(now, self.limits.connect_timeout_ms)

    def sweep_retained(self) -> None:
        """Remove retained values that have expired, a slice a call; the shell calls it once a
        second."""
        if self.owner.retained_refused:
            number, self.owner.retained_refused = self.owner.retained_refused, 0
            self.around.log("warning", "no room for retained messages", refused=number)
        for shard, store in self.stores.items():
            removed = store.retained.sweep(self.wall_ms(), RETAINED_SWEEP)
            if removed:
                self.count("mqtt_retained_expired", removed)
                self.commits.mark(shard)

    # -- connections -------------------------------------------------------------------------------

    def connected(
        self, transport: Transport, address: str, listener: Listener, identity: str = ""
    ) -> MqttClient:
        """A connection begins; CONNECT has yet to come. `identity` is the common name of its
        certificate."""
        client = MqttClient(self, transport, address, listener, self.monotonic_ms(), identity)
        self.clients.add(client)
        self.count("mqtt_connections_opened", 1)
        if self.pressure.held:
            client.hold(True)
        return client

    def joined(self, client: MqttClient, client_id: bytes) -> None:
        """A client has been let in."""
        self.connections += 1
        self.count("mqtt_connects", 1)
        self.events.connected(client, client_id)

    def left(self, client: MqttClient, client_id: bytes, reason: str) -> None:
        """A client that was let in is gone."""
        self.connections -= 1
        self.events.disconnected(client, client_id, reason)
        if self.slow is not None:
            self.slow.gone(client_id)
        self.admission.left(client_id)

    def publisher(self, version: int, origin: int, naming: Naming) -> Publisher:
        """The compiled decoder of one connection's PUBLISH packets."""
        return Publisher(
            version,
            origin,
            naming.routes,
            naming.route,
            self.router.builders,
            self.limits.topic_alias_maximum,
            self.capabilities.retain_available,
            self.capabilities.maximum_qos,
            self.limits.max_topic_bytes,
            self.limits.max_topic_levels,
            self.limits.max_properties_bytes,
            self.limits.max_user_properties,
            self.tally,
            self.retain_alone,
        )

    def fault(self, client: MqttClient, error: BrokerError) -> None:
        """A connection ends by a fault: one log line and a counter (invariant 6)."""
        if error.fault not in OUR_DECISION:
            self.count("mqtt_faults", 1)
        self.around.log(
            "info", "connection ended", peer=client.address, fault=error.fault.name, why=str(error)
        )

    # -- the bus -----------------------------------------------------------------------------------

    def on_frame(self, worker: int, kind: int, payload: memoryview | bytes) -> None:
        """A frame of another worker."""
        if kind == wire.DELIVER:
            self._on_deliver(worker, payload)
        elif kind == wire.SHARE:
            self.shares.receive(payload, lambda ticket: self._delivered(worker, ticket))
        elif kind == wire.PUBLISH:
            self._on_publish(worker, payload)
        elif kind == wire.CONFIRM:
            self.router.confirmed(payload)
        elif kind == wire.DELIVERED:
            self.telling.delivered(worker, wire.DELIVERED_HEAD.unpack(payload)[0])
        elif kind == wire.MESSAGE:
            self.rpc.receive(worker, payload)
        elif kind == wire.CREDIT:
            taken = wire.CREDIT_HEAD.unpack(payload)[0]
            self.router.spent.credited(worker, taken, self.router.high_water_bytes)
        self.turn()

    def _on_publish(self, worker: int, payload: memoryview | bytes) -> None:
        shard, kind, flags, sequence = wire.PUBLISH_HEAD.unpack_from(payload)
        block = bytearray(payload[wire.PUBLISH_HEAD.size :])
        confirm = None
        if flags & wire.WANTS_CONFIRM:
            reply = self._reply_to(worker)

            def confirm(fault: Fault | None) -> None:
                code = FAULTS.index(fault) + 1 if fault is not None else 0
                reply(wire.CONFIRM, wire.CONFIRM_HEAD.pack(shard, code, sequence))

        else:
            self.pressure.took(worker, len(block))
        source = self.cluster.incarnation(worker)
        self.owner.publish(shard, kind, block, source, sequence, confirm)

    def _reply_to(self, worker: int) -> Callable[[int, bytes], None]:
        """What answers a frame over the link that it came by. Over a later one it would be taken
        for the answer to another: numbers begin anew in each life of a worker."""
        link = self._link_numbers[worker]

        def reply(kind: int, payload: bytes) -> None:
            if self._link_numbers[worker] == link:
                self.around.bus.send(worker, kind, payload)

        return reply

    def _delivered(self, worker: int, ticket: int) -> Callable[[], None]:
        reply = self._reply_to(worker)
        return lambda: reply(wire.DELIVERED, wire.DELIVERED_HEAD.pack(ticket))

    def _on_deliver(self, worker: int, payload: memoryview | bytes) -> None:
        shard, flags, _, position, ticket = wire.DELIVER_HEAD.unpack_from(payload)
        done = self._delivered(worker, ticket) if flags & wire.WANTS_CONFIRM else None
        block = bytes(payload[wire.DELIVER_HEAD.size :])
        self.delivery.deliver(shard, position, block, flags, done)

    def on_worker_up(self, worker: int, incarnation: int) -> None:
        """The link to a worker is there: tell it what is wanted here, and send what it has not
        confirmed."""
        self.cluster.worker_up(worker, incarnation)
        self.pressure.worker_up(worker)
        self.rpc.notify(worker, self.sessions.interest_of(worker))
        self.router.worker_up(worker)
        if not self.owner.room.open:
            self.owner.room.worker_up(worker)
        self.left_behind.worker_up(worker)
        for waiting in self._links.pop(worker, []):
            waiting.resolve(None)
        self.turn()

    def linked(self, worker: int) -> Promise[None]:
        """Settles when the next link to a worker that is away is there, and all is told to it."""
        waiting: Promise[None] = Promise()
        self._links.setdefault(worker, []).append(waiting)
        return waiting

    def on_worker_down(self, worker: int) -> None:
        """The link to a worker is gone."""
        self.heard.discard(worker)
        self._link_numbers[worker] += 1
        self.router.spent.begin(worker)
        self.rpc.worker_down(worker)
        self.telling.worker_down(worker)

    def _on_message(self, worker: int, message: wire.Message) -> Promise[Any] | None:
        """A call, with the promise of its answer, or a notice, with None."""
        match message:
            case wire.InterestChange():
                for filter_, flags in message.added:
                    self.interest.set(worker, filter_, flags)
                for filter_, flags in message.removed:
                    self.interest.set(worker, filter_, flags)
                return resolved(wire.InterestSettled(self.telling.ends(worker)))
            case wire.ShareChange():
                self.interest.set_share(worker, message)
                return resolved(wire.InterestSettled(self.telling.ends(worker)))
            case wire.TopicsInUse():
                return self.log_cleaning.idle_topics.in_use(message.topics)
            case wire.ShardsClosed():
                self.router.close_shards(worker, message.shards)
                return resolved(None)
            case wire.ExclusiveClaim():
                return self.holders.claim(worker, message)
            case wire.ExclusiveRelease():
                self.holders.release(worker, message)
                return resolved(None)
            case wire.RetainedQuery():
                return self._told(pages(self.stores, message, self.wall_ms()))
        if self._on_notice(worker, message):
            return None
        return self.kafka.gateway.serve(message)

    def _on_notice(self, worker: int, message: wire.Message) -> bool:
        """True when the message was one that is not answered."""
        match message:
            case wire.InterestReset():
                self.interest.reset(worker, message.filters, message.shares)
                self.heard.add(worker)
                self.holders.heard(worker, message.exclusive)
                self.telling.worker_heard(worker, message.cursors)
                self._all_heard()
            case wire.ShareAgain():
                self.dealing.again(worker, message, self.rpc.notify)
            case wire.ShareTaken():
                self.left_behind.taken(message)
            case wire.ShareLoads():
                self.interest.set_loads(message)
            case wire.ReleasePacketIds():
                self.owner.release(message)
            case wire.Drained():
                self._drained.add(worker)
            case wire.TopicDropped():
                self._topic_dropped(message.topic)
            case _:
                return False
        return True

    def _all_heard(self) -> None:
        """Do all other workers say what they want?"""
        if len(self.heard) == self.worker_count - 1:
            self.sessions.settle_cut()

    def _told(self, found: list[wire.RetainedPage]) -> Promise[Any]:
        """Pages in their place among the messages: all that is older has been told before them."""
        self.telling.flush()
        answer: Promise[Any] = Promise()
        shards = [shard for shard in self.stores if self.telling.holds(shard)]
        remaining = len(shards)

        def told() -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining:
                self.telling.flush()
                answer.resolve(wire.RetainedPages([self._unchanged(page) for page in found]))

        for shard in shards:
            self.commits.mark(shard, False, told)
        if not shards:
            answer.resolve(wire.RetainedPages(found))
        return answer

    def _unchanged(self, found: wire.RetainedPage) -> wire.RetainedPage:
        """Without the values that have a successor by now: that is told as it comes."""
        rows: list[tuple[bytes, bytes]] = []
        for topic, entry in found.entries:
            store = self.stores.get(self.placement.home(topic).shard)
            if store is None or store.retained.get(topic) == entry:
                rows.append((topic, entry))
        return wire.RetainedPage(rows, found.shard, found.after)

    # -- the cluster's state -----------------------------------------------------------------------

    def _cluster_changed(self, names: set[bytes]) -> None:
        """Declared topics came, went or changed."""
        streams = False
        for name in names:
            topic = self.cluster.declared(name)
            if topic is None:
                streams |= self.placement.forget(name)
                self.partitions.drop(name)
                self._topic_dropped(name)
                continue
            streams |= self.placement.declare(topic)
            self.partitions.open(topic, self.placement.kept(name))
        self.sessions.rehome(names, streams)

    def _topics_changed(self, names: set[bytes]) -> None:
        """The same while the broker runs: groups assign the partitions there are now."""
        self._cluster_changed(names)
        self.kafka.machines.tell(GROUP_KIND, TopicsChanged())

    def _topic_dropped(self, topic: bytes) -> None:
        self.placement.forget_routes()
        self.kafka.logs.forget(topic)
        self.kafka.machines.tell(GROUP_KIND, ForgetTopic(topic))
        self.kafka.share.drop_topic(topic)

    def reload(self, settings: Settings) -> None:
        """Take over what can change while running: limits, and what CONNACK promises."""
        self.settings = settings
        self.limits = settings.limits
        self.capabilities = capabilities_of(settings)
        self.bounds = bounds_of(settings)
        self.sharing = settings.sharing
        self.interest.reload()
        self.shares.reload()
        self.router.high_water_bytes = self.limits.max_bus_bytes
        self.pressure.limits = self.limits
        self.cleaning.reload(settings.storage)
        self._reload_modes(settings.storage)
        self.log_cleaning.reload(settings.storage)
        self.kafka.logs.max_message_bytes = self.limits.max_message_bytes
        self.kafka.gateway.reload(settings)
        self._bound_topics()
        self.sessions.reload()
        self.admission.reload()
        self.events.reload()
        self._measure()

    def _reload_modes(self, storage: StorageSettings) -> None:
        """The storage rules may be others: topics are kept as those say now."""
        self.placement.set_rules(*_storage_rules(storage))
        self.leavers.look()
        for name in list(self.placement.declared):
            topic = self.cluster.declared(name)
            if topic is not None:
                self.partitions.open(topic, self.placement.kept(name))

    # -- ending ------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when everything that was accepted is committed and acknowledged."""
        return self.router.idle and self.commits.idle and not self._turning

    def drain(self) -> None:
        """Take nothing more from clients; what was taken is finished: see `idle`."""
        self.draining = True
        for client in self.clients:
            client.hold(True)
        self.turn()

    def end_clients(self) -> None:
        """All that was promised is kept: say goodbye."""
        for client in list(self.clients):
            client.end(Fault.SERVER_SHUTTING_DOWN)
        self.turn()

    def tell_drained(self) -> None:
        """The other workers need not wait for this one."""
        for worker in self.heard:
            self.rpc.notify(worker, wire.Drained())

    @property
    def peers_drained(self) -> bool:
        """True when no other worker that is up waits for this one."""
        return self.heard <= self._drained


def _storage_rules(storage: StorageSettings) -> tuple[Kept, list[tuple[str, Kept]]]:
    """How topics are kept by default, and by filter."""
    rules = [(one.filter, Kept(one.mode, one.engine)) for one in storage.rules]
    return Kept(storage.default_mode, storage.default_engine), rules
