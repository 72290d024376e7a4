"""Settings of what watches over clients: flapping detection."""

from __future__ import annotations

from typing import Annotated

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
