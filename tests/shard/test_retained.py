"""Retained messages: their bounds, their expiry, their count, and what Kafka does to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.core import batches
from robustmq.mqtt.packets import Publish, Will
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient
from tests.mqtt.wire import Wire, client_id_on, resumed, topic_on

QUOTA_EXCEEDED, RETAIN_NOT_SUPPORTED = 0x97, 0x9A


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    settings = {"MQTT__RETAINED_EXPIRY_S": "2", "MQTT__SYS_INTERVAL_S": "0"}
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, **settings) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def client(broker: BrokerProcess, worker: int = 0, version: int = 5) -> Wire:
    wire = Wire(broker.mqtt, version)
    assert wire.connect(client_id_on(worker, broker.workers)).reason_code == 0
    return wire


def retained(broker: BrokerProcess, *filters: bytes) -> dict[bytes, bytes]:
    """What a new subscription gets, by topic."""
    found: dict[bytes, bytes] = {}
    with resumed(broker.mqtt, client_id_on(1, broker.workers)) as wire:
        wire.subscribe(*filters)
        while True:
            try:
                packet = wire.receive(0.5)
            except TimeoutError:
                return found
            if packet.retain:
                found[packet.topic] = packet.payload


def counted(broker: BrokerProcess, number: int) -> None:
    until(lambda: broker.metric("robustmq_mqtt_retained_messages") == number, what="the count")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker that retains four messages of ten bytes."""
    settings = {
        "LIMITS__MAX_RETAINED_MESSAGES": "4",
        "LIMITS__MAX_RETAINED_PAYLOAD_BYTES": "10",
        "MQTT__SYS_INTERVAL_S": "0",
    }
    with BrokerProcess(tmp_path, 2, **settings) as process:
        yield process
        assert "Traceback" not in process.log


def test_a_full_store_refuses_new_topics_and_nothing_else(small: BrokerProcess) -> None:
    topics = [topic_on(at, 2) for at in (0, 1, 0, 1, 0, 1)]
    with client(small) as one, client(small, 1) as other, client(small, 1, 4) as old:
        other.subscribe(*topics, qos=1)
        for topic in topics[:4]:
            assert one.publish(topic, b"x", 1, retain=True) == 0
            other.receive()
        counted(small, 4)
        # The other worker's count is a second old at most.
        time.sleep(1.1)
        for qos in (1, 2):
            for topic in topics[4:]:
                assert one.publish(topic, b"y", qos, retain=True) == QUOTA_EXCEEDED
                one.publish(topic, b"y", 0, retain=True)
        packets = [(topics[4], True), (topics[5], False), (topics[0], True), (topics[5], True)]
        one.send(*(Publish(t, b"z", 1, r, packet_id=90 + n) for n, (t, r) in enumerate(packets)))
        codes = [one.expect_ack(4).reason_code for _ in packets]
        assert codes == [QUOTA_EXCEEDED, 0, 0, QUOTA_EXCEEDED]
        got = sorted((other.receive().topic, other.receive().topic))
        assert got == sorted((topics[5], topics[0]))
        assert one.publish(topics[0], b"x" * 11, 1, retain=True) == QUOTA_EXCEEDED
        assert one.publish(topics[0], b"x" * 11, 1) == 0
        other.receive()
        old.send(Publish(topics[4], b"y", 1, True, packet_id=1))
        old.expect_end()
        assert one.publish(topics[1], b"", 1, retain=True) == 0
        other.receive()
        until(lambda: one.publish(topics[4], b"y", 1, retain=True) == 0)
        other.receive()
        other.expect_nothing()
    assert small.metric("robustmq_mqtt_retained_refused_total") >= 12
    assert "no room for retained messages" in small.log


def test_the_count_is_exact_after_kill_9_and_a_restart(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, MQTT__SYS_INTERVAL_S="1") as mortal:
        with client(mortal) as one:
            for number in range(50):
                one.publish(b"r/%d" % number, b"x", 1, retain=True)
            for number in range(0, 50, 3):
                one.publish(b"r/%d" % number, b"y" if number % 2 else b"", 1, retain=True)
        mine = 50 - 9
        mortal.kill()
        mortal.start()
        assert len(retained(mortal, b"r/#")) == mine
        sys_topics = len(retained(mortal, b"$SYS/#"))
        with client(mortal) as one:
            one.subscribe(b"$SYS/broker/retained messages/count")
            until(lambda: int(one.receive().payload) >= mine + sys_topics)
        assert mortal.stop() == 0
        mortal.settings["MQTT__SYS_INTERVAL_S"] = "0"
        mortal.start()
        whole = len(retained(mortal, b"#", b"$SYS/#"))
        counted(mortal, whole)


def test_what_has_expired_is_removed_and_not_only_hidden(broker: BrokerProcess) -> None:
    topics = [topic_on(at, 2, "e") for at in range(4)]
    counted(broker, 0)
    with client(broker) as one:
        one.publish(topics[0], b"by the setting", 1, retain=True)
        one.publish(topics[1], b"soon", 1, retain=True, message_expiry_interval=1)
        one.publish(topics[2], b"late", 1, retain=True, message_expiry_interval=100)
        one.publish(topics[3], b"soon", 1, retain=True, message_expiry_interval=1)
        one.publish(topics[3], b"another", 1, retain=True, message_expiry_interval=100)
    assert set(retained(broker, *topics)) == set(topics)
    left = {topics[2]: b"late", topics[3]: b"another"}
    # Before the count: that is 2 as well when one worker has told its gauges and the other has not.
    until(lambda: retained(broker, *topics) == left, what="the end of two values")
    counted(broker, 2)
    with client(broker) as one:
        for topic in topics[2:]:
            one.publish(topic, b"", 1, retain=True)
    counted(broker, 0)


@pytest.mark.mqtt("MQTT-3.2.2-13", "MQTT-3.2.2-14")
def test_without_retain_available_a_client_is_told_and_ended(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 1, MQTT__RETAIN_AVAILABLE="false") as process:
        with Wire(process.mqtt) as one:
            assert one.connect().properties.retain_available == 0
            one.send(Publish(b"t", b"x", 1, True, packet_id=1))
            one.expect_end(RETAIN_NOT_SUPPORTED)
        with Wire(process.mqtt) as one:
            answer = one.connect(will=Will(b"t", b"x", 0, True))
            assert answer.reason_code == RETAIN_NOT_SUPPORTED
        with Wire(process.mqtt, 4) as old:
            old.connect()
            old.send(Publish(b"t", b"x", 0, True))
            old.expect_end()


@pytest.mark.parametrize("partition", [0, 1, 2, 3])
def test_kafka_sets_and_clears_the_retained_value_whatever_worker_keeps_it(
    broker: BrokerProcess, partition: int
) -> None:
    name = f"state-{partition}"
    server: dict[str, str | int | float | bool] = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}"}
    topic = NewTopic(name, 4, config={"cleanup.policy": "compact"})
    admin = AdminClient(server)
    for future in admin.create_topics([topic]).values():
        future.result(10)
    producer = Producer(server)

    def produce(value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        producer.produce(name, value, b"key", partition, headers=headers)  # type: ignore[arg-type]
        assert producer.flush(10) == 0

    produce(b"plain", [])
    assert retained(broker, name.encode()) == {}
    produce(b"kept", [("mqtt.retain", b"1"), ("mqtt.message-expiry", b"100")])
    assert retained(broker, name.encode()) == {name.encode(): b"kept"}
    broker.kill_worker(partition % 2)
    until(lambda: len(broker.worker_pids()) == 2 and broker.metric("robustmq_ready") == 2)
    assert retained(broker, name.encode()) == {name.encode(): b"kept"}
    produce(None, [])
    assert retained(broker, name.encode()) == {}


@pytest.mark.parametrize("first_timestamp", [2**63 - 1, 2**62, -(2**62)])
def test_a_kafka_record_of_no_possible_time_is_retained_and_does_not_age(
    broker: BrokerProcess, first_timestamp: int
) -> None:
    name = f"timeless-{first_timestamp}"
    headers: list[tuple[str, bytes | None]] = [("mqtt.retain", b"1"), ("mqtt.message-expiry", b"1")]
    records = [Record(None, b"%d" % number, headers, number * 5) for number in (0, 1)]
    batch = bytearray(batches.build(records, 0))
    batches.write_header(batch, 0, len(batch), 0, 2, first_timestamp, first_timestamp, -1, -1, -1)
    with client(broker) as maker, SocketClient(broker.kafka) as kafka:
        late = {"name": "message.timestamp.after.max.ms", "value": str(2**63 - 1)}
        topic = {"name": name, "num_partitions": 1, "replication_factor": 1, "configs": [late]}
        topic["assignments"] = []
        assert not kafka.ask(19, 5, topics=[topic], timeout_ms=5000).topics[0].error_code
        maker.publish(name.encode(), b"reaches the topic", 1)
        data = [{"name": name, "partition_data": [{"index": 0, "records": bytes(batch)}]}]
        answer = kafka.ask(0, 9, acks=-1, timeout_ms=5000, topic_data=data)
        assert answer.responses[0].partition_responses[0].error_code == 0
    time.sleep(1.1)
    assert retained(broker, name.encode()) == {name.encode(): b"1"}
    assert "Traceback" not in broker.log
