"""Recovery of a shard log: what is torn is cut, what is corrupt is set aside, nothing else goes."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.log_files import Gone
from robustmq.storage.shard_log import HEAD, MACHINE, ShardLog

ONE = HEAD.size + 20


class Disk:
    """A log on a disk in memory."""

    def __init__(self, segment_bytes: int = 1 << 20, hot_bytes: int = 100) -> None:
        self.disk = MemoryDisk()
        self.segment_bytes = segment_bytes
        self.hot_bytes = hot_bytes
        self.open()

    def open(self, position: int = 0, lost_power: bool = True) -> list[int]:
        """Recover; the numbers that are replayed."""
        self.corrupt: list[tuple[int, int]] = []
        self.log = ShardLog(
            "/s/log",
            self.disk,
            self.segment_bytes,
            self.hot_bytes,
            lambda *where: self.corrupt.append(where),
        )
        found: list[int] = []
        self.log.recover(
            position,
            lambda _at, _kind, _s, _q, _t, data: found.append(int(bytes(data))),
            lost_power,
        )
        return found

    def append(self, *numbers: int) -> list[int]:
        places = [self.log.append(MACHINE, b"%020d" % number, 0, 0, 1) for number in numbers]
        for path, buffers in self.log.take_pending():
            self.disk.append(path, buffers)
        self.log.committed_position = self.log.end_position
        return places

    def file(self, start: int = 0) -> bytearray:
        return self.disk.files[f"/s/log/{start:016x}.log"]


def test_replay_gives_every_entry_in_order_as_often_as_one_likes() -> None:
    disk = Disk(segment_bytes=5 * ONE)
    disk.append(*range(17))
    assert disk.open() == disk.open() == list(range(17))
    assert disk.append(17) == [17 * ONE]
    assert disk.open(15 * ONE) == [15, 16, 17]


@pytest.mark.parametrize("lost_power", [True, False])
@pytest.mark.parametrize("left", range(1, ONE, 7))
def test_a_torn_tail_is_cut_and_the_log_goes_on_from_there(left: int, lost_power: bool) -> None:
    disk = Disk()
    disk.append(*range(5))
    del disk.file()[4 * ONE + left :]
    assert disk.open(0, lost_power) == [0, 1, 2, 3] and disk.corrupt == []
    disk.append(9)
    assert disk.open(0, lost_power) == [0, 1, 2, 3, 9]


LENGTH = range(4)
"""The bytes of an entry that say where it ends."""


@pytest.mark.parametrize("at", range(ONE))
def test_a_whole_entry_at_the_end_that_does_not_check_is_torn_only_by_a_loss_of_power(
    at: int,
) -> None:
    disk = Disk()
    disk.append(*range(5))
    disk.file()[4 * ONE + at] ^= 1 << at % 8
    whole = bytes(disk.file())
    assert disk.open(0, False) == [0, 1, 2, 3]
    if at in LENGTH:
        return
    assert disk.corrupt == [(4 * ONE, ONE)]
    assert disk.append(9) == [5 * ONE], "no position is used twice"
    assert disk.open(0, False) == disk.open() == [0, 1, 2, 3, 9]
    disk.file()[:] = whole
    assert disk.open() == [0, 1, 2, 3] and not disk.corrupt
    assert disk.append(9) == [4 * ONE]


@pytest.mark.parametrize("bit", range(0, ONE * 8, 13))
def test_a_bit_flip_in_the_middle_is_set_aside_and_all_behind_it_is_served(bit: int) -> None:
    disk = Disk()
    disk.append(*range(8))
    disk.file()[3 * ONE + bit // 8] ^= 1 << bit % 8
    assert disk.open() == [0, 1, 2, 4, 5, 6, 7]
    assert disk.corrupt == [(3 * ONE, ONE)]
    (name,) = disk.disk.list("/s/quarantine")
    assert disk.disk.size(f"/s/quarantine/{name}") == ONE
    assert [int(bytes(data)) for _, _, data in disk.log.scan(0)] == [0, 1, 2, 4, 5, 6, 7]


def test_a_damaged_end_of_a_segment_that_is_not_the_last_is_not_a_torn_tail() -> None:
    disk = Disk(segment_bytes=4 * ONE)
    disk.append(*range(8))
    disk.file()[3 * ONE + 30] ^= 1
    assert disk.open() == [0, 1, 2, 4, 5, 6, 7] and disk.corrupt
    assert len(disk.file()) == 4 * ONE


def test_a_log_of_another_version_is_refused_with_advice_and_left_as_it_is() -> None:
    disk = Disk()
    disk.append(1)
    written = bytearray(disk.file())
    written[9] = 2
    struct.pack_into("<I", written, 4, crc32c(written[8:]))
    disk.file()[:] = written
    with pytest.raises(DataDirectoryError, match=r"another version.*run that version"):
        disk.open()
    assert disk.file() == written


def test_a_scan_may_begin_at_the_byte_before_an_entry() -> None:
    disk = Disk(segment_bytes=3 * ONE)
    disk.append(*range(7))
    for first in range(7):
        for position in (first * ONE, first * ONE - 1):
            assert [int(bytes(d)) for _, _, d in disk.log.scan(position)] == list(range(first, 7))
    assert [int(bytes(d)) for _, _, d in disk.log.scan(ONE, 4 * ONE)] == [1, 2, 3]


def test_entries_are_read_from_memory_and_from_disk_alike() -> None:
    disk = Disk(segment_bytes=4 * ONE)
    places = disk.append(*range(30))
    assert [int(bytes(disk.log.entry(place)[1])) for place in places] == list(range(30))


def test_a_long_log_keeps_the_newest_bytes_in_memory_and_what_is_not_committed() -> None:
    disk = Disk(segment_bytes=100 * ONE, hot_bytes=40 * ONE)
    log = disk.log

    def in_memory() -> list[int]:
        return [at for at in range(0, log.end_position, ONE) if log.piece(at) is not None]

    for number in range(2_000):
        assert log.append(MACHINE, b"%020d" % number, 0, 0, 1) == number * ONE
        if number % 37 == 0:
            first = max(0, min((number - 39) * ONE, log.committed_position))
            assert in_memory() == list(range(first, log.end_position, ONE))
        if number % 70 == 69:
            disk.append()
    disk.append()
    there, before = len(in_memory()), log.cold_bytes_read
    for number in range(2_000):
        assert int(bytes(log.entry(number * ONE)[1])) == number
    assert log.cold_bytes_read - before == (2_000 - there) * ONE
    log.let_go(log.files.files[:5], None)
    assert len(in_memory()) == there
    log.let_go(log.files.files[:-1], None)
    rest = log.files.files[-1].start
    assert in_memory() == list(range(max(rest, (2_000 - there) * ONE), 2_000 * ONE, ONE))


def pieces(log: ShardLog, written: bytes) -> set[int]:
    """The positions that memory has a piece of; each says what is at its position, and no more
    than what was appended at once."""
    there: set[int] = set()
    for position in range(-ONE, len(written) + 2 * ONE):
        found = log.piece(position)
        if found is not None:
            data, begin = found
            assert 0 <= begin < len(data) <= ONE and position >= 0
            assert data[begin:] == written[position : position + len(data) - begin]
            there.add(position)
    return there


@given(steps=st.lists(st.sampled_from("aaaaccrkf"), max_size=40))
def test_a_piece_is_of_what_memory_has_and_of_nothing_else(steps: list[str]) -> None:
    """(a)ppend, (c)ommit, begin a new file (r), reopen as after a kill (k), free the first file
    (f)."""
    disk = Disk(segment_bytes=3 * ONE)
    written = b""
    reopened = freed = 0
    for step in steps:
        log = disk.log
        if step == "a":
            position = log.append(MACHINE, b"%020d" % len(written), 0, 0, 1)
            written += bytes(log.read(position, ONE))
        elif step == "r":
            log.roll()
        else:
            disk.append()
        if step == "k":
            disk.open()
            reopened = len(written)
        if step == "f" and len(log.files.files) > 1:
            first = log.files.files[0]
            log.let_go([first], None)
            disk.disk.remove(first.path)
            freed = first.end
    log = disk.log
    there = pieces(log, written)
    assert there == set(range(min(there, default=len(written)), len(written)))
    assert not there & set(range(max(reopened, freed)))
    assert there >= set(range(log.committed_position, len(written)))
    for position in range(len(written)):
        if position < freed:
            with pytest.raises(Gone):
                log.read(position, 1)
        else:
            assert bytes(log.read(position, 1)) == written[position : position + 1]
