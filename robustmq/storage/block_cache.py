"""A cache of three tiers over an object store: memory, a folder on the local disk, the store.

Objects never change under one version; they are cached in blocks of one size. `block` gives what is
in memory, at once. `want` brings blocks there and settles when all of them are, or cannot be had:
ask again then, and `failure` says why not. `ahead` does the same for what will be wanted soon, as
far as there is room. Nothing here knows what the objects hold.

- One flight: a block that is on its way is not asked for again, however many want it.
- A block that nobody has looked at yet stands apart from the others and is not evicted by them, so
  that what was wanted is there when its reader comes back. What stands apart is bounded by
  `prefetch_bytes`; the oldest then takes its chance with the rest.
- Memory and folder both evict by S3-FIFO (`s3_fifo`), so a long scan does not push out what is
  asked for again and again.
- The folder is written behind the readers' backs, by one thread; when that does not keep up, blocks
  are left out. So a store that is faster than the disk is not slowed down by it.

Memory is bounded by `memory_bytes` + `prefetch_bytes`, what waits to be written by `_WRITING_BYTES`
more. All state belongs to the loop; the threads of the tier read, write, and hand back.
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
    Flight,
    Outcome,
    StoreDownError,
)
from robustmq.storage.cache_folder import BlockBuffer, BufferPool, CacheFolder, file_size
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.s3_fifo import S3Fifo
from robustmq.storage.tier_threads import TierThreads

FAILED_MS = 500
"""So long what failed is not asked for again."""
MAX_FAILURES = 4096
UNUSED_MS = 2_000
"""A block that was fetched ahead and not looked at for so long makes room for others of its kind.
"""
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


class Block:
    """Some bytes of an object, in memory. What is checked or made of them once stays with them."""

    __slots__ = ("ahead", "buffer", "checked", "data", "origin", "parsed", "used")

    def __init__(self, buffer: BlockBuffer, origin: str, ahead: bool) -> None:
        self.buffer = buffer
        self.data = buffer.data
        self.origin = origin
        """Where it came from, until it is used for the first time; then it is memory."""
        self.ahead = ahead
        self.used = False
        self.checked = (0, 0)
        """The area that its user has found sound."""
        self.parsed: object = None


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
        self._pool = BufferPool(settings.block_bytes, FREE_BUFFERS)
        self._folder = None
        if settings.directory:
            self._folder = CacheFolder(settings.directory, self._pool)
        self._threads = TierThreads("tier", settings.threads, notify)
        self._writer = TierThreads("tier-cache", 1, notify)
        self._fetcher = BlockFetcher(
            store,
            self._folder,
            self._pool,
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
        self._blocks: dict[int, Block] = {}
        self._order = S3Fifo(settings.memory_bytes)
        # Blocks that nobody has looked at: when they came. They are not in `_order`.
        self._fresh: OrderedDict[int, int] = OrderedDict()
        self._fresh_bytes = 0
        self._ahead_blocks = 0
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
        """What is held in memory."""
        return self._order.size + self._fresh_bytes

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

    def block(self, source: CachedObject, number: int) -> Block | None:
        """A block if it is in memory."""
        key = source.key + number
        block = self._blocks.get(key)
        if block is None:
            return None
        if block.used:
            block.origin = "memory"
            if key in self._order:
                self._order.hit(key)
        else:
            block.used = True
            self._take_in(key)
        self._count_read(block.origin)
        return block

    def _count_read(self, origin: str) -> None:
        if origin == "memory":
            self._count("storage_tier_reads_memory", 1)
        elif origin == "folder":
            self._count("storage_tier_reads_disk", 1)
        else:
            self._count("storage_tier_reads_store", 1)

    def has(self, source: CachedObject, number: int) -> bool:
        """Is a block in memory? This does not count as using it."""
        return source.key + number in self._blocks

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

    def want(self, source: CachedObject, first: int, last: int, reader: int) -> Promise[None]:
        """Bring these blocks into memory; settles when they are there or cannot be had."""
        promise: Promise[None] = Promise()
        flights = self._flights_for(source, first, last, reader, True)
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

    def ahead(self, source: CachedObject, first: int, last: int, reader: int) -> int:
        """Fetch blocks that will be wanted, as far as there is room; the first that is not."""
        if self._fetcher.is_down:
            return first
        most = self.settings.prefetch_bytes // self.settings.block_bytes
        last = min(last, first + most - 1)
        number = first
        while number <= last and self._has_room_ahead(most):
            stop = min(last, number + most - self._ahead_blocks - 1)
            self._flights_for(source, number, stop, reader, False)
            number = stop + 1
        self._fetcher.go_on()
        return number

    def _has_room_ahead(self, most: int) -> bool:
        """Is there room for a block that is fetched ahead? Those that nobody came for make some."""
        while self._ahead_blocks >= most and self._fresh:
            key, came_ms = next(iter(self._fresh.items()))
            if self._now_ms() - came_ms < UNUSED_MS:
                return False
            self._take_in(key)
        return self._ahead_blocks < most

    def served(self, size: int) -> None:
        """So many bytes of blocks were given to a reader."""
        self._count("storage_tier_bytes_served", size)

    def damaged(self, source: CachedObject, number: int) -> None:
        """What a block says is wrong: it is fetched anew when it is wanted again."""
        key = source.key + number
        self._count("storage_tier_damaged_blocks", 1)
        self._leave_fresh(key)
        self._order.remove(key)
        self._blocks.pop(key, None)
        if key in self._on_disk:
            self._on_disk.remove(key)
            self._remove([key])

    # -- flights -----------------------------------------------------------------------------------

    def _flights_for(
        self, source: CachedObject, first: int, last: int, reader: int, wanted: bool
    ) -> list[Flight]:
        """The flights that bring these blocks; those that are not on their way begin."""
        flights: dict[Flight, None] = {}
        begun: list[Flight] = []
        now_ms = self._now_ms()
        most = max(self.settings.get_bytes // self.settings.block_bytes, 1)
        for number in range(first, last + 1):
            key = source.key + number
            if key in self._blocks:
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
                    flight = Flight(source, number, reader, in_folder, wanted)
                    begun.append(flight)
                else:
                    flight = before
                    flight.count += 1
                self._flights[key] = flight
                self._ahead_blocks += flight.ahead
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
                self._ahead_blocks -= flight.ahead
                if flight.wanted:
                    self._failures[key] = _Failure(outcome, now_ms + FAILED_MS)
            while len(self._failures) > MAX_FAILURES:
                self._failures.popitem(last=False)
        else:
            origin = "folder" if flight.from_folder else "store"
            size = sum(buffer.length for buffer in outcome)
            if flight.from_folder:
                self._count("storage_tier_bytes_disk", size)
            else:
                self._count("storage_tier_bytes_store", size)
            for key, buffer in zip(flight.block_keys(), outcome, strict=True):
                del self._flights[key]
                self._blocks[key] = Block(buffer, origin, flight.ahead)
                self._fresh[key] = now_ms
                self._fresh_bytes += buffer.length
                if not flight.from_folder:
                    self._keep(key, flight.source.name, buffer)
            while self._fresh_bytes > self.settings.prefetch_bytes:
                self._take_in(next(iter(self._fresh)))
        waiters, flight.waiters = flight.waiters, []
        for waiter in waiters:
            waiter()

    # -- memory ------------------------------------------------------------------------------------

    def _leave_fresh(self, key: int) -> None:
        if self._fresh.pop(key, None) is not None:
            block = self._blocks[key]
            self._fresh_bytes -= len(block.data)
            self._ahead_blocks -= block.ahead

    def _take_in(self, key: int) -> None:
        """A block that stood apart joins the others, and some of those go."""
        if key not in self._fresh:
            return
        self._leave_fresh(key)
        for gone in self._order.add(key, len(self._blocks[key].data)):
            block = self._blocks.pop(gone)
            self._pool.give(block.buffer)
            self._count("storage_tier_evictions_memory", 1)
            if block.ahead and not block.used:
                self._count("storage_tier_prefetch_wasted_bytes", len(block.data))

    # -- the folder --------------------------------------------------------------------------------

    def _keep(self, key: int, name: bytes, buffer: BlockBuffer) -> None:
        """Have a block written to the folder, if there is one and its disk keeps up."""
        folder = self._folder
        if folder is None or key in self._on_disk or not buffer.length:
            return
        size = file_size(buffer.length)
        if size > self._on_disk.capacity or self._now_ms() < self._no_writes_until_ms:
            return
        if self._writing_bytes + size > _WRITING_BYTES:
            self._count("storage_tier_disk_writes_skipped", 1)
            return
        self._remove(self._on_disk.add(key, size))
        self._writing[key] = self._writing.get(key, 0) + 1
        self._writing_bytes += size

        def done(error: Exception | None) -> None:
            self._writing_bytes -= size
            self._writing[key] -= 1
            if not self._writing[key]:
                del self._writing[key]
            if error is not None:
                self._on_disk.remove(key)
                self._disk_failed(error)

        whole, length = buffer.whole, buffer.length

        def job() -> None:
            begin_us = self._now_us()
            folder.write(key, name, whole, length)
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
