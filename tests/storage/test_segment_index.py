"""The index of a segment file: what it saves at the opening, and that it is never believed where it
may be wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from robustmq.core import batches
from robustmq.errors import KafkaCode
from robustmq.records import Record
from robustmq.storage import segment
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.segment_file import SegmentFile
from robustmq.storage.segment_index import CACHE, IndexCache, read_head

SETTINGS = PartitionSettings(segment_bytes=2_000, index_interval_bytes=200)
TIME = 1_700_000_000_000


class ReadDisk(MemoryDisk):
    """Counts the bytes that are read of segment files."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0

    def read(self, path: str, offset: int, length: int) -> bytes:
        data = super().read(path, offset, length)
        if path.endswith(".log"):
            self.read_bytes += len(data)
        return data

    def read_apart(self, path: str, offset: int, length: int) -> bytes:
        """The heads of indexes and the last batches, which do not count."""
        return bytes(self.files.get(path, b"")[offset : offset + length])


class Partition:
    """A partition of many small files, and what was committed to it."""

    def __init__(self) -> None:
        self.disk = ReadDisk()
        self.values: list[bytes] = []
        self.open()

    def open(self) -> SegmentPartition:
        self.disk.read_bytes = 0
        self.log = SegmentPartition("/p", self.disk, SETTINGS)
        return self.log

    def append(self, count: int, sync: bool = False) -> None:
        for _ in range(count):
            number = len(self.values)
            records = [Record(None, b"%d-%d" % (number, part)) for part in range(1 + number % 3)]
            self.log.append(bytearray(batches.build(records, TIME + number)), 1)
            self.values += [record.value or b"" for record in records]
        self.commit(sync)

    def commit(self, sync: bool = False) -> None:
        write = self.log.write()
        if write is not None:
            write(sync)
            self.log.committed()

    def read(self, offset: int = 0) -> dict[int, bytes]:
        """What can be read, by offset; a consumer steps over what is lost."""
        found: dict[int, bytes] = {}
        while offset < self.log.high_watermark:
            result = self.log.read(offset, 700)
            if result.error:
                assert result.error == KafkaCode.CORRUPT_MESSAGE and result.next_offset > offset
                offset = result.next_offset
                continue
            data = b"".join(map(bytes, result.buffers))
            assert data, f"nothing at {offset}"
            for begin, info in batches.headers(data, 0, len(data), True):
                assert info.crc_ok
                assert offset <= info.base_offset + info.last_offset_delta
                offset = info.base_offset + info.last_offset_delta + 1
                for record in batches.parse(data, begin, begin + info.length):
                    found[record.offset] = record.value or b""
        return found

    def check(self) -> None:
        """All of it is there."""
        assert self.read() == dict(enumerate(self.values))
        assert self.log.end_offset == len(self.values)
        for offset in range(0, len(self.values), 41):
            base_offset = int.from_bytes(self.log.read(offset, 1).buffers[0][:8], "big")
            assert offset - 2 <= base_offset <= offset, "from the batch that holds it"

    def logs(self) -> list[str]:
        return [path for path in sorted(self.disk.files) if path.endswith(".log")]

    def indexes(self) -> list[str]:
        return [path for path in sorted(self.disk.files) if path.endswith(".index")]


@pytest.fixture
def partition() -> Partition:
    made = Partition()
    made.append(200)
    assert len(made.logs()) > 6
    assert len(made.indexes()) == len(made.logs()) - 1
    return made


def test_opening_reads_the_last_file_alone(partition: Partition) -> None:
    partition.open()
    assert partition.disk.read_bytes == partition.disk.size(partition.logs()[-1])
    assert all(file.index is None for file in partition.log.files[:-1])
    partition.check()


def test_of_the_last_file_what_its_index_tells_is_not_read_again(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "INDEX_AT_CLOSE_BYTES", 1)
    partition.append(12)
    partition.log.close()
    partition.open()
    assert partition.disk.read_bytes == 0
    partition.append(3)
    last = partition.disk.size(partition.logs()[-1])
    partition.open()
    assert 0 < partition.disk.read_bytes < last
    partition.check()
    monkeypatch.setattr(segment, "INDEX_EVERY_BYTES", 100)
    partition.append(1)
    assert partition.open() and partition.disk.read_bytes == 0
    partition.append(40)
    partition.open()
    partition.check()


def test_a_last_file_that_was_cut_below_its_index_is_scanned(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "INDEX_AT_CLOSE_BYTES", 1)
    partition.append(20)
    partition.log.close()
    last = partition.disk.files[partition.logs()[-1]]
    del last[-1:]
    partition.open()
    assert partition.log.end_offset < len(partition.values)
    del partition.values[partition.log.end_offset :]
    partition.check()


def zeros(data: bytearray, chance: random.Random) -> None:
    begin = chance.randrange(len(data))
    data[begin:] = bytes(len(data) - begin)


def flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def rubbish(data: bytearray, chance: random.Random) -> None:
    data[:] = chance.randbytes(len(data))


def other_version(data: bytearray, chance: random.Random) -> None:
    data[7] += 1


@pytest.mark.parametrize("damage", [zeros, flip, cut, rubbish, other_version])
def test_a_damaged_index_is_made_anew(
    partition: Partition, damage: Callable[[bytearray, random.Random], None]
) -> None:
    for seed in range(12):
        chance = random.Random(seed)
        path = chance.choice(partition.indexes())
        before = bytes(partition.disk.files[path])
        damage(partition.disk.files[path], chance)
        partition.open()
        partition.check()
        assert partition.log.quarantined == []
        partition.commit()
        file = SegmentFile(int(path[3:23]), path.removesuffix(".index") + ".log")
        mended = read_head(partition.disk, file, partition.disk.size(file.path))
        assert mended is not None
        # What differs is the flag that its file is synced.
        assert partition.disk.files[path][96:] == before[96:]


def test_a_missing_index_is_made_anew_and_one_without_its_file_goes(partition: Partition) -> None:
    for path in partition.indexes()[::2]:
        partition.disk.remove(path)
    partition.disk.put("/p/00000000000000099999.index", b"left behind")
    partition.open()
    partition.check()
    partition.commit()
    assert len(partition.indexes()) == len(partition.logs()) - 1
    assert "/p/00000000000000099999.index" not in partition.disk.files
    partition.open()
    assert partition.disk.read_bytes == partition.disk.size(partition.logs()[-1])


def test_an_index_of_other_bytes_of_the_same_length_is_not_believed(partition: Partition) -> None:
    first, second = partition.logs()[:2]
    index = partition.disk.files[second.replace(".log", ".index")]
    partition.disk.put(first.replace(".log", ".index"), index)
    partition.open()
    partition.check()


def test_after_a_loss_of_power_only_what_was_synced_is_believed(partition: Partition) -> None:
    disk = partition.disk
    # The disk has grown the file and not yet written what stands in it.
    lost = partition.logs()[2]
    size = disk.size(lost)
    disk.files[lost][700:900] = bytes(200)
    partition.open()
    last = disk.size(partition.logs()[-1])
    assert disk.read_bytes == last, "as long as the machine runs nothing is lost"
    disk.lose_power(1.0)
    partition.open()
    assert disk.read_bytes >= size + last
    assert partition.log.quarantined
    lasting = partition.read()
    assert 0 < len(partition.values) - len(lasting) < 20
    assert all(partition.values[offset] == value for offset, value in lasting.items())


def test_closed_files_are_synced_by_and_by_and_their_indexes_say_so(partition: Partition) -> None:
    for _ in range(40):
        partition.log.retain(TIME)
        partition.append(1)
    partition.log.close()
    for path in partition.indexes():
        # They are not synced, and come to the disk by themselves.
        partition.disk.sync(path)
    partition.disk.lose_power(0.0)
    partition.open()
    assert len(partition.log.files) > 6
    assert partition.disk.read_bytes <= partition.disk.size(partition.logs()[-1])
    kept = partition.log.end_offset
    assert kept > len(partition.values) // 2
    assert partition.read() == dict(enumerate(partition.values[:kept]))


@pytest.mark.parametrize("seed", range(30))
def test_damage_that_comes_later_costs_the_batches_that_it_hits(
    partition: Partition, seed: int
) -> None:
    chance = random.Random(seed)
    path = chance.choice(partition.logs()[:-1])
    data = partition.disk.files[path]
    if chance.random() < 0.5:
        partition.open()
    lost: list[tuple[int, int]] = []
    partition.log.damaged = lambda *row: lost.append(row)
    at = chance.randrange(len(data))
    length = min(chance.choice([1, 1, 61, 400]), len(data) - at)
    data[at : at + length] = bytes(byte ^ 0x55 for byte in data[at : at + length])
    # Base offset and epoch of a batch are not covered by its checksum.
    readable = partition.read(chance.randrange(20))
    first = next(iter(readable))
    for offset, value in readable.items():
        assert partition.values[offset] == value, "nothing else is in its place"
    missing = set(range(first, len(partition.values))) - readable.keys()
    assert len(missing) < 30
    if missing:
        assert [offset for offset, _ in lost] == [min(missing)]
        assert partition.log.quarantined == lost
        partition.append(1)
        assert any("quarantine" in name for name in partition.disk.files)
        assert struct.unpack_from("<I", partition.disk.files[path[:-4] + ".index"], 68)[0] == 1
        before = partition.log.quarantined
        partition.open()
        assert partition.log.quarantined == before, "it is told again, and not scanned for"
        assert partition.read(first).keys() == set(range(first, len(partition.values))) - missing


def test_what_was_cut_and_written_again_has_no_old_index(partition: Partition) -> None:
    end = len(partition.values) // 2
    partition.open().resume_at(end)
    end = partition.log.end_offset
    del partition.values[end:]
    partition.append(200)
    partition.check()
    partition.open()
    partition.check()


def test_the_indexes_in_memory_are_bounded(partition: Partition) -> None:
    cache = IndexCache(max_bytes=1_000)
    partition.open()
    partition.check()
    files = partition.log.files[:-1]
    assert all(file.index is not None for file in files)
    for file in files:
        CACHE.forget(file)
        cache.used(file)
    assert 0 < len(cache) < 5
    assert sum(file.index is not None for file in files) == len(cache)
    partition.check()


@pytest.mark.parametrize("seed", range(30))
def test_so_does_damage_in_the_file_that_grows(
    partition: Partition, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below an index that is believed it was read unchecked, and given out."""
    chance = random.Random(seed)
    monkeypatch.setattr(segment, "INDEX_AT_CLOSE_BYTES", 1)
    while partition.disk.size(partition.logs()[-1]) < 1_000:
        partition.append(1)
    if chance.random() < 0.5:
        partition.log.close()
        partition.open()
        assert partition.disk.read_bytes == 0
    lost: list[tuple[int, int]] = []
    partition.log.damaged = lambda *row: lost.append(row)
    first = partition.log.files[-1].base_offset
    data = partition.disk.files[partition.logs()[-1]]
    at = chance.randrange(len(data))
    length = min(chance.choice([1, 1, 61, 400]), len(data) - at)
    data[at : at + length] = bytes(byte ^ 0x55 for byte in data[at : at + length])
    if chance.random() < 0.5:
        # What is not written yet is not missed.
        partition.log.append(bytearray(batches.build([Record(None, b"new")], TIME)), 1)
        partition.values.append(b"new")
    missing = set(range(first, partition.log.high_watermark)) - partition.read(first).keys()
    assert len(missing) < 30
    assert [offset for offset, _ in lost] == ([min(missing)] if missing else [])
    partition.append(1)
    assert any("quarantine" in name for name in partition.disk.files) == bool(missing)
    for _ in range(2):
        readable = partition.read(first)
        assert all(partition.values[offset] == value for offset, value in readable.items())
        assert readable.keys() == set(range(first, len(partition.values))) - missing
        assert partition.log.quarantined == lost
        partition.append(20)
        partition.open()
