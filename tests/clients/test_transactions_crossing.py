"""Transactions of Kafka producers as MQTT subscribers and readers of both isolations see them, with
one worker and two, and over kill -9.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.broker import BrokerProcess, until

STREAM = """
[[streams]]
filter = "roofs/+/temp"
topic = "roofs-temp"
"""


@pytest.fixture(scope="module")
def brokers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[int], BrokerProcess]]:
    """A broker of so many workers, started once."""
    running: dict[int, BrokerProcess] = {}
    with contextlib.ExitStack() as stack:

        def of(workers: int) -> BrokerProcess:
            if workers not in running:
                directory = tmp_path_factory.mktemp("transactions")
                running[workers] = stack.enter_context(BrokerProcess(directory, workers, STREAM))
            return running[workers]

        yield of


@pytest.fixture(params=[1, 2], ids=["1worker", "2workers"])
def broker(
    request: pytest.FixtureRequest, brokers: Callable[[int], BrokerProcess]
) -> BrokerProcess:
    return brokers(request.param)


class Subscriber:
    """A persistent session at QoS 1; what it was sent, in order."""

    def __init__(self, broker: BrokerProcess, topic: str) -> None:
        self.seen: list[bytes] = []
        self.retained: list[bool] = []
        self.topics: list[str] = []
        self._subscribed: list[object] = []
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, uuid.uuid4().hex, protocol=paho.MQTTv5
        )
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda client, data, mid, codes, properties: (
            self._subscribed.append(codes)
        )
        self._broker, self._topic = broker, topic
        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._properties.SessionExpiryInterval = 600

    def _on_message(self, client: object, data: object, message: paho.MQTTMessage) -> None:
        self.seen.append(bytes(message.payload))
        self.retained.append(message.retain)
        self.topics.append(message.topic)

    def __enter__(self) -> Subscriber:
        # The first CONNECT alone begins a new session; paho connects again by itself.
        self.client.connect("127.0.0.1", self._broker.mqtt, properties=self._properties)
        self.client.loop_start()
        self.client.subscribe(self._topic, 1)
        until(lambda: bool(self._subscribed), 10)
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


Setting = str | int | float | bool
Headers = list[tuple[str, str | bytes | None]]


def settings(broker: BrokerProcess, **more: Setting) -> dict[str, Setting]:
    return {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", **more}


def make_topic(broker: BrokerProcess, mode: str = "declared") -> str:
    """A topic of a mode; a light one is made by its first record."""
    name = uuid.uuid4().hex
    if mode != "light":
        config = {"robustmq.storage.mode": "memory"} if mode == "memory" else {}
        admin = AdminClient(settings(broker))
        admin.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(10)
    return name


def producer(broker: BrokerProcess, name: str = "") -> Producer:
    made = Producer(settings(broker, **{"transactional.id": name or uuid.uuid4().hex}))
    made.init_transactions(20)
    return made


def write(source: Producer, topic: str, *values: bytes, headers: Headers | None = None) -> None:
    for value in values:
        source.produce(topic, value, partition=0, headers=headers)
    assert source.flush(20) == 0


def read(broker: BrokerProcess, topic: str, isolation: str) -> list[bytes]:
    """All that a reader of an isolation sees up to its end."""
    own: dict[str, Setting] = {
        "group.id": uuid.uuid4().hex,
        "isolation.level": isolation,
        "enable.partition.eof": True,
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 20,
    }
    consumer = Consumer(settings(broker, **own))
    found: list[bytes] = []
    with contextlib.closing(consumer):
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                found.append(message.value() or b"")
            elif message is not None:
                return found
    raise AssertionError("no end was reached")


@pytest.mark.parametrize(
    ("broker", "mode"),
    [(1, "light"), (2, "declared"), (2, "memory")],
    indirect=["broker"],
    ids=["1worker-light", "2workers-declared", "2workers-memory"],
)
def test_subscribers_hear_of_a_transaction_when_it_is_committed(
    broker: BrokerProcess, mode: str
) -> None:
    topic = make_topic(broker, mode)
    source = producer(broker)
    with Subscriber(broker, topic) as subscriber:
        source.begin_transaction()
        write(source, topic, b"given up")
        source.abort_transaction(20)
        source.begin_transaction()
        write(source, topic, b"one", b"two")
        other = Producer(settings(broker))
        write(other, topic, b"beside it")
        until(lambda: subscriber.seen == [b"beside it"], 10)
        assert read(broker, topic, "read_committed") == []
        assert read(broker, topic, "read_uncommitted") == [
            b"given up",
            b"one",
            b"two",
            b"beside it",
        ]
        source.commit_transaction(20)
        until(lambda: len(subscriber.seen) == 3, 10)
        assert subscriber.seen == [b"beside it", b"one", b"two"]
    until(lambda: len(read(broker, topic, "read_committed")) == 3, 10)
    assert read(broker, topic, "read_committed") == [b"one", b"two", b"beside it"]


def test_a_retained_value_is_set_when_its_transaction_is_committed(broker: BrokerProcess) -> None:
    topic = make_topic(broker)
    source = producer(broker)
    retained: Headers = [("mqtt.retain", b"1")]
    source.begin_transaction()
    write(source, topic, b"no", headers=retained)
    source.abort_transaction(20)
    source.begin_transaction()
    write(source, topic, b"yes", headers=retained)
    with Subscriber(broker, topic) as early:
        source.commit_transaction(20)
        until(lambda: early.seen == [b"yes"], 10)

    def shown() -> bool:
        with Subscriber(broker, topic) as late:
            deadline = time.monotonic() + 2
            while not late.seen and time.monotonic() < deadline:
                time.sleep(0.02)
            return (late.seen, late.retained) == ([b"yes"], [True])

    until(shown, 10)


def test_a_large_transaction_is_told_in_order(broker: BrokerProcess) -> None:
    topic = make_topic(broker)
    source = producer(broker)
    values = [b"%06d" % number + bytes(2000) for number in range(1500)]
    with Subscriber(broker, topic) as subscriber:
        source.begin_transaction()
        write(source, topic, *values)
        source.commit_transaction(20)
        until(lambda: len(subscriber.seen) == len(values), 30)
        assert subscriber.seen == values


def test_records_of_a_stream_are_told_under_the_topics_of_their_keys(
    broker: BrokerProcess,
) -> None:
    source = producer(broker)
    with Subscriber(broker, "roofs/+/temp") as subscriber:
        source.begin_transaction()
        source.produce("roofs-temp", b"21", key=b"roofs/7/temp")
        source.produce("roofs-temp", b"22", key=b"roofs/8/temp")
        assert source.flush(20) == 0
        assert subscriber.seen == []
        source.commit_transaction(20)
        until(lambda: sorted(subscriber.seen) == [b"21", b"22"], 10)
        assert sorted(subscriber.topics) == ["roofs/7/temp", "roofs/8/temp"]


@pytest.mark.parametrize(
    ("broker", "mode"),
    [(1, "light"), (2, "declared"), (2, "memory")],
    indirect=["broker"],
    ids=["1worker-light", "2workers-declared", "2workers-memory"],
)
def test_what_was_open_when_the_broker_died_is_open_when_it_is_back(
    broker: BrokerProcess, mode: str
) -> None:
    topic = make_topic(broker, mode)
    ended, opened = producer(broker), producer(broker, f"zombie-{mode}")
    subscriber = Subscriber(broker, topic)
    with subscriber:
        ended.begin_transaction()
        write(ended, topic, b"kept")
        opened.begin_transaction()
        write(opened, topic, b"in doubt")
        ended.commit_transaction(20)
        until(lambda: subscriber.seen == [b"kept"], 10)
        broker.kill()
        broker.start()
        kept = [] if mode == "memory" else [b"kept"]
        assert read(broker, topic, "read_committed") == kept
        # The next incarnation of the producer aborts what the one before has left open.
        heir = producer(broker, f"zombie-{mode}")
        heir.begin_transaction()
        write(heir, topic, b"again")
        heir.commit_transaction(20)
        with pytest.raises(KafkaException):
            opened.commit_transaction(5)
        until(lambda: read(broker, topic, "read_committed") == [*kept, b"again"], 10)
        until(lambda: b"again" in subscriber.seen, 10)
    assert [value for value in subscriber.seen if value != b"kept"] == [b"again"]
