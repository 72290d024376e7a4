"""The outbound window of one session: what is queued, what is in flight, what waits for PUBCOMP.

Messages are references (opaque integers of the caller). A reference is finished when its content is
no longer needed: at PUBACK (QoS 1), at PUBREC (QoS 2), when sent (QoS 0), or when it is dropped.

- Packet identifiers are allocated in order, skip those in use and wrap from 65,535 to 1
  [MQTT-2.2.1-3].
- At most `receive_maximum` messages wait for the client [MQTT-3.3.4-9]; PUBACK, PUBCOMP, and a
  PUBREC with an error free a place (section 4.9). A message of an earlier connection takes a place
  again when it is resent; one that waits for PUBCOMP keeps its own.
- `resume` and the `pump` calls after it resend in the order of [MQTT-4.4.0-1] and [MQTT-4.6.0-1 to
  -4]: PUBREL in the order of the PUBRECs, PUBLISH with DUP in the order first sent, and only then
  new messages.
- The queue is bounded. At the bound what has expired goes first, looked for once a second at most;
  then the oldest or the newest is dropped, or the newest and with it the connection, as set.
- An acknowledgement of an unknown identifier is ignored (PUBACK, PUBCOMP: a session that lost its
  QoS 1 identifiers in a crash may see late ones) or answered with 0x92 (PUBREC); one of the wrong
  kind is a protocol error.

One struct a message lives from `offer` to the acknowledgement; a run of acks costs one dict
operation each.
"""

from __future__ import annotations

import enum
import itertools
from array import array
from collections import Counter, deque
from collections.abc import Container, Iterable

import msgspec

from robustmq.mqtt.wire import protocol_error

MAXIMUM_PACKET_ID = 65_535
LOOK_AGAIN_MS = 1000


class DropPolicy(enum.Enum):
    """What goes when the queue is full."""

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    DISCONNECT = "disconnect"


class Delivery(msgspec.Struct, gc=False):
    """A message on its way to the client; owned by the window, read by who encodes it.

    `packet_id` is 0 while queued and for QoS 0.
    """

    reference: int
    qos: int
    flags: int = 0
    subscription_ids: tuple[int, ...] = ()
    packet_id: int = 0
    dup: bool = False
    size: int = 0
    expires_at_ms: int = 0


_NOTHING: deque[Delivery] = deque()
"""The queue of those who have none yet: a deque takes 600 bytes, and most clients are idle."""


class Window:
    """Queue and flight of one session."""

    __slots__ = (
        "_flight",
        "_last_packet_id",
        "_looked_ms",
        "_next_expiry_ms",
        "_queue",
        "_released",
        "_resend",
        "cut",
        "maximum_queued",
        "maximum_queued_bytes",
        "overflowed",
        "policy",
        "queued_bytes",
        "queued_qos0",
        "receive_maximum",
    )

    def __init__(
        self,
        receive_maximum: int,
        maximum_queued: int,
        policy: DropPolicy = DropPolicy.DROP_OLDEST,
        maximum_queued_bytes: int = 1 << 62,
    ) -> None:
        assert maximum_queued > 0, "a queue holds at least one message"
        self.receive_maximum = receive_maximum
        self.maximum_queued = maximum_queued
        self.maximum_queued_bytes = maximum_queued_bytes
        self.queued_bytes = 0
        self.cut = False
        """Did the last `pump` end for want of bytes?"""
        self.queued_qos0 = 0
        self.policy = policy
        self.overflowed = False
        """With policy DISCONNECT: there was no room, so the connection is to end."""
        self._next_expiry_ms = 0
        self._looked_ms = 0
        self._queue = _NOTHING
        self._flight: dict[int, Delivery] = {}
        self._released: dict[int, None] = {}
        self._resend: list[int] = []
        self._last_packet_id = 0

    @property
    def queued(self) -> int:
        """Messages that were not sent yet."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Messages that wait for the client, those to be resent included."""
        return len(self._flight) + len(self._released)

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
        """Queue a message of `size` bytes; the references that were dropped for it (maybe itself).
        `expires_at_ms` 0: never."""
        dropped: list[int] = []
        if self._is_full(size) and self._may_have_expired(now_ms):
            self._drop_expired(now_ms, dropped)
        while self._is_full(size):
            if self.policy is not DropPolicy.DROP_OLDEST:
                self.overflowed = self.policy is DropPolicy.DISCONNECT
                dropped.append(reference)
                return dropped
            dropped.append(self._take_first().reference)
        self.restore(
            Delivery(
                reference, qos, flags, subscription_ids, size=size, expires_at_ms=expires_at_ms
            )
        )
        return dropped

    def _is_full(self, size: int) -> bool:
        """Is there no room for a message of this size? An empty queue takes any."""
        queued = len(self._queue)
        return queued > 0 and (
            queued >= self.maximum_queued or self.queued_bytes + size > self.maximum_queued_bytes
        )

    def _take_first(self) -> Delivery:
        first = self._queue.popleft()
        self.queued_bytes -= first.size
        self.queued_qos0 -= not first.qos
        return first

    def _may_have_expired(self, now_ms: int) -> bool:
        """Has something, and was that not looked for in this second?"""
        return 0 < self._next_expiry_ms <= now_ms and now_ms - self._looked_ms >= LOOK_AGAIN_MS

    def _drop_expired(self, now_ms: int, dropped: list[int]) -> None:
        """Drop what has expired."""
        self._looked_ms = now_ms
        self._next_expiry_ms = 0
        for _ in range(len(self._queue)):
            delivery = self._take_first()
            if 0 < delivery.expires_at_ms <= now_ms:
                dropped.append(delivery.reference)
            else:
                self.restore(delivery)

    def restore(self, delivery: Delivery) -> None:
        """Queue a message whatever the bound; at recovery it was applied when it was offered."""
        if self._queue is _NOTHING:
            self._queue = deque()
        self._queue.append(delivery)
        self.queued_bytes += delivery.size
        self.queued_qos0 += not delivery.qos
        expires_at_ms = delivery.expires_at_ms
        if expires_at_ms:
            self._next_expiry_ms = min(self._next_expiry_ms or expires_at_ms, expires_at_ms)

    def pump(self, room_bytes: int = 1 << 62) -> list[Delivery]:
        """What can be sent now, with packet identifiers; resent messages first, with DUP. The last
        one may go beyond `room_bytes`."""
        deliveries: list[Delivery] = []
        flight = self._flight
        room = self.receive_maximum - len(flight) - len(self._released)
        room += sum(packet_id in flight for packet_id in self._resend)
        while self._resend and room > 0 and room_bytes > 0:
            again = flight.get(self._resend.pop())
            if again is not None:
                again.dup = True
                deliveries.append(again)
                room -= 1
                room_bytes -= again.size
        self.cut = room_bytes <= 0
        if self._resend:
            return deliveries
        queue = self._queue
        while queue and room_bytes > 0:
            delivery = queue[0]
            if delivery.qos:
                if room <= 0:
                    break
                room -= 1
                delivery.packet_id = packet_id = self._allocate()
                flight[packet_id] = delivery
            room_bytes -= delivery.size
            deliveries.append(self._take_first())
        self.cut = room_bytes <= 0
        return deliveries

    def _allocate(self) -> int:
        assert self.in_flight < MAXIMUM_PACKET_ID, "the window is smaller than the identifiers"
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id + 1 if packet_id < MAXIMUM_PACKET_ID else 1
            if packet_id not in self._flight and packet_id not in self._released:
                self._last_packet_id = packet_id
                return packet_id

    def assign(self, packet_id: int, reference: int) -> None:
        """At recovery: a queued QoS 2 message had been given this identifier."""
        for index, delivery in enumerate(self._queue):
            if delivery.reference == reference and delivery.qos == 2:
                del self._queue[index]
                self.queued_bytes -= delivery.size
                delivery.packet_id = packet_id
                self._flight[packet_id] = delivery
                self._last_packet_id = packet_id
                return

    def resume(self) -> list[int]:
        """A new connection: the PUBRELs to send at once; `pump` then resends the PUBLISHes."""
        self._resend = list(reversed(self._flight))
        return list(self._released)

    def acknowledge(self, packet_ids: Iterable[int], finished: list[int]) -> None:
        """PUBACKs. Finished references are appended, also when one of the acks raises."""
        flight = self._flight
        for packet_id in packet_ids:
            delivery = flight.get(packet_id)
            if delivery is not None:
                if delivery.qos != 1:
                    raise protocol_error("PUBACK of a QoS 2 message")
                del flight[packet_id]
                finished.append(delivery.reference)

    def receive(
        self, packet_ids: Iterable[int], done: list[int], finished: list[int]
    ) -> array[int]:
        """PUBRECs without an error; the unknown identifiers, whose PUBREL says 0x92.

        Identifiers that now wait for PUBCOMP are appended to `done`, their references to
        `finished`.
        """
        flight, released = self._flight, self._released
        unknown: array[int] = array("H")
        for packet_id in packet_ids:
            delivery = flight.get(packet_id)
            if delivery is None:
                if packet_id not in released:
                    unknown.append(packet_id)
            elif delivery.qos != 2:
                raise protocol_error("PUBREC of a QoS 1 message")
            else:
                del flight[packet_id]
                released[packet_id] = None
                done.append(packet_id)
                finished.append(delivery.reference)
        return unknown

    def complete(self, packet_ids: Iterable[int], done: list[int]) -> None:
        """PUBCOMPs. Identifiers that are free again are appended to `done`."""
        for packet_id in packet_ids:
            if packet_id in self._released:
                del self._released[packet_id]
                done.append(packet_id)
            elif packet_id in self._flight:
                raise protocol_error("PUBCOMP before PUBREC")

    def suspect(self) -> None:
        """At recovery, where a connection ended: what may have been sent as QoS 1 on it gets DUP
        [MQTT-3.3.1-1]."""
        room = self.receive_maximum - len(self._flight) - len(self._released)
        for delivery in itertools.islice(self._queue, max(0, room)):
            delivery.dup = delivery.dup or delivery.qos == 1

    def restore_released(self, packet_id: int) -> None:
        """At recovery: this identifier waits for PUBCOMP."""
        self._flight.pop(packet_id, None)
        self._released[packet_id] = None
        self._last_packet_id = packet_id

    def discard(self, packet_id: int) -> int | None:
        """Give up a message in flight (refused, expired, too large): its reference."""
        delivery = self._flight.pop(packet_id, None)
        return None if delivery is None else delivery.reference

    def qos_of(self, packet_id: int) -> int:
        """QoS of the message in flight under an identifier, 0 when there is none."""
        delivery = self._flight.get(packet_id)
        return 0 if delivery is None else delivery.qos

    def forget(self, references: Iterable[int]) -> None:
        """At recovery: these references, one copy of each, are finished."""
        wanted = Counter(references)
        kept: list[Delivery] = []
        while wanted and self._queue:
            delivery = self._take_first()
            if not _count_down(wanted, delivery.reference):
                kept.append(delivery)
        for delivery in kept:
            self.queued_bytes += delivery.size
            self.queued_qos0 += not delivery.qos
        self._queue.extendleft(reversed(kept))
        if wanted:
            for packet_id, delivery in list(self._flight.items()):
                if _count_down(wanted, delivery.reference):
                    del self._flight[packet_id]

    def assigned(self) -> list[Delivery]:
        """QoS 2 messages in flight, in the order first sent."""
        return [delivery for delivery in self._flight.values() if delivery.qos == 2]

    def pending(self) -> tuple[list[Delivery], list[Delivery]]:
        """What is sent as new after a crash: up to the last that the client may have seen before
        (QoS 1 in flight, or so at an earlier crash), and what it has not."""
        queue = list(self._queue)
        seen = max((at for at, one in enumerate(queue, 1) if one.dup), default=0)
        flight = [delivery for delivery in self._flight.values() if delivery.qos == 1]
        return flight + queue[:seen], queue[seen:]

    def released(self) -> list[int]:
        """Identifiers that wait for PUBCOMP, in the order of the PUBRECs."""
        return list(self._released)

    def withdraw(self, flags: Container[int], mask: int) -> list[Delivery]:
        """Take from the queue what has these flags under a mask, and was never sent."""
        taken = [one for one in self._queue if one.flags & mask in flags]
        if taken:
            self._queue = deque(one for one in self._queue if one.flags & mask not in flags)
            self.queued_bytes -= sum(one.size for one in taken)
        return taken

    def references(self) -> list[int]:
        """Every reference that is not finished."""
        return [delivery.reference for delivery in (*self._flight.values(), *self._queue)]


def _count_down(wanted: Counter[int], reference: int) -> bool:
    count = wanted.get(reference, 0)
    if count > 1:
        wanted[reference] = count - 1
    elif count:
        del wanted[reference]
    return count > 0
