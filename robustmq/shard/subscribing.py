"""Subscribing and unsubscribing: grants, local tables, and the interest that owners are told of.

SUBACK is sent when every worker that can own a matching topic has confirmed the interest, so that
what is published after it is delivered, and when a persistent session has its subscription
committed. Wildcards are told to all workers, an exact filter to the owner of its topic alone. A
worker that is away learns all of it when it is back, before it serves.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.packets import Subscribe, SubscriptionOptions, Unsubscribe
from robustmq.mqtt.retained import is_sent
from robustmq.mqtt.rewriting import Identity
from robustmq.mqtt.session import FIRST_ERROR
from robustmq.mqtt.subscriptions import (
    Grant,
    Subscription,
    decide,
    suback_failure,
    unsubscribe_code,
)
from robustmq.promises import Promise, start
from robustmq.shard import wire
from robustmq.shard.exclusive import is_exclusive
from robustmq.shard.interest import LocalInterest, is_wildcard
from robustmq.shard.naming import Naming
from robustmq.shard.shares import LocalSubscription, Member, share_flags, share_mark
from robustmq.shard.subscriber import Subscriber
from robustmq.storage.shard_store import CURSOR

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

FILTERS_A_QUERY = 100


class SubscribeOutcome(NamedTuple):
    """The codes of SUBACK, and the subscriptions whose retained values follow it."""

    reason_codes: tuple[int, ...]
    retained_for: list[LocalSubscription]


class Subscribing:
    """The subscriptions of this worker's clients."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._interest = LocalInterest()
        self._local: dict[tuple[bytes, bytes], LocalSubscription] = {}
        self.shared = 0
        """How many of them are shared."""

    def __len__(self) -> int:
        return len(self._local)

    # -- SUBSCRIBE and UNSUBSCRIBE -----------------------------------------------------------------

    async def subscribe(self, subscriber: Subscriber, packet: Subscribe) -> SubscribeOutcome:
        """Grant what is asked; settles when what is published from now on is delivered."""
        session = subscriber.session
        await self._in_turn(subscriber)
        grants = decide(packet, session.subscriptions, self._broker.capabilities, session.version)
        claiming = self._claiming(subscriber, grants)
        if claiming is not None:
            grants = await self._claim(subscriber, grants)
        changes = _Changes()
        granted: list[tuple[Grant, LocalSubscription]] = []
        for grant in grants:
            if grant.subscription is not None:
                session.subscribe(grant.subscription)
                granted.append((grant, self._add(subscriber, grant.subscription, changes)))
        if claiming is not None:
            subscriber.claiming = None
            claiming.resolve(None)
        ends = await self._announce(changes)
        if granted and (
            subscriber.persistent or any(one.filter != local.filter for one, local in granted)
        ):
            # What a share group gets is in the log for any member: see `share_delivery`.
            self._note_cursors(subscriber.shard, ends)
        await self._broker.sessions.write(subscriber, wait=True)
        codes = tuple(grant.code for grant in grants)
        return SubscribeOutcome(codes, [local for grant, local in granted if is_sent(grant)])

    @staticmethod
    async def _in_turn(subscriber: Subscriber) -> None:
        """An earlier SUBSCRIBE of this client is decided first."""
        while subscriber.claiming is not None:
            await subscriber.claiming

    @staticmethod
    def _claiming(subscriber: Subscriber, grants: list[Grant]) -> Promise[None] | None:
        """Settles when the exclusive ones among these are decided; None when there are none."""
        if any(one.subscription is not None and is_exclusive(one.filter) for one in grants):
            subscriber.claiming = Promise()
        return subscriber.claiming

    async def _claim(self, subscriber: Subscriber, grants: list[Grant]) -> list[Grant]:
        """The grants, without the exclusive ones that others hold."""
        exclusive, client_id = self._broker.exclusive, subscriber.client_id
        decided: list[Grant] = []
        for grant in grants:
            wanted = grant.subscription is not None and is_exclusive(grant.filter)
            if wanted and not await exclusive.claim(grant.filter, client_id):
                version = subscriber.session.version
                code = suback_failure(Fault.QUOTA_EXCEEDED, grant.code, version)
                grant = Grant(grant.filter, code)
            decided.append(grant)
        if self._broker.sessions.get(client_id) is not subscriber:
            self._give_up(client_id, [one.filter for one in decided if one.subscription])
            raise BrokerError(Fault.UNSPECIFIED, "the session has ended")
        return decided

    def _give_up(self, client_id: bytes, filters: list[bytes]) -> list[Promise[Any]]:
        """A client gives up its exclusive subscriptions, unless it has them anew; what settles when
        others can have them."""
        current = self._broker.sessions.get(client_id)
        held = current.session.subscriptions if current is not None else {}
        return [
            self._broker.exclusive.release(filter_, client_id)
            for filter_ in filters
            if is_exclusive(filter_) and filter_ not in held
        ]

    async def automatic(
        self, subscriber: Subscriber, naming: Naming, identity: Identity
    ) -> list[LocalSubscription]:
        """Subscribe a client that connects to what the configuration says; the subscriptions whose
        retained values follow CONNACK."""
        filters: list[tuple[bytes, SubscriptionOptions]] = []
        for name, found in self._broker.namings.automatic(identity):
            if found is None:
                self._refused(subscriber, name)
            else:
                filters.append(found)
        if not filters:
            return []
        packet = naming.subscribe(Subscribe(0, tuple(filters)))
        outcome = await self.subscribe(subscriber, packet)
        for (filter_, _), code in zip(filters, outcome.reason_codes, strict=True):
            if code >= FIRST_ERROR:
                self._refused(subscriber, filter_.decode())
        return outcome.retained_for

    def _refused(self, subscriber: Subscriber, filter_: str) -> None:
        self._broker.count("mqtt_auto_subscribe_refused", 1)
        self._broker.around.log(
            "info",
            "not subscribed automatically",
            client_id=subscriber.client_id,
            filter=filter_,
        )

    async def unsubscribe(self, subscriber: Subscriber, packet: Unsubscribe) -> tuple[int, ...]:
        """Remove subscriptions; settles when that is committed."""
        await self._in_turn(subscriber)
        changes = _Changes()
        codes: list[int] = []
        withdrawn: set[int] = set()
        for filter_ in packet.filters:
            existed = subscriber.session.unsubscribe(filter_)
            codes.append(unsubscribe_code(filter_, existed))
            if existed:
                self._drop(subscriber, filter_, changes)
                mark = share_mark(filter_)
                if mark in subscriber.groups:
                    withdrawn.add(mark)
        if withdrawn:
            self._tell(changes)
            self._broker.shares.withdraw(subscriber, withdrawn)
        await self._announce(changes)
        await self._broker.sessions.write(subscriber, wait=True)
        for given_up in self._give_up(subscriber.client_id, list(packet.filters)):
            with suppress(BrokerError):
                await given_up
        return tuple(codes)

    async def send_retained(
        self, subscriber: Subscriber, subscriptions: list[LocalSubscription]
    ) -> None:
        """The retained values that new subscriptions get, one after the other: who subscribes
        again and again without reading waits in one place, and in it once for each filter."""
        waiting = subscriber.retained_for
        replaying = bool(waiting)
        for local in subscriptions:
            waiting.pop(local.subscription.filter, None)
            waiting[local.subscription.filter] = local
        if replaying:
            return
        while waiting:
            batch = list(islice(waiting.values(), FILTERS_A_QUERY))
            asked: dict[int, list[LocalSubscription]] = {}
            for local in batch:
                for worker in self._broker.shares.owners(local.filter):
                    asked.setdefault(worker, []).append(local)
            for worker in sorted(asked):
                await self._retained_of(worker, asked[worker])
            for local in batch:
                if waiting.get(local.subscription.filter) is local:
                    del waiting[local.subscription.filter]

    async def _retained_of(self, worker: int, asked: list[LocalSubscription]) -> None:
        """The retained values of one owner.

        A page is delivered at once when it comes: it stands in the order of its owner's messages,
        so no older value follows a newer one. A client that reads slowly is waited for.
        """
        broker = self._broker
        limit = broker.limits.max_retained_replay
        shard, after = 0, b""
        while asked:
            query = wire.RetainedQuery([local.filter for local in asked], shard, after, limit)
            try:
                answer: wire.RetainedPages = await broker.rpc.call(worker, query)
            except BrokerError:
                return
            for local, page in zip(asked, answer.pages, strict=False):
                if self._is_there(local):
                    for _, entry in page.entries:
                        broker.delivery.deliver_retained(local, entry)
            last = answer.pages[-1]
            asked = asked[len(answer.pages) - (last.shard >= 0) :]
            shard, after = max(last.shard, 0), last.after
            if asked and not self._is_there(asked[0]):
                # It has ended meanwhile, or was replaced: the next one from its beginning.
                asked = [local for local in asked if self._is_there(local)]
                shard, after = 0, b""
            if asked:
                await broker.next_turn()
                while asked[0].subscriber.crowded:
                    await asked[0].subscriber.room()

    def _is_there(self, local: LocalSubscription) -> bool:
        """Neither ended nor replaced."""
        return self._local.get((local.subscriber.client_id, local.subscription.filter)) is local

    # -- the local tables --------------------------------------------------------------------------

    def _add(
        self, subscriber: Subscriber, subscription: Subscription, changes: _Changes
    ) -> LocalSubscription:
        key = (subscriber.client_id, subscription.filter)
        plain = subscription.matching_filter
        local: LocalSubscription
        if subscription.share_group is None:
            local = LocalSubscription(plain, subscriber, subscription, subscriber.persistent)
        else:
            local = self._member(subscriber, subscription)
        if key in self._local:
            # The new one counts before the old one goes: nothing is missed [MQTT-3.8.4-3].
            self._count(local, changes)
            self._drop(subscriber, subscription.filter, changes)
        else:
            self._count(local, changes)
        self._local[key] = local
        if not isinstance(local, Member):
            self._broker.delivery.add(local)
        else:
            assert subscription.share_group is not None, "a member has a group"
            share = (subscription.share_group, plain, subscriber.shard)
            self._broker.shares.group(*share).members.append(local)
            subscriber.groups = {**subscriber.groups, share_flags(subscription): share[:2]}
            changes.shares.add(share)
            self.shared += 1
        return local

    def _member(self, subscriber: Subscriber, subscription: Subscription) -> Member:
        before = self._local.get((subscriber.client_id, subscription.filter))
        joined = self._broker.wall_ms()
        if isinstance(before, Member) and subscriber.serving:
            # Other options for a member that stays.
            joined = before.joined
        plain = subscription.matching_filter
        return Member(plain, subscriber, subscription, subscriber.persistent, joined)

    def _count(self, local: LocalSubscription, changes: _Changes) -> None:
        if local.subscription.share_group is None:
            flags = self._interest.add(local.filter, local.persistent)
            if flags is not None:
                changes.filters[local.filter] = flags

    def _drop(self, subscriber: Subscriber, filter_: bytes, changes: _Changes) -> None:
        local = self._local.pop((subscriber.client_id, filter_))
        group = local.subscription.share_group
        if group is None or not isinstance(local, Member):
            self._broker.delivery.remove(local)
            flags = self._interest.remove(local.filter, local.persistent)
            if flags is not None:
                changes.filters[local.filter] = flags
            return
        share = (group, local.filter, subscriber.shard)
        self._broker.shares.group(*share).members.remove(local)
        self.shared -= 1
        changes.shares.add(share)

    def refresh(self, subscriber: Subscriber) -> None:
        """A session goes on with a new connection: its version or its expiry may be others now."""
        changes = _Changes()
        for subscription in subscriber.session.subscriptions.values():
            self._add(subscriber, subscription, changes)
        self._tell(changes)

    def restore(self, subscriber: Subscriber) -> None:
        """Recovery: the subscriptions count again; other workers hear of them when links
        come up."""
        self.refresh(subscriber)
        for filter_ in subscriber.session.subscriptions:
            if is_exclusive(filter_):
                self._broker.exclusive.restore(filter_, subscriber.client_id)

    def presence_changed(self, subscriber: Subscriber) -> None:
        """A member of share groups has come or gone: owners prefer those that are there."""
        changes = _Changes()
        for one in subscriber.session.subscriptions.values():
            if one.share_group is not None:
                changes.shares.add((one.share_group, one.matching_filter, subscriber.shard))
        if changes.shares:
            self._tell(changes)

    def went_away(self, subscriber: Subscriber) -> None:
        """The client has left its session behind: what was never sent to it need not wait for it to
        come back, unless the settings say so."""
        if not subscriber.groups:
            return
        subscriptions = subscriber.session.subscriptions.values()
        marks = {
            share_flags(one)
            for one in subscriptions
            if one.share_group is not None
            and self._broker.sharing.of(one.share_group, one.matching_filter).when_away == "pass_on"
        }
        if marks:
            self._broker.shares.withdraw(subscriber, marks)

    def remove_all(self, subscriber: Subscriber) -> None:
        """The session has ended."""
        changes = _Changes()
        filters = list(subscriber.session.subscriptions)
        for filter_ in filters:
            if (subscriber.client_id, filter_) in self._local:
                self._drop(subscriber, filter_, changes)
        self._tell(changes)
        if any(map(is_exclusive, filters)):
            client_id = subscriber.client_id

            def ended() -> None:
                self._give_up(client_id, filters)

            # Behind the record of the session's end, which this turn commits.
            self._broker.commits.mark(subscriber.shard, False, ended)

    # -- telling owners ----------------------------------------------------------------------------

    def _messages(self, changes: _Changes) -> list[tuple[int, wire.Message]]:
        by_worker: dict[int, list[tuple[bytes, int]]] = {}
        for filter_, flags in changes.filters.items():
            for worker in self._broker.shares.owners(filter_):
                by_worker.setdefault(worker, []).append((filter_, flags))
        messages: list[tuple[int, wire.Message]] = [
            (worker, wire.InterestChange(rows)) for worker, rows in by_worker.items()
        ]
        for share in sorted(changes.shares):
            change = self._broker.shares.change(share)
            messages.extend((worker, change) for worker in self._broker.shares.owners(share[1]))
        return messages

    async def _announce(self, changes: _Changes) -> dict[int, int]:
        """Tell the owners and wait; the end positions of their shards. One that is away hears of
        everything when its link is back: until then there is no SUBACK."""
        promises = [
            (worker, self._broker.rpc.call(worker, message))
            for worker, message in self._messages(changes)
        ]
        ends: dict[int, int] = {}
        for worker, promise in promises:
            ends.update(await self._settled(worker, promise))
        return ends

    async def _settled(self, worker: int, promise: Promise[Any]) -> dict[int, int]:
        while True:
            try:
                answer: wire.InterestSettled = await promise
            except BrokerError:
                await self._broker.linked(worker)
                promise = self._broker.rpc.call(worker, wire.InterestChange())
            else:
                return answer.ends

    def _tell(self, changes: _Changes) -> None:
        for worker, message in self._messages(changes):
            self._broker.rpc.notify(worker, message)

    def _note_cursors(self, home: int, ends: dict[int, int]) -> None:
        """A persistent session begins to hear here: what is older is never delivered to it
        again."""
        broker = self._broker
        cursors = broker.delivery.cursors.setdefault(home, {})
        noted = {shard: end - 1 for shard, end in ends.items()}
        for shard, position in noted.items():
            cursors[shard] = max(position, cursors.get(shard, -1))
        payload = encode_cursors(noted)
        broker.stores[home].append(CURSOR, payload, 0, 0, broker.wall_ms())
        broker.commits.mark(home)

    def rehome(self, topics: set[bytes], streams: bool) -> None:
        """Topics may have other owners now (with `streams` whatever a filter matches): tell those
        who wants them by name."""
        changes = _Changes()
        for filter_, flags in self._interest.items():
            if self._is_one_of(filter_, topics, streams):
                changes.filters[filter_] = flags
        for share in self._broker.shares.members():
            if self._is_one_of(share[1], topics, streams):
                changes.shares.add(share)
        if changes.filters or changes.shares:
            start(self._rehome(changes))

    async def _rehome(self, changes: _Changes) -> None:
        homes = {
            local.subscriber.shard
            for local in self._local.values()
            if local.persistent and local.filter in changes.filters
        }
        homes |= {home for _, _, home in changes.shares}
        ends = await self._announce(changes)
        for home in homes:
            self._note_cursors(home, ends)
        self._broker.turn()

    def _is_one_of(self, filter_: bytes, topics: set[bytes], streams: bool) -> bool:
        """Names a filter one of these declared topics, or one that such a stream carries (or may
        have carried)?"""
        return not is_wildcard(filter_) and (
            streams or filter_ in topics or self._broker.placement.stream_of(filter_) in topics
        )

    def interest_of(self, worker: int) -> wire.InterestReset:
        """All that this worker's clients want of `worker`, and from where it must deliver again."""
        filters = [
            (filter_, flags)
            for filter_, flags in self._interest.items()
            if worker in self._broker.shares.owners(filter_)
        ]
        mine = self._broker.shares
        shares = [mine.change(one) for one in mine.members() if worker in mine.owners(one[1])]
        held = self._broker.exclusive.held_of(worker)
        return wire.InterestReset(filters, shares, self.cursors_of(worker), held)

    def cursors_of(self, worker: int) -> dict[int, int]:
        """How far all sessions of this worker have heard of the shards of another (or its own), and
        would have if it died now: the other may let go of what lies before."""
        cursors: dict[int, int] = {}
        delivery = self._broker.delivery
        for home in delivery.cursors:
            for shard, position in delivery.committed_cursors(home).items():
                if self._broker.placement.shard_owner(shard) == worker:
                    cursors[shard] = min(position, cursors.get(shard, position))
        return cursors


class _Changes:
    """Interest that changed: filters with their new flags, and share groups."""

    __slots__ = ("filters", "shares")

    def __init__(self) -> None:
        self.filters: dict[bytes, int] = {}
        self.shares: set[tuple[bytes, bytes, int]] = set()


def encode_cursors(cursors: dict[int, int]) -> bytes:
    """The payload of a cursor entry: source shard -> log position up to which (and with which) a
    shard has heard."""
    return msgspec.msgpack.encode(cursors)


def decode_cursors(payload: bytes | memoryview) -> dict[int, int]:
    """The cursors in an entry."""
    return msgspec.msgpack.decode(payload, type=dict[int, int])
