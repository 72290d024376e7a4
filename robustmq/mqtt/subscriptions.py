"""What a SUBSCRIBE grants, what an UNSUBSCRIBE answers, and how overlapping subscriptions merge.

Each filter is decided alone and gets its own code, in order (MQTT 5.0 sections 3.8, 3.9, 3.11).
MQTT 3.1.1 knows one failure code, 0x80; 3.1 knows none, so there the requested QoS is answered and
nothing subscribed, as mosquitto does. A PUBLISH that matches several plain subscriptions of a
client goes to it once, with the highest QoS and all their identifiers [MQTT-3.3.4-2 to -4]; each
`$share` subscription is a copy of its own (section 4.8.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from robustmq import names
from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.capabilities import Capabilities, check_topic_size
from robustmq.mqtt.packets import (
    MQTT_3_1,
    MQTT_5_0,
    PacketType,
    ReasonCode,
    Subscribe,
    SubscriptionOptions,
)
from robustmq.mqtt.reasons import reason_for

NO_IDENTIFIER = 0

# What CONNACK has told to be unavailable: asking for it all the same is a protocol error with a
# reason of its own (MQTT 5.0 sections 3.2.2.3.11 to 3.2.2.3.13).
_UNAVAILABLE = frozenset(
    {
        Fault.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
        Fault.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
        Fault.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
    }
)


class Subscription(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A granted subscription. `filter` is the whole one, with `$share/{group}/`."""

    filter: bytes
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    subscription_identifier: int = NO_IDENTIFIER
    share_group: bytes | None = None

    @property
    def matching_filter(self) -> bytes:
        """The filter that topic names are held against."""
        return names.split_prefix(self.filter)[1]


class Grant(msgspec.Struct, frozen=True, gc=False):
    """The decision about one filter: the code for SUBACK; `subscription` None where refused."""

    filter: bytes
    code: int
    subscription: Subscription | None = None
    is_new: bool = False


class Merged(msgspec.Struct, frozen=True, gc=False):
    """How one message goes to one client."""

    qos: int
    retain_as_published: bool
    subscription_ids: tuple[int, ...]


def decide(
    subscribe: Subscribe,
    existing: Mapping[bytes, Subscription],
    capabilities: Capabilities,
    version: int,
    allowed: Callable[[bytes], bool] = lambda _filter: True,
) -> list[Grant]:
    """Decide every filter of a SUBSCRIBE, in order. `allowed` is asked with the plain filter.

    Raises what ends a connection of 5.0: it asks for what CONNACK said is not there.
    """
    identifiers = subscribe.properties.subscription_identifiers
    identifier = identifiers[0] if identifiers else NO_IDENTIFIER
    taken = set(existing)
    grants: list[Grant] = []
    for topic_filter, options in subscribe.filters:
        try:
            group = _check(topic_filter, identifier, capabilities, allowed)
            if topic_filter not in taken and len(taken) >= capabilities.maximum_subscriptions:
                raise BrokerError(Fault.QUOTA_EXCEEDED, "too many subscriptions")
        except BrokerError as error:
            if version == MQTT_5_0 and error.fault in _UNAVAILABLE:
                raise
            code = suback_failure(error.fault, options.qos, version)
            grants.append(Grant(topic_filter, code))
            continue
        subscription = _grant(topic_filter, options, identifier, group, capabilities)
        grants.append(
            Grant(topic_filter, subscription.qos, subscription, topic_filter not in taken)
        )
        taken.add(topic_filter)
    return grants


def _check(
    topic_filter: bytes,
    identifier: int,
    capabilities: Capabilities,
    allowed: Callable[[bytes], bool],
) -> bytes | None:
    names.validate_filter(topic_filter)
    group, _ = names.split_share(topic_filter)
    plain = names.split_prefix(topic_filter)[1]
    if topic_filter.startswith(names.EXCLUSIVE_PREFIX):
        if not capabilities.exclusive_subscription_available:
            raise BrokerError(Fault.TOPIC_FILTER_INVALID, "no exclusive subscriptions")
        names.validate_filter(plain)
    if plain is not topic_filter and plain.startswith((names.SHARE_PREFIX, names.EXCLUSIVE_PREFIX)):
        raise BrokerError(Fault.TOPIC_FILTER_INVALID, "exclusive or shared, and once")
    check_topic_size(plain, capabilities, Fault.TOPIC_FILTER_INVALID)
    if group is not None and not capabilities.shared_subscription_available:
        raise BrokerError(Fault.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED)
    if identifier and not capabilities.subscription_identifier_available:
        raise BrokerError(Fault.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
    wildcard = b"+" in plain or b"#" in plain
    if wildcard and not capabilities.wildcard_subscription_available:
        raise BrokerError(Fault.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED)
    if not allowed(plain):
        raise BrokerError(Fault.NOT_AUTHORIZED)
    return group


def _grant(
    topic_filter: bytes,
    options: SubscriptionOptions,
    identifier: int,
    group: bytes | None,
    capabilities: Capabilities,
) -> Subscription:
    return Subscription(
        topic_filter,
        min(options.qos, capabilities.maximum_qos),
        options.no_local,
        options.retain_as_published,
        options.retain_handling,
        identifier,
        group,
    )


def suback_failure(fault: Fault, requested_qos: int, version: int) -> int:
    """The code for a refused filter."""
    if version == MQTT_5_0:
        return reason_for(PacketType.SUBACK, fault)
    return requested_qos if version == MQTT_3_1 else Fault.UNSPECIFIED.mqtt5


def unsubscribe_code(topic_filter: bytes, existed: bool) -> int:
    """The code of one filter in UNSUBACK (5.0; 3.x has none on the wire)."""
    if existed:
        return ReasonCode.SUCCESS
    try:
        names.validate_filter(topic_filter)
    except BrokerError as error:
        return error.fault.mqtt5
    return ReasonCode.NO_SUBSCRIPTION_EXISTED


def merge(subscriptions: Iterable[Subscription], publisher_is_self: bool) -> Merged | None:
    """How a message goes to a client whose plain subscriptions all match it; None: not at all.

    No Local takes a subscription out for the client's own messages [MQTT-3.8.3-3]. The QoS is
    the highest granted; the caller takes the lower of it and the message's own.
    """
    qos = -1
    retain_as_published = False
    identifiers: list[int] = []
    for subscription in subscriptions:
        if publisher_is_self and subscription.no_local:
            continue
        qos = max(qos, subscription.qos)
        retain_as_published = retain_as_published or subscription.retain_as_published
        identifier = subscription.subscription_identifier
        if identifier and identifier not in identifiers:
            identifiers.append(identifier)
    return None if qos < 0 else Merged(qos, retain_as_published, tuple(identifiers))
