"""The data types of MQTT on the wire (MQTT 5.0 section 1.5; 3.1.1 section 1.5 and 2.2.3).

`Reader` walks one packet's body and never reads past its end: what is cut short or not well formed
raises MALFORMED_PACKET. The `put_*` functions are its inverse; a value that does not fit a field is
a bug of the caller and fails an assertion.
"""

from __future__ import annotations

import msgspec

from robustmq.errors import BrokerError, Fault

Buffer = bytes | bytearray | memoryview

MAXIMUM_VARIABLE_BYTE_INTEGER = 268_435_455


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """What one packet may hold at most, beyond what its format says."""

    properties_bytes: int = MAXIMUM_VARIABLE_BYTE_INTEGER
    user_properties: int = MAXIMUM_VARIABLE_BYTE_INTEGER
    filters: int = MAXIMUM_VARIABLE_BYTE_INTEGER


UNBOUNDED = Bounds()


def malformed(detail: str) -> BrokerError:
    """The error for bytes that cannot be parsed (reason 0x81)."""
    return BrokerError(Fault.MALFORMED_PACKET, detail)


def protocol_error(detail: str) -> BrokerError:
    """The error for what parses but is not allowed (reason 0x82)."""
    return BrokerError(Fault.PROTOCOL_ERROR, detail)


def text(value: bytes) -> str:
    """UTF-8 text, without surrogates and U+0000; a byte order mark is kept [MQTT-1.5.4-1 to -3]."""
    try:
        decoded = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed("text is not UTF-8") from error
    if "\0" in decoded:
        raise malformed("text holds U+0000")
    return decoded


class Reader:
    """A position in the body of one packet."""

    __slots__ = ("bounds", "buffer", "end", "position")

    def __init__(self, buffer: Buffer, begin: int, end: int, bounds: Bounds = UNBOUNDED) -> None:
        self.bounds = bounds
        self.buffer = buffer
        self.position = begin
        self.end = end

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self.end - self.position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        begin = self.position
        if count > self.end - begin:
            raise malformed("packet ends inside a field")
        self.position = begin + count
        return bytes(self.buffer[begin : begin + count])

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.end - self.position)

    def byte(self) -> int:
        """An unsigned 8-bit integer."""
        return self.take(1)[0]

    def two_byte_integer(self) -> int:
        """An unsigned 16-bit integer, big-endian."""
        return int.from_bytes(self.take(2), "big")

    def four_byte_integer(self) -> int:
        """An unsigned 32-bit integer, big-endian."""
        return int.from_bytes(self.take(4), "big")

    def variable_byte_integer(self) -> int:
        """A variable byte integer in its shortest form [MQTT-1.5.5-1]."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte:
                    raise malformed("variable byte integer is not in its shortest form")
                return value
        raise malformed("variable byte integer is longer than four bytes")

    def binary(self) -> bytes:
        """Binary data with a two-byte length."""
        return self.take(self.two_byte_integer())

    def utf8(self) -> bytes:
        """A UTF-8 string, checked, as the bytes that came."""
        value = self.binary()
        text(value)
        return value

    def string(self) -> str:
        """A UTF-8 string."""
        return text(self.binary())

    def string_pair(self) -> tuple[str, str]:
        """A UTF-8 string pair."""
        name = self.string()
        return name, self.string()

    def part(self, length: int) -> Reader:
        """A reader over the next `length` bytes, which are consumed here."""
        begin = self.position
        if length > self.end - begin:
            raise malformed("packet ends inside a field")
        self.position = begin + length
        return Reader(self.buffer, begin, begin + length, self.bounds)

    def finish(self) -> None:
        """Nothing may follow."""
        if self.position != self.end:
            raise malformed("bytes are left behind the last field")


def put_variable_byte_integer(out: bytearray, value: int) -> None:
    """Append a variable byte integer."""
    assert 0 <= value <= MAXIMUM_VARIABLE_BYTE_INTEGER, "a variable byte integer has 28 bits"
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_two_byte_integer(out: bytearray, value: int) -> None:
    """Append an unsigned 16-bit integer."""
    out += value.to_bytes(2, "big")


def put_four_byte_integer(out: bytearray, value: int) -> None:
    """Append an unsigned 32-bit integer."""
    out += value.to_bytes(4, "big")


def put_binary(out: bytearray, value: bytes) -> None:
    """Append binary data with its length."""
    assert len(value) <= 0xFFFF, "a field with a two-byte length holds 65,535 bytes"
    out += len(value).to_bytes(2, "big")
    out += value


def put_string(out: bytearray, value: str) -> None:
    """Append a UTF-8 string."""
    put_binary(out, value.encode("utf-8"))


def put_string_pair(out: bytearray, value: tuple[str, str]) -> None:
    """Append a UTF-8 string pair."""
    put_string(out, value[0])
    put_string(out, value[1])
