"""MQTT clients that users have, end to end: paho-mqtt, aiomqtt, mosquitto's in every version."""

from __future__ import annotations

import asyncio
import queue
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.broker import BrokerProcess, until
from tests.mqtt.wire import client_id_on, topic_on

WAIT_S = 15.0
VERSIONS = {"3.1": paho.MQTTv31, "3.1.1": paho.MQTTv311, "5.0": paho.MQTTv5}


@pytest.fixture(scope="module", params=[2, 1], ids=["2 workers", "1 worker"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    """A broker that the tests of this module share."""
    with BrokerProcess(tmp_path_factory.mktemp("broker"), request.param) as process:
        yield process
        assert process.stop() == 0


def properties_of(packet_type: int) -> Any:
    """Empty properties; paho sets their attributes by name."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


class Paho:
    """A paho client with its network thread; what comes goes into `got`."""

    def __init__(
        self, broker: BrokerProcess, client_id: str, version: int, clean: bool = True
    ) -> None:
        five = version == paho.MQTTv5
        self.got: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.flags: list[bool] = []
        self.subscribed: list[Any] = []
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if five else clean,
            protocol=version,  # type: ignore[arg-type]
        )
        self.client.on_message = lambda _client, _data, message: self.got.put(message)
        self.client.on_connect = lambda _c, _d, flags, _r, _p: self.flags.append(
            flags.session_present
        )
        self.client.on_subscribe = lambda _c, _d, _m, codes, _p: self.subscribed.append(codes)
        options: dict[str, Any] = {}
        if five:
            properties = properties_of(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600
            options = {"clean_start": clean, "properties": properties}
        self.client.connect("127.0.0.1", broker.mqtt, 60, **options)
        self.client.loop_start()
        until(lambda: self.flags, WAIT_S, "CONNACK")

    def subscribe(self, topic: str, **options: Any) -> None:
        before = len(self.subscribed)
        self.client.subscribe(topic, **options)
        until(lambda: len(self.subscribed) > before, WAIT_S, "SUBACK")

    def publish(self, topic: str, payload: bytes, qos: int = 0, **options: Any) -> None:
        self.client.publish(topic, payload, qos, **options).wait_for_publish(WAIT_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS.keys())
def test_paho_publishes_subscribes_and_resumes(broker: BrokerProcess, version: int) -> None:
    workers = broker.workers
    subscriber_id = client_id_on(1, workers).decode()
    topic = topic_on(0, workers).decode()
    subscriber = Paho(broker, subscriber_id, version, clean=False)
    subscriber.subscribe(topic, qos=2)
    publisher = Paho(broker, client_id_on(0, workers).decode(), version)
    for number in range(60):
        publisher.publish(topic, b"%d" % number, number % 3)
    got = [subscriber.got.get(timeout=WAIT_S) for _ in range(60)]
    for qos in range(3):
        numbers = [int(message.payload) for message in got if message.qos == qos]
        assert numbers == list(range(qos, 60, 3))
    subscriber.close()
    for number in range(10):
        publisher.publish(topic, b"%d" % number, 1 + number % 2)
    subscriber = Paho(broker, subscriber_id, version, clean=False)
    assert subscriber.flags == [version != paho.MQTTv31]
    # paho shows a message of QoS 2 when its PUBREL comes.
    waited = [subscriber.got.get(timeout=WAIT_S) for _ in range(10)]
    for qos in (1, 2):
        numbers = [int(message.payload) for message in waited if message.qos == qos]
        assert numbers == list(range(qos - 1, 10, 2))
    publisher.close()
    subscriber.close()


def test_paho_sees_the_properties_of_5_0(broker: BrokerProcess) -> None:
    workers = broker.workers
    topic = topic_on(0, workers).decode()
    subscriber = Paho(broker, client_id_on(1, workers).decode(), paho.MQTTv5)
    publisher = Paho(broker, client_id_on(0, workers).decode(), paho.MQTTv5)
    identifier = properties_of(PacketTypes.SUBSCRIBE)
    identifier.SubscriptionIdentifier = 17
    subscriber.subscribe(
        topic, options=SubscribeOptions(1, retainAsPublished=True), properties=identifier
    )
    properties = properties_of(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answer/here"
    properties.CorrelationData = b"\x01\x02"
    properties.MessageExpiryInterval = 500
    properties.UserProperty = [("a", "1"), ("b", "2"), ("a", "3")]
    publisher.publish(topic, b"x", 1, retain=True, properties=properties)
    message = subscriber.got.get(timeout=WAIT_S)
    seen: Any = message.properties
    assert seen is not None
    assert (message.retain, message.qos) == (True, 1)
    assert seen.ContentType == "text/plain"
    assert seen.ResponseTopic == "answer/here"
    assert seen.CorrelationData == b"\x01\x02"
    assert seen.MessageExpiryInterval in (499, 500)
    assert seen.UserProperty == [("a", "1"), ("b", "2"), ("a", "3")]
    assert seen.SubscriptionIdentifier == [17]
    publisher.close()
    subscriber.close()


def test_a_paho_will_reaches_others_when_its_process_is_gone(broker: BrokerProcess) -> None:
    workers = broker.workers
    topic = topic_on(0, workers).decode()
    watcher = Paho(broker, client_id_on(1, workers).decode(), paho.MQTTv311)
    watcher.subscribe(topic, qos=1)
    dying = paho.Client(
        CallbackAPIVersion.VERSION2, client_id_on(0, workers).decode(), protocol=paho.MQTTv311
    )
    dying.will_set(topic, b"gone", 1)
    dying.connect("127.0.0.1", broker.mqtt)
    dying.loop_start()
    until(dying.is_connected, WAIT_S)
    dying.loop_stop()
    sock = dying.socket()
    assert sock is not None
    sock.close()
    assert watcher.got.get(timeout=WAIT_S).payload == b"gone"
    watcher.close()


def test_aiomqtt_answers_requests_in_one_loop(broker: BrokerProcess) -> None:
    topic = topic_on(0, broker.workers).decode()

    async def job() -> list[bytes]:
        async with (
            aiomqtt.Client("127.0.0.1", broker.mqtt) as server,
            aiomqtt.Client("127.0.0.1", broker.mqtt, protocol=aiomqtt.ProtocolVersion.V5) as client,
        ):
            await server.subscribe(f"{topic}/request", qos=1)
            await client.subscribe(f"{topic}/answer", qos=1)
            answers: list[bytes] = []
            for number in range(20):
                await client.publish(f"{topic}/request", b"%d" % number, qos=1)
                request = await anext(aiter(server.messages))
                assert isinstance(request.payload, bytes)
                await server.publish(f"{topic}/answer", b"re " + request.payload, qos=1)
                answer = await anext(aiter(client.messages))
                assert isinstance(answer.payload, bytes)
                answers.append(answer.payload)
            return answers

    answers = asyncio.run(asyncio.wait_for(job(), 60))
    assert answers == [b"re %d" % number for number in range(20)]


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="needs mosquitto's clients")
@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mosquittos_clients_publish_subscribe_and_see_retained_messages(
    broker: BrokerProcess, version: str, qos: int
) -> None:
    topic = topic_on(qos, broker.workers).decode()
    common = ["-p", str(broker.mqtt), "-V", version, "-q", str(qos), "-t"]
    subscriber = subprocess.Popen(
        ["stdbuf", "-oL", "mosquitto_sub", *common, topic, "-F", "%t %q %r %p", "-d", "-C", "3",
         "-W", "30"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert subscriber.stdout is not None
    for line in subscriber.stdout:
        if "received SUBACK" in line:
            break
    for payload in ("one", "two", "three"):
        subprocess.run(
            ["mosquitto_pub", *common, topic, "-m", payload, "-r"], check=True, timeout=30
        )
    output, _ = subscriber.communicate(timeout=30)
    lines = [line for line in output.splitlines() if line.startswith(topic)]
    assert lines == [f"{topic} {qos} 0 {payload}" for payload in ("one", "two", "three")]
    late = subprocess.run(
        ["mosquitto_sub", *common, topic, "-F", "%t %q %r %p", "-C", "1", "-W", "30"],
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    assert late.stdout.splitlines() == [f"{topic} {qos} 1 three"]


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="needs mosquitto's clients")
def test_mosquitto_pub_sends_a_file_line_by_line(broker: BrokerProcess) -> None:
    topic = topic_on(0, broker.workers).decode()
    subscriber = Paho(broker, client_id_on(1, broker.workers).decode(), paho.MQTTv311)
    subscriber.subscribe(topic, qos=2)
    lines = "".join(f"line {number}\n" for number in range(500))
    subprocess.run(
        ["mosquitto_pub", "-p", str(broker.mqtt), "-t", topic, "-q", "2", "-l"],
        input=lines,
        text=True,
        check=True,
        timeout=60,
    )
    got = [subscriber.got.get(timeout=WAIT_S).payload.decode() for _ in range(500)]
    assert got == lines.splitlines()
    subscriber.close()


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="needs mosquitto's clients")
@pytest.mark.parametrize("prefix", ["$share/workers/", "$queue/"])
def test_paho_and_mosquitto_are_members_of_one_group(broker: BrokerProcess, prefix: str) -> None:
    workers = broker.workers
    topic = topic_on(0, workers).decode()
    members = [
        Paho(broker, client_id_on(home, workers).decode(), version)
        for home, version in enumerate(VERSIONS.values())
    ]
    for member in members:
        member.subscribe(prefix + topic, qos=1)
    other = subprocess.Popen(
        ["stdbuf", "-oL", "mosquitto_sub", "-p", str(broker.mqtt), "-q", "1", "-d",
         "-t", prefix + topic, "-F", "got %p", "-C", "50", "-W", "30"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert other.stdout is not None
    for line in other.stdout:
        if "received SUBACK" in line:
            break
    lines = "".join(f"{number}\n" for number in range(200))
    subprocess.run(
        ["mosquitto_pub", "-p", str(broker.mqtt), "-t", topic, "-q", "1", "-l"],
        input=lines,
        text=True,
        check=True,
        timeout=60,
    )
    output, _ = other.communicate(timeout=30)
    got = [int(line.split()[1]) for line in output.splitlines() if line.startswith("got ")]
    assert len(got) == 50
    for member in members:
        got += [int(member.got.get(timeout=WAIT_S).payload) for _ in range(50)]
        member.close()
    assert sorted(got) == list(range(200))
