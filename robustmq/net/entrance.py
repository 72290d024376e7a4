"""What a connection has sent so far, before anybody knows whose it is.

A plain socket is peeked at (MSG_PEEK), so that it can leave as it came; of a TLS connection what
was decrypted is kept. `look` shows all that has not been taken, `take` takes of it, `wait_for` says
how much is wanted next. BlockingIOError: there is nothing yet.
"""

from __future__ import annotations

import socket
import ssl

from robustmq.net.tls import RECORD_BYTES, TlsCarrier, common_name, handshake_reason

DISCARD_BYTES = 65_536
USUAL_BYTES = 2_048
"""What a CONNECT has room in, as a rule: a buffer for more costs more than the look."""


class Peeked:
    """A plain socket, of which nothing is read but what is taken."""

    __slots__ = ("_low_water", "_wakes", "accepted", "file", "unheard")
    wants_write = False

    def __init__(self, sock: socket.socket) -> None:
        self.accepted = sock
        self.file = sock.fileno()
        self.unheard = False
        """True while more is wanted than is there, and the kernel will not say when it has come:
        UNIX sockets know no SO_RCVLOWAT. Then it has to be looked at from time to time."""
        self._low_water = 1
        self._wakes = sock.family != socket.AF_UNIX

    def look(self, maximum: int) -> bytes:
        """What has come; empty when the peer has ended."""
        data = self.accepted.recv(min(maximum, USUAL_BYTES), socket.MSG_PEEK)
        if len(data) == USUAL_BYTES < maximum:
            return self.accepted.recv(maximum, socket.MSG_PEEK)
        return data

    def take(self, size: int) -> None:
        """Read what was seen."""
        self.accepted.recv(size)
        self._wake_at(1)

    def wait_for(self, size: int) -> bool:
        """Be ready again when so many bytes are there; False when the peer has ended before."""
        self.unheard = not self._wakes
        if self.unheard:
            return True
        if size <= self._low_water:
            return False
        self._wake_at(size)
        return True

    def send(self, data: bytes) -> bool:
        """Send a short answer; False when it does not go at once."""
        return self.accepted.send(data) == len(data)

    def shut(self) -> None:
        """Nothing more will be sent."""
        self.accepted.shutdown(socket.SHUT_WR)

    def discard(self) -> bool:
        """Read what comes to no purpose; False at the peer's end."""
        return bool(self.accepted.recv(DISCARD_BYTES))

    def leave(self) -> socket.socket:
        """The socket as it came."""
        self._wake_at(1)
        return self.accepted

    def close(self) -> None:
        """Close it."""
        self.accepted.close()

    def _wake_at(self, size: int) -> None:
        self.unheard = False
        if size != self._low_water:
            self._low_water = size
            self.accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


class Secured:
    """The server's side of a TLS connection."""

    __slots__ = ("_ended", "_seen", "_sock", "accepted", "file", "wants_write")
    unheard = False

    def __init__(self, sock: ssl.SSLSocket, accepted: socket.socket) -> None:
        """`accepted` counts as the open connection, and lives as long as this one."""
        self.accepted = accepted
        self.file = sock.fileno()
        self.wants_write = False
        self._sock = sock
        self._seen = bytearray()
        self._ended = False

    def handshake(self) -> bool:
        """Go on with it: True when it is done. Raises HandshakeError."""
        try:
            self._sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.wants_write = isinstance(error, ssl.SSLWantWriteError)
            return False
        except (OSError, ValueError) as error:
            raise handshake_reason(error) from None
        self.wants_write = False
        return True

    @property
    def identity(self) -> str:
        """The common name of the client's certificate; empty without one."""
        return common_name(self._sock)

    def look(self, maximum: int) -> bytes:
        """What has come; empty when the peer has ended."""
        try:
            while len(self._seen) < maximum and not self._ended:
                data = self._sock.recv(RECORD_BYTES)
                self._seen += data
                self._ended = not data
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not self._seen:
                raise BlockingIOError from None
        return bytes(self._seen)

    def take(self, size: int) -> None:
        """Forget what was seen."""
        del self._seen[:size]

    def wait_for(self, size: int) -> bool:
        """False when the peer has ended."""
        return not self._ended

    def send(self, data: bytes) -> bool:
        """Send a short answer; False when it does not go at once."""
        try:
            return self._sock.send(data) == len(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False

    def shut(self) -> None:
        """Nothing more will be sent."""
        self.leave().shut()

    def discard(self) -> bool:
        """Read what comes to no purpose (it is not decrypted any more); False at the peer's end."""
        return bool(self._sock.recv(DISCARD_BYTES))

    def leave(self) -> TlsCarrier:
        """The connection with what was seen of it."""
        return TlsCarrier(self._sock, self.accepted, bytes(self._seen))

    def close(self) -> None:
        """Close it."""
        self._sock.close()


Entrance = Peeked | Secured
