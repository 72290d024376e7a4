"""Which record of a batch a time means (ListOffsets).

Engines find batches by the greatest time in their headers; here the records of one batch are
looked at.
"""

from __future__ import annotations

from array import array

from robustmq.core import batches
from robustmq.errors import BrokerError
from robustmq.kafka.gateway import MAX_TIMESTAMP

_ROWS = 1024
_CLIPPED = (1 << 31) - 1


def first_at(batch: bytes, timestamp_ms: int, start_offset: int = 0) -> tuple[int, int] | None:
    """(offset, time) of the first record at or after a time, -3: of the greatest time, or None.
    Records before `start_offset` are deleted."""
    info = batches.validate(batch, 0, len(batch), False)
    wanted = info.max_timestamp if timestamp_ms == MAX_TIMESTAMP else timestamp_ms
    if info.max_timestamp < wanted or not info.count:
        return None
    if info.attributes & batches.LOG_APPEND_TIME:
        return max(info.base_offset, start_offset), info.max_timestamp
    try:
        return _first_record(batch, info, wanted, start_offset)
    except BrokerError:
        # Records that cannot be read: the batch as a whole is the best answer that there is.
        return max(info.base_offset, start_offset), max(info.first_timestamp, wanted)


def _first_record(
    batch: bytes, info: batches.BatchInfo, wanted: int, start_offset: int
) -> tuple[int, int] | None:
    compression = info.attributes & batches.COMPRESSION_MASK
    body = batches.decompress(
        batch[batches.HEADER_SIZE : info.length], compression, batches.DECOMPRESSED_MAX
    )
    table = array("i", bytes(4 * batches.RECORD_ROW * min(info.count, _ROWS)))
    at = 0
    while at < len(body):
        rows = batches.scan_records(body, at, len(body), table)
        for row in range(0, rows * batches.RECORD_ROW, batches.RECORD_ROW):
            delta = table[row + 8]
            if info.base_offset + table[row + 7] < start_offset:
                continue
            # A delta that does not fit the table is beyond any that does.
            if info.first_timestamp + delta >= wanted or delta == _CLIPPED:
                stamp = max(info.first_timestamp + delta, wanted)
                return info.base_offset + table[row + 7], stamp
        at = table[rows * batches.RECORD_ROW - 3]
    return None
