"""Conversations with mutations, found and shrunk by Hypothesis, against a running broker: each
answer is a packet that the server may send, in an order that it may have, or the connection ends;
and nobody else is touched.

The examples are the same each time. ROBUSTMQ_MUTATIONS says how many; with ROBUSTMQ_MUTATIONS_SEED
they are others, and a failure prints the conversation that led to it, shrunk, as bytes in hex that
`ROBUSTMQ_MUTATIONS_REPLAY` sends again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

from robustmq.errors import BrokerError
from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionOptions,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tests.broker import BrokerProcess
from tests.mqtt.wire import Closed, Wire
from tests.net.carriers import WebSocket, frame, websocket_wire

EXAMPLES = int(os.environ.get("ROBUSTMQ_MUTATIONS", "250"))
SEED = os.environ.get("ROBUSTMQ_MUTATIONS_SEED")
SILENCE_S = 0.05
REPLAY = os.environ.get("ROBUSTMQ_MUTATIONS_REPLAY")

# The reason codes of the server's packets (MQTT 5.0 sections 3.2.2.2 to 3.14.2.1), and the return
# codes of 3.x.
ACK_CODES = {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
CODES: dict[int, set[int]] = {
    PacketType.CONNACK: {0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, *range(0x99, 0x9E), 0x9F},
    PacketType.PUBACK: ACK_CODES,
    PacketType.PUBREC: ACK_CODES,
    PacketType.PUBREL: {0, 0x92},
    PacketType.PUBCOMP: {0, 0x92},
    PacketType.SUBACK: {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
    PacketType.UNSUBACK: {0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
    PacketType.DISCONNECT: {
        *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3),
    },
}  # fmt: skip

# -- conversations ---------------------------------------------------------------------------------

TOPICS = st.sampled_from([b"m", b"m/a", b"m/a/b", b"/", b"$SYS/m", "m/\u00e9".encode()])
FILTERS = st.sampled_from(
    [b"m", b"m/+", b"m/#", b"+/a/#", b"$share/g/m", b"$share/g/m/#", b"m//b", b"m#", b"$share/g"]
)
PACKET_IDS = st.integers(1, 4)
TEXT = st.text(max_size=5)
MESSAGE_PROPERTIES = st.builds(
    Properties,
    payload_format_indicator=st.none() | st.integers(0, 1),
    message_expiry_interval=st.none() | st.integers(0, 0xFFFFFFFF),
    content_type=st.none() | TEXT.filter(lambda text: "\0" not in text),
    response_topic=st.none() | TOPICS,
    correlation_data=st.none() | st.binary(max_size=5),
    user_properties=st.just(()) | st.just((("k", "v"), ("k", "w"))),
)
PROPERTIES = st.just(Properties()) | MESSAGE_PROPERTIES


def publishes(qos: int) -> st.SearchStrategy[Publish]:
    """PUBLISH of this QoS."""
    return st.builds(
        Publish,
        TOPICS,
        st.binary(max_size=40),
        st.just(qos),
        st.booleans(),
        st.booleans() if qos else st.just(False),
        PACKET_IDS if qos else st.just(0),
        PROPERTIES,
    )


PACKETS = st.one_of(
    publishes(0),
    publishes(1),
    publishes(2),
    st.builds(
        Subscribe,
        PACKET_IDS,
        st.lists(
            st.tuples(
                FILTERS,
                st.builds(
                    SubscriptionOptions,
                    st.integers(0, 2),
                    st.booleans(),
                    st.booleans(),
                    st.integers(0, 2),
                ),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        st.just(Properties()) | st.just(Properties(subscription_identifiers=(7,))),
    ),
    st.builds(Unsubscribe, PACKET_IDS, st.lists(FILTERS, min_size=1, max_size=3).map(tuple)),
    st.builds(Ack, st.integers(4, 7), PACKET_IDS),
    st.just(PingReq()),
    st.builds(Disconnect, st.sampled_from([0, 4])),
)
CONNECTS = st.builds(
    Connect,
    st.sampled_from([3, 4, 5]),
    st.sampled_from([b"mutant-1", b"mutant-2", b"mutant-3"]),
    st.booleans(),
    st.sampled_from([0, 1, 60]),
    st.none() | st.builds(Will, TOPICS, st.binary(max_size=5), st.integers(0, 2), st.booleans()),
    st.none() | st.just("user"),
    st.none(),
    st.builds(
        Properties,
        session_expiry_interval=st.none() | st.integers(0, 2),
        receive_maximum=st.none() | st.integers(1, 3),
        maximum_packet_size=st.none() | st.sampled_from([1, 20, 1000]),
        topic_alias_maximum=st.none() | st.integers(0, 3),
    ),
)


class Mutation(NamedTuple):
    """What is done to one packet, at a place that is taken modulo its length."""

    kind: str
    packet: int
    place: int
    value: int


MUTATIONS = st.builds(
    Mutation,
    st.sampled_from(["set", "flip", "delete", "insert", "repeat", "cut", "again", "length"]),
    st.integers(0, 11),
    st.integers(0, 80),
    st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255),
)


def mutate(packets: list[bytes], mutation: Mutation) -> None:
    """Spoil one of the packets, in place."""
    index = mutation.packet % len(packets)
    data = bytearray(packets[index])
    at = mutation.place % max(1, len(data))
    match mutation.kind:
        case "set":
            data[at : at + 1] = bytes((mutation.value,))
        case "flip":
            data[at : at + 1] = bytes((data[at] ^ (1 << mutation.value % 8),)) if data else b""
        case "delete":
            del data[at : at + 1 + mutation.value % 4]
        case "insert":
            data[at:at] = bytes((mutation.value,)) * (1 + mutation.value % 3)
        case "repeat":
            data[at:at] = data[at : at + mutation.value]
        case "cut":
            del data[at:]
        case "again":
            packets.insert(index, bytes(data))
            return
        case "length" if len(data) > 1:
            data[1] = mutation.value
    packets[index] = bytes(data)


CONVERSATIONS = st.tuples(
    CONNECTS, st.lists(PACKETS, max_size=10), st.lists(MUTATIONS, min_size=1, max_size=4)
)


def as_bytes(connect: Connect, packets: list[Packet], mutations: list[Mutation]) -> list[bytes]:
    """The packets of a conversation, spoilt."""
    sound = [codec.encode(packet, connect.version) for packet in (connect, *packets)]
    for mutation in mutations:
        mutate(sound, mutation)
    return sound


# -- answers ---------------------------------------------------------------------------------------


def form(data: bytes) -> int:
    """The version in whose form the server answers what begins so."""
    return codec.answer_version(data) or 5


def converse(client: Wire, data: list[bytes]) -> list[Packet]:
    """Send all and a ping, and read what is answered: up to the ping's answer, the end of the
    connection, or silence, when the ping was taken for a part of something else."""
    got: list[Packet] = []
    pings = sum(packet == b"\xc0\x00" for packet in data)
    try:
        client.send(*data, PingReq())
        while sum(isinstance(packet, PingResp) for packet in got) <= pings:
            got.append(client.read(SILENCE_S))
    except (Closed, OSError):
        pass
    except BrokerError as error:
        raise AssertionError(f"what came is no packet of a server: {error}") from error
    return got


def check(answers: list[Packet], version: int) -> None:
    """May a server of this version send these packets, in this order?"""
    if not answers:
        return
    assert isinstance(answers[0], ConnAck), "the first packet is CONNACK [MQTT-3.2.0-1]"
    if answers[0].reason_code:
        assert len(answers) == 1, "nothing follows a refusal [MQTT-3.2.2-7]"
    for at, packet in enumerate(answers):
        assert not isinstance(packet, ConnAck) or at == 0, "one CONNACK [MQTT-3.2.0-2]"
        if isinstance(packet, Disconnect):
            assert version == 5, "3.x has no DISCONNECT of a server"
            assert at == len(answers) - 1, "nothing follows DISCONNECT [MQTT-3.14.4-1]"
        check_codes(packet, version)


def check_codes(packet: Packet, version: int) -> None:
    """Are its reason codes those of its type?"""
    match packet:
        case ConnAck():
            wanted = CODES[PacketType.CONNACK] if version == 5 else set(range(6))
            assert packet.reason_code in wanted
        case Ack():
            assert packet.reason_code in (CODES[packet.kind] if version == 5 else {0})
        case SubAck():
            wanted = CODES[PacketType.SUBACK] if version == 5 else {0, 1, 2, 0x80}
            assert packet.reason_codes and set(packet.reason_codes) <= wanted
        case UnsubAck():
            assert set(packet.reason_codes) <= CODES[PacketType.UNSUBACK]
        case Disconnect():
            assert packet.reason_code in CODES[PacketType.DISCONNECT]
        case Publish():
            assert packet.topic or packet.properties.topic_alias
            assert not (packet.dup and packet.qos == 0)
        case _:
            assert isinstance(packet, PingResp), packet


# -- the broker and the bystander ------------------------------------------------------------------


class Bystander:
    """A client that has nothing to do with it, and is served all the time."""

    def __init__(self, port: int) -> None:
        self._wire = Wire(port)
        self._wire.connect(b"bystander", expiry=100)
        self._wire.subscribe(b"by/stander", qos=1)
        self._number = 0

    def is_served(self) -> None:
        self._number += 1
        payload = b"%d" % self._number
        self._wire.send(Publish(b"by/stander", payload, 1, packet_id=1))
        got = [self._wire.read(), self._wire.read()]
        messages = [packet for packet in got if isinstance(packet, Publish)]
        assert [packet.payload for packet in messages] == [payload]
        self._wire.send(Ack(PacketType.PUBACK, messages[0].packet_id))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker of two workers, on TCP and WebSockets."""
    limits = {"LIMITS__MAX_SESSION_EXPIRY_S": "100", "LOG__LEVEL": "warning"}
    config = "".join(
        f'[[listener]]\nname = "{name}"\ntransport = "{name}"\nport = 0\n' for name in ("tcp", "ws")
    )
    with BrokerProcess(tmp_path_factory.mktemp("mutations"), 2, config, **limits) as process:
        workers = process.worker_pids()
        yield process
        assert process.worker_pids() == workers, "no worker may die"
        assert "Traceback" not in process.log
        assert process.stop() == 0


@pytest.fixture(scope="module")
def bystander(victim: BrokerProcess) -> Bystander:
    return Bystander(victim.listeners["tcp"])


Opener = Callable[[int], Wire]
Spoil = Callable[[Connect, list[Packet], list[Mutation]], list[bytes]]


def one(opener: Opener, bystander: Bystander, data: list[bytes], version: int) -> None:
    """One conversation."""
    with opener(version) as client:
        answers = converse(client, data)
    check(answers, version)
    bystander.is_served()


def run(opener: Opener, bystander: Bystander, spoil: Spoil = as_bytes) -> None:
    """All conversations, or the one that is to be played again."""
    if REPLAY:
        level, _, packets = REPLAY.partition(":")
        one(opener, bystander, [bytes.fromhex(one) for one in packets.split(",")], int(level))
        return

    @settings(
        max_examples=EXAMPLES, derandomize=SEED is None, suppress_health_check=list(HealthCheck)
    )
    @given(CONVERSATIONS)
    def conversations(conversation: tuple[Connect, list[Packet], list[Mutation]]) -> None:
        data = spoil(*conversation)
        version = conversation[0].version if spoil is as_frames else form(b"".join(data))
        note(f"ROBUSTMQ_MUTATIONS_REPLAY={version}:{','.join(packet.hex() for packet in data)}")
        one(opener, bystander, data, version)

    if SEED is not None:
        conversations = seed(int(SEED))(conversations)
    conversations()


@pytest.mark.mqtt("MQTT-4.13.1-1", "MQTT-3.2.0-1", "MQTT-3.2.0-2", "MQTT-3.14.0-1", "MQTT-3.14.2-1")
@pytest.mark.mqtt311("MQTT-3.2.0-1", "MQTT-4.8.0-1")
def test_mutated_conversations_over_tcp_get_sound_answers_or_an_end(
    victim: BrokerProcess, bystander: Bystander
) -> None:
    run(lambda version: Wire(victim.listeners["tcp"], version), bystander)


def web(victim: BrokerProcess, version: int) -> Wire:
    """A connection over a WebSocket."""
    sock = socket.create_connection(("127.0.0.1", victim.listeners["ws"]), 10)
    return websocket_wire(sock, version)


@pytest.mark.mqtt("MQTT-6.0.0-2", "MQTT-4.13.1-1")
@pytest.mark.mqtt311("MQTT-6.0.0-2", "MQTT-4.8.0-1")
def test_mutated_conversations_over_websockets_get_sound_answers_or_an_end(
    victim: BrokerProcess, bystander: Bystander
) -> None:
    run(lambda version: web(victim, version), bystander)


def as_frames(connect: Connect, packets: list[Packet], mutations: list[Mutation]) -> list[bytes]:
    """A sound conversation in WebSocket frames, and the frames behind CONNECT spoilt (it says in
    which version the answers come)."""
    first, *frames = [
        frame(2, codec.encode(packet, connect.version)) for packet in (connect, *packets, PingReq())
    ]
    for mutation in mutations:
        mutate(frames, mutation)
    return [first, *frames]


class Raw(Wire):
    """Sends frames that are made already; what it sends itself it frames."""

    def send(self, *packets: Packet | bytes) -> None:
        carrier = self.socket
        assert isinstance(carrier, WebSocket)
        for packet in packets:
            if isinstance(packet, bytes):
                carrier.socket.sendall(packet)
            else:
                carrier.sendall(codec.encode(packet, self.version))


@pytest.mark.mqtt("MQTT-6.0.0-1")
@pytest.mark.mqtt311("MQTT-6.0.0-1")
def test_mutated_websocket_frames_get_sound_answers_or_an_end(
    victim: BrokerProcess, bystander: Bystander
) -> None:
    def raw(version: int) -> Wire:
        sock = socket.create_connection(("127.0.0.1", victim.listeners["ws"]), 10)
        return Raw(0, version, carrier=WebSocket(sock))  # type: ignore[arg-type]

    run(raw, bystander, as_frames)
