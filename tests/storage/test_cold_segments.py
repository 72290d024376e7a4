"""The table of a partition's cold segments."""

from __future__ import annotations

from robustmq.storage.cold_segments import ColdSegment, ColdSegments


def table() -> ColdSegments:
    """Offsets 10 to 19, 20 to 39, and behind a gap 50 to 59."""
    made = ColdSegments()
    made.add(ColdSegment(10, 20, 100, 1_000, 3))
    made.add(ColdSegment(20, 40, 200, 3_000, 3))
    made.add(ColdSegment(50, 60, 300, 2_000, 4))
    return made


def test_an_offset_is_found_in_its_segment_or_in_the_next() -> None:
    cold = table()
    assert [cold.find(offset) for offset in (0, 10, 19, 20, 39, 40, 49, 50, 59, 60)] == [
        0, 0, 0, 1, 1, 2, 2, 2, 2, 3,
    ]  # fmt: skip
    assert ColdSegments().find(7) == 0


def test_a_time_is_found_in_the_first_segment_that_reaches_it() -> None:
    cold = table()
    assert [cold.find_time(time) for time in (0, 1_000, 1_001, 3_000, 3_001)] == [0, 0, 1, 1, 3]


def test_the_oldest_go_and_the_rest_stays() -> None:
    cold = table()
    assert [segment.base_offset for segment in cold.drop(2)] == [10, 20]
    assert list(cold) == [ColdSegment(50, 60, 300, 2_000, 4)]
    assert (cold.start_offset, cold.end_offset, cold.size) == (50, 60, 300)


def test_a_table_that_was_filled_elsewhere_takes_the_place_of_another() -> None:
    cold = ColdSegments()
    cold.exchange(table())
    assert [segment.base_offset for segment in cold] == [10, 20, 50]
    assert (cold.max_time, ColdSegments().max_time) == (3_000, -1)
