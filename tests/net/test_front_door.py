"""From accept to the home worker, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from robustmq.bans import BanTable
from robustmq.limits import Limits
from robustmq.listener import DEFAULT, Listener
from robustmq.net.gates import ConnectionGate
from robustmq.net.handoff import Arrival, Handoff
from robustmq.net.listeners import Acceptor, open_listener, tune
from robustmq.net.mqtt_front_door import MqttFrontDoor
from robustmq.net.tls import TlsCarrier

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
CONNECT_ELSEWHERE = CONNECT[:-1] + b"z"
CONNECT_WITHOUT_ID = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"


def waits(timeout_ms: int) -> Listener:
    return msgspec.structs.replace(DEFAULT, connect_timeout_ms=timeout_ms)


class Node:
    """Worker 0 with its door, and the mailbox of worker 1."""

    def __init__(self, directory: Path, limits: Limits, timeout_ms: int = 5000) -> None:
        loop = asyncio.get_running_loop()
        self.here: list[tuple[socket.socket, Arrival]] = []
        self.there: list[tuple[socket.socket, Arrival]] = []
        self.counted: list[str] = []
        self.home = Handoff(1, directory)
        self.home.start(loop, lambda s, arrival: self.there.append((s, arrival)))
        self.handoff = Handoff(0, directory)
        self.handoff.start(loop, self.adopt)
        self.door = MqttFrontDoor(
            loop,
            lambda client_id: 1 if client_id == b"z" else 0,
            0,
            self,
            self.handoff,
            waits(timeout_ms),
            limits,
            self.counted.append,
        )
        self.gate = ConnectionGate(limits, BanTable())
        sock = open_listener("127.0.0.1", 0, 128)
        self.address = sock.getsockname()
        self.acceptor = Acceptor(loop, sock, self.door.accepted, self.counted.append, self.gate)

    def adopt(self, sock: socket.socket | TlsCarrier, arrival: Arrival) -> None:
        assert isinstance(sock, socket.socket)
        self.here.append((sock, arrival))

    def relay(self, carrier: TlsCarrier, near: socket.socket) -> None:
        raise AssertionError("there is no TLS here")

    def admit(self, listener: Listener, sock: socket.socket, address: str) -> bool:
        return True

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 5)

    def close(self) -> None:
        self.acceptor.close()
        self.door.close()
        self.handoff.close()
        self.home.close()
        for sock, _ in self.here + self.there:
            sock.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def test_a_connection_goes_to_its_home_with_nothing_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Limits())
        clients = [node.connect() for _ in range(3)]
        for client, first in zip(
            clients, (CONNECT, CONNECT_ELSEWHERE, CONNECT_WITHOUT_ID), strict=True
        ):
            client.sendall(first + b"\xc0\x00")
        await until(lambda: len(node.here) == 2 and len(node.there) == 1)
        sock, arrival = node.there[0]
        near = clients[1].getsockname()
        assert arrival == Arrival("default", f"{near[0]}:{near[1]}")
        assert not sock.get_inheritable() and sock.gettimeout() == 0
        assert sock.recv(100) == CONNECT_ELSEWHERE + b"\xc0\x00"
        tune(sock)
        sock.send(b"answer")
        assert clients[1].recv(100) == b"answer"
        assert node.counted == ["connections_handed_over"]
        assert node.door.waiting == 0
        node.close()

    uvloop.run(scenario())


def test_a_connect_in_pieces_waits_without_spinning(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Limits())
        looks = 0
        look = node.door._look

        def counted(waiting: object) -> bool:
            nonlocal looks
            looks += 1
            return look(waiting)  # type: ignore[arg-type]

        node.door._look = counted  # type: ignore[method-assign]
        client = node.connect()
        client.sendall(CONNECT_ELSEWHERE[:5])
        await asyncio.sleep(0.1)
        assert looks <= 3
        client.sendall(CONNECT_ELSEWHERE[5:])
        await until(lambda: len(node.there) == 1)
        sock = node.there[0][0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        assert sock.recv(100) == CONNECT_ELSEWHERE
        node.close()

    asyncio.run(scenario())


def test_what_is_no_connect_is_answered_here_and_who_says_nothing_is_closed(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Limits(), timeout_ms=100)
        garbage, silent, half = node.connect(), node.connect(), node.connect()
        garbage.sendall(b"GET / HTTP/1.1\r\n")
        half.sendall(CONNECT[:6])
        half.shutdown(socket.SHUT_WR)
        await until(lambda: len(node.here) == 2)
        silent.setblocking(False)
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""
        assert node.counted == ["connections_refused"]
        node.close()

    asyncio.run(scenario())


def test_a_connection_waits_for_a_home_that_is_away_and_is_closed_when_it_stays_away(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Limits(), timeout_ms=400)
        first = node.connect()
        first.sendall(CONNECT_ELSEWHERE)
        await until(lambda: len(node.there) == 1)
        node.home.close()
        second = node.connect()
        second.sendall(CONNECT_ELSEWHERE)
        await until(lambda: node.door.waiting == 1)
        node.home = Handoff(1, tmp_path)
        node.home.start(
            asyncio.get_running_loop(), lambda s, arrival: node.there.append((s, arrival))
        )
        await until(lambda: len(node.there) == 2)
        assert "connections_refused" not in node.counted
        node.home.close()
        third = node.connect()
        third.sendall(CONNECT_ELSEWHERE)
        await until(lambda: "connections_refused" in node.counted)
        assert node.door.waiting == 0
        node.close()

    asyncio.run(scenario())


def test_sockets_for_a_busy_worker_wait_and_all_arrive(tmp_path: Path) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        sender, home = Handoff(0, tmp_path), Handoff(1, tmp_path)
        taken: list[socket.socket] = []
        home.start(loop, lambda s, arrival: taken.append(s))
        sender.start(loop, lambda s, arrival: None)
        pairs = [socket.socketpair() for _ in range(300)]
        # All in one turn: the kernel's queue of the mailbox is shorter than this.
        assert all(sender.send(1, near, Arrival("default", "")) for near, _ in pairs)
        await until(lambda: len(taken) == 300)
        assert all(near.fileno() == -1 for near, _ in pairs)
        sender.close()
        home.close()
        for sock in [*taken, *(far for _, far in pairs)]:
            sock.close()

    asyncio.run(scenario())


def test_open_connections_are_bounded_and_released_with_their_sockets(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = msgspec.structs.replace(Limits(), max_connections=2)
        node = Node(tmp_path, limits)
        clients = [node.connect() for _ in range(3)]
        await until(lambda: node.counted == ["connections_refused"])
        assert node.gate.open == 2
        for client in clients:
            client.close()
        await until(lambda: node.gate.open == 0)
        client = node.connect()
        client.sendall(CONNECT)
        await until(lambda: len(node.here) == 1)
        node.close()

    asyncio.run(scenario())


def test_accepts_of_a_second_are_bounded_and_the_rest_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = msgspec.structs.replace(Limits(), max_accepts_per_second=20)
        node = Node(tmp_path, limits)
        clients = [node.connect() for _ in range(26)]
        await until(lambda: node.gate.open >= 20)
        assert node.gate.open < 26
        await until(lambda: node.gate.open == 26)
        assert not node.counted
        node.close()
        for client in clients:
            client.close()

    asyncio.run(scenario())


def test_a_look_at_an_empty_backlog_costs_no_place_in_the_second(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = msgspec.structs.replace(Limits(), max_accepts_per_second=7)
        node = Node(tmp_path, limits)
        clients = []
        for number in range(6):
            clients.append(node.connect())
            await until(lambda n=number: node.gate.open == n + 1)  # type: ignore[misc]
            assert node.acceptor._pause is None, "places are left in this second"
        node.close()
        for client in clients:
            client.close()

    asyncio.run(scenario())


def test_bounds_may_change_while_connections_are_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = msgspec.structs.replace(Limits(), max_connections=1)
        node = Node(tmp_path, limits)
        clients = [node.connect(), node.connect()]
        await until(lambda: node.counted == ["connections_refused"])
        node.gate.reload(msgspec.structs.replace(limits, max_connections=2))
        clients.append(node.connect())
        await until(lambda: node.gate.open == 2)
        node.door.reload(waits(200), limits)
        clients[2].sendall(CONNECT)
        await until(lambda: len(node.here) == 1)
        node.close()
        for client in clients:
            client.close()

    asyncio.run(scenario())
