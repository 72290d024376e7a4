"""$SYS topics: `$SYS/broker/...` as mosquitto names them (man mosquitto, "Broker Status"), and
`$SYS/brokers/<node>/...` as EMQX does.

Pure functions from the sums of the counters to (topic, payload); who publishes them, and when, is
the worker's business. Load averages are kept by `LoadAverages`, fed once an interval, and highest
values by `Maxima`, fed each second. Of mosquitto's tree, `connection/#` (bridges) has nothing to
tell here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

PREFIX = b"$SYS/broker/"
_PLAIN = (
    ("bytes/received", "mqtt_bytes_received"),
    ("bytes/sent", "mqtt_bytes_sent"),
    ("clients/connected", "mqtt_connections"),
    ("clients/active", "mqtt_connections"),
    ("clients/total", "mqtt_sessions"),
    ("messages/received", "mqtt_packets_received"),
    ("messages/sent", "mqtt_packets_sent"),
    ("messages/inflight", "mqtt_inflight"),
    ("clients/expired", "mqtt_sessions_expired"),
    ("store/messages/bytes", "mqtt_queued_bytes"),
    ("retained messages/count", "mqtt_retained_messages"),
    ("publish/messages/received", "mqtt_messages_received"),
    ("publish/messages/sent", "mqtt_messages_sent"),
    ("publish/messages/dropped", "mqtt_messages_dropped"),
    ("retained messages/count", "mqtt_retained_messages"),
    ("subscriptions/count", "mqtt_subscriptions"),
    ("shared_subscriptions/count", "mqtt_shared_subscriptions"),
)
_LOADS = (
    ("messages/received", "mqtt_packets_received"),
    ("messages/sent", "mqtt_packets_sent"),
    ("publish/received", "mqtt_messages_received"),
    ("publish/sent", "mqtt_messages_sent"),
    ("publish/dropped", "mqtt_messages_dropped"),
    ("bytes/received", "mqtt_bytes_received"),
    ("bytes/sent", "mqtt_bytes_sent"),
    ("connections", "mqtt_connects"),
    ("sockets", "mqtt_connections_opened"),
)
_STATS = (
    ("connections", "mqtt_connections"),
    ("sessions", "mqtt_sessions"),
    ("subscriptions", "mqtt_subscriptions"),
    ("subscriptions/shared", "mqtt_shared_subscriptions"),
    ("topics", "topics"),
    ("retained", "mqtt_retained_messages"),
)
_METRICS = (
    ("bytes/received", "mqtt_bytes_received"),
    ("bytes/sent", "mqtt_bytes_sent"),
    ("packets/received", "mqtt_packets_received"),
    ("packets/sent", "mqtt_packets_sent"),
    ("packets/connect/received", "mqtt_connects"),
    ("packets/publish/received", "mqtt_messages_received"),
    ("packets/publish/sent", "mqtt_messages_sent"),
    ("packets/publish/auth_error", "mqtt_publish_denied"),
    ("messages/received", "mqtt_messages_received"),
    ("messages/sent", "mqtt_messages_sent"),
    ("messages/dropped", "mqtt_messages_dropped"),
)
_WINDOWS = (("1min", 60.0), ("5min", 300.0), ("15min", 900.0))


class LoadAverages:
    """Moving averages per minute over 1, 5 and 15 minutes, as mosquitto's load topics."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._last_ms = 0
        self._averages: dict[str, float] = {}

    def update(self, totals: Mapping[str, int], now_ms: int) -> list[tuple[bytes, bytes]]:
        """Take the sums of now; the topics whose first interval is over, with their payloads."""
        elapsed_s = (now_ms - self._last_ms) / 1000
        known, self._last = self._last, {name: totals[name] for _, name in _LOADS}
        self._last_ms = now_ms
        if not known or elapsed_s <= 0:
            return []
        shown = []
        for topic, name in _LOADS:
            rate = (totals[name] - known[name]) * 60 / elapsed_s
            for window, seconds in _WINDOWS:
                key = f"load/{topic}/{window}"
                keep = math.exp(-elapsed_s / seconds)
                average = rate + keep * (self._averages.get(key, 0.0) - rate)
                self._averages[key] = average
                shown.append((PREFIX + key.encode(), b"%.2f" % average))
        return shown


class Maxima:
    """The highest values that were seen."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def see(self, values: Mapping[str, int]) -> None:
        """Take the values of now."""
        for name, value in values.items():
            self.seen[name] = max(value, self.seen.get(name, 0))


class Status(NamedTuple):
    """What is not a counter."""

    node: str
    version: str
    uptime_s: int
    datetime: str
    maxima: Mapping[str, int]
    """Highest values of `WATCHED`, and of `heap`."""
    heap_bytes: int


WATCHED = ("mqtt_connections", "mqtt_sessions", "mqtt_subscriptions", "topics")
"""Gauges whose highest value is shown."""


def sys_topics(totals: Mapping[str, int], status: Status) -> list[tuple[bytes, bytes]]:
    """Every $SYS topic that is not an average, with its payload."""
    disconnected = max(0, totals["mqtt_sessions"] - totals["mqtt_connections"])
    stored = totals["mqtt_queued_messages"] + totals["mqtt_retained_messages"]
    shown = [
        (PREFIX + b"version", f"robustmq version {status.version}".encode()),
        (PREFIX + b"uptime", b"%d seconds" % status.uptime_s),
    ]
    computed = {
        "clients/disconnected": disconnected,
        "clients/inactive": disconnected,
        "clients/maximum": status.maxima.get("mqtt_connections", 0),
        "heap/current size": status.heap_bytes,
        "heap/maximum size": status.maxima.get("heap", 0),
        "messages/stored": stored,
        "store/messages/count": stored,
    }
    computed |= {topic: totals[name] for topic, name in _PLAIN}
    shown += [(PREFIX + topic.encode(), b"%d" % value) for topic, value in computed.items()]
    return shown + _brokers(totals, status)


def _brokers(totals: Mapping[str, int], status: Status) -> list[tuple[bytes, bytes]]:
    node = status.node.encode()
    prefix = b"$SYS/brokers/" + node + b"/"
    shown = [
        (b"$SYS/brokers", node),
        (prefix + b"version", status.version.encode()),
        (prefix + b"uptime", _uptime(status.uptime_s).encode()),
        (prefix + b"datetime", status.datetime.encode()),
        (prefix + b"sysdescr", b"RobustMQ"),
    ]
    for topic, name in _STATS:
        shown.append((prefix + f"stats/{topic}/count".encode(), b"%d" % totals[name]))
        if name in WATCHED:
            most = status.maxima.get(name, 0)
            shown.append((prefix + f"stats/{topic}/max".encode(), b"%d" % most))
    shown += [(prefix + f"metrics/{topic}".encode(), b"%d" % totals[n]) for topic, n in _METRICS]
    return shown


def _uptime(seconds: int) -> str:
    """`2 days, 3 hours, 0 minutes, 7 seconds`, from the largest unit that is not 0."""
    parts = (("days", 86_400, 10**9), ("hours", 3_600, 24), ("minutes", 60, 60), ("seconds", 1, 60))
    shown = [(seconds // size % of, unit) for unit, size, of in parts]
    while len(shown) > 1 and not shown[0][0]:
        del shown[0]
    return ", ".join(f"{value} {unit}" for value, unit in shown)
