"""The sessions whose home is this worker: connecting, taking over, ending, acknowledging.

`mqtt.session` decides; here its decisions are carried out: records go to the log of the session's
shard, and what they promise to the peer leaves after their commit (PUBREC after `InboundReceived`,
PUBREL after
`Released`, a QoS 2 PUBLISH after `Assigned`). Sessions that end with their connection write
nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from robustmq.config import Settings
from robustmq.core import acks, batches, blocks
from robustmq.core.hashing import key_hash
from robustmq.core.publish import build_entry
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.connect import check_connect, close_session, open_session
from robustmq.mqtt.inflight import Delivery as Outgoing
from robustmq.mqtt.inflight import DropPolicy
from robustmq.mqtt.packets import (
    MQTT_5_0,
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    PacketType,
    Will,
)
from robustmq.mqtt.rewriting import Identity
from robustmq.mqtt.session import FIRST_ERROR, Session
from robustmq.mqtt.session_records import (
    Record,
    decode_record,
    encode_record,
)
from robustmq.mqtt.will import to_message
from robustmq.mqtt.wire import Bounds
from robustmq.promises import Promise
from robustmq.records import Message, to_record
from robustmq.shard import wire
from robustmq.shard.machines import encode_machine_entry
from robustmq.shard.metering import came
from robustmq.shard.naming import Naming
from robustmq.shard.placement import ENTRY_ACK, ENTRY_RETAIN, SESSION_KIND, SYS_PREFIX
from robustmq.shard.received import packet_name
from robustmq.shard.roster import Roster
from robustmq.shard.shares import LocalSubscription
from robustmq.shard.subscriber import Subscriber
from robustmq.shard.subscribing import Subscribing
from robustmq.shard.wills import Wills
from robustmq.storage.shard_store import MACHINE

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker
    from robustmq.shard.client import MqttClient

PUBACK, PUBREC, PUBREL, PUBCOMP = 4, 5, 6, 7
SECOND_MS = 1000


class Authenticator(Protocol):
    """Who may connect (security room)."""

    def authenticate(
        self, user_name: str | None, password: bytes | None, address: str, listener: Listener
    ) -> Promise[None]:
        """Settles when the client may connect; fails with BrokerError when it may not."""
        ...


class Opened(NamedTuple):
    """What a CONNECT led to."""

    subscriber: Subscriber
    connack: ConnAck
    keep_alive: int
    session_present: bool
    naming: Naming
    retained_for: list[LocalSubscription]
    """Automatic subscriptions whose retained values follow CONNACK."""


def named_inside(packet: Connect, naming: Naming) -> Connect:
    """A CONNECT whose will has its name inside; raises BrokerError for one that may not be."""
    will = packet.will
    if will is None or naming.plain:
        return packet
    will = msgspec.structs.replace(will, topic=naming.topic(will.topic))
    return msgspec.structs.replace(packet, will=will)


def capabilities_of(settings: Settings) -> Capabilities:
    """What CONNACK promises, from the settings."""
    limits, mqtt = settings.limits, settings.mqtt
    return Capabilities(
        receive_maximum=limits.receive_maximum,
        maximum_qos=mqtt.maximum_qos,
        retain_available=mqtt.retain_available,
        wildcard_subscription_available=mqtt.wildcard_subscription_available,
        subscription_identifier_available=mqtt.subscription_identifiers_available,
        shared_subscription_available=mqtt.shared_subscription_available,
        exclusive_subscription_available=mqtt.exclusive_subscription_available,
        response_information=mqtt.response_information,
        maximum_packet_size=limits.max_packet_bytes,
        topic_alias_maximum=limits.topic_alias_maximum,
        maximum_session_expiry_interval=limits.max_session_expiry_s,
        maximum_keep_alive=limits.keep_alive_maximum_s or 65_535,
        maximum_subscriptions=limits.max_subscriptions,
        maximum_in_flight=limits.max_inflight,
        maximum_queued_messages=limits.max_queued_messages,
        maximum_queued_bytes=limits.max_queued_bytes,
        maximum_topic_bytes=limits.max_topic_bytes,
        maximum_topic_levels=limits.max_topic_levels,
        drop_policy=DropPolicy(settings.mqtt.queue_policy),
    )


def bounds_of(settings: Settings) -> Bounds:
    """What one packet may hold, from the settings."""
    limits = settings.limits
    return Bounds(
        limits.max_properties_bytes, limits.max_user_properties, limits.max_filters_per_packet
    )


class Sessions:
    """The subscribers of this worker by client id."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._roster = Roster()
        self.get = self._roster.get
        self.walk = self._roster.walk
        self._subscribing = Subscribing(broker)
        self.subscribe = self._subscribing.subscribe
        self.unsubscribe = self._subscribing.unsubscribe
        self.send_retained = self._subscribing.send_retained
        self.rehome = self._subscribing.rehome
        self.interest_of = self._subscribing.interest_of
        self.cursors_of = self._subscribing.cursors_of
        self.wills = Wills(broker.stores, broker.commits, broker.placement, broker.wall_ms)
        self._cut: list[Subscriber] | None = None

    def __len__(self) -> int:
        return len(self._roster)

    def reload(self) -> None:
        """Take over bounds of what is there; those of a connection count from its next one."""
        capabilities, limits = self._broker.capabilities, self._broker.limits
        for subscriber in self._roster.walk():
            subscriber.limit = limits.max_outbound_bytes
            subscriber.keeps_qos0 = self._broker.settings.mqtt.queue_qos0
            subscriber.session.bound(capabilities)

    @property
    def subscriptions(self) -> int:
        """Subscriptions of all sessions."""
        return len(self._subscribing)

    @property
    def shared_subscriptions(self) -> int:
        """Those of them that are shared."""
        return self._subscribing.shared

    # -- connecting --------------------------------------------------------------------------------

    async def connect(self, client: MqttClient, packet: Connect) -> Opened:
        """Open or resume a session for a connection [MQTT-3.1.2-4 to -6]."""
        broker = self._broker
        if broker.draining:
            raise BrokerError(Fault.SERVER_SHUTTING_DOWN)
        self.settle_cut()
        broker.admission.check(client, packet)
        await broker.around.authenticator.authenticate(
            packet.user_name, packet.password, client.address, client.listener
        )
        if client.closed:
            raise BrokerError(Fault.UNSPECIFIED, "the client went away")
        # A ban may have come while the password was looked at.
        broker.admission.check(client, packet)
        if len(packet.client_id) > broker.limits.max_client_id_bytes:
            raise BrokerError(Fault.CLIENT_IDENTIFIER_NOT_VALID, "client id is too long")
        check_connect(packet, broker.capabilities)
        client_id = packet.client_id or self._assigned_id()
        self._check_room(client_id)
        identity = Identity(client_id.decode(), packet.user_name, client.host)
        naming = broker.namings.of(client.listener, identity)
        packet = named_inside(packet, naming)
        taken = self._roster.get(client_id)
        if taken is not None and taken.peer is not None:
            taken.peer.end(Fault.SESSION_TAKEN_OVER)
            broker.count("mqtt_takeovers", 1)
            self.disconnected(taken, taken.peer, None)
        existing = self._roster.get(client_id)
        session, connack, present, effects = open_session(
            packet,
            existing.session if existing is not None else None,
            broker.capabilities,
            broker.wall_ms(),
            client_id,
            naming.mount,
        )
        if existing is not None and effects.ended is not None:
            self._remove(existing)
            existing = None
        if effects.will is not None:
            self.publish_will(client_id, effects.will)
        if not present:
            session.begin_generations(broker.wall_ms())
        subscriber = self._adopt(client_id, session, existing)
        properties = packet.properties
        subscriber.connect(
            client,
            properties.maximum_packet_size or 0,
            min(properties.topic_alias_maximum or 0, broker.limits.topic_alias_maximum),
        )
        broker.wheel.set(("session", client_id.decode()), None)
        if session.will is not None and not session.durable:
            await self.wills.keep(client_id, session.will)
        await self.write(subscriber, wait=True)
        retained_for = await self._subscribing.automatic(subscriber, naming, identity)
        if subscriber.peer is not client:
            raise BrokerError(Fault.SESSION_TAKEN_OVER)
        return Opened(subscriber, connack, effects.keep_alive, present, naming, retained_for)

    def _assigned_id(self) -> bytes:
        """A name for a client that brought none, whose session lives on this worker."""
        while True:
            client_id = f"auto-{self._broker.around.unique().hex}".encode()
            if self._broker.placement.session_home(client_id) == self._broker.worker_id:
                return client_id

    def _check_room(self, client_id: bytes) -> None:
        limits = self._broker.limits
        if self._broker.placement.session_home(client_id) != self._broker.worker_id:
            raise BrokerError(Fault.SERVER_UNAVAILABLE, "the session lives on another worker")
        if len(self._roster) >= limits.max_sessions and client_id not in self._roster:
            raise BrokerError(Fault.SERVER_BUSY, "too many sessions")

    def _adopt(self, client_id: bytes, session: Session, existing: Subscriber | None) -> Subscriber:
        if existing is None:
            subscriber = Subscriber(
                client_id,
                key_hash(SESSION_KIND, client_id),
                self._broker.placement.session_shard(client_id),
                session,
                self._broker.limits.max_outbound_bytes,
            )
            subscriber.keeps_qos0 = self._broker.settings.mqtt.queue_qos0
            self._roster.add(subscriber)
            return subscriber
        self._subscribing.refresh(existing)
        return existing

    def resume(self, subscriber: Subscriber) -> None:
        """After CONNACK: PUBREL and PUBLISH again with their old ids, then what waits
        [MQTT-4.4.0-1]."""
        subscriber.serve()
        self._subscribing.presence_changed(subscriber)
        released = subscriber.session.resume()
        if released:
            self._queue(subscriber, acks.encode(PUBREL, released, 0, len(released)))
        self._broker.to_pump(subscriber)

    # -- ending ------------------------------------------------------------------------------------

    def disconnected(
        self, subscriber: Subscriber, client: object, packet: Disconnect | None
    ) -> None:
        """A connection is over; raises PROTOCOL_ERROR for a DISCONNECT that may not be."""
        if subscriber.peer is not client:
            return
        will, ended = close_session(
            subscriber.session, packet, self._broker.capabilities, self._broker.wall_ms()
        )
        if not ended or subscriber.session.durable:
            subscriber.disconnect()
            self._subscribing.presence_changed(subscriber)
        if not ended:
            self._subscribing.went_away(subscriber)
        self._settle(subscriber, will, ended)
        self.wills.over(subscriber.client_id)

    def _settle(self, subscriber: Subscriber, will: Will | None, ended: bool) -> None:
        """What the end of a connection, or of a time, leads to."""
        if will is not None:
            self.publish_will(subscriber.client_id, will)
        if ended:
            self._remove(subscriber)
            return
        deadline = subscriber.session.next_deadline_ms
        if deadline is not None:
            broker = self._broker
            after_ms = max(0, deadline - broker.wall_ms())
            key = ("session", subscriber.client_id.decode())
            broker.wheel.set(key, broker.monotonic_ms() + after_ms)
        self._write(subscriber)

    async def kick(self, subscriber: Subscriber, end_session: bool) -> bool:
        """An operator ends a connection, which publishes its will, and the session if asked; True
        when the session is gone, and that is committed."""
        if subscriber.peer is not None:
            self._broker.count("mqtt_clients_kicked", 1)
            subscriber.peer.end(Fault.ADMINISTRATIVE_ACTION)
        if self._roster.get(subscriber.client_id) is not subscriber:
            return True
        if not end_session:
            return False
        self._settle(subscriber, subscriber.session.take_will(), True)
        ended: Promise[None] = Promise()
        self._append(subscriber, (), lambda: ended.resolve(None))
        await ended
        return True

    def fire(self, client_id: str) -> None:
        """A will's delay or a session's expiry has come."""
        subscriber = self._roster.get(client_id.encode())
        if subscriber is not None and subscriber.peer is None:
            will, ended = subscriber.session.advance(self._broker.wall_ms())
            if ended:
                self._broker.count("mqtt_sessions_expired", 1)
            self._settle(subscriber, will, ended)

    def _remove(self, subscriber: Subscriber) -> None:
        """The session has ended: nothing of it stays."""
        session = subscriber.session
        broker = self._broker
        broker.count("mqtt_messages_dropped", subscriber.take_dropped())
        self._subscribing.remove_all(subscriber)
        subscriber.disconnect()
        logged = broker.shares.session_ended(subscriber)
        for reference in (*session.take_finished(), *session.references()):
            self._broker.inbox.drop(reference)
        self._roster.remove(subscriber.client_id)
        self._broker.wheel.set(("session", subscriber.client_id.decode()), None)
        session.drain_records()
        if session.durable and not logged:
            self._append_rows(subscriber, [])
            self._append(subscriber, ())

    def publish_will(self, client_id: bytes, will: Will) -> None:
        """Publish a will as its client would have; one that its client may not publish is lost."""
        placement = self._broker.placement
        route = placement.routes.get(will.topic) or placement.route(will.topic)
        if route.refusal is not None:
            self._broker.count("mqtt_publish_denied", 1)
            return
        self._broker.count("mqtt_wills_published", 1)
        self.publish(to_message(will), key_hash(SESSION_KIND, client_id), True)

    def publish(self, message: Message, origin: int, kept: bool = False) -> None:
        """Publish a message that no connection brings (a will, a value of $SYS). `kept`: it is sent
        again to an owner that was away, as all above QoS 0 is."""
        broker = self._broker
        route = broker.placement.routes.get(message.topic) or broker.placement.route(message.topic)
        batch = batches.build(
            [to_record(message, route.topic if route.log_name else None)], broker.wall_ms()
        )
        flags = route.flags
        flags |= ENTRY_ACK if message.qos else 0
        flags |= ENTRY_RETAIN if message.retain else 0
        entry = bytearray(
            build_entry(route.topic, route.log_name, route.partition, flags, origin, 0, batch)
        )
        if route.meter is not None:
            came(route.meter, [message.qos])
        if route.delay_ms:
            blocks.set_due(entry, 0, broker.wall_ms() + route.delay_ms)
        alone = message.retain and broker.retain_alone and not message.topic.startswith(SYS_PREFIX)
        if alone:
            broker.router.flush()
        # When somebody waits, it is sent again to an owner that was away.
        wait = (lambda _group: None) if message.qos or kept else None
        broker.router.send(route.builder, entry, wait)
        if alone:
            broker.router.flush()
        broker.turn()

    # -- acknowledgements --------------------------------------------------------------------------

    def acknowledged(self, subscriber: Subscriber, kind: int, packet_ids: array[int]) -> None:
        """A run of PUBACK, PUBREC or PUBCOMP without errors."""
        session = subscriber.session
        if self._broker.slow is not None:
            self._broker.slow.finished(subscriber, kind, packet_ids)
        if kind == PUBACK:
            session.on_pubacks(packet_ids)
            self._write(subscriber)
        elif kind == PUBREC:
            _, unknown = session.on_pubrecs(packet_ids)
            strange = set(unknown)
            known = array("H", [one for one in packet_ids if one not in strange])
            self._answer(subscriber, PUBREL, known, unknown)
        else:
            session.on_pubcomps(packet_ids)
            self._write(subscriber)
        subscriber.has_room()
        self._broker.to_pump(subscriber)

    def refused(self, subscriber: Subscriber, packet_id: int) -> None:
        """The client refused a QoS 2 message (PUBREC with an error): it is over [MQTT-4.4.0-2]."""
        subscriber.session.on_pubrec(packet_id, FIRST_ERROR)
        self._write(subscriber)
        subscriber.has_room()
        self._broker.to_pump(subscriber)

    def received_qos2(
        self, subscriber: Subscriber, packet_ids: array[int], write: Callable[[array[int]], None]
    ) -> None:
        """QoS 2 messages are in the log: remember their ids, then PUBREC (section 4.3.3)."""
        for packet_id in packet_ids:
            subscriber.session.on_publish(packet_id)
        self._write(subscriber, lambda: write(packet_ids))

    def released_qos2(
        self, subscriber: Subscriber, packet_ids: array[int], write: Callable[[array[int]], None]
    ) -> None:
        """PUBREL: the ids are free, for their owners too; then PUBCOMP."""
        session = subscriber.session
        names = {one: packet_name(one, session.generation(one)) for one in packet_ids}
        unknown = session.on_pubrels(packet_ids)
        strange = set(unknown)
        known = array("H", [one for one in packet_ids if one not in strange])
        if known:
            release = wire.ReleasePacketIds(subscriber.origin, [names[one] for one in known])
            for worker in range(self._broker.worker_count):
                self._broker.rpc.notify(worker, release)
        self._answer(subscriber, PUBCOMP, known, unknown)

    def _answer(
        self, subscriber: Subscriber, kind: int, known: array[int], unknown: array[int]
    ) -> None:
        """PUBREL or PUBCOMP after the commit of what it says; 0x92 for ids that nobody knows."""
        peer = subscriber.peer

        def send() -> None:
            if subscriber.peer is None or subscriber.peer is not peer:
                return
            self._queue(subscriber, acks.encode(kind, known, 0, len(known)))
            for packet_id in unknown:
                reason = Fault.PACKET_IDENTIFIER_NOT_FOUND.mqtt5
                if subscriber.session.version != MQTT_5_0:
                    reason = 0
                subscriber.peer.send(Ack(PacketType(kind), packet_id, reason))

        self._write(subscriber, send)

    def _queue(self, subscriber: Subscriber, data: bytes | bytearray) -> None:
        if subscriber.peer is not None and data:
            self._broker.packets_out += len(data) // 4
            subscriber.sink.append(data)
            subscriber.peer.sink_ready()

    # -- sending -----------------------------------------------------------------------------------

    def pump(self, subscriber: Subscriber) -> None:
        """Send what the client's window allows; new QoS 2 messages after their ids are
        committed."""
        session = subscriber.session
        if session.window.overflowed and subscriber.serving:
            self._overflowed(subscriber)
            return
        room_bytes = subscriber.limit - len(subscriber.sink.data)
        if not subscriber.serving or room_bytes <= 0:
            return
        deliveries = session.pump(room_bytes)
        if subscriber.sink.kept:
            subscriber.caught_up()
        if not deliveries:
            return
        peer = subscriber.peer
        assigned = session.durable and any(one.qos == 2 and not one.dup for one in deliveries)
        cut = session.window.cut
        if not assigned and not subscriber.unsent:
            self._send(subscriber, peer, deliveries)
            self._write(subscriber)
            if cut:
                self._broker.to_pump(subscriber)
            return
        # What comes behind a QoS 2 message that waits for its commit waits too: order is kept.
        finished = session.take_finished()
        subscriber.unsent += 1

        def send() -> None:
            subscriber.unsent -= 1
            self._send(subscriber, peer, deliveries)
            for reference in finished:
                self._broker.inbox.drop(reference)
            if cut:
                self._broker.to_pump(subscriber)

        self._append(subscriber, session.drain_records(), send)

    def _overflowed(self, subscriber: Subscriber) -> None:
        """No room in the queue of a client that is connected, and it is to hear so."""
        subscriber.session.window.overflowed = False
        assert subscriber.peer is not None, "it is served"
        self._broker.count("mqtt_queue_full_disconnects", 1)
        subscriber.peer.end(Fault.QUOTA_EXCEEDED)

    def keep(self, subscriber: Subscriber) -> None:
        """Append what has changed in a session that is away (messages that found no room)."""
        self._write(subscriber)

    def _send(self, subscriber: Subscriber, peer: object, deliveries: list[Outgoing]) -> None:
        if subscriber.peer is not peer or peer is None:
            return
        if self._broker.delivery.send(subscriber, deliveries):
            # Places in the window are free again.
            self._write(subscriber)
            self._broker.to_pump(subscriber)

    def _drop_finished(self, subscriber: Subscriber) -> None:
        for reference in subscriber.session.take_finished():
            self._broker.inbox.drop(reference)

    # -- the durable form --------------------------------------------------------------------------

    def _write(self, subscriber: Subscriber, then: Callable[[], None] | None = None) -> None:
        """Append the session's new records; `then` runs when they, and all that was appended for it
        before, are committed: at once when there is nothing to wait for. Never does one overtake
        another of the same session [MQTT-4.6.0-5]."""
        self._drop_finished(subscriber)
        records = subscriber.session.drain_records()
        if records:
            self._append(subscriber, records, then)
        elif then is not None:
            # What is said again (a second PUBREC) is answered no sooner than what it repeats.
            store = self._broker.stores[subscriber.shard]
            if subscriber.waiting or (subscriber.session.durable and store.uncommitted_bytes):
                self._append(subscriber, [], then)
            else:
                then()

    def _append(
        self,
        subscriber: Subscriber,
        records: Sequence[Record],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Append records, which may be none; `then` runs after the commit of all up to here."""
        if records and self._roster.get(subscriber.client_id) is subscriber:
            self._append_rows(subscriber, [encode_record(record) for record in records])
        if then is not None:
            subscriber.waiting += 1
            then = partial(self._committed, subscriber, then)
        self._broker.commits.mark(subscriber.shard, False, then)
        self._broker.turn()

    @staticmethod
    def _committed(subscriber: Subscriber, then: Callable[[], None]) -> None:
        subscriber.waiting -= 1
        then()

    def _append_rows(self, subscriber: Subscriber, rows: list[bytes]) -> None:
        """Append to the session's log; no rows at all: the session has ended."""
        broker = self._broker
        payload = encode_machine_entry(SESSION_KIND, subscriber.client_id, rows)
        broker.stores[subscriber.shard].append(MACHINE, payload, 0, 0, broker.wall_ms())

    async def write(self, subscriber: Subscriber, wait: bool) -> None:
        """Append the session's new records and wait for their commit."""
        written: Promise[None] = Promise()
        self._write(subscriber, lambda: written.resolve(None))
        if wait:
            await written

    def replay(self, client_id: bytes, records: Iterable[bytes]) -> None:
        """Recovery: records of the log or of a snapshot; none at all: the session has ended."""
        rows = list(records)
        if not rows:
            self._roster.remove(client_id)
            return
        subscriber = self._roster.get(client_id)
        if subscriber is None:
            session = Session(client_id, self._broker.capabilities)
            subscriber = self._adopt(client_id, session, None)
        for row in rows:
            subscriber.session.replay(decode_record(row))

    def withdrawn(self, client_id: bytes, references: tuple[int, ...] | None) -> None:
        """Recovery: these messages went to others; None: the session has ended."""
        subscriber = self._roster.get(client_id)
        if references is None:
            self._roster.remove(client_id)
        elif subscriber is not None:
            subscriber.session.forget(references)

    def resume_all(self) -> None:
        """Recovery is over: connections that the crash cut end now, subscriptions count again. What
        has a will to publish is settled later: see `settle_cut`."""
        now = self._broker.wall_ms()
        self._cut = []
        for subscriber in self._roster.all():
            session = subscriber.session
            session.recover(now)
            subscriber.sink.version = session.version
            subscriber.disconnect()
            self._subscribing.restore(subscriber)
            if session.will_due_at_ms is not None and session.will_due_at_ms <= now:
                self._cut.append(subscriber)
            else:
                self._settle(subscriber, None, session.ended(now))

    def settle_cut(self) -> None:
        """Publish the wills that were due at the recovery, once: now that the other workers have
        said what their clients want, or that nobody waits for them any longer."""
        if self._cut is None:
            return
        cut, self._cut = self._cut, None
        for client_id, will in self.wills.cut():
            self.publish_will(client_id, will)
            self.wills.over(client_id)
        now = self._broker.wall_ms()
        for subscriber in cut:
            self._settle(subscriber, *subscriber.session.advance(now))

    def everyone(self) -> list[Subscriber]:
        """The subscribers of now."""
        return self._roster.all()
