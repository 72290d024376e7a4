"""What a run is to do: the scenarios as data, and the frames that a publisher sends.

A scenario says how many publishers and subscribers there are for `clients`, and which filter each
subscriber has. Topic names have fixed width, so that all frames of a publisher are of one size and
are stamped in place.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from robustmq.bench.count import STAMP
from robustmq.mqtt import codec
from robustmq.mqtt.packets import Publish

QUEUED_DELIVERIES = 32_768


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one run; `docs` of each are the help of the command line."""

    scenario: str
    host: str = "127.0.0.1"
    port: int = 1883
    transport: str = "tcp"
    ca_file: str = ""
    version: int = 4
    clients: int = 1
    topics: int = 1
    qos: int = 0
    payload: int = 64
    batch: int = 1
    window: int = 20
    outstanding: int = 0
    rate: float = 0.0
    warmup: float = 1.0
    duration: float = 5.0
    count: int = 0
    prefix: str = "bench"
    user: str = ""
    password: str = ""
    watch: int = 0
    parallel: int = 200


class Scenario(NamedTuple):
    """`publishers`, `subscribers`: "one", "many" or "none"; `own`: subscriber n takes only
    publisher n; `shared`: the subscribers are the members of one share group.
    """

    publishers: str
    subscribers: str
    own: bool
    why: str
    shared: bool = False


SCENARIOS = {
    "pub": Scenario("many", "none", False, "publishers alone"),
    "sub": Scenario(
        "none",
        "many",
        False,
        "subscribers alone: counts what others publish, and does not check it",
    ),
    "conn": Scenario("none", "none", False, "connects, holds the connections for --duration"),
    "pairs": Scenario("many", "many", True, "each publisher has one subscriber"),
    "echo": Scenario("many", "many", True, "pairs on one connection: a client hears itself"),
    "fanout": Scenario("one", "many", False, "one publisher, many subscribers"),
    "fanin": Scenario("many", "one", False, "many publishers, one subscriber"),
    "topics": Scenario("one", "one", False, "one publisher on --topics topics, one subscriber"),
    "share": Scenario(
        "one", "many", False, "one publisher, one group that shares its topics", True
    ),
}


class Shape(NamedTuple):
    """A scenario in numbers: clients of each kind, deliveries of one message."""

    publishers: int
    subscribers: int
    copies: int


def shape(options: Options) -> Shape:
    """How many of each."""
    scenario = SCENARIOS[options.scenario]
    many = {"one": 1, "many": options.clients, "none": 0}
    subscribers = many[scenario.subscribers]
    copies = 1 if scenario.own or scenario.shared else subscribers
    return Shape(many[scenario.publishers], subscribers, copies)


def topic_filter(options: Options, number: int) -> str:
    """What subscriber `number` subscribes to."""
    scenario = SCENARIOS[options.scenario]
    if scenario.own:
        return f"{options.prefix}/{number:06d}/+"
    return (
        f"$share/{options.prefix}/{options.prefix}/#" if scenario.shared else f"{options.prefix}/#"
    )


def outstanding(options: Options, form: Shape) -> int:
    """How far a publisher may run ahead of its subscribers, so that no broker is asked to queue
    without end.
    """
    if not form.subscribers:
        return 0
    if options.outstanding:
        return options.outstanding
    return max(2 * options.batch, QUEUED_DELIVERIES // (form.copies * form.publishers))


class Frames(NamedTuple):
    """The frames of one publisher: message n goes into slot n mod `slots`."""

    buffer: bytearray
    size: int
    slots: int
    packet_id_at: int
    payload_at: int


def frames(options: Options, publisher: int) -> Frames:
    """Encode every frame once; sequence, time and packet id are stamped when it is sent."""
    payload = max(options.payload, STAMP)
    filling = bytes(33 + place % 90 for place in range(payload - STAMP))
    encoded: list[bytes] = []
    for number in range(options.topics):
        topic = f"{options.prefix}/{publisher:06d}/{number:07d}".encode()
        stream = publisher * options.topics + number
        body = stream.to_bytes(4, "little") + bytes(STAMP - 4) + filling
        packet_id = 1 if options.qos else 0
        packet = Publish(topic, body, options.qos, packet_id=packet_id)
        encoded.append(bytes(codec.encode(packet, options.version)))
    copies = max(1, -(-4 * options.batch // options.topics))
    size = len(encoded[0])
    payload_at = size - payload
    packet_id_at = payload_at - 2 - (options.version == 5) if options.qos else 0
    buffer = bytearray(b"".join(encoded) * copies)
    return Frames(buffer, size, options.topics * copies, packet_id_at, payload_at)
