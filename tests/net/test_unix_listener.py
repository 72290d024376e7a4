"""MQTT over a UNIX socket: one path for all workers, through their deaths and the node's."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.mqtt import codec
from robustmq.mqtt.packets import ConnAck, Connect, Properties, Publish
from robustmq.net.ways_in import open_unix_listener
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on, topic_on


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("broker")
    config = f"""
[[listener]]
name = "local"
transport = "unix"
bind = ["{directory / "mqtt.sock"}"]
mode = "0600"
"""
    with BrokerProcess(directory, 2, config, METRICS__ENABLED="false") as process:
        yield process
        assert "Traceback" not in process.log


def local(broker: BrokerProcess) -> Wire:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(str(broker.directory / "mqtt.sock"))
    return Wire(0, carrier=sock)


def test_messages_pass_whatever_worker_has_the_session(broker: BrokerProcess) -> None:
    mode = (broker.directory / "mqtt.sock").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    assert f"  mqtt unix local {broker.directory / 'mqtt.sock'}" in broker.said
    for home in (0, 1):
        topic = topic_on(1 - home, 2)
        with local(broker) as reader, local(broker) as writer:
            reader.connect(client_id_on(home, 2))
            reader.subscribe(topic, qos=1)
            writer.connect(client_id_on(1 - home, 2))
            writer.publish(topic, b"x" * 500_000, qos=1)
            assert reader.receive().payload == b"x" * 500_000
            writer.send(b"\x36\x00")
            writer.expect_end(0x81)
    assert '"unix:' in broker.log, "logs name the peer by its process"


def test_a_connect_in_pieces_finds_its_session_and_costs_no_spinning(
    broker: BrokerProcess,
) -> None:
    used = cpu_s(broker)
    for home in (0, 1):
        client_id, topic = client_id_on(home, 2), topic_on(0, 2)
        with local(broker) as first:
            first.connect(client_id, clean_start=False, expiry=60)
            first.subscribe(topic, qos=1)
        for _ in range(2):
            with local(broker) as again:
                lasting = Properties(session_expiry_interval=60)
                packet = Connect(5, client_id, False, 0, properties=lasting)
                connect = codec.encode(packet, 5)
                for at in range(0, len(connect), 5):
                    again.send(bytes(connect[at : at + 5]))
                    time.sleep(0.06)
                assert again.expect(ConnAck).session_present
    assert cpu_s(broker) - used < 1.0


def cpu_s(broker: BrokerProcess) -> float:
    ticks = 0
    for pid in broker.worker_pids():
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def test_the_path_outlives_workers_and_is_replaced_after_a_crash(broker: BrokerProcess) -> None:
    inode = (broker.directory / "mqtt.sock").stat().st_ino
    for worker in (0, 1):
        broker.kill_worker(worker)
        ready = 2 + worker + 1
        until(lambda n=ready: broker.log.count("worker ready") == n, what="it")  # type: ignore[misc]
    for home in (0, 1):
        with local(broker) as client:
            assert client.connect(client_id_on(home, 2)).reason_code == 0
    assert (broker.directory / "mqtt.sock").stat().st_ino == inode
    broker.kill()
    assert (broker.directory / "mqtt.sock").exists(), "nobody could remove it"
    broker.start()
    with local(broker) as client:
        client.connect()
        client.subscribe(b"t")
        client.publish(b"t", b"again")
        assert client.expect(Publish).payload == b"again"
    assert broker.stop() == 0
    assert not (broker.directory / "mqtt.sock").exists()


def test_a_path_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(FileExistsError):
        open_unix_listener(str(file), 0o600, 1)
    assert file.read_text() == "precious"
    path = str(tmp_path / "socket")
    with open_unix_listener(path, 0o600, 1), pytest.raises(OSError, match="somebody listens"):
        open_unix_listener(path, 0o600, 1)
    with open_unix_listener(path, 0o660, 1):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o660
