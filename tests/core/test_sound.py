"""Checking whole areas of record batches, and the checksum that does it."""

from __future__ import annotations

import random

import crc32c
import pytest

from robustmq.core import batches, hashing, sound
from robustmq.records import Record

SIZES = [0, 1, 7, 8, 9, 767, 768, 769, 2_048, 12_287, 12_288, 12_289, 13_056, 40_000, 100_001]


@pytest.mark.parametrize("size", SIZES)
def test_checksums_of_any_length_and_place_are_those_of_another_library(size: int) -> None:
    data = random.Random(size).randbytes(size + 9)
    for begin in (0, 1, 8):
        assert hashing.crc32c(data, begin, begin + size) == crc32c.crc32c(
            data[begin : begin + size]
        )


def area(sizes: list[int], base: int = 100) -> bytearray:
    """Batches of one record each, with a gap of one offset between any two."""
    found = bytearray()
    for number, size in enumerate(sizes):
        batch = bytearray(batches.build([Record(None, bytes(size))], 1_000))
        batches.set_base(batch, 0, base + 2 * number, 1)
        found += batch
    return found


def test_an_area_of_sound_batches_is_sound_to_its_end() -> None:
    data = area([10, 5_000, 1, 40_000, 0, 100_000] * 3)
    for whole in (bytes(data), memoryview(data)):
        assert sound.sound_until(whole, 100, 135, 100) == (len(data), 82)
    assert sound.sound_until(b"", 0, 1, 5) == (0, 5)


def test_no_more_batches_are_looked_at_than_is_said() -> None:
    data = area([10, 20, 30])
    second = batches.batch_size(data, 0, len(data))
    assert sound.sound_until(bytes(data), 100, 200, 1) == (second, 0)
    assert sound.sound_until(bytes(data), 100, 200, 0) == (0, 0)
    assert sound.sound_until(bytes(data), 100, 200, 3) == (len(data), 0)


def test_what_is_cut_short_is_not_sound() -> None:
    data = bytes(area([300, 300]))
    second = batches.batch_size(data, 0, len(data))
    for end in range(second, len(data)):
        assert sound.sound_until(data[:end], 100, 200, 9) == (second, 8)


def test_offsets_go_up_and_stay_within_the_segment() -> None:
    data = bytes(area([10, 10]))
    second = batches.batch_size(data, 0, len(data))
    assert sound.sound_until(data, 101, 200, 9)[0] == 0
    assert sound.sound_until(data, 100, 102, 9)[0] == second
    assert sound.sound_until(data, 100, 103, 9)[0] == len(data)
    assert sound.sound_until(data[second:] + data[:second], 100, 200, 9)[0] == len(data) - second
    far = bytearray(data[:second])
    batches.set_base(far, 0, (1 << 63) - 1, 1)
    assert sound.sound_until(bytes(far), 0, (1 << 63) - 1, 9)[0] == 0
    batches.set_base(far, 0, -5, 1)
    assert sound.sound_until(bytes(far), 0, 200, 9)[0] == 0


def test_a_flipped_bit_is_found_wherever_the_checksum_or_the_offsets_see_it() -> None:
    data = area([70, 70, 70])
    size = batches.batch_size(data, 0, len(data))
    for place in range(size, 2 * size):
        if place - size < 8 or 12 <= place - size < 16:
            # Offsets may lie anywhere between their neighbours, leader epochs are not checked.
            continue
        for bit in range(8):
            data[place] ^= 1 << bit
            assert sound.sound_until(bytes(data), 100, 200, 9)[0] == size, (place - size, bit)
            data[place] ^= 1 << bit
