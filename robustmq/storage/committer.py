"""The storage thread: the one place that writes.

All that a turn has appended, of all shards of the worker, goes to the thread as one batch of jobs;
while it writes, the loop gathers the next. The thread is woken once a batch and calls the loop back
once a batch: handing the interpreter over is the expensive part. An error of a disk is fatal: what
it left is unknown (design, section 6).
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from robustmq.promises import Promise

Job = Callable[[], None]

SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter while the thread waits for it; Python's default is 5
ms."""


class Committer(Protocol):
    """Runs jobs in order, off the loop."""

    def submit(self, job: Job) -> Promise[None]:
        """Add a job to the turn's batch; the promise settles when the batch is done."""
        ...

    def kick(self) -> None:
        """The turn is over: run its batch."""
        ...

    def close(self) -> None:
        """Run what is left and stop."""
        ...


class ThreadCommitter:
    """A committer with a thread of its own, begun at the first batch (so never before a fork)."""

    def __init__(
        self,
        notify: Callable[[Callable[[], None]], object],
        fatal: Callable[[BaseException], None],
    ) -> None:
        """`notify` runs a function on the loop (call_soon_threadsafe); `fatal` ends the process."""
        self._notify = notify
        self._fatal = fatal
        self._batch: list[tuple[Job, Promise[None]]] = []
        self._queue: queue.SimpleQueue[list[tuple[Job, Promise[None]]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> Promise[None]:
        """Add a job to the turn's batch."""
        promise: Promise[None] = Promise()
        self._batch.append((job, promise))
        return promise

    def kick(self) -> None:
        """Hand the batch to the thread."""
        if not self._batch:
            return
        if self._thread is None:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
            self._thread.start()
        batch, self._batch = self._batch, []
        self._queue.put(batch)

    def _run(self) -> None:
        while True:
            batch = self._queue.get()
            if batch is None:
                return
            try:
                for job, _ in batch:
                    job()
            except BaseException as error:  # noqa: BLE001
                self._fatal(error)
                return
            self._notify(lambda batch=batch: _settle(batch))  # type: ignore[misc]

    def close(self) -> None:
        """Run what is left and stop the thread."""
        self.kick()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None


class InlineCommitter:
    """Runs each batch when the scheduler says so, on the same thread: for the simulation and the
    tests."""

    def __init__(self, schedule: Callable[[Callable[[], None]], object] | None = None) -> None:
        """`schedule` runs a function later; None: at once."""
        self._schedule = schedule
        self._batch: list[tuple[Job, Promise[None]]] = []

    def submit(self, job: Job) -> Promise[None]:
        """Add a job to the turn's batch."""
        promise: Promise[None] = Promise()
        self._batch.append((job, promise))
        return promise

    def kick(self) -> None:
        """Run the batch, now or when scheduled."""
        batch, self._batch = self._batch, []
        if not batch:
            return

        def run() -> None:
            for job, _ in batch:
                job()
            _settle(batch)

        if self._schedule is None:
            run()
        else:
            self._schedule(run)

    def close(self) -> None:
        """Run what is left."""
        self.kick()


def _settle(batch: list[tuple[Job, Promise[None]]]) -> None:
    for _, promise in batch:
        promise.resolve(None)
