"""Tasks that nobody waits for."""

from __future__ import annotations

import asyncio
import gc

import pytest

from robustmq.process.spawn import spawn


def test_a_task_is_kept_until_it_ends_and_its_failure_is_logged_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append("work")

    async def fail() -> None:
        raise KeyError("of ours")

    async def scenario() -> None:
        spawn("work", work())
        spawn("fail", fail())
        spawn("cancelled", asyncio.sleep(10)).cancel()
        gc.collect()
        await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert done == ["work"]
    (record,) = [r for r in caplog.records if r.name == "robustmq.task"]
    assert record.getMessage() == "a task failed" and record.exc_info is not None
