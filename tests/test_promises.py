"""Continuations without an event loop."""

from __future__ import annotations

import gc

import pytest

from robustmq.promises import Promise, gather, resolved, start


def test_a_coroutine_runs_to_its_first_promise_and_on_when_that_settles() -> None:
    first: Promise[int] = Promise()
    seen: list[str] = []

    async def work() -> int:
        seen.append("begun")
        value = await first + await resolved(1)
        seen.append("done")
        return value

    outcome = start(work())
    assert seen == ["begun"] and not outcome.settled
    first.resolve(41)
    assert seen == ["begun", "done"] and outcome.result() == 42


def test_an_error_goes_to_whoever_awaits_and_the_first_settlement_counts() -> None:
    first: Promise[int] = Promise()

    async def work() -> list[int]:
        return await gather([resolved(1), first])

    outcome = start(work())
    first.fail(ValueError("no"))
    first.resolve(1)
    with pytest.raises(ValueError, match="no"):
        outcome.result()


def test_what_is_done_is_freed_at_once_without_the_collector() -> None:
    """Used to happen: each answer of a fetch stayed in memory until the collector came by."""

    async def work(promise: Promise[bytes]) -> bytes:
        return await promise

    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            promise: Promise[bytes] = Promise()
            outcome = start(work(promise))
            promise.resolve(bytes(1000))
            assert outcome.result() == bytes(1000)
        del promise, outcome
        assert gc.collect() == 0
    finally:
        gc.enable()
