"""Who sends too fast is slowed down, and loses nothing: neither messages nor its connection."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from robustmq.mqtt import codec
from robustmq.mqtt.packets import PacketType, PingReq, PingResp, Publish
from tests.broker import BrokerProcess
from tests.mqtt.wire import Wire, client_id_on, topic_on

WORKERS = 2
RATE = 400
BURST = 40
SECONDS = 2.0
LISTENERS = """
[limits]
rate_burst_ms = 100

[[listener]]
name = "free"
port = 0

[[listener]]
name = "messages"
port = 0
messages_per_second = 400

[[listener]]
name = "bytes"
port = 0
bytes_per_second = 40000

[[listener]]
name = "total"
port = 0
total_messages_per_second = 400

[[listener]]
name = "slow"
port = 0
messages_per_second = 10
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), WORKERS, LISTENERS) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def publishes(topic: bytes, count: int, qos: int, size: int = 60) -> bytes:
    return b"".join(
        codec.encode(Publish(topic, b"x" * size, qos, packet_id=number + 1 if qos else 0), 5)
        for number in range(count)
    )


def rate_of(reader: Wire, count: int) -> float:
    """Messages a second, from the end of the first burst on."""
    for _ in range(2 * BURST):
        reader.expect(Publish)
    begin = time.monotonic()
    for _ in range(count - 2 * BURST):
        reader.expect(Publish)
    return (count - 2 * BURST) / (time.monotonic() - begin)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("home", range(WORKERS))
def test_messages_come_at_the_rate_of_the_listener_and_all_of_them_do(
    broker: BrokerProcess, qos: int, home: int
) -> None:
    count = int(RATE * SECONDS)
    topic = topic_on(1, WORKERS)
    with Wire(broker.listeners["free"]) as reader, Wire(broker.listeners["messages"]) as writer:
        reader.connect()
        reader.subscribe(topic)
        writer.connect(client_id_on(home, WORKERS))
        writer.send(publishes(topic, count, qos))
        rate = rate_of(reader, count)
        assert RATE * 0.7 < rate < RATE * 1.3
        if qos:
            kind = PacketType.PUBACK if qos == 1 else PacketType.PUBREC
            assert [writer.expect_ack(kind).packet_id for _ in range(count)] == [
                number + 1 for number in range(count)
            ]


def test_bytes_come_at_the_rate_of_the_listener(broker: BrokerProcess) -> None:
    topic = topic_on(0, WORKERS)
    size = 1000
    with Wire(broker.listeners["free"]) as reader, Wire(broker.listeners["bytes"]) as writer:
        reader.connect()
        reader.subscribe(topic)
        writer.connect(client_id_on(1, WORKERS))
        begin = time.monotonic()
        writer.send(publishes(topic, 100, 0, size))
        for _ in range(100):
            reader.expect(Publish)
        rate = 100 * (size + 10) / (time.monotonic() - begin)
        assert 28_000 < rate < 60_000


def test_clients_of_a_listener_share_its_total(broker: BrokerProcess) -> None:
    topic = topic_on(0, WORKERS)
    port = broker.listeners["total"]
    count = int(RATE * SECONDS / 2)
    with Wire(broker.listeners["free"]) as reader, Wire(port) as one, Wire(port) as two:
        reader.connect()
        reader.subscribe(topic)
        for writer in (one, two):
            # Both on one worker: a total is that of a worker.
            writer.connect(client_id_on(0, WORKERS))
        for writer in (one, two):
            writer.send(publishes(topic, count, 0))
        assert rate_of(reader, 2 * count) < RATE * 1.3


def test_a_client_that_is_not_read_is_not_silent_and_its_deliveries_go_on(
    broker: BrokerProcess,
) -> None:
    topic = topic_on(0, WORKERS)
    with Wire(broker.listeners["slow"]) as client, Wire(broker.listeners["free"]) as other:
        client.connect(client_id_on(0, WORKERS), keep_alive=1)
        client.subscribe(topic)
        other.connect()
        other.publish(topic, b"x")
        begin = time.monotonic()
        client.send(publishes(b"elsewhere", 40, 0, 1000), PingReq())
        # Its ping waits behind what it has sent, for more than twice its keep-alive.
        packet = client.read()
        while not isinstance(packet, PingResp):
            other.publish(topic, b"x")
            packet = client.read()
        assert time.monotonic() - begin > 3
