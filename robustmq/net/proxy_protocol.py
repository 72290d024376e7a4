"""The PROXY protocol, versions 1 and 2: a proxy in front of a listener says first who connects.

Whoever reaches such a listener is believed, so it belongs behind the proxy alone. LOCAL (the proxy
itself looks whether we live), UNKNOWN and addresses of other families leave the address of the
socket. What may follow the addresses in version 2 (TLV) is skipped.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct

import msgspec

from robustmq.net.addresses import shown

MAX_HEADER_BYTES = 4096
MAX_V1_BYTES = 107
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = struct.Struct(">12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_V1 = re.compile(r"PROXY TCP([46]) (\S+) (\S+) (\d{1,5}) (\d{1,5})")
_ADDRESSES = {_TCP4: (socket.AF_INET, 4), _TCP6: (socket.AF_INET6, 16)}


class ProxyError(Exception):
    """What came first is no header of a proxy."""


class Header(msgspec.Struct, frozen=True):
    """How long it was, and the client's address; None: that of the socket."""

    size: int
    address: str | None


def read(data: bytes) -> Header | None:
    """The header at the beginning of the data, None when it is not whole; raises ProxyError."""
    if data[:1] == b"P":
        return _text(data)
    if data[: len(_SIGNATURE)] != _SIGNATURE[: len(data)]:
        raise ProxyError("the connection does not begin with a header")
    return _binary(data) if len(data) >= _HEAD.size else None


def _text(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        start = b"PROXY "
        if data[: len(start)] != start[: len(data)] or len(data) >= MAX_V1_BYTES:
            raise ProxyError("the header is not well formed")
        return None
    line = data[:end].decode("latin-1")
    if line == "PROXY UNKNOWN" or line.startswith("PROXY UNKNOWN "):
        return Header(end + 2, None)
    parts = _V1.fullmatch(line)
    try:
        if parts is None or int(parts[4]) > 65_535 or int(parts[5]) > 65_535:
            raise ValueError
        source, target = ipaddress.ip_address(parts[2]), ipaddress.ip_address(parts[3])
        if {source.version, target.version} != {int(parts[1])}:
            raise ValueError
    except ValueError:
        raise ProxyError("the header is not well formed") from None
    return Header(end + 2, shown(str(source), int(parts[4])))


def _binary(data: bytes) -> Header | None:
    _, command, family, length = _HEAD.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise ProxyError("the version or the command is not known")
    size = _HEAD.size + length
    if size > MAX_HEADER_BYTES:
        raise ProxyError(f"the header is longer than {MAX_HEADER_BYTES} bytes")
    if len(data) < size:
        return None
    if command == _LOCAL or family not in _ADDRESSES:
        return Header(size, None)
    kind, width = _ADDRESSES[family]
    if length < 2 * width + 4:
        raise ProxyError("the addresses are cut short")
    begin = _HEAD.size
    host = socket.inet_ntop(kind, data[begin : begin + width])
    port = int.from_bytes(data[begin + 2 * width : begin + 2 * width + 2], "big")
    return Header(size, shown(host, port))
