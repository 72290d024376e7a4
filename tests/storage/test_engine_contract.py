"""What `storage.engine.PartitionLog` promises, of every engine, against a model.

An engine is one row of `ENGINES`: how a partition of it is opened, committed and opened again. The
model knows which batches were appended, which are committed, and where the log begins; whatever a
machine of rules does (append, commit, read, trim, retain, configure, gaps, crashes before, in and
behind a commit), the engine must say the same.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from robustmq.core import batches
from robustmq.errors import KafkaCode
from robustmq.records import Record
from robustmq.storage.disk import Disk, MemoryDisk, RealDisk
from robustmq.storage.engine import (
    OpenPartition,
    OpenStored,
    PartitionLog,
    PartitionSettings,
    StoredPartition,
    Unsound,
    engine,
)
from robustmq.storage.rocksdb_engine import open_partition as open_rocksdb
from robustmq.storage.rocksdb_stored import open_stored as open_stored_rocksdb
from tests.storage.stores import Machine, open_ring

NOW_MS = 1_700_000_000_000
SETTINGS = PartitionSettings(segment_bytes=500, index_interval_bytes=120)
NAME = f"{uuid.UUID(int=5).hex}-0"


class Harness(Protocol):
    """A partition of an engine, as the broker has it."""

    log: PartitionLog
    lasts: bool
    """Its records outlive the process."""
    stored: Callable[[], StoredPartition] | None
    """What operators' commands see of it, where the engine says how."""

    def commit(self, done: bool = True) -> None:
        """Write what is new; `done`: and hear that it is written."""
        ...

    def reopen(self, clean: bool) -> None:
        """The process ends, as it should or by a kill, and another one opens the partition."""
        ...

    def close(self) -> None:
        """The test is over."""
        ...


class OwnFiles:
    """An engine with a directory of its own."""

    def __init__(
        self,
        open_partition: OpenPartition,
        disk: Disk,
        path: str,
        lasts: bool,
        open_stored: OpenStored | None = None,
    ) -> None:
        self._open, self._disk, self._path, self.lasts = open_partition, disk, path, lasts
        self.stored: Callable[[], StoredPartition] | None = None
        if open_stored is not None:
            self.stored = partial(open_stored, path)
        self.log = open_partition(path, disk, SETTINGS)

    def commit(self, done: bool = True) -> None:
        write = self.log.write()
        if write is not None:
            write(False)
            if done:
                self.log.committed()
        freed = self.log.free()
        if freed is not None:
            freed()

    def reopen(self, clean: bool) -> None:
        # RocksDB holds a lock for as long as the process lives; else a kill closes nothing.
        if clean or "rocksdb" in type(self.log).__module__:
            self.log.close()
        self.log = self._open(self._path, self._disk, self.log.settings)

    def close(self) -> None:
        self.log.delete()()
        self._disk.close()


class InShardLog:
    """A partition in the log of a shard."""

    lasts = True
    stored: Callable[[], StoredPartition] | None = None

    def __init__(self) -> None:
        self.machine = Machine()
        self.log: PartitionLog = self.machine.store.open_partition(NAME, "shared", SETTINGS)

    def commit(self, done: bool = True) -> None:
        self.machine.commit()

    def reopen(self, clean: bool) -> None:
        if clean:
            self.machine.store.checkpoint([])
            self.machine.committer.kick()
        self.machine.open()
        self.log = self.machine.store.open_partition(NAME, "shared", self.log.settings)

    def close(self) -> None:
        """All of it is memory."""


def third_party() -> tuple[OpenPartition, OpenStored]:
    """The engine of the example package, from its sources."""
    place = str(Path(__file__).parent.parent / "third_party_engine")
    if place not in sys.path:
        sys.path.append(place)
    package = importlib.import_module("robustmq_plain_engine")
    return package.open_partition, package.open_stored


def _path(directory: Path) -> str:
    return f"{directory}/partition"


ENGINES: dict[str, Callable[[Path], Harness]] = {
    "memory": lambda directory: OwnFiles(open_ring, MemoryDisk(), "/p", False),
    "segment": lambda directory: OwnFiles(engine("segment"), MemoryDisk(), "/p", True),
    "segment on a disk": lambda directory: OwnFiles(
        engine("segment"), RealDisk(), _path(directory), True
    ),
    "shared": lambda directory: InShardLog(),
    "rocksdb": lambda directory: OwnFiles(
        open_rocksdb, RealDisk(), _path(directory), True, open_stored_rocksdb
    ),
    "a package": lambda directory: OwnFiles(
        third_party()[0], RealDisk(), _path(directory), True, third_party()[1]
    ),
}


def _content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _bytes(found: bytes | memoryview | Unsound) -> bytes:
    assert not isinstance(found, Unsound), found
    return bytes(found)


class Row(NamedTuple):
    """A batch that was appended."""

    base_offset: int
    next_offset: int
    max_time: int
    data: bytes


class Contract(RuleBasedStateMachine):
    """An engine and the model of it."""

    make: Callable[[Path], Harness]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="engine-contract-"))
        self.harness = type(self).make(self.directory)
        self.rows: list[Row] = []
        self.start = self.end = self.committed = 0
        self.number = 0

    @property
    def log(self) -> PartitionLog:
        return self.harness.log

    def teardown(self) -> None:
        self.harness.close()
        shutil.rmtree(self.directory)

    def kept(self) -> list[Row]:
        return [row for row in self.rows if row.next_offset > self.start]

    def build(self, times: list[int]) -> bytearray:
        records = []
        for time in times:
            self.number += 1
            records.append(Record(b"k", b"%d" % self.number, [], NOW_MS + time))
        return bytearray(batches.build(records, NOW_MS))

    def note(self, batch: bytearray, base_offset: int) -> None:
        info = batches.validate(batch, 0, len(batch), True)
        assert info.crc_ok and info.base_offset == base_offset
        following = base_offset + info.last_offset_delta + 1
        self.rows.append(Row(base_offset, following, info.max_timestamp, bytes(batch)))
        self.end = following
        if not self.harness.lasts:
            self.committed = self.end

    @rule(times=st.lists(st.integers(0, 50), min_size=1, max_size=4))
    def append(self, times: list[int]) -> None:
        batch = self.build(times)
        base_offset = self.log.append(batch, 3)
        assert base_offset == self.end, "offsets are dense"
        self.note(batch, base_offset)
        self.check()

    @rule()
    def commit(self) -> None:
        self.harness.commit()
        self.committed = self.end
        self.check()

    @rule(gap=st.integers(0, 3), times=st.lists(st.integers(0, 50), min_size=1, max_size=2))
    def restore(self, gap: int, times: list[int]) -> None:
        """As a partition gets them that comes from another engine."""
        batch = self.build(times)
        batches.set_base(batch, 0, self.end + gap, 7)
        if gap and self.start == self.end:
            self.start = self.end + gap
        self.log.restore(batch)
        assert int.from_bytes(batch[12:16], "big") == 7, "the leader epoch is kept"
        self.note(batch, self.end + gap)
        self.commit()

    @rule(gap=st.integers(0, 3))
    def skip(self, gap: int) -> None:
        self.log.skip_to(self.end + gap)
        if self.start == self.end:
            self.start = self.end + gap
        self.end += gap
        self.commit()

    @rule(place=st.floats(0, 1))
    def trim(self, place: float) -> None:
        """Below what is committed, as DeleteRecords asks."""
        offset = self.start + int((self.committed - self.start) * place)
        self.log.trim(offset)
        self.start = max(self.start, offset)
        self.check()

    @rule(newest=st.integers(-1, 60), size=st.integers(-1, 900))
    def retain(self, newest: int, size: int) -> None:
        """By time, or by size."""
        before = self.log.size
        changed = msgspec.structs.replace(SETTINGS, retention_ms=newest, retention_bytes=size)
        self.log.configure(changed)
        assert self.log.settings == changed
        freed = self.log.retain(NOW_MS + 50)
        start = self.log.start_offset
        assert start >= self.start, "a log's start never goes back"
        for row in self.rows:
            if self.start < row.next_offset <= start:
                assert row.next_offset <= self.committed, "what is not committed stays"
        self.start = start
        assert (freed > 0) == (self.log.size < before)
        if size >= 0 and freed and newest < 0:
            assert self.log.size >= size, "no more goes than must"
        self.log.configure(SETTINGS)
        self.commit()

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """All that was appended is committed; then the process ends."""
        self.harness.commit()
        self.committed = self.end
        self.resume(clean)

    @precondition(lambda self: self.harness.lasts)
    @rule()
    def crash(self) -> None:
        """What was not written is gone."""
        self.resume(False)

    @precondition(lambda self: self.harness.lasts and isinstance(self.harness, OwnFiles))
    @rule()
    def crash_in_commit(self) -> None:
        """It was written, and nobody was told: the log of the shard does not know of it."""
        self.harness.commit(done=False)
        self.resume(False)

    def resume(self, clean: bool) -> None:
        self.harness.reopen(clean)
        self.log.resume_at(self.committed)
        if not self.harness.lasts:
            self.start = self.committed
            self.rows.clear()
        # A trim lasts from the commit behind it on.
        assert self.log.start_offset <= self.start or not clean
        self.start = self.log.start_offset
        self.rows = [row for row in self.rows if row.next_offset <= self.committed]
        self.end = self.committed
        assert self.log.quarantined == []
        self.check()

    @rule(place=st.floats(0, 1), max_bytes=st.sampled_from([0, 1, 200, 1000]), all_=st.booleans())
    def read(self, place: float, max_bytes: int, all_: bool) -> None:
        offset = self.start + int((self.end - self.start) * place)
        result = self.log.read(offset, max_bytes, not all_)
        end = self.end if all_ else self.committed
        wanted = [row for row in self.kept() if row.next_offset > offset and row.base_offset < end]
        data = b"".join(map(bytes, result.buffers))
        assert not result.error and not result.out_of_range and result.pending is None
        if offset >= end or not max_bytes:
            assert not data
            return
        assert bool(data) == bool(wanted)
        whole = b"".join(row.data for row in wanted)
        assert whole.startswith(data), "whole batches, in order, from the one with the offset on"
        sizes = {0}
        for row in wanted:
            sizes.add(max(sizes) + len(row.data))
        assert len(data) in sizes
        assert len(data) <= max_bytes or len(data) == len(wanted[0].data)

    @rule(time=st.integers(-1, 52))
    def look_up_time(self, time: int) -> None:
        kept = self.kept()
        if time < 0:
            found = self.log.offset_for_time(-3)
            assert (found is None) == (not kept)
            if isinstance(found, tuple):
                assert found[1] == max(row.max_time for row in kept)
                (there,) = [row for row in kept if row.base_offset <= found[0] < row.next_offset]
                assert there.max_time == found[1]
            return
        found = self.log.offset_for_time(NOW_MS + time)
        first = next((row for row in kept if row.max_time >= NOW_MS + time), None)
        assert (found is None) == (first is None)
        if isinstance(found, tuple) and first is not None:
            assert found[0] == first.base_offset and NOW_MS + time <= found[1] <= first.max_time

    @precondition(lambda self: self.harness.stored is not None)
    @rule()
    def look_into_it(self) -> None:
        """As operators do, beside the partition that is open: nothing is wrong, all is there."""
        self.commit()
        assert self.harness.stored is not None
        before = _content(self.directory)
        try:
            stored = self.harness.stored()
        except FileNotFoundError:
            assert not self.rows, "a partition with records is there"
            return
        assert (stored.start_offset, stored.end_offset) == (self.start, self.end)
        assert stored.size == self.log.size
        assert list(map(_bytes, stored.batches())) == [row.data for row in self.kept()]
        last = [info.base_offset for info in stored.last_batches(1)]
        assert last == [row.base_offset for row in self.kept()[-1:]]
        stored.close()
        assert _content(self.directory) == before, "nothing is written"

    def check(self) -> None:
        """What is true at any time."""
        log = self.log
        assert (log.start_offset, log.end_offset) == (self.start, self.end)
        assert log.high_watermark == self.committed
        assert log.read(self.start - 1, 100).out_of_range
        assert log.read(self.end + 1, 100).out_of_range
        assert log.read(self.end, 100).buffers == []
        assert log.size >= sum(len(row.data) for row in self.kept()) - len(
            self.kept()[0].data if self.kept() else b""
        )
        last = [info.base_offset for info in log.last_batches(1 << 20)]
        kept = [row.base_offset for row in self.kept()]
        assert last[len(last) - 1 :] == kept[len(kept) - 1 :] or not kept
        assert self.start <= log.offset_of_tail(1) <= self.end


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_keeps_its_contract(name: str) -> None:
    slow = "disk" in name or name in ("rocksdb", "a package")
    machine = type("Machine", (Contract,), {"make": staticmethod(ENGINES[name])})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 if slow else 100,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


def read_over(log: PartitionLog, max_bytes: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The offsets that a consumer gets, and the holes that it is told of."""
    offsets: list[int] = []
    holes: list[tuple[int, int]] = []
    offset = log.start_offset
    while offset < log.high_watermark:
        result = log.read(offset, max_bytes)
        if result.error:
            assert result.error == KafkaCode.CORRUPT_MESSAGE and not result.buffers
            assert log.read(result.next_offset - 1, max_bytes).error == result.error, (
                "all of it is missing"
            )
            holes.append((offset, result.next_offset))
            offset = result.next_offset
            continue
        data = b"".join(map(bytes, result.buffers))
        offsets += [info.base_offset for _, info in batches.headers(data, 0, len(data), True)]
        offset = offsets[-1] + 1
    return offsets, holes


@pytest.mark.parametrize(("begin", "max_bytes"), [(0, 1), (0, 1000), (1, 1000)])
@pytest.mark.parametrize("name", [name for name in ENGINES if name not in ("memory", "shared")])
def test_the_offsets_of_a_lost_end_are_not_given_again_and_its_readers_are_told(
    name: str, begin: int, max_bytes: int, tmp_path: Path
) -> None:
    harness = ENGINES[name](tmp_path)

    def append() -> None:
        harness.log.append(bytearray(batches.build([Record(None, b"x")], NOW_MS)), 1)
        harness.commit()

    def restart(committed: int) -> None:
        harness.reopen(clean=False)
        harness.log.resume_at(committed)
        assert (harness.log.start_offset, harness.log.end_offset) == (begin, committed)
        assert harness.log.high_watermark == committed
        assert not harness.log.read(committed, 1).error

    harness.log.skip_to(begin)
    for _ in range(3 - begin):
        append()
    left = list(range(begin, 3))
    for _ in range(2):
        # A process that is killed before it has written anything finds it again.
        restart(5)
        assert read_over(harness.log, max_bytes) == (left, [(3, 5)])
        assert [offset for offset, _ in harness.log.quarantined] == [3], "and it is told"
    append()
    assert read_over(harness.log, max_bytes) == ([*left, 5], [(3, 5)])
    for _ in range(2):
        restart(9)
        assert read_over(harness.log, max_bytes) == ([*left, 5], [(3, 5), (6, 9)])
    append()
    restart(10)
    assert read_over(harness.log, max_bytes) == ([*left, 5, 9], [(3, 5), (6, 9)])
    harness.close()


@pytest.mark.parametrize("name", ENGINES)
def test_a_partition_that_is_over_writes_nothing_and_leaves_nothing(
    name: str, tmp_path: Path
) -> None:
    harness = ENGINES[name](tmp_path)
    harness.log.append(bytearray(batches.build([Record(None, b"x")], NOW_MS)), 1)
    write = harness.log.write()
    harness.log.delete()()
    if write is not None:
        write(True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_engine_that_nobody_brings_is_unknown() -> None:
    with pytest.raises(KeyError):
        engine("no such engine")
