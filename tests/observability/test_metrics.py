"""What an operator sees of a running broker: /metrics, /health and $SYS."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from robustmq import __version__
from robustmq.mqtt.packets import Publish
from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient
from tests.mqtt.wire import Wire, client_id_on, topic_on

WORKERS = 2


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker of two workers that publishes $SYS each second."""
    directory = tmp_path_factory.mktemp("broker")
    with BrokerProcess(directory, WORKERS, MQTT__SYS_INTERVAL_S="1") as process:
        yield process


def get(broker: BrokerProcess, path: str) -> tuple[int, str]:
    """Status and body; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{broker.metrics}{path}", timeout=5
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def value(broker: BrokerProcess, metric: str, **labels: str) -> dict[str, float]:
    """A metric by worker."""
    found: dict[str, float] = {}
    for line in get(broker, "/metrics")[1].splitlines():
        name, _, rest = line.partition("{")
        if name == metric and all(f'{key}="{wanted}"' in rest for key, wanted in labels.items()):
            worker = rest.partition('worker="')[2].partition('"')[0]
            found[worker] = float(line.rsplit(" ", 1)[1])
    return found


def total(broker: BrokerProcess, metric: str, **labels: str) -> float:
    """A metric over all workers."""
    return sum(value(broker, metric, **labels).values())


def test_a_message_is_counted_at_the_worker_that_handles_it(broker: BrokerProcess) -> None:
    before = {
        name: total(broker, *row[:1], **row[1])
        for name, row in {
            "in": ("robustmq_messages_total", {"protocol": "mqtt", "direction": "in"}),
            "out": ("robustmq_messages_total", {"protocol": "mqtt", "direction": "out"}),
            "kafka": ("robustmq_messages_total", {"protocol": "kafka", "direction": "out"}),
            "bytes": ("robustmq_bytes_total", {"protocol": "mqtt", "direction": "in"}),
        }.items()
    }
    topic = topic_on(1, WORKERS)
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        reader.connect(client_id_on(0, WORKERS))
        reader.subscribe(topic, qos=1)
        writer.connect(client_id_on(1, WORKERS))
        for number in range(10):
            writer.publish(topic, b"%d" % number, number % 3)
            reader.receive()
        until(
            lambda: value(broker, "robustmq_connections", protocol="mqtt") == {"0": 1, "1": 1},
            5,
            "the gauge of connections",
        )
        assert total(broker, "robustmq_mqtt_subscriptions") == 1
    labels = {"protocol": "mqtt", "direction": "in"}
    until(
        lambda: total(broker, "robustmq_messages_total", **labels) >= before["in"] + 10,
        5,
        "the messages that came in",
    )
    assert total(broker, "robustmq_messages_total", protocol="mqtt", direction="out") >= (
        before["out"] + 10
    )
    assert total(broker, "robustmq_bytes_total", protocol="mqtt", direction="in") > before["bytes"]
    with SocketClient(broker.kafka) as client:
        partition = {
            "partition": 0,
            "fetch_offset": 0,
            "partition_max_bytes": 1 << 20,
            "current_leader_epoch": -1,
        }
        wanted = [{"topic": topic.decode().replace("/", "."), "partitions": [partition]}]
        client.ask(1, 12, max_wait_ms=100, min_bytes=1, max_bytes=1 << 20, topics=wanted)
        assert total(broker, "robustmq_messages_total", protocol="kafka", direction="out") == (
            before["kafka"] + 10
        )
        assert total(broker, "robustmq_connections", protocol="kafka") == 1
    assert value(broker, "robustmq_shards") == {"0": 8, "1": 8}
    assert total(broker, "robustmq_topics") >= 1
    assert total(broker, "robustmq_storage_commits_total") > 0
    assert all(size > 1 << 20 for size in value(broker, "robustmq_worker_resident_bytes").values())


def test_what_waits_for_a_client_is_shown(broker: BrokerProcess) -> None:
    topic = topic_on(0, WORKERS)
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        name = client_id_on(1, WORKERS)
        reader.connect(name, expiry=60)
        reader.subscribe(topic, b"$share/g/" + topic, qos=1)
        until(lambda: total(broker, "robustmq_mqtt_shared_subscriptions") == 1, 5, "the share")
        reader.disconnect()
        writer.connect(client_id_on(0, WORKERS))
        for _ in range(5):
            writer.publish(topic, bytes(1000), 1)
        until(lambda: total(broker, "robustmq_mqtt_queued_messages") >= 5, 5, "the queue")
        assert total(broker, "robustmq_mqtt_queued_bytes") >= 5000
    with Wire(broker.mqtt) as reader:
        reader.connect(name, clean_start=True)
        until(lambda: not total(broker, "robustmq_mqtt_queued_messages"), 5, "the end of the queue")


def test_refused_and_faulty_clients_are_counted(broker: BrokerProcess) -> None:
    faults = total(broker, "robustmq_protocol_errors_total", protocol="mqtt")
    with Wire(broker.mqtt) as client:
        client.connect(b"faulty")
        client.send(b"\x3e\x00")
        client.expect_end(0x81)
    assert total(broker, "robustmq_protocol_errors_total", protocol="mqtt") == faults + 1
    with Wire(broker.mqtt) as client:
        assert client.connect(b"x" * 2000).reason_code == 0x85
    assert total(broker, "robustmq_mqtt_connect_refused_total") >= 1
    with Wire(broker.mqtt) as first, Wire(broker.mqtt) as second:
        first.connect(b"twice")
        second.connect(b"twice")
        first.expect_end(0x8E)
    assert total(broker, "robustmq_protocol_errors_total", protocol="mqtt") == faults + 2
    assert total(broker, "robustmq_mqtt_takeovers_total") >= 1


def test_sys_topics_tell_what_goes_on(broker: BrokerProcess) -> None:
    with Wire(broker.mqtt) as watcher:
        watcher.connect(b"watcher")
        watcher.subscribe(b"$SYS/broker/#")
        seen: dict[bytes, bytes] = {}

        def told(topic: bytes, payload: bytes) -> bool:
            packet = watcher.read()
            assert isinstance(packet, Publish)
            seen[packet.topic] = packet.payload
            return seen.get(b"$SYS/broker/" + topic) == payload

        until(lambda: told(b"clients/connected", b"1"), 10, "the number of clients")
        until(lambda: told(b"version", b"robustmq version " + __version__.encode()), 10, "version")
        until(lambda: b"$SYS/broker/uptime" in seen or told(b"uptime", b""), 10, "uptime")
        assert seen[b"$SYS/broker/uptime"].endswith(b" seconds")
        until(lambda: b"$SYS/broker/load/publish/sent/1min" in seen or told(b"", b""), 10, "loads")
        sent = b"$SYS/broker/publish/messages/sent"
        until(lambda: int(seen.get(sent, b"0")) > 20 or told(b"", b""), 10, "messages sent")


def test_ready_turns_false_while_a_worker_is_down_and_live_stays_true(
    broker: BrokerProcess,
) -> None:
    assert get(broker, "/health/ready") == (200, "ready\n")
    worker = broker.worker_pids()[1]
    os.kill(worker, signal.SIGKILL)
    until(lambda: get(broker, "/health/ready")[0] == 503, 5, "not ready")
    assert get(broker, "/health/live")[0] == 200
    until(lambda: get(broker, "/health/ready")[0] == 200, 20, "ready again")
    assert value(broker, "robustmq_worker_starts_total") == {"0": 1, "1": 2}
    assert total(broker, "robustmq_messages_total", protocol="mqtt", direction="in") > 0
