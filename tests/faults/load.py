"""Clients that keep publishing through every fault, and their own record of what was acknowledged.

All are the SDKs that people use (paho-mqtt, confluent-kafka): it is they who connect again, send
again and number their messages.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from paho.mqtt.enums import CallbackAPIVersion, MessageState, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from robustmq.mqtt.packets import Will
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire

WINDOW = 40
PAUSE_S = 0.002
SETTLE_S = 60.0
MODE, ENGINE = "robustmq.storage.mode", "robustmq.storage.engine"
Acked = list[tuple[str, str]]


class _Paho(paho.Client):
    """paho forgets, when its second attempt to connect fails too, which messages it had released,
    and publishes them as new ones: an error of the client that no broker can mend."""

    def _messages_reconnect_reset_out(self) -> None:
        state = MessageState.MQTT_MS_RESEND_PUBREL
        released = [one for one in self._out_messages.values() if one.state == state]
        super()._messages_reconnect_reset_out()
        for one in released:
            one.state = state


class _Client:
    """A paho client with a session that outlives its connections."""

    def __init__(
        self,
        broker: BrokerProcess,
        name: str,
        version: MQTTProtocolVersion,
        expiry: int = 3600,
    ) -> None:
        five = version == MQTTProtocolVersion.MQTTv5
        self.client = _Paho(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=version,
            clean_session=None if five else False,
        )
        self.client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self.client.max_inflight_messages_set(WINDOW)
        self.client.on_connect = self._on_connect
        # Before it connects: a session that was away gets its messages at once.
        self.client.on_message = self._on_message
        self.connects = 0
        kept = None
        if five:
            kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            kept.SessionExpiryInterval = expiry
        arguments: dict[str, Any] = {"clean_start": False, "properties": kept} if five else {}
        self.client.connect("127.0.0.1", broker.mqtt, keepalive=10, **arguments)
        self.client.loop_start()
        until(lambda: self.connects, what=f"the CONNACK of {name}")

    def _on_connect(self, *_: object) -> None:
        self.connects += 1

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        raise AssertionError(f"nobody has subscribed to {message.topic}")

    def close(self) -> None:
        """Disconnect; the session stays."""
        self.client.disconnect()
        self.client.loop_stop()


class MqttPublisher(_Client):
    """Publishes numbered messages of one QoS to a few topics until told to stop."""

    def __init__(
        self,
        broker: BrokerProcess,
        name: str,
        topics: list[str],
        qos: int,
        version: int,
        retain: bool = False,
    ) -> None:
        self.name = name
        self.retain = retain
        self.topics = topics
        self.qos = qos
        self.sent: Acked = []
        self.acked: Acked = []
        self.refused: Acked = []
        """What the broker said no to, as it does when its disk is full."""
        self._pending: dict[int, tuple[str, str]] = {}
        self._early: dict[int, Acked] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        super().__init__(broker, name, MQTTProtocolVersion(version))
        self.client.on_publish = self._on_publish
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(PAUSE_S):
            if len(self._pending) >= WINDOW or not self.client.is_connected():
                continue
            topic = self.topics[number % len(self.topics)]
            payload = f"{self.name} {number}"
            number += 1
            with self._lock:
                self.sent.append((topic, payload))
            info = self.client.publish(topic, payload, self.qos, self.retain)
            if not self.qos:
                # Nobody confirms it, and what a broken connection loses is not told.
                continue
            with self._lock:
                early = self._early.pop(info.mid, None)
                if early is not None:
                    early.append((topic, payload))
                else:
                    self._pending[info.mid] = (topic, payload)

    def _on_publish(
        self, _client: object, _data: object, mid: int, code: ReasonCode, _properties: object
    ) -> None:
        # To a PUBREC that refuses paho answers with a PUBREL, for which there is no message.
        outcome = self.refused if code.is_failure else self.acked
        with self._lock:
            known = self._pending.pop(mid, None)
            if known is None:
                if self.qos:
                    self._early[mid] = outcome
            else:
                outcome.append(known)

    def stop(self) -> None:
        """Whatever it does."""
        self._stopped.set()
        self._thread.join()
        self.close()

    def finish(self) -> None:
        """Send no more; wait until all is acknowledged."""
        self._stopped.set()
        self._thread.join()
        until(lambda: not self._pending, SETTLE_S, f"the acknowledgements of {self.name}")
        self.close()


class MqttSubscriber(_Client):
    """Receives what its persistent session gets."""

    def __init__(
        self,
        broker: BrokerProcess,
        name: str,
        filters: dict[str, int],
        version: int,
        expiry: int = 3600,
    ) -> None:
        self.name = name
        self.received: Acked = []
        self._granted = threading.Event()
        super().__init__(broker, name, MQTTProtocolVersion(version), expiry)
        self.client.on_subscribe = lambda *_: self._granted.set()
        if filters:
            self.client.subscribe(list(filters.items()))
            until(self._granted.is_set, what=f"the SUBACK of {name}")

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.received.append((message.topic, message.payload.decode()))

    def wait_for(self, messages: Acked) -> None:
        """Wait until all of these have come."""
        wanted = set(messages)
        until(
            lambda: wanted <= set(self.received),
            SETTLE_S,
            f"{self.name}: {len(wanted - set(self.received))} messages, as"
            f" {sorted(wanted - set(self.received))[:5]},",
        )


class MqttMember(MqttSubscriber):
    """A member of a share group whose session ends with its connection; it joins again whenever it
    is back."""

    def __init__(self, broker: BrokerProcess, name: str, share: str) -> None:
        self._share = share
        super().__init__(broker, name, {share: 2}, 5, 0)

    def _on_connect(self, *_: object) -> None:
        if self.connects:
            self.client.subscribe(self._share, 2)
        super()._on_connect()


class Roamer(MqttSubscriber):
    """A subscriber that comes and goes, and whose session others take over for a moment."""

    def __init__(
        self, broker: BrokerProcess, name: str, filters: dict[str, int], choose: random.Random
    ) -> None:
        super().__init__(broker, name, filters, 5)
        self._port = broker.mqtt
        self._choose = choose
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._roam, name=name, daemon=True)
        self._thread.start()

    def _roam(self) -> None:
        while not self._stopped.wait(self._choose.uniform(0.3, 1.5)):
            if self._choose.random() < 0.5:
                self._intrude()
                continue
            self.client.disconnect()
            self.client.loop_stop()
            self._stopped.wait(self._choose.uniform(0.1, 1.0))
            while True:
                try:
                    self.client.reconnect()
                except OSError:
                    time.sleep(0.1)
                else:
                    break
            self.client.loop_start()

    def _intrude(self) -> None:
        with suppress(OSError, Closed), Wire(self._port) as intruder:
            intruder.connect(self.name.encode(), False, expiry=3600)

    def settle(self) -> None:
        """Stay from now on."""
        self._stopped.set()
        self._thread.join()


class Mortal:
    """Connects with a will, again and again, and ends without DISCONNECT; its sessions end with
    their connections. What a CONNACK was received for is promised."""

    def __init__(self, broker: BrokerProcess, topic: str) -> None:
        self.promised: Acked = []
        self._port = broker.mqtt
        self._topic = topic
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mortal", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        alive: list[Wire] = []
        while not self._stopped.wait(0.05):
            number += 1
            will = Will(self._topic.encode(), b"mortal %d" % number, 1)
            try:
                wire = Wire(self._port)
                wire.connect(b"mortal-%d" % (number % 50), will=will)
            except (OSError, Closed):
                continue
            self.promised.append((self._topic, f"mortal {number}"))
            alive.append(wire)
            if len(alive) > 20:
                alive.pop(0).drop()
        for wire in alive:
            wire.drop()

    def finish(self) -> None:
        """All connections end."""
        self._stopped.set()
        self._thread.join()


class KafkaReader:
    """A consumer in a group that reads a topic while everything happens to it."""

    def __init__(self, broker: BrokerProcess, topic: str) -> None:
        self.received: set[str] = set()
        self._consumer = Consumer(
            {
                "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
                "group.id": f"soak-{topic}",
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 500,
                "session.timeout.ms": 6000,
                "topic.metadata.refresh.interval.ms": 1000,
                # librdkafka 2.16 may hang for ever when it begins anew because all were away.
                "metadata.recovery.strategy": "none",
                "log_level": 2,
            }
        )
        self._consumer.subscribe([topic])
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=topic, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for message in self._consumer.consume(500, 0.2):
                if message.error() is None:
                    self.received.add((message.value() or b"").decode())
        self._consumer.close()

    def wait_for(self, values: set[str]) -> None:
        """Wait until all of these were consumed."""
        try:
            until(lambda: values <= self.received, SETTLE_S, "what a Kafka group was to read")
        except AssertionError as error:
            missing = sorted(values - self.received)
            raise AssertionError(
                f"{error}: {len(missing)} of {len(values)}, {missing[:3]}"
            ) from None
        self.stop()

    def stop(self) -> None:
        """Whatever it does."""
        self._stopped.set()
        self._thread.join()


class KafkaProducer:
    """Produces numbered records with acks=all until told to stop."""

    def __init__(
        self, broker: BrokerProcess, name: str, topic: str, partitions: int, idempotent: bool
    ) -> None:
        self.name = name
        self.topic = topic
        self.idempotent = idempotent
        self.sent: dict[int, list[str]] = {n: [] for n in range(partitions)}
        self.acked: dict[int, list[str]] = {n: [] for n in range(partitions)}
        self.failed: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
                "acks": "all",
                "enable.idempotence": idempotent,
                "max.in.flight": 5 if idempotent else 1,
                "linger.ms": 5,
                "retry.backoff.ms": 50,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 200,
                "message.timeout.ms": 120_000,
                "log_level": 2,
            }
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(PAUSE_S):
            self._producer.poll(0)
            if len(self._producer) >= 5 * WINDOW:
                continue
            partition = number % len(self.sent)
            value = f"{self.name} {number}"
            number += 1
            self.sent[partition].append(value)
            self._producer.produce(
                self.topic, value, partition=partition, on_delivery=self._on_delivery
            )

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self.acked[message.partition()].append(message.value().decode())
        else:
            self.failed.append(error)

    def stop(self) -> None:
        """Whatever it does."""
        self._stopped.set()
        self._thread.join()

    def finish(self) -> None:
        """Send no more; wait until all is acknowledged."""
        self._stopped.set()
        self._thread.join()
        left = self._producer.flush(SETTLE_S)
        assert not left and not self.failed, f"{self.name}: {left} left, failed: {self.failed[:3]}"


def alter_topic(admin: AdminClient, topic: str, changes: dict[str, str]) -> None:
    """As kafka-configs --alter does."""
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in changes.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result(20)


def read_log(broker: BrokerProcess, topic: str, partitions: int = 1) -> list[list[str]]:
    """All values of a topic by partition, as a Kafka consumer gets them; offsets are dense."""
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 2,
        }
    )
    consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(partitions)])
    values: list[list[str]] = [[] for _ in range(partitions)]
    ended: set[int] = set()
    deadline = time.monotonic() + SETTLE_S
    while len(ended) < partitions:
        assert time.monotonic() < deadline, f"the log of {topic} has no end"
        for message in consumer.consume(1000, 0.2):
            error, partition = message.error(), message.partition()
            assert partition is not None
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(partition)
                continue
            assert message.offset() == len(values[partition]), "offsets are dense"
            values[partition].append((message.value() or b"").decode())
    consumer.close()
    return values


def doubled(values: list[str]) -> list[str]:
    """What comes more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def disorder(values: list[str], sent: list[str]) -> list[tuple[str, str]]:
    """Pairs of first occurrences that do not come in the order of sending."""
    places = {value: place for place, value in enumerate(sent)}
    first = [value for value in dict.fromkeys(values) if value in places]
    return [(one, other) for one, other in itertools.pairwise(first) if places[one] > places[other]]


def in_order(values: list[str], sent: list[str]) -> bool:
    """Do the first occurrences come in the order of sending?"""
    return not disorder(values, sent)
