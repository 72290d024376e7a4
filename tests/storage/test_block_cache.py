"""The block cache: one fetch for all who want a block, bounds, the folder, a store that fails."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.storage.block_cache import BlockCache
from robustmq.storage.block_fetcher import ABANDONED_MS, STALLED_MS, CachedObject
from robustmq.storage.cache_folder import PAGE, file_size
from robustmq.storage.circuit_breaker import FAILURES
from tests.broker import until
from tests.storage.cold import BLOCK, Faulty, Loop

BLOCKS = 64


class World:
    """A store with one object of 64 blocks and a bit, and a loop."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "cache"
        self.store = Faulty(directory / "objects")
        self.data = random.Random(1).randbytes(BLOCKS * BLOCK + 1000)
        self.store.put("a/object", [self.data])
        self.loop = Loop()
        self.caches: list[BlockCache] = []
        self.object = CachedObject("a/object", len(self.data))

    def cache(self, **settings: int) -> BlockCache:
        folder = {"directory": str(self.folder)} if settings.get("disk_bytes") else {}
        cache = self.loop.cache(self.store, **settings, **folder)
        self.caches.append(cache)
        cache.start()
        return cache

    def read(self, cache: BlockCache, number: int, reader: int = 1) -> bytes:
        """One block, whatever it takes."""
        block = cache.block(self.object, number)
        if block is None:
            self.loop.wait(cache.want(self.object, number, number, reader))
            block = cache.block(self.object, number)
        assert block is not None, "what was wanted is there when its reader comes back"
        return bytes(block.data)

    def check(self, cache: BlockCache, *numbers: int) -> None:
        for number in numbers:
            assert self.read(cache, number) == self.data[number * BLOCK :][:BLOCK]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    if made.store.held is not None:
        made.store.held.set()
    for cache in made.caches:
        cache.close()


def files(world: World) -> list[Path]:
    # The cache makes the folder when its thread comes to it.
    return sorted(world.folder.glob("*"))


def written(world: World, cache: BlockCache) -> None:
    """All is on the disk that is to be."""
    world.loop.until(lambda: not cache._writing)


def test_every_block_is_what_the_object_has_there(world: World) -> None:
    cache = world.cache()
    world.check(cache, 0, 7, BLOCKS, 1, 0)


def test_a_hundred_readers_of_one_block_cost_one_fetch(world: World) -> None:
    cache = world.cache()
    waiting = [cache.want(world.object, 3, 3, reader) for reader in range(100)]
    for promise in waiting:
        world.loop.wait(promise)
    assert len(world.store.gets) == 1
    assert cache.has(world.object, 3)


def test_blocks_side_by_side_are_one_fetch_up_to_a_bound(world: World) -> None:
    cache = world.cache()
    world.loop.wait(cache.want(world.object, 0, 5, 1))
    assert sorted(world.store.gets) == [
        ("a/object", 0, 4 * BLOCK),
        ("a/object", 4 * BLOCK, 2 * BLOCK),
    ]


def test_memory_is_bounded_also_while_a_reader_holds_what_it_got(world: World) -> None:
    cache = world.cache(memory_bytes=8 * BLOCK, prefetch_bytes=4 * BLOCK)
    held = []
    for number in range(BLOCKS):
        world.check(cache, number)
        block = cache.block(world.object, number)
        assert block is not None
        held.append((number, block.data))
        assert cache.memory_bytes - len(held) * BLOCK <= 12 * BLOCK
    for number, data in held:
        assert data == world.data[number * BLOCK :][:BLOCK], "nobody writes over what is held"


def test_a_scan_does_not_push_out_what_is_asked_for_again_and_again(world: World) -> None:
    cache = world.cache(memory_bytes=20 * BLOCK)
    for _ in range(3):
        world.check(cache, *range(8))
    world.check(cache, *range(10, BLOCKS))
    asked = len(world.store.gets)
    world.check(cache, *range(8))
    assert len(world.store.gets) == asked


def test_a_block_from_the_folder_is_not_asked_of_the_store(world: World) -> None:
    cache = world.cache(memory_bytes=4 * BLOCK, disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, *range(BLOCKS))
    written(world, cache)
    asked = len(world.store.gets)
    world.check(cache, *range(BLOCKS))
    assert len(world.store.gets) == asked
    assert world.loop.counted["storage_tier_reads_disk"] > BLOCKS / 2


def test_a_restart_keeps_the_folder(world: World) -> None:
    cache = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, *range(20), BLOCKS)
    written(world, cache)
    cache.close()
    asked = len(world.store.gets)
    again = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.loop.until(lambda: again.disk_bytes == 20 * file_size(BLOCK) + file_size(1000))
    world.check(again, *range(20), BLOCKS)
    assert len(world.store.gets) == asked


def size_of(file: Path) -> int:
    """0: the cache has removed it since it was listed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def test_the_folder_never_holds_more_than_its_cap(world: World) -> None:
    cap = 10 * file_size(BLOCK)
    cache = world.cache(memory_bytes=2 * BLOCK, disk_bytes=cap)
    chosen = random.Random(3)
    for _ in range(300):
        world.check(cache, chosen.randrange(BLOCKS))
        assert sum(map(size_of, files(world))) <= cap
    written(world, cache)
    assert sum(one.stat().st_size for one in files(world)) <= cap


def test_a_cap_that_was_lowered_holds_after_the_start(world: World) -> None:
    cache = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, *range(20))
    written(world, cache)
    cache.close()
    cap = 5 * file_size(BLOCK)
    again = world.cache(disk_bytes=cap)
    world.loop.until(lambda: len(files(world)) <= 5)
    assert 0 < again.disk_bytes <= cap
    world.check(again, *range(20))


@pytest.mark.parametrize("damage", ["cut", "head", "data", "empty", "longer", "another"])
def test_a_damaged_block_of_the_folder_is_never_served(world: World, damage: str) -> None:
    cache = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, 0, 1)
    written(world, cache)
    cache.close()
    first, second = files(world)
    data = bytearray(first.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "head":
        data[9] ^= 1
    elif damage == "data":
        data[PAGE + 5000] ^= 1
    elif damage == "empty":
        data.clear()
    elif damage == "longer":
        data += bytes(PAGE)
        data[12:16] = (len(data) - PAGE).to_bytes(4, "little")
    else:
        data[:] = second.read_bytes()
    first.write_bytes(data)
    again = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.loop.until(lambda: again.disk_bytes)
    world.check(again, 0, 1)
    written(world, again)
    again.close()
    third = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.loop.until(lambda: third.disk_bytes == 2 * file_size(BLOCK))
    asked = len(world.store.gets)
    world.check(third, 0, 1)
    assert len(world.store.gets) == asked, "it was written anew"


def test_blocks_of_another_size_are_not_mixed_up(world: World) -> None:
    cache = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, 0, 1, 2)
    written(world, cache)
    cache.close()
    again = world.cache(disk_bytes=BLOCKS * 2 * BLOCK, block_bytes=BLOCK // 2)
    world.loop.until(lambda: again.disk_bytes)
    for number in range(4):
        assert world.read(again, number) == world.data[number * BLOCK // 2 :][: BLOCK // 2]


def test_a_folder_that_cannot_be_written_costs_the_folder_alone(world: World) -> None:
    world.folder.write_text("a file where the folder should be")
    cache = world.cache(disk_bytes=BLOCKS * BLOCK)
    world.loop.until(lambda: world.loop.counted["storage_tier_disk_errors"])
    world.check(cache, *range(10))
    assert world.loop.said == ["the cache folder cannot be written"]


def test_strange_files_in_the_folder_are_left_alone(world: World) -> None:
    world.folder.mkdir()
    (world.folder / "readme").write_text("x")
    (world.folder / ("f" * 40)).mkdir()
    cache = world.cache(disk_bytes=BLOCKS * BLOCK)
    world.check(cache, 0)
    written(world, cache)
    assert (world.folder / "readme").exists()


def test_what_fails_now_and_then_is_asked_for_again(world: World) -> None:
    cache = world.cache()
    world.store.failing = 2
    world.check(cache, 0)
    assert len(world.store.gets) == 3


def test_a_store_that_is_down_is_not_asked_all_the_time_and_comes_back(world: World) -> None:
    cache = world.cache()
    world.check(cache, 60)
    world.store.failing = -1
    world.loop.until(lambda: _fails(world, cache, 0) and cache.is_down)
    asked = len(world.store.gets)
    assert asked <= FAILURES + 2
    for number in range(50):
        world.loop.wait(cache.want(world.object, number, number, number))
        assert cache.failure(world.object, number)
    assert len(world.store.gets) <= asked + 1
    world.check(cache, 60)
    world.store.failing = 0
    world.loop.passed_ms += 60_000
    world.loop.until(lambda: not _fails(world, cache, 0))
    assert not cache.is_down
    assert [one for one in world.loop.said if "object store" in one] == [
        "the object store is down",
        "the object store answers again",
    ]


def _fails(world: World, cache: BlockCache, number: int) -> bool:
    world.loop.wait(cache.want(world.object, number, number, 1))
    failed = cache.failure(world.object, number) is not None
    if failed:
        world.loop.passed_ms += 501
    return failed


def test_a_store_that_hangs_is_an_error_and_what_is_at_hand_is_served(world: World) -> None:
    cache = world.cache()
    world.check(cache, 60)
    world.store.held = threading.Event()
    waiting = [cache.want(world.object, number * 2, number * 2, number) for number in range(20)]
    world.loop.turn()
    assert cache.failure(world.object, 0) is None
    world.loop.passed_ms += STALLED_MS + 1
    assert cache.failure(world.object, 0) is not None
    assert cache.failure(world.object, 38) is not None, "also what waits behind it"
    assert cache.is_down
    world.check(cache, 60)
    world.store.held.set()
    world.loop.wait(waiting[0])
    world.loop.until(lambda: not cache.is_down)
    world.check(cache, 0)


def test_what_nobody_waits_for_any_more_is_not_fetched(world: World) -> None:
    cache = world.cache(threads=1)
    world.store.held = threading.Event()
    waiting = [cache.want(world.object, number * 2, number * 2, number) for number in range(10)]
    world.loop.turn()
    world.loop.passed_ms += ABANDONED_MS + 1
    last = cache.want(world.object, 40, 40, 99)
    world.store.held.set()
    for promise in [*waiting, last]:
        world.loop.wait(promise)
    assert cache.has(world.object, 40)
    assert len(world.store.gets) <= 4
    assert world.loop.counted["storage_tier_fetches_abandoned"] >= 7


def test_readers_take_turns(world: World) -> None:
    cache = world.cache(threads=1)
    world.store.held = threading.Event()
    greedy = [cache.want(world.object, number * 2, number * 2, 1) for number in range(20)]
    modest = cache.want(world.object, 51, 51, 2)
    world.store.held.set()
    world.loop.wait(modest)
    assert sum(promise.settled for promise in greedy) <= 5


def test_what_is_fetched_ahead_is_bounded_and_what_is_not_used_is_counted(world: World) -> None:
    cache = world.cache(memory_bytes=4 * BLOCK, prefetch_bytes=8 * BLOCK)
    following = cache.ahead(world.object, 0, 30, 1)
    assert following == 8
    world.loop.until(lambda: cache.has(world.object, 7))
    assert cache.ahead(world.object, 8, 30, 1) == 8, "there is no room"
    world.check(cache, 0, 1)
    assert cache.ahead(world.object, 8, 30, 1) == 10
    world.loop.until(lambda: cache.has(world.object, 9))
    # Its reader has gone: others have the room then.
    world.loop.passed_ms += 3_000
    assert cache.ahead(world.object, 20, 30, 2) > 20
    world.check(cache, *range(40, BLOCKS))
    assert world.loop.counted["storage_tier_prefetch_wasted_bytes"] >= BLOCK


def test_a_block_that_is_damaged_is_fetched_anew(world: World) -> None:
    cache = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, 0)
    written(world, cache)
    cache.damaged(world.object, 0)
    world.check(cache, 0)
    assert len(world.store.gets) == 2


def test_versions_of_an_object_are_not_mixed_up(world: World) -> None:
    cache = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.check(cache, 0)
    world.store.put("a/object", [b"new" * 100_000])
    other = CachedObject("a/object", 300_000, "2")
    world.loop.wait(cache.want(other, 0, 0, 1))
    block = cache.block(other, 0)
    assert block is not None
    assert bytes(block.data[:6]) == b"newnew"
    world.check(cache, 0)


def test_a_missing_object_says_so_at_once(world: World) -> None:
    cache = world.cache()
    none = CachedObject("none", 10)
    world.loop.wait(cache.want(none, 0, 0, 1))
    assert "none" in str(cache.failure(none, 0))
    assert not cache.is_down


KILLED = """
import sys
from pathlib import Path
from tests.storage.test_block_cache import BLOCK, World
world = World(Path(sys.argv[1]))
cache = world.cache(memory_bytes=2 * BLOCK, disk_bytes=30 * BLOCK)
while True:
    world.check(cache, *range(64))
"""


def test_an_object_that_was_cut_is_no_store_that_is_down(world: World) -> None:
    cache = world.cache()
    world.store.put("a/object", [world.data[: 2 * BLOCK]])
    for number in range(4, 40, 4):
        world.loop.wait(cache.want(world.object, number, number, 1))
        assert cache.failure(world.object, number) is not None
    assert not cache.is_down
    world.check(cache, 0, 1)


def test_a_process_that_is_killed_leaves_no_half_block_behind(world: World) -> None:
    command = [sys.executable, "-c", KILLED, str(world.folder.parent)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    until(lambda: world.folder.exists() and len(files(world)) > 20, 20.0, "blocks on the disk")
    child.kill()
    child.wait()
    again = world.cache(disk_bytes=BLOCKS * 2 * BLOCK)
    world.loop.until(lambda: again.disk_bytes)
    world.check(again, *range(BLOCKS))
    assert world.loop.counted["storage_tier_reads_disk"]
