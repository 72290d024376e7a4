"""The only module that asks a clock.

Wall time is for what is stored and shown (time stamps of records, expiry across restarts);
monotonic time is for time-outs. Everything else in the package is given `now_ms` or
`timestamp_ms`, so that a simulation can own time.
"""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Milliseconds since 1970, as the machine believes them; may step backwards."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds on a clock that never steps; only differences mean something."""
    return time.monotonic_ns() // 1_000_000


def monotonic_us() -> int:
    """Microseconds on the same clock, for latencies."""
    return time.monotonic_ns() // 1_000
