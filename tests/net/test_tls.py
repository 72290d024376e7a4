"""MQTT over TLS, with the session at the worker that accepted or at the other one: certificates,
names, reloads, bad handshakes, the death of a worker."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from robustmq.listener import Listener
from robustmq.mqtt import codec
from robustmq.mqtt.packets import ConnAck, Connect, Disconnect, Publish, Will
from robustmq.net.tls import MAX_RECORDS, ServerTls, TlsCarrier
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Closed, Wire, client_id_on, topic_on
from tests.net.carriers import TIMEOUT_S, Certificates, answer, request, tls, websocket_wire

MIB = 1024 * 1024


def config(certificates: Certificates) -> str:
    certificate, ca = certificates.directory / "server.pem", certificates.ca
    return f"""
[[listener]]
name = "tcp"
port = 0
[[listener]]
name = "tls"
transport = "tls"
port = 0
certificate = "{certificate}"
connect_timeout_ms = 1500
[[listener.server_names]]
names = ["other.example", "*.wild.example"]
certificate = "{certificates.directory / "other.pem"}"
[[listener]]
name = "newest"
transport = "tls"
port = 0
certificate = "{certificate}"
tls_minimum = "1.3"
[[listener]]
name = "wss"
transport = "wss"
port = 0
certificate = "{certificate}"
[[listener]]
name = "known"
transport = "tls"
port = 0
certificate = "{certificate}"
client_ca = "{ca}"
require_client_certificate = true
use_identity_as_username = true
[[listener]]
name = "paced"
transport = "tls"
port = 0
certificate = "{certificate}"
bytes_per_second = 500000
[[listener]]
name = "asked"
transport = "tls"
port = 0
certificate = "{certificate}"
client_ca = "{ca}"
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.server("server")
    made.server("other", "other.example", "*.wild.example")
    made.client("ann", "ann")
    return made


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, config(certificates)) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


Secure = Callable[..., Wire]


@pytest.fixture
def secure(broker: BrokerProcess, certificates: Certificates) -> Secure:
    """Opens an MQTT connection over TLS."""

    def connection(
        listener: str = "tls", context: ssl.SSLContext | None = None, version: int = 5
    ) -> Wire:
        sock = tls(broker.listeners[listener], context or certificates.context())
        return websocket_wire(sock) if listener == "wss" else Wire(0, version, carrier=sock)

    return connection


def refused(broker: BrokerProcess, listener: str, context: ssl.SSLContext) -> bool:
    """True when the handshake, or what follows it, fails."""
    try:
        with tls(broker.listeners[listener], context) as sock:
            # In TLS 1.3 a client hears of it when it reads.
            sock.sendall(codec.encode(Connect(5, b"", True, 0), 5))
            return not sock.recv(100)
    except (ssl.SSLError, ConnectionError):
        return True


# -- clients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
@pytest.mark.parametrize("home", [0, 1])
def test_paho_talks_over_tls_and_secure_websockets(
    broker: BrokerProcess, certificates: Certificates, transport: str, home: int
) -> None:
    topic, payload = topic_on(1 - home, 2).decode(), bytes(range(256)) * 4000
    got: list[bytes] = []
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id_on(home, 2).decode(),
        transport=transport,  # type: ignore[arg-type]
        protocol=paho.MQTTv5,
    )
    client.tls_set(str(certificates.ca))
    client.on_connect = lambda c, *_: c.subscribe(topic, 2)
    client.on_subscribe = lambda c, *_: c.publish(topic, payload, 2)
    client.on_message = lambda _c, _u, message: got.append(bytes(message.payload))
    client.connect("localhost", broker.listeners["wss" if transport == "websockets" else "tls"])
    client.loop_start()
    until(lambda: got == [payload], what="the message")
    client.disconnect()
    client.loop_stop()


@pytest.mark.skipif(not shutil.which("mosquitto_pub"), reason="mosquitto_pub is not installed")
def test_mosquittos_client_trusts_the_certificate(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    command = ["mosquitto_pub", "-h", "localhost", "-p", str(broker.listeners["tls"])]
    command += ["--cafile", str(certificates.ca), "-q", "2", "-t", "t", "-m", "m"]
    assert subprocess.run(command, timeout=20, check=False).returncode == 0
    command[4] = str(broker.listeners["known"])
    assert subprocess.run(command, timeout=20, check=False, capture_output=True).returncode != 0
    ann = str(certificates.directory / "ann.pem")
    command += ["--cert", ann, "--key", ann]
    assert subprocess.run(command, timeout=20, check=False).returncode == 0


# -- versions, names, certificates -----------------------------------------------------------------


def limited(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certificates.context()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_versions_below_the_minimum_are_refused(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    assert refused(broker, "tls", limited(certificates, ssl.TLSVersion.TLSv1_1))
    assert not refused(broker, "tls", limited(certificates, ssl.TLSVersion.TLSv1_2))
    assert refused(broker, "newest", limited(certificates, ssl.TLSVersion.TLSv1_2))
    assert not refused(broker, "newest", certificates.context())


def test_the_certificate_is_the_one_for_the_name_that_is_asked_for(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    port, context = broker.listeners["tls"], certificates.context()
    for name in ("localhost", "other.example", "OTHER.example", "a.wild.example"):
        tls(port, context, name).close()
    for name in ("wild.example", "a.b.wild.example", "unknown.example"):
        with pytest.raises(ssl.SSLCertVerificationError):
            tls(port, context, name)


def test_a_certificate_of_the_client_is_its_user_name_and_nobody_comes_in_without(
    broker: BrokerProcess, certificates: Certificates, secure: Secure, tmp_path: Path
) -> None:
    stranger = Certificates(tmp_path).client("stranger", "ann")
    assert refused(broker, "known", certificates.context())
    assert refused(broker, "known", certificates.context(stranger))
    ann = certificates.context(certificates.directory / "ann.pem")
    for home in (0, 1):
        with secure("known", ann) as wire:
            assert wire.connect(client_id_on(home, 2), user_name="eve").reason_code == 0
    assert "TLS handshake: peer did not return a certificate" in broker.log


def test_a_certificate_is_optional_where_it_is_only_asked_for(
    broker: BrokerProcess, certificates: Certificates, tmp_path: Path
) -> None:
    assert not refused(broker, "asked", certificates.context())
    assert not refused(broker, "asked", certificates.context(certificates.directory / "ann.pem"))
    stranger = Certificates(tmp_path).client("stranger", "ann")
    assert refused(broker, "asked", certificates.context(stranger))


# -- bad handshakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
    ],
)
def test_what_is_no_handshake_ends_with_one_log_line(broker: BrokerProcess, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", broker.listeners["tls"]), TIMEOUT_S) as sock:
        port = sock.getsockname()[1]
        sock.sendall(said)
        try:
            while sock.recv(1000):
                continue
        except ConnectionResetError:
            pass
    until(lambda: broker.log_lines_of(port, "TLS handshake:") == 1, what="the log line")


def test_a_request_that_cannot_be_granted_is_told_why_under_tls_too(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    for asked in (request("/elsewhere"), request("/elsewhere") + bytes(100_000)):
        with tls(broker.listeners["wss"], certificates.context()) as sock:
            sock.sendall(asked)
            assert answer(sock)[0] == 404


def test_half_open_handshakes_are_ended_by_the_connect_timeout(
    broker: BrokerProcess, certificates: Certificates, secure: Secure
) -> None:
    silent, begun = (
        socket.create_connection(("127.0.0.1", broker.listeners["tls"]), TIMEOUT_S)
        for _ in range(2)
    )
    begun.sendall(b"\x16\x03\x01\x02\x00\x01")
    with secure() as done:
        for sock in (silent, begun, done.socket):
            sock.settimeout(8)
            try:
                while sock.recv(1000):
                    continue
            except ConnectionResetError:
                pass
    silent.close()
    begun.close()


def test_no_step_waits_for_an_acknowledgement_of_tcp(secure: Secure) -> None:
    # Small writes one after another are held back for 40 ms, unless the socket is told not to.
    took = []
    for number in range(9):
        began = time.monotonic()
        with secure() as client:
            client.connect(client_id_on(number, 2))
            client.expect_nothing()
        took.append(time.monotonic() - began)
    assert sorted(took)[4] < 0.04, took


# -- relayed connections ---------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tls", "wss"])
def test_floods_arrive_in_order_whatever_worker_has_the_session(
    broker: BrokerProcess, secure: Secure, transport: str
) -> None:
    for home in (0, 1):
        topic, count = topic_on(1 - home, 2), 30_000
        with secure(transport) as reader, secure(transport) as writer:
            reader.connect(client_id_on(home, 2))
            reader.subscribe(topic)
            writer.connect(client_id_on(home, 2))
            for at in range(0, count, 500):
                writer.send(*(Publish(topic, b"%d" % n) for n in range(at, at + 500)))
            for number in range(count):
                assert reader.expect(Publish).payload == b"%d" % number


@pytest.mark.parametrize("transport", ["tls", "wss"])
def test_slow_readers_lose_nothing_and_hold_nobody_up(
    broker: BrokerProcess, secure: Secure, transport: str
) -> None:
    payload = bytes(range(256)) * 400
    for home in (0, 1):
        topic = topic_on(0, 2)
        with secure(transport) as reader, Wire(broker.listeners["tcp"]) as writer:
            reader.connect(client_id_on(home, 2), receive_maximum=65_535)
            reader.subscribe(topic, qos=1)
            writer.connect()
            for number in range(60):
                assert writer.publish(topic, b"%d " % number + payload, qos=1) == 0
            for number in range(60):
                assert reader.expect(Publish).payload == b"%d " % number + payload


def test_who_is_read_in_small_pieces_is_read_to_the_end(secure: Secure) -> None:
    # Whose rate is bounded is read 4 KiB at once, less than a TLS record.
    topic, payloads = topic_on(0, 2), [bytes((n,)) * 7000 for n in range(60)]
    for home in (0, 1, 0, 1, 0, 1):
        with secure("paced") as client:
            client.connect(client_id_on(home, 2))
            client.subscribe(topic)
            client.send(*(Publish(topic, payload) for payload in payloads))
            assert [client.expect(Publish).payload for _ in payloads] == payloads


@pytest.mark.parametrize("transport", ["tls", "wss"])
def test_large_packets_pass_both_ways(secure: Secure, transport: str) -> None:
    payload = os.urandom(MIB)
    for home in (0, 1):
        topic = topic_on(1, 2)
        with secure(transport) as client:
            client.connect(client_id_on(home, 2))
            client.subscribe(topic, qos=2)
            for _ in range(3):
                client.send(Publish(topic, payload, 1, packet_id=client.next_id()))
            got = [client.wait_for(Publish).payload for _ in range(3)]
            assert got == [payload] * 3


def test_reasons_arrive_over_a_relay(secure: Secure) -> None:
    for home in (0, 1):
        client_id = client_id_on(home, 2)
        with secure() as first, secure() as second:
            first.connect(client_id)
            second.connect(client_id)
            first.expect_end(0x8E)
            second.send(b"\x36\x00")
            second.expect_end(0x81)
        with secure(version=4) as old:
            old.send(Connect(4, b"", False, 0))
            assert old.expect(ConnAck).reason_code == 2
            old.expect_end()


@pytest.mark.parametrize("transport", ["tls", "wss"])
def test_a_client_that_vanishes_behind_a_relay_leaves_its_will(
    broker: BrokerProcess, secure: Secure, transport: str
) -> None:
    topic = topic_on(0, 2)
    with Wire(broker.listeners["tcp"]) as watcher:
        watcher.connect()
        watcher.subscribe(topic)
        for home in (0, 1):
            client = secure(transport)
            client.connect(client_id_on(home, 2), will=Will(topic, b"%d" % home))
            client.drop()
            assert watcher.expect(Publish).payload == b"%d" % home


def test_a_client_that_sends_much_behind_connect_is_heard_to_the_end(
    broker: BrokerProcess, secure: Secure
) -> None:
    topic, payloads = topic_on(0, 2), [bytes((n,)) * 8_000 for n in range(100)]
    with Wire(broker.listeners["tcp"]) as watcher:
        watcher.connect()
        watcher.subscribe(topic)
        for home in (0, 1, 0, 1, 0, 1, 0, 1):
            connect = Connect(5, client_id_on(home, 2), True, 0)
            with secure() as client:
                client.send(connect, *(Publish(topic, payload) for payload in payloads))
                assert client.expect(ConnAck).reason_code == 0
                assert client.publish(topic, b"last", qos=1) == 0
                got = [watcher.expect(Publish).payload for _ in (*payloads, b"last")]
                assert got == [*payloads, b"last"]


def test_whoever_reads_nothing_is_let_go_of_behind_a_relay_too(
    broker: BrokerProcess, secure: Secure
) -> None:
    topic, names = topic_on(0, 2), [client_id_on(number, 2) for number in range(8)]
    with ExitStack() as stack:
        for name in names:
            reader = stack.enter_context(secure())
            reader.connect(name)
            reader.subscribe(topic)
        with Wire(broker.listeners["tcp"]) as writer:
            writer.connect()
            for _ in range(200):
                writer.publish(topic, bytes(100_000), qos=1)
        until(lambda: broker.metric("robustmq_tls_relayed"), what="a connection behind a relay")
        for name in names:
            other = stack.enter_context(Wire(broker.listeners["tcp"]))
            other.connect(name)
        until(lambda: not broker.metric("robustmq_tls_relayed"), what="the end of the relays")


def test_closed_connections_leave_no_descriptors(broker: BrokerProcess, secure: Secure) -> None:
    def round_of_clients() -> None:
        for number in range(20):
            wire = secure("wss" if number % 2 else "tls")
            wire.connect(client_id_on(number // 2, 2))
            if number % 5:
                wire.drop()
            else:
                wire.disconnect()

    # The way to the other worker's mailbox is opened by the first connection that takes it.
    round_of_clients()
    until(lambda: not broker.metric("robustmq_connections"), 15, "the end of the first connections")
    before = broker.open_sockets()
    round_of_clients()
    until(lambda: broker.open_sockets() <= before, 15, "the end of the connections")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_session_is_resumed_at_either_worker(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    context = limited(certificates, ssl.TLSVersion.TLSv1_2)
    session = None
    reused = []
    for _ in range(12):
        sock = socket.create_connection(("127.0.0.1", broker.listeners["tls"]), TIMEOUT_S)
        with context.wrap_socket(sock, server_hostname="localhost", session=session) as secured:
            reused.append(bool(secured.session_reused))
            session = session or secured.session
    assert reused == [False] + [True] * 11


def test_records_of_a_byte_are_read_in_slices_and_those_of_any_size_in_small_pieces(
    certificates: Certificates,
) -> None:
    near, far = socket.socketpair()
    data, read = os.urandom(20_000), threading.Event()

    def client() -> None:
        with certificates.context().wrap_socket(near, server_hostname="localhost") as sock:
            for byte in range(1000):
                sock.sendall(data[byte : byte + 1])
            read.wait(10)
            sock.sendall(data[1000:])

    thread = threading.Thread(target=client)
    thread.start()
    file = str(certificates.directory / "server.pem")
    server = ServerTls(Listener("test", "tls", certificate=file)).wrap(far)
    server.do_handshake()
    server.setblocking(False)
    carrier, got = TlsCarrier(server, far, b"head "), b""
    buffer, small, sizes = bytearray(70_000), bytearray(700), []
    while True:
        # Those of a byte with much room, the others with little.
        into = buffer if len(got) < 5 + 1000 else small
        size = carrier.receive(into, 3)
        if size == 0:
            break
        if size > 0:
            sizes.append(size)
            got += into[3 : 3 + size]
            if len(got) == 5 + 1000:
                assert max(sizes) <= 5 + MAX_RECORDS
                read.set()
        elif not carrier.waiting:
            select.select([far if far.fileno() >= 0 else server], [], [], 10)
    thread.join()
    assert got == b"head " + data
    assert max(sizes) == 700 - 3
    assert carrier.waiting, "its end is to be told again to who asks"
    carrier.close()


# -- reloading -------------------------------------------------------------------------------------


def serial(broker: BrokerProcess, certificates: Certificates) -> str:
    with tls(broker.listeners["tls"], certificates.context()) as sock:
        found = sock.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def test_sighup_takes_new_certificates_and_drops_nobody_and_a_broken_one_keeps_the_old(
    broker: BrokerProcess, certificates: Certificates, secure: Secure
) -> None:
    assert broker.process is not None
    clients = [secure(), secure()]
    for home, client in enumerate(clients):
        client.connect(client_id_on(home, 2))
    old = serial(broker, certificates)
    certificates.server("server")
    assert serial(broker, certificates) == old, "nothing is read before SIGHUP"
    broker.process.send_signal(signal.SIGHUP)
    until(lambda: serial(broker, certificates) != old, what="the new certificate")
    # At both workers, however the kernel spreads the connections.
    until(lambda: len({serial(broker, certificates) for _ in range(12)}) == 1, what="both workers")
    new = serial(broker, certificates)
    (certificates.directory / "server.pem").write_text("no certificate")
    broker.process.send_signal(signal.SIGHUP)
    until(lambda: broker.log.count("the certificates stay as they were") >= 3, what="the log")
    assert {serial(broker, certificates) for _ in range(12)} == {new}
    for client in clients:
        client.expect_nothing()
        client.drop()
    certificates.server("server")
    broker.process.send_signal(signal.SIGHUP)
    until(lambda: serial(broker, certificates) != new, what="the third certificate")


# -- the death of a worker -------------------------------------------------------------------------


def test_the_death_of_a_worker_ends_what_it_carries_and_leaves_the_others(
    tmp_path: Path, certificates: Certificates
) -> None:
    with BrokerProcess(tmp_path, 2, config(certificates)) as broker:

        def connected(client_id: bytes) -> Wire:
            wire = Wire(0, carrier=tls(broker.listeners["tls"], certificates.context()))
            wire.connect(client_id, clean_start=False, expiry=600)
            return wire

        def lost(wire: Wire) -> bool:
            try:
                wire.expect_nothing()
            except (Closed, OSError):
                return True
            return False

        ids = [client_id_on(n % 2, 2) for n in range(16)]
        clients = [connected(client_id) for client_id in ids]
        topic = topic_on(0, 2)
        for client in clients:
            client.subscribe(topic, qos=1)
        broker.kill_worker(1)
        time.sleep(0.2)
        ended = [lost(client) for client in clients]
        # Worker 0's own clients that it accepted itself stay; all sessions of worker 1 end.
        assert all(gone for n, gone in enumerate(ended) if n % 2)
        until(lambda: len(broker.worker_pids()) == 2, what="the worker")
        until(lambda: broker.log.count("worker ready") == 3, what="the worker")
        for client in clients:
            client.drop()
        clients = [connected(client_id) for client_id in ids]
        clients[0].publish(topic, b"after", qos=1)
        for client in clients:
            assert client.receive().payload == b"after"
            client.drop()
        # A stop says goodbye over relays, too.
        clients = [connected(client_id) for client_id in ids]
        assert broker.stop() == 0
        for client in clients:
            assert client.expect(Disconnect).reason_code == 0x8B
            client.drop()
        assert "Traceback" not in broker.log
