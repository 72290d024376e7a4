"""Every bound of [limits] that a client can run into, on a real broker with small ones.

Each test goes to the bound, which is served, and one step beyond, which is refused with the
protocol's own word.
"""

from __future__ import annotations

import gzip
import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from robustmq.core import batches
from robustmq.mqtt.packets import (
    ConnAck,
    Connect,
    Properties,
    Publish,
    Subscribe,
    SubscriptionOptions,
    Unsubscribe,
    Will,
)
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient
from tests.mqtt.wire import Wire

LIMITS = {
    "MAX_PACKET_BYTES": 20_000,
    "MAX_CONNECT_BYTES": 4_096,
    "MAX_TOPIC_BYTES": 100,
    "MAX_TOPIC_LEVELS": 5,
    "MAX_CLIENT_ID_BYTES": 30,
    "MAX_USER_PROPERTIES": 3,
    "MAX_PROPERTIES_BYTES": 300,
    "MAX_FILTERS_PER_PACKET": 4,
    "MAX_SUBSCRIPTIONS": 5,
    "MAX_SESSION_EXPIRY_S": 100,
    "RECEIVE_MAXIMUM": 4,
    "MAX_INFLIGHT": 3,
    "TOPIC_ALIAS_MAXIMUM": 2,
    "MAX_QUEUED_MESSAGES": 10,
    "MAX_QUEUED_BYTES": 50_000,
    "MAX_OUTBOUND_BYTES": 65_536,
    "KEEP_ALIVE_MAXIMUM_S": 50,
    "CONNECT_TIMEOUT_MS": 1_000,
    "MAX_REQUEST_BYTES": 100_000,
    "MAX_MESSAGE_BYTES": 20_000,
    "MAX_ARRAY_LENGTH": 16,
    "MAX_DECOMPRESSED_BYTES": 30_000,
    "MAX_FETCH_BYTES": 5_000,
    "MAX_REQUESTS_IN_FLIGHT": 2,
    "MAX_PARTITIONS": 3,
    "MAX_DECLARED_TOPICS": 2,
}

TOO_LARGE, QUOTA, FILTER_INVALID, TOPIC_INVALID = 0x95, 0x97, 0x8F, 0x90


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker with small bounds."""
    settings = {f"LIMITS__{name}": str(value) for name, value in LIMITS.items()}
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, **settings) as process:
        yield process
        assert "Traceback" not in process.log


Open = Callable[..., Wire]


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Open]:
    """Makes connected clients."""
    with ExitStack() as stack:

        def make(name: bytes = b"", version: int = 5, **options: Any) -> Wire:
            wire = stack.enter_context(Wire(broker.mqtt, version))
            assert wire.connect(name, **options).reason_code == 0
            return wire

        yield make


@pytest.fixture
def kafka(broker: BrokerProcess) -> Iterator[SocketClient]:
    """A Kafka connection."""
    with SocketClient(broker.kafka) as connection:
        yield connection


# -- MQTT packets ----------------------------------------------------------------------------------


def test_a_packet_of_the_bound_passes_and_a_larger_one_ends_the_connection(client: Open) -> None:
    wire = client()
    head = len(b"\x30\x9f\x9c\x01" + b"\0\x01t" + b"\0")
    wire.subscribe(b"t")
    wire.publish(b"t", bytes(20_000 - head))
    assert len(wire.receive().payload) == 20_000 - head
    wire.publish(b"t", bytes(20_000 - head + 1))
    wire.expect_end(TOO_LARGE)


def ended(sock: socket.socket) -> bool:
    """Read to the end of a connection; True."""
    try:
        while sock.recv(65_536):
            continue
    except ConnectionResetError:
        return True
    return True


def test_before_connect_is_accepted_no_more_than_its_bound_is_read(broker: BrokerProcess) -> None:
    with Wire(broker.mqtt) as wire:
        # CONNECT says that it is a byte larger than the bound.
        wire.send(b"\x10\xfe\x1f\x00\x04MQTT\x05\x02\0\0\0\0\x01c" + bytes(2_000))
        assert ended(wire.socket)
    with Wire(broker.mqtt) as wire:
        # Behind a CONNECT comes more than is read before it is accepted: none of it is lost.
        wire.send(
            Connect(5, b"eager", True, 0, None, None, None, Properties()),
            *(Publish(b"t", bytes(15_000), 1, packet_id=n) for n in range(1, 5)),
        )
        wire.expect(ConnAck)
        for number in range(1, 5):
            wire.expect_ack(4, number)


@pytest.mark.parametrize("version", [4, 5])
def test_a_will_that_makes_connect_too_large_is_refused(
    broker: BrokerProcess, version: int
) -> None:
    with Wire(broker.mqtt, version) as wire:
        wire.send(Connect(version, b"c", True, 0, Will(b"w", bytes(5_000))))
        assert ended(wire.socket)


def test_topics_have_a_length_and_a_depth(client: Open, broker: BrokerProcess) -> None:
    for topic in (b"x" * 100, b"a/b/c/d/e"):
        assert client().publish(topic, b"", 1) == 0
    for topic in (b"x" * 101, b"a/b/c/d/e/f"):
        wire = client()
        wire.send(Publish(topic, b"", 1, packet_id=1))
        wire.expect_end(TOPIC_INVALID)
        with Wire(broker.mqtt) as other:
            assert other.connect(will=Will(topic, b"w")).reason_code == TOPIC_INVALID
    wire = client()
    assert wire.subscribe(b"x" * 100, b"a/b/c/d/+", b"x" * 101, b"+/b/c/d/e/f") == (
        0,
        0,
        FILTER_INVALID,
        FILTER_INVALID,
    )


def test_properties_have_a_number_and_a_size(client: Open) -> None:
    three = (("k", "v"),) * 3
    assert client().publish(b"t", b"", 1, user_properties=three) == 0
    assert client().publish(b"t", b"", 1, user_properties=(("k", "v" * 290),)) == 0
    for qos in (0, 1, 2):
        wire = client()
        wire.send(
            Publish(
                b"t",
                b"",
                qos,
                packet_id=qos and 1,
                properties=Properties(user_properties=(*three, ("k", "v"))),
            )
        )
        wire.expect_end(0x82)
        wire = client()
        wire.send(
            Publish(
                b"t",
                b"",
                qos,
                packet_id=qos and 1,
                properties=Properties(user_properties=(("k", "v" * 300),)),
            )
        )
        wire.expect_end(TOO_LARGE)
    wire = client()
    wire.send(
        Subscribe(
            1, ((b"t", SubscriptionOptions()),), Properties(user_properties=(*three, ("k", "v")))
        )
    )
    wire.expect_end(0x82)


def test_a_client_id_has_a_length(broker: BrokerProcess, client: Open) -> None:
    client(b"x" * 30)
    with Wire(broker.mqtt) as wire:
        assert wire.connect(b"x" * 31).reason_code == 0x85


def test_a_packet_names_so_many_filters(client: Open) -> None:
    wire = client()
    assert wire.subscribe(b"1", b"2", b"3", b"4") == (0, 0, 0, 0)
    assert wire.unsubscribe(b"1", b"2", b"3", b"4") == (0, 0, 0, 0)
    wire.send(Unsubscribe(7, (b"1", b"2", b"3", b"4", b"5")))
    wire.expect_end(QUOTA)
    wire = client()
    wire.send(Subscribe(7, tuple((b"%d" % n, SubscriptionOptions()) for n in range(5))))
    wire.expect_end(QUOTA)


def test_a_session_has_so_many_subscriptions(client: Open) -> None:
    wire = client()
    assert wire.subscribe(b"1", b"2", b"3", b"4") == (0, 0, 0, 0)
    assert wire.subscribe(b"5", b"6") == (0, QUOTA)
    assert wire.subscribe(b"5") == (0,), "one that is there is no new one"


def test_connack_says_what_the_bounds_are(broker: BrokerProcess) -> None:
    with Wire(broker.mqtt) as wire:
        told = wire.connect(keep_alive=100, expiry=1000).properties
        assert told.maximum_packet_size == 20_000
        assert told.receive_maximum == 4
        assert told.topic_alias_maximum == 2
        assert told.server_keep_alive == 50
        assert told.session_expiry_interval == 100


def test_a_topic_alias_has_a_bound(client: Open) -> None:
    wire = client()
    wire.publish(b"t", b"", 0, topic_alias=2)
    wire.expect_nothing()
    wire.publish(b"t", b"", 0, topic_alias=3)
    wire.expect_end(0x94)


def test_a_client_has_so_many_unacknowledged_messages_either_way(client: Open) -> None:
    wire = client()
    wire.send(*(Publish(b"t", b"", 2, packet_id=n) for n in range(1, 5)))
    for number in range(1, 5):
        wire.expect_ack(5, number)
    wire.send(Publish(b"t", b"", 2, packet_id=5))
    wire.expect_end(0x93)
    reader, writer = client(), client()
    reader.subscribe(b"inflight", qos=1)
    for number in range(5):
        writer.publish(b"inflight", b"%d" % number, 1)
    for number in range(3):
        assert reader.expect(Publish).payload == b"%d" % number
    reader.expect_nothing()


@pytest.mark.parametrize(("payload", "kept"), [(b"x", 10), (bytes(15_000), 3)])
def test_what_waits_for_a_session_is_bounded_in_messages_and_bytes(
    client: Open, broker: BrokerProcess, payload: bytes, kept: int
) -> None:
    name = b"away-%d" % kept
    client(name, expiry=60).subscribe(name, qos=1)
    client(name, expiry=60, clean_start=False).disconnect()
    writer = client()
    for _ in range(15):
        assert writer.publish(name, payload, 1) == 0
    reader = client(name, expiry=60, clean_start=False)
    for _ in range(kept):
        assert reader.receive().payload == payload
    reader.expect_nothing()


# -- connections -----------------------------------------------------------------------------------


def test_a_connection_that_does_not_finish_its_connect_is_closed(broker: BrokerProcess) -> None:
    with ExitStack() as stack:
        began = time.monotonic()
        sockets = []
        for sent in (b"", b"\x10", b"\x10\x20\x00\x04MQ") * 50:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", broker.mqtt), 10))
            sock.sendall(sent)
            sockets.append(sock)
        assert all(ended(sock) for sock in sockets)
        assert 0.5 < time.monotonic() - began < 6


# -- Kafka -----------------------------------------------------------------------------------------


def test_a_request_has_a_size(broker: BrokerProcess, kafka: SocketClient) -> None:
    assert kafka.ask(18, 3, client_software_name="c", client_software_version="1").error_code == 0
    kafka.socket.sendall(struct.pack(">i", 100_001) + bytes(10))
    assert kafka.read_frame() is None


def test_an_array_has_a_length(broker: BrokerProcess, kafka: SocketClient) -> None:
    topics = [{"name": f"unknown-{n}"} for n in range(16)]
    answer = kafka.ask(3, 9, topics=topics, allow_auto_topic_creation=False)
    assert len(answer.topics) == 16
    kafka.send(3, 9, topics=[*topics, {"name": "one"}], allow_auto_topic_creation=False)
    assert kafka.read_frame() is None


def produce(kafka: SocketClient, topic: str, records: bytes) -> int:
    """Produce to partition 0; the error code."""
    data = [{"name": topic, "partition_data": [{"index": 0, "records": records}]}]
    answer = kafka.ask(0, 9, acks=-1, timeout_ms=1000, topic_data=data)
    return int(answer.responses[0].partition_responses[0].error_code)


def compressed(size: int) -> bytes:
    """A batch of one record that is so large when it is opened."""
    plain = batches.build([Record(None, bytes(size))], 0)
    out = bytearray(plain[:61] + gzip.compress(plain[61:]))
    batches.write_header(out, 0, len(out), 1, 1, 0, 0, -1, -1, -1)
    return bytes(out)


def test_batches_and_answers_have_sizes(client: Open, kafka: SocketClient) -> None:
    client().publish(b"sizes", b"made", 1)
    assert produce(kafka, "sizes", batches.build([Record(None, bytes(19_000))], 0)) == 0
    assert produce(kafka, "sizes", batches.build([Record(None, bytes(20_001))], 0)) == 10
    assert produce(kafka, "sizes", compressed(29_000)) == 0
    assert produce(kafka, "sizes", compressed(31_000)) == 87
    for _ in range(5):
        assert produce(kafka, "sizes", batches.build([Record(None, bytes(2_000))], 0)) == 0
    partition = {
        "partition": 0,
        "fetch_offset": 3,
        "partition_max_bytes": 1 << 30,
        "current_leader_epoch": -1,
    }
    topics = [{"topic": "sizes", "partitions": [partition]}]
    answer = kafka.ask(1, 11, max_wait_ms=0, min_bytes=1, max_bytes=1 << 30, topics=topics)
    size = sum(len(part) for part in answer.responses[0].partitions[0].records)
    assert 2_000 < size <= 5_000


def test_a_connection_has_so_many_requests_in_flight(client: Open, kafka: SocketClient) -> None:
    client().publish(b"flight", b"made", 1)
    partition = {
        "partition": 0,
        "fetch_offset": 1,
        "partition_max_bytes": 1000,
        "current_leader_epoch": -1,
    }
    topics = [{"topic": "flight", "partitions": [partition]}]
    began = time.monotonic()
    for _ in range(4):
        kafka.send(1, 11, max_wait_ms=400, min_bytes=1, max_bytes=1000, topics=topics)
    for _ in range(4):
        assert kafka.read_frame() is not None
    assert time.monotonic() - began > 0.7, "two wait at a time"


def test_declared_topics_and_their_partitions_have_a_number(kafka: SocketClient) -> None:
    def create(name: str, partitions: int) -> int:
        topic = {"name": name, "num_partitions": partitions, "replication_factor": 1}
        answer = kafka.ask(19, 5, topics=[topic], timeout_ms=5000)
        return int(answer.topics[0].error_code)

    assert create("declared-1", 3) == 0
    assert create("declared-2", 4) == 37
    assert create("declared-2", 1) == 0
    assert create("declared-3", 1) == 44


# -- slow and hasty clients ------------------------------------------------------------------------


def test_a_subscriber_that_stops_reading_costs_the_others_nothing_and_little_memory(
    broker: BrokerProcess, client: Open
) -> None:
    stuck, quick, writer = client(), client(), client()
    for wire in (stuck, quick):
        wire.subscribe(b"flood")
    before = resident(broker)
    payload = bytes(10_000)
    for number in range(3_000):
        sent = time.monotonic()
        writer.publish(b"flood", b"%d " % number + payload)
        assert quick.receive().payload.startswith(b"%d " % number)
        assert time.monotonic() - sent < 2
    assert resident(broker) - before < 24 << 20
    dropped = 0.0

    def counted() -> bool:
        nonlocal dropped
        dropped = metric(broker, "robustmq_mqtt_messages_dropped_total")
        return dropped > 1_000

    until(counted, 5, f"the count of dropped messages, {dropped}")


def test_a_client_that_asks_and_does_not_read_is_not_read_either(
    broker: BrokerProcess, client: Open
) -> None:
    wire = client()
    before = resident(broker)
    pings = b"\xc0\x00" * 32_768
    wire.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        wire.socket.sendall(pings * 8192)
    assert resident(broker) - before < 24 << 20
    assert client().publish(b"t", b"", 1) == 0


def resident(broker: BrokerProcess) -> int:
    """Resident bytes of all workers."""
    return sum(psutil.Process(pid).memory_info().rss for pid in broker.worker_pids())


def metric(broker: BrokerProcess, name: str) -> float:
    """A metric over all workers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))
