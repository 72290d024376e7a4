"""The bus over real sockets."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import uvloop

from robustmq.net.bus_link import BACK_OFF_S, BusLink
from robustmq.net.bus_stream import FRAME_HEAD

MAX_FRAME_BYTES = 8 * 1024 * 1024


class Worker:
    """A bus link that writes down what it is told."""

    def __init__(
        self, directory: Path, worker: int, incarnation: int = 1, cluster: str = "c"
    ) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.up: list[tuple[int, int]] = []
        self.down: list[int] = []
        self.counted: Counter[str] = Counter()
        self.bus = BusLink(
            worker,
            3,
            directory,
            incarnation,
            cluster,
            lambda peer, kind, payload: self.frames.append((peer, kind, bytes(payload))),
            lambda peer, life: self.up.append((peer, life)),
            self.down.append,
            MAX_FRAME_BYTES,
            1024 * 1024,
            lambda name, amount: self.counted.update({name: amount}),
        )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def test_frames_arrive_whole_and_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        workers = [Worker(tmp_path, n) for n in range(3)]
        for worker in reversed(workers):
            await worker.bus.start()
        await until(lambda: all(len(worker.up) == 2 for worker in workers))
        big = bytes(range(256)) * 16_384
        for number in range(2000):
            assert workers[0].bus.send(2, 1, b"%d " % number, bytearray(b"x" * (number % 50)))
        assert workers[0].bus.send(2, 3, b"head", memoryview(big))
        assert workers[0].bus.send(2, 4)
        assert workers[0].bus.queued_bytes(2) > len(big)
        assert workers[2].bus.send(1, 5, b"down")
        await until(lambda: len(workers[2].frames) == 2002 and bool(workers[1].frames))
        expected = [(0, 1, b"%d " % n + b"x" * (n % 50)) for n in range(2000)]
        assert workers[2].frames == [*expected, (0, 3, b"head" + big), (0, 4, b"")]
        assert workers[1].frames == [(2, 5, b"down")]
        assert not workers[0].bus.over_high_water()
        mode = (tmp_path / "bus-0.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        for worker in workers:
            await worker.bus.close()

    uvloop.run(scenario())


def test_a_restarted_worker_is_linked_again_with_its_new_incarnation(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = Worker(tmp_path, 0, 5), Worker(tmp_path, 1, 6)
        await first.bus.start()
        await second.bus.start()
        await until(lambda: bool(first.up and second.up))
        await first.bus.close()
        await until(lambda: second.down == [0])
        assert not second.bus.send(0, 1, b"lost")
        again = Worker(tmp_path, 0, 7)
        await again.bus.start()
        await until(lambda: bool(again.up) and len(second.up) == 2)
        assert second.up == [(0, 5), (0, 7)]
        assert second.bus.send(0, 1, b"kept")
        await until(lambda: again.frames == [(1, 1, b"kept")])
        await second.bus.close()
        await again.bus.close()

    uvloop.run(scenario())


def test_a_worker_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, stranger = Worker(tmp_path, 0), Worker(tmp_path, 1, 1, "other")
        await first.bus.start()
        await stranger.bus.start()
        await asyncio.sleep(0.1)
        assert not first.up and not stranger.up
        await stranger.bus.close()
        await first.bus.close()

    uvloop.run(scenario())


def test_bad_bytes_cut_the_link(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Worker(tmp_path, 0)
        await worker.bus.start()
        hello = Worker(tmp_path, 1).bus.hello()
        for bad in (
            FRAME_HEAD.pack(MAX_FRAME_BYTES + 1, 1),
            FRAME_HEAD.pack(1, 9),
            b"\0" * 64,
            hello + FRAME_HEAD.pack(0, 1),
        ):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "bus-0.sock"))
            writer.write(bad)
            async with asyncio.timeout(5):
                await reader.read(-1)
            writer.close()
        assert not worker.frames
        assert worker.down == [1]
        await worker.bus.close()

    uvloop.run(scenario())


def test_a_hello_in_pieces_is_a_hello(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Worker(tmp_path, 0)
        await worker.bus.start()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "bus-0.sock"))
        for byte in Worker(tmp_path, 1).bus.hello() + FRAME_HEAD.pack(3, 7) + b"ab":
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: worker.frames == [(1, 7, b"ab")])
        writer.close()
        await worker.bus.close()

    uvloop.run(scenario())


def test_clients_are_held_while_a_worker_does_not_read_and_let_go_when_it_does(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        worker = Worker(tmp_path, 0)
        told: list[bool] = []
        worker.bus.on_pressure(told.append)
        await worker.bus.start()
        path = str(tmp_path / "bus-0.sock")
        reader, writer = await asyncio.open_unix_connection(path, limit=1024)
        writer.write(Worker(tmp_path, 1).bus.hello())
        await until(lambda: bool(worker.up))
        for _ in range(8):
            assert worker.bus.send(1, 1, b"x" * 1_000_000)
        await until(lambda: told == [True])
        assert worker.bus.over_high_water() and worker.bus.queued_bytes(1) > 1024 * 1024
        async with asyncio.timeout(5):
            hello = len(worker.bus.hello())
            await reader.readexactly(hello + 8 * (FRAME_HEAD.size + 1_000_000))
        await until(lambda: told == [True, False])
        assert worker.counted["bus_frames_sent"] == 8
        assert worker.counted["bus_bytes_sent"] == 8 * (FRAME_HEAD.size + 1_000_000)
        for _ in range(8):
            worker.bus.send(1, 1, b"x" * 1_000_000)
        await until(lambda: told == [True, False, True])
        writer.transport.abort()
        await until(lambda: told == [True, False, True, False])
        assert worker.down == [1]
        await worker.bus.close()

    uvloop.run(scenario())


def test_the_end_of_a_read_is_told_after_its_frames(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Worker(tmp_path, 0)
        ends: list[int] = []
        worker.bus.on_turn_end(lambda: ends.append(len(worker.frames)))
        await worker.bus.start()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "bus-0.sock"))
        frame = FRAME_HEAD.pack(3, 7) + b"ab"
        writer.write(Worker(tmp_path, 1).bus.hello() + frame * 100)
        await until(lambda: ends == [100])
        writer.close()
        await worker.bus.close()

    uvloop.run(scenario())


def test_a_worker_that_is_alone_opens_no_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = Worker(tmp_path, 0).bus
        bus.worker_count = 1
        await bus.start()
        assert not list(tmp_path.iterdir())
        assert not bus.send(1, 1, b"x")
        await bus.close()

    uvloop.run(scenario())


def test_who_is_refused_asks_ever_more_rarely(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, stranger = Worker(tmp_path, 0), Worker(tmp_path, 1, 1, "other")
        attempts = 0
        opened = first.bus.opened

        def counted(link: object) -> None:
            nonlocal attempts
            attempts += 1
            opened(link)  # type: ignore[arg-type]

        first.bus.opened = counted  # type: ignore[method-assign]
        await first.bus.start()
        await stranger.bus.start()
        await asyncio.sleep(sum(BACK_OFF_S[:4]) + 0.1)
        assert 3 <= attempts <= 5
        await stranger.bus.close()
        await first.bus.close()

    uvloop.run(scenario())
