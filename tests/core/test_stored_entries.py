"""What the core says of the bytes that a log has where an entry of a topic should be: whatever they
are, it reads nothing outside them and gives out no batch that is not what was written."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robustmq.core import batches, blocks, hashing
from robustmq.core.blocks import ENTRY_HEADER, NO_POSITION, UNKNOWN
from robustmq.core.hashing import topic_key
from robustmq.records import Record

TOPIC = b"plant/7/heat"
KEY = topic_key(TOPIC)
POSITION = 5_000
PREVIOUS = 4_000
OFFSET = 41
PREVIOUS_AT, OFFSET_AT, KEY_AT = 24, 32, 40
EPOCH = range(12, 16)
"""Of a batch: nothing covers its leader epoch."""


def entry(
    topic: bytes = TOPIC,
    log_name: bytes = b"\2\0ab",
    size: int = 40,
    count: int = 3,
    previous: int = PREVIOUS,
    offset: int = OFFSET,
) -> bytearray:
    """As the log has it."""
    records = [Record(None, bytes(size))] * count
    batch = batches.build(records, 5, offset)
    made = bytearray(blocks.build_entry(topic, log_name, 0, 1, 7, 9, batch))
    made[PREVIOUS_AT:OFFSET_AT] = previous.to_bytes(8, "little")
    blocks.put_seal(made, 0)
    return made


def batch_of(made: bytes | bytearray) -> bytes:
    return bytes(made[blocks.entries(made)[0].batch_begin :])


Found = tuple[int, int, int, int, bytes | None]


def stored(
    data: bytes | bytearray | memoryview,
    begin: int = 0,
    topic: bytes = TOPIC,
    check: bool = True,
    key: int = KEY,
    position: int = POSITION,
) -> Found | None:
    return blocks.stored_batch(data, begin, key, topic, position, check)


@pytest.mark.parametrize("topic", [TOPIC, b""])
@pytest.mark.parametrize("check", [True, False])
def test_a_sound_entry_is_told_wherever_it_lies_in_whatever_buffer(
    topic: bytes, check: bool
) -> None:
    made = entry()
    expected = len(made), PREVIOUS, OFFSET, OFFSET + 2, batch_of(made)
    whole = b"before" + made + b"and behind"
    for data in (whole, bytearray(whole), memoryview(whole)):
        assert stored(data, 6, topic, check) == expected
    assert stored(bytes(made), 0, topic, check) == expected
    head = (*expected[:3], len(expected[4]))
    for cut in (made, made[:ENTRY_HEADER], memoryview(bytes(made))):
        assert blocks.stored_head(cut, KEY) == head


@given(
    topic=st.binary(min_size=1, max_size=600),
    log_name=st.binary(max_size=40),
    size=st.integers(0, 900),
    count=st.integers(1, 4),
    first=st.booleans(),
    offset=st.integers(0, 1 << 62),
)
def test_entries_of_all_sizes_are_told(
    topic: bytes, log_name: bytes, size: int, count: int, first: bool, offset: int
) -> None:
    previous = NO_POSITION if first else PREVIOUS
    made = bytes(entry(topic, log_name, size, count, previous, offset))
    expected = len(made), previous, offset, offset + count - 1, batch_of(made)
    assert stored(made, 0, topic, key=topic_key(topic)) == expected
    assert stored(made, 0, b"", key=topic_key(topic)) == expected


def test_no_flipped_bit_gives_out_a_batch_that_was_not_written() -> None:
    made = bytes(entry())
    begin = blocks.entries(made)[0].batch_begin
    written = batch_of(made)
    told = {6, 7, *range(KEY_AT, ENTRY_HEADER + len(TOPIC))}
    # Whose entry it is: its name and how long that is, its key.
    harmless = 0
    for bit in range(len(made) * 8):
        data = bytearray(made)
        data[bit // 8] ^= 1 << bit % 8
        for one in (bytes(data), data):
            found = stored(one)
            place = bit // 8 - begin
            if found is None:
                assert bit // 8 in told
                continue
            if found[4] is None:
                continue
            harmless += 1
            assert found[0] == len(made) and found[2:4] == (OFFSET, OFFSET + 2)
            broken = bit // 8 < ENTRY_HEADER
            assert found[1] == (UNKNOWN | POSITION if broken else PREVIOUS)
            if place in EPOCH:
                assert found[4][:12] + found[4][16:] == written[:12] + written[16:]
            else:
                assert found[4] == written and place < 0
    assert harmless


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("topic", [TOPIC, b""])
def test_data_that_is_cut_short_has_a_head_or_nothing(topic: bytes, check: bool) -> None:
    made = bytes(entry())
    for size in range(len(made)):
        found = stored(made[:size], 0, topic, check)
        if size < ENTRY_HEADER:
            assert found is None and blocks.stored_head(made[:size], KEY) is None
        else:
            assert found == (len(made), PREVIOUS, OFFSET, OFFSET, None)
    for begin in (len(made) - 10, len(made), len(made) + 1, 1 << 40):
        assert stored(made, begin, topic, check) is None


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("length", [*range(150), 1 << 31, (1 << 32) - 1])
def test_an_entry_that_says_a_wrong_length_has_no_batch(length: int, check: bool) -> None:
    made = entry()
    batch = blocks.entries(bytes(made))[0].batch_begin
    if batch + batches.HEADER_SIZE <= length <= len(made) and not check:
        # Of what never left the memory only the place is tested.
        return
    made[:4] = length.to_bytes(4, "little")
    blocks.put_seal(made, 0)
    for data in (bytes(made), bytes(made[: max(ENTRY_HEADER, min(length, len(made)))])):
        found = stored(data, check=check)
        assert found is not None and found[0] == length and found[4] is None
        head = blocks.stored_head(data, KEY)
        assert head is not None and head[0] == length and head[3] == max(0, length - batch)


def test_an_entry_of_another_topic_is_none_of_the_topic() -> None:
    other = bytes(entry(b"plant/8/heat"))
    for check in (True, False):
        assert stored(other, check=check) is None
        # The key is the topic's, the name is not: by its key alone it is told.
        forged = other[:KEY_AT] + KEY.to_bytes(8, "little") + other[ENTRY_HEADER:]
        assert stored(forged, check=check) is None
        by_key = stored(forged, topic=b"", check=check)
        assert by_key is not None and by_key[4] == batch_of(other)
        for name in (TOPIC[:-1], TOPIC + b"\2", TOPIC[:-1] + b"T"):
            assert stored(bytes(entry()), topic=name, check=check) is None
    assert blocks.stored_head(other, KEY) is None


def test_a_head_is_what_was_written_to_the_last_bit_or_says_nothing() -> None:
    made = bytes(entry())
    assert blocks.stored_head(made, KEY) is not None
    assert blocks.stored_head(entry(previous=NO_POSITION), KEY) is not None
    for bit in range(ENTRY_HEADER * 8):
        data = bytearray(made)
        data[bit // 8] ^= 1 << bit % 8
        assert blocks.stored_head(data, KEY) is None
    for cut in range(ENTRY_HEADER):
        gone = bytes(cut) + made[cut:]
        if gone != made:
            assert blocks.stored_head(gone, KEY) is None


@given(
    data=st.binary(max_size=400),
    begin=st.integers(0, 60),
    length=st.integers(0, 500) | st.integers(0, (1 << 32) - 1),
    names=st.tuples(st.integers(0, 300) | st.integers(0, 65_535), st.integers(0, 300)),
    topic=st.binary(max_size=70),
)
@example(bytes(400), 0, 5, (0, 0), b"")
@example(bytes(48), 0, 48, (65_535, 65_535), b"a")
def test_whatever_a_head_says_nothing_outside_the_data_is_told(
    data: bytes, begin: int, length: int, names: tuple[int, int], topic: bytes
) -> None:
    made = bytearray(data)
    made[begin : begin + 4] = length.to_bytes(4, "little")
    made[begin + 6 : begin + 8] = names[0].to_bytes(2, "little")
    made[begin + 14 : begin + 16] = names[1].to_bytes(2, "little")
    made[begin + 24 : begin + 32] = bytes(8)
    made[begin + 40 : begin + 48] = KEY.to_bytes(8, "little")
    there = bytes(made)
    at = begin + ENTRY_HEADER + sum(names)
    inside = at + batches.HEADER_SIZE <= begin + length <= len(there)
    named = there[begin + ENTRY_HEADER : begin + ENTRY_HEADER + names[0]] == topic or not topic
    for check in (True, False):
        found = stored(there, begin, topic, check)
        if len(there) - begin < ENTRY_HEADER or (inside and not named):
            assert found is None
        elif inside and not check:
            assert found is not None and found[4] == there[at : begin + length]
        else:
            assert found is not None and found[0] == length and found[4] is None


SECRETS = [bytes(16), bytes(range(16)), bytes(range(1, 33)), bytes(range(100, 164))]


@pytest.mark.parametrize("secret", SECRETS, ids=len)
def test_the_key_of_a_topic_is_blake2b_under_the_secret_whatever_its_length(secret: bytes) -> None:
    text = bytes(number * 37 & 255 for number in range(70_000))
    hashing.set_topic_secret(secret)
    try:
        for size in [*range(600), 1023, 1024, 1025, 65_535, 65_536]:
            topic = text[:size]
            digest = blake2b(topic, digest_size=8, key=secret).digest()
            for _ in range(2):
                assert topic_key(topic) == int.from_bytes(digest, "little")
    finally:
        hashing.set_topic_secret(bytes(16))
    assert topic_key(TOPIC) == KEY


@given(topic=st.binary(max_size=500), secret=st.binary(min_size=16, max_size=64))
def test_no_key_is_that_of_another_secret_or_topic(topic: bytes, secret: bytes) -> None:
    before = topic_key(topic)
    hashing.set_topic_secret(secret)
    try:
        digest = blake2b(topic, digest_size=8, key=secret).digest()
        assert topic_key(topic) == int.from_bytes(digest, "little")
        # Another object with the same name, and the other way round.
        assert topic_key(bytes(bytearray(topic))) == topic_key(topic)
        other = topic + b"\0"
        assert topic_key(other) != topic_key(topic)
    finally:
        hashing.set_topic_secret(bytes(16))
    assert topic_key(topic) == before
