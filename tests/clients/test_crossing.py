"""One message in both protocols: names, properties and headers, retained values, streams."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Iterator
from typing import Any

import confluent_kafka
import kafka
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from robustmq import names
from tests.broker import BrokerProcess

STREAMS = """
[[streams]]
filter = "sensors/+/temp"
topic = "sensors-temp"
partitions = 6
"""


@pytest.fixture(scope="module", params=[1, 2], ids=["1worker", "2workers"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("crossing")
    with BrokerProcess(directory, request.param, STREAMS) as running:
        yield running


class Mqtt:
    """An MQTT 5.0 client whose messages wait in a queue; a context manager."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._subscribed: queue.Queue[object] = queue.Queue()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, uuid.uuid4().hex, protocol=paho.MQTTv5
        )
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_subscribe = lambda client, data, mid, codes, properties: (
            self._subscribed.put(codes)
        )
        self.client.connect("127.0.0.1", broker.mqtt)
        self.client.loop_start()

    def __enter__(self) -> Mqtt:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, filter_: str) -> None:
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        self.client.subscribe(filter_, options=options)
        self._subscribed.get(timeout=10)

    def publish(
        self, topic: str, payload: bytes, retain: bool = False, properties: Any = None
    ) -> None:
        info = self.client.publish(topic, payload, 1, retain, properties)
        info.wait_for_publish(10)
        assert info.is_published()

    def next(self) -> paho.MQTTMessage:
        return self.messages.get(timeout=10)

    def retained(self, topic: str) -> bytes | None:
        """What a new subscription is sent: the retained value, or a marker that came later."""
        self.subscribe(topic)
        self.publish(topic, b"marker")
        message = self.next()
        if not message.retain or message.payload == b"marker":
            return None
        assert self.next().payload == b"marker"
        return bytes(message.payload)


def address(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.kafka}"


def records(broker: BrokerProcess, topic: str, count: int) -> list[confluent_kafka.Message]:
    """The first records of a topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": address(broker), "group.id": uuid.uuid4().hex})
    found = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, index, 0) for index in found])
    read: list[confluent_kafka.Message] = []
    while len(read) < count:
        message = consumer.poll(10)
        assert message is not None and message.error() is None
        read.append(message)
    consumer.close()
    return read


def produce(broker: BrokerProcess, topic: str, value: bytes | None, **rest: Any) -> None:
    failed: list[object] = []
    producer = confluent_kafka.Producer({"bootstrap.servers": address(broker)})
    producer.produce(topic, value, on_delivery=lambda error, message: failed.append(error), **rest)
    assert producer.flush(20) == 0
    assert failed == [None]


def create(broker: BrokerProcess, topic: str, partitions: int = 1, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": address(broker)})
    settings = {name.replace("_", "."): value for name, value in config.items()}
    admin.create_topics([NewTopic(topic, partitions, config=settings)])[topic].result(10)


def properties_of_a_message() -> Any:
    make: Any = Properties
    properties = make(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x00\x01\xff"
    properties.MessageExpiryInterval = 1000
    properties.PayloadFormatIndicator = 1
    properties.UserProperty = [("unit", "°C"), ("unit", "K"), ("mqtt.qos", "9")]
    return properties


def test_properties_become_headers_and_headers_properties(broker: BrokerProcess) -> None:
    topic, copy = f"p/{uuid.uuid4().hex}", f"q/{uuid.uuid4().hex}"
    with Mqtt(broker) as client:
        client.subscribe(copy)
        client.publish(topic, b"21.5", True, properties_of_a_message())
        (record,) = records(broker, topic.replace("/", "."), 1)
        headers: Any = record.headers()
        assert record.value() == b"21.5"
        assert record.key() is None
        assert dict(headers) == {
            "mqtt.qos": b"1",
            "mqtt.retain": b"1",
            "mqtt.content-type": b"text/plain",
            "mqtt.response-topic": b"answers/here",
            "mqtt.correlation-data": b"\x00\x01\xff",
            "mqtt.message-expiry": b"1000",
            "mqtt.payload-format": b"1",
            "unit": b"K",
            "mqtt.user.mqtt.qos": b"9",
        }
        assert [value for name, value in headers if name == "unit"] == ["°C".encode(), b"K"]
        for compression in ("none", "gzip", "snappy", "lz4", "zstd"):
            producer = confluent_kafka.Producer(
                {"bootstrap.servers": address(broker), "compression.type": compression}
            )
            producer.produce(copy.replace("/", "."), b"21.5" * 100, headers=[*headers], partition=0)
            assert producer.flush(20) == 0
            message = client.next()
            assert message.payload == b"21.5" * 100
            assert (message.qos, message.retain) == (1, True)
            given: Any = message.properties
            assert given.ContentType == "text/plain"
            assert given.ResponseTopic == "answers/here"
            assert given.CorrelationData == b"\x00\x01\xff"
            assert 990 <= given.MessageExpiryInterval <= 1000
            assert given.PayloadFormatIndicator == 1
            assert given.UserProperty == [("unit", "°C"), ("unit", "K"), ("mqtt.qos", "9")]


@pytest.mark.parametrize(
    "topic",
    [
        "plain", "a/b/c", "/leading", "trailing/", "a//b", "with.dot/x", "with_x5f/y",
        "ein Gerät/°C", "$dollar", "UPPER/lower-9", "a_b", "_", "_x", "..", "日本/東京",
    ],
)  # fmt: skip
def test_a_name_is_the_same_topic_from_both_sides(broker: BrokerProcess, topic: str) -> None:
    name = names.to_kafka(topic.encode())
    assert name is not None
    value = uuid.uuid4().hex.encode()
    with Mqtt(broker) as client:
        client.subscribe(topic)
        client.publish(topic, value)
        assert client.next().payload == value
        assert records(broker, name, 1)[0].value() == value
        produce(broker, name, value + b"back")
        message = client.next()
        assert (message.topic, message.payload) == (topic, value + b"back")


@pytest.mark.parametrize("prefix", ["", "$share/group/"])
@pytest.mark.parametrize("first", ["subscribed", "created"])
def test_a_subscriber_gets_the_records_of_every_partition(
    broker: BrokerProcess, prefix: str, first: str
) -> None:
    topic = f"wide/{uuid.uuid4().hex}"
    with Mqtt(broker) as client:
        if first == "subscribed":
            client.subscribe(prefix + topic)
        create(broker, topic.replace("/", "."), 6)
        if first == "created":
            client.subscribe(prefix + topic)
        for partition in range(6):
            produce(broker, topic.replace("/", "."), b"%d" % partition, partition=partition)
        assert {client.next().payload for _ in range(6)} == {b"%d" % number for number in range(6)}
        assert client.messages.empty()


def test_a_stream_holds_each_devices_messages_in_order_in_one_partition(
    broker: BrokerProcess,
) -> None:
    devices = [f"sensors/{uuid.uuid4().hex}/temp" for _ in range(12)]
    with Mqtt(broker) as client:
        for number in range(5):
            for device in devices:
                client.publish(device, b"%d" % number)
    seen: dict[str, list[tuple[int, bytes]]] = {}
    consumer = kafka.KafkaConsumer(
        "sensors-temp",
        bootstrap_servers=address(broker),
        auto_offset_reset="earliest",
        consumer_timeout_ms=10_000,
    )
    for record in consumer:
        if record.key.decode() in devices:
            seen.setdefault(record.key.decode(), []).append((record.partition, record.value))
        if sum(map(len, seen.values())) == 60:
            break
    consumer.close()
    assert sorted(seen) == sorted(devices)
    for found in seen.values():
        assert [value for _, value in found] == [b"%d" % number for number in range(5)]
        assert len({partition for partition, _ in found}) == 1
    producer = kafka.KafkaProducer(bootstrap_servers=address(broker))
    for device in devices:
        sent = producer.send("sensors-temp", b"x", device.encode()).get(10)
        assert sent.partition == seen[device][0][0], "Kafka's own partitioner agrees"
    producer.close()


def test_a_record_of_a_stream_is_a_message_of_the_topic_that_its_key_names(
    broker: BrokerProcess,
) -> None:
    device = f"sensors/{uuid.uuid4().hex}/temp"
    with Mqtt(broker) as client:
        client.subscribe(device)
        client.subscribe("sensors-temp")
        produce(broker, "sensors-temp", b"by key", key=device)
        produce(broker, "sensors-temp", b"no key")
        produce(broker, "sensors-temp", b"other key", key="elsewhere")
        found = {client.next().payload: None for _ in range(3)}
        assert set(found) == {b"by key", b"no key", b"other key"}
    with Mqtt(broker) as client:
        client.subscribe(device)
        produce(broker, "sensors-temp", b"not mine", key="elsewhere")
        produce(broker, "sensors-temp", b"mine", key=device)
        message = client.next()
        assert (message.topic, message.payload) == (device, b"mine")


def test_a_tombstone_clears_the_retained_value_of_a_compacted_topic(
    broker: BrokerProcess,
) -> None:
    for number, (policy, left) in enumerate(
        [("compact", None), ("delete", b"on"), *[("compact,delete", None)] * 5]
    ):
        topic = f"lamp/{uuid.uuid4().hex}"
        create(broker, topic.replace("/", "."), 6, cleanup_policy=policy)
        with Mqtt(broker) as client:
            client.publish(topic, b"on", retain=True)
        with Mqtt(broker) as client:
            assert client.retained(topic) == b"on"
        produce(broker, topic.replace("/", "."), None, key="lamp", partition=number % 6)
        with Mqtt(broker) as client:
            assert client.retained(topic) == left


def test_a_tombstone_in_a_compacted_stream_clears_the_topic_that_its_key_names(
    broker: BrokerProcess,
) -> None:
    admin = AdminClient({"bootstrap.servers": address(broker)})
    compact = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, "sensors-temp", incremental_configs=[compact]
    )
    admin.incremental_alter_configs([resource])[resource].result(10)
    gone, kept = (f"sensors/{uuid.uuid4().hex}/temp" for _ in range(2))
    with Mqtt(broker) as client:
        client.publish(gone, b"1", retain=True)
        client.publish(kept, b"2", retain=True)
    # Kafka's partitioner, so that the tombstone stands behind what it clears.
    producer = kafka.KafkaProducer(bootstrap_servers=address(broker))
    producer.send("sensors-temp", None, gone.encode()).get(10)
    producer.close()
    with Mqtt(broker) as client:
        assert client.retained(gone) is None
    with Mqtt(broker) as client:
        assert client.retained(kept) == b"2"


def test_a_message_of_qos_0_and_one_without_content_cross_too(broker: BrokerProcess) -> None:
    topic = f"p/{uuid.uuid4().hex}"
    with Mqtt(broker) as client:
        client.client.publish(topic, b"zero", 0)
        client.publish(topic, b"")
        first, second = records(broker, topic.replace("/", "."), 2)
        assert (first.value(), second.value()) == (b"zero", b"")
        client.subscribe(topic)
        produce(broker, topic.replace("/", "."), None, key="k")
        assert client.next().payload == b""
