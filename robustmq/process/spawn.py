"""The one way to start a task: kept until it ends, its failure logged."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from robustmq.observability import logs

T = TypeVar("T")
_tasks: set[asyncio.Task[Any]] = set()
log = logs.get_logger("task")


def spawn(name: str, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run a coroutine on the running loop."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _tasks.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if task.cancelled():
        return
    try:
        task.result()
    except Exception:
        log.exception("a task failed", task=task.get_name())
