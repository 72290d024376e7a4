"""An operator sees which clients, and which of their topics, messages reach late."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from robustmq.cli.main import main
from robustmq.mqtt.packets import Ack, PacketType, Publish
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on, topic_on

WORKERS = 2
THRESHOLD_MS = 300
CONFIG = "[slow_subscriptions]\nenabled = true\nthreshold_ms = 300\n"
Rows = Callable[[], list[dict[str, object]]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), WORKERS, CONFIG) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


@pytest.fixture
def slow(broker: BrokerProcess, capsys: pytest.CaptureFixture[str]) -> Rows:
    where = ["--data-dir", str(broker.data)]
    assert main(["slow", "clear", *where]) == 0

    def rows() -> list[dict[str, object]]:
        capsys.readouterr()
        assert main(["slow", "list", "--json", *where]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return rows


def wait_ms(milliseconds: int) -> None:
    """Be slow: what is tested here."""
    deadline = time.monotonic() + milliseconds / 1000
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(left)


@pytest.mark.parametrize("home", range(WORKERS))
@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_that_acknowledges_late_is_listed_with_its_topic(
    broker: BrokerProcess, slow: Rows, home: int, qos: int
) -> None:
    name, topic = client_id_on(home, WORKERS), topic_on(1, WORKERS)
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        reader.connect(name)
        reader.subscribe(topic, qos=qos)
        writer.connect()
        writer.publish(topic, b"in time", 1)
        reader.receive()
        assert slow() == []
        writer.publish(topic, b"late", qos)
        packet = reader.expect(Publish)
        if qos == 2:
            reader.send(Ack(PacketType.PUBREC, packet.packet_id))
            reader.expect_ack(PacketType.PUBREL)
        wait_ms(2 * THRESHOLD_MS)
        kind = PacketType.PUBACK if qos == 1 else PacketType.PUBCOMP
        reader.send(Ack(kind, packet.packet_id))
        until(slow, what="the row")
        (row,) = slow()
        assert (row["client_id"], row["topic"]) == (name.decode(), topic.decode())
        assert (row["count"], row["worker"]) == (1, home)
        latency = row["latency_ms"]
        assert isinstance(latency, int) and 2 * THRESHOLD_MS <= latency < 10_000


def test_a_client_that_does_not_read_is_listed_while_it_does_not(
    broker: BrokerProcess, slow: Rows
) -> None:
    name, topic = client_id_on(0, WORKERS), topic_on(1, WORKERS)
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        reader.connect(name)
        reader.subscribe(topic)
        writer.connect()
        for _ in range(20):
            writer.publish(topic, bytes(1 << 20))
        writer.expect_nothing()
        until(slow, what="the row")
        (row,) = slow()
        assert (row["client_id"], row["topic"]) == (name.decode(), topic.decode())


def test_a_client_that_was_away_is_not_slow(broker: BrokerProcess, slow: Rows) -> None:
    name, topic = client_id_on(1, WORKERS), topic_on(0, WORKERS)
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        reader.connect(name, expiry=60)
        reader.subscribe(topic, qos=1)
        reader.disconnect()
        writer.connect()
        writer.publish(topic, b"kept", 1, retain=True)
        wait_ms(2 * THRESHOLD_MS)
        with Wire(broker.mqtt) as again:
            again.connect(name, clean_start=False, expiry=60)
            assert again.receive().payload == b"kept"
            again.subscribe(topic, qos=1)
            assert again.receive().retain
            again.expect_nothing()
        assert slow() == []


def test_measuring_can_be_ended_and_begun_while_the_broker_runs(
    broker: BrokerProcess, slow: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> int:
        return main(["slow", "list", "--data-dir", str(broker.data)])

    broker.config.write_text(CONFIG.replace("true", "false"))
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: listed() == 1, what="the end")
    assert "[slow_subscriptions]" in capsys.readouterr().err
    broker.config.write_text(CONFIG)
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: listed() == 0, what="the beginning")
