"""Flow control: who does not read, or sends too much, is slowed by TCP and costs bounded memory;
the others' messages are as quick as before.

On real brokers with small bounds, with one worker and with two, the parties on different workers.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from robustmq.core import batches
from robustmq.mqtt import codec
from robustmq.mqtt.packets import PingReq, Publish, Subscribe, SubscriptionOptions
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.faults.files import WRITE, FaultyFiles
from tests.kafka.wire import SocketClient
from tests.mqtt.wire import Wire, client_id_on, topic_on

MIB = 1 << 20
SETTINGS = {
    "LIMITS__MAX_OUTBOUND_BYTES": str(MIB),
    "LIMITS__MAX_QUEUED_BYTES": str(4 * MIB),
    "LIMITS__MAX_BUS_BYTES": str(4 * MIB),
    "LIMITS__MAX_COMMIT_BYTES": str(8 * MIB),
    "STORAGE__HOT_BYTES": str(8 * MIB),
}
RETAINED = 100_000 if os.environ.get("ROBUSTMQ_TEST_ALL") else 20_000
QUICK_S = 0.3
"""A median round trip on a machine that others use, too; it is 1 ms when it is idle."""

Open = Callable[..., Wire]


@pytest.fixture(scope="module", params=[1, 2])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    """A broker with small bounds."""
    directory = tmp_path_factory.mktemp("flow")
    with BrokerProcess(directory, request.param, **SETTINGS) as process:
        pids = process.worker_pids()
        yield process
        assert process.worker_pids() == pids, "no worker has died"
        assert "Traceback" not in process.log


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Open]:
    """Makes connected clients; `on`: the worker of their session."""
    with ExitStack() as stack:

        def make(on: int = 0, version: int = 5, **options: Any) -> Wire:
            wire = stack.enter_context(Wire(broker.mqtt, version))
            client_id = client_id_on(on, broker.workers, "flow")
            assert wire.connect(client_id, **options).reason_code == 0
            return wire

        yield make


def resident(broker: BrokerProcess) -> int:
    """Resident bytes of all workers."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in broker.worker_pids())


def publishes(topics: list[bytes], size: int, qos: int = 0, retain: bool = False) -> bytes:
    """A PUBLISH packet to each topic; with QoS 1, identifiers from 1 on."""
    return b"".join(
        codec.encode(Publish(topic, bytes(size), qos, retain, False, qos and n), 5)
        for n, topic in enumerate(topics, 1)
    )


def confirmed(wire: Wire, packets: bytes, count: int) -> None:
    """Send so many QoS 1 packets in one write, and wait for their PUBACKs."""
    wire.socket.sendall(packets)
    wire.socket.settimeout(60)
    left = 4 * count
    while left:
        left -= len(wire.socket.recv(left))


def unread(wire: Wire, packets: bytes, times: int) -> int:
    """Send without reading until the broker reads no more, or little; the bytes that it took."""
    wire.socket.settimeout(1)
    taken = 0
    deadline = time.monotonic() + 4
    with suppress(TimeoutError):
        for _ in range(times):
            view = memoryview(packets)
            while view and time.monotonic() < deadline:
                sent = wire.socket.send(view[:65_536])
                taken += sent
                view = view[sent:]
    return taken


def narrow(wire: Wire) -> Wire:
    """The kernel keeps little for it, so the broker soon feels that it does not read."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return wire


class Prober:
    """Somebody else's messages, QoS 0 and QoS 1 in turn, sent and received all the time."""

    def __init__(self, reader: Wire, writer: Wire, topic: bytes) -> None:
        self.trips: list[float] = []
        self._reader, self._writer, self._topic = reader, writer, topic
        reader.subscribe(topic, qos=1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(0.002):
            began = time.monotonic()
            self._writer.publish(self._topic, b"%d" % number, number % 2)
            assert self._reader.receive().payload == b"%d" % number
            self.trips.append(time.monotonic() - began)
            number += 1

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.fixture
def others(client: Open, broker: BrokerProcess) -> Iterator[Prober]:
    """Reader and writer on one worker, their topic on the other; at the end they had no delay."""
    with Prober(client(0), client(0), topic_on(1, broker.workers, "others")) as running:
        yield running
    trips = sorted(running.trips)
    print(f"{len(trips)} round trips: p50 {trips[len(trips) // 2]:.4f}, max {trips[-1]:.4f} s")
    assert statistics.median(trips) < QUICK_S, trips[-5:]


@pytest.mark.usefixtures("others")
def test_subscribers_that_stop_reading_cost_bounded_memory_and_nobody_any_latency(
    broker: BrokerProcess, client: Open
) -> None:
    topic = topic_on(1, broker.workers, "stuck")
    stuck = [narrow(client(n % 2, receive_maximum=65_535)) for n in range(4)]
    stuck += [narrow(client(n % 2, expiry=60, receive_maximum=65_535)) for n in range(2)]
    for number, wire in enumerate(stuck):
        wire.subscribe(b"#" if number < 2 else topic, qos=number % 2)
    writer = client(1)
    before = resident(broker)
    packets = publishes([topic] * 50, 20_000, 1)
    for _ in range(80):
        confirmed(writer, packets, 50)
    grown = resident(broker) - before
    print(f"{grown / MIB:.0f} MiB")
    assert grown < (len(stuck) * 7 + 24) * MIB, "80 MB went to each"


def test_who_asks_and_reads_late_is_answered_then(client: Open) -> None:
    wire = client()
    pings = codec.encode(PingReq(), 5) * 32_768
    taken = unread(wire, pings, 512)
    wire.socket.settimeout(10)
    answered = 0
    while answered < taken - 1:
        answered += len(wire.socket.recv(MIB))
    wire.socket.setblocking(True)
    # The last one may have been cut in the middle when the broker stopped reading.
    wire.socket.sendall(pings[taken % 2 :][:3])
    while answered < taken + 3 - 1:
        answered += len(wire.socket.recv(MIB))


@pytest.mark.usefixtures("others")
def test_a_flood_of_subscribes_holds_nobody_up_and_is_not_buffered(
    broker: BrokerProcess, client: Open
) -> None:
    kept = [topic_on(1, broker.workers, "kept") for _ in range(200)]
    confirmed(client(1), publishes(kept, 5_000, 1, True), 200)
    wire = narrow(client())
    options = SubscriptionOptions(1)
    packets = b"".join(
        codec.encode(Subscribe(1 + n, ((b"#", options), (b"+/%d" % n, options))), 5)
        for n in range(2_000)
    )
    before = resident(broker)
    taken = unread(wire, packets, 100)
    grown = resident(broker) - before
    print(f"{taken} bytes taken, {grown / MIB:.0f} MiB")
    assert grown < 48 * MIB
    confirmed(client(1), publishes(kept, 0, 1, True), 200)


@pytest.mark.usefixtures("others")
def test_a_replay_of_many_retained_messages_waits_for_a_slow_reader(
    broker: BrokerProcess, client: Open
) -> None:
    topics = [b"r/%d" % n for n in range(RETAINED)]
    writer = client(1)
    for first in range(0, len(topics), 1_000):
        confirmed(writer, publishes(topics[first : first + 1_000], 200, 1, True), 1_000)
    before = resident(broker)
    reader = client()
    reader.subscribe(b"r/#", qos=1)
    until(lambda: reader.receive(), what="the first")
    time.sleep(1)
    assert resident(broker) - before < 24 * MIB
    seen = {reader.receive().topic for _ in range(len(topics) - 1)}
    assert len(seen) == len(topics) - 1


@pytest.mark.parametrize("qos", [0, 1])
def test_large_retained_messages_are_read_as_fast_as_the_reader_reads(
    broker: BrokerProcess, client: Open, qos: int
) -> None:
    topics = [b"large/%d" % n for n in range(60)]
    writer = client(1)
    for topic in topics:
        confirmed(writer, publishes([topic], MIB, 1, True), 1)
    before = resident(broker)
    reader = client()
    reader.subscribe(b"large/+", qos=qos)
    time.sleep(0.5)
    grown = resident(broker) - before
    assert {reader.receive().topic for _ in topics} == set(topics)
    assert grown < 24 * MIB
    for topic in topics:
        confirmed(writer, publishes([topic], 0, 1, True), 1)


# -- floods of publishers --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_flood_onto_a_slow_disk_is_slowed_by_tcp_and_not_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, qos: int
) -> None:
    with BrokerProcess(tmp_path, workers, **SETTINGS) as broker:
        # Started with a quick disk, for the shards are made then.
        broker.stop()
        files = FaultyFiles(tmp_path)
        for path in ("/log/", "/segments/"):
            files.set(WRITE, path, bytes_a_second=4 * MIB, number=path == "/log/")
        files.preload(monkeypatch)
        broker.start()
        monkeypatch.undo()
        topic = topic_on(1, workers)
        with Wire(broker.mqtt, 4) as writer:
            writer.connect(client_id_on(0, workers))
            before = resident(broker)
            taken = unread(writer, publishes([topic] * 64, 15_000, qos), 600)
            grown = resident(broker) - before
            print(f"{taken / MIB:.0f} MiB taken, {grown / MIB:.0f} MiB")
            assert taken < 64 * MIB, "it was slowed"
            assert grown < 80 * MIB


def test_a_kafka_flood_to_the_clients_of_a_worker_that_stands_still_is_not_buffered(
    tmp_path: Path,
) -> None:
    with BrokerProcess(tmp_path, 2, **SETTINGS) as broker:
        there = broker.worker_pids()[1]
        topic = topic_on(0, 2)
        batch = batches.build([Record(None, bytes(100_000))], 0)
        data = [
            {
                "name": topic.decode().replace("/", "."),
                "partition_data": [{"index": 0, "records": batch}],
            }
        ]
        with Wire(broker.mqtt) as reader, SocketClient(broker.worker_ports[0]) as kafka:
            reader.connect(client_id_on(1, 2))
            reader.subscribe(topic)
            with Wire(broker.mqtt) as writer:
                writer.connect(client_id_on(0, 2))
                assert writer.publish(topic, b"made", 1) == 0
            before = resident(broker)
            os.kill(there, signal.SIGSTOP)
            try:
                kafka.socket.settimeout(2)
                taken = 0
                with suppress(TimeoutError):
                    while taken < 300:
                        kafka.ask(0, 9, acks=1, timeout_ms=1000, topic_data=data)
                        taken += 1
                print(f"{taken} batches of 100 KB")
                assert taken < 200
                assert resident(broker) - before < 64 * MIB
            finally:
                os.kill(there, signal.SIGCONT)
            assert reader.receive().payload == b"made"
            for _ in range(taken):
                assert len(reader.receive().payload) == 100_000
