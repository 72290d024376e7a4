"""The control batch that ends a producer's transaction on a partition (KIP-98, "Control Messages").

One record: its key is (version i16 = 0, type i16: 0 ABORT, 1 COMMIT), its value (version i16 = 0,
coordinator epoch i32), both big-endian. The batch is transactional and control, has the producer's
id and epoch and no sequence. It takes an offset as records do; readers leave it out.
"""

from __future__ import annotations

import struct

from robustmq.core import batches
from robustmq.records import Record

_KEY = struct.Struct(">hh")
_VALUE = struct.Struct(">hi")
_ABORT, _COMMIT = 0, 1


def end_marker(
    producer_id: int, producer_epoch: int, coordinator_epoch: int, commit: bool, timestamp_ms: int
) -> bytes:
    """The batch of one marker."""
    record = Record(
        _KEY.pack(0, _COMMIT if commit else _ABORT), _VALUE.pack(0, coordinator_epoch), []
    )
    attributes = batches.TRANSACTIONAL | batches.CONTROL
    return batches.build([record], timestamp_ms, 0, attributes, producer_id, producer_epoch, -1)
