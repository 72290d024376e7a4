"""One MQTT connection over a socket, and the layers between the socket and its client.

There may be two: a carrier, which reads and writes through TLS (`net.tls`), and frames, which are
undone where they were read (`core.websocket`). Whatever carries them, the same packets are read
from the same buffer.

Decides flow control alone: what a socket does not take waits here, and the client is not `writable`
until it has gone; what gathers in its sink meanwhile is bounded there.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from robustmq.core.websocket import NORMAL, Deframer, close_frame, frame_head
from robustmq.net.socket_io import AGAIN, GONE, transmit, transmit_framed
from robustmq.net.tls import TlsCarrier

if TYPE_CHECKING:
    from robustmq.net.mqtt_sockets import MqttSockets
    from robustmq.shard.client import MqttClient
    from robustmq.shard.rates import Meter


class MqttSocket:
    """One connection: what its client calls (`shard.client.Transport`)."""

    __slots__ = (
        "_pending",
        "_sock",
        "_sockets",
        "carrier",
        "client",
        "closing",
        "file",
        "frames",
        "meter",
        "paused",
        "writable",
    )
    client: MqttClient

    def __init__(
        self,
        sockets: MqttSockets,
        sock: socket.socket | TlsCarrier,
        file: int,
        websocket: bool,
    ) -> None:
        self._sockets = sockets
        self._sock: socket.socket | TlsCarrier | None = sock
        self.file = file
        self.carrier = sock if isinstance(sock, TlsCarrier) else None
        self.frames = Deframer() if websocket else None
        self.writable = True
        self._pending = b""
        self.meter: Meter | None = None
        self.paused = False
        self.closing = False

    @property
    def layered(self) -> bool:
        """True when there is more between it and its client than a socket."""
        return self.frames is not None or self.carrier is not None

    def write(self, data: bytes | bytearray) -> None:
        """Send bytes; what the socket does not take now waits."""
        if self.file < 0 or self.closing:
            return
        if self.frames is not None:
            self._write_frame(data)
            return
        self._put(data)

    def _put(self, data: bytes | bytearray) -> None:
        """Send bytes as they go over the wire (under TLS)."""
        if self._pending:
            self._pending += data
            return
        sent = transmit(self.file, data) if self.carrier is None else self.carrier.transmit(data)
        if sent != len(data):
            self._keep(data, sent)
        else:
            self._sockets.bytes_out += sent

    def _write_frame(self, data: bytes | bytearray) -> None:
        """One binary frame."""
        head = frame_head(len(data))
        if self._pending or self.carrier is not None:
            self._put(head + data)
            return
        sent = transmit_framed(self.file, head, data)
        if sent != len(head) + len(data):
            self._keep(head + data, sent)
        else:
            self._sockets.bytes_out += sent

    def _keep(self, data: bytes | bytearray, sent: int) -> None:
        """The socket did not take all; what is left waits for it."""
        if sent == GONE:
            # The read that tells so follows; until then nothing is kept for it.
            return
        self._sockets.bytes_out += max(sent, 0)
        self._pending = bytes(memoryview(data)[max(sent, 0) :])
        self.writable = False
        self._watch()

    def write_on(self) -> None:
        """The socket takes bytes again."""
        if self.carrier is None:
            sent = transmit(self.file, self._pending)
        else:
            sent = self.carrier.transmit(self._pending)
        if sent == AGAIN:
            return
        if sent == GONE:
            self._sockets.forget(self)
            return
        self._sockets.bytes_out += sent
        self._pending = self._pending[sent:]
        if self._pending:
            return
        self.writable = True
        if self.closing:
            self._shut()
        else:
            self._watch()
            self.client.drained()
            if self.layered:
                self.attend()

    def attend(self) -> None:
        """Do what the layers ask for: answer a Ping or a Close, read what epoll does not see."""
        frames = self.frames
        if frames is not None:
            if frames.status:
                self._frames_ended(frames)
                return
            if not self._pending:
                # Who does not read gets one answer, to the last Ping, when it does.
                pong = frames.take_pong()
                if pong:
                    self._put(pong)
        if self.carrier is not None and self.carrier.waiting and not self.paused:
            self._sockets.read_again(self)

    def _frames_ended(self, frames: Deframer) -> None:
        """The client closed the WebSocket, or broke its rules: no MQTT packet says so."""
        if self.closing:
            return
        if frames.why:
            self._sockets.broken_frames(self.client, frames.why)
        self.client.lost()
        self.close()

    def close(self) -> None:
        """Close behind what waits."""
        if self.file < 0 or self.closing:
            return
        if self.frames is not None:
            self._put(close_frame(self.frames.status or NORMAL))
        self.closing = True
        self._sockets.linger(self)
        if not self._pending:
            self._shut()

    def _shut(self) -> None:
        """Everything was sent: say so, and wait for the peer's end."""
        assert self._sock is not None, "an open connection has a socket"
        try:
            if isinstance(self._sock, TlsCarrier):
                self._sock.shut()
            else:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._sockets.forget(self)
            return
        self.paused = False
        self._watch()

    def pause_reading(self) -> None:
        """Stop reading: TCP slows the client down."""
        self.paused = True
        self._watch()

    def resume_reading(self) -> None:
        """Read again."""
        self.paused = False
        self._watch()
        if self.carrier is not None and self.carrier.waiting and self.file >= 0:
            self._sockets.read_again(self)

    def _watch(self) -> None:
        if self.file >= 0:
            self._sockets.watch(self, not self.paused, bool(self._pending))

    def release(self) -> None:
        """The socket is closed here; the client hears of it."""
        sock, self._sock = self._sock, None
        self.file = -1
        self.writable = False
        self._pending = b""
        if sock is not None:
            sock.close()
        self.client.lost()
