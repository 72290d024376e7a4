"""Records without time stamps are as old as the look that first saw them."""

from __future__ import annotations

from robustmq.core import batches
from robustmq.records import Record
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.segment import SegmentPartition

NOW_MS = 1_700_000_000_000


def test_deleting_records_does_not_make_the_others_look_old() -> None:
    settings = PartitionSettings(segment_bytes=100, retention_ms=1_000)
    log = SegmentPartition("p", MemoryDisk(), settings)
    for number in range(4):
        log.append(bytearray(batches.build([Record(value=b"%d" % number)], -1)), 1)
    write = log.write()
    assert write is not None
    write(False)
    log.committed()
    assert len(log.files) == 4
    log.trim(1)
    assert log.retain(NOW_MS) == 0 and log.start_offset == 1
    assert log.retain(NOW_MS + 1_001) > 0 and log.start_offset == 4
