"""What a topic's settings ask of produced batches and make of them (KIP-32, KIP-467): time stamps,
compression, keys of a compacted topic.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import lz4.frame
import pytest

from robustmq.core import batches, recoding
from robustmq.records import Record
from tests.kafka.test_broker_records import fetch_request, produce
from tests.kafka.wire import SocketClient, new_topic, response_of

DAY_MS = 86_400_000
CODECS = ["gzip", "snappy", "lz4", "zstd"]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def topic_with(client: SocketClient, **configs: str) -> str:
    name = uuid.uuid4().hex
    rows = [{"name": key.replace("_", "."), "value": value} for key, value in configs.items()]
    topic = {**new_topic(name), "configs": rows}
    made = client.ask(19, 7, topics=[topic], timeout_ms=5000, validate_only=False)
    assert made.topics[0].error_code == 0, made.topics[0].error_message
    return name


def fetched(client: SocketClient, topic: str) -> bytes:
    answer = client.ask(1, 12, **fetch_request(topic))
    return b"".join(bytes(part) for part in answer.responses[0].partitions[0].records)


def records(*stamps: int, key: bytes | None = b"k") -> bytes:
    rows = [Record(key, b"%d" % number * 100, [], stamp) for number, stamp in enumerate(stamps)]
    return batches.build(rows, 0, producer_id=-1)


def test_the_time_of_the_append_is_given_to_all_records(client: SocketClient) -> None:
    topic = topic_with(client, message_timestamp_type="LogAppendTime")
    begin = now_ms()
    answer = produce(client, topic, records(1_000, 2_000))
    assert answer.error_code == 0 and begin <= answer.log_append_time_ms <= now_ms()
    stored = fetched(client, topic)
    info = batches.validate(stored, 0, len(stored))
    assert info.crc_ok and info.attributes & batches.LOG_APPEND_TIME
    assert info.max_timestamp == answer.log_append_time_ms
    assert {record.timestamp_ms for record in batches.parse(stored)} == {info.max_timestamp}


@pytest.mark.parametrize("stamp", [-3 * DAY_MS, 2 * DAY_MS], ids=["before", "after"])
def test_records_out_of_the_bounds_of_time_are_named(client: SocketClient, stamp: int) -> None:
    topic = topic_with(client, message_timestamp_before_max_ms=str(DAY_MS))
    now = now_ms()
    answer = produce(client, topic, records(now, now + stamp, now, now + stamp))
    assert answer.error_code == 32 and answer.base_offset == -1
    assert [row.batch_index for row in answer.record_errors] == [1, 3]
    assert produce(client, topic, records(now, now)).base_offset == 0, "nothing was written"


def test_a_record_without_key_is_not_for_a_compacted_topic(client: SocketClient) -> None:
    topic = topic_with(client, cleanup_policy="compact")
    answer = produce(client, topic, records(now_ms(), key=None))
    assert answer.error_code == 87
    assert [row.batch_index for row in answer.record_errors] == [0]
    assert produce(client, topic, records(now_ms())).error_code == 0


@pytest.mark.parametrize("sent", ["none", *CODECS])
def test_batches_get_the_compression_of_their_topic(client: SocketClient, sent: str) -> None:
    batch = bytes(recoding.recompress(records(*[now_ms()] * 50), recoding.CODECS[sent], 1 << 20))
    for wanted in ("producer", "uncompressed", *CODECS):
        topic = topic_with(client, compression_type=wanted)
        assert produce(client, topic, batch).error_code == 0
        stored = fetched(client, topic)
        codec = batches.validate(stored, 0, len(stored)).attributes & batches.COMPRESSION_MASK
        assert codec == recoding.CODECS[sent if wanted == "producer" else wanted]
        values = [record.value for record in batches.parse(stored)]
        assert values == [b"%d" % number * 100 for number in range(50)]


def test_a_batch_that_is_compressed_anew_is_not_overtaken(client: SocketClient) -> None:
    topic = topic_with(client, compression_type="gzip")
    body: dict[str, Any] = {"transactional_id": None, "acks": 1, "timeout_ms": 5000}
    for number in range(10):
        batch = records(*[now_ms()] * (1_000 if number % 2 else 1))
        part = {"index": 0, "records": batch}
        client.send(0, 9, **body, topic_data=[{"name": topic, "partition_data": [part]}])
    offsets = []
    for _ in range(10):
        frame = client.read_frame()
        assert frame is not None
        answer = response_of(0, 9, frame)
        offsets.append(answer.responses[0].partition_responses[0].base_offset)
    assert offsets == sorted(offsets) and offsets[0] == 0


@pytest.mark.parametrize(("linked", "code"), [(True, 87), (False, 0)])
def test_lz4_that_javas_client_cannot_read_is_refused(
    client: SocketClient, linked: bool, code: int
) -> None:
    name = uuid.uuid4().hex
    client.ask(19, 7, topics=[new_topic(name)], timeout_ms=5000, validate_only=False)
    plain = batches.build([Record(None, b"x" * 100_000, [], int(time.time() * 1000), 0)], 0)
    out = bytearray(plain[:61] + lz4.frame.compress(plain[61:], block_linked=linked))
    stamp = int.from_bytes(plain[27:35], "big")
    batches.write_header(out, 0, len(out), 3, 1, stamp, stamp, -1, -1, -1)
    topic = {"name": name, "partition_data": [{"index": 0, "records": bytes(out)}]}
    answer = client.ask(0, 9, acks=-1, timeout_ms=5000, topic_data=[topic])
    assert answer.responses[0].partition_responses[0].error_code == code
