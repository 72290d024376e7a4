"""Partitions on their way from one storage engine to another, while they are written and read.

The old engine stays in force while its committed batches are copied, a slice a commit. When the
copy has caught up, the rest is copied in one turn and the new engine takes over: offsets, gaps in
them and the log's start are the same. When a commit with fdatasync has what the new engine got, the
old one's files go. Both have the same records at the same offsets, so a crash at any point is
mended by the rule that `Partitions` opens them with: as long as the new one ends before the old one
does, the old one is in force and the copy goes on.

Into memory as much goes as there is room for. Out of memory: what is appended to a partition that
has still to move is acknowledged when it has moved (`settling`), and none of it makes way for what
other topics have in memory.

Bounds: MOVES_AT_ONCE copies run in a worker, each by SLICE_BATCHES or SLICE_BYTES; others wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from robustmq.core import batches
from robustmq.promises import Promise
from robustmq.shard.commits import Commits
from robustmq.storage.engine import PartitionLog
from robustmq.storage.shard_store import ShardStore

MOVES_AT_ONCE = 4
SLICE_BATCHES = 200
SLICE_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
LEAVING_SLICE = 512 * 1024
LOOK_BYTES = 2 * 1024
"""What looking at one topic counts as."""


class Move:
    """One partition on its way."""

    def __init__(
        self,
        store: ShardStore,
        shard: int,
        old: PartitionLog,
        open_fresh: Callable[[], PartitionLog],
        flip: Callable[[PartitionLog], None],
        over: Callable[[str], None],
        bounded: int = 0,
    ) -> None:
        """`open_fresh` opens what the new engine has, nothing or the begin of a copy; `flip` puts
        it in force; `over` is called when all is done, or with why it cannot be; `bounded`: the new
        engine holds so many bytes."""
        self.store = store
        self.shard = shard
        self.old = old
        self.open_fresh = open_fresh
        self.flip = flip
        self.over = over
        self.bounded = bounded
        self.fresh: PartitionLog | None = None
        self.ended = False
        """The partition is no more."""
        self.settled: Promise[None] = Promise()
        """Settles when what was appended before is as safe as the new engine keeps it."""


class Moves:
    """The moves of one worker."""

    def __init__(self, commits: Commits, kick: Callable[[], None]) -> None:
        """`kick` runs what was submitted to the storage thread."""
        self._commits = commits
        self._kick = kick
        self._waiting: deque[Move] = deque()
        self._running = 0

    def begin(self, move: Move) -> None:
        """Move a partition as soon as its turn comes."""
        self._waiting.append(move)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._running < MOVES_AT_ONCE:
            move = self._waiting.popleft()
            self._running += 1
            if move.ended:
                self._end(move, "")
                continue
            self._start(move)

    def _start(self, move: Move) -> None:
        old = move.old
        begin = old.start_offset
        if move.bounded:
            begin = max(begin, old.offset_of_tail(move.bounded))
        # A log may begin inside a batch, which is kept whole.
        first = old.read(begin, 1, False)
        if first.pending is not None:
            first.pending.when_settled(lambda: self._start(move))
            return
        if first.buffers:
            begin = min(begin, int.from_bytes(bytes(first.buffers[0][:8]), "big"))
        fresh = move.fresh = move.open_fresh()
        if fresh.end_offset < begin:
            fresh.skip_to(begin)
        self._step(move)

    def _step(self, move: Move) -> None:
        if move.ended:
            self._end(move, "")
            return
        copied = self._copy(move, True, SLICE_BATCHES, SLICE_BYTES)
        if copied is None:
            return
        if not copied:
            self._flip(move)
            return
        assert move.fresh is not None, "it was copied into"
        move.store.changed(move.fresh)
        self._commits.mark(move.shard, False, lambda: self._step(move))

    def _copy(self, move: Move, committed: bool, max_batches: int, max_bytes: int) -> int | None:
        """Copy what comes next, about so much at most: how many batches; None when the old engine
        cannot be read now, or at all."""
        old, fresh = move.old, move.fresh
        assert fresh is not None, "a move that runs was started"
        count = size = 0
        while count < max_batches and size < max_bytes:
            offset = max(fresh.end_offset, old.start_offset)
            result = old.read(offset, READ_BYTES, committed)
            if result.pending is not None:
                result.pending.when_settled(lambda: self._step(move))
                return None
            if result.next_offset > offset:
                # What a bad disk has lost is missing in the new engine, too.
                fresh.skip_to(result.next_offset)
                count += 1
                continue
            if result.error or result.out_of_range:
                self._give_up(move, result.error)
                return None
            before = count
            for buffer in result.buffers:
                data = bytes(buffer)
                for begin, info in batches.headers(data, 0, len(data), False):
                    if info.base_offset >= fresh.end_offset:
                        fresh.restore(bytearray(data[begin : begin + info.length]))
                        count += 1
                        size += info.length
            if count == before:
                break
        return count

    def _flip(self, move: Move) -> None:
        """All that is committed is copied: what is not follows, and the new engine is in force."""
        old, fresh = move.old, move.fresh
        assert fresh is not None, "it was copied into"
        if self._copy(move, False, 1 << 62, 1 << 62) is None:
            return
        if fresh.end_offset < old.end_offset:
            fresh.skip_to(old.end_offset)
        if old.start_offset > fresh.start_offset:
            fresh.trim(old.start_offset)
        move.store.exchange(old, fresh)
        move.flip(fresh)
        self._commits.mark(move.shard, True, lambda: self._safe(move))

    def _safe(self, move: Move) -> None:
        """The new engine's copy is on the disk."""
        move.settled.resolve(None)
        move.store.discard(move.old).when_settled(lambda: self._end(move, ""))
        self._commits.mark_lazy(move.shard, 0)
        self._kick()

    def _give_up(self, move: Move, error: int) -> None:
        assert move.fresh is not None, "it was read for a copy"
        move.store.discard(move.fresh)
        self._kick()
        self._end(move, f"its records cannot be read (Kafka error {error})")

    def _end(self, move: Move, why: str) -> None:
        self._running -= 1
        move.settled.resolve(None)
        move.over(why)
        self._next()


class Leavers:
    """Light topics whose mode is memory no more: their rings go into the log, some a tick; one that
    is written to goes at once (`LightTopics.assign`)."""

    def __init__(
        self, stores: dict[int, ShardStore], commits: Commits, mode: Callable[[bytes], str]
    ) -> None:
        self._stores = stores
        self._commits = commits
        self._mode = mode
        self._left: deque[tuple[int, bytes]] = deque()

    def look(self) -> None:
        """The storage rules may be others."""
        self._left.clear()
        for shard, store in self._stores.items():
            self._left.extend((shard, topic) for topic, _ in store.light.rings())

    def tick(self) -> None:
        """A slice of those that are to be looked at."""
        passed = 0
        while self._left and passed < LEAVING_SLICE:
            shard, topic = self._left.popleft()
            passed += LOOK_BYTES
            store = self._stores[shard]
            if store.light.in_memory(topic) and self._mode(topic) != "memory":
                size = store.light.leave_memory(topic, store.leader_epoch)
                passed += size
                self._commits.mark_lazy(shard, size)
