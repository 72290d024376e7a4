"""Which retained messages a subscription gets, and what a retained PUBLISH does to the store.

Retain Handling 0 sends at every SUBSCRIBE, 1 only when the subscription is new, 2 never (MQTT 5.0
section 3.3.1.3, [MQTT-3.3.1-9 to -11]); 3.x is always 0. Shared subscriptions get none. What is
sent so carries RETAIN 1, whatever Retain As Published says; a live message carries
it only if published so and asked for [MQTT-3.3.1-12, -13].
"""

from __future__ import annotations

import enum

from robustmq.mqtt.subscriptions import Grant


class Change(enum.Enum):
    """What a PUBLISH does to the retained message of its topic."""

    NOTHING = enum.auto()
    STORE = enum.auto()
    CLEAR = enum.auto()


def is_sent(grant: Grant) -> bool:
    """True when the retained messages that match go to this subscription now."""
    subscription = grant.subscription
    if subscription is None or subscription.share_group is not None:
        return False
    if subscription.retain_handling == 1:
        return grant.is_new
    return subscription.retain_handling == 0


def change(retain: bool, payload_bytes: int) -> Change:
    """An empty retained payload clears, is not stored [MQTT-3.3.1-6, -7], and is delivered."""
    if not retain:
        return Change.NOTHING
    return Change.STORE if payload_bytes else Change.CLEAR


def live_retain_flag(published_retain: bool, retain_as_published: bool) -> bool:
    """The RETAIN flag of a live copy."""
    return published_retain and retain_as_published
