"""The time wheel."""

from __future__ import annotations

from robustmq.groups.timers import TimeWheel


def test_keys_fire_by_deadline_and_then_by_the_order_they_were_set() -> None:
    wheel: TimeWheel[str] = TimeWheel()
    for key, when in (("late", 20), ("one", 10), ("two", 10)):
        wheel.set(key, when)
    assert wheel.next_deadline_ms() == 10
    assert wheel.due(15) == ["one", "two"]
    assert wheel.due(15) == []
    assert wheel.due(20) == ["late"]
    assert wheel.next_deadline_ms() is None


def test_a_key_set_again_moves_and_a_cancelled_one_never_fires() -> None:
    wheel: TimeWheel[str] = TimeWheel()
    wheel.set("moved", 10)
    wheel.set("moved", 30)
    wheel.set("gone", 10)
    wheel.set("gone", None)
    assert wheel.due(29) == []
    assert wheel.due(30) == ["moved"]


def test_memory_is_bounded_by_the_timers_in_force() -> None:
    wheel: TimeWheel[int] = TimeWheel()
    for when in range(100_000):
        wheel.set(when % 10, when)
    assert len(wheel) == 10
    assert len(wheel._heap) <= 65


def test_what_is_beyond_the_limit_comes_next_time() -> None:
    wheel: TimeWheel[int] = TimeWheel()
    for key in range(5):
        wheel.set(key, key)
    assert wheel.due(10, limit=3) == [0, 1, 2]
    assert wheel.due(10, limit=3) == [3, 4]
