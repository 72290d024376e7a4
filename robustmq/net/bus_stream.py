"""One socket of the bus: whole frames out of what is read, one write for what a turn gathers.

Which worker the peer is, and whether it may stay, is `bus_link`'s to decide. Byte layout in
docs/formats.md, "The bus". Invariants: a payload is copied at most once here, when a read
ends in the middle of its frame; nothing is ever read from a link that was cut.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Protocol, cast

from robustmq.observability import logs

FRAME_HEAD = struct.Struct("<IB")
LENGTH_BYTES = 4

Buffer = bytes | bytearray | memoryview
log = logs.get_logger("bus")


class Bus(Protocol):
    """What a link tells of itself."""

    max_frame_bytes: int
    high_water_bytes: int

    def hello(self) -> bytes:
        """The first frame to send."""

    def opened(self, link: Link) -> None:
        """A socket is there, its hello not yet."""

    def frame(self, link: Link, kind: int, payload: memoryview) -> None:
        """A frame came."""

    def turn_end(self, link: Link) -> None:
        """The frames of one read were told."""

    def pressed(self, link: Link, over: bool) -> None:
        """More than the high-water mark waits, or no longer."""

    def lost(self, link: Link) -> None:
        """The socket is gone."""


class Link(asyncio.Protocol):
    """One socket to one worker: frames in, writes gathered."""

    def __init__(self, bus: Bus, expected: int | None) -> None:
        """`expected` is the worker that was connected to; None for a link that was accepted."""
        self._bus = bus
        self.expected = expected
        self.worker: int | None = None
        self.pending: list[Buffer] = []
        self.pending_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._gathered = 0
        self._needed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there; say who this is."""
        # A cast: the transports of uvloop do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(self._bus.high_water_bytes)
        self._bus.opened(self)
        self._transport.write(self._bus.hello())

    def data_received(self, data: bytes) -> None:
        """All whole frames are handed over; a part of one waits, as chunks, until it is whole."""
        if self._needed:
            self._chunks.append(data)
            self._gathered += len(data)
            if self._gathered < self._needed:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._needed = 0
        view = memoryview(data)
        position, end = 0, len(data)
        maximum = self._bus.max_frame_bytes
        needed = FRAME_HEAD.size
        while end - position >= FRAME_HEAD.size:
            length, kind = FRAME_HEAD.unpack_from(view, position)
            if not 1 <= length <= maximum:
                log.error("a frame of a bad length, cutting the link", length=length)
                self.abort()
                return
            stop = position + LENGTH_BYTES + length
            if stop > end:
                needed = LENGTH_BYTES + length
                break
            self._bus.frame(self, kind, view[position + FRAME_HEAD.size : stop])
            if self._transport is None or self._transport.is_closing():
                return
            position = stop
        if position < end:
            self._chunks.append(data[position:])
            self._gathered = end - position
            self._needed = needed
        self._bus.turn_end(self)

    def pause_writing(self) -> None:
        """The worker reads more slowly than is sent."""
        self._bus.pressed(self, True)

    def resume_writing(self) -> None:
        """The worker has caught up."""
        self._bus.pressed(self, False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone, or replaced its link."""
        self._transport = None
        self.pending.clear()
        self.pending_bytes = 0
        self._bus.lost(self)

    def flush(self) -> int:
        """Write what was gathered; its bytes."""
        pending, self.pending = self.pending, []
        size, self.pending_bytes = self.pending_bytes, 0
        if self._transport is not None and pending and not self._transport.is_closing():
            self._transport.writelines(pending)
        return size

    def queued_bytes(self) -> int:
        """What waits, gathered or in the socket's buffer."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self.pending_bytes + unsent

    def close(self) -> None:
        """Close behind what is queued."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
