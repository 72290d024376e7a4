"""The memory that all rings of a worker share: its bound, and who makes way."""

from __future__ import annotations

import random

from robustmq.storage.engine import PartitionSettings
from robustmq.storage.memory import BATCH_OVERHEAD, MemoryPartition, RingMemory
from tests.storage.stores import Machine, batch, values_of
from tests.storage.test_light_modes import in_memory, values

SETTINGS = PartitionSettings()


def add(ring: MemoryPartition, data: bytes) -> int:
    return ring.append(bytearray(batch(data)), 0)


def test_all_rings_together_stay_below_the_bound_whatever_is_done_with_them() -> None:
    dice = random.Random(7)
    memory = RingMemory(20_000)
    rings = [MemoryPartition(SETTINGS, memory) for _ in range(12)]
    ends = [0] * len(rings)
    for _ in range(5_000):
        number = dice.randrange(len(rings))
        ring, what = rings[number], dice.random()
        if what < 0.9:
            assert add(ring, b"%d" % ends[number] * dice.randrange(1, 300)) == ends[number]
            ends[number] += 1
        elif what < 0.95:
            ring.trim(dice.randint(ring.start_offset, ring.end_offset))
        elif what < 0.97:
            ends[number] += 5
            ring.skip_to(ends[number])
        else:
            ring.delete()
        held = [sum(BATCH_OVERHEAD + len(one) for one in ring.batches()) for ring in rings]
        assert memory.held_bytes == sum(held) <= 20_000
        assert [ring.weight for ring in rings] == held
        assert [ring.end_offset for ring in rings] == ends
        assert all(ring.start_offset <= ring.end_offset for ring in rings)
        below = ring.start_offset - 1
        assert ring.read(ring.start_offset, 1 << 20).out_of_range is False
        assert below < 0 or ring.read(below, 1).out_of_range
    assert memory.dropped_bytes > 100_000


def test_a_flood_takes_no_room_from_topics_that_hold_little() -> None:
    memory = RingMemory(100_000)
    quiet = [MemoryPartition(SETTINGS, memory) for _ in range(20)]
    for ring in quiet:
        add(ring, b"the last word of a quiet topic")
    loud = [MemoryPartition(SETTINGS, memory) for _ in range(2)]
    for _ in range(2_000):
        for ring in loud:
            add(ring, b"x" * 500)
    assert all(ring.start_offset == 0 for ring in quiet)
    sizes = sorted(ring.weight for ring in loud)
    assert sizes[1] <= 2 * sizes[0] and memory.held_bytes > 98_000


def test_a_thousand_topics_with_a_record_each_make_way_in_the_order_of_their_records() -> None:
    memory = RingMemory(20_000)
    rings = [MemoryPartition(SETTINGS, memory) for _ in range(1_000)]
    for ring in rings:
        add(ring, b"one")
    held = [ring.start_offset < ring.end_offset for ring in rings]
    assert held == sorted(held) and 50 < sum(held) < 200


def test_a_batch_that_is_larger_than_the_bound_is_kept_alone() -> None:
    memory = RingMemory(1_000)
    rings = [MemoryPartition(SETTINGS, memory) for _ in range(2)]
    add(rings[0], b"small")
    add(rings[1], b"x" * 5_000)
    assert rings[0].start_offset == 1
    assert values_of(bytes(rings[1].read(0, 1).buffers[0]), 0) == [b"x" * 5_000]
    add(rings[0], b"small")
    assert (rings[1].start_offset, rings[0].start_offset, memory.held_bytes < 1_000) == (1, 1, True)


def test_what_is_about_to_be_written_elsewhere_makes_no_way() -> None:
    memory = RingMemory(10_000)
    leaves, stays = MemoryPartition(SETTINGS, memory), MemoryPartition(SETTINGS, memory)
    for _ in range(10):
        add(leaves, b"x" * 500)
    memory.keep_all(leaves, True)
    for _ in range(50):
        add(stays, b"x" * 500)
        add(leaves, b"y")
    assert leaves.start_offset == 0 and stays.start_offset > 40
    memory.keep_all(leaves, False)
    for _ in range(50):
        add(stays, b"x" * 500)
    assert leaves.start_offset > 0 and memory.held_bytes <= 10_000


def test_light_topics_and_partitions_share_one_bound() -> None:
    machine = Machine(ring_bytes=10_000)
    rings = machine.store.rings
    log = machine.store.open_partition("0" * 32 + "-0", "memory", SETTINGS)
    for number in range(100):
        machine.store.append_partition(log, bytearray(batch(b"d" * 200)))
        in_memory(machine, b"l" * 200)
        assert rings.held_bytes <= 10_000 and log.end_offset == number + 1
    assert 0 < log.start_offset < 100 and 0 < machine.store.light.start_offset(b"t") < 100
    machine.store.drop_partition(log)
    machine.store.light.delete(b"t")
    assert rings.held_bytes == 0


def test_what_the_log_has_of_a_topic_goes_with_what_another_one_took_from_its_ring() -> None:
    machine = Machine(ring_bytes=2_000)
    machine.publish(b"t", b"in the log")
    machine.commit()
    in_memory(machine, b"a" * 1_000)
    assert values(machine) == [b"in the log", b"a" * 1_000]
    in_memory(machine, b"b" * 1_500, topic=b"other")
    light = machine.store.light
    assert (light.start_offset(b"t"), light.end_offset(b"t")) == (2, 2)
    assert light.known_start(b"t") == 2 and light.read(b"t", 0, 100).out_of_range
    machine.publish(b"t", b"again in the log")
    machine.commit()
    for _ in range(2):
        assert light.start_offset(b"t") == 2 and values(machine, 2) == [b"again in the log"]
        light = machine.open().light


def test_a_time_is_found_in_a_ring_whose_times_go_up_and_down() -> None:
    dice = random.Random(3)
    memory = RingMemory(4_000)
    ring = MemoryPartition(SETTINGS, memory)
    times: list[int] = []
    for number in range(400):
        # Some are far ahead of their time, and have gone before the others come to that.
        times.append(number * 10 + dice.choice((0, 0, -50, 50, 300)))
        ring.append(bytearray(batch(b"x", timestamp_ms=times[-1])), 0)
        held = range(ring.start_offset, ring.end_offset)
        for wanted in (0, number * 10 - 200, times[-1], number * 10 + 301):
            found = next(((at, times[at]) for at in held if times[at] >= wanted), None)
            told = ring.offset_for_time(wanted)
            assert (told and told[0]) == (found and found[0])
        latest = max(times[at] for at in held)
        assert ring.offset_for_time(-3) == (next(at for at in held if times[at] == latest), latest)
        assert [info.base_offset for info in ring.last_batches(1)] == [number]
