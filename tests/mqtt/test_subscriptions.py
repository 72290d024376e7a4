"""What SUBSCRIBE and UNSUBSCRIBE answer, merging, and retained messages."""

from __future__ import annotations

import pytest

from robustmq.errors import BrokerError, Fault
from robustmq.mqtt import retained
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.packets import Properties, Subscribe, SubscriptionOptions
from robustmq.mqtt.subscriptions import (
    Grant,
    Merged,
    Subscription,
    decide,
    merge,
    suback_failure,
    unsubscribe_code,
)


def subscribe(*filters: bytes, identifier: int = 0) -> Subscribe:
    identifiers = (identifier,) if identifier else ()
    return Subscribe(
        1,
        tuple((topic_filter, SubscriptionOptions(2)) for topic_filter in filters),
        Properties(subscription_identifiers=identifiers),
    )


def codes(packet: Subscribe, capabilities: Capabilities, version: int = 5) -> list[int]:
    return [
        grant.code
        for grant in decide(packet, {}, capabilities, version, lambda name: name != b"secret")
    ]


def test_each_filter_gets_its_own_code_in_order() -> None:
    packet = subscribe(b"a", b"a/#/b", b"$share/g", b"$share/g/", b"secret", b"$share/g/a/+", b"#")
    assert codes(packet, Capabilities()) == [2, 0x8F, 0x8F, 0x8F, 0x87, 2, 2]
    assert codes(packet, Capabilities(), 4) == [2, 0x80, 0x80, 0x80, 0x80, 2, 2]


def test_what_is_not_offered_has_its_own_code() -> None:
    bare = Capabilities(
        maximum_qos=1,
        wildcard_subscription_available=False,
        shared_subscription_available=False,
        maximum_subscriptions=1,
    )
    assert codes(subscribe(b"a", b"a", b"b"), bare) == [1, 1, 0x97]
    without = Capabilities(subscription_identifier_available=False)
    for packet, offered, fault in (
        (subscribe(b"a", b"#"), bare, Fault.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED),
        (subscribe(b"$share/g/a"), bare, Fault.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED),
        (subscribe(b"a", identifier=7), without, Fault.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED),
    ):
        with pytest.raises(BrokerError) as error:
            decide(packet, {}, offered, 5)
        assert error.value.fault is fault


def test_a_shared_subscription_keeps_its_group_and_plain_filter() -> None:
    (grant,) = decide(subscribe(b"$share/g/a/+", identifier=7), {}, Capabilities(), 5)
    assert grant.subscription is not None
    assert grant.subscription.share_group == b"g"
    assert grant.subscription.matching_filter == b"a/+"
    assert grant.subscription.subscription_identifier == 7


def test_a_filter_subscribed_before_is_not_new() -> None:
    existing = {b"a": Subscription(b"a")}
    assert [g.is_new for g in decide(subscribe(b"a", b"b", b"b"), existing, Capabilities(), 5)] == [
        False,
        True,
        False,
    ]


def test_3_1_has_no_failure_code() -> None:
    assert suback_failure(Fault.NOT_AUTHORIZED, 1, 3) == 1


def test_unsubscribe_codes() -> None:
    assert unsubscribe_code(b"a", True) == 0
    assert unsubscribe_code(b"a", False) == 0x11
    assert unsubscribe_code(b"a/#/b", False) == 0x8F


def test_overlapping_subscriptions_merge_to_the_highest_qos_and_all_identifiers() -> None:
    subscriptions = [
        Subscription(b"a/#", 0, subscription_identifier=3),
        Subscription(b"a/b", 2, retain_as_published=True, subscription_identifier=9),
        Subscription(b"a/+", 1),
    ]
    assert merge(subscriptions, False) == Merged(2, True, (3, 9))


def test_no_local_takes_only_its_own_subscription_out() -> None:
    local = Subscription(b"a/#", 2, no_local=True, subscription_identifier=3)
    other = Subscription(b"a/b", 1, subscription_identifier=9)
    assert merge([local, other], True) == Merged(1, False, (9,))
    assert merge([local], True) is None
    assert merge([local], False) == Merged(2, False, (3,))


@pytest.mark.parametrize(
    ("handling", "is_new", "sent"),
    [(0, True, True), (0, False, True), (1, True, True), (1, False, False), (2, True, False)],
)
def test_retain_handling(handling: int, is_new: bool, sent: bool) -> None:
    grant = Grant(b"a", 0, Subscription(b"a", retain_handling=handling), is_new)
    assert retained.is_sent(grant) is sent


def test_shared_and_refused_subscriptions_get_no_retained_messages() -> None:
    assert not retained.is_sent(
        Grant(b"$share/g/a", 0, Subscription(b"$share/g/a", share_group=b"g"), True)
    )
    assert not retained.is_sent(Grant(b"a", 0x87))


def test_an_empty_retained_payload_clears() -> None:
    assert retained.change(True, 0) is retained.Change.CLEAR
    assert retained.change(True, 1) is retained.Change.STORE
    assert retained.change(False, 0) is retained.Change.NOTHING
    assert retained.live_retain_flag(True, True)
    assert not retained.live_retain_flag(True, False)
