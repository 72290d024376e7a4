"""The storage thread: order, errors of the disk, and a disk without room."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial

import pytest

from robustmq.storage.committer import GroupedJob, InlineCommitter, Stage, ThreadCommitter
from robustmq.storage.disk import MemoryDisk
from tests.broker import until


class Loop:
    """What the thread calls back, run by the test as a loop would."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.fatal: list[BaseException] = []
        self.full: list[bool] = []
        self.room = True
        self.committer = ThreadCommitter(
            self.calls.put, self.fatal.append, lambda size: self.room, self.full.append
        )

    def run(self) -> None:
        """Run what has been called back by now, and wait for one thing more."""
        self.calls.get(timeout=5)()


def test_jobs_run_in_order_and_their_promises_settle_on_the_loop() -> None:
    loop, done = Loop(), []
    promises = [loop.committer.submit(lambda n=n: done.append(n)) for n in range(5)]  # type: ignore[misc]
    assert not done
    loop.committer.kick()
    loop.run()
    assert done == [0, 1, 2, 3, 4] and all(promise.settled for promise in promises)
    loop.committer.close()


@pytest.mark.parametrize("operation", ["write", "fdatasync"])
def test_an_error_of_the_disk_ends_the_process_and_settles_nothing(operation: str) -> None:
    loop = Loop()

    def fail() -> None:
        raise OSError(5, operation)

    before = loop.committer.submit(lambda: None)
    failed = loop.committer.submit(fail)
    loop.committer.kick()
    behind = loop.committer.submit(lambda: None)
    loop.committer.kick()
    until(lambda: loop.fatal)
    assert loop.calls.empty() and not (before.settled or failed.settled or behind.settled)


def test_files_are_removed_while_a_full_disk_is_waited_out() -> None:
    loop, done = Loop(), []
    loop.room = False
    promise = loop.committer.submit(lambda: done.append("written"), 1_000)
    loop.committer.kick()
    loop.run()

    def remove() -> None:
        done.append("removed")
        loop.room = True

    loop.committer.free(remove)
    loop.run()
    loop.run()
    assert done == ["removed", "written"] and promise.settled
    loop.committer.close()


def test_a_full_disk_is_waited_out_and_what_waited_is_written() -> None:
    loop, done = Loop(), []
    loop.room = False
    promise = loop.committer.submit(lambda: done.append(1), 1_000)
    loop.committer.kick()
    loop.run()
    assert loop.full == [True] and not done and not loop.fatal
    loop.room = True
    loop.run()
    loop.run()
    assert loop.full == [True, False] and done == [1] and promise.settled
    loop.committer.close()


class CountingDisk(MemoryDisk):
    """Remembers what was synced together."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[tuple[str, ...]] = []

    def sync_below(self, *directories: str) -> None:
        self.together.append(directories)
        super().sync_below(*directories)


def test_what_comes_while_a_sync_runs_is_synced_together_and_settles_in_order() -> None:
    disk, settled = CountingDisk(), list[int]()
    began, busy, done = threading.Event(), threading.Event(), threading.Event()
    committer = ThreadCommitter(lambda run: run(), lambda error: None)

    def wait() -> None:
        began.set()
        assert busy.wait(10)

    committer.submit(wait)
    committer.kick()
    assert began.wait(10)
    for number in range(6):
        path, logs = f"/{number % 2}/log/a", [f"/{number % 2}/log"]
        stages = Stage((), ()), Stage([(path, [b"%d" % number])], logs)
        job = GroupedJob(disk, stages)
        committer.submit(job).when_settled(partial(settled.append, number))
        committer.kick()
    committer.submit(lambda: None).when_settled(done.set)
    committer.kick()
    busy.set()
    assert done.wait(10)
    assert disk.together == [("/0/log", "/1/log")]
    assert settled == list(range(6))
    assert disk.files["/0/log/a"] == b"024" and disk.synced["/1/log/a"] == 3
    committer.close()


def test_a_job_with_a_third_stage_is_whole_before_what_follows_it_begins() -> None:
    disk = CountingDisk()
    committer = InlineCommitter()
    for stages in (("a", "b"), ("c", "d", "e"), ("f", "g")):
        parts = tuple(Stage([("/log", [name.encode()])], [f"/{name}"]) for name in stages)
        committer.submit(GroupedJob(disk, parts))
    committer.kick()
    assert disk.files["/log"] == b"abcdefg"
    assert disk.together == [(f"/{name}",) for name in "abcdefg"]
