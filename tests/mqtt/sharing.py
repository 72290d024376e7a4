"""What tests of share groups do with raw clients: publish a lot, and see who got what."""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Sequence

from robustmq.mqtt.packets import Ack, PacketType, PingReq, PingResp, Publish
from tests.mqtt.wire import PUBACK, PUBCOMP, PUBREC, Wire

DEADLINE_S = 20.0


def answer(client: Wire, packet: object) -> Publish | None:
    """Acknowledge what came; the message, if it was one."""
    if isinstance(packet, Publish):
        if packet.qos:
            client.send(Ack(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id))
        return packet
    if isinstance(packet, Ack) and packet.kind == PacketType.PUBREL:
        client.send(Ack(PUBCOMP, packet.packet_id))
    return None


def collect(members: Sequence[Wire], total: int) -> list[list[Publish]]:
    """What each member gets, acknowledged, until `total` messages have come; no more follow."""
    got: list[list[Publish]] = [[] for _ in members]
    deadline = time.monotonic() + DEADLINE_S
    # What came with a CONNACK has been read from its socket already.
    ready = [one.socket for one in members]
    while sum(map(len, got)) < total:
        assert time.monotonic() < deadline, f"{total} messages, of which came {list(map(len, got))}"
        for at, one in enumerate(members):
            while one.socket in ready:
                try:
                    message = answer(one, one.read(0.002))
                except TimeoutError:
                    break
                if message is not None:
                    got[at].append(message)
        if sum(map(len, got)) < total:
            ready, _, _ = select.select([one.socket for one in members], [], [], 0.1)
    assert sum(map(len, got)) == total
    return got


def ended(client: Wire) -> list[Publish]:
    """The handshakes that are open come to their end; the messages that came with them."""
    client.send(PingReq())
    got: list[Publish] = []
    while not isinstance(packet := client.read(), PingResp):
        message = answer(client, packet)
        got += [] if message is None else [message]
    return got


def publish(
    publisher: Wire, topics: Sequence[bytes], count: int, batch: int | Sequence[int], qos: int
) -> None:
    """Messages 0, 1, 2, ... to the topics in turn, so many in one write (or by turns so many),
    acknowledged."""
    sizes = itertools.cycle((batch,) if isinstance(batch, int) else batch)
    first = 0
    while first < count:
        size = next(sizes)
        numbers = range(first, min(first + size, count))
        publisher.send(
            *(
                Publish(topics[n % len(topics)], b"%d" % n, qos, packet_id=n % 60_000 + 1)
                if qos
                else Publish(topics[n % len(topics)], b"%d" % n)
                for n in numbers
            )
        )
        first += size
        for _ in numbers if qos else ():
            publisher.expect_ack(PUBACK)
