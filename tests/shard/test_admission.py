"""Flapping is counted exactly within a window, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustmq.client_settings import FlappingSettings
from robustmq.shard.admission import Flapping

WINDOW_S = 10
SETTINGS = FlappingSettings(enabled=True, max_count=3, window_s=WINDOW_S)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 6_000)), max_size=60))
def test_ends_are_counted_from_the_first_one_of_a_window(events: list[tuple[bytes, int]]) -> None:
    flapping = Flapping(SETTINGS)
    windows: dict[bytes, tuple[int, int]] = {}
    now = 0
    for client_id, later_ms in events:
        now += later_ms
        began, count = windows.get(client_id, (now, 0))
        if now - began >= WINDOW_S * 1000:
            began, count = now, 0
        windows[client_id] = (began, count + 1)
        assert flapping.left(client_id, now) == count + 1


@given(st.lists(st.integers(0, 20), max_size=100))
def test_no_more_clients_are_remembered_than_may_be(events: list[int]) -> None:
    flapping = Flapping(SETTINGS, most=5)
    for number in events:
        assert flapping.left(b"%d" % number, 0) >= 1
        assert len(flapping) <= 5


def test_a_client_that_was_banned_begins_anew() -> None:
    flapping = Flapping(SETTINGS)
    assert [flapping.left(b"a", 0) for _ in range(3)] == [1, 2, 3]
    flapping.forget(b"a")
    assert flapping.left(b"a", 0) == 1
