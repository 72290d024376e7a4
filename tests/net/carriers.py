"""What carries MQTT besides TCP, from the client's side: certificates, TLS and WebSockets for
tests."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
from pathlib import Path

import trustme

from robustmq.core.websocket import close_frame
from tests.mqtt.wire import Wire

TIMEOUT_S = 10.0
NAME = "localhost"


class Certificates:
    """An authority of our own, and what it has signed, as files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)

    def server(self, file: str, *names: str) -> Path:
        """A certificate with its key for a server of these names; written over what is there."""
        return self._write(file, self.authority.issue_cert(*(names or (NAME, "127.0.0.1"))))

    def client(self, file: str, common_name: str) -> Path:
        """A certificate with its key for a client."""
        return self._write(file, self.authority.issue_cert(f"{file}.test", common_name=common_name))

    def _write(self, file: str, made: trustme.LeafCert) -> Path:
        path = self.directory / f"{file}.pem"
        fresh = path.with_suffix(".new")
        made.private_key_and_cert_chain_pem.write_to_path(fresh)
        fresh.replace(path)
        return path

    def context(self, client: Path | None = None) -> ssl.SSLContext:
        """What a client trusts, and its own certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if client is not None:
            context.load_cert_chain(client)
        return context


def tls(port: int, context: ssl.SSLContext, name: str = NAME) -> ssl.SSLSocket:
    """A TLS connection after its handshake."""
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except (ssl.SSLError, OSError):
        sock.close()
        raise


def request(path: str = "/mqtt", protocols: str = "mqtt", **others: str) -> bytes:
    """An upgrade request. `others` replace or add headers (`Sec_WebSocket_Key="x"`); an empty value
    leaves one out."""
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": protocols,
    } | {name.replace("_", "-"): value for name, value in others.items()}
    rows = [f"{name}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([f"GET {path} HTTP/1.1", *rows, "", ""]).encode()


def answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers (names in lower case) and what follows them."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        assert more, f"the connection ended within {data!r}"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    line, *rows = head.decode().split("\r\n")
    pairs = [row.partition(": ") for row in rows]
    return int(line.split()[1]), {name.lower(): value for name, _, value in pairs}, rest


def frame(opcode: int, payload: bytes, final: bool = True, masked: bool = True) -> bytes:
    """A frame of a client."""
    first = (0x80 if final else 0) | opcode
    size = len(payload)
    if size < 126:
        head = bytes((size,))
    elif size < 65_536:
        head = b"\x7e" + size.to_bytes(2, "big")
    else:
        head = b"\x7f" + size.to_bytes(8, "big")
    if not masked:
        return bytes((first,)) + head + payload
    mask = os.urandom(4)
    stream = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    mixed = (int.from_bytes(payload, "big") ^ stream).to_bytes(size, "big")
    return bytes((first, head[0] | 0x80)) + head[1:] + mask + mixed


class WebSocket:
    """Looks like a socket to `Wire`; what is sent is one binary frame, and control frames that
    come are kept."""

    def __init__(self, sock: socket.socket, path: str = "/mqtt", protocols: str = "mqtt") -> None:
        self.socket = sock
        asked = request(path, protocols)
        sock.sendall(asked)
        status, headers, self._data = answer(sock)
        assert status == 101, self._data
        key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
        self.subprotocol = headers["sec-websocket-protocol"]
        self.control: list[tuple[int, bytes]] = []
        self.data_frames = 0

    def sendall(self, data: bytes) -> None:
        self.socket.sendall(frame(2, data))

    def settimeout(self, timeout_s: float) -> None:
        self.socket.settimeout(timeout_s)

    def close(self) -> None:
        self.socket.close()

    def recv(self, size: int) -> bytes:
        """The payload of the next data frame; empty at the end of the connection."""
        while True:
            taken = self._take()
            if taken is not None:
                opcode, payload = taken
                if opcode == 2:
                    self.data_frames += 1
                    return payload
                self.control.append((opcode, payload))
                continue
            more = self.socket.recv(65_536)
            if not more:
                return b""
            self._data += more

    def _take(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        assert not data[1] & 0x80, "a server does not mask"
        size, begin = data[1], 2
        if size == 126:
            size, begin = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, begin = int.from_bytes(data[2:10], "big"), 10
        if len(data) < begin + size:
            return None
        self._data = data[begin + size :]
        return data[0] & 15, data[begin : begin + size]

    def expect_close(self, status: int) -> None:
        """Nothing but a Close frame with this status comes, and the end."""
        assert self.recv(1) == b""
        assert self.control[-1] == (8, close_frame(status)[2:])


def websocket_wire(sock: socket.socket, version: int = 5, **options: str) -> Wire:
    """MQTT over a WebSocket over this socket."""
    return Wire(0, version, carrier=WebSocket(sock, **options))  # type: ignore[arg-type]
