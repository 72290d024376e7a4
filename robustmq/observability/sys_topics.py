"""$SYS topics, named as mosquitto names them (man mosquitto, "Broker Status").

A pure function from the sums of the counters to (topic, payload); who publishes them, and when, is
the worker's business. Load averages are kept by `LoadAverages`, fed once an interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    ("messages/stored", "mqtt_queued_messages"),
    ("store/messages/count", "mqtt_queued_messages"),
    ("store/messages/bytes", "mqtt_queued_bytes"),
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
    ("connections", "mqtt_connections_opened"),
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


def sys_topics(totals: Mapping[str, int], version: str, uptime_s: int) -> list[tuple[bytes, bytes]]:
    """Every $SYS topic that is not an average, with its payload."""
    disconnected = max(0, totals["mqtt_sessions"] - totals["mqtt_connections"])
    shown = [
        (PREFIX + b"version", f"robustmq version {version}".encode()),
        (PREFIX + b"uptime", b"%d seconds" % uptime_s),
        (PREFIX + b"clients/disconnected", b"%d" % disconnected),
        (PREFIX + b"clients/inactive", b"%d" % disconnected),
    ]
    shown += [(PREFIX + topic.encode(), b"%d" % totals[name]) for topic, name in _PLAIN]
    return shown
