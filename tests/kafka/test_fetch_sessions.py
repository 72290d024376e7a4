"""Fetch sessions: epochs, incremental changes, order and bounds (KIP-227)."""

from __future__ import annotations

from robustmq.kafka.fetch_sessions import FetchPartition, FetchSessions


def wanted(*numbers: int) -> list[FetchPartition]:
    return [FetchPartition(("t", number), 0, 1 << 20, -1) for number in numbers]


def test_a_session_counts_its_requests() -> None:
    sessions = FetchSessions(first_id=7)
    opened = sessions.open(0, 0, wanted(0, 1), [], 0)
    assert (opened.session_id, opened.incremental) == (7, False)
    again = sessions.open(7, 1, [], [], 0)
    assert again.incremental and [part.key for part in again.partitions] == [("t", 0), ("t", 1)]
    assert sessions.open(7, 1, [], [], 0).error == 71
    assert sessions.open(7, 2, [], [], 0).error == 0
    assert sessions.open(8, 1, [], [], 0).error == 70


def test_partitions_are_changed_added_and_forgotten() -> None:
    sessions = FetchSessions()
    opened = sessions.open(0, 0, wanted(0, 1), [], 0)
    change = FetchPartition(("t", 1), 50, 1, -1)
    again = sessions.open(opened.session_id, 1, [change, *wanted(2)], [("t", 0)], 0)
    assert [(part.key[1], part.offset) for part in again.partitions] == [(1, 50), (2, 0)]


def test_a_final_epoch_closes_and_serves_without_a_session() -> None:
    sessions = FetchSessions()
    opened = sessions.open(0, 0, wanted(0), [], 0)
    closed = sessions.open(opened.session_id, -1, wanted(0), [], 0)
    assert (closed.error, closed.session_id, len(closed.partitions)) == (0, 0, 1)
    assert len(sessions) == 0


def test_at_the_bound_only_a_silent_session_makes_room() -> None:
    sessions = FetchSessions(capacity=2, eviction_ms=100)
    first = sessions.open(0, 0, wanted(0), [], 0)
    second = sessions.open(0, 0, wanted(0), [], 10)
    assert sessions.open(0, 0, wanted(0), [], 50).session_id == 0
    assert sessions.open(first.session_id, 1, [], [], 90).error == 0
    assert sessions.open(0, 0, wanted(0), [], 120).session_id > 0
    assert sessions.open(second.session_id, 1, [], [], 120).error == 70
    assert sessions.open(first.session_id, 2, [], [], 120).error == 0


def test_partitions_over_all_sessions_are_bounded() -> None:
    sessions = FetchSessions(partition_capacity=3)
    assert sessions.open(0, 0, wanted(0, 1), [], 0).session_id > 0
    assert sessions.open(0, 0, wanted(0, 1), [], 0).session_id == 0
    assert sessions.open(0, 0, wanted(0), [], 0).session_id > 0


def test_who_was_served_stands_behind_the_others() -> None:
    sessions = FetchSessions()
    opened = sessions.open(0, 0, wanted(0, 1, 2), [], 0)
    assert opened.session is not None
    sessions.served(opened.session, [("t", 0), ("t", 9)])
    again = sessions.open(opened.session_id, 1, [], [], 0)
    assert [part.key[1] for part in again.partitions] == [1, 2, 0]
