"""How `robustmq pub` and `sub` reach a broker: TCP or a UNIX socket, under TLS or not, as a
WebSocket or not. Blocking, as they are."""

from __future__ import annotations

import argparse
import base64
import os
import socket
import ssl
from typing import Protocol

from robustmq.core.websocket import Deframer, client_frame
from robustmq.listener import PORTS

TIMEOUT_S = 10
READ_BYTES = 65_536
MAX_HEAD_BYTES = 8192
BINARY, CLOSE = 2, 8


class NoWebSocketError(Exception):
    """The broker did not agree to a WebSocket; the message is its answer."""


def upgrade_request(host: str, path: str, key: bytes) -> bytes:
    """What asks for a WebSocket that carries MQTT; `key` is 16 bytes (RFC 6455 section 4.1)."""
    shown = base64.b64encode(key).decode("ascii")
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {shown}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    ).encode()


class Carrier(Protocol):
    """What a client asks of its socket."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""
        ...

    def recv(self, size: int, /) -> bytes:
        """What has come; empty at the end."""
        ...

    def settimeout(self, seconds: float, /) -> None:
        """How long to wait."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def connect(options: argparse.Namespace) -> Carrier:
    """A connection as the options ask for; raises OSError and NoWebSocketError."""
    secured = options.tls or options.cafile or options.insecure or options.cert
    carrier: socket.socket
    if options.unix:
        carrier = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        carrier.settimeout(TIMEOUT_S)
        carrier.connect(options.unix)
    else:
        usual = ("wss" if secured else "ws") if options.ws else ("tls" if secured else "tcp")
        options.port = options.port or PORTS[usual]
        carrier = socket.create_connection((options.host, options.port), TIMEOUT_S)
        carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if secured:
        carrier = _context(options).wrap_socket(carrier, server_hostname=options.host)
    return WebSocket(carrier, options.host, options.ws) if options.ws else carrier


def _context(options: argparse.Namespace) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.cafile)
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert:
        context.load_cert_chain(options.cert, options.key)
    return context


class WebSocket:
    """A WebSocket over a socket, which looks like one."""

    def __init__(self, sock: socket.socket, host: str, path: str) -> None:
        self._sock = sock
        self._frames = Deframer(masked=False)
        sock.sendall(upgrade_request(host, path, os.urandom(16)))
        head = b""
        while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
            data = sock.recv(READ_BYTES)
            if not data:
                break
            head += data
        head, _, self._early = head.partition(b"\r\n\r\n")
        line = head.partition(b"\r\n")[0].decode("latin-1")
        if line.split(" ")[1:2] != ["101"]:
            raise NoWebSocketError(line or "it closed the connection")

    def sendall(self, data: bytes) -> None:
        """Send it as one frame."""
        self._sock.sendall(client_frame(BINARY, bytes(data), os.urandom(4)))

    def recv(self, size: int) -> bytes:
        """What the frames carry that have come; empty at the end."""
        while not self._frames.status:
            data = bytearray(self._early or self._sock.recv(size))
            self._early = b""
            if not data:
                break
            end = self._frames.absorb(data, 0, len(data))
            pong = self._frames.take_pong()
            if pong:
                self._sock.sendall(client_frame(pong[0] & 15, pong[2:], os.urandom(4)))
            if end:
                return bytes(data[:end])
        return b""

    def settimeout(self, seconds: float) -> None:
        """How long to wait."""
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Say that it is over, and close."""
        self._sock.sendall(client_frame(CLOSE, b"\x03\xe8", os.urandom(4)))
        self._sock.close()
