# cython: annotation_typing=False, cdivision=True
"""WebSocket frames: what a peer's frames carry, and the headers of ours (RFC 6455 section 5).

A peer's frames are undone in place: the payload of all data frames of one read moves to the front
of the buffer, unmasked, so that MQTT packets are read from there as from a TCP stream, however
frames cut or join them [MQTT-6.0.0-2]. A payload is never held back and no object is made a frame,
so a frame may be of any length. Of control frames the last Ping is kept, which one Pong answers
(section 5.5.3), and the Close.

What is not sound ends the stream (`status`, section 7.4.1): a frame of a client without a mask (or
of a server with one), reserved bits or opcodes, a length that is not written in the fewest bytes, a
control frame in fragments or above 125 bytes, a continuation of nothing (1002), and a data frame
that is not binary [MQTT-6.0.0-1] (1003). What came before it counts.
"""

from __future__ import annotations

import robustmq.core.memory as memory

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_CONTROL_BYTES = 125
MAX_HEAD_BYTES = 14
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, NO_STATUS = 1000, 1001, 1002, 1003, 1005
INVALID_DATA, POLICY_VIOLATION, TOO_BIG = 1007, 1008, 1009


class Deframer:
    """The frames of one peer, in pieces of any size."""

    def __init__(self, masked: bool = True) -> None:
        """Those of a client are masked, those of a server are not."""
        self._masked = masked
        self.status = 0
        """0 while the stream is open; then the status that our Close frame is to carry."""
        self.why = ""
        """What was wrong; empty after a Close of the peer."""
        self._head = bytearray(MAX_HEAD_BYTES)
        self._head_size = 0
        self._opcode = 0
        self._in_message = False
        self._left = 0
        self._mask = 0
        self._control = bytearray(MAX_CONTROL_BYTES)
        self._control_size = 0
        self._ping = -1
        self._ping_data = b""

    def absorb(self, buffer: bytearray, begin: int, end: int) -> int:
        """Undo the frames in the buffer from `begin` to `end`; what they carry is there from
        `begin` to the returned place. After the end of the stream nothing is."""
        assert 0 <= begin <= end <= len(buffer), "frames are undone inside their buffer"
        data = buffer
        control = self._control
        at = begin
        out = begin
        while at < end and self.status == 0:
            if self._left == 0:
                at = self._take_head(buffer, at, end)
                continue
            size = self._left
            if size > end - at:
                size = end - at
            if self._opcode < CLOSE:
                memory.unmask(data, out, data, at, size, self._mask)
                out += size
            else:
                memory.unmask(control, self._control_size, data, at, size, self._mask)
                self._control_size += size
            self._mask = rotated(self._mask, size)
            self._left -= size
            at += size
            if self._left == 0 and self._opcode >= CLOSE:
                self._control_frame()
        return out

    def take_pong(self) -> bytes:
        """The frame with which a server answers the last Ping; empty when none came."""
        if self._ping < 0:
            return b""
        data = self._ping_data
        self._ping = -1
        self._ping_data = b""
        return bytes((0x80 | PONG, len(data))) + data

    def _take_head(self, buffer: bytearray, at: int, end: int) -> int:
        """Read the header of a frame, which may have begun in an earlier buffer; the place behind
        what was taken."""
        source = buffer
        head = self._head
        have = self._head_size
        wanted = 2 if have < 2 else head_size(head[1], self._masked)
        while have < wanted:
            if at >= end:
                self._head_size = have
                return at
            head[have] = source[at]
            have += 1
            at += 1
            if have == 2:
                wanted = head_size(head[1], self._masked)
        self._head_size = 0
        self._begin_frame(wanted)
        return at

    def _begin_frame(self, size: int) -> None:
        """The header is whole: may this frame come now?"""
        head = self._head
        opcode = head[0] & 15
        final = head[0] & 128
        length = head[1] & 127
        if length == 126:
            length = head[2] << 8 | head[3]
            if length < 126:
                length = -1
        elif length == 127:
            length = 0
            if head[2] & 128:
                length = -1
            else:
                for place in range(2, 10):
                    length = length << 8 | head[place]
                if length < 65_536:
                    length = -1
        if not self._allowed(head[0], head[1], length):
            return
        if opcode < CLOSE:
            self._in_message = final == 0
        else:
            self._control_size = 0
        self._opcode = opcode
        self._left = length
        self._mask = memory.get32(head, size - 4) if self._masked else 0
        if length == 0 and opcode >= CLOSE:
            self._control_frame()

    def _allowed(self, first: int, second: int, length: int) -> bool:
        opcode = first & 15
        if first & 0x70:
            self._fail(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        elif second & 128 != self._masked * 128:
            self._fail(PROTOCOL_ERROR, "a client masks its frames, and a server does not")
        elif length < 0:
            self._fail(PROTOCOL_ERROR, "a frame length is not written in the fewest bytes")
        elif opcode >= CLOSE:
            if opcode > PONG:
                self._fail(PROTOCOL_ERROR, "an opcode is reserved")
            elif not first & 128:
                self._fail(PROTOCOL_ERROR, "a control frame is in fragments")
            elif length > MAX_CONTROL_BYTES:
                self._fail(PROTOCOL_ERROR, "a control frame is longer than 125 bytes")
        elif opcode == TEXT:
            self._fail(UNSUPPORTED, "a text frame")
        elif opcode > BINARY:
            self._fail(PROTOCOL_ERROR, "an opcode is reserved")
        elif (opcode == CONTINUATION) != self._in_message:
            self._fail(PROTOCOL_ERROR, "fragments of messages are mixed up")
        return self.status == 0

    def _control_frame(self) -> None:
        """A control frame is whole."""
        if self._opcode == PING:
            self._ping = self._control_size
            self._ping_data = bytes(self._control[: self._control_size])
        elif self._opcode == CLOSE:
            self._close(bytes(self._control[: self._control_size]))
        self._opcode = BINARY

    def _close(self, data: bytes) -> None:
        """The peer's Close: its status is echoed (section 5.5.1)."""
        if not data:
            self.status = NO_STATUS
            return
        status = int.from_bytes(data[:2], "big")
        if len(data) == 1 or not may_be_sent(status):
            self._fail(PROTOCOL_ERROR, "the status of a Close frame is not valid")
            return
        try:
            data[2:].decode("utf-8")
        except UnicodeDecodeError:
            self._fail(INVALID_DATA, "the reason of a Close frame is not UTF-8")
            return
        self.status = status

    def _fail(self, status: int, why: str) -> None:
        self.status = status
        self.why = why


def may_be_sent(status: int) -> bool:
    """True for what a Close frame may carry (section 7.4)."""
    if 1000 <= status <= 1014:
        return status not in (1004, 1005, 1006)
    return 3000 <= status <= 4999


def frame_head(size: int) -> bytes:
    """What goes before the payload of a binary frame of ours."""
    if size < 126:
        return bytes((0x80 | BINARY, size))
    if size < 65_536:
        return bytes((0x80 | BINARY, 126)) + size.to_bytes(2, "big")
    return bytes((0x80 | BINARY, 127)) + size.to_bytes(8, "big")


def client_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A whole frame of a client."""
    size = len(payload)
    head = bytearray(frame_head(size))
    head[0] = 0x80 | opcode
    head[1] |= 0x80
    head += mask
    begin = len(head)
    frame = head + payload
    data = frame
    memory.unmask(data, begin, data, begin, size, int.from_bytes(mask, "little"))
    return bytes(frame)


def close_frame(status: int) -> bytes:
    """Our Close frame."""
    if status == NO_STATUS:
        return bytes((0x80 | CLOSE, 0))
    return bytes((0x80 | CLOSE, 2)) + status.to_bytes(2, "big")


def head_size(second: int, masked: bool) -> int:
    """The size of a frame header by its second byte; a client's without a mask is refused when four
    more bytes have come."""
    length = second & 127
    mask = 4 if masked else 0
    return mask + (2 if length < 126 else 4 if length == 126 else 10)


def rotated(mask: int, size: int) -> int:
    """The mask as it goes on after `size` bytes."""
    bits = (size & 3) * 8
    if bits == 0:
        return mask
    return (mask >> bits | mask << (32 - bits)) & 0xFFFFFFFF
