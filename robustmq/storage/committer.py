"""The storage thread: the one place that writes.

All that a turn has appended, of all shards of the worker, goes to the thread as one batch of jobs;
while it writes, the loop gathers the next. The thread is woken once a batch and calls the loop back
once a batch: handing the interpreter over is the expensive part. A full disk is waited out, before
anything of a batch is written or, where it was fuller than it said, in the middle of it: what was
appended keeps its place. Any other error of a disk is fatal: what it left is unknown (design,
section 6).
"""

from __future__ import annotations

import errno
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from robustmq.promises import Promise

Job = Callable[[], None]

FULL_POLL_S = 0.1
SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter while the thread waits for it; Python's default is 5
ms."""


class Committer(Protocol):
    """Runs jobs in order, off the loop."""

    def submit(self, job: Job, size: int = 0) -> Promise[None]:
        """Add a job that writes `size` bytes to the turn's batch; the promise settles when the
        batch is done."""
        ...

    def free(self, job: Job) -> None:
        """Have a job run that only removes files: as soon as may be, also while others wait for
        room on the disk, and before those."""
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
        has_room: Callable[[int], bool] = lambda size: True,
        full: Callable[[bool], None] = lambda is_full: None,
    ) -> None:
        """`notify` runs a function on the loop (call_soon_threadsafe); `fatal` ends the process;
        `has_room` says if so many bytes can be written; `full` hears, on the loop, when not."""
        self._notify = notify
        self._fatal = fatal
        self._has_room = has_room
        self._full = full
        self._size = 0
        self._closing = False
        self._is_full = False
        self._batch: list[tuple[Job, Promise[None]]] = []
        self._queue: queue.SimpleQueue[tuple[list[tuple[Job, Promise[None]]], int] | None] = (
            queue.SimpleQueue()
        )
        self._removals: deque[Job] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job, size: int = 0) -> Promise[None]:
        """Add a job to the turn's batch."""
        promise: Promise[None] = Promise()
        self._batch.append((job, promise))
        self._size += size
        return promise

    def kick(self) -> None:
        """Hand the batch to the thread."""
        if not self._batch:
            return
        self._begin()
        batch, self._batch = self._batch, []
        size, self._size = self._size, 0
        self._queue.put((batch, size))

    def free(self, job: Job) -> None:
        """Hand the job to the thread, past all that waits."""
        self._begin()
        self._removals.append(job)
        self._queue.put(([], 0))

    def _begin(self) -> None:
        if self._thread is None:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
            self._thread.start()

    def _remove(self) -> None:
        while self._removals:
            self._removals.popleft()()

    def _run(self) -> None:
        while True:
            found = self._queue.get()
            if found is None:
                return
            batch, size = found
            try:
                self._remove()
                if not batch:
                    continue
                if not self._has_room(size):
                    self._wait_for_room(size)
                for job, _ in batch:
                    job()
                self._say_full(False)
            except BaseException as error:  # noqa: BLE001
                self._fatal(error)
                return
            self._notify(lambda batch=batch: _settle(batch))  # type: ignore[misc]

    def _wait_for_room(self, size: int) -> None:
        while not self._has_room(size):
            self.wait_for_room(OSError(errno.ENOSPC, "the disk is full"))
        self._say_full(False)

    def wait_for_room(self, error: OSError) -> None:
        """For a job whose write found the disk full: a moment, in which files may be removed.
        Raises `error` when the committer is to end."""
        self._say_full(True)
        self._remove()
        if self._closing:
            raise error
        time.sleep(FULL_POLL_S)

    def _say_full(self, is_full: bool) -> None:
        if is_full != self._is_full:
            self._is_full = is_full
            self._notify(lambda: self._full(is_full))

    def close(self) -> None:
        """Run what is left and stop the thread."""
        self._closing = True
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

    def submit(self, job: Job, size: int = 0) -> Promise[None]:
        """Add a job to the turn's batch."""
        promise: Promise[None] = Promise()
        self._batch.append((job, promise))
        return promise

    def free(self, job: Job) -> None:
        """Run the job, now or when scheduled."""
        if self._schedule is None:
            job()
        else:
            self._schedule(job)

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
