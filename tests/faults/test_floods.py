"""Too much of everything: half connections, connections, messages to a worker that stands still."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from robustmq.mqtt import codec
from robustmq.mqtt.packets import Publish
from tests.broker import BrokerProcess, until
from tests.kafka.wire import SocketClient
from tests.mqtt.wire import Closed, Wire, client_id_on, topic_on

KIB, MIB = 1 << 10, 1 << 20


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def sockets(pid: int) -> int:
    """Open sockets of a process."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # Some are closed while we look.
        with suppress(FileNotFoundError):
            found += str(link.readlink()).startswith("socket:")
    return found


def files_allowed(wanted: int) -> int:
    """As many open files as are wanted, or as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return wanted


def test_ten_thousand_half_connections_cost_little_and_are_ended_though_some_go_on_byte_by_byte(
    tmp_path: Path,
) -> None:
    count = files_allowed(10_500) - 500
    with (
        BrokerProcess(tmp_path, 2, LIMITS__CONNECT_TIMEOUT_MS="5000") as broker,
        ExitStack() as stack,
    ):
        pids = broker.worker_pids()
        before = [(resident(pid), sockets(pid)) for pid in pids]
        began = time.monotonic()
        half = []
        for number in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", broker.mqtt), 10))
            sock.sendall(b"\x10\x40\x00\x04MQTT\x05"[: number % 10])
            half.append(sock)
        with Wire(broker.mqtt) as other:
            other.connect(b"other")
            assert other.publish(b"t", b"", 1) == 0
        if time.monotonic() - began < 4.5:
            grown = sum(resident(pid) for pid in pids) - sum(size for size, _ in before)
            assert grown < count * 4 * KIB
        slow = half[-20:]

        def ended() -> bool:
            for sock in slow:
                with suppress(OSError):
                    sock.send(b"\0")
            # A way to each other worker's mailbox is opened by the first connection handed over.
            ways = len(pids) - 1
            return all(
                sockets(pid) <= had + ways for pid, (_, had) in zip(pids, before, strict=True)
            )

        until(ended, 15, "the end of the half connections")
        assert broker.worker_pids() == pids


def test_connections_beyond_the_bound_are_closed_and_a_place_that_is_left_is_given_again(
    tmp_path: Path,
) -> None:
    with (
        BrokerProcess(tmp_path, 1, LIMITS__MAX_CONNECTIONS="3") as broker,
        Wire(broker.mqtt) as first,
        Wire(broker.mqtt) as second,
        SocketClient(broker.kafka) as third,
    ):
        first.connect(b"1")
        second.connect(b"2")
        third.ask(18, 3, client_software_name="c", client_software_version="1")
        with Wire(broker.mqtt) as beyond, pytest.raises((Closed, ConnectionError)):
            beyond.connect(b"3")
        first.disconnect()

        def let_in() -> bool:
            with Wire(broker.mqtt) as again:
                try:
                    return again.connect(b"4").reason_code == 0
                except (Closed, ConnectionError):
                    return False

        until(let_in, 5, "a free place")


def test_a_flood_to_a_worker_that_stands_still_is_slowed_by_tcp_and_not_buffered(
    tmp_path: Path,
) -> None:
    settings = {
        "LIMITS__MAX_BUS_BYTES": str(4 * MIB),
        "LIMITS__MAX_COMMIT_BYTES": str(8 * MIB),
    }
    with BrokerProcess(tmp_path, 2, **settings) as broker:
        here, there = broker.worker_pids()
        topic = topic_on(1, 2)
        with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
            reader.connect(client_id_on(0, 2))
            reader.subscribe(topic)
            writer.connect(client_id_on(0, 2))
            packets = b"".join(
                codec.encode(Publish(topic, b"%06d" % n + bytes(10_000)), 5) for n in range(100)
            )
            before = resident(here)
            os.kill(there, signal.SIGSTOP)
            try:
                writer.socket.settimeout(1)
                with pytest.raises(TimeoutError):
                    writer.socket.sendall(packets * 200)
                assert resident(here) - before < 48 * MIB
                # Accepted while nobody is read: it waits, and is served afterwards.
                late = Wire(broker.mqtt)
            finally:
                os.kill(there, signal.SIGCONT)
            assert reader.receive().payload.startswith(b"000000")
            with late:
                assert late.connect(client_id_on(0, 2)).reason_code == 0

        def flows() -> bool:
            with Wire(broker.mqtt) as writer:
                return (
                    writer.connect(client_id_on(0, 2)).reason_code == 0
                    and writer.publish(topic, b"again", 1) == 0
                )

        until(flows, 10, "service after the flood")
        assert broker.worker_pids() == [here, there]
        assert "Traceback" not in broker.log
