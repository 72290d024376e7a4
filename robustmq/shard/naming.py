"""What the topics of a connection are called inside: rewriting rules, then the mount point of its
listener.

A client under a mount point has a name space of its own: the mount is put before every name that
it uses (PUBLISH, wills, subscriptions, delayed messages) and taken off what is delivered to it, so
it can neither name nor see what lies outside. `$delayed/{seconds}/`, `$share/{group}/` and the like
stay in front. `$SYS` of the broker is outside of every mount.

All connections with the same names share one `Naming` and its table of routes, so a name is decided
once; where rules or mounts have placeholders each connection has its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import msgspec

from robustmq.config import Settings
from robustmq.core.publish import RouteTable, TopicRoute
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.mqtt.packets import Subscribe, SubscriptionOptions, Unsubscribe
from robustmq.mqtt.rewriting import Identity, Rewriting, Rule, fill, is_personal
from robustmq.names import DELAYED_PREFIX, split_delayed, split_prefix
from robustmq.shard.placement import SYS_PREFIX, Placement

PERSONAL_ROUTES = 1024
SHARED_ROUTES = 32_768
NO_IDENTITY = Identity("")


class Naming:
    """The names of one connection, or of all that have the same."""

    def __init__(
        self,
        placement: Placement,
        rewriting: Rewriting,
        identity: Identity,
        mount: bytes,
        capacity: int,
    ) -> None:
        self._placement = placement
        self._rewriting = rewriting
        self._identity = identity
        self.mount = mount
        self.plain = not mount and not rewriting
        """Is every name used as it is?"""
        self.routes = placement.routes if self.plain else RouteTable(capacity)

    def route(self, asked: bytes) -> TopicRoute:
        """What a publisher needs to know of a topic that it names so; see `Placement.route`."""
        if self.plain:
            return self._placement.route(asked)
        try:
            return self._placement.resolve(self.topic(asked), asked)
        except BrokerError as error:
            return self._placement.refused(asked, error.fault)

    def topic(self, asked: bytes) -> bytes:
        """The name inside of a topic, which may be delayed; raises BrokerError for one that the
        client may not use."""
        if self.plain:
            return asked
        delay, topic = _parted(asked)
        topic = self._rewriting.published(topic, self._identity)
        if not delay:
            delay, topic = _parted(topic)
        if topic.startswith(SYS_PREFIX):
            raise BrokerError(Fault.NOT_AUTHORIZED)
        return delay + self.mount + topic

    def filter(self, asked: bytes) -> bytes:
        """The filter inside; what is no filter stays what it is, to be refused."""
        try:
            prefix, plain = split_prefix(asked)
            plain = self._rewriting.subscribed(plain, self._identity)
        except BrokerError:
            return b""
        return prefix + self.mount + plain if plain else b""

    def subscribe(self, packet: Subscribe) -> Subscribe:
        """A SUBSCRIBE with the names inside."""
        if self.plain:
            return packet
        filters = tuple((self.filter(name), options) for name, options in packet.filters)
        return msgspec.structs.replace(packet, filters=filters)

    def unsubscribe(self, packet: Unsubscribe) -> Unsubscribe:
        """An UNSUBSCRIBE with the names inside."""
        if self.plain:
            return packet
        return msgspec.structs.replace(packet, filters=tuple(map(self.filter, packet.filters)))


def _parted(topic: bytes) -> tuple[bytes, bytes]:
    """`$delayed/{seconds}/`, if a name begins so, and the rest."""
    if not topic.startswith(DELAYED_PREFIX):
        return b"", topic
    _, plain = split_delayed(topic)
    return topic[: -len(plain)], plain


class Namings:
    """The names of all connections of a worker, and what they are subscribed to of themselves."""

    def __init__(self, settings: Settings, placement: Placement) -> None:
        self._placement = placement
        self._shared: dict[bytes, Naming] = {}
        self._personal: weakref.WeakSet[Naming] = weakref.WeakSet()
        self._rewriting = Rewriting(
            Rule(
                one.filter,
                one.pattern,
                one.destination,
                one.action != "subscribe",
                one.action != "publish",
            )
            for one in settings.rewrite
        )
        self._auto_subscribe = settings.auto_subscribe
        placement.cleared = self._clear

    def of(self, listener: Listener, identity: Identity) -> Naming:
        """The names of a new connection; raises BrokerError when its mount has no name for it."""
        mount = listener.mount_point
        personal = self._rewriting.personal or is_personal(mount)
        if mount:
            mount = fill(mount, identity, "+#/$")
        if personal:
            naming = self._make(identity, mount.encode(), PERSONAL_ROUTES)
            self._personal.add(naming)
            return naming
        found = self._shared.get(mount.encode())
        if found is None:
            found = self._make(NO_IDENTITY, mount.encode(), SHARED_ROUTES)
            self._shared[mount.encode()] = found
        return found

    def _make(self, identity: Identity, mount: bytes, capacity: int) -> Naming:
        return Naming(self._placement, self._rewriting, identity, mount, capacity)

    def _clear(self) -> None:
        """Topics may have other routes now."""
        for naming in (*self._shared.values(), *self._personal):
            if not naming.plain:
                naming.routes.clear()

    def automatic(
        self, identity: Identity
    ) -> Iterable[tuple[str, tuple[bytes, SubscriptionOptions] | None]]:
        """What a client is subscribed to when it connects, by the filters of the configuration;
        None for one that has no name for this client."""
        for one in self._auto_subscribe:
            options = SubscriptionOptions(
                one.qos, one.no_local, one.retain_as_published, one.retain_handling
            )
            try:
                yield one.filter, (fill(one.filter, identity).encode(), options)
            except BrokerError:
                yield one.filter, None
