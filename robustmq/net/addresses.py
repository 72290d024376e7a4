"""How peers and places are written, in logs and where bounds and bans look them up: `host:port`, a
path, or for the client of a UNIX socket `unix:` and its process.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

UNIX = "unix"
CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a UNIX socket's peer."""


def shown(host: str, port: int) -> str:
    """An address as logs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown_address(sock: socket.socket) -> str:
    """Where a socket listens: an address and its port, or a path."""
    if sock.family == socket.AF_UNIX:
        return str(sock.getsockname())
    host, port = sock.getsockname()[:2]
    return shown(host, port)


def peer_address(sock: socket.socket, peer: Any) -> str:
    """Who connects: "host:port", or for a UNIX socket "unix:" and the peer's process id."""
    if sock.family == socket.AF_UNIX:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        return f"{UNIX}:{CREDENTIALS.unpack(found)[0]}"
    return shown(*peer[:2])


def host_of(address: str) -> str:
    """An address without its port."""
    return address.rpartition(":")[0]


def is_near(host: str) -> bool:
    """True for addresses that bounds of an address are not for: this machine's own, and a proxy's
    before it has said whom it brings."""
    return host.startswith("127.") or host in ("[::1]", UNIX, "")
