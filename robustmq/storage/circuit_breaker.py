"""Whether an object store is worth asking: a circuit breaker.

Closed: it is asked. After `FAILURES` answers in a row that failed it is open: nobody asks until the
back-off is over, which doubles from `FIRST_MS` to `LONGEST_MS`. Then one question goes through; if
it is answered the breaker is closed again, else the back-off begins anew. Pure: time is passed in.
"""

from __future__ import annotations

FAILURES = 5
FIRST_MS = 500
LONGEST_MS = 30_000


class CircuitBreaker:
    """Of one store."""

    __slots__ = ("_backoff_ms", "_failures", "_probing", "_until_ms", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._failures = 0
        self._backoff_ms = FIRST_MS
        self._until_ms = 0
        self._probing = False

    def admits(self, now_ms: int) -> bool:
        """May the store be asked now? Whoever is told so asks it."""
        if not self.is_open:
            return True
        if self._probing or now_ms < self._until_ms:
            return False
        self._probing = True
        return True

    def succeeded(self) -> bool:
        """It has answered; True when it was taken for dead before."""
        was_open = self.is_open
        self.is_open = self._probing = False
        self._failures = 0
        self._backoff_ms = FIRST_MS
        return was_open

    def failed(self, now_ms: int) -> bool:
        """It has not; True when it is taken for dead from now on."""
        self._failures += 1
        if self.is_open:
            if self._probing:
                self._probing = False
                self._until_ms = now_ms + self._backoff_ms
                self._backoff_ms = min(2 * self._backoff_ms, LONGEST_MS)
            return False
        if self._failures < FAILURES:
            return False
        self.is_open = True
        self._until_ms = now_ms + self._backoff_ms
        self._backoff_ms = min(2 * self._backoff_ms, LONGEST_MS)
        return True
