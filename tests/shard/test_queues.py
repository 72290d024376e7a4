"""What the queue of a session does when it is full, and what it keeps of QoS 0."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robustmq.mqtt.packets import Disconnect, Publish
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on, resumed, topic_on

ROOM = 5
QUOTA_EXCEEDED = 0x97
Set = Callable[[str], None]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    settings = {"LIMITS__MAX_QUEUED_MESSAGES": str(ROOM), "LIMITS__MAX_INFLIGHT": "2"}
    config = '[mqtt]\nqueue_policy = "drop_newest"\n'
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, config, **settings) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


@pytest.fixture
def queue(broker: BrokerProcess) -> Set:
    """Sets the settings of [mqtt], by a reload."""

    def change(lines: str) -> None:
        if broker.config.read_text() == f"[mqtt]\n{lines}\n":
            return
        before = broker.log.count("settings reloaded")
        broker.config.write_text(f"[mqtt]\n{lines}\n")
        assert broker.process is not None
        broker.process.send_signal(signal.SIGHUP)
        until(lambda: broker.log.count("settings reloaded") >= before + 2, what="the reload")

    return change


def left(broker: BrokerProcess, topic: bytes, qos: int = 1) -> bytes:
    """A client that has subscribed to a topic and gone."""
    client_id = client_id_on(0, 2)
    with Wire(broker.mqtt) as wire:
        wire.connect(client_id, expiry=1000)
        wire.subscribe(topic, qos=qos)
        wire.disconnect()
    return client_id


def publish(
    broker: BrokerProcess, topic: bytes, payloads: range, qos: int = 1, **more: Any
) -> None:
    with Wire(broker.mqtt) as wire:
        wire.connect(client_id_on(1, 2))
        for number in payloads:
            wire.publish(topic, b"%d" % number, qos, **more)
        wire.send(b"\xc0\0")
        wire.read()


def waiting(broker: BrokerProcess, client_id: bytes) -> list[int]:
    """What comes when the client is back."""
    got: list[int] = []
    with resumed(broker.mqtt, client_id, expiry=1000) as wire:
        while True:
            try:
                got.append(int(wire.receive(0.5).payload))
            except TimeoutError:
                return got


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("drop_newest", [0, 1, 2, 3, 4]),
        ("drop_oldest", [3, 4, 5, 6, 7]),
        ("disconnect", [0, 1, 2, 3, 4]),
    ],
)
def test_a_full_queue_of_a_client_that_is_away_drops_as_it_is_set(
    broker: BrokerProcess, queue: Set, policy: str, wanted: list[int]
) -> None:
    queue(f'queue_policy = "{policy}"')
    topic = topic_on(1, 2)
    client_id = left(broker, topic)
    publish(broker, topic, range(8))
    assert waiting(broker, client_id) == wanted


def test_a_client_whose_queue_is_full_is_told_so_when_the_policy_says_it(
    broker: BrokerProcess, queue: Set
) -> None:
    queue('queue_policy = "disconnect"')
    topic = topic_on(1, 2)
    client_id = client_id_on(0, 2)
    with Wire(broker.mqtt) as slow:
        slow.connect(client_id, expiry=1000)
        slow.subscribe(topic, qos=1)
        publish(broker, topic, range(10))
        assert slow.expect(Publish).payload == b"0"
        assert slow.expect(Publish).payload == b"1"
        slow.expect_end(QUOTA_EXCEEDED)
    assert waiting(broker, client_id)[:7] == list(range(7))


def test_what_has_expired_makes_room_first(broker: BrokerProcess, queue: Set) -> None:
    queue('queue_policy = "drop_oldest"')
    topic = topic_on(1, 2)
    client_id = left(broker, topic)
    publish(broker, topic, range(3))
    publish(broker, topic, range(3, 5), message_expiry_interval=1)
    time.sleep(1.1)
    publish(broker, topic, range(5, 7))
    assert waiting(broker, client_id) == [0, 1, 2, 5, 6]


def test_qos_0_is_lost_while_its_client_is_away_unless_it_is_to_be_queued(
    broker: BrokerProcess, queue: Set
) -> None:
    queue('queue_policy = "drop_newest"')
    topic = topic_on(1, 2)
    client_id = left(broker, topic)
    publish(broker, topic, range(3), qos=0)
    assert waiting(broker, client_id) == []
    queue("queue_qos0 = true")
    client_id = left(broker, topic)
    publish(broker, topic, range(3), qos=0)
    assert waiting(broker, client_id) == [0, 1, 2]


@pytest.mark.parametrize("granted", [0, 1])
def test_queued_qos_0_keeps_its_order_and_its_place_before_what_comes_live(
    broker: BrokerProcess, queue: Set, granted: int
) -> None:
    queue("queue_qos0 = true")
    topic = topic_on(1, 2)
    client_id = left(broker, topic, granted)
    publish(broker, topic, range(2), qos=1)
    publish(broker, topic, range(2, 4), qos=0)
    with resumed(broker.mqtt, client_id, expiry=1000) as wire:
        publish(broker, topic, range(4, 6), qos=0)
        assert [int(wire.receive().payload) for _ in range(6)] == list(range(6))
        publish(broker, topic, range(6, 8), qos=0)
        assert [int(wire.receive().payload) for _ in range(2)] == [6, 7]
        wire.send(Disconnect())


def test_queued_qos_0_survives_kill_9(tmp_path: Path) -> None:
    topic = topic_on(1, 2)
    with BrokerProcess(tmp_path, 2, MQTT__QUEUE_QOS0="true") as mortal:
        client_id = left(mortal, topic, 0)
        publish(mortal, topic, range(20), qos=0)
        publish(mortal, topic, range(20, 21), qos=1)
        mortal.kill()
        mortal.start()
        publish(mortal, topic, range(21, 22), qos=0)
        assert waiting(mortal, client_id) == list(range(22))
