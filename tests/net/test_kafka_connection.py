"""The shell of a Kafka connection, over a socket, with answers that come when the test says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import uvloop

from robustmq.errors import BrokerError, Fault
from robustmq.kafka.dispatch import Buffers
from robustmq.limits import Limits
from robustmq.net import kafka_connection
from robustmq.net.kafka_connection import KafkaConnection
from robustmq.promises import Promise
from tests.kafka.fake_gateway import FakeGateway

LIMITS = msgspec.structs.replace(Limits(), max_requests_in_flight=4, max_request_bytes=2048)


class Peer:
    """A client's socket, and the requests that have reached the handlers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[bytes, Promise[Buffers | None]]] = []
        self.counted: Counter[str] = Counter()
        monkeypatch.setattr(kafka_connection, "dispatch", self._dispatch)

    def _dispatch(self, frame: bytes, state: object, gateway: object) -> Promise[Buffers | None]:
        promise: Promise[Buffers | None] = Promise()
        self.requests.append((frame, promise))
        return promise

    async def open(self) -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.far = far
        loop = asyncio.get_running_loop()

        def count(name: str, n: int) -> None:
            self.counted.update({name: n})

        self.connection = KafkaConnection(FakeGateway(), LIMITS, "10.0.0.1:5", count)
        await loop.connect_accepted_socket(lambda: self.connection, far)
        return near


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(5):
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
            if not part:
                break
            data += part
    return data


def test_answers_leave_in_the_order_of_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        peer = Peer(monkeypatch)
        sock = await peer.open()
        sent = frame(b"one") + frame(b"two") + frame(b"three")
        for byte in sent:
            sock.send(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: len(peer.requests) == 3)
        assert [body for body, _ in peer.requests] == [b"one", b"two", b"three"]
        peer.requests[2][1].resolve([b"3"])
        peer.requests[1][1].resolve(None)
        peer.requests[0][1].resolve([b"1", memoryview(b"a")])
        assert await received(sock, 3) == b"1a3"
        assert peer.connection.idle
        sock.close()
        await until(lambda: peer.counted["kafka_connections"] == 0)

    uvloop.run(scenario())


def test_requests_in_flight_are_bounded_and_the_rest_is_served_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        peer = Peer(monkeypatch)
        sock = await peer.open()
        sock.send(b"".join(frame(b"%d" % n) for n in range(11)))
        await until(lambda: len(peer.requests) == 4)
        await asyncio.sleep(0.02)
        assert len(peer.requests) == 4
        for n in range(11):
            await until(lambda n=n: len(peer.requests) > n)  # type: ignore[misc]
            assert sum(not promise.settled for _, promise in peer.requests) <= 4
            peer.requests[n][1].resolve([b"x"])
        assert await received(sock, 11) == b"x" * 11
        sock.send(frame(b"last"))
        await until(lambda: len(peer.requests) == 12)
        sock.close()
        await asyncio.sleep(0.01)

    uvloop.run(scenario())


def test_bytes_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        peer = Peer(monkeypatch)
        sock = await peer.open()
        bodies = [bytes([n]) * 1500 for n in range(5)]
        sock.send(b"".join(map(frame, bodies)))
        for n in range(5):
            await until(lambda n=n: len(peer.requests) >= n + 1)  # type: ignore[misc]
            await asyncio.sleep(0.01)
            assert len(peer.requests) <= n + 2
            peer.requests[n][1].resolve([b"x"])
        assert await received(sock, 5) == b"x" * 5
        assert [body for body, _ in peer.requests] == bodies
        sock.close()
        await asyncio.sleep(0.01)

    uvloop.run(scenario())


def test_a_client_that_does_not_read_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        peer = Peer(monkeypatch)
        sock = await peer.open()
        sock.send(frame(b"a"))
        await until(lambda: len(peer.requests) == 1)
        peer.requests[0][1].resolve([b"z" * 4_000_000])
        sock.send(frame(b"b"))
        await asyncio.sleep(0.05)
        assert len(peer.requests) == 1
        assert len(await received(sock, 4_000_000)) == 4_000_000
        await until(lambda: len(peer.requests) == 2)
        sock.close()
        await asyncio.sleep(0.01)

    uvloop.run(scenario())


@pytest.mark.parametrize("bad", [struct.pack(">i", 2049), struct.pack(">i", -1), frame(b"bad")])
def test_a_fault_ends_the_connection_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, bad: bytes
) -> None:
    async def scenario() -> None:
        peer = Peer(monkeypatch)
        sock = await peer.open()
        sock.send(bad)
        await until(lambda: bool(peer.requests or peer.counted["kafka_faults"]))
        for _, promise in peer.requests:
            promise.fail(BrokerError(Fault.MALFORMED_PACKET, "bad"))
        assert await received(sock, 1) == b""
        assert peer.counted["kafka_faults"] == 1
        sock.close()

    uvloop.run(scenario())


def test_a_bug_in_a_handler_reaches_the_loop_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        peer = Peer(monkeypatch)
        sock = await peer.open()
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
        sock.send(frame(b"a"))
        await until(lambda: len(peer.requests) == 1)
        peer.requests[0][1].fail(KeyError("bug"))
        assert await received(sock, 1) == b""
        assert isinstance(told[0]["exception"], KeyError)
        sock.close()

    uvloop.run(scenario())
