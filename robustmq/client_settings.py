"""Settings of what watches over clients: flapping detection, slow subscriptions."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from robustmq.limits import bound, choice


class FlappingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Clients that come and go too often are banned for a time, by their client id."""

    enabled: Annotated[bool, choice("Whether to count at all.", reloadable=True)] = False
    max_count: Annotated[
        int, bound("disconnects", "Ends of connections in a window that lead to a ban.", 2)
    ] = 15
    window_s: Annotated[
        int, bound("s", "The window; it begins with the first end that is counted.", 1, 86_400)
    ] = 60
    ban_s: Annotated[int, bound("s", "How long the client id is banned.", 1)] = 300


class SlowSubscriptionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which clients and topics messages reach late; `robustmq slow list` shows them."""

    enabled: Annotated[bool, choice("Whether to measure at all.", reloadable=True)] = False
    threshold_ms: Annotated[
        int, bound("ms", "A delivery that takes longer counts as late.", 1, 3_600_000)
    ] = 500
    top: Annotated[
        int, bound("pairs", "Pairs of client and topic that each worker remembers.", 1, 1_000)
    ] = 100
    expiry_s: Annotated[
        int, bound("s", "A pair is forgotten when it was not as late again for so long.", 1, 86_400)
    ] = 300
    measure: Annotated[
        Literal["whole", "internal", "response"],
        choice(
            "From taking a message in to the end of its delivery, or to its beginning; or between.",
            reloadable=True,
        ),
    ] = "whole"
