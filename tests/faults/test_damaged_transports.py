"""Damaged HTTP requests, WebSocket frames, TLS records and PROXY headers end their connections and
nothing else.

A conversation of `test_fuzz` is carried by one of the transports, damaged where it falls: in the
packets, in the frames that carry them, or in the bytes on the wire.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import time
import urllib.request
from pathlib import Path

from robustmq.mqtt.packets import Publish
from tests.broker import BrokerProcess, until
from tests.core.fuzzing import damage
from tests.faults.test_fuzz import SETTINGS, metrics, mqtt_bytes, settled
from tests.mqtt.wire import Wire, client_id_on, topic_on
from tests.net.carriers import Certificates, frame, request, tls, websocket_wire
from tests.net.test_proxy_protocol import TLV, v2_tcp4

SECONDS = 12
SEED = 7
HALF_OPEN = 40


def config(certificate: Path) -> str:
    tables = ""
    for transport in ("tcp", "ws", "tls", "wss"):
        for proxied in (False, True):
            tables += f"""
[[listener]]
name = "{transport}{"-proxied" if proxied else ""}"
transport = "{transport}"
port = 0
proxy_protocol = {str(proxied).lower()}
"""
            if transport in ("tls", "wss"):
                tables += f'certificate = "{certificate}"\n'
    return tables


class Secret:
    """The client's side of TLS, whose records can be damaged on their way."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.read, self.wrote = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.read, self.wrote, server_hostname="localhost")

    def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.wrote.read())
                answer = self.sock.recv(65_536)
                if not answer:
                    raise ConnectionResetError("closed in the handshake") from None
                self.read.write(answer)
            else:
                break
        self.sock.sendall(self.wrote.read())

    def records(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.wrote.read()


class Attacker:
    """Opens connections of all transports, damages what it sends, leaves in every manner."""

    def __init__(self, broker: BrokerProcess, context: ssl.SSLContext) -> None:
        self.broker = broker
        self.context = context
        self.chance = random.Random(SEED)
        self.open: list[socket.socket] = []
        self.conversations = 0

    def maybe(self, data: bytes, likely: float) -> bytes:
        """The data, or damaged."""
        return damage(self.chance, data) if data and self.chance.random() < likely else data

    def framed(self, data: bytes) -> bytes:
        """Frames of any size, with control frames between them."""
        chance, out, at = self.chance, b"", 0
        while at < len(data):
            size = chance.choice((1, 10, 200, len(data)))
            final = chance.random() < 0.9
            out += self.maybe(frame(2, data[at : at + size], final), 0.02)
            if not final:
                out += frame(0, b"")
            if chance.random() < 0.1:
                opcode = chance.choice((8, 9, 9, 10, 1, 11))
                out += self.maybe(frame(opcode, chance.randbytes(chance.randrange(130))), 0.3)
            at += size
        return out

    def talk(self, name: str) -> None:
        """One connection."""
        chance = self.chance
        transport, _, proxied = name.partition("-")
        sock = socket.create_connection(("127.0.0.1", self.broker.listeners[name]), 5)
        sock.settimeout(5)
        if proxied:
            sock.sendall(self.maybe(v2_tcp4("192.0.2.1", 4000, TLV), 0.2))
        said = [self.maybe(mqtt_bytes(chance), 0.1)]
        if transport in ("ws", "wss"):
            said = [self.maybe(request(), 0.2), *(self.framed(part) for part in said)]
        if transport in ("tls", "wss"):
            secret = Secret(sock, self.context)
            if chance.random() < 0.9:
                secret.handshake()
                said = [self.maybe(secret.records(part), 0.15) for part in said if part]
        for part in said:
            sock.sendall(part)
            if chance.random() < 0.3:
                sock.settimeout(0.02)
                sock.recv(65_536)
        if chance.random() < 0.3:
            self.open.append(sock)
            if len(self.open) > HALF_OPEN:
                self.open.pop(0).close()
        else:
            sock.close()

    def run(self) -> None:
        names = sorted(self.broker.listeners)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            self.conversations += 1
            with contextlib.suppress(OSError, ssl.SSLError):
                self.talk(self.chance.choice(names))
        while self.open:
            self.open.pop().close()


def serves(broker: BrokerProcess, certificates: Certificates) -> None:
    """A message passes over each transport, with the session at either worker."""
    for transport in ("tcp", "ws", "tls", "wss"):
        for home in (0, 1):
            port, topic = broker.listeners[transport], topic_on(1 - home, 2)
            secured = transport in ("tls", "wss")
            sock = (
                tls(port, certificates.context())
                if secured
                else socket.create_connection(("127.0.0.1", port), 10)
            )
            web = transport in ("ws", "wss")
            with websocket_wire(sock) if web else Wire(0, carrier=sock) as client:
                client.connect(client_id_on(home, 2))
                client.subscribe(topic)
                client.publish(topic, b"served", qos=1)
                assert client.expect(Publish).payload == b"served"


def handed_over(broker: BrokerProcess) -> bool:
    """Has each worker passed a connection on? Its way to the other's mailbox is open from then
    on."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics").read().decode()
    name = "robustmq_connections_handed_over_total"
    return all(f'{name}{{worker="{worker}"}} 0.0' not in text for worker in (0, 1))


def test_damaged_transports_end_connections_and_nothing_else(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    text = config(certificates.server("server"))
    with BrokerProcess(tmp_path, 2, text, **SETTINGS) as broker:
        workers = broker.worker_pids()
        serves(broker, certificates)
        while not handed_over(broker):
            serves(broker, certificates)
        until(lambda: settled(broker), 30, "the end of all connections")
        before = broker.open_sockets()
        attacker = Attacker(broker, certificates.context())
        attacker.run()
        until(lambda: settled(broker), 30, "the end of all connections")
        serves(broker, certificates)
        what = f"{attacker.conversations} conversations"
        assert broker.worker_pids() == workers, what
        assert "Traceback" not in broker.log, what
        until(lambda: broker.open_sockets() <= before, 15, "the end of all sockets")
        sums = metrics(broker)
        for name in ("websocket_faults", "websocket_upgrades_refused", "proxy_headers_refused"):
            assert sums[f"robustmq_{name}_total"] > 10, (name, what)
        assert sums["robustmq_tls_handshakes_total"] > 100, what
        assert broker.stop() == 0
