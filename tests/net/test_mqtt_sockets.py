"""What a client sees of the broker's sockets: reasons arrive, slow readers lose nothing, packets of
any size come in pieces of any size."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator

import pytest

from robustmq.errors import BrokerError, Fault
from robustmq.listener import DEFAULT
from robustmq.mqtt import codec
from robustmq.mqtt.packets import Connect, Disconnect, Publish, Subscribe, SubscriptionOptions
from robustmq.net.mqtt_socket import MqttSocket
from robustmq.net.mqtt_sockets import MqttSockets
from robustmq.promises import Promise
from robustmq.shard.client import MqttClient
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire, topic_on
from tests.simulation.world import World

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def test_the_reason_arrives_though_the_broker_has_not_read_all_that_was_sent(
    broker: BrokerProcess,
) -> None:
    with Wire(broker.mqtt) as client:
        client.connect()
        # A bad packet, and behind it more than the broker's socket holds.
        client.socket.settimeout(5)
        client.socket.setblocking(False)
        try:
            client.socket.send(b"\x36\x00" + bytes(4 * MIB))
        except BlockingIOError:
            raise AssertionError("nothing could be sent") from None
        client.socket.setblocking(True)
        packet = client.read()
        assert isinstance(packet, Disconnect) and packet.reason_code == 0x81
        with pytest.raises(Closed):
            client.read()


def test_a_connection_that_the_broker_ends_is_closed_though_its_peer_does_not_close(
    broker: BrokerProcess,
) -> None:
    before = broker.open_sockets()
    clients = [Wire(broker.mqtt) for _ in range(20)]
    for client in clients:
        client.connect()
        client.send(b"\x36\x00")
    until(lambda: broker.open_sockets() <= before, 15, "the end of the connections")
    for client in clients:
        client.drop()


@pytest.mark.parametrize("piece", [1, 1000, 70_000])
def test_a_packet_in_pieces_is_one_packet(broker: BrokerProcess, piece: int) -> None:
    size = 3 * MIB if piece > 1 else 300
    topic, payload = topic_on(1, 2), bytes(range(256)) * (size // 256)
    with Wire(broker.mqtt) as client:
        client.connect()
        client.subscribe(topic)
        data = codec.encode(Publish(topic, payload), 5) + codec.encode(Publish(topic, b"next"), 5)
        for begin in range(0, len(data), piece):
            client.socket.sendall(data[begin : begin + piece])
        assert client.expect(Publish).payload == payload
        assert client.expect(Publish).payload == b"next"


def test_a_slow_reader_gets_all_that_was_acknowledged_in_order(broker: BrokerProcess) -> None:
    topic, count, payload = topic_on(0, 2), 400, bytes(20_000)
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        reader.connect(receive_maximum=65_535)
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
        reader.subscribe(topic, qos=1)
        writer.connect()
        for number in range(count):
            writer.send(Publish(topic, b"%d " % number + payload, 1, packet_id=1 + number))
            writer.read()
        for number in range(count):
            packet = reader.expect(Publish)
            assert packet.payload.startswith(b"%d " % number)


class Refusing:
    """Lets nobody in, after a while."""

    def __init__(self) -> None:
        self.waiting: list[Promise[None]] = []

    def authenticate(self, *_: object) -> Promise[None]:
        self.waiting.append(Promise())
        return self.waiting[-1]

    def refuse(self) -> None:
        while self.waiting:
            self.waiting.pop().fail(BrokerError(Fault.NOT_AUTHORIZED))


CONNECT = codec.encode(Connect(5, b"leaving", True, 60), 5)
TRAFFIC = [
    CONNECT,
    codec.encode(Subscribe(1, ((b"t/#", SubscriptionOptions(2)),)), 5),
    codec.encode(Publish(b"t/1", b"x", 1, packet_id=2), 5),
    codec.encode(Publish(b"t/1", b"x", 2, packet_id=3), 5),
]
ENDS = {
    "silent": [b""],
    "no MQTT": [b"GET / HTTP/1.1\r\n\r\n"],
    "half a packet": [CONNECT[:-2]],
    "another version": [CONNECT[:8] + b"\x09" + CONNECT[9:]],
    "vanished": [CONNECT],
    "said goodbye": [*TRAFFIC, codec.encode(Disconnect(0), 5)],
    "malformed": [*TRAFFIC, b"\x36\x00"],
    "taken over": [*TRAFFIC, b"", CONNECT],
}


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("name", ENDS)
def test_a_connection_that_has_ended_is_freed_without_the_collector(
    name: str, refused: bool
) -> None:
    async def scenario() -> None:
        world = World(1, 1)
        broker = world.brokers[0]
        assert broker is not None, "it has just begun"
        doorman = Refusing()
        if refused:
            broker.around.authenticator = doorman
        sockets = MqttSockets(asyncio.get_running_loop(), broker)

        async def pass_time() -> None:
            for _ in range(4):
                await asyncio.sleep(0)
                world.scheduler.run(20)
                doorman.refuse()

        gc.collect()
        gc.disable()
        clients: list[socket.socket] = []
        for number in range(5):
            near, far = socket.socketpair()
            far.setblocking(False)
            sockets.adopt(far, "test", DEFAULT)
            clients.append(near)
            for data in ENDS[name]:
                if not data and name == "taken over":
                    near, far = socket.socketpair()
                    far.setblocking(False)
                    sockets.adopt(far, f"test {number}", DEFAULT)
                    clients.append(near)
                try:
                    clients[-1].send(data)
                except BrokenPipeError:
                    pass
                await pass_time()
        del far
        for near in clients:
            near.close()
        await pass_time()
        assert len(sockets) == 0
        kept = [one for one in gc.get_objects() if isinstance(one, (MqttClient, MqttSocket))]
        gc.enable()
        assert not kept
        sockets.close()

    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
