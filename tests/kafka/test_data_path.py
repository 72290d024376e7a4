"""Produce, Fetch and ListOffsets through raw frames: the codes and rules of kafka_behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from robustmq.core import batches
from robustmq.errors import BrokerError
from robustmq.kafka.fetch import COLD_WAIT_MS
from robustmq.records import Record
from tests.kafka.fake_gateway import FakeGateway
from tests.kafka.wire import Client, batch

PRODUCE, FETCH, LIST_OFFSETS = 0, 1, 2
GOOD = batch(b"one", b"two")
WITH_HEADER = batches.build([Record(b"k", b"v", [("name", b"value")], 1, 0)], 1)


@pytest.fixture
def client() -> Client:
    gateway = FakeGateway()
    gateway.add(b"t", 2, True, {})
    return Client(gateway)


def produce(client: Client, records: bytes | None, acks: int = -1, partition: int = 0) -> Any:
    answer = client.ask(
        PRODUCE,
        9,
        transactional_id=None,
        acks=acks,
        timeout_ms=1000,
        topic_data=[{"name": "t", "partition_data": [{"index": partition, "records": records}]}],
    )
    return answer.responses[0].partition_responses[0]


def size_of(part: Any) -> int:
    """Bytes of the records of a partition's answer."""
    return sum(map(len, part.records or []))


def patched(source: bytes, at: int, value: bytes) -> bytes:
    changed = bytearray(source)
    changed[at : at + len(value)] = value
    from robustmq.core.memory import checksum

    changed[17:21] = (checksum(changed, 21, len(changed)) & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (None, 87),
        (b"", 87),
        (GOOD + GOOD, 87),
        (GOOD[:-1], 87),
        (GOOD[:16] + b"\x01" + GOOD[17:], 87),
        (GOOD[:-1] + b"x", 2),
        (patched(GOOD, 21, b"\0\x05"), -1),
        (patched(GOOD, 21, b"\0\x10"), 87),
        (patched(GOOD, 43, bytes(8)), 87),
        (batches.build([Record(None, b"v")], 1, 0, batches.TRANSACTIONAL, 5, 0, 0), 53),
        (patched(GOOD, 21, b"\0\x20"), 87),
        (patched(GOOD, 21, b"\0\x01"), 87),
        (patched(GOOD, 57, b"\0\0\0\x03"), 87),
        (patched(GOOD, 23, b"\0\0\0\x05"), 87),
        (patched(GOOD, 61, b"\x7f"), 87),
        (patched(WITH_HEADER, WITH_HEADER.index(b"name") - 1, b"\x7e"), 87),
        (patched(WITH_HEADER, WITH_HEADER.index(b"name") - 1, b"\x01"), 87),
        (patched(WITH_HEADER, WITH_HEADER.index(b"name") - 2, b"\x04"), 87),
        (patched(WITH_HEADER, WITH_HEADER.index(b"name") - 2, b"\x00"), 87),
    ],
)
def test_bad_records_are_refused_before_anything_is_written(
    client: Client, records: bytes | None, code: int
) -> None:
    assert produce(client, records).error_code == code
    assert produce(client, GOOD).base_offset == 0


def test_a_good_batch_gets_its_offset(client: Client) -> None:
    produce(client, GOOD)
    answer = produce(client, batch(b"three"))
    assert (answer.error_code, answer.base_offset) == (0, 2)
    assert (answer.log_append_time_ms, answer.log_start_offset) == (-1, 0)


def test_acks_two_and_an_unknown_partition(client: Client) -> None:
    assert produce(client, GOOD, acks=2).error_code == 21
    assert produce(client, GOOD, partition=7).error_code == 3


def test_acks_zero_has_no_answer_and_an_error_closes(client: Client) -> None:
    def send(partition: int) -> Any:
        data = [{"index": partition, "records": GOOD}]
        topics = [{"name": "t", "partition_data": data}]
        return client.send(
            PRODUCE, 9, transactional_id=None, acks=0, timeout_ms=1, topic_data=topics
        )

    assert send(0).result() is None
    with pytest.raises(BrokerError):
        send(7).result()


def test_an_idempotent_batch_sent_again_gets_its_first_answer(client: Client) -> None:
    first = batch(b"a", producer_id=5, producer_epoch=0, base_sequence=0)
    assert produce(client, first).base_offset == 0
    again = produce(client, first)
    assert (again.error_code, again.base_offset) == (0, 0)
    assert again.log_append_time_ms >= 0
    gap = batch(b"a", producer_id=5, producer_epoch=0, base_sequence=9)
    assert produce(client, gap).error_code == 45


def test_topic_ids_from_version_13(client: Client) -> None:
    topic_id = client.gateway.topics[b"t"].topic_id  # type: ignore[attr-defined]
    data = [{"index": 0, "records": GOOD}]
    for wanted, code in ((topic_id, 0), (type(topic_id)(int=999), 100)):
        answer = client.ask(
            PRODUCE,
            13,
            transactional_id=None,
            acks=1,
            timeout_ms=1,
            topic_data=[{"topic_id": wanted, "partition_data": data}],
        )
        assert answer.responses[0].partition_responses[0].error_code == code


def fetching(offset: int, **more: Any) -> dict[str, Any]:
    part = {
        "partition": 0,
        "fetch_offset": offset,
        "partition_max_bytes": more.pop("partition_max_bytes", 1 << 20),
        "current_leader_epoch": more.pop("leader_epoch", -1),
    }
    fields = {"max_wait_ms": 700, "min_bytes": 1, "max_bytes": 1 << 20, "session_epoch": -1}
    return {**fields, "topics": [{"topic": "t", "partitions": [part]}], **more}


def test_fetch_gives_whole_batches_however_small_the_bound(client: Client) -> None:
    produce(client, GOOD)
    answer = client.ask(FETCH, 11, **fetching(1, max_bytes=1, partition_max_bytes=1))
    part = answer.responses[0].partitions[0]
    assert b"".join(part.records)[61:] == GOOD[61:]
    assert (part.high_watermark, part.last_stable_offset) == (2, 2)


def test_an_offset_out_of_range_is_answered_at_once(client: Client) -> None:
    part = client.ask(FETCH, 11, **fetching(9)).responses[0].partitions[0]
    assert part.error_code == 1
    assert (part.high_watermark, part.last_stable_offset, part.log_start_offset) == (-1, -1, -1)


def test_a_newer_epoch_is_75_and_an_unknown_partition_3(client: Client) -> None:
    assert (
        client.ask(FETCH, 12, **fetching(0, leader_epoch=4)).responses[0].partitions[0].error_code
        == 75
    )
    asked = fetching(0)
    asked["topics"][0]["topic"] = "other"
    assert client.ask(FETCH, 12, **asked).responses[0].partitions[0].error_code == 3


def test_at_the_end_a_fetch_is_parked_until_an_append(client: Client) -> None:
    promise = client.send(FETCH, 11, **fetching(0))
    assert not promise.settled
    produce(client, GOOD)
    answer = client.read(FETCH, 11, promise)
    assert answer.responses[0].partitions[0].records


def test_at_the_end_a_fetch_is_parked_until_its_time(client: Client) -> None:
    gateway: Any = client.gateway
    promise = client.send(FETCH, 11, **fetching(0))
    settled = []
    promise.when_settled(lambda: settled.append(gateway.now_ms()))
    gateway.pass_time(699)
    assert not settled
    gateway.pass_time(1)
    assert settled == [gateway.now_ms()]
    assert client.ask(FETCH, 11, **fetching(0, min_bytes=0))


@pytest.mark.parametrize("max_wait_ms", [0, 700])
def test_what_is_in_the_object_store_is_waited_for(client: Client, max_wait_ms: int) -> None:
    gateway: Any = client.gateway
    produce(client, GOOD)
    gateway.away.add((b"t", 0))
    promise = client.send(FETCH, 11, **fetching(0, max_wait_ms=max_wait_ms, min_bytes=0))
    gateway.pass_time(400)
    assert not promise.settled
    gateway.bring(b"t", 0)
    assert client.read(FETCH, 11, promise).responses[0].partitions[0].records


def test_a_fetch_does_not_wait_for_the_object_store_longer_than_its_time(client: Client) -> None:
    gateway: Any = client.gateway
    produce(client, GOOD)
    gateway.away.add((b"t", 0))
    promise = client.send(FETCH, 11, **fetching(0, max_wait_ms=10))
    gateway.pass_time(COLD_WAIT_MS - 1)
    assert not promise.settled
    gateway.pass_time(1)
    part = client.read(FETCH, 11, promise).responses[0].partitions[0]
    assert (part.error_code, size_of(part), part.high_watermark) == (0, 0, 2)


def test_records_that_are_at_hand_do_not_wait_for_those_in_the_object_store(
    client: Client,
) -> None:
    gateway: Any = client.gateway
    produce(client, GOOD)
    produce(client, GOOD, partition=1)
    gateway.away.add((b"t", 0))
    asked = fetching(0)
    asked["topics"][0]["partitions"].append({**asked["topics"][0]["partitions"][0], "partition": 1})
    cold, hot = client.ask(FETCH, 11, **asked).responses[0].partitions
    assert (cold.error_code, size_of(cold)) == (0, 0)
    assert size_of(hot)


def test_min_bytes_waits_for_more_than_one_append(client: Client) -> None:
    promise = client.send(FETCH, 11, **fetching(0, min_bytes=len(GOOD) + 1))
    produce(client, GOOD)
    assert not promise.settled
    produce(client, GOOD)
    assert promise.settled


def test_a_session_tells_only_what_is_new(client: Client) -> None:
    opened = client.ask(FETCH, 11, **fetching(0, min_bytes=0, session_epoch=0))
    assert opened.session_id == 100
    quiet = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "topics": []}
    answer = client.ask(FETCH, 11, session_id=100, session_epoch=1, **quiet)
    assert (answer.session_id, answer.responses) == (100, [])
    produce(client, GOOD)
    answer = client.ask(FETCH, 11, session_id=100, session_epoch=2, **quiet)
    assert answer.responses[0].partitions[0].records
    assert client.ask(FETCH, 11, session_id=100, session_epoch=2, **quiet).error_code == 71
    assert client.ask(FETCH, 11, session_id=9, session_epoch=2, **quiet).error_code == 70


def test_a_fetch_by_topic_id(client: Client) -> None:
    produce(client, GOOD)
    topic_id = client.gateway.topics[b"t"].topic_id  # type: ignore[attr-defined]
    asked = fetching(0)
    asked["topics"][0].pop("topic")
    for wanted, code in ((topic_id, 0), (type(topic_id)(int=999), 100)):
        asked["topics"][0]["topic_id"] = wanted
        topic = client.ask(FETCH, 13, **asked).responses[0]
        assert (topic.topic_id, topic.partitions[0].error_code) == (wanted, code)


@pytest.mark.parametrize(
    ("version", "timestamp", "error", "offset"),
    [
        (6, -1, 0, 2),
        (6, -2, 0, 0),
        (6, -3, 35, -1),
        (8, -4, 0, 0),
        (7, -4, 35, -1),
        (9, -5, 0, -1),
        (9, -6, 35, -1),
    ],
)
def test_list_offsets_knows_the_special_times(
    client: Client, version: int, timestamp: int, error: int, offset: int
) -> None:
    produce(client, GOOD)
    part = {"partition_index": 0, "current_leader_epoch": -1, "timestamp": timestamp}
    topics = [{"name": "t", "partitions": [part, part]}]
    answer = client.ask(LIST_OFFSETS, version, isolation_level=0, topics=topics)
    first, second = answer.topics[0].partitions
    assert (first.error_code, first.offset) == (error, offset)
    assert second.error_code == 42
