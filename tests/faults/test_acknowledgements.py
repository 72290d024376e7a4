"""What an acknowledgement waits for in each storage mode, on a disk whose writes or fdatasyncs take
long: both protocols, light and declared topics (design, section 6).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.mqtt.packets import PacketType, Publish
from robustmq.storage.segment import COPIED_BYTES
from tests.broker import BrokerProcess
from tests.faults.files import SYNC, WRITE, FaultyFiles
from tests.mqtt.wire import Wire

WAIT_S = 0.4
CONFIG = """
[storage]
sync = "{sync}"
""" + "".join(
    f'[[storage.rules]]\nfilter = "{mode}/#"\nmode = "{mode}"\n'
    for mode in ("memory", "hybrid", "persistent")
)
TOPICS = [f"{mode}/{kind}" for mode in ("memory", "hybrid", "persistent") for kind in "ld"]


def seconds(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def producing(broker: BrokerProcess, topic: str, acks: str) -> Callable[[], None]:
    name = topic.replace("/", ".")
    producer = Producer(
        {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "acks": acks, "linger.ms": 0}
    )
    producer.list_topics(name, 10)

    def produce() -> None:
        producer.produce(name, b"x")
        assert not producer.flush(20)

    return produce


@pytest.mark.timeout(120)
@pytest.mark.parametrize("sync", ["os", "disk"])
def test_each_mode_waits_for_what_it_says_and_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    files = FaultyFiles(tmp_path)
    files.preload(monkeypatch)
    with BrokerProcess(tmp_path, 1, CONFIG.format(sync=sync)) as broker:
        monkeypatch.undo()
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        declared = [NewTopic(name.replace("/", "."), 1) for name in TOPICS if name.endswith("d")]
        for made in admin.create_topics(declared).values():
            made.result(20)
        with Wire(broker.mqtt) as client:
            client.connect(b"c")
            for topic in TOPICS:
                client.publish(topic.encode(), b"made", 1)

            def slowly(calls: int, act: Callable[[], object], slow: bool) -> bool:
                """Does it wait for the disk? All that came before is committed. On a machine that
                is busy a quick one may be slow, but not every time."""
                for _ in range(1 if slow else 4):
                    files.clear()
                    client.publish(b"hybrid/l", b"before", 1)
                    files.set(calls, "/log/", wait_s=WAIT_S)
                    if seconds(act) < WAIT_S * 0.9:
                        return False
                return True

            for calls, waits in ((SYNC, {"persistent"}), (WRITE, {"hybrid", "persistent"})):
                waiting = {"hybrid", "persistent"} if sync == "disk" else waits
                for topic in TOPICS:
                    slow = topic.split("/")[0] in waiting
                    for qos in (1, 2):
                        publish = partial(client.publish, topic.encode(), b"x", qos)
                        assert slowly(calls, publish, slow) == slow, (calls, topic, qos)
                    produce = producing(broker, topic, "all")
                    assert slowly(calls, produce, slow) == slow, (calls, topic)
                    produce = producing(broker, topic, "1")
                    slow = slow and topic.startswith("persistent")
                    assert slowly(calls, produce, slow) == slow, (calls, topic)
                    produce = producing(broker, topic, "0")
                    assert not slowly(calls, produce, False), (calls, topic)
            files.clear()


@pytest.mark.timeout(60)
def test_an_acknowledgement_waits_for_the_log_and_where_that_has_no_copy_for_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes at once is synced together, and none hears before its own files are."""
    files = FaultyFiles(tmp_path)
    files.preload(monkeypatch)
    with BrokerProcess(tmp_path, 1, CONFIG.format(sync="os")) as broker:
        monkeypatch.undo()
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        topics = [b"persistent/d%d" % number for number in range(6)]
        declared = [NewTopic(name.decode().replace("/", "."), 1) for name in topics]
        for made in admin.create_topics(declared).values():
            made.result(20)
        clients = [Wire(broker.mqtt) for _ in topics]
        for client, topic in zip(clients, topics, strict=True):
            client.connect(topic[-2:])
            client.publish(topic, b"made", 1)
        files.set(SYNC, "/segments/", wait_s=WAIT_S)
        for topic in (b"persistent/l", topics[0]):
            small = min(seconds(partial(clients[0].publish, topic, b"x", 1)) for _ in "1234")
            assert small < WAIT_S * 0.9, "it has no such file, or the log has a copy"
        for path, payload in (("/log/", b"small"), ("/segments/", bytes(COPIED_BYTES))):
            files.clear()
            files.set(SYNC, path, wait_s=WAIT_S)
            began = time.monotonic()
            for client, topic in zip(clients, topics, strict=True):
                client.send(Publish(topic, payload, 1, packet_id=900))
            for client in clients:
                client.expect_ack(PacketType.PUBACK, 900)
                assert time.monotonic() - began > WAIT_S * 0.9, path
        files.clear()
        synced = files.synced()
        for client in clients:
            client.drop()
        logs = [path for path in broker.data.rglob("*.log") if "/segments/" in str(path)]
        assert len(logs) == len(topics)
        for log in logs:
            assert synced[str(log)] == log.stat().st_size > 0, "all of it was acknowledged"
