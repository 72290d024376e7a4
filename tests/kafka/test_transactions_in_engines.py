"""What a reader of committed transactions is told of a partition, whatever keeps it: segments, the
log of the shard, RocksDB, memory; and of a light topic."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from robustmq.core import batches
from robustmq.records import Record
from tests.broker import until
from tests.kafka.test_broker_partition_transactions import LIST_OFFSETS, Source, data, fetch
from tests.kafka.wire import SocketClient, new_topic

DELETE = 21
LATEST, EARLIEST, GREATEST = -1, -2, -3
PLACES = {
    "segment": {"robustmq.storage.engine": "segment"},
    "shared": {"robustmq.storage.engine": "shared"},
    "rocksdb": {"robustmq.storage.engine": "rocksdb"},
    "memory": {"robustmq.storage.mode": "memory"},
}


@pytest.fixture(params=[*PLACES, "light"])
def kept(request: pytest.FixtureRequest, client: SocketClient) -> Source:
    name = uuid.uuid4().hex
    if request.param != "light":
        # The records of these tests are of 1970.
        changes = {"retention.ms": "-1", **PLACES[request.param]}
        configs = [{"name": one, "value": value} for one, value in changes.items()]
        lasting = new_topic(name, configs=configs)
        made = client.ask(19, 7, topics=[lasting], timeout_ms=5000, validate_only=False)
        assert made.topics[0].error_code == 0
    else:
        client.ask(3, 8, topics=[{"name": name}], allow_auto_topic_creation=True)
    return Source(client, name)


def listed(source: Source, timestamp_ms: int, isolation: int) -> tuple[int, int]:
    """An offset and its time stamp, as ListOffsets says."""
    row = {"partition_index": 0, "timestamp": timestamp_ms}
    answer = source.client.ask(
        LIST_OFFSETS,
        7,
        replica_id=-1,
        isolation_level=isolation,
        topics=[{"name": source.topic, "partitions": [row]}],
    )
    (part,) = answer.topics[0].partitions
    assert part.error_code == 0
    return part.offset, part.timestamp


def delete_before(source: Source, offset: int) -> int:
    answer = source.client.ask(
        DELETE,
        2,
        topics=[{"name": source.topic, "partitions": [{"partition_index": 0, "offset": offset}]}],
        timeout_ms=5000,
    )
    (part,) = answer.topics[0].partitions
    assert part.error_code == 0
    low: int = part.low_watermark
    return low


def plain(source: Source, timestamp_ms: int) -> int:
    part: Any = source.produce(
        batches.build([Record(None, b"v", timestamp_ms=timestamp_ms)], timestamp_ms),
        transactional_id=None,
    )
    assert part.error_code == 0
    offset: int = part.base_offset
    return offset


def test_nobody_is_sent_below_the_start_by_a_transaction_that_began_there(kept: Source) -> None:
    for sequence in range(3):
        kept.write(sequence)
    plain(kept, 5)
    assert [listed(kept, LATEST, isolation)[0] for isolation in (0, 1)] == [4, 0]
    assert delete_before(kept, 2) == 2
    assert listed(kept, EARLIEST, 1)[0] == 2
    assert listed(kept, LATEST, 1)[0] == 2
    part = fetch(kept.client, kept.topic, 2, 1)
    assert (part.last_stable_offset, part.high_watermark, data(part)) == (2, 4, b"")
    kept.end(True)
    until(lambda: listed(kept, LATEST, 1)[0] == 5, 10)
    assert data(fetch(kept.client, kept.topic, 2, 1))


def test_times_are_of_what_is_stable(kept: Source) -> None:
    plain(kept, 1_000)
    kept.write()
    plain(kept, 3_000)
    assert listed(kept, GREATEST, 0) == (2, 3_000)
    assert listed(kept, 2_000, 0) == (2, 3_000)
    assert listed(kept, 2_000, 1) == (-1, -1)
    assert listed(kept, 500, 1) == (0, 1_000)
    kept.end(True)
    until(lambda: listed(kept, 2_000, 1) == (2, 3_000), 10)
