"""Microseconds of one turn of a worker, without sockets: `python perf/turn_micro.py`.

One worker's broker on a simulated disk. In each turn so many clients send one message each, which
comes back to them. The first row is what a message costs that comes alone; how fast the others grow
is what it costs in company.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from robustmq.listener import DEFAULT
from robustmq.mqtt import codec
from robustmq.mqtt.packets import Connect, Publish, Subscribe, SubscriptionOptions
from robustmq.shard.client import MqttClient
from tests.simulation.world import World

VERSION = 4
PAYLOAD = b"x" * 64


class Socket:
    """Counts what is written."""

    writable = True

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes | bytearray) -> None:
        """Bytes for the client."""
        self.written += len(data)

    def close(self) -> None:
        """Not expected."""
        raise AssertionError("the broker ended a connection")

    def pause_reading(self) -> None:
        """Not expected to matter."""

    def resume_reading(self) -> None:
        """Not expected to matter."""


class Turn:
    """A broker whose turns are run by hand."""

    def __init__(self, clients: int, qos: int) -> None:
        self.world = World(1, 1)
        broker = self.world.brokers[0]
        assert broker is not None, "it has just begun"
        self.broker = broker
        self.waiting: list[Callable[[], None]] = []
        broker.around.call_soon = self.waiting.append
        self.clients: list[MqttClient] = []
        self.sockets: list[Socket] = []
        self.packets: list[bytes] = []
        for number in range(clients):
            topic = b"bench/%06d" % number
            sock = Socket()
            client = broker.connected(sock, f"client-{number}", DEFAULT)
            self._feed(client, codec.encode(Connect(VERSION, b"c%d" % number, True, 0), VERSION))
            options = ((topic, SubscriptionOptions(qos)),)
            self._feed(client, codec.encode(Subscribe(1, options), VERSION))
            packet = Publish(topic, PAYLOAD, qos, packet_id=1 if qos else 0)
            self.packets.append(bytes(codec.encode(packet, VERSION)))
            self.clients.append(client)
            self.sockets.append(sock)

    def _feed(self, client: MqttClient, data: bytes | bytearray) -> None:
        client.received(bytes(data))
        self.end()
        self.world.scheduler.run(50)
        self.end()

    def end(self) -> None:
        """Run what the turn has put off."""
        while self.waiting:
            waiting, self.waiting[:] = list(self.waiting), []
            for run in waiting:
                run()

    def go(self) -> None:
        """One turn."""
        for client, packet in zip(self.clients, self.packets, strict=True):
            client.received(packet)
        self.end()


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--clients", type=int, default=0)
    options = parser.parse_args()
    for clients in [options.clients] if options.clients else [1, 4, 16, 64]:
        turn = Turn(clients, 0)
        turn.go()
        best = float("inf")
        stop = time.perf_counter() + options.seconds
        while time.perf_counter() < stop:
            begin = time.perf_counter()
            for _ in range(20):
                turn.go()
            best = min(best, (time.perf_counter() - begin) / 20)
            turn.broker.commits.hurry()
            turn.world.scheduler.run(1)
        each = best / clients
        print(f"{clients:3} clients: {best * 1e6:8.1f} us a turn, {each * 1e6:6.2f} us a message")


if __name__ == "__main__":
    main()
