"""Splitting a stream into frames (MQTT 5.0 section 2.1)."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.core.frames import scan
from robustmq.errors import BrokerError, Fault

buffers = pytest.mark.parametrize("kind", [bytes, bytearray])


def table(rows: int = 16) -> array[int]:
    """An empty offset table."""
    return array("i", [0] * (4 * rows))


@buffers
def test_whole_frames_become_rows_and_a_partial_one_stays(kind: type) -> None:
    data = kind(b"\xc0\x00" + b"\x30\x03abc" + b"\x30\x05ab")
    rows = table()
    assert scan(data, 0, len(data), rows) == (2, 7)
    assert list(rows[:8]) == [0xC0, 2, 2, 0, 0x30, 4, 7, 2]


def test_a_full_table_ends_the_scan() -> None:
    assert scan(b"\xc0\x00" * 9, 0, 18, table(4)) == (4, 8)


@pytest.mark.parametrize("bad", [b"\x30\x80\x00", b"\x30\xff\xff\xff\xff\x01", b"\x30\x81\x80\x00"])
def test_a_remaining_length_that_is_not_minimal_or_too_long_is_malformed(bad: bytes) -> None:
    with pytest.raises(BrokerError) as error:
        scan(bad, 0, len(bad), table())
    assert error.value.fault is Fault.MALFORMED_PACKET
    assert scan(b"\xc0\x00" + bad, 0, 2 + len(bad), table()) == (1, 2)


def test_a_packet_above_the_bound_is_refused_as_soon_as_its_header_shows_it() -> None:
    with pytest.raises(BrokerError) as error:
        scan(b"\x30\xff\x7f", 0, 3, table(), 1000)
    assert error.value.fault is Fault.PACKET_TOO_LARGE


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20_000), max_size=6), st.integers(0, 40_000))
def test_any_cut_of_a_stream_yields_the_frames_before_it(sizes: list[int], cut: int) -> None:
    stream = bytearray()
    ends = []
    for size in sizes:
        length = bytearray()
        rest = size
        while rest >= 128:
            length.append(rest & 127 | 128)
            rest >>= 7
        length.append(rest)
        stream += b"\x30" + length + bytes(size)
        ends.append(len(stream))
    cut = min(cut, len(stream))
    whole = [end for end in ends if end <= cut]
    assert scan(stream, 0, cut, table()) == (len(whole), whole[-1] if whole else 0)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_scan_or_raise_a_broker_error(data: bytes) -> None:
    try:
        count, end = scan(data, 0, len(data), table())
    except BrokerError:
        return
    assert 0 <= end <= len(data)
    assert count <= 16
