"""The circuit breaker of a store: when it opens, what it lets through, how it closes."""

from __future__ import annotations

from robustmq.storage.circuit_breaker import FAILURES, FIRST_MS, LONGEST_MS, CircuitBreaker


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    assert not any(breaker.failed(0) for _ in range(FAILURES - 1))
    assert breaker.admits(0)
    assert breaker.failed(0)
    return breaker


def test_failures_in_a_row_open_it_and_nobody_asks() -> None:
    breaker = opened()
    assert not breaker.admits(FIRST_MS - 1)


def test_an_answer_between_failures_keeps_it_closed() -> None:
    breaker = CircuitBreaker()
    for _ in range(5 * FAILURES):
        breaker.failed(0)
        if not breaker.is_open:
            assert not breaker.succeeded()
    assert not breaker.is_open


def test_one_question_goes_through_after_the_back_off_and_closes_it() -> None:
    breaker = opened()
    assert breaker.admits(FIRST_MS)
    assert not breaker.admits(FIRST_MS), "one alone"
    assert breaker.succeeded()
    assert breaker.admits(FIRST_MS)


def test_the_back_off_doubles_up_to_a_bound() -> None:
    breaker, now_ms = opened(), FIRST_MS
    pauses = []
    assert breaker.admits(now_ms)
    for _ in range(10):
        breaker.failed(now_ms)
        begun_ms = now_ms
        while not breaker.admits(now_ms):
            now_ms += 100
        pauses.append(now_ms - begun_ms)
    assert pauses[0] == 2 * FIRST_MS
    assert pauses[-1] == LONGEST_MS
