"""A light topic that is kept in memory for a while: offsets, records, and what a restart leaves."""

from __future__ import annotations

from robustmq.core.publish import build_entry
from tests.storage.stores import Machine, batch, values_of

T = b"t"


def in_memory(machine: Machine, *values: bytes, topic: bytes = T) -> int:
    block = bytearray(build_entry(topic, b"", 0, 32, 7, 0, batch(*values)))
    assert machine.store.memory_append(block)
    return int.from_bytes(block[32:40], "little")


def values(machine: Machine, offset: int = 0, topic: bytes = T) -> list[bytes]:
    found: list[bytes] = []
    end = machine.store.light.high_watermark(topic)
    while offset < end:
        result = machine.store.light.read(topic, offset, 200)
        assert result.high_watermark == end and not result.out_of_range
        if not result.buffers:
            break
        data = b"".join(map(bytes, result.buffers))
        some = values_of(data, int.from_bytes(data[:8], "big"))
        found += some[offset - int.from_bytes(data[:8], "big") :]
        offset = int.from_bytes(data[:8], "big") + len(some)
    return found


def test_records_keep_their_offsets_into_memory_and_out_of_it_again() -> None:
    machine = Machine()
    machine.publish(T, b"0", b"1")
    machine.commit()
    assert in_memory(machine, b"2") == 2
    assert in_memory(machine, b"3", b"4") == 3
    assert values(machine) == [b"0", b"1", b"2", b"3", b"4"]
    assert values(machine, 3) == [b"3", b"4"]
    machine.publish(T, b"5")
    machine.commit()
    assert not machine.store.light.in_memory(T)
    assert in_memory(machine, b"6") == 6
    machine.publish(b"other", b"x")
    machine.publish(T, b"7")
    machine.commit()
    expected = [b"%d" % number for number in range(8)]
    assert values(machine) == expected
    for _ in range(2):
        machine.open()
        assert values(machine) == expected
        assert machine.store.light.end_offset(T) == 8
        assert len(machine.store.light) == 2 and set(machine.store.light.topics(9)) == {T, b"other"}


def test_a_topic_that_was_always_in_memory_leaves_it_with_all_it_has() -> None:
    machine = Machine()
    for number in range(5):
        assert in_memory(machine, b"%d" % number) == number
    machine.store.light.leave_memory(T, 3)
    machine.commit()
    machine.open()
    assert values(machine) == [b"0", b"1", b"2", b"3", b"4"]
    assert machine.store.light.topics(9) == [T]


def test_what_made_way_in_memory_takes_along_what_the_log_has_before_it() -> None:
    machine = Machine(ring_bytes=800)
    machine.publish(T, b"old")
    machine.commit()
    for number in range(20):
        in_memory(machine, b"%d" % number * 20)
    start = machine.store.light.start_offset(T)
    assert start > 10 and machine.store.light.read(T, 0, 100).out_of_range
    machine.publish(T, b"last")
    machine.commit()
    machine.open()
    assert machine.store.light.start_offset(T) == start
    assert values(machine, start)[-1] == b"last" and machine.store.light.end_offset(T) == 22


def test_offsets_that_were_given_in_memory_are_not_given_again_after_a_restart() -> None:
    machine = Machine()
    machine.publish(T, b"0")
    for number in range(1, 30):
        in_memory(machine, b"%d" % number)
    machine.commit()
    machine.open()
    assert machine.store.light.end_offset(T) >= 30, "a restart loses what was in memory"
    assert values(machine) == [b"0"]
    machine.publish(T, b"next")
    machine.commit()
    assert values(machine, machine.store.light.end_offset(T) - 1) == [b"next"]


def test_a_topic_that_is_deleted_gives_its_memory_back() -> None:
    machine = Machine(ring_bytes=1_200)
    for round_ in range(20):
        in_memory(machine, b"x" * 500, topic=b"%d" % round_)
        machine.store.light.delete(b"%d" % round_)
    in_memory(machine, b"a" * 300)
    in_memory(machine, b"b" * 300)
    assert len(values(machine)) == 2
