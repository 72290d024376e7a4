"""A bit flipped in a light topic's batch that lies in the log: its reader hears of it, what lies
before it and behind it is read, other topics are whole, and nothing hangs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustmq.core import batches
from robustmq.errors import Fault
from robustmq.storage.shard_store import StoreSettings
from tests.storage.stores import Machine

COUNT = 12


def read_over(machine: Machine, topic: bytes) -> tuple[dict[int, bytes], set[int]]:
    """Values by offset, and the offsets that cannot be read, each asked for by itself."""
    values: dict[int, bytes] = {}
    errors: set[int] = set()
    for offset in range(machine.store.light.high_watermark(topic)):
        result = machine.store.light.read(topic, offset, 1)
        if result.error:
            assert result.error == Fault.CORRUPT_RECORD.kafka
            errors.add(offset)
            continue
        data = b"".join(map(bytes, result.buffers))
        for begin, info in batches.headers(data, 0, len(data), True):
            assert info.crc_ok, "no reader gets what is damaged"
            for place, one in enumerate(batches.parse(data, begin, begin + info.length)):
                values[info.base_offset + place] = one.value or b""
    return values, errors


@given(byte=st.integers(0, 10_000), bit=st.integers(0, 7), checkpoint=st.booleans())
def test_damage_in_a_light_topic_is_told_and_all_else_is_read(
    byte: int, bit: int, checkpoint: bool
) -> None:
    machine = Machine(StoreSettings(hot_bytes=1))
    for number in range(COUNT):
        machine.publish(b"hit", b"%d" % number)
        machine.publish(b"other", b"%d" % number)
        machine.commit()
    if checkpoint:
        # Then recovery does not look at what lies before.
        machine.store.checkpoint([])
        machine.committer.kick()
    (path,) = [name for name in machine.disk.files if "/log/" in name]
    file = machine.disk.files[path]
    # Between the third and the last but third batch of the topic.
    begin, stop = len(file) // 4, len(file) * 3 // 4
    file[begin + byte % (stop - begin)] ^= 1 << bit
    machine.open()
    for topic in (b"hit", b"other"):
        values, errors = read_over(machine, topic)
        assert all(value == b"%d" % offset for offset, value in values.items())
        assert set(values) | errors == set(range(COUNT)), topic
        assert COUNT - 1 in values, "what lies behind it is read"
        if not checkpoint:
            assert len(errors) <= 1, "and what lies before it"
        assert checkpoint or not errors or machine.heard.corrupt
