"""What the block cache pins: blocks are slices of what the store gave at once, and the memory of
that is counted for as long as anybody has a part of it."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmq.storage.block_cache import BlockCache
from robustmq.storage.block_fetcher import CachedObject
from robustmq.storage.block_memory import (
    KEPT_PART,
    MAX_COPIED,
    Answer,
    Block,
    BlockMemory,
    Piece,
)
from robustmq.storage.cache_folder import BlockBuffer, BufferPool
from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings
from tests.storage.cold import BLOCK, Loop

BLOCKS = 40
GET = 4 * BLOCK
MEMORY, PREFETCH = 8 * BLOCK, 6 * BLOCK
BOUND = MEMORY + PREFETCH


class Memory(bytearray):
    """What a request to the store gave; one can see whether it is still there."""


class Store:
    """One object; it knows which of its answers are still in memory."""

    def __init__(self) -> None:
        self.data = random.Random(1).randbytes(BLOCKS * BLOCK + 1000)
        self.gets: list[tuple[int, int]] = []
        self._given: list[weakref.ref[Memory]] = []

    def get_range(self, path: str, start: int, length: int) -> memoryview:
        memory = Memory(self.data[start : start + length])
        self.gets.append((start // BLOCK, length // BLOCK))
        self._given.append(weakref.ref(memory))
        return memoryview(memory)

    @property
    def pinned(self) -> int:
        """Bytes of all answers that are in memory, whoever has them."""
        return sum(len(one) for given in self._given if (one := given()) is not None)


class World:
    """A cache of the object, on a loop that the test turns."""

    def __init__(self, **settings: object) -> None:
        self.store = Store()
        self.loop = Loop()
        self.cache: BlockCache = self.loop.cache(
            self.store, **{"memory_bytes": MEMORY, "prefetch_bytes": PREFETCH, **settings}
        )
        self.cache.start()
        self.object = CachedObject("object", len(self.store.data))

    def fetch(self, first: int, last: int) -> None:
        self.loop.wait(self.cache.want(self.object, first, last, 1))

    def block(self, number: int) -> Block:
        block = self.cache.block(self.object, number)
        if block is None:
            self.fetch(number, number)
            block = self.cache.block(self.object, number)
        assert block is not None, "what was wanted is there when its reader comes back"
        assert block.data == self.store.data[number * BLOCK :][:BLOCK]
        return block


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.cache.close()


def test_a_block_outlives_its_siblings_and_then_has_memory_of_its_own(world: World) -> None:
    world.fetch(0, 3)
    for _ in range(3):
        world.block(0)
    world.fetch(BLOCKS - 6, BLOCKS - 1)
    for number in range(1, BLOCKS - 6):
        world.block(number)
        assert world.cache.memory_bytes <= BOUND
    asked = len(world.store.gets)
    assert isinstance(world.block(0).memory, BlockBuffer)
    assert len(world.store.gets) == asked, "it was asked for again and again, and stayed"


def test_what_is_counted_is_what_is_pinned(world: World) -> None:
    world.fetch(0, 3)
    assert world.cache.memory_bytes == world.store.pinned == GET
    held = world.block(3).data
    for number in (0, 1, 2, 3):
        world.cache.damaged(world.object, number)
        assert world.cache.memory_bytes == world.store.pinned == GET
    assert held == world.store.data[3 * BLOCK : 4 * BLOCK]
    del held
    assert world.cache.memory_bytes == world.store.pinned == 0


def test_what_obstore_gives_is_let_go_with_the_last_view_of_it(tmp_path: Path) -> None:
    store = open_object_store(TieringSettings(tmp_path.as_uri()))
    store.put("object", [bytes(BLOCKS * BLOCK)])
    loop, source = Loop(), CachedObject("object", BLOCKS * BLOCK)
    cache = loop.cache(store)
    loop.wait(cache.want(source, 0, 3, 1))
    block = cache.block(source, 0)
    assert block is not None
    held = block.data[5:9]
    del block
    for number in range(4):
        cache.damaged(source, number)
    assert cache.memory_bytes == GET
    del held
    assert cache.memory_bytes == 0
    cache.close()


def test_what_readers_hold_is_not_to_be_had_by_others(world: World) -> None:
    held = []
    for first in (0, 4):
        world.fetch(first, first + 3)
        held += [world.block(number).data for number in range(first, first + 4)]
    for number in range(8, BLOCKS):
        world.block(number)
        assert world.cache.memory_bytes <= BOUND
        assert 2 * GET < world.store.pinned <= world.cache.memory_bytes
    held.clear()
    assert world.cache.memory_bytes <= BOUND - 2 * GET


def test_a_damaged_block_is_fetched_anew_without_its_siblings(world: World) -> None:
    world.fetch(0, 3)
    world.cache.damaged(world.object, 2)
    world.block(2)
    assert world.store.gets == [(0, 4), (2, 1)]
    for number in range(4):
        world.block(number)
    assert len(world.store.gets) == 2


def test_slices_are_written_to_the_folder_and_found_there(tmp_path: Path) -> None:
    room = {"disk_bytes": BLOCKS * 2 * BLOCK, "directory": str(tmp_path / "cache")}
    world = World(**room)
    for number in range(BLOCKS - 3, BLOCKS + 1):
        world.fetch(number, number)
    world.fetch(0, 7)
    world.loop.until(lambda: not world.cache._writing)
    world.cache.close()
    again = World(**room)
    again.loop.until(lambda: again.cache.disk_bytes == world.cache.disk_bytes)
    for number in (*range(8), *range(BLOCKS - 3, BLOCKS + 1)):
        block = again.block(number)
        assert isinstance(block.memory, BlockBuffer)
    assert not again.store.gets
    again.cache.close()


def test_an_index_that_was_made_of_a_slice_does_not_pin_the_answer() -> None:
    memory = BlockMemory(8, 8, BufferPool(4, 0), lambda: 0, lambda name, amount: None)
    _come(memory, 0, 2)
    first = memory.use(0, False)
    assert first is not None
    first.parsed = first.data[1:]
    assert memory.use(0, False) is first
    memory.remove(1)
    _come(memory, 2, 2)
    _come(memory, 4, 1)
    assert isinstance(first.memory, BlockBuffer)
    again = memory.use(0, True)
    assert again is not None
    assert again.parsed is None
    assert memory.held_bytes <= 16


def _come(memory: BlockMemory, first: int, count: int) -> None:
    """One answer with so many blocks of 4 bytes."""
    data = memoryview(Memory(4 * count))
    answer = Answer(data)
    for number in range(count):
        piece = Piece(data[4 * number : 4 * number + 4], answer)
        memory.add(first + number, Block(piece, "store", False))
    memory.added()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "read", "read", "fetch", "ahead", "damaged", "hold", "let go"]),
        st.integers(0, BLOCKS),
        st.integers(0, 7),
    ),
    max_size=60,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(STEPS)
def test_memory_is_bounded_whatever_is_asked_for(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    cache, store = world.cache, world.store
    held: list[tuple[memoryview, int]] = []
    for step, number, count in steps:
        last = min(number + count, BLOCKS)
        if step == "read":
            world.block(number)
        elif step == "fetch":
            world.fetch(number, last)
        elif step == "ahead":
            cache.ahead(world.object, number, last, 2)
        elif step == "damaged":
            cache.damaged(world.object, number)
        elif step == "hold":
            block = world.block(number)
            memory = block.memory
            held.append((block.data, memory.size if isinstance(memory, Answer) else 0))
            del block, memory
        else:
            held.clear()
        world.loop.until(lambda: not cache.in_flight)
        counted = cache.memory_bytes
        assert store.pinned <= counted, "nothing is pinned that is not counted"
        assert counted <= max(BOUND, sum(size for _, size in held) + MEMORY // KEPT_PART + PREFETCH)
    cache.close()


def test_an_answer_that_comes_when_readers_hold_too_much_has_few_blocks_copied() -> None:
    """All that stood apart was copied in one go, up to prefetch_bytes."""
    copied: list[int] = []

    class Pool(BufferPool):
        def take(self, length: int) -> BlockBuffer:
            copied.append(length)
            return super().take(length)

    memory = BlockMemory(
        64 * BLOCK, 64 * BLOCK, Pool(BLOCK, 8), lambda: 0, lambda name, amount: None
    )
    held: list[memoryview] = []
    most = 0
    for first in range(0, 400, 4):
        data = memoryview(Memory(4 * BLOCK))
        answer = Answer(data)
        for number in range(4):
            view = data[number * BLOCK : (number + 1) * BLOCK]
            memory.add(first + number, Block(Piece(view, answer), "store", True))
        used = memory.use(first, False)
        assert used is not None
        # Its reader holds all of it.
        held.append(used.data)
        memory.remove(first)
        before = len(copied)
        memory.added()
        most = max(most, len(copied) - before)
    assert 0 < most <= MAX_COPIED
