"""Who gets which bytes."""

from __future__ import annotations

from array import array

import pytest

from robustmq.core import acks, batches, blocks, fanout
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.errors import BrokerError
from robustmq.records import Record
from tests.core.tables import by_topic


def unwanted(topic: bytes) -> DeliveryRoute:
    """The look-up of a topic whose route is known already."""
    raise AssertionError(f"{topic!r} was looked up")


def entry(flags: int, *records: Record, topic: bytes = b"t") -> bytearray:
    """One entry of origin 7."""
    return bytearray(
        blocks.build_entry(topic, b"", 0, flags, 7, 0, batches.build(list(records), 1000))
    )


def test_no_local_versions_and_identifiers_make_variants() -> None:
    own, old, new = Sink(5, 100), Sink(4, 100), Sink(5, 100)
    route = DeliveryRoute(
        b"t",
        [
            Variant(5, 7, False, b"", [own]),
            Variant(4, 0, False, b"", [old]),
            Variant(5, 8, False, fanout.identifiers_property((1, 200)), [new]),
        ],
        [],
        False,
    )
    assert (
        fanout.deliver(
            entry(0, Record(None, b"v")), by_topic({b"t": route}), unwanted, [], [], [], 0
        )
        == 2
    )
    assert own.take() == b""
    assert old.take() == b"\x30\x04\x00\x01tv"
    assert new.take() == b"\x30\x0a\x00\x01t\x05\x0b\x01\x0b\xc8\x01v"


def test_entries_above_qos_0_go_to_the_sessions_and_the_others_do_not() -> None:
    always, above = Sink(4, 100), Sink(4, 100)
    route = DeliveryRoute(
        b"t",
        [Variant(4, 0, False, b"", [always])],
        [Variant(4, 0, False, b"", [above])],
        True,
    )
    block = entry(0, Record(None, b"0")) + entry(
        blocks.ACK, Record(None, b"1", [("mqtt.qos", b"1")])
    )
    rows: list[tuple[int, DeliveryRoute]] = []
    assert fanout.deliver(memoryview(block), by_topic(), lambda topic: route, [], rows, [], 0) == 3
    assert [at for at, _ in rows] == [blocks.entries(block)[1].begin]
    assert bytes(above.take()) == b"\x30\x04\x00\x01t0"
    assert bytes(always.take()) == b"\x30\x04\x00\x01t0\x30\x04\x00\x01t1"


def test_a_full_sink_drops_and_counts_and_a_small_client_is_spared() -> None:
    full, off, small = Sink(4, 1), Sink(4, 0), Sink(4, 100)
    full.append(b"ab")
    small.max_packet_size = 6
    route = DeliveryRoute(b"t", [Variant(4, 0, False, b"", [full, off, small])], [], False)
    block = entry(0, Record(None, b"v"), Record(None, b"v" * 300), Record(None, b"w"))
    assert fanout.deliver(block, by_topic({b"t": route}), unwanted, [], [], [], 0) == 2
    assert (full.dropped, off.dropped, bytes(full.take()), bytes(off.take())) == (3, 0, b"ab", b"")
    assert bytes(small.take()) == b"\x30\x04\x00\x01tv\x30\x04\x00\x01tw"


def test_records_are_dealt_each_to_the_one_who_stands_at_its_place() -> None:
    one, two = Sink(4, 1000), Sink(5, 1000)
    first = Variant(4, 0, False, b"", [one])
    second = Variant(5, 0, True, fanout.identifiers_property((7,)), [two], 1)
    kept = Record(None, b"1", [("mqtt.retain", b"1")])
    old = Record(None, b"2", [("mqtt.message-expiry", b"1")])
    rows = [Record(None, b"0"), kept, old, Record(None, b"3"), Record(None, b"4")]
    dirty: list[Sink] = []
    block = memoryview(bytes(entry(0, *rows)))
    assert fanout.deal(block, 0, [first, second, first, None], dirty, 9_000_000) == 2
    assert dirty == [one, two]
    assert bytes(one.take()) == b"\x30\x04\x00\x01t0"
    # One byte of the topic is not shown, as under a mount point.
    assert bytes(two.take()) == b"\x31\x06\x00\x00\x02\x0b\x071"


def test_an_expired_message_is_not_sent() -> None:
    block = bytes(entry(0, Record(None, b"v", [("mqtt.message-expiry", b"10")])))
    assert (
        fanout.encode(block, 0, 0, 5, 0, False, False, 0, (), 10_999)
        == b"\x30\x0a\x00\x01t\x05\x02\0\0\0\x01v"
    )
    assert fanout.encode(block, 0, 0, 5, 0, False, False, 0, (), 11_000) == b""


def test_records_are_encoded_one_by_one_in_any_order() -> None:
    records = [
        Record(None, b"%d" % n, [("mqtt.qos", b"%d" % (n % 3))] if n % 3 else [])
        for n in range(600)
    ]
    block = bytes(entry(blocks.KAFKA, *records))
    assert fanout.record_levels(block, 0) == [n % 3 or 1 for n in range(600)]
    for index in (5, 300, 299, 599, 0):
        sent = fanout.encode(block, 0, index, 4, 1, True, False, 9, (), 0)
        assert sent[-len(b"%d" % index) :] == b"%d" % index
        assert sent[:1] == b"\x3a"
    assert fanout.encode(block, 0, 600, 4, 0, False, False, 0, (), 0) == b""


def test_compressed_batches_are_opened_and_unsound_ones_have_no_messages() -> None:
    import gzip

    plain = batches.build([Record(None, b"v")], 1000)
    packed = bytearray(plain[:61] + gzip.compress(plain[61:]))
    batches.write_header(packed, 0, len(packed), 1, 1, 1000, 1000, -1, -1, -1)
    block = blocks.build_entry(b"t", b"", 0, blocks.KAFKA, 0, 0, packed)
    assert fanout.encode(block, 0, 0, 4, 0, False, False, 0, (), 0) == b"\x30\x04\x00\x01tv"
    assert fanout.record_levels(block, 0) == [1]
    broken = blocks.build_entry(b"t", b"", 0, 0, 0, 0, plain[:61] + b"\xff" * 9)
    route = DeliveryRoute(b"t", [Variant(4, 0, False, b"", [Sink(4, 9)])], [], False)
    assert fanout.deliver(broken, by_topic({b"t": route}), unwanted, [], [], [], 0) == 0
    assert fanout.record_levels(broken, 0) == []


def test_acknowledgements_come_back() -> None:
    ids = array("H", [1, 65_535])
    data = acks.encode(6, ids, 0, 2)
    assert data == b"\x62\x02\x00\x01\x62\x02\xff\xff"
    table = array("i", [0x62, 2, 4, 0, 0x62, 6, 8, 4, 0x40, 0, 2, 0])
    out = array("H")
    assert acks.parse(data, table, 0, 3, 6, out) == 2
    assert out == ids
    # Other flags, or another length: the codec judges it.
    assert acks.parse(b"\x60\x02\x00\x01", array("i", [0x60, 2, 4, 0]), 0, 1, 6, out) == 0
    assert acks.parse(b"\x40\x01\x00", array("i", [0x40, 2, 3, 0]), 0, 1, 4, out) == 0
    with pytest.raises(BrokerError):
        acks.parse(b"\x40\x02\x00\x00", array("i", [0x40, 2, 4, 0]), 0, 1, 4, out)
