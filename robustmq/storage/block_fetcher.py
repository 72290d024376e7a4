"""Who brings blocks from the folder and from the object store, in which order, and what if not.

A flight is a run of blocks of one object. Flights that somebody waits for go before those that only
fetch ahead, which leave one thread free; readers take turns, each has a queue of its own. A flight
that has not begun, and that nobody has asked for again for `ABANDONED_MS`, is dropped: its reader
has gone. What the store fails to give is asked for again a few times, with back-off; a circuit
breaker keeps everybody off a store that is down. Everything but the jobs runs on the loop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from robustmq.limits import TIER_GET_CELLS
from robustmq.storage.block_memory import Answer, Piece
from robustmq.storage.cache_folder import NUMBER_BITS, BlockBuffer, CacheFolder
from robustmq.storage.circuit_breaker import CircuitBreaker
from robustmq.storage.object_store import (
    ObjectMissingError,
    ObjectRefusedError,
    ObjectStore,
    ObjectStoreError,
)
from robustmq.storage.tier_threads import TierThreads

ABANDONED_MS = 5_000
STALLED_MS = 5_000
"""A question to the store that takes longer is taken for a failure; its answer may still come."""
RETRIES_MS = (50, 250)
MAX_WAITING = 4096
"""Flights that wait for a thread; who wants more is told that the store does not keep up."""
_NAME_MAX = 2048


class CachedObject:
    """What blocks are of: a path, and a version under which its bytes never change."""

    __slots__ = ("key", "name", "path", "size")

    def __init__(self, path: str, size: int, version: str = "") -> None:
        self.path = path
        self.size = size
        self.name = f"{path}\0{version}".encode()
        assert len(self.name) <= _NAME_MAX, "the name of an object is of some use in a path"
        digest = int.from_bytes(blake2b(self.name, digest_size=16).digest(), "big")
        self.key = digest << NUMBER_BITS


class StoreDownError(ObjectStoreError):
    """The store is not asked, as it has not answered lately or has too much to do."""


Check = Callable[[memoryview, int], tuple[int, int]]
"""What of some bytes of an object, which begin at a position, is sound: from where to where in the
object. It is asked on a thread, while the bytes are still in the processor's cache."""


class Flight:
    """Blocks of one object, side by side, on their way."""

    __slots__ = (
        "ahead",
        "attempts",
        "began_ms",
        "check",
        "count",
        "first",
        "from_folder",
        "over",
        "reader",
        "source",
        "waiters",
        "wanted",
        "wanted_ms",
    )

    def __init__(
        self,
        source: CachedObject,
        first: int,
        reader: int,
        from_folder: bool,
        wanted: bool,
        check: Check | None,
    ) -> None:
        self.source = source
        self.check = check
        self.first = first
        self.count = 1
        self.reader = reader
        self.from_folder = from_folder
        self.ahead = not wanted
        """It was begun before anybody wanted it."""
        self.wanted = wanted
        self.wanted_ms = 0
        self.began_ms = -1
        self.attempts = 0
        self.over = False
        self.waiters: list[Callable[[], None]] = []

    def block_keys(self) -> range:
        """The keys of its blocks."""
        first = self.source.key + self.first
        return range(first, first + self.count)


Outcome = list[Piece] | Exception


class _Got(NamedTuple):
    pieces: list[Piece]
    took_us: int


class _Queue:
    """Flights by reader; the readers take turns."""

    __slots__ = ("_readers", "size")

    def __init__(self) -> None:
        self._readers: OrderedDict[int, deque[Flight]] = OrderedDict()
        self.size = 0

    def put(self, flight: Flight) -> None:
        self._readers.setdefault(flight.reader, deque()).append(flight)
        self.size += 1

    @property
    def first(self) -> Flight:
        return next(iter(self._readers.values()))[0]

    def get(self) -> Flight:
        reader, flights = next(iter(self._readers.items()))
        flight = flights.popleft()
        self.size -= 1
        if flights:
            self._readers.move_to_end(reader)
        else:
            del self._readers[reader]
        return flight


class BlockFetcher:
    """The flights of one cache."""

    def __init__(
        self,
        store: ObjectStore,
        folder: CacheFolder | None,
        block_bytes: int,
        threads: TierThreads,
        later: Callable[[int, Callable[[], None]], object],
        now_ms: Callable[[], int],
        now_us: Callable[[], int],
        count: Callable[[str, int], None],
        log: Callable[..., None],
        landed: Callable[[Flight, Outcome], None],
        not_in_folder: Callable[[int], None],
    ) -> None:
        """`landed` hears the end of every flight, once; `not_in_folder` of a block that was looked
        for there in vain."""
        self._store = store
        self._folder = folder
        self._block_bytes = block_bytes
        self._threads = threads
        self._later = later
        self._now_ms = now_ms
        self._now_us = now_us
        self._count = count
        self._log = log
        self._landed = landed
        self._not_in_folder = not_in_folder
        self._breaker = CircuitBreaker()
        self._wanted = _Queue()
        self._ahead = _Queue()
        self._running: dict[Flight, None] = {}
        self._silent = False

    @property
    def is_down(self) -> bool:
        """Is the store taken for dead?"""
        return self._breaker.is_open or self._silent

    @property
    def in_flight(self) -> int:
        """Flights that have begun."""
        return len(self._running)

    def add(self, flight: Flight) -> None:
        """Begin a flight, now or when its turn comes."""
        queue = self._wanted if flight.wanted else self._ahead
        if queue.size >= MAX_WAITING:
            self._landed(flight, StoreDownError("too much is asked of the object store"))
            return
        queue.put(flight)

    def want(self, flight: Flight) -> None:
        """Somebody waits for what was to be fetched ahead. It stands in both queues then, and is
        taken from the first that comes."""
        if not flight.wanted:
            flight.wanted = True
            if flight.began_ms < 0 and self._wanted.size < MAX_WAITING:
                self._wanted.put(flight)

    def is_late(self, flight: Flight) -> bool:
        """Has the store been asked for it, or for what stands in its way, too long ago?"""
        since_ms = flight.began_ms
        if since_ms < 0:
            if len(self._running) < self._threads.count:
                return False
            since_ms = next(iter(self._running)).began_ms
        if since_ms >= self._now_ms() - STALLED_MS:
            return False
        if not self._silent:
            self._silent = True
            self._log("error", "the object store does not answer", path=flight.source.path)
        return True

    def go_on(self) -> None:
        """Give the threads what they have room for."""
        count = self._threads.count
        while len(self._running) < 2 * count:
            if self._wanted.size:
                flight = self._wanted.get()
            elif self._ahead.size and (
                self._ahead.first.from_folder or self._running_ahead < max(count - 1, 1)
            ):
                flight = self._ahead.get()
            else:
                return
            if flight.began_ms < 0:
                self._begin(flight)

    @property
    def _running_ahead(self) -> int:
        """Questions to the store that nobody waits for."""
        return sum(1 for one in self._running if not one.wanted and not one.from_folder)

    def _begin(self, flight: Flight) -> None:
        now_ms = self._now_ms()
        flight.began_ms = now_ms
        if now_ms - flight.wanted_ms > ABANDONED_MS:
            self._count("storage_tier_fetches_abandoned", 1)
            self._landed(flight, StoreDownError("nobody waits for it"))
            return
        if not flight.from_folder and not self._breaker.admits(now_ms):
            self._landed(flight, StoreDownError("the object store is down"))
            return
        self._running[flight] = None
        if flight.from_folder:
            self._threads.submit(
                lambda: self._read(flight), lambda got: self._has_read(flight, got)
            )
        else:
            self._threads.submit(lambda: self._get(flight), lambda got: self._has_got(flight, got))

    # -- on a thread -------------------------------------------------------------------------------

    def _read(self, flight: Flight) -> Piece | None:
        assert self._folder is not None, "a block lies in a folder that is there"
        found = self._folder.read(flight.source.key + flight.first, flight.source.name)
        return None if found is None else self._pieces(flight, found.data, found)[0]

    def _pieces(
        self, flight: Flight, data: memoryview, memory: BlockBuffer | Answer
    ) -> list[Piece]:
        """The blocks of a flight, and what of them is sound."""
        size, begin = self._block_bytes, flight.first * self._block_bytes
        low, high = (0, 0) if flight.check is None else flight.check(data, begin)
        pieces = []
        for at in range(0, flight.count * size, size):
            part = data[at : at + size]
            first, last = max(low - begin - at, 0), min(high - begin - at, len(part))
            pieces.append(Piece(part, memory, (first, last) if first < last else (0, 0)))
        return pieces

    def _get(self, flight: Flight) -> _Got:
        size = self._block_bytes
        begin_us = self._now_us()
        data = self._store.get_range(flight.source.path, flight.first * size, flight.count * size)
        took_us = self._now_us() - begin_us
        return _Got(self._pieces(flight, data, Answer(data)), took_us)

    # -- back on the loop --------------------------------------------------------------------------

    def _has_read(self, flight: Flight, got: Piece | Exception | None) -> None:
        del self._running[flight]
        if isinstance(got, Piece):
            self._landed(flight, [got])
        else:
            if isinstance(got, Exception):
                self._count("storage_tier_disk_errors", 1)
                self._log("warning", "the cache folder cannot be read", reason=str(got))
            self._not_in_folder(flight.source.key + flight.first)
            flight.from_folder = False
            self._again(flight)
        self.go_on()

    def _has_got(self, flight: Flight, got: _Got | Exception) -> None:
        del self._running[flight]
        if isinstance(got, _Got):
            self._note_time(got.took_us)
            self._answered()
            self._landed(flight, got.pieces)
        elif isinstance(got, ObjectMissingError):
            self._answered()
            self._landed(flight, got)
        elif isinstance(got, ObjectStoreError):
            self._failed(flight, got)
        else:
            raise got
        self.go_on()

    def _again(self, flight: Flight) -> None:
        flight.began_ms = -1
        flight.wanted_ms = self._now_ms()
        self.add(flight)

    def _answered(self) -> None:
        if self._breaker.succeeded() or self._silent:
            self._silent = False
            self._log("info", "the object store answers again")

    def _failed(self, flight: Flight, error: ObjectStoreError) -> None:
        self._count("storage_tier_get_errors", 1)
        if self._breaker.failed(self._now_ms()):
            self._log("error", "the object store is down", reason=str(error))
        lasting = isinstance(error, ObjectRefusedError) or self._breaker.is_open
        if lasting or not flight.wanted or flight.attempts >= len(RETRIES_MS):
            self._landed(flight, error)
            return
        delay_ms = RETRIES_MS[flight.attempts]
        flight.attempts += 1

        def again() -> None:
            self._again(flight)
            self.go_on()

        self._later(delay_ms, again)

    def _note_time(self, took_us: int) -> None:
        self._count("storage_tier_gets", 1)
        self._count("storage_tier_get_us", took_us)
        for name, bound_ms in TIER_GET_CELLS.items():
            if took_us <= bound_ms * 1000:
                self._count(name, 1)
