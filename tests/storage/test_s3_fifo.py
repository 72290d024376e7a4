"""S3-FIFO: its bounds, against a plain model of them, and what it is for: a scan moves nothing."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from robustmq.storage.s3_fifo import S3Fifo

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "use", "remove", "evict", "make way"]), st.integers(0, 30)
    ),
    max_size=300,
)


@given(STEPS, st.integers(1, 12), st.data())
def test_what_is_in_is_what_came_and_did_not_go(
    steps: list[tuple[str, int]], capacity: int, data: st.DataObject
) -> None:
    order = S3Fifo(capacity)
    model: dict[int, int] = {}
    for step, key in steps:
        if step == "remove":
            order.remove(key)
            model.pop(key, None)
        elif step == "make way":
            if model:
                del model[order.make_way()]
        elif key in order:
            if step == "evict":
                order.evict(key)
                del model[key]
            else:
                order.hit(key)
                assert order.stays(key)
        else:
            size = data.draw(st.integers(1, 5))
            gone = order.add(key, size)
            if size > capacity:
                assert gone == [key]
            else:
                model[key] = size
                assert len(set(gone)) == len(gone)
                for one in gone:
                    del model[one]
        assert {one for one in range(31) if one in order} == set(model)
        assert order.size == sum(model.values()) <= capacity
        assert len(order) == len(model)


def test_a_long_scan_leaves_what_is_asked_for_again_and_again() -> None:
    order = S3Fifo(1000)
    for _ in range(3):
        for key in range(500):
            order.hit(key) if key in order else order.add(key, 1)
    for key in range(1_000, 101_000):
        order.add(key, 1)
    assert sum(key in order for key in range(500)) == 500


def test_it_keeps_more_of_a_skewed_load_than_first_in_first_out() -> None:
    chosen = random.Random(7)
    order, fifo, hits, plain = S3Fifo(100), dict[int, None](), 0, 0
    for _ in range(30_000):
        key = min(int(chosen.paretovariate(0.6)), 10_000)
        if key in order:
            order.hit(key)
            hits += 1
        else:
            order.add(key, 1)
        if key in fifo:
            plain += 1
        else:
            if len(fifo) == 100:
                del fifo[next(iter(fifo))]
            fifo[key] = None
    assert hits > plain


def test_what_comes_back_soon_after_it_went_is_kept_better_than_what_is_new() -> None:
    order = S3Fifo(10)
    for key in range(12):
        order.add(key, 1)
    assert 0 not in order
    order.add(0, 1)
    for key in range(100, 120):
        order.add(key, 1)
    assert 0 in order


def test_what_was_in_before_a_restart_is_not_taken_for_new() -> None:
    order = S3Fifo(10)
    for key in range(5):
        order.add(key, 1, known=True)
    for key in range(100, 200):
        order.add(key, 1)
    assert all(key in order for key in range(5))
