"""kill -9 of a random worker or of the whole tree, again and again, under load from both protocols.

What was acknowledged is found exactly where it should be: in the log by a Kafka consumer, in the
persistent sessions by their MQTT subscribers, in order; QoS 2 and idempotent producers exactly
once; offsets dense. `ROBUSTMQ_FAULTS_SEED=n` replays the choices of a run (not its timing).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.broker import BrokerProcess, until
from tests.faults.load import (
    SETTLE_S,
    KafkaProducer,
    MqttMember,
    MqttPublisher,
    MqttSubscriber,
    disorder,
    doubled,
    in_order,
    read_log,
)

ROUNDS = 100 if os.environ.get("ROBUSTMQ_TEST_ALL") else 20
PARTITIONS = 3
Q1, Q2 = [f"f/q1/{n}" for n in range(4)], [f"f/q2/{n}" for n in range(4)]


def seed() -> int:
    return int(os.environ.get("ROBUSTMQ_FAULTS_SEED") or random.SystemRandom().randrange(10_000))


def kafka_name(topic: str) -> str:
    return topic.replace("/", ".")


def strike(broker: BrokerProcess, choose: random.Random) -> None:
    """One round: kill something, and wait until all workers serve again."""
    time.sleep(choose.uniform(0.2, 0.8))
    before = broker.worker_pids()
    if choose.random() < 0.35:
        broker.kill()
        broker.start()
    else:
        broker.kill_worker(choose.randrange(broker.workers))
        until(
            lambda: len(broker.worker_pids()) == broker.workers and broker.worker_pids() != before
        )


def check_mqtt(broker: BrokerProcess, publisher: MqttPublisher, seen: list[MqttSubscriber]) -> None:
    """What an MQTT publisher was promised, in the log and at each subscriber."""
    for subscriber in seen:
        subscriber.wait_for(publisher.acked)
    for topic in publisher.topics:
        sent = [payload for t, payload in publisher.sent if t == topic]
        (values,) = read_log(broker, kafka_name(topic))
        lost = {payload for t, payload in publisher.acked if t == topic} - set(values)
        assert not lost, f"acked and not in the log of {topic}: {sorted(lost)[:5]}"
        assert in_order(values, sent), f"the log of {topic} is out of order"
        if publisher.qos == 2:
            assert not doubled(values), f"QoS 2 twice in the log of {topic}: {doubled(values)[:5]}"
        for subscriber in seen:
            got = [payload for t, payload in subscriber.received if t == topic]
            assert in_order(got, sent), f"{subscriber.name}: {topic} is out of order"
            if publisher.qos == 2:
                assert not doubled(got), f"{subscriber.name}: QoS 2 twice: {doubled(got)[:5]}"


def check_group(
    publishers: list[MqttPublisher], members: list[MqttSubscriber], steady: bool
) -> None:
    """What a share group was promised: at QoS 1 some member got each message, at QoS 2 one; a QoS 2
    message that a session took with it to its end is lost [MQTT-4.8.2-5]."""

    def missing() -> set[tuple[str, str]]:
        got = {row for member in members for row in list(member.received)}
        wanted = [one.acked for one in publishers if steady or one.qos == 1]
        return {row for rows in wanted for row in rows} - got

    until(lambda: not missing(), SETTLE_S, f"{members[0].name}'s group: {sorted(missing())[:5]}")
    got = [payload for member in members for _, payload in member.received]
    twice = doubled([one for one in got if one.startswith(("once ", "old-once "))])
    assert not twice, f"QoS 2 twice to the group of {members[0].name}: {twice[:5]}"


def check_kafka(
    broker: BrokerProcess, producer: KafkaProducer, seen: MqttSubscriber, ordered: bool = True
) -> None:
    """What a Kafka producer was promised, in the log and at an MQTT subscriber. `ordered`: it was
    refused nothing, or numbers its batches: then its records are in the order of sending."""
    logged = read_log(broker, producer.topic, len(producer.sent))
    for partition, values in enumerate(logged):
        sent, acked = producer.sent[partition], producer.acked[partition]
        mine = [value for value in values if value.startswith(producer.name + " ")]
        assert set(acked) <= set(mine), f"acked and not in the log: {set(acked) - set(mine)}"
        wrong = disorder(mine, sent)
        if wrong:
            print(f"{producer.name} in {producer.topic} {partition} is out of order: {wrong[:5]}")
        assert not (ordered and wrong), f"{producer.topic} {partition} is out of order"
        if producer.idempotent:
            assert mine == sent, f"{producer.name} is not exactly once: {doubled(mine)[:5]}"
    topic = producer.topic.replace(".", "/")
    seen.wait_for([(topic, value) for values in producer.acked.values() for value in values])


@pytest.mark.timeout(240)
def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    chosen = seed()
    print(f"replay with ROBUSTMQ_FAULTS_SEED={chosen}")
    choose = random.Random(chosen)
    with BrokerProcess(tmp_path, 2) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic("orders", PARTITIONS)])["orders"].result(30)
        wide = MqttSubscriber(broker, "wide", {"f/#": 2, "orders": 1, "light": 1}, 5)
        exact = MqttSubscriber(broker, "exact", dict.fromkeys(Q1[:2] + Q2[:2], 2), 4)
        away = MqttSubscriber(broker, "away", {"f/q1/+": 1, "f/q2/+": 2}, 5)
        away.close()
        groups = [
            [MqttSubscriber(broker, f"steady-{n}", {"$share/steady/f/#": 2}, 5) for n in range(3)],
            [
                MqttSubscriber(broker, "stays", {"$share/changing/f/#": 2}, 5),
                *(MqttMember(broker, f"passes-{n}", "$share/changing/f/#") for n in range(2)),
            ],
        ]
        publishers = [
            MqttPublisher(broker, "once", Q2, 2, 5),
            MqttPublisher(broker, "old-once", Q2, 2, 4),
            MqttPublisher(broker, "least", Q1, 1, 4),
        ]
        producers = [
            KafkaProducer(broker, "exactly", "orders", PARTITIONS, True),
            KafkaProducer(broker, "repeats", "orders", PARTITIONS, False),
            KafkaProducer(broker, "lightly", "light", 1, True),
        ]
        for _ in range(ROUNDS):
            strike(broker, choose)
        for publisher in publishers:
            publisher.finish()
        for producer in producers:
            producer.finish()
        back = MqttSubscriber(broker, "away", {}, 5)
        back.received[:0] = away.received
        for publisher in publishers:
            check_mqtt(broker, publisher, [wide, back])
            few = [row for row in publisher.acked if row[0] in Q1[:2] + Q2[:2]]
            exact.wait_for(few)
        check_group(publishers, groups[0], True)
        check_group(publishers, groups[1], False)
        for producer in producers:
            check_kafka(broker, producer, wide)
        for subscriber in (wide, exact, back, *groups[0], *groups[1]):
            subscriber.close()
        total = sum(len(p.acked) for p in publishers)
        total += sum(len(v) for p in producers for v in p.acked.values())
        print(f"{total} messages acknowledged")
        assert total > 20 * ROUNDS, "the load ran all the time"
        assert broker.stop() == 0
