"""When what a turn appended is handed to the storage thread."""

from __future__ import annotations

from typing import cast

from robustmq.promises import Promise, resolved
from robustmq.shard.commits import LAZY_BYTES, Commits
from robustmq.storage.shard_store import ShardStore


class Store:
    """Counts the commits that it is asked for."""

    def __init__(self) -> None:
        self.flushed: list[bool] = []

    def flush(self, sync: bool) -> Promise[None]:
        self.flushed.append(sync)
        return resolved(None)


def commits_of(store: Store) -> Commits:
    return Commits({0: cast(ShardStore, store)}, lambda: None)


def test_what_nobody_waits_for_is_committed_behind() -> None:
    store = Store()
    commits = commits_of(store)
    commits.mark_lazy(0, 100)
    commits.flush()
    assert store.flushed == [] and not commits.idle
    commits.hurry()
    assert store.flushed == [False] and commits.idle


def test_what_somebody_waits_for_takes_all_along_at_once() -> None:
    store = Store()
    commits = commits_of(store)
    told: list[str] = []
    commits.mark_lazy(0, 100)
    commits.mark(0, True, lambda: told.append("committed"))
    commits.flush()
    assert store.flushed == [True] and told == ["committed"] and commits.idle


def test_much_that_nobody_waits_for_does_not_gather() -> None:
    store = Store()
    commits = commits_of(store)
    commits.mark_lazy(0, LAZY_BYTES + 1)
    commits.flush()
    assert store.flushed == [False]


def test_a_reader_that_waits_gets_what_comes_at_once() -> None:
    store = Store()
    commits = commits_of(store)
    commits.awaited = lambda shard: True
    commits.mark_lazy(0, 1)
    commits.flush()
    assert store.flushed == [False]
