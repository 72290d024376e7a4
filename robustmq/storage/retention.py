"""Which segments of a partition may go (Kafka's retention.ms, retention.bytes, log start offset).

Pure: rows of segments in, a number out. A segment goes as a whole, oldest first: by time when its
greatest time stamp is older than the retention; by size when the log is too large by at least its
size; and when all of it lies below the log's start. The last segment goes by time alone, once a new
one has been begun behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class SegmentRow(msgspec.Struct, frozen=True, gc=False):
    """What is looked at of one segment; `next_offset` is the offset behind its last record,
    `time_ms` the greatest time stamp in it (or when it was written, where it has none)."""

    size: int
    next_offset: int
    time_ms: int


def expired(
    rows: Sequence[SegmentRow],
    now_ms: int,
    retention_ms: int,
    retention_bytes: int,
    high_watermark: int,
) -> int:
    """How many segments, from the oldest on, time and size let go; -1 in both: for ever. What is
    not committed stays. The last may be among them."""
    count = 0
    excess = sum(row.size for row in rows) - retention_bytes
    for number, row in enumerate(rows):
        if row.next_offset > high_watermark or not row.size:
            break
        by_time = 0 <= retention_ms < now_ms - row.time_ms
        is_last = number == len(rows) - 1
        by_size = retention_bytes >= 0 and excess >= row.size and not is_last
        if not (by_time or by_size):
            break
        excess -= row.size
        count += 1
    return count
