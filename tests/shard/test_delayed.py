"""Delayed publish: `$delayed/{seconds}/{topic}`, with publisher, owner and subscriber apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.mqtt.packets import Publish, Will
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on, resumed, topic_on

CONFIG = """
[limits]
max_delay_s = 1000
[[storage.rules]]
filter = "memory/#"
mode = "memory"
[[streams]]
filter = "gathered/+"
topic = "gathered"
partitions = 4
"""
QUOTA_EXCEEDED, TOPIC_NAME_INVALID, NOT_AUTHORIZED = 0x97, 0x90, 0x87


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("delayed")
    with BrokerProcess(directory, 2, CONFIG) as process:
        yield process
        assert "Traceback" not in process.log


def client(broker: BrokerProcess, worker: int = 0, version: int = 5) -> Wire:
    wire = Wire(broker.mqtt, version)
    assert wire.connect(client_id_on(worker, broker.workers)).reason_code == 0
    return wire


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("owner", [0, 1])
def test_a_delayed_message_comes_after_its_seconds(
    broker: BrokerProcess, qos: int, owner: int
) -> None:
    topic = topic_on(owner, 2)
    with client(broker, 0) as publisher, client(broker, 1) as subscriber:
        subscriber.subscribe(topic, qos=2)
        sent = time.monotonic()
        assert publisher.publish(b"$delayed/1/" + topic, b"later", qos, content_type="a") == 0
        publisher.publish(topic, b"now", qos)
        assert subscriber.receive().payload == b"now"
        packet = subscriber.receive()
        assert time.monotonic() - sent >= 1
        assert (packet.topic, packet.payload, packet.qos) == (topic, b"later", qos)
        assert packet.properties.content_type == "a"


def test_delayed_messages_come_in_the_order_of_their_times_and_then_of_their_arrival(
    broker: BrokerProcess,
) -> None:
    topic = topic_on(1, 2)
    with client(broker, 0) as publisher, client(broker, 0) as subscriber:
        subscriber.subscribe(topic, qos=1)
        for number in range(10):
            publisher.publish(b"$delayed/2/" + topic, b"b%d" % number, 1)
        for number in range(10):
            publisher.publish(b"$delayed/1/" + topic, b"a%d" % number, 1)
        got = [subscriber.receive().payload for _ in range(20)]
    assert got == [b"%c%d" % (kind, number) for kind in b"ab" for number in range(10)]


def test_a_delay_of_0_is_none(broker: BrokerProcess) -> None:
    topic = topic_on(0, 2)
    with client(broker) as one:
        one.subscribe(topic)
        one.publish(b"$delayed/0/" + topic, b"x", 1)
        assert one.receive(0.9).payload == b"x"


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        (b"$delayed/x/t", TOPIC_NAME_INVALID),
        (b"$delayed/-1/t", TOPIC_NAME_INVALID),
        (b"$delayed/5", TOPIC_NAME_INVALID),
        (b"$delayed/5/", TOPIC_NAME_INVALID),
        (b"$delayed//t", TOPIC_NAME_INVALID),
        (b"$delayed/5/$delayed/5/t", TOPIC_NAME_INVALID),
        (b"$delayed/1001/t", QUOTA_EXCEEDED),
        (b"$delayed/99999999999999999999/t", TOPIC_NAME_INVALID),
        (b"$delayed/5/$SYS/broker/version", NOT_AUTHORIZED),
    ],
)
@pytest.mark.parametrize("qos", [1, 2])
def test_a_delay_that_may_not_be_is_refused_with_its_reason(
    broker: BrokerProcess, topic: bytes, reason: int, qos: int
) -> None:
    with client(broker) as one, client(broker, version=4) as old:
        assert one.publish(topic, b"x", qos) == reason
        assert one.publish(b"fine", b"x", qos) in (0, 0x10)
        one.publish(topic, b"x")
        one.expect_nothing()
        if reason == NOT_AUTHORIZED:
            assert old.publish(topic, b"x", qos) == 0, "what is not allowed is dropped in 3.1.1"
            return
        old.send(Publish(topic, b"x", qos, packet_id=1))
        old.expect_end()


def test_a_delayed_message_that_is_refused_costs_its_neighbours_nothing(
    broker: BrokerProcess,
) -> None:
    with client(broker) as one:
        names = [b"a", b"$delayed/x/a", b"b", b"$delayed/1/a", b"$delayed/9999/a", b"c"]
        one.send(*(Publish(name, b"x", 1, packet_id=at + 1) for at, name in enumerate(names)))
        codes = [one.expect_ack(4, at + 1).reason_code for at in range(len(names))]
        assert codes == [0x00, TOPIC_NAME_INVALID, 0x00, 0x00, QUOTA_EXCEEDED, 0x00]


def test_the_delay_counts_against_the_message_expiry_interval(broker: BrokerProcess) -> None:
    topic = topic_on(1, 2)
    with client(broker) as one:
        one.subscribe(topic)
        one.publish(b"$delayed/1/" + topic, b"gone", 1, message_expiry_interval=1)
        one.publish(b"$delayed/2/" + topic, b"left", 1, message_expiry_interval=60)
        packet = one.receive()
    assert packet.payload == b"left"
    assert packet.properties.message_expiry_interval in (57, 58)


def test_a_delayed_message_is_retained_when_it_is_published(broker: BrokerProcess) -> None:
    topic = topic_on(1, 2)
    with client(broker) as one:
        one.publish(b"$delayed/1/" + topic, b"kept", 1, retain=True)
        one.subscribe(topic)
        one.expect_nothing()
        packet = one.receive()
        assert (packet.payload, packet.retain) == (b"kept", False)
        one.subscribe(topic)
        assert one.receive().retain


@pytest.mark.parametrize("name", [b"memory/%d", b"gathered/%d"])
def test_topics_in_memory_and_in_streams_have_delayed_messages_too(
    broker: BrokerProcess, name: bytes
) -> None:
    with client(broker, 0) as one:
        topics = [name % number for number in range(6)]
        one.subscribe(*topics, qos=1)
        for topic in topics:
            one.publish(b"$delayed/1/" + topic, topic, 1)
        assert sorted(one.receive().payload for _ in topics) == topics
        one.expect_nothing()
    until(lambda: broker.metric("robustmq_mqtt_delayed_messages") == 0)


def test_a_topic_that_is_declared_meanwhile_gets_its_delayed_messages(
    broker: BrokerProcess,
) -> None:
    names = [f"declared-{number}" for number in range(6)]
    with client(broker, 0) as one:
        one.subscribe(b"+", qos=1)
        for name in names:
            assert one.publish(b"$delayed/2/" + name.encode(), name.encode(), 1) == 0
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        for made in admin.create_topics([NewTopic(name, 5) for name in names]).values():
            made.result(10)
        assert sorted(one.receive().payload.decode() for _ in names) == names
        one.expect_nothing()
    until(lambda: broker.metric("robustmq_mqtt_delayed_messages") == 0)


def test_a_will_can_be_delayed_by_its_topic(broker: BrokerProcess) -> None:
    topic = topic_on(1, 2)
    with client(broker) as watcher, Wire(broker.mqtt) as dying:
        watcher.subscribe(topic)
        dying.connect(will=Will(b"$delayed/1/" + topic, b"over", 1, False))
        sent = time.monotonic()
        dying.drop()
        assert watcher.receive().payload == b"over"
        assert time.monotonic() - sent >= 1


def test_beyond_the_bound_the_next_is_refused_and_those_that_wait_come(tmp_path: Path) -> None:
    settings = {"LIMITS__MAX_DELAYED_MESSAGES": "3"}
    with BrokerProcess(tmp_path, 1, **settings) as small, client(small) as one:
        one.subscribe(b"t")
        for number in range(3):
            assert one.publish(b"$delayed/2/t", b"%d" % number, 1) == 0
        assert one.publish(b"$delayed/2/t", b"4", 1) == QUOTA_EXCEEDED
        assert one.publish(b"$delayed/2/t", b"5", 2) == QUOTA_EXCEEDED
        assert [one.receive().payload for _ in range(3)] == [b"0", b"1", b"2"]
        assert one.publish(b"$delayed/1/t", b"6", 1) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_survives_kill_9_and_comes_soon_when_it_was_due_meanwhile(
    tmp_path: Path, workers: int
) -> None:
    topics = [topic_on(at, 2) for at in range(4)]
    with BrokerProcess(tmp_path, workers) as mortal:
        with Wire(mortal.mqtt) as one:
            one.connect(b"s", expiry=3600)
            one.subscribe(*topics, qos=2)
            for number, topic in enumerate(topics * 5):
                delay = b"1" if number < 10 else b"6"
                name = b"$delayed/" + delay + b"/" + topic
                assert one.publish(name, b"%d" % number, 1 + number % 2) == 0
        mortal.kill()
        time.sleep(1.2)
        mortal.start()
        for worker in range(workers):
            mortal.kill_worker(worker)
        until(lambda: len(mortal.worker_pids()) == workers)
        with resumed(mortal.mqtt, b"s", expiry=3600) as one:
            got = sorted(int(one.receive().payload) for _ in range(20))
            assert got == list(range(20))
            one.expect_nothing()
        until(lambda: mortal.metric("robustmq_mqtt_delayed_messages") == 0)
