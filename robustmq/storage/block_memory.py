"""Blocks in memory: which of them are there, what they pin, and which make way.

A block from the cache folder has memory of its own. Those that one request to the store gave are
slices of its answer, as a copy of each costs more than all else that is done with it (measured: a
third of the rate). So an answer is pinned whole by the last of its slices, in whosever hands, and
is counted whole until then.

- A block that nobody has looked at yet is fresh: it stands apart, and others do not push it out.
  Fresh ones are bounded by `prefetch_bytes`; the oldest then takes its chance with the rest, which
  is bounded by `memory_bytes` and makes way by S3-FIFO (`s3_fifo`).
- What is pinned, by blocks here and by what readers still hold of answers, is bounded by the sum
  of the two. Where slices pin more than that, the oldest answers of which a part has gone are given
  up: of what is fresh, or was asked for again, a few get memory of their own and the rest makes
  way; if that is not enough, others make way. While it is copied an answer is there twice. Readers
  that hold more than all of it (their connections bound them) leave a part of `memory_bytes` to all
  others.

All of it belongs to the loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from sys import getrefcount
from typing import NamedTuple

from robustmq.storage.cache_folder import BlockBuffer, BufferPool
from robustmq.storage.s3_fifo import S3Fifo

UNUSED_MS = 2_000
"""A block that was fetched ahead and not looked at for so long makes room for others of its kind.
"""


MAX_COPIED = 4
"""Blocks that are copied when an answer comes: half a millisecond, or two where memory is new (the
first answer that came when readers held too much took 40 without a bound). Further ones make way,
but those that somebody waits for: they stay where they are until more comes."""
KEPT_PART = 4
"""One part of so many of `memory_bytes` is for blocks, whatever readers hold."""


class Answer:
    """The memory of what the store gave at once."""

    __slots__ = ("_memory", "keys", "size", "writes")

    def __init__(self, data: memoryview) -> None:
        """Of an object that nobody has but those who look at it by views."""
        self._memory = data.obj
        self.size = len(data)
        self.keys: set[int] = set()
        """Its blocks that are in memory."""
        self.writes = 0
        """Its blocks that wait to be written to the folder, where it is counted as well."""

    @property
    def in_use(self) -> bool:
        """Is there a view of it? All views hold it by one reference; one more is ours, and one the
        argument of this call."""
        return getrefcount(self._memory) > 2


class Piece(NamedTuple):
    """A block as it comes."""

    data: memoryview
    memory: BlockBuffer | Answer
    checked: tuple[int, int] = (0, 0)
    """The area that is known to be sound."""


class Block:
    """Some bytes of an object, in memory. What is checked or made of them once stays with them."""

    __slots__ = ("ahead", "checked", "data", "memory", "origin", "parsed", "used")

    def __init__(self, piece: Piece, origin: str, ahead: bool) -> None:
        self.data, self.memory, self.checked = piece
        self.origin = origin
        """Where it came from, until it is used for the first time; then it is memory."""
        self.ahead = ahead
        self.used = False
        self.parsed: object = None


class BlockMemory:
    """The blocks of one cache that are in memory, by key."""

    def __init__(
        self,
        memory_bytes: int,
        prefetch_bytes: int,
        pool: BufferPool,
        now_ms: Callable[[], int],
        count: Callable[[str, int], None],
    ) -> None:
        self._max_fresh_bytes = prefetch_bytes
        self._max_bytes = memory_bytes + prefetch_bytes
        self._kept_bytes = memory_bytes // KEPT_PART
        self._pool = pool
        self._now_ms = now_ms
        self._count = count
        self._blocks: dict[int, Block] = {}
        self._order = S3Fifo(memory_bytes)
        # Blocks that nobody has looked at: when they came. They are not in `_order`.
        self._fresh: OrderedDict[int, int] = OrderedDict()
        self._fresh_bytes = 0
        self.ahead_blocks = 0
        """Of the fresh ones those that were fetched ahead, and those that are to come."""
        # Pinned by blocks here: what they have of their own, and answers.
        self._pinned_bytes = 0
        # Answers of which some blocks have gone, and all have, the latter while there are views.
        self._partial: OrderedDict[Answer, None] = OrderedDict()
        self._let_go: list[Answer] = []
        self._let_go_bytes = 0
        self._copies_left = 0

    def __contains__(self, key: int) -> bool:
        return key in self._blocks

    @property
    def held_bytes(self) -> int:
        """All that is pinned, here and by readers."""
        self._look_at_let_go()
        return self._pinned_bytes + self._let_go_bytes

    def use(self, key: int, goes_on: bool) -> Block | None:
        """A block, if it is there, for somebody who looks at it; `goes_on`: and who has done so
        right before, which says nothing about who else will."""
        block = self._blocks.get(key)
        if block is None:
            return None
        if not block.used:
            block.used = True
            self._take_in(key)
        else:
            block.origin = "memory"
            if not goes_on:
                self.hit(key)
        return block

    def hit(self, key: int) -> None:
        """A block was asked for again."""
        if key in self._order:
            self._order.hit(key)

    def add(self, key: int, block: Block) -> None:
        """A block comes, and is fresh."""
        self._blocks[key] = block
        self._fresh[key] = self._now_ms()
        size = len(block.data)
        self._fresh_bytes += size
        memory = block.memory
        if isinstance(memory, BlockBuffer):
            self._pinned_bytes += size
        else:
            if not memory.keys:
                self._pinned_bytes += memory.size
            memory.keys.add(key)

    def added(self) -> None:
        """The blocks of an answer have come, all of them: others make way."""
        while self._fresh_bytes > self._max_fresh_bytes:
            self._take_in(next(iter(self._fresh)))
        self._look_at_let_go()
        self._keep_bound()

    def remove(self, key: int) -> None:
        """Forget a block, whether it is there or not."""
        if key in self._blocks:
            self._leave_fresh(key)
            self._order.remove(key)
            self._forget(key)

    def has_room_ahead(self, most: int) -> bool:
        """Is there room for a block that is fetched ahead? Those that nobody came for make some."""
        while self.ahead_blocks >= most and self._fresh:
            key, came_ms = next(iter(self._fresh.items()))
            if self._now_ms() - came_ms < UNUSED_MS:
                return False
            self._take_in(key)
        return self.ahead_blocks < most

    # -- making way --------------------------------------------------------------------------------

    def _leave_fresh(self, key: int) -> None:
        if self._fresh.pop(key, None) is not None:
            block = self._blocks[key]
            self._fresh_bytes -= len(block.data)
            self.ahead_blocks -= block.ahead

    def _take_in(self, key: int) -> None:
        """A block that stood apart joins the others, and some of those go."""
        if key not in self._fresh:
            return
        self._leave_fresh(key)
        for gone in self._order.add(key, len(self._blocks[key].data)):
            self._evicted(gone)

    def _evicted(self, key: int) -> None:
        """A block has left the order."""
        block = self._blocks[key]
        self._count("storage_tier_evictions_memory", 1)
        if block.ahead and not block.used:
            self._count("storage_tier_prefetch_wasted_bytes", len(block.data))
        self._forget(key)

    def _forget(self, key: int) -> None:
        memory = self._blocks.pop(key).memory
        if isinstance(memory, BlockBuffer):
            self._pinned_bytes -= memory.length
            self._pool.give(memory)
        else:
            self._leave(memory, key)

    def _leave(self, answer: Answer, key: int) -> None:
        """A block is no slice of an answer any more."""
        answer.keys.remove(key)
        if answer.keys:
            self._partial[answer] = None
        else:
            self._partial.pop(answer, None)
            self._pinned_bytes -= answer.size
            self._let_go.append(answer)
            self._let_go_bytes += answer.size

    def _look_at_let_go(self) -> None:
        """Those that nobody looks at any more are gone."""
        self._let_go = [one for one in self._let_go if one.size and one.in_use]
        self._let_go_bytes = sum(one.size for one in self._let_go if not one.writes)

    def _keep_bound(self) -> None:
        self._copies_left = MAX_COPIED
        while self._pinned_bytes + self._let_go_bytes > self._max_bytes:
            before = self._let_go_bytes
            self._look_at_let_go()
            if self._let_go_bytes < before:
                continue
            answer = next((one for one in self._partial if self._may_give_up(one)), None)
            if answer is not None:
                self._give_up(answer)
            elif self._order.size > self._kept_bytes:
                self._evicted(self._order.make_way())
            else:
                return

    def _may_give_up(self, answer: Answer) -> bool:
        """Without a copy too many?"""
        if self._copies_left:
            return True
        return any(key in self._order or self._blocks[key].ahead for key in answer.keys)

    def _give_up(self, answer: Answer) -> None:
        """What is worth it of an answer gets memory of its own."""
        for key in tuple(answer.keys):
            block = self._blocks[key]
            in_order = key in self._order
            if not self._copies_left and not in_order and not block.ahead:
                # Somebody comes for it at once; a copy is made when more comes, if it is here then.
                continue
            if not self._copies_left or (in_order and not self._order.stays(key)):
                if in_order:
                    self._order.evict(key)
                else:
                    self._leave_fresh(key)
                self._evicted(key)
                continue
            self._copies_left -= 1
            buffer = self._pool.take(len(block.data))
            buffer.data[:] = block.data
            block.data, block.memory = buffer.data, buffer
            # It may be made of views of the answer.
            block.parsed = None
            self._pinned_bytes += buffer.length
            self._leave(answer, key)
