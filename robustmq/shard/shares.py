"""The members of share groups on their own worker (MQTT 5.0 section 4.8.2).

The owner of a topic picks the worker of each message, in turn and in proportion to the members that
are connected there; here the member is picked. A message stays with its member until its session
ends. Then what it has not acknowledged, or was never sent, goes back to the topic's owner, which
picks again; only a QoS 2 message that was sent goes to nobody else [MQTT-4.8.2-5]. A delivery knows
its group by a mark in its flags, the checksum of the filter, so that a recovered session knows it
too.
"""

from __future__ import annotations

import zlib

from robustmq.core import blocks
from robustmq.mqtt.subscriptions import Subscription
from robustmq.shard import wire
from robustmq.shard.inbox import Inbox
from robustmq.shard.placement import Placement
from robustmq.shard.subscriber import Subscriber

RETAIN_FLAG = 1
_MARK_SHIFT = 1


class LocalSubscription:
    """A subscription of a local client: what the trie holds."""

    __slots__ = ("filter", "persistent", "subscriber", "subscription")

    def __init__(
        self,
        filter_: bytes,
        subscriber: Subscriber,
        subscription: Subscription,
        persistent: bool,
    ) -> None:
        self.filter = filter_
        self.persistent = persistent
        self.subscriber = subscriber
        self.subscription = subscription

    def sees(self, topic: bytes) -> bool:
        """Is a topic that the filter matches one that the client can see? Its mount point's own
        name is not (`#` matches its parent too), nor are names that begin with `$` in it for a
        wildcard [MQTT-4.7.2-1]."""
        mount = self.subscriber.session.mount
        if not mount:
            return True
        if not topic.startswith(mount):
            return False
        first = self.filter[len(mount) : len(mount) + 1]
        return first not in (b"+", b"#") or topic[len(mount) : len(mount) + 1] != b"$"


class ShareGroup:
    """The local members of one share group; each takes its turn."""

    __slots__ = ("filter", "group", "members", "turn")

    def __init__(self, group: bytes, filter_: bytes) -> None:
        self.group = group
        self.filter = filter_
        self.members: list[LocalSubscription] = []
        self.turn = 0

    def counts(self) -> tuple[int, int]:
        """How many members are connected, and how many are persistent."""
        return (
            sum(local.subscriber.peer is not None for local in self.members),
            sum(local.persistent for local in self.members),
        )

    def pick(self) -> LocalSubscription | None:
        """The next member: a connected one if there is any."""
        count = len(self.members)
        for step in range(1, count + 1):
            member = self.members[(self.turn + step) % count]
            if member.subscriber.peer is not None:
                self.turn = (self.turn + step) % count
                return member
        for member in self.members:
            if member.subscriber.persistent:
                return member
        return None


def share_flags(subscription: Subscription) -> int:
    """The bits of a delivery's flags that name its share group; 0 for a plain subscription."""
    if subscription.share_group is None:
        return 0
    return (zlib.crc32(subscription.filter) | 1) << _MARK_SHIFT


def unfinished(subscriber: Subscriber, inbox: Inbox, placement: Placement) -> list[wire.ShareAgain]:
    """What other members are to get when this session ends."""
    session = subscriber.session
    groups = {share_flags(one): one for one in session.subscriptions.values() if one.share_group}
    if not groups:
        return []
    found: list[wire.ShareAgain] = []
    for delivery in session.window.pending():
        subscription = groups.get(delivery.flags & ~RETAIN_FLAG)
        located = inbox.locate(subscriber.shard, delivery.reference)
        if subscription is not None and located is not None:
            found.append(again(subscription, located.entry, [located.index], placement))
    return found


def again(
    subscription: Subscription, entry: bytes, indexes: list[int], placement: Placement
) -> wire.ShareAgain:
    """The request to pick other members for these records."""
    assert subscription.share_group is not None, "only shared messages are picked for again"
    view = blocks.entries(entry)[0]
    shard = placement.shard(view.log_name or view.topic, view.partition)
    return wire.ShareAgain(
        subscription.share_group, subscription.matching_filter, shard, indexes, entry
    )
