"""What the segment engine makes of files that a crash cut, or a disk damaged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from robustmq.core import batches
from robustmq.errors import KafkaCode
from robustmq.records import Record
from robustmq.shard.commits import Commits
from robustmq.shard.moving import Move, Moves
from robustmq.storage.disk import MemoryDisk, RealDisk
from robustmq.storage.engine import PartitionLog, PartitionSettings
from robustmq.storage.memory import MemoryPartition, RingMemory
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.verification import Fault, Verification
from tests.storage.stores import Machine, batch

ONE = len(batch(b"00"))


class Files:
    """A partition that is opened again and again."""

    def __init__(self, segment_bytes: int = 1 << 20) -> None:
        self.disk = MemoryDisk()
        self.settings = PartitionSettings(segment_bytes, index_interval_bytes=3 * ONE)
        self.log = self.open()

    def open(self) -> SegmentPartition:
        self.log = SegmentPartition("/p", self.disk, self.settings)
        return self.log

    def append(self, *numbers: int) -> None:
        for number in numbers:
            self.log.append(bytearray(batch(b"%02d" % number)), 1)
        write = self.log.write()
        assert write is not None
        write(False)
        self.log.committed()

    def values(self, begin: int = 0) -> list[int]:
        """What a consumer gets that steps over what is lost."""
        found: list[int] = []
        offset = begin
        while offset < self.log.high_watermark:
            result = self.log.read(offset, 2 * ONE)
            if result.error:
                assert result.error == KafkaCode.CORRUPT_MESSAGE and not result.buffers
                assert result.next_offset > offset, "it is said where the log goes on"
                offset = result.next_offset
                continue
            data = b"".join(map(bytes, result.buffers))
            if not data:
                break
            for at, info in batches.headers(data, 0, len(data), True):
                assert info.crc_ok
                offset = info.base_offset + 1
                found.append(int(batches.parse(data, at, at + info.length)[0].value or b""))
        return found


def name(base_offset: int) -> str:
    return f"/p/{base_offset:020d}.log"


@pytest.mark.parametrize("cut", [1, 20, ONE - 1])
def test_a_torn_batch_at_the_end_is_cut_and_its_offset_given_again(cut: int) -> None:
    files = Files()
    files.append(*range(10))
    del files.disk.files[name(0)][-cut:]
    assert files.open().end_offset == 9
    files.append(77)
    assert files.values() == [*range(9), 77]
    assert files.open().quarantined == []


@pytest.mark.parametrize("at", [0, 3, 9, 16, 18, 40, ONE - 1])
@pytest.mark.parametrize("last", [True, False])
def test_a_bit_flip_in_the_middle_costs_its_own_batch_alone(at: int, last: bool) -> None:
    files = Files()
    files.append(*range(12))
    if not last:
        files.settings = PartitionSettings(12 * ONE, 3 * ONE)
        files.open()
        files.append(*range(12, 15))
    files.disk.files[name(0)][5 * ONE + at] ^= 0x40
    files.open()
    end = 12 if last else 15
    assert files.log.end_offset == end, "no offset is given twice"
    assert files.values() == [number for number in range(end) if number != 5]
    assert [offset for offset, _ in files.log.quarantined] == [5]
    files.append(99)
    assert any("/p/quarantine/" in path for path in files.disk.files)
    assert files.values(6)[-1] == 99


def test_what_lies_behind_the_last_committed_record_is_cut_over_files() -> None:
    files = Files(segment_bytes=4 * ONE)
    files.append(*range(10))
    files.open().resume_at(6)
    assert files.log.end_offset == files.log.high_watermark == 6
    files.append(50, 51, 52, 53)
    assert files.values() == [*range(6), 50, 51, 52, 53]
    files.open().resume_at(10)
    assert files.values() == [*range(6), 50, 51, 52, 53]
    files.open().resume_at(0)
    assert files.values() == [] and files.log.end_offset == 0


def damaged_at_the_end(files: Files, how: str) -> list[int]:
    """Damage the end of what 10 records are in, of which all are committed; those that are left."""
    last = files.log.files[-1].path
    if how == "flip":
        files.disk.files[last][-5] ^= 1
        return list(range(9))
    if how == "cut":
        files.disk.truncate(last, files.disk.size(last) - 2 * ONE - 3)
        return list(range(7))
    if how == "empty":
        files.disk.truncate(last, 0)
    else:
        files.disk.remove(last)
    return list(range(files.log.files[-1].base_offset))


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone"])
def test_the_offsets_of_a_committed_end_that_is_lost_are_not_given_again(
    how: str, clean: bool
) -> None:
    files = Files(4 * ONE if how in ("empty", "gone") else 1 << 20)
    for number in range(10):
        files.append(number)
    if clean:
        files.log.close()
    left = damaged_at_the_end(files, how)
    for _ in range(3):
        # Killed before anything is written, it is found again.
        log = files.open()
        log.resume_at(10)
        assert [first for first, _ in log.quarantined] == [len(left)], "it is told"
        assert (log.start_offset, log.end_offset, log.high_watermark) == (0, 10, 10)
        assert files.values() == left
        lost = log.read(9, 100)
        assert (lost.error, lost.next_offset) == (KafkaCode.CORRUPT_MESSAGE, 10)
        assert not log.read(10, 100).error
    kept = [path for path in files.disk.files if "quarantine" in path]
    assert bool(kept) == (how in ("flip", "cut")), "the bytes are kept aside"
    files.append(10)
    files.append(11)
    assert files.values() == [*left, 10, 11]
    for number in range(12, 20):
        files.append(number)
        log = files.open()
        log.resume_at(number + 1)
        assert [first for first, _ in log.quarantined] == [len(left)]
        assert files.values() == [*left, *range(10, number + 1)]
    assert [info.base_offset for info in log.last_batches(1 << 20)] == [*left, *range(10, 20)]


def test_operators_are_told_of_the_offsets_that_a_lost_end_has_cost(tmp_path: Path) -> None:
    directory, disk = f"{tmp_path}/segments/p-0", RealDisk()

    def found() -> list[tuple[str, int]]:
        steps = Verification(0, tmp_path).steps()
        return [(one.what, one.offset) for one in steps if isinstance(one, Fault)]

    def append(log: SegmentPartition) -> None:
        log.append(bytearray(batch(b"00")), 1)
        write = log.write()
        assert write is not None
        write(False)
        log.committed()

    log = SegmentPartition(directory, disk, PartitionSettings(3 * ONE))
    for _ in range(4):
        append(log)
    log.skip_to(6)
    append(log)
    assert found() == [], "what was left out is not lost"
    log = SegmentPartition(directory, disk, PartitionSettings(3 * ONE))
    log.resume_at(9)
    append(log)
    assert found() == [("the next file begins at offset 9: what lies before it is lost", 7)]
    log.trim(8)
    append(log)
    assert found()[0][1] == 8
    log.trim(9)
    append(log)
    assert found() == []
    disk.close()


def test_a_lost_end_behind_what_the_object_store_has_leaves_that_to_be_read() -> None:
    files = Files(4 * ONE)
    files.settings = msgspec.structs.replace(files.settings, tiered=True)
    files.open()
    for number in range(10):
        files.append(number)
    files.log.tiered(8)
    files.append(10)
    for name in files.disk.list("/p"):
        if name.endswith(".log"):
            files.disk.remove(f"/p/{name}")
    for _ in range(2):
        log = files.open()
        log.resume_at(11)
        assert (log.start_offset, log.local_start_offset, log.end_offset) == (0, 8, 11)
        assert log.read(7, 100).error == KafkaCode.OFFSET_MOVED_TO_TIERED_STORAGE
        lost = log.read(8, 100)
        assert (lost.error, lost.next_offset) == (KafkaCode.CORRUPT_MESSAGE, 11)
    files.append(11)
    assert files.values(8) == [11]


def test_a_job_that_is_done_shows_what_it_wrote_and_no_more() -> None:
    files = Files()
    log = files.log
    log.append(bytearray(batch(b"00")), 1)
    first = log.write()
    log.append(bytearray(batch(b"01")), 1)
    second = log.write()
    assert first is not None and second is not None
    first(False)
    log.committed()
    assert log.high_watermark == 1 and files.values() == [0]
    second(False)
    log.committed()
    assert files.values() == [0, 1]


def test_a_time_is_found_by_the_index_and_not_by_reading_everything() -> None:
    files = Files()
    times = [5, 3, 9, 7, 9, 8, 1, 20, 11, 20, 2, 2, 30, 4]
    for time in times:
        records = [Record(None, b"00", [], time, 0)]
        files.log.append(bytearray(batches.build(records, time)), 1)
    write = files.log.write()
    assert write is not None
    write(False)
    files.log.committed()
    for wanted in (*range(1, 31), -3):
        least = max(times) if wanted == -3 else wanted
        first = next(offset for offset, time in enumerate(times) if time >= least)
        found = files.open().offset_for_time(wanted)
        assert isinstance(found, tuple)
        assert found[0] == first, wanted
    assert files.log.offset_for_time(31) is None
    begun: list[int] = []

    class Watched(MemoryDisk):
        def read(self, path: str, offset: int, length: int) -> bytes:
            begun.append(offset)
            return super().read(path, offset, length)

    watched = Watched()
    watched.files = files.disk.files
    files.disk = watched
    log = files.open()
    begun.clear()
    assert log.offset_for_time(30) is not None
    assert begun == [12 * ONE]


def test_preallocated_files_are_as_long_as_their_records(tmp_path: Path) -> None:
    disk = RealDisk()
    settings = PartitionSettings(segment_bytes=1 << 20, preallocate=True)
    log = SegmentPartition(str(tmp_path / "p"), disk, settings)
    blocks = []
    for number in range(40):
        log.append(bytearray(batch(b"%d" % number + b"x" * 40_000)), 1)
        write = log.write()
        assert write is not None
        write(False)
        log.committed()
        blocks.append(sum(one.stat().st_blocks * 512 for one in tmp_path.glob("p/*.log")))
    sizes = [one.stat().st_size for one in sorted(tmp_path.glob("p/*.log"))]
    assert len(sizes) == 2 and sum(sizes) == log.size
    assert blocks[0] >= 1 << 20, "the whole file is there from its first record on"
    assert blocks[-1] < 3 << 20
    assert SegmentPartition(str(tmp_path / "p"), disk, settings).end_offset == 40


def test_a_move_to_another_engine_leaves_out_what_is_lost() -> None:
    files = Files(segment_bytes=6 * ONE)
    files.append(*range(20))
    files.disk.files[name(6)][2 * ONE + 30] ^= 1
    machine = Machine()
    store = machine.store
    fresh = MemoryPartition(PartitionSettings(), RingMemory())
    commits = Commits({0: store}, lambda: None)
    over: list[str] = []
    flipped: list[PartitionLog] = []
    move = Move(store, 0, files.log, lambda: fresh, flipped.append, over.append)
    store.note_end("0" * 32 + "-0", 20)
    store.take(files.log, "0" * 32 + "-0")
    Moves(commits, lambda: None).begin(move)
    for _ in range(10):
        commits.hurry()
        machine.committer.kick()
    assert flipped == [fresh] and over in ([], [""])
    found = b"".join(bytes(part) for part in fresh.read(0, 1 << 20).buffers)
    offsets = [info.base_offset for _, info in batches.headers(found, 0, len(found), True)]
    assert offsets == [offset for offset in range(20) if offset != 8]
    assert fresh.end_offset == 20


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_in_memory_alone_when_a_copy_of_it_was_cut_off_is_no_damage(whole: bool) -> None:
    files = Files()
    files.log.copy_of_memory()
    files.append(0, 1, 2)
    files.append(3)
    if whole:
        files.log.copied()
        files.append(4)
        files.disk.truncate(files.log.files[0].path, 4 * ONE)
    for _ in range(2):
        log = files.open()
        log.resume_at(7)
        assert log.end_offset == log.high_watermark == 7
        assert bool(log.quarantined) == whole
        assert log.read(4, 100).error == (KafkaCode.CORRUPT_MESSAGE if whole else 0)
    files.append(7)
    log = files.open()
    log.resume_at(8)
    assert files.values() == [0, 1, 2, 3, 7]
    assert bool(log.quarantined) == whole
    files.disk.truncate(log.files[-1].path, 3)
    log = files.open()
    log.resume_at(8)
    assert log.quarantined[-1] == (7, 3), "what is lost later is one"
