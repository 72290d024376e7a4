"""A RocksDB partition whose files have rotted: readers are told, and operators are told what."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from robustmq.core import batches
from robustmq.errors import BrokerError, KafkaCode
from robustmq.records import Record
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import PartitionSettings, Unsound
from robustmq.storage.rocksdb_engine import RocksDbPartition
from robustmq.storage.rocksdb_stored import open_stored

NOW_MS = 1_700_000_000_000
COUNT = 200


def build(directory: Path) -> None:
    """A partition of 200 batches of a kilobyte, in tables, and closed."""
    log = RocksDbPartition(str(directory), RealDisk(), PartitionSettings())
    for number in range(COUNT):
        record = Record(None, b"%04d" % number * 250, [], NOW_MS + number)
        log.append(bytearray(batches.build([record], NOW_MS)), 1)
    write = log.write()
    assert write is not None
    write(True)
    log.committed()
    log.close()
    with_database(directory, lambda db: db.flush())


def with_database(directory: Path, change: Callable[[Rdict], None]) -> None:
    db = Rdict(str(directory), Options(raw_mode=True))
    change(db)
    db.close()


def rot(directory: Path) -> None:
    """Flip a bit in the middle of the largest table."""
    path = max(directory.glob("*.sst"), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def looked_into(directory: Path) -> tuple[list[int], list[Unsound]]:
    """Offsets of the batches that can be read, and what is wrong."""
    stored = open_stored(str(directory))
    sound, wrong = [], []
    for found in stored.batches():
        if isinstance(found, Unsound):
            wrong.append(found)
        else:
            sound.append(int.from_bytes(found[:8], "big"))
    stored.close()
    return sound, wrong


def test_operators_are_told_which_offsets_a_rotten_block_has_lost(tmp_path: Path) -> None:
    build(tmp_path)
    assert looked_into(tmp_path) == (list(range(COUNT)), [])
    rot(tmp_path)
    sound, [wrong] = looked_into(tmp_path)
    lost = [offset for offset in range(COUNT) if offset not in sound]
    assert 0 < len(lost) < 10 and lost == list(range(lost[0], lost[-1] + 1))
    assert wrong.offset == lost[0]
    assert wrong.what.startswith(f"cannot be read up to offset {lost[-1] + 1}: Corruption")


def test_a_reader_of_a_rotten_block_is_told_and_not_left_waiting(tmp_path: Path) -> None:
    build(tmp_path)
    rot(tmp_path)
    lost = looked_into(tmp_path)[1][0].offset
    log = RocksDbPartition(str(tmp_path), RealDisk(), PartitionSettings())
    before = log.read(0, 1 << 20)
    assert not before.error
    assert b"%04d" % (lost - 1) in bytes(before.buffers[-1]), "what lies before it is served"
    assert log.read(lost, 1 << 20).error == KafkaCode.KAFKA_STORAGE_ERROR
    assert b"%04d" % (COUNT - 1) in bytes(log.read(COUNT - 1, 1).buffers[0]), "and what follows"
    log.close()


def killed_with_damage(directory: Path, place: float) -> Path:
    """A partition of which all is in the write-ahead log, as a kill leaves it, and a bit of that
    flipped."""
    log = RocksDbPartition(str(directory / "running"), RealDisk(), PartitionSettings())
    for number in range(COUNT):
        record = Record(None, b"%04d" % number * 250, [], NOW_MS + number)
        log.append(bytearray(batches.build([record], NOW_MS)), 1)
        write = log.write()
        assert write is not None
        write(False)
        log.committed()
    killed = directory / "killed"
    shutil.copytree(directory / "running", killed)
    log.close()
    [wal] = killed.glob("*.log")
    data = bytearray(wal.read_bytes())
    data[int((len(data) - 1) * place)] ^= 1
    wal.write_bytes(data)
    return killed


@pytest.mark.parametrize("place", [0.001, 0.5, 1])
def test_what_a_damaged_write_ahead_log_has_lost_is_told_and_its_offsets_are_not_given_again(
    place: float, tmp_path: Path
) -> None:
    killed = killed_with_damage(tmp_path, place)
    found: list[int] = []
    lost: list[int] = []
    for number in range(3):
        log = RocksDbPartition(str(killed), RealDisk(), PartitionSettings())
        log.resume_at(COUNT + number)
        assert (log.start_offset, log.end_offset) == (0, COUNT + number)
        found, lost, offset = [], [], 0
        while offset < log.high_watermark:
            result = log.read(offset, 1 << 20)
            if result.error:
                assert result.error == KafkaCode.CORRUPT_MESSAGE
                lost += range(offset, result.next_offset)
                offset = result.next_offset
                continue
            data = b"".join(map(bytes, result.buffers))
            found += [info.base_offset for _, info in batches.headers(data, 0, len(data), True)]
            offset = found[-1] + 1
        assert sorted(found + lost) == list(range(COUNT + number))
        assert 0 < len(lost) < 40, "what shares a block with it, and no more"
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert (lost[-1] == COUNT - 1) == (place == 1) and (lost[0] == 0) == (place < 0.1)
        assert bool(log.quarantined) == (place == 1 and not number)
        log.append(bytearray(batches.build([Record(None, b"x", [], NOW_MS)], NOW_MS)), 1)
        write = log.write()
        assert write is not None
        write(False)
        log.committed()
        log.close()
    sound, wrong = looked_into(killed)
    assert sound == [*found, COUNT + 2]
    assert any(one.offset == lost[0] and "are missing" in one.what for one in wrong), wrong


def test_a_partition_of_which_nothing_can_be_read_gives_no_offset_again(tmp_path: Path) -> None:
    killed = killed_with_damage(tmp_path, 0.001)
    [wal] = killed.glob("*.log")
    wal.write_bytes(wal.read_bytes()[:20_000])
    log = RocksDbPartition(str(killed), RealDisk(), PartitionSettings())
    log.resume_at(COUNT)
    assert (log.start_offset, log.end_offset) == (COUNT, COUNT)
    assert log.quarantined == [(0, 0)], "and it is told"
    log.close()


def test_batches_that_are_missing_are_missed(tmp_path: Path) -> None:
    build(tmp_path)

    def remove(db: Rdict) -> None:
        for offset in (50, 51, COUNT - 1):
            del db[b"b" + offset.to_bytes(8, "big")]

    with_database(tmp_path, remove)
    size = len(batches.build([Record(None, b"x" * 1000, [], NOW_MS)], NOW_MS))
    sound, wrong = looked_into(tmp_path)
    assert len(sound) == COUNT - 3
    assert wrong == [
        Unsound(f"{2 * size} bytes of batches are missing", 50),
        Unsound(f"{size} bytes of batches are missing at the end", COUNT - 1),
    ]


def test_a_table_of_times_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    build(tmp_path)

    def mislead(db: Rdict) -> None:
        first, second = ((NOW_MS + number).to_bytes(8, "big") for number in (10, 20))
        del db[b"t" + first + (10).to_bytes(8, "big")]
        del db[b"t" + second + (20).to_bytes(8, "big")]
        db[b"t" + (NOW_MS + 21).to_bytes(8, "big") + (20).to_bytes(8, "big")] = b""

    with_database(tmp_path, mislead)
    assert looked_into(tmp_path)[1] == [
        Unsound("the table of times does not know its time stamp", 10),
        Unsound(f"the table of times has {NOW_MS + 21} for it", 20),
    ]


def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(BrokerError, match="CURRENT"):
        open_stored(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        open_stored(str(tmp_path / "nowhere"))
