"""The PROXY protocol: the forms of its header, and what a listener makes of them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmq.mqtt import codec
from robustmq.mqtt.packets import Connect
from robustmq.net.proxy_protocol import MAX_HEADER_BYTES, Header, ProxyError, read
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on
from tests.net.carriers import TIMEOUT_S, Certificates, websocket_wire

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, addresses: bytes, extra: bytes = b"") -> bytes:
    body = addresses + extra
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


def v2_tcp4(source: str, port: int, extra: bytes = b"") -> bytes:
    pair = socket.inet_aton(source) + socket.inet_aton("10.0.0.1")
    return v2(0x21, 0x11, pair + struct.pack(">HH", port, 1883), extra)


SIX = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack(">HH", 4000, 1883)
TLV = b"\x04\x00\x03abc"
SOUND = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.7 10.0.0.1 4000 1883\r\n", "192.0.2.7:4000"),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 ::1 4000 1883\r\n", "[2001:db8::7]:4000"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "v1 UNKNOWN with more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    "v2 TCP4": (v2_tcp4("192.0.2.7", 4000), "192.0.2.7:4000"),
    "v2 TCP4 with TLVs": (v2_tcp4("192.0.2.7", 4000, TLV * 9), "192.0.2.7:4000"),
    "v2 TCP6": (v2(0x21, 0x21, SIX), "[2001:db8::7]:4000"),
    "v2 LOCAL": (v2(0x20, 0x00, b""), None),
    "v2 LOCAL with addresses": (v2(0x20, 0x11, bytes(12)), None),
    "v2 UNIX": (v2(0x21, 0x31, bytes(216)), None),
    "v2 UNSPEC": (v2(0x21, 0x00, b""), None),
}
BAD = {
    "MQTT": codec.encode(Connect(5, b"a", True, 0), 5),
    "HTTP": b"GET / HTTP/1.1\r\n",
    "v1 other family": b"PROXY UDP4 192.0.2.7 10.0.0.1 4000 1883\r\n",
    "v1 wrong family": b"PROXY TCP6 192.0.2.7 10.0.0.1 4000 1883\r\n",
    "v1 bad address": b"PROXY TCP4 192.0.2.777 10.0.0.1 4000 1883\r\n",
    "v1 bad port": b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 1883\r\n",
    "v1 too few": b"PROXY TCP4 192.0.2.7 10.0.0.1 4000\r\n",
    "v1 without end": b"PROXY TCP4 " + b"1" * 200,
    "v1 other word": b"PROXX",
    "v2 version": v2(0x11, 0x11, bytes(12)),
    "v2 command": v2(0x22, 0x11, bytes(12)),
    "v2 cut addresses": v2(0x21, 0x11, bytes(11)),
    "v2 too long": SIGNATURE + b"\x21\x11\xff\xff",
    "v2 bad signature": b"\r\n\r\n\0\r\nQUIX\n",
}


@pytest.mark.parametrize("name", SOUND)
def test_a_header_is_whole_at_its_last_byte_and_not_before(name: str) -> None:
    header, address = SOUND[name]
    assert read(header + b"rest") == Header(len(header), address)
    for size in range(1, len(header)):
        assert read(header[:size]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header_is_refused(name: str) -> None:
    with pytest.raises(ProxyError):
        read(bytes(BAD[name]))


@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", b"PROXY TCP4 ", SIGNATURE]))
def test_any_bytes_are_a_header_or_not(data: bytes, start: bytes) -> None:
    try:
        header = read(start + data)
    except ProxyError:
        return
    assert header is None or 0 < header.size <= min(MAX_HEADER_BYTES, len(start + data))


# -- listeners -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.server("server")
    return made


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[BrokerProcess]:
    certificate = f'certificate = "{certificates.directory / "server.pem"}"'
    tables = "".join(
        f"""
[[listener]]
name = "{transport}"
transport = "{transport}"
port = 0
proxy_protocol = true
{certificate if transport in ("tls", "wss") else ""}
"""
        for transport in ("tcp", "ws", "tls", "wss")
    )
    config = tables + "[limits]\nmax_connections_per_address = 2\n"
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, config) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def through(
    broker: BrokerProcess, certificates: Certificates, transport: str, header: bytes
) -> Wire:
    sock = socket.create_connection(("127.0.0.1", broker.listeners[transport]), TIMEOUT_S)
    sock.sendall(header)
    if transport in ("tls", "wss"):
        sock = certificates.context().wrap_socket(sock, server_hostname="localhost")
    return websocket_wire(sock) if transport in ("ws", "wss") else Wire(0, carrier=sock)


@pytest.mark.parametrize("transport", ["tcp", "ws", "tls", "wss"])
def test_the_address_that_the_proxy_tells_is_the_clients(
    broker: BrokerProcess, certificates: Certificates, transport: str
) -> None:
    for number, home in enumerate((0, 1)):
        header = v2_tcp4(f"192.0.2.{number}", 4000 + len(transport), TLV)
        with through(broker, certificates, transport, header) as wire:
            assert wire.connect(client_id_on(home, 2)).reason_code == 0
            wire.send(b"\x36\x00")
            wire.expect_end(0x81)
        wanted = f"192.0.2.{number}:{4000 + len(transport)}"
        until(lambda w=wanted: w in broker.log, what="the log line")  # type: ignore[misc]


def test_the_header_may_come_in_pieces_and_health_checks_are_let_in(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    connect = codec.encode(Connect(5, client_id_on(1, 2), True, 0), 5)
    header = b"PROXY TCP4 192.0.2.50 10.0.0.1 4000 1883\r\n"
    with through(broker, certificates, "tcp", b"") as wire:
        for byte in header:
            wire.send(bytes((byte,)))
        wire.send(connect)
        wire.read()
    with through(broker, certificates, "tcp", v2(0x20, 0, b"")) as wire:
        assert wire.connect().reason_code == 0


@pytest.mark.parametrize("name", ["MQTT", "HTTP", "v1 bad port", "v2 too long"])
def test_a_bad_header_ends_the_connection_with_one_log_line(
    broker: BrokerProcess, certificates: Certificates, name: str
) -> None:
    with through(broker, certificates, "tcp", bytes(BAD[name])) as wire:
        port = wire.socket.getsockname()[1]
        try:
            assert wire.socket.recv(10) == b""
        except ConnectionResetError:
            pass
    until(lambda: broker.log_lines_of(port, "PROXY protocol:") == 1, what="the log line")


def test_bounds_of_an_address_are_for_the_clients_address(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    def comes_in(address: str) -> bool:
        header = f"PROXY TCP4 {address} 10.0.0.1 4000 1883\r\n".encode()
        wire = through(broker, certificates, "tcp", header)
        wires.append(wire)
        try:
            return wire.connect(client_id_on(0, 2)).reason_code == 0
        except Exception:  # noqa: BLE001
            return False

    wires: list[Wire] = []
    assert [comes_in("198.51.100.1") for _ in range(3)] == [True, True, False]
    assert comes_in("198.51.100.2")
    for wire in wires:
        wire.drop()
