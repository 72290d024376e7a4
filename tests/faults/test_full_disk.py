"""A disk without room, on a small file system of its own: producers get an error, what was
acknowledged stays, and the node goes on by itself when there is room.
"""

from __future__ import annotations

from pathlib import Path

import paho.mqtt.client as paho
import pytest
from confluent_kafka import KafkaError, Producer
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from robustmq.mqtt.packets import Publish
from tests.broker import BrokerProcess, until
from tests.faults.files import fill
from tests.faults.load import read_log
from tests.mqtt.wire import Wire


class Answers:
    """A client of MQTT 5.0 and the reason codes that its messages got."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.codes: dict[int, int] = {}
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_publish = self._on_publish
        self.client.connect("127.0.0.1", broker.mqtt)
        self.client.loop_start()
        until(self.client.is_connected)

    def _on_publish(self, _c: object, _d: object, mid: int, code: ReasonCode, _p: object) -> None:
        self.codes[mid] = code.value

    def publish(self, payload: str, timeout_s: float = 15) -> int:
        """Publish with QoS 1; the reason code of the answer."""
        mid = self.client.publish("full/a", payload, 1).mid
        until(lambda: mid in self.codes, timeout_s, "an answer")
        return self.codes[mid]


def produce(broker: BrokerProcess, value: str, timeout_ms: int) -> KafkaError | None:
    errors: list[KafkaError | None] = []
    producer = Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "acks": "all",
            "message.timeout.ms": timeout_ms,
            "retries": 0,
            "log_level": 2,
        }
    )
    producer.produce("full.k", value, on_delivery=lambda error, _: errors.append(error))
    producer.flush(30)
    return errors[0]


@pytest.mark.mqtt311("MQTT-4.8.0-2")
@pytest.mark.timeout(120)
def test_a_full_disk_refuses_producers_keeps_what_is_there_and_recovers(small_disk: Path) -> None:
    with BrokerProcess(small_disk, 2) as broker:
        answers = Answers(broker)
        assert answers.publish("before") in (0, 0x10)
        assert produce(broker, "before", 20_000) is None
        workers = broker.worker_pids()
        ballast = small_disk / "ballast"
        fill(ballast)
        # The first message finds the disk full, and waits; those behind it are refused.
        # Acknowledgements leave in order, so it has a connection of its own.
        first = Answers(broker)
        waiting = first.client.publish("full/a", "waited", 1).mid
        until(lambda: "the disk is full" in broker.log)
        until(lambda: answers.publish("refused") == 0x97, what="a refusal by MQTT")
        with Wire(broker.mqtt, 4) as old:
            # It has no word for it, so that the client keeps the message and sends it again.
            old.connect(b"old")
            old.send(Publish(b"full/a", b"refused", 1, packet_id=1))
            old.expect_end()
        until(lambda: produce(broker, "refused", 3_000) is not None, what="a refusal by Kafka")
        assert waiting not in first.codes
        assert read_log(broker, "full.a") == [["before"]], "what is there is read"
        ballast.unlink()
        until(lambda: "there is room" in broker.log)
        until(lambda: waiting in first.codes, what="the answer to what waited")
        until(lambda: answers.publish("behind") in (0, 0x10))
        until(lambda: produce(broker, "behind", 20_000) is None)
        assert broker.worker_pids() == workers, "no worker has died"
        (values,) = read_log(broker, "full.a")
        assert values[0] == "before" and values[-1] == "behind" and "waited" in values
        broker.kill()
        broker.start()
        assert read_log(broker, "full.a") == [values]
        assert read_log(broker, "full.k")[0][0] == "before"
