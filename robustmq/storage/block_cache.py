"""A cache of three tiers over an object store: memory, a folder on the local disk, the store.

Objects never change under one version; they are cached in blocks of one size. `block` gives what is
in memory, at once. `want` brings blocks there and settles when all of them are, or cannot be had:
ask again then, and `failure` says why not. `ahead` does the same for what will be wanted soon, as
far as there is room. Nothing here knows what the objects hold.

- One flight: a block that is on its way is not asked for again, however many want it.
- What was wanted is there when its reader comes back (`block_memory` says how that is bounded).
- Memory and folder both evict by S3-FIFO (`s3_fifo`), so a long scan does not push out what is
  asked for again and again.
- The folder is written behind the readers' backs, by one thread; when that does not keep up, blocks
  are left out. So a store that is faster than the disk is not slowed down by it.

Memory is bounded by `memory_bytes` + `prefetch_bytes`, what waits to be written by `_WRITING_BYTES`
more, with all of the answers of which a part waits; beside that there are what is on its way,
`get_bytes` a thread, and a few free buffers. All state belongs to the loop; the threads of the tier
read, write, and hand back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from robustmq.promises import Promise
from robustmq.storage.block_fetcher import (
    BlockFetcher,
    CachedObject,
    Check,
    Flight,
    Outcome,
    StoreDownError,
)
from robustmq.storage.block_memory import Answer, Block, BlockMemory, Piece
from robustmq.storage.cache_folder import BufferPool, CacheFolder, file_size
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.s3_fifo import S3Fifo
from robustmq.storage.tier_threads import TierThreads

FAILED_MS = 500
"""So long what failed is not asked for again."""
MAX_FAILURES = 4096
WRITE_PAUSE_MS = 10_000
"""The folder's disk failed: no block is written for so long."""
WRITE_REST = 7
"""While fetches are on their way the writer rests so many times as long as a write took: it has an
eighth of the disk and of a processor. On a disk of 1.6 GB/s that is 200 MB/s, about what an object
store gives a worker; measured with one on loopback, which gives six times that, writing all of it
would cost a third of the rate at which it is read."""
WRITE_REST_MAX_S = 0.05
FREE_BUFFERS = 16
"""Memory of blocks that is kept for the next ones."""
_WRITING_BYTES = 32 * 1024 * 1024


class CacheSettings(msgspec.Struct, frozen=True):
    """Bounds of one cache."""

    memory_bytes: int
    prefetch_bytes: int
    block_bytes: int = 1024 * 1024
    disk_bytes: int = 0
    directory: str = ""
    """Of the folder; empty: there is none."""
    get_bytes: int = 8 * 1024 * 1024
    """The most that is asked of the store at once."""
    threads: int = 5
    """One of them is for what somebody waits for."""


class _Failure(msgspec.Struct, frozen=True, gc=False):
    error: Exception
    until_ms: int


class BlockCache:
    """The cache of one worker."""

    def __init__(
        self,
        store: ObjectStore,
        settings: CacheSettings,
        notify: Callable[[Callable[[], None]], object],
        later: Callable[[int, Callable[[], None]], object],
        now_ms: Callable[[], int],
        now_us: Callable[[], int],
        count: Callable[[str, int], None],
        log: Callable[..., None],
    ) -> None:
        """`notify` runs a function on the loop, from any thread; `later` after some ms."""
        self.settings = settings
        self._now_ms = now_ms
        self._now_us = now_us
        self._count = count
        self._log = log
        pool = BufferPool(settings.block_bytes, FREE_BUFFERS)
        self._folder = CacheFolder(settings.directory, pool) if settings.directory else None
        self._threads = TierThreads("tier", settings.threads, notify)
        self._writer = TierThreads("tier-cache", 1, notify)
        self._fetcher = BlockFetcher(
            store,
            self._folder,
            settings.block_bytes,
            self._threads,
            later,
            now_ms,
            now_us,
            count,
            log,
            self._landed,
            self._on_disk_no_more,
        )
        self._memory = BlockMemory(
            settings.memory_bytes, settings.prefetch_bytes, pool, now_ms, count
        )
        self._on_disk = S3Fifo(settings.disk_bytes)
        self._writing: dict[int, int] = {}
        self._writing_bytes = 0
        self._no_writes_until_ms = 0
        self._flights: dict[int, Flight] = {}
        self._failures: OrderedDict[int, _Failure] = OrderedDict()

    def start(self) -> None:
        """Find out what the folder holds, in slices; what is found is served from then on."""
        folder = self._folder
        if folder is None:
            return
        scans: list[Iterator[list[tuple[int, int]]]] = []

        def begin() -> list[tuple[int, int]]:
            folder.prepare()
            scans.append(folder.scan())
            return next(scans[0], [])

        def found(rows: list[tuple[int, int]] | Exception) -> None:
            if isinstance(rows, Exception):
                self._disk_failed(rows)
                return
            for key, size in rows:
                if key not in self._on_disk:
                    self._remove(self._on_disk.add(key, size, known=True))
            if rows:
                self._writer.submit(lambda: next(scans[0], []), found)

        self._writer.submit(begin, found)

    def close(self) -> None:
        """Nothing is fetched any more."""
        self._threads.close()
        self._writer.close()

    @property
    def memory_bytes(self) -> int:
        """What is held in memory, by blocks here and by readers who are not done with them."""
        return self._memory.held_bytes

    @property
    def disk_bytes(self) -> int:
        """What is held in the folder."""
        return self._on_disk.size

    @property
    def in_flight(self) -> int:
        """Fetches that have begun."""
        return self._fetcher.in_flight

    @property
    def is_down(self) -> bool:
        """Is the store taken for dead?"""
        return self._fetcher.is_down

    # -- asking ------------------------------------------------------------------------------------

    def block(self, source: CachedObject, number: int, goes_on: bool = False) -> Block | None:
        """A block if it is in memory; `goes_on`: for who has looked at it right before."""
        block = self._memory.use(source.key + number, goes_on)
        if block is not None:
            self._count_read(block.origin)
        return block

    def asked_again(self, source: CachedObject, number: int) -> None:
        """Who looks at a block that is in memory does not go on there."""
        self._memory.hit(source.key + number)

    def _count_read(self, origin: str) -> None:
        if origin == "memory":
            self._count("storage_tier_reads_memory", 1)
        elif origin == "folder":
            self._count("storage_tier_reads_disk", 1)
        else:
            self._count("storage_tier_reads_store", 1)

    def has(self, source: CachedObject, number: int) -> bool:
        """Is a block in memory? This does not count as using it."""
        return source.key + number in self._memory

    def failure(self, source: CachedObject, number: int) -> Exception | None:
        """Why a block could not be had a moment ago; None: nothing is known against it."""
        key = source.key + number
        flight = self._flights.get(key)
        if flight is not None and self._fetcher.is_late(flight):
            return StoreDownError("the object store does not answer")
        failure = self._failures.get(key)
        if failure is None:
            return None
        if failure.until_ms <= self._now_ms():
            del self._failures[key]
            return None
        return failure.error

    def want(
        self,
        source: CachedObject,
        first: int,
        last: int,
        reader: int,
        check: Check | None = None,
    ) -> Promise[None]:
        """Bring these blocks into memory, checked if need be; settles when they are there or cannot
        be had."""
        promise: Promise[None] = Promise()
        flights = self._flights_for(source, first, last, reader, True, check)
        left = len(flights)

        def over() -> None:
            nonlocal left
            left -= 1
            if not left:
                promise.resolve(None)

        for flight in flights:
            flight.waiters.append(over)
            self._fetcher.want(flight)
        if not flights:
            promise.resolve(None)
        self._fetcher.go_on()
        return promise

    def ahead(
        self,
        source: CachedObject,
        first: int,
        last: int,
        reader: int,
        check: Check | None = None,
    ) -> int:
        """Fetch blocks that will be wanted, as far as there is room; the first that is not."""
        if self._fetcher.is_down:
            return first
        most = self.settings.prefetch_bytes // self.settings.block_bytes
        last = min(last, first + most - 1)
        number = first
        memory = self._memory
        while number <= last and memory.has_room_ahead(most):
            stop = min(last, number + most - memory.ahead_blocks - 1)
            self._flights_for(source, number, stop, reader, False, check)
            number = stop + 1
        self._fetcher.go_on()
        return number

    def served(self, size: int) -> None:
        """So many bytes of blocks were given to a reader."""
        self._count("storage_tier_bytes_served", size)

    def damaged(self, source: CachedObject, number: int) -> None:
        """What a block says is wrong: it is fetched anew when it is wanted again."""
        key = source.key + number
        self._count("storage_tier_damaged_blocks", 1)
        self._memory.remove(key)
        if key in self._on_disk:
            self._on_disk.remove(key)
            self._remove([key])

    # -- flights -----------------------------------------------------------------------------------

    def _flights_for(
        self,
        source: CachedObject,
        first: int,
        last: int,
        reader: int,
        wanted: bool,
        check: Check | None,
    ) -> list[Flight]:
        """The flights that bring these blocks; those that are not on their way begin."""
        flights: dict[Flight, None] = {}
        begun: list[Flight] = []
        now_ms = self._now_ms()
        bounds = self.settings
        most = max(min(bounds.get_bytes, bounds.prefetch_bytes) // bounds.block_bytes, 1)
        for number in range(first, last + 1):
            key = source.key + number
            if key in self._memory:
                continue
            flight = self._flights.get(key)
            if flight is None:
                before = begun[-1] if begun else None
                in_folder = key in self._on_disk and key not in self._writing
                if (
                    before is None
                    or in_folder
                    or before.from_folder
                    or before.count >= most
                    or before.first + before.count != number
                ):
                    flight = Flight(source, number, reader, in_folder, wanted, check)
                    begun.append(flight)
                else:
                    flight = before
                    flight.count += 1
                self._flights[key] = flight
                self._memory.ahead_blocks += flight.ahead
            flight.wanted_ms = now_ms
            flights[flight] = None
        for flight in begun:
            self._fetcher.add(flight)
        return [flight for flight in flights if not flight.over]

    def _landed(self, flight: Flight, outcome: Outcome) -> None:
        """A flight is over."""
        flight.over = True
        now_ms = self._now_ms()
        if isinstance(outcome, Exception):
            for key in flight.block_keys():
                del self._flights[key]
                self._memory.ahead_blocks -= flight.ahead
                if flight.wanted:
                    self._failures[key] = _Failure(outcome, now_ms + FAILED_MS)
            while len(self._failures) > MAX_FAILURES:
                self._failures.popitem(last=False)
        else:
            origin = "folder" if flight.from_folder else "store"
            size = sum(len(piece.data) for piece in outcome)
            if flight.from_folder:
                self._count("storage_tier_bytes_disk", size)
            else:
                self._count("storage_tier_bytes_store", size)
            for key, piece in zip(flight.block_keys(), outcome, strict=True):
                del self._flights[key]
                self._memory.add(key, Block(piece, origin, flight.ahead))
            if not flight.from_folder:
                self._keep(flight, outcome)
            self._memory.added()
        waiters, flight.waiters = flight.waiters, []
        for waiter in waiters:
            waiter()

    # -- the folder --------------------------------------------------------------------------------

    def _keep(self, flight: Flight, pieces: list[Piece]) -> None:
        """Have the blocks of an answer written to the folder, if there is one and its disk keeps
        up."""
        answer = pieces[0].memory
        assert isinstance(answer, Answer), "what is kept came from the store"
        if self._folder is None or self._now_ms() < self._no_writes_until_ms:
            return
        rows = [
            (key, piece.data)
            for key, piece in zip(flight.block_keys(), pieces, strict=True)
            if piece.data
            and key not in self._on_disk
            and file_size(len(piece.data)) <= self._on_disk.capacity
        ]
        # One block that waits pins the answer, and the others cost nothing more.
        if self._writing_bytes + answer.size > _WRITING_BYTES:
            self._count("storage_tier_disk_writes_skipped", len(rows))
        elif rows:
            self._writing_bytes += answer.size
            for key, data in rows:
                self._write(self._folder, key, flight.source.name, data, answer)

    def _write(
        self, folder: CacheFolder, key: int, name: bytes, data: memoryview, answer: Answer
    ) -> None:
        self._remove(self._on_disk.add(key, file_size(len(data))))
        self._writing[key] = self._writing.get(key, 0) + 1
        answer.writes += 1

        def done(error: Exception | None) -> None:
            answer.writes -= 1
            if not answer.writes:
                self._writing_bytes -= answer.size
            self._writing[key] -= 1
            if not self._writing[key]:
                del self._writing[key]
            if error is not None:
                self._on_disk.remove(key)
                self._disk_failed(error)

        def job() -> None:
            begin_us = self._now_us()
            folder.write(key, name, data)
            if self._fetcher.in_flight:
                time.sleep(min(WRITE_REST * (self._now_us() - begin_us) / 1e6, WRITE_REST_MAX_S))

        self._writer.submit(job, done)

    def _remove(self, keys: list[int]) -> None:
        """Blocks make way in the folder; before what comes is written, as one thread does both."""
        folder = self._folder
        if not keys or folder is None:
            return

        def job() -> None:
            for key in keys:
                folder.remove(key)

        def done(error: Exception | None) -> None:
            if error is not None:
                self._disk_failed(error)

        self._count("storage_tier_evictions_disk", len(keys))
        self._writer.submit(job, done)

    def _on_disk_no_more(self, key: int) -> None:
        if key in self._on_disk:
            self._on_disk.remove(key)
            self._remove([key])

    def _disk_failed(self, error: Exception) -> None:
        """The cache goes on without its disk for a while."""
        if not isinstance(error, OSError):
            raise error
        self._count("storage_tier_disk_errors", 1)
        if self._now_ms() >= self._no_writes_until_ms:
            self._log("warning", "the cache folder cannot be written", reason=str(error))
        self._no_writes_until_ms = self._now_ms() + WRITE_PAUSE_MS
