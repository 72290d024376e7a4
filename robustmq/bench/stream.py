"""How the bytes of one connection of the load generator travel: TCP as it is, TLS, or in WebSocket
frames (RFC 6455).

A stream is what `socket.socket` is to a connection that does not block: `recv_into` and `send` say
how much they moved, and raise BlockingIOError when nothing can be moved now. A stream that begins
with a handshake has a method for it.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from robustmq.bench import plan
from robustmq.bench.dialling import upgrade_request
from robustmq.core.websocket import Deframer, frame_head

TRANSPORTS = ("tcp", "tls", "ws", "wss")


class Stream(Protocol):
    """What a connection asks of its socket."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Bytes read; 0 when the peer has ended."""
        ...

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Bytes taken."""
        ...

    def close(self) -> None:
        """Close the socket."""
        ...

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class TlsStream:
    """TLS over a connected socket; the certificate is looked at when there is a `ca_file`."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, host: str) -> None:
        self._socket = context.wrap_socket(
            sock, do_handshake_on_connect=False, server_hostname=host
        )

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is through."""
        try:
            self._socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def recv_into(self, buffer: memoryview, /) -> int:
        """As a socket: one record a call, and none of it stays inside when the buffer holds 16
        KiB."""
        try:
            return self._socket.recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """As a socket."""
        try:
            return self._socket.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def close(self) -> None:
        """Close without a word, as a client that is gone."""
        self._socket.close()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()


class WebSocketStream:
    """WebSocket frames over another stream. The mask is 0: the bytes are sent as they are, so that
    masking is not measured, and the broker undoes it as any other."""

    def __init__(self, inner: Stream, host: str) -> None:
        self._inner = inner
        self._request = upgrade_request(host, "/mqtt", bytes(16))
        self._answer = b""
        self._frames = Deframer(masked=False)
        self._head = b""
        self._left = 0

    def handshake(self) -> bool:
        """Go on with the upgrade; True when it is through."""
        try:
            if self._request:
                self._request = self._request[self._inner.send(self._request) :]
            room = bytearray(1_024)
            while not self._request:
                size = self._inner.recv_into(memoryview(room))
                self._answer += room[:size]
                if not size or self._answer.endswith(b"\r\n\r\n"):
                    break
        except BlockingIOError:
            return False
        if not self._answer.startswith(b"HTTP/1.1 101"):
            line = self._answer.partition(b"\r\n")[0].decode("latin-1")
            raise ConnectionError(f"no WebSocket: {line or 'the broker closed'}")
        return True

    def recv_into(self, buffer: memoryview, /) -> int:
        """As a socket: what the frames carry, which may be nothing yet."""
        size = self._inner.recv_into(buffer)
        whole = buffer.obj
        assert isinstance(whole, bytearray), "the buffer that all connections share"
        begin = len(whole) - len(buffer)
        end = self._frames.absorb(whole, begin, begin + size)
        if end == begin and size and not self._frames.status:
            raise BlockingIOError
        return end - begin

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """As a socket; what was begun as a frame is to be sent to its end, as `Connection` does."""
        if not self._left:
            self._left = len(data)
            self._head = _head(len(data))
        if self._head:
            self._head = self._head[self._inner.send(self._head) :]
            if self._head:
                raise BlockingIOError
        sent = self._inner.send(memoryview(data)[: self._left])
        self._left -= sent
        return sent

    def close(self) -> None:
        """Close without a word, as a client that is gone."""
        self._inner.close()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._inner.fileno()


def _head(size: int) -> bytes:
    """The header of a masked binary frame, under the mask 0."""
    first, second, *length = frame_head(size)
    return bytes((first, second | 0x80, *length, 0, 0, 0, 0))


def tls_context(options: plan.Options) -> ssl.SSLContext:
    """One context for all connections of a run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if options.ca_file:
        context.load_verify_locations(options.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
