"""The upgrade of an HTTP connection to a WebSocket that carries MQTT (RFC 6455 section 4.2; MQTT
5.0 section 6). Bytes in, answer out.

The request must offer the subprotocol `mqtt` [MQTT-6.0.0-3], which is answered [MQTT-6.0.0-4], or
`mqttv3.1`, as clients of that time call it. Extensions are not agreed on. Whatever else is wanting
is answered with a status and one line that says what.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

import msgspec

MAX_HEAD_BYTES = 8192
MAX_HEADERS = 100
SUBPROTOCOLS = ("mqtt", "mqttv3.1")
VERSION = "13"
KEY_BYTES = 16
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_END = b"\r\n\r\n"
_REQUEST = re.compile(r"([A-Z]+) (\S+) HTTP/1\.(\d)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD_LETTERS = re.compile(rb"[A-Z]*(?: |$)")
REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
}
_EXTRA = {405: "Allow: GET\r\n", 426: f"Upgrade: websocket\r\nSec-WebSocket-Version: {VERSION}\r\n"}


class Upgrade(msgspec.Struct, frozen=True):
    """What a request is answered with, and how long it was; `why` is empty when it is granted."""

    size: int
    answer: bytes
    why: str = ""


class _RefusedError(Exception):
    """The request cannot be granted."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def upgrade(data: bytes, path: str, origins: tuple[str, ...]) -> Upgrade | None:
    """The answer to the request at the beginning of the data; None when it is not whole.

    `path` is the one that is served, empty for any; `origins` are the web pages that may connect,
    none for all.
    """
    end = data.find(_END, 0, MAX_HEAD_BYTES)
    try:
        if end < 0:
            if not _METHOD_LETTERS.match(data[:8]):
                raise _RefusedError(400, "not an HTTP request")
            if len(data) >= MAX_HEAD_BYTES:
                raise _RefusedError(431, f"the request is longer than {MAX_HEAD_BYTES} bytes")
            return None
        answer = _granted(data[:end].decode("latin-1"), path, origins)
    except _RefusedError as refused:
        return Upgrade(len(data), _refusal(refused), f"{refused.status} {refused.why}")
    return Upgrade(end + len(_END), answer)


def _granted(head: str, path: str, origins: tuple[str, ...]) -> bytes:
    line, *rows = head.split("\r\n")
    request = _REQUEST.fullmatch(line)
    if request is None or request[3] == "0":
        raise _RefusedError(400, "not a request of HTTP/1.1")
    if request[1] != "GET":
        raise _RefusedError(405, "only GET can be upgraded")
    headers = _headers(rows)
    if path and _path(request[2]) != path:
        raise _RefusedError(404, "MQTT is not served at this path")
    if not headers.get("host"):
        raise _RefusedError(400, "Host is missing")
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise _RefusedError(426, "Upgrade: websocket is missing")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise _RefusedError(400, "Connection: Upgrade is missing")
    if headers.get("sec-websocket-version") != VERSION:
        raise _RefusedError(426, f"Sec-WebSocket-Version must be {VERSION}")
    origin = headers.get("origin")
    if origin is not None and origins and origin not in origins:
        raise _RefusedError(403, "pages of this origin may not connect")
    offered = [token.strip() for token in headers.get("sec-websocket-protocol", "").split(",")]
    chosen = next((one for one in SUBPROTOCOLS if one in offered), None)
    if chosen is None:
        raise _RefusedError(400, "Sec-WebSocket-Protocol does not offer mqtt")
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {_accept(headers.get('sec-websocket-key', ''))}\r\n"
        f"Sec-WebSocket-Protocol: {chosen}\r\n\r\n"
    ).encode("ascii")


def _headers(rows: list[str]) -> dict[str, str]:
    """By lower-case name; the values of a name that comes again are joined."""
    if len(rows) > MAX_HEADERS:
        raise _RefusedError(431, f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for row in rows:
        name, colon, value = row.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise _RefusedError(400, "a header is not well formed")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "content-length" in headers and headers["content-length"] != "0":
        raise _RefusedError(400, "a request that is upgraded has no body")
    if "transfer-encoding" in headers:
        raise _RefusedError(400, "a request that is upgraded has no body")
    return headers


def _path(target: str) -> str:
    """The path of a request target, which may be a whole URL."""
    if not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0]


def _tokens(value: str) -> list[str]:
    return [token.strip(" \t").lower() for token in value.split(",")]


def _accept(key: str) -> str:
    try:
        sound = len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except (binascii.Error, ValueError):
        sound = False
    if not sound:
        raise _RefusedError(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def _refusal(refused: _RefusedError) -> bytes:
    body = refused.why + "\n"
    return (
        f"HTTP/1.1 {refused.status} {REASONS[refused.status]}\r\n{_EXTRA.get(refused.status, '')}"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode("latin-1")
