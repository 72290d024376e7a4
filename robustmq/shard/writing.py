"""One write a client and turn, at the turn's end.

A write of a few bytes costs as much as one of thousands, so clients that take small writes set the
pace: after a round over at least MANY of them the next one waits as long as that round took (as
often as there were hundreds of them, and LONGEST_REST_US at most), while what comes is gathered. A
message is late by that at most, and under load each write carries more of them. A round over few
clients, or of much data, is followed by the next at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustmq.shard.client import MqttClient

MANY = 8
A_HUNDRED = 100
SMALL_BYTES = 4096
LONGEST_REST_US = 5000


class Writing:
    """The clients whose sinks are to be written."""

    def __init__(
        self,
        monotonic_us: Callable[[], int],
        later: Callable[[int, Callable[[], None]], object],
        turn: Callable[[], None],
    ) -> None:
        """`later(delay_us, run)` runs a function after a time; `turn` sees that this turn has an
        end."""
        self._monotonic_us = monotonic_us
        self._later = later
        self._turn = turn
        self._clients: list[MqttClient] = []
        self._resting = False

    def add(self, client: MqttClient) -> None:
        """There are bytes in a client's sink."""
        if not client.writing:
            client.writing = True
            self._clients.append(client)
            self._turn()

    def flush(self) -> None:
        """Write them, unless it is too early."""
        clients = self._clients
        if not clients or self._resting:
            return
        self._clients = []
        if len(clients) < MANY:
            for client in clients:
                client.writing = False
                client.flush()
            return
        begin_us = self._monotonic_us()
        size = 0
        for client in clients:
            client.writing = False
            size += client.flush()
        if size < SMALL_BYTES * len(clients):
            took_us = self._monotonic_us() - begin_us
            rest_us = took_us * max(1, len(clients) // A_HUNDRED)
            self._resting = True
            self._later(min(rest_us, LONGEST_REST_US), self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._clients:
            self._turn()
