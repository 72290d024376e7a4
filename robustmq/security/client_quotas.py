"""Client quotas at work: how long a client must wait for what it has used. Pure.

The bounds of a client are those of the first entity that has one, in Kafka's order: user and client
id, user and any client id, user, any user and client id, any user and any client id, any user,
client id, any client id. What shares an entity shares its bound: a user's quota is for all its
clients together. A default is for each user, or client id, by itself. As each worker is a Kafka
broker, each of them grants a quota of its own, as Kafka's brokers do.

Rates are measured over a sliding window of WINDOW_SLICES seconds, and never over less than all but
one of them: a client that was quiet may burst. Who is above its bound waits until the rate over the
window is down to it. Changes to the cluster (KIP-599) take tokens from a bucket instead, which may
go below zero once; connections of an address (KIP-612) take tokens, and there is no debt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from robustmq.quotas import EntityType, QuotaEntity, QuotaSetting, entity_key

WINDOW_SLICES = 11
SLICE_MS = 1_000
MIN_WINDOW_MS = (WINDOW_SLICES - 1) * SLICE_MS
MAX_REQUEST_THROTTLE_MS = SLICE_MS
MAX_TRACKED = 20_000
"""Windows that are kept; the one that was used longest ago makes way."""
UNITS = {"request_percentage": 10_000.0}
"""What one unit of a bound allows a second, in the units that are charged: a percent of a loop is
10,000 microseconds. All other bounds are in what is charged."""


class Window:
    """What was used in the last seconds."""

    __slots__ = ("_begins", "_used")

    def __init__(self) -> None:
        self._begins = [0] * WINDOW_SLICES
        self._used = [0.0] * WINDOW_SLICES

    def charge(self, amount: float, bound: float, now_ms: int) -> int:
        """Use so much; how long to wait, in ms."""
        begins = now_ms // SLICE_MS * SLICE_MS
        place = begins // SLICE_MS % WINDOW_SLICES
        if self._begins[place] != begins:
            self._begins[place], self._used[place] = begins, 0.0
        self._used[place] += amount
        total, oldest_ms = 0.0, begins
        first = begins - (WINDOW_SLICES - 1) * SLICE_MS
        for begin_ms, used in zip(self._begins, self._used, strict=True):
            if begin_ms >= first and used:
                total += used
                oldest_ms = min(oldest_ms, begin_ms)
        window_ms = max(now_ms - oldest_ms, MIN_WINDOW_MS)
        return max(0, round(total / bound * 1000 - window_ms))


class Tokens:
    """A bucket that fills at a rate."""

    __slots__ = ("_filled_ms", "_tokens")

    def __init__(self, burst: float, now_ms: int) -> None:
        self._tokens = burst
        self._filled_ms = now_ms

    def fill(self, rate: float, burst: float, now_ms: int) -> float:
        """What is there now."""
        earned = (now_ms - self._filled_ms) * rate / 1000
        self._tokens = min(burst, self._tokens + earned)
        self._filled_ms = now_ms
        return self._tokens

    def take(self, amount: float) -> float:
        """What is left, which may be below zero."""
        self._tokens -= amount
        return self._tokens


class ClientQuotas:
    """The quotas of the cluster, and what the clients of one worker have used of them."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        """`now_us` gives monotonic microseconds."""
        self.now_us = now_us
        self.active = False
        """Is there any quota of users or client ids?"""
        self.limits_addresses = False
        self._settings: dict[str, dict[str, float]] = {}
        self._found: dict[tuple[str, str, str], tuple[float | None, tuple[str, str]]] = {}
        self._windows: OrderedDict[tuple[str, str, str], Window] = OrderedDict()
        self._tokens: OrderedDict[tuple[str, str, str], Tokens] = OrderedDict()

    def replace(self, settings: Mapping[str, QuotaSetting]) -> None:
        """All quotas are these; what was used stays."""
        self._settings = {key: setting.values for key, setting in settings.items()}
        self._found.clear()
        kinds = [setting.entity.parts[0][0] for setting in settings.values()]
        self.limits_addresses = "ip" in kinds
        self.active = any(kind != "ip" for kind in kinds)

    def bound(self, key: str, user: str, client_id: str) -> float | None:
        """The bound of a client; None: there is none."""
        return self._find(key, user, client_id)[0]

    def charge(self, key: str, user: str, client_id: str, amount: float, now_ms: int) -> int:
        """A client has used so much; how long it must wait, in ms."""
        bound, owner = self._find(key, user, client_id)
        if bound is None:
            return 0
        name = (key, *owner)
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = Window()
            _bounded(self._windows)
        self._windows.move_to_end(name)
        waits_ms = window.charge(amount, bound * UNITS.get(key, 1.0), now_ms)
        return min(waits_ms, MAX_REQUEST_THROTTLE_MS) if key == "request_percentage" else waits_ms

    def mutate(
        self, user: str, client_id: str, partitions: int, now_ms: int, strict: bool
    ) -> tuple[bool, int]:
        """A client wants to make or delete partitions. May it, and how long must it wait? Who is
        not strict always may, and waits."""
        rate, owner = self._find("controller_mutation_rate", user, client_id)
        if rate is None:
            return True, 0
        burst = rate * WINDOW_SLICES
        tokens = self._bucket(("controller_mutation_rate", *owner), burst, now_ms)
        left = tokens.fill(rate, burst, now_ms)
        if strict and left < 0:
            return False, round(-left / rate * 1000)
        left = tokens.take(partitions)
        return True, 0 if strict else max(0, round(-left / rate * 1000))

    def admits(self, address: str, now_ms: int) -> bool:
        """May an address open one more connection now?"""
        if not self.limits_addresses:
            return True
        for name in (address, None):
            values = self._settings.get(entity_key(QuotaEntity((("ip", name),))), {})
            rate = values.get("connection_creation_rate")
            if rate is not None:
                tokens = self._bucket(("connection_creation_rate", address, ""), rate, now_ms)
                if tokens.fill(rate, max(rate, 1.0), now_ms) < 1:
                    return False
                tokens.take(1)
                return True
        return True

    def _bucket(self, name: tuple[str, str, str], burst: float, now_ms: int) -> Tokens:
        tokens = self._tokens.get(name)
        if tokens is None:
            tokens = self._tokens[name] = Tokens(burst, now_ms)
            _bounded(self._tokens)
        self._tokens.move_to_end(name)
        return tokens

    def _find(self, key: str, user: str, client_id: str) -> tuple[float | None, tuple[str, str]]:
        """The bound that is for a client, and whose it is: (user, client id)."""
        asked = (key, user, client_id)
        found = self._found.get(asked)
        if found is None:
            if len(self._found) >= MAX_TRACKED:
                self._found.clear()
            found = self._found[asked] = self._look_up(key, user, client_id)
        return found

    def _look_up(self, key: str, user: str, client_id: str) -> tuple[float | None, tuple[str, str]]:
        for parts, owner in _levels(user, client_id):
            values = self._settings.get(entity_key(QuotaEntity(parts)))
            if values is not None and key in values:
                return values[key], owner
        return None, ("", "")


Parts = tuple[tuple[EntityType, str | None], ...]
Name = tuple[str, str, str]


def _levels(user: str, client_id: str) -> list[tuple[Parts, tuple[str, str]]]:
    pair, one, any_user = (user, client_id), (user, ""), ("", client_id)
    return [
        ((("user", user), ("client-id", client_id)), pair),
        ((("user", user), ("client-id", None)), pair),
        ((("user", user),), one),
        ((("user", None), ("client-id", client_id)), pair),
        ((("user", None), ("client-id", None)), pair),
        ((("user", None),), one),
        ((("client-id", client_id),), any_user),
        ((("client-id", None),), any_user),
    ]


def _bounded(table: OrderedDict[Name, Window] | OrderedDict[Name, Tokens]) -> None:
    if len(table) > MAX_TRACKED:
        table.popitem(last=False)
