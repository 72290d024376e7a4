"""Damaged input: no exception but the named faults, and both forms of the core say the same.

`tests.core.fuzzing` is the damage; more seeds, or the libraries built with a sanitizer, run from
its command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from robustmq.core import batches, blocks, fanout
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.core.filters import FilterTrie
from robustmq.errors import BrokerError
from robustmq.records import Record
from tests.core.tables import by_topic

ROOT = Path(__file__).parents[2]
SEEDS = 400


def digests(pure: str) -> list[str]:
    """The digest of each seed's outcomes."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.core.fuzzing", "0", str(SEEDS)],
        env={**os.environ, "ROBUSTMQ_PURE": pure},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_both_forms_of_the_core_make_the_same_of_damaged_input() -> None:
    assert digests("0") == digests("1")


def batch_of(body: bytes, count: int = 1) -> bytearray:
    """A batch with the right checksum around any records."""
    out = bytearray(61) + body
    batches.write_header(out, 0, len(out), 0, count, 1000, 1000, -1, -1, -1)
    return out


# Record length, attributes, timestamp delta, offset delta, key, value, headers.
_HUGE = b"\xfe" + b"\xff" * 8 + b"\x01"  # 2**63 - 1 as a zigzag varint
_UNSOUND = [
    _HUGE + b"\0" * 12,
    b"\x14\0\0\0" + b"\x80\x80\x80\x80\x20" + b"v\0",
    b"\x14\0\0\0\x01" + b"\xfe\xff\xff\xff\x1f",
    b"\x1e\0\0\0\x01\x01" + _HUGE,
    b"\x16\0\0\0\x01\x01" + b"\x82\x80\x80\x80\x20",
    b"\x0c\0\0\0\x01\x01\x02",
    b"\xff" * 20,
]


@pytest.mark.parametrize("body", _UNSOUND)
def test_a_length_that_overflows_is_a_corrupt_record(body: bytes) -> None:
    batch = batch_of(body)
    with pytest.raises(BrokerError):
        batches.scan_records(bytes(batch), 61, len(batch), array("i", [0] * 9))
    with pytest.raises(BrokerError):
        batches.parse(batch)
    entry = blocks.build_entry(b"t", b"", 0, 0, 0, 0, batch)
    assert fanout.record_levels(entry, 0) == []
    assert fanout.encode(entry, 0, 0, 5, 0, False, False, 0, (), 0) == b""


def test_a_record_that_no_packet_can_hold_is_not_sent_and_the_next_one_is() -> None:
    """Kafka's records may be larger than what MQTT's Remaining Length can say."""
    limit = 268_435_455 - len(b"\0\x01t")
    block = blocks.build_entry(
        b"t",
        b"",
        0,
        0,
        0,
        0,
        batches.build([Record(None, bytes(limit + 1)), Record(None, b"v")], 0),
    )
    sink = Sink(4, 1)
    route = DeliveryRoute(b"t", [Variant(4, 0, False, b"", [sink])], [], False)
    assert fanout.deliver(block, by_topic({b"t": route}), lambda topic: route, [], [], [], 0) == 1
    assert bytes(sink.take()) == b"\x30\x04\x00\x01tv"


def test_a_timestamp_of_any_value_ages_nothing_by_overflow() -> None:
    for stamp in (-(2**63), -1, 2**62, 2**63 - 1):
        batch = bytearray(batches.build([Record(None, b"v", [("mqtt.message-expiry", b"60")])], 5))
        batches.write_header(batch, 0, len(batch), 0, 1, stamp, stamp, -1, -1, -1)
        entry = blocks.build_entry(b"t", b"", 0, 0, 0, 0, batch)
        sent = fanout.encode(entry, 0, 0, 5, 0, False, False, 0, (), 1_700_000_000_000)
        assert sent[5:11] == b"\x05\x02\0\0\0\x3c"


def test_the_deepest_filter_goes_without_recursion() -> None:
    trie = FilterTrie()
    deepest = b"+/" * 32_000 + b"#"
    trie.insert(deepest, 1)
    assert trie.match(b"a/" * 32_000) == [1]
    del trie
