"""Cold segments in a real store, and the loop of a worker, for the tests of the block cache."""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from crc32c import crc32c

from robustmq.core import batches
from robustmq.promises import Promise
from robustmq.records import Record
from robustmq.storage import segment_index
from robustmq.storage.block_cache import BlockCache, CacheSettings
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.manifest import INDEX, LOG, object_name
from robustmq.storage.object_store import ObjectStore, ObjectStoreError
from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings

BLOCK = 64 * 1024
PREFIX = "cluster/topic-0/"


class Faulty:
    """A real store of files whose answers can fail, wait, and be damaged."""

    def __init__(self, directory: Path) -> None:
        self.store: ObjectStore = open_object_store(TieringSettings(directory.as_uri()))
        self.gets: list[tuple[str, int, int]] = []
        self.failing = 0
        """So many more are answered with an error; -1: all."""
        self.held: threading.Event | None = None
        """Answers wait for it."""
        self.spoil: Callable[[str, int, bytearray], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def get_range(self, path: str, start: int, length: int) -> memoryview:
        self.gets.append((path, start, length))
        if self.held is not None:
            self.held.wait(20)
        if self.failing:
            self.failing -= 1
            raise ObjectStoreError("503 Slow Down")
        data = self.store.get_range(path, start, length)
        if self.spoil is not None:
            spoiled = bytearray(data)
            self.spoil(path, start, spoiled)
            return memoryview(spoiled)
        return data


class Loop:
    """What runs on a worker's loop, run by the test."""

    def __init__(self) -> None:
        self._ready: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._later: list[tuple[int, Callable[[], None]]] = []
        self.passed_ms = 0
        self.counted: Counter[str] = Counter()
        self.said: list[str] = []

    def cache(self, store: Any, **settings: Any) -> BlockCache:
        """A cache on this loop."""
        bounds = {"memory_bytes": 16 * BLOCK, "prefetch_bytes": 16 * BLOCK, "block_bytes": BLOCK}
        return BlockCache(
            store,
            CacheSettings(**{**bounds, "get_bytes": 4 * BLOCK, **settings}),
            self._ready.put,
            lambda delay_ms, run: self._later.append((self.now_ms() + delay_ms, run)),
            self.now_ms,
            lambda: time.monotonic_ns() // 1000,
            lambda name, amount: self.counted.update({name: amount}),
            lambda level, text, **fields: self.said.append(text),
        )

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000) + self.passed_ms

    def turn(self) -> None:
        """Run what is ready."""
        while not self._ready.empty():
            self._ready.get()()
        now_ms = self.now_ms()
        due = [run for when, run in self._later if when <= now_ms]
        self._later = [row for row in self._later if row[0] > now_ms]
        for run in due:
            run()

    def until(self, condition: Callable[[], object], timeout_s: float = 20) -> None:
        """Run until something is so."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it never comes"
            self.turn()
            time.sleep(0.001)

    def wait(self, promise: Promise[Any]) -> None:
        self.until(lambda: promise.settled)


def index_of(base_offset: int, log: bytes) -> bytes:
    """The index of a segment, a row every 4096 bytes."""
    columns = array("q"), array("q"), array("q")
    end = base_offset
    for begin, info in batches.headers(log, 0, len(log)):
        end = info.base_offset + info.last_offset_delta + 1
        if not columns[1] or begin - columns[1][-1] >= 4096:
            for column, value in zip(
                columns, (info.base_offset, begin, info.max_timestamp), strict=True
            ):
                column.append(value)
        columns[2][-1] = max(columns[2][-1], info.max_timestamp)
    rows = b"".join(column.tobytes() for column in columns)
    head = segment_index.HEAD.pack(
        segment_index.MAGIC, 0, crc32c(rows), len(log), base_offset, end, 0, columns[2][-1],
        0, 0, 0, len(columns[0]), 0, bytes(16),
    )  # fmt: skip
    return head[:8] + crc32c(head[12:]).to_bytes(4, "little") + head[12:] + rows


class Partition:
    """Segments of one partition in a store; `batch_of` gives the batch at an offset."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.cold = ColdSegments()
        self.data: dict[int, bytes] = {}
        self.end = 0

    def add(self, sizes: Iterable[int]) -> ColdSegment:
        """A segment of batches of one record each, of these sizes; the time stamp of a record is
        its offset."""
        base, log = self.end, bytearray()
        for size in sizes:
            value = self.end.to_bytes(8, "big") * (max(size - 80, 8) // 8)
            batch = bytearray(batches.build([Record(None, value)], self.end))
            batches.set_base(batch, 0, self.end, 5)
            self.data[self.end] = bytes(batch)
            log += batch
            self.end += 1
        segment = ColdSegment(base, self.end, len(log), self.end - 1, 5)
        name = PREFIX + object_name(base, 5)
        self.store.put(name + LOG, [log])
        self.store.put(name + INDEX, [index_of(base, bytes(log))])
        self.cold.add(segment)
        return segment
