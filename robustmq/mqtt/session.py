"""The durable machine of one client identifier (MQTT 5.0 section 4.1, 3.1.2.4 and 3.1.2.11.2).

It holds the subscriptions, the QoS 2 identifiers received and not released, the outbound window,
the will, and when all of it ends. It is pure: wall-clock milliseconds are passed in, and messages
are opaque references.

- Changes that must outlive the process gather as records; `drain_records` takes them. They are made
  only while the session is durable: from the first connection with an expiry above 0 to its end.
- What the records promise must be committed before the peer is told: `Assigned` before a QoS 2
  PUBLISH goes out, `InboundReceived` before PUBREC, `Released` before PUBREL, `Subscribed` before
  SUBACK.
- Recovery: `replay` every record in log order, `restore_offer` every message of the inbox log in
  between, then `recover`. That gives the live state, but QoS 1 messages in flight are queued again
  and lose their identifiers; what may have been one of them keeps DUP.
- A session ends (`ended`) when its expiry has passed with no connection; the caller then removes
  it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterable
from typing import Any, Final

from robustmq.mqtt import will as wills
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.inflight import Delivery, Window
from robustmq.mqtt.packets import MQTT_5_0, Ack, PacketType, Will
from robustmq.mqtt.session_records import (
    Assigned,
    Closed,
    Completed,
    Finished,
    Generations,
    InboundReceived,
    InboundReleased,
    Opened,
    Queued,
    Record,
    Released,
    Subscribed,
    Unsubscribed,
    WillSent,
)
from robustmq.mqtt.subscriptions import Subscription
from robustmq.mqtt.wire import protocol_error

PACKET_IDENTIFIER_NOT_FOUND: Final = 0x92
FIRST_ERROR: Final = 0x80


class Session:
    """The state of one client identifier, connected or not."""

    __slots__ = (
        "_finished",
        "_first_generation",
        "_records",
        "_releases",
        "client_id",
        "connected",
        "disconnected_at_ms",
        "durable",
        "inbound_qos2",
        "mount",
        "session_expiry_interval",
        "subscriptions",
        "version",
        "will",
        "will_due_at_ms",
        "window",
    )

    def __init__(self, client_id: bytes, capabilities: Capabilities) -> None:
        self.client_id = client_id
        self.version = MQTT_5_0
        self.mount = b""
        self.connected = False
        self.session_expiry_interval = 0
        self.disconnected_at_ms: int | None = None
        self.durable = False
        self.subscriptions: dict[bytes, Subscription] = {}
        self.inbound_qos2: set[int] = set()
        self.will: Will | None = None
        self.will_due_at_ms: int | None = None
        self.window = Window(
            capabilities.maximum_in_flight,
            capabilities.maximum_queued_messages,
            capabilities.drop_policy,
            capabilities.maximum_queued_bytes,
        )
        self._records: list[Record] = []
        self._first_generation = 0
        self._releases = bytearray()
        self._finished: list[int] = []

    def bound(self, capabilities: Capabilities) -> None:
        """Other bounds of the queue from now on; what waits stays."""
        self.window.maximum_queued = capabilities.maximum_queued_messages
        self.window.maximum_queued_bytes = capabilities.maximum_queued_bytes
        self.window.policy = capabilities.drop_policy

    @property
    def receive_maximum(self) -> int:
        """How many messages may wait for the client."""
        return self.window.receive_maximum

    # Life of the session

    def open(
        self,
        version: int,
        session_expiry_interval: int,
        receive_maximum: int,
        will: Will | None = None,
        mount: bytes = b"",
    ) -> None:
        """A connection begins; whatever will was waiting is cancelled [MQTT-3.1.3-9]."""
        assert not self.connected, "the old connection is closed before the new one opens"
        self.durable = self.durable or session_expiry_interval > 0
        self._apply(Opened(version, session_expiry_interval, receive_maximum, will, mount))

    def keep(self) -> None:
        """From now on the session stands in its log, although it ends with its connection: so that
        its messages are found when the process dies."""
        if not self.durable:
            self._records.append(
                Opened(self.version, self.session_expiry_interval, self.receive_maximum, self.will)
            )
            self._records += [Subscribed(one) for one in self.subscriptions.values()]
            if self._first_generation or self._releases:
                self._records.append(Generations(self._first_generation, bytes(self._releases)))
            if self.inbound_qos2:
                self._records.append(InboundReceived(tuple(sorted(self.inbound_qos2))))
            self.durable = True

    def close(
        self,
        now_ms: int,
        *,
        will_dropped: bool = False,
        session_expiry_interval: int | None = None,
    ) -> None:
        """The connection ended; `advance` says at once what is already due."""
        if self.connected:
            interval = self.session_expiry_interval
            if session_expiry_interval is not None:
                interval = session_expiry_interval
            self._apply(Closed(now_ms, interval, will_dropped))

    def recover(self, now_ms: int) -> None:
        """After the replay: a connection that the crash cut ends now."""
        if self.connected:
            self.window.suspect()
        self.close(now_ms)

    @property
    def expires_at_ms(self) -> int | None:
        """When the session ends if no connection comes; None: never, or connected."""
        if self.connected or self.disconnected_at_ms is None:
            return None
        return wills.expires_at_ms(self.session_expiry_interval, self.disconnected_at_ms)

    def ended(self, now_ms: int) -> bool:
        """True when the session has expired."""
        expires = self.expires_at_ms
        return expires is not None and expires <= now_ms

    @property
    def next_deadline_ms(self) -> int | None:
        """When `advance` has something to do."""
        deadlines = [at for at in (self.will_due_at_ms, self.expires_at_ms) if at is not None]
        return min(deadlines, default=None)

    def advance(self, now_ms: int) -> tuple[Will | None, bool]:
        """The will that is to be published now, and whether the session has ended."""
        will = None
        if self.will_due_at_ms is not None and self.will_due_at_ms <= now_ms:
            will = self.take_will()
        return will, self.ended(now_ms)

    def take_will(self) -> Will | None:
        """The waiting will, which counts as published: its session ends, or its time has come."""
        will = self.will
        if will is not None:
            self._apply(WillSent())
        return will

    # Subscriptions

    def subscribe(self, subscription: Subscription) -> bool:
        """Make or replace a subscription [MQTT-3.8.4-3]; True when it is new."""
        is_new = subscription.filter not in self.subscriptions
        self._apply(Subscribed(subscription))
        return is_new

    def unsubscribe(self, topic_filter: bytes) -> bool:
        """Remove a subscription; False when there was none."""
        existed = topic_filter in self.subscriptions
        if existed:
            self._apply(Unsubscribed(topic_filter))
        return existed

    # Inbound QoS 2 (section 4.3.3, method B: the message is passed on at PUBLISH)

    def begin_generations(self, first: int) -> None:
        """The session is new: what an earlier one of this client sent is not to be taken for its
        messages, so it begins at another generation."""
        self._apply(Generations(first & 0xFF, b""))

    def generation(self, packet_id: int) -> int:
        """Which use of an inbound identifier this is (a byte): another one after each release, so
        that a message sent again is told from an older one that had the same identifier."""
        released = self._releases[packet_id] if packet_id < len(self._releases) else 0
        return (self._first_generation + released) & 0xFF

    def on_publish(self, packet_id: int) -> bool:
        """A QoS 2 PUBLISH came; True when it is new, False when it is only to be answered again."""
        if packet_id in self.inbound_qos2:
            return False
        self._apply(InboundReceived((packet_id,)))
        return True

    def on_pubrels(self, packet_ids: Iterable[int]) -> array[int]:
        """PUBRELs came; the unknown ones, whose PUBCOMP says 0x92."""
        unknown: array[int] = array("H")
        known: list[int] = []
        for packet_id in packet_ids:
            if packet_id in self.inbound_qos2:
                self.inbound_qos2.discard(packet_id)
                self._count_release(packet_id)
                known.append(packet_id)
            else:
                unknown.append(packet_id)
        if known:
            self._record(InboundReleased(tuple(known)))
        return unknown

    def _count_release(self, packet_id: int) -> None:
        releases = self._releases
        if packet_id >= len(releases):
            releases.extend(bytes(packet_id + 1 - len(releases)))
        releases[packet_id] = (releases[packet_id] + 1) & 0xFF

    def on_pubrel(self, packet_id: int) -> Ack:
        """One PUBREL came; the PUBCOMP."""
        unknown = self.on_pubrels((packet_id,))
        return Ack(PacketType.PUBCOMP, packet_id, PACKET_IDENTIFIER_NOT_FOUND if unknown else 0)

    # Outbound

    def offer(
        self,
        reference: int,
        qos: int,
        flags: int = 0,
        subscription_ids: tuple[int, ...] = (),
        size: int = 0,
        expires_at_ms: int = 0,
        now_ms: int = 0,
    ) -> list[int]:
        """Queue a message of `size` bytes; the references that were dropped for it (maybe
        itself)."""
        dropped = self.window.offer(
            reference, qos, flags, subscription_ids, size, expires_at_ms, now_ms
        )
        if dropped:
            self._finish(dropped)
        return dropped

    def restore_offer(
        self,
        reference: int,
        qos: int,
        flags: int = 0,
        subscription_ids: tuple[int, ...] = (),
        size: int = 0,
        expires_at_ms: int = 0,
    ) -> None:
        """Queue a message again at recovery; what was dropped then is dropped by a record."""
        self.window.restore(
            Delivery(
                reference, qos, flags, subscription_ids, size=size, expires_at_ms=expires_at_ms
            )
        )

    def pump(self, room_bytes: int = 1 << 62) -> list[Delivery]:
        """What is to be sent now, about `room_bytes` at most. QoS 0 is finished by it; see
        `take_finished`. Nothing is resent by time [MQTT-4.4.0-1]."""
        deliveries = self.window.pump(room_bytes)
        if self.durable:
            for delivery in deliveries:
                if delivery.qos == 2 and not delivery.dup:
                    self._records.append(Assigned(delivery.packet_id, delivery.reference))
        unacknowledged = [delivery.reference for delivery in deliveries if not delivery.qos]
        if unacknowledged:
            self._finish(unacknowledged)
        return deliveries

    def resume(self) -> array[int]:
        """After `open` of a resumed session: send these PUBRELs, then what `pump` gives."""
        return array("H", self.window.resume())

    def on_pubacks(self, packet_ids: Iterable[int]) -> list[int]:
        """PUBACKs came; the finished references."""
        finished: list[int] = []
        try:
            self.window.acknowledge(packet_ids, finished)
        finally:
            if finished:
                self._finish(finished)
        return finished

    def on_puback(self, packet_id: int, reason_code: int = 0) -> list[int]:
        """One PUBACK came; an error finishes the message just as well [MQTT-4.4.0-2]."""
        del reason_code
        return self.on_pubacks((packet_id,))

    def on_pubrecs(self, packet_ids: Iterable[int]) -> tuple[list[int], array[int]]:
        """PUBRECs without an error; the finished references, and those whose PUBREL says 0x92."""
        done: list[int] = []
        finished: list[int] = []
        try:
            unknown = self.window.receive(packet_ids, done, finished)
        finally:
            if done:
                self._finished += finished
                self._record(Released(tuple(done)))
        return finished, unknown

    def on_pubrec(self, packet_id: int, reason_code: int = 0) -> tuple[Ack | None, list[int]]:
        """One PUBREC came; the PUBREL (none after an error) and the finished references."""
        if reason_code < FIRST_ERROR:
            finished, unknown = self.on_pubrecs((packet_id,))
            reason = PACKET_IDENTIFIER_NOT_FOUND if unknown else 0
            return Ack(PacketType.PUBREL, packet_id, reason), finished
        if self.window.qos_of(packet_id) == 1:
            raise protocol_error("PUBREC of a QoS 1 message")
        return None, self.discard((packet_id,))

    def on_pubcomps(self, packet_ids: Iterable[int]) -> None:
        """PUBCOMPs came, with or without an error."""
        done: list[int] = []
        try:
            self.window.complete(packet_ids, done)
        finally:
            if done:
                self._record(Completed(tuple(done)))

    def on_pubcomp(self, packet_id: int) -> None:
        """One PUBCOMP came."""
        self.on_pubcomps((packet_id,))

    def discard(self, packet_ids: Iterable[int]) -> list[int]:
        """Give up messages in flight that cannot be sent (expired, too large); their references."""
        discarded = [self.window.discard(packet_id) for packet_id in packet_ids]
        finished = [reference for reference in discarded if reference is not None]
        if finished:
            self._finish(finished)
        return finished

    def withdraw(self, flags: Container[int], mask: int) -> list[Delivery]:
        """Take back what waits with these flags and was never sent; the caller records it."""
        return self.window.withdraw(flags, mask)

    def forget(self, references: Iterable[int]) -> None:
        """At recovery: these were withdrawn."""
        self.window.forget(references)

    def take_finished(self) -> list[int]:
        """All references finished since the last call, dropped ones included."""
        finished, self._finished = self._finished, []
        return finished

    def references(self) -> list[int]:
        """Every reference not finished; all are free when the session ends."""
        return self.window.references()

    # Durable form

    def drain_records(self) -> list[Record]:
        """The records since the last call, to be appended in this order."""
        records, self._records = self._records, []
        return records

    def snapshot(self) -> list[Record]:
        """Records that give an empty session the durable state of this one."""
        if not self.durable:
            return []
        interval = self.session_expiry_interval
        records: list[Record] = [
            Opened(self.version, interval, self.receive_maximum, self.will, self.mount)
        ]
        records += [Subscribed(subscription) for subscription in self.subscriptions.values()]
        if self._first_generation or self._releases:
            records.append(Generations(self._first_generation, bytes(self._releases)))
        if self.inbound_qos2:
            records.append(InboundReceived(tuple(sorted(self.inbound_qos2))))
        assigned = self.window.assigned()
        seen, unseen = self.window.pending()
        records += map(_queued, (*assigned, *seen))
        records += [Assigned(one.packet_id, one.reference) for one in assigned]
        if released := self.window.released():
            records.append(Released(tuple(released)))
        if self.disconnected_at_ms is not None:
            records.append(Closed(self.disconnected_at_ms, interval, self.will is None))
        records += map(_queued, unseen)
        return records

    @classmethod
    def restore(
        cls, client_id: bytes, capabilities: Capabilities, records: Iterable[Record]
    ) -> Session:
        """A session of a snapshot; replay what came after it, then `recover`."""
        session = cls(client_id, capabilities)
        for record in records:
            session.replay(record)
        return session

    def replay(self, record: Record) -> None:
        """Apply a record of a snapshot or of the log: that the session stands in it, it keeps."""
        self.durable = True
        if isinstance(record, Closed):
            # What is queued behind it was never sent: no DUP, and it may expire.
            self.window.suspect()
        _REPLAY[type(record)](self, record)

    def _apply(self, record: Record) -> None:
        _REPLAY[type(record)](self, record)
        self._record(record)

    def _record(self, record: Record) -> None:
        if self.durable:
            self._records.append(record)

    def _finish(self, references: Iterable[int]) -> None:
        finished = tuple(references)
        self._finished += finished
        self._record(Finished(finished))

    def _replay_opened(self, record: Opened) -> None:
        self.version = record.version
        self.mount = record.mount
        self.session_expiry_interval = record.session_expiry_interval
        self.window.receive_maximum = record.receive_maximum
        self.window.overflowed = False
        self.will = record.will
        self.will_due_at_ms = None
        self.connected = True
        self.disconnected_at_ms = None

    def _replay_closed(self, record: Closed) -> None:
        self.connected = False
        self.disconnected_at_ms = record.at_ms
        self.session_expiry_interval = record.session_expiry_interval
        if record.will_dropped:
            self.will = None
        if self.will is not None:
            self.will_due_at_ms = wills.due_at_ms(
                self.will, record.session_expiry_interval, record.at_ms
            )

    def _replay_will_sent(self, _record: WillSent) -> None:
        self.will = None
        self.will_due_at_ms = None

    def _replay_subscribed(self, record: Subscribed) -> None:
        self.subscriptions[record.subscription.filter] = record.subscription

    def _replay_unsubscribed(self, record: Unsubscribed) -> None:
        self.subscriptions.pop(record.filter, None)

    def _replay_finished(self, record: Finished) -> None:
        self.window.forget(record.references)

    def _replay_assigned(self, record: Assigned) -> None:
        self.window.assign(record.packet_id, record.reference)

    def _replay_released(self, record: Released) -> None:
        for packet_id in record.packet_ids:
            self.window.restore_released(packet_id)

    def _replay_completed(self, record: Completed) -> None:
        self.window.complete(record.packet_ids, [])

    def _replay_inbound_received(self, record: InboundReceived) -> None:
        self.inbound_qos2.update(record.packet_ids)

    def _replay_inbound_released(self, record: InboundReleased) -> None:
        self.inbound_qos2.difference_update(record.packet_ids)
        for packet_id in record.packet_ids:
            self._count_release(packet_id)

    def _replay_generations(self, record: Generations) -> None:
        self._first_generation = record.first
        self._releases = bytearray(record.releases)

    def _replay_queued(self, record: Queued) -> None:
        self.restore_offer(
            record.reference,
            record.qos,
            record.flags,
            record.subscription_ids,
            record.size,
            record.expires_at_ms,
        )


def _queued(one: Delivery) -> Queued:
    ids = one.subscription_ids
    return Queued(one.reference, one.qos, one.flags, ids, one.size, one.expires_at_ms)


_REPLAY: Final[dict[type, Callable[[Session, Any], None]]] = {
    Opened: Session._replay_opened,
    Closed: Session._replay_closed,
    WillSent: Session._replay_will_sent,
    Subscribed: Session._replay_subscribed,
    Unsubscribed: Session._replay_unsubscribed,
    Finished: Session._replay_finished,
    Assigned: Session._replay_assigned,
    Released: Session._replay_released,
    Completed: Session._replay_completed,
    InboundReceived: Session._replay_inbound_received,
    InboundReleased: Session._replay_inbound_released,
    Queued: Session._replay_queued,
    Generations: Session._replay_generations,
}
