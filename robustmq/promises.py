"""Continuations without an event loop.

A `Promise` is a value that arrives later. Coroutines that await promises are driven by `start`: no
task, no timer and no event loop is involved, so protocol and state-machine code can wait without
importing asyncio, and runs the same under the simulation's scheduler. Whoever resolves the promise
runs what waited for it, at once and in order.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Promise(Generic[T]):
    """A value or an error that is settled once; later settlements are ignored (the first answer
    counts)."""

    __slots__ = ("_error", "_settled", "_value", "_waiters")

    def __init__(self) -> None:
        self._settled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], None]] = []

    @property
    def settled(self) -> bool:
        """True once a value or an error is there."""
        return self._settled

    def resolve(self, value: T) -> None:
        """Settle with a value and run what waits for it."""
        if not self._settled:
            self._settled = True
            self._value = value
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Settle with an error, raised in whoever awaits."""
        if not self._settled:
            self._settled = True
            self._error = error
            self._wake()

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call back when settled, at once if it already is."""
        if self._settled:
            callback()
        else:
            self._waiters.append(callback)

    def result(self) -> T:
        """The value, or raise the error. Only for a settled promise."""
        assert self._settled, "result() of a promise that is not settled"
        error = self._error
        if error is not None:
            try:
                raise error
            finally:
                # The trace of the error holds this frame: it and the promise would hold each other.
                del self, error
        return cast(T, self._value)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def __await__(self) -> Generator[Promise[Any], None, T]:
        if not self._settled:
            yield self
        try:
            return self.result()
        finally:
            # As in `result`.
            del self


def resolved(value: T) -> Promise[T]:
    """A promise that already holds its value."""
    promise: Promise[T] = Promise()
    promise.resolve(value)
    return promise


def tie(one: Promise[None], other: Promise[None]) -> None:
    """When one of them settles, so does the other."""
    one.when_settled(lambda: other.resolve(None))
    other.when_settled(lambda: one.resolve(None))


class _Run(Generic[T]):
    """A coroutine on its way. A class, and no function in a function: that would refer to itself,
    and keep every result until the collector finds it."""

    __slots__ = ("_coroutine", "outcome")

    def __init__(self, coroutine: Coroutine[Promise[Any], None, T]) -> None:
        self._coroutine = coroutine
        self.outcome: Promise[T] = Promise()

    def step(self) -> None:
        """On to the next promise that is not settled."""
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as finished:
            self.outcome.resolve(finished.value)
        except Exception as error:  # noqa: BLE001
            # Without this frame, which holds the promise that holds the error.
            trace = error.__traceback__
            self.outcome.fail(error.with_traceback(trace.tb_next if trace is not None else None))
        else:
            waiting.when_settled(self.step)


def start(coroutine: Coroutine[Promise[Any], None, T]) -> Promise[T]:
    """Run a coroutine up to its first unsettled promise, and on from there as promises settle."""
    run = _Run(coroutine)
    run.step()
    return run.outcome


async def gather(promises: list[Promise[T]]) -> list[T]:
    """The values of all promises, in their order; raises the first error met in that order."""
    return [await promise for promise in promises]
