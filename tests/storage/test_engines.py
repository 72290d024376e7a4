"""One contract for all engines: memory, shared (light topics in the shard log), segment."""

from __future__ import annotations

from typing import Protocol

import pytest

from robustmq.core.publish import build_entry
from robustmq.promises import Promise
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.engine import PartitionSettings, ReadResult, engine
from robustmq.storage.memory import MemoryPartition, RingMemory
from tests.storage.stores import NOW_MS, Machine, batch, open_ring, values_of


class Log(Protocol):
    """A log under test."""

    immediate: bool

    def append(self, data: bytes) -> int: ...
    def commit(self) -> None: ...
    def read(self, offset: int, max_bytes: int) -> ReadResult: ...
    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None: ...


class Engine:
    """A partition of an engine."""

    def __init__(self, name: str) -> None:
        self.immediate = name == "memory"
        settings = PartitionSettings(segment_bytes=400, index_interval_bytes=100)
        opened = open_ring if self.immediate else engine(name)
        self.log = opened("/p", MemoryDisk(), settings)
        self.read = self.log.read
        self.offset_for_time = self.log.offset_for_time

    def append(self, data: bytes) -> int:
        return self.log.append(bytearray(data), 3)

    def commit(self) -> None:
        write = self.log.write()
        if write is not None:
            write(False)
            self.log.committed()


class Shared:
    """A light topic in a shard log, among others."""

    immediate = False

    def __init__(self) -> None:
        self.machine = Machine()
        self.machine.publish(b"other", b"x")
        self.machine.publish(b"topic", b"dropped")
        self.machine.store.light.delete(b"topic")
        self.machine.store.light.create(b"topic")
        self.machine.commit()

    def append(self, data: bytes) -> int:
        block = bytearray(build_entry(b"topic", b"", 0, 1, 7, 0, data))
        self.machine.store.append_block(block, 0, 0, NOW_MS)
        self.machine.publish(b"other", b"y")
        return int.from_bytes(block[32:40], "little")

    def commit(self) -> None:
        self.machine.commit()

    def read(self, offset: int, max_bytes: int) -> ReadResult:
        return self.machine.store.light.read(b"topic", offset, max_bytes)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        return self.machine.store.light.offset_for_time(b"topic", timestamp_ms)


@pytest.fixture(params=["memory", "segment", "shared"])
def log(request: pytest.FixtureRequest) -> Log:
    return Shared() if request.param == "shared" else Engine(request.param)


def read_all(log: Log, offset: int = 0, max_bytes: int = 1_000) -> list[bytes]:
    data = b"".join(map(bytes, log.read(offset, max_bytes).buffers))
    return values_of(data, int.from_bytes(data[:8], "big")) if data else []


def test_batches_get_dense_offsets_and_are_read_as_they_came(log: Log) -> None:
    assert [log.append(batch(b"a", b"b")), log.append(batch(b"c"))] == [0, 2]
    log.commit()
    assert read_all(log) == [b"a", b"b", b"c"]
    assert log.read(0, 1_000).high_watermark == 3


def test_what_is_not_committed_is_not_read(log: Log) -> None:
    log.append(batch(b"a"))
    log.commit()
    log.append(batch(b"b"))
    if log.immediate:
        assert read_all(log) == [b"a", b"b"]
        return
    assert read_all(log) == [b"a"] and log.read(0, 1_000).high_watermark == 1
    log.commit()
    assert read_all(log) == [b"a", b"b"]


def test_a_read_begins_with_the_batch_that_holds_the_offset(log: Log) -> None:
    for number in range(0, 40, 2):
        log.append(batch(b"%d" % number, b"%d" % (number + 1)))
    log.commit()
    for offset in range(40):
        assert read_all(log, offset)[0] == b"%d" % (offset - offset % 2)


def test_the_first_batch_comes_whole_and_then_the_bound_holds(log: Log) -> None:
    for _ in range(5):
        log.append(batch(b"x" * 100))
    log.commit()
    assert len(log.read(0, 1).buffers) == 1 and len(read_all(log, 0, 1)) == 1
    assert sum(map(len, log.read(0, 400).buffers)) <= 400
    assert log.read(0, 0).buffers == []


def test_an_offset_outside_is_out_of_range_and_the_end_is_empty(log: Log) -> None:
    log.append(batch(b"a"))
    log.commit()
    assert log.read(2, 100).out_of_range and log.read(-1, 100).out_of_range
    assert not log.read(1, 100).out_of_range and log.read(1, 100).buffers == []


def test_offsets_are_found_by_time(log: Log) -> None:
    for number in range(20):
        log.append(batch(b"%d" % number, timestamp_ms=NOW_MS + number))
    log.commit()
    assert log.offset_for_time(NOW_MS - 5) == (0, NOW_MS)
    assert log.offset_for_time(NOW_MS + 7) == (7, NOW_MS + 7)
    assert log.offset_for_time(NOW_MS + 20) is None
    assert log.offset_for_time(-3) == (19, NOW_MS + 19)


def test_a_batch_larger_than_any_buffer_is_read_whole(log: Log) -> None:
    log.append(batch(b"small"))
    log.append(batch(b"x" * 9_000))
    log.append(batch(b"behind"))
    log.commit()
    assert read_all(log, 1, 10) == [b"x" * 9_000]
    assert read_all(log, 2) == [b"behind"]


def test_offsets_of_a_memory_log_are_not_used_again_after_a_restart() -> None:
    log = MemoryPartition(PartitionSettings(), RingMemory())
    log.resume_at(12)
    assert log.append(bytearray(batch(b"a")), 1) == 12
    assert log.read(3, 100).out_of_range and log.start_offset == 12


def test_the_oldest_batches_of_a_memory_log_make_way() -> None:
    log = MemoryPartition(PartitionSettings(), RingMemory(2_000))
    for _ in range(100):
        log.append(bytearray(batch(b"x" * 50)), 1)
    assert log.end_offset == 100 and log.start_offset > 85
    assert log.read(0, 100).out_of_range
    assert log.read(log.start_offset, 100).buffers
