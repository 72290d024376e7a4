"""Threads for what blocks: the network of an object store, and the disk of its cache.

A job runs on one of a few threads; what it returns, or the error that it raises, is handed to its
`done` on the loop. Results that arrive close to each other wake the loop once. How many jobs wait
is bounded by whoever hands them in: a thread has at most a few.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Done = Callable[[Any], None]


class TierThreads:
    """A pool, begun with its first job (so never before a fork)."""

    def __init__(
        self, name: str, count: int, notify: Callable[[Callable[[], None]], object]
    ) -> None:
        """`notify` runs a function on the loop (call_soon_threadsafe)."""
        self.count = count
        self._name = name
        self._notify = notify
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        self._finished: deque[tuple[Done, Any]] = deque()
        self._told = False
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        """Run a job; `done` gets its result, or its Exception."""
        if self._closed:
            return
        if not self._threads:
            for number in range(self.count):
                thread = threading.Thread(
                    target=self._run, name=f"{self._name}-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._jobs.put((job, done))

    def _run(self) -> None:
        while True:
            found = self._jobs.get()
            if found is None:
                return
            job, done = found
            try:
                result = job()
            except Exception as error:  # noqa: BLE001
                result = error
            # What the job held is let go here, not with the next job.
            del job, found
            self._finished.append((done, result))
            del done, result
            if not self._told:
                self._told = True
                try:
                    self._notify(self._settle)
                except RuntimeError:
                    # The loop has ended: nobody waits.
                    return

    def _settle(self) -> None:
        # Before anything is taken: what arrives from here on tells again.
        self._told = False
        while self._finished:
            done, result = self._finished.popleft()
            done(result)

    def close(self) -> None:
        """No job begins any more; one that runs may hang in the network, and is left."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
