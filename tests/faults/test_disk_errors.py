"""A disk that fails under a running broker (files.py): a worker that cannot write or sync ends and
recovery decides, nothing acknowledged is lost; a read that fails gets the protocol's error, and all
else is served; a disk that is full after all is waited out.
"""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.core import batches
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.faults.files import OPEN, READ, SYNC, WRITE, FaultyFiles
from tests.faults.load import KafkaProducer, MqttPublisher, MqttSubscriber
from tests.faults.test_full_disk import Answers, produce
from tests.faults.test_kill import check_kafka, check_mqtt
from tests.kafka.wire import SocketClient

STORAGE_ERROR = 56


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyFiles:
    """The files of every broker that the test starts."""
    files = FaultyFiles(tmp_path)
    files.preload(monkeypatch)
    return files


def fetch(broker: BrokerProcess, worker: int, topic: str) -> tuple[int, bytes]:
    """(error, records) of a topic from its beginning."""
    asked = [{"topic": topic, "partitions": [_asked()]}]
    with SocketClient(broker.worker_ports[worker]) as kafka:
        answer: Any = kafka.ask(
            1, 11, max_wait_ms=0, min_bytes=0, max_bytes=1 << 20, topics=asked, session_epoch=-1
        )
        partition = answer.responses[0].partitions[0]
        return int(partition.error_code), b"".join(map(bytes, partition.records or ()))


def _asked() -> dict[str, int]:
    return {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("calls", "error", "path"),
    [
        (SYNC, errno.EIO, "/log/"),
        (SYNC, errno.EIO, "/segments/"),
        (WRITE, errno.EROFS, "/segments/"),
    ],
)
def test_a_disk_that_cannot_write_ends_the_worker_and_recovery_loses_nothing(
    tmp_path: Path, files: FaultyFiles, calls: int, error: int, path: str
) -> None:
    with BrokerProcess(tmp_path, 2, STORAGE__SYNC="disk") as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic("orders", 2)])["orders"].result(30)
        wide = MqttSubscriber(broker, "wide", {"d/#": 2, "orders": 1}, 5)
        once = MqttPublisher(broker, "once", [f"d/{n}" for n in range(4)], 2, 5)
        exactly = KafkaProducer(broker, "exactly", "orders", 2, True)
        until(lambda: once.acked and exactly.acked[0] and exactly.acked[1])
        workers = broker.worker_pids()
        with files.failing(calls, path, error):
            for worker in range(2 if (calls, path) == (SYNC, "/segments/") else 0):
                # They sync a file of a partition when they have first written to it.
                broker.kill_worker(worker)
            until(lambda: broker.log.count("the disk failed") >= 2, what="the ends of workers")
            until(lambda: files.hits() >= 4, 20, "more tries")
            tries = broker.log.count("a process died")
        assert tries <= 12, "they are not started again in a loop"
        until(lambda: len(set(broker.worker_pids()) - set(workers)) >= 1)
        count = len(once.acked)
        until(lambda: len(once.acked) > count + 50, 40, "messages behind it")
        once.finish()
        exactly.finish()
        check_mqtt(broker, once, [wide])
        check_kafka(broker, exactly, wide)
        wide.close()
        assert "Traceback" not in broker.log
        assert broker.stop() == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_read_that_fails_gets_the_protocols_error_and_the_rest_is_served(
    tmp_path: Path, files: FaultyFiles, workers: int
) -> None:
    with BrokerProcess(tmp_path, workers) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic("declared", 1)])["declared"].result(30)
        away = MqttSubscriber(broker, "away", {"full/#": 1}, 5)
        away.close()
        assert produce(broker, "light", 20_000) is None
        records = batches.build([Record(None, b"declared")], 0)
        data = [{"name": "declared", "partition_data": [{"index": 0, "records": records}]}]
        with SocketClient(broker.kafka) as kafka:
            kafka.ask(0, 9, acks=-1, timeout_ms=1000, topic_data=data)
        # What is in memory needs no disk.
        broker.restart()
        running = broker.worker_pids()
        for topic, path in (("full.k", "/log/"), ("declared", "/segments/")):
            files.set(READ, path, errno.EIO)
            until(lambda: fetch(broker, 0, topic)[0] == STORAGE_ERROR, what="the error")  # noqa: B023
            other = {"full.k": "declared", "declared": "full.k"}[topic]
            assert fetch(broker, 0, other)[0] == 0, "the rest is served"
            assert broker.metric("robustmq_storage_read_errors_total")
            files.clear()
            error, found = fetch(broker, 0, topic)
            assert not error and found, "it is read again"
        assert broker.log.count("cannot be read") == 2, "a line a file"
        files.set(READ, "/log/", errno.EIO)
        back = MqttSubscriber(broker, "away", {}, 5)
        until(lambda: back.connects > 1, what="the end of the connection")
        assert not back.received
        files.clear()
        back.wait_for([("full/k", "light")])
        back.close()
        assert broker.worker_pids() == running and "Traceback" not in broker.log


@pytest.mark.timeout(60)
def test_a_disk_that_is_full_though_it_said_it_has_room_is_waited_out(
    tmp_path: Path, files: FaultyFiles
) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        answers = Answers(broker)
        assert answers.publish("before") in (0, 0x10)
        workers = broker.worker_pids()
        files.set(WRITE, "/log/", errno.ENOSPC)
        first = Answers(broker)
        waiting = first.client.publish("full/a", "waited", 1).mid
        for number in range(16):
            first.client.publish(f"full/{number}", "waited", 1)
        until(lambda: broker.log.count("the disk is full") == 2, what="both workers")
        until(lambda: answers.publish("refused") == 0x97, what="a refusal by MQTT")
        refused = produce(broker, "refused", 3_000)
        while refused is None:
            refused = produce(broker, "refused", 3_000)
        assert isinstance(refused, KafkaError)
        assert fetch(broker, 0, "full.a")[0] == 0, "what is there is read"
        files.clear()
        until(lambda: waiting in first.codes, what="the answer to what waited")
        until(lambda: answers.publish("behind") in (0, 0x10))
        assert broker.worker_pids() == workers


@pytest.mark.timeout(60)
def test_a_disk_that_is_read_only_is_refused_with_what_to_do(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.xfail("only root may mount")
    try:
        with BrokerProcess(place, 1) as broker:
            assert broker.stop() == 0
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            broker.log_file = tmp_path / "log.jsonl"
            with pytest.raises(AssertionError, match="ended at its start"):
                broker.start()
            assert "Read-only file system; mount it for writing" in broker.log
            assert "Traceback" not in broker.log
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.timeout(60)
def test_a_worker_that_cannot_write_at_its_start_says_so_and_is_not_started_in_a_loop(
    tmp_path: Path, files: FaultyFiles
) -> None:
    with BrokerProcess(tmp_path, 1) as broker:
        broker.kill_worker(0)
        with files.failing(OPEN, "/0000/", errno.EROFS):
            until(lambda: broker.log.count("the disk or the system failed") >= 3)
            assert broker.log.count("a process died") <= 6
        until(lambda: broker.log.count('"worker ready"') == 2)
        assert Answers(broker).publish("x") in (0, 0x10)
        assert "Traceback" not in broker.log
