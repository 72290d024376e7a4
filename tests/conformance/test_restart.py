"""What MQTT promises over the death of a worker or of the whole broker (MQTT 5.0 section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.mqtt.packets import Ack, Disconnect, Properties, Publish, Will
from tests.broker import BrokerProcess, until
from tests.conformance.conftest import Names
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, PUBREL, Closed, Wire

DAY = 86_400
KINDS = ["kill", "stop"]


@pytest.fixture(params=[2, 1], ids=["2 workers", "1 worker"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of the test's own."""
    with BrokerProcess(tmp_path, request.param, MQTT__SYS_INTERVAL_S="0") as process:
        yield process


def again(broker: BrokerProcess, kind: str) -> None:
    """End the broker and start it on what it has left."""
    if kind == "kill":
        broker.kill()
        broker.start()
    else:
        broker.restart()


def connected(broker: BrokerProcess, client_id: bytes, **options: object) -> Wire:
    """A connection that resumes a session, as soon as its worker is there."""
    found: list[Wire] = []

    def attempt() -> bool:
        client = Wire(broker.mqtt)
        try:
            if client.connect(client_id, False, **options).reason_code == 0:  # type: ignore[arg-type]
                found.append(client)
                return True
        except (Closed, OSError):
            pass
        client.drop()
        return False

    until(attempt, what="a connection")
    return found[0]


@pytest.mark.mqtt(
    "MQTT-4.1.0-1",
    "MQTT-3.3.2-4",
    "MQTT-3.3.2-5",
    "MQTT-3.3.2-6",
    "MQTT-3.3.2-15",
    "MQTT-3.3.2-16",
    "MQTT-3.3.2-17",
    "MQTT-3.3.2-18",
    "MQTT-3.3.2-20",
)
@pytest.mark.parametrize("kind", KINDS)
def test_retained_and_queued_messages_stay_over_a_restart(mortal: BrokerProcess, kind: str) -> None:
    names = Names(mortal.workers)
    topics = [names.topic(at) for at in range(6)]
    properties = Properties(
        payload_format_indicator=1,
        content_type="text/plain",
        response_topic=b"answer/here",
        correlation_data=b"\x00\xff",
        user_properties=(("a", "1"), ("a", "2")),
    )
    sleeper_id, queue = names.client(1), names.topic(0)
    with Wire(mortal.mqtt) as sleeper:
        sleeper.connect(sleeper_id, expiry=DAY)
        sleeper.subscribe(queue, qos=1)
        sleeper.disconnect()
    with Wire(mortal.mqtt) as publisher:
        publisher.connect(names.client(0))
        for topic in topics:
            publisher.send(Publish(topic, b"old", 0, True))
            publisher.send(Publish(topic, topic, 1, True, False, 1, properties))
            publisher.expect_ack(PUBACK)
        publisher.publish(topics[0], b"", 1, True)
        publisher.publish(topics[1], b"short", 1, True, message_expiry_interval=1)
        publisher.publish(topics[2], b"long", 1, True, message_expiry_interval=1000)
        publisher.publish(queue, b"short", 1, message_expiry_interval=1)
        publisher.publish(queue, b"long", 1, message_expiry_interval=1000)
        publisher.send(Publish(queue, b"rich", 1, packet_id=1, properties=properties))
        publisher.expect_ack(PUBACK)
    time.sleep(1.1)
    again(mortal, kind)
    with Wire(mortal.mqtt) as client:
        client.connect(names.client(1))
        client.subscribe(*topics, qos=1)
        got = {}
        for _ in topics[2:]:
            packet = client.receive()
            got[packet.topic] = packet
        assert got.keys() == set(topics[2:])
        assert all(packet.retain and packet.qos == 1 for packet in got.values())
        long = got.pop(topics[2])
        assert 900 < (long.properties.message_expiry_interval or 0) < 1000
        for topic, packet in got.items():
            assert packet.payload == topic
            assert packet.properties == properties
        client.expect_nothing()
    with connected(mortal, sleeper_id, expiry=DAY) as sleeper:
        long = sleeper.receive()
        assert long.payload == b"long"
        assert 900 < (long.properties.message_expiry_interval or 0) < 1000
        rich = sleeper.receive()
        assert (rich.payload, rich.properties) == (b"rich", properties)
        sleeper.expect_nothing()


@pytest.mark.mqtt("MQTT-4.1.0-1", "MQTT-3.1.2-23", "MQTT-4.3.3-10")
@pytest.mark.parametrize("kind", KINDS)
def test_persistent_sessions_go_on_after_a_restart(mortal: BrokerProcess, kind: str) -> None:
    names = Names(mortal.workers)
    client_id, publisher_id = names.client(1), names.client(0)
    topic, other = names.topic(0), names.topic(1)
    client, publisher = Wire(mortal.mqtt), Wire(mortal.mqtt)
    client.connect(client_id, expiry=DAY, receive_maximum=5)
    client.subscribe(topic, qos=2, identifier=9)
    client.subscribe(other, qos=1, no_local=True)
    client.subscribe(topic + b"/gone")
    client.unsubscribe(topic + b"/gone")
    publisher.connect(publisher_id, expiry=DAY)
    for number in range(20):
        publisher.publish(topic, b"%d" % number, 1 + number % 2)
    unfinished = Publish(topic, b"unfinished", 2, packet_id=99)
    publisher.send(unfinished)
    publisher.expect_ack(PUBREC, 99)
    first = [client.expect(Publish) for _ in range(5)]
    assert [packet.payload for packet in first] == [b"0", b"1", b"2", b"3", b"4"]
    client.send(Ack(PUBACK, first[0].packet_id), Ack(PUBREC, first[1].packet_id))
    client.wait_for(Ack, PUBREL)
    client.send(Ack(PUBREC, first[3].packet_id))
    client.wait_for(Ack, PUBREL)
    client.send(Ack(PUBCOMP, first[3].packet_id))
    client.wait_for(Publish)
    # SUBACK comes after the commit of all that the session was told before it.
    client.subscribe(other, qos=1, no_local=True)
    again(mortal, kind)
    publisher = connected(mortal, publisher_id, expiry=DAY)
    publisher.send(Publish(topic, b"unfinished", 2, dup=True, packet_id=99))
    publisher.expect_ack(PUBREC, 99)
    publisher.send(Ack(PUBREL, 99))
    assert publisher.expect_ack(PUBCOMP, 99).reason_code == 0
    publisher.publish(topic + b"/gone", b"unsubscribed", 1)
    client = connected(mortal, client_id, expiry=DAY, receive_maximum=5)
    client.expect_ack(PUBREL, first[1].packet_id)
    client.send(Ack(PUBCOMP, first[1].packet_id))
    got = [client.receive() for _ in range(18)]
    assert all(packet.properties.subscription_identifiers == (9,) for packet in got)
    by_qos = {qos: [p.payload for p in got if p.qos == qos] for qos in (1, 2)}
    rest = [b"%d" % number for number in range(20)]
    # The PUBACK of 0 may not have been written before a kill: QoS 1 comes once more then.
    assert by_qos[1][-9:] == [name for name in rest[2:] if int(name) % 2 == 0]
    assert by_qos[2] == [name for name in rest[5:] if int(name) % 2] + [b"unfinished"]
    client.publish(other, b"own", 1)
    client.expect_nothing()
    publisher.publish(other, b"foreign", 1)
    assert client.receive().payload == b"foreign"
    client.drop()
    publisher.drop()


@pytest.mark.mqtt("MQTT-3.1.2-8")
def test_the_will_of_a_client_goes_when_the_broker_was_killed_under_it(
    mortal: BrokerProcess,
) -> None:
    names = Names(mortal.workers)
    topic, watcher_id = names.topic(1), names.client(1)
    with Wire(mortal.mqtt) as watcher:
        watcher.connect(watcher_id, expiry=DAY)
        watcher.subscribe(topic, qos=2)
    client = Wire(mortal.mqtt)
    client.connect(names.client(0), expiry=DAY, will=Will(topic, b"gone", 1, True))
    delayed = Wire(mortal.mqtt)
    waits = Properties(will_delay_interval=2)
    delayed.connect(names.client(0), expiry=DAY, will=Will(topic, b"later", 1, True, waits))
    delayed.drop()
    again(mortal, "kill")
    watcher = connected(mortal, watcher_id, expiry=DAY)
    # When the start takes longer than the delay, both are due.
    assert {watcher.receive().payload for _ in range(2)} == {b"gone", b"later"}
    watcher.drop()


def test_an_expired_session_is_gone_after_a_restart_and_others_keep_their_time(
    mortal: BrokerProcess,
) -> None:
    names = Names(mortal.workers)
    short, long = names.client(0), names.client(1)
    for client_id, expiry in ((short, 1), (long, 100)):
        with Wire(mortal.mqtt) as client:
            client.connect(client_id, expiry=expiry)
            client.subscribe(names.topic(0), qos=1)
            client.disconnect()
    time.sleep(1.2)
    again(mortal, "kill")
    with Wire(mortal.mqtt) as client:
        assert not client.connect(short, False, expiry=1).session_present
    with Wire(mortal.mqtt) as client:
        assert client.connect(long, False, expiry=100).session_present


def test_publishers_and_subscribers_outlive_the_death_of_any_worker(tmp_path: Path) -> None:
    names = Names(2)
    with BrokerProcess(tmp_path, 2, MQTT__SYS_INTERVAL_S="0") as broker:
        topics = [names.topic(0), names.topic(1)]
        subscribers = {names.client(at): set[bytes]() for at in (0, 1)}
        for client_id in subscribers:
            with Wire(broker.mqtt) as client:
                client.connect(client_id, expiry=DAY)
                client.subscribe(*topics, qos=2)
        publisher_ids = [names.client(0), names.client(1)]
        sent: list[bytes] = []
        for round_ in range(4):
            for publisher_id in publisher_ids:
                publisher = connected(broker, publisher_id, expiry=DAY)
                for number in range(25):
                    payload = b"%d %b %d" % (round_, publisher_id, number)
                    publisher.publish(topics[number % 2], payload, 1 + number % 2)
                    sent.append(payload)
                publisher.drop()
            before = broker.worker_pids()
            broker.kill_worker(round_ % 2)
            until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids() != before)  # noqa: B023
        for client_id, got in subscribers.items():
            client = connected(broker, client_id, expiry=DAY)
            while len(got) < len(sent):
                packet = client.receive()
                assert packet.qos == 1 or packet.payload not in got
                got.add(packet.payload)
            assert got == set(sent)
            client.drop()


def test_a_broker_that_shuts_down_says_so_and_publishes_the_wills(mortal: BrokerProcess) -> None:
    names = Names(mortal.workers)
    topic, watcher_id = names.topic(1), names.client(1)
    with Wire(mortal.mqtt) as watcher:
        watcher.connect(watcher_id, expiry=DAY)
        watcher.subscribe(topic, qos=2)
    client, old = Wire(mortal.mqtt), Wire(mortal.mqtt, 4)
    client.connect(names.client(0), will=Will(topic, b"gone", 1))
    old.connect(names.client(1), will=Will(topic, b"gone too", 2))
    for number in range(200):
        client.send(Publish(topic, b"%d" % number, 1, packet_id=number + 1))
    client.expect_ack(PUBACK)
    assert mortal.stop() == 0
    acked = 1
    while isinstance(packet := client.read(), Ack):
        acked += 1
    assert packet == Disconnect(0x8B)
    client.expect_end()
    old.expect_end()
    mortal.start()
    watcher = connected(mortal, watcher_id, expiry=DAY)
    got: list[bytes] = []
    while not {b"gone", b"gone too"} <= set(got):
        got.append(watcher.receive().payload)
    assert got[:acked] == [b"%d" % number for number in range(acked)]
    watcher.drop()
