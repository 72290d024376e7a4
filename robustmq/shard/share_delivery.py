"""From an owner's word to the members of share groups on this worker, and back.

`take` hands out what owners have given to the homes here (`shares` picks the members). What came by
a log position is taken once: the home's cursor says whether it has it. If the group has a
persistent member, a member whose session ends with its connection has its messages in the log too:
so when this worker dies, recovery finds them and gives them to others. What nobody here can take,
and what a member leaves behind (`left_behind`), goes back to its owner.

Owners hear at once when no member of a home has room, and with every tick while that lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from robustmq.core import batches, blocks, fanout
from robustmq.core.audience import Variant
from robustmq.mqtt.inflight import Delivery as Outgoing
from robustmq.shard import wire
from robustmq.shard.delivery import Pending, wanted_of
from robustmq.shard.inbox import InboxEntry, Located, encode_inbox
from robustmq.shard.interest import is_wildcard
from robustmq.shard.placement import ENTRY_ACK, ENTRY_KAFKA
from robustmq.shard.share_homes import READY
from robustmq.shard.shares import RETAIN_FLAG, HomeGroup, Member
from robustmq.shard.strategies import Dice
from robustmq.shard.subscriber import Subscriber
from robustmq.storage.shard_store import INBOX

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

Key = tuple[bytes, bytes, int]


class _Taking:
    """One entry that is being handed out. `records` are the levels of its records, empty when none
    is above QoS 0."""

    __slots__ = ("at_once", "count", "entry", "flags", "known", "pending", "records", "view")

    def __init__(
        self,
        entry: bytes,
        view: blocks.EntryView,
        pending: dict[int, Pending],
        flags: int,
        known: bool,
    ) -> None:
        """`known`: it came by a log position."""
        self.entry = entry
        self.view = view
        self.pending = pending
        self.flags = flags
        self.known = known
        above = view.flags & (ENTRY_ACK | ENTRY_KAFKA)
        self.records = fanout.record_levels(entry, 0) if above else []
        self.count = batches.record_count(entry, view.batch_begin)
        self.at_once: dict[tuple[bytes, bytes], list[Variant | None]] = {}
        """By group: who gets each record with QoS 0."""

    def give(self, found: HomeGroup, member: Member, mine: Sequence[int]) -> None:
        """A member gets these records with QoS 0."""
        key = (found.group, found.filter)
        hands = self.at_once.get(key)
        if hands is None:
            hands = self.at_once[key] = [None] * self.count
        variant = member.variant
        if isinstance(mine, range):
            hands[mine.start : mine.stop : mine.step] = [variant] * len(mine)
        else:
            for index in mine:
                hands[index] = variant


class ShareDelivery:
    """The share groups' members on this worker."""

    def __init__(self, broker: Broker, dice: Dice, strategy: Callable[[bytes, bytes], str]) -> None:
        """`strategy` of (group, filter), by the settings."""
        self._broker = broker
        self._dice = dice
        self._strategy = strategy
        self._groups: dict[Key, HomeGroup] = {}
        self._watched: dict[Key, HomeGroup] = {}

    # -- members -----------------------------------------------------------------------------------

    def group(self, group: bytes, filter_: bytes, home: int) -> HomeGroup:
        """The members of one home, made when it is first asked for."""
        found = self._groups.get((group, filter_, home))
        if found is None:
            strategy = self._strategy(group, filter_)
            found = HomeGroup(group, filter_, home, strategy, self._dice)
            self._groups[group, filter_, home] = found
        return found

    def change(self, key: Key) -> wire.ShareChange:
        """What owners are to know of the members of one home; a group without any is dropped."""
        found = self.group(*key)
        found.changed()
        if not found.members:
            del self._groups[key]
            self._watched.pop(key, None)
        found.told = found.state()
        if found.told != READY:
            self._watched[key] = found
        return wire.ShareChange(*key, *found.counts(), found.told)

    def members(self) -> list[Key]:
        """(group, filter, home) of all that have members here."""
        return list(self._groups)

    def reload(self) -> None:
        """The settings may give groups other strategies."""
        for (group, filter_, _), found in self._groups.items():
            found.strategy = self._strategy(group, filter_)
            found.changed()

    # -- taking ------------------------------------------------------------------------------------

    def receive(
        self, payload: memoryview | bytes, confirm: Callable[[int], Callable[[], None]]
    ) -> None:
        """A SHARE frame of another worker; `confirm` of its ticket is done when it wants that."""
        shard, flags, _, position, ticket = wire.DELIVER_HEAD.unpack_from(payload)
        parts = wire.decode_parts(payload[wire.DELIVER_HEAD.size :])
        done = confirm(ticket) if flags & wire.WANTS_CONFIRM else None
        self.take(shard, position, flags, parts, done)

    def take(
        self,
        shard: int,
        position: int,
        flags: int,
        parts: list[wire.SharePart],
        done: Callable[[], None] | None,
    ) -> None:
        """Hand records to members; `done` when they are committed where they must be."""
        pending: dict[int, Pending] = {}
        lost: list[wire.ShareRow] = []
        for part in parts:
            self._take_part(shard, position, flags, part, pending, lost)
        if lost:
            # Nothing of it is in a log.
            self._send_back(lost)
        self._broker.delivery.commit(shard, position, pending, done)

    def _take_part(
        self,
        shard: int,
        position: int,
        flags: int,
        part: wire.SharePart,
        pending: dict[int, Pending],
        lost: list[wire.ShareRow],
    ) -> None:
        delivery = self._broker.delivery
        known = position != wire.NO_POSITION
        view = blocks.entries(part.entry)[0]
        taking = _Taking(part.entry, view, pending, flags, known)
        for hand in part.hands:
            if known and delivery.heard(hand.home, shard, position):
                continue
            indexes = range(taking.count) if hand.indexes is None else hand.indexes
            found = self._groups.get((hand.group, hand.filter, hand.home))
            if found is None:
                fits = 0
            elif hand.sure:
                fits = len(indexes)
            else:
                # Its owner may know of others that can take it at once.
                fits = found.fitting(len(indexes), bool(taking.records))
            if found is not None and fits:
                self._hand_out(found, indexes[:fits], taking)
            if fits < len(indexes):
                rows = pending.setdefault(hand.home, Pending()).left if known else lost
                rows.append(self._row(hand, part.entry, view, list(indexes[fits:])))
                if found is not None and found.told != found.state():
                    self._tell([found])
        for hands in taking.at_once.values():
            delivery.deal(part.entry, hands)

    def _row(
        self, hand: wire.ShareHand, entry: bytes, view: blocks.EntryView, indexes: list[int]
    ) -> wire.ShareRow:
        shard = self._broker.placement.shard(view.log_name or view.topic, view.partition)
        return wire.ShareRow(hand.group, hand.filter, shard, entry, indexes)

    def _hand_out(self, found: HomeGroup, indexes: Sequence[int], taking: _Taking) -> None:
        """Give records to the members of one home: copies of QoS 0 at once, the others through
        their sessions."""
        broker, view, records = self._broker, taking.view, taking.records
        for member, mine in found.deal(indexes, bool(records), view.topic, view.origin):
            subscriber = member.subscriber
            if not member.sees(view.topic):
                continue
            if not (records and member.subscription.qos) and not subscriber.sink.kept:
                if not taking.flags & wire.REPLAY:
                    taking.give(found, member, mine)
                continue
            how = taking.flags
            if taking.known and member.subscription.qos:
                how |= wire.KEPT
                if not subscriber.session.durable:
                    subscriber.session.keep()
                    broker.sessions.keep(subscriber)
            levels = records or [0] * taking.count
            wanted = wanted_of(member)
            broker.delivery.queue(taking.entry, wanted, levels, mine, taking.pending, how)
        if found.told == READY and found.strategy == "least_inflight":
            self._watched[found.group, found.filter, found.home] = found
        elif found.told == READY and found.state() != READY:
            self._tell([found])

    # -- room --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Tell owners of the homes that had no room, or whose load they go by."""
        if self._watched:
            self._tell(list(self._watched.values()))

    def _tell(self, groups: list[HomeGroup]) -> None:
        broker = self._broker
        rows: dict[int, list[tuple[bytes, bytes, int, int, int]]] = {}
        for found in groups:
            found.told = found.state()
            key = (found.group, found.filter, found.home)
            if found.told != READY:
                self._watched[key] = found
            else:
                self._watched.pop(key, None)
            for worker in self.owners(found.filter):
                rows.setdefault(worker, []).append((*key, found.told, found.load()))
        for worker, told in rows.items():
            broker.rpc.notify(worker, wire.ShareLoads(told))
        broker.turn()

    def owners(self, filter_: bytes) -> list[int]:
        """The workers that can own a topic which matches the filter: of a declared topic, or the
        stream that carries it, those of all partitions, as Kafka clients write to any."""
        if is_wildcard(filter_):
            return list(range(self._broker.worker_count))
        return self._broker.placement.owners(filter_)

    # -- what is left behind -----------------------------------------------------------------------

    def session_ended(self, subscriber: Subscriber) -> bool:
        """Other members get what it has not acknowledged; a message of QoS 2 that was sent goes to
        nobody [MQTT-4.8.2-5]. True when the same entry of the log ends the session."""
        broker = self._broker
        pending = chain(*subscriber.session.window.pending())
        rows = self._rows(subscriber, self._located(subscriber, pending))
        coming = broker.delivery.withdraw(subscriber, subscriber.groups)
        rows += self._rows(subscriber, ((mark, located) for mark, _, located in coming))
        if not subscriber.session.durable:
            self._send_back(rows)
            return False
        if rows:
            self._append(subscriber, rows, None)
        return bool(rows)

    def withdraw(self, subscriber: Subscriber, marks: set[int]) -> None:
        """Other members get what waits for a member of these groups and was never sent to it."""
        session = subscriber.session
        queued: list[Outgoing] = session.withdraw(marks, ~RETAIN_FLAG)
        coming = self._broker.delivery.withdraw(subscriber, marks)
        rows = self._rows(subscriber, self._located(subscriber, queued))
        rows += self._rows(subscriber, ((mark, located) for mark, _, located in coming))
        references = [one.reference for one in queued] + [one for _, one, _ in coming]
        if not rows:
            return
        if session.durable:
            self._append(subscriber, rows, tuple(references))
        else:
            self._send_back(rows)
        for reference in references:
            self._broker.inbox.drop(reference)

    def _located(
        self, subscriber: Subscriber, deliveries: Iterable[Outgoing]
    ) -> Iterator[tuple[int, Located]]:
        """(mark, message) of what came by a share group."""
        for one in deliveries:
            mark = one.flags & ~RETAIN_FLAG
            if mark in subscriber.groups:
                located = self._broker.inbox.locate(subscriber.shard, one.reference)
                if located is not None:
                    yield mark, located

    def _rows(
        self, subscriber: Subscriber, messages: Iterable[tuple[int, Located]]
    ) -> list[wire.ShareRow]:
        """(mark, message) as rows, one for each entry and group."""
        found: dict[tuple[int, bytes], wire.ShareRow] = {}
        for mark, located in messages:
            row = found.get((mark, located.entry))
            if row is None:
                view = blocks.entries(located.entry)[0]
                placement = self._broker.placement
                shard = placement.shard(view.log_name or view.topic, view.partition)
                row = wire.ShareRow(*subscriber.groups[mark], shard, located.entry, [])
                found[mark, located.entry] = row
            row.indexes.append(located.index)
        return list(found.values())

    def _append(
        self, subscriber: Subscriber, rows: list[wire.ShareRow], withdrawn: tuple[int, ...] | None
    ) -> None:
        """What goes and that the session lacks it, or has ended, stand in one entry."""
        broker, home = self._broker, subscriber.shard
        entry = InboxEntry(-1, 0, [], rows, subscriber.client_id, withdrawn)
        position = broker.stores[home].append(INBOX, encode_inbox(entry), 0, 0, broker.wall_ms())
        broker.left_behind.append(home, position, rows)
        broker.commits.mark(home, False, lambda: broker.left_behind.committed(home, position))
        broker.turn()

    def _send_back(self, rows: list[wire.ShareRow]) -> None:
        """Ask the owners, in a following turn, once: nothing of it is in a log."""
        broker = self._broker
        by_shard: dict[int, list[wire.ShareRow]] = {}
        for row in rows:
            by_shard.setdefault(row.shard, []).append(row)

        def ask() -> None:
            for shard, some in by_shard.items():
                worker = broker.placement.shard_owner(shard)
                broker.rpc.notify(worker, wire.ShareAgain(0, 0, shard, some))
            broker.turn()

        if by_shard:
            broker.around.call_soon(ask)
