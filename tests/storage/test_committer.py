"""The storage thread: order, errors of the disk, and a disk without room."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from robustmq.storage.committer import ThreadCommitter
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
