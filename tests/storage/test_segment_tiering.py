"""A partition in segments whose older files live in a cold tier."""

from __future__ import annotations

from robustmq.errors import KafkaCode
from robustmq.storage.engine import PartitionSettings
from tests.storage.test_segment import ONE, Files

NOW = 1_700_000_000_000
SETTINGS = PartitionSettings(
    segment_bytes=4 * ONE, index_interval_bytes=ONE, retention_ms=0, tiered=True
)


def tiered_files() -> Files:
    files = Files()
    files.settings = SETTINGS
    files.open()
    return files


def commit(files: Files) -> None:
    write = files.log.write()
    if write is not None:
        write(True)
        files.log.committed()
    freed = files.log.free()
    if freed is not None:
        freed()


def test_closed_files_are_those_that_are_full_and_committed() -> None:
    files = tiered_files()
    files.append(*range(10))
    closed = files.log.closed_files()
    assert [(one.base_offset, one.next_offset) for one in closed] == [(0, 4), (4, 8)]
    assert [one.size for one in closed] == [4 * ONE, 4 * ONE]
    assert [files.disk.size(one.path) for one in closed] == [4 * ONE, 4 * ONE]
    for _ in range(10):
        files.log.append(bytearray(files.log.read(9, 1).buffers[0]), 1)
    assert len(files.log.closed_files()) == 2, "what is not committed is not closed"


def test_local_copies_go_only_when_the_state_says_where_the_records_are() -> None:
    files = tiered_files()
    files.append(*range(10))
    assert files.log.retain(NOW * 2) == 0, "the cold tier says what goes"
    assert files.log.drop_local(8) == 0
    files.log.tiered(8)
    assert files.log.drop_local(8) == 0, "that it is there is not kept yet"
    commit(files)
    assert files.log.drop_local(6) == 4 * ONE
    assert files.log.drop_local(8) == 4 * ONE
    commit(files)
    for _ in range(2):
        log = files.log
        assert (log.start_offset, log.local_start_offset, log.end_offset) == (0, 8, 10)
        assert files.values(8) == [8, 9]
        assert log.read(3, 100).error == KafkaCode.OFFSET_MOVED_TO_TIERED_STORAGE
        assert not log.read(3, 100).out_of_range and log.read(3, 100).start_offset == 0
        files.open()
    files.log.trim(5)
    commit(files)
    assert files.open().start_offset == 5 and files.log.read(4, 100).out_of_range
    files.log.trim(9)
    commit(files)
    assert files.open().start_offset == files.log.local_start_offset == 9


def test_what_was_not_acknowledged_is_cut_behind_what_the_cold_tier_has() -> None:
    files = tiered_files()
    files.append(*range(8))
    files.log.roll()
    commit(files)
    files.log.tiered(8)
    commit(files)
    assert files.log.drop_local(8) == 8 * ONE
    commit(files)
    files.append(80, 81)
    files.open().resume_at(8)
    assert (files.log.start_offset, files.log.local_start_offset) == (0, 8)
    assert files.log.end_offset == 8
    assert files.open().end_offset == 8
    files.append(90)
    assert files.values(8) == [90] and files.log.end_offset == 9
