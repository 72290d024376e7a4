"""Produce, Fetch and ListOffsets of a real broker answer raw frames as Apache Kafka does."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from robustmq.core import batches
from robustmq.core.memory import checksum
from robustmq.records import Record
from tests.broker import BrokerProcess
from tests.kafka.wire import SocketClient, batch

PRODUCE, FETCH, LIST_OFFSETS, INIT_PRODUCER_ID = 0, 1, 2, 22
NO_TOPIC = "no.such.topic"


def patched(source: bytes, at: int, value: bytes) -> bytes:
    """A batch with other bytes and the right CRC."""
    changed = bytearray(source)
    changed[at : at + len(value)] = value
    changed[17:21] = (checksum(changed, 21, len(changed)) & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)


def produce_request(topic: str, records: bytes | None, acks: int, partition: int) -> dict[str, Any]:
    return {
        "transactional_id": None,
        "acks": acks,
        "timeout_ms": 5000,
        "topic_data": [
            {"name": topic, "partition_data": [{"index": partition, "records": records}]}
        ],
    }


def produce(
    client: SocketClient, topic: str, records: bytes | None, acks: int = -1, partition: int = 0
) -> Any:
    answer = client.ask(PRODUCE, 9, **produce_request(topic, records, acks, partition))
    return answer.responses[0].partition_responses[0]


def fetch_request(topic: str, offset: int = 0, **changes: Any) -> dict[str, Any]:
    place = {
        "partition": 0,
        "fetch_offset": offset,
        "partition_max_bytes": 1 << 20,
        "current_leader_epoch": changes.pop("epoch", -1),
    }
    return {
        "max_wait_ms": 0,
        "min_bytes": 1,
        "max_bytes": 1 << 20,
        "session_epoch": -1,
        "topics": [{"topic": topic, "partitions": [place]}],
        **changes,
    }


def fetch(client: SocketClient, topic: str, offset: int = 0, **changes: Any) -> Any:
    answer = client.ask(FETCH, 11, **fetch_request(topic, offset, **changes))
    return answer.responses[0].partitions[0]


def bytes_of(part: Any) -> bytes:
    return b"".join(bytes(buffer) for buffer in part.records or [])


def list_offset(
    client: SocketClient, topic: str, timestamp: int, epoch: int = -1, version: int = 9
) -> Any:
    place = {"partition_index": 0, "timestamp": timestamp, "current_leader_epoch": epoch}
    topics = [{"name": topic, "partitions": [place]}]
    answer = client.ask(LIST_OFFSETS, version, replica_id=-1, topics=topics)
    return answer.topics[0].partitions[0]


# Produce


def test_a_good_batch_gets_its_base_offset(client: SocketClient, topic: str) -> None:
    for expected in (0, 2):
        answer = produce(client, topic, batch(b"a", b"b"))
        assert answer.error_code == 0
        assert answer.base_offset == expected
        assert answer.log_append_time_ms == -1
        assert answer.log_start_offset == 0


GOOD = batch(b"one", b"two")
MAGIC_1 = GOOD[:16] + b"\x01" + GOOD[17:]


@pytest.mark.parametrize(
    ("records", "code"),
    [
        pytest.param(GOOD[:-1] + b"x", 2, id="bad crc"),
        pytest.param(b"", 87, id="empty"),
        pytest.param(None, 87, id="null"),
        pytest.param(GOOD + GOOD, 87, id="two batches"),
        pytest.param(MAGIC_1, 87, id="magic 1"),
        pytest.param(patched(GOOD, 21, b"\0\x05"), -1, id="unknown compression"),
        pytest.param(patched(GOOD, 21, b"\0\x20"), 87, id="control batch"),
        pytest.param(patched(GOOD, 21, b"\0\x01"), 87, id="not gzip"),
        pytest.param(patched(GOOD, 57, b"\0\0\0\x03"), 87, id="wrong count"),
        pytest.param(patched(GOOD, 57, b"\x7f\xff\xff\xff"), 87, id="huge count"),
        pytest.param(patched(GOOD, 23, b"\0\0\0\x05"), 87, id="wrong last offset"),
    ],
)
def test_bad_records_are_refused_and_nothing_is_written(
    client: SocketClient, topic: str, records: bytes | None, code: int
) -> None:
    assert produce(client, topic, records).error_code == code
    assert produce(client, topic, GOOD).base_offset == 0


def test_acks_that_do_not_exist_are_21(client: SocketClient, topic: str) -> None:
    assert produce(client, topic, GOOD, acks=2).error_code == 21
    assert produce(client, topic, GOOD).base_offset == 0


def test_acks_0_has_no_answer_and_the_next_request_has_one(
    client: SocketClient, topic: str
) -> None:
    client.send(PRODUCE, 9, **produce_request(topic, GOOD, 0, 0))
    assert produce(client, topic, GOOD).base_offset == 2


def test_acks_0_with_an_error_closes_the_connection(client: SocketClient, topic: str) -> None:
    client.send(PRODUCE, 9, **produce_request(topic, GOOD, 0, 7))
    assert client.read_frame() is None


@pytest.mark.parametrize("partition", [1, -1])
def test_an_unknown_partition_is_3(client: SocketClient, topic: str, partition: int) -> None:
    assert produce(client, topic, GOOD, partition=partition).error_code == 3
    assert produce(client, NO_TOPIC, GOOD).error_code == 3


def sequenced(first: int, producer_id: int, epoch: int = 0, count: int = 1) -> bytes:
    return batch(
        *[b"x"] * count, producer_id=producer_id, producer_epoch=epoch, base_sequence=first
    )


def new_producer(client: SocketClient) -> int:
    answer = client.ask(INIT_PRODUCER_ID, 4, transactional_id=None, transaction_timeout_ms=0)
    assert answer.producer_epoch == 0
    return int(answer.producer_id)


def test_an_idempotent_batch_sent_again_gets_its_first_offset(
    client: SocketClient, topic: str
) -> None:
    producer = new_producer(client)
    for sequence in range(6):
        assert produce(client, topic, sequenced(sequence, producer)).base_offset == sequence
    for sequence in range(1, 6):
        again = produce(client, topic, sequenced(sequence, producer))
        assert (again.error_code, again.base_offset) == (0, sequence)
        assert again.log_append_time_ms >= 0
    assert produce(client, topic, sequenced(0, producer)).error_code == 45
    assert produce(client, topic, sequenced(6, producer)).base_offset == 6


def test_a_gap_is_45_and_epochs_are_fenced(client: SocketClient, topic: str) -> None:
    producer = new_producer(client)
    assert produce(client, topic, sequenced(0, producer)).base_offset == 0
    assert produce(client, topic, sequenced(2, producer)).error_code == 45
    assert produce(client, topic, sequenced(1, producer, epoch=1)).error_code == 45
    assert produce(client, topic, sequenced(0, producer, epoch=1)).base_offset == 1
    assert produce(client, topic, sequenced(1, producer)).error_code == 47
    assert produce(client, topic, sequenced(1, producer, epoch=1)).base_offset == 2


def test_a_producer_without_state_may_begin_anywhere(client: SocketClient, topic: str) -> None:
    producer = new_producer(client)
    assert produce(client, topic, sequenced(41, producer)).base_offset == 0
    assert produce(client, topic, sequenced(42, producer)).base_offset == 1


def test_sequences_wrap_behind_the_greatest_int(client: SocketClient, topic: str) -> None:
    producer = new_producer(client)
    last = (1 << 31) - 1
    assert produce(client, topic, sequenced(last - 1, producer, count=4)).base_offset == 0
    assert produce(client, topic, sequenced(2, producer)).base_offset == 4


# ListOffsets


@pytest.fixture
def timed(client: SocketClient, topic: str) -> str:
    """Records with the times 1000, 1005 and 1003, then 1001."""
    for times in ((1000, 1005, 1003), (1001,)):
        records = [Record(None, b"v", [], timestamp, 0) for timestamp in times]
        assert produce(client, topic, batches.build(records, 0)).error_code == 0
    return topic


@pytest.mark.parametrize(
    ("timestamp", "offset", "found"),
    [
        (-1, 4, -1),
        (-2, 0, -1),
        (-4, 0, -1),
        (-3, 1, 1005),
        (-5, -1, -1),
        (0, 0, 1000),
        (1001, 1, 1005),
        (1005, 1, 1005),
        (1006, -1, -1),
    ],
)
def test_list_offsets_finds_the_ends_and_times(
    client: SocketClient, timed: str, timestamp: int, offset: int, found: int
) -> None:
    answer = list_offset(client, timed, timestamp)
    assert (answer.error_code, answer.offset, answer.timestamp) == (0, offset, found)
    assert (answer.leader_epoch >= 0) == (offset >= 0)


def test_list_offsets_of_what_is_not_there(client: SocketClient, topic: str) -> None:
    assert list_offset(client, topic, -3, version=6).error_code == 35
    assert list_offset(client, NO_TOPIC, -1).error_code == 3
    epoch = list_offset(client, topic, -1).leader_epoch
    assert list_offset(client, topic, -1, epoch=epoch).error_code == 0
    assert list_offset(client, topic, -1, epoch=epoch + 1).error_code == 75
    assert list_offset(client, topic, -1, epoch=epoch - 1).error_code == 74


# Fetch


def test_a_fetch_in_the_middle_of_a_batch_gives_the_whole_batch(
    client: SocketClient, topic: str
) -> None:
    produce(client, topic, batch(b"a", b"b", b"c"))
    part = fetch(client, topic, 1)
    assert (part.high_watermark, part.last_stable_offset, part.log_start_offset) == (3, 3, 0)
    found = batches.parse(bytes_of(part))
    assert [(record.offset, record.value) for record in found] == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_the_first_batch_comes_whole_however_small_the_bound(
    client: SocketClient, topic: str
) -> None:
    for _ in range(3):
        produce(client, topic, batch(b"x" * 1000))
    size = len(batch(b"x" * 1000))
    assert len(bytes_of(fetch(client, topic, max_bytes=1))) == size
    assert len(bytes_of(fetch(client, topic, max_bytes=2 * size))) == 2 * size
    assert len(bytes_of(fetch(client, topic, max_bytes=2 * size + 1))) == 2 * size


@pytest.mark.parametrize("offset", [5, -1])
def test_an_offset_out_of_range_is_1_at_once(client: SocketClient, topic: str, offset: int) -> None:
    produce(client, topic, batch(b"a"))
    began = time.monotonic()
    part = fetch(client, topic, offset, max_wait_ms=5000)
    assert time.monotonic() - began < 2
    assert part.error_code == 1
    assert (part.high_watermark, part.last_stable_offset, part.log_start_offset) == (-1, -1, -1)


def test_at_the_end_a_fetch_waits_for_its_time(client: SocketClient, topic: str) -> None:
    produce(client, topic, batch(b"a"))
    began = time.monotonic()
    part = fetch(client, topic, 1, max_wait_ms=700)
    assert 0.65 < time.monotonic() - began < 2
    assert (part.error_code, bytes_of(part), part.high_watermark) == (0, b"", 1)
    began = time.monotonic()
    assert fetch(client, topic, 1, max_wait_ms=5000, min_bytes=0).error_code == 0
    assert time.monotonic() - began < 2


def test_a_waiting_fetch_is_woken_by_an_append(
    broker: BrokerProcess, client: SocketClient, topic: str
) -> None:
    client.send(FETCH, 11, **fetch_request(topic, 0, max_wait_ms=8000))
    with SocketClient(broker.kafka) as other:
        began = time.monotonic()
        assert produce(other, topic, batch(b"late")).error_code == 0
        answer = client.read(FETCH, 11)
    assert time.monotonic() - began < 4
    assert batches.parse(bytes_of(answer.responses[0].partitions[0]))[0].value == b"late"


def test_min_bytes_waits_for_enough(
    broker: BrokerProcess, client: SocketClient, topic: str
) -> None:
    size = len(batch(b"x" * 100))
    client.send(FETCH, 11, **fetch_request(topic, 0, max_wait_ms=8000, min_bytes=size + 1))
    with SocketClient(broker.kafka) as other:
        produce(other, topic, batch(b"x" * 100))
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        produce(other, topic, batch(b"x" * 100))
    answer = client.read(FETCH, 11)
    assert len(bytes_of(answer.responses[0].partitions[0])) == 2 * size


def test_the_epoch_of_a_fetch_is_checked(client: SocketClient, topic: str) -> None:
    epoch = list_offset(client, topic, -1).leader_epoch
    assert fetch(client, topic, epoch=epoch).error_code == 0
    assert fetch(client, topic, epoch=epoch + 1).error_code == 75
    assert fetch(client, topic, epoch=epoch - 1).error_code == 74
    assert fetch(client, NO_TOPIC).error_code == 3


def test_a_session_tells_only_what_is_new(client: SocketClient, topic: str) -> None:
    opened = client.ask(FETCH, 11, **fetch_request(topic, 0, session_epoch=0))
    session = opened.session_id
    assert session > 0
    assert len(opened.responses) == 1
    quiet = {"session_id": session, "topics": []}
    assert client.ask(FETCH, 11, **fetch_request(topic, session_epoch=1, **quiet)).responses == []
    produce(client, topic, batch(b"a"))
    news = client.ask(FETCH, 11, **fetch_request(topic, session_epoch=2, **quiet))
    assert bytes_of(news.responses[0].partitions[0])
    stale = client.ask(FETCH, 11, **fetch_request(topic, session_epoch=2, **quiet))
    assert (stale.error_code, stale.responses) == (71, [])
    other = fetch_request(topic, session_id=session + 99, session_epoch=1)
    unknown = client.ask(FETCH, 11, **other)
    assert unknown.error_code == 70


def test_a_fetch_that_forgets_its_connection_costs_the_others_nothing(
    broker: BrokerProcess, client: SocketClient, topic: str
) -> None:
    for _ in range(20):
        with SocketClient(broker.kafka) as gone:
            gone.send(FETCH, 11, **fetch_request(topic, 0, max_wait_ms=30_000))
    assert produce(client, topic, batch(b"a")).base_offset == 0
    assert bytes_of(fetch(client, topic))


# Frames


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(struct.pack(">hhih", 0, 99, 1, -1), id="unknown version"),
        pytest.param(struct.pack(">hhih", 999, 0, 1, -1), id="unknown API"),
        pytest.param(struct.pack(">hhih", 4, 0, 1, -1), id="an API between brokers"),
        pytest.param(struct.pack(">hhih", 3, 1, 1, -1) + b"\x7f\xff\xff\xff", id="huge array"),
        pytest.param(struct.pack(">hhih", 3, 1, 1, 9) + b"short", id="client id cut short"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_cannot_be_answered_closes_its_connection_alone(
    broker: BrokerProcess, client: SocketClient, frame: bytes
) -> None:
    with SocketClient(broker.kafka) as bad:
        bad.send_frame(frame)
        assert bad.read_frame() is None
    assert client.ask(18, 0).error_code == 0


@pytest.mark.parametrize(
    "sent", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_frame_closes_its_connection(broker: BrokerProcess, sent: bytes) -> None:
    with SocketClient(broker.kafka) as bad:
        bad.socket.sendall(sent)
        assert bad.read_frame() is None


def test_api_versions_of_an_unknown_version_is_answered_in_version_0(client: SocketClient) -> None:
    client.send_frame(struct.pack(">hhih", 18, 99, 7, -1))
    data = client.read_frame()
    assert data is not None
    assert data == struct.pack(">ihi3h", 7, 35, 1, 18, 0, 4)
    assert client.ask(18, 4, client_software_name="a", client_software_version="1").error_code == 0
    assert client.ask(18, 3, client_software_name="-", client_software_version="1").error_code == 42


def test_pipelined_requests_are_answered_in_their_order(client: SocketClient, topic: str) -> None:
    client.send(FETCH, 11, **fetch_request(topic, 0, max_wait_ms=500))
    for _ in range(5):
        client.send(PRODUCE, 9, **produce_request(topic, GOOD, -1, 0))
    seen = []
    for _ in range(6):
        data = client.read_frame()
        assert data is not None
        seen.append(int.from_bytes(data[:4], "big"))
    assert seen == sorted(seen)
