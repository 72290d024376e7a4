"""The tier of a partition: what it answers, and what it lets go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from robustmq.errors import BrokerError, KafkaCode
from robustmq.promises import Promise
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.engine import PartitionSettings, ReadResult
from robustmq.storage.tiered import (
    EARLIEST_LOCAL,
    EARLIEST_PENDING_UPLOAD,
    LATEST_TIERED,
    PartitionTier,
    tier_offset,
)
from tests.storage.stores import NOW_MS
from tests.storage.test_segment import ONE, Files

SETTINGS = PartitionSettings(segment_bytes=2 * ONE, index_interval_bytes=ONE, tiered=True)


class Reader:
    """Says what it was asked."""

    def __init__(self, cold: ColdSegments) -> None:
        self.cold = cold

    def read(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        return ReadResult(end, 0, [b"cold %d %d" % (offset, end)])

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        return (self.cold[self.cold.find_time(timestamp_ms)].base_offset, timestamp_ms)


class Tiered(Files):
    """Ten records in files of two, the first eight of them closed; the first six in the store."""

    def __init__(self, loaded: bool = True, uploaded: int = 3, **settings: Any) -> None:
        super().__init__()
        self.settings = msgspec.structs.replace(SETTINGS, **settings)
        self.open()
        self.append(*range(10))
        self.wanted = 0
        self.tier = self.log.tier = PartitionTier(self.log, Reader, self.want)
        if loaded:
            for number in range(uploaded):
                base = 2 * number
                self.tier.cold.add(ColdSegment(base, base + 2, 2 * ONE, NOW_MS + number, 1))
            self.tier.settle(True)
        self.log.tiered(2 * uploaded)
        self.commit()

    def want(self) -> None:
        self.wanted += 1

    def commit(self) -> None:
        write = self.log.write()
        if write is not None:
            write(True)
            self.log.committed()
        freed = self.log.free()
        if freed is not None:
            freed()


def test_what_is_not_here_is_read_from_the_store() -> None:
    files = Tiered(local_bytes=0)
    assert files.log.retain(NOW_MS) == 6 * ONE
    assert (files.log.start_offset, files.log.local_start_offset) == (0, 6)
    assert files.log.read(3, 100).buffers == [b"cold 3 6"]
    assert files.values(6) == [6, 7, 8, 9]
    assert files.log.offset_for_time(NOW_MS) == (0, NOW_MS)
    files.log.trim(5)
    assert files.log.read(4, 100).out_of_range
    assert files.log.read(5, 100).start_offset == 5


def test_a_read_waits_for_the_manifest_and_is_told_when_it_cannot_be_had() -> None:
    files = Tiered(loaded=False, local_bytes=0)
    files.log.drop_local(6)
    result, found = files.log.read(3, 100), files.log.offset_for_time(NOW_MS)
    assert result.pending is not None and result.pending is found and not result.buffers
    settled: list[int] = []
    result.pending.when_settled(lambda: settled.append(1))
    assert files.wanted == 1 and settled == []
    files.tier.settle(False)
    assert settled == [1]
    assert files.log.read(3, 100).error == KafkaCode.KAFKA_STORAGE_ERROR
    with pytest.raises(BrokerError):
        files.log.offset_for_time(NOW_MS)
    assert files.wanted == 3, "it is asked for again"
    assert files.log.retain(NOW_MS * 2) == 0, "what nobody knows stays"
    files.tier.cold.add(ColdSegment(0, 6, 6 * ONE, NOW_MS, 1))
    files.tier.settle(True)
    assert files.log.read(3, 100).buffers == [b"cold 3 6"]


def test_local_files_go_as_far_as_they_are_in_the_store() -> None:
    files = Tiered(local_ms=5, retention_ms=1_000_000)
    assert files.log.retain(NOW_MS + 5) == 0
    assert files.log.retain(NOW_MS + 6) == 6 * ONE
    assert files.log.local_start_offset == 6, "what is not uploaded stays"
    files = Tiered(local_bytes=7 * ONE)
    assert files.log.retain(NOW_MS) == 2 * ONE
    assert (files.log.start_offset, files.log.local_start_offset) == (0, 2)


def test_retention_is_of_the_whole_log() -> None:
    files = Tiered(local_bytes=0, retention_bytes=7 * ONE)
    files.log.retain(NOW_MS)
    assert files.log.start_offset == 2
    files = Tiered(local_bytes=0, retention_ms=10)
    files.log.retain(NOW_MS + 11)
    assert files.log.start_offset == 2
    files.log.retain(NOW_MS + 1_000)
    assert (files.log.start_offset, files.log.end_offset) == (6, 10), "what is not uploaded stays"


def test_what_nobody_copies_goes_by_retention_too() -> None:
    files = Tiered(local_bytes=0, retention_ms=10, tier_copy_disabled=True)
    files.log.retain(NOW_MS + 1_000)
    assert (files.log.start_offset, files.log.local_start_offset) == (8, 8)


def test_the_offsets_of_the_tier_are_those_that_kafka_names() -> None:
    files = Tiered(local_bytes=0)
    files.log.retain(NOW_MS)
    assert [
        tier_offset(files.log, which)
        for which in (EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD)
    ] == [6, 5, 6]
    files = Tiered(uploaded=0)
    assert tier_offset(files.log, LATEST_TIERED) == -1
    assert tier_offset(files.log, EARLIEST_PENDING_UPLOAD) == 0
    files.log.tier = None
    assert tier_offset(files.log, EARLIEST_PENDING_UPLOAD) == -1


def test_records_that_a_loss_of_power_took_and_the_store_has_keep_their_offsets() -> None:
    files = Tiered(uploaded=4)
    for path in [one for one in files.disk.files if not one.endswith("/state")]:
        if "0006" in path or "0008" in path:
            files.disk.remove(path)
    log = files.open()
    assert (log.start_offset, log.local_start_offset, log.end_offset) == (0, 8, 8)
    files.append(80)
    assert log.end_offset == 9


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_a_damaged_file_that_the_store_has_whole_makes_way_for_it(damage: str) -> None:
    for uploaded, local_start in ((3, 4), (1, 0)):
        files = Tiered(uploaded=uploaded)
        path = next(one for one in files.disk.files if "0002.log" in one)
        if damage == "short":
            files.disk.truncate(path, ONE)
        else:
            files.disk.files[path][-3] ^= 1
        files.disk.remove(path.replace(".log", ".index"))
        log = files.open()
        assert (log.start_offset, log.local_start_offset) == (0, local_start)
        assert bool(log.quarantined) == (local_start == 0), "what is nowhere else is told"
        assert log.end_offset == 10
        log.resume_at(10)
        files.append(10)
        assert log.end_offset == 11
