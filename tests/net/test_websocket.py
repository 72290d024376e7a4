"""MQTT over WebSockets: real clients, and what a client may and may not do (MQTT 5.0 section 6, RFC
6455)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest
import websockets.asyncio.client as independent
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from robustmq.mqtt import codec
from robustmq.mqtt.packets import Connect, PingReq, PingResp, Publish, Will
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire, client_id_on, topic_on
from tests.net.carriers import TIMEOUT_S, WebSocket, answer, frame, request, websocket_wire

CONFIG = """
[[listener]]
name = "web"
transport = "ws"
port = 0
connect_timeout_ms = 1500
[[listener]]
name = "anywhere"
transport = "ws"
port = 0
websocket_path = ""
websocket_origins = ["https://example.org"]
[[listener]]
name = "tcp"
port = 0
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, CONFIG) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def opened(broker: BrokerProcess, name: str = "web") -> socket.socket:
    return socket.create_connection(("127.0.0.1", broker.listeners[name]), TIMEOUT_S)


def web(broker: BrokerProcess) -> Wire:
    return websocket_wire(opened(broker))


def carrier(wire: Wire) -> WebSocket:
    assert isinstance(wire.socket, WebSocket)
    return wire.socket


# -- clients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
@pytest.mark.parametrize("home", [0, 1])
def test_paho_talks_over_a_websocket(
    broker: BrokerProcess, protocol: MQTTProtocolVersion, home: int
) -> None:
    topic = topic_on(1 - home, 2).decode()
    got: list[bytes] = []
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id_on(home, 2).decode(),
        transport="websockets",
        protocol=protocol,
    )
    client.on_connect = lambda c, *_: c.subscribe(topic, 2)
    client.on_subscribe = lambda c, *_: c.publish(topic, b"x" * 300_000, 2)
    client.on_message = lambda _c, _u, message: got.append(bytes(message.payload))
    client.connect("127.0.0.1", broker.listeners["web"])
    client.loop_start()
    until(lambda: got == [b"x" * 300_000], what="the message")
    client.disconnect()
    client.loop_stop()


def test_an_independent_websocket_client_gets_what_it_asks_for(broker: BrokerProcess) -> None:
    async def conversation() -> None:
        where = f"ws://127.0.0.1:{broker.listeners['web']}/mqtt"
        async with independent.connect(where, subprotocols=["mqtt"]) as client:  # type: ignore[list-item]
            assert client.subprotocol == "mqtt"
            await client.send(codec.encode(Connect(5, b"independent", True, 0), 5))
            connack = await client.recv()
            assert isinstance(connack, bytes) and connack[0] == 0x20
            await (await client.ping(b"are you there"))
            await client.send(codec.encode(PingReq(), 5))
            assert await client.recv() == codec.encode(PingResp(), 5)
        assert client.close_code == 1000

    asyncio.run(conversation())


# -- the upgrade -----------------------------------------------------------------------------------


@pytest.mark.mqtt("MQTT-6.0.0-4")
@pytest.mark.mqtt311("MQTT-6.0.0-4")
def test_the_subprotocol_is_mqtt_or_as_old_clients_call_it(broker: BrokerProcess) -> None:
    for offered, chosen in (
        ("mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
        ("mqttv3.1, mqtt", "mqtt"),
        ("chat, mqtt", "mqtt"),
    ):
        with opened(broker) as sock:
            assert WebSocket(sock, protocols=offered).subprotocol == chosen


@pytest.mark.mqtt("MQTT-6.0.0-3")
@pytest.mark.mqtt311("MQTT-6.0.0-3")
@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (request(protocols="chat"), 400, "mqtt"),
        (request(protocols=""), 400, "mqtt"),
        (request(protocols="MQTT"), 400, "mqtt"),
        (request("/"), 404, "path"),
        (request("/mqtt/x"), 404, "path"),
        (request(Upgrade="h2c"), 426, "Upgrade"),
        (request(Connection="close"), 400, "Connection"),
        (request(Host=""), 400, "Host"),
        (request(Sec_WebSocket_Version="8"), 426, "13"),
        (request(Sec_WebSocket_Key="c2hvcnQ="), 400, "Key"),
        (request(Sec_WebSocket_Key="not base64!"), 400, "Key"),
        (request(Content_Length="5"), 400, "body"),
        (request().replace(b"GET", b"POST"), 405, "GET"),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "HTTP/1.1"),
        (request().replace(b"Host:", b"Ho st:"), 400, "header"),
        (request().replace(b"Host:", b" Host:"), 400, "header"),
        (request(X="y" * 9000), 431, "longer"),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a", 400, "HTTP"),
    ],
)
def test_a_request_that_cannot_be_granted_is_told_why(
    broker: BrokerProcess, asked: bytes, status: int, words: str
) -> None:
    with opened(broker) as sock:
        sock.sendall(asked)
        got, headers, body = answer(sock)
        assert got == status
        assert headers["connection"] == "close"
        while len(body) < int(headers["content-length"]):
            body += sock.recv(1000)
        assert words in body.decode()
        assert sock.recv(1) == b""
        if status == 426:
            assert headers["sec-websocket-version"] == "13"


def test_any_path_and_only_certain_pages_if_the_listener_says_so(broker: BrokerProcess) -> None:
    for path in ("/", "/mqtt", "/a/b?token=1", "http://localhost/x"):
        with opened(broker, "anywhere") as sock:
            WebSocket(sock, path)
    for origin, status in (("https://example.org", 101), ("https://evil.example", 403)):
        with opened(broker, "anywhere") as sock:
            sock.sendall(request(Origin=origin))
            assert answer(sock)[0] == status


def test_a_request_in_pieces_and_packets_that_follow_it_at_once(broker: BrokerProcess) -> None:
    for home in (0, 1):
        with opened(broker) as sock:
            asked = request()
            for at in range(0, len(asked), 50):
                sock.sendall(asked[at : at + 50])
                time.sleep(0.002)
            assert answer(sock)[0] == 101
        with opened(broker) as sock:
            connect = codec.encode(Connect(5, client_id_on(home, 2), True, 0), 5)
            packets = frame(2, connect) + frame(2, codec.encode(PingReq(), 5))
            sock.sendall(request() + packets)
            status, _, rest = answer(sock)
            assert status == 101
            while b"\xd0\x00" not in rest:
                more = sock.recv(1000)
                assert more
                rest += more


def test_who_is_too_slow_to_ask_or_to_connect_is_closed(broker: BrokerProcess) -> None:
    with opened(broker) as silent, opened(broker) as half, opened(broker) as upgraded:
        half.sendall(request()[:40])
        WebSocket(upgraded).sendall(b"\x10")
        for sock in (silent, half, upgraded):
            sock.settimeout(8)
            # Closed with what was not read in it, or without.
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1000):
                    continue


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.mqtt("MQTT-6.0.0-2")
@pytest.mark.mqtt311("MQTT-6.0.0-2")
@pytest.mark.parametrize("home", [0, 1])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_packets_and_frames_are_cut_and_joined_in_any_way(
    broker: BrokerProcess, home: int, piece: int
) -> None:
    topic = topic_on(0, 2)
    payloads = [bytes((number,)) * (number * 40) for number in range(1, 30)]
    with web(broker) as client:
        sock = carrier(client).socket
        packets = codec.encode(Connect(5, client_id_on(home, 2), True, 0), 5)
        whole = frame(2, packets)
        # CONNECT in fragments with a ping between them, and byte by byte.
        parts = frame(2, packets[:3], final=False) + frame(9, b"?") + frame(0, packets[3:])
        for data in (parts if piece > 1 else whole)[:], b"":
            for at in range(0, len(data), piece):
                sock.sendall(data[at : at + piece])
        client.read()
        client.subscribe(topic)
        stream = b"".join(bytes(codec.encode(Publish(topic, p), 5)) for p in payloads)
        frames = b"".join(
            frame(2, stream[at : at + piece * 3]) for at in range(0, len(stream), piece * 3)
        )
        sock.sendall(frames)
        assert [client.expect(Publish).payload for _ in payloads] == payloads
    assert (piece == 1) or (10, b"?") in carrier(client).control


@pytest.mark.parametrize("home", [0, 1])
def test_a_flood_over_a_websocket_arrives_in_order(broker: BrokerProcess, home: int) -> None:
    topic, count = topic_on(1 - home, 2), 20_000
    with web(broker) as reader, web(broker) as writer:
        reader.connect(client_id_on(home, 2))
        reader.subscribe(topic, qos=1)
        writer.connect(client_id_on(1 - home, 2))
        packets = [bytes(codec.encode(Publish(topic, b"%d" % n), 5)) for n in range(count)]
        for at in range(0, count, 500):
            # A frame a packet, as clients send them.
            carrier(writer).socket.sendall(b"".join(frame(2, p) for p in packets[at : at + 500]))
        for number in range(count):
            assert reader.expect(Publish).payload == b"%d" % number
    assert carrier(reader).data_frames < count / 5, "a write is one frame, not a message"


def test_a_ping_is_answered_and_a_pong_is_not(broker: BrokerProcess) -> None:
    with web(broker) as client:
        client.connect()
        sock = carrier(client).socket
        sock.sendall(frame(10, b"unasked") + frame(9, b"1") + frame(9, b"2"))
        client.expect_nothing()
        assert carrier(client).control[-1] == (10, b"2")
        assert (10, b"unasked") not in carrier(client).control


@pytest.mark.parametrize(("payload", "status"), [(b"\x03\xe8bye", 1000), (b"\x0f\xa0", 4000)])
def test_a_close_is_echoed_and_the_will_is_published(
    broker: BrokerProcess, payload: bytes, status: int
) -> None:
    topic = topic_on(0, 2)
    with web(broker) as client, web(broker) as watcher:
        watcher.connect()
        watcher.subscribe(topic)
        client.connect(will=Will(topic, b"gone"))
        carrier(client).socket.sendall(frame(8, payload))
        carrier(client).expect_close(status)
        assert watcher.expect(Publish).payload == b"gone"


def test_the_end_that_mqtt_says_comes_before_the_end_of_the_websocket(
    broker: BrokerProcess,
) -> None:
    with web(broker) as client:
        client.connect()
        client.send(b"\x36\x00")
        client.expect_end(0x81)
        assert carrier(client).control[-1] == (8, b"\x03\xe8")
    with web(broker) as client:
        client.connect()
        client.send(b"\xe0\x00")
        carrier(client).expect_close(1000)


@pytest.mark.mqtt("MQTT-6.0.0-1")
@pytest.mark.mqtt311("MQTT-6.0.0-1")
@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (frame(1, b"text"), 1003),
        (frame(2, b"\xc0\x00", masked=False), 1002),
        (frame(3, b""), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(9, b"", final=False), 1002),
        (frame(0, b"\xc0\x00"), 1002),
        (b"\xc2\x80\x00\x00\x00\x00", 1002),
        (frame(8, b"\x03\xe8\xff"), 1007),
        (frame(8, b"\x00"), 1002),
    ],
    # Masks are random, and names of tests must not be.
    ids=[
        "text", "no mask", "reserved opcode", "long control frame", "control frame in fragments",
        "continuation of nothing", "reserved bit", "reason is not UTF-8", "half a status",
    ],
)  # fmt: skip
@pytest.mark.parametrize("connected", [True, False])
def test_a_frame_that_is_not_allowed_closes_the_connection(
    broker: BrokerProcess, bad: bytes, status: int, connected: bool
) -> None:
    with web(broker) as client:
        if connected:
            client.connect()
        carrier(client).socket.sendall(bad + frame(2, b"\xc0\x00"))
        carrier(client).expect_close(status)


def test_what_is_sent_behind_the_end_is_not_published(broker: BrokerProcess) -> None:
    topic = topic_on(0, 2)
    with web(broker) as watcher, web(broker) as client:
        watcher.connect()
        watcher.subscribe(topic)
        client.connect()
        client.send(b"\xe0\x00")
        with pytest.raises(Closed):
            client.read()
        for _ in range(3):
            client.send(codec.encode(Publish(topic, b"too late"), 5))
            watcher.expect_nothing()


def test_a_slow_reader_gets_every_frame_whole(broker: BrokerProcess) -> None:
    topic, payload = topic_on(1, 2), bytes(range(256)) * 400
    with web(broker) as reader, Wire(broker.listeners["tcp"]) as writer:
        reader.connect(receive_maximum=65_535)
        carrier(reader).socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        reader.subscribe(topic, qos=1)
        writer.connect()
        for number in range(60):
            writer.publish(topic, b"%d " % number + payload, qos=1)
        for number in range(60):
            assert reader.expect(Publish).payload == b"%d " % number + payload
