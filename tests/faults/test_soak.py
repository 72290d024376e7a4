"""A mixed load of everything while workers are killed: `ROBUSTMQ_SOAK_S=300` for the long run.

QoS 0, 1 and 2, share groups, retained messages, wills, sessions that come and go and are taken
over, Kafka producers and groups on the same topics; kill -9 of a worker, or of the whole tree, all
the while. Checked against the clients' own records: nothing acknowledged is lost (QoS 1 and 2,
acks=all, wills, retained), QoS 2 comes once, each publisher's topic keeps its order, no
subscription is forgotten, and the processes do not grow.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest

from tests.broker import BrokerProcess, until
from tests.faults.load import (
    KafkaProducer,
    KafkaReader,
    Mortal,
    MqttPublisher,
    MqttSubscriber,
    Roamer,
    disorder,
    doubled,
)
from tests.faults.test_kill import check_kafka, check_mqtt, kafka_name, seed
from tests.mqtt.wire import Wire

MIB = 1 << 20
SECONDS = int(os.environ.get("ROBUSTMQ_SOAK_S", "40"))
WORKERS = int(os.environ.get("ROBUSTMQ_SOAK_WORKERS", "2"))
TREE = os.environ.get("ROBUSTMQ_SOAK_TREE", "1") == "1"
KILL_EVERY_S = 20 if SECONDS > 60 else 8
Q1, Q2 = [f"s/q1/{n}" for n in range(4)], [f"s/q2/{n}" for n in range(4)]
KEPT = [f"kept/{n}" for n in range(8)]
LIGHT = "s/q1/0"
"""Kafka producers and MQTT publishers write to it."""


def sizes(broker: BrokerProcess) -> dict[str, int]:
    """Resident bytes by process."""
    return {
        name: int(psutil.Process(pid).memory_info().rss) for name, pid in broker.processes().items()
    }


def strike(broker: BrokerProcess, choose: random.Random, tree: bool) -> None:
    """Kill -9 of a worker or of all; wait until they serve again."""
    before = broker.worker_pids()
    if tree:
        broker.kill()
        broker.start()
        return
    broker.kill_worker(choose.randrange(broker.workers))
    until(lambda: len(broker.worker_pids()) == broker.workers and broker.worker_pids() != before)


def check_shares(publishers: list[MqttPublisher], members: list[MqttSubscriber]) -> None:
    """Each acknowledged message went to one member at least, QoS 2 to one."""

    def received() -> list[tuple[str, str]]:
        return [row for member in members for row in member.received]

    for publisher in publishers:
        wanted = set(publisher.acked)
        until(lambda: wanted <= set(received()), 60, f"what members get of {publisher.name}")  # noqa: B023
        if publisher.qos == 2:
            mine = [
                payload for _, payload in received() if payload.startswith(publisher.name + " ")
            ]
            assert not doubled(mine), f"QoS 2 to two members: {doubled(mine)[:5]}"


def check_retained(broker: BrokerProcess, publisher: MqttPublisher) -> None:
    """A retained value is the last that was acknowledged, or one that was sent after it."""
    with Wire(broker.mqtt) as wire:
        wire.connect()
        wire.subscribe(b"kept/#", qos=1)
        found = {
            packet.topic.decode(): packet.payload.decode()
            for packet in (wire.receive() for _ in KEPT)
        }
    for topic in KEPT:
        sent = [payload for name, payload in publisher.sent if name == topic]
        acked = [payload for name, payload in publisher.acked if name == topic]
        assert sent.index(found[topic]) >= sent.index(acked[-1]), f"{topic} has an old value"


def check_sizes(grown: list[dict[str, int]]) -> None:
    """Workers have begun anew since; each stays small. The others do not grow."""
    print([{name: size // MIB for name, size in one.items()} for one in grown])
    for name, size in grown[-1].items():
        if "worker" in name:
            assert size < 256 * MIB, f"{name} has {size // MIB} MiB"
        else:
            assert size < grown[0].get(name, size) + 16 * MIB, f"{name} has grown"


class Load:
    """All that runs while workers are killed."""

    def __init__(self, broker: BrokerProcess, choose: random.Random) -> None:
        self.broker = broker
        every = {"s/#": 2, "wills": 1, "kept/+": 1}
        self.wide = MqttSubscriber(broker, "wide", every, 5)
        self.roamer = Roamer(broker, "roamer", {"s/q1/+": 1, "s/q2/+": 2}, choose)
        shared = {"$share/g/s/q1/+": 1, "$share/g/s/q2/+": 2}
        self.members = [MqttSubscriber(broker, f"member-{n}", shared, 5) for n in range(3)]
        self.quick = MqttSubscriber(broker, "quick", {"s/q0/x": 0}, 4)
        self.publishers = [
            MqttPublisher(broker, "least", Q1, 1, 4),
            MqttPublisher(broker, "once", Q2, 2, 5),
        ]
        self.unsure = MqttPublisher(broker, "unsure", ["s/q0/x"], 0, 5)
        self.keeper = MqttPublisher(broker, "keeper", KEPT, 1, 5, retain=True)
        self.mortal = Mortal(broker, "wills")
        self.producers = [
            KafkaProducer(broker, "exactly", kafka_name(LIGHT), 1, True),
            KafkaProducer(broker, "repeats", kafka_name(LIGHT), 1, False),
        ]
        self.reader = KafkaReader(broker, kafka_name(LIGHT))
        until(lambda: self.publishers[0].acked and self.mortal.promised, what="the load")

    def finish(self) -> None:
        """Nothing more is sent; what was is acknowledged."""
        for publisher in (*self.publishers, self.unsure, self.keeper):
            publisher.finish()
        for producer in self.producers:
            producer.finish()
        self.mortal.finish()
        self.roamer.settle()

    def check(self) -> None:
        """What was promised has come, once where once was promised, and in order."""
        self.wide.wait_for(self.mortal.promised)
        self.wide.wait_for(self.keeper.acked)
        for publisher in self.publishers:
            check_mqtt(self.broker, publisher, [self.wide, self.roamer])
        check_shares(self.publishers, self.members)
        check_retained(self.broker, self.keeper)
        sent = [payload for _, payload in self.unsure.sent]
        for subscriber in (self.quick, self.wide):
            got = [payload for topic, payload in subscriber.received if topic == "s/q0/x"]
            assert got, "QoS 0 flows"
            assert not disorder(got, sent), f"{subscriber.name}: QoS 0 is out of order"
            assert not doubled(got), f"{subscriber.name}: QoS 0 twice: {doubled(got)[:5]}"
        for producer in self.producers:
            check_kafka(self.broker, producer, self.wide)
            self.reader.wait_for(set(producer.acked[0]))

    def total(self) -> int:
        """Messages that were acknowledged."""
        mqtt = sum(len(one.acked) for one in (*self.publishers, self.keeper))
        return mqtt + sum(len(one.acked[0]) for one in self.producers)

    def close(self) -> None:
        """The subscribers go."""
        for one in (self.wide, self.roamer, self.quick, *self.members):
            one.close()


@pytest.mark.timeout(SECONDS + 260)
def test_a_mixed_load_survives_kills(tmp_path: Path) -> None:
    chosen = seed()
    print(f"replay with ROBUSTMQ_FAULTS_SEED={chosen}")
    choose = random.Random(chosen)
    with BrokerProcess(tmp_path, WORKERS, STORAGE__CHECKPOINT_BYTES=str(4 * MIB)) as broker:
        load = Load(broker, choose)
        grown: list[dict[str, int]] = []
        end = time.monotonic() + SECONDS
        kills = 0
        while time.monotonic() + KILL_EVERY_S <= end:
            time.sleep(choose.uniform(0.5, 1.5) * KILL_EVERY_S / 2)
            grown.append(sizes(broker))
            strike(broker, choose, TREE and kills % 3 == 2)
            kills += 1
        time.sleep(max(0.0, end - time.monotonic()))
        grown.append(sizes(broker))
        load.finish()
        load.check()
        print(f"{kills} kills, {load.total()} acknowledged, {len(load.mortal.promised)} wills")
        check_sizes(grown)
        load.close()
        assert "Traceback" not in broker.log
        assert broker.stop() == 0
