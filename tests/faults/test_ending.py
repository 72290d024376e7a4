"""Ends and beginnings of real nodes: SIGTERM under load, another number of workers, the edge
profile."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.faults.load import KafkaProducer, MqttPublisher, MqttSubscriber, in_order, read_log

TOPICS = [f"e/{number}" for number in range(6)]


def check(broker: BrokerProcess, publisher: MqttPublisher, subscriber: MqttSubscriber) -> None:
    """Everything acknowledged is in the logs, and came to the subscriber once, in order."""
    subscriber.wait_for(publisher.acked)
    for topic in TOPICS:
        sent = [payload for name, payload in publisher.sent if name == topic]
        (values,) = read_log(broker, topic.replace("/", "."))
        assert values == list(dict.fromkeys(values)), f"{topic}: QoS 2 once in the log"
        assert {p for t, p in publisher.acked if t == topic} <= set(values)
        assert in_order(values, sent)
        got = [payload for name, payload in subscriber.received if name == topic]
        assert got == list(dict.fromkeys(got)) and in_order(got, sent)


@pytest.mark.timeout(120)
def test_sigterm_under_load_drains_within_ten_seconds_and_loses_nothing(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        subscriber = MqttSubscriber(broker, "reader", {"e/+": 2}, 5)
        publisher = MqttPublisher(broker, "writer", TOPICS, 2, 5)
        producer = KafkaProducer(broker, "kafka", "drained", 1, True)
        for _ in range(3):
            time.sleep(0.5)
            begin = time.monotonic()
            assert broker.stop() == 0, "a clean end"
            assert time.monotonic() - begin < 10
            assert "killing it" not in broker.log
            broker.start()
        publisher.finish()
        producer.finish()
        check(broker, publisher, subscriber)
        assert read_log(broker, "drained") == [producer.sent[0]]
        subscriber.close()


@pytest.mark.timeout(120)
def test_sigterm_to_all_processes_at_once_is_a_clean_end_too(tmp_path: Path) -> None:
    """As a service manager does it that knows of no order."""
    with BrokerProcess(tmp_path, 2) as broker:
        subscriber = MqttSubscriber(broker, "reader", {"e/+": 2}, 5)
        publisher = MqttPublisher(broker, "writer", TOPICS, 2, 5)
        for _ in range(2):
            some = len(publisher.acked)
            until(lambda some=some: len(publisher.acked) > some + 100)  # type: ignore[misc]
            for pid in broker.processes().values():
                os.kill(pid, signal.SIGTERM)
            assert broker.stop() == 0, "a clean end"
            assert '"error"' not in broker.log
            broker.start()
        publisher.finish()
        check(broker, publisher, subscriber)
        subscriber.close()


@pytest.mark.timeout(120)
def test_a_data_directory_serves_any_number_of_workers(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path, 2)
    with broker:
        subscriber = MqttSubscriber(broker, "reader", {"e/+": 2}, 5)
        subscriber.close()
        publisher = MqttPublisher(broker, "writer", TOPICS, 2, 5)
        for workers, ends_clean in ((1, True), (3, False), (2, True)):
            time.sleep(0.3)
            if ends_clean:
                assert broker.stop() == 0
            else:
                broker.kill()
            broker.workers = workers
            broker.start()
            assert len(broker.worker_pids()) == workers
        publisher.finish()
        back = MqttSubscriber(broker, "reader", {}, 5)
        back.received[:0] = subscriber.received
        check(broker, publisher, back)
        back.close()


@pytest.mark.timeout(60)
def test_the_edge_profile_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 1, NODE__PROFILE="edge") as broker:
        assert broker.processes() == {}, "everything in one process"
        subscriber = MqttSubscriber(broker, "reader", {"e/+": 2}, 5)
        publisher = MqttPublisher(broker, "writer", TOPICS, 2, 5)
        for _ in range(2):
            time.sleep(0.3)
            broker.kill()
            broker.start()
        publisher.finish()
        check(broker, publisher, subscriber)
        subscriber.close()
        assert broker.stop() == 0


def test_all_files_of_a_node_are_for_its_owner_alone(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        publisher = MqttPublisher(broker, "writer", TOPICS, 1, 4)
        until(lambda: len(publisher.acked) > 20)
        publisher.finish()
        assert broker.stop() == 0
    files = [path for path in broker.data.rglob("*") if path.is_file()]
    assert len(files) > 20
    open_to_others = [f for f in files if stat.S_IMODE(f.stat().st_mode) & 0o077]
    assert open_to_others == []
