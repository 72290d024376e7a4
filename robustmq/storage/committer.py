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
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from robustmq.promises import Promise
from robustmq.storage.disk import Disk, Row, Rows

Job = Callable[[], None]

FULL_POLL_S = 0.1
SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter while the thread waits for it; Python's default is 5
ms."""


class Stage(msgspec.Struct, frozen=True):
    """A part of a grouped job: `before`, then the rows are written, then all that was written below
    the directories of `synced` is synced, then `behind`. Where none of a group is synced and has
    something behind it, its rows are written by one call with those of the next stage."""

    rows: Rows
    synced: Sequence[str]
    before: Job | None = None
    behind: Job | None = None


class GroupedJob(msgspec.Struct, frozen=True):
    """A job whose files are written and synced together with those of the jobs beside it: the first
    stage of all, then the second one of all. So no file of a second stage says of one of a first
    stage what power loss may undo, and the disk is waited for once a stage, however many jobs there
    are."""

    disk: Disk
    stages: tuple[Stage, ...]
    """With more than two it stands alone: in the group its third one would come behind the second
    one of what follows it."""


AnyJob = Job | GroupedJob
STAGES = 2


def run_all(jobs: Iterable[AnyJob]) -> None:
    """Run jobs in order; grouped ones that stand side by side as one."""
    group: list[GroupedJob] = []
    for job in jobs:
        if isinstance(job, GroupedJob):
            if len(job.stages) <= STAGES:
                group.append(job)
                continue
            _finish(group)
            _finish([job])
        else:
            _finish(group)
            job()
        group = []
    _finish(group)


def _finish(group: list[GroupedJob]) -> None:
    rows: list[Row] = []
    for number in range(max((len(job.stages) for job in group), default=0)):
        stages = [job.stages[number] for job in group if number < len(job.stages)]
        before = [stage.before for stage in stages if stage.before is not None]
        if rows and before:
            group[0].disk.commit(rows)
            rows = []
        for job in before:
            job()
        rows += [row for stage in stages for row in stage.rows]
        directories = {directory: None for stage in stages for directory in stage.synced}
        behind = [stage.behind for stage in stages if stage.behind is not None]
        if directories or (rows and behind):
            group[0].disk.commit(rows, *directories)
            rows = []
        for job in behind:
            job()
    if rows:
        group[0].disk.commit(rows)


class Committer(Protocol):
    """Runs jobs in order, off the loop."""

    def submit(self, job: AnyJob, size: int = 0) -> Promise[None]:
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
        self._batch: list[tuple[AnyJob, Promise[None]]] = []
        self._queue: queue.SimpleQueue[tuple[list[tuple[AnyJob, Promise[None]]], int] | None] = (
            queue.SimpleQueue()
        )
        self._removals: deque[Job] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, job: AnyJob, size: int = 0) -> Promise[None]:
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
        going_on = True
        while going_on:
            batch, size, going_on = self._next_batches()
            try:
                self._remove()
                if not batch:
                    continue
                if not self._has_room(size):
                    self._wait_for_room(size)
                run_all(job for job, _ in batch)
                self._say_full(False)
            except BaseException as error:  # noqa: BLE001
                self._fatal(error)
                return
            self._notify(lambda batch=batch: _settle(batch))  # type: ignore[misc]

    def _next_batches(self) -> tuple[list[tuple[AnyJob, Promise[None]]], int, bool]:
        """All that was handed over while the thread was busy, as one batch: while one fdatasync
        runs, all that comes gathers for the next; and whether more may follow."""
        batch: list[tuple[AnyJob, Promise[None]]] = []
        size = 0
        found = self._queue.get()
        while found is not None:
            batch += found[0]
            size += found[1]
            if self._queue.empty():
                return batch, size, True
            found = self._queue.get()
        return batch, size, False

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
        self._batch: list[tuple[AnyJob, Promise[None]]] = []

    def submit(self, job: AnyJob, size: int = 0) -> Promise[None]:
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
            run_all(job for job, _ in batch)
            _settle(batch)

        if self._schedule is None:
            run()
        else:
            self._schedule(run)

    def close(self) -> None:
        """Run what is left."""
        self.kick()


def _settle(batch: list[tuple[AnyJob, Promise[None]]]) -> None:
    for _, promise in batch:
        promise.resolve(None)
