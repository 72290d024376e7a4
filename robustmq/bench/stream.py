"""How the bytes of one connection of the load generator travel: TCP as it is, or TLS.

A stream is what `socket.socket` is to a connection that does not block: `recv_into` and `send` say
how much they moved, and raise BlockingIOError when nothing can be moved now. `ready` is False until
the handshake is through.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from robustmq.bench import plan

TRANSPORTS = ("tcp", "tls")


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


def tls_context(options: plan.Options) -> ssl.SSLContext:
    """One context for all connections of a run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if options.ca_file:
        context.load_verify_locations(options.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
