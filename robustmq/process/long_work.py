"""What takes long and touches nothing of the event loop's: on one thread of its own, made when it
is first needed (so never before a fork)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from robustmq.promises import Promise

T = TypeVar("T")


class LongWork:
    """Called with a function, gives the promise of its result; settles on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable[[], T]) -> Promise[T]:
        """Run it behind what was asked for before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "long work")
        promise: Promise[T] = Promise()

        def over(future: asyncio.Future[T]) -> None:
            error = future.exception()
            if error is None:
                promise.resolve(future.result())
            else:
                promise.fail(error)

        self._loop.run_in_executor(self._thread, work).add_done_callback(over)
        return promise
