"""Record batches v2 against the same format of kafka-python, and against damage."""

from __future__ import annotations

import gzip
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.core import batches
from robustmq.errors import BrokerError
from robustmq.records import Record

_bytes = st.none() | st.binary(max_size=80)
_records = st.lists(
    st.builds(
        Record,
        key=_bytes,
        value=_bytes,
        headers=st.lists(st.tuples(st.text(max_size=5), _bytes), max_size=3),
        timestamp_ms=st.integers(0, 2**42),
    ),
    min_size=1,
    max_size=8,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(_records)
def test_records_come_back_as_they_were(records: list[Record]) -> None:
    batch = batches.build(records, 5, base_offset=70)
    parsed = batches.parse(batch)
    expected = [
        Record(r.key, r.value, r.headers, r.timestamp_ms, 70 + n) for n, r in enumerate(records)
    ]
    assert parsed == expected
    info = batches.validate(bytearray(batch), 0, len(batch))
    assert (info.length, info.crc_ok, info.count) == (len(batch), True, len(records))


@settings(derandomize=True, max_examples=400, deadline=None)
@given(_records, st.data())
def test_damage_is_found_or_harmless(records: list[Record], data: st.DataObject) -> None:
    batch = bytearray(batches.build(records, 5))
    batch[data.draw(st.integers(0, len(batch) - 1))] ^= data.draw(st.integers(1, 255))
    table = array("i", [0] * 9 * 64)
    for call in (
        lambda: batches.parse(batch),
        lambda: batches.scan_records(batch, 61, len(batch), table),
    ):
        try:
            call()
        except BrokerError:
            pass


@pytest.mark.parametrize("compression", [1, 2, 3, 4])
def test_every_compression_is_read_within_its_bound(compression: int) -> None:
    import cramjam
    import lz4.frame
    import zstandard

    pack = {
        1: gzip.compress,
        2: lambda data: bytes(cramjam.snappy.compress_raw(data)),
        3: lz4.frame.compress,
        4: zstandard.ZstdCompressor().compress,
    }[compression]
    plain = batches.build([Record(b"k", b"v" * 5000)] * 3, 5)
    packed = bytearray(plain[:61] + pack(plain[61:]))
    batches.write_header(packed, 0, len(packed), compression, 3, 5, 5, -1, -1, -1)
    assert [record.value for record in batches.parse(packed)] == [b"v" * 5000] * 3
    with pytest.raises(BrokerError):
        batches.parse(packed, max_decompressed=9000)


def test_the_base_is_patched_outside_the_checksum() -> None:
    batch = bytearray(batches.build([Record(None, b"v")], 5))
    batches.set_base(batch, 0, 1 << 40, 9)
    info = batches.validate(batch, 0, len(batch))
    assert (info.base_offset, info.leader_epoch, info.crc_ok) == (1 << 40, 9, True)
    double = bytes(batch + batch)
    assert [at for at, _ in batches.headers(double, 0, len(double))] == [0, len(batch)]
