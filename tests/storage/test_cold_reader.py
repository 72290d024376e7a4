"""Reading cold segments: every batch once and in order, whatever the sizes; damage; times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.promises import Promise
from robustmq.storage.circuit_breaker import FAILURES
from robustmq.storage.cold_reader import CHECKED_AT_ONCE, ColdReader
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.engine import PartitionSettings, ReadResult
from robustmq.storage.manifest import LOG
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.tiered import PartitionTier
from tests.storage.cold import BLOCK, PREFIX, Faulty, Loop, Partition

CORRUPT = int(KafkaCode.CORRUPT_MESSAGE)
SIZES = [
    [100] * 50,
    [5_000] * 40,
    [BLOCK] * 5,
    [BLOCK - 1, BLOCK + 1, 200, 3 * BLOCK + 17, 90, 90],
    [700, 40_000] * 12,
]


class World:
    """A partition in a store, and a reader of it."""

    def __init__(self, directory: Path, sizes: list[list[int]] | None = None) -> None:
        self.store = Faulty(directory)
        self.partition = Partition(self.store)
        for segment in SIZES if sizes is None else sizes:
            self.partition.add(segment)
        self.loop = Loop()
        self.cache = self.loop.cache(self.store)
        self.reader = ColdReader(self.cache, PREFIX, self.partition.cold)

    def read(self, offset: int, max_bytes: int = 1, end: int = 1 << 60) -> ReadResult:
        """One read, with its waits."""
        while True:
            result = self.reader.read(offset, max_bytes, end)
            if result.pending is None:
                return result
            assert not result.buffers
            self.loop.wait(result.pending)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        while True:
            found = self.reader.offset_for_time(timestamp_ms)
            if not isinstance(found, Promise):
                return found
            self.loop.wait(found)

    def offsets(self, result: ReadResult) -> list[int]:
        """Of the batches of a read, which are what was written, to the byte."""
        found = []
        for buffer in result.buffers:
            whole = bytes(buffer)
            for begin, info in batches.headers(whole, 0, len(whole), True):
                assert whole[begin : begin + info.length] == self.partition.data[info.base_offset]
                found.append(info.base_offset)
        assert sum(map(len, result.buffers)) == sum(len(self.partition.data[one]) for one in found)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.cache.close()


@pytest.mark.parametrize("max_bytes", [1, 3_000, BLOCK, 5 * BLOCK, 1 << 30])
def test_everything_is_read_once_and_in_order(world: World, max_bytes: int) -> None:
    offset, seen = 0, []
    while offset < world.partition.end:
        result = world.read(offset, max_bytes)
        got = world.offsets(result)
        assert got
        assert got[0] == offset
        assert len(got) == 1 or sum(map(len, result.buffers)) <= max_bytes
        seen += got
        offset = got[-1] + 1
    assert seen == list(range(world.partition.end))
    assert not world.read(offset).buffers


def test_a_read_gives_views_of_blocks_and_joins_only_what_crosses_them(tmp_path: Path) -> None:
    world = World(tmp_path, [[5_000] * 40])
    offset = 0
    while offset < 40:
        offset = world.offsets(world.read(offset, 1 << 30))[-1] + 1
    result = world.read(0, 1 << 30)
    assert len(world.offsets(result)) == 40
    joined = [len(one) for one in result.buffers if isinstance(one, bytes)]
    assert len(joined) == 3
    assert all(size < 6_000 for size in joined)
    world.cache.close()


def test_a_reader_that_goes_on_does_not_push_out_what_others_ask_for_again(tmp_path: Path) -> None:
    """It looks at each block twice: where a read ends in it, and where the next one begins."""
    world = World(tmp_path, [[5_000] * 40, [5_000] * 1_200])
    for _ in range(4):
        world.read(20)
    hot = world.reader._objects_of(world.partition.cold[0]).log
    offset, evicted = 40, world.loop.counted["storage_tier_evictions_memory"]
    while offset < world.partition.end:
        offset = world.offsets(world.read(offset, BLOCK))[-1] + 1
    assert world.loop.counted["storage_tier_evictions_memory"] - evicted > 60
    assert world.cache.has(hot, 20 * 5_000 // BLOCK)
    world.cache.close()


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("size", [100, 5_000, 40_000])
def test_what_is_fetched_is_checked_where_it_comes(
    tmp_path: Path, size: int, damaged: bool
) -> None:
    """From the first batch that the index knows to the last whole one, or the first damaged one."""
    world = World(tmp_path, [[size] * (8 * BLOCK // size)])
    batch, place = len(world.partition.data[0]), 4 * BLOCK + 1_000

    def spoil(path: str, start: int, data: bytearray) -> None:
        if path.endswith(LOG) and start <= place < start + len(data):
            data[place - start] ^= 1

    world.read(0)
    view = world.reader._open(0)
    if damaged:
        world.store.spoil = spoil
    world.loop.wait(world.cache.want(view.source, 2, 5, 1, view.check))
    areas = [view.block(number).checked for number in range(2, 6)]
    begin = 2 * BLOCK + areas[0][0]
    assert begin % batch == 0
    assert begin - 2 * BLOCK < 4_096 + 2 * batch
    end = (place if damaged else 6 * BLOCK) // batch * batch
    sound = [(max(begin, at) - at, min(end, at + BLOCK) - at) for at in range(0, 8 * BLOCK, BLOCK)]
    assert areas == [area if area[1] > area[0] else (0, 0) for area in sound[2:6]]
    world.store.spoil = None
    offset = 0
    while offset < world.partition.end:
        offset = world.offsets(world.read(offset, 3 * BLOCK))[-1] + 1
    assert bool(world.loop.counted["storage_tier_damaged_blocks"]) is damaged
    world.cache.close()


def test_of_many_small_batches_no_read_checks_more_than_some(tmp_path: Path) -> None:
    world = World(tmp_path, [[90] * 6_000])
    world.loop.wait(
        world.cache.want(world.reader._objects_of(world.partition.cold[0]).log, 0, 7, 1)
    )
    offset, reads = 0, 0
    while offset < 6_000:
        got = world.offsets(world.read(offset, 1 << 30))
        assert got == list(range(offset, offset + len(got)))
        assert len(got) <= 3 * CHECKED_AT_ONCE
        offset, reads = got[-1] + 1, reads + 1
    assert reads > 1
    assert len(world.offsets(world.read(0, 1 << 30))) > 2 * CHECKED_AT_ONCE
    world.cache.close()


def test_a_read_stops_before_the_end_that_its_reader_may_see(world: World) -> None:
    for offset in range(0, 60, 7):
        for end in range(offset, 62, 5):
            got = world.offsets(world.read(offset, 1 << 30, end))
            assert (got == []) == (offset >= end)
            assert all(offset <= one < end for one in got)


@given(
    st.lists(st.lists(st.integers(90, 2 * BLOCK), min_size=1, max_size=20), min_size=1, max_size=3),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4 * BLOCK)), min_size=1, max_size=10),
)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_place_of_any_partition_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    reads: list[tuple[float, int]],
) -> None:
    world = World(tmp_path_factory.mktemp("cold"), sizes)
    for part, max_bytes in reads:
        offset = int(part * (world.partition.end - 1))
        got = world.offsets(world.read(offset, max(max_bytes, 1)))
        assert got == list(range(offset, offset + len(got)))
        assert got
        assert world.offset_for_time(offset) == (offset, offset)
    world.cache.close()


def test_a_reader_that_goes_on_has_the_next_blocks_fetched_ahead(tmp_path: Path) -> None:
    world = World(tmp_path, [[8_000] * 100, [8_000] * 100])
    offset, waits = 0, 0
    while offset < 200:
        result = world.reader.read(offset, 16_000, 1 << 60)
        if result.pending is not None:
            waits += 1
            world.loop.wait(result.pending)
            continue
        offset = world.offsets(result)[-1] + 1
        # What was fetched ahead has time to come.
        world.loop.until(lambda: not world.cache.in_flight)
    assert waits <= 4, "the index, the first block, and hardly another"
    assert sum(length for path, _, length in world.store.gets if path.endswith(".log")) <= sum(
        segment.size + 4 * BLOCK for segment in world.partition.cold
    )
    assert len(world.store.gets) < 20, "several blocks at once"
    world.cache.close()


def test_a_reader_that_jumps_has_little_fetched_ahead(tmp_path: Path) -> None:
    world = World(tmp_path, [[8_000] * 400])
    for offset in (390, 10, 300, 50, 200, 100):
        world.read(offset)
    world.loop.until(lambda: not world.cache.in_flight)
    assert sum(length for _, _, length in world.store.gets) <= 20 * BLOCK
    world.cache.close()


def spoil_at(world: World, position: int, times: int) -> None:
    """A byte of the first segment is wrong in what the store gives, so many times."""
    left = [times]

    def spoil(path: str, start: int, data: bytearray) -> None:
        if path.endswith("0000-00000005.log") and start <= position < start + len(data) and left[0]:
            data[position - start] ^= 1
            left[0] -= 1

    world.store.spoil = spoil


# In the first segment each batch takes as many bytes: what is damaged is the twelfth.
BATCH = 20
PLACES = {"record": 75, "base offset": 3, "length": 9, "magic": 16, "count of offsets": 24}


@pytest.mark.parametrize("place", PLACES)
def test_damage_on_the_way_is_fetched_anew_and_never_served(world: World, place: str) -> None:
    length = len(world.partition.data[0])
    spoil_at(world, BATCH * length + PLACES[place], 1)
    offset = 0
    while offset < 50:
        got = world.offsets(world.read(offset, 4_000))
        assert got[0] == offset
        offset = got[-1] + 1
    assert world.loop.counted["storage_tier_damaged_blocks"]


@pytest.mark.parametrize("place", PLACES)
def test_damage_in_the_store_is_told_and_what_is_behind_is_served(world: World, place: str) -> None:
    length = len(world.partition.data[0])
    spoil_at(world, BATCH * length + PLACES[place], -1)
    offset, seen = 0, []
    while offset < world.partition.end:
        result = world.read(offset, 4_000)
        if result.error:
            assert result.error == CORRUPT
            assert result.next_offset > offset
            seen.append(-1)
            offset = result.next_offset
            continue
        got = world.offsets(result)
        assert got[0] == offset
        seen += got
        offset = got[-1] + 1
    assert seen[: BATCH + 1] == [*range(BATCH), -1]
    behind = seen[BATCH + 1 :]
    assert behind == list(range(behind[0], world.partition.end))
    assert behind[0] == BATCH + 1 or place != "record"
    assert len(world.store.gets) < 40


def test_a_tiered_partition_says_where_its_log_begins_and_what_is_lost(world: World) -> None:
    length = len(world.partition.data[0])
    spoil_at(world, BATCH * length + PLACES["record"], -1)
    log = SegmentPartition("/p", MemoryDisk(), PartitionSettings(tiered=True))
    log.start_offset, log.high_watermark = 3, world.partition.end
    tier = PartitionTier(log, lambda cold: world.reader, lambda: None)
    for segment in world.partition.cold:
        tier.cold.add(segment)
    tier.settle(True)
    while (result := tier.read(BATCH, 1, 1 << 60)).pending is not None:
        world.loop.wait(result.pending)
    assert (result.error, result.next_offset) == (CORRUPT, BATCH + 1)
    assert (result.start_offset, result.high_watermark) == (3, world.partition.end)
    while (result := tier.read(BATCH + 1, 1, 1 << 60)).pending is not None:
        world.loop.wait(result.pending)
    assert world.offsets(result) == [BATCH + 1]


def test_a_damaged_index_is_fetched_anew_and_done_without(world: World) -> None:
    def spoil(path: str, start: int, data: bytearray) -> None:
        if path.endswith(".index"):
            data[200 % len(data)] ^= 1

    world.store.spoil = spoil
    for offset in (0, 30, 60, 89, 95):
        assert world.offsets(world.read(offset)) == [offset]
    assert world.offset_for_time(60) == (60, 60)


def test_a_store_that_fails_is_an_error_that_clients_repeat(world: World) -> None:
    world.store.failing = -1
    for _ in range(FAILURES):
        result = world.read(0)
        assert (result.error, result.buffers) == (int(KafkaCode.KAFKA_STORAGE_ERROR), [])
        with pytest.raises(BrokerError):
            world.offset_for_time(0)
        world.loop.passed_ms += 501
    world.store.failing = 0
    world.loop.passed_ms += 60_000
    assert world.offsets(world.read(0)) == [0]


def test_times_are_found(world: World) -> None:
    end = world.partition.end
    for timestamp_ms in (0, 1, 49, 50, 51, 90, 95, end - 1):
        assert world.offset_for_time(timestamp_ms) == (timestamp_ms, timestamp_ms)
    assert world.offset_for_time(end) is None


def test_nothing_is_read_of_segments_that_went(world: World) -> None:
    world.read(0)
    world.partition.cold.drop(1)
    assert world.offsets(world.read(0)) == [50]
    assert world.reader.read(0, 1, 50).buffers == []


def test_two_readers_do_not_disturb_each_other(world: World) -> None:
    places: dict[int, int] = {0: 0, 1: 40}
    seen: dict[int, list[int]] = {0: [], 1: []}
    while min(places.values()) < world.partition.end:
        for number, offset in places.items():
            if offset < world.partition.end:
                got = world.offsets(world.read(offset, 9_000))
                seen[number] += got
                places[number] = got[-1] + 1
    assert seen[0] == list(range(world.partition.end))
    assert seen[1] == list(range(40, world.partition.end))
