"""Parked readers are woken by what concerns them, and a commit looks at little else."""

from __future__ import annotations

from typing import cast

from robustmq.groups.timers import TimeWheel
from robustmq.promises import Promise, resolved
from robustmq.shard.commits import Commits
from robustmq.shard.waits import FEW, IN_TURN, AppendWaits
from robustmq.storage.shard_store import ShardStore


class Logs:
    """Ends of logs, all of shard 0, and how often somebody asked for one."""

    def __init__(self) -> None:
        self.ends: dict[bytes, int] = {}
        self.asked = 0
        wheel: TimeWheel[tuple[str, ...]] = TimeWheel()
        self.waits = AppendWaits(wheel, lambda: 0, lambda topic, partition: 0, self.end)
        self.parked: dict[bytes, Promise[None]] = {}

    def end(self, topic: bytes, partition: int, isolation: int) -> int | None:
        self.asked += 1
        return self.ends.get(topic, 0)

    def park(self, *topics: bytes) -> Promise[None]:
        return self.waits.wait([(topic, 0, self.ends.get(topic, 0), 0) for topic in topics], 1_000)

    def park_many(self, number: int) -> None:
        for name in (b"t%d" % one for one in range(number)):
            self.parked[name] = self.park(name)
        self.asked = 0


def test_a_commit_looks_at_what_it_touched_and_a_few_in_turn() -> None:
    logs = Logs()
    logs.park_many(5_000)
    logs.ends[b"t4321"] = 1
    logs.waits.committed(0, {(b"t4321", 0)})
    assert logs.parked[b"t4321"].settled
    assert sum(one.settled for one in logs.parked.values()) == 1
    assert logs.asked <= 1 + IN_TURN
    assert len(logs.waits) == 4_999


def test_who_was_not_told_of_is_found_in_turn() -> None:
    logs = Logs()
    logs.park_many(1_000)
    logs.ends[b"t777"] = 1
    for _ in range(1_000 // IN_TURN + 1):
        logs.waits.committed(0, set())
    assert logs.parked[b"t777"].settled


def test_where_few_wait_or_nothing_was_noted_all_are_looked_at() -> None:
    for number, touched in ((FEW, set()), (1_000, None)):
        logs = Logs()
        logs.park_many(number)
        logs.ends[b"t%d" % (number - 1)] = 1
        logs.waits.committed(0, touched)
        assert logs.parked[b"t%d" % (number - 1)].settled


def test_a_reader_of_many_topics_is_woken_once_and_leaves_nothing_behind() -> None:
    logs = Logs()
    many = [b"t%d" % one for one in range(100)]
    first, second = logs.park(*many), logs.park(*many, b"more")
    logs.ends[b"t5"] = logs.ends[b"t6"] = 1
    logs.waits.committed(0, {(b"t5", 0), (b"t6", 0)})
    assert first.settled and second.settled and not len(logs.waits)
    assert not logs.waits.awaited(0) and not logs.waits.many(0)


def test_appends_from_before_many_waited_make_the_commit_look_at_all() -> None:
    class Store:
        def flush(self, sync: bool) -> Promise[None]:
            return resolved(None)

    commits = Commits({0: cast(ShardStore, Store())}, lambda: None)
    told: list[object] = []
    commits.committed = lambda shard, touched: told.append(touched)
    commits.appended(0, lambda: [(b"early", 0)])
    commits.noted = lambda shard: True
    commits.appended(0, lambda: [(b"late", 0)])
    commits.mark(0)
    commits.flush()
    commits.appended(0, lambda: [(b"later", 0)])
    commits.mark(0)
    commits.flush()
    assert told == [None, {(b"later", 0)}]
