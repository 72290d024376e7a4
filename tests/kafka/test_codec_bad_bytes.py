"""Bytes that a peer made up: the codec answers with a struct or with MALFORMED_PACKET, never with
anything else, and never makes more than the bytes can hold.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import Any

import pytest

from robustmq.errors import BrokerError, Fault
from robustmq.kafka import codec, messages
from robustmq.kafka.apis import APIS

PRODUCE, FETCH, METADATA, SYNC_GROUP = 0, 1, 3, 14
CASES = [
    (api.key, version)
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
]


def samples() -> list[tuple[int, int, bytes]]:
    """A request of several levels for each header kind."""
    part = messages.PartitionProduceData(index=1, records=b"\x07" * 70)
    topic = messages.TopicProduceData(name="t", partition_data=[part, part])
    produce = messages.ProduceRequest(acks=-1, timeout_ms=9, topic_data=[topic])
    wanted = messages.FetchPartition(partition=1, fetch_offset=2, partition_max_bytes=3)
    fetch = messages.FetchRequest(
        topics=[messages.FetchTopic(topic="t", partitions=[wanted])],
        cluster_id="c",
        replica_state=messages.ReplicaState(replica_id=4),
    )
    metadata = messages.MetadataRequest(topics=[messages.MetadataRequestTopic(name="größe")])
    rows: list[tuple[int, Any]] = [(PRODUCE, produce), (FETCH, fetch), (METADATA, metadata)]
    found = []
    for key, request in rows:
        api = APIS[key]
        for version in range(api.min_version, api.max_version + 1):
            body = b"".join(codec.encode_request(key, version, request))
            found.append((key, version, body))
    return found


def decode_or_refuse(key: int, version: int, body: bytes) -> Any:
    try:
        return codec.decode_request(key, version, body, 0)
    except BrokerError as error:
        assert error.fault is Fault.MALFORMED_PACKET
        return None


@pytest.mark.parametrize(("key", "version"), CASES)
def test_random_bytes_are_read_or_refused(key: int, version: int) -> None:
    chance = random.Random(key * 100 + version)
    for _ in range(60):
        body = chance.randbytes(chance.randrange(0, 60))
        decode_or_refuse(key, version, body)
        decode_or_refuse(key, version, bytes(byte & 3 for byte in body))


@pytest.mark.parametrize(("key", "version", "body"), samples())
def test_a_message_cut_anywhere_is_refused(key: int, version: int, body: bytes) -> None:
    assert decode_or_refuse(key, version, body) is not None
    for end in range(len(body)):
        assert decode_or_refuse(key, version, body[:end]) is None, end


@pytest.mark.parametrize(("key", "version", "body"), samples())
def test_a_changed_byte_is_read_or_refused(key: int, version: int, body: bytes) -> None:
    chance = random.Random(version)
    for at in range(len(body)):
        for value in (0, 0x7F, 0x80, 0xFF, chance.randrange(256)):
            decode_or_refuse(key, version, body[:at] + bytes((value,)) + body[at + 1 :])


@pytest.mark.parametrize(
    ("version", "body"),
    [(1, b"\x7f\xff\xff\xff"), (12, b"\xff\xff\xff\xff\x0f"), (12, b"\x80" * 6)],
)
def test_an_array_longer_than_its_message_costs_nothing(version: int, body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(BrokerError) as caught:
        codec.decode_request(METADATA, version, body + b"\0" * 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.fault is Fault.MALFORMED_PACKET
    assert peak < 300_000


def test_null_where_it_may_not_stand_is_refused() -> None:
    assert decode_or_refuse(SYNC_GROUP, 0, b"\xff\xff" + b"\0" * 20) is None
    assert codec.decode_request(METADATA, 1, b"\xff\xff\xff\xff").topics is None
    assert decode_or_refuse(METADATA, 0, b"\xff\xff\xff\xff") is None


def test_unknown_tagged_fields_are_skipped() -> None:
    body = b"".join(codec.encode_request(METADATA, 12, messages.MetadataRequest(topics=[])))
    assert body.endswith(b"\0")
    unknown = body[:-1] + b"\x02\x07\x03abc\xff\x01\x01x"
    assert codec.decode_request(METADATA, 12, unknown).topics == []
    assert decode_or_refuse(METADATA, 12, unknown[:-1]) is None


def test_a_known_tagged_field_is_as_long_as_it_says() -> None:
    body = b"".join(codec.encode_request(FETCH, 12, messages.FetchRequest(cluster_id="ab")))
    assert body.endswith(b"\x01\x00\x03\x03ab")
    assert codec.decode_request(FETCH, 12, body).cluster_id == "ab"
    assert decode_or_refuse(FETCH, 12, body[:-4] + b"\x04\x03abc") is None


def test_records_are_not_copied() -> None:
    body = memoryview(samples()[0][2])
    request = codec.decode_request(PRODUCE, 3, body)
    records = request.topic_data[0].partition_data[0].records
    assert records.obj is body.obj
    buffers = [memoryview(b"one"), b"two"]
    answer = messages.FetchResponse(
        responses=[
            messages.FetchableTopicResponse(partitions=[messages.PartitionData(records=buffers)])
        ]
    )
    written = codec.encode_response(FETCH, 12, answer)
    assert [id(buffer) for buffer in written[1:3]] == [id(buffer) for buffer in buffers]
    back = codec.decode_response(FETCH, 12, b"".join(written))
    assert b"".join(back.responses[0].partitions[0].records) == b"onetwo"


def test_what_a_version_does_not_have_is_left_out() -> None:
    request = messages.FetchRequest(rack_id="rack", session_id=5)
    old = codec.decode_request(FETCH, 4, b"".join(codec.encode_request(FETCH, 4, request)))
    assert (old.rack_id, old.session_id, old.session_epoch) == ("", 0, -1)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\0\x03\0\x01\0\0\0",
        struct.pack(">hhih", 3, 1, 1, 5) + b"abcd",
        struct.pack(">hhih", 3, 1, 1, 1) + b"\xff",
        struct.pack(">hhih", 3, 9, 1, -1),
        struct.pack(">hhih", 3, 9, 1, -1) + b"\x01\x00\x05",
    ],
)
def test_a_bad_request_header_is_refused(header: bytes) -> None:
    with pytest.raises(BrokerError) as caught:
        codec.decode_header(header)
    assert caught.value.fault is Fault.MALFORMED_PACKET


def test_the_header_of_an_unknown_version_is_read_as_far_as_it_is_known() -> None:
    header = codec.decode_header(struct.pack(">hhih", 18, 99, 6, -1))
    assert (header.api_version, header.correlation_id, header.client_id) == (99, 6, None)
