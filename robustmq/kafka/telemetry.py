"""Client telemetry (KIP-714), the broker's side: subscriptions, and what is known of client
instances. Pure.

A subscription is a config resource of type CLIENT_METRICS: prefixes of metrics' names, an interval,
and which clients it is for. What all subscriptions together ask of a client has an id that follows
from it and from the client's instance id, so that it is the same at every worker. Each worker
remembers the instances that it has heard of, MAX_INSTANCES at most: the one that was quiet longest
makes way.

What is pushed is OTLP's MetricsData (protobuf). It is looked through, so that what is none is
refused, and counted; the broker keeps no values of clients.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from uuid import UUID

import crc32c
import msgspec

from robustmq.errors import BrokerError, Fault, KafkaCode

MAX_INSTANCES = 16_384
MAX_BYTES = 1_048_576
"""telemetry.max.bytes of Apache Kafka."""
MAX_PLAIN_BYTES = 16 * MAX_BYTES
DEFAULT_INTERVAL_MS = 300_000
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 100, 3_600_000
COMPRESSIONS = (4, 3, 1, 2)
"""zstd, lz4, gzip, snappy; the first is what the broker likes best."""
EVERYTHING = "*"
SETTINGS = {"metrics": "", "interval.ms": str(DEFAULT_INTERVAL_MS), "match": ""}
"""The settings of a subscription and their defaults."""
SELECTORS = (
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DATA_OF_METRIC = frozenset({5, 7, 9, 10, 11})
"""Fields of OTLP's Metric that hold data: gauge, sum, histogram, exponential histogram, summary."""


class Subscribed(msgspec.Struct, frozen=True):
    """What is asked of a client: prefixes (empty: nothing; [""]: all), how often, and the id."""

    metrics: tuple[str, ...]
    interval_ms: int
    subscription_id: int


class Instance(msgspec.Struct):
    """What is known of one client instance. Times are monotonic."""

    subscribed: Subscribed
    asked_ms: int = -MAX_INTERVAL_MS
    pushed_ms: int = -MAX_INTERVAL_MS
    terminating: bool = False
    error: int = 0


def problem_of(settings: Mapping[str, str]) -> str | None:
    """What is wrong with the settings of a subscription; None when nothing is."""
    unknown = next((name for name in settings if name not in SETTINGS), None)
    if unknown is not None:
        return f"Unknown client metrics configuration: {unknown}"
    interval = settings.get("interval.ms", SETTINGS["interval.ms"])
    if not interval.isdecimal() or not MIN_INTERVAL_MS <= int(interval) <= MAX_INTERVAL_MS:
        return f"interval.ms is {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}"
    try:
        selectors(settings.get("match", ""))
    except ValueError as error:
        return str(error)
    return None


def selectors(match: str) -> list[tuple[str, re.Pattern[str]]]:
    """Which clients a subscription is for; raises ValueError, with words for people."""
    found = []
    for part in filter(None, (one.strip() for one in match.split(","))):
        name, divider, pattern = part.partition("=")
        if name not in SELECTORS or not divider:
            raise ValueError(f"match: {part!r} is not one of {', '.join(SELECTORS)} and a pattern")
        try:
            found.append((name, re.compile(pattern.strip())))
        except re.error as error:
            raise ValueError(f"match: {pattern!r} is no regular expression: {error}") from None
    return found


def subscription_for(
    instance_id: UUID, client: Mapping[str, str], subscriptions: list[dict[str, str]]
) -> Subscribed:
    """What all subscriptions together ask of a client; `client` is its value for each selector."""
    metrics: set[str] = set()
    interval_ms = DEFAULT_INTERVAL_MS
    for settings in subscriptions:
        wanted = selectors(settings.get("match", ""))
        if all(pattern.fullmatch(client.get(name, "")) for name, pattern in wanted):
            names = [one.strip() for one in settings.get("metrics", "").split(",")]
            metrics.update(filter(None, names))
            own_ms = int(settings.get("interval.ms", SETTINGS["interval.ms"]))
            interval_ms = min(interval_ms, own_ms)
    asked = ("",) if EVERYTHING in metrics else tuple(sorted(metrics))
    text = "\0".join(asked).encode() + interval_ms.to_bytes(4, "big") + bytes([bool(asked)])
    number = crc32c.crc32c(text + instance_id.bytes)
    return Subscribed(asked, interval_ms, number - (1 << 32) if number >> 31 else number)


class Instances:
    """The client instances that a worker has heard of."""

    def __init__(self) -> None:
        self._known: OrderedDict[UUID, Instance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def asks(self, instance_id: UUID, subscribed: Subscribed, now_ms: int) -> int:
        """A client asks what it is to push: 0, or why it is not told."""
        one = self._instance(instance_id, subscribed)
        last_ms = max(one.asked_ms, one.pushed_ms)
        changed = one.subscribed != subscribed
        early = now_ms - last_ms < subscribed.interval_ms
        if early and not changed and one.error != KafkaCode.UNKNOWN_SUBSCRIPTION_ID:
            return int(KafkaCode.THROTTLING_QUOTA_EXCEEDED)
        one.subscribed, one.asked_ms, one.error = subscribed, now_ms, 0
        return 0

    def pushes(
        self,
        instance_id: UUID,
        subscribed: Subscribed,
        subscription_id: int,
        terminating: bool,
        now_ms: int,
    ) -> int:
        """A client pushes: 0, or why it is refused."""
        one = self._instance(instance_id, subscribed)
        if one.terminating:
            return int(KafkaCode.INVALID_REQUEST)
        if subscription_id != subscribed.subscription_id:
            one.error = int(KafkaCode.UNKNOWN_SUBSCRIPTION_ID)
            return one.error
        if not terminating and now_ms - one.pushed_ms < subscribed.interval_ms:
            return int(KafkaCode.THROTTLING_QUOTA_EXCEEDED)
        one.pushed_ms, one.terminating, one.error = now_ms, terminating, 0
        return 0

    def _instance(self, instance_id: UUID, subscribed: Subscribed) -> Instance:
        one = self._known.get(instance_id)
        if one is None:
            one = self._known[instance_id] = Instance(subscribed)
            if len(self._known) > MAX_INSTANCES:
                self._known.popitem(last=False)
        self._known.move_to_end(instance_id)
        return one


# OTLP


def count_points(data: bytes) -> int:
    """How many data points OTLP's MetricsData has; CORRUPT_RECORD for what is none."""
    points = 0
    view = memoryview(data)
    for resource in _inner(view, 1):
        for scope in _inner(resource, 2):
            for metric in _inner(scope, 2):
                for number, value in _fields(metric):
                    if number in _DATA_OF_METRIC and isinstance(value, memoryview):
                        points += sum(1 for _ in _inner(value, 1))
    return points


def _inner(message: memoryview, wanted: int) -> list[memoryview]:
    """The values of a repeated message field."""
    found = []
    for number, value in _fields(message):
        if number == wanted:
            if not isinstance(value, memoryview):
                raise BrokerError(Fault.CORRUPT_RECORD, "not OTLP: a message was expected")
            found.append(value)
    return found


def _fields(message: memoryview) -> list[tuple[int, memoryview | int]]:
    """The fields of a protobuf message: their numbers and values."""
    found: list[tuple[int, memoryview | int]] = []
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            found.append((tag >> 3, value))
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(message, at)
        if size is None or size > end - at or tag >> 3 == 0:
            raise BrokerError(Fault.CORRUPT_RECORD, "not protobuf")
        found.append((tag >> 3, message[at : at + size]))
        at += size
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise BrokerError(Fault.CORRUPT_RECORD, "not protobuf: a number does not end")
