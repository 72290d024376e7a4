"""A million subscriptions: how fast they are made, what each takes of memory, and what a publish
costs among few and among many.

CLIENTS clients share the filters, every other one with a wildcard. Each message goes to a topic
that was never used before and that one wildcard filter matches: no broker can have its answer
ready, so the figures are those of matching, and of all else that a first message costs.
"""

from __future__ import annotations

import select
import socket
import time

from robustmq.bench import result
from robustmq.mqtt import codec
from robustmq.mqtt.packets import MQTT_3_1_1, Connect, Publish, Subscribe, SubscriptionOptions

CLIENTS = 100
FILTERS_A_PACKET = 500
MESSAGES_A_WRITE = 50
MOST_IN_FLIGHT = 2_000
TIMEOUT_SECONDS = 60.0
PAYLOAD = b"0123456789abcdef"

Figures = dict[str, float]


def filter_of(number: int) -> bytes:
    """Filter `number`; the odd ones are topics."""
    place, kind = divmod(number, 10)
    middle = b"%d" % place if number % 2 else b"+"
    return b"site/%d/device/%s/%d/%d" % (place % 1_000, middle, kind, place)


def fresh_topic(number: int, use: int) -> bytes:
    """A topic that filter `number`, an even one, matches and no other; another for each use."""
    place, kind = divmod(number, 10)
    return b"site/%d/device/use-%d/%d/%d" % (place % 1_000, use, kind, place)


def connect(port: int, name: bytes) -> socket.socket:
    """A client that is accepted."""
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(codec.encode(Connect(MQTT_3_1_1, name, True, 0), MQTT_3_1_1))
    receive(sock, 4)
    return sock


def receive(sock: socket.socket, size: int) -> None:
    """Read exactly so many bytes."""
    while size:
        part = len(sock.recv(size))
        if not part:
            raise RuntimeError("the broker closed a connection")
        size -= part


def subscribe(clients: list[socket.socket], first: int, last: int) -> None:
    """The filters from `first` to before `last`, each client an equal part."""
    each = (last - first) // len(clients)
    for place, sock in enumerate(clients):
        begin = first + place * each
        for at in range(begin, begin + each, FILTERS_A_PACKET):
            numbers = range(at, min(at + FILTERS_A_PACKET, begin + each))
            filters = tuple((filter_of(number), SubscriptionOptions(0)) for number in numbers)
            sock.sendall(codec.encode(Subscribe(1, filters), MQTT_3_1_1))
            body = 2 + len(filters)
            receive(sock, body + (2 if body < 128 else 3))


class Traffic:
    """One publisher and the clients that get its messages."""

    def __init__(self, port: int, clients: list[socket.socket]) -> None:
        self._publisher = connect(port, b"publisher")
        self._poll = select.epoll()
        self._clients = {sock.fileno(): sock for sock in clients}
        for descriptor in self._clients:
            self._poll.register(descriptor, select.EPOLLIN)
        self._use = 0

    def run(self, watch: int, filters: int, messages: int) -> tuple[float, float]:
        """Publish to matching topics; messages a second, and the broker's CPU for one in us."""
        packets = []
        for number in range(messages):
            self._use += 1
            wanted = number * 7_919 * 2 % filters
            topic = fresh_topic(wanted, self._use)
            packets.append(codec.encode(Publish(topic, PAYLOAD), MQTT_3_1_1))
        before = result.tree_use(watch).cpu_seconds
        begin = time.monotonic()
        deadline = begin + TIMEOUT_SECONDS
        sent = got = 0
        for at in range(0, messages, MESSAGES_A_WRITE):
            part = b"".join(packets[at : at + MESSAGES_A_WRITE])
            self._publisher.sendall(part)
            sent += len(part)
            got += self._read(0)
            last = at + MESSAGES_A_WRITE >= messages
            while sent - got > (0 if last else MOST_IN_FLIGHT * len(packets[0])):
                got += self._read(1)
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{sent - got} bytes of messages did not come")
        seconds = time.monotonic() - begin
        cpu = result.tree_use(watch).cpu_seconds - before
        return messages / seconds, cpu / messages * 1e6

    def _read(self, wait: float) -> int:
        return sum(
            len(self._clients[descriptor].recv(1 << 18)) for descriptor, _ in self._poll.poll(wait)
        )

    def close(self) -> None:
        """The publisher goes; the clients are their maker's."""
        self._publisher.close()
        self._poll.close()


def measure(port: int, watch: int, total: int, messages: int) -> Figures:
    """Figures for the thousandth part of the subscriptions (1,000 at least), then for all."""
    clients = [connect(port, b"subscriber-%d" % number) for number in range(CLIENTS)]
    found: Figures = {}
    try:
        few = max(total // 1_000, 10 * CLIENTS)
        subscribe(clients, 0, few)
        rates = {}
        for name, filters in (("few", few), ("many", total)):
            if name == "many":
                before = result.tree_use(watch).rss_bytes
                begin = time.monotonic()
                subscribe(clients, few, total)
                found["subscriptions_per_second"] = (total - few) / (time.monotonic() - begin)
                grown = result.tree_use(watch).rss_bytes - before
                found["bytes_per_subscription"] = grown / (total - few)
            traffic = Traffic(port, clients)
            traffic.run(watch, filters, messages // 10)
            rates[name] = traffic.run(watch, filters, messages)
            traffic.close()
        for name, (rate, cpu) in rates.items():
            found[f"rate_among_{name}"] = rate
            found[f"cpu_us_among_{name}"] = cpu
        found["growth"] = rates["many"][1] / rates["few"][1]
    finally:
        for sock in clients:
            sock.close()
    return found
